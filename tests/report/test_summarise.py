import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, recall_score

from ser_jax import predictions
from ser_jax.errors import UserError
from ser_jax.report import summary
from ser_jax.report.summarise import How, _corrected, ensemble, per_fold, summarise
from ser_jax.report.summary import Knowledge, Protocol, Study
from ser_jax.report.terminal import results_table
from ser_jax.statistics import bootstrap, metrics
from ser_jax.statistics.metrics import Metric
from ser_jax.studies.plan import Question
from tests.statistics.made_tables import EMOTIONS, make_table, sizes


@pytest.fixture(scope="module")
def table():
    return make_table(utterances=12)


@pytest.fixture(scope="module")
def made(table):
    return summarise(
        table,
        Study(protocols=(Protocol("leave_one_speaker_out"),), fingerprint="abc", fold_sizes=sizes(table)),
        comparisons=[("eca", "none")],
        known={"none": Knowledge(parameters=100), "eca": Knowledge(parameters=105)},
        how=How(replicates=300),
    )


def few(table, study=None, **options):
    return summarise(table, study, how=How(replicates=100), **options)


def test_a_summary_is_read_as_it_was_written_and_is_the_same_each_time(made, table, tmp_path):
    summary.write(made, tmp_path / "summary.json")
    assert summary.to_json(summary.read(tmp_path)) == summary.to_json(made)
    assert list(made.variants) == ["none", "eca"]  # as in `known`
    assert made.chance_ua == 0.25
    again = summarise(table, known={name: one.known for name, one in made.variants.items()}, how=How(replicates=300))
    assert again.variants == made.variants


def test_what_a_summary_should_not_hold_is_refused_by_name(made, tmp_path):
    good = summary.to_json(made)
    path = tmp_path / "summary.json"

    def message(changed):
        path.write_text(json.dumps(changed))
        with pytest.raises(UserError) as refused:
            summary.read(path)
        return str(refused.value)

    assert "form None, expected 2" in message({key: value for key, value in good.items() if key != "form"})
    assert "flavour" in message(good | {"flavour": 1})
    variants = {name: dict(of) for name, of in good["variants"].items()}
    variants["eca"]["luck"] = 0.5
    assert "luck" in message(good | {"variants": variants})
    del variants["eca"]["luck"], variants["eca"]["recall"]
    assert "recall" in message(good | {"variants": variants})
    path.write_text("{")
    with pytest.raises(UserError, match="no JSON"):
        summary.read(path)


def test_a_metric_from_outside_stands_beside_the_others(table):
    worst = Metric("worst", "worst recall", lambda confusion: np.nanmin(metrics.recall(confusion), axis=-1))
    found = summarise(table, how=How(replicates=100, metrics=(*metrics.METRICS, worst)))
    eca = found.variants["eca"]
    rows = metrics.confusion_counts(table[table["variant"] == "eca"], "speaker").counts.sum(axis=1)
    assert eca.metrics["worst"].value == pytest.approx(metrics.recall(rows).min(axis=-1).mean())
    assert eca.metrics["worst"].ci95[0] < eca.metrics["worst"].value < eca.metrics["worst"].ci95[1]
    assert eca.ensemble.metrics["worst"].value is not None
    assert "worst recall" in results_table(found)


def test_figures_equal_independent_ones(made, table):
    rows = table[table["variant"] == "eca"]
    predicted = np.array(EMOTIONS)[predictions.probabilities_of(rows).argmax(axis=1)]
    eca = made.variants["eca"]
    per_seed = [balanced_accuracy_score(rows["label"][rows["seed"] == s], predicted[rows["seed"] == s]) for s in (0, 1)]
    assert list(eca.ua_per_seed.values()) == pytest.approx(per_seed)
    assert eca.ua.value == pytest.approx(np.mean(per_seed))
    assert eca.ua_seed_sd == pytest.approx(np.std(per_seed, ddof=1))
    assert eca.metrics["wa"].value == pytest.approx((predicted == rows["label"]).mean())
    assert np.sum(eca.confusion) == len(rows) == 2 * eca.utterances
    assert (eca.runs, eca.folds, eca.seeds, eca.speakers, eca.known.parameters) == (12, 6, 2, 6, 105)
    joy = rows["label"] == "joy"
    assert np.sum(eca.confusion[1]) == joy.sum()
    assert eca.confusion[1][0] == (predicted[joy] == "anger").sum()


