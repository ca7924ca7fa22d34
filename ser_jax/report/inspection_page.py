"""What `inspect` found as one HTML page with pictures."""

import html
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ser_jax.errors import one_line
from ser_jax.report import numbers, vector_graphics
from ser_jax.report.vector_graphics import PAPER, SMALL, TWO_COLUMNS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "svg{max-width:100%;height:auto}pre{overflow-x:auto;background:#f6f6f6;padding:1rem}"
)
_MOST_COUNTS = 2000  # that are written into their cells


def page(found: dict[str, Any], words: str) -> str:
    """Returns the page: the pictures of lengths, levels and speakers x emotions, then `words`, the same as text."""
    emotions, speakers = len(found["emotions"]), len(found["speakers_x_emotions"])
    pictures = [
        ("Lengths of utterances, seconds", 2.0, lambda axes: _draw_histogram(axes, found["seconds"], "seconds")),
        ("Levels of utterances, dB below full scale", 2.0, lambda axes: _draw_histogram(axes, found["level_db"], "dB")),
    ]
    if emotions:
        title = f"Utterances of each of {speakers} speakers and {emotions} emotions"
        pictures.append((title, 1.2 + 0.2 * speakers, lambda axes: _draw_cells(axes, found)))
    for name, values in found["dimensions"].items():
        title = f"{numbers.sentence_case(name)} of {values['known']} utterances"
        pictures.append((title, 2.0, lambda axes, values=values: _draw_histogram(axes, values, "")))
    body = "".join(
        f"<h2>{title}</h2>\n{_picture(f'figure{number}', title, height, draw)}\n"
        for number, (title, height, draw) in enumerate(pictures)
    )
    name = html.escape(one_line(found["corpus"]))
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"/><title>{name}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n<h1>{name}</h1>\n{body}<h2>In words</h2>\n"
        f"<pre>{html.escape(words)}</pre>\n</body>\n</html>\n"
    )


def _picture(name: str, title: str, height: float, draw: Callable[["Axes"], None]) -> str:
    with vector_graphics.style():
        figure, axes = vector_graphics.new_figure(TWO_COLUMNS, height)
        draw(axes)
        return vector_graphics.inline(vector_graphics.to_svg(figure, name), name, title)


def _draw_histogram(axes: "Axes", of: dict[str, Any], unit: str) -> None:
    if of["histogram"]["counts"]:
        axes.stairs(of["histogram"]["counts"], of["histogram"]["edges"], fill=True, color=vector_graphics.colour(0))
    axes.set_xlabel(unit)
    axes.set_ylabel("utterances")


def _draw_cells(axes: "Axes", found: dict[str, Any]) -> None:
    rows, emotions = found["speakers_x_emotions"], list(found["emotions"])
    counts = np.array([[row[name] for name in emotions] for row in rows.values()])
    axes.imshow(counts, cmap="Blues", vmin=0, aspect="auto")
    axes.set_xticks(range(len(emotions)), map(one_line, emotions), rotation=45, ha="right")
    axes.set_yticks(range(len(rows)), [one_line(name) or "?" for name in rows])
    if counts.size > _MOST_COUNTS:
        return
    for (i, j), count in np.ndenumerate(counts):
        colour = PAPER if count > counts.max() / 2 else "black"
        axes.text(j, i, str(count), ha="center", va="center", color=colour, fontsize=SMALL)
