import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score, recall_score

from ser_jax import predictions
from ser_jax.statistics import metrics

labels = hnp.arrays(np.int64, st.integers(1, 40), elements=st.integers(0, 4))


@given(labels, st.randoms())
def test_metrics_equal_scikit_learns_over_the_classes_present(reference, random):
    predicted = np.array([random.randrange(5) for _ in reference])
    confusion = confusion_matrix(reference, predicted, labels=range(5))
    present = sorted(set(reference))
    recall = recall_score(reference, predicted, labels=present, average=None, zero_division=0)
    np.testing.assert_allclose(metrics.recall(confusion)[present], recall)
    assert np.isnan(np.delete(metrics.recall(confusion), present)).all()
    np.testing.assert_allclose(metrics.unweighted_accuracy(confusion), recall.mean())
    np.testing.assert_allclose(metrics.weighted_accuracy(confusion), accuracy_score(reference, predicted))
    f1 = f1_score(reference, predicted, labels=present, average="macro", zero_division=0)
    np.testing.assert_allclose(metrics.macro_f1(confusion), f1)


def test_what_is_divided_by_zero_is_not_a_number():
    np.testing.assert_array_equal(
        metrics.divide([1.0, 0.0, 3.0, 2.0], [0.0, 0.0, 2.0, -1.0]), [np.nan, np.nan, 1.5, -2]
    )


def test_ua_is_balanced_accuracy():
    rng = np.random.default_rng(0)
    reference, predicted = rng.integers(0, 7, (2, 300))
    ua = metrics.unweighted_accuracy(confusion_matrix(reference, predicted))
    np.testing.assert_allclose(ua, balanced_accuracy_score(reference, predicted))


def test_metrics_of_a_stack_are_those_of_its_matrices():
    stack = np.random.default_rng(0).integers(0, 9, (2, 3, 4, 4))
    for metric in (metrics.unweighted_accuracy, metrics.weighted_accuracy, metrics.macro_f1, metrics.recall):
        np.testing.assert_allclose(metric(stack)[1, 2], metric(stack[1, 2]))


def test_an_empty_matrix_gives_nan_and_no_warning():
    for metric in (metrics.unweighted_accuracy, metrics.weighted_accuracy, metrics.macro_f1):
        assert np.isnan(metric(np.zeros((3, 3), int)))


@pytest.mark.parametrize("group", ["speaker", "fold"])
def test_confusion_counts_equal_scikit_learns_for_each_seed_and_group(group):
    rng = np.random.default_rng(0)
    emotions = ("anger", "joy", "neutral")
    tables = []
    for fold, seed in [("x", 3), ("x", 11), ("y", 3)]:  # fold y was not run with seed 11
        ids = [f"{fold}{i}" for i in range(20)]
        speakers = [f"{fold}-{i % 2}" for i in range(20)]
        probabilities = rng.dirichlet(np.ones(3), 20)
        label = np.arange(20) % 3
        made = predictions.make_predictions("c", "v", fold, seed, ids, speakers, label, probabilities, emotions)
        tables.append(made)
    table = predictions.merge(tables)
    found = metrics.confusion_counts(table, group)
    assert found.seeds == (3, 11)
    assert found.emotions == emotions
    assert found.counts.sum() == len(table)
    mixed = metrics.confusion_counts(table.sample(frac=1, random_state=0), group)
    assert mixed.groups == found.groups == tuple(sorted(found.groups))
    np.testing.assert_array_equal(mixed.counts, found.counts)
    for seed, by_group in zip(found.seeds, found.counts, strict=True):
        for name, confusion in zip(found.groups, by_group, strict=True):
            rows = table[(table["seed"] == seed) & (table[group] == name)]
            predicted = np.array(emotions)[predictions.probabilities_of(rows).argmax(axis=1)]
            expected = confusion_matrix(rows["label"], predicted, labels=emotions) if len(rows) else np.zeros((3, 3))
            np.testing.assert_array_equal(confusion, expected)
