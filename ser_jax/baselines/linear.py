"""Linear baselines on functionals or pooled hidden states: logistic and ridge regression, linear SVM and SVR, and LDA.

All end as one matrix of coefficients, so they are kept as arrays and used alike: the functionals are standardised,
the scores are linear in them, and the probabilities are the softmax of the scores. Of logistic regression those are its
own probabilities; of the others they rank the classes, but are not calibrated.

How strongly a baseline is regularised is chosen inside its training fold: by the pooled UA of an inner leave one
speaker out over the training speakers, from `GRID`, the smaller C at a tie. LDA is linear discriminant analysis with
the covariance within all classes together; what is chosen, in the place of C, is the share of it that is replaced by a
multiple of the identity (Friedman 1989), from `SHRINKAGES`. Nothing of a test speaker takes part, but with scaling
"speaker", where the functionals of every speaker, tested ones too, are standardised by that speaker's own utterances
(without their labels).
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.linalg import solve
from scipy.special import softmax
from threadpoolctl import threadpool_limits

from ser_jax import bounded, checksums
from ser_jax.baselines import NAMES
from ser_jax.baselines.functionals import KINDS
from ser_jax.errors import UserError, brief, did_you_mean, reading
from ser_jax.files import atomic_folder, read_json

if TYPE_CHECKING:
    from sklearn.preprocessing import StandardScaler

SCALINGS = ("fold", "speaker")
GRID = tuple(10.0**exponent for exponent in range(-7, 1))  # of C; ridge regression's penalty is 1 / (2 C)
SHRINKAGES = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8)  # in the place of C, of LDA
MOST_LEFT_OUT = 10  # of so many training speakers each is an inner fold; more are dealt into
INNER_GROUPS = 5
SMALL = 2000  # utterances; systems of fewer take longer with several threads of BLAS

_CHOICES = {
    "name": NAMES,
    "functionals": (*KINDS, "precomputed"),
    "scaling": SCALINGS,
    "class_weights": (True, False),
}
_TUBE = 0.1  # around its target, in which SVR has no loss
_MOST_STEPS, _SHORTEST_STEP = 100, 1e-6  # of Newton's method; some five steps are enough
_ARRAYS, _METADATA = "arrays.npz", "baseline.json"
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Baseline:
    """What a baseline is; made by `make_baseline`.

    Attributes:
      functionals: one of `functionals.KINDS`, or "precomputed": the pooled hidden states `config.frontend.features`.
      scaling: "fold", standardised by the training fold, or "speaker", by each speaker's own utterances.
      class_weights: whether errors weigh inversely to the class's frequency in the training fold.
      columns: of pooled hidden states, see `ser_jax.baselines.columns`.
    """

    name: str
    functionals: str = "own"
    scaling: str = "fold"
    class_weights: bool = True
    columns: str = "all"


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A baseline fitted to one fold.

    Attributes:
      mean, scale: what standardises the functionals; 0 and 1 where each speaker's own utterances do.
      intercept: -inf for a class that the training fold lacks.
      C: what was chosen; of LDA, the shrinkage.
      inner_ua: the pooled UA of the inner folds for each value of `grid_of`.
    """

    mean: Float[np.ndarray, " dims"]
    scale: Float[np.ndarray, " dims"]
    coefficients: Float[np.ndarray, "classes dims"]
    intercept: Float[np.ndarray, " classes"]
    C: float
    inner_ua: Float[np.ndarray, " grid"]


def grid_of(baseline: Baseline) -> tuple[float, ...]:
    """Returns the values of C, or of LDA's shrinkage, to choose from."""
    return SHRINKAGES if baseline.name == "lda" else GRID


def without_classes(dims: int) -> Fitted:
    """Returns what is fitted to a corpus without emotions: it has no classes."""
    nothing = np.zeros(0)
    return Fitted(np.zeros(dims), np.ones(dims), np.zeros((0, dims), np.float32), nothing, 0.0, np.zeros(len(GRID)))


def make_baseline(options: dict[str, Any]) -> Baseline:
    """Returns the baseline that `config.model` describes; raises UserError, naming the nearest, for a wrong option."""
    checked = {}
    for option, value in options.items():
        _require_one_of(f"option of model {options['name']}", option, [*_CHOICES, "columns"])
        if option == "columns":  # checked by `columns.column_sets`, which knows the states
            checked[option] = str(value)
            continue
        matching = [choice for choice in _CHOICES[option] if str(choice).lower() == str(value).lower()]
        if not matching:
            _require_one_of(f"config.model.{option}", str(value), [str(choice) for choice in _CHOICES[option]])
        checked[option] = matching[0]
    return Baseline(**checked)


