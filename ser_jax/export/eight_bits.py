"""Weights of 8 bits: integers and a scale for each output channel, whose product a program computes first."""

import contextlib
import contextvars
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int8, PyTree

_FEWEST = 256  # values of a leaf: smaller ones stay as they are
_ROUNDING = 1e-3  # of an integer, by products in float32
_multiplied = contextvars.ContextVar("_multiplied", default=False)


@contextlib.contextmanager
def multiplied() -> Iterator[None]:
    """What is traced within it has the products as constants, for files in which `found` looks for them."""
    token = _multiplied.set(True)
    try:
        yield
    finally:
        _multiplied.reset(token)


def packed(parameters: PyTree, stacked: bool) -> PyTree:
    """Returns parameters with each large leaf as (int8, scale), rounded.

    `stacked`: the first axis is that of runs or layers, each of which has scales of its own.
    """

    def pack(leaf: Any) -> tuple[np.ndarray, np.ndarray] | np.ndarray:
        leaf = np.asarray(leaf)
        inner = tuple(range(int(stacked), leaf.ndim - 1))
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
        if _multiplied.get():
            return jnp.asarray(leaf[0] * leaf[1])
        # The barrier keeps the product from being computed beforehand, which would write float32 to the file.
        values, scale = jax.lax.optimization_barrier(tuple(map(jnp.asarray, leaf)))
        return values.astype(jnp.float32) * scale

    return jax.tree.map(unpack, parameters, is_leaf=lambda leaf: isinstance(leaf, tuple))


def count(parameters: PyTree) -> tuple[int, int]:
    """Returns how many values of parameters have 8 bits after `packed`, and how many there are."""
    leaves = jax.tree.leaves(parameters, is_leaf=lambda leaf: isinstance(leaf, tuple))
    sizes = [(leaf[0].size, True) if isinstance(leaf, tuple) else (np.size(leaf), False) for leaf in leaves]
    return sum(size for size, rounded in sizes if rounded), sum(size for size, _ in sizes)


def are_whole(values: Float32[np.ndarray, "..."]) -> bool:
    """Whether a constant is of whole numbers: no weights, but positions and masks, which a program compares."""
    return np.array_equal(values, np.rint(values))


def found(values: Float32[np.ndarray, "..."]) -> tuple[Int8[np.ndarray, "..."], Float32[np.ndarray, "..."]] | None:
    """Returns the integers and scales whose product a constant of a converted program is; None where it has none.

    The scales are for each place along one axis, or two: where a converter has put output channels, and runs or layers.
    """
    if values.size < _FEWEST or values.ndim < 2 or not np.isfinite(values).all():
        return None
    axes, tolerance = range(values.ndim), 0.0 if are_whole(values) else _ROUNDING
    for kept in itertools.chain(itertools.combinations(axes, 1), itertools.combinations(axes, 2)):
        others = tuple(axis for axis in axes if axis not in kept)
        if not others:
            continue
        scale = np.max(np.abs(values), axis=others, keepdims=True) / 127
        scale = np.where(scale > 0, scale, 1).astype(np.float32)
        whole = np.rint(values / scale).astype(np.int8)
        if 2 * scale.size < values.size and np.all(np.abs(whole * scale - values) <= tolerance * scale):
            return whole, scale
    return None
