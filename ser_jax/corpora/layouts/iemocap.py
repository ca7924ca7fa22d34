"""IEMOCAP: 10,039 English utterances of 5 sessions by 10 actors (Busso et al. 2008); its usual 4 classes."""

import re
from pathlib import Path
from typing import Any

from ser_jax.corpora.annotations import in_words, text_of, vote_columns
from ser_jax.corpora.layouts import Layout
from ser_jax.errors import UserError

EMOTIONS = {
    "ang": "anger",
    "exc": "excitement",
    "hap": "happiness",
    "neu": "neutral",
    "sad": "sadness",
    "fru": "frustration",
    "fea": "fear",
    "sur": "surprise",
    "dis": "disgust",
    "oth": "other",
    "xxx": "no agreement",
}
_HEARD = {  # raters' words
    "anger": "anger",
    "excited": "excitement",
    "happiness": "happiness",
    "neutral": "neutral",
    "neutral state": "neutral",
    "sadness": "sadness",
    "frustration": "frustration",
    "fear": "fear",
    "surprise": "surprise",
    "disgust": "disgust",
    "other": "other",
}
_NUMBER = r"\s*(-?[\d.]+)\s*"
_UTTERANCE = re.compile(
    rf"\[{_NUMBER}-{_NUMBER}\]\s+(Ses(0\d)[FM]_(\w+)_([FM])\w*\d+)\s+(\w+)\s+\[{_NUMBER},{_NUMBER},{_NUMBER}\]\s*"
)
_RATER = re.compile(r"C-E\d+:\s*([^(]*)\(.*")  # of the emotion, and not one of the actors, who rated themselves
_SPOKEN = re.compile(r"(Ses\w+)\s*\[[^\]]*\]:\s*(.*)")


def annotated(source: Path) -> list[dict[str, Any]]:
    """Returns what Session1..5/dialog/EmoEvaluation tells: emotion, valence, activation, dominance (1 to 5), votes.

    Scripted dialogs are played by several pairs of actors. The speaker is the actor whose turn it is, not the one who
    wears the markers.
    """
    files = sorted(source.glob("Session[1-5]/dialog/EmoEvaluation/Ses*.txt"))
    if not files:
        raise UserError(f"{source}: no Session1/dialog/EmoEvaluation/Ses*.txt, expected the folder that IEMOCAP has")
    return [row for path in files if not path.name.startswith(".") for row in _dialog(path)]


def _dialog(path: Path) -> list[dict[str, Any]]:
    session = path.parents[2]
    spoken = _transcripts(session / "dialog" / "transcriptions" / path.name)
    rows, heard = [], []
    for line in text_of(path).splitlines():
        match, rater = _UTTERANCE.fullmatch(line), _RATER.fullmatch(line)
        if match:
            _, _, name, number, dialog, gender, emotion, valence, activation, dominance = match.groups()
            recording = session / "sentences" / "wav" / path.stem / f"{name}.wav"
            heard.append([])
            rows.append(
                {
                    "id": name,
                    "path": recording if recording.is_file() else None,
                    "speaker": f"Ses{number}{gender}",
                    "gender": "female" if gender == "F" else "male",
                    "session": str(int(number)),
                    "emotion": in_words(path, emotion, EMOTIONS),
                    "dialog": dialog,
                    "transcript": spoken.get(name, ""),
                    "arousal": activation,
                    "valence": valence,
                    "dominance": dominance,
                }
            )
        elif line.startswith("["):
            raise UserError(f"{path}: line {line[:80]!r}, expected [START - END] NAME EMOTION [V, A, D]")
        elif rater and heard:
            words = [word.strip().lower() for word in rater.group(1).split(";")]
            heard[-1].append([in_words(path, word, _HEARD) for word in words if word])
    emotions = sorted(set(_HEARD.values()))
    return [row | vote_columns(own, emotions) for row, own in zip(rows, heard, strict=True)]


def _transcripts(path: Path) -> dict[str, str]:
    lines = text_of(path).splitlines() if path.is_file() else []
    return dict(match.groups() for line in lines if (match := _SPOKEN.fullmatch(line)))


LAYOUT = Layout(
    title="IEMOCAP (4 classes)",
    language="en",
    speech="acted dialogs, scripted and improvised",
    emotions=("anger", "happiness", "neutral", "sadness"),
    utterances=10039,
    speakers=10,
    protocol="leave_one_session_out",
    licence="research only, on request",
    homepage="https://sail.usc.edu/iemocap",
    citation="Busso et al. 2008, IEMOCAP, Language Resources and Evaluation 42:335-359",
    annotated=annotated,
    renamed={"excitement": "happiness"},
    dropped=("frustration", "fear", "surprise", "disgust", "other", "no agreement"),
)
