import dataclasses
import functools
import json
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from ser_jax.corpora.corpus import make_corpus, waveform
from ser_jax.corpora.protocols import Fold
from ser_jax.corpora.silence import trimmed
from ser_jax.errors import UserError
from ser_jax.frontend import Statistics, features
from ser_jax.inference import predict, tables
from ser_jax.training import checkpoints, devices, log, loop
from ser_jax.training import population as populations
from ser_jax.training.runs import run_keys
from ser_jax.training.state import variables
from tests.training.tiny import tiny_corpus, tiny_population, vectors


@pytest.fixture(scope="module")
def data():
    return tiny_corpus()


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """All three folds, trained without interruption."""
    folder = tmp_path_factory.mktemp("population")
    population = tiny_population(*data, seeds=[0, 7])
    entries = []
    state, seconds = loop.train(population, folder, report=entries.append)
    return population, state, folder, entries, seconds


def leaves(state, runs):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(devices.gather(state, runs))]


def test_training_changes_the_parameters_and_reports_each_step(trained):
    population, state, folder, entries, seconds = trained
    assert [entry["step"] for entry in entries][-1] == population.num_steps == 6
    before = vectors(populations.initial_state(population).parameters, 6)
    assert all(np.isfinite(leaf).all() for leaf in leaves(state, 6))
    assert np.abs(vectors(state.parameters, 6) - before).max(1).min() > 1e-3
    rows = log.read(folder / log.FILE)
    assert log.means(rows) == entries
    assert {(row["fold"], row["seed"]) for row in rows if row["step"] == 6} == {
        (fold.name, seed) for fold, (_, seed) in zip(population.folds, population.runs, strict=True)
    }
    assert len(rows) == 6 * len(entries)
    assert all(row["gradient_norm"] > 0 and row["learning_rate"] >= 0 for row in rows)
    assert ["validation_ua" in entry for entry in entries if entry["step"] == 4] == [True]
    assert seconds["compile"] > 0


def test_a_run_alone_ends_as_it_does_among_others(data, trained, tmp_path):
    population, together, *_ = trained
    alone, _ = loop.train(tiny_population(*data, folds=[2], seeds=[7]), tmp_path)
    number = population.runs.index((2, 7))
    for ours, theirs in zip(leaves(alone, 1), leaves(together, 6), strict=True):
        np.testing.assert_allclose(ours[0], theirs[number], rtol=1e-4, atol=1e-5)


def test_a_run_that_diverges_is_told_and_its_neighbours_do_not_notice(data, trained, tmp_path, capsys):
    _, whole, _, entries, _ = trained
    population = tiny_population(*data, seeds=[0, 7])
    rates = np.array(population.run_values.learning_rate)
    rates[np.unravel_index(3, rates.shape)] = np.nan
    population = dataclasses.replace(population, run_values=population.run_values.replace(learning_rate=rates))
    reported = []
    state, _ = loop.train(population, tmp_path, report=reported.append)
    expected = {"fold": population.folds[3].name, "seed": 7, "step": 1}
    note = f"note: fold {expected['fold']}, seed 7: diverged at step 1 (config.optimizer.learning_rate 0.002)"
    assert [line[: len(note)] for line in capsys.readouterr().err.splitlines()] == [note]
    others = [0, 1, 2, 4, 5]
    for ours, theirs in zip(leaves(state, 6), leaves(whole, 6), strict=True):
        np.testing.assert_array_equal(ours[others], theirs[others])
    assert all(np.isfinite(leaf).all() for leaf in leaves(state, 6))
    text = (tmp_path / log.FILE).read_text()
    assert "NaN" not in text
    own = [row for row in log.read(tmp_path / log.FILE) if (row["fold"], row["seed"]) == (expected["fold"], 7)]
    assert [(row["loss"], row["diverged_at"]) for row in own] == [(None, 1)] * len(reported)
    assert all(np.isfinite(entry["loss"]) for entry in reported) and len(entries) == len(reported)
    table = tables.test_predictions(population, state, "tiny")
    missing = (table["fold"] == expected["fold"]) & (table["seed"] == 7)
    assert not missing.any() and len(table.groupby(["fold", "seed"])) == 5
    assert np.isnan(tables.validation_ua(population, state)).tolist() == [False] * 3 + [True] + [False] * 2
    metadata = checkpoints.Checkpoints(tmp_path / "checkpoints").metadata()
    assert metadata["diverged"] == [expected]
    assert populations.diverged(population, devices.gather(state.diverged_at, 6)) == [expected]


