"""Which rows of a table are of one file, of the same bytes, or of the same seconds, by the files themselves."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from ser_jax.corpora.problems import Problems

_TOUCHING_SECONDS = 0.05  # by which segments that follow one another may overlap: times are rounded


def place(path: str) -> tuple[int, ...] | str:
    """Returns what is the same for all names of one file, linked or spelled otherwise."""
    try:
        found = os.stat(path)
        return found.st_dev, found.st_ino
    except OSError:  # it is refused when it is read
        return path


def hashes_of(paths: Iterable[str]) -> dict[str, str]:
    """Returns a SHA-256 (hex) of the bytes of every file, by its path; "" for one that cannot be read."""
    hashes = {}
    for path in dict.fromkeys(paths):
        try:
            with open(path, "rb") as file:
                hashes[path] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            hashes[path] = ""
    return hashes


def content_of(utterances: pd.DataFrame, hashes: Mapping[str, str]) -> str:
    """Returns a SHA-256 (hex) over the table and the files that it names, by their `hashes_of`."""
    digest = hashlib.sha256(utterances.drop(columns="path").to_csv(index=False).encode())
    for path in dict.fromkeys(utterances["path"]):
        digest.update(bytes.fromhex(hashes[path]) if hashes[path] else b"unreadable")
    return digest.hexdigest()


def without_contradictions(where: Path, utterances: pd.DataFrame, problems: Problems) -> pd.DataFrame:
    """Returns the utterances whose file, or segment of it, is there once; the others are added to `problems`.

    A file is the same however it is spelled or linked. `where` is the table, or the folder.
    """
    segment = [utterances[column] for column in ("segment_start", "segment_end") if column in utterances]
    names = f"names a {'segment' if segment else 'file'} that " if where.is_file() else ""
    places = [utterances["path"].map(place), *segment]
    for column in ("emotion", "speaker"):
        groups = utterances.groupby(places, dropna=False)[column]
        several = groups.transform("nunique").astype(int) > 1
        if several.any():
            listed = groups.transform(lambda words: ", ".join(sorted(set(words))))
            words = f"{names}has several {column}s here: "
            utterances = problems.rows(
                where, utterances, several, lambda row, words=words, listed=listed: words + listed[row.name]
            )
            places = [values.loc[utterances.index] for values in places]
    groups = utterances.groupby(places, dropna=False)["id"]
    first = groups.transform("first")
    return problems.rows(
        where, utterances, groups.cumcount() > 0, lambda row: f"{names}is there already, as {first[row.name]!r}"
    )


def notes_of_copies(utterances: pd.DataFrame, hashes: Mapping[str, str]) -> dict[str, list[str]]:
    """Returns the ids of the utterances whose files have the bytes of others: "copies", and "contradicting_copies".

    The latter have another emotion or speaker than their copy.
    """
    files = utterances.drop_duplicates("path")
    of = files["path"].map(hashes)
    copied = of.duplicated(keep=False) & (of != "")
    groups = files.groupby(of)
    contradicting = copied & (
        (groups["emotion"].transform("nunique") > 1) | (groups["speaker"].transform("nunique") > 1)
    )
    found = {"copies": copied & ~contradicting, "contradicting_copies": contradicting}
    ids = {kind: utterances["id"][utterances["path"].isin(files["path"][which])] for kind, which in found.items()}
    return {kind: of_kind.tolist() for kind, of_kind in ids.items() if len(of_kind)}


def note_of_overlaps(utterances: pd.DataFrame) -> dict[str, list[str]]:
    """Returns, as "overlapping", the ids of segments that share time with one of another emotion or speaker."""
    if "segment_start" not in utterances:
        return {}
    ids = utterances["id"].tolist()
    of = list(zip(utterances["emotion"], utterances["speaker"], strict=True))
    pairs = overlapping(utterances["path"], utterances["segment_start"], utterances["segment_end"].fillna(np.inf))
    found = [ids[row] for one, other in pairs if of[one] != of[other] for row in (one, other)]
    return {"overlapping": list(dict.fromkeys(found))} if found else {}


def overlapping(recordings: pd.Series, starts: pd.Series, ends: pd.Series) -> Iterator[tuple[int, int]]:
    """Yields the pairs of rows that are segments of one recording and share seconds of it, more than rounding does.

    What has no start is no segment.
    """
    segments = pd.DataFrame({"of": recordings.to_numpy(), "start": starts.to_numpy(), "end": ends.to_numpy()})
    segments = segments.dropna(subset="start").sort_values("start", kind="stable")
    for _, rows in segments.groupby("of", sort=False):
        begins, stops = rows["start"].to_numpy(), rows["end"].to_numpy() - _TOUCHING_SECONDS
        last = np.searchsorted(begins, stops)  # the first segment that begins behind each one's end
        for one in range(len(rows)):
            yield from ((int(rows.index[one]), int(rows.index[other])) for other in range(one + 1, last[one]))
