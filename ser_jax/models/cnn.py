"""A plain convolutional network: six 3x3 convolutions, with channel attention after each and attention over time."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ser_jax.models import channel_attention, layers, ops, pooling
from ser_jax.models.family import COUNT, RATE, Family, Range
from ser_jax.models.mask import Mask
from ser_jax.models.output import Attention, Output
from ser_jax.models.reconstruction import reconstructed

CHANNELS = (1, 1, 2, 3, 4, 4)  # of the layers, in widths


class CNN(nn.Module):
    """Six times convolution, batch normalisation, activation and pooling; then a mean over frequency, and over time.

    Frequency is halved after every layer but the last, time as often as `time_stride` says.

    Attributes:
        num_classes: number of emotions.
        width: channels of the first two layers; the others have 2, 3, 4 and 4 times as many.
        activation: "relu" or "hard_swish".
        window_pooling: "max" or "average", between the layers.
        time_stride: frames per time step of the last map.
        attention: "none", "eca" (Wang et al. 2020) or "se" (Hu et al. 2018), after the pooling of each layer.
        pooling: over time, one of `ser_jax.models.pooling.KINDS` but "last".
        heads: of the poolings that have heads.
        reconstruction: features of every frame of the input to reconstruct in training; 0: none.
        dropout: rate before the classifier; may be a traced scalar (`model.clone(dropout=rate)`).
        axis_name: axis of devices along which batch normalisation is synchronised.
    """

    num_classes: int
    width: int = 32
    activation: Literal["relu", "hard_swish"] = "relu"
    window_pooling: Literal["max", "average"] = "max"
    time_stride: Literal[2, 4, 8, 16, 32] = 8
    attention: Literal["none", "eca", "se"] = "none"
    pooling: str = "mean"
    heads: int = 4
    reconstruction: int = 0
    dropout: float | Float[Array, ""] = 0.0
    axis_name: str | None = None

    @property
    def min_frames(self) -> int:
        """Frames that make one full time step of the last map."""
        return self.time_stride

    @nn.compact
    def __call__(
        self, features: Float[Array, "batch frames features"], num_frames: Int[Array, " batch"], *, train: bool
    ) -> Output:
        """Logits, the gates [batch, channels] of each layer by its name, and the weights of the pooling over time.

        Computes in the dtype of the features; what lies past an utterance's `num_frames` does not matter.
        """
        act = layers.ACTIVATIONS[self.activation]
        attention = {}
        mask = Mask(num_frames, *features.shape[1:3])
        x = mask.apply(features[..., None])
        for layer, widths in enumerate(CHANNELS, 1):
            name = f"layer{layer}"
            conv = layers.NormalizedConvolution(widths * self.width, axis_name=self.axis_name, name=name)
            x = mask.apply(act(conv(x, mask, train=train)))
            if layer < len(CHANNELS):
                window = (2 if 2**layer <= self.time_stride else 1, 2)
                if self.window_pooling == "max":
                    x, mask = ops.max_pool(x, mask, window, window)
                else:
                    x, mask = ops.average_pool(x, mask, window)
            if self.attention != "none":
                gates = channel_attention.channel_attention(self.attention, name=f"attention{layer}")(mask.mean(x))
                attention[name] = Attention(gates, ("batch", "channels"))
                x = x * gates[:, None, None]

        reconstruction = reconstructed(self, x, features.shape[1], stride=self.time_stride, train=train)
        pool = pooling.Pooling(self.pooling, self.heads, name="pool")
        x, weights = pool(jnp.mean(x, 2), mask.lengths)
        if weights is not None:
            attention["pooling"] = pooling.of_frames(weights, self.time_stride)
        if train and layers.is_on(self.dropout):
            x = layers.dropout(x, self.dropout, self.make_rng("dropout"))
        logits = nn.Dense(self.num_classes, name="classifier")(x.astype(jnp.float32))
        return Output(logits, attention, reconstruction=reconstruction)


FAMILY = Family(
    module=CNN,
    summary="six convolutions, with attention over channels and over time",
    choices={
        "width": COUNT,
        "activation": tuple(layers.ACTIVATIONS),
        "window_pooling": ("max", "average"),
        "time_stride": (2, 4, 8, 16, 32),
        "attention": ("none", "eca", "se"),
        "pooling": pooling.OVER_TIME,
        "heads": COUNT,
        "reconstruction": Range(0),
        "dropout": RATE,
    },
    switches={"attention": ("none", "eca", "se"), "pooling": pooling.OVER_TIME},
    rates=("dropout",),
    tiny={"width": 4, "attention": "eca", "pooling": "multi_head", "heads": 2},
    check=lambda model: pooling.check_heads(model.pooling, model.heads, CHANNELS[-1] * model.width),
    batch_normalisation=True,
    min_frames=lambda model: model.min_frames,
)
