import dataclasses

import pytest

from ser_jax.report.answers import answer, sentence, what_would_decide
from ser_jax.report.summary import Question
from ser_jax.statistics import tests
from ser_jax.statistics.paired import Comparison

BLANK = dict.fromkeys(
    field.name
    for field in dataclasses.fields(Comparison)
    if field.default is field.default_factory is dataclasses.MISSING
)


def question(*effects, factors=None):
    return Question("", "", factors or {}, {}, (), effects, (), "")


def crossed(*effects):
    return question(*effects, factors={"attention": ("none", "eca"), "activation": ("relu", "hard_swish")})


def comparison(points, ci95, p=None, detectable=2.9, variant="eca", seeds=3, *, alike=0.5, alone=None, family=1, **of):
    figures = {
        "kind": "pair",
        "variant": variant,
        "baseline": "none",
        "estimate": points / 100,
        "ci95": ci95 and tuple(end / 100 for end in ci95),
        "p": p if alone is None else alone,
        "p_holm": p,
        "p_equivalence": None if p is None else alike,
        "verdict": tests.verdict(p, None if p is None else alike),
        "margin": 0.02,
        "family": family,
        "detectable": detectable / 100 if detectable else None,
        "seeds": seeds,
    }
    return Comparison(**{**BLANK, "name": "", "speakers": 10, "folds": 10, "notes": (), **figures, **of})


def effect(points, ci95, p, *, of=("attention",)):
    levels, reference = {"attention": "eca", "activation": "hard_swish"}, {"attention": "none", "activation": "relu"}
    kind = "main effect" if len(of) == 1 else "interaction"
    own = {"levels": {f: levels[f] for f in of}, "reference": {f: reference[f] for f in of}}
    return comparison(points, ci95, p, kind=kind, **own)


def test_what_would_decide_is_said_of_what_is_undecided():
    shares = {"seeds_share": 0.75, "speakers_share": 0.25, "half_width": 0.02}
    widths = {"with_twice_seeds": 0.016, "with_twice_speakers": 0.014}
    one = comparison(1.2, [-0.8, 3.2], 0.3, **shares, **widths)
    assert what_would_decide(one) == (
        "eca against none: 75 % of the squared standard error is seeds, 25 % speakers; the interval of ±2.0 points "
        "would be ±1.6 with twice the seeds, ±1.4 with twice the speakers."
    )
    assert what_would_decide(comparison(5.0, [2.0, 8.0], 0.01, **shares, **widths)) == ""
    assert what_would_decide(comparison(1.2, [-0.8, 3.2], 0.3)) == ""


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (
            comparison(1.2, [-0.8, 3.2], 0.3),
            "eca against none: UA +1.2 points [-0.8, +3.2], undecided: no significant difference (p = 0.300), nor "
            "equivalence within 2 points; this study detects 2.9 points in 80 % of cases.",
        ),
        (
            comparison(5.0, [2.0, 8.0], 0.01),
            "eca against none: UA +5.0 points [+2.0, +8.0], a significant difference (p = 0.010).",
        ),
        (
            comparison(-5.0, [-8.0, -2.0], 0.0001),
            "eca against none: UA -5.0 points [-8.0, -2.0], a significant difference (p < 0.001).",
        ),
        (
            comparison(0.5, [0.2, 0.8], 0.01, alike=0.0001),
            "eca against none: UA +0.5 points [+0.2, +0.8], a significant difference (p = 0.010), but smaller than "
            "2 points.",
        ),
        (
            comparison(0.1, [-1.0, 1.2], 0.8, alike=0.002),
            "eca against none: UA +0.1 points [-1.0, +1.2], equivalent within 2 points (two one-sided tests, "
            "p = 0.002).",
        ),
        (
            comparison(5.0, [2.0, 8.0], 0.06, alone=0.02, family=3, detectable=None),
            "eca against none: UA +5.0 points [+2.0, +8.0], undecided: no significant difference after correction for "
            "3 tests (p = 0.060), nor equivalence within 2 points.",
        ),
        (
            comparison(-9.7, [-150.7, 131.4], 0.5, detectable=181.3),
            "eca against none: UA -9.7 points [-150.7, +131.4], undecided: no significant difference (p = 0.500), nor "
            "equivalence within 2 points; this study can detect no difference that UA can have.",
        ),
        (
            comparison(5.0, None, None, None),
            "eca against none: UA +5.0 points, without an interval: no verdict.",
        ),
        (
            comparison(5.0, [2.0, 8.0], None, alone=0.002, seeds=3),
            "eca against none: UA +5.0 points [+2.0, +8.0], of these trained models alone: one training of each gives "
            "no verdict on what they differ in.",
        ),
    ],
)
def test_a_sentence_says_effect_interval_and_verdict(one, expected):
    assert sentence(one) == expected
    assert answer(question(), [one]) == expected


def test_one_seed_is_said_once():
    one = comparison(5.0, [2.0, 8.0], 0.01, seeds=1)
    assert answer(question(), [one, one]).count("one seed") == 1


def test_one_seed_whose_folds_show_the_noise_of_training_is_not_said_to_hide_it():
    shares = {"seeds_share": 0.75, "speakers_share": 0.25}  # models of another corpus: each fold is one more training
    assert "one seed" not in answer(question(), [comparison(1.2, [-0.8, 3.2], 0.3, seeds=1, **shares)])


def test_many_comparisons_name_the_differences_and_sum_up_the_others():
    others = [comparison(p, [p - 3, p + 3], 0.5, detectable=4 + p) for p in (-1, 0, 1, 2)]
    found = comparison(9, [5, 13], 0.01, variant="both")
    alike = comparison(0.2, [-0.5, 0.9], 0.7, alike=0.001)
    assert answer(question(), [*others, alike, found]) == (
        "both against none: UA +9.0 points [+5.0, +13.0], a significant difference (p = 0.010). "
        "Of 6 differences, 1 is equivalent within 2 points (+0.2 points of UA). "
        "Of 6 differences, 4 are undecided (-1.0 to +2.0 points of UA; this study detects 3.0 to 6.0 points "
        "in 80 % of cases)."
    )
    assert answer(question(), [*others, others[0]]).startswith(
        "None of 5 differences is significant. Of 5 differences,"
    )


def test_crossed_factors_are_answered_by_main_effects_and_interactions():
    mains = [effect(1.2, [-0.8, 3.2], 0.3), effect(5, [2, 8], 0.01, of=("activation",))]
    together = effect(0.5, [-1, 2], 0.5, of=("attention", "activation"))
    assert answer(crossed(*mains, together), [comparison(9, [5, 13], 0.01)]) == (
        f"Averaged over the other factor: {sentence(mains[0])} {sentence(mains[1])} No interaction of the factors is "
        "significant; this study detects 2.9 points in 80 % of cases."
    )
    assert sentence(mains[0]).startswith("attention eca against none: UA +1.2 points")
    strong = effect(6, [3, 9], 0.01, of=("attention", "activation"))
    assert answer(crossed(*mains, strong), []).endswith(
        "The effect of attention eca against none changes with activation hard_swish against relu: "
        "UA +6.0 points [+3.0, +9.0], a significant difference (p = 0.010)."
    )


def test_factors_that_are_not_crossed_in_full_are_answered_by_their_comparisons():
    assert answer(crossed(), [comparison(5.0, [2.0, 8.0], 0.01)]).startswith("eca against none")


def test_nothing_compared_is_said():
    assert answer(question(), []) == "No comparison was asked for, or none could be made."
