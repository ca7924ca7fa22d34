"""A summary as a plain-text table, for the terminal and for pasting."""

import itertools
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence

from ser_jax.errors import one_line
from ser_jax.numbers import count
from ser_jax.report import numbers
from ser_jax.report.answers import describe_difference, sentence
from ser_jax.report.sections.common import by_note
from ser_jax.report.sections.variants import describe_ensemble, describe_learning, describe_sources, describe_tracks
from ser_jax.report.sources import Sources
from ser_jax.report.summary import Measure, Summary, Variant

WIDTH = 120
LONGEST_HEADER = 12
GAP = " "


def results_table(summary: Summary) -> str:
    """Lays a summary out in 120 columns: figures in percent, each above its 95 % interval, then the comparisons.

    Inductive variants come first. What is wide in a terminal (Chinese) counts as two columns.
    """
    variants = Sources(summary, {}, {}, {}).variants
    lines = [*textwrap.wrap(_heading(summary), WIDTH), ""]
    columns = [_names(variants)]
    for name, title in summary.metrics.items():
        columns.append(_figures(title, [v.metrics.get(name) for v in variants.values()]))
    columns += [_figures(emotion, [v.recall.get(emotion) for v in variants.values()]) for emotion in summary.emotions]
    for name, title in summary.scores.items():
        columns.append(_figures(title, [v.scores.get(name) for v in variants.values()], decimal=True))
    lines += _side_by_side(columns)
    for text in _sentences(summary, variants):
        lines += ["", *textwrap.wrap(one_line(text), WIDTH, subsequent_indent="  ")]
    notes = [textwrap.wrap(one_line(note), WIDTH, subsequent_indent="  ") for note in _notes(summary, variants)]
    return "\n".join([*lines, *([""] if notes else []), *itertools.chain.from_iterable(notes)])


def _sentences(summary: Summary, variants: dict[str, Variant]) -> Iterator[str]:
    for name, variant in variants.items():
        if variant.known.training_accuracy is not None:
            yield describe_learning(name, variant)
    for name, variant in variants.items():
        if variant.ensemble:
            yield describe_ensemble(name, variant.ensemble, summary.metrics)
    for name, variant in variants.items():
        if variant.by_source:
            yield describe_sources(name, variant.by_source)
    for one in summary.comparisons:
        shape = f"({count(one.folds, 'fold')} x {count(one.seeds, 'seed')})"
        yield f"{sentence(one).removesuffix('.')} {shape}."
    for difference in summary.score_differences:
        yield describe_difference(difference, summary.scores)
    for name, variant in variants.items():
        if variant.known.tracks:
            yield describe_tracks(name, variant.known.tracks)


def _heading(summary: Summary) -> str:
    where = ", ".join(part for part in (summary.corpus, summary.study.protocol) if part)
    settings = _settings(summary.variants)
    parts = [where, "with 95 % intervals over speakers"]
    if summary.emotions:
        parts[1:] = [f"percent, {parts[1]}", f"chance UA {numbers.percent(summary.chance_ua)}"]
    if summary.scores:
        parts.append(f"{', '.join(summary.scores.values())} as they are")
    if len(settings) == 1:
        parts.append(settings.pop())
    return one_line("; ".join([*parts, "runs and parameters under each name"]))


def _settings(variants: dict[str, Variant]) -> set[str]:
    return {variant.known.setting for variant in variants.values()}


def _names(variants: dict[str, Variant]) -> list[str]:
    cells = ["variant"]
    for name, variant in variants.items():
        about = [count(variant.runs, "run")]
        if variant.known.parameters is not None:
            about.append(numbers.size(variant.known.parameters))
        if len(_settings(variants)) > 1:
            about.append(variant.known.setting)
        cells += [one_line(name), "  " + ", ".join(about)]
    return _aligned(cells, left=True)


def _figures(title: str, measures: Sequence[Measure | None], *, decimal: bool = False) -> list[str]:
    title = one_line(title)
    cells = [title if len(title) <= LONGEST_HEADER else title[: LONGEST_HEADER - 1] + "…"]
    of_value, of_ends = numbers.percent, numbers.percent_ends
    if decimal:
        of_value, of_ends = numbers.decimal, numbers.decimal_ends
    for measure in measures:
        cells += [of_value(measure and measure.value), of_ends(measure and measure.ci95)]
    return _aligned(cells, left=False)


def _aligned(cells: Sequence[str], *, left: bool) -> list[str]:
    width = max(map(_columns, cells))
    blank = [" " * (width - _columns(cell)) for cell in cells]
    return [cell + space if left else space + cell for cell, space in zip(cells, blank, strict=True)]


def _columns(text: str) -> int:
    """The columns that a text takes in a terminal."""
    return sum(2 if unicodedata.east_asian_width(sign) in "WF" else not unicodedata.combining(sign) for sign in text)


def _side_by_side(columns: Sequence[list[str]]) -> list[str]:
    """Joins columns into lines; those that do not fit go into a block below, beside the first column again."""
    first, *rest = columns
    lines: list[str] = []
    while rest:
        block, width = [first], _columns(first[0])
        while rest and (len(block) == 1 or width + len(GAP) + _columns(rest[0][0]) <= WIDTH):
            width += len(GAP) + _columns(rest[0][0])
            block.append(rest.pop(0))
        rows = [GAP.join(cells).rstrip() for cells in zip(*block, strict=True)]
        lines += ([""] if lines else []) + [rows[0], "-" * width, *rows[1:]]
    return lines


def _notes(summary: Summary, variants: dict[str, Variant]) -> Iterator[str]:
    """Every note once, with the variants or comparisons that it is about (none named where it is about all)."""
    about = by_note((name, variant.notes) for name, variant in variants.items())
    for note, names in about.items():
        yield f"Note: {note}" + ("" if len(names) == len(variants) else f" ({', '.join(names)})")
    pairs = by_note((f"{one.variant} against {one.baseline}", one.notes) for one in summary.comparisons)
    for note, names in pairs.items():
        if note not in about:
            whose = f"all {len(names)} comparisons" if 1 < len(names) == len(summary.comparisons) else "; ".join(names)
            yield f"Note: {whose}: {note}"
    for text in (*summary.study.left_out, *summary.study.labels, *summary.study.notes):
        yield f"Note: {text}"
