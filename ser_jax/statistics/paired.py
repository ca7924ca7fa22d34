"""Intervals and tests that respect what repeats: speakers, folds and seeds.

Speakers are what a corpus samples from a population, so they are what the bootstrap resamples, each with all its
utterances and seeds (a cluster bootstrap). A corpus has few of them, and there the percentiles of the replicates make
intervals that are too short. So the interval is the estimate -+ t * s: s the standard deviation of the replicates times
sqrt(n / (n - 1)), and t the quantile of Student's distribution with n - 1 degrees of freedom, n speakers.

Coverage in percent of nominal 95 % intervals, 1,000 simulated studies of 7 classes and 2 seeds, Monte Carlo error 0.7
(`python -m tests.evaluation.simulated_studies`, four minutes). The effects are of a design of 2 x 3 variants
(`factorial`); ECE is of variants that are calibrated, a little and much overconfident (`calibration`); percentiles, for
the difference, are what plain bootstrap percentiles cover:

    speakers    UA   difference   main effect   interaction   gender gap   Brier            ECE   percentiles
           3  93.0         95.6          95.6          95.4            -    95.4   97 / 98 / 97          72.5
           6  94.6         94.8          94.9          95.8         95.5    96.1   93 / 96 / 95          85.6
          10  93.6         95.4          95.2          93.7         96.0    94.7   93 / 95 / 95          90.7
          24  95.8         94.8          94.5          95.0         94.4    94.7   95 / 94 / 94          92.0

A single speaker's UA (`fairness`): 94.2 with 2 utterances of a class, 97.0 with 7, since seeds repeat utterances.
An effect pooled over corpora (`across_corpora`): 100, 99.2, 95.9 and 93.9 with 2, 3, 5 and 10 corpora.

Where there is no effect, the interval leaves out zero in 4.0 to 5.8 percent of the studies, and the test below finds
one in at most 0.6 percent. Where there is one, the test finds it less often: in 10 speakers, a main effect that the
interval tells from zero in 96 percent of the studies is found in 76 percent, and a difference in 12 instead of 47.

What the intervals leave out: training folds overlap, and seeds are averaged, not resampled. Where a fold holds one
speaker out, the run-to-run noise of each fold's training shows up between speakers and is covered.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Num
from scipy import stats

from ser_jax.errors import UserError
from ser_jax.statistics import metrics

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
    standard_error: float | None
    p_nadeau_bengio: float | None
    p_holm: float | None
    minimum_detectable_difference: float | None
    seed_differences: dict[str, float]  # pooled over folds
    fold_differences: dict[str, float]  # averaged over seeds
    folds: int
    seeds: int
    speakers: int
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
    weights, both = np.array([[1.0, -1.0]]), np.stack([counts, baseline_counts])
    difference = bootstrap_contrasts(both, weights, metric, replicates=replicates, seed=seed)
    return Estimate(*(np.asarray(value[0]) for value in dataclasses.astuple(difference)))


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
    limit = np.where(weights > 0, weights, 0).sum(axis=1).reshape(-1, *[1] * (value.ndim - 1))
    replicated = bootstrap(counts, statistic, replicates=replicates, seed=seed)
    return estimate(value, replicated, speakers, bounds=(-limit, limit))


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
    for start in range(0, replicates, 1000):  # bounds the memory
        weights = _draw_speakers(rng, needed, min(1000, replicates - start))
        chunks.append(statistic((weights @ flat).reshape(len(weights), *sums.shape[1:])))
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


def estimate(
    value: float | np.ndarray,
    replicates: np.ndarray,
    speakers: int | np.integer | np.ndarray,
    bounds: tuple[float | np.ndarray, float | np.ndarray],
) -> Estimate:
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

    `fold_sizes` gives each fold's numbers of (training, test) utterances; where it is empty there is no test.
    Raises UserError for an unknown variant, no common (fold, seed, utterance), and a fold without sizes.
    """
    names = [variant, baseline]
    tables, fold_sizes, notes = paired(predictions, names, f"comparison {variant} against {baseline}", fold_sizes)
    weights = np.array([[1.0, -1.0]])
    by_speaker = [metrics.confusion_counts(table, "speaker") for table in tables]
    counts = np.stack([confusion.counts for confusion in by_speaker])
    difference = bootstrap_contrasts(counts, weights, replicates=replicates, seed=seed)
    by_fold = [metrics.confusion_counts(table, "fold") for table in tables]
    per_run = run_contrasts(np.stack([confusion.counts for confusion in by_fold]), weights)[0]
    pooled = metrics.unweighted_accuracy(counts.sum(axis=2))
    figures = difference_figures(difference, 0, per_run, by_speaker[0], by_fold[0].groups, fold_sizes)
    figures["notes"] = (*notes, *figures["notes"])
    return Comparison(
        variant=variant,
        baseline=baseline,
        p_holm=None,
        seed_differences=_named(by_speaker[0].seeds, pooled[0] - pooled[1]),
        fold_differences=_named(by_fold[0].groups, metrics.mean_of_present(per_run, axis=0)),
        **figures,
    )