def test_an_ensemble_says_the_mean_of_its_seeds(made, table):
    rows = table[table["variant"] == "eca"]
    means = rows.groupby("utterance")[[f"p_{emotion}" for emotion in EMOTIONS]].mean()
    labels = rows.groupby("utterance")["label"].first()
    together = made.variants["eca"].ensemble
    ua = together.metrics["ua"]
    predicted = np.array(EMOTIONS)[means.to_numpy().argmax(axis=1)]
    assert ua.value == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert together.seeds == 2
    assert ua.ci95[0] < ua.value < ua.ci95[1]
    line = f"eca, its 2 seeds as an ensemble (mean of their probabilities): UA {100 * ua.value:.1f} ["
    assert line in " ".join(results_table(made).split())


def test_one_seed_missing_runs_and_mere_labels_are_no_ensemble(table):
    rows = table[table["variant"] == "eca"]
    columns = [f"p_{emotion}" for emotion in EMOTIONS]
    labels = np.eye(len(columns))[rows[columns].to_numpy().argmax(1)]
    assert ensemble(rows, How(replicates=100))
    for changed in (rows[rows["seed"] == 0], rows[1:], rows.assign(**dict(zip(columns, labels.T, strict=True)))):
        assert ensemble(changed, How(replicates=100)) is None


def test_intervals_are_those_of_statistics_and_hold_their_figures(made):
    for variant in made.variants.values():
        for one in variant.metrics.values():
            assert one.ci95[0] < one.value < one.ci95[1]
        for one in variant.recall.values():
            assert one.ci95[0] <= one.value <= one.ci95[1]


def test_an_absent_emotion_is_null_and_is_said(table):
    without = table[table["label"] != "joy"]
    eca = few(without).variants["eca"]
    assert eca.recall["joy"] == summary.Measure(None)
    assert eca.ua.value == pytest.approx(np.mean([r.value for e, r in eca.recall.items() if e != "joy"]))
    assert eca.notes == ("not in the test data and left out of UA and macro F1: joy",)


def test_one_speaker_and_one_seed_give_null_intervals_and_say_so():
    made = summarise(make_table(speakers=1, seeds=(0,)))
    json.dumps(summary.to_json(made), allow_nan=False)
    eca = made.variants["eca"]
    assert eca.ua.ci95 is None
    assert eca.ua_seed_sd is None
    assert eca.known.parameters is None
    assert eca.notes[0] == bootstrap.no_interval(1)
    assert eca.notes[1].startswith("one seed")


def test_missing_runs_and_emotions_of_one_speaker_are_said(table):
    less = table[(table["fold"] != "fold0") | (table["seed"] == 0)]
    less = less[(less["label"] != "joy") | (less["speaker"] == "s2")]
    notes = few(less).variants["eca"].notes
    assert notes == (
        "from one speaker only, so the intervals leave out how speakers differ in: joy",
        "11 runs of 6 folds x 2 seeds: some are missing",
    )


def test_variants_that_share_no_run_are_not_compared_and_the_others_are():
    table = make_table(variants=("none", "eca", "se", "cbam"), utterances=8)
    lost = {"none": 0, "eca": 1}  # variant -> the seed of which all runs diverged
    table = table[table["seed"] != table["variant"].map(lost)]
    pairs = (("eca", "none"), ("se", "none"))
    levels = {"none": ("x", "p"), "eca": ("y", "p"), "se": ("x", "q"), "cbam": ("y", "q")}
    levels = {name: dict(zip("ab", of, strict=True)) for name, of in levels.items()}
    question = Question("q", "?", {"a": ("x", "y"), "b": ("p", "q")}, levels, pairs)
    made = few(table, questions=[question])
    assert [(one.variant, one.baseline) for one in made.comparisons] == [("se", "none")]
    assert "not compared with none: they share no fold, seed and utterance" in made.variants["eca"].notes
    assert made.questions[0].effects == () and made.questions[0].comparisons == (0,)
    assert made.questions[0].notes == (
        "no effects of a, b: they share no fold, seed and utterance to compare on",
        "1 comparison left out: the variants share no fold, seed and utterance",
    )
    assert not few(table, comparisons=pairs[:1]).comparisons
    with pytest.raises(UserError, match=r"^comparison cbaam against none: no variant cbaam"):
        few(table, comparisons=[("cbaam", "none")])


