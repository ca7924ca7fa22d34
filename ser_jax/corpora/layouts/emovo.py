"""EMOVO: 588 Italian utterances of 14 sentences by 6 actors in 7 emotions (Costantini et al. 2014)."""

import re
from pathlib import Path

from ser_jax.corpora.layouts import Layout

EMOTIONS = {
    "rab": "anger",
    "dis": "disgust",
    "pau": "fear",
    "gio": "happiness",
    "neu": "neutral",
    "tri": "sadness",
    "sor": "surprise",
}
_NAME = re.compile(rf"({'|'.join(EMOTIONS)})-([fm][123])-([a-z]+\d?)")


def describe(path: Path) -> dict[str, str] | None:
    """Returns what `dis-f1-b1` tells: emotion, speaker, sentence."""
    match = _NAME.fullmatch(path.stem)
    if not match:
        return None
    emotion, speaker, text = match.groups()
    gender = "female" if speaker[0] == "f" else "male"
    return {"id": path.stem, "speaker": speaker, "gender": gender, "emotion": EMOTIONS[emotion], "text": text}


LAYOUT = Layout(
    title="EMOVO",
    language="it",
    speech="acted speech, in a laboratory",
    emotions=tuple(EMOTIONS.values()),
    utterances=588,
    speakers=6,
    protocol="leave_one_speaker_out",
    licence="research only",
    homepage="http://voice.fub.it/activities/corpora/emovo/index.html",
    citation="Costantini et al. 2014, EMOVO corpus: an Italian emotional speech database, LREC",
    describe=describe,
)
