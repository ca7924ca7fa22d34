"""Emotions over time as files: tables, labels for Audacity, a TextGrid for Praat, a picture. The suffix says which."""

import os
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ser_jax.files import atomic_file
from ser_jax.predictions import PREDICTED
from ser_jax.report.escape import one_line

SUFFIXES = (".csv", ".jsonl", ".txt", ".TextGrid", ".png")
_SILENT_DB = 50.0  # a window so much softer than the loudest one is silence in labels and pictures
SILENCE = "silence"
_LETTERS, _LINE = 55, 0.17  # of a line of the title, even of wide ones, and its inches


def write_timeline(
    path: str | os.PathLike,
    table: pd.DataFrame,
    columns: Sequence[str],
    title: str,
    unsure: str = "",
) -> None:
    """Writes a timeline as the suffix of `path` says; the file appears whole or not at all.

    Args:
        path: one of SUFFIXES: .csv and .jsonl hold the table, .txt labels for Audacity (a line for each window),
            .TextGrid an interval tier for Praat, .png a picture.
        table: `start`, `end` (seconds), `emotion` (None where there is none), `level_db`, the emotions' columns, and
            `predicted_DIMENSION`. Labels of a table without emotions are the dimensions' values.
        columns: those of the emotions, in their order; none of a model of dimensions alone.
        title: of the picture.
        unsure: the label of a window without an emotion.
    """
    suffix = Path(path).suffix
    with atomic_file(path) as temporary:
        if suffix == ".csv":
            table.to_csv(temporary, index=False)
        elif suffix == ".jsonl":
            temporary.write_text(_json_lines(table), encoding="utf-8")
        elif suffix == ".txt":
            temporary.write_text(audacity_labels(table, unsure), encoding="utf-8")
        elif suffix == ".TextGrid":
            temporary.write_text(text_grid(table, unsure), encoding="utf-8")
        else:
            _draw(table, columns, one_line(title), temporary)


def silent(table: pd.DataFrame) -> np.ndarray:
    """Returns which windows are 50 dB softer than the loudest one, or hold nothing but zeros; bool, [windows]."""
    level = table["level_db"].to_numpy(float)
    return ~(level > level.max(initial=-np.inf) - _SILENT_DB)


def dimensions_in(table: pd.DataFrame) -> list[str]:
    """Returns the dimensions that a timeline has values of."""
    return [column.removeprefix(PREDICTED) for column in table if column.startswith(PREDICTED)]


def labels(table: pd.DataFrame, unsure: str = "") -> list[str]:
    """Returns each window's label: its emotion, `silence`, or `unsure` where it has none."""
    if "emotion" in table:
        emotions = [unsure if pd.isna(emotion) else str(emotion) for emotion in table["emotion"]]
    else:
        names = dimensions_in(table)
        emotions = [
            ", ".join(f"{name} {value:.2f}" for name, value in zip(names, row, strict=True))
            for row in table[[PREDICTED + name for name in names]].to_numpy(float)
        ]
    return [SILENCE if quiet else emotion for quiet, emotion in zip(silent(table), emotions, strict=True)]


def audacity_labels(table: pd.DataFrame, unsure: str = "") -> str:
    """Returns a label track: begin, end and label of each window, between tabs; windows may overlap."""
    rows = zip(table["start"], table["end"], labels(table, unsure), strict=True)
    return "".join(f"{start:.6f}\t{end:.6f}\t{one_line(label)}\n" for start, end, label in rows)


def text_grid(table: pd.DataFrame, unsure: str = "") -> str:
    """Returns a TextGrid (Praat's long text format): an interval tier `emotion`, then one for each dimension.

    Intervals may not overlap: each window has the time up to the middle between its centre and the next one's, and
    neighbours of the same label are one interval.
    """
    centres = (table["start"] + table["end"]).to_numpy() / 2
    end = float(table["end"].iloc[-1])
    bounds = [0.0, *((centres[:-1] + centres[1:]) / 2), end]
    tiers = {"emotion": labels(table, unsure)} if "emotion" in table else {}
    tiers |= {name: [f"{value:.2f}" for value in table[PREDICTED + name]] for name in dimensions_in(table)}
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end:.6f}"]
    lines += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, texts) in enumerate(tiers.items(), 1):
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{_quoted(name)}"']
        lines += ["        xmin = 0", f"        xmax = {end:.6f}", *_intervals(bounds, texts)]
    return "\n".join(lines) + "\n"


