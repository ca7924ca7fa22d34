"""Bootstrap over speakers: the standard error and the 95 % interval of any figure.

Speakers are what a corpus samples from a population, so they are what is resampled, each with all its utterances and
seeds (a cluster bootstrap). A corpus has few of them, and percentiles of the replicates make intervals that are too
short. So the interval is estimate -+ t * s: s is the standard deviation of the replicates times sqrt(n / (n - 1)), and
t the quantile of Student's distribution with n - 1 degrees of freedom, n speakers. docs/statistics.md has the coverage
of these intervals in simulated studies.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int, Num
from scipy import special
from threadpoolctl import ThreadpoolController

from ser_jax.statistics import metrics

REPLICATES = 10_000
LEVEL = 0.95
DRAWS = 200  # of speakers, until they hold every class
SMALL = 2**18  # numbers: products with fewer take longer on several BLAS threads, many times so on busy cores

Metric = Callable[[np.ndarray], np.ndarray]  # confusion [..., classes, classes] -> [...] or [..., classes]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure (or one for each class) with its interval; NaN where something cannot be estimated."""

    value: Float[np.ndarray, "..."]
    low: Float[np.ndarray, "..."]
    high: Float[np.ndarray, "..."]
    standard_error: Float[np.ndarray, "..."]


