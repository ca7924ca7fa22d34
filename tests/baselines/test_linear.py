"""The baselines against scikit-learn's own pipelines, and what their choice of C may see."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import multivariate_normal
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.covariance import shrunk_covariance
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import recall_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC, LinearSVR

from ser_jax.baselines import columns, linear
from ser_jax.baselines.linear import GRID, Baseline, inner_folds, make_baseline, scale_by_speaker
from ser_jax.errors import UserError

EMOTIONS = 4


def fit(baseline, values, labels, held_out, num_classes):
    """What is fitted to one version of each utterance, or to several, by all columns together."""
    values = values if values.ndim == 3 else values[:, None]
    rows, sets = np.arange(len(labels)), [np.arange(values.shape[2])]
    scores_by = columns.inner_scores(baseline, values, sets, labels, num_classes)
    return columns.fit_columns(baseline, values, sets, labels, rows, held_out, scores_by, num_classes).fitted


def predict(fitted, values):
    return linear.predict(fitted, values[:, None])


def speech(num_speakers: int = 4, per_speaker: int = 15, dims: int = 12, classes: int = EMOTIONS, seed: int = 0):
    """Functionals of a made-up corpus, labels, speakers and genders; classes are not equally frequent."""
    rng = np.random.default_rng(seed)
    speakers = np.repeat([f"s{i:02}" for i in range(num_speakers)], per_speaker)
    genders = np.where(np.repeat(np.arange(num_speakers), per_speaker) % 2 == 0, "female", "male")
    labels = np.minimum(rng.integers(0, classes + 1, len(speakers)), classes - 1)
    offsets = rng.normal(size=(num_speakers, dims))[np.repeat(np.arange(num_speakers), per_speaker)]
    values = (
        rng.normal(size=(classes, dims))[labels] + offsets + np.sqrt(dims / 5) * rng.normal(size=(len(speakers), dims))
    )
    return (values * rng.uniform(0.1, 100, dims) + 50).astype(np.float32), labels, speakers, genders


class OneAgainstOthers(ClassifierMixin, BaseEstimator):
    """A regression onto -1 and 1 for each class."""

    def __init__(self, regression, weighted):
        self.regression, self.weighted = regression, weighted

    def fit(self, x, y):
        counts = np.bincount(y)
        weights = (len(y) / (len(counts) * counts))[y] if self.weighted else np.ones(len(y))
        fits = [
            self.regression().fit(x, np.where(y == k, 1.0, -1.0), sample_weight=weights) for k in range(len(counts))
        ]
        self.classes_ = np.arange(len(counts))
        self.decide = lambda x: np.stack([one.predict(x) for one in fits], axis=1)
        return self

    def decision_function(self, x):
        return self.decide(x)

    def predict(self, x):
        return np.argmax(self.decide(x), axis=1)


class NormalClasses(ClassifierMixin, BaseEstimator):
    """The log-densities of normal classes that share a shrunk covariance."""

    def __init__(self, shrinkage, weighted):
        self.shrinkage, self.weighted = shrinkage, weighted

    def fit(self, x, y):
        means = np.stack([x[y == k].mean(0) for k in np.unique(y)])
        of_class = [np.cov(x[y == k].T, bias=True) for k in range(len(means))]
        priors = np.ones(len(means)) / len(means) if self.weighted else np.bincount(y) / len(y)
        covariance = shrunk_covariance(np.average(of_class, axis=0, weights=priors), self.shrinkage)
        self.classes_ = np.arange(len(means))
        self.densities = [multivariate_normal(mean, covariance) for mean in means]
        self.log_priors = np.log(priors)
        return self

    def decision_function(self, x):
        return np.stack([density.logpdf(x) for density in self.densities], axis=1) + self.log_priors


def sklearn_s(name: str, C: float, weighted: bool):
    """scikit-learn's way to the same model, iterated until it no longer moves."""
    weight, exact = "balanced" if weighted else None, {"tol": 1e-9, "max_iter": 100_000}
    if name == "logistic_regression":
        return LogisticRegression(C=C, class_weight=weight, **exact)
    if name == "linear_svm":
        return LinearSVC(C=C, class_weight=weight, dual=False, **exact)
    if name == "ridge":
        return OneAgainstOthers(lambda: Ridge(alpha=1 / (2 * C)), weighted)
    if name == "lda":
        return NormalClasses(C, weighted)
    loss = "squared_epsilon_insensitive"
    return OneAgainstOthers(lambda: LinearSVR(C=C, epsilon=0.1, loss=loss, dual=False, **exact), weighted)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("dims", [12, 150])
