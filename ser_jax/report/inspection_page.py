"""What `inspect` found as one HTML page with pictures."""

import html
import io
from typing import Any

import matplotlib
import matplotlib.figure
import numpy as np

from ser_jax.errors import one_line

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "svg{max-width:100%;height:auto}pre{overflow-x:auto;background:#f6f6f6;padding:1rem}"
)


def page(found: dict[str, Any], words: str) -> str:
    """Returns the page: the pictures of lengths, levels and speakers x emotions, then `words`, the same as text."""
    pictures = [
        ("Lengths of utterances, seconds", _histogram(found["seconds"]["histogram"], "seconds")),
        ("Levels of utterances, dB below full scale", _histogram(found["level_db"]["histogram"], "dB")),
        ("Utterances of each speaker and emotion", _cells(found)),
    ]
    body = "".join(f"<h2>{title}</h2>\n{picture}\n" for title, picture in pictures)
    name = html.escape(one_line(found["corpus"]))
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"/><title>{name}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n<h1>{name}</h1>\n{body}<h2>In words</h2>\n"
        f"<pre>{html.escape(words)}</pre>\n</body>\n</html>\n"
    )


def _svg(figure: matplotlib.figure.Figure) -> str:
    # Names of emotions and speakers may hold a $, which is no formula.
    with matplotlib.rc_context({"text.parse_math": False, "svg.hashsalt": "ser_jax"}):
        file = io.StringIO()
        figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
    return file.getvalue()[file.getvalue().index("<svg") :]


def _histogram(histogram: dict[str, list], unit: str) -> str:
    with matplotlib.rc_context({"text.parse_math": False}):
        figure = matplotlib.figure.Figure(figsize=(7, 2.5))
        axes = figure.subplots()
        if histogram["counts"]:
            axes.stairs(histogram["counts"], histogram["edges"], fill=True, color="#4c78a8")
        axes.set_xlabel(unit)
        axes.set_ylabel("utterances")
        return _svg(figure)


def _cells(found: dict[str, Any]) -> str:
    rows, emotions = found["speakers_x_emotions"], list(found["emotions"])
    counts = np.array([[row[name] for name in emotions] for row in rows.values()])
    with matplotlib.rc_context({"text.parse_math": False}):
        figure = matplotlib.figure.Figure(figsize=(1.5 + 0.7 * len(emotions), 1.2 + 0.25 * len(rows)))
        axes = figure.subplots()
        axes.imshow(counts, cmap="Blues", vmin=0, aspect="auto")
        axes.set_xticks(range(len(emotions)), map(one_line, emotions), rotation=45, ha="right")
        axes.set_yticks(range(len(rows)), [one_line(name) or "?" for name in rows])
        if counts.size <= 2000:
            for (i, j), count in np.ndenumerate(counts):
                colour = "white" if count > counts.max() / 2 else "black"
                axes.text(j, i, str(count), ha="center", va="center", color=colour, fontsize=7)
        return _svg(figure)
