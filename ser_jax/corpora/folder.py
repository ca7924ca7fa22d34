"""The user's own recordings: a table of files, or a folder per emotion.

They are packed directly, without a TFDS builder: which columns there are is known only once the table is read, nothing
is downloaded, and a second copy of the recordings would serve nobody.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int16
from tqdm import tqdm

from ser_jax.corpora.audio import find_audio, read_audio, to_int16
from ser_jax.errors import UserError

_GENDERS = {"f": "female", "female": "female", "m": "male", "male": "male", "": ""}


def read_table(
    table: str | os.PathLike,
    source: str | os.PathLike,
    *,
    emotions: Sequence[str] | None = None,
    speakers: bool = True,
) -> pd.DataFrame:
    """Returns the utterances that a CSV lists, all columns as text, `path` resolved below the folder `source`.

    The CSV has the columns path, emotion and, unless `speakers` is False, speaker. Known optional columns: id (else the
    path without suffix), gender, text, language, session, intensity; any further column is kept.
    Raises UserError that names the row for whatever is missing, empty, a duplicate, or an emotion not in `emotions`.
    """
    utterances = _read_csv(Path(table))
    for column in ("path", "emotion"):
        if column not in utterances:
            found = ", ".join(utterances.columns)
            raise UserError(f"{table}: no column `{column}`, found {found}; expected path, emotion, speaker")
    if speakers and "speaker" not in utterances:
        raise UserError(
            f"{table}: no column `speaker`, which speaker-independent protocols need; add it, or pass --no_speakers"
        )
    if not speakers:
        utterances["speaker"] = ""
    if "id" not in utterances:
        utterances["id"] = [Path(path).with_suffix("").as_posix() for path in utterances["path"]]
    if "gender" in utterances:
        _check_column(table, utterances, "gender", list(_GENDERS), utterances["gender"].str.lower())
        utterances["gender"] = utterances["gender"].str.lower().map(_GENDERS)
    for column in ("id", "path", "emotion", *(("speaker",) if speakers else ())):
        _refuse_rows(table, utterances[utterances[column] == ""], lambda row, column=column: f"has no {column}")
    _refuse_rows(table, utterances[utterances["id"].duplicated()], lambda row: f"repeats the id {row['id']!r}")
    if emotions is not None:
        _check_column(table, utterances, "emotion", emotions, utterances["emotion"])
    utterances["path"] = [str(Path(source) / path) for path in utterances["path"]]
    absent = utterances[[not Path(path).is_file() for path in utterances["path"]]]
    _refuse_rows(table, absent, lambda row: f"names the file {row['path']}, which is not there")
    return utterances


def list_emotion_folders(source: str | os.PathLike, *, emotions: Sequence[str] | None = None) -> pd.DataFrame:
    """Returns the utterances of a folder per emotion, `source`/EMOTION/.../file, whose speakers are unknown.

    Raises UserError where there are none, for a file outside such a folder, and for an emotion not in `emotions`.
    """
    source = Path(source)
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    relative = [path.relative_to(source) for path in find_audio(source)]
    if not relative:
        raise UserError(f"{source}: no audio file anywhere below it, expected {source}/EMOTION/FILE.wav, or --table")
    for path in relative:
        if len(path.parts) == 1:
            raise UserError(f"{source}: {path} is in no emotion's folder, expected {source}/EMOTION/{path}, or --table")
    utterances = pd.DataFrame(
        {
            "id": [path.with_suffix("").as_posix() for path in relative],
            "path": [str(source / path) for path in relative],
            "emotion": [path.parts[0] for path in relative],
            "speaker": "",
        }
    )
    _refuse_rows(source, utterances[utterances["id"].duplicated()], lambda row: f"repeats the id {row['id']!r}")
    if emotions is not None:
        _check_column(source, utterances, "emotion", emotions, utterances["emotion"])
    return utterances


def content_of(utterances: pd.DataFrame) -> str:
    """Returns a SHA-256 (hex) over the table and the bytes of every file that it names."""
    digest = hashlib.sha256(utterances.drop(columns="path").to_csv(index=False).encode())
    for path in utterances["path"]:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def read_utterances(name: str, utterances: pd.DataFrame) -> Iterator[tuple[dict[str, str], Int16[np.ndarray, " _"]]]:
    """Yields the rows of a table from `read_table` or `list_emotion_folders` and their waveforms, resampled.

    Raises UserError that names the file that cannot be read.
    """
    paths = tqdm(utterances["path"], desc=name, unit="file", disable=None)
    for row, path in zip(utterances.drop(columns="path").to_dict("records"), paths, strict=True):
        yield row, to_int16(read_audio(path))


def _read_csv(table: Path) -> pd.DataFrame:
    if not table.is_file():
        raise UserError(f"{table}: no such table, expected a CSV file")
    try:
        # Everything is text: the speaker 01 is not the number 1, and the emotion "null" is no missing value.
        utterances = pd.read_csv(table, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{table}: not a CSV file in UTF-8 with a line of column names ({reason})") from error
    if utterances.empty:
        raise UserError(f"{table}: no rows below the line of column names")
    utterances.columns = [column.strip() for column in utterances.columns]
    computed = {"label", "start", "num_samples", "corpus"} & set(utterances.columns)
    if computed:
        raise UserError(f"{table}: the column `{min(computed)}` is computed, rename or remove it")
    return utterances.apply(lambda column: column.str.strip())


def _check_column(
    where: str | os.PathLike, utterances: pd.DataFrame, column: str, allowed: Sequence[str], values: pd.Series
) -> None:
    expected = ", ".join(value for value in allowed if value)
    bad = utterances[~values.isin(allowed)]
    _refuse_rows(where, bad, lambda row: f"has the {column} {row[column]!r}, expected one of {expected}")


def _refuse_rows(where: str | os.PathLike, bad: pd.DataFrame, what: Callable[[pd.Series], str]) -> None:
    """Raises UserError that names the first bad row; in a CSV, line 1 holds the column names."""
    if len(bad) == 0:
        return
    row = bad.iloc[0]
    place = f"line {bad.index[0] + 2}" if Path(where).is_file() else f"file {row['path']}"
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    raise UserError(f"{where}: {place} {what(row)}{more}")
