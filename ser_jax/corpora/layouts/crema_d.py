"""CREMA-D: 7,442 English utterances of 12 sentences by 91 actors in 6 emotions (Cao et al. 2014)."""

import re
from pathlib import Path

from ser_jax.corpora.layouts import Layout

EMOTIONS = {
    "ANG": "anger",
    "DIS": "disgust",
    "FEA": "fear",
    "HAP": "happiness",
    "NEU": "neutral",
    "SAD": "sadness",
}
INTENSITIES = {"LO": "low", "MD": "medium", "HI": "high", "XX": "", "X": ""}
SENTENCES = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
_NAME = re.compile(rf"(1\d{{3}})_({'|'.join(SENTENCES)})_({'|'.join(EMOTIONS)})_({'|'.join(INTENSITIES)})")


def describe(path: Path) -> dict[str, str] | None:
    """Returns what a name tells, as `1001_DFA_ANG_XX`: actor, sentence, emotion, intensity."""
    match = _NAME.fullmatch(path.stem)
    if not match:
        return None
    speaker, text, emotion, intensity = match.groups()
    return {
        "id": path.stem,
        "speaker": speaker,
        "emotion": EMOTIONS[emotion],
        "text": text,
        "transcript": SENTENCES[text],
        "intensity": INTENSITIES[intensity],
    }


LAYOUT = Layout(
    title="CREMA-D",
    language="en",
    speech="acted speech, in a sound-attenuated room",
    emotions=tuple(EMOTIONS.values()),
    utterances=7442,
    speakers=91,
    protocol="grouped_k_fold",
    licence="ODbL 1.0",
    homepage="https://github.com/CheyneyComputerScience/CREMA-D",
    citation="Cao et al. 2014, IEEE Transactions on Affective Computing 5(4):377-390",
    describe=describe,
)
