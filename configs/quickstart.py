"""Does ECA help a tiny ShuffleNet V2 on the built-in synthetic voices? Two variants, six speakers in turn, two seeds.

python launch.py study configs/quickstart.py

The network has two units a stage and few channels, and sees 40 bands of 0.8 s at a time, so that it compiles and trains
in a minute or two on two cores.
"""


def get_config() -> dict:
    """Returns the study."""
    return {
        "corpus": {"options": {"num_speakers": 6, "utterances_per_speaker": 80}},
        "seeds": [0, 1],
        "frontend": {"num_mels": 40, "hop_ms": 20.0, "normalization": "train"},
        "model": {"name": "shufflenet_v2", "width": "tiny", "activation": "hard_swish"},
        "optimizer": {"learning_rate": 4e-3, "warmup_epochs": 1.0},
        "training": {"batch_size": 16, "crop_seconds": 0.8, "train_epochs": 20.0, "validate_epochs": 10.0},
        "study": {
            "title": "Does channel attention help a tiny ShuffleNet V2?",
            "variants": {"no attention": {"model": {"attention": "none"}}, "ECA": {"model": {"attention": "eca"}}},
            "comparisons": [("ECA", "no attention")],
        },
    }