def test_a_comparison_of_two_questions_has_the_larger_p_values_of_both():
    table = make_table(variants=("none", "eca", "se", "cbam"), gain=0.02, utterances=12)
    alone = few(table, comparisons=[("eca", "none")]).comparisons[0]
    x, y, z = (
        dataclasses.replace(alone, variant=name, p=p, p_equivalence=alike, p_holm=p)
        for name, p, alike in (("x", 0.5, 0.03), ("y", 0.9, 0.001), ("z", 0.01, 0.04))
    )
    families = [
        [dataclasses.replace(x, p_holm=1.0, p_equivalence=0.03, verdict="equivalent", family=2), y],
        [dataclasses.replace(x, p_holm=0.5, p_equivalence=0.06, verdict="undecided", family=2), z],
    ]
    for order in (families, families[::-1]):
        found = _corrected({}, [{(one.variant, "none"): one for one in family} for family in order])["x", "none"]
        assert (found.p_holm, found.p_equivalence, found.verdict) == (1.0, 0.06, "undecided")


def test_emotions_of_few_speakers_are_said_of_variants_and_comparisons(table):
    less = table[(table["label"] != "joy") | (table["speaker"] == "s2")]
    less = less[(less["label"] != "anger") | less["speaker"].isin(["s1", "s3"])]
    made = few(less, comparisons=[("eca", "none")])
    assert made.variants["eca"].notes == (
        "from one speaker only, so the intervals leave out how speakers differ in: joy",
        "from two or three speakers only, so the intervals of UA are too short: anger",
    )
    single, several = made.comparisons[0].notes[:2]
    assert single.startswith("1 emotion from one of the speakers only: interval and p value leave out")
    assert several.startswith("1 emotion from two or three of the speakers only: the interval is too short")
    most = table[(table["label"] != "joy") | table["speaker"].isin(["s1", "s2", "s3", "s4"])]
    (last,) = few(most, comparisons=[("eca", "none")]).comparisons[0].notes
    assert last.startswith("the sizes of the folds are not known")


def test_seeds_of_which_no_two_trained_the_same_fold_are_said_to_be_one(table):
    once = table[(table["seed"] == 0) == table["fold"].isin(["fold0", "fold1", "fold2"])]
    eca, expected = (few(rows).variants["eca"] for rows in (once, once.assign(seed=0)))
    assert eca.metrics == expected.metrics and eca.ua_seed_sd is None
    assert "no two of 2 seeds trained the same fold: they are taken as one seed, pooled over folds" in eca.notes


def test_predictions_on_two_corpora_are_refused(table):
    both = predictions.merge([table, table[table["variant"] == "eca"].assign(corpus="other", variant="third")])
    with pytest.raises(UserError, match="one corpus, found predictions on corpus, other"):
        summarise(both)


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
    made = few(table, Study(fold_sizes=sizes(table)), comparisons=[("swish", "none")], questions=questions)
    json.dumps(summary.to_json(made), allow_nan=False)
    asked, plain = made.questions
    pairs = [(c.variant, c.baseline) for c in made.comparisons]
    assert pairs == [("swish", "none"), ("eca", "none"), ("both", "swish")]
    assert (asked.comparisons, plain.comparisons) == ((1, 2), (0,))
    assert [effect.kind for effect in asked.effects] == ["main effect", "main effect", "interaction"]
    assert asked.effects[0].estimate == pytest.approx(np.mean([made.comparisons[i].estimate for i in (1, 2)]))
    assert asked.answer.startswith("Averaged over the other factor: attention eca against none: UA +")
    assert plain.answer.startswith("swish against none: UA +")
    assert (asked.levels["both"]["attention"], asked.factors["attention"]) == ("eca", ("none", "eca"))
    assert (plain.effects, asked.notes, plain.notes) == ((), (), ())


def test_a_failed_variant_leaves_the_other_comparisons_and_says_so():
    table, questions = make_grid()
    table = table[table["variant"] != "both"]
    study = Study(fold_sizes=sizes(table), failed={"both": "out of memory"})
    made = few(table, study, questions=questions)
    assert [(c.variant, c.baseline) for c in made.comparisons] == [("eca", "none"), ("swish", "none")]
    assert made.questions[0].effects == ()
    assert made.questions[0].notes == (
        "no effects of attention and activation: no variant has attention eca, activation hard_swish",
        "1 comparison left out: a variant failed",
    )
    with pytest.raises(UserError, match="no variant both"):
        few(table, Study(fold_sizes=sizes(table)), questions=questions)


