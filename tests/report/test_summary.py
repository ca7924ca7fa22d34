import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from ser_jax import predictions
from ser_jax.errors import UserError
from ser_jax.report import summary
from ser_jax.report.terminal import results_table
from ser_jax.statistics import bootstrap, tests
from tests.statistics.made_tables import EMOTIONS, make_table, sizes


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
        "margin",
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
        *("variant", "baseline", "estimate", "standard_error", "ci95", "p", "p_holm", "p_equivalence", "verdict"),
        *("detectable", "margin", "seeds_share", "speakers_share", "nadeau_bengio", "speakers", "folds", "seeds"),
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


def test_an_ensemble_says_the_mean_of_its_seeds(made, table):
    rows = table[table["variant"] == "eca"]
    means = rows.groupby("utterance")[[f"p_{emotion}" for emotion in EMOTIONS]].mean()
    labels = rows.groupby("utterance")["label"].first()
    ensemble = made["variants"]["eca"]["ensemble"]
    predicted = np.array(EMOTIONS)[means.to_numpy().argmax(axis=1)]
    assert ensemble["ua"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert ensemble["seeds"] == 2
    assert ensemble["ua_ci95"][0] < ensemble["ua"] < ensemble["ua_ci95"][1]
    line = f"eca, its 2 seeds as an ensemble (the mean of their probabilities): UA {100 * ensemble['ua']:.1f} ["
    assert line in " ".join(results_table(made).split())


def test_one_seed_missing_runs_and_mere_labels_are_no_ensemble(table):
    rows = table[table["variant"] == "eca"]
    columns = [f"p_{emotion}" for emotion in EMOTIONS]
    labels = np.eye(len(columns))[rows[columns].to_numpy().argmax(1)]
    assert summary.ensemble(rows, replicates=100)
    for changed in (rows[rows["seed"] == 0], rows[1:], rows.assign(**dict(zip(columns, labels.T, strict=True)))):
        assert summary.ensemble(changed, replicates=100) is None


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
    assert eca["notes"][0] == bootstrap.no_interval(1)
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


def make_grid(**options):
    """Three variants beside none, which cross attention and activation."""
    table = make_table(variants=("none", "eca", "swish", "both"), utterances=12, gain=0.3, **options)
    levels = {
        "none": {"attention": "none", "activation": "relu"},
        "eca": {"attention": "eca", "activation": "relu"},
        "swish": {"attention": "none", "activation": "hard_swish"},
        "both": {"attention": "eca", "activation": "hard_swish"},
    }
    question = SimpleNamespace(
        name="channel attention",
        text="Does it help?",
        factors={"attention": ("none", "eca"), "activation": ("relu", "hard_swish")},
        levels=levels,
        comparisons=(("eca", "none"), ("both", "swish")),
    )
    plain = SimpleNamespace(name="plain", text="", factors={}, levels={}, comparisons=(("swish", "none"),))
    return table, [question, plain]


def test_questions_have_their_comparisons_effects_and_answer():
    table, questions = make_grid()
    made = summary.summarise(
        table, comparisons=[("swish", "none")], fold_sizes=sizes(table), questions=questions, replicates=100
    )
    json.dumps(made, allow_nan=False)
    asked, plain = made["questions"]
    pairs = [(c["variant"], c["baseline"]) for c in made["comparisons"]]
    assert pairs == [("swish", "none"), ("eca", "none"), ("both", "swish")]
    assert (asked["comparisons"], plain["comparisons"]) == ([1, 2], [0])
    assert [effect["kind"] for effect in asked["effects"]] == ["main effect", "main effect", "interaction"]
    assert asked["effects"][0]["estimate"] == pytest.approx(
        np.mean([made["comparisons"][i]["estimate"] for i in (1, 2)])
    )
    assert asked["answer"].startswith("Averaged over the other factor: attention eca against none: UA +")
    assert plain["answer"].startswith("swish against none: UA +")
    assert (asked["levels"]["both"]["attention"], asked["factors"]["attention"]) == ("eca", ["none", "eca"])
    assert (plain["effects"], asked["notes"], plain["notes"]) == ([], [], [])


def test_all_that_a_question_tests_is_one_family_and_no_other_question_counts():
    table, questions = make_grid()
    made = summary.summarise(table, fold_sizes=sizes(table), questions=questions, replicates=100)
    asked, plain = made["questions"]
    family = [*(made["comparisons"][i] for i in asked["comparisons"]), *asked["effects"]]
    assert [one["p_holm"] for one in family] == pytest.approx(tests.holm([one["p"] for one in family]))
    assert {one["family"] for one in family} == {5}
    (alone,) = (made["comparisons"][i] for i in plain["comparisons"])
    assert (alone["p_holm"], alone["family"]) == (alone["p"], 1)


def test_a_comparison_of_two_questions_is_corrected_as_the_stricter_one_does():
    table, questions = make_grid()
    again = SimpleNamespace(name="again", text="", factors={}, levels={}, comparisons=(("eca", "none"),))
    options = dict(fold_sizes=sizes(table), replicates=100)
    for order in ([questions[0], again], [again, questions[0]]):
        made = summary.summarise(table, questions=order, **options)
        found = next(one for one in made["comparisons"] if one["variant"] == "eca")
        assert found["family"] == 5
        assert found["p_holm"] > found["p"]


def test_one_factor_has_its_comparisons_and_no_effects_that_repeat_them():
    table, (question, _) = make_grid()
    question.factors, question.comparisons = {"attention": ("none", "eca")}, (("eca", "none"),)
    question.levels = {"none": {"attention": "none"}, "eca": {"attention": "eca"}}
    made = summary.summarise(table, fold_sizes=sizes(table), questions=[question], replicates=100)
    assert made["questions"][0]["effects"] == []
    assert made["comparisons"][0]["family"] == 1


def test_a_failed_variant_leaves_the_other_comparisons_and_says_so():
    table, questions = make_grid()
    table = table[table["variant"] != "both"]
    options = dict(fold_sizes=sizes(table), questions=questions, replicates=100)
    made = summary.summarise(table, meta={"failed": {"both": "out of memory"}}, **options)
    assert [(c["variant"], c["baseline"]) for c in made["comparisons"]] == [("eca", "none"), ("swish", "none")]
    assert made["questions"][0]["effects"] == []
    assert made["questions"][0]["notes"] == [
        "no effects of attention and activation: no variant has attention eca, activation hard_swish",
        "1 comparison left out: a variant of it failed",
    ]
    with pytest.raises(UserError, match="no variant both"):
        summary.summarise(table, **options)


def test_two_speakers_and_one_seed_give_a_whole_summary():
    table, questions = make_grid(speakers=2, seeds=(0,))
    genders = pd.DataFrame({"speaker": ["s0", "s1"], "gender": ["female", "male"]})
    made = summary.summarise(
        table, fold_sizes=sizes(table), questions=questions, speakers=genders, validation=None, replicates=100
    )
    json.dumps(made, allow_nan=False)
    assert "one seed" in made["questions"][0]["answer"]
    fairness = made["variants"]["eca"]["fairness"]
    assert fairness["gender_gap"]["ci95"] is None
    assert fairness["gender_gap"]["ua_difference"] == pytest.approx(
        fairness["speakers"]["s0"]["ua"] - fairness["speakers"]["s1"]["ua"]
    )
    assert made["variants"]["eca"]["calibration"]["temperature"] is None


def test_a_merged_corpus_has_figures_of_each_of_its_sources(table):
    table = table[table["variant"] == "eca"]
    of = {speaker: "one" if speaker in ("s0", "s1", "s2") else "two" for speaker in table["speaker"].unique()}
    speakers = pd.DataFrame({"speaker": of.keys(), "gender": "", "source": of.values()})
    # An emotion that nobody expresses in one of them, as in most pairs of corpora, is no part of its UA.
    table = table[(table["speaker"].map(of) == "one") | (table["label"] != EMOTIONS[0])]
    made = summary.summarise(table, speakers=speakers, replicates=100)
    by_source = made["variants"]["eca"]["by_source"]
    assert list(by_source) == ["one", "two"]
    predicted = pd.Series(np.array(EMOTIONS)[predictions.probabilities_of(table).argmax(axis=1)], index=table.index)
    for source, found in by_source.items():
        rows = table[table["speaker"].map(of) == source]
        expected = []
        for _, run in rows.groupby("seed"):
            hit = run["label"] == predicted[run.index]
            expected.append(hit.groupby(run["label"]).mean().mean())
        assert found["ua"] == pytest.approx(np.mean(expected))
        assert found["ua_ci95"][0] < found["ua"] < found["ua_ci95"][1]
        assert found["utterances"] == rows["utterance"].nunique()
    assert by_source["two"]["recall"][EMOTIONS[0]] is None
    text = results_table(made)
    assert f"eca, UA by source corpus: one {100 * by_source['one']['ua']:.1f} [" in " ".join(text.split())
    for unknown in (None, speakers.drop(columns="source"), speakers.assign(source="one")):
        alone = summary.summarise(table, speakers=unknown, replicates=100)
        assert alone["variants"]["eca"]["by_source"] is None


def test_per_fold_figures_equal_a_slow_loop(table, made):
    rows = table[table["variant"] == "eca"]
    predicted = pd.Series(np.array(EMOTIONS)[predictions.probabilities_of(rows).argmax(axis=1)], index=rows.index)
    ua = [
        np.mean([balanced_accuracy_score(run["label"], predicted[run.index]) for _, run in fold.groupby("seed")])
        for _, fold in rows.groupby("fold")
    ]
    found = made["variants"]["eca"]["per_fold"]
    assert (found["ua_mean"], found["ua_sd"]) == pytest.approx((np.mean(ua), np.std(ua, ddof=1)))
    wa = (predicted == rows["label"]).groupby(rows["fold"]).mean()
    assert (found["wa_mean"], found["wa_sd"], found["folds"]) == pytest.approx((wa.mean(), wa.std(), 6))
    assert summary.per_fold(rows[rows["fold"] == "fold0"])["ua_sd"] is None


def test_validation_predictions_scale_the_test_predictions_of_their_own_variant(table):
    # The validation speaker of each fold is the next fold's.
    following = {f"fold{i}": f"fold{(i + 1) % 6}" for i in range(6)}
    validation = table.assign(fold=table["fold"].map(following))
    made = summary.summarise(table, validation=validation, replicates=100)
    both = [made["variants"][name]["calibration"]["temperature"] for name in ("none", "eca")]
    assert both[0]["runs"] == both[1]["runs"] == 12
    assert both[0] != both[1]
    alone = summary.summarise(table, validation=validation[validation["variant"] == "eca"], replicates=100)
    assert alone["variants"]["eca"]["calibration"] == made["variants"]["eca"]["calibration"]
    assert alone["variants"]["none"]["calibration"]["temperature"] is None
