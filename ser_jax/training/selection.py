"""What validation decides, if it is to: which averaged parameters of a run are kept, and when a run stops.

Each run is judged by its own validation speakers alone, so that it does not depend on its neighbours.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from ser_jax.training import devices
from ser_jax.training.population import Population
from ser_jax.training.state import State


def after_validation(population: Population, state: State, ua: Float[np.ndarray, " runs"], step: int) -> State:
    """Returns the state with each run's averages kept where its UA is its best, and stopped where it has waited enough.

    `ua` is NaN for a run that has diverged. A run that stops no longer changes.
    """
    patience = population.config["training"]["patience"]
    ua, old = jnp.asarray(devices.spread(ua, population.layout.groups), jnp.float32), state.selection
    better = ua > old.ua

    def chosen(new: jax.Array, kept: jax.Array) -> jax.Array:
        return jnp.where(better.reshape(better.shape + (1,) * (new.ndim - better.ndim)), new, kept)

    waited = jnp.where(better, 0, old.waited + 1)
    stops = (old.stopped_at < 0) & (waited >= patience) if patience else False
    selection = old.replace(
        ua=jnp.where(better, ua, old.ua),
        step=jnp.where(better, step, old.step),
        waited=waited,
        stopped_at=jnp.where(stops, step, old.stopped_at),
        parameters=jax.tree.map(chosen, state.ema_parameters, old.parameters),
        batch_stats=jax.tree.map(chosen, state.ema_batch_stats, old.batch_stats),
    )
    return state.replace(selection=devices.place_runs(selection, population.layout))


def ended(population: Population, state: State) -> Bool[np.ndarray, " runs"]:
    """Returns which runs no step changes any more: where validation decides, those that stopped or diverged."""
    if state.selection is None:
        return np.zeros(len(population.runs), bool)
    found = state.selection.stopped_at, state.diverged_at
    stopped_at, diverged_at = devices.gather(found, len(population.runs))
    return (stopped_at >= 0) | (diverged_at >= 0)


def final(population: Population, state: State) -> State:
    """Returns the state of the end of a training: with the averages that are kept in place of the last ones."""
    if state.selection is None or population.config["training"]["keep"] == "last":
        return state
    return state.replace(ema_parameters=state.selection.parameters, ema_batch_stats=state.selection.batch_stats)