@pytest.mark.parametrize("name", linear.NAMES)
def test_scores_are_those_of_scikit_learn_s_pipeline(monkeypatch, name, dims, weighted):
    monkeypatch.setattr(linear, "GRID", (0.01,))
    monkeypatch.setattr(linear, "SHRINKAGES", (0.01,))
    values, labels, *_ = speech(dims=dims)
    train = np.arange(len(labels)) % 4 > 0
    fitted = fit(Baseline(name, class_weights=weighted), values[train], labels[train], [], EMOTIONS)
    pipeline = make_pipeline(StandardScaler(), sklearn_s(name, 0.01, weighted))
    pipeline.fit(values[train].astype(np.float64), labels[train])
    scores = pipeline.decision_function(values[~train].astype(np.float64))
    np.testing.assert_allclose(predict(fitted, values[~train]), softmax(scores, axis=1), atol=2e-4)


@pytest.mark.parametrize("dims", [3, 12])
def test_discriminants_of_one_utterance_of_each_class_go_by_the_nearest(dims):
    values = np.random.default_rng(0).normal(size=(EMOTIONS, dims)).astype(np.float32)
    fitted = linear.fit_with(Baseline("lda"), values[:, None], np.arange(EMOTIONS), 0.5, np.zeros(0), EMOTIONS)
    np.testing.assert_array_equal(predict(fitted, values + 0.01).argmax(axis=1), np.arange(EMOTIONS))


@pytest.mark.parametrize("name", ["logistic_regression", "linear_svm"])
def test_two_classes_are_decided_as_by_scikit_learn(monkeypatch, name):
    monkeypatch.setattr(linear, "GRID", (0.01,))
    values, labels, *_ = speech(classes=2)
    fitted = fit(Baseline(name, class_weights=False), values, labels, [], 2)
    pipeline = make_pipeline(StandardScaler(), sklearn_s(name, 0.01, False)).fit(values.astype(np.float64), labels)
    probabilities = predict(fitted, values)
    decided = pipeline.predict(values.astype(np.float64))
    assert np.mean(np.argmax(probabilities, axis=1) == decided) > 0.98
    if name == "logistic_regression":
        np.testing.assert_allclose(probabilities, pipeline.predict_proba(values.astype(np.float64)), atol=1e-4)


@pytest.mark.parametrize(("name", "dims"), [("linear_svm", 12), ("linear_svm", 150), ("ridge", 12)])
def test_the_chosen_C_is_that_of_a_plain_search_over_left_out_speakers(name, dims):
    values, labels, speakers, genders = speech(dims=dims, seed=3)
    fitted = fit(Baseline(name), values, labels, inner_folds(speakers, genders, labels), EMOTIONS)
    expected = []
    for C in GRID:
        predicted = np.empty_like(labels)
        for speaker in np.unique(speakers):
            out = speakers == speaker
            model = make_pipeline(StandardScaler(), sklearn_s(name, C, True)).fit(
                values[~out].astype(float), labels[~out]
            )
            predicted[out] = model.predict(values[out].astype(float))
        expected.append(recall_score(labels, predicted, average="macro"))
    np.testing.assert_allclose(fitted.inner_ua, expected, atol=1e-9)
    assert GRID[int(np.argmax(expected))] == fitted.C
    assert len(set(expected)) > 1


