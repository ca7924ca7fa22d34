"""A corpus: a table of utterances, and their samples end to end in one flat array.

On disk a corpus is a folder (the *packed* corpus) with `samples.npy`, `utterances.parquet` and `corpus.json`, and their
SHA256SUMS.
It is read memory-mapped, and needs neither TensorFlow nor JAX.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
from jaxtyping import Float, Int16

from ser_jax import bounded, checksums
from ser_jax.corpora import integrity
from ser_jax.errors import UserError, brief, reading
from ser_jax.files import atomic_folder, read_json

SAMPLE_RATE = 16_000  # Hz, of every corpus
FORMAT_VERSION = 1  # of the folder; a folder of another version is refused

TEXT_COLUMNS = ("id", "speaker", "gender", "emotion", "text", "language", "corpus")
COLUMNS = ("id", "speaker", "gender", "emotion", "label", "text", "language", "corpus", "start", "num_samples")

_SAMPLES, _UTTERANCES, _DESCRIPTION = "samples.npy", "utterances.parquet", "corpus.json"
_DESCRIBED = {
    "name": str,
    "emotions": list,
    "num_utterances": int,
    "num_samples": int,
    "fingerprint": str,
    "info": dict,
}


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Utterances and their samples (16 kHz, int16, mono).

    `utterances` has one row per utterance and the columns `COLUMNS`, then any others (intensity, session,
    recognition, naturalness, transcript, ...). `speaker`, `gender`, `text` and `language` are "" where unknown.
    Label i means `emotions[i]`. Without emotions, where dimensions such as arousal are all that is known, `emotion` is
    "" and the label -1. An utterance's samples are `samples[start : start + num_samples]`.
    `features.in_place_of_samples` makes a corpus whose samples are feature frames [frames, dims].
    """

    name: str
    utterances: pd.DataFrame
    samples: Int16[np.ndarray, " samples"] | Float[np.ndarray, "frames dims"]
    emotions: tuple[str, ...]
    fingerprint: str
    info: dict[str, Any]


def make_corpus(
    name: str,
    utterances: pd.DataFrame,
    waveforms: Sequence[Int16[np.ndarray, " _"]],
    emotions: Sequence[str],
    info: Mapping[str, Any] | None = None,
) -> Corpus:
    """Returns the corpus of a table and one int16 waveform (16 kHz) per row, in the order of the rows.

    The table must have the columns `id` and `emotion`; `speaker`, `gender`, `text` and `language` are taken as unknown
    ("") where missing, the other columns of `COLUMNS` are computed, and any further column is kept.
    Raises UserError for an empty corpus, duplicate ids, an emotion not in `emotions`, an utterance without samples.
    """
    emotions = tuple(emotions)
    table = _with_all_columns(name, utterances, [len(waveform) for waveform in waveforms], emotions)
    samples = waveforms[0] if len(waveforms) == 1 else np.concatenate(waveforms)  # an hour is not copied
    return Corpus(name, table, samples, emotions, fingerprint(table, emotions, samples), dict(info or {}))


def _with_all_columns(
    name: str, utterances: pd.DataFrame, lengths: Sequence[int], emotions: tuple[str, ...]
) -> pd.DataFrame:
    if len(utterances) == 0:
        raise UserError(f"corpus {name}: no utterances")
    if len(utterances) != len(lengths):
        raise ValueError(f"corpus {name}: {len(utterances)} rows, but {len(lengths)} waveforms")
    table = utterances.reset_index(drop=True)
    for column in ("speaker", "gender", "text", "language"):
        if column not in table:
            table[column] = ""
    table["corpus"] = name
    for column in TEXT_COLUMNS:
        table[column] = table[column].astype(str)

    duplicates = table["id"][table["id"].duplicated()]
    if len(duplicates):
        raise UserError(f"corpus {name}: {len(duplicates)} duplicate ids, the first is {duplicates.iloc[0]!r}")
    unknown = table[~table["emotion"].isin(emotions or [""])]
    if len(unknown):
        row = unknown.iloc[0]
        raise UserError(
            f"corpus {name}: utterance {row['id']!r} has the emotion {row['emotion']!r}, expected "
            + (f"one of {', '.join(emotions)}" if emotions else "none, in a corpus without emotions")
        )
    num_samples = np.array(lengths, np.int64)
    if not num_samples.all():
        raise UserError(f"corpus {name}: utterance {table['id'][int(np.argmin(num_samples))]!r} has no samples")

    numbers = {emotion: i for i, emotion in enumerate(emotions)} or {"": -1}
    table["label"] = table["emotion"].map(numbers).astype(np.int64)
    table["start"] = np.cumsum(num_samples) - num_samples
    table["num_samples"] = num_samples
    return table[[*COLUMNS, *(column for column in table.columns if column not in COLUMNS)]]


