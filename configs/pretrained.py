"""The models of pretrained/: for a recording of anyone, of whom no other is known.

python launch.py train --config configs/pretrained.py:emodb --workdir runs/pretrained_tested
python launch.py train --config configs/pretrained.py:emodb,everything --workdir runs/pretrained
python launch.py publish --workdir runs/pretrained --tested runs/pretrained_tested --to pretrained/emodb

The argument is a corpus, emodb, ravdess or both (`prepare merge --name both --corpora emodb,ravdess`), and after a
comma "everything" for the model that learns all of it. The recipe is that of configs/emodb.py:cnn and ravdess.py:cnn,
but nothing is normalised by speaker: features are by the recording's own statistics, which levels do not change, and
batch normalisation by its running averages. The silence before and after is left out. docs/recipes.md says what else
was tried.
"""

from ml_collections import ConfigDict

from configs import emodb, ravdess


def get_config(argument: str = "emodb") -> ConfigDict:
    """Returns the training on one corpus, tested on speakers that are not heard, or of everything."""
    corpus, _, everything = argument.partition(",")
    config = (emodb if corpus == "emodb" else ravdess).get_config("cnn")
    config.corpus.name = corpus
    config.frontend.normalization = "utterance"
    config.frontend.trim_db = 40.0
    config.evaluation.latency = False
    config.evaluation.batch_statistics = "running"
    config.evaluation.window_seconds = 0.0  # as long as a crop
    if corpus != "emodb":  # three and four times as many utterances
        config.training.train_epochs = 30.0 if corpus == "ravdess" else 20.0
    if everything:
        config.protocol.name = "everything"
        config.seeds = (0, 1, 2) if corpus == "emodb" else (0, 1)
    return config
