import numpy as np
import pandas as pd
import pytest
from scipy import special
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from ser_jax import predictions
from ser_jax.errors import UserError
from ser_jax.statistics import bootstrap, calibration
from tests.statistics.made_tables import EMOTIONS, make_table
from tests.statistics.simulated_studies import calibration_coverage, simulate_probabilities

FOLLOWING = {f"fold{i}": f"fold{(i + 1) % 6}" for i in range(6)}


@pytest.fixture(scope="module")
def table():
    return make_table(variants=("eca",), utterances=30)


@pytest.fixture(scope="module")
def validation(table):
    """Each fold's validation speaker is the one tested in the fold before."""
    return table.assign(fold=table["fold"].map(FOLLOWING))


@pytest.fixture(scope="module")
def made(table, validation):
    return calibration.calibration(table, validation, replicates=500)


def slow_ece(probabilities, labels):
    total = 0.0
    for low in np.arange(10) / 10:
        inside = [
            (max(p), p.argmax() == label)
            for p, label in zip(probabilities, labels, strict=True)
            if low < max(p) <= low + 0.1
        ]
        if inside:
            confidence, hit = np.mean(inside, axis=0)
            total += len(inside) / len(labels) * abs(confidence - hit)
    return total


def per_seed(table):
    return [(predictions.probabilities_of(t), predictions.labels_of(t)) for _, t in table.groupby("seed")]


def test_ece_equals_a_slow_loop_and_scikit_learns_curve_averaged_over_seeds(table, made):
    assert made["ece"] == pytest.approx(np.mean([slow_ece(p, y) for p, y in per_seed(table)]))
    curves = []
    for p, y in per_seed(table):
        top, hit = p.max(axis=1), p.argmax(axis=1) == y
        accuracy, confidence = calibration_curve(hit, top, n_bins=10)
        count = np.histogram(top, np.linspace(0, 1, 11))[0]
        curves.append(np.average(abs(accuracy - confidence), weights=count[count > 0]))
    assert made["ece"] == pytest.approx(np.mean(curves))


def test_brier_equals_scikit_learns_over_both_seeds(table, made):
    expected = [brier_score_loss(np.eye(4)[y], p, scale_by_half=False) for p, y in per_seed(table)]
    assert made["brier"] == pytest.approx(np.mean(expected))


def test_reliability_curve_equals_scikit_learns_over_all_runs(table, made):
    p, y = predictions.probabilities_of(table), predictions.labels_of(table)
    accuracy, confidence = calibration_curve(p.argmax(axis=1) == y, p.max(axis=1), n_bins=10)
    filled = [row for row in made["reliability"] if row["count"]]
    np.testing.assert_allclose([row["accuracy"] for row in filled], accuracy)
    np.testing.assert_allclose([row["confidence"] for row in filled], confidence)
    assert sum(row["count"] for row in made["reliability"]) == len(table)
    assert made["reliability"][0] == {"low": 0.0, "high": 0.1, "confidence": None, "accuracy": None, "count": 0}


def test_an_upper_end_belongs_to_its_bin_as_in_scikit_learn():
    table = pd.DataFrame({"speaker": ["a"] * 3, "seed": 0})
    sums = calibration.speaker_sums(table, np.array([[0.7, 0.3], [0.71, 0.29], [0.0, 1.0]]), np.zeros(3, int))
    assert [row["count"] for row in calibration.reliability(sums[0, 0])] == [0] * 6 + [1, 1, 0, 1]
    # 0.5 is an edge that floats have exactly.
    sums = calibration.speaker_sums(table, np.array([[0.5, 0.5], [0.51, 0.49], [0.0, 1.0]]), np.zeros(3, int))
    assert [row["count"] for row in calibration.reliability(sums[0, 0])] == [0] * 4 + [1, 1, 0, 0, 0, 1]


