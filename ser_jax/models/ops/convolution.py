"""Convolutions over time and frequency.

Forward and for the gradient of the map this is XLA's convolution: of several runs with kernels of their own, one
convolution with a group for each run. The gradient of the kernel is a product for every tap. XLA's own would be one
call for each run on a GPU, and is many times slower on a CPU.

The gradient of the map is a convolution with the turned kernel, written as such. As JAX transposes it, in the loop of a
training on a CPU, XLA does not turn the kernel before, and computes the convolution cell by cell: ten times slower.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ser_jax.models.mask import Map
from ser_jax.models.ops.taps import Size, padded, padding_of, seen, taps_of


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolution(
    x: Map, kernel: Float[Array, "taps_in_time taps_in_frequency channels channels_out"], strides: Size = (1, 1)
) -> Map:
    """A convolution, in the dtype of x, zero beyond the border; its size is that of x over `strides`.

    Of an even size, a window has one cell more before its own than after it.
    """
    return _convolve(strides, x, kernel)


def _convolve(strides: Size, x: Map, kernel: Array) -> Map:
    padding = padding_of(x.shape[1:3], kernel.shape[:2], (1, 1))
    return jax.lax.conv_general_dilated(
        x, kernel.astype(x.dtype), strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _forward(x: Map, kernel: Array, strides: Size) -> tuple[Map, tuple[Map, Array]]:
    return _convolve(strides, x, kernel), (x, kernel)


def _backward(strides: Size, saved: tuple[Map, Array], gradient: Map) -> tuple[Map, Array]:
    x, kernel = saved
    if strides == (1, 1) and all(taps % 2 for taps in kernel.shape[:2]):
        of_map = _convolve(strides, gradient, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
    else:
        (of_map,) = jax.linear_transpose(lambda x: _convolve(strides, x, kernel), x)(gradient)
    bordered, shape = padded(x, kernel.shape[:2], (1, 1)), gradient.shape[1:3]
    # Utterance by utterance first: few channels and many cells would leave a GPU too few products to share out.
    of_taps = [
        jnp.einsum("btfc,btfd->bcd", seen(bordered, tap, shape, strides), gradient, preferred_element_type=jnp.float32)
        for tap in taps_of(kernel.shape[:2])
    ]
    of_kernel = jnp.stack([jnp.sum(of_tap, 0) for of_tap in of_taps]).reshape(kernel.shape)
    return of_map, of_kernel.astype(kernel.dtype)


convolution.defvjp(_forward, _backward)
