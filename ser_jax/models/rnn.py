"""Recurrent classifiers: layers of BiLSTM or BiGRU over frames, and a pooling that may attend to some of them."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ser_jax.models import layers
from ser_jax.models.family import COUNT, RATE, Family, Range
from ser_jax.models.output import Output
from ser_jax.models.pooling import KINDS, Pooling, check_heads, of_frames
from ser_jax.models.reconstruction import reconstructed
from ser_jax.models.recurrent import GATES, Recurrent


class RNN(nn.Module):
    """Bidirectional recurrent layers, pooling over frames, and a linear classifier.

    Pooling by "weighted" is the local attention of Mirsamadi et al. 2017 (ICASSP, section 3.3).

    Attributes:
        num_classes: number of emotions.
        cell: "lstm" or "gru".
        hidden: size of the state of each direction of a layer.
        depth: number of layers.
        pooling: a kind of `ser_jax.models.pooling.Pooling`, of the last layer's outputs; "last" takes each direction's
            state after its own last frame.
        heads: of the poolings that have some; divides 2 * hidden.
        tracks: number of values to tell for every frame, such as arousal and valence.
        reconstruction: features of every frame of the input to reconstruct in training; 0: none.
        dropout: rate between layers and before the classifier; may be a traced scalar.
    """

    num_classes: int
    cell: Literal["lstm", "gru"] = "lstm"
    hidden: int = 128
    depth: int = 2
    pooling: str = "mean"
    heads: int = 4
    tracks: int = 0
    reconstruction: int = 0
    dropout: float | Float[Array, ""] = 0.0

    @nn.compact
    def __call__(
        self, features: Float[Array, "batch frames features"], num_frames: Int[Array, " batch"], *, train: bool
    ) -> Output:
        """Logits, the weights of the pooling if it has some, and tracks if there are some.

        Computes in the dtype of the features; what lies past an utterance's `num_frames` does not matter.
        """

        def dropped(x: Array) -> Array:
            if train and layers.is_on(self.dropout):
                return layers.dropout(x, self.dropout, self.make_rng("dropout")).astype(x.dtype)
            return x

        x = features
        for layer in range(1, self.depth + 1):
            x, final = Recurrent(self.hidden, self.cell, name=f"recurrent{layer}")(x, num_frames)
            x = dropped(x) if layer < self.depth else x

        if self.pooling == "last":
            pooled, weights = final[0], None
        else:
            pooled, weights = Pooling(self.pooling, self.heads, name="pool")(x, num_frames)
        attention = {} if weights is None else {"pooling": of_frames(weights)}

        tracks = None
        if self.tracks:
            real = jnp.arange(x.shape[1])[None, :, None] < num_frames[:, None, None]
            tracks = nn.Dense(self.tracks, name="tracks_of_frame")(dropped(x).astype(jnp.float32))
            tracks = jnp.where(real, tracks, 0)
        logits = nn.Dense(self.num_classes, name="classifier")(dropped(pooled).astype(jnp.float32))
        reconstruction = reconstructed(self, x, features.shape[1], train=train)
        return Output(logits, attention, tracks=tracks, reconstruction=reconstruction)


FAMILY = Family(
    module=RNN,
    summary="layers of BiLSTM or BiGRU with pooling",
    choices={
        "cell": tuple(GATES),
        "hidden": COUNT,
        "depth": COUNT,
        "pooling": KINDS,
        "heads": COUNT,
        "tracks": Range(0),
        "reconstruction": Range(0),
        "dropout": RATE,
    },
    switches={"pooling": ("mean", *(kind for kind in KINDS if kind != "mean"))},
    rates=("dropout",),
    tiny={"hidden": 8, "pooling": "weighted", "tracks": 2},
    check=lambda model: check_heads(model.pooling, model.heads, 2 * model.hidden),
)
