import pytest

from ser_jax import config as configuration
from ser_jax.errors import UserError
from ser_jax.studies.plan import make_plan, one_variant

ATTENTION = {"name": "attention", "field": "model.attention", "levels": ["none", "se", "eca"]}
ACTIVATION = {"name": "activation", "field": "model.activation", "levels": ["relu", "hard_swish"]}
SCHEDULE = {
    "name": "schedule",
    "levels": [
        {"name": "short", "changes": {"training": {"train_epochs": 5.0}}},
        {"name": "long", "changes": {"training": {"train_epochs": 50.0}, "optimizer": {"ema_decay": 0.999}}},
    ],
}


def with_study(**study):
    return configuration.merge(configuration.default(), {"study": study})


def with_question(**options):
    return with_study(questions=[{"name": "channels", **options}])


def test_variants_differ_from_the_base_in_what_they_name():
    variants = make_plan(with_study(variants={"a": {}, "b": {"model": {"attention": "se"}}})).variants
    assert list(variants) == ["a", "b"]
    assert list(configuration.differences(variants["a"], variants["b"])) == ["config.model.attention: 'eca' -> 'se'"]


def test_a_configuration_without_a_study_is_one_variant():
    plan = make_plan(configuration.default())
    assert list(plan.variants) == ["shufflenet_v2"]
    assert plan.comparisons == []


def test_a_grid_has_every_level_with_every_level_and_compares_twins():
    plan = make_plan(with_question(factors=[ACTIVATION, ATTENTION], compare=["attention"]))
    assert list(plan.variants) == [f"{a}, {b}" for a in ACTIVATION["levels"] for b in ATTENTION["levels"]]
    for name, config in plan.variants.items():
        assert name == f"{config['model']['activation']}, {config['model']['attention']}"
    assert plan.comparisons == [
        ("relu, se", "relu, none"),
        ("relu, eca", "relu, none"),
        ("hard_swish, se", "hard_swish, none"),
        ("hard_swish, eca", "hard_swish, none"),
    ]
    (question,) = plan.questions
    assert question.factors == {"activation": ("relu", "hard_swish"), "attention": ("none", "se", "eca")}
    assert question.levels["relu, se"] == {"activation": "relu", "attention": "se"}


def test_one_at_a_time_leaves_all_other_factors_at_their_first_level():
    plan = make_plan(with_question(factors=[ACTIVATION, ATTENTION, SCHEDULE], design="one_at_a_time"))
    center = "relu, none, short"
    assert list(plan.variants) == [
        center,
        "hard_swish, none, short",
        "relu, se, short",
        "relu, eca, short",
        "relu, none, long",
    ]
    assert [baseline for _, baseline in plan.comparisons] == [center] * 4
    long = plan.variants["relu, none, long"]
    assert (long["training"]["train_epochs"], long["optimizer"]["ema_decay"]) == (50.0, 0.999)


def test_a_level_can_be_measured_against_another_than_the_first():
    levels = [{"name": name, "changes": {"model": {"mixing": name}}} for name in ("none", "convolution", "conformer")]
    levels[2]["against"] = "convolution"
    plan = make_plan(with_question(factors=[{"name": "mixing", "levels": levels}]))
    assert plan.comparisons == [("convolution", "none"), ("conformer", "convolution")]
    levels[2]["against"] = "convolutoin"
    with pytest.raises(UserError, match="against: no level 'convolutoin'; did you mean convolution"):
        make_plan(with_question(factors=[{"name": "mixing", "levels": levels}]))


def test_levels_that_are_no_text_are_named_after_their_factor():
    factor = {"name": "rate", "field": "optimizer.learning_rate", "levels": [1e-3, 2e-3]}
    plan = make_plan(with_question(factors=[factor]))
    assert list(plan.variants) == ["rate 0.001", "rate 0.002"]
    assert plan.variants["rate 0.002"]["optimizer"]["learning_rate"] == 2e-3


