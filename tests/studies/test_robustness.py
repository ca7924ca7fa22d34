"""Trained runs under noise, in rooms and on the telephone: the same programs, another corpus."""

import dataclasses

import jax
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from ser_jax import checksums, predictions
from ser_jax import config as configuration
from ser_jax.baselines.functionals import compute
from ser_jax.baselines.linear import predict
from ser_jax.corpora import perturbations
from ser_jax.corpora.corpus import fingerprint, waveform
from ser_jax.corpora.perturbations import perturb
from ser_jax.errors import UserError
from ser_jax.inference import tables
from ser_jax.statistics import paired
from ser_jax.studies import baselines, robustness, run
from ser_jax.studies.plan import make_plan
from ser_jax.studies.variants import prepare
from ser_jax.training import population as populations
from tests.flips import flipped
from tests.training.tiny import CONFIG, tiny_corpus, tiny_population


@pytest.fixture(scope="module")
def corpus_and_protocol():
    return tiny_corpus()


@pytest.fixture(scope="module")
def population(corpus_and_protocol):
    return tiny_population(*corpus_and_protocol)


@pytest.fixture(scope="module")
def state(population):
    return populations.initial_state(population)


def test_a_perturbed_corpus_has_every_utterance_perturbed_and_all_else_as_it_was(corpus_and_protocol):
    corpus, _ = corpus_and_protocol
    made = robustness.perturbed(corpus, "noise_10")
    pd.testing.assert_frame_equal(made.utterances, corpus.utterances)
    assert made.samples.dtype == np.int16
    for row in (0, 7, 23):
        expected = perturb(np.array(waveform(corpus, row)), corpus.utterances["id"][row], "noise_10")
        np.testing.assert_array_equal(waveform(made, row), expected)
    assert made.fingerprint == fingerprint(made.utterances, made.emotions, made.samples) != corpus.fingerprint
    assert "condition" not in corpus.info


def test_a_recording_alone_is_normalised_by_itself_and_remains_its_speaker_s(corpus_and_protocol):
    corpus, protocol = corpus_and_protocol
    assert robustness.perturbed(corpus, "alone").utterances["speaker"].is_unique
    found = {}
    for normalization in ("speaker", "utterance"):
        whole = {"window_seconds": 3.0}  # no utterance is longer
        population = tiny_population(corpus, protocol, frontend={"normalization": normalization}, evaluation=whole)
        state = populations.initial_state(population)
        clean = tables.test_predictions(population, state, "linear")
        alone = robustness.test_predictions_under(population, state, "linear", ["alone"]).drop(columns="condition")
        pd.testing.assert_series_equal(alone["speaker"], clean["speaker"])
        found[normalization] = predictions.probabilities_of(clean), predictions.probabilities_of(alone)
    np.testing.assert_array_equal(*found["utterance"])
    assert np.abs(np.subtract(*found["speaker"])).max() > 1e-3
    # Normalised by its speaker's only recording is normalised by utterance.
    np.testing.assert_allclose(found["speaker"][1], found["utterance"][1], atol=1e-4)


def test_the_same_runs_predict_under_a_condition_without_a_new_compilation(
    corpus_and_protocol, population, state, monkeypatch
):
    corpus, protocol = corpus_and_protocol
    monkeypatch.setitem(perturbations.CONDITIONS, "unchanged", lambda samples, utterance: samples)
    clean = tables.test_predictions(population, state, "linear")
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
    )
    try:
        table = robustness.test_predictions_under(population, state, "linear", ["unchanged", "noise_0"])
    finally:
        jax.monitoring.clear_event_listeners()
    assert compiled == []
    assert list(dict.fromkeys(table["condition"])) == ["unchanged", "noise_0"]
    under = {condition: rows.drop(columns="condition") for condition, rows in table.groupby("condition")}
    pd.testing.assert_frame_equal(under["unchanged"], clean)
    assert np.abs(predictions.probabilities_of(under["noise_0"]) - predictions.probabilities_of(clean)).max() > 1e-3
    # As a population that was made for the noisy corpus says, from the same state with its clean statistics.
    noisy = tiny_population(robustness.perturbed(corpus, "noise_0"), protocol)
    pd.testing.assert_frame_equal(
        under["noise_0"].reset_index(drop=True), tables.test_predictions(noisy, state, "linear"), rtol=1e-5
    )


