import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

from ser_jax import predictions
from ser_jax.errors import UserError
from ser_jax.statistics import metrics, paired
from tests.statistics.made_tables import EMOTIONS, make_table, sizes
from tests.statistics.simulated_studies import NO_EFFECT, coverage


def random_counts(speakers=8, seeds=2, classes=4, seed=0):
    return np.random.default_rng(seed).integers(0, 6, (seeds, speakers, classes, classes))


def test_ua_is_pooled_over_folds_for_each_seed_and_then_averaged_over_seeds():
    table = make_table()
    table["predicted"] = np.array(EMOTIONS)[predictions.probabilities_of(table).argmax(axis=1)]
    table = table[table["variant"] == "eca"]
    per_seed = [balanced_accuracy_score(rows["label"], rows["predicted"]) for _, rows in table.groupby("seed")]
    counts = metrics.confusion_counts(table.drop(columns="predicted"), "speaker").counts
    np.testing.assert_allclose(paired.bootstrap_interval(counts, replicates=10).value, np.mean(per_seed))


def test_standard_error_equals_that_of_scipys_bootstrap_over_speakers():
    counts = random_counts()

    def ua(speakers):
        return metrics.unweighted_accuracy(counts[:, speakers].sum(axis=1)).mean()

    scipys = stats.bootstrap(
        (np.arange(8),), ua, vectorized=False, n_resamples=2000, method="percentile", rng=np.random.default_rng(1)
    )
    ours = paired.bootstrap_interval(counts, replicates=4000)
    # What differs is the factor for few clusters, and Monte Carlo noise (2 % here).
    np.testing.assert_allclose(ours.standard_error / np.sqrt(8 / 7), scipys.standard_error, rtol=0.08)
    np.testing.assert_allclose((ours.high - ours.low) / 2, stats.t.ppf(0.975, 7) * ours.standard_error)


@pytest.mark.parametrize("metric", [metrics.weighted_accuracy, metrics.macro_f1, metrics.recall])
def test_any_metrics_standard_error_is_near_the_cluster_jackknifes(metric):
    counts = random_counts(speakers=30)
    deleted = np.stack([metric(np.delete(counts, k, axis=1).sum(axis=1)).mean(axis=0) for k in range(30)])
    jackknife = np.sqrt(29 / 30 * ((deleted - deleted.mean(axis=0)) ** 2).sum(axis=0))
    ours = paired.bootstrap_interval(counts, metric, replicates=4000)
    np.testing.assert_allclose(ours.standard_error, jackknife, rtol=0.1)


def test_the_same_seed_gives_the_same_interval_and_the_number_of_replicates_may_be_anything():
    counts = random_counts()
    first = paired.bootstrap_interval(counts, replicates=1500, seed=3)
    again = paired.bootstrap_interval(counts, replicates=1500, seed=3)
    other = paired.bootstrap_interval(counts, replicates=1500, seed=4)
    assert first.low == again.low
    assert first.low != other.low


@given(st.integers(2, 6), st.integers(1, 3), st.integers(0, 1000))
def test_an_interval_holds_its_estimate_and_stays_between_zero_and_one(speakers, seeds, seed):
    estimate = paired.bootstrap_interval(random_counts(speakers, seeds, seed=seed), replicates=50)
    if not np.isnan(estimate.low):
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


def test_every_draw_holds_every_class():
    counts = random_counts(speakers=6)
    counts[:, 1:, 2] = 0  # one speaker alone has class 2
    seen = []

    def statistic(confusion):
        seen.append((confusion.sum(axis=-1) > 0).all())
        return metrics.unweighted_accuracy(confusion).mean(axis=1)

    assert not np.isnan(paired.bootstrap(counts, statistic, replicates=500, seed=0)).any()
    assert all(seen)


def test_a_class_absent_from_the_reference_is_left_out_of_every_replicate():
    counts = random_counts()
    counts[:, :, 2] = 0
    estimate = paired.bootstrap_interval(counts, replicates=200)
    recall = paired.bootstrap_interval(counts, metrics.recall, replicates=200)
    np.testing.assert_array_equal(np.isnan(recall.value), [False, False, True, False])
    np.testing.assert_allclose(estimate.value, np.delete(recall.value, 2).mean())
    assert not np.isnan(estimate.low)


