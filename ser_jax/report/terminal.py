"""A summary as a plain-text table, for the terminal and for pasting."""

import itertools
import textwrap
from collections.abc import Sequence
from typing import Any

WIDTH = 120
LONGEST_HEADER = 12
GAP = " "


def results_table(summary: dict[str, Any]) -> str:
    """Lays a summary out in 120 columns: figures in percent, each above its 95 % interval, then the comparisons."""
    lines = [*_heading(summary), ""]
    columns = [_names(summary)]
    for title, key in (("UA", "ua"), ("WA", "wa"), ("macro F1", "macro_f1")):
        columns.append(_figures(summary, title, key))
    columns += [_figures(summary, emotion, "recall", emotion) for emotion in summary["emotions"]]
    lines += _side_by_side(columns)
    for name, variant in summary["variants"].items():
        if variant.get("ensemble"):
            lines += ["", *textwrap.wrap(describe_ensemble(name, variant["ensemble"]), WIDTH, subsequent_indent="  ")]
    for name, variant in summary["variants"].items():
        if variant.get("by_source"):
            lines += ["", *textwrap.wrap(describe_sources(name, variant["by_source"]), WIDTH, subsequent_indent="  ")]
    for comparison in summary["comparisons"]:
        lines += ["", *textwrap.wrap(describe_comparison(comparison), WIDTH, subsequent_indent="  ")]
    for name, tracks in summary.get("tracks", {}).items():
        lines += ["", *textwrap.wrap(describe_tracks(name, tracks), WIDTH, subsequent_indent="  ")]
    notes = _notes(summary)
    if notes:
        lines += ["", *itertools.chain.from_iterable(textwrap.wrap(n, WIDTH, subsequent_indent="  ") for n in notes)]
    return "\n".join(lines)


def describe_comparison(comparison: dict[str, Any]) -> str:
    """Says a comparison in words: the effect and its interval, then p, then what the study could have shown."""
    points = 100 * comparison["estimate"]
    text = f"{comparison['variant']} against {comparison['baseline']}: UA {points:+.1f} points"
    if comparison["ci95"] is not None:
        low, high = comparison["ci95"]
        text += f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    if comparison["p"] is not None:
        text += f", p {_p(comparison['p'])}"
        text += f" (after Holm's correction {_p(comparison['p_holm'])})"
    if comparison["detectable"] is not None:
        detectable = 100 * comparison["detectable"]
        text += f"; the smallest difference this study could have shown is {detectable:.1f} points"
    return f"{text} ({_count(comparison['folds'], 'fold')} x {_count(comparison['seeds'], 'seed')})."


def describe_ensemble(variant: str, ensemble: dict[str, Any]) -> str:
    """Says what a variant's seeds reach together."""
    text = f"{variant}, its {ensemble['seeds']} seeds as an ensemble (the mean of their probabilities): UA"
    return f"{text} {_ua_and_ends(ensemble)}."


def describe_sources(variant: str, sources: dict[str, dict[str, Any]]) -> str:
    """Says what a variant reaches on each of the corpora that were merged."""
    parts = [f"{name} {_ua_and_ends(figures)}" for name, figures in sources.items()]
    return f"{variant}, UA by source corpus: {', '.join(parts)}."


def describe_tracks(variant: str, tracks: dict[str, dict[str, Any]]) -> str:
    """Says how well a variant's time-continuous predictions agree with their tracks."""
    parts = []
    for name, figures in tracks.items():
        ends = "" if figures["ci95"] is None else " [{:.3f}, {:.3f}]".format(*figures["ci95"])
        parts.append(f"{name} {figures['ccc']:.3f}{ends}")
    return f"{variant}, concordance correlation coefficients over all frames: {', '.join(parts)}."


def percent(share: float | None) -> str:
    """Formats a share from 0 to 1 as percent with one decimal, and None as a dash."""
    return "-" if share is None else f"{100 * share:.1f}"


def interval(ends: Sequence[float] | None) -> str:
    """Formats an interval of shares as percent; nothing for None."""
    if ends is None:
        return ""
    return "–".join(percent(end) if end < 1 else "100" for end in ends)  # "90.0–100.0" would widen every column


def _ua_and_ends(figures: dict[str, Any]) -> str:
    ends = "" if figures["ua_ci95"] is None else " [{:.1f}, {:.1f}]".format(*(100 * e for e in figures["ua_ci95"]))
    return percent(figures["ua"]) + ends


def _heading(summary: dict[str, Any]) -> list[str]:
    where = [summary["corpus"], summary.get("protocol")]
    parts = [", ".join(str(part) for part in where if part), "percent, with 95 % intervals over speakers"]
    parts += [f"chance UA {percent(summary['chance_ua'])}", "runs and parameters under each name"]
    return textwrap.wrap("; ".join(parts), WIDTH)


def _names(summary: dict[str, Any]) -> list[str]:
    cells = ["variant"]
    for name, variant in summary["variants"].items():
        about = [_count(variant["runs"], "run")]
        if variant["parameters"] is not None:
            about.append(_parameters(variant["parameters"]))
        cells += [name, "  " + ", ".join(about)]
    return _aligned(cells, "<")


def _figures(summary: dict[str, Any], title: str, key: str, emotion: str | None = None) -> list[str]:
    cells = [title if len(title) <= LONGEST_HEADER else title[: LONGEST_HEADER - 1] + "…"]
    for variant in summary["variants"].values():
        value, ends = variant[key], variant[f"{key}_ci95"]
        if emotion is not None:
            value, ends = (None if column is None else column[emotion] for column in (value, ends))
        cells += [percent(value), interval(ends)]
    return _aligned(cells, ">")


def _aligned(cells: Sequence[str], side: str) -> list[str]:
    width = max(map(len, cells))
    return [f"{cell:{side}{width}}" for cell in cells]


def _side_by_side(columns: Sequence[list[str]]) -> list[str]:
    """Joins columns into lines; those that do not fit go into a block below, beside the first column again."""
    first, *rest = columns
    lines: list[str] = []
    while rest:
        block, width = [first], len(first[0])
        while rest and (len(block) == 1 or width + len(GAP) + len(rest[0][0]) <= WIDTH):
            width += len(GAP) + len(rest[0][0])
            block.append(rest.pop(0))
        rows = [GAP.join(cells).rstrip() for cells in zip(*block, strict=True)]
        lines += ([""] if lines else []) + [rows[0], "-" * width, *rows[1:]]
    return lines


def _notes(summary: dict[str, Any]) -> list[str]:
    """Every note once, with the variants or comparisons that it is about (none named where it is about all)."""
    about: dict[str, list[str]] = {}
    for name, variant in summary["variants"].items():
        for note in variant["notes"]:
            about.setdefault(note, []).append(name)
    lines = []
    for note, names in about.items():
        lines.append(f"Note: {note}" + ("" if len(names) == len(summary["variants"]) else f" ({', '.join(names)})"))
    pairs: dict[str, list[str]] = {}
    for comparison in summary["comparisons"]:
        for note in comparison["notes"]:
            if note not in about:
                pairs.setdefault(note, []).append(f"{comparison['variant']} against {comparison['baseline']}")
    for note, names in pairs.items():
        whose = f"all {len(names)} comparisons" if 1 < len(names) == len(summary["comparisons"]) else "; ".join(names)
        lines.append(f"Note: {whose}: {note}")
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _parameters(number: int) -> str:
    """A number of parameters in three digits, as 0.35 M or 3.44 k."""
    return f"{number / 1e6:.2f} M" if number >= 1e5 else f"{number / 1e3:.3g} k"
