"""The picture of a model's attention weights for a recording. matplotlib is imported when the first one is drawn."""

import math
import os
import re
import textwrap
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from ser_jax.errors import one_line
from ser_jax.files import atomic_file
from ser_jax.inference.alignment import coverage, normalized_alignment_entropy
from ser_jax.report.vector_graphics import fonts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

    from ser_jax.inference.attention import Look
    from ser_jax.models.output import Attention

DPI = 150
WIDTH = 9.0  # inches
LETTERS = 13  # of the title to an inch
HEADS, LAYERS, TOKENS = 4, 4, 48  # the most that are drawn
WEIGHTS, SOUND = "viridis", "magma"  # colour maps that read the same to every kind of colour vision, and in grey
RANGE_DB = 70  # of the spectrogram, below its loudest cell

# What is drawn for an attention with these axes (after "batch"); see `ser_jax.models.output.Attention`.
KINDS = {
    ("frames",): "curves",
    ("heads", "frames"): "curves",
    ("tokens", "frames"): "alignment",
    ("queries", "frames"): "images",
    ("heads", "queries", "frames"): "images",
    ("channels",): "gates",
}


def attention_figure(look: "Look", title: str, path: str | os.PathLike) -> None:
    """Draws a recording's log-mel spectrogram and under it all that the model's attention looked at, as PNG.

    Weights over frames are drawn on the spectrogram's time axis: one curve for each head, one row for each token of a
    decoder. Where frames look at frames, every head is an image. Gates of channels are a strip for each layer.
    """
    import matplotlib

    with matplotlib.rc_context({"text.parse_math": False, "font.family": fonts()}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        _draw(look, one_line(title), path)


def _draw(look: "Look", title: str, path: str | os.PathLike) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn: dict[str, dict[str, Attention]] = {kind: {} for kind in KINDS.values()}
    for name in sorted(look.attention, key=_by_number):
        attention = look.attention[name]
        kind = KINDS[attention.axes[1:]]
        if kind == "alignment" and attention.weights.shape[1] == 1:  # of the emotion alone
            kind = "curves"
        drawn[kind][name] = attention

    panels = [(2.3, _draw_spectrogram, (look,))]
    panels += [(1.15, _draw_curves, (look, *item)) for item in drawn["curves"].items()]
    for name, attention in drawn["alignment"].items():
        rows = min(len(look.tokens) or attention.weights.shape[1], TOKENS)
        panels.append((0.4 + 0.17 * rows, _draw_alignment, (look, name, attention, rows)))
    heights = [sum(height for height, *_ in panels) + 0.5]
    if drawn["images"]:
        images, remark = _images(drawn["images"])
        heights.append(0.6 + 2.25 * len(images))
    if drawn["gates"]:
        heights.append(1.1 + 0.2 * len(drawn["gates"]))

    figure = Figure(figsize=(WIDTH, sum(heights) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.1)
    figure.suptitle(textwrap.fill(title, int(LETTERS * WIDTH)), fontsize=10)
    blocks = list(np.atleast_1d(figure.subfigures(len(heights), 1, height_ratios=heights)))
    _draw_over_time(blocks.pop(0), look, panels)
    if drawn["images"]:
        _draw_images(blocks.pop(0), look, images, remark)
    if drawn["gates"]:
        _draw_gates(blocks.pop(0), drawn["gates"])
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png")


# On the spectrogram's time axis -------------------------------------------------------------------------------------


def _draw_over_time(block: "SubFigure", look: "Look", panels: list[tuple]) -> None:
    ratios = [height for height, *_ in panels]
    axes = block.subplots(len(panels), 1, squeeze=False, sharex=True, gridspec_kw={"height_ratios": ratios})[:, 0]
    for axis, (_, draw, arguments) in zip(axes, panels, strict=True):
        draw(axis, *arguments)
        axis.tick_params(labelsize=8)
    axes[-1].set_xlim(0, look.seconds)
    axes[-1].set_xlabel("time (s)", fontsize=9)


def _draw_spectrogram(axis: "Axes", look: "Look") -> None:
    frames, bands = look.log_mel.shape
    decibels = 10 / math.log(10) * (look.log_mel - look.log_mel.max())
    half = look.seconds / max(frames - 1, 1) / 2  # frame t is centred on its time
    extent = (-half, look.seconds + half, -0.5, bands - 0.5)
    axis.imshow(decibels.T, cmap=SOUND, vmin=-RANGE_DB, vmax=0, origin="lower", aspect="auto", extent=extent)
    axis.set_ylabel("log-mel\n(Hz)", fontsize=9)
    hertz = (250, 500, 1000, 2000, 4000, 7000)
    axis.set_yticks(np.interp(hertz, look.mel_frequencies, np.arange(bands)), [str(f) for f in hertz])


def _draw_curves(axis: "Axes", look: "Look", name: str, attention: "Attention") -> None:
    weights = attention.weights[0]
    heads = weights.reshape(-1, weights.shape[-1])
    edges = np.arange(heads.shape[1] + 1) * attention.stride * look.frame_seconds
    colours = _colours(len(heads))
    for number, (curve, colour) in enumerate(zip(heads, colours, strict=True), 1):
        axis.stairs(curve, edges, baseline=None, color=colour, linewidth=1.2, label=f"head {number}")
        if len(heads) == 1:
            axis.stairs(curve, edges, color=colour, fill=True, alpha=0.3)
    axis.axhline(1 / heads.shape[1], color="grey", linewidth=0.8, linestyle=":", label="all frames alike")
    axis.set_ylim(0, 1.12 * max(heads.max(), 1 / heads.shape[1]))
    axis.set_ylabel(f"{_lines(name)}\nweight", fontsize=9)
    handles, labels = axis.get_legend_handles_labels()
    if len(heads) == 1:
        handles, labels = handles[1:], labels[1:]
    above = {"loc": "lower right", "bbox_to_anchor": (1, 0.98), "borderaxespad": 0}
    axis.legend(handles, labels, fontsize=7, ncols=len(labels), frameon=False, **above)


def _draw_alignment(axis: "Axes", look: "Look", name: str, attention: "Attention", rows: int) -> None:
    weights = attention.weights[0]
    there = len(look.tokens) or len(weights)
    extent = (0, weights.shape[1] * attention.stride * look.frame_seconds, rows - 0.5, -0.5)
    axis.imshow(weights[:rows], cmap=WEIGHTS, vmin=0, aspect="auto", extent=extent, interpolation="nearest")
    labels = [token.replace(" ", "␣") for token in look.tokens] or [str(number) for number in range(1, rows + 1)]
    axis.set_yticks(range(rows), labels[:rows])
    axis.set_ylabel(_lines(name), fontsize=9)
    one = attention.weights[:1], np.array([weights.shape[1]]), np.array([there])
    entropy, covered = normalized_alignment_entropy(*one)[0], coverage(*one)[0]
    remark = f"entropy {entropy:.2f} of the flattest, coverage {covered:.2f}"
    axis.set_title(
        f"{_shown('tokens', rows, there)}; {remark}" if rows < there else remark, fontsize=8, loc="right", pad=3
    )


# Frames that look at frames -----------------------------------------------------------------------------------------


def _images(attention: dict[str, "Attention"]) -> tuple[list[list[tuple[str, np.ndarray, int]]], str]:
    """Rows of (title, weights, stride), a row for each layer and an image for each head; and what is left out."""
    names = list(attention)
    chosen = names
    if len(names) > LAYERS:  # the first, the last, and evenly between
        chosen = [names[i] for i in np.linspace(0, len(names) - 1, LAYERS).round().astype(int)]
    rows, most = [], 0
    for name in chosen:
        weights = attention[name].weights[0]
        heads = weights.reshape(-1, *weights.shape[-2:])
        most = max(most, len(heads))
        titles = [f"{name}, head {number}" if len(heads) > 1 else name for number in range(1, len(heads) + 1)]
        rows.append([(t, head, attention[name].stride) for t, head in zip(titles, heads, strict=True)][:HEADS])
    left_out = [
        _shown(what, *counts)
        for what, *counts in (("layers", len(chosen), len(names)), ("heads", HEADS, most))
        if counts[0] < counts[1]
    ]
    return rows, "; ".join(left_out)


def _draw_images(block: "SubFigure", look: "Look", images: list[list[tuple]], remark: str) -> None:
    columns = max(len(row) for row in images)
    axes = block.subplots(len(images), max(columns, HEADS), squeeze=False, sharex=True, sharey=True)
    for i, row in enumerate(axes):
        for j, axis in enumerate(row):
            if j >= len(images[i]):
                axis.set_axis_off()
                continue
            title, weights, stride = images[i][j]
            ends = [size * stride * look.frame_seconds for size in weights.shape]
            axis.imshow(weights, cmap=WEIGHTS, vmin=0, aspect="auto", extent=(0, ends[1], ends[0], 0))
            axis.set_title(title, fontsize=8)
            axis.tick_params(labelsize=7)
            if i == len(images) - 1:
                axis.set_xlabel("looked at (s)", fontsize=8)
        row[0].set_ylabel("looking (s)", fontsize=8)
    block.suptitle(f"Frames that look at frames{': ' + remark if remark else ''}", fontsize=9)


# Gates of channels --------------------------------------------------------------------------------------------------


def _draw_gates(block: "SubFigure", gates: dict[str, "Attention"]) -> None:
    axis = block.subplots()
    values = [attention.weights[0] for attention in gates.values()]
    limits = {"vmin": min(value.min() for value in values), "vmax": max(value.max() for value in values)}
    for row, value in enumerate(values):
        extent = (0, 1, row + 0.42, row - 0.42)
        image = axis.imshow(value[None], cmap=WEIGHTS, aspect="auto", extent=extent, interpolation="nearest", **limits)
    axis.set_ylim(len(values) - 0.5, -0.5)
    axis.set_xlim(0, 1)
    labels = [f"{name} ({len(value)})" for name, value in zip(gates, values, strict=True)]
    axis.set_yticks(range(len(values)), labels, fontsize=8)
    axis.set_xticks([0, 1], ["first", "last channel"], fontsize=8)
    axis.set_title("Gates of the channels, by depth (and number of channels)", fontsize=9)
    colour_bar = block.colorbar(image, ax=axis, pad=0.01, aspect=30)
    colour_bar.set_label("gate", fontsize=8)
    colour_bar.ax.tick_params(labelsize=7)


def _colours(count: int) -> list[Any]:
    from matplotlib import colormaps

    return [colormaps[WEIGHTS](share) for share in np.linspace(0, 0.85, count)]


def _shown(what: str, drawn: int, there: int) -> str:
    return f"{drawn} of {there} {what}"


def _lines(name: str) -> str:
    """A name broken where it is too long for a panel's height."""
    return "\n".join(textwrap.wrap(name.replace("_", " "), 16))


def _by_number(name: str) -> list:
    """A key that puts "block2" before "block10"."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]
