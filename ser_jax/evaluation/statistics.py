"""Intervals and tests that respect what repeats: speakers, folds and seeds.

Speakers are what a corpus samples from a population, so they are what the bootstrap resamples, each with all its
utterances and seeds (a cluster bootstrap). A corpus has few of them, and there the percentiles of the replicates make
intervals that are too short. So the interval is the estimate -+ t * s: s the standard deviation of the replicates times
sqrt(n / (n - 1)), and t the quantile of Student's distribution with n - 1 degrees of freedom, n speakers.

Coverage in percent of nominal 95 % intervals, 1,000 simulated studies of 7 classes and 2 seeds, Monte Carlo error 0.7
(`python -m tests.evaluation.simulated_studies`):

    speakers   UA: this one   percentiles   difference of UA: this one   percentiles
           3           93.2          69.5                         94.5          69.6
           6           94.0          84.0                         97.0          87.7
          10           94.7          89.1                         94.3          88.7
          24           94.1          92.5                         94.2          91.2

What the intervals leave out: training folds overlap, and seeds are averaged, not resampled. Where a fold holds one
speaker out, the run-to-run noise of each fold's training shows up between speakers and is covered.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy import stats

from ser_jax.errors import UserError
from ser_jax.evaluation import metrics

REPLICATES = 10_000
LEVEL = 0.95
POWER = 0.80
DRAWS = 200  # of speakers, until they hold every class

Metric = Callable[[np.ndarray], np.ndarray]  # confusion [..., classes, classes] -> [...] or [..., classes]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure (or one for each class) with its interval; NaN where something cannot be estimated."""

    value: Float[np.ndarray, "..."]
    low: Float[np.ndarray, "..."]
    high: Float[np.ndarray, "..."]
    standard_error: Float[np.ndarray, "..."]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A variant against its baseline, on the runs and utterances they share; None for what cannot be told."""

    variant: str
    baseline: str
    ua_difference: float
    ci95: tuple[float, float] | None
    p_nadeau_bengio: float | None
    p_holm: float | None
    minimum_detectable_difference: float | None
    folds: int
    seeds: int
    notes: tuple[str, ...]


def bootstrap_interval(
    counts: Int[np.ndarray, "seeds speakers classes classes"],
    metric: Metric = metrics.unweighted_accuracy,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Estimate:
    """Estimates a metric, pooled over folds and then averaged over seeds, with its 95 % interval over speakers.

    Each class's figure (a metric that gives [..., classes]) counts only the speakers that the class was heard from.
    The interval is NaN with one speaker, and where no speaker differs from another: neither shows what others would do.
    """

    def statistic(confusion: np.ndarray) -> np.ndarray:
        return metrics.mean_of_present(metric(confusion), axis=1)

    value = statistic(counts.sum(axis=1)[None])[0]
    heard = counts.sum(axis=(0, -1)) > 0  # [speakers, classes]
    speakers = heard.sum(axis=0) if np.ndim(value) else heard.any(axis=1).sum()
    return estimate(value, bootstrap(counts, statistic, replicates=replicates, seed=seed), speakers, bounds=(0.0, 1.0))


def bootstrap_difference(
    counts: Int[np.ndarray, "seeds speakers classes classes"],
    baseline_counts: Int[np.ndarray, "seeds speakers classes classes"],
    metric: Metric = metrics.unweighted_accuracy,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Estimate:
    """Estimates a variant's gain over its baseline; the same speakers are drawn for both: what they share cancels."""

    def statistic(confusion: np.ndarray) -> np.ndarray:
        variant, baseline = np.moveaxis(metrics.mean_of_present(metric(confusion), axis=2), 1, 0)
        return variant - baseline

    both = np.stack([counts, baseline_counts])
    value = statistic(both.sum(axis=2)[None])[0]
    speakers = (counts.sum(axis=(0, -1, -2)) > 0).sum()
    return estimate(value, bootstrap(both, statistic, replicates=replicates, seed=seed), speakers, bounds=(-1.0, 1.0))


