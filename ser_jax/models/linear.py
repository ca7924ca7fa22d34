"""The plainest baseline: a linear classifier on the mean and the standard deviation of every feature over time."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ser_jax.models.family import Family
from ser_jax.models.output import Output


class Linear(nn.Module):
    """Statistics pooling and a linear layer: what a network must beat, and what a training can be tried on in a second.

    Attributes:
        num_classes: number of emotions.
        attention: "none": it has no other.
    """

    num_classes: int
    attention: str = "none"

    @nn.compact
    def __call__(
        self, features: Float[Array, "batch frames features"], num_frames: Int[Array, " batch"], *, train: bool
    ) -> Output:
        """See `ser_jax.models.output.Output`; `train` changes nothing."""
        del train
        real = jnp.arange(features.shape[1])[None, :, None] < num_frames[:, None, None]
        features = features.astype(jnp.float32)  # there are statistics alone
        count = jnp.maximum(num_frames, 1)[:, None]
        mean = jnp.sum(jnp.where(real, features, 0), axis=1) / count
        variance = jnp.sum(jnp.where(real, jnp.square(features - mean[:, None]), 0), axis=1) / count
        # The square root's slope is infinite at zero, where an utterance of one frame is.
        pooled = jnp.concatenate([mean, jnp.sqrt(variance + 1e-5)], axis=-1)
        return Output(nn.Dense(self.num_classes, name="classifier")(pooled))


FAMILY = Family(
    module=Linear,
    summary="a linear classifier on the mean and standard deviation of every feature",
    choices={"attention": ("none",)},
    switches={},
    tiny={},
)
