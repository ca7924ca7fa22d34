import pytest

from ser_jax.report import terminal

SEVEN = ("anger", "boredom", "disgust", "fear", "happiness", "neutral", "sadness")


def make_summary(emotions=SEVEN, variants=("shufflenet_eca", "shufflenet_none"), ci95=(0.676, 0.768), comparison=None):
    variant = {
        **{key: 0.723 for key in ("ua", "wa", "macro_f1")},
        **{f"{key}_ci95": ci95 for key in ("ua", "wa", "macro_f1")},
        "recall": {emotion: 1.0 for emotion in emotions},
        "recall_ci95": {emotion: ci95 and [0.9, 1.0] for emotion in emotions},
        **{"runs": 20, "parameters": 348_535, "notes": ["a note"]},
    }
    comparisons = [comparison] if comparison else []
    return {
        **{"corpus": "emodb", "protocol": "leave_one_speaker_out", "emotions": list(emotions), "chance_ua": 1 / 7},
        **{"variants": {name: variant for name in variants}, "comparisons": comparisons},
    }


def make_comparison(**changes):
    return {
        **{"variant": "eca", "baseline": "none", "estimate": 0.021, "ci95": [-0.004, 0.046]},
        **{"p": 0.0312, "p_holm": 0.0624, "detectable": 0.036},
        **{"folds": 10, "seeds": 1, "notes": []},
        **changes,
    }


def test_seven_emotions_fit_one_block_of_120_columns():
    lines = terminal.results_table(make_summary()).splitlines()
    assert max(map(len, lines)) <= 120
    header = next(line for line in lines if line.startswith("variant"))
    assert header.split() == ["variant", "UA", "WA", "macro", "F1", *SEVEN]
    figures = lines[lines.index(header) + 2]
    assert figures.split() == ["shufflenet_eca", "72.3", "72.3", "72.3", *["100.0"] * 7]
    intervals = lines[lines.index(header) + 3]
    assert intervals.split() == ["20", "runs,", "0.35", "M", *["67.6–76.8"] * 3, *["90.0–100"] * 7]


def test_columns_that_do_not_fit_go_into_a_block_below():
    emotions = [f"a very long emotion {i}" for i in range(15)]
    lines = terminal.results_table(make_summary(emotions)).splitlines()
    assert max(map(len, lines)) <= 120
    assert sum(line.startswith("variant") for line in lines) == 3
    assert sum(line.count("a very long…") for line in lines) == 15


def test_what_cannot_be_estimated_is_left_blank():
    made = make_summary(ci95=None)
    made["variants"]["shufflenet_eca"]["recall"]["fear"] = None
    lines = terminal.results_table(made).splitlines()
    row = next(i for i, line in enumerate(lines) if line.startswith("shufflenet_eca"))
    assert lines[row].split()[4:] == ["100.0", "100.0", "100.0", "-", "100.0", "100.0", "100.0"]
    assert lines[row + 1].split() == ["20", "runs,", "0.35", "M"]


def test_a_note_on_all_variants_is_printed_once():
    made = make_summary(comparison=make_comparison(notes=["a note", "another"]))
    text = terminal.results_table(made)
    assert text.count("Note: a note\n") == 1
    assert text.endswith("Note: eca against none: another")


def test_a_comparison_says_effect_and_interval_first_then_p_then_what_could_have_been_shown():
    assert terminal.describe_comparison(make_comparison()) == (
        "eca against none: UA +2.1 points [-0.4, +4.6], p = 0.031 (after Holm's correction = 0.062); "
        "the smallest difference this study could have shown is 3.6 points (10 folds x 1 seed)."
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"p": 0.0001, "p_holm": 0.0002}, "p < 0.001 (after Holm's correction < 0.001)"),
        ({"p": None}, "points [-0.4, +4.6]; the smallest"),
        ({"ci95": None, "detectable": None}, "UA +2.1 points, p = 0.031"),
        ({"estimate": -0.1}, "UA -10.0 points"),
    ],
)
def test_a_comparison_leaves_out_what_is_not_known(changes, expected):
    assert expected in terminal.describe_comparison(make_comparison(**changes))
