"""Begins to compile a population's programs before they are called, from the shapes of what they will be given."""

import functools
from typing import Any

import jax
import numpy as np

from ser_jax.inference.predict import evaluation_shapes
from ser_jax.training import background, devices
from ser_jax.training.data import resident_shapes
from ser_jax.training.population import Population, first_shapes, state_shapes, training_rows_shape
from ser_jax.training.together import side_by_side


def begin(*populations: Population) -> None:
    """Lets threads compile what draws populations, trains them side by side and tests each; each program once.

    Of a processor that computes itself, threads compile only what trains, while it draws the populations. Where the
    streaming feed brings the utterances, nothing is begun: what comes decides the shapes.
    """
    first, joined = populations[0], side_by_side(populations)
    if first.feed != "resident":
        return
    programs = first.programs
    background.begin(lambda: programs.train.begin(*training_shapes(joined)))
    if devices.compiles_beside():
        background.begin(lambda: programs.initialise.begin(*first_shapes(first)))
        background.begin(lambda: programs.evaluate.begin(*testing_shapes(first)))


def training_shapes(population: Population) -> tuple:
    """Returns the shapes and dtypes of what `population.training_arguments` returns."""
    return (
        state_shapes(population),
        _shapes(population.run_values),
        jax.ShapeDtypeStruct(training_rows_shape(population), np.int32),
        jax.ShapeDtypeStruct((), np.int32),
        *_held(population),
    )


def testing_shapes(population: Population) -> tuple:
    """Returns the shapes and dtypes of what the evaluation program of a trained population takes."""
    return (*evaluation_shapes(population, state_shapes(population)), *_held(population))


def _held(population: Population) -> tuple[Any, Any]:
    """Of the corpus on the devices, and of an encoder's weights or None."""
    resident = resident_shapes(
        population.corpus,
        population.learner.frontend,
        population.targets,
        population.teacher,
        population.distinct_folds,
        population.read_samples,
    )
    return resident, None if population.upper is None else _shapes(population.upper.collection)


def _shapes(tree: Any) -> Any:
    """Those that the arrays of a tree have on the devices."""
    return jax.eval_shape(functools.partial(jax.tree.map, jax.numpy.asarray), tree)
