import pytest

from ser_jax.report.answers import answer, sentence, verdict

QUESTION = {"factors": {}}
CROSSED = {"factors": {"attention": ["none", "eca"], "activation": ["relu", "hard_swish"]}}


def comparison(points, ci95, p=None, detectable=2.9, variant="eca", seeds=3):
    return {
        "variant": variant,
        "baseline": "none",
        "ua_difference": points / 100,
        "ci95": ci95 and [end / 100 for end in ci95],
        "p_holm": p,
        "minimum_detectable_difference": detectable / 100 if detectable else None,
        "seeds": seeds,
    }


def effect(points, ci95, p, *, of=("attention",)):
    levels, reference = {"attention": "eca", "activation": "hard_swish"}, {"attention": "none", "activation": "relu"}
    kind = "main effect" if len(of) == 1 else "interaction"
    own = {"kind": kind, "levels": {f: levels[f] for f in of}, "reference": {f: reference[f] for f in of}}
    return comparison(points, ci95, p) | own


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (
            comparison(1.2, [-0.8, 3.2], 0.3),
            "eca against none: UA +1.2 points [-0.8, +3.2], not shown; this study could have shown 2.9 points.",
        ),
        (comparison(5.0, [2.0, 8.0], 0.01), "eca against none: UA +5.0 points [+2.0, +8.0], shown."),
        (comparison(-5.0, [-8.0, -2.0], 0.01), "eca against none: UA -5.0 points [-8.0, -2.0], shown."),
        (
            comparison(5.0, [2.0, 8.0], 0.2),
            "eca against none: UA +5.0 points [+2.0, +8.0], a sign of it, which the test does not confirm (p 0.20).",
        ),
        (
            comparison(5.0, [-0.1, 8.0], 0.04),
            "eca against none: UA +5.0 points [-0.1, +8.0], a sign of it in the test alone (p 0.040).",
        ),
        (
            comparison(5.0, [2.0, 8.0], None),
            "eca against none: UA +5.0 points [+2.0, +8.0], zero lies outside, but there is no test.",
        ),
        (
            comparison(5.0, None, 0.2, None),
            "eca against none: UA +5.0 points, and how far off that may be cannot be told.",
        ),
    ],
)
def test_a_sentence_says_effect_and_interval_and_how_far_it_is_shown(one, expected):
    assert sentence(one) == expected
    assert answer(QUESTION, [one]) == expected


def test_one_seed_is_said_once():
    one = comparison(5.0, [2.0, 8.0], 0.01, seeds=1)
    assert answer(QUESTION, [one, one]).count("one seed") == 1


def test_many_comparisons_name_what_is_shown_and_put_the_others_together():
    others = [comparison(p, [p - 3, p + 3], 0.5, detectable=4 + p) for p in (-1, 0, 1, 2)]
    shown = comparison(9, [5, 13], 0.01, variant="both")
    assert answer(QUESTION, [*others, shown]) == (
        "both against none: UA +9.0 points [+5.0, +13.0], shown. Of 5 differences, 4 are not shown "
        "(between -1.0 and +2.0 points of UA; this study could have shown 3.0 to 6.0 points)."
    )
    assert answer(QUESTION, [*others, others[0]]).startswith("None of 5 differences is shown (between -1.0 and +2.0")


def test_crossed_factors_are_answered_by_main_effects_and_what_factors_do_together():
    mains = [effect(1.2, [-0.8, 3.2], 0.3), effect(5, [2, 8], 0.01, of=("activation",))]
    together = effect(0.5, [-1, 2], 0.5, of=("attention", "activation"))
    assert answer(CROSSED, [comparison(9, [5, 13], 0.01)], [*mains, together]) == (
        "Averaged over the other factor: attention eca against none: UA +1.2 points [-0.8, +3.2], not shown; "
        "this study could have shown 2.9 points. activation hard_swish against relu: UA +5.0 points [+2.0, +8.0], "
        "shown. That the factors act together is not shown; this study could have shown 2.9 points."
    )
    strong = effect(6, [3, 9], 0.01, of=("attention", "activation"))
    assert answer(CROSSED, [], [*mains, strong]).endswith(
        "The effect of attention eca against none changes with activation hard_swish against relu: "
        "UA +6.0 points [+3.0, +9.0], shown."
    )


def test_factors_that_are_not_crossed_in_full_are_answered_by_their_comparisons():
    assert answer(CROSSED, [comparison(5.0, [2.0, 8.0], 0.01)]).startswith("eca against none")


def test_nothing_compared_is_said():
    assert answer(QUESTION, []) == "No comparison was asked for, or none could be made."


def test_an_interval_that_ends_at_zero_does_not_show_an_effect():
    assert verdict(comparison(1, [0.0, 2.0], 0.5)) == "not shown"
