import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import balanced_accuracy_score
from threadpoolctl import threadpool_info

from ser_jax import predictions
from ser_jax.statistics import bootstrap, metrics
from tests.statistics.made_tables import EMOTIONS, make_table
from tests.statistics.simulated_studies import coverage


def random_counts(speakers=8, seeds=2, classes=4, seed=0):
    return np.random.default_rng(seed).integers(0, 6, (seeds, speakers, classes, classes))


def test_ua_is_pooled_over_folds_for_each_seed_and_then_averaged_over_seeds():
    table = make_table()
    table["predicted"] = np.array(EMOTIONS)[predictions.probabilities_of(table).argmax(axis=1)]
    table = table[table["variant"] == "eca"]
    per_seed = [balanced_accuracy_score(rows["label"], rows["predicted"]) for _, rows in table.groupby("seed")]
    counts = metrics.confusion_counts(table.drop(columns="predicted"), "speaker").counts
    np.testing.assert_allclose(bootstrap.bootstrap_interval(counts, replicates=10).value, np.mean(per_seed))


def test_standard_error_equals_that_of_scipys_bootstrap_over_speakers():
    counts = random_counts()

    def ua(speakers):
        return metrics.unweighted_accuracy(counts[:, speakers].sum(axis=1)).mean()

    scipys = stats.bootstrap(
        (np.arange(8),), ua, vectorized=False, n_resamples=2000, method="percentile", rng=np.random.default_rng(1)
    )
    ours = bootstrap.bootstrap_interval(counts, replicates=4000)
    # What differs is the factor for few clusters, and Monte Carlo noise (2 % here).
    np.testing.assert_allclose(ours.standard_error / np.sqrt(8 / 7), scipys.standard_error, rtol=0.08)
    np.testing.assert_allclose((ours.high - ours.low) / 2, stats.t.ppf(0.975, 7) * ours.standard_error)


@pytest.mark.parametrize("metric", [metrics.weighted_accuracy, metrics.macro_f1, metrics.recall])
def test_any_metrics_standard_error_is_near_the_cluster_jackknifes(metric):
    counts = random_counts(speakers=30)
    deleted = np.stack([metric(np.delete(counts, k, axis=1).sum(axis=1)).mean(axis=0) for k in range(30)])
    jackknife = np.sqrt(29 / 30 * ((deleted - deleted.mean(axis=0)) ** 2).sum(axis=0))
    ours = bootstrap.bootstrap_interval(counts, metric, replicates=4000)
    np.testing.assert_allclose(ours.standard_error, jackknife, rtol=0.1)


def test_the_same_seed_gives_the_same_interval_and_the_number_of_replicates_may_be_anything():
    counts = random_counts()
    first = bootstrap.bootstrap_interval(counts, replicates=1500, seed=3)
    again = bootstrap.bootstrap_interval(counts, replicates=1500, seed=3)
    other = bootstrap.bootstrap_interval(counts, replicates=1500, seed=4)
    assert first.low == again.low
    assert first.low != other.low


@given(st.integers(2, 6), st.integers(1, 3), st.integers(0, 1000))
def test_an_interval_holds_its_estimate_and_stays_between_zero_and_one(speakers, seeds, seed):
    estimate = bootstrap.bootstrap_interval(random_counts(speakers, seeds, seed=seed), replicates=50)
    if not np.isnan(estimate.low):
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


def test_every_draw_holds_every_class():
    counts = random_counts(speakers=6)
    counts[:, 1:, 2] = 0  # one speaker alone has class 2
    seen = []

    def statistic(confusion):
        seen.append((confusion.sum(axis=-1) > 0).all())
        return metrics.unweighted_accuracy(confusion).mean(axis=1)

    assert not np.isnan(bootstrap.bootstrap(counts, statistic, replicates=500, seed=0)).any()
    assert all(seen)


def test_a_class_absent_from_the_reference_is_left_out_of_every_replicate():
    counts = random_counts()
    counts[:, :, 2] = 0
    estimate = bootstrap.bootstrap_interval(counts, replicates=200)
    recall = bootstrap.bootstrap_interval(counts, metrics.recall, replicates=200)
    np.testing.assert_array_equal(np.isnan(recall.value), [False, False, True, False])
    np.testing.assert_allclose(estimate.value, np.delete(recall.value, 2).mean())
    assert not np.isnan(estimate.low)


def test_all_replicates_are_drawn_also_where_an_absent_class_has_no_recall():
    counts = random_counts()
    counts[:, :, 2] = 0
    replicates = bootstrap.bootstrap(counts[0], metrics.recall, replicates=1200, seed=0)
    np.testing.assert_array_equal(np.isnan(replicates).sum(axis=0), [0, 0, 1200, 0])


def test_each_speaker_with_an_emotion_of_their_own_gives_no_interval_in_short_time():
    counts = np.zeros((1, 10, 10, 10), int)
    counts[0, range(10), range(10), range(10)] = 5
    counts[0, range(10), range(10), 0] += 1
    assert np.isnan(bootstrap.bootstrap_interval(counts).low)
    drawn = bootstrap.bootstrap(counts[0], metrics.unweighted_accuracy, replicates=5000, seed=0)
    assert len(drawn) == 1000 and np.isnan(drawn).mean() > 0.9  # the first of them show that there are hardly any


