import dataclasses
import re
import xml.etree.ElementTree as ElementTree

import matplotlib.text
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from ser_jax.report import figures, vector_graphics
from ser_jax.report.figures import Row
from ser_jax.report.summary import Bin, Measure, Speaker

EMOTIONS = ["anger", "fear", "neutral"]
VARIANT = Measure(0.6, (0.5, 0.7))
BIN = Bin(0.5, 0.6, 0.55, 0.4, 7)
SPEAKER = Speaker(0.5, None, 8, "female", ())
UNKNOWN = dataclasses.replace(SPEAKER, gender="")
FIGURES = {
    "forest": lambda: figures.forest(
        {"": [Row("a", 0.1, None, "x")], "h": [Row("b", 0.1, [0.0, 0.2], "y", 0.1, (0.0, 0.2))]},
        "points",
        reference=0.0,
        narrow=False,
    ),
    "confusion": lambda: figures.confusion_panel("a", [[5, 1, 0], [0, 0, 0], [1, 1, 8]], EMOTIONS),
    "cost": lambda: figures.cost_panel([("a", 1e5, VARIANT), ("b", 1e6, Measure(0.6))], "x"),
    "equal_cost": lambda: figures.cost_panel([("a", 5, VARIANT), ("b", 5, VARIANT)], "x"),
    "curves": lambda: figures.curves_panel({"a": [{"epoch": 1.0, "loss": 2.0}], "b": []}, "loss", "loss", 1.0),
    "speakers": lambda: figures.speakers_panel(
        "a", [("03", SPEAKER), ("08", dataclasses.replace(SPEAKER, gender=""))], 0.5
    ),
    "reliability": lambda: figures.reliability_panel("a", [BIN, Bin(0.6, 0.7, None, None, 0)]),
    "robustness": lambda: figures.robustness_panel("a", ["clean", "0"], {"a": [VARIANT, None]}, 0.25),
    "combinations": lambda: figures.interaction_panel(["none", "eca"], {"relu": [VARIANT, None]}),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_with_gaps_is_drawn_without_a_warning_and_fits_a_paper(tmp_path, name, recwarn):
    with vector_graphics.style():
        figure = FIGURES[name]()
    svg = vector_graphics.write_svg(figure, tmp_path / "a.svg", name)
    assert not recwarn.list
    ElementTree.parse(tmp_path / "a.svg")
    assert figure.get_figwidth() <= vector_graphics.TWO_COLUMNS
    # Ink is left to the page, and no background is painted.
    assert "currentColor" in svg and vector_graphics.INK not in svg and vector_graphics.PAPER not in svg
    assert "<text" in svg and "<dc:date>" not in svg


def test_the_last_bit_of_a_number_moves_nothing_in_a_figure(tmp_path):
    drawn = []
    for change in (0, 1e-13, -1e-13):
        curve = [{"epoch": epoch, "loss": (1.5 + change) / epoch} for epoch in (1, 2, 3, 4)]
        with vector_graphics.style():
            figure = figures.curves_panel({"0.123456 of -0": curve}, "loss", "loss", 1.0)
        drawn.append(vector_graphics.write_svg(figure, tmp_path / "a.svg", "a"))
    assert drawn[0] == drawn[1] == drawn[2]
    assert "0.123456 of -0</text>" in drawn[0]  # text is not touched
    places = [float(number) for number in re.findall(r"[ML] (-?[\d.]+) ", drawn[0])]
    assert places and all(round(place, 3) == place for place in places)


def test_inlined_figures_share_no_id_and_take_the_colours_of_the_page(tmp_path):
    with vector_graphics.style():
        svg = vector_graphics.write_svg(FIGURES["cost"](), tmp_path / "a.svg", "a")
    one, two = (vector_graphics.inline(svg, name, 'UA < 5 % & "x"') for name in ("one", "two"))
    ids = [set(re.findall(r'\bid="([^"]+)"', element)) for element in (one, two)]
    assert ids[0] and not ids[0] & ids[1]
    targets = set(re.findall(r'(?:url\(|href=")#([\w-]+)', one))
    assert targets and targets <= ids[0]
    assert "var(--c0, #0072B2)" in one and "var(--c1, #D55E00)" in one
    assert "<style" not in one and "<metadata" not in one
    assert ElementTree.fromstring(one).attrib["aria-label"] == 'UA < 5 % & "x"'


def test_a_pdf_has_a_page_for_each_figure(tmp_path):
    with vector_graphics.style():
        figures = [FIGURES["combinations"](), FIGURES["combinations"]()]
    vector_graphics.write_pdf(figures, tmp_path / "a.pdf")
    assert re.search(rb"/Count 2\b", (tmp_path / "a.pdf").read_bytes())


def test_a_figure_that_has_its_layout_is_drawn_once_for_a_pdf(tmp_path, monkeypatch):
    with vector_graphics.style():
        figure = FIGURES["forest"]()
    vector_graphics.write_svg(figure, tmp_path / "a.svg", "a")
    draw, drawn = type(figure).draw, []
    monkeypatch.setattr(type(figure), "draw", lambda *arguments: (drawn.append(1), draw(*arguments)))
    vector_graphics.write_pdf([figure], tmp_path / "a.pdf")
    assert len(drawn) == 1


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize(
    ("ends", "filled"), [([0.01, 0.2], True), ([-0.01, 0.2], False), ([-0.2, -0.1], True), (None, False)]
)
def test_the_marker_is_filled_where_the_interval_excludes_the_reference(ends, filled, narrow):
    with vector_graphics.style():
        figure = figures.forest({"": [Row("a", 0.05, ends, "")]}, "x", reference=0.0, narrow=narrow)
    (marked,) = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert (marked.get_markerfacecolor() != vector_graphics.PAPER) == filled
    assert marked.get_xdata()[0] == pytest.approx(5.0)
    intervals = [
        line
        for line in figure.axes[0].lines
        if line.get_color() == vector_graphics.COLOURS[0] and len(line.get_xdata()) == 2
    ]
    assert [list(line.get_xdata()) for line in intervals] == ([[100 * end for end in ends]] if ends else [])


def test_names_beside_close_points_do_not_overlap():
    with vector_graphics.style():
        points = [(f"variant {i}", 1e5, Measure(0.6 + i / 1e4)) for i in range(12)]
        figure = figures.cost_panel(points, "x")
        figure.draw_without_rendering()
        boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text()]
    places = np.sort([(box.y0 + box.y1) / 2 for box in boxes])
    assert len(places) == 12
    assert np.diff(places).min() >= 0.85 * vector_graphics.SMALL / 72 * figure.dpi


