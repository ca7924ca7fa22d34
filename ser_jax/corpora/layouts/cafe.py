"""CaFE: 936 French utterances of 6 sentences by 12 actors in 7 emotions (Gournay et al. 2018)."""

import re
from pathlib import Path

from ser_jax.corpora.layouts import Layout

EMOTIONS = {
    "C": "anger",
    "D": "disgust",
    "P": "fear",
    "J": "happiness",
    "N": "neutral",
    "T": "sadness",
    "S": "surprise",
}
_NAME = re.compile(r"(\d\d)-([CDPJNTS])-([12])-([1-6])")


def describe(path: Path) -> dict[str, str] | None:
    """Returns what `01-C-1-1` tells: actor (odd: a man), emotion, intensity (1 or 2), sentence."""
    match = _NAME.fullmatch(path.stem)
    if not match:
        return None
    speaker, emotion, intensity, text = match.groups()
    return {
        "id": path.stem,
        "speaker": speaker,
        "gender": "male" if int(speaker) % 2 else "female",
        "emotion": EMOTIONS[emotion],
        "text": text,
        "intensity": "" if emotion == "N" else {"1": "mild", "2": "strong"}[intensity],
    }


LAYOUT = Layout(
    title="CaFE",
    language="fr",
    speech="acted speech, in a studio",
    emotions=tuple(EMOTIONS.values()),
    utterances=936,
    speakers=12,
    protocol="leave_one_speaker_out",
    licence="CC BY-NC-SA 4.0",
    homepage="https://zenodo.org/records/1478765",
    citation="Gournay et al. 2018, A Canadian French emotional speech dataset, ACM MMSys",
    describe=describe,
)
