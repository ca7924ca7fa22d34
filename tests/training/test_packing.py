"""Packed states: the same steps as of trees, and trees again at the end."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax.feeds.resident import Resident
from ser_jax.models import build
from ser_jax.training import packing
from ser_jax.training import population as populations
from ser_jax.training import state as states
from ser_jax.training.optimizers import _ELEMENTWISE, make_optimizer
from ser_jax.training.programs import _train_steps
from ser_jax.training.step import train_step
from tests.programs import equations
from tests.training.test_step import LENGTH, OPTIMIZER, ROWS, begun, learner_of, run_of
from tests.training.tiny import tiny_corpus, tiny_population

PARAMETERS = {"a": {"kernel": jnp.arange(6.0).reshape(2, 3) - 2, "bias": jnp.ones(3)}, "b": jnp.full((4,), -0.5)}


def noise():
    """Four utterances."""
    return Resident(
        samples=np.random.default_rng(0).normal(0, 3000, 4 * LENGTH).astype(np.int16),
        start=np.arange(4, dtype=np.int32) * LENGTH,
        num_samples=np.full(4, LENGTH, np.int32),
        label=np.array([0, 1, 2, 0], np.int32),
    )


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("model", ["linear", "cnn"])
def test_a_state_is_the_same_after_it_was_packed(model):
    options = {"width": 4} if model == "cnn" else {}
    state = begun(learner := learner_of(build(model, 3, **options), 2000))
    found = packing.packed(learner, state)
    assert found.parameters.shape == (learner.num_parameters,)
    assert len(jax.tree.leaves(found)) < len(jax.tree.leaves(state))
    assert_same(packing.unpacked(learner, found), state)
    assert_same(packing.of_network(learner, found), (state.parameters, state.batch_stats))


@pytest.mark.parametrize(
    "changes", [{}, {"name": "sgd", "arguments": {"momentum": 0.9}}, {"name": "lion"}, {"rates": [["bias", 0.25]]}]
)
def test_a_step_of_a_packed_state_is_that_of_the_state(changes):
    resident = noise()
    learner = learner_of(build("linear", 3), 2000, gradient_clip=0.0, **changes)
    run, state = run_of(weight_decay=np.float32(0.5)), begun(learner)
    step = jax.jit(functools.partial(train_step, learner))
    expected, expected_metrics = step(state, run, ROWS, resident)
    found, metrics = step(packing.packed(learner, state), run, ROWS, resident)
    found = packing.unpacked(learner, found)
    assert np.abs(np.asarray(found.parameters["classifier"]["kernel"] - state.parameters["classifier"]["kernel"])).max()
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), found, expected)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), metrics, expected_metrics)


@pytest.mark.parametrize("name", sorted(_ELEMENTWISE))
def test_an_elementwise_optimizer_does_to_a_vector_what_it_does_to_its_parts(name):
    options = OPTIMIZER | {"name": name, "gradient_clip": 0.0}
    transformation = make_optimizer(options, PARAMETERS, num_steps=10, warmup_steps=0).transformation
    trees, vectors = PARAMETERS, packing._vector(PARAMETERS)
    of_trees, of_vectors = transformation.init(trees), transformation.init(vectors)
    for step in range(3):
        gradient = jax.tree.map(lambda leaf, step=step: jnp.sin(leaf + step), PARAMETERS)
        expected, of_trees = transformation.update(gradient, of_trees, trees)
        found, of_vectors = transformation.update(packing._vector(gradient), of_vectors, vectors)
        np.testing.assert_allclose(found, packing._vector(expected), rtol=1e-6)


def test_an_optimizer_that_looks_at_arrays_and_a_frozen_layer_keep_their_trees():
    masked = {"arguments": {"mask": {"classifier": {"kernel": True, "bias": False}}}}
    for changes in ({"name": "lamb"}, {"rates": [["bias", 0]]}, masked):
        learner = learner_of(build("linear", 3), 2000, **changes)
        state = begun(learner)
        assert packing.packed(learner, state) is state
        assert packing.unpacked(learner, state) is state


def test_a_large_network_keeps_its_trees(monkeypatch):
    learner = learner_of(build("linear", 3), 2000)
    kept = learner.num_kept
    assert learner.packs
    monkeypatch.setattr(states, "_MOST_PACKED", 10)
    assert packing.packed(learner, state := begun(learner)) is state
    assert kept - learner.num_kept >= 4 * learner.num_parameters  # parameters, averages, two moments


def test_an_update_is_few_equations_however_many_arrays_there_are():
    population = tiny_population(*tiny_corpus(), model={"name": "cnn", "width": 4}, feed="resident")
    program = jax.make_jaxpr(population.programs.train.function)(
        *populations.training_arguments(
            population,
            populations.initial_state(population),
            populations.to_devices(population, populations.training_feed(population, 0).take(1)),
        )
    )
    update = [one for one in equations(program.jaxpr) if "update" in str(one.source_info.name_stack)]
    assert len(jax.tree.leaves(population.learner.parameters)) >= 20
    assert 50 < len(update) < 250


def test_parameters_of_several_dtypes_keep_their_trees():
    """A vector would make floats of whole numbers."""
    learner = learner_of(build("linear", 3), 2000)
    other = dataclasses.replace(learner, batch_stats={"seen": jax.ShapeDtypeStruct((), jnp.int32)})
    assert learner.packs and not other.packs


def test_the_loop_over_steps_stands_outside_of_what_is_made_of_all_runs():
    population = tiny_population(*tiny_corpus(), feed="resident", seeds=[0], folds=[0])
    arguments = populations.training_arguments(
        population,
        populations.state_like(population),
        populations.to_devices(population, populations.training_feed(population, 0).take(1)),
    )
    of_one = [
        argument if kind == "shared" else jax.tree.map(lambda leaf: leaf[0, 0], argument)
        for kind, argument in zip(population.programs.train.kinds, arguments, strict=True)
    ]
    within = []

    def over_runs(of_one):
        def mapped(*arguments):
            inside = jax.make_jaxpr(of_one)(*arguments).jaxpr
            within.append((of_one.__name__, [one for one in equations(inside) if one.primitive.name == "while"]))
            return of_one(*arguments)

        return mapped

    program = jax.make_jaxpr(functools.partial(_train_steps, population.learner, over_runs))(*of_one)
    assert [one for one in equations(program.jaxpr) if one.primitive.name == "while"]
    assert within == [("begin", []), ("step", []), ("end", [])]
