"""Figures of other targets than the label: dimensions of utterances, and the raters' votes.

Each is computed from sums over utterances, so that the bootstrap draws speakers as it does for UA: the folds are pooled
for each seed, the seeds averaged, and the 95 % interval is over speakers, with the noise of training that they share
(`intervals`). A paired difference draws the same speakers for both variants.

- CCC of a dimension (Lin 1989): over the utterances whose value is known.
- Of votes: the cross-entropy of the probabilities with the shares of the votes, in nats; the Kullback-Leibler
  divergence, which is the part of it that no model has to have; and the share of utterances for which a class is
  predicted that no other one has more votes than.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float

from ser_jax.predictions import PREDICTED, TRUE, dimensions_of, probabilities_of, votes_of
from ser_jax.statistics import bootstrap, components, intervals, paired, tests
from ser_jax.statistics.components import Cells

_SMALLEST = float(np.finfo(np.float32).tiny)  # probability: a model that says zero is not infinitely wrong


@dataclasses.dataclass(frozen=True)
class Score:
    """A figure that follows from sums over utterances.

    Attributes:
      title: of tables.
      per_row: a predictions table -> what is summed, [rows, sums]; NaN in rows that do not count.
      value: sums [..., sums] -> the figure [...].
      bounds: of the figure.
    """

    name: str
    title: str
    per_row: Callable[[pd.DataFrame], np.ndarray]
    value: Callable[[np.ndarray], np.ndarray]
    bounds: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class ScoreDifference:
    """What a variant has more of a score than its baseline; None for what cannot be estimated, and `notes` say why.

    Attributes:
      p: of no difference, by itself; p_holm corrected for all differences of scores in the summary. None also where one
        training of each variant tested all speakers: `ci95` is of these models then.
    """

    score: str
    variant: str
    baseline: str
    estimate: float
    ci95: tuple[float, float] | None
    p: float | None
    p_holm: float | None
    speakers: int
    notes: tuple[str, ...] = ()


def scores_of(table: pd.DataFrame) -> list[Score]:
    """Returns the scores that a predictions table has figures for."""
    found = [_concordance_of(name) for name in dimensions_of(table)]
    return found + (list(_OF_VOTES) if votes_of(table) is not None else [])


def estimate(table: pd.DataFrame, score: Score, *, replicates: int = bootstrap.REPLICATES) -> bootstrap.Estimate | None:
    """Returns one variant's figure with its interval; None where no utterance counts."""
    cells = cell_sums(table, score.per_row(table)[None])
    return None if cells is None else with_interval(cells, score.value, score.bounds, replicates)


def differences(
    pairs: Mapping[tuple[str, str], paired.Paired], *, replicates: int = bootstrap.REPLICATES
) -> list[ScoreDifference]:
    """Returns the difference of every score in every (variant, baseline) pair that both have figures of.

    They are over the utterances that are paired, and whose values are known.
    """
    found = []
    for (variant, baseline), (both, _, notes) in pairs.items():
        for score in scores_of(both[0]):
            rows = np.stack([score.per_row(one) for one in both])
            cells = cell_sums(both[0], rows)
            if cells is not None:
                one = _difference(score, variant, baseline, cells, replicates)
                found.append(dataclasses.replace(one, notes=(*notes, *one.notes)))
    corrected = tests.holm([one.p for one in found])
    return [dataclasses.replace(one, p_holm=p) for one, p in zip(found, corrected, strict=True)]


def _difference(score: Score, variant: str, baseline: str, cells: Cells, replicates: int) -> ScoreDifference:
    low, high = score.bounds

    def gained(both: np.ndarray) -> np.ndarray:
        figures = score.value(both)
        return figures[..., 0, :] - figures[..., 1, :]

    found = bootstrap_score(np.moveaxis(cells.drawn(), 2, 0), gained, (-np.inf, np.inf), replicates)
    own = components.slopes(cells.counts[0], score.value) - components.slopes(cells.counts[1], score.value)
    parts = components.of_difference(own, cells, float(found.standard_error) ** 2)
    value, ends, p = float(found.value), None, None
    if not np.isnan(parts.total):
        half = parts.half_width()
        ends = max(low - high, value - half), min(high - low, value + half)
        if not cells.of_these_models():  # what another training would give is not known
            p = tests.t_test(value, float(np.sqrt(parts.total)), parts.degrees)
    notes = tuple(paired.limits(cells, parts, verdicts=False))
    return ScoreDifference(score.name, variant, baseline, value, ends, p, p, len(cells.speakers), notes)


