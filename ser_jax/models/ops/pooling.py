"""Pooling within windows over time and frequency, of real cells only."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ser_jax.models.mask import Map, Mask
from ser_jax.models.ops.taps import Size, padded, seen, taps_of


def max_pool(x: Map, mask: Mask, size: Size, strides: Size) -> tuple[Map, Mask]:
    """The maximum of the real cells of windows of `size`, and its mask; zero in the padding.

    The first and last windows may reach beyond the border. All cells that equal the maximum have its gradient: they lie
    where activations are flat.
    """
    pooled_mask = mask.strided(strides)
    lowest = jnp.asarray(jnp.finfo(x.dtype).min, x.dtype)
    return pooled_mask.apply(_maximum(jnp.where(mask.real, x, lowest), size, strides)), pooled_mask


def average_pool(x: Map, mask: Mask, size: Size) -> tuple[Map, Mask]:
    """The mean of the real cells of windows side by side, and its mask; zero in the padding.

    The last windows may reach beyond the border.
    """
    pooled_mask = mask.strided(size)

    def total(x: Map) -> Map:
        bordered, shape = padded(x, size, size), (pooled_mask.num_steps, pooled_mask.num_bands)
        return sum(seen(bordered, tap, shape, size) for tap in taps_of(size))

    real = jnp.broadcast_to(mask.real, (*x.shape[:3], 1)).astype(x.dtype)
    return total(mask.apply(x)) / jnp.maximum(total(real), 1), pooled_mask


# Seen in blocks as large as the strides, a window begins with a block and reaches into the next ones. So a tap sees one
# cell of every block, and a cell lies in the window that begins with its block and in those of the blocks before it.


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _maximum(x: Map, size: Size, strides: Size) -> Map:
    blocks = _blocks(x, size, strides)
    steps, bands = (-(-length // stride) for length, stride in zip(x.shape[1:3], strides, strict=True))

    def seen(tap: Size) -> Map:
        (step, phase), (band, band_phase) = (
            divmod(offset, stride) for offset, stride in zip(tap, strides, strict=True)
        )
        return blocks[:, step : step + steps, phase, band : band + bands, band_phase]

    return functools.reduce(jnp.maximum, (seen(tap) for tap in taps_of(size)))


def _blocks(x: Map, size: Size, strides: Size) -> Float[Array, "batch steps cells_in_time bands cells_in_frequency c"]:
    """The map in blocks, with a border that is less than all of it."""
    padding = []
    for length, taps, stride in zip(x.shape[1:3], size, strides, strict=True):
        before = (taps - stride + 1) // 2
        blocks = -(-length // stride) + (taps - 1) // stride  # the last window reaches into so many after its own
        padding.append((before, blocks * stride - before - length))
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)), constant_values=jnp.finfo(x.dtype).min)
    return x.reshape(len(x), -1, strides[0], x.shape[2] // strides[1], strides[1], x.shape[3])


def _forward(x: Map, size: Size, strides: Size) -> tuple[Map, tuple[Map, Map]]:
    pooled = _maximum(x, size, strides)
    return pooled, (x, pooled)


def _backward(size: Size, strides: Size, saved: tuple[Map, Map], gradient: Map) -> tuple[Map]:
    """Each cell collects from the windows whose maximum it is."""
    x, pooled = saved
    blocks = _blocks(x, size, strides)
    reach = [(taps - 1) // stride for taps, stride in zip(size, strides, strict=True)]
    border = ((0, 0), *((blocks, blocks) for blocks in reach), (0, 0))
    pooled, gradient = jnp.pad(pooled, border), jnp.pad(gradient, border)

    def of_window(step: int, band: int) -> Array:
        """From the windows that begin so many blocks before a cell's own."""
        first = [most - back for most, back in zip(reach, (step, band), strict=True)]
        value, slope = (
            part[:, first[0] : first[0] + blocks.shape[1], None, first[1] : first[1] + blocks.shape[3], None]
            for part in (pooled, gradient)
        )
        in_time, in_frequency = (
            np.arange(stride) + stride * back < taps
            for stride, back, taps in zip(strides, (step, band), size, strict=True)
        )
        inside = in_time[None, None, :, None, None, None] & in_frequency[None, None, None, None, :, None]
        return jnp.where(inside & (blocks == value), slope, 0)

    collected = sum(of_window(*back) for back in itertools.product(*(range(most + 1) for most in reach)))
    collected = collected.reshape(len(x), blocks.shape[1] * strides[0], -1, x.shape[3])
    before = [(taps - stride + 1) // 2 for taps, stride in zip(size, strides, strict=True)]
    return (collected[:, before[0] : before[0] + x.shape[1], before[1] : before[1] + x.shape[2]],)


_maximum.defvjp(_forward, _backward)
