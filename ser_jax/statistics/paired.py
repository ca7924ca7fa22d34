"""Paired comparisons of variants: the difference in UA, and all that follows from its standard error.

A comparison is estimated on the utterances that its variants share, in the same folds and seeds. Its interval, p value,
verdict and detectable difference come from one estimate and one standard error: the bootstrap over speakers
(`bootstrap`), with the noise of training that speakers share added (`components`), and Student's t (`tests`). All
comparisons that answer one question are one family, whose p values Holm's method corrects together.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from ser_jax.errors import UserError
from ser_jax.numbers import count
from ser_jax.statistics import bootstrap, components, metrics, tests
from ser_jax.statistics.components import Cells, Components

MARGIN = 0.02  # of UA: differences below it do not matter, where a study does not say otherwise
PAIR = "pair"

FoldSizes = Mapping[str, tuple[int, int]]  # fold -> numbers of (training, test) utterances
Paired = tuple[list[pd.DataFrame], FoldSizes, tuple[str, ...]]  # what `paired` returns


class NothingSharedError(UserError):
    """Variants that were tested on nothing in common, as where the runs that one has diverged for the other."""


@dataclasses.dataclass(frozen=True)
class NadeauBengio:
    """The corrected resampled t-test over runs, a sensitivity analysis beside the comparison's own test."""

    p: float
    detectable: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A difference in UA (shares, not points); None for what cannot be estimated, and `notes` say why.

    Attributes:
      name: says what is compared with what, "eca against none".
      kind: "pair", or of a factorial design "main effect" or "interaction".
      variant, baseline: of a pair.
      levels, reference: of an effect, factor -> level, and factor -> reference level.
      estimate: the UA gained, pooled over folds and averaged over seeds.
      degrees: of freedom, of Student's t, which `standard_error` is used with.
      ci95: the 95 % interval, by itself; ci90 the 90 % interval, which lies within the margin where TOST finds.
      p: of no difference, by itself: below 0.05 exactly where `ci95` excludes zero.
      p_holm: p corrected for all comparisons of the question; p_equivalence likewise, of two one-sided tests (TOST).
      verdict: "difference" (p_holm < 0.05), else "equivalent" (p_equivalence < 0.05), else "undecided". None without an
        interval, and where one training of each variant tested all speakers; then p is of these models, uncorrected.
      detectable: the smallest true difference for which the verdict is "difference" in 80 % of such studies.
      margin: the largest difference that counts as negligible.
      family: how many comparisons were corrected together.
      seeds_share, speakers_share: of the squared standard error; they sum to one.
      half_width: of `ci95`; with_twice_seeds, with_twice_speakers: what to expect of it then.
      nadeau_bengio: a sensitivity analysis.
      seed_differences: pooled over folds; fold_differences: over each fold's own classes, averaged over seeds.
    """

    name: str
    kind: str
    estimate: float
    standard_error: float | None
    degrees: float | None
    ci95: tuple[float, float] | None
    ci90: tuple[float, float] | None
    p: float | None
    p_holm: float | None
    p_equivalence: float | None
    verdict: str | None
    detectable: float | None
    margin: float
    family: int
    seeds_share: float | None
    speakers_share: float | None
    half_width: float | None
    with_twice_seeds: float | None
    with_twice_speakers: float | None
    nadeau_bengio: NadeauBengio | None
    speakers: int
    seeds: int
    folds: int
    notes: tuple[str, ...]
    variant: str | None = None
    baseline: str | None = None
    levels: dict[str, str] = dataclasses.field(default_factory=dict)
    reference: dict[str, str] = dataclasses.field(default_factory=dict)
    seed_differences: dict[str, float] = dataclasses.field(default_factory=dict)
    fold_differences: dict[str, float] = dataclasses.field(default_factory=dict)


def compare(
    predictions: pd.DataFrame, variant: str, baseline: str, fold_sizes: FoldSizes, **options: Any
) -> Comparison:
    """Compares two variants on the utterances that both were tested on in the same fold and seed; a family of one.

    `fold_sizes` gives each fold's numbers of (training, test) utterances; where it is empty there is no test of Nadeau
    and Bengio. `options` are those of `compare_paired`. Raises UserError for an unknown variant, no common (fold, seed,
    utterance), a fold without sizes, and a margin that is not above zero.
    """
    return compare_paired((variant, baseline), pair(predictions, variant, baseline, fold_sizes), **options)


def pair(predictions: pd.DataFrame, variant: str, baseline: str, fold_sizes: FoldSizes) -> Paired:
    """The rows of two variants that are compared, as `paired` returns them."""
    return paired(predictions, (variant, baseline), f"comparison {variant} against {baseline}", fold_sizes)


def compare_paired(
    names: tuple[str, str],
    both: Paired,
    *,
    margin: float = MARGIN,
    replicates: int = bootstrap.REPLICATES,
    seed: int = 0,
) -> Comparison:
    """Compares a variant with its baseline on the rows that are paired: see `compare`."""
    (variant, baseline), (tables, fold_sizes, notes) = names, both
    cells, weights = components.count_cells(tables), np.array([[1.0, -1.0]])
    (found,) = contrasts(cells, weights, fold_sizes, margin=margin, replicates=replicates, seed=seed)
    pooled = np.tensordot(weights[0], metrics.unweighted_accuracy(cells.counts.sum(axis=2)), axes=1)
    by_fold = np.tensordot(weights[0], metrics.unweighted_accuracy(cells.by_fold()), axes=1)
    return Comparison(
        name=f"{variant} against {baseline}",
        kind=PAIR,
        variant=variant,
        baseline=baseline,
        seed_differences=_named(cells.seeds, pooled),
        fold_differences=_named(cells.folds, metrics.mean_of_present(by_fold, axis=0)),
        **{**found, "notes": (*notes, *found["notes"])},
    )


def correct(family: Sequence[Comparison]) -> list[Comparison]:
    """Corrects the p values of one family together, and with them verdicts and detectable differences."""
    tested = [one.verdict is not None for one in family]
    p_holm = tests.holm([one.p if known else None for one, known in zip(family, tested, strict=True)])
    p_equivalence = tests.holm(
        [_equivalence(one) if known else None for one, known in zip(family, tested, strict=True)]
    )
    number = sum(tested)
    return [
        dataclasses.replace(
            one,
            p_holm=different,
            p_equivalence=alike,
            verdict=tests.verdict(different, alike),
            detectable=None
            if different is None
            else tests.detectable_difference(one.standard_error, one.degrees, number),
            family=number,
        )
        for one, different, alike in zip(family, p_holm, p_equivalence, strict=True)
    ]


def contrasts(
    cells: Cells,
    weights: Float[np.ndarray, "contrasts variants"],
    fold_sizes: FoldSizes,
    *,
    margin: float,
    replicates: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Estimates weighted sums of the variants' UA: the fields of a `Comparison` of each, as a family of its own."""
    if not margin > 0:
        raise UserError(f"margin of equivalence: found {margin:g}, expected more than zero")
    values, variances = estimate_variances(cells, weights, replicates=replicates, seed=seed)
    made = []
    for value, parts, contrast in zip(values, variances, weights, strict=True):
        own = components.influences(cells, contrast)
        figures = _figures(float(value), parts, margin)
        if cells.of_these_models():  # what another training would give is not known
            figures |= dict.fromkeys(("p_holm", "p_equivalence", "verdict", "detectable"))
        notes = [*limits(cells, parts), *([] if np.isnan(parts.total) else _rare(cells))]
        test = None
        if not fold_sizes:
            notes.append("the sizes of the folds are not known: no test of Nadeau and Bengio")
        else:
            runs = by_run(own, cells) + figures["estimate"]
            test = tests.nadeau_bengio(runs[~np.isnan(runs)], _test_to_train(cells.folds, fold_sizes))
        figures |= {"nadeau_bengio": None if test is None else NadeauBengio(*test)}
        sizes = {"folds": len(cells.folds), "seeds": len(cells.seeds), "speakers": len(cells.speakers)}
        made.append({**figures, **sizes, "notes": tuple(notes)})
    return made