def test_a_tie_goes_to_the_smaller_C():
    _, labels, speakers, genders = speech()
    fitted = fit(
        Baseline("ridge"),
        np.ones((len(labels), 3), np.float32),
        labels,
        inner_folds(speakers, genders, labels),
        EMOTIONS,
    )
    assert GRID[0] == fitted.C
    assert len(set(fitted.inner_ua)) == 1


@pytest.mark.parametrize("num_speakers", [2, 10, 11, 24])
def test_inner_folds_hold_out_whole_speakers_each_once(num_speakers):
    _, labels, speakers, genders = speech(num_speakers)
    folds = inner_folds(speakers, genders, labels)
    assert len(folds) == (num_speakers if num_speakers <= 10 else 5)
    np.testing.assert_array_equal(np.sum(folds, axis=0), 1)
    for fold in folds:
        assert not set(speakers[fold]) & set(speakers[~fold])
        if num_speakers > 10:
            women = len(np.unique(speakers[fold & (genders == "female")]))
            assert abs(2 * women - len(np.unique(speakers[fold]))) <= 2


@pytest.mark.parametrize("speaker", ["", "only"])
def test_without_speakers_inner_folds_hold_out_equal_shares_of_each_emotion(speaker):
    _, labels, _, genders = speech()
    folds = inner_folds(np.full(len(labels), speaker), genders, labels)
    np.testing.assert_array_equal(np.sum(folds, axis=0), 1)
    counts = np.array([np.bincount(labels[fold], minlength=EMOTIONS) for fold in folds])
    assert np.ptp(counts, axis=0).max() <= 1


def test_functionals_are_standardised_by_what_is_learnt_from():
    values, labels, speakers, genders = speech()
    fitted = fit(Baseline("ridge"), values, labels, inner_folds(speakers, genders, labels), EMOTIONS)
    np.testing.assert_allclose(fitted.mean, values.astype(np.float64).mean(axis=0))
    np.testing.assert_allclose(fitted.scale, values.astype(np.float64).std(axis=0))


def test_scaling_by_speaker_leaves_nothing_of_a_speaker_s_level():
    values, labels, speakers, genders = speech()
    values[:, 0] = 7.0
    scaled = scale_by_speaker(values[:, None], speakers)[:, 0]
    for speaker in np.unique(speakers):
        own = scaled[speakers == speaker]
        np.testing.assert_allclose(own.mean(axis=0), 0, atol=1e-9)
        np.testing.assert_allclose(own.std(axis=0)[1:], 1)
    assert not scaled[:, 0].any()
    np.testing.assert_allclose(scale_by_speaker(values[:, None] * 3 + 5, speakers)[:, 0], scaled, atol=1e-3)
    fitted = fit(Baseline("ridge", scaling="speaker"), scaled, labels, inner_folds(speakers, genders, labels), EMOTIONS)
    assert not fitted.mean.any()
    assert (fitted.scale == 1).all()


@pytest.mark.parametrize("name", linear.NAMES)
def test_a_class_that_was_not_learnt_is_never_predicted(name):
    values, labels, speakers, genders = speech()
    kept = labels != 1
    held_out = inner_folds(speakers[kept], genders[kept], labels[kept])
    probabilities = predict(fit(Baseline(name), values[kept], labels[kept], held_out, EMOTIONS), values)
    np.testing.assert_array_equal(probabilities[:, 1], 0)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_one_class_cannot_be_learnt():
    values, labels, *_ = speech()
    with pytest.raises(UserError, match="holds 1 emotion"):
        fit(Baseline("ridge"), values, labels * 0, [], EMOTIONS)


