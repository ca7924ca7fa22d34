"""Which columns of pooled states are taken: by the inner folds alone, and what choosing among baselines may use."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import recall_score

from ser_jax.baselines import columns, linear
from ser_jax.baselines.columns import COLUMNS
from ser_jax.baselines.linear import Baseline, inner_folds
from ser_jax.errors import UserError
from tests.baselines.test_linear import EMOTIONS, fit, predict, speech

STATES = tuple(f"layer {n}/{kind}/{i}" for n in range(4) for kind in ("mean", "deviation") for i in range(3))
SETS = list(columns.state_columns(STATES).values())


def inner_scores(baseline, values, labels, sets=SETS):
    """The scores of the inner folds by every set: most of the time of a choice of columns, whatever is chosen."""
    return columns.inner_scores(baseline, values[:, None], sets, labels, EMOTIONS)


def fit_columns(baseline, values, labels, held_out, rows=None, sets=SETS, scores_by=None):
    rows = np.arange(len(labels)) if rows is None else rows
    scores_by = scores_by or inner_scores(baseline, values, labels, sets)
    return columns.fit_columns(baseline, values[:, None], sets, labels, rows, held_out, scores_by, EMOTIONS)


def test_columns_of_pooled_states_are_told_apart_by_their_names():
    sets = columns.state_columns(STATES)
    assert len(sets) == 4 + 4 + 2 + 2
    assert sets["mean of layer 1"].tolist() == [6, 7, 8]
    assert sets["mean and deviation of layer 3"].tolist() == [18, 19, 20, 21, 22, 23]
    assert sets["mean of layer 1, layer 2, layer 3"].tolist() == [6, 7, 8, 12, 13, 14, 18, 19, 20]
    with pytest.raises(UserError, match="expected pooled hidden states"):
        columns.state_columns(["a", "b"])


def test_one_set_of_columns_is_taken_by_its_name():
    assert linear.make_baseline({"name": "lda", "columns": "mean of layer 1"}).columns == "mean of layer 1"
    (found,) = columns.column_sets("mean of layer 1", STATES).values()
    assert found.tolist() == [6, 7, 8]
    assert len(columns.column_sets("chosen", STATES)) == 12
    assert columns.column_sets("all", ["a", "b"])["all"].tolist() == [0, 1]
    with pytest.raises(UserError, match=r"config.model.columns: 'mean of layer 7'; did you mean"):
        columns.column_sets("mean of layer 7", STATES)


@pytest.mark.parametrize("name", ["lda", "linear_svm"])
def test_columns_are_chosen_on_the_inner_folds_alone(name):
    values, labels, speakers, genders = speech(dims=24)
    good = columns.state_columns(STATES)["mean of layer 2"]
    values[:, good] = np.eye(EMOTIONS, 3)[labels] * 3 + np.random.default_rng(1).normal(size=(len(labels), 3))
    held_out = inner_folds(speakers, genders, labels)
    by_inner_folds = inner_scores(Baseline(name), values, labels)
    found = fit_columns(Baseline(name), values, labels, held_out, scores_by=by_inner_folds)
    (best,), fitted = found.kept, found.fitted
    fits = [fit(Baseline(name), values[:, own], labels, held_out, EMOTIONS) for own in SETS]
    alone = [of_set.inner_ua.max() for of_set in fits]
    assert best == int(np.argmax(alone)) and set(good) <= set(SETS[best])
    other = np.setdiff1d(np.arange(24), SETS[best])
    assert not fitted.coefficients[:, other].any() and fitted.coefficients[:, SETS[best]].any()
    np.testing.assert_allclose(predict(fitted, values), predict(fits[best], values[:, SETS[best]]), atol=1e-6)
    # "chosen" may also take all sets combined, where the mean of their scores does better than any: LDA's does here.
    chosen, combined = (
        fit_columns(Baseline(name, columns=how), values, labels, held_out, scores_by=by_inner_folds)
        for how in COLUMNS[1:]
    )
    scores = np.full((len(labels), EMOTIONS), np.nan)
    for out in held_out:
        of_sets = [
            linear.scores_of_others(Baseline(name), values[:, None][..., own], labels, ~out, EMOTIONS) for own in SETS
        ]
        levels = [linear.grid_of(Baseline(name)).index(of_set.C) for of_set in fits]
        scores[out] = np.mean([one[level] for one, level in zip(of_sets, levels, strict=True)], 0)
    better = recall_score(labels, scores.argmax(1), average="macro") > max(alone)
    assert better == (name == "lda") and chosen.kept == (tuple(range(len(SETS))) if better else (best,))
    same = combined if better else found
    np.testing.assert_allclose(predict(chosen.fitted, values), predict(same.fitted, values), atol=1e-6)


@pytest.mark.parametrize("name", ["lda", "linear_svm"])
def test_combined_columns_give_the_mean_of_the_scores_by_each_set(name):
    values, labels, speakers, genders = speech(dims=24)
    held_out = inner_folds(speakers, genders, labels)
    fitted = fit_columns(Baseline(name, columns="combined"), values, labels, held_out).fitted
    alone = [fit(Baseline(name), values[:, own], labels, held_out, EMOTIONS) for own in SETS]
    scores = np.mean(
        [
            (values[:, own] - one.mean) / one.scale @ one.coefficients.T.astype(float) + one.intercept
            for one, own in zip(alone, SETS, strict=True)
        ],
        axis=0,
    )
    np.testing.assert_allclose(predict(fitted, values), softmax(scores, axis=1), atol=1e-6)


def test_chosen_takes_all_sets_combined_where_that_is_better_than_the_best_of_them():
    labels = np.array([0, 1, 0, 1])
    sure, wrong = 5 * np.eye(2)[labels], np.eye(2)[1 - labels]
    first_half = np.array([True, True, False, False])[:, None]
    scores = np.stack([np.where(first_half, sure, wrong)[None], np.where(first_half, wrong, sure)[None]])
    assert linear.accuracy(scores, labels).tolist() == [[0.5], [0.5]]  # [sets, grid]: each is right for one half
    together = columns.choose("chosen", scores, labels)
    assert together.kept == (0, 1) and linear.accuracy(together.combine(scores), labels) == 1
    assert columns.choose("all", scores, labels).kept == (0,)
    scores[0, 0] = sure
    assert columns.choose("chosen", scores, labels).kept == (0,)  # not better than the best set
    assert columns.choose("combined", scores, labels).kept == (0, 1)


def test_what_a_choice_among_baselines_uses_is_of_models_and_choices_that_have_not_seen_an_utterance():
    values, labels, speakers, genders = speech(dims=24, seed=5)
    held_out = inner_folds(speakers, genders, labels)
    found = fit_columns(Baseline("lda", columns="chosen"), values, labels, held_out)
    predicted = np.empty_like(labels)
    for out in held_out:
        # C and columns by the other speakers, each left out in turn beside this one's absence from the choice.
        scores = np.stack(
            [
                np.concatenate(
                    [
                        linear.scores_of_others(Baseline("lda"), values[:, None, own], labels, ~inner, EMOTIONS)
                        for inner in held_out
                    ],
                    axis=1,
                )
                for own in SETS
            ]
        )
        order = np.concatenate([np.flatnonzero(inner) for inner in held_out])
        scores = scores[:, :, np.argsort(order)]
        ua = np.array(
            [[recall_score(labels[~out], one[~out].argmax(1), average="macro") for one in of_set] for of_set in scores]
        )
        best = np.mean([scores[i, ua[i].argmax()] for i in range(len(SETS))], axis=0)
        if recall_score(labels[~out], best[~out].argmax(1), average="macro") <= ua.max():
            best = scores[ua.max(1).argmax(), ua[ua.max(1).argmax()].argmax()]
        predicted[out] = best[out].argmax(1)
    assert found.held_out_ua == pytest.approx(recall_score(labels, predicted, average="macro"))


def test_folds_that_learn_the_same_share_scores_and_see_nothing_of_their_tested_speaker(monkeypatch):
    values, labels, speakers, genders = speech(num_speakers=5, dims=24)
    learnt = []
    scores_of_others = linear.scores_of_others

    def noted(*arguments):
        learnt.append(arguments[3].tobytes())
        return scores_of_others(*arguments)

    monkeypatch.setattr(linear, "scores_of_others", noted)
    sets, baseline = SETS[:1], Baseline("ridge")
    scores_by = columns.inner_scores(baseline, values[:, None], sets, labels, EMOTIONS)
    for tested in np.unique(speakers):
        rows = np.flatnonzero(speakers != tested)
        held_out = inner_folds(speakers[rows], genders[rows], labels[rows])
        shared = columns.fit_columns(baseline, values[:, None], sets, labels, rows, held_out, scores_by, EMOTIONS)
        own = fit_columns(baseline, values[rows], labels[rows], held_out, sets=sets)
        assert shared.held_out_ua == own.held_out_ua and own.fitted.C == shared.fitted.C
        np.testing.assert_array_equal(shared.fitted.coefficients, own.fitted.coefficients)
    of_all = [mask for mask in learnt if len(mask) == len(labels)]
    assert len(of_all) == len(set(of_all)) == 10  # pairs of five speakers, each once
