"""What a report is made of: sections of a few kinds of blocks, which every renderer knows."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawn


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclasses.dataclass(frozen=True)
class Answer:
    """A question and what the study answers.

    Attributes:
      says: the sentences, one for each comparison.
      lead: what holds for all of them; it stands above.
    """

    name: str
    question: str
    says: tuple[str, ...]
    lead: str = ""


@dataclasses.dataclass(frozen=True)
class Items:
    """A list of sentences."""

    items: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Facts:
    """A list of things and what they are."""

    facts: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table: what is shown, what stands under it, and what it is sorted by."""

    text: str
    under: str = ""
    value: int | float | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """A table that sorts and filters; its first `words` columns hold words, the others numbers."""

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    words: int = 1


@dataclasses.dataclass(frozen=True)
class Panel:
    """One drawing of a figure.

    Attributes:
      name: of its file.
      description: what is read out in its place.
      make: draws it.
      narrow: draws it for a narrow page, where that is another drawing.
      variant: the one that it is about, if it is about one alone.
    """

    name: str
    description: str
    make: Callable[[], "Drawn"]
    narrow: Callable[[], "Drawn"] | None = None
    variant: str = ""


@dataclasses.dataclass(frozen=True)
class Figure:
    """Drawings that share a caption, and the pages of one PDF."""

    name: str
    caption: str
    panels: tuple[Panel, ...]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture that was drawn elsewhere, as a PNG file."""

    name: str
    caption: str
    path: Path


@dataclasses.dataclass(frozen=True)
class Code:
    """Text to be copied."""

    name: str
    text: str


Block = Text | Answer | Items | Facts | Table | Figure | Picture | Code


@dataclasses.dataclass(frozen=True)
class Section:
    """A headed part of the report."""

    id: str
    title: str
    blocks: tuple[Block, ...]
