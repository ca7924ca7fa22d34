import dataclasses
import re

import hypothesis
import pytest
from hypothesis import strategies as st

from ser_jax.report import markdown, numbers
from ser_jax.report.answers import sentence, signed
from ser_jax.report.sections import make_sections
from ser_jax.report.sections.differences import forest_row
from ser_jax.report.sources import Sources
from ser_jax.statistics import tests
from ser_jax.statistics.scores import ScoreDifference
from tests.report import made_study
from tests.report.test_answers import comparison


@pytest.mark.parametrize(
    ("p", "expected"),
    [(0.04951, "< 0.050"), (0.05, "0.050"), (0.0504, "0.050"), (0.0494, "0.049"), (0.0009, "< 0.001"), (1.0, "1.000")],
)
def test_a_p_value_reads_below_005_exactly_where_it_is(p, expected):
    assert numbers.p_value(p) == expected
    assert numbers.p_equals(p) == (f"p {expected}" if expected.startswith("<") else f"p = {expected}")


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ((0.0003, 0.021), "[+0.03, +2.1]"),
        ((-0.0003, 0.021), "[-0.03, +2.1]"),
        ((-4e-9, 0.021), "[-0.0000, +2.1]"),
        ((-0.021, -0.000004), "[-2.1, -0.0004]"),
        ((0.0, 0.0005001), "[+0.0, +0.1]"),
    ],
)
def test_an_end_of_an_interval_says_on_which_side_of_zero_it_lies(ends, expected):
    assert numbers.point_ends(ends) == expected


@hypothesis.given(st.floats(-0.01, 0.01), st.floats(1e-5, 0.1), st.floats(1, 60))
def test_what_is_printed_of_a_difference_does_not_contradict_its_verdict(estimate, error, degrees):
    low, high = tests.t_interval(estimate, error, degrees)
    p = tests.t_test(estimate, error, degrees)
    hypothesis.assume(abs(p - 0.05) > 1e-9)
    text = sentence(comparison(100 * estimate, (100 * low, 100 * high), p))
    ends = [float(end) for end in re.search(r"\[(.*), (.*)\]", text).groups()]
    printed = re.search(r"\(p (<|=) ([\d.]+)\)", text).groups()
    found = (printed[0] == "<" and float(printed[1]) <= 0.05) or float(printed[1]) < 0.05
    assert found == ("a significant difference" in text) == (ends[0] > 0 or ends[1] < 0)


def test_numbers_near_zero_have_no_minus_unless_they_are_ends():
    assert (numbers.decimal(-0.0004), numbers.decimal(-0.0005001)) == ("0.000", "-0.001")
    one = ScoreDifference("ccc_arousal", "a", "b", -0.0001, (-0.0004, 0.0002), 0.5, 0.5, 6)
    assert signed(one) == "+0.000 [-0.0004, +0.0002]"


def test_a_detectable_difference_that_ua_cannot_have_is_none():
    assert numbers.detectable([0.4, 1.2]) == "40.0 to > 100"
    assert numbers.detectable([0.029]) == "2.9"
    assert forest_row(comparison(1.0, (-50.0, 52.0), 0.9, 120.0), "").detectable == 1.0
    assert forest_row(comparison(1.0, None, None, None), "").detectable is None


def test_a_study_that_is_too_small_says_so_everywhere():
    made = made_study.make_summary(made_study.make_predictions(["pooling: mean", "pooling: attentive"]), whole=False)
    small = dataclasses.replace(made.comparisons[0], detectable=1.2, verdict="undecided", p_holm=0.5)
    sections = make_sections(Sources(dataclasses.replace(made, comparisons=(small,)), {}, {}, {}))
    text = markdown.render("", "", sections)
    assert "this study can detect no difference that UA can have" in text
    assert "none that UA can have: this study is too small" in text
    assert "120" not in text and "\\> 100" in text
