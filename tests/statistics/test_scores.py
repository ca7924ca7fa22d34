"""Dimensions and votes as figures: values by hand, intervals over speakers, paired differences."""

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings

from ser_jax.statistics import components, paired, scores
from ser_jax.statistics.scores import estimate, scores_of


def table_of(noises=(0.3,), speakers=6, per_speaker=12, seeds=2):
    """Variants v0, v1, ... whose arousal has so much noise; valence is unknown of every third utterance."""
    rng = np.random.default_rng(0)
    rows = speakers * per_speaker
    true = rng.normal(size=(rows, 2)) + np.repeat(np.arange(speakers), per_speaker)[:, None] / 2
    votes = rng.dirichlet((1, 1, 1), rows)
    parts = []
    for number, noise in enumerate(noises):
        for seed in range(seeds):
            columns = {"corpus": "c", "variant": f"v{number}", "seed": seed}
            columns |= {"utterance": [f"u{i}" for i in range(rows)], "label": "a"}
            columns |= {name: [f"{name}{i // per_speaker}" for i in range(rows)] for name in ("fold", "speaker")}
            columns |= dict(zip(("p_a", "p_b", "p_c"), rng.dirichlet((2, 2, 2), rows).T, strict=True))
            columns |= dict(zip(("v_a", "v_b", "v_c"), votes.T, strict=True))
            for i, name in enumerate(("arousal", "valence")):
                known = true[:, i] if i == 0 else np.where(np.arange(rows) % 3 == 0, np.nan, true[:, i])
                columns |= {f"true_{name}": known, f"predicted_{name}": true[:, i] + noise * rng.normal(size=rows)}
            parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def differences(table, variant, baseline, replicates):
    pair = variant, baseline
    return scores.differences({pair: paired.pair(table, *pair, {})}, replicates=replicates)


def slow_ccc(x, y):
    return 2 * np.mean((x - x.mean()) * (y - y.mean())) / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)


def by_name(table):
    return {score.name: score for score in scores_of(table)}


def test_ccc_is_over_the_utterances_whose_value_is_known_and_averaged_over_seeds():
    table = table_of()
    for name in ("arousal", "valence"):
        expected = []
        for _, own in table.groupby("seed"):
            known = own[own[f"true_{name}"].notna()]
            expected.append(slow_ccc(known[f"true_{name}"].to_numpy(), known[f"predicted_{name}"].to_numpy()))
        found = estimate(table, by_name(table)[f"ccc_{name}"], replicates=300)
        assert float(found.value) == pytest.approx(np.mean(expected), abs=1e-9)
        assert found.low < found.value < found.high


@given(st.integers(0, 2**32 - 1), st.integers(-12, 9), st.floats(-50, 50))
@settings(max_examples=50, deadline=None)
@example(0, -8, 3.0)
def test_ccc_does_not_depend_on_the_unit_or_on_which_side_is_called_true(seed, power, offset):
    x, noise = np.random.default_rng(seed).normal(size=(2, 40))
    y = 0.5 * x + noise

    def ccc(x, y):
        table = pd.DataFrame({"true_a": x, "predicted_a": y})
        return float(scores.concordance(scores.moments(table, "a").sum(axis=0)))

    expected = slow_ccc(x, y)
    other = 10.0**power * (np.stack([x, y]) + offset)
    assert ccc(*other) == pytest.approx(expected, abs=1e-8) == ccc(*other[::-1])
    constant = np.full(40, other[0, 0])
    assert ccc(constant, constant) == 0 == pytest.approx(ccc(constant, other[1]), abs=1e-8)


