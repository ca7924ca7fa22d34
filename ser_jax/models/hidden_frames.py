"""The linear layer by which a model tells the features of frames that it was not shown."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float


def tell_frames(
    model: nn.Module,
    x: Float[Array, "batch steps *bands channels"],
    num_frames: int,
    *,
    stride: int = 1,
    train: bool,
) -> Float[Array, "batch {num_frames} features"] | None:
    """What `model` takes each of the `num_frames` of its input for: `model.frames` features (float32) of every frame.

    A step of its last map before the pooling, `x`, tells all `stride` frames that it stands for, from all of its bands.
    Called within the model's `__call__`; the layer's parameters, `hidden_frames`, are beside those of the rest and
    change none of them. None for a model whose `frames` are 0, and in evaluation, where nothing is hidden.
    """
    if not model.frames or not (train or model.is_initializing()):
        return None
    steps = x.reshape(*x.shape[:2], -1).astype(jnp.float32)
    told = nn.Dense(stride * model.frames, name="hidden_frames")(steps)
    return told.reshape(len(x), -1, model.frames)[:, :num_frames]
