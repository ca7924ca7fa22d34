"""Draws the pictures of docs/protocols.md: the folds of each protocol, and which intervals have which verdict.

python -m docs.protocol_figures [FOLDER]

The folds are those that `make_protocol` makes of built-in voices, the verdicts those of `ser_jax.statistics.tests`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from ser_jax.corpora.corpus import Corpus
from ser_jax.corpora.protocols import make_protocol
from ser_jax.corpora.synthetic import make_synthetic
from ser_jax.statistics import tests

DOCS = Path(__file__).parent
FOLDS, VERDICTS = "protocols.svg", "verdicts.svg"
PROTOCOLS = {
    "leave_one_speaker_out": {"validation_speakers": 1},
    "grouped_k_fold": {"validation_speakers": 1, "num_folds": 2},
    "speaker_and_text_independent": {"validation_speakers": 1},
    "random": {"validation_speakers": 0, "num_folds": 4},
}
MARGIN = 0.02  # of UA
# (difference, standard error) of comparisons over nine speakers, and what each is an example of.
EXAMPLES = ((0.045, 0.012), (0.004, 0.006), (0.022, 0.015), (-0.010, 0.022))
DEGREES = 8.0
PARTS = {"training": "#b3d4ea", "validation": "#f2d98c", "test": "#c8552b", "not used": "#ffffff"}
_INK = "#102027"
_CELL, _ROW, _LEFT, _TEXT = 20, 22, 70, 15


def voices() -> Corpus:
    """Returns four speakers with six utterances of two texts."""
    return make_synthetic("synthetic", num_speakers=4, utterances_per_speaker=6)


def parts_of(corpus: Corpus, name: str) -> list[list[str]]:
    """Returns, for each fold of a protocol, which part each utterance is in: a name of `PARTS`."""
    found = []
    for fold in make_protocol(corpus, name, **PROTOCOLS[name]).folds:
        row = ["not used"] * len(corpus.utterances)
        for part, utterances in (("training", fold.train), ("validation", fold.validation), ("test", fold.test)):
            for i in utterances:
                row[i] = part
        found.append(row)
    return found


def draw_folds() -> str:
    """Returns the folds of each protocol: a row for each fold, a column for each utterance."""
    corpus = voices()
    speakers, texts = corpus.utterances["speaker"].tolist(), corpus.utterances["text"].tolist()
    y, parts = 26, []
    for i, (part, colour) in enumerate(PARTS.items()):
        parts += [_box(_LEFT + 130 * i, 6, 14, colour), _text(_LEFT + 130 * i + 20, 18, part)]
    xs = [_LEFT + _CELL * i + 8 * len(set(speakers[: i + 1])) for i in range(len(speakers))]  # speakers stand apart
    for name in PROTOCOLS:
        parts.append(_text(0, y + 26, name, weight="bold"))
        y += 36
        for first in sorted({speakers.index(speaker) for speaker in speakers}):
            parts.append(_text(xs[first], y + 10, f"speaker {int(speakers[first]) + 1}", size=12))
        y += 16
        for number, row in enumerate(parts_of(corpus, name)):
            parts.append(_text(0, y + 15, f"fold {number + 1}", size=13))
            for x, part, text in zip(xs, row, texts, strict=True):
                letter = _text(
                    x + 5, y + 14, "ab"[int(text[-1])], size=11, colour="#ffffff" if part == "test" else _INK
                )
                parts += [_box(x, y, _CELL - 2, PARTS[part], part), letter]
            y += _ROW
        y += 6
    return _svg(xs[-1] + _CELL + 10, y, "The folds of four protocols, on four speakers with six utterances each", parts)


def verdicts() -> list[tuple[float, tuple[float, float], str]]:
    """Returns the difference, its 95 % interval and the verdict of each of `EXAMPLES`."""
    found = []
    for difference, error in EXAMPLES:
        p = tests.t_test(difference, error, DEGREES)
        equivalence = tests.equivalence_test(difference, error, DEGREES, MARGIN)
        verdict = tests.verdict(p, equivalence)
        found.append((difference, tests.t_interval(difference, error, DEGREES), str(verdict)))
    return found


def draw_verdicts() -> str:
    """Returns the intervals of the examples, against zero and the margin."""

    def at(value: float) -> float:
        return 240 + 100 * value * 30  # 30 pixels for a point of UA

    low, high = at(-MARGIN), at(MARGIN)
    height = 40 + 34 * len(EXAMPLES)
    parts = [
        f'<rect x="{low}" y="24" width="{high - low}" height="{height - 40}" fill="#e3eef5"/>',
        f'<line x1="{at(0)}" y1="24" x2="{at(0)}" y2="{height - 16}" stroke="{_INK}" stroke-dasharray="3 3"/>',
        _text(low, 18, f"margin: ±{100 * MARGIN:.0f} points", size=12),
        _text(at(0) - 4, height - 2, "0", size=12),
    ]
    for i, (difference, (begin, end), verdict) in enumerate(verdicts()):
        y = 46 + 34 * i
        parts += [
            f'<line x1="{at(begin):.1f}" y1="{y}" x2="{at(end):.1f}" y2="{y}" stroke="{_INK}" stroke-width="2"/>',
            f'<circle cx="{at(difference):.1f}" cy="{y}" r="4" fill="{_INK}"/>',
            _text(470, y + 5, f"{100 * difference:+.1f} [{100 * begin:+.1f}, {100 * end:+.1f}]: {verdict}"),
        ]
    return _svg(760, height, "Intervals of four differences in UA, and their verdicts", parts)


def _text(x: float, y: float, text: str, *, size: int = _TEXT, weight: str = "normal", colour: str = _INK) -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" fill="{colour}">{text}</text>'


def _box(x: float, y: float, side: float, colour: str, part: str = "") -> str:
    return f'<rect x="{x}" y="{y}" width="{side}" height="{side}" fill="{colour}" stroke="#78909c" class="{part}"/>'


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-6 0 {width + 6} {height + 6}" role="img" '
        f'font-family="sans-serif">\n<title>{title}</title>\n'
        f'<rect x="-6" width="{width + 6}" height="{height + 6}" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def main(folder: Path = DOCS) -> None:
    """Writes both pictures."""
    (folder / FOLDS).write_text(draw_folds())
    (folder / VERDICTS).write_text(draw_verdicts())


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
