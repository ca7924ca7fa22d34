"""Normalisation over a batch and over the channels of a frame. Statistics are float32 whatever the maps are."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ser_jax.models.mask import Map, Mask
from ser_jax.models.ops.taps import sum_of_cells

PerChannel = Float[Array, " channels"]


class BatchNorm(nn.Module):
    """Batch normalisation of a map by the statistics of its real cells (Ioffe & Szegedy 2015).

    As in PyTorch, the batch is normalised by its biased variance and the running average takes the unbiased one.

    Attributes:
        axis_name: axis of devices whose batches share the statistics.
    """

    axis_name: str | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5

    def __call__(self, x: Map, mask: Mask, *, train: bool) -> Map:
        """A map that is zero in its padding, by the batch's statistics in training and else by running ones.

        The result is not zero in its padding.
        """
        return scaled(x, *self.affine(x, mask, train=train))

    @nn.compact
    def affine(
        self, x: Map, mask: Mask, *, train: bool, offset: PerChannel | float = 0.0
    ) -> tuple[PerChannel, PerChannel]:
        """The factor and the shift that normalise a map that is zero in its padding.

        An `offset`, a constant for each channel, may be left out of the map: the shift makes up for it.
        """
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        if train:
            mean, var, count = moments(x, mask, self.axis_name)
            if not self.is_initializing():
                unbiased = var * count / jax.lax.max(count - 1, 1.0)
                new = jax.lax.stop_gradient((mean + offset, unbiased))
                for running, value in zip((running_mean, running_var), new, strict=True):
                    running.value = self.momentum * running.value + (1 - self.momentum) * value
        else:
            mean, var = running_mean.value - offset, running_var.value
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return factor, bias - mean * factor


def moments(x: Map, mask: Mask, axis_name: str | None = None) -> tuple[PerChannel, PerChannel, Float[Array, ""]]:
    """Mean and biased variance of each channel over the real cells of a map that is zero in its padding.

    Returned with the number of these cells, in float32; with an axis of devices, over the batches of all of them.
    """
    cells = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    sums = sum_of_cells(cells), sum_of_cells(cells * cells), mask.count()
    total, squares, count = jax.lax.psum(sums, axis_name) if axis_name else sums
    count = jax.lax.max(count, 1.0)
    share = 1 / count
    mean, square = total * share, squares * share
    return mean, jax.nn.relu(square - mean * mean), count


def scaled(x: Map, factor: PerChannel, shift: PerChannel) -> Map:
    """`x * factor + shift` for each channel, in the dtype of x."""
    factor, shift = (part.astype(x.dtype)[None, None, None] for part in (factor, shift))
    return x * factor + shift


class LayerNorm(nn.Module):
    """Normalisation of each frame over its channels (Ba et al. 2016)."""

    @nn.compact
    def __call__(self, x: Float[Array, "batch _frames channels"]) -> Float[Array, "batch _frames channels"]:
        """The frames, in the dtype they came in."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        centred = x.astype(jnp.float32)
        centred = centred - jnp.mean(centred, -1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), -1, keepdims=True)
        normal = centred * jax.lax.rsqrt(variance + 1e-5)
        return (normal * scale[None, None] + bias[None, None]).astype(x.dtype)