def test_a_population_that_diverges_as_a_whole_names_the_learning_rate(data, tmp_path):
    population = tiny_population(*data, folds=[0], optimizer={"learning_rate": 1e30, "gradient_clip": 0})
    for _ in range(2):  # the same command again says the same
        with pytest.raises(
            UserError, match=r"config.optimizer.learning_rate: found 1e\+30; every run diverged, .* step"
        ):
            loop.train(population, tmp_path)


def test_runs_of_other_seeds_and_folds_differ(trained):
    _, state, *_ = trained
    parameters = vectors(state.parameters, 6)
    for i in range(6):
        for j in range(i):
            assert np.abs(parameters[i] - parameters[j]).max() > 1e-3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_training_ends_with_identical_parameters(data, trained, tmp_path, number):
    population, whole, *_ = trained

    def interrupt(entry):
        if entry["step"] < population.num_steps:
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        loop.train(population, tmp_path, report=interrupt)
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert 0 < steps[-1] < population.num_steps
    resumed, _ = loop.train(population, tmp_path)
    for ours, theirs in zip(leaves(resumed, 6), leaves(whole, 6), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_finished_training_is_not_trained_again(trained):
    population, state, folder, *_ = trained
    again, seconds = loop.train(population, folder)
    assert seconds["train"] == 0
    for ours, theirs in zip(leaves(again, 6), leaves(state, 6), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_variants_start_from_the_same_parameters_and_see_the_same_batches(data):
    with_attention, without = (
        tiny_population(*data, model={"name": "cnn", "width": 2, "attention": kind}) for kind in ("eca", "none")
    )
    np.testing.assert_array_equal(*(jax.random.key_data(one.run_values.key) for one in (with_attention, without)))
    trees = []
    for population in (with_attention, without):
        state = devices.gather(populations.initial_state(population), 3)
        trees.append(jax.tree.map(lambda leaf: leaf[1], state.parameters))
    ours, theirs = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in trees)
    assert len(ours) > len(theirs)
    for path, leaf in theirs.items():
        np.testing.assert_array_equal(leaf, ours[path])


def test_a_trimmed_corpus_trains_and_predicts_like_one_that_was_recorded_so(data, tmp_path):
    corpus, protocol = data
    cut = trimmed(corpus, 20.0)
    waveforms = [waveform(cut, row) for row in range(len(cut.utterances))]
    assert sum(map(len, waveforms)) < corpus.utterances["num_samples"].sum()
    short = make_corpus(corpus.name, corpus.utterances, waveforms, corpus.emotions)
    found = []
    for one, trim_db in ((corpus, 20.0), (short, 0.0)):
        cache = {}
        changes = {"frontend": {"trim_db": trim_db, "normalization": "speaker"}, "folds": [0]}
        population = tiny_population(one, protocol, cache, **changes)
        again = tiny_population(one, protocol, cache, **changes).resident
        assert again.samples is population.resident.samples
        assert again.statistics is population.resident.statistics
        state, _ = loop.train(population, tmp_path / str(trim_db))
        found.append(tables.test_predictions(population, state, "tiny"))
    pd.testing.assert_frame_equal(*found)


@pytest.mark.parametrize(
    ("frontend", "expected"),
    [
        ({"trim_db": 30.0, "kind": "precomputed", "features": "made"}, "expected 0: kind precomputed is not made"),
    ],
)
def test_trimming_that_makes_no_sense_is_refused(data, frontend, expected):
    with pytest.raises(UserError, match=expected):
        tiny_population(*data, frontend=frontend)


def test_predictions_are_those_of_each_utterance_alone(data, trained):
    population, state, *_ = trained
    corpus, protocol = data
    table = tables.test_predictions(population, state, "tiny")
    assert len(table) == 2 * len(corpus.utterances)
    assert sorted(table["utterance"].unique()) == sorted(corpus.utterances["id"])
    row = int(protocol.folds[1].test[0])
    samples = waveform(corpus, row).astype(np.float32) / 32768
    window = population.window_samples
    offsets = np.linspace(0, len(samples) - window, -(-len(samples) // window)).round().astype(int)
    number = population.runs.index((1, 7))
    own = jax.tree.map(lambda leaf: jnp.asarray(leaf[number]), devices.gather(state, 6))
    expected = []
    for offset in offsets:
        piece = jnp.asarray(samples[offset : offset + window])
        inputs, frames = features(
            population.learner.frontend, piece[None], jnp.asarray([window]), own.feature_statistics
        )
        output = population.learner.model.apply(variables(own), inputs, frames, train=False)
        expected.append(jax.nn.softmax(output.logits)[0])
    chosen = table[(table["utterance"] == corpus.utterances["id"][row]) & (table["seed"] == 7)]
    found = chosen[[f"p_{emotion}" for emotion in corpus.emotions]].to_numpy()[0]
    np.testing.assert_allclose(found, np.mean(expected, axis=0), atol=1e-5)


def test_folds_of_other_sizes_and_without_a_class_train(data, tmp_path):
    corpus, protocol = data
    labels = corpus.utterances["label"].to_numpy()
    first = protocol.folds[0]
    rows = first.train[labels[first.train] != 0]
    rows = np.delete(rows, np.flatnonzero(labels[rows] == 1)[0])  # or all classes would be equally many
    lacking = Fold("lacking", rows, first.validation, first.test)
    protocol = dataclasses.replace(protocol, folds=(first, lacking, protocol.folds[2]))
    population = tiny_population(corpus, protocol, optimizer={"class_weights": True}, seeds=[0, 1])
    weights = devices.gather(population.run_values.class_weights, 6)
    assert np.isfinite(weights).all()
    counts = np.bincount(labels[lacking.train], minlength=len(corpus.emotions))
    np.testing.assert_allclose(weights[2][1:] * counts[1:], counts.sum() / (len(counts) - 1), rtol=1e-5)
    state, _ = loop.train(population, tmp_path)
    table = tables.test_predictions(population, state, "tiny")
    assert np.isfinite(table.filter(like="p_").to_numpy()).all()


def test_features_can_be_normalised_by_the_training_fold(data):
    corpus, protocol = data
    population = tiny_population(corpus, protocol)
    state = devices.gather(populations.initial_state(population), 3)
    frontend = dataclasses.replace(population.learner.frontend, normalization="none")
    frames = []
    for row in protocol.folds[1].train:
        samples = jnp.asarray(waveform(corpus, int(row)).astype(np.float32) / 32768)
        frames.append(features(frontend, samples[None], jnp.asarray([len(samples)]))[0][0])
    frames = np.concatenate(frames).astype(np.float64)
    np.testing.assert_allclose(state.feature_statistics.mean[1], frames.mean(0), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(state.feature_statistics.std[1], frames.std(0), rtol=1e-2)


def test_features_can_be_normalised_by_all_that_their_speaker_says(data):
    corpus, protocol = data
    population = tiny_population(corpus, protocol, frontend={"normalization": "speaker"})
    frontend, speakers = population.learner.frontend, corpus.utterances["speaker"].to_numpy()
    row = int(protocol.folds[1].test[0])
    frames = []
    for other in np.flatnonzero(speakers == speakers[row]):
        samples = jnp.asarray(waveform(corpus, int(other)).astype(np.float32) / 32768)
        plain = dataclasses.replace(frontend, normalization="none")
        frames.append(features(plain, samples[None], jnp.asarray([len(samples)]))[0][0])
    frames = np.concatenate(frames).astype(np.float64)
    statistics = Statistics(*np.stack([frames.mean(0), frames.std(0)]).astype(np.float32)[:, None])
    of_all = population.resident.statistics
    np.testing.assert_allclose(np.asarray(of_all.mean)[row], statistics.mean[0], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(np.asarray(of_all.std)[row], statistics.std[0], rtol=1e-2)

    state = populations.initial_state(population)
    piece = populations.to_devices(population, populations.training_feed(population, 0).take(2))
    state, _ = populations.train_steps(population, state, piece)
    own = jax.tree.map(lambda leaf: jnp.asarray(leaf[1]), devices.gather(state, 3))
    expected = []
    for piece in pieces(corpus, row, population.window_samples):
        inputs, valid = features(frontend, piece[None], jnp.asarray([len(piece)]), statistics)
        output = population.learner.model.apply(variables(own), inputs, valid, train=False)
        expected.append(jax.nn.softmax(output.logits)[0])
    found = predict.evaluate(population, state, [np.array([row])] * 3)[1][0]
    np.testing.assert_allclose(found, np.mean(expected, axis=0), atol=1e-3)


def pieces(corpus, row, window):
    """The windows of an utterance, which is longer than one."""
    samples = waveform(corpus, row).astype(np.float32) / 32768
    for offset in np.linspace(0, len(samples) - window, -(-len(samples) // window)).round().astype(int):
        yield jnp.asarray(samples[offset : offset + window])


def test_normalisation_by_speaker_wants_speakers(data):
    corpus, protocol = data
    nameless = dataclasses.replace(corpus, utterances=corpus.utterances.assign(speaker=""))
    with pytest.raises(UserError, match="normalization=speaker: the speakers of corpus synthetic are not known"):
        tiny_population(nameless, protocol, frontend={"normalization": "speaker"})
    with pytest.raises(UserError, match="normalization by speaker cannot be streamed"):
        tiny_population(corpus, protocol, frontend={"normalization": "speaker"}, feed="streaming")


@pytest.mark.parametrize(("feed", "most"), [("resident", 256), ("resident", 5), ("streaming", 256)])
def test_batch_normalisation_can_take_the_statistics_of_the_tested_speaker(data, monkeypatch, tmp_path, feed, most):
    monkeypatch.setattr(predict, "_SPEAKER_WINDOWS", most)
    corpus, protocol = data
    model = {"name": "tcn", "width": 8, "levels": 1, "dropout": 0.5}
    changes = {"model": model, "feed": feed, "evaluation": {"batch_statistics": "speaker"}, "folds": [0, 1]}
    population = tiny_population(corpus, protocol, data_dir=str(tmp_path), **changes)
    state = populations.initial_state(population)
    own = jax.tree.map(lambda leaf: jnp.asarray(leaf[1]), devices.gather(state, 2))
    rows, window = protocol.folds[1].test, population.window_samples
    windows = [(row, piece) for row in rows for piece in pieces(corpus, int(row), window)]
    network = population.learner.model.clone(dropout=0.0)
    trained = jax.jit(functools.partial(network.apply, train=True, mutable=["batch_stats"]))
    count = -(-len(windows) // most)
    expected = {row: [] for row in rows}
    for first in range(count):
        chosen = windows[first::count]
        waves = jnp.stack([piece for _, piece in chosen])
        inputs, valid = features(
            population.learner.frontend, waves, jnp.full(len(chosen), window), own.feature_statistics
        )
        output, _ = trained(variables(own), inputs, valid)
        for (row, _), found in zip(chosen, jax.nn.softmax(output.logits), strict=True):
            expected[row].append(found)
    found = predict.evaluate(population, state, [fold.test for fold in population.folds])[1]
    np.testing.assert_allclose(found, [np.mean(expected[row], axis=0) for row in rows], atol=1e-5)


def test_batch_normalisation_by_speaker_is_refused_without_speakers_or_without_batch_normalisation(data):
    corpus, protocol = data
    of_speaker = {"batch_statistics": "speaker"}
    with pytest.raises(UserError, match="batch_statistics=speaker: model linear has no batch normalisation"):
        tiny_population(corpus, protocol, evaluation=of_speaker)
    nameless = dataclasses.replace(corpus, utterances=corpus.utterances.assign(speaker=""))
    model = {"name": "shufflenet_v2", "width": "tiny"}
    with pytest.raises(UserError, match="batch_statistics=speaker: the speakers of corpus synthetic are not known"):
        tiny_population(nameless, protocol, evaluation=of_speaker, model=model)


def test_shufflenet_trains_in_a_population_as_it_does_beside_other_runs(data):
    """In one program, compiled once, a fold is the last of two and then the first."""
    model = {"name": "shufflenet_v2", "width": "tiny", "attention": "eca", "activation": "hard_swish"}
    cache, ends = {}, []
    for folds in ([0, 1], [1, 2]):
        population = tiny_population(*data, cache=cache, model=model, folds=folds)
        piece = populations.to_devices(population, populations.training_feed(population, 0).take(population.num_steps))
        state, _ = populations.train_steps(population, populations.initial_state(population), piece)
        ends.append(leaves(state, 2))
    for last, first in zip(*ends, strict=True):
        np.testing.assert_allclose(last[1], first[0], rtol=1e-5, atol=1e-6)
    # The runs of a population differ: else the comparison says nothing.
    assert max(np.abs(leaf[0] - leaf[1]).max() for leaf in ends[0]) > 1e-3


def test_a_workdir_of_another_training_is_refused(data, trained, tmp_path):
    _, _, folder, *_ = trained
    shutil.copytree(folder, tmp_path / "copy")
    other = tiny_population(*data, seeds=[0, 7], optimizer={"learning_rate": 0.5})
    with pytest.raises(UserError, match=r"another training.*learning_rate"):
        loop.train(other, tmp_path / "copy")


def test_a_checkpoint_cut_short_is_refused(trained, tmp_path):
    population, _, folder, *_ = trained
    shutil.copytree(folder, tmp_path / "copy")
    cut = 0
    for path in (tmp_path / "copy" / "checkpoints").rglob("*"):
        if path.is_file() and path.stat().st_size > 2000:
            path.write_bytes(path.read_bytes()[:100])
            cut += 1
    assert cut
    with pytest.raises(UserError, match="damaged checkpoint") as error:
        loop.train(population, tmp_path / "copy")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"folds": [3]}, "no fold 3"),
        ({"model": {"name": "shufflenet_v2", "atention": "eca"}}, "attention"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_compiles(data, changes, expected):
    with pytest.raises(UserError, match=expected):
        tiny_population(*data, **changes)


def test_variants_that_differ_in_rates_share_their_programs_and_each_run_has_its_own(data):
    made = {}
    little, much, none = (
        tiny_population(
            *data,
            cache=made,
            model={"name": "rnn", "hidden": 8, "dropout": rate},
            optimizer={"ema_decay": decay},
        )
        for rate, decay in ((0.1, 0.99), (0.6, 0.9), (0.0, 0.0))
    )
    assert little.programs is much.programs
    assert none.programs is not little.programs
    for population, rate, decay in ((little, 0.1, 0.99), (much, 0.6, 0.9)):
        np.testing.assert_array_equal(population.run_values.rates["dropout"], np.float32(rate))
        np.testing.assert_array_equal(population.run_values.ema_decay, np.float32(decay))
    assert none.run_values.rates == {}


@pytest.mark.parametrize("seed", [0, 7, 2**31, 2**40 + 3])
def test_the_key_of_a_run_is_that_of_its_fold_and_seed_alone(seed):
    found = jax.random.key_data(run_keys([(3, seed), (0, seed), (1, 5)], 2))
    expected = [jax.random.fold_in(jax.random.key(number), fold) for fold, number in ((3, seed), (0, seed), (1, 5))]
    np.testing.assert_array_equal(devices.gather(found, 3), [jax.random.key_data(key) for key in expected])
