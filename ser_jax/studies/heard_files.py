"""Files under a recogniser: read a few minutes at a time, and what it says of them as a table."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int16

from ser_jax.corpora.audio import read_recording, to_int16
from ser_jax.corpora.corpus import SAMPLE_RATE
from ser_jax.errors import UserError
from ser_jax.predictions import PREDICTED
from ser_jax.studies.recognise import Recogniser
from ser_jax.studies.workdirs import recordings

COLUMNS = ("file", "emotion", "confidence", "notes")  # of the table, beside the probabilities
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
            found = read_recording(file)
            waveform = to_int16(found.samples)
            if reason := recogniser.refusal(waveform):
                raise UserError(f"{file}: {reason}")
        except UserError as error:
            errors.append(error)
            continue
        group.append(HeardFile(file, waveform, tuple(found.notes.values())))
        if not recogniser.restored.by_speaker and sum(len(one.waveform) for one in group) >= _TOGETHER:
            yield group
            group = []
    if group:
        yield group


def recognise(
    recogniser: Recogniser, group: Sequence[HeardFile], errors: list[UserError], *, embeddings: bool = False
) -> tuple[pd.DataFrame, Float[np.ndarray, "files dims"] | None]:
    """Returns a row for each file (file, emotion, probabilities, dimensions, notes), and the embeddings or None.

    A file that cannot be computed is left out, and its error appended to `errors`. Where an emotion is called like
    another column, its column is called `p_EMOTION`.
    """
    emotions = recogniser.restored.emotions
    columns = [f"p_{emotion}" if emotion in COLUMNS else emotion for emotion in emotions]
    corpus = recordings({one.name: one.waveform for one in group}, emotions)
    try:
        probabilities = recogniser.probabilities(corpus)
        vectors = recogniser.embeddings(corpus) if embeddings else None
        values = recogniser.dimensions(corpus) if recogniser.dimension_names else np.zeros((len(group), 0))
    except UserError as error:
        if len(group) == 1:
            errors.append(error)
            nothing = pd.DataFrame(columns=["file", "emotion", *columns, "notes"])
            return nothing, np.zeros((0, 0)) if embeddings else None
        parts = [recognise(recogniser, [one], errors, embeddings=embeddings) for one in group]
        well = [part for part in parts if len(part[0])] or parts[:1]
        table = pd.concat([table for table, _ in well], ignore_index=True)
        return table, np.concatenate([vectors for _, vectors in well]) if embeddings else None
    table = pd.DataFrame({"file": [one.name for one in group]})
    table["emotion"] = [emotions[label] for label in probabilities.argmax(axis=1)]
    named = [PREDICTED + name for name in recogniser.dimension_names]
    told = pd.DataFrame(values, columns=named)
    table = pd.concat([table, pd.DataFrame(probabilities, columns=columns), told], axis=1)
    return table.assign(notes=["; ".join(one.notes) for one in group]), vectors
