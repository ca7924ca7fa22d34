"""Every model family on two folds of EMO-DB, each with the same input, augmentation and schedule: a first look.

python launch.py study --config configs/families.py --workdir runs/families

Two speakers and one seed tell no family from another: this shows that all of them train, and what they cost. The
results, without crnn, are in docs/results/families.
"""

from ml_collections import ConfigDict

from ser_jax.config import make_config

VARIANTS = {
    "shufflenet_v2": {"model": {"name": "shufflenet_v2", "attention": "eca", "activation": "hard_swish"}},
    "transformer": {"model": {"name": "transformer", "pooling": "attentive_statistics"}},
    "attention_rnn": {"model": {"name": "attention_rnn", "attention": "additive"}},
    "rnn": {"model": {"name": "rnn", "pooling": "weighted"}},
    "reslstm": {"model": {"name": "reslstm"}},
    "cnn": {"model": {"name": "cnn", "pooling": "self_attentive"}},
    "crnn": {"model": {"name": "crnn", "pooling": "weighted", "channels": 3}, "frontend": {"deltas": 2}},
    "tcn": {"model": {"name": "tcn", "pooling": "attentive_statistics"}},
    "linear_svm": {"model": {"name": "linear_svm", "functionals": "own"}},
}


def get_config() -> ConfigDict:
    """Returns the study."""
    config = make_config(model={"name": "linear"})
    config.corpus.name = "emodb"
    config.folds = (0, 1)
    config.protocol.validation_speakers = 0
    config.frontend.hop_ms = 20.0
    config.frontend.normalization = "train"
    config.augmentation.speed = 0.15
    config.augmentation.spec_augment = 0.5
    config.augmentation.mixup = 0.5
    config.training.crop_seconds = 2.0
    config.training.train_epochs = 30.0
    config.study.variants = VARIANTS
    return config
