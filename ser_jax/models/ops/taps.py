"""The taps of a window that moves over a map, and the part of the map that each of them sees."""

import itertools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ser_jax.models.mask import Map

Size = tuple[int, int]  # along time and frequency
KERNEL_GRADIENT = "kernel_gradient"  # the named scope of what computes it in a program


def taps_of(size: Size) -> list[Size]:
    """The taps of a window: their offsets along time and frequency."""
    return list(itertools.product(range(size[0]), range(size[1])))


def padding_of(shape: Size, size: Size, strides: Size) -> list[tuple[int, int]]:
    """Cells before and after each axis of a map, so that there is a window for every `stride` cells, the last included.

    Where a window is larger than its stride, it begins before its cell by half of what is left over.
    """
    padding = []
    for length, taps, stride in zip(shape, size, strides, strict=True):
        before = (taps - stride + 1) // 2
        last = stride * (-(-length // stride) - 1) + taps  # the end of the last window
        padding.append((before, max(last - before - length, 0)))
    return padding


def padded(x: Map, size: Size, strides: Size, value: float = 0) -> Map:
    """The map within the border that windows of this size reach, which holds `value`."""
    padding = padding_of(x.shape[1:3], size, strides)
    return jnp.pad(x, ((0, 0), *padding, (0, 0)), constant_values=jnp.asarray(value, x.dtype))


def seen(x: Map, tap: Size, shape: Size, strides: Size) -> Map:
    """What a tap sees of a `padded` map in each of the `shape` windows."""
    batch, _, _, channels = x.shape
    end = [first + stride * (windows - 1) + 1 for first, stride, windows in zip(tap, strides, shape, strict=True)]
    return jax.lax.slice(x, (0, *tap, 0), (batch, *end, channels), (1, *strides, 1))


def sum_of_cells(x: Float[Array, "*cells channels"]) -> Float[Array, " channels"]:
    """Sum over all axes but the last, in float32."""
    return jnp.sum(x, tuple(range(x.ndim - 1)), dtype=jnp.float32)
