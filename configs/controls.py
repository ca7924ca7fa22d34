"""The control corpora: where attention over time must help, where it cannot, and where nothing can be learned.

python launch.py study configs/controls.py:localized
python launch.py study configs/controls.py:uniform
python launch.py study configs/controls.py:null

A small encoder whose frames see nothing beside themselves, with a mean over them or an attentive pooling, else alike.
On `localized` attention must win by more than the interval, on `uniform` it must not, on `null` both stay at chance.
"""

from ser_jax.config import choose

CORPORA = {name: name for name in ("localized", "uniform", "null")}


def get_config(corpus: str = "localized") -> dict:
    """Returns the study on one of the controls."""
    return {
        "corpus": {
            "name": choose("control corpus", corpus, CORPORA),
            "options": {"num_speakers": 6, "utterances_per_speaker": 80},
        },
        "protocol": {"validation_speakers": 0},
        # The cue is which of two bands is louder: it must not be normalised away.
        "frontend": {"hop_ms": 20.0, "num_mels": 40, "normalization": "train"},
        "model": {"name": "transformer", "mixing": "none", "depth": 1, "width": 32, "pooling": "mean"},
        "optimizer": {"warmup_epochs": 2.0},
        "training": {"crop_seconds": 2.0, "train_epochs": 40.0},
        "study": {
            "variants": {
                "mean": {"model": {"pooling": "mean"}},
                "attention": {"model": {"pooling": "self_attentive"}},
            },
            "comparisons": [("attention", "mean")],
        },
    }
