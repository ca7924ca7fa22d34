"""Workdirs of models as they are drawn: what is asked of a model at use does not depend on its having learnt."""

import json

from ser_jax.studies.store import STUDY
from ser_jax.training import checkpoints, devices
from ser_jax.training.population import describe, initial_state
from tests.training.tiny import tiny_population


def untrained_workdir(folder, corpus, protocol, **changes):
    """Writes a workdir of one variant, `drawn`, and returns its population and state, [runs, ...]."""
    population = tiny_population(corpus, protocol, **changes)
    return population, keep(folder, population)


def keep(folder, population):
    """Writes a workdir of a population's first state, and returns that, [runs, ...]."""
    state = devices.gather(initial_state(population), len(population.runs))
    store = checkpoints.Checkpoints(folder / "model" / "checkpoints")
    store.save(state, describe(population))
    store.close()
    (folder / STUDY).write_text(json.dumps([{"name": "drawn", "folder": "model"}]))
    return state
