"""MSP-IMPROV: 8,438 English utterances of 6 sessions by 12 actors, usually in 4 classes (Busso et al. 2017)."""

import re
from pathlib import Path
from typing import Any

from ser_jax.corpora.annotations import in_words, one_file, recordings_by, text_of, vote_columns
from ser_jax.corpora.layouts import Layout
from ser_jax.errors import UserError

EMOTIONS = {
    "A": "anger",
    "H": "happiness",
    "N": "neutral",
    "S": "sadness",
    "O": "other",
    "X": "no agreement",
}
_HEARD = {"angry": "anger", "happy": "happiness", "neutral": "neutral", "sad": "sadness", "other": "other"}
SCENARIOS = {"P": "natural", "R": "read", "S": "improvised", "T": "improvised target"}
_VALUE = r"\s*([\d.]+|NaN)\s*"
_UTTERANCE = re.compile(
    rf"UTD-IMPROV-(\S+)\.avi;\s*([A-Z]);\s*A:{_VALUE};\s*V:{_VALUE};\s*D:{_VALUE};\s*N:{_VALUE};?\s*"
)
_RATER = re.compile(r"[\w-]+;\s*([A-Za-z]+);.*A:.*")
_NAME = re.compile(r"(S\d\d)[AHNS]-(([FM])(\d\d))-([PRST])-[FM]{2}\d+")


def annotated(source: Path) -> list[dict[str, Any]]:
    """Returns what Evalution.txt (so spelt in the first release) tells: emotion, three dimensions (1 to 5), votes.

    A name such as S01A-F01-P-FM01 tells the sentence, the speaker of session 1, and the scenario; the sentence is what
    is said (`text`) in the scenarios R and T alone.
    """
    path = one_file(source, ["Evalution.txt", "Evaluation.txt"])
    if path is None:
        raise UserError(f"{source}: no Evalution.txt anywhere below it, expected MSP-IMPROV's ratings")
    recordings = recordings_by(source, lambda path: path.stem.partition("-IMPROV-")[2] or None)
    rows, heard = [], []
    for line in text_of(path).splitlines():
        match, rater = _UTTERANCE.fullmatch(line), _RATER.fullmatch(line)
        if match:
            heard.append([])
            rows.append(_described(path, recordings, *match.groups()))
        elif line.startswith("UTD-IMPROV-"):
            raise UserError(f"{path}: line {line[:80]!r}, expected NAME.avi; EMOTION; A:1.0; V:1.0; D:1.0 ; N:1.0;")
        elif rater and heard:
            heard[-1].append([in_words(path, rater.group(1).lower(), _HEARD)])
    emotions = sorted(set(_HEARD.values()))
    return [row | vote_columns(own, emotions) for row, own in zip(rows, heard, strict=True)]


def _described(path: Path, recordings: dict[str, Path], name: str, emotion: str, *values: str) -> dict[str, Any]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise UserError(f"{path}: the recording {name!r}, expected a name as S01A-F01-P-FM01")
    sentence, speaker, gender, number, scenario = match.groups()
    arousal, valence, dominance, naturalness = ("" if value == "NaN" else value for value in values)
    return {
        "id": f"MSP-IMPROV-{name}",
        "path": recordings.get(name),
        "speaker": speaker,
        "gender": "female" if gender == "F" else "male",
        "session": str(int(number)),
        "emotion": in_words(path, emotion, EMOTIONS),
        "text": sentence if scenario in "RT" else "",
        "scenario": SCENARIOS[scenario],
        "arousal": arousal,
        "valence": valence,
        "dominance": dominance,
        "naturalness": naturalness,
    }


LAYOUT = Layout(
    title="MSP-IMPROV",
    language="en",
    speech="acted dialogs, improvised, and read sentences",
    emotions=("anger", "happiness", "neutral", "sadness"),
    utterances=8438,
    speakers=12,
    protocol="leave_one_session_out",
    licence="research only, on request",
    homepage="https://ecs.utdallas.edu/research/researchlabs/msp-lab/MSP-Improv.html",
    citation="Busso et al. 2017, MSP-IMPROV, IEEE Transactions on Affective Computing 8(1):67-80",
    annotated=annotated,
    dropped=("other", "no agreement"),
)
