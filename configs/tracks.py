"""A time-continuous head: a BiGRU tells emotion, arousal and valence of the built-in voices, frame by frame.

python launch.py train --config configs/tracks.py --workdir runs/tracks
"""

from ml_collections import ConfigDict

from ser_jax.config import make_config


def get_config() -> ConfigDict:
    """Returns the training."""
    config = make_config(model={"name": "rnn", "cell": "gru", "hidden": 32, "depth": 1})
    config.corpus.options = {"num_speakers": 6, "utterances_per_speaker": 40}
    config.corpus.tracks = "tracks"
    config.protocol.validation_speakers = 0
    config.frontend.hop_ms = 20.0
    config.frontend.num_mels = 40
    config.frontend.normalization = "train"
    config.optimizer.learning_rate = 4e-3
    config.training.batch_size = 16
    config.training.crop_seconds = 1.2
    config.training.train_epochs = 20.0
    return config