def bootstrap(
    counts: Int[np.ndarray, "*batch speakers classes classes"], statistic: Metric, *, replicates: int, seed: int
) -> Float[np.ndarray, "replicates ..."]:
    """Draws speakers with replacement and computes `statistic` of each draw's summed confusion matrices.

    The classes stay those of the whole: a draw that has lost one is drawn again, since a mean over fewer classes is
    another quantity. Where speakers share so few classes that such draws hardly exist, replicates are NaN.
    `statistic` maps [chunk, *batch, classes, classes] to [chunk, ...], and empty matrices to NaN.
    """
    rng = np.random.default_rng(seed)
    by_speaker = np.moveaxis(counts, -3, 0).astype(np.float64)  # float64: BLAS multiplies it, and counts stay exact
    reference = by_speaker.sum(axis=-1).reshape(len(by_speaker), -1)
    reference = reference[:, reference.any(axis=0)]
    chunks = []
    for start in range(0, replicates, 1000):  # bounds the memory
        weights = _draw_speakers(rng, reference, min(1000, replicates - start))
        totals = weights @ by_speaker.reshape(len(by_speaker), -1)
        chunks.append(statistic(totals.reshape(len(weights), *by_speaker.shape[1:])))
        if not weights.any(axis=1).all():
            break  # nothing can be estimated: more draws would only take time
    return np.concatenate(chunks)


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
            break
    weights[lost] = 0
    return weights


def estimate(value: ArrayLike, replicates: np.ndarray, speakers: ArrayLike, bounds: tuple[float, float]) -> Estimate:
    """The 95 % interval of a value from its bootstrap replicates over speakers, by Student's t, cut off at `bounds`."""
    freedom = np.asarray(speakers) - 1.0
    spread = replicates.std(axis=0)
    estimable = (freedom > 0) & (spread > 1e-12)
    freedom = np.where(estimable, freedom, np.nan)
    standard_error = spread * np.sqrt((freedom + 1) / freedom)
    half = stats.t.ppf((1 + LEVEL) / 2, freedom) * standard_error
    low, high = np.clip(value - half, *bounds), np.clip(value + half, *bounds)
    return Estimate(*map(np.asarray, (value, low, high, standard_error)))


def no_interval(speakers: int) -> str:
    """Says why there is no interval over this many speakers."""
    if speakers == 1:
        return "one speaker only: no interval can be estimated"
    return "no interval can be estimated: the speakers do not differ, or too few of them share an emotion"


def minimum_detectable_difference(standard_error: float, speakers: int) -> float:
    """The smallest true difference whose interval excludes zero in 80 % of studies of this standard error.

    (t.975 + t.80) * standard error, with n - 1 degrees of freedom (Bloom 1995, Evaluation Review 19(5); there with
    normal quantiles, which promise too much with few speakers).
    """
    return float((stats.t.ppf((1 + LEVEL) / 2, speakers - 1) + stats.t.ppf(POWER, speakers - 1)) * standard_error)


