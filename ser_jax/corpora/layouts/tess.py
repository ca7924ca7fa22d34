"""TESS: 2,800 English utterances of 200 words by 2 women in 7 emotions (Pichora-Fuller & Dupuis 2020)."""

import re
from pathlib import Path

from ser_jax.corpora.layouts import Layout

EMOTIONS = {
    "angry": "anger",
    "disgust": "disgust",
    "fear": "fear",
    "happy": "happiness",
    "neutral": "neutral",
    "ps": "surprise",
    "sad": "sadness",
}
_NAME = re.compile(rf"(OAF|YAF|OA)_([a-z]+)_({'|'.join(EMOTIONS)})", re.IGNORECASE)


def describe(path: Path) -> dict[str, str] | None:
    """Returns what `OAF_back_angry` tells: speaker, word, emotion; one file is called OA_bite_neutral."""
    match = _NAME.fullmatch(path.stem)
    if not match:
        return None
    speaker, word, emotion = match.groups()
    speaker = {"OA": "OAF"}.get(speaker.upper(), speaker.upper())
    return {
        "id": path.stem,
        "speaker": speaker,
        "gender": "female",
        "emotion": EMOTIONS[emotion.lower()],
        "text": word.lower(),
        "transcript": f"Say the word {word.lower()}",
    }


LAYOUT = Layout(
    title="TESS",
    language="en",
    speech="acted speech, in a sound-attenuated booth",
    emotions=tuple(EMOTIONS.values()),
    utterances=2800,
    speakers=2,
    protocol="leave_one_speaker_out",
    licence="CC BY-NC-ND 4.0",
    homepage="https://doi.org/10.5683/SP2/E8H2MF",
    citation="Pichora-Fuller & Dupuis 2020, Toronto emotional speech set (TESS)",
    describe=describe,
)
