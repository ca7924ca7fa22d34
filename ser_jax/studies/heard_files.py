"""Predictions for files, which are read a few minutes at a time, as a table."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int16

from ser_jax.corpora.audio import Recording, heard, read_recording
from ser_jax.corpora.corpus import SAMPLE_RATE
from ser_jax.errors import UserError
from ser_jax.statistics.abstention import Abstention
from ser_jax.studies.recognise import Recogniser, as_columns, probability_columns
from ser_jax.studies.workdirs import recordings

_TOGETHER = 600 * SAMPLE_RATE  # samples of recordings that are in memory at once


@dataclasses.dataclass(frozen=True)
class HeardFile:
    """A file's samples at 16 kHz, and what a user should know of them."""

    name: str
    waveform: Int16[np.ndarray, " samples"]
    notes: tuple[str, ...]


def read_groups(recogniser: Recogniser, files: Sequence[str], errors: list[UserError]) -> Iterator[list[HeardFile]]:
    """Yields the files that the model can hear, so many at a time as are ten minutes long together.

    A model that adapts to the speaker gets all at once. An error is appended to `errors` for each other file.
    """
    group: list[HeardFile] = []
    for file in files:
        try:
            group.append(_as_heard(recogniser, file, read_recording(file)))
        except UserError as error:
            errors.append(error)
        if not recogniser.restored.by_speaker and sum(len(one.waveform) for one in group) >= _TOGETHER:
            yield group
            group = []
    if group:
        yield group


def from_samples(recogniser: Recogniser, name: str, samples: Float[np.ndarray, " samples"]) -> HeardFile:
    """Returns samples at 16 kHz as those of a file; raises `UserError` for what the model cannot hear."""
    return _as_heard(recogniser, name, heard(name, samples, SAMPLE_RATE))


def _as_heard(recogniser: Recogniser, name: str, found: Recording) -> HeardFile:
    if reason := recogniser.refusal(found.samples):
        raise UserError(f"{name}: {reason}")
    return HeardFile(name, found.samples, tuple(found.notes.values()))


def recognise(
    recogniser: Recogniser, group: Sequence[HeardFile], errors: list[UserError], *, embeddings: bool = False
) -> tuple[pd.DataFrame, Float[np.ndarray, "files dims"] | None]:
    """Returns a row for each file (file, emotion, probabilities, dimensions, notes), and the embeddings or None.

    A file that cannot be computed is left out, and its error appended to `errors`. Where an emotion is called like
    another column, its column is called `p_EMOTION`.
    """
    corpus = recordings({one.name: one.waveform for one in group}, recogniser.restored.emotions)
    try:
        found = recogniser.predict(corpus, embeddings)
    except UserError as error:
        # The others again together: a model that adapts to the speaker needs all that can be heard.
        well = [one for one in group if len(group) > 1 and len(recognise(recogniser, [one], errors)[0])]
        if 0 < len(well) < len(group):
            return recognise(recogniser, well, errors, embeddings=embeddings)
        if len(group) == 1 or well:
            errors.append(error)
        return pd.DataFrame({"file": [], "notes": []}), np.zeros((0, 0)) if embeddings else None
    table = pd.DataFrame({"file": [one.name for one in group]})
    table = pd.concat([table, as_columns(recogniser, found)], axis=1)
    return table.assign(notes=["; ".join(one.notes) for one in group]), found.embeddings


def abstain(table: pd.DataFrame, emotions: Sequence[str], abstention: Abstention) -> pd.DataFrame:
    """Returns a table of recordings or windows with a column `confidence`, and no emotion (None) where that is low.

    The notes of recordings say so.
    """
    if table.empty:  # no file of a group could be computed
        return table
    confidence = abstention.confidences(table[probability_columns(emotions)].to_numpy(float))
    low = confidence < abstention.threshold
    table = table.assign(emotion=table["emotion"].astype(object).where(~low, None))
    table.insert(table.columns.get_loc("emotion") + 1, "confidence", confidence)
    if "notes" in table:
        said = [
            f"confidence {one:.2f}, below {abstention.threshold:.2f}" if is_low else ""
            for one, is_low in zip(confidence, low, strict=True)
        ]
        table["notes"] = ["; ".join(filter(None, both)) for both in zip(table["notes"], said, strict=True)]
    return table
