"""Intervals, differences, p values and verdicts from predictions, written a second time: NumPy and SciPy's t alone.

Nothing of ser_jax.statistics is used, so that what is published is not checked by the code that made it.
"""

import itertools
import math

import numpy as np
import pandas as pd
from scipy import special
from scipy.stats import chi
from scipy.stats import t as student

DRAWS = 4000


class Shared:
    """Hits and utterances of variants that were tested on the same rows, by seed and cell (fold, speaker)."""

    def __init__(self, table: pd.DataFrame, variants: list[str]):
        classes = [column[2:] for column in table.columns if column.startswith("p_")]
        rows = {}
        for name in variants:
            own = table[table["variant"] == name]
            said = np.array(classes)[own[[f"p_{c}" for c in classes]].to_numpy(float).argmax(axis=1)]
            own = own.assign(hit=(said == own["label"].to_numpy()).astype(float))
            rows[name] = own.set_index(["fold", "seed", "utterance"])[["speaker", "label", "hit"]]
        common = rows[variants[0]].index
        for other in rows.values():
            common = common.intersection(other.index)
        if common.empty:  # of other folds: the first variant's
            by_utterance = {name: own.reset_index().set_index(["seed", "utterance"]) for name, own in rows.items()}
            first = by_utterance[variants[0]]
            for name, own in by_utterance.items():
                own = own.loc[own.index.intersection(first.index)]
                fold = first.loc[own.index, "fold"].to_numpy()
                rows[name] = own.assign(fold=fold).reset_index().set_index(["fold", "seed", "utterance"])
            common = rows[variants[0]].index
            for other in rows.values():
                common = common.intersection(other.index)
        one = rows[variants[0]].loc[common].reset_index()
        self.seeds, self.folds, self.speakers = (sorted(set(one[c])) for c in ("seed", "fold", "speaker"))
        self.cells = sorted(set(zip(one["fold"], one["speaker"], strict=True)))
        present = [c for c in classes if (one["label"] == c).any()]
        place = {cell: i for i, cell in enumerate(self.cells)}
        index = (
            np.array([self.seeds.index(s) for s in one["seed"]]),
            np.array([place[cell] for cell in zip(one["fold"], one["speaker"], strict=True)]),
            np.array([present.index(c) for c in one["label"]]),
        )
        self.total = np.zeros((len(self.seeds), len(self.cells), len(present)))
        np.add.at(self.total, index, 1)
        self.hits = np.zeros((len(variants), *self.total.shape))
        for i, name in enumerate(variants):
            np.add.at(self.hits[i], index, rows[name].loc[common, "hit"].to_numpy())


def figure(shared: Shared, weights: np.ndarray) -> dict:
    """Estimate, standard error and degrees of freedom of a weighted sum of UA; NaN without an interval.

    With one seed and folds of several speakers, folds are drawn for a difference, speakers for a variant alone.
    """
    speaker, fold = groups([cell[1] for cell in shared.cells]), groups([cell[0] for cell in shared.cells])
    over_folds = len(weights) > 1 and draws_folds(shared.cells, len(shared.seeds))
    clusters = fold if over_folds else speaker
    value = ua_sum(shared.hits.sum(axis=2), shared.total.sum(axis=1), weights)
    variance = bootstrap_variance(shared, clusters, weights)
    degrees = len(clusters) - 1.0
    if not over_folds:
        variance, degrees = with_training(variance, degrees, run_additions(shared, weights), shared.cells)
    return {"estimate": value, "error": math.sqrt(variance), "degrees": degrees}


def groups(by: list) -> np.ndarray:
    """A matrix [group, cell] that adds the cells of each group up."""
    return np.array([[float(one == name) for one in by] for name in sorted(set(by))])


def draws_folds(cells: list[tuple], seeds: int) -> bool:
    """Whether folds are drawn for a difference: one seed, and folds of several speakers that test no one twice."""
    folds, speakers = (len({cell[i] for cell in cells}) for i in (0, 1))
    return seeds == 1 and len(cells) == speakers and len(cells) > folds > 1


def with_training(variance: float, degrees: float, adds: np.ndarray, cells: list[tuple]) -> tuple[float, float]:
    """Variance and degrees of freedom with the noise of training that speakers share; `adds` are [seed, cell]."""
    speaker, fold = groups([cell[1] for cell in cells]), groups([cell[0] for cell in cells])
    nested = len(cells) == len(speaker)
    if len(cells) == len(fold) or math.isnan(variance):
        return variance, degrees
    if len(cells) == len(speaker) * len(fold) and len(fold) > 1:
        adds = adds.reshape(-1, len(fold), len(speaker)).reshape(-1, len(speaker)) * len(fold)
        fold = np.ones((1, len(speaker)))
    of_fold, number = adds @ fold.T, len(adds)
    if number > 1:
        between = of_fold.var(axis=0, ddof=1) / number
        common = max(0.0, between.sum() - (adds.var(axis=0, ddof=1) / number).sum())
        trainings = (number - 1) * len(fold)
        if trainings == 1:
            degrees = 1.0
        elif common > 0:
            parts = variance**2 / degrees + (between**2).sum() / (number - 1)
            degrees = max((variance + common) ** 2 / parts, min(degrees, trainings))
        variance += common
    elif not nested:  # one seed: variances of folds and speakers that cross, less that of their cells
        variance += max(0.0, sum_of_squares(adds[0] @ fold.T) - sum_of_squares(adds[0]))
        degrees = min(degrees, len(fold) - 1.0)
    return variance, degrees


