"""Simulated studies of known truth, in the designs that studies have: which speakers share a trained model.

Speakers differ in how well they are recognised, overall, for each class, and in what a variant gains on them. Each
training adds noise of two kinds: one that all speakers share whom the model tests, and one of each speaker.
`benchmarks/inference_simulations.py` makes the tables of docs/statistics.md from these.
"""

import functools

import numpy as np
from scipy import special

from ser_jax.statistics import bootstrap, metrics, paired, tests
from ser_jax.statistics.components import Cells

CLASSES = 7
MARGIN = 0.02
# How many speakers a model tests; None is all of them.
DESIGNS = {"own model": 1, "folds": 4, "one model": None}
OWN, SHARED = 0.3, 0.2  # standard deviations of the noise of training, in logits
GAIN = 0.3  # of what a variant gains on a speaker and class


def simulate(
    rng: np.random.Generator,
    design: str,
    speakers: int,
    seeds: int,
    effects: tuple[float, ...],
    *,
    balanced: bool = True,
    shared: float = SHARED,
) -> Cells:
    """Makes the counts of a study of variants that gain `effects`, in logits."""
    size = DESIGNS[design] or speakers
    size = min(size, max(1, speakers // 3)) if design == "folds" else size
    fold_of = np.arange(speakers) // size
    folds = fold_of.max() + 1
    expected = np.full(CLASSES, 7.0) if balanced else np.array([30.0, 12.0, 8.0, 5.0, 3.0, 2.0, 1.0])
    counts = rng.poisson(expected, size=(speakers, CLASSES))
    counts[0] = np.maximum(counts[0], 1)
    difficulty = 0.8 + np.linspace(-0.6, 0.6, CLASSES)
    difficulty = difficulty + rng.normal(0, 0.6, (speakers, 1)) + rng.normal(0, 0.6, (speakers, CLASSES))
    gain = rng.normal(0, GAIN, (len(effects), 1, speakers, CLASSES)) + np.reshape(effects, (-1, 1, 1, 1))
    noise = rng.normal(0, OWN, (len(effects), seeds, speakers, CLASSES))
    noise = noise + rng.normal(0, shared, (len(effects), seeds, folds, CLASSES))[:, :, fold_of]
    hits = rng.binomial(counts, special.expit(difficulty + gain + noise))
    right = hits[..., None] * np.eye(CLASSES, dtype=int)
    wrong = (counts - hits)[..., None] * np.roll(np.eye(CLASSES, dtype=int), 1, axis=1)  # UA does not care where
    names = (tuple(map(str, range(number))) for number in (speakers, folds))
    return Cells(right + wrong, np.arange(speakers), fold_of, tuple(range(seeds)), *names)


@functools.cache
def true_ua(effect: float, *, balanced: bool = True, shared: float = SHARED) -> float:
    """UA of a variant that gains `effect`, from very many speakers with a model each."""
    rng, options = np.random.default_rng(1), {"balanced": balanced, "shared": shared}
    parts = [simulate(rng, "own model", 10_000, 1, (effect,), **options).counts.sum(axis=(0, 1, 2)) for _ in range(4)]
    return float(metrics.unweighted_accuracy(sum(parts)))


def effect_of(difference: float, **options) -> float:
    """The effect, in logits, that gains so much UA over a variant without one."""
    effects = np.linspace(0, 3, 13)
    gains = [true_ua(effect, **options) - true_ua(0.0, **options) for effect in effects]
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
    of_variants: bool = False,
) -> dict[str, float]:
    """Shares of studies: whose interval of the difference, and of UA, covers the truth, and by verdict.

    `family` variants are compared with a baseline, of which the first gains `effect`. "flips" is how often an exact
    test of sign flips over speakers finds the difference; "UA covered", by the interval of a single variant, is looked
    at where `of_variants`. "detectable" is the mean over studies.
    """
    rng, options = np.random.default_rng(seed), {"balanced": balanced, "shared": shared}
    truth = true_ua(effect, **options) - true_ua(0.0, **options)
    weights = np.concatenate([np.eye(family), -np.ones((family, 1))], axis=1)
    seen: dict[str, list[float]] = {}
    for study in range(studies):
        cells = simulate(rng, design, speakers, seeds, (effect, *[0.0] * family), **options)
        made = paired.contrasts(cells, weights, {}, margin=MARGIN, replicates=replicates, seed=study)
        one, *_ = paired.correct([paired.Comparison(name="", kind="", **figures) for figures in made])
        low, high = one.ci95
        figures = {
            "covered": low <= truth <= high,
            "covered above": high < truth,
            "difference": one.verdict == "difference",
            "equivalent": one.verdict == "equivalent",
            "flips": sign_flips(cells, weights[0]) < 0.05 if speakers <= 10 else np.nan,
            "detectable": one.detectable,
            "detectable of four": tests.detectable_difference(one.standard_error, one.degrees, 4),
            "half width": one.half_width,
        }
        if of_variants:
            ua = bootstrap.bootstrap_interval(cells.by_speaker()[-1], replicates=replicates, seed=study)
            figures["UA covered"] = ua.low <= true_ua(0.0, **options) <= ua.high
        for name, value in figures.items():
            seen.setdefault(name, []).append(float(value))
    return {name: float(np.mean(values)) for name, values in seen.items()} | {"truth": truth}


def sign_flips(cells: Cells, weights: np.ndarray) -> float:
    """The exact p value of all flips of the signs of what speakers add to the difference."""
    hits = np.tensordot(weights, np.diagonal(cells.counts, axis1=-2, axis2=-1), axes=1).mean(axis=0)
    own = (hits / cells.counts[0, 0].sum(axis=(0, -1))).sum(axis=1)
    signs = 1 - 2 * (np.arange(2 ** len(own))[:, None] >> np.arange(len(own)) & 1)
    return float(np.mean(abs(signs @ own) >= abs(own.sum()) - 1e-12))
