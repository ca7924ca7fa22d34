"""Attention over channels: a gate for each channel of an utterance."""

import functools
import math
import operator

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

KINDS = ("none", "eca", "se")


def channel_attention(kind: str, kernel_size: int | None = None, name: str | None = None) -> nn.Module:
    """The module of a kind: "eca" or "se"."""
    if kind == "eca":
        return EfficientChannelAttention(kernel_size, name=name)
    return SqueezeAndExcitation(name=name)


def eca_kernel_size(channels: int) -> int:
    """Channels that ECA sees: the odd number next to |log2 C + 1| / 2, at least 3 (Wang et al. 2020, eq. 12)."""
    size = int(abs(math.log2(channels) + 1) / 2)
    return max(size if size % 2 else size + 1, 3)


class EfficientChannelAttention(nn.Module):
    """Gates in (0, 1) for each channel, from the means of its neighbours (ECA, Wang et al. 2020).

    A 1-D convolution along the channels, without bias; `kernel_size` None: the paper's rule.
    """

    kernel_size: int | None = None

    @nn.compact
    def __call__(self, means: Float[Array, "batch channels"]) -> Float[Array, "batch channels"]:
        """The gates."""
        channels = means.shape[-1]
        size = self.kernel_size or eca_kernel_size(channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(in_axis=0, out_axis=()), (size,))
        bordered = jnp.pad(means, ((0, 0), (size // 2, size // 2)))
        taps = enumerate(jnp.split(kernel.astype(means.dtype)[None], size, axis=1))
        terms = (jax.lax.slice_in_dim(bordered, i, i + channels, axis=1) * tap for i, tap in taps)
        return jax.nn.sigmoid(functools.reduce(operator.add, terms))


class SqueezeAndExcitation(nn.Module):
    """Gates in (0, 1) for each channel, from the means of all of them (SE, Hu et al. 2018).

    Two dense layers, the first 16 times narrower, but no narrower than 4.
    """

    @nn.compact
    def __call__(self, means: Float[Array, "batch channels"]) -> Float[Array, "batch channels"]:
        """The gates."""
        channels = means.shape[-1]
        hidden = jax.nn.relu(nn.Dense(max(channels // 16, 4), dtype=means.dtype, name="squeeze")(means))
        return jax.nn.sigmoid(nn.Dense(channels, dtype=means.dtype, name="excite")(hidden))
