"""Parameters, moments and averages, each as one vector during a loop of training steps.

A network has some hundred small arrays of parameters, and an update does thirty things to each of them. To a vector it
does them once: that saves half of a program's equations, and a GPU hundreds of kernels in every step.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ser_jax.training.state import Learner, State


def packed(learner: Learner, state: State) -> State:
    """Returns the state with vectors in the place of trees, or as it is where the optimizer looks at single arrays."""
    if not learner.packs:
        return state
    is_like = functools.partial(_is_like, learner)
    return state.replace(
        parameters=_vector(state.parameters),
        ema_parameters=_vector(state.ema_parameters),
        batch_stats=_vector(state.batch_stats),
        ema_batch_stats=_vector(state.ema_batch_stats),
        optimizer=jax.tree.map(lambda x: _vector(x) if is_like(x) else x, state.optimizer, is_leaf=is_like),
    )


def unpacked(learner: Learner, state: State) -> State:
    """Returns the state that was `packed`."""
    if not _is_packed(state):
        return state
    is_like = functools.partial(_is_like, learner)
    like = jax.eval_shape(learner.optimizer.transformation.init, learner.parameters)
    return state.replace(
        parameters=_tree(learner.parameters, state.parameters),
        ema_parameters=_tree(learner.parameters, state.ema_parameters),
        batch_stats=_tree(learner.batch_stats, state.batch_stats),
        ema_batch_stats=_tree(learner.batch_stats, state.ema_batch_stats),
        optimizer=jax.tree.map(
            lambda like, x: _tree(like, x) if is_like(like) else x, like, state.optimizer, is_leaf=is_like
        ),
    )


def of_network(learner: Learner, state: State) -> tuple[Any, Any]:
    """Returns the trees of parameters and of statistics that the network takes."""
    if not _is_packed(state):
        return state.parameters, state.batch_stats
    return _tree(learner.parameters, state.parameters), _tree(learner.batch_stats, state.batch_stats)


def as_state_has(state: State, tree: Any) -> Any:
    """Returns a tree of the network's as it lies in the state: a vector, if that is packed."""
    return _vector(tree) if _is_packed(state) else tree


def treatment(learner: Learner, state: State) -> tuple[Any, Any]:
    """Returns which parameters decay, and their shares of the learning rate, as the parameters lie in the state."""
    optimizer = learner.optimizer
    if not _is_packed(state):
        return optimizer.decays, optimizer.rates
    sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(learner.parameters)]
    decays, rates = (np.repeat(jax.tree.leaves(tree), sizes) for tree in (optimizer.decays, optimizer.rates))
    return decays, rates.astype(np.float32) if (rates != 1).any() else 1.0


def _is_like(learner: Learner, tree: Any) -> bool:
    """Whether a tree has the structure of the parameters, as moments have."""
    return jax.tree.structure(tree) == jax.tree.structure(learner.parameters)


def _is_packed(state: State) -> bool:
    return not isinstance(state.parameters, Mapping)


def _vector(tree: Any) -> Array | Any:
    """The arrays of a tree, one after another; a tree without arrays as it is."""
    leaves = jax.tree.leaves(tree)
    return jnp.concatenate([jnp.ravel(leaf) for leaf in leaves]) if leaves else tree


def _tree(like: Any, vector: Array | Mapping) -> Any:
    """The tree of such shapes that `_vector` was given."""
    leaves, structure = jax.tree.flatten(like)
    parts, end = [], 0
    for leaf in leaves:
        begin, end = end, end + math.prod(leaf.shape)
        parts.append(jax.lax.slice(vector, (begin,), (end,)).reshape(leaf.shape))
    return structure.unflatten(parts)
