import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

from ser_jax import predictions
from ser_jax.errors import UserError
from ser_jax.statistics import components, fairness, metrics
from tests.statistics.made_tables import EMOTIONS, make_table, one_fold_each
from tests.statistics.simulated_designs import simulate
from tests.statistics.simulated_studies import gap_coverage, speaker_coverage

GENDERS = pd.DataFrame({"speaker": [f"s{i}" for i in range(6)], "gender": ["female", "male"] * 3})


@pytest.fixture(scope="module")
def table():
    return make_table(variants=("eca",), utterances=30)


@pytest.fixture(scope="module")
def made(table):
    return fairness.fairness(table, GENDERS, replicates=500)


def ua(rows):
    predicted = np.array(EMOTIONS)[predictions.probabilities_of(rows).argmax(axis=1)]
    return np.mean(
        [balanced_accuracy_score(rows["label"][i], predicted[i]) for i in (rows["seed"] == 0, rows["seed"] == 1)]
    )


def test_figures_of_genders_and_speakers_equal_scikit_learns(table, made):
    female = table["speaker"].isin(["s0", "s2", "s4"])
    assert made["genders"]["female"]["ua"] == pytest.approx(ua(table[female]))
    assert made["genders"]["male"]["ua"] == pytest.approx(ua(table[~female]))
    assert made["gender_gap"]["ua_difference"] == pytest.approx(ua(table[female]) - ua(table[~female]))
    assert made["gender_gap"]["emotions"] == list(EMOTIONS)
    assert made["genders"]["male"]["speakers"] == 3
    assert made["genders"]["male"]["utterances"] == 90
    by_speaker = {speaker: ua(rows) for speaker, rows in table.groupby("speaker")}
    assert {speaker: row["ua"] for speaker, row in made["speakers"].items()} == pytest.approx(by_speaker)
    assert made["worst"] == min(by_speaker, key=by_speaker.get)
    assert made["best"] == max(by_speaker, key=by_speaker.get)
    assert made["spread"] == pytest.approx(np.std(list(by_speaker.values()), ddof=1))
    assert made["speakers"]["s1"]["gender"] == "male"
    assert made["notes"] == []


def test_gap_is_welchs_test_where_every_speaker_counts_the_same():
    rng = np.random.default_rng(0)
    hits = rng.integers(2, 11, (14, 3))  # of ten utterances of each of three classes
    counts = hits[:, :, None] * np.eye(3, dtype=int) + (10 - hits)[:, :, None] * np.roll(
        np.eye(3, dtype=int), 1, axis=1
    )
    *_, gap, parts = fairness.gap_estimate(one_fold_each(counts[None, None]), np.arange(14) < 9, replicates=20_000)
    each = hits.mean(axis=1) / 10
    expected = stats.ttest_ind(each[:9], each[9:], equal_var=False)
    assert gap.value == pytest.approx(each[:9].mean() - each[9:].mean())
    assert parts.degrees == pytest.approx(expected.df, rel=0.02)
    ends = expected.confidence_interval()
    np.testing.assert_allclose([gap.low, gap.high], [ends.low, ends.high], atol=0.003)


def test_gap_intervals_cover_the_truth_and_find_no_gap_where_there_is_none():
    assert gap_coverage(10, studies=100, replicates=100)["gender gap"] >= 0.88
    assert gap_coverage(10, studies=100, replicates=100, gap=0.0)["gender gap apart"] <= 0.12


def test_wilsons_interval_equals_scipys():
    for k, n in ((0, 1), (1, 1), (3, 7), (20, 20), (0, 14)):
        expected = stats.binomtest(k, n).proportion_ci(method="wilson")
        np.testing.assert_allclose(
            np.ravel(fairness.wilson(np.array([k / n]), np.array([float(n)]))), expected, atol=1e-12
        )


def test_a_speakers_interval_is_wilsons_with_one_class_and_shorter_with_more():
    (low,), (high,) = fairness.wilson(np.array([0.6]), np.array([10.0]))
    for classes in (1, 4):
        ua, below, above = fairness.speaker_intervals(np.full((1, classes), 6), np.full((1, classes), 10))
        assert ua == 0.6
        np.testing.assert_allclose([0.6 - below[0], above[0] - 0.6], np.array([0.6 - low, high - 0.6]) / classes**0.5)


def test_a_speakers_interval_stays_between_zero_and_one_and_holds_the_ua():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 4, (500, 5))
    counts[:, 0] += 1
    ua, low, high = fairness.speaker_intervals(rng.binomial(counts, 0.5), counts)
    assert (low >= 0).all() and (low <= ua).all() and (ua <= high).all() and (high <= 1).all()
    assert (low < high).all()


def test_speakers_intervals_cover_their_true_ua():
    for utterances in (2, 7):
        assert 0.93 <= speaker_coverage(studies=3000, utterances=utterances)["a speaker's UA"] <= 0.99


