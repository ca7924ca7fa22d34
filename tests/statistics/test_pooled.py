import json

import numpy as np
import pytest
from scipy import stats

from ser_jax.errors import UserError
from ser_jax.statistics import paired, pooled
from tests.statistics.simulated_studies import pooled_coverage

VARIANTS = ["none", "se", "eca", "both"]
UA = np.random.default_rng(0).random((14, 4)) + np.array([0, 0.1, 0.2, 0.5])


def make_summary(corpus, ua, effects=(), standard_error=0.02):
    comparisons = [
        {
            "variant": variant,
            "baseline": "none",
            "ua_difference": value,
            "ci95": [value - 0.1, value + 0.1],
            "standard_error": standard_error,
        }
        for variant, value in effects
    ]
    return {"corpus": corpus, "variants": {v: {"ua": u} for v, u in ua.items()}, "comparisons": comparisons}


def test_critical_difference_equals_the_worked_example_of_the_paper():
    # Demsar 2006, section 3.2.2: 4 algorithms on 14 data sets, 2.569 * sqrt(4 * 5 / (6 * 14)) = 1.25.
    found = pooled.rank_variants(UA, VARIANTS)
    assert found["critical_difference"] == pytest.approx(1.25, abs=0.005)


@pytest.mark.parametrize(("count", "q"), [(3, 2.343), (5, 2.728), (10, 3.164)])
def test_critical_values_equal_the_papers_table(count, q):
    found = pooled.rank_variants(np.random.default_rng(0).random((8, count)), [str(i) for i in range(count)])
    assert found["critical_difference"] == pytest.approx(q * np.sqrt(count * (count + 1) / 48), rel=5e-4)


def test_friedmans_test_equals_a_slow_computation_from_ranks():
    found = pooled.rank_variants(UA, VARIANTS)
    ranks = [[1 + sum(other > one for other in row) for one in row] for row in UA]
    mean = np.mean(ranks, axis=0)
    chi2 = 12 * 14 / (4 * 5) * (sum(mean**2) - 4 * 5**2 / 4)
    assert found["p_friedman"] == pytest.approx(stats.chi2.sf(chi2, 3))
    assert list(found["mean_ranks"].values()) == pytest.approx(mean)


def test_pairs_are_wilcoxons_tests_corrected_by_holm():
    pairs = pooled.rank_variants(UA, VARIANTS)["pairs"]
    assert len(pairs) == 6
    assert (pairs[0]["variant"], pairs[0]["baseline"]) == ("se", "none")
    assert pairs[0]["p_wilcoxon"] == pytest.approx(stats.wilcoxon(UA[:, 1], UA[:, 0]).pvalue)
    assert pairs[0]["ua_difference"] == pytest.approx(np.median(UA[:, 1] - UA[:, 0]))
    assert [pair["p_holm"] for pair in pairs] == paired.holm([pair["p_wilcoxon"] for pair in pairs])


def test_few_corpora_say_what_they_cannot_show():
    notes = pooled.rank_variants(UA[:3], VARIANTS)["notes"]
    assert "never below 0.25" in notes[-1]
    assert any("Friedman's p is a rough" in note for note in notes)
    assert any("3 corpora" in note for note in notes)
    two = pooled.rank_variants(UA[:2], VARIANTS)
    assert any("cannot show a difference" in note for note in two["notes"])
    pair = pooled.rank_variants(UA[:, :2], VARIANTS[:2])
    assert (pair["p_friedman"], pair["critical_difference"]) == (None, None)
    assert "two variants: no Friedman test" in pair["notes"][0]
    assert not pooled.rank_variants(UA, VARIANTS)["notes"]


def test_variants_that_are_all_alike_have_no_test():
    found = pooled.rank_variants(np.full((4, 3), 0.5), VARIANTS[:3])
    assert found["p_friedman"] is None
    assert {pair["p_wilcoxon"] for pair in found["pairs"]} == {None}
    assert set(found["mean_ranks"].values()) == {2.0}


