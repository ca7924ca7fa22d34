"""The models of pretrained/: for a recording of anyone, of whom no other is known.

python launch.py train --config configs/pretrained.py:emodb --workdir runs/pretrained_tested
python launch.py train --config configs/pretrained.py:emodb,everything --workdir runs/pretrained
python launch.py publish --workdir runs/pretrained --tested runs/pretrained_tested --to pretrained/emodb

The argument is a corpus, emodb, ravdess or both (`prepare merge --name both --corpora emodb,ravdess`), and after a
comma "everything" for the model that learns all of it. The recipe is that of configs/emodb.py and ravdess.py, but
nothing is normalised by speaker: features are by the training fold's statistics, batch normalisation by its running
averages. Levels are varied by 10 dB, so that they need not be those of the corpus.
"""

from ml_collections import ConfigDict

from configs import emodb, ravdess


def get_config(argument: str = "emodb") -> ConfigDict:
    """Returns the training on one corpus, tested on speakers that are not heard, or of everything."""
    corpus, _, everything = argument.partition(",")
    config = (ravdess if corpus == "ravdess" else emodb).get_config()
    config.corpus.name = corpus
    config.frontend.normalization = "train"
    config.augmentation.gain = 10.0
    config.evaluation.latency = False
    config.evaluation.batch_statistics = "running"
    config.evaluation.window_seconds = 0.0
    if corpus == "both":
        config.training.train_epochs = 15.0
        config.protocol.name = "grouped_k_fold"
        config.protocol.num_folds = 6
    if everything:
        config.protocol.name = "everything"
        config.seeds = (0, 1, 2) if corpus == "emodb" else (0, 1)
    return config