def estimate_variances(
    cells: Cells, weights: Float[np.ndarray, "contrasts variants"], *, replicates: int, seed: int
) -> tuple[Float[np.ndarray, " contrasts"], list[Components]]:
    """Returns weighted sums of the variants' UA, and the parts of their squared standard errors.

    The bootstrap draws speakers, or folds where only they show the noise of training (`Cells.draws_folds`).
    """
    found = bootstrap.bootstrap_contrasts(cells.drawn(), weights, replicates=replicates, seed=seed)
    return found.value, [
        components.of_difference(components.influences(cells, contrast), cells, float(error) ** 2)
        for contrast, error in zip(weights, found.standard_error, strict=True)
    ]


def by_run(own: Float[np.ndarray, "seeds cells"], cells: Cells) -> Float[np.ndarray, "seeds folds"]:
    """Each run's distance from the estimate, whose mean over runs is zero; NaN where nothing was run."""
    runs = np.full((len(own), len(cells.folds)), np.nan)
    for fold in range(len(cells.folds)):
        here = own[:, cells.fold_of == fold]
        runs[:, fold] = np.where(np.isnan(here).all(axis=1), np.nan, np.nansum(here, axis=1) * len(cells.folds))
    return runs


def _figures(estimate: float, parts: Components, margin: float) -> dict[str, Any]:
    """What follows from the estimate and its standard error alone."""
    known = {"estimate": estimate, "margin": margin, "family": 1}
    if np.isnan(parts.total):
        fields = ("standard_error", "degrees", "ci95", "ci90", "p", "p_holm", "p_equivalence", "verdict", "detectable")
        shares = ("seeds_share", "speakers_share", "half_width", "with_twice_seeds", "with_twice_speakers")
        return {**known, **dict.fromkeys((*fields, *shares))}
    error, degrees = float(np.sqrt(parts.total)), float(parts.degrees)
    p = tests.t_test(estimate, error, degrees)
    alike = tests.equivalence_test(estimate, error, degrees, margin)
    share = None if np.isnan(parts.seeds) else float(parts.seeds / parts.total)
    return {
        **known,
        "standard_error": error,
        "degrees": degrees,
        "ci95": tests.t_interval(estimate, error, degrees),
        "ci90": tests.t_interval(estimate, error, degrees, 0.90),
        "p": p,
        "p_holm": p,
        "p_equivalence": alike,
        "verdict": tests.verdict(p, alike),
        "detectable": tests.detectable_difference(error, degrees),
        "seeds_share": share,
        "speakers_share": None if share is None else 1 - share,
        "half_width": parts.half_width(),
        "with_twice_seeds": None if share is None else parts.scaled(seeds=2.0).half_width(),
        "with_twice_speakers": parts.scaled(speakers=2.0).half_width(),
    }


