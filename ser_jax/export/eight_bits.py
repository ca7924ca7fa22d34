"""Weights of 8 bits: whole numbers and a scale for each output channel, whose product a program computes first."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

_FEWEST = 256  # values of a leaf: smaller ones stay as they are


def packed(parameters: PyTree, runs: bool) -> PyTree:
    """Returns parameters with each large leaf as (int8, scale), rounded; with `runs` the first axis is that of runs."""

    def pack(leaf: Any) -> tuple[np.ndarray, np.ndarray] | np.ndarray:
        leaf = np.asarray(leaf)
        inner = tuple(range(int(runs), leaf.ndim - 1))
        if not inner or leaf.size < _FEWEST:
            return leaf
        scale = np.max(np.abs(leaf), axis=inner, keepdims=True).astype(np.float32) / 127
        scale = np.where(scale > 0, scale, 1).astype(np.float32)
        return np.rint(leaf / scale).astype(np.int8), scale

    return jax.tree.map(pack, parameters)


def unpacked(parameters: PyTree) -> PyTree:
    """Returns the parameters as float32, by operations of the program that this is traced in."""

    def unpack(leaf: Any) -> jax.Array:
        if not isinstance(leaf, tuple):
            return jnp.asarray(leaf)
        # The barrier keeps the product from being computed beforehand, which would write float32 to the file.
        values, scale = jax.lax.optimization_barrier(tuple(map(jnp.asarray, leaf)))
        return values.astype(jnp.float32) * scale

    return jax.tree.map(unpack, parameters, is_leaf=lambda leaf: isinstance(leaf, tuple))