def waveform(corpus: Corpus, i: int) -> Int16[np.ndarray, " samples"]:
    """Returns the samples of utterance `i` (its row number), a view."""
    start = int(corpus.utterances["start"].iloc[i])
    return corpus.samples[start : start + int(corpus.utterances["num_samples"].iloc[i])]


def fingerprint(utterances: pd.DataFrame, emotions: Sequence[str], samples: Int16[np.ndarray, " samples"]) -> str:
    """Returns a SHA-256 (hex) that changes with any id, speaker, text, label, class name, length or sample."""
    columns = [utterances[column].tolist() for column in ("id", "speaker", "text", "label", "num_samples")]
    digest = hashlib.sha256(json.dumps([list(emotions), columns]).encode())
    block = 1 << 24
    for start in range(0, len(samples), block):
        digest.update(np.ascontiguousarray(samples[start : start + block], "<i2"))
    return digest.hexdigest()


def save(corpus: Corpus, folder: str | os.PathLike) -> None:
    """Writes the packed corpus to `folder`, whole or not at all, and keeps the features packed there.

    Raises UserError when the disk is full.
    """
    with refuse_full_disk(folder), atomic_folder(folder) as temporary:
        np.save(temporary / _SAMPLES, corpus.samples)
        _write_tables(corpus, temporary, keep=Path(folder))


def pack(
    folder: str | os.PathLike,
    name: str,
    examples: Iterable[tuple[Mapping[str, Any], Int16[np.ndarray, " _"]]],
    emotions: Sequence[str],
    info: Mapping[str, Any] | None = None,
) -> Corpus:
    """Writes what `save` of `make_corpus` would, one utterance after another: its row of the table and its waveform.

    No more than one waveform is in memory. Returns the corpus, memory-mapped. Raises UserError as both do.
    """
    emotions, rows = tuple(emotions), []
    with refuse_full_disk(folder), atomic_folder(folder) as temporary:
        lengths = _write_samples(temporary / _SAMPLES, (rows.append(row) or waveform for row, waveform in examples))
        table = _with_all_columns(name, pd.DataFrame(rows), lengths, emotions)
        samples = np.load(temporary / _SAMPLES, mmap_mode="r")
        made = Corpus(name, table, samples, emotions, fingerprint(table, emotions, samples), dict(info or {}))
        _write_tables(made, temporary, keep=Path(folder))
    return load(folder)


def _write_samples(path: Path, waveforms: Iterable[Int16[np.ndarray, " _"]]) -> list[int]:
    """Writes waveforms end to end as they come, as one NumPy file, and returns their lengths."""
    lengths = []

    def write_header(file: BinaryIO) -> None:  # NumPy leaves room in it for a length that grows
        header = {"descr": "<i2", "fortran_order": False, "shape": (sum(lengths),)}
        np.lib.format.write_array_header_1_0(file, header)

    with path.open("wb") as file:
        write_header(file)
        for waveform in waveforms:
            file.write(np.ascontiguousarray(waveform, "<i2"))
            lengths.append(len(waveform))
        file.seek(0)
        write_header(file)
    return lengths


def _write_tables(corpus: Corpus, folder: Path, keep: Path) -> None:
    """Writes all but the samples to `folder`, and the features that are packed in the folder `keep`."""
    description = {
        "format_version": FORMAT_VERSION,
        "name": corpus.name,
        "sample_rate": SAMPLE_RATE,
        "emotions": list(corpus.emotions),
        "num_utterances": len(corpus.utterances),
        "num_samples": len(corpus.samples),
        "fingerprint": corpus.fingerprint,
        "info": corpus.info,
    }
    corpus.utterances.to_parquet(folder / _UTTERANCES, index=False)
    (folder / _DESCRIPTION).write_text(json.dumps(description, indent=1, ensure_ascii=False), encoding="utf-8")
    checksums.write(folder, (_SAMPLES, _UTTERANCES, _DESCRIPTION))
    features = keep / "features"  # packed for this corpus; what no longer belongs to it is refused on load
    if features.is_dir():
        shutil.copytree(features, folder / "features", copy_function=_link_or_copy)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # not every file system has links
        shutil.copy2(source, target)


