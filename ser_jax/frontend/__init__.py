"""Waveforms to features, and the augmentation of both, on the device."""

from ser_jax.frontend.augment import Strengths, augment_features, augment_waveform, mixup, take_crop
from ser_jax.frontend.logmel import (
    FeatureSums,
    Frontend,
    Statistics,
    feature_sums,
    features,
    fit_statistics,
    num_features,
    num_frames,
)

__all__ = [
    "FeatureSums",
    "Frontend",
    "Statistics",
    "Strengths",
    "augment_features",
    "augment_waveform",
    "feature_sums",
    "features",
    "fit_statistics",
    "mixup",
    "num_features",
    "num_frames",
    "take_crop",
]