def sum_of_squares(adds: np.ndarray) -> float:
    """The variance of what clusters add to a sum of mean zero."""
    return float((adds**2).sum() * len(adds) / (len(adds) - 1))


def ua_sum(hits: np.ndarray, total: np.ndarray, weights: np.ndarray) -> float:
    """Weighted sum over variants of UA, averaged over seeds; hits [variants, seeds, classes]."""
    return float((weights[:, None] * (hits / total).mean(axis=-1)).sum(axis=0).mean())


def bootstrap_variance(shared: Shared, clusters: np.ndarray, weights: np.ndarray) -> float:
    """n / (n - 1) times the variance over draws of clusters that hold every class."""
    hits = np.einsum("gc,vsck->gvsk", clusters, shared.hits)
    total = np.einsum("gc,sck->gsk", clusters, shared.total)
    size, rng = len(clusters), np.random.default_rng(12345)
    if size < 2:
        return math.nan
    found: list[float] = []
    for _ in range(40):
        times = rng.multinomial(size, np.full(size, 1 / size), size=DRAWS).astype(float)
        drawn, count = np.tensordot(times, hits, axes=1), np.tensordot(times, total, axes=1)
        whole = (count > 0).all(axis=(1, 2))
        recall = drawn[whole] / count[whole][:, None]
        found += np.einsum("v,rvsk->r", weights, recall).tolist()
        if len(found) >= DRAWS:
            break
    values = np.array(found[:DRAWS]) / (len(shared.seeds) * shared.total.shape[-1])
    if len(values) < 2 or values.std() < 1e-12:
        return math.nan
    return float(values.var() * size / (size - 1))


def run_additions(shared: Shared, weights: np.ndarray) -> np.ndarray:
    """What each seed and cell adds to the sum beyond its share."""
    gained = np.tensordot(weights, shared.hits, axes=1)
    expected = gained.sum(axis=(0, 1)) / shared.total.sum(axis=(0, 1))
    return ((gained - expected * shared.total) / shared.total.sum(axis=1, keepdims=True)).mean(axis=-1)


def inference(found: dict, margin: float) -> dict:
    """The interval and p values that follow."""
    value, error, degrees = found["estimate"], found["error"], found["degrees"]
    half = student.ppf(0.975, degrees) * error
    return {
        **found,
        "ci95": (value - half, value + half),
        "p": 2 * student.sf(abs(value) / error, degrees),
        "alike": student.sf((margin - abs(value)) / error, degrees),
    }


def holm(values: list[float]) -> list[float]:
    """Step-down: the smallest p value times their number, the next times one less, and never below the one before."""
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted = [0.0] * len(values)
    for rank, i in enumerate(order):
        before = adjusted[order[rank - 1]] if rank else 0.0
        adjusted[i] = max(before, min(1.0, values[i] * (len(values) - rank)))
    return adjusted


def detectable(found: dict, family: int) -> float:
    """The difference that a t test finds with 80 % at 5 % by the number of tests; an error is too small on average."""
    critical = student.ppf(1 - 0.025 / family, found["degrees"])
    low, high = 0.0, 10 * critical
    while high - low > 1e-9 * critical:
        middle = (low + high) / 2
        low, high = (middle, high) if special.nctdtr(found["degrees"], middle, critical) > 0.2 else (low, middle)
    return low * found["error"] / (chi.mean(found["degrees"]) / math.sqrt(found["degrees"]))


def effect_weights(effect: dict, question: dict, variants: list[str]) -> np.ndarray:
    """How much each variant counts in a main effect, or in an interaction of two factors."""
    factors, levels = question["factors"], question["levels"]
    others = [name for name in factors if name not in effect["levels"]]
    by_levels = {tuple(levels[v][f] for f in factors): i for i, v in enumerate(variants)}
    weights = np.zeros(len(variants))
    own = list(effect["levels"])
    for chosen in itertools.product((0, 1), repeat=len(own)):
        sign = (-1) ** (len(own) - sum(chosen))
        fixed = {f: effect["levels" if one else "reference"][f] for f, one in zip(own, chosen, strict=True)}
        for rest in itertools.product(*(factors[f] for f in others)):
            key = {**fixed, **dict(zip(others, rest, strict=True))}
            weights[by_levels[tuple(key[f] for f in factors)]] += sign / np.prod([len(factors[f]) for f in others])
    return weights