@pytest.mark.parametrize("speakers", [1, 5])
def test_no_interval_where_one_speaker_or_no_difference_between_speakers(speakers):
    counts = np.repeat(random_counts(speakers=1), speakers, axis=1)
    estimate = bootstrap.bootstrap_interval(counts, replicates=100)
    assert np.isnan([estimate.low, estimate.high, estimate.standard_error]).all()
    assert 0 < estimate.value < 1


def test_recall_of_a_class_heard_from_one_speaker_has_no_interval():
    counts = random_counts(speakers=6)
    counts[:, 1:, 2] = 0
    estimate = bootstrap.bootstrap_interval(counts, metrics.recall, replicates=200)
    np.testing.assert_array_equal(np.isnan(estimate.low), [False, False, True, False])


def test_recall_of_a_class_has_the_degrees_of_freedom_of_the_speakers_that_it_was_heard_from():
    counts = random_counts(speakers=6, seeds=1)
    counts[:, :, 2] = 0
    counts[0, [0, 1], 2, [2, 0]] = 1  # heard from two, one utterance of each; predicted for all

    def recall(confusion):
        return metrics.recall(confusion).mean(axis=1)

    drawn = bootstrap.bootstrap(counts, recall, replicates=500, seed=0)
    found = bootstrap.bootstrap_interval(counts, metrics.recall, replicates=500, seed=0)
    speakers = np.array([6, 6, 2, 6])
    np.testing.assert_allclose(found.standard_error, drawn.std(axis=0) * np.sqrt(speakers / (speakers - 1)))


def test_speakers_of_one_utterance_count_and_those_of_none_do_not():
    counts = np.zeros((2, 1, 7, 2, 2), int)
    counts[:, 0, range(5), [0, 1, 0, 1, 0], [0, 0, 0, 1, 1]] = 1
    counts[1] = np.roll(counts[1], 1, axis=-1)
    drawn = bootstrap.bootstrap(counts[:, 0], metrics.unweighted_accuracy, replicates=200, seed=0)
    for found, of_draws in (
        (bootstrap.bootstrap_interval(counts[0], replicates=200), drawn[:, 0]),
        (difference(*counts, replicates=200), drawn[:, 0] - drawn[:, 1]),
    ):
        np.testing.assert_allclose(found.standard_error, of_draws.std() * np.sqrt(5 / 4))


def test_no_interval_over_one_speaker_whatever_rounding_makes_of_the_replicates():
    found = bootstrap.estimate(0.5, np.array([0.5, 0.5 + 1e-9]), 1, bounds=(0.0, 1.0))
    assert np.isnan([found.low, found.high, found.standard_error]).all()


def difference(variant, baseline, metric=metrics.unweighted_accuracy, *, replicates):
    both, weights = np.stack([variant, baseline]), np.array([[1.0, -1.0]])
    return bootstrap.bootstrap_contrasts(both, weights, metric, replicates=replicates)


def test_difference_draws_the_same_speakers_for_both_variants():
    baseline = random_counts(speakers=10)
    variant = baseline.copy()
    variant[:, :, 0, 0] += 1  # nearly the same for every speaker: paired, it hardly varies
    matched = difference(variant, baseline, replicates=500)
    alone = bootstrap.bootstrap_interval(variant, replicates=500)
    assert matched.value > 0
    assert matched.standard_error < alone.standard_error / 3
    mirrored = difference(baseline, variant, replicates=500)
    np.testing.assert_allclose([mirrored.low, mirrored.high], [-matched.high, -matched.low])


def test_contrasts_are_weighted_sums_of_the_variants_figures_of_the_same_speakers():
    counts = np.stack([random_counts(seed=i) for i in range(3)])
    weights = np.array([[1.0, -1.0, 0.0], [0.5, 0.5, -1.0]])
    found = bootstrap.bootstrap_contrasts(counts, weights, replicates=300)
    pairwise = difference(counts[0], counts[1], replicates=300)
    np.testing.assert_allclose(
        [found.value[0], found.low[0], found.high[0]], [pairwise.value[0], pairwise.low[0], pairwise.high[0]]
    )
    each = [bootstrap.bootstrap_interval(one, replicates=10).value for one in counts]
    np.testing.assert_allclose(found.value, weights @ each)
    recalls = bootstrap.bootstrap_contrasts(counts, weights, metrics.recall, replicates=300)
    assert recalls.low.shape == (2, 4)
    alone = difference(counts[0], counts[1], metrics.recall, replicates=300)
    np.testing.assert_allclose(recalls.high[0], alone.high[0])


@pytest.fixture(scope="module")
def rates():
    return coverage(speakers=6, studies=100, replicates=100)


@pytest.mark.parametrize("figure", ["ua", "difference", "main effect", "interaction"])
def test_intervals_cover_the_truth_in_95_percent_of_simulated_studies_where_percentiles_do_not(rates, figure):
    # Three Monte Carlo standard errors of 100 studies are 7 points.
    assert 0.88 <= rates[figure] <= 1
    assert rates[f"{figure}, percentiles"] < rates[figure] - 0.02


@pytest.mark.parametrize(("speakers", "small"), [(10, True), (3000, False)])
def test_small_products_are_computed_by_one_thread(speakers, small):
    def blas():
        return [of["num_threads"] for of in threadpool_info() if of["user_api"] == "blas"]

    before, seen = blas(), []
    sums = np.ones((speakers, 100))
    bootstrap.bootstrap_sums(sums, lambda drawn: seen.append(blas()) or drawn[:, 0], replicates=10, seed=0)
    assert before
    assert seen == [[1] * len(before) if small else before]
    assert blas() == before