def test_all_replicates_are_drawn_also_where_an_absent_class_has_no_recall():
    counts = random_counts()
    counts[:, :, 2] = 0
    replicates = paired.bootstrap(counts[0], metrics.recall, replicates=1200, seed=0)
    np.testing.assert_array_equal(np.isnan(replicates).sum(axis=0), [0, 0, 1200, 0])


def test_each_speaker_with_an_emotion_of_their_own_gives_no_interval_in_short_time():
    counts = np.zeros((1, 10, 10, 10), int)
    counts[0, range(10), range(10), range(10)] = 5
    counts[0, range(10), range(10), 0] += 1
    assert np.isnan(paired.bootstrap_interval(counts).low)


@pytest.mark.parametrize("speakers", [1, 5])
def test_no_interval_where_one_speaker_or_no_difference_between_speakers(speakers):
    counts = np.repeat(random_counts(speakers=1), speakers, axis=1)
    estimate = paired.bootstrap_interval(counts, replicates=100)
    assert np.isnan([estimate.low, estimate.high, estimate.standard_error]).all()
    assert 0 < estimate.value < 1


def test_recall_of_a_class_heard_from_one_speaker_has_no_interval():
    counts = random_counts(speakers=6)
    counts[:, 1:, 2] = 0
    estimate = paired.bootstrap_interval(counts, metrics.recall, replicates=200)
    np.testing.assert_array_equal(np.isnan(estimate.low), [False, False, True, False])


def test_difference_draws_the_same_speakers_for_both_variants():
    baseline = random_counts(speakers=10)
    variant = baseline.copy()
    variant[:, :, 0, 0] += 1  # nearly the same for every speaker: paired, it hardly varies
    matched = paired.bootstrap_difference(variant, baseline, replicates=500)
    alone = paired.bootstrap_interval(variant, replicates=500)
    assert matched.value > 0
    assert matched.standard_error < alone.standard_error / 3
    mirrored = paired.bootstrap_difference(baseline, variant, replicates=500)
    np.testing.assert_allclose([mirrored.low, mirrored.high], [-matched.high, -matched.low])


@pytest.fixture(scope="module")
def rates():
    return coverage(speakers=6, studies=100, replicates=100)


@pytest.mark.parametrize("figure", ["ua", "difference", "main effect", "interaction"])
def test_intervals_cover_the_truth_in_95_percent_of_simulated_studies_where_percentiles_do_not(rates, figure):
    # Three Monte Carlo standard errors of 100 studies are 7 points.
    assert 0.88 <= rates[figure] <= 1
    assert rates[f"{figure}, percentiles"] < rates[figure] - 0.02


def test_where_there_is_no_effect_neither_interval_nor_test_finds_one_more_often_than_promised():
    rates = coverage(speakers=6, studies=100, replicates=100, effects=NO_EFFECT, seed=1)
    assert rates["true difference"] == pytest.approx(0, abs=0.003)
    for figure in ("difference", "main effect", "interaction"):
        assert rates[f"{figure} apart"] <= 0.12
        assert rates[f"{figure} tested"] <= 0.12


def test_nadeau_bengio_equals_a_slow_computation_from_the_paper():
    differences = np.array([0.02, -0.01, 0.05, 0.03, 0.00, 0.04])
    runs = len(differences)
    mean = sum(differences) / runs
    variance = sum((d - mean) ** 2 for d in differences) / (runs - 1)
    t = mean / ((1 / runs + 48 / 432) * variance) ** 0.5
    expected = 2 * (1 - stats.t(runs - 1).cdf(t))
    np.testing.assert_allclose(paired.nadeau_bengio(differences, 48 / 432), expected)


def test_nadeau_bengio_without_test_data_in_proportion_is_the_paired_t_test():
    differences = np.random.default_rng(0).normal(0.2, 1, 12)
    expected = stats.ttest_1samp(differences, 0).pvalue
    np.testing.assert_allclose(paired.nadeau_bengio(differences, 0.0), expected)
    assert paired.nadeau_bengio(differences, 0.25) > expected


@pytest.mark.parametrize("differences", [[0.1], [0.1, 0.1, 0.1], [0.0, 0.0]])
def test_nadeau_bengio_tells_nothing_where_nothing_varies(differences):
    assert paired.nadeau_bengio(np.array(differences), 0.1) is None


