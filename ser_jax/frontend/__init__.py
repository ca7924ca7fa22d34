"""Waveforms to features, and the augmentation of both, on the device."""

from ser_jax.frontend.augment import (
    Strengths,
    augment_features,
    augment_waveform,
    check_augmentation,
    mixup,
    place_crop,
    read_crop,
)
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
from ser_jax.frontend.masking import Masking, mask_spans

__all__ = [
    "FeatureSums",
    "Frontend",
    "Masking",
    "Statistics",
    "Strengths",
    "augment_features",
    "augment_waveform",
    "check_augmentation",
    "feature_sums",
    "features",
    "fit_statistics",
    "mask_spans",
    "mixup",
    "num_features",
    "num_frames",
    "place_crop",
    "read_crop",
]