def load(folder: str | os.PathLike, *, again: bool = False) -> Corpus:
    """Returns the packed corpus in `folder`, its samples memory-mapped.

    Raises UserError where a file is missing, cut short, of another format version, or does not belong to the others,
    and where the content is not that of the fingerprint. With `again` it is hashed even if it was found right before;
    see `ser_jax.corpora.integrity`.
    """
    folder = Path(folder)
    description = _read_description(folder)
    with reading(_damaged(folder)):
        samples = np.load(folder / _SAMPLES, mmap_mode="r")
        utterances = bounded.read_parquet(folder / _UTTERANCES)

    missing = [column for column in COLUMNS if column not in utterances]
    if missing:
        raise UserError(_damaged(folder, f"{_UTTERANCES} has no column {missing[0]}"))
    if samples.dtype != np.int16 or samples.shape != (description["num_samples"],):
        found = f"{samples.dtype} {samples.shape}"
        raise UserError(_damaged(folder, f"{_SAMPLES} is {found}, expected int16 ({description['num_samples']},)"))
    if len(utterances) != description["num_utterances"]:
        found, expected = len(utterances), description["num_utterances"]
        raise UserError(_damaged(folder, f"{_UTTERANCES} has {found} rows, expected {expected}"))
    emotions, files = description["emotions"], (_SAMPLES, _UTTERANCES, _DESCRIPTION)

    def hashed() -> str:
        if utterances["num_samples"].sum() != len(samples):
            raise UserError(_damaged(folder, f"{_UTTERANCES} and {_SAMPLES} do not belong together"))
        found = fingerprint(utterances, emotions, samples)
        if found == description["fingerprint"]:  # which does not depend on all columns, nor on the rest of corpus.json
            checksums.check(folder / _UTTERANCES), checksums.check(folder / _DESCRIPTION)
        return found

    with reading(_damaged(folder)):
        content = integrity.content(folder, files, hashed, again=again)
    if content != description["fingerprint"]:
        expected = str(description["fingerprint"])[:12]
        what = f"its samples and labels are those of {content[:12]}, its fingerprint says {expected}"
        raise UserError(_damaged(folder, what))
    return Corpus(
        name=description["name"],
        utterances=utterances,
        samples=samples,
        emotions=tuple(description["emotions"]),
        fingerprint=description["fingerprint"],
        info=description["info"],
    )


def verify(corpus: Corpus, *, again: bool = False) -> None:
    """Raises UserError where the packed files of a loaded corpus are not those any more that it was loaded from.

    A corpus that is in memory alone has none. `again` is as in `load`.
    """
    if not isinstance(corpus.samples, np.memmap):
        return
    folder = Path(corpus.samples.filename).parent
    found = load(folder, again=again).fingerprint
    if found != corpus.fingerprint:
        raise UserError(
            f"{folder}: the corpus was packed anew while it was in use (its fingerprint was {corpus.fingerprint[:12]}, "
            f"now it is {found[:12]}); start again"
        )


def _read_description(folder: Path) -> dict[str, Any]:
    if not (folder / _DESCRIPTION).is_file():
        raise UserError(f"{folder}: not a packed corpus, it has no {_DESCRIPTION}")
    try:
        description = read_json(folder / _DESCRIPTION)
    except (ValueError, RecursionError) as error:
        raise UserError(_damaged(folder, f"{_DESCRIPTION} is not JSON")) from error
    version = description.get("format_version") if isinstance(description, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(
            f"{folder}: packed corpus of format version {brief(version)}, expected {FORMAT_VERSION}; prepare it again"
        )
    missing = _DESCRIBED.keys() - description.keys()
    if missing:
        raise UserError(_damaged(folder, f"{_DESCRIPTION} has no {min(missing)}"))
    for name, kind in _DESCRIBED.items():
        value = description[name]
        if not isinstance(value, kind) or (kind is list and not all(isinstance(one, str) for one in value)):
            raise UserError(_damaged(folder, f"{_DESCRIPTION} says {brief(value)} of {name}"))
    return description


def _damaged(folder: Path, what: str = "") -> str:
    return f"{folder}: damaged packed corpus, prepare it again{f' ({what})' if what else ''}"


# NumPy, TensorFlow and TFDS report a full disk in their own words, and keep no error number.
_UNWRITABLE = (errno.EACCES, errno.ENOENT, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
_FULL_DISK = (os.strerror(errno.ENOSPC), "Not enough free space", "Not enough disk space")


@contextlib.contextmanager
def refuse_full_disk(folder: str | os.PathLike) -> Iterator[None]:
    """Turns a full disk, or a refusal to write, inside the block into a UserError that names `folder`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _UNWRITABLE:
            raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from error
        if getattr(error, "errno", None) != errno.ENOSPC and not any(words in str(error) for words in _FULL_DISK):
            raise
        raise UserError(f"{folder}: the disk is full; free some space and try again") from error
