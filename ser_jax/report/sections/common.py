"""What several sections use: forest plots, cells of tables, and notes."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ser_jax.report import figures as draw
from ser_jax.report import numbers
from ser_jax.report.blocks import Block, Cell, Figure, Items, Panel
from ser_jax.report.summary import Measure

SEEDS = "; ticks under a line are single seeds"


def forest(
    name: str, rows: Mapping[str, Sequence[draw.Row]], xlabel: str, caption: str, reference: float = 0.0
) -> Figure:
    """A forest plot, drawn for wide and for narrow pages."""
    lines = "; ".join(f"{row.label}: {row.text}" for of in rows.values() for row in of)
    wide = functools.partial(draw.forest, rows, xlabel, reference=reference, narrow=False)
    narrow = functools.partial(draw.forest, rows, xlabel.split("; ")[0], reference=reference, narrow=True)
    return Figure(name, caption, (Panel(name, f"{xlabel}. {lines}", wide, narrow),))


def share_cell(share: float | None, ends: numbers.Ends = None) -> Cell:
    """A share in percent over its interval."""
    return Cell(numbers.percent(share), numbers.percent_ends(ends), share)


def measure_cell(measure: Measure | None) -> Cell:
    """A measure in percent over its interval."""
    return share_cell(None) if measure is None else share_cell(measure.value, measure.ci95)


def points_cell(difference: float | None, ends: numbers.Ends = None, *, sign: bool = True) -> Cell:
    """A difference in points over its interval."""
    return Cell(numbers.points(difference, sign=sign), numbers.point_ends(ends), difference)


def decimal_cell(value: float | None, ends: numbers.Ends = None, digits: int = 3) -> Cell:
    """A number over its interval."""
    return Cell(numbers.decimal(value, digits), numbers.decimal_ends(ends, digits), value)


def cell(value: Any, form: Callable[[Any], str]) -> Cell:
    """A value in the form that `form` gives it, or a dash."""
    return Cell(numbers.MISSING) if value is None else Cell(form(value), value=value)


def by_note(about: Iterable[tuple[str, Iterable[str]]]) -> dict[str, list[str]]:
    """Returns every note once, in order, with the names of what it is about."""
    notes: dict[str, list[str]] = {}
    for name, of in about:
        for note in of:
            notes.setdefault(note, []).append(name)
    return notes


def notes_of(about: Iterable[tuple[str, Iterable[str]]]) -> Iterator[Block]:
    """Every note once, with what it is about where that is not everything."""
    about = list(about)
    if notes := by_note(about):
        yield Items(
            tuple(
                numbers.sentence_case(note) + ("" if len(of) == len(about) else f" ({numbers.some(of)})")
                for note, of in notes.items()
            )
        )
