"""Simulated studies of known truth, in the designs that studies have: which speakers share a trained model.

Speakers differ in how well they are recognised, overall, for each class, and in what a variant gains on them. Each
training adds noise of two kinds: one that all speakers share whom the model tests, and one of each speaker. Where one
training tests all speakers, its figures are of this model, so that the truth is what this model would have of very many
speakers; else it is what very many trainings would have.
`benchmarks/inference_simulations.py` makes the tables of docs/statistics.md from these.
"""

import dataclasses
import functools

import numpy as np
from scipy import special

from ser_jax.statistics import fairness, intervals, paired, tests
from ser_jax.statistics.components import Cells

CLASSES = 7
MARGIN = 0.02
# How many speakers a model tests; None is all of them.
DESIGNS = {"own model": 1, "folds": 4, "one model": None}
OWN, SHARED = 0.3, 0.2  # standard deviations of the noise of training, in logits
SPEAKER = 0.6  # of speakers' difficulty, overall and for each class
GAIN = 0.3  # of what a variant gains on a speaker and class
DIFFICULTY = 0.8 + np.linspace(-0.6, 0.6, CLASSES)


def simulate(
    rng: np.random.Generator,
    design: str,
    speakers: int,
    seeds: int,
    effects: tuple[float, ...],
    *,
    balanced: bool = True,
    shared: float = SHARED,
    heard: int | None = None,
) -> tuple[Cells, np.ndarray]:
    """Returns the counts of a study of variants that gain `effects`, in logits, and their true UA (see the module).

    `heard` is how many speakers have the first class, by default all.
    """
    size = DESIGNS[design] or speakers
    size = min(size, max(1, speakers // 3)) if design == "folds" else size
    fold_of = np.arange(speakers) // size
    folds = fold_of.max() + 1
    expected = np.full(CLASSES, 7.0) if balanced else np.array([30.0, 12.0, 8.0, 5.0, 3.0, 2.0, 1.0])
    counts = rng.poisson(expected, size=(speakers, CLASSES))
    counts[0] = np.maximum(counts[0], 1)
    if heard is not None:
        counts[:, 0] = 3 * (rng.permutation(speakers) < heard)
    difficulty = DIFFICULTY + rng.normal(0, SPEAKER, (speakers, 1)) + rng.normal(0, SPEAKER, (speakers, CLASSES))
    gain = rng.normal(0, GAIN, (len(effects), 1, speakers, CLASSES)) + np.reshape(effects, (-1, 1, 1, 1))
    noise = rng.normal(0, OWN, (len(effects), seeds, speakers, CLASSES))
    of_models = rng.normal(0, shared, (len(effects), seeds, folds, CLASSES))
    noise = noise + of_models[:, :, fold_of]
    hits = rng.binomial(counts, special.expit(difficulty + gain + noise))
    right = hits[..., None] * np.eye(CLASSES, dtype=int)
    wrong = (counts - hits)[..., None] * np.roll(np.eye(CLASSES, dtype=int), 1, axis=1)  # UA does not care where
    names = (tuple(map(str, range(number))) for number in (speakers, folds))
    cells = Cells(right + wrong, np.arange(speakers), fold_of, tuple(range(seeds)), *names)
    if cells.of_these_models():
        truth = [_expected(effect + own, 0.0) for effect, own in zip(effects, of_models[:, 0, 0], strict=True)]
    else:
        truth = [true_ua(effect, shared=shared) for effect in effects]
    return cells, np.array(truth)


@functools.cache
def true_ua(effect: float, *, shared: float = SHARED) -> float:
    """UA of a variant that gains `effect`, from very many speakers and trainings."""
    return _expected(np.full(CLASSES, effect), shared)


def _expected(gained: np.ndarray, shared: float) -> float:
    """UA over the distributions of speakers and of the noise of training, by quadrature."""
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    deviation = np.sqrt(2 * SPEAKER**2 + GAIN**2 + OWN**2 + shared**2)
    recalls = special.expit((DIFFICULTY + gained)[:, None] + deviation * points) @ weights / weights.sum()
    return float(recalls.mean())


def effect_of(difference: float) -> float:
    """The effect, in logits, that gains so much UA over a variant without one."""
    effects = np.linspace(0, 3, 61)
    gains = [true_ua(effect) - true_ua(0.0) for effect in effects]
    return float(np.interp(difference, gains, effects))


def rates(
    design: str,
    speakers: int,
    seeds: int,
    *,
    studies: int,
    effect: float = 0.0,
    family: int = 1,
    replicates: int = 300,
    seed: int = 0,
    balanced: bool = True,
    shared: float = SHARED,
    heard: int | None = None,
    of_variants: bool = False,
) -> dict[str, float]:
    """Shares of studies: whose interval of the difference, and of UA, covers the truth, and by verdict.

    `family` variants are compared with a baseline, of which the first gains `effect`. "flips" is how often an exact
    test of sign flips over speakers finds the difference; "UA covered", by the interval of a single variant, is looked
    at where `of_variants`. "detectable" is the mean over studies, NaN where there are no verdicts.
    """
    rng, options = np.random.default_rng(seed), {"balanced": balanced, "shared": shared, "heard": heard}
    weights = np.concatenate([np.eye(family), -np.ones((family, 1))], axis=1)
    seen: dict[str, list[float]] = {}
    for study in range(studies):
        cells, of_variant = simulate(rng, design, speakers, seeds, (effect, *[0.0] * family), **options)
        truth = of_variant[0] - of_variant[-1]
        made = paired.contrasts(cells, weights, {}, margin=MARGIN, replicates=replicates, seed=study)
        one, *_ = paired.correct([paired.Comparison(name="", kind="", **figures) for figures in made])
        low, high = one.ci95
        figures = {
            "covered": low <= truth <= high,
            "covered above": high < truth,
            "difference": one.verdict == "difference",
            "equivalent": one.verdict == "equivalent",
            "flips": sign_flips(cells, weights[0]) < 0.05 if speakers <= 10 else np.nan,
            "detectable": np.nan if one.detectable is None else one.detectable,
            "detectable of four": tests.detectable_difference(one.standard_error, one.degrees, 4),
            "half width": one.half_width,
        }
        if of_variants:
            alone = dataclasses.replace(cells, counts=cells.counts[-1:])
            ua = intervals.interval(alone, replicates=replicates, seed=study)
            figures["UA covered"] = ua.low <= of_variant[-1] <= ua.high
        for name, value in figures.items():
            seen.setdefault(name, []).append(float(value))
    return {name: float(np.mean(values)) for name, values in seen.items()}


def gaps_found(
    design: str, seeds: int, *, studies: int, speakers: int = 24, shared: float = 0.3, seed: int = 0
) -> float:
    """The share of studies that find a gap between genders where there is none.

    Speakers of both genders take turns. Each training learns the classes of each gender better or worse.
    """
    rng, found = np.random.default_rng(seed), 0
    female = np.arange(speakers) % 2 == 0
    for study in range(studies):
        sides = [simulate(rng, design, speakers, seeds, (0.0,), shared=shared)[0] for _ in range(2)]
        counts = np.where(female[:, None, None], *(one.counts for one in sides))
        cells = dataclasses.replace(sides[0], counts=counts)
        *_, gap, _ = fairness.gap_estimate(cells, female, replicates=200, seed=study)
        found += gap.low > 0 or gap.high < 0
    return found / studies


def sign_flips(cells: Cells, weights: np.ndarray) -> float:
    """The exact p value of all flips of the signs of what speakers add to the difference."""
    hits = np.tensordot(weights, np.diagonal(cells.counts, axis1=-2, axis2=-1), axes=1).mean(axis=0)
    own = (hits / cells.counts[0, 0].sum(axis=(0, -1))).sum(axis=1)
    signs = 1 - 2 * (np.arange(2 ** len(own))[:, None] >> np.arange(len(own)) & 1)
    return float(np.mean(abs(signs @ own) >= abs(own.sum()) - 1e-12))
