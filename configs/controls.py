"""The control corpora: where attention over time must help, where it cannot, and where nothing can be learned.

python launch.py study --config configs/controls.py:localized --workdir runs/localized
python launch.py study --config configs/controls.py:uniform --workdir runs/uniform
python launch.py study --config configs/controls.py:null --workdir runs/null

A small encoder whose frames see nothing beside themselves, with a mean over them or an attentive pooling, else alike.
On `localized` attention must win by more than the interval, on `uniform` it must not, on `null` both stay at chance.
"""

from ml_collections import ConfigDict

from ser_jax.config import make_config


def get_config(corpus: str = "localized") -> ConfigDict:
    """Returns the study on one of the controls."""
    config = make_config(model={"name": "transformer", "mixing": "none", "depth": 1, "width": 32, "pooling": "mean"})
    config.corpus.name = corpus
    config.corpus.options = {"num_speakers": 6, "utterances_per_speaker": 80}
    config.protocol.validation_speakers = 0
    config.frontend.hop_ms = 20.0
    config.frontend.num_mels = 40
    config.frontend.normalization = "train"  # the cue is which of two bands is louder: it must not be normalised away
    config.training.crop_seconds = 2.0
    config.optimizer.warmup_epochs = 2.0
    config.training.train_epochs = 40.0
    config.study.variants = {
        "mean": {"model": {"pooling": "mean"}},
        "attention": {"model": {"pooling": "self_attentive"}},
    }
    config.study.comparisons = (("attention", "mean"),)
    return config