def test_baselines_get_the_functionals_of_the_perturbed_recordings(corpus_and_protocol, tmp_path):
    corpus, protocol = corpus_and_protocol
    config = {**CONFIG, "model": {"name": "ridge", "functionals": "own"}}
    runs = baselines.make_baselines(config, corpus, protocol, str(tmp_path))
    fitted = {
        fold: one.fitted for fold, one in baselines.fit_folds("ridge", runs, baselines.standardised(runs)).items()
    }
    table = robustness.test_predictions_under(runs, fitted, "ridge", ["telephone"])
    for fold in protocol.folds:
        ids = corpus.utterances["id"][fold.test]
        heard = [(i, perturb(np.array(waveform(corpus, row)), i, "telephone")) for row, i in ids.items()]
        expected = predict(fitted[fold.name], compute(heard, "own").values[:, None])
        found = table[table["fold"] == fold.name].set_index("utterance").loc[ids].reset_index()
        np.testing.assert_allclose(predictions.probabilities_of(found), expected, rtol=1e-5)


def made_up(shift):
    """Predictions of two variants, two seeds and five speakers that are the worse the larger the shift."""
    emotions, tables = ("anger", "joy", "neutral"), []
    for number, variant in enumerate(("eca", "none")):
        for fold in "abcde":
            labels = np.arange(12) % 3
            for seed in (0, 1):
                rng = np.random.default_rng([number, ord(fold), seed])
                scores = rng.random((12, 3)) + (0.8 - shift) * np.eye(3)[labels]
                tables.append(
                    predictions.make_predictions(
                        "speech",
                        variant,
                        fold,
                        seed,
                        [f"{fold}{i}" for i in range(12)],
                        [fold] * 12,
                        labels,
                        scores / scores.sum(axis=1, keepdims=True),
                        emotions,
                    )
                )
    return predictions.merge(tables)


def test_the_summary_pairs_a_condition_with_the_same_runs_without_it():
    clean = made_up(0.0)
    levels = {"noise_20": 0.2, "noise_0": 0.7}
    table = pd.concat([made_up(shift).assign(condition=name) for name, shift in levels.items()], ignore_index=True)
    found = robustness.summarise_robustness(clean, table.sample(frac=1, random_state=0), replicates=2000)
    assert sorted(found["conditions"]) == sorted(levels)
    assert list(found["variants"]) == ["eca", "none"]
    for variant, conditions in found["variants"].items():
        assert set(conditions) == set(levels)
        for name, figures in conditions.items():
            rows = made_up(levels[name])
            rows = rows[rows["variant"] == variant]
            emotions = np.array(predictions.emotions_of(rows))
            by_seed = [
                balanced_accuracy_score(of["label"], emotions[predictions.probabilities_of(of).argmax(axis=1)])
                for _, of in rows.groupby("seed")
            ]
            assert figures["ua"] == pytest.approx(np.mean(by_seed))
            # As if the condition were a variant beside the clean one.
            both = pd.concat([clean[clean["variant"] == variant], rows.assign(variant="under")])
            sizes = dict.fromkeys("abcde", (40, 12))
            expected = paired.compare(both, "under", variant, sizes, replicates=2000)
            assert figures["difference"] == pytest.approx(expected.estimate)
            assert figures["difference_ci95"] == pytest.approx(expected.ci95)
            assert figures["ua_ci95"][0] < figures["ua"] < figures["ua_ci95"][1]
    assert found["variants"]["eca"]["noise_0"]["difference"] < found["variants"]["eca"]["noise_20"]["difference"] < 0


def test_a_difference_is_over_the_utterances_that_were_perturbed():
    clean, part = made_up(0.0), made_up(0.4).query("fold in ('a', 'b', 'c')")
    found = robustness.summarise_robustness(clean, part.assign(condition="noise_0"), replicates=500)
    expected = robustness.summarise_robustness(
        clean.query("fold in ('a', 'b', 'c')"), part.assign(condition="noise_0"), replicates=500
    )
    assert found == expected
    whole = robustness.summarise_robustness(clean, made_up(0.4).assign(condition="noise_0"), replicates=500)
    assert found != whole


