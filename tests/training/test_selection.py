"""Validation that decides: the best averages of each run are kept, and runs that get no better stop."""

import os
import signal

import jax
import numpy as np
import pytest

from ser_jax.errors import UserError
from ser_jax.inference import tables
from ser_jax.training import devices, log, loop, selection
from ser_jax.training.population import initial_state
from tests.training.tiny import tiny_corpus, tiny_population, vectors

TRAINING = {"train_steps": 24, "validate_steps": 3, "patience": 2, "keep": "best"}
OPTIMIZER = {"learning_rate": 0.05, "ema_decay": 0.5}


@pytest.fixture(scope="module")
def data():
    return tiny_corpus()


def population_of(data, **changes):
    return tiny_population(*data, optimizer=OPTIMIZER, training=TRAINING | changes)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("selected")
    population = population_of(data)
    state, _ = loop.train(population, folder)
    return population, state, folder


def history(folder, fold):
    """(step, UA) of the validations of a run."""
    rows = [row for row in log.read(folder / log.FILE) if row["fold"] == fold]
    return [(row["step"], row["validation_ua"]) for row in rows if "validation_ua" in row]


def test_each_run_keeps_its_best_averages_and_stops_when_it_gets_no_better(trained):
    population, state, folder = trained
    kept, ended = tables.validation_ua(population, state), set()
    chosen = devices.gather(state.selection, 3)
    for run, fold in enumerate(population.folds):
        steps, ua = zip(*history(folder, fold.name), strict=True)
        best = int(np.argmax(ua))
        np.testing.assert_allclose([kept[run], chosen.ua[run]], ua[best], rtol=1e-6)
        assert chosen.step[run] == steps[best]
        stop = next((s for s, step in enumerate(steps) if s - int(np.argmax(ua[: s + 1])) >= 2), None)
        assert chosen.stopped_at[run] == (-1 if stop is None else steps[stop])
        ended.add(int(chosen.stopped_at[run]))
    assert ended != {-1}  # or nothing of this was looked at
    own, last = (vectors(devices.gather(tree, 3), 3) for tree in (state.ema_parameters, state.parameters))
    assert np.abs(own - last).max() > 0


def test_runs_are_validated_by_their_validation_speakers_and_tested_by_their_test_speakers(trained):
    population, state, _ = trained
    for predict, part in ((tables.validation_predictions, "validation"), (tables.test_predictions, "test")):
        found = predict(population, state, "tiny").groupby("fold")["utterance"].agg(set)
        ids = population.corpus.utterances["id"]
        assert dict(found) == {fold.name: set(ids.iloc[getattr(fold, part)]) for fold in population.folds}
        assert all(found)


def test_the_first_validation_is_kept_even_where_it_recognised_nothing(data):
    population = population_of(data)
    state = devices.place_runs(initial_state(population), population.layout)
    once = selection.after_validation(population, state, np.array([0.0, 0.3, np.nan]), 3)
    twice = devices.gather(selection.after_validation(population, once, np.zeros(3), 6).selection, 3)
    np.testing.assert_array_equal(twice.step, [3, 3, 6])
    np.testing.assert_allclose(twice.ua, [0.0, 0.3, 0.0])
    np.testing.assert_array_equal(twice.waited, [1, 1, 0])


def test_a_finished_training_is_not_gone_on_with_and_an_interrupted_one_ends_the_same(data, trained, tmp_path):
    population, state, folder = trained
    again, seconds = loop.train(population, folder)
    assert seconds["train"] == 0

    def interrupt(entry):
        if entry["step"] == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        loop.train(population_of(data), tmp_path, report=interrupt)
    resumed, _ = loop.train(population_of(data), tmp_path)
    for other in (again, resumed):
        for ours, theirs in zip(*(jax.tree.leaves(devices.gather(one, 3)) for one in (other, state)), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "changes", [{"validate_steps": 0}, {"validate_steps": 30}, {"keep": "last", "validate_steps": 0}]
)
def test_there_has_to_be_a_validation(data, changes):
    option = "keep=best" if "keep" not in changes else "patience=2"
    with pytest.raises(UserError, match=rf"config.training.{option}: no validation comes before the end"):
        population_of(data, **changes)
