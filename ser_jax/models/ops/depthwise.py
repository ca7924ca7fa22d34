"""Depthwise convolutions: each channel with itself.

Written as shifted multiply-adds, one for each tap, which every compiler makes one loop of. A convolution with a group
for each channel, of each run, is many times slower on CPUs.
"""

import functools
import operator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ser_jax.models.mask import Map
from ser_jax.models.ops.taps import KERNEL_GRADIENT, Size, padded, seen, taps_of


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(x: Map, kernel: Float[Array, "taps_in_time taps_in_frequency channels"], strides: Size = (1, 1)) -> Map:
    """A convolution of odd size of each channel with itself, in the dtype of x, zero beyond the border.

    Its size is that of x over `strides`.
    """
    shape = tuple(-(-size // stride) for size, stride in zip(x.shape[1:3], strides, strict=True))
    taps, bordered = taps_of(kernel.shape[:2]), padded(x, kernel.shape[:2], (1, 1))
    weights = jnp.split(kernel.astype(x.dtype).reshape(len(taps), 1, 1, -1), len(taps))
    terms = (seen(bordered, tap, shape, strides) * weight for tap, weight in zip(taps, weights, strict=True))
    return functools.reduce(operator.add, terms)


def _forward(x: Map, kernel: Array, strides: Size) -> tuple[Map, tuple[Map, Array]]:
    return depthwise(x, kernel, strides), (x, kernel)


def _backward(strides: Size, saved: tuple[Map, Array], gradient: Map) -> tuple[Map, Array]:
    """The map's: the convolution of the gradient with the reflected kernel. The kernel's: a sum for every tap."""
    x, kernel = saved
    size, shape = kernel.shape[:2], gradient.shape[1:3]
    bordered = padded(x, size, (1, 1))
    views = [seen(bordered, tap, shape, strides) for tap in taps_of(size)]
    slope = gradient.astype(jnp.float32)
    with jax.named_scope(KERNEL_GRADIENT):
        if jax.default_backend() == "gpu":  # one kernel, of which each tap has a part: it reads them from the map
            of_kernel = jnp.sum(jnp.stack(views).astype(jnp.float32) * slope[None], (1, 2, 3))
        else:
            of_kernel = jnp.stack([jnp.sum(view.astype(jnp.float32) * slope, (0, 1, 2)) for view in views])
    if strides != (1, 1):  # zeros at the cells between the windows
        gaps = [
            (0, length - stride * (windows - 1) - 1, stride - 1)
            for length, stride, windows in zip(x.shape[1:3], strides, shape, strict=True)
        ]
        gradient = jax.lax.pad(gradient, jnp.zeros((), gradient.dtype), [(0, 0, 0), *gaps, (0, 0, 0)])
    of_map = depthwise(gradient, kernel[::-1, ::-1])
    return of_map, of_kernel.reshape(kernel.shape).astype(kernel.dtype)


depthwise.defvjp(_forward, _backward)
