"""Comparisons of several corpora in one report: every variant's UA and every difference, on each corpus and pooled."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from ser_jax.numbers import count
from ser_jax.report import figures as draw
from ser_jax.report import numbers
from ser_jax.report.blocks import Answer, Block, Cell, Items, Section, Table
from ser_jax.report.sections.common import cell, forest, points_cell, share_cell
from ser_jax.report.sources import cleaned
from ser_jax.report.write import write_sections

View = Mapping[str, Any]  # what `ser_jax.statistics.pooled.across_corpora` returns
_POOLED = "pooled"


def write_across(folder: str | os.PathLike, view: View) -> None:
    """Writes the report of a view over corpora to a folder: report.html, report.md, figures/ and tables/."""
    view = cleaned(view)
    corpora = numbers.join(view["corpora"])
    sections = [
        Section("answers", "Answers", tuple(_answers(view))),
        Section("differences", "Differences", tuple(_differences(view))),
        Section("variants", "Variants", (_variants(view),)),
    ]
    if notes := notes_of(view):
        sections.append(Section("notes", "Notes", (Items(tuple(map(numbers.sentence_case, notes))),)))
    heading = f"The same comparisons on {corpora}", f"{count(len(view['variants']), 'variant')} on all corpora"
    write_sections(folder, heading, sections, view["variants"])


def _answers(view: View) -> Iterator[Block]:
    if not view["effects"]:
        yield Items(("The corpora have no comparison in common.",))
    for effect in view["effects"]:
        pooled = effect["pooled"]
        if pooled is None:
            said = "not pooled: fewer than two corpora have an interval."
        else:
            zero = "contains" if pooled["ci95"][0] <= 0 <= pooled["ci95"][1] else "does not contain"
            said = (
                f"over {pooled['corpora']} corpora, UA "
                f"{numbers.points_with(pooled['estimate'], pooled['ci95'])} points, "
                f"{numbers.p_equals(pooled['p'])}; the interval {zero} zero."
            )
        yield Answer(pair_of(effect), "", (said,))


def _differences(view: View) -> Iterator[Block]:
    if not view["effects"]:
        return
    rows: dict[str, list[draw.Row]] = {}
    for effect in view["effects"]:
        for number, (name, one) in enumerate((effect["corpora"] | {_POOLED: effect["pooled"]}).items()):
            if one:
                said = numbers.points_with(one["estimate"], one["ci95"])
                row = draw.Row(name, one["estimate"], one["ci95"], said, number=number)
                rows.setdefault(pair_of(effect), []).append(row)
    caption = "Differences in UA on each corpus, and pooled by a random-effects model, with 95 % intervals."
    yield forest("across", rows, "difference in UA (points)", caption)
    table = []
    for effect in view["effects"]:
        pooled = effect["pooled"] or {}
        of = [effect["corpora"][name] for name in view["corpora"]]
        table.append(
            (
                *(Cell(effect[side]) for side in ("variant", "baseline")),
                *(points_cell(one["estimate"], one["ci95"]) for one in of),
                points_cell(pooled.get("estimate"), pooled.get("ci95")),
                cell(pooled.get("p"), numbers.p_value),
                points_cell(pooled.get("tau"), sign=False),
                cell(pooled.get("p_heterogeneity"), numbers.p_value),
            )
        )
    columns = ("variant", "baseline", *view["corpora"], _POOLED, "p", "SD between corpora", "p, corpora alike")
    caption = (
        "Differences in UA in points over their 95 % intervals. SD between corpora: of the true difference from corpus "
        "to corpus, a rough estimate with few corpora; the last p value is small where the corpora differ. No p value "
        "is corrected for the number of differences."
    )
    yield Table("effects", caption, columns, tuple(table), words=2)


def _variants(view: View) -> Table:
    rows = [
        (Cell(name), *(share_cell(view["ua"][corpus][name]) for corpus in view["corpora"])) for name in view["variants"]
    ]
    return Table("variants", "UA in percent on each corpus.", ("variant", *view["corpora"]), tuple(rows))


def notes_of(view: View) -> list[str]:
    """Returns what is said of the view and of each of its comparisons, each once."""
    return list(dict.fromkeys([*view["notes"], *(note for effect in view["effects"] for note in effect["notes"])]))


def pair_of(effect: View) -> str:
    """Returns what a comparison is of, in words."""
    return f"{effect['variant']} against {effect['baseline']}"
