"""Whether the files of the project's folders are unchanged: every file against its stored hash.

A folder is told by the files in it. Where it has SHA256SUMS, every file is compared with them; content that has a hash
of its own (samples, features, weights, the arrays of checkpoints) is read by the reader that uses it and compared too.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from ser_jax import checksums, files, predictions
from ser_jax.corpora import corpus, features
from ser_jax.corpora.duplicates import CACHE
from ser_jax.errors import UserError
from ser_jax.report import summary
from ser_jax.studies import robustness
from ser_jax.studies.store import (
    CONDITIONS,
    CONFIG,
    FAILURE,
    LATENCY,
    OF_RESULTS,
    PICTURE,
    PREDICTIONS,
    RESULT,
    STUDY,
    SUMMARY,
    VALIDATION,
    read_json,
    read_places,
)

WHOLE, DAMAGED, UNKNOWN = "whole", "damaged", "cannot be told"

DERIVED = ("tensorboard", "profile", FAILURE)  # of a population: what nothing is computed from
_CHECKPOINTS, _BASELINE = "checkpoints", "baseline"
_OF_CONFIG = {"corpus", "protocol"}  # keys of what the project writes to a config.json
_UNFINISHED = (CONFIG, LATENCY, PICTURE, "log.jsonl", "parameters.txt")  # what has no checksum before the end


@dataclasses.dataclass(frozen=True)
class Finding:
    """What was found of one thing: a corpus, features, an encoder, a population, results, a published model ...

    Attributes:
      kind: what it is.
      state: `WHOLE`, `DAMAGED` or `UNKNOWN`.
      reasons: what is damaged and what was expected, or what cannot be told.
      files: how many were looked at.
    """

    path: Path
    kind: str
    state: str
    reasons: tuple[str, ...]
    files: int


def verify(path: str | os.PathLike) -> Iterator[Finding]:
    """Yields what is found of each thing in one of the project's folders.

    Raises `UserError`, before anything is read, for a path that is none of them.
    """
    path = Path(path)
    things = _things(path)
    if not things:
        what = "no such folder" if not path.exists() else "none of the project's folders" if path.is_dir() else "a file"
        raise UserError(
            f"{path}: {what}; expected a data directory, a corpus, features, an encoder, records, a workdir, a store, "
            "a population, a published model or a folder of these"
        )
    return (_look(folder, kind) for folder, kind in things.items())


def kind_of(folder: Path) -> str | None:
    """Returns what a folder is by the files in it, None where it is no thing of the project."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if names & {"corpus.json", "samples.npy"}:
        return "corpus"
    if "features.json" in names or {"values.npy", "index.parquet"} <= names:
        return "features"
    if "encoder.json" in names:
        return "encoder"
    if any(".tfrecord-" in name for name in names) and folder.parent.name == "records":
        return "records"
    if names & {RESULT, _CHECKPOINTS, _BASELINE, FAILURE, "log.jsonl"}:
        return "population"
    others = {"model.safetensors", CONFIG} if _is_foreign(folder, names) else set()
    if "model.safetensors" in names - others:
        return "published model"
    if names & {STUDY, SUMMARY, PREDICTIONS, CONFIG} - others:
        return "results"
    return None


def _is_foreign(folder: Path, names: Collection[str]) -> bool:
    """Whether a folder's model or config.json is of another program; what is damaged is not, nor what has checksums."""
    if checksums.FILE in names:
        return False
    try:
        found = files.read_json(folder / CONFIG)
    except (OSError, ValueError, RecursionError):
        return CONFIG not in names
    return not (isinstance(found, dict) and found.keys() & _OF_CONFIG)


def _things(folder: Path) -> dict[Path, str]:
    """The kinds of a folder, if it is a thing, and of the things in it that are known by their places."""
    kind = kind_of(folder)
    found = {folder: kind} if kind else {}
    inside = {
        "corpus": ["features/*"],
        "results": ["populations/*", "on_*"],
        None: ["*", "*/*", "packed/*/*", "packed/*/features/*"],
    }
    below = [path for pattern in inside.get(kind, []) for path in sorted(folder.glob(pattern))]
    if kind == "results" and (folder / STUDY).is_file():
        with contextlib.suppress(UserError):  # a damaged one is found when it is looked at
            below += [path for path in read_places(folder).values() if path.resolve().parent != folder / "populations"]
    for path in below:
        if not path.name.startswith(".") and kind_of(path):
            found |= {one: of for one, of in _things(path).items() if one not in found}
    return found