def limits(cells: Cells, parts: Components, *, verdicts: bool = True) -> list[str]:
    """Says what the design of a difference cannot show; `verdicts` where others of its kind have one."""
    notes = []
    if np.isnan(parts.total):
        notes.append(bootstrap.no_interval(len(cells.speakers)))
    if cells.trained_once():
        notes.append("one seed: how much of the uncertainty is due to training, and not to speakers, is not known")
    if cells.draws_folds():
        notes.append("one seed, and the speakers of a fold share a model: the interval is over folds, not speakers")
    elif cells.of_these_models() and not np.isnan(parts.total):
        known = (
            "interval and p are of these trained models, and there is no verdict on what they differ in"
            if verdicts
            else "the interval is of these trained models, and there is no p value of what they differ in"
        )
        notes.append(f"one training of each variant tested all speakers: {known}; three or more seeds would give one")
    elif cells.trained_once() and cells.shares_models():
        notes.append("one seed, and speakers share models: the noise of their training is estimated from the folds")
    return notes


def _rare(cells: Cells) -> list[str]:
    """Notes on classes that too few of the speakers, or folds, that are drawn have."""
    what, number = "folds" if cells.draws_folds() else "speakers", components.few_clusters(cells.drawn()[0])
    single, few = int((number == 1).sum()), int((number > 1).sum())
    notes = []
    if single:
        notes.append(
            f"{count(single, 'emotion')} from one of the {what} only: interval and p value leave out how {what} differ "
            "there, and find differences too easily"
        )
    if few:
        notes.append(
            f"{count(few, 'emotion')} from two or three of the {what} only: the interval is too short, and p finds "
            "differences too easily"
        )
    return notes