def scale_by_speaker(
    values: Float[np.ndarray, "utterances versions dims"], speakers: Sequence[str] | np.ndarray
) -> Float[np.ndarray, "utterances versions dims"]:
    """Standardises the utterances of each speaker by their own mean and standard deviation, version by version."""
    from sklearn.preprocessing import StandardScaler  # here: trainings of networks do without the second it takes

    speakers = np.asarray(speakers)
    flat = values.reshape(len(values), -1).astype(np.float64)
    for speaker in np.unique(speakers):
        flat[speakers == speaker] = StandardScaler().fit_transform(flat[speakers == speaker])
    return flat.reshape(values.shape)


def inner_folds(
    speakers: Sequence[str] | np.ndarray,
    genders: Sequence[str] | np.ndarray,
    labels: Int[np.ndarray, " utterances"],
) -> list[Bool[np.ndarray, " utterances"]]:
    """Returns what each inner fold holds out: one speaker, or where there are many, a group of them.

    Where the speakers are not known ("") or there is only one, groups of utterances are held out, with about equal
    shares of each emotion.
    """
    speakers, genders = np.asarray(speakers), np.asarray(genders)
    names, first = np.unique(speakers, return_index=True)
    if len(names) < 2 or "" in names:
        order = np.argsort(labels, kind="stable")
        dealt = np.empty(len(labels), np.int64)
        dealt[order] = np.arange(len(labels)) % min(INNER_GROUPS, len(labels))
    else:
        # Women first, then men, dealt in turn: each group has about as many of both.
        order = sorted(range(len(names)), key=lambda i: (genders[first[i]], names[i]))
        number = len(names) if len(names) <= MOST_LEFT_OUT else INNER_GROUPS
        group_of = {names[i]: place % number for place, i in enumerate(order)}
        dealt = np.array([group_of[speaker] for speaker in speakers])
    return [dealt == group for group in np.unique(dealt)]


def scores_of_others(
    baseline: Baseline,
    values: Float[np.ndarray, "utterances versions dims"],
    labels: Int[np.ndarray, " utterances"],
    learnt: Bool[np.ndarray, " utterances"],
    num_classes: int,
) -> Float[np.ndarray, "grid others classes"]:
    """Returns the scores of all utterances but the `learnt` ones, by models that learnt these, for each C.

    They are -inf for a class that was not learnt, and NaN where fewer than two were. LDA is of float32 here: what is
    chosen by these scores needs no more digits, and its systems of thousands of dimensions take a third of the time.
    """
    grid = grid_of(baseline)
    if len(np.unique(labels[learnt])) < 2:
        return np.full((len(grid), (~learnt).sum(), num_classes), np.nan, np.float32)
    with _few_threads(values):
        known, codes = all_versions(values[learnt], labels[learnt])
        scaler = scaler_of(baseline, known)
        seen, unseen = scaler.transform(known), scaler.transform(values[~learnt].mean(1))
        if baseline.name == "lda":
            seen = seen.astype(np.float32)
        train, axes = coordinates(baseline, seen)
        test = unseen if axes is None else unseen @ seen.T @ axes.T
        found = np.full((len(grid), len(unseen), num_classes), -np.inf, np.float32)
        for i, (coefficients, intercept, classes) in enumerate(_solve(baseline, train, codes, grid)):
            found[i][:, classes] = test @ coefficients.T + intercept[None]
    return found


def accuracy(
    scores: Float[np.ndarray, "*some utterances classes"], labels: Int[np.ndarray, " utterances"]
) -> Float[np.ndarray, "*some"]:
    """Returns the unweighted accuracy of the classes with the highest scores; utterances without scores do not count.

    It is 0 where no utterance has one.
    """
    known = ~np.isnan(scores).any(axis=(*range(scores.ndim - 2), -1))
    right = scores[..., known, :].argmax(axis=-1) == labels[known]
    of_class = (labels[known, None] == np.unique(labels[known])[None]).astype(float)
    if not of_class.size:
        return np.zeros(scores.shape[:-2])
    return np.asarray((right.astype(float) @ of_class / of_class.sum(axis=0)).mean(axis=-1))