def test_standard_errors_are_near_the_cluster_jackknifes():
    sums = calibration.speaker_sums(*simulate_probabilities(np.random.default_rng(0), 30, 2.0))
    deleted = np.stack([calibration.ece_and_brier(np.delete(sums, k, axis=0).sum(axis=0)) for k in range(30)])
    jackknife = np.sqrt(29 / 30 * ((deleted - deleted.mean(axis=0)) ** 2).sum(axis=0))
    np.testing.assert_allclose(calibration.estimate(sums, replicates=3000).standard_error, jackknife, rtol=0.15)


def test_the_lower_end_of_ece_alone_is_moved_down_by_the_bias_of_the_bootstrap():
    sums = calibration.speaker_sums(*simulate_probabilities(np.random.default_rng(0), 12, 1.0))
    found = calibration.estimate(sums, replicates=500)
    drawn = bootstrap.bootstrap_sums(sums, calibration.ece_and_brier, replicates=500, seed=0)
    plain = bootstrap.estimate(found.value, drawn, 12, bounds=(0.0, 2.0))
    bias = drawn[:, 0].mean() - found.value[0]
    assert bias > 0.005
    assert found.low[0] == pytest.approx(max(plain.low[0] - bias, 0))
    assert (found.high[0], found.low[1]) == (plain.high[0], plain.low[1])


def test_the_lower_end_of_ece_is_not_moved_up():
    """Where every bin is too sure ECE has no bias but that of few draws, which may be below zero."""
    sums = calibration.speaker_sums(*simulate_probabilities(np.random.default_rng(0), 12, 20.0))
    below = 0
    for seed in range(8):
        found = calibration.estimate(sums, replicates=20, seed=seed)
        drawn = bootstrap.bootstrap_sums(sums, calibration.ece_and_brier, replicates=20, seed=seed)
        plain = bootstrap.estimate(found.value, drawn, 12, bounds=(0.0, 2.0))
        bias = drawn[:, 0].mean() - found.value[0]
        assert found.low[0] == pytest.approx(plain.low[0] - max(bias, 0))
        below += bias < 0
    assert 0 < below < 8


def test_each_figure_is_told_with_its_own_interval(table, made):
    probabilities, labels = predictions.probabilities_of(table), predictions.labels_of(table)
    cells = calibration.cell_sums(table, probabilities, labels)
    found = calibration.estimate(calibration.speaker_sums(table, probabilities, labels), cells, replicates=500)
    for number, name in enumerate(("ece", "brier")):
        np.testing.assert_array_equal(made[f"{name}_ci95"], [found.low[number], found.high[number]])
        assert made[f"{name}_ci95"][0] < made[name] < made[f"{name}_ci95"][1]


def test_the_noise_of_training_that_speakers_of_a_model_share_is_part_of_the_interval():
    rng = np.random.default_rng(0)
    table, stated, labels = simulate_probabilities(rng, 12, 2.0, seeds=4)
    table["speaker"] = "s" + table["speaker"].map("{:02}".format)
    sharper = np.exp(rng.normal(0, 0.4, 4))[table["seed"]]  # of one training, for all its speakers
    stated = special.softmax(np.log(stated) * sharper[:, None], axis=1)
    alone, shared = (
        calibration.cell_sums(table.assign(fold=fold), stated, labels) for fold in (table["speaker"], "all")
    )
    sums = calibration.speaker_sums(table, stated, labels)
    for cells in (alone, shared):
        np.testing.assert_array_equal(np.moveaxis(cells.by_speaker()[0], 1, 0), sums)
    short, wide = (calibration.estimate(sums, cells, replicates=400) for cells in (alone, shared))
    plain = calibration.estimate(sums, replicates=400)
    np.testing.assert_array_equal([short.low, short.high], [plain.low, plain.high])
    of_seeds = np.stack([calibration.ece_and_brier(sums[:, [seed]].sum(axis=0)) for seed in range(4)])
    added = wide.standard_error**2 - short.standard_error**2
    np.testing.assert_allclose(added, of_seeds.var(axis=0, ddof=1) / 4, rtol=0.3)
    assert (wide.high - wide.low > 1.2 * (short.high - short.low)).all()
    assert wide.low[0] < wide.value[0] - (wide.high[0] - wide.value[0])  # moved down by the bias of ECE all the same