def test_a_confusion_matrix_shows_percent_of_each_reference_class():
    with vector_graphics.style():
        figure = figures.confusion_panel("a", [[9, 1, 0], [0, 0, 0], [3, 0, 1]], EMOTIONS)
    shown = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert shown == {(0, 0): "90", (1, 0): "10", (0, 2): "75", (2, 2): "25"}
    alphas = [patch.get_alpha() for patch in figure.axes[0].patches]
    assert max(alphas) == pytest.approx(0.7 * 0.9)


def test_many_speakers_are_drawn_without_their_names():
    with vector_graphics.style():
        few, many = (
            figures.speakers_panel("a", [(f"s{i}", SPEAKER) for i in range(number)], 0.5) for number in (3, 200)
        )
    assert [label.get_text() for label in few.axes[0].get_yticklabels()] == ["s0", "s1", "s2"]
    assert not many.axes[0].get_yticklabels()
    assert many.get_figheight() < 5


NAMES = ["生气/angry", "$50%_sad|low$", "cost $\\x$", "a$_$b", "<unk>", "disappointment, disapproval", "{x} & #1"]


def test_names_with_markup_and_other_scripts_are_drawn_as_they_are(tmp_path, recwarn):
    with vector_graphics.style():
        figure = figures.confusion_panel("cost $\\x$", np.eye(len(NAMES), dtype=int).tolist(), NAMES)
    svg = vector_graphics.write_svg(figure, tmp_path / "a.svg", "a")
    vector_graphics.write_pdf([figure], tmp_path / "a.pdf")
    assert not recwarn.list
    shown = [
        "".join(element.itertext()) for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")
    ]
    assert all(shown.count(name) >= 2 for name in NAMES), shown
    assert "cost $\\x$" in shown