def fit_with(
    baseline: Baseline,
    values: Float[np.ndarray, "utterances versions dims"],
    labels: Int[np.ndarray, " utterances"],
    C: float,
    inner_ua: Float[np.ndarray, " grid"],
    num_classes: int,
) -> Fitted:
    """Fits a baseline to a training fold with the C that was chosen; `inner_ua` is what it was chosen by.

    `values` are the functionals, already standardised with scaling "speaker". Each version of an utterance is learnt
    as an utterance; an utterance is classified by the mean of its versions, whose scores are the mean of theirs.
    Raises UserError where the fold holds fewer than two classes.
    """
    if len(np.unique(labels)) < 2:
        raise UserError(f"model {baseline.name}: a training fold holds {len(np.unique(labels))} emotion, expected two")
    with _few_threads(values):
        known, codes = all_versions(values, labels)
        scaler = scaler_of(baseline, known)
        seen = scaler.transform(known)
        train, axes = coordinates(baseline, seen)
        [(solved, intercept, classes)] = _solve(baseline, train, codes, [C])
    coefficients = np.zeros((num_classes, values.shape[2]), np.float32)
    coefficients[classes] = solved if axes is None else solved @ axes @ seen
    every_intercept = np.full(num_classes, -np.inf)
    every_intercept[classes] = intercept
    return Fitted(scaler.mean_, scaler.scale_, coefficients, every_intercept, C, inner_ua)


def _few_threads(values: np.ndarray) -> threadpool_limits:
    return threadpool_limits(1 if values.shape[0] * values.shape[1] <= SMALL else None)


def predict(
    fitted: Fitted, values: Float[np.ndarray, "utterances versions dims"]
) -> Float[np.ndarray, "utterances classes"]:
    """Returns the class probabilities of functionals, which are already standardised with scaling "speaker".

    Raises UserError where one is not finite.
    """
    if not len(fitted.coefficients):
        return np.zeros((len(values), 0))
    with np.errstate(all="ignore"):  # what comes of it is refused
        found = softmax(scores(fitted, values), axis=1)
    if not (finite := np.isfinite(found).all(axis=1)).all():
        raise UserError(f"a baseline predicts probabilities that are not finite for {(~finite).sum()} of {len(finite)}")
    return found


def scores(
    fitted: Fitted, values: Float[np.ndarray, "utterances versions dims"]
) -> Float[np.ndarray, "utterances outputs"]:
    """Returns what is linear in the functionals: the classes' scores, or the values of dimensions."""
    return standardise(fitted, values) @ fitted.coefficients.T.astype(np.float64) + fitted.intercept[None]


def standardise(
    fitted: Fitted, values: Float[np.ndarray, "utterances versions dims"]
) -> Float[np.ndarray, "utterances dims"]:
    """Returns functionals as the scores are linear in them; the mean of an utterance's versions."""
    if values.shape[-1] != len(fitted.mean):
        raise UserError(f"a baseline takes {len(fitted.mean)} values of each utterance, found {values.shape[-1]}")
    return (np.asarray(values, np.float64).mean(1) - fitted.mean[None]) / fitted.scale[None]


def to_arrays(fitted: Sequence[Fitted]) -> dict[str, np.ndarray]:
    """Returns the arrays of several folds by their names, the fold axis first."""
    return {field.name: np.stack([getattr(one, field.name) for one in fitted]) for field in dataclasses.fields(Fitted)}


def from_arrays(arrays: Mapping[str, np.ndarray]) -> list[Fitted]:
    """Returns the baselines of several folds from what `to_arrays` made of them; KeyError where an array is missing."""
    names = [field.name for field in dataclasses.fields(Fitted)]
    return [Fitted(**{name: arrays[name][i] for name in names}) for i in range(len(arrays["C"]))]


def save(folder: str | os.PathLike, fitted: Sequence[Fitted], metadata: dict[str, Any]) -> None:
    """Writes the baselines of several folds, arrays and JSON, to a folder that appears whole or not at all."""
    text = json.dumps({"baseline_format": FORMAT_VERSION, **metadata}, indent=1, sort_keys=True, ensure_ascii=False)
    with atomic_folder(folder) as temporary:
        np.savez(temporary / _ARRAYS, **to_arrays(fitted))
        (temporary / _METADATA).write_text(text + "\n", encoding="utf-8")
        checksums.write_all(temporary)


