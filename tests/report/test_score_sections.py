"""Dimensions and votes in summaries, terminal tables, reports and comparisons."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from ser_jax import predictions
from ser_jax.report import summary
from ser_jax.report.answers import describe_difference
from ser_jax.report.sections.differences import answers
from ser_jax.report.sections.scores import scores
from ser_jax.report.sources import Sources
from ser_jax.report.summarise import How, summarise
from ser_jax.report.terminal import results_table
from ser_jax.statistics import intervals
from ser_jax.studies import plan
from ser_jax.studies.compare import compare
from tests.statistics.made_tables import EMOTIONS, make_table


@pytest.fixture(scope="module")
def table():
    """A table whose variant `eca` predicts arousal better than `none`, with votes."""
    rows = make_table(utterances=12)
    rng, number = np.random.default_rng(0), rows["utterance"].astype("category").cat.codes
    true = rng.normal(3, 1, number.max() + 1)[number]
    noise = np.where(rows["variant"] == "eca", 0.2, 1.5) * rng.normal(size=len(rows))
    votes = rng.dirichlet(np.ones(len(EMOTIONS)), number.max() + 1)[number]
    columns = {"true_arousal": true, "predicted_arousal": true + noise}
    columns |= {f"v_{emotion}": votes[:, i] for i, emotion in enumerate(EMOTIONS)}
    return rows.assign(**columns)


@pytest.fixture(scope="module")
def made(table):
    return summarise(table, comparisons=[("eca", "none")], how=How(replicates=300))


def test_a_summary_has_the_scores_and_their_differences_and_is_read_as_written(made, tmp_path):
    assert list(made.scores) == ["ccc_arousal", "votes_cross_entropy", "votes_kl", "votes_majority"]
    good, poor = (made.variants[name].scores["ccc_arousal"] for name in ("eca", "none"))
    assert good.ci95[0] > poor.ci95[1] and good.value > 0.9
    (arousal, *_) = made.score_differences
    assert arousal.estimate == pytest.approx(good.value - poor.value) and arousal.p_holm < 0.05
    summary.write(made, tmp_path / "summary.json")
    assert summary.read(tmp_path).score_differences == made.score_differences


def test_the_terminal_and_the_report_show_them_as_they_are(made):
    text = results_table(made)
    value = made.variants["eca"].scores["ccc_arousal"].value
    assert "CCC arousal" in text and f"{value:.3f}" in text and "vote KL" in text
    assert "eca against none: CCC arousal +" in text.replace("\n  ", " ")
    figures, gains = scores(Sources(made, {}, {}, {}))
    assert figures.columns[:2] == ("variant", "CCC arousal") and len(gains.rows) == 4


def test_of_one_training_that_tests_all_speakers_the_report_says_what_the_intervals_are_of(table):
    one = table[table["seed"] == 0].assign(fold="all")
    made = summarise(one, comparisons=[("eca", "none")], how=How(replicates=100))
    _, gains, notes = scores(Sources(made, {}, {}, {}))
    assert {row[3].text for row in gains.rows} == {"–"} and "Holm" not in gains.caption
    assert any(note.startswith("One training of each variant tested all speakers: ") for note in notes.items)
    assert "of these trained models alone" in " ".join(results_table(made).split())
    alone = one[[column for column in one if not column.startswith(("p_", "v_"))]].assign(label="")
    made = summarise(alone, comparisons=[("eca", "none")], how=How(replicates=100))
    assert made.emotions == () and all(intervals.THIS_MODEL in of.notes for of in made.variants.values())
    assert made.questions == ()
    asked = plan.Question("q", "Does it?", {}, {}, (("eca", "none"),))
    two = alone.assign(true_valence=alone["true_arousal"], predicted_valence=alone["predicted_arousal"] ** 2)
    made = summarise(two, questions=[asked], how=How(replicates=100))
    (said, *_) = answers(Sources(made, {}, {}, {}))  # one sentence a score, though the summary has one paragraph
    assert len(said.says) == len(made.score_differences) == 2 and " ".join(said.says) == made.questions[0].answer
    (one, *_) = made.score_differences  # what begins or ends another sentence is not said by it
    first, last = (dataclasses.replace(one, variant=name) for name in ("ca", "eca"))
    made = dataclasses.replace(made, score_differences=(first, last))
    for answer in (describe_difference(last, made.scores), "As an earlier version said it."):
        asked = dataclasses.replace(made.questions[0], answer=answer)
        (said, *_) = answers(Sources(dataclasses.replace(made, questions=(asked,)), {}, {}, {}))
        assert said.says == (answer,)
    several = alone.assign(fold=alone["speaker"])
    assert intervals.THIS_MODEL not in summarise(several, how=How(replicates=100)).variants["eca"].notes


def test_tables_without_targets_say_nothing_of_scores(table):
    plain = table[[column for column in table if not column.startswith(("true_", "predicted_", "v_"))]]
    made = summarise(plain, comparisons=[("eca", "none")], how=How(replicates=100))
    assert made.scores == {} and made.score_differences == () and list(scores(Sources(made, {}, {}, {}))) == []
    assert "CCC" not in results_table(made)


def test_compare_sets_the_scores_of_results_side_by_side(table, tmp_path):
    for name in ("eca", "none"):
        predictions.write(table[table["variant"] == name], tmp_path / f"{name}.parquet")
    made, merged, _ = compare([str(tmp_path / "eca.parquet"), str(tmp_path / "none.parquet")], "none")
    assert predictions.dimensions_of(merged) == ("arousal",)
    assert {one.score for one in made.score_differences} == set(made.scores) and len(made.scores) == 4
    assert pd.read_parquet(tmp_path / "eca.parquet")["predicted_arousal"].notna().all()