def test_variants_of_several_questions_are_named_after_them():
    plan = make_plan(
        with_study(
            questions=[
                {"name": "one", "factors": [ATTENTION]},
                {
                    "name": "two",
                    "text": "Which?",
                    "base": {"model": {"name": "rnn"}},
                    "variants": {"mean": {}, "last": {"model": {"pooling": "last"}}},
                    "comparisons": [["last", "mean"]],
                },
            ]
        )
    )
    assert list(plan.variants) == ["one: none", "one: se", "one: eca", "two: mean", "two: last"]
    assert plan.variants["two: last"]["model"] == {"name": "rnn", "pooling": "last"}
    assert plan.questions[1].comparisons == (("two: last", "two: mean"),)
    assert (plan.questions[1].text, plan.questions[1].factors) == ("Which?", {})


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ({"variants": {"a": {"optimizer": {"learning_rat": 1.0}}}}, r"has no 'learning_rat'; did you mean learning_r"),
        (
            {"variants": {"none": {}, "eca": {}}, "comparisons": [("ecca", "none")]},
            "no variant 'ecca'; did you mean ec",
        ),
        ({"variants": {" ": {}}}, "found the name ' ', expected one line"),
        ({"questions": [{"factors": [ATTENTION]}]}, "expected a dict with a name"),
        ({"questions": [{"name": "q", "factor": []}]}, "q has no 'factor'; did you mean factors"),
        ({"questions": [{"name": "q"}]}, "q: expected either factors or variants"),
        (
            {"questions": [{"name": "q", "factors": [{**ATTENTION, "field": "modle.attention"}]}]},
            "q, factor attention: config has no 'modle'; did you mean model",
        ),
        (
            {"questions": [{"name": "q", "factors": ["attention"]}]},
            "found .attention., expected a dict of name, levels and",
        ),
        ({"questions": [{"name": "q", "factors": [{**ATTENTION, "levels": ["eca"]}]}]}, "expected two or more"),
        ({"questions": [{"name": "q", "factors": [{"name": "a", "levels": [1, 2]}]}]}, "found 1, expected a field"),
        ({"questions": [{"name": "q", "factors": [ATTENTION, ATTENTION]}]}, "factor attention occurs twice"),
        ({"questions": [{"name": "q", "factors": [ATTENTION], "compare": ["atention"]}]}, "no factor 'atention'; did"),
        (
            {"questions": [{"name": "q", "factors": [ATTENTION], "design": "gird"}]},
            "design 'gird'; did you mean grid",
        ),
        (
            {"questions": [{"name": "q", "factors": [ATTENTION], "comparisons": [["a", "b"]]}]},
            "no meaning beside factors",
        ),
        ({"questions": [{"name": "q", "variants": {"a": {}}, "compare": ["a"]}]}, "no meaning beside listed variants"),
        (
            {"questions": [{"name": "q", "variants": {"a": {}}}, {"name": "q", "variants": {"a": {}}}]},
            "variant 'q: a' occurs twice",
        ),
    ],
)
def test_what_a_study_cannot_mean_is_refused_in_one_line(study, message):
    with pytest.raises(UserError, match=message) as caught:
        make_plan(with_study(**study))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("margin", [0.0, -2.0, 100.0])
def test_a_margin_that_cannot_be_is_refused_before_anything_is_trained(margin):
    with pytest.raises(UserError, match=rf"config\.study\.margin: found {margin}, expected a number above 0"):
        configuration.check(with_study(margin=margin))


def test_the_margin_is_a_share_of_ua():
    assert make_plan(configuration.default()).margin == 0.02
    assert make_plan(with_study(margin=1.5)).margin == 0.015


def test_one_variant_leaves_no_study_behind():
    tree = with_study(variants={"ECA": {}, "none": {"model": {"attention": "none"}}})
    assert list(make_plan(one_variant(tree, None)).variants) == ["shufflenet_v2"]
    assert one_variant(tree, "none")["model"]["attention"] == "none"
    alone = make_plan(one_variant(tree, "none"))
    assert list(alone.variants) == ["none"] and alone.variants["none"] == make_plan(tree).variants["none"]
    with pytest.raises(UserError, match="--variant ECB: no such variant; did you mean ECA"):
        one_variant(tree, "ECB")


def test_what_decides_a_result_leaves_out_the_study_and_how_often_is_saved():
    config = configuration.default()
    changed = configuration.merge(
        config, {"study": {"title": "x"}, "training": {"checkpoint_seconds": 1.0}, "evaluation": {"batch_size": 1}}
    )
    assert configuration.deciding(config) == configuration.deciding(changed)
    assert configuration.deciding(config) != configuration.deciding(configuration.merge(config, {"seeds": [1]}))