@pytest.mark.parametrize("sharpness", [1.0, 2.0])
def test_intervals_cover_the_truth_in_95_percent_of_simulated_studies(sharpness):
    rates = calibration_coverage(10, studies=100, replicates=100, sharpness=sharpness)
    assert rates["ECE"] >= 0.87  # three Monte Carlo standard errors are 7 points
    assert rates["Brier"] >= 0.88


def test_ece_by_chance_is_that_of_a_calibrated_variant(table):
    rng = np.random.default_rng(0)
    p = predictions.probabilities_of(table)
    drawn = []
    for _ in range(40):
        hit = rng.random(len(p)) < p.max(axis=1)
        labels = np.where(hit, p.argmax(axis=1), p.argmin(axis=1))
        drawn.append(np.mean([slow_ece(p[table["seed"] == s], labels[table["seed"] == s]) for s in (0, 1)]))
    assert calibration.ece_by_chance(table, p) == pytest.approx(np.mean(drawn), rel=0.1)


def test_predictions_that_are_certain_have_no_ece_by_chance(table):
    certain = np.eye(2)[np.arange(len(table)) % 2]
    assert calibration.ece_by_chance(table, certain) == 0


def test_fitted_temperature_has_the_smallest_log_loss_of_scikit_learn(table):
    p, y = predictions.probabilities_of(table)[:40], predictions.labels_of(table)[:40]
    best = calibration.fit_temperature(p, y)
    grid = best * np.linspace(0.8, 1.25, 46)
    losses = [log_loss(y, special.softmax(np.log(p) / t, axis=1), labels=range(4)) for t in grid]
    assert grid[np.argmin(losses)] == pytest.approx(best, rel=0.011)


def test_temperature_undoes_what_was_done_to_the_logits():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (20_000, 5))
    labels = (rng.random((20_000, 1)) < special.softmax(logits, axis=1).cumsum(axis=1)).argmax(axis=1)
    assert calibration.fit_temperature(special.softmax(2.5 * logits, axis=1), labels) == pytest.approx(2.5, rel=0.03)


def test_certain_predictions_of_probability_zero_have_a_temperature_at_the_end_of_the_range():
    p = np.eye(3)[[0, 1, 2, 0]] * (1 - 1e-9) + 1e-9 / 3
    p[3] = [1, 0, 0]
    assert calibration.fit_temperature(p, np.array([0, 1, 2, 0])) <= 0.051
    assert 1 < calibration.fit_temperature(p, np.array([0, 1, 2, 1])) < 20.1


def test_each_run_is_scaled_by_the_temperature_of_its_own_validation_speakers(table, validation, made):
    scaled, labels = {0: [], 1: []}, {0: [], 1: []}
    values = []
    for (fold, seed), rows in table.groupby(["fold", "seed"]):
        own = validation[(validation["fold"] == fold) & (validation["seed"] == seed)]
        values.append(calibration.fit_temperature(predictions.probabilities_of(own), predictions.labels_of(own)))
        scaled[seed].append(special.softmax(np.log(predictions.probabilities_of(rows)) / values[-1], axis=1))
        labels[seed].append(predictions.labels_of(rows))
    both = [(np.concatenate(scaled[s]), np.concatenate(labels[s])) for s in (0, 1)]
    assert made["ece_scaled"] == pytest.approx(np.mean([slow_ece(p, y) for p, y in both]))
    expected = [brier_score_loss(np.eye(4)[y], p, scale_by_half=False) for p, y in both]
    assert made["brier_scaled"] == pytest.approx(np.mean(expected))
    found = made["temperature"]
    assert found == pytest.approx(
        {"median": np.median(values), "lowest": min(values), "highest": max(values), "runs": 12}
    )


