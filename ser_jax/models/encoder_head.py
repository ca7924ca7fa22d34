"""A head on the hidden states of a pretrained encoder: a learned mixture of states, pooling, a linear classifier."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ser_jax.errors import UserError
from ser_jax.models import layers
from ser_jax.models.channel_attention import channel_attention
from ser_jax.models.family import COUNT, RATE, Family, Range
from ser_jax.models.output import Attention, Output
from ser_jax.models.pooling import OVER_TIME, Pooling, check_heads, masked_softmax, of_frames
from ser_jax.models.transformer import Block, Dense

MIXINGS = ("none", "convolution", "self_attention")


class EncoderHead(nn.Module):
    """States side by side in every frame, normalised, summed with learned weights, and classified over time.

    Each state is normalised over its channels first: the upper states of some encoders are a hundred times as large as
    the lower ones. The weights of the sum are a softmax, equal at first (SUPERB, Yang et al. 2021).

    Attributes:
        num_classes: number of emotions.
        states: how many hidden states a frame has; divides its features.
        state: 0: all of them, summed with learned weights; n: the n-th alone.
        width: channels of the projection after the sum; 0: none, and no blocks.
        depth: Transformer blocks after the projection.
        mixing: what mixes frames in the blocks; each has as many parameters as self-attention (see Transformer).
        attention: gates for channels after the pooling's mean: "none" or "eca".
        pooling: a kind of `ser_jax.models.pooling.Pooling`.
        heads: of the blocks and of the poolings that have some.
        hidden: channels of a layer between pooling and classifier; 0: none.
        dropout: rate before the projection, in the blocks, and before each layer after the pooling; may be a traced
            scalar.
    """

    num_classes: int
    states: int = 1
    state: int = 0
    width: int = 128
    depth: int = 0
    mixing: Literal["none", "convolution", "self_attention"] = "none"
    attention: Literal["none", "eca"] = "none"
    pooling: str = "mean"
    heads: int = 4
    hidden: int = 0
    dropout: float | Float[Array, ""] = 0.0

    @nn.compact
    def __call__(
        self, features: Float[Array, "batch frames features"], num_frames: Int[Array, " batch"], *, train: bool
    ) -> Output:
        """Logits, and the weights of the pooling, the blocks ("block1") and the channels, where there are some."""

        def dropped(x: Array) -> Array:
            if train and layers.is_on(self.dropout):
                return layers.dropout(x, self.dropout, self.make_rng("dropout")).astype(x.dtype)
            return x

        real = jnp.arange(features.shape[1])[None] < num_frames[:, None]
        x = self._mixture(jnp.where(real[..., None], features, 0))
        attention = {}
        if self.width:
            x = jax.nn.gelu(Dense(self.width, name="projection")(dropped(x)))
        for i in range(1, self.depth + 1):
            x, scores = Block(self.heads, self.mixing, dropout=self.dropout, name=f"block{i}")(
                jnp.where(real[..., None], x, 0), num_frames, train=train
            )
            if scores is not None:
                weights = masked_softmax(scores, real[:, None, None])
                attention[f"block{i}"] = Attention(weights, ("batch", "heads", "queries", "frames"), 1)
        x = jnp.where(real[..., None], x, 0)
        if self.attention != "none":
            means = jnp.sum(x, 1) / jnp.maximum(num_frames, 1)[:, None].astype(x.dtype)
            gates = channel_attention(self.attention, name="channels")(means)
            attention["channels"] = Attention(gates, ("batch", "channels"))
            x = x * gates[:, None]
        pooled, weights = Pooling(self.pooling, self.heads, name="pool")(x, num_frames)
        if weights is not None:
            attention["pooling"] = of_frames(weights)
        pooled = pooled.astype(jnp.float32)
        if self.hidden:
            pooled = jax.nn.gelu(nn.Dense(self.hidden, name="hidden")(dropped(pooled)))
        logits = nn.Dense(self.num_classes, name="classifier")(dropped(pooled))
        return Output(logits, attention)

    def _mixture(self, x: Float[Array, "batch frames features"]) -> Float[Array, "batch frames channels"]:
        """The states of each frame, normalised, in one weighted sum; or one of them."""
        if x.shape[-1] % self.states:
            raise UserError(f"config.model.states: {self.states} does not divide the {x.shape[-1]} features of a frame")
        parts = x.reshape(*x.shape[:2], self.states, -1).astype(jnp.float32)
        if self.state:
            parts = parts[:, :, self.state - 1 : self.state]
        centred = parts - jnp.mean(parts, -1, keepdims=True)
        normal = centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), -1, keepdims=True) + 1e-5)
        if parts.shape[2] == 1:
            return normal[:, :, 0].astype(x.dtype)
        weights = jax.nn.softmax(self.param("state_weights", nn.initializers.zeros, (self.states,)))
        return jnp.einsum("btsc,s->btc", normal, weights).astype(x.dtype)


def _check(model: EncoderHead) -> None:
    if model.state > model.states:
        raise UserError(f"config.model.state: found {model.state}, expected at most the {model.states} of model.states")
    if model.depth and not model.width:
        raise UserError("config.model.depth: blocks need a projection; expected config.model.width of at least 1")
    if model.width:
        check_heads(model.pooling, model.heads, model.width)
        if model.depth and model.width % model.heads:
            raise UserError(f"model encoder_head: {model.heads} heads do not divide a width of {model.width}")


FAMILY = Family(
    module=EncoderHead,
    summary="a head on hidden states of a pretrained encoder",
    choices={
        "states": COUNT,
        "state": Range(0),
        "width": Range(0),
        "depth": Range(0),
        "mixing": MIXINGS,
        "attention": ("none", "eca"),
        "pooling": OVER_TIME,
        "heads": COUNT,
        "hidden": Range(0),
        "dropout": RATE,
    },
    switches={"pooling": OVER_TIME, "mixing": MIXINGS, "attention": ("none", "eca")},
    tiny={"states": 2, "width": 8, "depth": 1, "mixing": "self_attention", "attention": "eca", "pooling": "multi_head"},
    check=_check,
)
