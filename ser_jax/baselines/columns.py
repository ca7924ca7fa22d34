"""Which columns of pooled hidden states a linear model takes: chosen, or combined, by the inner folds of a fold."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from ser_jax.baselines import linear
from ser_jax.baselines.linear import Baseline, Fitted
from ser_jax.errors import UserError, brief, did_you_mean

# "all" columns in one model; "combined", the mean of the scores by each of the sets of `state_columns`; "chosen", that
# set, or all combined, that does best on the inner folds; or one set by its name ("mean of layer 2").
COLUMNS = ("all", "chosen", "combined")

_KEPT = 2**28  # bytes of inner scores that are kept, for folds whose inner folds learn the same utterances


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was chosen by scores of utterances that were not learnt: of each set the number of its C, and which sets."""

    levels: tuple[int, ...]
    kept: tuple[int, ...]

    def combine(self, scores: Float[np.ndarray, "sets grid utterances classes"]) -> np.ndarray:
        """Returns the mean [utterances, classes] of the scores by the sets that were kept."""
        return np.mean([scores[i, self.levels[i]] for i in self.kept], axis=0)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A baseline fitted to one fold.

    Attributes:
      kept: the numbers of the sets of columns in it.
      held_out_ua: UA on the training utterances, each inner fold by models that have not learnt it, whose C and columns
        were chosen on the other inner folds: what choosing among baselines may use. 0 without inner folds.
    """

    fitted: Fitted
    kept: tuple[int, ...]
    held_out_ua: float


def state_columns(names: Sequence[str]) -> dict[str, Int[np.ndarray, " columns"]]:
    """Returns the columns of pooled hidden states that may be chosen from, by what they are.

    They are the means of each state, its means and deviations, and the same of each three states that follow one
    another. Raises UserError where the columns are not those of pooled states.
    """
    parts = [name.split("/") for name in names]
    if any(len(part) != 3 or part[1] not in ("mean", "deviation") for part in parts):
        raise UserError("config.model.columns: expected pooled hidden states (`prepare encoder --pooled`)")
    states = list(dict.fromkeys(part[0] for part in parts))
    kinds = ("mean", "deviation")
    of: dict[tuple[str, str], list[int]] = {(state, kind): [] for state in states for kind in kinds}
    for column, (state, kind, _) in enumerate(parts):
        of[state, kind].append(column)
    sets = {}
    for number in (1, 3):
        for first in range(len(states) - number + 1):
            some = states[first : first + number]
            means, deviations = ([column for state in some for column in of[state, kind]] for kind in kinds)
            sets[f"mean of {', '.join(some)}"] = means
            sets[f"mean and deviation of {', '.join(some)}"] = means + deviations
    return {what: np.array(columns) for what, columns in sets.items()}


def column_sets(columns: str, names: Sequence[str]) -> dict[str, Int[np.ndarray, " columns"]]:
    """Returns the sets of pooled hidden states that `Baseline.columns` asks for, by what they are.

    Raises UserError for a name of a set that there is not, and where the columns are not those of pooled states.
    """
    if columns == "all":
        return {"all": np.arange(len(names))}
    sets = state_columns(names)
    if columns in COLUMNS:
        return sets
    if columns not in sets:
        raise UserError(f"config.model.columns: {brief(columns)}{did_you_mean(columns, [*COLUMNS, *sets])}")
    return {columns: sets[columns]}


def inner_scores(
    baseline: Baseline,
    values: Float[np.ndarray, "utterances versions dims"],
    sets: Sequence[Int[np.ndarray, " _"]],
    labels: Int[np.ndarray, " utterances"],
    num_classes: int,
) -> Callable[[bytes], Float[np.ndarray, "sets grid others classes"]]:
    """Returns a function of a mask of learnt utterances, as bytes: the scores of all others, by each set of columns.

    Where speakers are left out one by one, the fold of the first without the second learns what the fold of the second
    without the first does: scores are kept, as far as `_KEPT` allows.
    """

    def compute(mask: bytes) -> np.ndarray:
        learnt = np.frombuffer(mask, bool)
        found = [
            linear.scores_of_others(baseline, values[..., columns], labels, learnt, num_classes) for columns in sets
        ]
        return np.stack(found)

    largest = len(sets) * len(linear.grid_of(baseline)) * max(1, values.shape[0] * num_classes) * 4
    return functools.lru_cache(maxsize=_KEPT // largest)(compute)


def fit_columns(
    baseline: Baseline,
    values: Float[np.ndarray, "utterances versions dims"],
    sets: Sequence[Int[np.ndarray, " _"]],
    labels: Int[np.ndarray, " utterances"],
    rows: Int[np.ndarray, " learnt"],
    held_out: Sequence[Bool[np.ndarray, " learnt"]],
    scores_by: Callable[[bytes], Float[np.ndarray, "sets grid others classes"]],
    num_classes: int,
) -> Chosen:
    """Fits a baseline to the utterances `rows`: the set of columns that does best, or several in one.

    The best has the highest UA on the inner folds `held_out`, the first of equals; `scores_by` is `inner_scores`. Sets
    that are combined have a C of their own each; then C and `inner_ua` are means.
    """
    scores = np.full((len(sets), len(linear.grid_of(baseline)), len(rows), num_classes), np.nan, np.float32)
    for out in held_out:
        learnt = np.zeros(len(labels), bool)
        learnt[rows[~out]] = True
        place = np.cumsum(~learnt) - 1  # of an utterance among those that are not learnt
        scores[:, :, out] = scores_by(learnt.tobytes())[:, :, place[rows[out]]]
    choice = choose(baseline.columns, scores, labels[rows])
    unseen = np.full(scores.shape[2:], np.nan, np.float32)
    for out in held_out:
        unseen[out] = choose(baseline.columns, scores[:, :, ~out], labels[rows[~out]]).combine(scores[:, :, out])
    fits = {
        i: linear.fit_with(
            baseline,
            values[..., sets[i]][rows],
            labels[rows],
            linear.grid_of(baseline)[choice.levels[i]],
            linear.accuracy(scores[i], labels[rows]),
            num_classes,
        )
        for i in choice.kept
    }
    return Chosen(_together(fits, sets, values.shape[-1]), choice.kept, float(linear.accuracy(unseen, labels[rows])))


def choose(
    how: str, scores: Float[np.ndarray, "sets grid utterances classes"], labels: Int[np.ndarray, " utterances"]
) -> Choice:
    """Returns the C of each set of columns and the sets that do best on utterances; `how` is `Baseline.columns`."""
    ua = linear.accuracy(scores, labels)
    levels = tuple(map(int, ua.argmax(axis=1)))  # the first of equals: the smallest C
    best, every = Choice(levels, (int(ua.max(axis=1).argmax()),)), Choice(levels, tuple(range(len(scores))))
    if how == "combined" or (how == "chosen" and linear.accuracy(every.combine(scores), labels) > ua.max()):
        return every
    return best


def _together(fits: Mapping[int, Fitted], sets: Sequence[Int[np.ndarray, " _"]], dims: int) -> Fitted:
    """One fit whose scores are the means of those of fits to sets of the columns."""
    mean, scale = np.zeros(dims), np.ones(dims)
    coefficients = np.zeros((len(next(iter(fits.values())).coefficients), dims), np.float32)
    for i, one in fits.items():
        mean[sets[i]], scale[sets[i]] = one.mean, one.scale  # a column's own, whatever set it is in
        coefficients[:, sets[i]] += one.coefficients / len(fits)
    intercept, C, inner_ua = (
        np.mean([getattr(one, name) for one in fits.values()], axis=0) for name in ("intercept", "C", "inner_ua")
    )
    return Fitted(mean, scale, coefficients, intercept, float(C), inner_ua)
