"""Convolutions over time and frequency.

Forward and for the gradient of the map this is XLA's convolution: of several runs with kernels of their own, one
convolution with a group for each run. The gradient of the kernel is a product of what the taps see with the gradient.
XLA's own would be one call for each run on a GPU, and is many times slower on a CPU. XLA writes what a tap sees, before
the product: on a GPU for all taps side by side, so that the gradient is read once.

The gradient of the map is a convolution with the turned kernel, written as such. As JAX transposes it, in the loop of a
training on a CPU, XLA does not turn the kernel before, and computes the convolution cell by cell: ten times slower.

A map of few channels, as the features are, is seen by all taps side by side, which is not much, and goes through one
product. cuDNN would compute run by run there, and the gradient would be read once for each tap.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ser_jax.models.mask import Map
from ser_jax.models.ops.taps import KERNEL_GRADIENT, Size, padded, padding_of, seen, taps_of

_FEW = 32  # taps times channels of a map
_SUMS = 2**17  # of all parts of a batch


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolution(
    x: Map, kernel: Float[Array, "taps_in_time taps_in_frequency channels channels_out"], strides: Size = (1, 1)
) -> Map:
    """A convolution, in the dtype of x, zero beyond the border; its size is that of x over `strides`.

    Of an even size, a window has one cell more before its own than after it.
    """
    return _convolve(strides, x, kernel)


def _convolve(strides: Size, x: Map, kernel: Array) -> Map:
    if _has_few_channels(kernel):
        shape = tuple(-(-size // stride) for size, stride in zip(x.shape[1:3], strides, strict=True))
        windows = _side_by_side(x, kernel.shape[:2], shape, strides)
        kernel = kernel.astype(x.dtype).reshape(-1, kernel.shape[-1])
        return windows @ jnp.pad(kernel, ((0, windows.shape[-1] - len(kernel)), (0, 0)))
    return _by_xla(strides, x, kernel)


def _by_xla(strides: Size, x: Map, kernel: Array) -> Map:
    padding = padding_of(x.shape[1:3], kernel.shape[:2], (1, 1))
    return jax.lax.conv_general_dilated(
        x, kernel.astype(x.dtype), strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _has_few_channels(kernel: Array) -> bool:
    return kernel[..., 0].size <= _FEW


def _forward(x: Map, kernel: Array, strides: Size) -> tuple[Map, tuple[Map, Array]]:
    return _convolve(strides, x, kernel), (x, kernel)


def _backward(strides: Size, saved: tuple[Map, Array], gradient: Map) -> tuple[Map, Array]:
    x, kernel = saved
    if strides == (1, 1) and all(taps % 2 for taps in kernel.shape[:2]):
        of_map = _convolve(strides, gradient, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
    else:
        (of_map,) = jax.linear_transpose(lambda x: _by_xla(strides, x, kernel), x)(gradient)
    size, shape = kernel.shape[:2], gradient.shape[1:3]
    at_once = _has_few_channels(kernel) or jax.default_backend() == "gpu"
    parts = _parts(len(x), kernel.size if at_once else kernel[0, 0].size)
    gradient = gradient.reshape(parts, -1, gradient.shape[-1])

    def summed(x: Map) -> Array:
        x = x.reshape(parts, -1, x.shape[-1])
        return jnp.sum(jnp.einsum("pnc,pnd->pcd", x, gradient, preferred_element_type=jnp.float32), 0)

    with jax.named_scope(KERNEL_GRADIENT):
        if at_once:
            of_kernel = summed(_side_by_side(x, size, shape, strides))[: kernel[..., 0].size]
        else:
            bordered = padded(x, size, (1, 1))
            of_kernel = jnp.stack([summed(seen(bordered, tap, shape, strides)) for tap in taps_of(size)])
    return of_map, of_kernel.reshape(kernel.shape).astype(kernel.dtype)


def _side_by_side(
    x: Map, size: Size, shape: Size, strides: Size
) -> Float[Array, "batch time frequency taps_x_channels"]:
    """What all taps see of a map, and zeros."""
    bordered = padded(x, size, (1, 1))
    windows = [seen(bordered, tap, shape, strides) for tap in taps_of(size)]
    if zeros := -math.prod(size) * x.shape[-1] % _multiple(x.dtype):
        windows.append(jnp.zeros((*windows[0].shape[:-1], zeros), x.dtype))
    return jnp.concatenate(windows, -1)


def _multiple(dtype: DTypeLike) -> int:
    """A product of a GPU's in bfloat16 has a multiple of eight columns; XLA would write fewer a second time."""
    return 8 if jax.default_backend() == "gpu" and dtype == jnp.bfloat16 else 1


def _parts(batch: int, sums: int) -> int:
    """Into how many parts a batch is divided, the more the fewer sums a product of a part has.

    Few channels and many cells would leave a GPU too few products to share out. A CPU would turn every part first.
    """
    if jax.default_backend() == "cpu":
        return 1
    return next(parts for parts in range(batch, 0, -1) if batch % parts == 0 and (parts * sums <= _SUMS or parts == 1))


convolution.defvjp(_forward, _backward)