def test_seeds_of_which_each_trained_a_fold_of_its_own_are_one_in_every_figure(table, validation):
    names = sorted(set(table["fold"]))
    one = table[table["seed"] == 0]
    validated = validation[validation["seed"] == 0]
    expected = calibration.calibration(one, validated, replicates=50)
    by_fold = [rows.assign(seed=rows["fold"].map(names.index)) for rows in (one, validated)]
    found = calibration.calibration(*by_fold, replicates=50)
    for name in ("ece", "ece_by_chance", "brier", "ece_scaled", "brier_scaled"):
        assert found[name] == pytest.approx(expected[name]), name


@pytest.mark.parametrize("right", [True, False])
def test_a_temperature_at_an_end_of_its_range_is_told(table, validation, right):
    """What is always right, or always wrong, could not be sure, or unsure, enough."""
    columns = [f"p_{emotion}" for emotion in EMOTIONS]
    said = np.eye(4)[(predictions.labels_of(validation) + (not right)) % 4] * 0.96 + 0.01
    made = calibration.calibration(table, validation.assign(**dict(zip(columns, said.T, strict=True))), replicates=10)
    assert made["temperature"]["median"] == pytest.approx(0.05 if right else 20, rel=0.01)
    assert made["notes"] == ["temperature at an end of its range (0.05, 20.0) in 12 of 12 runs"]


def test_the_intervals_end_where_the_figures_can_be():
    table = pd.DataFrame({"speaker": ["a", "a", "b", "b"], "seed": 0})
    sums = calibration.speaker_sums(table, np.tile([1.0, 0.0], (4, 1)), np.array([1, 1, 0, 1]))
    found = calibration.estimate(sums, replicates=50)  # two speakers: one degree of freedom, and a very wide interval
    np.testing.assert_allclose(found.value, [0.75, 1.5])
    np.testing.assert_array_equal([found.low, found.high], [[0, 0], [1, 2]])


def test_scaling_keeps_the_order_of_the_classes(table):
    p = predictions.probabilities_of(table)
    scaled = calibration.scale(p, np.full(len(p), 3.0))
    np.testing.assert_array_equal(p.argsort(axis=1), scaled.argsort(axis=1))
    np.testing.assert_allclose(scaled.sum(axis=1), 1)


def test_without_validation_speakers_there_is_no_temperature_and_it_is_said(table, validation):
    for given, note in (
        (None, "no validation predictions: no temperature was fitted"),
        (validation[validation["fold"] == "none"], "no validation predictions: no temperature was fitted"),
        (
            validation[validation["seed"] == 0],
            "validation predictions of 6 of 12 runs: no temperature was fitted",
        ),
    ):
        made = calibration.calibration(table, given, replicates=50)
        assert (made["temperature"], made["ece_scaled"], made["brier_scaled"]) == (None, None, None)
        assert made["notes"] == [note]
        assert made["ece"] > 0


def test_validation_predictions_of_tested_utterances_are_refused(table):
    with pytest.raises(UserError, match="fold fold0, seed 0: 0-00 is among both the validation and the test"):
        calibration.calibration(table, table, replicates=10)


def test_one_speaker_has_no_interval_and_classes_without_probabilities_have_no_calibration(table):
    one = calibration.calibration(table[table["speaker"] == "s0"], replicates=50)
    assert (one["ece_ci95"], one["brier_ci95"]) == (None, None)
    assert one["notes"][0].startswith("one speaker only")
    certain = table.copy()
    columns = [f"p_{emotion}" for emotion in EMOTIONS]
    certain[columns] = np.eye(4)[predictions.probabilities_of(table).argmax(axis=1)]
    made = calibration.calibration(certain)
    assert (made["ece"], made["brier"], made["reliability"]) == (None, None, [])
    assert "without probabilities" in made["notes"][0]
