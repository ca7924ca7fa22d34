"""Pooling within windows over time and frequency, of real cells only."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int8

from ser_jax.models.mask import Map, Mask
from ser_jax.models.ops.taps import Size, padded, padding_of, seen, taps_of
from ser_jax.portable import is_portable


def max_pool(x: Map, mask: Mask, size: Size, strides: Size) -> tuple[Map, Mask]:
    """The maximum of the real cells of windows of `size`, and its mask; zero in the padding.

    The first and last windows may reach beyond the border. The first cell of a window that equals the maximum has its
    gradient.
    """
    pooled_mask = mask.strided(strides)
    lowest = jnp.asarray(jnp.finfo(x.dtype).min, x.dtype)
    pooled = _maximum(jnp.where(mask.real, x, lowest), size, strides, x.shape[1:3])
    return pooled_mask.apply(pooled), pooled_mask


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _maximum(x: Map, size: Size, strides: Size, shape: Size) -> Map:
    return _forward(x, size, strides, shape)[0]


def _forward(x: Map, size: Size, strides: Size, shape: Size) -> tuple[Map, Int8[Array, "batch time frequency c"]]:
    """The maximum of each window of a map of this shape, and the number of the tap that sees it.

    The gradient goes where the tap says. To compare the map with the maximum would lose it wherever a compiler computes
    the map anew for that, and rounds otherwise.
    """
    blocks = _blocks(x, size, strides)
    steps, bands = (-(-length // stride) for length, stride in zip(shape, strides, strict=True))
    maximum, number = None, None
    for i, tap in enumerate(taps_of(size)):
        (step, phase), (band, band_phase) = (
            divmod(offset, stride) for offset, stride in zip(tap, strides, strict=True)
        )
        seen = blocks[:, step : step + steps, phase, band : band + bands, band_phase]
        number = jnp.zeros(seen.shape, jnp.int8) if maximum is None else jnp.where(seen > maximum, jnp.int8(i), number)
        maximum = seen if maximum is None else jnp.maximum(maximum, seen)
    # On a CPU XLA would compute a maximum of arrays anew in every kernel that reads it.
    if jax.default_backend() == "cpu" and not is_portable():
        window, step = (1, *size, 1), (1, *strides, 1)
        border = ((0, 0), *padding_of(shape, size, strides), (0, 0))
        maximum = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, step, border)
    return maximum, number


def _blocks(x: Map, size: Size, strides: Size) -> Float[Array, "batch steps cells_in_time bands cells_in_frequency c"]:
    """The map in blocks, with a border that is less than all of it."""
    border = _border(x.shape[1:3], size, strides)
    x = jnp.pad(x, ((0, 0), *border, (0, 0)), constant_values=jnp.finfo(x.dtype).min)
    return x.reshape(len(x), -1, strides[0], x.shape[2] // strides[1], strides[1], x.shape[3])


def _border(shape: Size, size: Size, strides: Size) -> list[tuple[int, int]]:
    """Cells before and after each axis of a map, that make whole blocks of it and all that its windows reach."""
    border = []
    for length, taps, stride in zip(shape, size, strides, strict=True):
        before = (taps - stride + 1) // 2
        blocks = -(-length // stride) + (taps - 1) // stride  # the last window reaches into so many after its own
        border.append((before, blocks * stride - before - length))
    return border


def _backward(size: Size, strides: Size, shape: Size, number: Int8[Array, "..."], gradient: Map) -> tuple[Map]:
    """Each cell collects from the windows whose maximum it is."""
    reach = [(taps - 1) // stride for taps, stride in zip(size, strides, strict=True)]
    around = ((0, 0), *((blocks, blocks) for blocks in reach), (0, 0))
    number, gradient = jnp.pad(number, around, constant_values=-1), jnp.pad(gradient, around)
    steps, bands = (count - most for count, most in zip(gradient.shape[1:3], reach, strict=True))

    def of_window(back: Size) -> Array:
        """From the windows that begin so many blocks before a cell's own."""
        step, band = (most - blocks for most, blocks in zip(reach, back, strict=True))
        chosen, slope = (part[:, step : step + steps, None, band : band + bands, None] for part in (number, gradient))
        return jnp.where(chosen == _taps_of_cells(size, strides, back), slope, 0)

    collected = sum(of_window(back) for back in itertools.product(*(range(most + 1) for most in reach)))
    collected = collected.reshape(len(gradient), steps * strides[0], -1, gradient.shape[3])
    (before, _), (band_before, _) = _border(shape, size, strides)
    return (collected[:, before : before + shape[0], band_before : band_before + shape[1]],)


def _taps_of_cells(
    size: Size, strides: Size, back: Size
) -> Int8[np.ndarray, "1 1 cells_in_time 1 cells_in_frequency 1"]:
    """The number of the tap that sees each cell of a block, in the window that begins so many blocks before; or -2."""
    step, band = (np.arange(stride) + stride * blocks for stride, blocks in zip(strides, back, strict=True))
    inside = (step < size[0])[:, None] & (band < size[1])
    return np.where(inside, step[:, None] * size[1] + band, -2).astype(np.int8)[None, None, :, None, :, None]


_maximum.defvjp(_forward, _backward)
