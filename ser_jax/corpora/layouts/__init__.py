"""Published corpora in their owners' layouts: one small file for each, found by its being here.

Their owners give no hashes, or ask not to pass the recordings on. So a copy is told by its layout. Where names tell
all, every recording must have a name of the corpus. Where annotations do, every utterance that they list must have its
recording, and what they do not list is no part of the corpus. How many there are is compared with how many the owner
describes.
"""

import dataclasses
import importlib
import os
import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ser_jax.corpora.problems import Problems
from ser_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Layout:
    """A published corpus.

    Attributes:
        title: its name in print.
        language: ISO 639-1.
        speech: what kind of speech it is, in words, as its owner describes it.
        emotions: the classes, in the order of the labels.
        utterances: how many its owner describes; None where releases differ.
        speakers: how many its owner describes; None where not all are known.
        protocol: the one that its literature uses most.
        licence: what its owner allows.
        homepage: where it is to be had.
        citation: who is to be cited.
        describe: takes a recording's path below the source, and returns its columns (id, speaker, emotion, ...), or
            None for a recording that is no part of the corpus. Of a corpus whose names tell all.
        annotated: takes the source, and returns the columns of every utterance that the annotations there list, with
            `path`, the recording, or None where there is none. Raises UserError where there are no annotations.
        renamed: the owner's emotions that are counted with another one, new name by old.
        dropped: the owner's emotions that the corpus's literature leaves out, by their new names.
    """

    title: str
    language: str
    speech: str
    emotions: tuple[str, ...]
    utterances: int | None
    speakers: int | None
    protocol: str
    licence: str
    homepage: str
    citation: str
    describe: Callable[[Path], dict[str, str] | None] | None = None
    annotated: Callable[[Path], list[dict[str, Any]]] | None = None
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    dropped: tuple[str, ...] = ()


def names() -> tuple[str, ...]:
    """Returns the names of all corpora that have a layout here."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def load(name: str) -> Layout:
    """Returns the layout of a corpus, the `LAYOUT` of the module of its name."""
    return importlib.import_module(f"{__name__}.{name}").LAYOUT


def list_recordings(layout: Layout, source: str | os.PathLike, problems: Problems) -> pd.DataFrame:
    """Returns the table of a corpus's utterances below a folder, with `path`.

    Recordings of other names, and annotated utterances without a recording, are added to `problems`.
    Raises UserError where there are none, for one recording that is there twice, and for annotations that are no such.
    """
    source = Path(source)
    rows = _named(layout, source, problems) if layout.annotated is None else _annotated(layout, source, problems)
    if not rows:
        raise UserError(f"{source}: holds no recording with a name of {layout.title}; see {layout.homepage}")
    table = pd.DataFrame([{"language": layout.language, **row} for row in rows])
    return table.sort_values("id", ignore_index=True).fillna("")


def _named(layout: Layout, source: Path, problems: Problems) -> list[dict[str, Any]]:
    from ser_jax.corpora.audio import find_audio  # audio libraries: a packed corpus is loaded without them

    rows, places = [], {}
    for path in find_audio(source):
        told = layout.describe(path.relative_to(source))
        if told is None:
            problems.add(str(path), f"no name of a recording of {layout.title}")
            continue
        if told["id"] in places:
            raise UserError(f"{source}: holds {told['id']} twice, {places[told['id']]} and {path}; expected it once")
        places[told["id"]] = path
        rows.append({**told, "path": str(path)})
    return rows


def _annotated(layout: Layout, source: Path, problems: Problems) -> list[dict[str, Any]]:
    rows, seen = [], set()
    for row in layout.annotated(source):
        if row["id"] in seen:
            raise UserError(f"{source}: the annotations list {row['id']} twice, expected it once")
        seen.add(row["id"])
        if row["path"] is None:
            problems.add(str(source), f"has no recording of {row['id']}, which is annotated", row["id"])
        else:
            rows.append({**row, "path": str(row["path"])})
    return rows
