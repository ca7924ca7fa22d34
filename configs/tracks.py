"""A time-continuous head: a BiGRU predicts emotion, arousal and valence of the built-in voices, frame by frame.

python launch.py train configs/tracks.py
"""


def get_config() -> dict:
    """Returns the training."""
    return {
        "corpus": {"options": {"num_speakers": 6, "utterances_per_speaker": 40}, "tracks": "tracks"},
        "protocol": {"validation_speakers": 0},
        "frontend": {"hop_ms": 20.0, "num_mels": 40, "normalization": "train"},
        "model": {"name": "rnn", "cell": "gru", "hidden": 32, "depth": 1},
        "optimizer": {"learning_rate": 4e-3, "warmup_epochs": 5.0},
        "training": {"batch_size": 16, "crop_seconds": 1.2, "train_epochs": 20.0},
    }
