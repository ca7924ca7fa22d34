"""MELD: 13,708 English utterances of the series Friends in 7 emotions, with official splits (Poria et al. 2019)."""

import re
from pathlib import Path
from typing import Any

from ser_jax.corpora.annotations import in_words, one_file, recordings_by
from ser_jax.corpora.layouts import Layout
from ser_jax.corpora.tables import read_table
from ser_jax.errors import UserError

EMOTIONS = {
    "anger": "anger",
    "disgust": "disgust",
    "fear": "fear",
    "joy": "happiness",
    "neutral": "neutral",
    "sadness": "sadness",
    "surprise": "surprise",
}
SPLITS = {"train": "train", "dev": "validation", "test": "test"}  # the owner's, and the project's
_COLUMNS = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")
_NAME = re.compile(r"dia\d+_utt\d+")


def annotated(source: Path) -> list[dict[str, Any]]:
    """Returns what train_, dev_ and test_sent_emo.csv tell: split, speaker, emotion, sentiment, transcript.

    A recording is dia0_utt0.mp4, or of another format, in a folder whose name has train, dev or test in it: the owner's
    train_splits, dev_splits_complete and output_repeated_splits_test. Numbers begin anew in every split.
    """
    recordings, rows = recordings_by(source, _key), []
    for split in SPLITS:
        path = one_file(source, [f"{split}_sent_emo.csv"])
        if path is None:
            raise UserError(f"{source}: no {split}_sent_emo.csv anywhere below it, expected MELD's three tables")
        table = read_table(path, wanted=_COLUMNS, columns=())
        for column in _COLUMNS:
            if column not in table:
                raise UserError(f"{path}: no column `{column}`, expected {', '.join(_COLUMNS)}")
        for row in table.to_dict("records"):
            name = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"
            rows.append(
                {
                    "id": f"{split}_{name}",
                    "path": recordings.get((split, name)),
                    "speaker": row["Speaker"],
                    "emotion": in_words(path, row["Emotion"].lower(), EMOTIONS),
                    "split": SPLITS[split],
                    "dialog": f"{split}_{row['Dialogue_ID']}",
                    "transcript": row["Utterance"],
                    "sentiment": row.get("Sentiment", ""),
                }
            )
    return rows


def _key(path: Path) -> tuple[str, str] | None:
    """The split and name of a recording; None for others, as the owner's second copies final_videos_testdia0_utt0."""
    split = next((split for part in reversed(path.parts[:-1]) for split in SPLITS if split in part.lower()), None)
    return (split, path.stem) if split and _NAME.fullmatch(path.stem) else None


LAYOUT = Layout(
    title="MELD",
    language="en",
    speech="acted dialogs of a television series, with its music and laughter",
    emotions=tuple(EMOTIONS.values()),
    utterances=13708,
    speakers=None,
    protocol="official",
    licence="GPL 3.0; the series' own rights remain",
    homepage="https://affective-meld.github.io",
    citation="Poria et al. 2019, MELD: a multimodal multi-party dataset, ACL",
    annotated=annotated,
)