def test_holm_equals_the_worked_example():
    assert paired.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert paired.holm([0.5, None, 0.6]) == [1.0, None, 1.0]
    assert paired.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_rejects_what_the_step_down_procedure_rejects(p_values):
    adjusted = paired.holm(p_values)
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted, strict=True))
    rejected = set()
    for rank, i in enumerate(order):
        if p_values[i] * (len(p_values) - rank) > 0.05:
            break
        rejected.add(i)
    assert {i for i, a in enumerate(adjusted) if a <= 0.05} == rejected


def test_minimum_detectable_difference_is_2_8_standard_errors_with_many_speakers_and_more_with_few():
    normal = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    assert paired.minimum_detectable_difference(0.01, 10_000) == pytest.approx(0.01 * normal, rel=1e-3)
    assert paired.minimum_detectable_difference(0.01, 6) > 0.01 * normal * 1.2


def test_comparison_equals_slow_loops_over_folds_and_speakers():
    table = make_table()
    comparison = paired.compare(table, "eca", "none", sizes(table), replicates=2000)
    predicted = np.array(EMOTIONS)[predictions.probabilities_of(table).argmax(axis=1)]
    table = table.assign(predicted=predicted).set_index("variant")

    def ua(rows):
        hit = rows["predicted"] == rows["label"]
        return hit.groupby(rows["label"]).mean().mean()

    eca, none = table.loc["eca"], table.loc["none"]
    pooled = [ua(eca[eca.seed == s]) - ua(none[none.seed == s]) for s in (0, 1)]
    assert comparison.ua_difference == pytest.approx(np.mean(pooled))
    runs = [
        ua(eca[(eca.seed == s) & (eca.fold == f)]) - ua(none[(none.seed == s) & (none.fold == f)])
        for f in eca.fold.unique()
        for s in (0, 1)
    ]
    assert comparison.p_nadeau_bengio == pytest.approx(paired.nadeau_bengio(np.array(runs), 24 / 120))
    rng = np.random.default_rng(5)
    of_run = {key: rows for key, rows in table.reset_index().groupby(["variant", "seed", "speaker"])}
    replicates = []
    for _ in range(100):
        drawn = rng.choice(eca.speaker.unique(), 6)
        gains = []
        for s in (0, 1):
            both = [pd.concat([of_run[variant, s, speaker] for speaker in drawn]) for variant in ("eca", "none")]
            gains.append(np.subtract(*[balanced_accuracy_score(t["label"], t["predicted"]) for t in both]))
        replicates.append(np.mean(gains))
    half = stats.t.ppf(0.975, 5) * np.std(replicates) * np.sqrt(6 / 5)
    assert (comparison.ci95[1] - comparison.ci95[0]) / 2 == pytest.approx(half, rel=0.3)
    assert comparison.ci95[0] > 0
    assert (comparison.folds, comparison.seeds, comparison.speakers, comparison.notes) == (6, 2, 6, ())
    assert comparison.standard_error == pytest.approx(
        (comparison.ci95[1] - comparison.ci95[0]) / 2 / stats.t.ppf(0.975, 5)
    )
    assert comparison.seed_differences == pytest.approx({"0": pooled[0], "1": pooled[1]})
    of_folds = {f: np.mean(runs[2 * i : 2 * i + 2]) for i, f in enumerate(eca.fold.unique())}
    assert comparison.fold_differences == pytest.approx(of_folds)


def test_comparison_does_not_depend_on_the_order_of_rows():
    table = make_table(utterances=8)
    shuffled = table.sample(frac=1, random_state=0)
    options = dict(fold_sizes=sizes(table), replicates=100)
    assert paired.compare(table, "eca", "none", **options) == paired.compare(shuffled, "eca", "none", **options)


def test_comparison_uses_only_what_both_variants_were_tested_on_and_says_so():
    table = make_table(utterances=12)
    less = table[~((table["variant"] == "none") & (table["fold"] == "fold0") & (table["seed"] == 1))]
    both = table[~((table["fold"] == "fold0") & (table["seed"] == 1))]
    found = paired.compare(less, "eca", "none", sizes(table), replicates=200)
    expected = paired.compare(both, "eca", "none", sizes(table), replicates=200)
    assert found.ua_difference == expected.ua_difference
    assert found.ci95 == expected.ci95
    assert found.notes == ("12 predictions left out, since only one of the two variants has them",)


def test_a_variant_compared_with_its_own_copy_gives_zero_and_no_test():
    table = make_table(variants=("none",), utterances=8)
    both = predictions.merge([table, table.assign(variant="copy")])
    found = paired.compare(both, "copy", "none", sizes(table), replicates=100)
    assert found.ua_difference == 0
    assert found.ci95 is None
    assert found.p_nadeau_bengio is None
    assert len(found.notes) == 2


