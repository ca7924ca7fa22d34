import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from ser_jax.statistics import tests

FINITE = {"allow_nan": False, "allow_infinity": False}
POINTS = st.floats(-0.5, 0.5, **FINITE)
ERRORS = st.floats(1e-4, 0.3, **FINITE)
DEGREES = st.floats(1, 200, **FINITE)


@given(POINTS, ERRORS, DEGREES)
def test_p_is_below_five_percent_exactly_where_the_interval_excludes_zero(estimate, error, degrees):
    p = tests.t_test(estimate, error, degrees)
    assume(abs(p - 0.05) > 1e-9)
    low, high = tests.t_interval(estimate, error, degrees)
    assert (p < 0.05) == (low > 0 or high < 0)


@given(POINTS, ERRORS, DEGREES, st.floats(0.001, 0.2, **FINITE))
def test_equivalence_is_found_exactly_where_the_90_percent_interval_lies_within_the_margin(e, error, degrees, margin):
    p = tests.equivalence_test(e, error, degrees, margin)
    assume(abs(p - 0.05) > 1e-9)
    low, high = tests.t_interval(e, error, degrees, 0.90)
    assert (p < 0.05) == (-margin < low and high < margin)


def test_interval_and_p_value_equal_scipys_of_a_mean():
    values = np.random.default_rng(0).normal(0.3, 1, 9)
    expected = stats.ttest_1samp(values, 0)
    error = stats.sem(values)
    assert tests.t_test(values.mean(), error, 8.0) == pytest.approx(expected.pvalue)
    assert tests.t_interval(values.mean(), error, 8.0) == pytest.approx(tuple(expected.confidence_interval()))


def test_equivalence_is_the_larger_of_two_one_sided_tests():
    values = np.random.default_rng(0).normal(0.3, 1, 9)
    below = stats.ttest_1samp(values, -0.9, alternative="greater").pvalue
    above = stats.ttest_1samp(values, 0.9, alternative="less").pvalue
    found = tests.equivalence_test(values.mean(), stats.sem(values), 8.0, 0.9)
    assert found == pytest.approx(max(below, above))
    assert tests.equivalence_test(-values.mean(), stats.sem(values), 8.0, 0.9) == pytest.approx(found)


@pytest.mark.parametrize(
    ("p_holm", "p_equivalence", "expected"),
    [
        (0.01, 0.9, "difference"),
        (0.01, 0.01, "difference"),
        (0.06, 0.01, "equivalent"),
        (0.06, 0.06, "undecided"),
        (0.05, 0.05, "undecided"),
        (None, None, None),
    ],
)
def test_verdicts(p_holm, p_equivalence, expected):
    assert tests.verdict(p_holm, p_equivalence) == expected


@pytest.mark.parametrize(
    ("degrees", "family"), [(1.0, 1), (2.0, 1), (2.0, 4), (5.0, 1), (5.0, 4), (9.0, 1), (9.0, 4), (23.0, 7)]
)
def test_the_mean_detectable_difference_of_drawn_studies_is_found_in_80_percent_of_them(degrees, family):
    rng, error = np.random.default_rng(0), 0.01
    errors = error * np.sqrt(rng.chisquare(degrees, 100_000) / degrees)  # as studies of few speakers estimate it
    true = tests.detectable_difference(float(errors.mean()), degrees, family)
    estimates = rng.normal(true, error, 100_000)
    found = 2 * stats.t.sf(estimates / errors, degrees) * family < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.005)


def test_the_detectable_difference_is_2_8_standard_errors_with_many_speakers_and_more_with_few():
    normal = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    assert tests.detectable_difference(0.01, 10_000.0) == pytest.approx(0.01 * normal, rel=1e-3)
    assert tests.detectable_difference(0.01, 5.0) > 0.01 * normal * 1.2


@given(st.floats(1, 1000), st.integers(1, 200))
def test_there_is_a_detectable_difference_for_any_degrees_of_freedom_and_family(degrees, family):
    found = tests.detectable_difference(1.0, degrees, family)
    assert stats.t.ppf(1 - 0.025 / family, degrees) < found < np.inf


@pytest.mark.parametrize("differences", [np.array([0.02, -0.01, 0.05, 0.03, 0.00, 0.04]), np.array([0.02, 0.05])])
def test_nadeau_bengio_equals_a_slow_computation_from_the_paper(differences):
    runs = len(differences)
    mean = sum(differences) / runs
    variance = sum((d - mean) ** 2 for d in differences) / (runs - 1)
    error = ((1 / runs + 48 / 432) * variance) ** 0.5
    p, detectable = tests.nadeau_bengio(differences, 48 / 432)
    np.testing.assert_allclose(p, 2 * (1 - stats.t(runs - 1).cdf(mean / error)))
    np.testing.assert_allclose(detectable, tests.detectable_difference(error, runs - 1.0))


def test_nadeau_bengio_without_test_data_in_proportion_is_the_paired_t_test():
    differences = np.random.default_rng(0).normal(0.2, 1, 12)
    expected = stats.ttest_1samp(differences, 0).pvalue
    np.testing.assert_allclose(tests.nadeau_bengio(differences, 0.0)[0], expected)
    assert tests.nadeau_bengio(differences, 0.25)[0] > expected


@pytest.mark.parametrize("differences", [[0.1], [0.1, 0.1, 0.1], [0.0, 0.0]])
def test_nadeau_bengio_tells_nothing_where_nothing_varies(differences):
    assert tests.nadeau_bengio(np.array(differences), 0.1) is None


def test_holm_equals_the_worked_example():
    assert tests.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert tests.holm([0.5, None, 0.6]) == [1.0, None, 1.0]
    assert tests.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_rejects_what_the_step_down_procedure_rejects(p_values):
    adjusted = tests.holm(p_values)
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted, strict=True))
    rejected = set()
    for rank, i in enumerate(order):
        if p_values[i] * (len(p_values) - rank) > 0.05:
            break
        rejected.add(i)
    assert {i for i, a in enumerate(adjusted) if a <= 0.05} == rejected
