"""Single variants' other figures, and gaps between genders, from predictions, written a second time.

As in `tests.recomputed`, nothing of ser_jax.statistics is used. A figure is a function of sums over utterances; what a
cell (fold, speaker) adds to it is its derivative, worked out by hand for each.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.stats import t as student

from tests.recomputed import DRAWS, draws_folds, groups, sum_of_squares, with_training

BINS = 10


@dataclasses.dataclass(frozen=True)
class Sums:
    """What adds up over utterances, [seed, cell, sums], and the cells (fold, speaker), sorted."""

    values: np.ndarray
    cells: list[tuple[str, str]]

    def of(self, speakers: set[str]) -> "Sums":
        """The cells of some speakers."""
        kept = [i for i, cell in enumerate(self.cells) if cell[1] in speakers]
        return Sums(self.values[:, kept], [self.cells[i] for i in kept])


@dataclasses.dataclass(frozen=True)
class Figure:
    """The figure [...] of sums [..., sums], and what cells add to it.

    The latter takes the values [seed, cell, sums] and the sums over cells, and gives [seed, cell].
    """

    value: Callable[[np.ndarray], np.ndarray]
    adds: Callable[[np.ndarray, np.ndarray], np.ndarray]


def sums_of(table: pd.DataFrame, rows: np.ndarray) -> Sums:
    """The sums of `rows` [utterance, sums] by seed and cell."""
    seeds = sorted(set(table["seed"]))
    pairs = list(zip(table["fold"], table["speaker"], strict=True))
    cells = sorted(set(pairs))
    place, seed = {cell: i for i, cell in enumerate(cells)}, {one: i for i, one in enumerate(seeds)}
    values = np.zeros((len(seeds), len(cells), rows.shape[1]))
    np.add.at(values, ([seed[one] for one in table["seed"]], [place[pair] for pair in pairs]), rows)
    return Sums(values, cells)


def predicted(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Probabilities, the one-hot reference and the classes."""
    columns = [column for column in table if column.startswith("p_")]
    probabilities = table[columns].to_numpy(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    classes = [column[2:] for column in columns]
    return probabilities, (table["label"].to_numpy()[:, None] == np.array(classes)).astype(float), classes


def of_classes(probabilities: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Of each class its utterances, hits and how often it was predicted, [utterance, 3 x classes]."""
    said = np.eye(reference.shape[1])[probabilities.argmax(axis=1)]
    return np.concatenate([reference, reference * said, said], axis=1)


def parts(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Utterances, hits and predictions, [..., classes] each."""
    count = sums.shape[-1] // 3
    return sums[..., :count], sums[..., count : 2 * count], sums[..., 2 * count :]


def recall_of(chosen: list[int]) -> Figure:
    """The mean recall of some classes, by their numbers."""

    def value(sums: np.ndarray) -> np.ndarray:
        total, hits, _ = parts(sums)
        return (hits[..., chosen] / total[..., chosen]).mean(axis=-1)

    def adds(values: np.ndarray, whole: np.ndarray) -> np.ndarray:
        (total, hits, _), (all_total, all_hits, _) = parts(values), parts(whole)
        gained = (hits - all_hits / np.maximum(all_total, 1) * total) / np.maximum(all_total, 1)
        return gained[..., chosen].mean(axis=-1)

    return Figure(value, adds)


def _accuracy(sums: np.ndarray) -> np.ndarray:
    total, hits, _ = parts(sums)
    return hits.sum(axis=-1) / total.sum(axis=-1)


def _accuracy_adds(values: np.ndarray, whole: np.ndarray) -> np.ndarray:
    total, hits, _ = parts(values)
    return (hits.sum(axis=-1) - _accuracy(whole) * total.sum(axis=-1)) / parts(whole)[0].sum()


def macro_f1_of(present: list[int]) -> Figure:
    """The mean F1 of the classes that are there: 2 hits by utterances and predictions."""

    def value(sums: np.ndarray) -> np.ndarray:
        total, hits, said = (part[..., present] for part in parts(sums))
        return (2 * hits / (total + said)).mean(axis=-1)

    def adds(values: np.ndarray, whole: np.ndarray) -> np.ndarray:
        total, hits, said = (part[..., present] for part in parts(values))
        all_total, all_hits, all_said = (part[..., present] for part in parts(whole))
        both = all_total + all_said
        return ((2 * hits - 2 * all_hits / both * (total + said)) / both).mean(axis=-1)

    return Figure(value, adds)


ACCURACY = Figure(_accuracy, _accuracy_adds)


def of_bins(probabilities: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """One, and in the bin of its confidence the confidence less the hit, [utterance, 1 + bins]."""
    confidence = probabilities.max(axis=1)
    hit = reference[np.arange(len(reference)), probabilities.argmax(axis=1)]
    number = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    rows = np.zeros((len(reference), 1 + BINS))
    rows[:, 0] = 1
    rows[np.arange(len(rows)), 1 + number] = confidence - hit
    return rows


def _ece(sums: np.ndarray) -> np.ndarray:
    return abs(sums[..., 1:]).sum(axis=-1) / sums[..., 0]


def _ece_adds(values: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return (values[..., 1:] @ np.sign(whole[1:]) - _ece(whole) * values[..., 0]) / whole[0]


ECE = Figure(_ece, _ece_adds)


def of_distances(probabilities: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """One, and the squared distance of the probabilities from the reference, [utterance, 2]."""
    return np.stack([np.ones(len(reference)), ((probabilities - reference) ** 2).sum(axis=1)], axis=1)


def _mean(sums: np.ndarray) -> np.ndarray:
    return sums[..., 1] / sums[..., 0]


MEAN = Figure(_mean, lambda values, whole: (values[..., 1] - _mean(whole) * values[..., 0]) / whole[0])


def by_speaker(sums: Sums) -> np.ndarray:
    """The sums of each speaker, [speaker, seed, sums]."""
    return np.einsum("gc,scx->gsx", groups([cell[1] for cell in sums.cells]), sums.values)


def draws_of(size: int, needed: np.ndarray | None = None) -> np.ndarray:
    """How often each of so many speakers is drawn, [draw, speaker]; no column of `needed` adds up to zero in a draw."""
    rng, found = np.random.default_rng(54321), np.zeros((0, size))
    for _ in range(40):
        times = rng.multinomial(size, np.full(size, 1 / size), size=DRAWS).astype(float)
        found = np.concatenate([found, times if needed is None else times[(times @ needed > 0).all(axis=1)]])
        if len(found) >= DRAWS:
            break
    return found[:DRAWS]


def interval(sums: Sums, figure: Figure, drawn: np.ndarray, *, number: int | None = None, bias: bool = False) -> dict:
    """Estimate, and the ends of its 95 % interval, with the noise of training that speakers share.

    `drawn` are the sums of draws of speakers, [draw, seed, sums]; `number` speakers count, by default all. With `bias`
    the lower end is moved down by what draws are higher on average.
    """
    value, draws = figure.value(sums.values.sum(axis=1)).mean(), figure.value(drawn).mean(axis=-1)
    number = number or len({cell[1] for cell in sums.cells})
    variance, degrees = error_of(sums, figure, draws, number)
    half = student.ppf(0.975, degrees) * math.sqrt(variance) if variance > 0 else math.nan
    lower = max(0.0, draws.mean() - value) if bias else 0.0
    return {"value": value, "low": value - half - lower, "high": value + half}


def error_of(sums: Sums, figure: Figure, draws: np.ndarray, number: int) -> tuple[float, float]:
    """Squared standard error and degrees of freedom."""
    if number < 2 or draws.std() < 1e-12:
        return math.nan, math.nan
    return with_training(draws.var() * number / (number - 1), number - 1.0, cell_adds(sums, figure), sums.cells)


def cell_adds(sums: Sums, figure: Figure) -> np.ndarray:
    """What each seed and cell adds to its seed's figure, near the mean over seeds."""
    return figure.adds(sums.values, sums.values.sum(axis=1).mean(axis=0))


def gender_gap(sums: Sums, gender_of: dict[str, str]) -> dict:
    """UA of both genders over the classes that both have, and of the gap: value, ends, and p."""
    sides = [{s for _, s in sums.cells if gender_of.get(s) == gender} for gender in ("female", "male")]
    heard = [parts(sums.of(side).values)[0].sum(axis=(0, 1)) > 0 for side in sides]
    shared = np.flatnonzero(heard[0] & heard[1]).tolist()
    figure, made, adds, squares = recall_of(shared), [], [], []
    for sign, side in zip((1, -1), sides, strict=True):
        one = sums.of(side)
        own = by_speaker(one)
        drawn = np.tensordot(draws_of(len(own), own[..., shared].reshape(len(own), -1)), own, axes=1)
        made.append(interval(one, figure, drawn))
        squares.append(figure.value(drawn).mean(axis=-1).var() * len(side) / (len(side) - 1))
        adds.append((one.cells, sign * cell_adds(one, figure)))
    value = made[0]["value"] - made[1]["value"]
    cells = sorted([*adds[0][0], *adds[1][0]])
    own = np.zeros((len(sums.values), len(cells)))
    for of_cells, values in adds:
        own[:, [cells.index(cell) for cell in of_cells]] = values
    freedom = [len(side) - 1 for side in sides]
    if draws_folds(cells, len(own)):
        names = sorted({cell[0] for cell in cells})
        of_fold = dict(zip(names, groups([cell[0] for cell in cells]) @ own[0], strict=True))
        folds = [sorted({cell[0] for cell in cells if cell[1] in side}) for side in sides]
        if set(folds[0]) & set(folds[1]):
            return _gap(made, value, sum_of_squares(np.array(list(of_fold.values()))), len(names) - 1.0)
        squares = [sum_of_squares(np.array([of_fold[name] for name in side])) for side in folds]
        freedom = [len(side) - 1 for side in folds]
    total = sum(squares)
    degrees = total**2 / sum(square**2 / free for square, free in zip(squares, freedom, strict=True))
    if not draws_folds(cells, len(own)):
        total, degrees = with_training(total, degrees, own, cells)
    return _gap(made, value, total, degrees)


def _gap(made: list[dict], value: float, variance: float, degrees: float) -> dict:
    error = math.sqrt(variance)
    half = student.ppf(0.975, degrees) * error
    p = 2 * student.sf(abs(value) / error, degrees)
    return {"female": made[0], "male": made[1], "value": value, "low": value - half, "high": value + half, "p": p}