def with_interval(
    cells: Cells, value: Callable[[np.ndarray], np.ndarray], bounds: tuple[float, float], replicates: int
) -> bootstrap.Estimate:
    """Estimates `value` of one variant's sums, with its interval."""
    found = bootstrap_score(np.moveaxis(cells.by_speaker()[0], 1, 0), value, bounds, replicates)
    if not cells.shares_models():
        return found
    return intervals.widened(found, components.slopes(cells.counts[0], value), cells, len(cells.speakers), bounds)


def bootstrap_score(
    sums: Float[np.ndarray, "speakers ... seeds sums"],
    value: Callable[[np.ndarray], np.ndarray],
    bounds: tuple[float, float],
    replicates: int,
) -> bootstrap.Estimate:
    """Estimates `value` of the speakers' sums, a figure for each seed, averaged over seeds; the interval is over them.

    A draw of speakers of which a seed has no utterance is drawn again.
    """

    def mean_over_seeds(of_draws: np.ndarray) -> np.ndarray:
        return value(of_draws).mean(axis=-1)

    counts = sums[..., 0].reshape(len(sums), -1)
    values = bootstrap.bootstrap_sums(sums, mean_over_seeds, replicates=replicates, seed=0, needed=counts)
    return bootstrap.estimate(np.asarray(mean_over_seeds(sums.sum(axis=0)[None])[0]), values, len(sums), bounds)


def cell_sums(table: pd.DataFrame, rows: Float[np.ndarray, "variants rows sums"]) -> Cells | None:
    """Returns the sums of each variant, seed and cell, of the rows that are no NaN; None where there are none.

    `table` says whose the rows are, in all variants.
    """
    known = ~np.isnan(rows).any(axis=(0, 2))
    if not known.any():
        return None
    cell_of, cells = components.grid_of(table[known])
    number = len(cells.seeds) * len(cells.fold_of)
    group = np.searchsorted(cells.seeds, table["seed"][known]) * len(cells.fold_of) + cell_of
    columns = rows[:, known].transpose(0, 2, 1).reshape(-1, known.sum())
    sums = np.stack([np.bincount(group, weights=column, minlength=number) for column in columns], axis=-1)
    sums = sums.reshape(len(cells.seeds), -1, len(rows), rows.shape[-1]).transpose(2, 0, 1, 3)
    return cells.counted(sums)


def concordance(sums: Float[np.ndarray, "... 6"]) -> Float[np.ndarray, "..."]:
    """The coefficient from the sums of 1, x, y, x^2, y^2 and x y; 0 where neither side moves."""
    count, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    mean_x, mean_y = x / count, y / count
    size = (xx + yy) / count
    spread = size - mean_x**2 - mean_y**2 + (mean_x - mean_y) ** 2
    covariance = xy / count - mean_x * mean_y
    # What rounding leaves of two constants is small beside them, whatever their unit is.
    return np.divide(2 * covariance, spread, out=np.zeros_like(spread), where=spread > 1e-12 * size)


def moments(table: pd.DataFrame, name: str) -> Float[np.ndarray, "rows 6"]:
    """What `concordance` needs the sums of, for the columns `true_NAME` and `predicted_NAME`."""
    x, y = (table[f"{side}{name}"].to_numpy(np.float64) for side in (TRUE, PREDICTED))
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)


def _concordance_of(name: str) -> Score:
    return Score(f"ccc_{name}", f"CCC {name}", lambda table: moments(table, name), concordance, (-1.0, 1.0))


def _of_votes(table: pd.DataFrame) -> Float[np.ndarray, "rows 4"]:
    """One, and of every utterance its cross-entropy, divergence, and whether a class with most votes is predicted."""
    shares, probabilities = votes_of(table), probabilities_of(table)
    logarithms = np.log(np.maximum(probabilities, _SMALLEST))
    entropy = -np.sum(shares * np.log(np.where(shares > 0, shares, 1.0)), axis=1)
    cross_entropy = -np.sum(shares * logarithms, axis=1)
    chosen = np.take_along_axis(shares, probabilities.argmax(axis=1)[:, None], axis=1)[:, 0]
    agrees = np.where(np.isnan(chosen), np.nan, chosen >= shares.max(axis=1) - 1e-6)
    return np.stack([np.where(np.isnan(chosen), np.nan, 1.0), cross_entropy, cross_entropy - entropy, agrees], axis=1)


def _mean(column: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda sums: sums[..., column] / sums[..., 0]


_OF_VOTES = (
    Score("votes_cross_entropy", "vote CE", _of_votes, _mean(1), (0.0, np.inf)),
    Score("votes_kl", "vote KL", _of_votes, _mean(2), (0.0, np.inf)),
    Score("votes_majority", "majority", _of_votes, _mean(3), (0.0, 1.0)),
)