def bootstrap_interval(
    counts: Int[np.ndarray, "seeds speakers classes classes"],
    metric: Metric = metrics.unweighted_accuracy,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Estimate:
    """Estimates a metric, pooled over folds and then averaged over seeds, with its 95 % interval over speakers.

    Each class's figure (a metric that gives [..., classes]) counts only the speakers who have that class.
    The interval is NaN with one speaker, and if all speakers are equal: neither shows how speakers differ.
    """

    def statistic(confusion: np.ndarray) -> np.ndarray:
        return metrics.mean_of_present(metric(confusion), axis=1)

    value = statistic(counts.sum(axis=1)[None])[0]
    drawn = bootstrap(counts, statistic, replicates=replicates, seed=seed)
    return estimate(value, drawn, counting_speakers(counts, value), bounds=(0.0, 1.0))


def counting_speakers(
    counts: Int[np.ndarray, "seeds speakers classes classes"], value: float | np.ndarray
) -> np.integer | Int[np.ndarray, " classes"]:
    """How many speakers a figure counts: those who have the class where `value` has one for each class, else all."""
    heard = counts.sum(axis=(0, -1)) > 0  # [speakers, classes]
    return heard.sum(axis=0) if np.ndim(value) else heard.any(axis=1).sum()


def bootstrap_contrasts(
    counts: Int[np.ndarray, "variants seeds speakers classes classes"],
    weights: Float[np.ndarray, "contrasts variants"],
    metric: Metric = metrics.unweighted_accuracy,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Estimate:
    """Estimates weighted sums of the variants' figures, [contrasts, ...]; the same speakers are drawn for all variants.

    Weights of 1 and -1 make a difference; those of a factorial design its effects.
    """

    def statistic(confusion: np.ndarray) -> np.ndarray:
        figures = metrics.mean_of_present(metric(confusion), axis=2)  # [chunk, variants, ...]
        return np.moveaxis(np.tensordot(figures, weights, axes=(1, 1)), -1, 1)

    value = statistic(counts.sum(axis=2)[None])[0]
    speakers = (counts.sum(axis=(0, 1, -1, -2)) > 0).sum()
    return estimate(value, bootstrap(counts, statistic, replicates=replicates, seed=seed), speakers)


def bootstrap(
    counts: Int[np.ndarray, "*batch speakers classes classes"], statistic: Metric, *, replicates: int, seed: int
) -> Float[np.ndarray, "replicates ..."]:
    """Draws speakers with replacement and computes `statistic` of each draw's summed confusion matrices.

    The classes stay those of the whole: a draw that has lost one is drawn again, since a mean over fewer classes is
    another quantity. Where speakers share so few classes that such draws hardly exist, replicates are NaN.
    `statistic` maps [chunk, *batch, classes, classes] to [chunk, ...], and empty matrices to NaN.
    """
    by_speaker = np.moveaxis(counts, -3, 0)
    heard = by_speaker.sum(axis=-1).reshape(len(by_speaker), -1)
    return bootstrap_sums(by_speaker, statistic, replicates=replicates, seed=seed, needed=heard[:, heard.any(axis=0)])


def bootstrap_sums(
    sums: Num[np.ndarray, "speakers ..."],
    statistic: Metric,
    *,
    replicates: int,
    seed: int,
    needed: Num[np.ndarray, "speakers _"] | None = None,
) -> Float[np.ndarray, "replicates ..."]:
    """Draws speakers with replacement and computes `statistic` of what each draw's speakers add up to.

    `statistic` maps [chunk, *figures] to [chunk, ...]. No column of `needed` (nonnegative) may add up to zero: such a
    draw is drawn again.
    """
    rng = np.random.default_rng(seed)
    flat = sums.reshape(len(sums), -1).astype(np.float64)  # float64: BLAS multiplies it, and counts stay exact
    needed = np.ones((len(sums), 1)) if needed is None else needed
    chunks = []
    with _threads().limit(limits=1 if flat.size <= SMALL else None):
        for start in range(0, replicates, 1000):  # bounds the memory
            weights = _draw_speakers(rng, needed, min(1000, replicates - start))
            chunks.append(statistic((weights @ flat).reshape(len(weights), *sums.shape[1:])))
            if not weights.any(axis=1).all():
                break  # nothing can be estimated: more draws would only take time
    return np.concatenate(chunks)


@functools.cache
def _threads() -> ThreadpoolController:
    """The libraries whose threads can be limited; finding them takes milliseconds."""
    return ThreadpoolController()


def _draw_speakers(rng: np.random.Generator, reference: np.ndarray, size: int) -> np.ndarray:
    """Draws how often each speaker counts, [size, speakers]; no column of `reference` [speakers, any] may sum to zero.

    A draw for which this does not succeed holds no speaker at all.
    """
    speakers = len(reference)
    weights = np.empty((size, speakers))
    lost = np.ones(size, bool)
    for _ in range(DRAWS):
        weights[lost] = rng.multinomial(speakers, np.full(speakers, 1 / speakers), size=lost.sum())
        lost[lost] = (weights[lost] @ reference == 0).any(axis=1)
        if not lost.any():
            return weights
    weights[lost] = 0
    return weights


def estimate(
    value: float | np.ndarray,
    replicates: np.ndarray,
    speakers: int | np.integer | np.ndarray,
    bounds: tuple[float | np.ndarray, float | np.ndarray] = (-np.inf, np.inf),
) -> Estimate:
    """The 95 % interval of a value from its bootstrap replicates over speakers, by Student's t, cut off at `bounds`."""
    freedom = np.asarray(speakers) - 1.0
    spread = replicates.std(axis=0)
    estimable = (freedom > 0) & (spread > 1e-12)
    freedom = np.where(estimable, freedom, np.nan)
    standard_error = spread * np.sqrt((freedom + 1) / freedom)
    half = special.stdtrit(freedom, (1 + LEVEL) / 2) * standard_error
    low, high = np.clip(value - half, *bounds), np.clip(value + half, *bounds)
    return Estimate(*map(np.asarray, (value, low, high, standard_error)))


def ends(low: float | np.ndarray, high: float | np.ndarray) -> tuple[float, float] | None:
    """The ends of an interval as numbers; None where there is none."""
    return None if np.isnan([low, high]).any() else (float(low), float(high))


def no_interval(speakers: int) -> str:
    """Says why there is no interval over this many speakers."""
    if speakers == 1:
        return "one speaker only: no interval can be estimated"
    return "no interval can be estimated: the speakers do not differ, or too few of them share an emotion"