def test_one_speaker_and_one_seed_give_the_difference_and_say_what_cannot_be_estimated():
    table = make_table(speakers=1, seeds=(0,))
    found = paired.compare(table, "eca", "none", sizes(table))
    assert found.ci95 is None
    assert found.minimum_detectable_difference is None
    assert found.p_nadeau_bengio is None
    assert [note.split(":")[0] for note in found.notes] == [
        "one speaker only",
        "one seed",
        "fewer than two runs, or all alike",
    ]


def test_folds_of_unknown_size_give_no_test_and_say_so():
    table = make_table(utterances=8)
    found = paired.compare(table, "eca", "none", {}, replicates=100)
    assert found.p_nadeau_bengio is None
    assert found.ci95 is not None
    assert found.notes == ("the sizes of the folds are not known: no test",)


def test_contrasts_are_weighted_sums_of_the_variants_figures_of_the_same_speakers():
    counts = np.stack([random_counts(seed=i) for i in range(3)])
    weights = np.array([[1.0, -1.0, 0.0], [0.5, 0.5, -1.0]])
    found = paired.bootstrap_contrasts(counts, weights, replicates=300)
    pairwise = paired.bootstrap_difference(counts[0], counts[1], replicates=300)
    np.testing.assert_allclose(
        [found.value[0], found.low[0], found.high[0]], [pairwise.value, pairwise.low, pairwise.high]
    )
    each = [paired.bootstrap_interval(one, replicates=10).value for one in counts]
    np.testing.assert_allclose(found.value, weights @ each)
    recalls = paired.bootstrap_contrasts(counts, weights, metrics.recall, replicates=300)
    assert recalls.low.shape == (2, 4)
    alone = paired.bootstrap_difference(counts[0], counts[1], metrics.recall, replicates=300)
    np.testing.assert_allclose(recalls.high[0], alone.high)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[t["variant"] == "eca"], "no variant none .there are: eca."),
        (lambda t: t.assign(seed=t["seed"] + 5 * (t["variant"] == "eca")), "no fold, seed and utterance to compare on"),
        (lambda t: t.assign(fold="other"), "sizes of fold other are not known"),
    ],
)
def test_an_impossible_comparison_is_refused_in_one_line(change, message):
    table = make_table(utterances=8)
    with pytest.raises(UserError, match=message):
        paired.compare(change(table), "eca", "none", sizes(table))


def test_all_comparisons_of_a_study_are_corrected_together():
    table = make_table(variants=("none", "se", "eca"), gain=0.1, utterances=12)
    found = paired.compare_all(table, [("se", "none"), ("eca", "none")], sizes(table), replicates=100)
    assert [c.p_holm for c in found] == paired.holm([c.p_nadeau_bengio for c in found])
    assert max(c.p_holm for c in found) > 0


def test_variants_of_different_protocols_are_paired_by_utterance_and_not_tested_as_runs():
    rng = np.random.default_rng(0)
    rows = []
    for variant, folds in (("strict", ["a", "a", "b", "b"]), ("random", ["1", "2", "1", "2"])):
        for seed in (0, 1):
            for i in range(40):
                right = rng.random() < (0.9 if variant == "random" else 0.6)
                label = ("anger", "sadness")[i % 2]
                anger = float(right == (label == "anger"))
                utterance = ("corpus", variant, folds[i % 4], seed, f"u{i}", f"s{i // 8}", label)
                rows.append((*utterance, anger, 1 - anger))
    columns = ["corpus", "variant", "fold", "seed", "utterance", "speaker", "label", "p_anger", "p_sadness"]
    table = pd.DataFrame(rows, columns=columns)
    found = paired.compare(table, "random", "strict", {"a": (20, 20), "b": (20, 20)}, replicates=200)
    ua = {
        name: np.mean(
            [
                balanced_accuracy_score(own["label"] == "anger", own["p_anger"] > 0.5)
                for _, own in table[table["variant"] == name].groupby("seed")
            ]
        )
        for name in ("random", "strict")
    }
    assert found.ua_difference == pytest.approx(ua["random"] - ua["strict"])
    assert found.ci95 is not None
    assert found.p_nadeau_bengio is None
    assert "paired by utterance" in found.notes[0]
