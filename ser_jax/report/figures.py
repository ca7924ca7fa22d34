"""The figures of a study's report, each from plain numbers: shares from 0 to 1, drawn in percent and points."""

import dataclasses
import math
import os
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ser_jax.report.summary import Bin, Measure, Speaker
from ser_jax.report.vector_graphics import (
    INK,
    ONE_COLUMN,
    PAPER,
    RULE,
    SIZE,
    SMALL,
    TWO_COLUMNS,
    colour,
    marker,
    new_figure,
    rule,
    tip,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHADE = 0.1  # of ink, for what lies behind the data
BLUE = "#0072B2"  # of confusion matrices and bars: read on white and on black
LEGEND_ROW = 0.16  # inches
MANY_SPEAKERS = 40  # from here on they are drawn without their names


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a forest plot: a figure with its interval."""

    label: str
    value: float
    ci95: Sequence[float] | None
    text: str  # the numbers, in words of their own
    detectable: float | None = None  # the smallest difference that could have been shown
    dots: Sequence[float] = ()  # the figure for each seed
    number: int = 0  # of the colour and marker


def forest(
    groups: Mapping[str, Sequence[Row]], xlabel: str, *, reference: float, narrow: bool, width: float | None = None
) -> "Figure":
    """Figures with intervals, one below the other, under a heading for each group ("" for none).

    The marker is filled where the interval excludes the `reference`. Grey bars reach as far from it as the smallest
    detectable difference. `narrow` puts the labels above the lines, so that a phone shows them.
    """
    lines: list[tuple[str, Row | None]] = []
    for heading, rows in groups.items():
        lines += [(heading, None)] if heading else []
        lines += [(row.label, row) for row in rows]
    wrapped = [textwrap.wrap(label, 34 if narrow else 40) or [""] for label, _ in lines]
    text_height = 0.13
    heights = [
        text_height * len(parts) + (0.07 if row is None else 0.23 if narrow else 0.1)
        for parts, (_, row) in zip(wrapped, lines, strict=True)
    ]
    bottoms = np.cumsum(heights)
    width = width or (ONE_COLUMN if narrow else TWO_COLUMNS)
    figure, axis = new_figure(width, sum(heights) + 0.5)
    axis.set_ylim(bottoms[-1], 0)
    ticks, names, texts = [], [], []
    for parts, (_, row), bottom, height in zip(wrapped, lines, bottoms, heights, strict=True):
        text = "\n".join(parts)
        if row is None:  # a heading begins at the figure's edge, where the labels do
            heading = {"xycoords": ("figure fraction", "data"), "va": "bottom", "weight": "bold"}
            axis.annotate(text, (0.01, bottom - 0.03), annotation_clip=False, **heading).set_in_layout(False)
            continue
        middle = bottom - (0.1 if narrow else height / 2)
        # The line of reference is broken where a heading or a narrow page's label stands.
        axis.plot([100 * reference] * 2, [middle - 0.07 if narrow else bottom - height, bottom], zorder=0, **RULE)
        _draw_row(axis, row, middle, reference)
        if narrow:
            beside = {"transform": axis.get_yaxis_transform(), "va": "bottom", "fontsize": SMALL}
            axis.text(0, middle - 0.075, text, **beside)
            axis.text(1, middle - 0.075, row.text, ha="right", **beside)
        ticks.append(middle)
        names.append(text)
        texts.append(row.text)
    axis.set_xlabel(xlabel)
    axis.spines["left"].set_visible(False)
    axis.set_yticks([] if narrow else ticks, [] if narrow else names)
    axis.tick_params(axis="y", length=0, labelsize=SMALL)
    axis.margins(x=0.06)
    if not narrow:
        right = axis.secondary_yaxis("right")
        right.set_yticks(ticks, texts)
        right.tick_params(axis="y", length=0)
        right.spines["right"].set_visible(False)
    return figure


def _draw_row(axis: "Axes", row: Row, y: float, reference: float) -> None:
    if row.detectable is not None:
        ends = {"left": 100 * (reference - row.detectable), "width": 200 * row.detectable}
        (bar,) = axis.barh(y, height=0.12, color=INK, alpha=SHADE, zorder=0, linewidth=0, **ends)
        tip(bar, f"{row.label}: differences up to {100 * row.detectable:.1f} points are not detectable")
    said = f"{row.label}: {row.text}"
    paint, face = colour(row.number), PAPER
    if row.ci95 is not None:
        tip(axis.plot([100 * end for end in row.ci95], [y, y], color=paint, solid_capstyle="butt"), said)
        if not row.ci95[0] <= reference <= row.ci95[1]:
            face = paint
    tip(axis.plot(100 * row.value, y, "o", color=paint, markersize=5, markerfacecolor=face, markeredgewidth=1.2), said)
    if len(row.dots) > 1:
        below = np.full(len(row.dots), y + 0.07)
        axis.plot(100 * np.array(row.dots), below, "|", color=INK, alpha=0.55, markersize=3.5)


def confusion_panel(title: str, confusion: Sequence[Sequence[int]], emotions: Sequence[str]) -> "Figure":
    """A confusion matrix in percent of each reference class; the stronger the colour, the larger the share."""
    from matplotlib.patches import Rectangle

    counts = np.array(confusion)
    reference = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, reference, out=np.zeros(counts.shape), where=reference > 0)
    figure, axis = new_figure(ONE_COLUMN, 0.27 * len(emotions) + 1.35)
    for row, column in np.ndindex(*counts.shape):
        share = shares[row, column]
        # Opacity, at most 0.7, in place of a colour map: numbers stay legible on a light and on a dark page.
        place = Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=BLUE, alpha=0.7 * share, linewidth=0)
        said = f"{emotions[row]}, predicted as {emotions[column]}: {counts[row, column]:g} of {reference[row, 0]:g}"
        tip(axis.add_patch(place), said)
        if reference[row, 0] and (share > 0.004 or row == column):
            faint = 1.0 if share >= 0.1 or row == column else 0.65
            text = axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=SMALL, alpha=faint)
            text.set_in_layout(False)  # it is within the axes, and the layout takes its time
    axis.set_xlim(-0.5, len(emotions) - 0.5)
    axis.set_ylim(len(emotions) - 0.5, -0.5)
    axis.set_xticks(range(len(emotions)), emotions, rotation=40, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(emotions)), emotions)
    axis.tick_params(length=0)
    axis.set_xlabel("predicted")
    axis.set_ylabel("reference")
    axis.spines[:].set_visible(False)
    _title(figure, title)
    return figure


def cost_panel(points: Sequence[tuple[str, int | float, Measure]], xlabel: str) -> "Figure":
    """UA with its interval against a cost; `points` are (variant, cost, its UA).

    The axis of costs is logarithmic where they span more than a factor of three.
    """
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

    figure, axis = new_figure(ONE_COLUMN, max(2.5, 0.15 * len(points) + 1.0))
    for number, (name, cost, ua) in enumerate(points):
        if ua.ci95 is not None:
            axis.plot([cost, cost], [100 * end for end in ua.ci95], color=colour(number), alpha=0.45, linewidth=1)
        point = axis.plot(cost, 100 * ua.value, marker(number), color=colour(number), markersize=5)
        tip(point, f"{name}: {cost:,.6g}, UA {100 * ua.value:.1f}")
    low, high = (end(cost for _, cost, _ in points) for end in (min, max))
    if high > 3 * low:
        axis.set_xscale("log")
        axis.set_xlim(low / 1.4, high * 1.4)
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 50 * low else (1.0, 2.0, 5.0)))
        axis.xaxis.set_minor_formatter(NullFormatter())
    else:
        beside = max(0.15 * (high - low), 0.1 * high)
        axis.set_xlim(low - beside, high + beside)
        axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.xaxis.set_major_formatter(EngFormatter(sep=" ") if low > 10 else "{x:g}")
    axis.set_xlabel(xlabel)
    axis.set_ylabel("UA (%)")
    _label_at_the_right(axis, [(name, cost, 100 * ua.value) for name, cost, ua in points])
    return figure


def _label_at_the_right(axis: "Axes", points: Sequence[tuple[str, int | float, float]]) -> None:
    """Names beside the axis in the order of their points, pushed apart where they would overlap, with thin leaders."""
    from matplotlib.transforms import blended_transform_factory

    wrapped = [textwrap.wrap(name, 22, break_long_words=False) for name, _, _ in points]
    whole = all(len(parts) <= 2 and max(map(len, parts)) <= 22 for parts in wrapped)
    if whole and len(points) * max(map(len, wrapped)) <= 16:  # there is room for two lines each
        names = ["\n".join(parts) for parts in wrapped]
    else:
        names = _shortened([name for name, _, _ in points], 22)
    axis.autoscale_view()
    low, high = axis.get_ylim()
    gap = (
        0.125 * max(1 + name.count("\n") for name in names) / (axis.figure.get_figheight() - 0.5) * (high - low)
    )  # of lines of text, in the axis's units
    order = sorted(range(len(points)), key=lambda i: points[i][2])
    places = np.array([points[i][2] for i in order], float)
    for _ in range(200):
        overlap = gap - np.diff(places)
        if not (overlap > 1e-9).any():
            break
        for i in np.flatnonzero(overlap > 0):
            push = (gap - (places[i + 1] - places[i])) / 2
            if push > 0:
                places[i] -= push
                places[i + 1] += push
        places += max(0.0, low - places[0]) - max(0.0, places[-1] - high)
    beside = blended_transform_factory(axis.transAxes, axis.transData)
    for i, place in zip(order, places, strict=True):
        _, cost, value = points[i]
        axis.annotate(
            "",
            (cost, value),
            (1.03, place),
            xycoords="data",
            textcoords=beside,
            arrowprops={"arrowstyle": "-", "color": INK, "alpha": 0.25, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3},
        )
        axis.text(1.04, place, names[i], transform=beside, va="center", fontsize=SMALL, color=INK)


def curves_panel(curves: Mapping[str, Sequence[Mapping[str, Any]]], key: str, ylabel: str, scale: float) -> "Figure":
    """A figure of the training log against epochs, one line for each variant; `scale` multiplies it."""
    figure, axis = _panel_with_legend(2.1, list(curves))
    for number, (name, entries) in enumerate(curves.items()):
        logged = [(entry["epoch"], scale * entry[key]) for entry in entries if key in entry]
        if not logged:
            continue
        epochs, values = zip(*logged, strict=True)
        step = max(1, len(epochs) // 6)
        shape = {"marker": marker(number), "markersize": 3.5, "markevery": (number % step, step)}
        tip(axis.plot(epochs, values, color=colour(number), linewidth=1.1, label=name, **shape), name)
    axis.set_xlabel("epoch")
    axis.set_ylabel(ylabel)
    _legend(figure, axis)
    return figure


def speakers_panel(title: str, speakers: Sequence[tuple[str, Speaker]], pooled: float) -> "Figure":
    """UA of every speaker of one variant with its interval, the pooled UA as a line.

    `speakers` are in the order in which they are drawn; the marker shows the gender.
    """
    named = len(speakers) <= MANY_SPEAKERS
    figure, axis = _panel_with_legend(0.14 * len(speakers) + 0.55 if named else 3.2, ["female", "male"])
    rule(axis, 100 * pooled, linestyle="--")
    shapes = {"female": ("o", 1), "male": ("s", 0)}
    for place, (name, figures) in enumerate(speakers):
        shape, number = shapes.get(figures.gender, ("D", 2))
        if figures.ua_ci95 is not None:
            ends = [100 * end for end in figures.ua_ci95]
            axis.plot(ends, [place, place], color=colour(number), linewidth=1, alpha=0.5)
        label = figures.gender or None
        drawn = axis.get_legend_handles_labels()[1]
        options = {"color": colour(number), "markersize": 4, "linestyle": "none"}
        point = axis.plot(100 * figures.ua, place, shape, label=None if label in drawn else label, **options)
        tip(point, f"speaker {name}: UA {100 * figures.ua:.1f}")
    axis.set_ylim(len(speakers) - 0.4, -0.6)
    axis.set_yticks(range(len(speakers)) if named else [], [name for name, _ in speakers] if named else [])
    axis.set_ylabel("speaker" if named else f"{len(speakers)} speakers")
    axis.set_xlabel("UA (%)")
    _title(figure, title)
    if axis.get_legend_handles_labels()[1]:
        _legend(figure, axis)
    return figure


def reliability_panel(title: str, bins: Sequence[Bin]) -> "Figure":
    """How often predictions of a confidence are right; the bars below are how many predictions each bin holds."""
    figure, (axis, below) = new_figure(ONE_COLUMN, 3.2, nrows=2, sharex=True, height_ratios=[4, 1])
    filled = [one for one in bins if one.count]
    axis.plot([0, 100], [0, 100], color=INK, alpha=0.55, linewidth=0.7)
    places = [100 * one.confidence for one in filled]
    axis.vlines(places, places, [100 * one.accuracy for one in filled], color=colour(1), linewidth=1, alpha=0.6)
    axis.plot(places, [100 * one.accuracy for one in filled], "o-", color=colour(0), markersize=4)
    axis.set_ylim(-2, 102)
    axis.set_ylabel("recognised (%)")
    _title(figure, title)
    for one in filled:
        width = 100 * (one.high - one.low)
        (bar,) = below.bar(
            100 * one.low, one.count, width=width, align="edge", color=BLUE, alpha=0.5, edgecolor=INK, linewidth=0
        )
        said = f"{one.count} predictions with a mean confidence of {100 * one.confidence:.0f} %: "
        tip(bar, f"{said}{100 * one.accuracy:.0f} % are right")
    below.set_xlim(0, 100)
    below.set_ylabel("count")
    below.set_yticks([0, max((one.count for one in filled), default=1)])
    below.set_xlabel("confidence (%)")
    return figure


def robustness_panel(
    title: str, conditions: Sequence[str], variants: Mapping[str, Sequence[Measure | None]], chance: float
) -> "Figure":
    """UA with its interval under each condition of one family, one line for each variant; None is a missing figure."""
    figure, axis = _panel_with_legend(2.3, list(variants))
    rule(axis, 100 * chance, vertical=False, linestyle=":")
    for number, (name, figures) in enumerate(variants.items()):
        # Moved aside, so that intervals stand beside each other.
        aside = 0.4 * ((number + 0.5) / len(variants) - 0.5)
        there = [(place + aside, one) for place, one in enumerate(figures) if one is not None]
        for place, one in there:
            if one.ci95 is not None:
                ends = [100 * end for end in one.ci95]
                axis.plot([place, place], ends, color=colour(number), linewidth=0.8, alpha=0.45)
        values = [100 * one.value for _, one in there]
        shape = {"marker": marker(number), "markersize": 4, "linewidth": 1.1}
        tip(axis.plot([place for place, _ in there], values, color=colour(number), label=name, **shape), name)
    turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if max(map(len, conditions)) > 6 else {}
    axis.set_xticks(range(len(conditions)), conditions, **turned)
    axis.set_ylabel("UA (%)")
    axis.set_title(title, loc="left")
    _legend(figure, axis)
    return figure


def interaction_panel(levels: Sequence[str], lines: Mapping[str, Sequence[Measure | None]]) -> "Figure":
    """UA at each level of one factor, one line for each level of the other: parallel lines have no interaction."""
    figure, axis = _panel_with_legend(2.1, list(lines))
    for number, (name, figures) in enumerate(lines.items()):
        aside = 0.16 * ((number + 0.5) / len(lines) - 0.5)
        there = [(place + aside, one) for place, one in enumerate(figures) if one is not None]
        for place, one in there:
            if one.ci95 is not None:
                ends = [100 * end for end in one.ci95]
                axis.plot([place, place], ends, color=colour(number), linewidth=0.9, alpha=0.5)
        shape = {"marker": marker(number), "markersize": 4.5}
        values = [100 * one.value for _, one in there]
        tip(axis.plot([p for p, _ in there], values, color=colour(number), label=name, **shape), name)
    axis.set_xticks(range(len(levels)), levels)
    axis.set_xlim(-0.4, len(levels) - 0.6)
    axis.set_ylabel("UA (%)")
    _legend(figure, axis)
    return figure


def _panel_with_legend(height: float, names: Sequence[str]) -> tuple["Figure", "Axes"]:
    return new_figure(ONE_COLUMN, height + 0.15 + LEGEND_ROW * math.ceil(len(names) / _columns(names)))


def _legend(figure: "Figure", axis: "Axes") -> None:
    handles, labels = axis.get_legend_handles_labels()
    short = _shortened(labels, 40 // _columns(labels))
    spaces = {"handlelength": 1.6, "columnspacing": 1.0, "labelspacing": 0.3, "borderaxespad": 0.2}
    figure.legend(handles, short, loc="outside lower center", ncols=_columns(labels), **spaces)


def _columns(names: Sequence[str]) -> int:
    longest = max(map(len, names), default=0)
    return max(1, min(4, len(names), 46 // (longest + 6)))


def _title(figure: "Figure", title: str) -> None:
    """A title at the figure's edge: axes with long labels leave it no room."""
    text = "\n".join(part for line in title.splitlines() for part in textwrap.wrap(line, 46))
    figure.suptitle(text, x=0.01, ha="left", fontsize=SIZE)


def _shortened(names: Sequence[str], most: int) -> list[str]:
    """Names of at most so many signs, cut between words where that tells them apart.

    They lose their ends or their middles, or else also what all of them share.
    """
    begin, end = len(os.path.commonprefix(names)), len(os.path.commonprefix([name[::-1] for name in names]))
    own = [f"…{name[begin : max(begin, len(name) - end)]}…" for name in names]
    ways = [
        [shorten(name, most, cut) for name in of]
        for cut in (_whole_words, _first_signs)
        for shorten, of in ((_short, names), (_middle, names), (_middle, own))
    ]
    return next((short for short in ways if len(set(short)) == len(set(names))), ways[-1])


def _short(name: str, most: int, cut: Callable[[str, int], str]) -> str:
    return name if len(name) <= most else f"{cut(name, most - 1)}…"


def _middle(name: str, most: int, cut: Callable[[str, int], str]) -> str:
    if len(name) <= most:
        return name
    begin = cut(name, most - 1 - most // 2)
    return f"{begin}…{cut(name[::-1], most - 1 - len(begin))[::-1]}"


def _whole_words(text: str, most: int) -> str:
    """The first words, of at most so many signs together; a part of the first word where it is longer."""
    words = re.match(r"(.*\w)\W+\w*$", text[: most + 1])
    return words.group(1) if words else text[:most]


def _first_signs(text: str, most: int) -> str:
    return text[:most]