def nadeau_bengio(differences: Float[np.ndarray, " runs"], test_to_train: float) -> float | None:
    """Returns the two-sided p value of the corrected resampled t-test that the mean difference is zero.

    `differences` has one value for each (fold, seed). Runs share training data, so their mean varies more than
    1 / runs says: (1 / runs + test / train) * variance (Nadeau & Bengio 2003, Machine Learning 52, section 3).
    It is a cautious test: where runs in truth share nothing, it finds next to nothing at the 5 % level.
    None with fewer than two runs, or when all differences are the same.
    """
    runs = len(differences)
    if runs < 2 or np.ptp(differences) < 1e-12:
        return None
    standard_error = np.sqrt((1 / runs + test_to_train) * differences.var(ddof=1))
    return float(2 * stats.t.sf(abs(differences.mean()) / standard_error, runs - 1))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusts the p values of one family for their number (Holm 1979); None is no test and stays None."""
    tested = [i for i, p in enumerate(p_values) if p is not None]
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(sorted(tested, key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(tested) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def compare_all(
    predictions: pd.DataFrame,
    comparisons: Sequence[tuple[str, str]],
    fold_sizes: Mapping[str, tuple[int, int]],
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> list[Comparison]:
    """Makes every (variant, baseline) comparison of a study and corrects their p values together (Holm)."""
    made = [
        compare(predictions, variant, baseline, fold_sizes, replicates=replicates, seed=seed)
        for variant, baseline in comparisons
    ]
    corrected = holm([comparison.p_nadeau_bengio for comparison in made])
    return [dataclasses.replace(comparison, p_holm=p) for comparison, p in zip(made, corrected, strict=True)]


def compare(
    predictions: pd.DataFrame,
    variant: str,
    baseline: str,
    fold_sizes: Mapping[str, tuple[int, int]],
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Comparison:
    """Compares two variants on the utterances that both were tested on in the same fold and seed.

    `fold_sizes` gives each fold's numbers of (training, test) utterances.
    Raises UserError for an unknown variant, no common (fold, seed, utterance), and a fold without sizes.
    """
    notes = []
    ours, theirs = _paired(predictions, variant, baseline, notes)
    by_speaker = [metrics.confusion_counts(table, "speaker") for table in (ours, theirs)]
    seeds, speakers = len(by_speaker[0].seeds), len(by_speaker[0].groups)
    difference = bootstrap_difference(by_speaker[0].counts, by_speaker[1].counts, replicates=replicates, seed=seed)
    standard_error = float(difference.standard_error)
    estimable = not np.isnan(standard_error)
    if not estimable:
        notes.append(no_interval(speakers))
    if seeds == 1:
        notes.append("one seed: how much the difference varies between seeds is not known")

    by_fold = [metrics.confusion_counts(table, "fold") for table in (ours, theirs)]
    p_value = nadeau_bengio(_run_differences(*by_fold), _test_to_train(by_fold[0].groups, fold_sizes))
    if p_value is None:
        notes.append("fewer than two runs, or all alike: no test")
    return Comparison(
        variant=variant,
        baseline=baseline,
        ua_difference=float(difference.value),
        ci95=(float(difference.low), float(difference.high)) if estimable else None,
        p_nadeau_bengio=p_value,
        p_holm=None,
        minimum_detectable_difference=minimum_detectable_difference(standard_error, speakers) if estimable else None,
        folds=len(by_fold[0].groups),
        seeds=seeds,
        notes=tuple(notes),
    )


def _paired(
    predictions: pd.DataFrame, variant: str, baseline: str, notes: list[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both variants' rows, restricted to the (fold, seed, utterance) that both have, in the same order."""
    tables = []
    for name in (variant, baseline):
        table = predictions[predictions["variant"] == name]
        if table.empty:
            known = ", ".join(sorted(predictions["variant"].unique()))
            raise UserError(f"comparison {variant} against {baseline}: no variant {name} (there are: {known})")
        tables.append(table.set_index(["fold", "seed", "utterance"]).sort_index())
    common = tables[0].index.intersection(tables[1].index)
    if common.empty:
        raise UserError(
            f"comparison {variant} against {baseline}: they share no fold, seed and utterance to compare on"
        )
    unshared = sum(len(table) for table in tables) - 2 * len(common)
    if unshared:
        notes.append(f"{unshared} predictions left out, since only one of the two variants has them")
    ours, theirs = (table.loc[common].reset_index() for table in tables)
    return ours, theirs


def _run_differences(ours: metrics.ConfusionCounts, theirs: metrics.ConfusionCounts) -> np.ndarray:
    """The UA differences of all (fold, seed) pairs that were run, each over the classes of its own fold."""
    run = ours.counts.sum(axis=(-1, -2)) > 0
    return metrics.unweighted_accuracy(ours.counts[run]) - metrics.unweighted_accuracy(theirs.counts[run])


def _test_to_train(folds: Sequence[str], fold_sizes: Mapping[str, tuple[int, int]]) -> float:
    missing = [fold for fold in folds if fold not in fold_sizes]
    if missing:
        raise UserError(f"the sizes of fold {missing[0]} are not known, and the corrected t-test needs them")
    return float(np.mean([fold_sizes[fold][1] / fold_sizes[fold][0] for fold in folds]))