def _look(folder: Path, kind: str) -> Finding:
    names = _own_files(folder, kind)
    damaged, unknown = checksums.faults(folder), []
    if not damaged:
        recorded = checksums.read(folder) or {}
        damaged, unknown = _READERS[kind](folder, [name for name in names if name not in recorded])
    state = DAMAGED if damaged else UNKNOWN if unknown else WHOLE
    return Finding(folder, kind, state, tuple(damaged or unknown), len(names))


def _own_files(folder: Path, kind: str) -> list[str]:
    """The files of a thing that have to be whole: not those of other things in it, and nothing that is derived."""
    if kind == "results":
        return [name for name in (*OF_RESULTS, STUDY, LATENCY) if (folder / name).is_file()]
    if kind in ("corpus", "features"):
        return sorted(
            path.name
            for path in folder.iterdir()
            if path.is_file() and path.name[0] != "." and path.name not in (CACHE, checksums.FILE)
        )
    return [name for name in checksums.files_below(folder) if name.split("/")[0] not in DERIVED]


def _without_hash(names: Iterable[str]) -> list[str]:
    names = list(names)
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return [f"{shown}: no hash was kept"] if names else []


def _failures(*reads: Callable[[], object]) -> list[str]:
    """What readers refuse, in their words."""
    failures = []
    for read in reads:
        try:
            read()
        except UserError as error:
            failures.append(str(error))
    return failures


def _corpus(folder: Path, unlisted: list[str]) -> tuple[list[str], list[str]]:
    damaged = _failures(lambda: corpus.load(folder, again=True))
    # The fingerprint is of the samples and of what decides a training; of other columns nothing is known without sums.
    return damaged, _without_hash(name for name in unlisted if name != "samples.npy")


def _features(folder: Path, unlisted: list[str]) -> tuple[list[str], list[str]]:
    return _failures(lambda: features.read_packed(folder, again=True)), _without_hash(unlisted)


def _encoder(folder: Path, unlisted: list[str]) -> tuple[list[str], list[str]]:
    from ser_jax.encoders import store  # JAX, which takes a second to import

    return _failures(lambda: store.load(str(folder.resolve()))), _without_hash(unlisted)


def _records(folder: Path, unlisted: list[str]) -> tuple[list[str], list[str]]:
    return [], _without_hash(unlisted)  # the reader of records finds damage inside of files by their own checksums


def _population(folder: Path, unlisted: list[str]) -> tuple[list[str], list[str]]:
    """Checkpoints keep hashes of their own, so those of a training that is not finished are verified too."""
    parts = [name.split("/") for name in unlisted]
    inside = [part[1] for part in parts if part[0] == _CHECKPOINTS and len(part) > 1]
    # Without a number, a checkpoint was only begun, when a disk was full.
    damaged = _of_checkpoints(folder) if any(name.isdigit() for name in inside) else []
    if _CHECKPOINTS in unlisted:
        damaged.append(f"{folder / _CHECKPOINTS}: a file, expected a folder of checkpoints")
    without = [name for name in unlisted if name.split("/")[0] not in (_CHECKPOINTS, *_UNFINISHED)]
    return damaged + _of_tables(folder, without), _without_hash(without)


def _published(folder: Path, unlisted: list[str]) -> tuple[list[str], list[str]]:
    """The arrays and the description have hashes of their own, which are compared whether or not there are others."""
    from ser_jax.studies.workdirs import find
    from ser_jax.training.published import read_arrays

    damaged = _failures(lambda: find(folder, option="verify"), lambda: read_arrays(folder))
    return damaged, _without_hash(unlisted)


def _results(folder: Path, unlisted: list[str]) -> tuple[list[str], list[str]]:
    return _of_tables(folder, unlisted), _without_hash(unlisted)


def _of_checkpoints(folder: Path) -> list[str]:
    from ser_jax.training.checkpoints import Checkpoints

    store = Checkpoints(folder / _CHECKPOINTS)
    try:
        return [wrong for wrong in store.verify().values() if wrong]
    except UserError as error:
        return [str(error)]
    finally:
        store.close()


def _of_tables(folder: Path, names: Iterable[str]) -> list[str]:
    """What is wrong with files that have no checksum but a structure."""
    readers = {SUMMARY: summary.read, CONDITIONS: robustness.read, PREDICTIONS: predictions.read}
    readers |= {VALIDATION: predictions.read} | {name: read_json for name in (CONFIG, RESULT, LATENCY)}
    readers |= {STUDY: lambda path: read_places(path.parent)}
    return _failures(*(lambda name=name: readers[name](folder / name) for name in names if name in readers))


_READERS = {
    "corpus": _corpus,
    "features": _features,
    "encoder": _encoder,
    "records": _records,
    "population": _population,
    "published model": _published,
    "results": _results,
}
