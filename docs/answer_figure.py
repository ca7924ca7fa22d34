"""Draws docs/answer.png: what each attention gained on each corpus, from the summaries in docs/results/five_seeds.

python -m docs.answer_figure [OUTPUT.png]

The numbers stand in the picture's metadata as well.
"""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

from ser_jax.report import summary
from ser_jax.report.figures import Row, forest
from ser_jax.report.sections.differences import forest_row
from ser_jax.report.summary import Summary
from ser_jax.report.vector_graphics import style
from ser_jax.statistics.paired import Comparison

DOCS = Path(__file__).parent
CORPORA = {"emodb": "EMO-DB: ten speakers, seven emotions", "ravdess": "RAVDESS: 24 actors, eight emotions"}
# (question, what its summary calls the difference, how the picture does); of factors, the effect over all other levels.
DIFFERENCES = (
    ("cnn", "eca against none", "channel attention (ECA) in a CNN"),
    ("eca", "eca against none", "channel attention (ECA) in ShuffleNet V2"),
    ("encoder", "mixing self-attention against none", "self-attention in an encoder"),
    ("encoder", "pooling attentive against mean", "attentive pooling in an encoder"),
    ("recurrent", "attentive pooling against mean pooling", "attentive pooling of a BiLSTM"),
    (
        "recurrent",
        "decoder with additive attention against decoder without attention",
        "additive attention in a decoder",
    ),
    (
        "recurrent",
        "decoder with multiplicative attention against decoder without attention",
        "multiplicative attention in a decoder",
    ),
)


def main(output: Path) -> None:
    """Draws the picture."""
    groups = {title: list(rows(corpus)) for corpus, title in CORPORA.items()}
    with style():
        figure = forest(groups, "gain of attention (UA points)", reference=0, narrow=False)
        figure.savefig(output, dpi=150, facecolor="white", metadata={"Description": described(groups)})


def described(groups: dict[str, list[Row]]) -> str:
    """The picture's lines as text."""
    return "\n".join(f"{title}; {row.label}; {row.text}" for title, rows in groups.items() for row in rows)


def rows(corpus: str) -> Iterator[Row]:
    """The differences that were asked on a corpus."""
    for question, name, label in DIFFERENCES:
        found = differences(summary.read(DOCS / "results" / "five_seeds" / f"{corpus}_{question}"))
        if name in found:
            row = forest_row(found[name], label)
            yield dataclasses.replace(row, text=f"{row.text} {found[name].verdict}")


def differences(made: Summary) -> dict[str, Comparison]:
    """All differences of a study, of two variants or of a factor, by their names."""
    effects = [effect for question in made.questions for effect in question.effects]
    return {one.name: one for one in (*made.comparisons, *effects)}


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "answer.png")
