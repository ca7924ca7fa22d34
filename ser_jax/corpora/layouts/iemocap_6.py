"""IEMOCAP with 6 classes: excitement and happiness apart, and frustration beside those of `iemocap`."""

import dataclasses

from ser_jax.corpora.layouts import iemocap

LAYOUT = dataclasses.replace(
    iemocap.LAYOUT,
    title="IEMOCAP (6 classes)",
    emotions=("anger", "excitement", "frustration", "happiness", "neutral", "sadness"),
    renamed={},
    dropped=("fear", "surprise", "disgust", "other", "no agreement"),
)
