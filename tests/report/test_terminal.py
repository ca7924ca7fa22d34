import dataclasses
import unicodedata

from ser_jax.report import terminal
from ser_jax.report.summary import Knowledge, Measure, Protocol, Study, Summary, Variant
from tests.report.test_answers import comparison

SEVEN = ("anger", "boredom", "disgust", "fear", "happiness", "neutral", "sadness")


def make_summary(emotions=SEVEN, variants=("shufflenet_eca", "shufflenet_none"), ci95=(0.676, 0.768), comparison=None):
    ends = ci95 and (0.9, 1.0)
    variant = Variant(
        metrics={name: Measure(0.723, ci95) for name in ("ua", "wa", "macro_f1")},
        recall={emotion: Measure(1.0, ends) for emotion in emotions},
        known=Knowledge(parameters=348_535),
        notes=("a note",),
        **dict.fromkeys(("runs", "folds", "seeds", "speakers", "utterances"), 20),
        **dict.fromkeys(("ua_seed_sd", "ensemble", "by_source", "calibration", "fairness", "validation_ua")),
        **{"per_fold": {}, "ua_per_seed": {}, "confusion": ()},
    )
    return Summary(
        form=2,
        study=Study(protocols=(Protocol("leave_one_speaker_out"),)),
        corpus="emodb",
        emotions=tuple(emotions),
        chance_ua=1 / 7,
        margin=0.02,
        metrics={"ua": "UA", "wa": "WA", "macro_f1": "macro F1"},
        variants={name: variant for name in variants},
        comparisons=(comparison,) if comparison else (),
    )


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
    made.variants["shufflenet_eca"].recall["fear"] = Measure(None)
    lines = terminal.results_table(made).splitlines()
    row = next(i for i, line in enumerate(lines) if line.startswith("shufflenet_eca"))
    assert lines[row].split()[4:] == ["100.0", "100.0", "100.0", "–", "100.0", "100.0", "100.0"]
    assert lines[row + 1].split() == ["20", "runs,", "0.35", "M"]


def test_a_note_on_all_variants_is_printed_once():
    one = comparison(2.1, [-0.4, 4.6], 0.3)
    made = make_summary(comparison=dataclasses.replace(one, notes=("a note", "another")))
    text = terminal.results_table(made)
    assert text.count("Note: a note\n") == 1
    assert text.endswith("Note: eca against none: another")
    assert "eca against none: UA +2.1 points [-0.4, +4.6], undecided" in text and "(10 folds x 3 seeds)." in text


def test_inductive_variants_come_first_and_every_row_says_which_it_is():
    made = make_summary()
    known = Knowledge(uses_speaker=("features normalised by speaker",))
    first = dataclasses.replace(made.variants["shufflenet_eca"], known=known)
    assert "72.3" in terminal.results_table(made) and "; inductive;" in terminal.results_table(made).splitlines()[0]
    text = terminal.results_table(dataclasses.replace(made, variants={**made.variants, "shufflenet_eca": first}))
    assert text.index("shufflenet_none") < text.index("shufflenet_eca")
    rows = text[text.index("shufflenet_none") :].splitlines()
    assert "inductive" in rows[1] and "transductive" in rows[3]


def test_names_in_chinese_keep_the_columns_and_control_signs_are_shown():
    made = make_summary(emotions=("生气/angry", "a\x1b[31mb"), variants=("网络", "plain"))
    lines = terminal.results_table(made).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("variant"))
    widths = {
        sum(2 if unicodedata.east_asian_width(sign) == "W" else 1 for sign in line) for line in lines[start : start + 6]
    }
    assert len(widths) == 1
    assert "\\x1b" in lines[start] and "\x1b" not in "".join(lines)


def test_what_was_left_out_and_relabelled_is_noted():
    said = {"left_out": ("one left out",), "labels": ("labels of emodb: joy as happiness",), "notes": ("two clipped",)}
    made = make_summary()
    text = terminal.results_table(dataclasses.replace(made, study=dataclasses.replace(made.study, **said)))
    assert all(f"Note: {words}" in text for (words,) in said.values())
