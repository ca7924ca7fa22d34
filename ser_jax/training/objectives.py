"""What a training minimises."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def cross_entropy(
    logits: Float[Array, "batch classes"],
    targets: Float[Array, "batch classes"],
    weight: Float[Array, " batch"],
    class_weights: Float[Array, " classes"],
    label_smoothing: Float[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the weighted sum of the cross-entropies with soft targets, and the sum of the weights.

    A row counts with its weight times the class weight of its target (the expectation of it for a mixed target), as
    `torch.nn.CrossEntropyLoss(weight=...)` does for hard labels without smoothing.
    """
    classes = logits.shape[-1]
    row_weight = weight * (targets @ class_weights)
    smoothed = targets * (1.0 - label_smoothing) + label_smoothing / classes
    losses = -jnp.sum(smoothed * jax.nn.log_softmax(logits), axis=-1)
    return jnp.sum(row_weight * losses), jnp.sum(row_weight)
