import json

import numpy as np
import pytest
from scipy import stats

from ser_jax.errors import UserError
from ser_jax.statistics import pooled
from tests.statistics.simulated_studies import pooled_coverage


def make_summary(corpus, ua, effects=(), standard_error=0.02):
    comparisons = [
        {
            "variant": variant,
            "baseline": "none",
            "estimate": value,
            "ci95": [value - 0.1, value + 0.1],
            "standard_error": standard_error,
        }
        for variant, value in effects
    ]
    return {"corpus": corpus, "variants": {v: {"ua": u} for v, u in ua.items()}, "comparisons": comparisons}


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
    assert (found["estimate"], found["tau"]) == pytest.approx((mean, tau2**0.5))
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
    assert found["estimate"] == pytest.approx((0.03 * 9 + 0.031) / 10)
    # Corpora that agree by chance do not make the interval shorter than their own standard errors say.
    half = stats.t.ppf(0.975, 1) / np.sqrt(1 / 0.01**2 + 1 / 0.03**2)
    assert found["ci95"] == pytest.approx((found["estimate"] - half, found["estimate"] + half))


def test_corpora_of_one_training_that_tested_all_speakers_are_named():
    first, second = (make_summary(name, {"none": 0.5, "eca": 0.6}, [("eca", 0.1)]) for name in "ab")
    first["comparisons"][0]["verdict"], second["comparisons"][0]["verdict"] = None, "difference"
    (effect,) = pooled.across_corpora([first, second])["effects"]
    assert effect["pooled"] is not None
    assert effect["notes"][0].startswith("one training of each variant tested all speakers of a: ")
    first["comparisons"][0]["verdict"] = "undecided"
    assert len(pooled.across_corpora([first, second])["effects"][0]["notes"]) == 1


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
    assert effect["corpora"]["emodb"]["estimate"] == 0.05
    assert 0.01 < effect["pooled"]["estimate"] < 0.05
    assert found["notes"] == ["not on all corpora and left out: both, se"]
    assert effect["notes"] == ["2 corpora: how much the effect varies between corpora is hardly known"]


def test_corpora_without_an_interval_are_not_pooled():
    ua = {"none": 0.5, "eca": 0.6}
    summaries = [make_summary("a", ua, [("eca", 0.1)]), make_summary("b", ua, [("eca", 0.1)], standard_error=None)]
    effect = pooled.across_corpora(summaries)["effects"][0]
    assert effect["pooled"] is None
    assert effect["notes"] == ["fewer than two corpora have an interval: not pooled"]


def test_those_that_have_an_interval_are_pooled_and_how_few_they_are_is_said():
    ua = {"none": 0.5, "eca": 0.6}
    summaries = [make_summary(name, ua, [("eca", 0.1)]) for name in "abcde"]
    found = pooled.across_corpora(summaries)["effects"][0]
    assert (found["pooled"]["corpora"], found["notes"]) == (5, [])
    without = make_summary("f", ua, [("eca", 0.9)], standard_error=None)
    found = pooled.across_corpora([*summaries[:2], without])["effects"][0]
    assert found["pooled"]["estimate"] == pytest.approx(0.1) and found["pooled"]["corpora"] == 2
    assert found["notes"] == [
        "pooled over the corpora that have an interval",
        "2 corpora: how much the effect varies between corpora is hardly known",
    ]


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
