"""EMO-DB, seven emotions, leave one speaker out: ShuffleNet V2 0.5x with ECA and hard-swish, or any other model.

python launch.py prepare emodb --source DIR_OR_ZIP
python launch.py train --config configs/emodb.py --workdir runs/emodb
python launch.py train --config configs/emodb.py:cnn --workdir runs/emodb_cnn
python launch.py train --config configs/emodb.py:transformer --workdir runs/emodb_transformer

The argument is the name of a model (`python launch.py models`), with its default options, but that the CNN is small and
has ECA; `--config.model.OPTION=VALUE` changes them. How the recipe was found is in docs/recipes.md. Expected on two CPU
cores: of ShuffleNet V2 UA 82 % after six minutes, of the CNN 85 % after eleven.
"""

from ml_collections import ConfigDict

from ser_jax.config import make_config

CNN = {"name": "cnn", "width": 16, "activation": "hard_swish", "attention": "eca", "pooling": "mean"}
WITH_BATCH_NORMALISATION = ("", "shufflenet_v2", "cnn", "crnn", "tcn")


def get_config(model: str = "") -> ConfigDict:
    """Returns the training of one model."""
    options = CNN if model == "cnn" else {"name": model}
    config = make_config(model=options) if model else make_config()
    config.corpus.name = "emodb"
    config.protocol.validation_speakers = 0  # a fixed schedule: nothing is selected
    config.frontend.hop_ms = 20.0
    config.frontend.normalization = "speaker"  # of the recordings of the tested speaker too, without their labels
    if model == "crnn":  # features, deltas and second deltas are its three channels
        config.frontend.deltas = 2
        config.model.channels = 3
    config.augmentation.speed = 0.15
    config.augmentation.vocal_tract = 0.1
    config.augmentation.spec_augment = 0.5
    config.optimizer.learning_rate = 5e-3
    config.training.crop_seconds = 2.0
    config.training.train_epochs = 50.0
    config.evaluation.window_seconds = 9.0  # no utterance is longer
    if model in WITH_BATCH_NORMALISATION:
        config.evaluation.batch_statistics = "speaker"
    return config
