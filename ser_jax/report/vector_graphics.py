"""Vector figures that read on paper, on a light page and on a dark one. matplotlib is imported when one is drawn.

What is ink in a figure (text, axes, ticks) is drawn in `INK` and written as `currentColor`, so a page gives it the
colour of its own text. Data are drawn in `COLOURS`; on a page they become the custom properties --c0, --c1, ..., which
it may set, as it may --page for what is drawn in `PAPER`. Text stays text. Widths are those of a paper's columns.
"""

import functools
import io
import os
import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ser_jax.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ONE_COLUMN, TWO_COLUMNS = 3.5, 7.16  # inches
INK, PAPER = "#010203", "#fcfdfe"  # stand for the colours of text and page; they occur nowhere else
WHITE = "#ffffff"
# Okabe and Ito's colours, told apart by every kind of colour vision, without the two that fade on white or on black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
OWN_FONT = "DejaVu Sans"
OTHER_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei"),
    *("Droid Sans Fallback", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "SimHei", "Arial Unicode MS"),
    *("Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Thai", "Noto Color Emoji"),
)
SIZE, SMALL = 8, 7  # points
_PLACE = re.compile(r'(?<=\s)(?:d|x|y|width|height|transform)="[^"]*"')
_LONG_NUMBER = re.compile(r"-?\d+\.\d{4,}|-0(?![\d.])")
_HASHED = re.compile(r'\bid="([a-zA-Z]\w*[0-9a-f]{10})"')  # ids that matplotlib makes from the exact numbers

_TIP = re.compile(r'<g id="tip:([^"]*)">')

RULE = {"color": INK, "linewidth": 0.7, "alpha": 0.55}  # a thin line, as for zero and for chance
STYLE = {
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # TrueType: text of the PDF can be searched and edited
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.size": SIZE,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": SIZE,
    "axes.labelsize": SIZE,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.fontsize": SMALL,
    "lines.linewidth": 1.3,
}


def new_figure(width: float, height: float, **subplots: Any) -> tuple["Figure", Any]:
    """Returns an empty figure of a size in inches, with no background, and its axes; draw on it within `style()`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)
    figure.patch.set_visible(False)
    axes = figure.subplots(**subplots)
    for axis in figure.axes:
        axis.patch.set_visible(False)
    return figure, axes


def style() -> Any:
    """A context in which figures are drawn and written."""
    import matplotlib

    return matplotlib.rc_context({**STYLE, "font.family": fonts()})


@functools.cache
def fonts() -> list[str]:
    """The fonts of figures: DejaVu Sans, which comes with matplotlib, and for the signs that it lacks what is there."""
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return [OWN_FONT, *(name for name in OTHER_FONTS if name in installed)]


def missing_signs(text: str) -> str:
    """Returns the signs of a text that none of the fonts has: boxes in a PDF or PNG; a page and SVG keep the text."""
    from matplotlib import font_manager

    known: set[int] = set()
    for name in fonts():
        font = font_manager.get_font(font_manager.findfont(name))
        known |= set(font.get_charmap())
    return "".join(sorted({sign for sign in text if ord(sign) not in known and sign not in "\n\u200c\u200d"}))


def colour(number: int) -> str:
    """The colour of the variant of this number; they begin again after the last."""
    return COLOURS[number % len(COLOURS)]


def marker(number: int) -> str:
    """The marker of the variant of this number, so that no figure is told apart by colour alone."""
    return MARKERS[number % len(MARKERS)]


def rule(axis: "Axes", value: float, *, vertical: bool = True, **options: Any) -> None:
    """Draws a thin line through an axis, for zero and for chance."""
    draw = axis.axvline if vertical else axis.axhline
    draw(value, **{**RULE, "zorder": 0, **options})


def tip(artists: "Artist | Sequence[Artist]", text: str) -> None:
    """Has a browser show a text where the pointer is over what was drawn."""
    for artist in artists if isinstance(artists, Sequence) else (artists,):
        artist.set_gid(f"tip:{text}")


def to_svg(figure: "Figure", name: str) -> str:
    """Returns a figure as SVG, the same every time."""
    import matplotlib

    with style(), matplotlib.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # `missing_signs` are named in the report
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    figure.set_layout_engine(None)  # it has found the places; with it, each further file is drawn twice
    return _with_page_colours(_without_last_bits(_TIP.sub(r"<g><title>\1</title>", buffer.getvalue())))


def write_svg(figure: "Figure", path: str | os.PathLike, name: str) -> str:
    """Writes a figure as SVG, whole or not at all and the same every time; returns it."""
    svg = to_svg(figure, name)
    with atomic_file(path) as temporary:
        temporary.write_text(svg, encoding="utf-8")
    return svg


def write_pdf(figures: Sequence["Figure"], path: str | os.PathLike) -> None:
    """Writes figures as the pages of one PDF, whole or not at all and the same every time.

    A PDF has no page to ask for a colour: its ink is black. Figures of one file share its fonts, most of the work.
    """
    from matplotlib.backends.backend_pdf import PdfPages

    nobody = {"CreationDate": None, "Creator": None, "Producer": None}
    with (
        style(),
        atomic_file(path) as temporary,
        PdfPages(temporary, metadata=nobody) as pages,
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        for figure in figures:
            pages.savefig(figure, transparent=True)


def inline(svg: str, name: str, description: str) -> str:
    """Returns an SVG as an element of a page: ids of its own, the page's colours, and a description to be read out."""
    element = svg[svg.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", element, flags=re.DOTALL)
    element = re.sub(r'\bid="', f'id="{name}-', element)
    element = re.sub(r'(url\(|href=")#', rf"\g<1>#{name}-", element)
    element = element.replace(WHITE, f"var(--page, {WHITE})")
    for number, data in enumerate(COLOURS):
        element = re.sub(data, f"var(--c{number}, {data})", element, flags=re.IGNORECASE)
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', element).groups()
    pixels = (round(float(side) * 96 / 72) for side in (width, height))
    opening = (
        '<svg xmlns:xlink="http://www.w3.org/1999/xlink" xmlns="http://www.w3.org/2000/svg" role="img" '
        'aria-label="{}" viewBox="0 0 {} {}" width="{}" height="{}">'
    ).format(_attribute(description), width, height, *pixels)
    return re.sub(r"\s*\n\s*", "\n", re.sub(r"<svg[^>]*>", lambda _: opening, element, count=1)).strip()


def _without_last_bits(svg: str) -> str:
    """Places to a thousandth of a point and ids counted: nobody sees more, and the last bits depend on rounding."""

    def short(number: re.Match) -> str:
        value = round(float(number[0]), 3) + 0.0  # which makes -0 a 0
        return f"{value:.3f}".rstrip("0").rstrip(".")

    for number, name in enumerate(dict.fromkeys(_HASHED.findall(svg)), start=1):
        svg = re.sub(rf'(?<=["#]){name}(?=[")])', f"{name[:-10]}{number}", svg)
    return _PLACE.sub(lambda place: _LONG_NUMBER.sub(short, place[0]), svg)


def _with_page_colours(svg: str) -> str:
    svg = svg.replace(INK, "currentColor").replace(PAPER, WHITE)
    return re.sub(r"'DejaVu Sans'[^;\"]*", FONTS, svg)


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace("\n", " ")