def test_one_speaker_has_no_interval():
    clean = made_up(0.0).query("speaker == 'a'")
    found = robustness.summarise_robustness(clean, made_up(0.3).query("speaker == 'a'").assign(condition="noise_0"))
    figures = found["variants"]["eca"]["noise_0"]
    assert figures["ua_ci95"] is figures["difference_ci95"] is None
    assert 0 < figures["ua"] < 1


def test_predictions_without_their_clean_ones_are_refused():
    clean = made_up(0.0)
    table = made_up(0.3).assign(condition="noise_0")
    with pytest.raises(UserError, match=r"robustness of none: 1 of the predictions under noise_0 .* utterance c3"):
        lost = (clean["variant"] == "none") & (clean["utterance"] == "c3") & (clean["seed"] == 1)
        robustness.summarise_robustness(clean[~lost], table)
    with pytest.raises(UserError, match="columns missing: condition"):
        robustness.summarise_robustness(clean, clean)


def test_what_is_written_is_read_again(tmp_path):
    table = pd.concat([made_up(s).assign(condition=c) for c, s in (("noise_0", 0.7), ("telephone", 0.2))])
    robustness.write(table, tmp_path / "robustness.parquet")
    pd.testing.assert_frame_equal(robustness.read(tmp_path / "robustness.parquet"), table.reset_index(drop=True))
    (tmp_path / "text.parquet").write_text("text")
    for name, expected in (("none.parquet", "no predictions under"), ("text.parquet", "not a readable Parquet")):
        with pytest.raises(UserError, match=expected):
            robustness.read(tmp_path / name)


def test_conditions_that_cannot_be_are_refused_at_the_door(corpus_and_protocol, population, state):
    corpus, _ = corpus_and_protocol

    def asked(conditions, features=""):
        config = {**configuration.default(), "evaluation": {"robustness": conditions}}
        return {**config, "frontend": {**config["frontend"], "features": features}}

    robustness.check(asked(("noise_10", "telephone")))
    robustness.check(asked((), features="wav2vec2"))
    with pytest.raises(UserError, match=r"config.evaluation.robustness: no 'noise_15'; did you mean"):
        robustness.check(asked(("noise_15",)))
    with pytest.raises(UserError, match="the features 'wav2vec2' were pre-extracted"):
        robustness.check(asked(("noise_10",), features="wav2vec2"))
    with pytest.raises(UserError, match="cannot be perturbed"):
        robustness.perturbed(dataclasses.replace(corpus, info={"features": {"name": "wav2vec2"}}), "noise_10")
    with pytest.raises(UserError, match="did you mean telephone"):
        robustness.test_predictions_under(population, state, "linear", ["telefone"])


def test_conditions_that_are_damaged_or_were_not_finished_are_predicted_again(tmp_path, monkeypatch):
    config = configuration.merge(CONFIG, {"evaluation": {"robustness": ["noise_0"]}, "folds": [0]})
    (variant,) = prepare(make_plan(config | {"study": configuration.default()["study"]}), str(tmp_path / "data"))
    made = []
    table = predictions.make_predictions("c", "v", "f", 0, ["a"], ["s"], np.array([0]), np.array([[0.9, 0.1]]), "ab")
    monkeypatch.setattr(
        robustness, "test_predictions_under", lambda *others: made.append(1) or table.assign(condition="noise_0")
    )

    def test():
        run._test_under_conditions(variant, variant.population(), lambda: None, tmp_path)

    test(), test()
    assert len(made) == 1 and checksums.is_whole(tmp_path / "conditions.parquet")
    with flipped(tmp_path / "conditions.parquet", 999):
        test()
    assert len(made) == 2
    (tmp_path / checksums.FILE).unlink()  # as after a process that died before it wrote it
    test()
    assert len(made) == 3 and checksums.is_whole(tmp_path / "conditions.parquet")
