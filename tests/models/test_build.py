import re

import pytest

from ser_jax.errors import UserError
from ser_jax.models import FAMILIES, build, options_of
from ser_jax.models.family import RATE, Range


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("shufflenetv2", {}, "unknown model: 'shufflenetv2'; did you mean shufflenet_v2?"),
        (
            "shufflenet_v2",
            {"atention": "eca"},
            "unknown option of model shufflenet_v2: 'atention'; did you mean attention?",
        ),
        ("shufflenet_v2", {"attention": "ecca"}, "attention of model shufflenet_v2: 'ecca'; did you mean eca?"),
        ("shufflenet_v2", {"width": 0.75}, "expected one of tiny, 0.5, 1.0, 1.5, 2.0"),
        ("shufflenet_v2", {"attention_stages": (3, 5)}, "attention_stages of model shufflenet_v2: 5"),
        ("shufflenet_v2", {"eca_kernel": 4}, "expected one of None, 1, 3"),
        (
            "shufflenet_v2",
            {"dropout": 1.0},
            "dropout of model shufflenet_v2: 1.0; expected a number of at least 0 and below 1",
        ),
        (
            "cnn",
            {"width": 1 << 20},
            "width of model cnn: 1048576; expected a whole number of at least 1 and at most 10485",
        ),
    ],
)
def test_a_misspelt_name_option_or_value_is_refused_with_the_nearest_right_one(name, options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        build(name, 7, **options)


def test_a_model_without_outputs_is_refused():
    with pytest.raises(UserError, match="found 0 outputs, expected at least 1"):
        build("shufflenet_v2", 0)


def test_values_may_come_as_text_or_lists():
    model = build("shufflenet_v2", 7, width="1.0", attention_stages=[3, "4"], eca_kernel="None")
    assert (model.width, model.attention_stages, model.eca_kernel) == (1.0, (3, 4), None)


@pytest.mark.parametrize(
    ("found", "allowed", "holds"),
    [
        (0, Range(1), False),
        (3, Range(1), True),
        (3.5, Range(1), False),
        (True, Range(1), False),
        (0, RATE, True),
        (0.3, RATE, True),
        (1.0, RATE, False),
        (float("nan"), RATE, False),
    ],
)
def test_a_range_holds_its_numbers_only(found, allowed, holds):
    assert (found in allowed) is holds


STRANGE = (None, True, -1, 0, 3.5, "x", [1], {"a": 1}, [], float("nan"), 10**30, "", [["a"]], "1" * 500)


@pytest.mark.parametrize("name", FAMILIES)
def test_any_value_of_any_option_is_taken_or_refused_in_one_short_line(name):
    for option in options_of(FAMILIES[name]):
        for value in STRANGE:
            try:
                build(name, num_classes=4, **{option: value})
            except UserError as error:
                assert "\n" not in str(error) and len(str(error)) <= 300


def test_what_devices_decide_is_no_option():
    with pytest.raises(UserError, match="unknown option of model cnn: 'axis_name'"):
        build("cnn", num_classes=4, axis_name="x")
