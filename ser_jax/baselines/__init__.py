"""Baselines: linear models of functionals or pooled hidden states.

Their names stand here, so that asking for one imports nothing else.
"""

from collections.abc import Mapping
from typing import Any

NAMES = ("logistic_regression", "ridge", "linear_svm", "svr", "lda")


def is_baseline(model: Mapping[str, Any]) -> bool:
    """Returns whether the options `config.model` are those of a baseline, not of a network."""
    return model.get("name") in NAMES