def test_two_speakers_and_one_seed_give_a_whole_summary():
    table, questions = make_grid(speakers=2, seeds=(0,))
    genders = {"s0": {"gender": "female"}, "s1": {"gender": "male"}}
    made = few(table, Study(fold_sizes=sizes(table), speakers=genders), questions=questions)
    json.dumps(summary.to_json(made), allow_nan=False)
    assert "one seed" in made.questions[0].answer
    fairness = made.variants["eca"].fairness
    assert fairness.gender_gap.ci95 is None
    assert fairness.gender_gap.ua_difference == pytest.approx(fairness.speakers["s0"].ua - fairness.speakers["s1"].ua)
    assert made.variants["eca"].calibration.temperature is None


def test_a_merged_corpus_has_figures_of_each_of_its_sources(table):
    table = table[table["variant"] == "eca"]
    of = {speaker: "one" if speaker in ("s0", "s1", "s2") else "two" for speaker in table["speaker"].unique()}
    speakers = {speaker: {"source": source} for speaker, source in of.items()}
    # An emotion that nobody expresses in one of them, as in most pairs of corpora, is no part of its UA.
    table = table[(table["speaker"].map(of) == "one") | (table["label"] != EMOTIONS[0])]
    made = few(table, Study(speakers=speakers))
    by_source = made.variants["eca"].by_source
    assert list(by_source) == ["one", "two"]
    predicted = pd.Series(np.array(EMOTIONS)[predictions.probabilities_of(table).argmax(axis=1)], index=table.index)
    for source, found in by_source.items():
        rows = table[table["speaker"].map(of) == source]
        expected = []
        for _, run in rows.groupby("seed"):
            hit = run["label"] == predicted[run.index]
            expected.append(hit.groupby(run["label"]).mean().mean())
        ua = found.metrics["ua"]
        assert ua.value == pytest.approx(np.mean(expected))
        assert ua.ci95[0] < ua.value < ua.ci95[1]
        assert found.utterances == rows["utterance"].nunique()
    assert by_source["two"].recall[EMOTIONS[0]].value is None
    text = results_table(made)
    assert f"eca, UA by source corpus: one {100 * by_source['one'].metrics['ua'].value:.1f} [" in " ".join(text.split())
    for unknown in ({}, {name: {"gender": ""} for name in of}, {name: {"source": "one"} for name in of}):
        assert few(table, Study(speakers=unknown)).variants["eca"].by_source is None


def test_per_fold_figures_equal_a_slow_loop(table, made):
    rows = table[table["variant"] == "eca"]
    predicted = pd.Series(np.array(EMOTIONS)[predictions.probabilities_of(rows).argmax(axis=1)], index=rows.index)

    def own_ua(run):  # some folds have not all emotions
        return recall_score(run["label"], predicted[run.index], labels=run["label"].unique(), average="macro")

    ua = [np.mean([own_ua(run) for _, run in fold.groupby("seed")]) for _, fold in rows.groupby("fold")]
    found = made.variants["eca"].per_fold
    assert (found["ua"].mean, found["ua"].sd) == pytest.approx((np.mean(ua), np.std(ua, ddof=1)))
    wa = (predicted == rows["label"]).groupby(rows["fold"]).mean()
    assert (found["wa"].mean, found["wa"].sd) == pytest.approx((wa.mean(), wa.std()))
    assert per_fold(rows[rows["fold"] == "fold0"], How())["ua"].sd is None


def test_validation_predictions_scale_the_test_predictions_of_their_own_variant(table):
    # The validation speaker of each fold is the next fold's.
    following = {f"fold{i}": f"fold{(i + 1) % 6}" for i in range(6)}
    validation = table.assign(fold=table["fold"].map(following))
    made = few(table, validation=validation)
    both = [made.variants[name].calibration.temperature for name in ("none", "eca")]
    assert both[0].runs == both[1].runs == 12
    assert both[0] != both[1]
    alone = few(table, validation=validation[validation["variant"] == "eca"])
    assert alone.variants["eca"].calibration == made.variants["eca"].calibration
    assert alone.variants["none"].calibration.temperature is None
