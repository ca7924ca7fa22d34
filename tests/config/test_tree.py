"""The table of options: what each takes, and that nothing else gets past it."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ser_jax import config
from ser_jax.config.options import OPTIONS, Option
from ser_jax.errors import UserError
from ser_jax.studies.plan import make_plan


def leaves(options, path=()):
    for key, option in options.items():
        if isinstance(option, Option):
            yield (*path, key), option
        else:
            yield from leaves(option, (*path, key))


LEAVES = dict(leaves(OPTIONS))
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=400)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
)
names = st.sampled_from(["name", "text", "base", "factors", "design", "compare", "variants", "comparisons", "levels"])
questions = st.lists(st.dictionaries(names, values | st.just("grid"), max_size=6), max_size=2)


def with_value(path, value):
    for key in reversed(path):
        value = {key: value}
    return value


def test_every_default_is_within_its_own_range():
    for path, option in LEAVES.items():
        assert option.kind.checked(option.default) is not None, path
    assert config.check(config.default())["seeds"] == [0]


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(sorted(LEAVES)), values | questions)
@example(("optimizer", "rates"), {"": {"\x1f\U00011747" * 40: None}})
@example(("optimizer", "rates"), {"(" + "\U00011747" * 99: 1})
def test_any_value_of_any_option_is_taken_or_refused_in_one_short_line(path, value):
    try:
        tree = config.check(config.merge(config.default(), with_value(path, value)))
        make_plan(tree)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) <= 300
    else:
        assert config.check(tree) == tree  # what was taken is taken again as it is


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(LEAVES)), st.text(max_size=60).filter(lambda text: "=" not in text))
def test_any_text_of_a_command_line_is_taken_or_refused_in_one_short_line(path, text):
    try:
        config.load("configs/quickstart.py", [f"--config.{'.'.join(path)}={text}"])
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) <= 300


NONSENSE = {
    "optimizer.learning_rate": [-1, 0, float("nan"), float("inf"), "fast", True, None, 10**400],
    "optimizer.weight_decay": [-1, float("nan")],
    "optimizer.label_smoothing": [-0.1, 1, 2, 5],
    "optimizer.ema_decay": [-0.5, 1, 2, float("nan")],
    "optimizer.gradient_clip": [-1, float("nan")],
    "optimizer.class_weights": [1, "yes"],
    "training.batch_size": [0, -4, 1.5, "many"],
    "training.accumulate": [0],
    "training.crop_seconds": [0, -1, 1e9, float("nan"), float("inf")],
    "training.train_steps": [0, 0.5, -2],
    "training.train_epochs": [0, -3, float("nan")],
    "training.checkpoint_seconds": [float("nan"), -1],
    "training.split": ["rows"],
    "training.heads": ["each"],
    "training.teacher_share": [1.5, -0.1],
    "evaluation.batch_size": [0, -1],
    "evaluation.window_seconds": [-1, float("nan"), float("inf")],
    "evaluation.batch_statistics": ["mine"],
    "evaluation.robustness": [[1.5], "noise_20", ["noise_20", "noise_20"]],
    "augmentation.speed": [-1],
    "augmentation.mixup": [-1, 3],
    "augmentation.noise": [float("nan"), 2],
    "augmentation.spec_augment": [9],
    "objective.frames": [-1],
    "objective.emotion": [float("nan")],
    "masking.share": [0, 1, 1.5, float("nan")],
    "masking.span": [0, 2.5],
    "frontend.num_mels": [0],
    "frontend.trim_db": [-1],
    "frontend.deltas": [3],
    "frontend.histogram_bins": [1],
    "frontend.histogram_range_db": [0],
    "frontend.window_ms": [0, float("inf")],
    "protocol.num_folds": [-1, 1],
    "protocol.validation_speakers": [-1],
    "order.lanes": [0],
    "seeds": [[], [0, 0], [-1], [1.5], ["a"], [2**70], 3, [True]],
    "folds": [[0, 0], [-1], "0"],
    "feed": ["tape"],
}


@pytest.mark.parametrize(("path", "value"), [(path, value) for path, several in NONSENSE.items() for value in several])
def test_nonsense_is_refused_with_the_option_what_was_found_and_what_is_expected(path, value):
    with pytest.raises(UserError, match=rf"^config\.{path}: found .*expected") as error:
        config.check(config.merge(config.default(), with_value(path.split("."), value)))
    assert "\n" not in str(error.value) and len(str(error.value)) <= 300


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("training.batch_size", 2**40, " and at most 1048576"),
        ("protocol.seed", 2**40, ", at most 2147483647"),
        ("optimizer.learning_rate", 1e31, ", at most 1e+30"),
        ("augmentation.mixup", 3, ""),
    ],
)
def test_a_value_above_the_largest_is_refused_with_the_largest(path, value, expected):
    with pytest.raises(UserError, match=rf"config\.{path}: found .*, expected a .*number .*at most \S+") as error:
        config.check(config.merge(config.default(), with_value(path.split("."), value)))
    assert str(error.value).endswith(expected)


def test_zero_is_off():
    for group, name in (("optimizer", "gradient_clip"), ("optimizer", "ema_decay"), ("optimizer", "weight_decay")):
        assert config.check(config.merge(config.default(), {group: {name: 0}}))[group][name] == 0.0


def test_numbers_are_kept_in_one_form():
    tree = config.check(config.merge(config.default(), {"optimizer": {"learning_rate": 1}, "seeds": (2.0,)}))
    assert isinstance(tree["optimizer"]["learning_rate"], float)
    assert tree["seeds"] == [2] and isinstance(tree["seeds"][0], int)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"training": {"train_steps": 10}, "optimizer": {"warmup_steps": 10}},
            r"warmup_steps: found 10, expected less",
        ),
        ({"training": {"train_epochs": 3}, "optimizer": {"warmup_epochs": 5}}, r"than the training's 3 epochs"),
        (
            {"augmentation": {"spec_augment": 0.5}, "frontend": {"normalization": "none"}},
            r"spec_augment: found 0\.5, expected 0 beside frontend\.normalization=none",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        config.check(config.merge(config.default(), changes))


def test_a_variant_of_a_study_is_checked_like_the_configuration_itself():
    study = {"variants": {"fast": {"optimizer": {"learning_rate": -1}}}}
    with pytest.raises(
        UserError, match=r"variant 'fast': config\.optimizer\.learning_rate: found -1, expected a number"
    ):
        make_plan(config.check(config.merge(config.default(), {"study": study})))


def test_a_duration_in_one_unit_takes_the_place_of_the_other():
    tree = config.merge(config.completed({"training": {"train_epochs": 5.0}}), {"training": {"train_steps": 9}})
    assert (tree["training"]["train_steps"], tree["training"]["train_epochs"]) == (9, -1)