def test_pooled_effect_equals_a_slow_computation_from_the_papers():
    y, se = [0.01, 0.05, -0.02, 0.08], [0.01, 0.02, 0.015, 0.03]
    w = [1 / s**2 for s in se]
    fixed = sum(a * b for a, b in zip(w, y, strict=True)) / sum(w)
    q = sum(a * (b - fixed) ** 2 for a, b in zip(w, y, strict=True))
    tau2 = max(0, (q - 3) / (sum(w) - sum(a**2 for a in w) / sum(w)))
    star = [1 / (s**2 + tau2) for s in se]
    mean = sum(a * b for a, b in zip(star, y, strict=True)) / sum(star)
    variance = sum(a * (b - mean) ** 2 for a, b in zip(star, y, strict=True)) / (3 * sum(star))
    found = pooled.pool_effects(np.array(y), np.array(se))
    assert tau2 > 0
    assert (found["ua_difference"], found["tau"]) == pytest.approx((mean, tau2**0.5))
    half = stats.t.ppf(0.975, 3) * max(variance, 1 / sum(star)) ** 0.5
    assert found["ci95"] == pytest.approx((mean - half, mean + half))
    assert found["p_heterogeneity"] == pytest.approx(stats.chi2.sf(q, 3))


def test_pooled_effect_of_equally_sure_unlike_corpora_is_students_test():
    y = np.array([0.1, -0.2, 0.3, 0.25, 0.0])
    found = pooled.pool_effects(y, np.full(5, 0.01))
    expected = stats.ttest_1samp(y, 0)
    assert found["p"] == pytest.approx(expected.pvalue)
    assert found["ci95"] == pytest.approx(tuple(expected.confidence_interval()))


def test_pooled_effect_of_corpora_that_agree_is_weighted_by_their_precision():
    found = pooled.pool_effects(np.array([0.03, 0.031]), np.array([0.01, 0.03]))
    assert found["tau"] == 0
    assert found["ua_difference"] == pytest.approx((0.03 * 9 + 0.031) / 10)


def test_pooled_intervals_cover_the_true_mean_effect():
    for corpora in (2, 5):
        assert pooled_coverage(corpora, studies=400)["pooled effect"] >= 0.92


def test_view_over_corpora_has_the_shared_variants_and_comparisons():
    effects = {"emodb": [("eca", 0.05), ("se", 0.01)], "ravdess": [("eca", 0.01), ("both", 0.0)]}
    summaries = [
        make_summary("emodb", {"none": 0.6, "se": 0.61, "eca": 0.65}, effects["emodb"]),
        make_summary("ravdess", {"none": 0.5, "eca": 0.51, "both": 0.5}, effects["ravdess"], standard_error=0.01),
    ]
    found = pooled.across_corpora(summaries)
    json.dumps(found, allow_nan=False)
    assert (found["corpora"], found["variants"]) == (["emodb", "ravdess"], ["none", "eca"])
    assert found["ua"]["emodb"] == {"none": 0.6, "eca": 0.65}
    (effect,) = found["effects"]
    assert (effect["variant"], effect["baseline"]) == ("eca", "none")
    assert effect["corpora"]["emodb"]["ua_difference"] == 0.05
    assert 0.01 < effect["pooled"]["ua_difference"] < 0.05
    assert found["notes"] == ["not on all corpora and left out: both, se"]
    assert effect["notes"] == ["2 corpora: how much the effect varies between corpora is hardly known"]


def test_corpora_without_an_interval_are_not_pooled():
    ua = {"none": 0.5, "eca": 0.6}
    summaries = [make_summary("a", ua, [("eca", 0.1)]), make_summary("b", ua, [("eca", 0.1)], standard_error=None)]
    effect = pooled.across_corpora(summaries)["effects"][0]
    assert effect["pooled"] is None
    assert effect["notes"] == ["fewer than two corpora have an interval: not pooled"]


@pytest.mark.parametrize(
    ("summaries", "message"),
    [
        ([make_summary("a", {"none": 0.5})], "needs summaries of two or more, found 1"),
        ([make_summary("a", {"none": 0.5})] * 2, "two summaries are of corpus a"),
        ([make_summary("a", {"none": 0.5}), make_summary("b", {"eca": 0.5})], "a, b have no variant in common"),
    ],
)
def test_a_view_that_cannot_be_is_refused_in_one_line(summaries, message):
    with pytest.raises(UserError, match=message):
        pooled.across_corpora(summaries)