@pytest.mark.parametrize("column", ["seed", "fold"])
def test_seeds_and_folds_that_test_the_same_do_not_count_as_more_utterances(table, column):
    once = table[table["seed"] == 0].assign(fold="a")
    twice = predictions.merge([once, once.assign(**{column: {"seed": 1, "fold": "b"}[column]})])
    one, two = (fairness.fairness(t, replicates=10) for t in (once, twice))
    assert one["spread_by_chance"] == pytest.approx(two["spread_by_chance"])
    for speaker, alone in one["speakers"].items():
        assert alone["ua_ci95"] == pytest.approx(two["speakers"][speaker]["ua_ci95"])
        assert alone["utterances"] == two["speakers"][speaker]["utterances"] == 30


def test_spread_by_chance_is_that_of_speakers_who_are_all_alike():
    rng = np.random.default_rng(0)
    counts = np.tile(np.array([[4, 8, 2]]), (20_000, 1))
    hits = rng.binomial(counts, [0.5, 0.8, 0.9])
    observed = (hits / counts).mean(axis=1).std()
    assert fairness._spread_by_chance(hits, counts) == pytest.approx(observed, rel=0.02)


def test_emotions_that_a_speaker_lacks_are_named_and_the_gap_is_over_the_shared_ones(table):
    less = table[~((table["speaker"] == "s1") & (table["label"] == "joy"))]
    found = fairness.fairness(less, GENDERS, replicates=50)
    assert found["speakers"]["s1"]["missing"] == ["joy"]
    assert found["notes"] == ["UA is over the other emotions where a speaker lacks some: s1 joy"]
    no_male_joy = table[~(table["speaker"].isin(["s1", "s3", "s5"]) & (table["label"] == "joy"))]
    found = fairness.fairness(no_male_joy, GENDERS, replicates=50)
    assert found["gender_gap"]["emotions"] == ["anger", "neutral", "sadness"]
    assert "spoken by one gender only and left out of the genders' UA: joy" in found["notes"]
    shared = table[table["label"] != "joy"]
    expected = fairness.fairness(shared, GENDERS, replicates=50)
    assert found["genders"]["female"]["ua"] == pytest.approx(expected["genders"]["female"]["ua"])
    assert found["gender_gap"]["ua_difference"] == pytest.approx(expected["gender_gap"]["ua_difference"])


def gap_of(design, seeds, *, shift=0.0, speakers=12):
    """The gap between speakers of even and odd number, whose trainings may have learnt one gender better by `shift`."""
    rng = np.random.default_rng(0)
    cells, _ = simulate(rng, design, speakers, seeds, (0.0,), shared=0.0)
    female = np.arange(speakers) % 2 == 0
    hits = np.diagonal(cells.counts[0], axis1=-2, axis2=-1)
    more = rng.normal(0, shift, (seeds, len(cells.folds)))[:, cells.fold_of] * np.where(female, 1, -1)
    total = cells.counts[0].sum(axis=-1)
    hits = np.clip(hits + np.rint(total * more[..., None]).astype(int), 0, total)
    counts = hits[..., None] * np.eye(7, dtype=int) + (total - hits)[..., None] * np.roll(
        np.eye(7, dtype=int), 1, axis=1
    )
    cells = dataclasses.replace(cells, counts=counts[None])
    return cells, female, fairness.gap_estimate(cells, female, replicates=400)


def test_the_noise_of_training_that_speakers_of_a_model_share_is_part_of_the_gaps_interval():
    cells, female, (*_, gap, parts) = gap_of("one model", 4, shift=0.2)
    *_, alone, _ = fairness.gap_estimate(one_fold_each(cells.counts), female, replicates=400)
    assert gap.value == pytest.approx(alone.value)
    recall = np.diagonal(cells.counts[0], axis1=-2, axis2=-1)
    per_seed = [
        np.mean(recall[:, side].sum(axis=1) / cells.counts[0][:, side].sum(axis=(1, -1)), axis=-1)
        for side in (female, ~female)
    ]
    of_trainings = np.subtract(*per_seed).var(ddof=1) / 4
    assert parts.seeds == pytest.approx(of_trainings, rel=0.1)
    assert gap.standard_error**2 == pytest.approx(alone.standard_error**2 + parts.shared) and parts.shared > 0
    assert gap.high - gap.low > 1.2 * (alone.high - alone.low)


