"""Pictures drawn from a summary. matplotlib is imported when the first one is drawn, without a display."""

import math
import os
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from ser_jax.files import atomic_file
from ser_jax.report.terminal import interval, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 150
PANELS_IN_A_ROW = 3
CELL = 0.62  # inches: room for "100.0" above a count of five digits
LETTERS = 11  # of the title to an inch


def confusion_figure(summary: dict[str, Any], path: str | os.PathLike) -> None:
    """Draws each variant's confusion matrix: percent of the reference class, with counts over all seeds, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    variants = summary["variants"]
    columns = min(len(variants), PANELS_IN_A_ROW)
    rows = math.ceil(len(variants) / columns)
    side = max(CELL * len(summary["emotions"]), 2.5)
    figure = Figure(figsize=(columns * (side + 1.3), rows * (side + 1.5) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis, (name, variant) in zip(axes, variants.items(), strict=False):
        _draw_confusion(axis, name, variant, summary["emotions"])
    for axis in list(axes)[len(variants) :]:
        axis.set_axis_off()
    where = ", ".join(str(part) for part in (summary["corpus"], summary.get("protocol")) if part)
    title = f"{where}: percent of each emotion (and utterances, over all seeds)"
    figure.suptitle(textwrap.fill(title, int(LETTERS * figure.get_figwidth())), fontsize=10)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png")


def _draw_confusion(axis: "Axes", name: str, variant: dict[str, Any], emotions: list[str]) -> None:
    counts = np.array(variant["confusion"])
    reference = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, reference, out=np.zeros(counts.shape), where=reference > 0)
    # One hue from light to dark reads the same to every kind of colour vision, and in grey.
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        if reference[row, 0]:
            colour = "white" if shares[row, column] > 0.7 else "black"
            text = {"ha": "center", "color": colour}
            axis.text(column, row - 0.02, f"{100 * shares[row, column]:.1f}", va="bottom", fontsize=9, **text)
            axis.text(column, row + 0.1, f"{counts[row, column]}", va="top", fontsize=6.5, **text)
    ticks = range(len(emotions))
    axis.set_xticks(ticks, emotions, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    axis.set_yticks(ticks, emotions, fontsize=8)
    axis.set_xlabel("predicted", fontsize=9)
    axis.set_ylabel("reference", fontsize=9)
    ends = f" [{interval(variant['ua_ci95'])}]" if variant["ua_ci95"] else ""
    axis.set_title(f"{name}\nUA {percent(variant['ua'])} %{ends}", fontsize=10)
