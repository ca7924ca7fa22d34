"""Dilated causal convolutions over time in both directions, after TIM-Net (Ye et al. 2023, arXiv 2211.08233)."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ser_jax.models import layers, ops, pooling
from ser_jax.models.family import COUNT, RATE, Family, Range
from ser_jax.models.mask import Map, Mask
from ser_jax.models.normalisation import BatchNorm
from ser_jax.models.output import Output
from ser_jax.models.reconstruction import reconstructed

Frames = Float[Array, "batch frames 1 _channels"]  # a map of one band


class TCN(nn.Module):
    """Two streams of levels that see ever further into the past and the future, fused over levels, pooled over time.

    Attributes:
        num_classes: number of emotions.
        width: channels of every level.
        levels: level i has dilation 2^(i - 1); a stream sees 2^(levels + 1) - 1 frames.
        fusion: weights of the levels' sum: "uniform", or "dynamic" (the paper's: learned, one for each level).
        pooling: over time, one of `ser_jax.models.pooling.KINDS` but "last"; "mean" is the paper's.
        heads: of the poolings that have heads.
        reconstruction: features of every frame of the input to reconstruct in training; 0: none.
        dropout: rate before the classifier; may be a traced scalar (`model.clone(dropout=rate)`).
        axis_name: axis of devices along which batch normalisation is synchronised.
    """

    num_classes: int
    width: int = 72
    levels: int = 8
    fusion: Literal["uniform", "dynamic"] = "dynamic"
    pooling: str = "mean"
    heads: int = 4
    reconstruction: int = 0
    dropout: float | Float[Array, ""] = 0.0
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, features: Float[Array, "batch frames features"], num_frames: Int[Array, " batch"], *, train: bool
    ) -> Output:
        """Logits, and the weights of the pooling over time.

        Computes in the dtype of the features; what lies past an utterance's `num_frames` does not matter.
        """
        mask = Mask(num_frames, features.shape[1], 1)
        x = mask.apply(features[:, :, None])
        forward, backward = (
            Stream(self.width, self.levels, reverse, self.axis_name, name=name)(x, mask, train=train)
            for name, reverse in (("forward", False), ("backward", True))
        )
        weights = jnp.full(self.levels, 1 / self.levels)
        if self.fusion == "dynamic":
            weights = self.param("fusion", nn.initializers.constant(1 / self.levels), (self.levels,))
        # The paper pools each level, then weighs them; as long as the pooling is a mean, that is the same.
        x = sum((f + b) * w for f, b, w in zip(forward, backward, weights.astype(x.dtype), strict=True))

        reconstruction = reconstructed(self, x[:, :, 0], features.shape[1], train=train)
        attention = {}
        x, frame_weights = pooling.Pooling(self.pooling, self.heads, name="pool")(x[:, :, 0], num_frames)
        if frame_weights is not None:
            attention["pooling"] = pooling.of_frames(frame_weights)
        if train and layers.is_on(self.dropout):
            x = layers.dropout(x, self.dropout, self.make_rng("dropout"))
        logits = nn.Dense(self.num_classes, name="classifier")(x.astype(jnp.float32))
        return Output(logits, attention, reconstruction=reconstruction)


class Stream(nn.Module):
    """One direction: no frame sees what comes later; with `reverse`, none what came earlier.

    A level gates what it was given by what two dilated causal convolutions make of it (a temporal-aware block of the
    paper). A reversed stream is one over the reversed utterance, with its frames back in order.
    """

    width: int
    levels: int
    reverse: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Frames, mask: Mask, *, train: bool) -> list[Frames]:
        """What every level makes of features that are zero in the padding; zero there too."""
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        x = mask.apply(ops.product(x, kernel) + bias.astype(x.dtype)[None, None, None])
        results = []
        for level in range(self.levels):
            gates = x
            for i in (1, 2):
                name = f"level{level + 1}_convolution{i}"
                convolution = DilatedConvolution(2**level, self.reverse, self.axis_name, name=name)
                gates = mask.apply(jax.nn.relu(convolution(gates, mask, train=train)))
            x = x * jax.nn.sigmoid(gates)
            results.append(x)
        return results


class DilatedConvolution(nn.Module):
    """A convolution of each frame with the one `dilation` earlier (`reverse`: later), and its batch normalisation."""

    dilation: int
    reverse: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Frames, mask: Mask, *, train: bool) -> Frames:
        """The result for frames that are zero in the padding; it is not."""
        channels = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.he_normal(), (2 * channels, channels))
        seen = jnp.concatenate([shifted(x, self.dilation, self.reverse), x], -1)
        x = mask.apply(ops.product(seen, kernel))
        return BatchNorm(self.axis_name, name="norm")(x, mask, train=train)


def shifted(x: Map, steps: int, reverse: bool) -> Map:
    """At each time what was `steps` earlier (`reverse`: is later), zero beyond the ends."""
    if reverse:
        return jnp.pad(x, ((0, 0), (0, steps), (0, 0), (0, 0)))[:, steps:]
    return jnp.pad(x, ((0, 0), (steps, 0), (0, 0), (0, 0)))[:, : x.shape[1]]


FAMILY = Family(
    module=TCN,
    summary="bidirectional dilated causal convolutions over time, with attention over levels and over time",
    choices={
        "width": COUNT,
        "levels": Range(1, 16),
        "fusion": ("uniform", "dynamic"),
        "pooling": pooling.OVER_TIME,
        "heads": COUNT,
        "reconstruction": Range(0),
        "dropout": RATE,
    },
    switches={"fusion": ("uniform", "dynamic"), "pooling": pooling.OVER_TIME},
    rates=("dropout",),
    tiny={"width": 8, "levels": 3, "pooling": "weighted"},
    check=lambda model: pooling.check_heads(model.pooling, model.heads, model.width),
    batch_normalisation=True,
)