def _intervals(bounds: Sequence[float], texts: Sequence[str]) -> list[str]:
    """The lines of a tier's intervals; neighbours of one text are one."""
    intervals: list[tuple[float, float, str]] = []
    for low, high, text in zip(bounds[:-1], bounds[1:], texts, strict=True):
        if intervals and intervals[-1][2] == text:
            low = intervals.pop()[0]
        intervals.append((low, high, text))
    lines = [f"        intervals: size = {len(intervals)}"]
    for number, (low, high, text) in enumerate(intervals, 1):
        lines += [f"        intervals [{number}]:", f"            xmin = {low:.6f}", f"            xmax = {high:.6f}"]
        lines += [f'            text = "{_quoted(text)}"']
    return lines


def _quoted(text: str) -> str:
    return one_line(text).replace('"', '""')


def _json_lines(table: pd.DataFrame) -> str:
    """A row a line; a level without a sound is null, as JSON has no infinity."""
    finite = table.assign(level_db=table["level_db"].where(np.isfinite(table["level_db"])))
    return finite.to_json(orient="records", lines=True, force_ascii=False, double_precision=15)


def _draw(table: pd.DataFrame, columns: Sequence[str], title: str, path: Path) -> None:
    """Probabilities over time, one row for each emotion, then dimensions and the level; silent windows are blank."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from ser_jax.report.vector_graphics import fonts

    centres = (table["start"] + table["end"]).to_numpy() / 2
    bounds = np.concatenate([[table["start"].iloc[0]], (centres[:-1] + centres[1:]) / 2, [table["end"].iloc[-1]]])
    quiet, names = silent(table)[:, None], dimensions_in(table)
    # Dots that do not touch, since many would hide the line; never thinner than the line.
    dots = {"marker": ".", "markersize": min(8.0, max(1000 / len(table), 2.0)), "markeredgewidth": 0, "linewidth": 1}
    heights = ([max(len(columns), 2)] if columns else []) + [2] * (len(names) > 0) + [2]
    with matplotlib.rc_context({"text.parse_math": False, "font.family": fonts()}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        lines = textwrap.wrap(one_line(title), _LETTERS)
        height = 1.6 + 0.3 * len(columns) + 1.2 * bool(names) + _LINE * len(lines[1:])
        figure = Figure(figsize=(9.0, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = list(figure.subplots(len(heights), sharex=True, height_ratios=heights))
        axes[0].set_title("\n".join(lines), loc="left", fontsize=10)
        below = axes.pop()
        if columns:
            above = axes.pop(0)
            values = np.where(quiet, np.nan, table[list(columns)].to_numpy(float)).T
            image = above.pcolormesh(bounds, np.arange(len(columns) + 1), values, cmap="viridis", vmin=0, vmax=1)
            above.set_yticks(np.arange(len(columns)) + 0.5, [one_line(name) for name in columns])
            above.invert_yaxis()
            figure.colorbar(image, ax=above, label="probability")
        for of_dimensions in axes:
            values = np.where(quiet, np.nan, table[[PREDICTED + name for name in names]].to_numpy(float))
            of_dimensions.plot(centres, values, **dots, label=[one_line(name) for name in names])
            of_dimensions.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        level = table["level_db"].to_numpy(float)
        below.plot(centres, np.where(np.isfinite(level), level, np.nan), color="black", **dots)
        below.set(xlabel="seconds", ylabel="level (dB)", xlim=(bounds[0], bounds[-1]))
        figure.savefig(path, dpi=150, format="png")
