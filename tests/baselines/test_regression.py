"""Linear regression of dimensions: ridge and SVR on the scale of the values, regularised by the inner folds."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.svm import LinearSVR

from ser_jax.baselines.dimensions import check, fit_dimensions
from ser_jax.baselines.linear import GRID, Baseline, scores
from ser_jax.errors import UserError
from ser_jax.statistics.scores import concordance


def made(rows=60, dims=8):
    rng = np.random.default_rng(0)
    values = rng.normal(2, 3, (rows, dims))
    targets = 4 + values[:, :2] @ np.array([[0.5, -1.0], [0.2, 0.3]]) + 0.3 * rng.normal(size=(rows, 2))
    targets[::5, 1] = np.nan
    held_out = [np.arange(rows) % 4 == i for i in range(4)]
    return values, targets, held_out


def model(name, C):
    if name == "ridge":
        return Ridge(alpha=1 / (2 * C))
    return LinearSVR(C=C, epsilon=0.1, loss="squared_epsilon_insensitive", max_iter=200_000, tol=1e-9, random_state=0)


def slow(name, values, target, C, unseen):
    known = ~np.isnan(target)
    mean, scale = values.mean(0), values.std(0)
    goal = (target[known] - target[known].mean()) / target[known].std()
    fitted = model(name, C).fit((values[known] - mean) / scale, goal)
    return fitted.predict((unseen - mean) / scale) * target[known].std() + target[known].mean()


@pytest.mark.parametrize("name", ["ridge", "svr"])
@pytest.mark.parametrize("dims", [8, 90])
def test_each_dimension_is_the_regression_of_its_known_utterances_on_its_own_scale(name, dims):
    values, targets, held_out = made(dims=dims)
    fitted = fit_dimensions(Baseline(name), values[:, None], targets, held_out)
    found = scores(fitted, values[:7, None] + 1)
    for i in range(2):
        np.testing.assert_allclose(found[:, i], slow(name, values, targets[:, i], fitted.C, values[:7] + 1), atol=2e-2)


def test_how_strongly_is_chosen_by_the_ccc_of_the_inner_folds():
    values, targets, held_out = made()
    fitted = fit_dimensions(Baseline("ridge"), values[:, None], targets, held_out)
    expected = []
    for C in GRID:
        figures = []
        for i in range(2):
            told, true = [], []
            for out in held_out:
                told.append(slow("ridge", values[~out], targets[~out, i], C, values[out]))
                true.append(targets[out, i])
            x, y = np.concatenate(true), np.concatenate(told)
            x, y = x[~np.isnan(x)], y[~np.isnan(x)]
            figures.append(concordance(np.array([len(x), x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), x @ y])))
        expected.append(np.mean(figures))
    np.testing.assert_allclose(fitted.inner_ua, expected, atol=1e-6)
    assert fitted.C == GRID[int(np.argmax(expected))] > GRID[0]


def test_each_version_of_an_utterance_is_learnt_and_their_mean_is_predicted():
    values, targets, held_out = made()
    versions = np.stack([values - 1, values + 2], axis=1)
    fitted = fit_dimensions(Baseline("ridge"), versions, targets, held_out)
    rows, twice = versions.reshape(-1, values.shape[1]), np.repeat(targets, 2, axis=0)
    expected = slow("ridge", rows, twice[:, 0], fitted.C, versions[:5].mean(1))
    np.testing.assert_allclose(scores(fitted, versions[:5])[:, 0], expected, atol=1e-4)


def test_a_classifier_is_refused():
    with pytest.raises(
        UserError, match=r"config\.corpus\.dimensions: model lda is a classifier, expected ridge or svr"
    ):
        check(Baseline("lda"))
    check(Baseline("svr"))