def test_with_one_seed_the_gap_is_over_folds_and_of_one_model_it_has_no_p_value():
    cells, _, (*_, parts) = gap_of("folds", 1, shift=0.1)
    assert parts.degrees == len(cells.folds) - 1 == 2
    female = cells.fold_of < 1
    assert np.isnan(fairness.gap_estimate(cells, female, replicates=50)[-1].total)  # one fold of female speakers alone
    more, _, _ = gap_of("folds", 1, shift=0.1, speakers=24)
    apart = more.fold_of < 2  # two folds of one gender, four of the other: two samples of folds
    *_, gap, found = fairness.gap_estimate(more, apart, replicates=200)
    own = [
        components.slopes(more.of_speakers(side).counts[0], metrics.unweighted_accuracy)[0] for side in (apart, ~apart)
    ]
    squares = [np.var(of.reshape(-1, 4).sum(axis=1) * n, ddof=1) / n for of, n in zip(own, (2, 4), strict=True)]
    assert gap.standard_error**2 == pytest.approx(sum(squares))
    assert found.degrees == pytest.approx(sum(squares) ** 2 / (squares[0] ** 2 + squares[1] ** 2 / 3))
    table = make_table(variants=("eca",), seeds=(0,), utterances=30)
    folds = table["fold"].map({f"fold{i}": f"fold{i // 2}" for i in range(6)})
    one_model, of_folds = (
        fairness.fairness(table.assign(fold=fold), GENDERS, replicates=100) for fold in ("all", folds)
    )
    assert one_model["gender_gap"]["ci95"] is not None and one_model["gender_gap"]["p"] is None
    assert one_model["notes"] == [
        "one training tested all speakers: the gap is of this trained model, without a p value"
    ]
    assert of_folds["gender_gap"]["p"] is not None
    assert of_folds["notes"][0].endswith("the gap's interval is over folds, not speakers")


def test_the_interval_of_a_gap_ends_where_gaps_can_be():
    hits = np.array([9, 1, 2, 8])
    counts = hits[:, None, None] * np.eye(2, dtype=int) + (10 - hits)[:, None, None] * np.eye(2, dtype=int)[::-1]
    *_, gap, _ = fairness.gap_estimate(one_fold_each(counts[None, None]), np.arange(4) < 2, replicates=50)
    assert (gap.low, gap.high) == (-1, 1)


def test_the_intervals_of_both_genders_of_a_shared_model_end_where_ua_can_be():
    hits = np.array([[[10, 8], [9, 10]] * 3, [[1, 0], [0, 2]] * 3])  # [seeds, speakers, classes]: two unlike trainings
    counts = hits[..., None] * np.eye(2, dtype=int) + (10 - hits)[..., None] * np.eye(2, dtype=int)[::-1]
    cells = dataclasses.replace(one_fold_each(counts[None]), folds=("all",), fold_of=np.zeros(6, int))
    *genders, _, _ = fairness.gap_estimate(cells, np.arange(6) < 3, replicates=50)
    assert [(float(one.low), float(one.high)) for one in genders] == [(0, 1), (0, 1)]


def test_what_is_not_known_of_genders_is_said(table):
    unknown = fairness.fairness(table, replicates=50)
    assert (unknown["genders"], unknown["gender_gap"]) == (None, None)
    assert unknown["notes"] == ["the speakers' genders are not known"]
    assert unknown["speakers"]["s0"]["gender"] == ""
    female = fairness.fairness(table, GENDERS.assign(gender="female"), replicates=50)
    assert list(female["genders"]) == ["female"]
    assert female["gender_gap"] is None
    assert female["notes"] == ["all speakers are female: no gap between genders"]
    partly = fairness.fairness(table, GENDERS[:4], replicates=50)
    assert partly["genders"]["female"]["speakers"] == 2
    assert partly["notes"][0].startswith("gender not known: 2 of 6 speakers")


def test_one_speaker_of_a_gender_gives_a_gap_without_interval(table):
    found = fairness.fairness(table[table["speaker"].isin(["s0", "s1", "s2"])], GENDERS, replicates=50)
    assert found["gender_gap"]["ci95"] is None
    assert found["genders"]["male"]["ua_ci95"] is None
    assert found["genders"]["female"]["ua_ci95"] is not None
    assert found["notes"] == ["no interval of the gap: it needs two speakers of each gender that differ"]
    pairs = table[table["seed"] == 0].assign(
        fold=lambda rows: rows["speaker"].map(lambda name: f"f{int(name[1]) // 2}")
    )
    one = GENDERS.assign(gender=["female"] + ["male"] * 5)
    notes = fairness.fairness(pairs, one, replicates=50)["notes"]
    assert notes == [
        "no interval of the gap: it needs two speakers of each gender that differ"
    ]  # more folds do not help
    alone = fairness.fairness(table[table["speaker"] == "s0"], GENDERS, replicates=50)
    assert (alone["worst"], alone["best"], alone["spread"], alone["spread_by_chance"]) == (None,) * 4


def test_a_speaker_of_two_genders_is_refused(table):
    with pytest.raises(UserError, match="speaker s0 has more than one gender"):
        fairness.fairness(table, pd.concat([GENDERS, GENDERS.assign(gender="male")]), replicates=10)


def test_no_emotion_shared_by_both_genders_gives_no_gap(table):
    female = table["speaker"].isin(["s0", "s2", "s4"])
    apart = table[female == table["label"].isin(["joy", "anger"])]
    found = fairness.fairness(apart, GENDERS, replicates=50)
    assert found["gender_gap"] is None
    assert found["genders"]["male"]["ua"] is None


def test_confusion_counts_of_the_table_are_used_once_for_each_seed(table):
    counts = metrics.confusion_counts(table, "speaker").counts
    assert counts.sum() == len(table) == 2 * 180
