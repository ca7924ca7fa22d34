"""RAVDESS, speech: 1440 English utterances of 2 sentences by 24 actors in 8 emotions (Livingstone & Russo 2018)."""

from collections.abc import Mapping
from typing import Any

import tensorflow_datasets as tfds

from ser_jax.corpora.builders import ravdess
from ser_jax.corpora.builders.source import Source
from ser_jax.corpora.builders.speech_builder import SpeechBuilder

EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happiness",
    "04": "sadness",
    "05": "anger",
    "06": "fear",
    "07": "disgust",
    "08": "surprise",
}
INTENSITIES = {"01": "normal", "02": "strong"}
SENTENCES = {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"}


class Builder(SpeechBuilder):
    """RAVDESS, speech; 03-01-03-01-02-01-07 and 03-01-03-01-02-02-07 are the same recording in the release itself."""

    RELEASE = ravdess.RELEASE
    VERSION = tfds.core.Version(ravdess.RELEASE.version)
    EMOTIONS = tuple(EMOTIONS.values())
    LANGUAGE = ravdess.LANGUAGE
    LICENCE = ravdess.LICENCE
    HOMEPAGE = "https://zenodo.org/records/1188976"

    def describe(self, source: Source) -> Mapping[str, Mapping[str, Any]]:
        """Returns what the names tell: modality-channel-emotion-intensity-statement-repetition-actor."""
        return {name: _describe(name) for name in source.recordings}


def _describe(name: str) -> dict[str, str]:
    _, _, emotion, intensity, statement, _, actor = name.split("-")
    return {
        "speaker": actor,
        "gender": "female" if int(actor) % 2 == 0 else "male",
        "emotion": EMOTIONS[emotion],
        "text": statement,
        "transcript": SENTENCES[statement],
        "intensity": INTENSITIES[intensity],
    }
