"""Every model family on two folds of a corpus, each with the same input, augmentation and schedule: a first look.

python launch.py study configs/families.py:emodb

Two speakers and one seed tell no family from another: this shows that all of them train, and what they cost.
"""

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


def get_config(corpus: str = "emodb") -> dict:
    """Returns the study on a corpus."""
    return {
        "corpus": {"name": corpus},
        "folds": [0, 1],
        "protocol": {"validation_speakers": 0},
        "frontend": {"hop_ms": 20.0, "normalization": "train"},
        "augmentation": {"speed": 0.15, "spec_augment": 0.5, "mixup": 0.5},
        "model": {"name": "linear"},
        "optimizer": {"warmup_epochs": 5.0},
        "training": {"crop_seconds": 2.0, "train_epochs": 30.0},
        "study": {"variants": VARIANTS},
    }
