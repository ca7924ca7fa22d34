"""Linear regression of dimensions such as arousal: ridge regression, or linear SVR, of the same functionals.

How strongly it is regularised is chosen inside the training fold, by the mean over the dimensions of the pooled CCC of
the inner folds, the smaller C at a tie. Utterances whose value of a dimension is not known take no part in it.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from threadpoolctl import threadpool_limits

from ser_jax.baselines.linear import (
    GRID,
    SMALL,
    Baseline,
    Fitted,
    all_versions,
    coordinates,
    scaler_of,
    scores,
    support_vectors,
)
from ser_jax.errors import UserError
from ser_jax.statistics.scores import concordance

NAMES = ("ridge", "svr")


def check(baseline: Baseline) -> None:
    """Raises UserError for a baseline that only tells classes, and for several sets of columns."""
    if baseline.name not in NAMES:
        raise UserError(
            f"config.corpus.dimensions: model {baseline.name} is a classifier, expected {' or '.join(NAMES)}, or no "
            "dimensions for this variant"
        )
    if baseline.columns != "all":
        raise UserError(f"config.model.columns={baseline.columns}: expected all, with config.corpus.dimensions")


def fit_dimensions(
    baseline: Baseline,
    values: Float[np.ndarray, "utterances versions dims"],
    targets: Float[np.ndarray, "utterances dimensions"],
    held_out: Sequence[Bool[np.ndarray, " utterances"]],
) -> Fitted:
    """Fits a baseline to the dimensions of a training fold; `inner_ua` is the mean CCC of the inner folds.

    `values` are the functionals, already standardised with scaling "speaker", of all versions of an utterance, as for
    `linear.fit`; `targets` are NaN where not known. What is fitted gives each dimension on its own scale, by
    `linear.scores`.
    """
    with threadpool_limits(1 if values.shape[0] * values.shape[1] <= SMALL else None):
        sums = np.zeros((len(GRID), targets.shape[1], 6))
        for out in held_out:
            for i, fitted in enumerate(_fits(baseline, values[~out], targets[~out], GRID)):
                sums[i] += _moments(targets[out], scores(fitted, values[out]))
        inner = np.array([concordance(one).mean() for one in np.where(sums[..., :1] > 0, sums, 1.0)])
        (fitted,) = _fits(baseline, values, targets, [GRID[int(np.argmax(inner))]])
        return Fitted(fitted.mean, fitted.scale, fitted.coefficients, fitted.intercept, fitted.C, inner)


def _fits(baseline: Baseline, values: np.ndarray, targets: np.ndarray, grid: Sequence[float]) -> list[Fitted]:
    """A fit of all dimensions for each C of an ascending grid."""
    values, targets = all_versions(values, targets)
    scaler = scaler_of(baseline, values)
    coefficients = np.zeros((len(grid), targets.shape[1], values.shape[1]), np.float32)
    intercepts = np.zeros((len(grid), targets.shape[1]))
    for column, target in enumerate(targets.T):
        known = ~np.isnan(target)
        if not known.any():  # in an inner fold alone; see `check_dimensions`
            continue
        mean, deviation = target[known].mean(), target[known].std() or 1.0
        seen, goal = scaler.transform(values[known]), (target[known] - mean) / deviation
        train, axes = coordinates(baseline, seen)
        for i, (solved, intercept) in enumerate(_solve(baseline, train, goal, grid)):
            whole = solved if axes is None else solved @ axes @ seen
            coefficients[i, column], intercepts[i, column] = whole * deviation, intercept * deviation + mean
    parts = zip(coefficients, intercepts, grid, strict=True)
    return [Fitted(scaler.mean_, scaler.scale_, own, at, float(C), np.zeros(0)) for own, at, C in parts]


def _solve(
    baseline: Baseline, x: np.ndarray, target: np.ndarray, grid: Sequence[float]
) -> list[tuple[np.ndarray, float]]:
    if baseline.name == "ridge":
        from sklearn.linear_model import Ridge

        models = [Ridge(alpha=1 / (2 * C)).fit(x, target) for C in grid]
        return [(model.coef_, float(model.intercept_)) for model in models]
    return [(w[:-1], float(w[-1])) for w in support_vectors(x, target, np.ones(len(x)), baseline, grid)]


def _moments(targets: np.ndarray, predicted: np.ndarray) -> Float[np.ndarray, "dimensions 6"]:
    """What `concordance` is computed from, of the utterances whose value is known."""
    known = ~np.isnan(targets)
    x, y = np.where(known, targets, 0.0), np.where(known, predicted, 0.0)
    return np.stack([known.astype(float), x, y, x * x, y * y, x * y], axis=-1).sum(axis=0)