def test_signs_that_no_font_has_are_found():
    assert vector_graphics.missing_signs("Röe −×±… a$b") == ""
    assert vector_graphics.missing_signs("a\U0010ffff") == "\U0010ffff"


NINE = [
    f"an encoder with {mixing} attention between frames and a hidden layer of {width} units"
    for mixing in ("self", "no", "convolutional")
    for width in (15, 67, 141)
]


def texts_of(figure):
    return [text for text in figure.findobj(matplotlib.text.Text) if text.get_visible() and text.get_text()]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.cost_panel([(name, 1000.0 * (i + 1), VARIANT) for i, name in enumerate(NINE)], "x"),
        lambda: figures.interaction_panel(["none", "eca"], {name: [VARIANT, VARIANT] for name in NINE}),
    ],
)
def test_long_names_that_begin_alike_are_told_apart(draw):
    with vector_graphics.style():
        figure = draw()
    cut = [text.get_text() for text in texts_of(figure) if "…" in text.get_text()]
    assert len(cut) == len(set(cut)) == 9
    names = ["x" * 50, "x" * 50 + "y", "short"]
    assert len(set(figures._shortened(names, 22))) == 3
    assert figures._shortened(["cnn", "x" * 30], 22) == ["cnn", "x" * 21 + "…"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a network, no attention", "a network, squeezed"], ["a network, no…", "a network, squeezed"]),
        (
            ["attentive pooling, one head", "attentive pooling, two heads"],
            ["attentive…one head", "attentive…two heads"],
        ),
        (
            ["a network one-headed12", "a network one-headed13", "rnn"],
            ["a network…headed12", "a network…headed13", "rnn"],
        ),
        (["x", "ab cdefghijklmnopqrstuvw1", "ab cdefghijklmnopqrstuvw2"], None),
    ],
)
def test_names_are_cut_between_words_where_that_tells_them_apart(names, expected):
    found = figures._shortened(names, 20)
    assert len(set(found)) == len(names) and max(map(len, found)) <= 20
    assert expected is None or found == expected


def test_names_beside_points_are_whole_where_two_lines_have_room():
    names = ["ShuffleNet V2, no attention", "ShuffleNet V2, squeeze-and-excitation", "CNN"]
    for number, cut in ((3, 0), (9, 2)):
        more = [f"other {i}" for i in range(number - 3)]
        figure = figures.cost_panel([(name, 1000.0, VARIANT) for name in [*names, *more]], "x")
        texts = [text.get_text() for text in texts_of(figure)]
        assert sum("…" in text for text in texts) == cut
        assert cut or "ShuffleNet V2,\nsqueeze-and-excitation" in texts


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.confusion_panel(NINE[0], [[1, 0], [0, 1]], ["a" * 30, "b"]),
        lambda: figures.speakers_panel(NINE[0], [("s" * 30, SPEAKER)], 0.5),
        lambda: figures.reliability_panel(NINE[0], [BIN]),
    ],
)
def test_a_title_is_not_cut_off_where_labels_are_long(draw):
    with vector_graphics.style():
        figure = draw()
        FigureCanvasAgg(figure).draw()
    (title,) = [text for text in texts_of(figure) if text.get_text().startswith("an encoder")]
    place = title.get_window_extent()
    assert place.x0 >= 0 and place.x1 <= figure.bbox.x1
    assert all(not place.overlaps(axis.bbox) for axis in figure.axes)
