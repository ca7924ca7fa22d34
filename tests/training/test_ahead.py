"""What is compiled ahead is what is called later: nothing is compiled twice."""

import threading

import jax
import numpy as np
import pytest

from ser_jax.inference import tables
from ser_jax.models import FAMILIES
from ser_jax.studies import run
from ser_jax.studies.store import RESULT, population_folder
from ser_jax.studies.variants import Variant
from ser_jax.training import ahead, background, devices
from ser_jax.training import population as populations
from tests.training.tiny import tiny_corpus, tiny_merged, tiny_population

VARIANTS = {
    "train statistics": {},
    "speaker statistics": {"frontend": {"normalization": "speaker"}},
    "validation decides": {"training": {"keep": "best"}, "evaluation": {"batch_size": 5}},
    "text": {
        "model": {"name": "attention_rnn", "text": "characters", "hidden": 4},
        "augmentation": {"mixup": 0.0},
        "training": {"crop_seconds": 3.0},
    },
    "shared batches": {"training": {"split": "batch", "batch_size": 8}},
    "statistics of batches": {
        "model": {"name": "tcn", **FAMILIES["tcn"].tiny},
        "evaluation": {"batch_statistics": "speaker"},
    },
}


class _CalledError(Exception):
    pass


def called_with(monkeypatch, program, call):
    """The shapes that a program is called with by `call`; nothing is compiled."""

    def called(self, *arguments):
        raise _CalledError(devices.shapes_of(arguments))

    with monkeypatch.context() as patch, pytest.raises(_CalledError) as found:
        patch.setattr(program, "__call__", called)
        call()
    return str(found.value)


@pytest.fixture(scope="module")
def data():
    return tiny_corpus()


def check(population, monkeypatch):
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), populations.state_shapes(population))
    piece = populations.to_devices(population, populations.training_feed(population, 0).take(2))
    arguments = populations.training_arguments(population, state, piece)
    assert devices.shapes_of(ahead.training_shapes(population)) == devices.shapes_of(arguments)
    found = called_with(monkeypatch, devices.Program, lambda: tables.test_predictions(population, state, "variant"))
    assert devices.shapes_of(ahead.testing_shapes(population)) == found
    found = called_with(monkeypatch, devices.HostProgram, lambda: populations.initial_state(population))
    assert devices.shapes_of(populations.first_shapes(population)) == found


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=list(VARIANTS))
def test_shapes_are_known_before_anything_is_on_the_devices(data, changes, monkeypatch):
    check(tiny_population(*data, **{"feed": "resident", **changes}), monkeypatch)


def test_shapes_of_sources_with_heads_of_their_own_are_known(tmp_path, monkeypatch):
    corpus, protocol = tiny_merged(str(tmp_path))
    check(
        tiny_population(corpus, protocol, training={"heads": "source"}, augmentation={"mixup": 0.0}, feed="resident"),
        monkeypatch,
    )


def variant_of(name, population, data):
    return Variant(name, population.config, *data, name, "family", lambda: population, lambda _: None, lambda *_: None)


def test_threads_compile_what_a_variant_calls_and_what_the_next_one_will(data, tmp_path, monkeypatch):
    first, second = (
        tiny_population(*data, feed="resident", training={"crop_seconds": seconds}) for seconds in (0.5, 0.4)
    )
    own, following = (variant_of(name, population, data) for name, population in (("long", first), ("short", second)))
    begun = []

    def recorded(program, *shapes):
        assert threading.current_thread() is not threading.main_thread()
        begun.append((program, devices.shapes_of(shapes)))

    monkeypatch.setattr(devices.Program, "begin", recorded)
    monkeypatch.setattr(devices.HostProgram, "begin", recorded)
    monkeypatch.setattr(devices, "compiles_beside", lambda: True)
    run._compile_beside([own], [following], tmp_path)
    background._jobs.join()
    expected = [
        call
        for population in (first, second)
        for call in (
            (population.programs.train, devices.shapes_of(ahead.training_shapes(population))),
            (population.programs.initialise, devices.shapes_of(populations.first_shapes(population))),
            (population.programs.evaluate, devices.shapes_of(ahead.testing_shapes(population))),
        )
    ]
    assert len({id(program) for program, _ in begun}) == len(begun) == 6
    assert all(any(program is own and shapes == theirs for own, theirs in expected) for program, shapes in begun)
    folder = population_folder(tmp_path, following.name, following.key)
    folder.mkdir()
    (folder / RESULT).touch()
    run._compile_beside([own], [following], tmp_path)  # the next one is trained already
    background._jobs.join()
    assert len(begun) == 6 + 3


def test_a_processor_that_computes_compiles_what_trains_and_nothing_beside_it(data, tmp_path, monkeypatch):
    population = tiny_population(*data, feed="resident")
    jobs, compiled, own = [], [], variant_of("own", population, data)
    monkeypatch.setattr(background, "begin", jobs.append)
    monkeypatch.setattr(devices.Program, "begin", lambda program, *_: compiled.append(program))
    run._compile_beside([own], [own], tmp_path)
    for job in jobs:  # those that are added as well
        job()
    assert compiled == [population.programs.train]
    jobs.clear()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    run._compile_beside([own], [], tmp_path)
    for job in jobs[:2]:  # of its own, and of what follows
        job()
    assert len(jobs) == 2 + 3
    jobs.clear()
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    run._compile_beside([own], [], tmp_path)
    assert jobs == []


def test_what_is_trained_and_not_tested_yet_compiles_no_training(data, tmp_path, monkeypatch):
    population = tiny_population(*data, feed="resident")
    jobs, own = [], variant_of("own", population, data)
    monkeypatch.setattr(background, "begin", jobs.append)
    checkpoints = population_folder(tmp_path, own.name, own.key) / "checkpoints"
    for step, expected in ((population.num_steps - 1, 1), (population.num_steps, 0)):
        (checkpoints / str(step)).mkdir(parents=True)
        jobs.clear()
        run._compile_beside([own], [], tmp_path)
        jobs[0]()
        assert len(jobs) == 1 + expected
