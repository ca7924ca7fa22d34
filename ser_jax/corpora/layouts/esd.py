"""ESD: 35,000 utterances, 350 texts by 10 English and 10 Mandarin speakers in 5 emotions (Zhou et al. 2022)."""

import re
from pathlib import Path

from ser_jax.corpora.layouts import Layout

EMOTIONS = {
    "Angry": "anger",
    "Happy": "happiness",
    "Neutral": "neutral",
    "Sad": "sadness",
    "Surprise": "surprise",
}
_NAME = re.compile(r"(00(?:0[1-9]|1\d|20))_(\d{6})")


def describe(path: Path) -> dict[str, str] | None:
    """Returns what `0011/Angry/0011_000351` tells: speaker, emotion, and one of 350 texts of the speaker's language.

    The numbers run through a speaker's emotions in turn, 350 each; speakers 1 to 10 speak Mandarin, 11 to 20 English.
    """
    match = _NAME.fullmatch(path.stem)
    emotion = next((part for part in path.parts[:-1] if part in EMOTIONS), None)
    if not match or emotion is None:
        return None
    speaker, number = match.groups()
    tongue = "zh" if int(speaker) <= 10 else "en"
    return {
        "id": path.stem,
        "speaker": speaker,
        "emotion": EMOTIONS[emotion],
        "text": f"{tongue}{(int(number) - 1) % 350 + 1:03d}",
        "language": tongue,
    }


LAYOUT = Layout(
    title="ESD",
    language="",
    speech="acted speech, in a room",
    emotions=tuple(EMOTIONS.values()),
    utterances=35000,
    speakers=20,
    protocol="grouped_k_fold",
    licence="research only, on registration",
    homepage="https://github.com/HLTSingapore/Emotional-Speech-Data",
    citation="Zhou et al. 2022, Emotional voice conversion: theory, databases and ESD, Speech Communication 137:1-18",
    describe=describe,
)
