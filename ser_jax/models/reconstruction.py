"""The linear layer by which a model reconstructs the features of masked frames (masked prediction)."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float


def reconstructed(
    model: nn.Module,
    x: Float[Array, "batch steps *bands channels"],
    num_frames: int,
    *,
    stride: int = 1,
    train: bool,
) -> Float[Array, "batch {num_frames} features"] | None:
    """The `model.reconstruction` features (float32) of each of the `num_frames` of the input, from the last map.

    A step of `x`, the map before the pooling, gives all `stride` frames that it stands for, from all of its bands.
    Called within the model's `__call__`; the layer's parameters, `reconstruction`, are beside those of the rest and
    change none of them. None for a model whose `reconstruction` is 0, and in evaluation, where nothing is masked.
    """
    if not model.reconstruction or not (train or model.is_initializing()):
        return None
    steps = x.reshape(*x.shape[:2], -1).astype(jnp.float32)
    features = nn.Dense(stride * model.reconstruction, name="reconstruction")(steps)
    return features.reshape(len(x), -1, model.reconstruction)[:, :num_frames]