def test_votes_are_scored_by_cross_entropy_divergence_and_the_majority():
    table = table_of(seeds=1).head(4).assign(speaker=["s0", "s0", "s1", "s1"])
    shares = np.array([[0.4, 0.4, 0.2], [0.2, 0.8, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    told = np.array([[0.1, 0.6, 0.3], [0.7, 0.2, 0.1], [0.0, 0.0, 1.0], [0.6, 0.3, 0.1]])
    table[["v_a", "v_b", "v_c"]], table[["p_a", "p_b", "p_c"]] = shares, told
    cross = [-np.sum(q[q > 0] * np.log(p[q > 0])) for q, p in zip(shares, told, strict=True)]
    entropy = [-np.sum(q[q > 0] * np.log(q[q > 0])) for q in shares]
    found = {name: float(estimate(table, one, replicates=20).value) for name, one in by_name(table).items()}
    assert found["votes_cross_entropy"] == pytest.approx(np.mean(cross))
    assert found["votes_kl"] == pytest.approx(np.mean(cross) - np.mean(entropy))
    assert found["votes_majority"] == 3 / 4, "of two classes with equally many votes either is right"


def test_the_last_speaker_may_be_missing_from_the_last_seed():
    table = table_of(noises=(0.3, 0.5))
    last = (table["seed"] == 1) & (table["speaker"] == "speaker5")
    for one in differences(table[~last], "v0", "v1", 50):
        own = [table[~last & (table["variant"] == name)] for name in ("v0", "v1")]
        values = [float(estimate(part, by_name(table)[one.score], replicates=2).value) for part in own]
        assert one.estimate == pytest.approx(values[0] - values[1], abs=1e-9)


def test_intervals_stay_where_scores_can_be():
    table = table_of(noises=(0.02,), speakers=4)
    table[["p_a", "p_b", "p_c"]] = table[["v_a", "v_b", "v_c"]]  # every vote is predicted, but those of one speaker
    table.loc[table["speaker"] == "speaker0", ["p_a", "p_b", "p_c"]] = np.roll(np.eye(3), 1, axis=0)[0]
    for name, score in by_name(table).items():
        found = estimate(table, score, replicates=100)
        low, high = (-1, 1) if name.startswith("ccc") else (0, 1) if name == "votes_majority" else (0, np.inf)
        assert score.bounds == (low, high) and low <= found.low <= found.value <= found.high <= high


def test_the_interval_of_a_difference_ends_where_differences_can_be():
    table = table_of(noises=(0.2, 0.2), speakers=2)
    opposite = (table["variant"] == "v0") == (table["speaker"] == "speaker0")  # each variant fails on one speaker
    table["predicted_arousal"] *= np.where(opposite, -1, 1)
    one = next(one for one in differences(table, "v0", "v1", 50) if one.score == "ccc_arousal")
    assert one.ci95 == (-2, 2)


def test_votes_are_shared_among_the_classes_that_there_are():
    table = table_of(seeds=1).drop(columns=["p_c"])
    table.loc[0, ["v_a", "v_b", "v_c"]] = 0.0, 0.0, 1.0
    rows = by_name(table)["votes_kl"].per_row(table)
    assert np.isnan(rows[0]).any() and not np.isnan(rows[1:]).any() and (rows[1:, 2] > -1e-9).all()


def test_a_table_without_targets_has_no_scores_and_one_speaker_no_interval():
    table = table_of()
    assert scores_of(table[["variant", "speaker", "seed", "label", "p_a", "p_b"]]) == []
    found = estimate(table.assign(speaker="one"), by_name(table)["ccc_arousal"], replicates=20)
    assert np.isnan(found.low)
    assert estimate(table.assign(true_arousal=np.nan), by_name(table)["ccc_arousal"], replicates=20) is None


def test_a_paired_difference_is_that_of_the_values_with_the_same_speakers_drawn():
    table = table_of(noises=(0.2, 0.9))
    only_first = table[table["variant"] == "v1"].index[:5]
    both = table.drop(index=only_first)
    found = {one.score: one for one in differences(both, "v1", "v0", 2000)}
    assert set(found) == set(by_name(table))
    left_out = set(table.loc[only_first, "utterance"])
    shared = both[~((both["seed"] == 0) & both["utterance"].isin(left_out))]
    values = [
        estimate(shared[shared["variant"] == name], by_name(table)["ccc_arousal"], replicates=2)
        for name in ("v1", "v0")
    ]
    one = found["ccc_arousal"]
    assert one.estimate == pytest.approx(float(values[0].value - values[1].value), abs=1e-9)
    assert one.ci95[1] < 0 and one.p < one.p_holm < 0.05


def test_a_difference_is_over_the_utterances_that_both_have_values_of():
    table = table_of(noises=(0.2, 0.9))
    lost = table["utterance"].isin(["u1", "u4", "u40"])
    partly = table.assign(predicted_arousal=table["predicted_arousal"].mask(lost & (table["variant"] == "v1")))
    found, expected = (
        next(one for one in differences(rows, "v1", "v0", 20) if one.score == "ccc_arousal")
        for rows in (partly, table[~lost])
    )
    assert found.estimate == pytest.approx(expected.estimate, abs=1e-9)


def test_variants_that_do_not_predict_a_dimension_have_no_difference_in_it():
    table = table_of(noises=(0.2, 0.9))
    table.loc[table["variant"] == "v1", "predicted_valence"] = np.nan
    assert {one.score for one in differences(table, "v1", "v0", 20)} == {
        *("ccc_arousal", "votes_cross_entropy", "votes_kl", "votes_majority")
    }


def test_differences_without_a_difference_are_rarely_significant():
    rng, found = np.random.default_rng(1), []
    for _ in range(60):
        table = table_of(noises=(0.5, 0.5), speakers=8, seeds=1)
        for name in ("v0", "v1"):
            rows = table["variant"] == name
            table.loc[rows, "predicted_arousal"] = table.loc[rows, "true_arousal"] + rng.normal(size=rows.sum())
        own = [table[table["variant"] == name] for name in ("v1", "v0")]
        cells = scores.cell_sums(own[0], np.stack([scores.moments(one, "arousal") for one in own]))
        one = scores._difference(by_name(table)["ccc_arousal"], "v1", "v0", cells, 300)
        found.append(one.p)
    assert np.mean(np.array(found) < 0.05) < 0.15


def test_the_noise_that_speakers_share_is_part_of_the_interval():
    table = table_of(noises=(0.4, 0.4), speakers=12, seeds=4)
    shifted = (table["variant"] == "v1") * np.array([0.0, 0.3, 0.6, 0.9])[table["seed"]]  # of one training, for all
    table["predicted_arousal"] = table["true_arousal"] + shifted + np.random.default_rng(0).normal(0, 0.3, len(table))
    score, one_model = by_name(table)["ccc_arousal"], table.assign(fold="all")
    own_models = table.assign(fold=table["speaker"])
    shared, alone = (estimate(t[t["variant"] == "v1"], score, replicates=500) for t in (one_model, own_models))
    cells = scores.cell_sums(
        one_model[one_model["variant"] == "v1"], score.per_row(table[table["variant"] == "v1"])[None]
    )
    adds = components.slopes(cells.counts[0], score.value)
    noise = (adds.sum(axis=1).var(ddof=1) - adds.var(axis=0, ddof=1).sum()) / 4
    assert float(shared.value) == pytest.approx(float(alone.value))
    assert float(shared.standard_error) == pytest.approx(np.sqrt(float(alone.standard_error) ** 2 + noise))
    of_seeds = [
        float(estimate(own, score, replicates=2).value) for _, own in table[table["variant"] == "v1"].groupby("seed")
    ]
    assert noise == pytest.approx(np.var(of_seeds, ddof=1) / 4, rel=0.5)  # of the slopes, and of the figures themselves
    wide, short = (
        next(one for one in differences(t, "v1", "v0", 500) if one.score == "ccc_arousal")
        for t in (one_model, own_models)
    )
    assert np.ptp(wide.ci95) > 1.2 * np.ptp(short.ci95)
    assert wide.p > short.p
    assert (wide.p < 0.05) == (wide.ci95[0] > 0 or wide.ci95[1] < 0)


def test_noise_of_training_that_both_variants_have_alike_is_not_part_of_their_difference():
    table = table_of(noises=(0.4, 0.4), speakers=12, seeds=4)
    shifted = np.array([0.0, 0.3, 0.6, 0.9])[table["seed"]]  # of one training, for all speakers and both variants
    table["predicted_arousal"] = table["true_arousal"] + shifted + np.random.default_rng(0).normal(0, 0.3, len(table))
    one_model, own_models = (arousal(table.assign(fold=fold), 500) for fold in ("all", table["speaker"]))
    assert np.ptp(one_model.ci95) < 1.5 * np.ptp(own_models.ci95)


def with_noise_of_training(rng, folds, per_fold, seeds=1):
    """Two variants without a difference whose trainings shift all of a fold's predictions of arousal."""
    table = table_of(noises=(0.3, 0.3), speakers=folds * per_fold, per_speaker=8, seeds=seeds)
    table["fold"] = "fold" + (table["speaker"].str.removeprefix("speaker").astype(int) // per_fold).astype(str)
    table = table.drop(columns=["v_a", "v_b", "v_c"])
    shift = table.groupby(["variant", "fold", "seed"]).ngroup()
    shift = rng.normal(0, 0.8, shift.max() + 1)[shift]
    table["predicted_arousal"] = table["true_arousal"] + shift + rng.normal(0, 0.5, len(table))
    return table


def arousal(table, replicates=200):
    return next(one for one in differences(table, "v1", "v0", replicates) if one.score == "ccc_arousal")


def test_with_one_seed_and_folds_of_several_speakers_a_difference_is_over_folds():
    table = with_noise_of_training(np.random.default_rng(0), folds=4, per_fold=3)
    found, expected = arousal(table), arousal(table.assign(speaker=table["fold"]))
    assert (found.ci95, found.p) == (pytest.approx(expected.ci95), pytest.approx(expected.p))
    assert any("the interval is over folds, not speakers" in note for note in found.notes)
    several = arousal(with_noise_of_training(np.random.default_rng(0), folds=4, per_fold=3, seeds=3))
    assert several.p is not None and several.notes == ()


def test_one_training_of_each_variant_that_tests_all_speakers_has_no_p_value():
    table = with_noise_of_training(np.random.default_rng(0), folds=1, per_fold=12)
    found = arousal(table)
    assert found.ci95[0] < found.estimate < found.ci95[1]
    assert (found.p, found.p_holm) == (None, None)
    assert any(
        note.startswith("one training of each variant tested all speakers: the interval is of") for note in found.notes
    )


def test_the_noise_of_training_of_one_seed_makes_no_difference_significant():
    rng = np.random.default_rng(2)
    found = [arousal(with_noise_of_training(rng, folds=4, per_fold=6), replicates=100).p for _ in range(50)]
    assert np.mean(np.array(found) < 0.05) <= 0.14  # over speakers it is a third
