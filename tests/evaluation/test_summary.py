import json

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from test_statistics import EMOTIONS, make_table, sizes

from ser_jax.errors import UserError
from ser_jax.evaluation import predictions, statistics, summary


@pytest.fixture(scope="module")
def table():
    return make_table(utterances=12)


@pytest.fixture(scope="module")
def made(table):
    meta = {
        "protocol": "leave_one_speaker_out",
        "fingerprint": "abc",
        "versions": {"jax": "0"},
        "seconds": {"train": 1.5},
    }
    return summary.summarise(
        table,
        comparisons=[("eca", "none")],
        fold_sizes=sizes(table),
        parameters={"none": 100, "eca": 105},
        meta=meta,
        replicates=300,
    )


def test_summary_has_the_promised_keys(made):
    top = {
        "protocol",
        "fingerprint",
        "versions",
        "seconds",
        "corpus",
        "emotions",
        "chance_ua",
        "variants",
        "comparisons",
    }
    assert set(made) == top
    assert list(made["variants"]) == ["none", "eca"]  # as in `parameters`
    assert set(made["variants"]["eca"]) >= {
        *("ua", "ua_ci95", "wa", "wa_ci95", "macro_f1", "macro_f1_ci95", "recall", "recall_ci95"),
        *("confusion", "ua_per_seed", "ua_seed_sd", "runs", "parameters"),
    }
    assert set(made["comparisons"][0]) >= {
        *("variant", "baseline", "ua_difference", "ci95", "p_nadeau_bengio", "p_holm"),
        *("minimum_detectable_difference", "folds", "seeds"),
    }
    assert made["chance_ua"] == 0.25
    assert list(made["variants"]["eca"]["recall"]) == list(EMOTIONS)


def test_summary_is_strict_json_and_the_same_each_time(made, table, tmp_path):
    summary.write(made, tmp_path / "summary.json")
    assert json.loads((tmp_path / "summary.json").read_text()) == made
    again = summary.summarise(table, parameters={"none": 100, "eca": 105}, replicates=300)
    assert again["variants"] == made["variants"]


def test_figures_equal_independent_ones(made, table):
    rows = table[table["variant"] == "eca"]
    predicted = np.array(EMOTIONS)[predictions.probabilities_of(rows).argmax(axis=1)]
    eca = made["variants"]["eca"]
    per_seed = [balanced_accuracy_score(rows["label"][rows["seed"] == s], predicted[rows["seed"] == s]) for s in (0, 1)]
    assert list(eca["ua_per_seed"].values()) == pytest.approx(per_seed)
    assert eca["ua"] == pytest.approx(np.mean(per_seed))
    assert eca["ua_seed_sd"] == pytest.approx(np.std(per_seed, ddof=1))
    assert eca["wa"] == pytest.approx((predicted == rows["label"]).mean())
    assert np.sum(eca["confusion"]) == len(rows) == 2 * eca["utterances"]
    assert (eca["runs"], eca["folds"], eca["seeds"], eca["speakers"], eca["parameters"]) == (12, 6, 2, 6, 105)
    joy = rows["label"] == "joy"
    assert np.sum(eca["confusion"][1]) == joy.sum()
    assert eca["confusion"][1][0] == (predicted[joy] == "anger").sum()


def test_intervals_are_those_of_statistics_and_hold_their_figures(made):
    for variant in made["variants"].values():
        for key in ("ua", "wa", "macro_f1"):
            low, high = variant[f"{key}_ci95"]
            assert low < variant[key] < high
        for emotion, (low, high) in variant["recall_ci95"].items():
            assert low <= variant["recall"][emotion] <= high


def test_an_absent_emotion_is_null_and_is_said(table):
    without = table[table["label"] != "joy"]
    eca = summary.summarise(without, replicates=100)["variants"]["eca"]
    assert eca["recall"]["joy"] is None
    assert eca["recall_ci95"]["joy"] is None
    assert eca["ua"] == pytest.approx(np.mean([r for e, r in eca["recall"].items() if e != "joy"]))
    assert eca["notes"] == ["not in the test data and left out of UA and macro F1: joy"]


def test_one_speaker_and_one_seed_give_null_intervals_and_say_so():
    made = summary.summarise(make_table(speakers=1, seeds=(0,)))
    json.dumps(made, allow_nan=False)
    eca = made["variants"]["eca"]
    assert eca["ua_ci95"] is None
    assert eca["ua_seed_sd"] is None
    assert eca["parameters"] is None
    assert eca["notes"][0] == statistics.no_interval(1)
    assert eca["notes"][1].startswith("one seed")


def test_missing_runs_and_emotions_of_one_speaker_are_said(table):
    less = table[(table["fold"] != "fold0") | (table["seed"] == 0)]
    less = less[(less["label"] != "joy") | (less["speaker"] == "s2")]
    notes = summary.summarise(less, replicates=100)["variants"]["eca"]["notes"]
    assert notes == [
        "from one speaker only, so the intervals leave out how speakers differ in: joy",
        "11 runs of 6 folds x 2 seeds: some are missing",
    ]


def test_predictions_on_two_corpora_are_refused(table):
    both = predictions.merge([table, table[table["variant"] == "eca"].assign(corpus="other", variant="third")])
    with pytest.raises(UserError, match="one corpus, found predictions on corpus, other"):
        summary.summarise(both)
