"""Populations that train side by side: all runs of several along one run axis, by one program."""

import dataclasses
from collections.abc import Sequence

from ser_jax.training import devices
from ser_jax.training.population import Population
from ser_jax.training.runs import run_keys, shared_options

_MOST_RUNS = 100  # with more, a step of a small network too takes longer with every run
_SHARE = 1 / 8  # of the devices' memory that the states of all runs may take; one run at a time needs the rest


def alike(one: Population, other: Population) -> bool:
    """Whether two populations share corpus, folds and programs, so that they differ in values of their runs alone.

    None is like another where results have to be the same bit for bit: an accelerator rounds the products of another
    number of runs in another way.
    """
    return (
        one.programs is other.programs
        and not one.config["training"]["deterministic"]
        and one.packed is other.packed
        and one.protocol is other.protocol
        and one.feed == other.feed == "resident"  # which has the corpus on the devices, whatever the runs are
        and shared_options(one.config) == shared_options(other.config)
    )


def most_beside(population: Population, num_runs: int) -> int:
    """Returns how many populations like this one, of `num_runs` runs each, may train side by side: one at least."""
    memory = devices.free_memory(population.layout.local.devices) * population.layout.groups
    of_memory = int(_SHARE * memory / (4 * population.learner.num_kept))
    return max(min(_MOST_RUNS, of_memory) // num_runs, 1)


def side_by_side(populations: Sequence[Population]) -> Population:
    """Returns the population of all runs of several that are `alike`, one after another; of one it is that itself.

    It is only trained, on the devices that the first one has. What is tested and kept is each one's own: a fold and a
    seed may stand in it several times.
    """
    first, groups = populations[0], populations[0].layout.groups
    if len(populations) == 1:
        return first
    runs = tuple(run for population in populations for run in population.runs)
    values = [population.run_values.replace(key=None) for population in populations]
    joined = devices.joined(values, [len(population.runs) for population in populations], groups)
    return dataclasses.replace(first, runs=runs, run_values=joined.replace(key=run_keys(runs, groups)))
