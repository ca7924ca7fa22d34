"""SAVEE: 480 English utterances by 4 men in 7 emotions (Haq & Jackson 2010)."""

import re
from pathlib import Path

from ser_jax.corpora.layouts import Layout

EMOTIONS = {
    "a": "anger",
    "d": "disgust",
    "f": "fear",
    "h": "happiness",
    "n": "neutral",
    "sa": "sadness",
    "su": "surprise",
}
SPEAKERS = ("DC", "JE", "JK", "KL")
_NAME = re.compile(r"(sa|su|[adfhn])(\d\d)")


def describe(path: Path) -> dict[str, str] | None:
    """Returns what `DC/a01` or `DC_a01` tells: speaker, emotion, and the number of the sentence.

    The first three sentences are spoken in all emotions, and their texts have no emotion in their name.
    """
    speaker, _, name = path.stem.rpartition("_")
    speaker = speaker or path.parent.name
    match = _NAME.fullmatch(name)
    if not match or speaker not in SPEAKERS:
        return None
    emotion, number = match.groups()
    return {
        "id": f"{speaker}_{name}",
        "speaker": speaker,
        "gender": "male",
        "emotion": EMOTIONS[emotion],
        "text": number if int(number) <= 3 else name,
    }


LAYOUT = Layout(
    title="SAVEE",
    language="en",
    speech="acted speech, in a laboratory",
    emotions=tuple(EMOTIONS.values()),
    utterances=480,
    speakers=4,
    protocol="leave_one_speaker_out",
    licence="research only, on registration",
    homepage="http://kahlan.eps.surrey.ac.uk/savee",
    citation="Haq & Jackson 2010, Multimodal Emotion Recognition, in Machine Audition",
    describe=describe,
)
