"""EMO-DB, seven emotions, leave one speaker out: ShuffleNet V2 0.5x with ECA and hard-swish.

python launch.py prepare emodb --source DIR_OR_ZIP
python launch.py train --config configs/emodb.py --workdir runs/emodb
"""

from ml_collections import ConfigDict

from ser_jax.config import make_config


def get_config() -> ConfigDict:
    """Returns the training."""
    config = make_config()
    config.corpus.name = "emodb"
    config.protocol.validation_speakers = 0  # a fixed schedule: nothing is selected
    config.frontend.hop_ms = 20.0
    config.frontend.normalization = "train"  # keeps tilt and level, which normalisation by utterance takes away
    config.augmentation.speed = 0.15
    config.augmentation.vocal_tract = 0.1
    config.augmentation.spec_augment = 0.5
    config.augmentation.mixup = 0.5
    config.training.crop_seconds = 2.0
    config.training.train_epochs = 120.0
    return config