def test_what_is_saved_predicts_the_same_to_the_last_digit(tmp_path):
    values, labels, speakers, genders = speech()
    held_out = inner_folds(speakers, genders, labels)
    fitted = [fit(Baseline(name), values, labels, held_out, EMOTIONS) for name in ("ridge", "linear_svm")]
    linear.save(tmp_path / "baseline", fitted, {"folds": ["a", "b"]})
    assert linear.load_metadata(tmp_path / "baseline") == {"folds": ["a", "b"]}
    for before, after in zip(fitted, linear.load(tmp_path / "baseline"), strict=True):
        np.testing.assert_array_equal(predict(before, values), predict(after, values))
        assert after.C == before.C
    for path, read in (("arrays.npz", linear.load), ("baseline.json", linear.load_metadata)):
        path = tmp_path / "baseline" / path
        path.write_bytes(path.read_bytes()[:50])
        with pytest.raises(UserError, match=f"{path}: damaged"):
            read(path.parent)


def test_options_are_checked_and_text_is_taken_for_what_it_spells():
    options = {"name": "svr", "functionals": "egemaps", "scaling": "speaker", "class_weights": "false"}
    assert make_baseline(options) == Baseline("svr", "egemaps", "speaker", False)
    assert make_baseline({"name": "ridge"}) == Baseline("ridge", "own", "fold", True)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("functional", "own", "did you mean functionals"),
        ("functionals", "egemap", "did you mean egemaps"),
        ("scaling", "speakers", "did you mean speaker"),
        ("class_weights", "balanced", "expected one of True, False"),
        ("width", 0.5, "expected one of name, functionals, scaling, class_weights"),
    ],
)
def test_a_wrong_option_is_refused_with_the_nearest(option, value, expected):
    with pytest.raises(UserError, match=expected):
        make_baseline({"name": "ridge", option: value})


@pytest.mark.parametrize("name", ["ridge", "lda", "linear_svm"])
@pytest.mark.parametrize("scaling", ["fold", "speaker"])
def test_versions_are_learnt_as_utterances_and_classified_by_their_mean_score(name, scaling):
    values, labels, speakers, genders = speech()
    versions = np.stack([values, 1.1 * values + 3, values[:, ::-1]], 1)
    if scaling == "speaker":
        versions = scale_by_speaker(versions, speakers)
        np.testing.assert_allclose(versions[speakers == speakers[0]].mean(0), 0, atol=1e-9)
    held_out = inner_folds(speakers, genders, labels)
    fitted = fit(Baseline(name, scaling=scaling), versions, labels, held_out, EMOTIONS)
    rows, repeated = versions.reshape(-1, versions.shape[2]), np.repeat(labels, 3)
    fixed = dict(baseline=Baseline(name, scaling=scaling), values=rows[:, None], labels=repeated, held_out=[])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "grid_of", lambda _: (fitted.C,))
        flat = fit(**fixed, num_classes=EMOTIONS)
    np.testing.assert_allclose(fitted.coefficients, flat.coefficients, rtol=1e-4, atol=1e-6)
    scores = np.log(linear.predict(flat, rows[:, None])).reshape(len(labels), 3, EMOTIONS).mean(1)
    np.testing.assert_allclose(linear.predict(fitted, versions), softmax(scores, axis=1), rtol=1e-3, atol=1e-5)

    predicted = np.zeros_like(labels)
    for out in held_out:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(linear, "grid_of", lambda _: (fitted.C,))
            inner = fit(Baseline(name, scaling=scaling), versions[~out], labels[~out], [], EMOTIONS)
        predicted[out] = linear.predict(inner, versions[out]).argmax(1)
    assert fitted.inner_ua.max() == pytest.approx(recall_score(labels, predicted, average="macro"))


def test_probabilities_that_are_not_finite_are_refused():
    fitted = linear.Fitted(
        mean=np.zeros(2),
        scale=np.ones(2),
        coefficients=np.ones((3, 2)),
        intercept=np.zeros(3),
        C=1.0,
        inner_ua=np.zeros(len(GRID)),
    )
    assert np.isfinite(linear.predict(fitted, np.ones((4, 1, 2)))).all()
    with pytest.raises(UserError, match="probabilities that are not finite for 1 of 2"):
        linear.predict(fitted, np.array([[[1.0, 1.0]], [[np.inf, 1.0]]]))
