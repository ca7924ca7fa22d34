"""Convolutional layers with their batch normalisation, activations and dropout.

Everything computes in the dtype of the map; parameters and statistics stay float32.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ser_jax.models.mask import Map, Mask
from ser_jax.models.normalisation import BatchNorm, scaled
from ser_jax.models.ops import convolution, depthwise, product

Activation = Callable[[Array], Array]

ACTIVATIONS: dict[str, Activation] = {"relu": jax.nn.relu, "hard_swish": jax.nn.hard_swish}


class NormalizedConvolution(nn.Module):
    """A convolution over time and frequency without bias, and its batch normalisation.

    Attributes:
        channels: of the result.
        size: taps along time and frequency, odd.
        strides: along time and frequency.
        axis_name: axis of devices whose batches share the statistics.
    """

    channels: int
    size: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Map, mask: Mask, *, train: bool) -> Map:
        """The result for a map that is zero in its padding; it is not. `mask` is that of the result."""
        kernel = self.param("kernel", nn.initializers.he_normal(), (*self.size, x.shape[-1], self.channels))
        x = mask.apply(convolution(x, kernel, self.strides))
        return BatchNorm(self.axis_name, name="norm")(x, mask, train=train)


class NormalizedPointwise(nn.Module):
    """A pointwise (1x1) convolution without bias, and its batch normalisation.

    With `norm_input` the input has a batch normalisation too, with no activation after it, as follows a depthwise
    convolution. Two passes over the map are saved: its factor goes into the kernel, and its shift is lost in the
    normalisation of the result.

    Attributes:
        channels: of the result.
        norm_input: normalise the input as well.
        axis_name: axis of devices whose batches share the statistics.
    """

    channels: int
    norm_input: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Map, mask: Mask, *, train: bool) -> Map:
        """The result for a map that is zero in its padding; it is not."""
        kernel = self.param("kernel", nn.initializers.he_normal(), (x.shape[-1], self.channels))
        offset = 0.0
        if self.norm_input:
            factor, shift = BatchNorm(self.axis_name, name="input_norm").affine(x, mask, train=train)
            offset = jnp.sum(shift[:, None] * kernel, 0)  # no product: float32 on every platform
            kernel = factor[:, None] * kernel
        x = product(x, kernel)
        return scaled(x, *BatchNorm(self.axis_name, name="norm").affine(x, mask, train=train, offset=offset))


class Depthwise(nn.Module):
    """A 3x3 convolution of each channel with itself, without bias."""

    strides: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x: Map) -> Map:
        """The result for a map that is zero in its padding; it is not."""
        initializer = nn.initializers.he_normal(in_axis=(0, 1), out_axis=())
        return depthwise(x, self.param("kernel", initializer, (3, 3, x.shape[-1])), self.strides)


def is_on(rate: float | Array) -> bool:
    """Whether a rate is, or may turn out to be, anything but zero."""
    return not (isinstance(rate, int | float) and rate == 0)


def dropout(x: Array, rate: float | Array, key: Array) -> Array:
    """Zero elements with probability `rate`, which may be a traced scalar, and scale up the rest; in the dtype of x."""
    keep = jax.random.uniform(key, x.shape) >= rate
    return jnp.where(keep, x / jnp.asarray(1 - rate, x.dtype), 0)
