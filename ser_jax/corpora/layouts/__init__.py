"""Published corpora whose file names or folders tell what is in them: one small file for each, found by its being here.

Their owners give no hashes, or ask not to pass the recordings on. So a copy is told by its layout: every recording must
have a name of the corpus, and how many there are is compared with how many the owner describes.
"""

import dataclasses
import importlib
import os
import pkgutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from ser_jax.corpora.problems import Problems
from ser_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Layout:
    """A published corpus.

    Attributes:
        title: its name in print.
        language: ISO 639-1.
        emotions: the classes, in the order of the labels.
        utterances: how many its owner describes.
        speakers: how many its owner describes.
        protocol: the one that its literature uses most.
        licence: what its owner allows.
        homepage: where it is to be had.
        citation: who is to be cited.
        describe: takes a recording's path below the source, and returns its columns (id, speaker, emotion, ...), or
            None for a recording that is no part of the corpus.
    """

    title: str
    language: str
    emotions: tuple[str, ...]
    utterances: int
    speakers: int
    protocol: str
    licence: str
    homepage: str
    citation: str
    describe: Callable[[Path], dict[str, str] | None]


def names() -> tuple[str, ...]:
    """Returns the names of all corpora that have a layout here."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def load(name: str) -> Layout:
    """Returns the layout of a corpus, the `LAYOUT` of the module of its name."""
    return importlib.import_module(f"{__name__}.{name}").LAYOUT


def list_recordings(layout: Layout, source: str | os.PathLike, problems: Problems) -> pd.DataFrame:
    """Returns the table of the recordings below a folder, with `path`; those of other names are added to `problems`.

    Raises UserError where none has a name of the corpus, and for one recording that is there twice.
    """
    from ser_jax.corpora.audio import find_audio  # audio libraries: a packed corpus is loaded without them

    source, rows, places = Path(source), [], {}
    for path in find_audio(source):
        told = layout.describe(path.relative_to(source))
        if told is None:
            problems.add(str(path), f"no name of a recording of {layout.title}")
            continue
        if told["id"] in places:
            raise UserError(f"{source}: holds {told['id']} twice, {places[told['id']]} and {path}; expected it once")
        places[told["id"]] = path
        rows.append({"language": layout.language, **told, "path": str(path)})
    if not rows:
        raise UserError(f"{source}: holds no recording with a name of {layout.title}; see {layout.homepage}")
    table = pd.DataFrame(rows).sort_values("id", ignore_index=True)
    return table.fillna("")
