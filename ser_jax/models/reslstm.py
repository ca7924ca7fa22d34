"""Residual BiLSTM layers with structured self-attention, a small recurrent classifier."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ser_jax.models import layers
from ser_jax.models.family import COUNT, RATE, Family, Range
from ser_jax.models.output import Output
from ser_jax.models.pooling import Pooling, masked_softmax, of_frames
from ser_jax.models.reconstruction import reconstructed
from ser_jax.models.recurrent import Recurrent


class ResLSTM(nn.Module):
    """BiLSTM layers with a path around each and layer normalisation behind it, attention, and a linear classifier.

    In the spirit of ResLSTM-SER (46.8 k parameters), not its copy. Some 53 k parameters for 64 features and 7 emotions.

    Attributes:
        num_classes: number of emotions.
        attention: "none": the mean over frames; "self_attention": means weighted by attention vectors (Lin et al. 2017,
            structured self-attention).
        vectors: number of attention vectors, whose means stand side by side before the classifier. With one, the
            classifier has the size that it has without attention.
        residual: whether there is a path around each layer; it is a projection where the layer changes the width.
        hidden: size of the state of each direction of a layer.
        depth: number of layers.
        reconstruction: features of every frame of the input to reconstruct in training; 0: none.
        dropout: rate between layers and before the classifier; may be a traced scalar.
    """

    num_classes: int
    attention: Literal["none", "self_attention"] = "self_attention"
    vectors: int = 1
    residual: bool = True
    hidden: int = 32
    depth: int = 2
    reconstruction: int = 0
    dropout: float | Float[Array, ""] = 0.0

    @nn.compact
    def __call__(
        self, features: Float[Array, "batch frames features"], num_frames: Int[Array, " batch"], *, train: bool
    ) -> Output:
        """Logits, and the weights of each attention vector if there are some.

        Computes in the dtype of the features; what lies past an utterance's `num_frames` does not matter.
        """

        def dropped(x: Array) -> Array:
            if train and layers.is_on(self.dropout):
                return layers.dropout(x, self.dropout, self.make_rng("dropout")).astype(x.dtype)
            return x

        real = jnp.arange(features.shape[1])[None] < num_frames[:, None]
        x = jnp.where(real[..., None], features, 0)
        for layer in range(1, self.depth + 1):
            passing = x
            x, _ = Recurrent(self.hidden, name=f"recurrent{layer}")(dropped(x) if layer > 1 else x, num_frames)
            if self.residual:
                if passing.shape[-1] != x.shape[-1]:
                    passing = nn.Dense(x.shape[-1], use_bias=False, dtype=x.dtype, name=f"passing{layer}")(passing)
                x = x + passing
            x = nn.LayerNorm(dtype=x.dtype, epsilon=1e-5, name=f"norm{layer}")(x)

        if self.attention == "none":
            pooled, _ = Pooling("mean", name="pool")(x, num_frames)
            attention = {}
        else:
            scores = nn.Dense(self.hidden, use_bias=False, dtype=x.dtype, name="attention_hidden")(x)
            scores = nn.Dense(self.vectors, use_bias=False, dtype=x.dtype, name="attention_vectors")(jnp.tanh(scores))
            weights = masked_softmax(scores.swapaxes(1, 2), real[:, None])
            pooled = jnp.einsum("bvt,btc->bvc", weights.astype(x.dtype), x).reshape(len(x), -1)
            attention = {"pooling": of_frames(weights)}
        reconstruction = reconstructed(self, x, features.shape[1], train=train)
        logits = nn.Dense(self.num_classes, name="classifier")(dropped(pooled).astype(jnp.float32))
        return Output(logits, attention, reconstruction=reconstruction)


FAMILY = Family(
    module=ResLSTM,
    summary="residual BiLSTM with structured self-attention",
    choices={
        "attention": ("none", "self_attention"),
        "vectors": COUNT,
        "residual": (True, False),
        "hidden": COUNT,
        "depth": COUNT,
        "reconstruction": Range(0),
        "dropout": RATE,
    },
    switches={"attention": ("none", "self_attention")},
    rates=("dropout",),
    tiny={"hidden": 8, "vectors": 2},
)
