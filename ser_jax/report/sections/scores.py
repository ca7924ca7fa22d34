"""Other targets than the label: dimensions of utterances, and the shares of raters' votes."""

from collections.abc import Iterator

from ser_jax.numbers import count
from ser_jax.report import numbers
from ser_jax.report.answers import signed
from ser_jax.report.blocks import Block, Cell, Table
from ser_jax.report.sections.common import decimal_cell, notes_of
from ser_jax.report.sources import Sources

_WHAT = {
    "ccc_": "CCC is the concordance correlation coefficient over the utterances whose value is known: 1 is perfect, 0 "
    "is no agreement.",
    "votes_": "Vote CE is the cross-entropy of the predicted probabilities with the shares of the raters' votes "
    "(nats), vote KL the part of it that is due to the model; lower is better. Majority is the share of utterances for "
    "which the predicted class has the most votes.",
}


def scores(sources: Sources) -> Iterator[Block]:
    """Every variant's scores, and their differences in the pairs that are compared."""
    titles = sources.summary.scores
    if not titles:
        return
    said = [text for begin, text in _WHAT.items() if any(name.startswith(begin) for name in titles)]
    caption = f"{' '.join(said)} Each over its 95 % interval over speakers, pooled over folds and averaged over seeds."
    rows = []
    for name, variant in sources.variants.items():
        found = [variant.scores.get(score) for score in titles]
        rows.append((Cell(name), *(decimal_cell(one and one.value, one and one.ci95) for one in found)))
    yield Table("scores", caption, ("variant", *titles.values()), tuple(rows))
    differences = sources.summary.score_differences
    if differences:
        tested = sum(one.p_holm is not None for one in differences)
        caption = (
            "Differences, over the utterances that both were tested on, with 95 % intervals that include the noise of "
            "training that speakers of one model share, as far as it shows."
        )
        if tested:
            caption += f" p values are corrected by Holm's method for {count(tested, 'difference')}."
        yield Table("score_differences", caption, ("variant", "score", "difference", "p, Holm (alone)"), _rows(sources))
        titled = ((f"{one.variant} against {one.baseline}, {titles[one.score]}", one.notes) for one in differences)
        yield from notes_of(titled)


def _rows(sources: Sources) -> tuple[tuple[Cell, ...], ...]:
    titles = sources.summary.scores
    return tuple(
        (
            Cell(f"{one.variant} against {one.baseline}"),
            Cell(titles.get(one.score, one.score)),
            Cell(signed(one), value=one.estimate),
            Cell(numbers.p_value(one.p_holm), numbers.p_value(one.p), one.p_holm),
        )
        for one in sources.summary.score_differences
    )