def load_metadata(folder: str | os.PathLike) -> dict[str, Any]:
    """Returns what `save` was told; raises UserError where it cannot be read."""
    path = Path(folder) / _METADATA
    checksums.check(path)
    try:
        metadata = read_json(path)
        found = metadata.pop("baseline_format")
    except (OSError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: damaged, train the baseline again ({' '.join(str(error).split())})") from error
    if found != FORMAT_VERSION:
        raise UserError(f"{path}: baselines of format {brief(found)}, expected {FORMAT_VERSION}")
    return metadata


def load(folder: str | os.PathLike) -> list[Fitted]:
    """Returns the baselines that `save` wrote; raises UserError where they cannot be read."""
    path = Path(folder) / _ARRAYS
    checksums.check(path)
    with reading(f"{path}: damaged, train the baseline again"), bounded.load_npz(path) as file:
        return from_arrays({name: file[name] for name in file.files})


def _require_one_of(what: str, found: str, choices: Sequence[str]) -> None:
    if found not in choices:
        raise UserError(f"unknown {what}: {brief(found)}{did_you_mean(found, choices)}")


def all_versions(values: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns each version as a row of its own, and its label or values."""
    return values.reshape(-1, values.shape[2]), np.repeat(labels, values.shape[1], axis=0)


def scaler_of(baseline: Baseline, values: np.ndarray) -> "StandardScaler":
    """Returns what standardises functionals by a training fold, or leaves them as they are with scaling "speaker"."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(values.astype(np.float64))
    if baseline.scaling == "speaker":  # done already
        scaler.mean_, scaler.scale_ = np.zeros(values.shape[1]), np.ones(values.shape[1])
    return scaler


def coordinates(baseline: Baseline, train: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Rotates utterances of more dimensions than there are into the space that they span.

    Returns them there, and the matrix [rank, utterances] that gives this space's axes as sums of utterances (None where
    nothing was rotated). The best coefficients of a linear model with an L2 penalty lie in that space, and their norm
    is the same there, so the model is the same one, for a fraction of the time. LDA is not: it shrinks every axis.
    """
    if train.shape[1] <= train.shape[0] or baseline.name == "lda":
        return train, None
    eigenvalues, vectors = np.linalg.eigh(train @ train.T)
    kept = eigenvalues > 1e-10 * eigenvalues[-1]
    singular = np.sqrt(eigenvalues[kept])
    return vectors[:, kept] * singular[None], (vectors[:, kept] / singular[None]).T


def _solve(
    baseline: Baseline, x: np.ndarray, labels: np.ndarray, grid: Sequence[float]
) -> Iterator[tuple[Float[np.ndarray, "classes dims"], Float[np.ndarray, " classes"], Int[np.ndarray, " classes"]]]:
    """Yields, for each C of an ascending grid, coefficients and intercepts of the classes in `labels`, and these."""
    from sklearn.linear_model import LogisticRegression, Ridge

    classes, codes = np.unique(labels, return_inverse=True)
    if baseline.name == "logistic_regression":
        for C in grid:
            weight = "balanced" if baseline.class_weights else None
            model = LogisticRegression(C=C, class_weight=weight, tol=1e-6, max_iter=1000).fit(x, codes)
            coefficients, intercept = model.coef_, model.intercept_
            if len(classes) == 2:  # scikit-learn gives the score of the second class against the first
                coefficients, intercept = (np.concatenate([-part, part]) / 2 for part in (coefficients, intercept))
            yield coefficients, intercept, classes
        return
    if baseline.name == "lda":
        for coefficients, intercept in _discriminants(baseline, x, codes, grid):
            yield coefficients, intercept, classes
        return
    targets = np.where(codes[:, None] == np.arange(len(classes))[None], 1.0, -1.0)
    balanced = _balanced(codes) if baseline.class_weights else np.ones(len(codes))
    if baseline.name == "ridge":
        for C in grid:
            model = Ridge(alpha=1 / (2 * C)).fit(x, targets, sample_weight=balanced)
            yield model.coef_, model.intercept_, classes
        return
    paths = []
    for target in targets.T:
        # In one class against the others, liblinear's weights are those of the one alone.
        weights = np.where(target > 0, balanced, 1.0) if baseline.name == "linear_svm" else balanced
        paths.append(support_vectors(x, target, weights, baseline, grid))
    for of_classes in zip(*paths, strict=True):
        solution = np.stack(of_classes)
        yield solution[:, :-1], solution[:, -1], classes


def _discriminants(
    baseline: Baseline, x: np.ndarray, codes: np.ndarray, shrinkages: Sequence[float]
) -> Iterator[tuple[Float[np.ndarray, "classes dims"], Float[np.ndarray, " classes"]]]:
    """Yields coefficients and intercepts of the log-densities of normal classes with one covariance, for each share."""
    weights = (_balanced(codes) if baseline.class_weights else np.ones(len(codes))) / len(codes)
    weights = weights.astype(x.dtype)
    priors = np.bincount(codes, weights)
    means = np.stack([x[codes == k].mean(0) for k in range(len(priors))])
    within = (x - means[codes]) * np.sqrt(weights)[:, None]
    wide = x.shape[1] > x.shape[0]
    gram = within @ within.T if wide else within.T @ within
    diagonal = np.diag_indices_from(gram)
    spread = np.trace(gram) or x.dtype.type(x.shape[1])  # where no class has two utterances, all axes are alike
    for share in shrinkages:
        ground = share * spread / x.shape[1]
        if wide:  # Woodbury's identity: a system of the utterances instead of the dimensions
            system = gram.copy()
            system[diagonal] += ground / (1 - share)
            coefficients = (means - solve(system, within @ means.T, assume_a="pos").T @ within) / ground
        else:
            system = (1 - share) * gram
            system[diagonal] += ground
            coefficients = solve(system, means.T, assume_a="pos").T
        yield coefficients, np.log(priors) - np.sum(coefficients * means, 1) / 2


def support_vectors(
    x: np.ndarray, target: np.ndarray, weights: np.ndarray, baseline: Baseline, grid: Sequence[float]
) -> Iterator[Float[np.ndarray, " dims+1"]]:
    """Yields the coefficients, then the intercept, of a linear SVM or SVR with squared loss, for each C of the grid.

    They minimise |w|^2 / 2 + C sum(weights * loss^2) over w, the intercept included, as liblinear (scikit-learn's
    LinearSVC and LinearSVR) does; the loss is max(0, 1 - target * score), or max(0, |target - score| - 0.1). Newton's
    method (Keerthi & DeCoste 2005; Chapelle 2007): given which utterances have a loss, this is ridge regression on
    them, solved in their number or in the dimensions, whichever is less. It is exact, and where there are more
    dimensions than utterances some hundred times as fast as liblinear.
    """
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    gram = x @ x.T
    margin = baseline.name == "linear_svm"

    def losing(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which utterances have a loss, and the score at which each would have none."""
        residual = target - scores
        if margin:
            return target * residual > 0, target
        return np.abs(residual) > _TUBE, target - _TUBE * np.sign(residual)

    def objective(w: np.ndarray, scores: np.ndarray, C: float) -> float:
        active, goal = losing(scores)
        return w @ w / 2 + C * np.sum(weights[active] * np.square((goal - scores)[active]))

    w, scores = np.zeros(x.shape[1]), np.zeros(len(x))
    for C in grid:
        for _ in range(_MOST_STEPS):
            active, goal = losing(scores)
            penalty = 1 / (2 * C * weights[active])
            if active.sum() < x.shape[1]:
                system = gram[np.ix_(active, active)]
                system[np.diag_indices_from(system)] += penalty
                step = x[active].T @ solve(system, goal[active], assume_a="pos") - w
            else:
                scaled = x[active] / np.sqrt(penalty)[:, None]
                system = scaled.T @ scaled
                system[np.diag_indices_from(system)] += 1
                step = solve(system, x[active].T @ (goal[active] / penalty), assume_a="pos") - w
            change, now, length = x @ step, objective(w, scores, C), 1.0
            while objective(w + length * step, scores + length * change, C) > now and length > _SHORTEST_STEP:
                length /= 2
            w, scores = w + length * step, scores + length * change
            if length == 1 and np.array_equal(losing(scores)[0], active) and np.array_equal(losing(scores)[1], goal):
                break
        yield w


def _balanced(codes: Int[np.ndarray, " utterances"]) -> Float[np.ndarray, " utterances"]:
    """Weights with which every class weighs the same, of mean 1."""
    counts = np.bincount(codes)
    return (len(codes) / (len(counts) * np.maximum(counts, 1)))[codes]
