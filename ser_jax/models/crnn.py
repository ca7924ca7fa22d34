"""Convolutions, a bidirectional LSTM and attention, after the 3-D ACRNN (Chen et al. 2018, IEEE SPL 25(10):1440)."""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ser_jax.errors import UserError
from ser_jax.models import layers, ops, pooling
from ser_jax.models.family import COUNT, RATE, Family, Range
from ser_jax.models.mask import Map, Mask
from ser_jax.models.normalisation import BatchNorm
from ser_jax.models.output import Output
from ser_jax.models.reconstruction import reconstructed
from ser_jax.models.recurrent import Recurrent


@dataclasses.dataclass(frozen=True)
class Size:
    """How large the layers are.

    Attributes:
        first: channels of the first convolution.
        others: channels of the other convolutions.
        num_convolutions: how many there are.
        linear: channels of the linear layer.
        hidden: of the LSTM, in each direction.
        fully_connected: channels of the layer before the classifier.
    """

    first: int
    others: int
    num_convolutions: int
    linear: int
    hidden: int
    fully_connected: int


SIZES = {
    "tiny": Size(4, 8, 2, 16, 8, 8),
    "small": Size(32, 64, 4, 192, 64, 64),
    "paper": Size(128, 256, 6, 768, 128, 64),
}
KERNEL = (5, 3)  # along time and frequency
STRIDES = (2, 4)  # of the max-pooling after the first convolution


class CRNN(nn.Module):
    """Convolutions over static features and their deltas as channels, a linear layer, a BiLSTM and pooling over time.

    Unlike in the paper, every convolution has batch normalisation in the place of its bias, not the linear layer alone.

    Attributes:
        num_classes: number of emotions.
        size: "small"; "paper": the paper's; "tiny" is for tests.
        channels: that the features hold side by side: 3 for the paper's static, delta and delta-delta features (the
            frontend's `deltas=2`), 1 for static features alone.
        pooling: over time, one of `ser_jax.models.pooling.KINDS`; "weighted" is the paper's attention, and "last" the
            state of either direction after its own last frame.
        heads: of the poolings that have heads.
        reconstruction: features of every frame of the input to reconstruct in training; 0: none.
        dropout: rate before the classifier; may be a traced scalar (`model.clone(dropout=rate)`).
        axis_name: axis of devices along which batch normalisation is synchronised.
    """

    num_classes: int
    size: Literal["tiny", "small", "paper"] = "small"
    channels: Literal[1, 3] = 1
    pooling: str = "mean"
    heads: int = 4
    reconstruction: int = 0
    dropout: float | Float[Array, ""] = 0.0
    axis_name: str | None = None

    @property
    def deltas(self) -> int:
        """The orders of deltas that the features must hold."""
        return self.channels - 1

    @property
    def min_frames(self) -> int:
        """Frames that make one full time step of the LSTM."""
        return STRIDES[0]

    @nn.compact
    def __call__(
        self, features: Float[Array, "batch frames features"], num_frames: Int[Array, " batch"], *, train: bool
    ) -> Output:
        """Logits, and the weights of the pooling over time.

        Computes in the dtype of the features; what lies past an utterance's `num_frames` does not matter.

        Raises:
            UserError: for features that do not divide into `channels`.
        """
        size = SIZES[self.size]
        x = split_channels(features, self.channels)
        mask = Mask(num_frames, *x.shape[1:3])
        x = mask.apply(x)
        for layer in range(1, size.num_convolutions + 1):
            channels = size.first if layer == 1 else size.others
            conv = layers.NormalizedConvolution(channels, KERNEL, axis_name=self.axis_name, name=f"convolution{layer}")
            x = mask.apply(activate(conv(x, mask, train=train)))
            if layer == 1:
                x, mask = ops.max_pool(x, mask, STRIDES, STRIDES)

        x = x.reshape(*x.shape[:2], 1, -1)
        mask = Mask(mask.lengths, mask.num_steps, 1)
        kernel = self.param("linear", nn.initializers.he_normal(), (x.shape[-1], size.linear))
        x = activate(BatchNorm(self.axis_name, name="linear_norm")(ops.product(x, kernel), mask, train=train))

        x, (final, _) = Recurrent(size.hidden, name="lstm")(x[:, :, 0], mask.lengths)
        reconstruction = reconstructed(self, x, features.shape[1], stride=STRIDES[0], train=train)
        attention = {}
        if self.pooling == "last":
            x = final.astype(x.dtype)
        else:
            x, weights = pooling.Pooling(self.pooling, self.heads, name="pool")(x, mask.lengths)
            if weights is not None:
                attention["pooling"] = pooling.of_frames(weights, STRIDES[0])
        x = activate(nn.Dense(size.fully_connected, dtype=x.dtype, name="fully_connected")(x))
        if train and layers.is_on(self.dropout):
            x = layers.dropout(x, self.dropout, self.make_rng("dropout"))
        logits = nn.Dense(self.num_classes, name="classifier")(x.astype(jnp.float32))
        return Output(logits, attention, reconstruction=reconstruction)


def activate(x: Array) -> Array:
    """The paper's leaky rectifier."""
    return jax.nn.leaky_relu(x, 0.01)


def split_channels(features: Float[Array, "batch frames features"], channels: int) -> Map:
    """Features that lie side by side, such as static ones and their deltas, as channels of the same bands.

    Raises:
        UserError: for features that do not divide.
    """
    num_features = features.shape[-1]
    if num_features % channels:
        raise UserError(
            f"model crnn: {num_features} features do not divide into {channels} channels; "
            "three are static features and two orders of deltas (frontend.deltas 2)"
        )
    return features.reshape(*features.shape[:2], channels, -1).swapaxes(2, 3)


FAMILY = Family(
    module=CRNN,
    summary="convolutions over features and their deltas, a bidirectional LSTM, and attention over time",
    choices={
        "size": tuple(SIZES),
        "channels": (1, 3),
        "pooling": pooling.KINDS,
        "heads": COUNT,
        "reconstruction": Range(0),
        "dropout": RATE,
    },
    switches={"pooling": pooling.OVER_TIME},
    rates=("dropout",),
    tiny={"size": "tiny", "pooling": "weighted"},
    check=lambda model: pooling.check_heads(model.pooling, model.heads, 2 * SIZES[model.size].hidden),
    batch_normalisation=True,
    min_frames=lambda model: model.min_frames,
    deltas=lambda model: model.deltas,
)