def _equivalence(one: Comparison) -> float:
    return tests.equivalence_test(one.estimate, one.standard_error, one.degrees, one.margin)


def paired(predictions: pd.DataFrame, variants: Sequence[str], what: str, fold_sizes: FoldSizes) -> Paired:
    """The variants' rows, restricted to what all were tested on, in the same order; fold sizes for a test; and notes.

    Rows are paired by (fold, seed, utterance). Variants of different protocols have no fold in common: they are paired
    by (seed, utterance), the folds are those whose models test most speakers, since noise that these share must not be
    missed, and there are no sizes, since runs that trained on different utterances cannot be tested as pairs.
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
        indexed = [table.loc[common] for table in indexed]
        folds = max(indexed, key=_speakers_of_a_model)["fold"]
        indexed = [table.assign(fold=folds) for table in indexed]
        notes.append("tested in different folds, so that they are paired by utterance")
        fold_sizes = {}
    if common.empty:
        raise NothingSharedError(f"{what}: they share no fold, seed and utterance to compare on")
    unshared = sum(len(table) - len(common) for table in tables)
    if unshared:
        which = "one of the two variants has" if len(variants) == 2 else "some of the variants have"
        notes.append(f"{unshared} predictions left out, since only {which} them")
    rows = [(table if len(table) == len(common) else table.loc[common]).reset_index() for table in indexed]
    lost = sorted(
        {speaker for table in tables for speaker in table["speaker"].unique()} - {*rows[0]["speaker"].unique()}
    )
    if lost:
        notes.append(f"speakers that not all variants were tested on, left out: {', '.join(map(str, lost))}")
    return rows, fold_sizes, tuple(notes)


def _speakers_of_a_model(table: pd.DataFrame) -> tuple[float, int, tuple[str, ...]]:
    """How many speakers a fold has; what follows decides between equals, whichever is the first."""
    folds = max(1, table["fold"].nunique())
    return len(table[["fold", "speaker"]].drop_duplicates()) / folds, -folds, tuple(table["fold"])


def _shared(tables: Sequence[pd.DataFrame], key: list[str]) -> tuple[list[pd.DataFrame], pd.Index]:
    """The tables by `key`, sorted, and the keys that all have."""
    indexed = [table.set_index(key).sort_index() for table in tables]
    common = indexed[0].index
    for table in indexed[1:]:
        if not common.equals(table.index):
            common = common.intersection(table.index)
    return indexed, common


def _named(names: Sequence[Any], values: np.ndarray) -> dict[str, float]:
    return {str(name): float(value) for name, value in zip(names, values, strict=True)}


def _test_to_train(folds: Sequence[str], fold_sizes: FoldSizes) -> float:
    missing = [fold for fold in folds if fold not in fold_sizes]
    if missing:
        raise UserError(f"the sizes of fold {missing[0]} are not known, and the test of Nadeau and Bengio needs them")
    return float(np.mean([fold_sizes[fold][1] / fold_sizes[fold][0] for fold in folds]))
