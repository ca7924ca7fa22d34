"""The field's figures, all computed from confusion matrices of shape [..., classes, classes].

Rows are the reference, columns what was predicted. Matrices of folds or speakers add up, so a figure that is pooled
over them is the figure of their sum, and a bootstrap replicate is a weighted sum. A class that is absent from the
reference is left out of every mean, and its own recall is NaN.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Num
from numpy.typing import ArrayLike

from ser_jax import plugins
from ser_jax.errors import UserError
from ser_jax.predictions import emotions_of, labels_of, probabilities_of


@dataclasses.dataclass(frozen=True)
class ConfusionCounts:
    """Confusion matrices of one variant, apart for each seed and group (speaker or fold)."""

    counts: Int[np.ndarray, "seeds groups classes classes"]
    seeds: tuple[int, ...]
    groups: tuple[str | int, ...]
    emotions: tuple[str, ...]


def confusion_counts(predictions: pd.DataFrame, group: str) -> ConfusionCounts:
    """Counts (reference, predicted) pairs for each seed and each value of the column `group`, as "speaker" or "fold".

    The predicted class is the one of the highest probability (the first of them at a tie).
    """
    emotions = emotions_of(predictions)
    seed_codes, seeds = pd.factorize(predictions["seed"], sort=True)
    group_codes, groups = pd.factorize(predictions[group], sort=True)
    shape = (len(seeds), len(groups), len(emotions), len(emotions))
    predicted = probabilities_of(predictions).argmax(axis=1)
    cells = np.ravel_multi_index((seed_codes, group_codes, labels_of(predictions), predicted), shape)
    counts = np.bincount(cells, minlength=np.prod(shape)).reshape(shape)
    return ConfusionCounts(counts, tuple(seeds.tolist()), tuple(groups.tolist()), emotions)


def recall(confusion: Num[np.ndarray, "*batch classes classes"]) -> Float[np.ndarray, "*batch classes"]:
    """Share of each class that was recognised; NaN for a class that is absent from the reference."""
    return divide(_hits(confusion), confusion.sum(axis=-1))


def unweighted_accuracy(confusion: Num[np.ndarray, "*batch classes classes"]) -> Float[np.ndarray, "*batch"]:
    """UA: the mean recall over the classes present in the reference (Schuller et al. 2009, INTERSPEECH challenge)."""
    return mean_of_present(recall(confusion), axis=-1)


def weighted_accuracy(confusion: Num[np.ndarray, "*batch classes classes"]) -> Float[np.ndarray, "*batch"]:
    """WA: the share of all utterances that were recognised."""
    return divide(_hits(confusion).sum(axis=-1), confusion.sum(axis=(-2, -1)))


def macro_f1(confusion: Num[np.ndarray, "*batch classes classes"]) -> Float[np.ndarray, "*batch"]:
    """The mean over the classes present in the reference of F1, 2 hits / (reference + predicted)."""
    reference, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    f1 = divide(2 * _hits(confusion), reference + predicted)
    return mean_of_present(np.where(reference > 0, f1, np.nan), axis=-1)


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric that every table has: `function` maps confusion [..., classes, classes] to shares [...]."""

    name: str
    title: str
    function: Callable[[Num[np.ndarray, "*batch classes classes"]], Float[np.ndarray, "*batch"]]


METRICS = (
    Metric("ua", "UA", unweighted_accuracy),
    Metric("wa", "WA", weighted_accuracy),
    Metric("macro_f1", "macro F1", macro_f1),
)


def with_others(names: Sequence[str], where: str = "config.study.metrics") -> tuple[Metric, ...]:
    """Returns `METRICS` and those from outside, each named `package.module:NAME` of a `Metric`.

    Raises UserError, which begins with `where`, for a name that is no metric, and for two metrics of one name.
    """
    found = list(METRICS)
    for name in names:
        if not plugins.is_outside(name):
            raise UserError(f"{where}: found {name!r}, expected package.module:NAME of a Metric")
        metric = plugins.resolve(name, {}, where, Metric)
        if metric.name in [known.name for known in found]:
            raise UserError(f"{where}: {name}: there is a metric {metric.name} already")
        found.append(metric)
    return tuple(found)


def mean_of_present(values: Float[np.ndarray, "..."], axis: int) -> Float[np.ndarray, "..."]:
    """The mean along an axis of what is not NaN, and NaN where all is."""
    present = ~np.isnan(values)
    return divide(np.where(present, values, 0).sum(axis=axis), present.sum(axis=axis))


def _hits(confusion: np.ndarray) -> np.ndarray:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def divide(numerator: ArrayLike, denominator: ArrayLike) -> np.ndarray:
    """The quotient, and NaN where the denominator is zero."""
    return np.divide(
        numerator, denominator, out=np.full(np.shape(denominator), np.nan), where=np.not_equal(denominator, 0)
    )