def paired(
    predictions: pd.DataFrame,
    variants: Sequence[str],
    what: str,
    fold_sizes: Mapping[str, tuple[int, int]],
) -> tuple[list[pd.DataFrame], Mapping[str, tuple[int, int]], tuple[str, ...]]:
    """The variants' rows, restricted to what all were tested on, in the same order; fold sizes for a test; and notes.

    Rows are paired by (fold, seed, utterance). Variants of different protocols have no fold in common: they are paired
    by (seed, utterance), the folds are those of the first variant, and there are no sizes, since runs that trained on
    different utterances cannot be tested as pairs.
    Raises UserError, which begins with `what`, for an unknown variant and where nothing is shared.
    """
    tables = []
    for name in variants:
        table = predictions[predictions["variant"] == name]
        if table.empty:
            known = ", ".join(sorted(predictions["variant"].unique()))
            raise UserError(f"{what}: no variant {name} (there are: {known})")
        tables.append(table)
    key, notes = ["fold", "seed", "utterance"], []
    indexed, common = _shared(tables, key)
    once = not any(table.duplicated(key[1:]).any() for table in tables)
    if common.empty and once:
        indexed, common = _shared(tables, key[1:])
        folds = indexed[0].loc[common, "fold"]
        indexed = [table.loc[common].assign(fold=folds) for table in indexed]
        notes.append("tested in different folds, so that they are paired by utterance")
        fold_sizes = {}
    if common.empty:
        raise UserError(f"{what}: they share no fold, seed and utterance to compare on")
    unshared = sum(len(table) - len(common) for table in tables)
    if unshared:
        which = "one of the two variants has" if len(variants) == 2 else "some of the variants have"
        notes.append(f"{unshared} predictions left out, since only {which} them")
    rows = [(table if len(table) == len(common) else table.loc[common]).reset_index() for table in indexed]
    return rows, fold_sizes, tuple(notes)


def _shared(tables: Sequence[pd.DataFrame], key: list[str]) -> tuple[list[pd.DataFrame], pd.Index]:
    """The tables by `key`, sorted, and the keys that all have."""
    indexed = [table.set_index(key).sort_index() for table in tables]
    common = indexed[0].index
    for table in indexed[1:]:
        if not common.equals(table.index):
            common = common.intersection(table.index)
    return indexed, common


def run_contrasts(
    counts: Int[np.ndarray, "variants seeds folds classes classes"], weights: Float[np.ndarray, "contrasts variants"]
) -> Float[np.ndarray, "contrasts seeds folds"]:
    """Weighted sums of the variants' UA in each run, over the classes of its own fold; NaN where nothing was run."""
    return np.tensordot(weights, metrics.unweighted_accuracy(counts), axes=1)


def difference_figures(
    difference: Estimate,
    index: int,
    per_run: Float[np.ndarray, "seeds folds"],
    by_speaker: metrics.ConfusionCounts,
    folds: Sequence[str],
    fold_sizes: Mapping[str, tuple[int, int]],
) -> dict[str, Any]:
    """What is told of contrast number `index`: effect, interval, test, what could have been shown, and notes."""
    value, low, high, standard_error = (float(figure[index]) for figure in dataclasses.astuple(difference))
    seeds, speakers, notes = len(by_speaker.seeds), len(by_speaker.groups), []
    estimable = not np.isnan(standard_error)
    if not estimable:
        notes.append(no_interval(speakers))
    if seeds == 1:
        notes.append("one seed: how much the difference varies between seeds is not known")
    p_value = None
    if fold_sizes:
        p_value = nadeau_bengio(per_run[~np.isnan(per_run)], _test_to_train(folds, fold_sizes))
        if p_value is None:
            notes.append("fewer than two runs, or all alike: no test")
    else:
        notes.append("the sizes of the folds are not known: no test")
    return {
        "ua_difference": value,
        "ci95": (low, high) if estimable else None,
        "standard_error": standard_error if estimable else None,
        "p_nadeau_bengio": p_value,
        "minimum_detectable_difference": minimum_detectable_difference(standard_error, speakers) if estimable else None,
        "folds": len(folds),
        "seeds": seeds,
        "speakers": speakers,
        "notes": tuple(notes),
    }


def _named(names: Sequence[Any], values: np.ndarray) -> dict[str, float]:
    return {str(name): float(value) for name, value in zip(names, values, strict=True)}


def _test_to_train(folds: Sequence[str], fold_sizes: Mapping[str, tuple[int, int]]) -> float:
    missing = [fold for fold in folds if fold not in fold_sizes]
    if missing:
        raise UserError(f"the sizes of fold {missing[0]} are not known, and the corrected t-test needs them")
    return float(np.mean([fold_sizes[fold][1] / fold_sizes[fold][0] for fold in folds]))
