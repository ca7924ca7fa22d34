"""What a training minimises."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ser_jax.errors import UserError


def cross_entropy(
    logits: Float[Array, "batch classes"],
    targets: Float[Array, "batch classes"],
    weight: Float[Array, " batch"],
    class_weights: Float[Array, " classes"],
    label_smoothing: Float[Array, ""],
    possible: Bool[Array, "batch classes"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the weighted sum of the cross-entropies with soft targets, and the sum of the weights.

    A row counts with its weight times the class weight of its target (the expectation of it for a mixed target), as
    `torch.nn.CrossEntropyLoss(weight=...)` does for hard labels without smoothing. Labels are smoothed over all
    classes, or over those that are `possible` for the row.
    """
    row_weight = target_weights(targets, weight, class_weights)
    smoothed = targets * (1.0 - label_smoothing)
    if possible is None:
        smoothed += label_smoothing / logits.shape[-1]
    else:
        smoothed += jnp.where(possible, label_smoothing / jnp.sum(possible, axis=-1, keepdims=True), 0.0)
    losses = -jnp.sum(smoothed * jax.nn.log_softmax(logits), axis=-1)
    return jnp.sum(row_weight * losses), jnp.sum(row_weight)


# The losses of the emotion by name; `config.training.loss` takes `package.module:NAME` of such a function as well.
LOSSES: dict[str, Callable] = {"cross_entropy": cross_entropy}


def check_loss(name: str, loss: Callable, num_classes: int) -> None:
    """Raises `UserError` unless a loss returns a sum and a sum of weights, which does not depend on the logits.

    The weights of a whole batch have to be known before any part of it is seen.
    """
    targets = jnp.eye(num_classes, dtype=jnp.float32)
    ones = jnp.ones(num_classes, jnp.float32)
    weights = []
    for logits in (jnp.zeros_like(targets), 3.0 * targets - jnp.roll(targets, 1)):
        try:
            found = loss(logits, targets, ones, ones, jnp.float32(0.1), None)
        except Exception as error:  # whatever it is: it is of the user's function
            said = (str(error).strip().splitlines() or [""])[0]
            raise UserError(f"config.training.loss: {name} failed ({type(error).__name__}: {said})") from error
        shapes = [getattr(value, "shape", None) for value in found] if isinstance(found, tuple) else type(found)
        if shapes != [(), ()]:
            raise UserError(f"config.training.loss: {name} returned {shapes}, expected two scalars: a sum, its weight")
        weights.append(float(found[1]))
    if weights[0] != weights[1] or not weights[0] > 0:
        raise UserError(
            f"config.training.loss: {name} returned the weights {weights[0]:g} and {weights[1]:g} of the same targets "
            "with two logits; expected one above 0, whatever the logits are"
        )


def target_weights(
    targets: Float[Array, "batch classes"], weight: Float[Array, " batch"], class_weights: Float[Array, " classes"]
) -> Float[Array, " batch"]:
    """Returns what each row counts in `cross_entropy`."""
    return weight * (targets @ class_weights)


def token_cross_entropy(
    logits: Float[Array, "batch tokens symbols"], tokens: Int[Array, "batch tokens"], weight: Float[Array, " batch"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the weighted sum of the cross-entropies of a text's tokens, and the sum of the weights over tokens.

    Every real token counts with the weight of its utterance; negative tokens are padding and count nothing. An
    utterance without a text adds nothing to either sum.
    """
    is_token = tokens >= 0
    token_weight = token_weights(tokens, weight)
    chosen = jnp.where(is_token, tokens, 0)[..., None]
    losses = -jnp.take_along_axis(jax.nn.log_softmax(logits.astype(jnp.float32)), chosen, axis=-1)[..., 0]
    # Not a product alone: what stands in the padding need not even be finite.
    return jnp.sum(jnp.where(is_token, token_weight * losses, 0.0)), jnp.sum(token_weight)


def token_weights(tokens: Int[Array, "batch tokens"], weight: Float[Array, " batch"]) -> Float[Array, "batch tokens"]:
    """Returns what each token counts in `token_cross_entropy`."""
    return jnp.where(tokens >= 0, weight[:, None], 0.0)


def reconstruction_error(
    reconstruction: Float[Array, "batch frames features"],
    features: Float[Array, "batch frames features"],
    masked: Bool[Array, "batch frames"],
    weight: Float[Array, " batch"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the weighted sum over masked frames of the mean squared error of their features, and that of the weights.

    Squared: the best prediction of a frame is then its mean given the frames in view, and where features are normalised
    the quotient of both is the share of their variance left unexplained. Zeros for a prediction have about 1.
    Every masked frame counts with the weight of its utterance; the others, padding among them, count nothing.
    """
    # Not a product alone: what stands in the padding need not even be finite.
    difference = jnp.where(masked[..., None], reconstruction.astype(jnp.float32) - features, 0.0)
    frame_weight = masked_weights(masked, weight)
    return jnp.sum(frame_weight * jnp.mean(jnp.square(difference), -1)), jnp.sum(frame_weight)


def masked_weights(masked: Bool[Array, "batch frames"], weight: Float[Array, " batch"]) -> Float[Array, "batch frames"]:
    """Returns what each frame counts in `reconstruction_error`."""
    return jnp.where(masked, weight[:, None], 0.0)


def concordance(
    predicted: Float[Array, "batch frames tracks"],
    target: Float[Array, "batch frames tracks"],
    num_frames: Int[Array, " batch"],
    weight: Float[Array, " batch"],
    axis_name: str | None = None,
) -> Float[Array, " tracks"]:
    """Returns each track's concordance correlation coefficient over all real frames of the batch (Lin 1989, eq. 1).

    Twice the covariance by the sum of both variances and the squared difference of the means, all with 1 / n. A frame
    counts with the weight of its utterance. Zero where nothing varies: no frames, or both tracks one same constant.
    `axis_name` is that of devices which share the batch.
    """
    real = (jnp.arange(predicted.shape[1])[None] < num_frames[:, None])[..., None]
    frame_weight = jnp.where(real, weight[:, None, None], 0.0)

    def total(values: Array) -> Array:
        own = jnp.sum(values, axis=(0, 1))
        return jax.lax.psum(own, axis_name) if axis_name else own

    sum_of_weights = total(frame_weight)[None, None]
    frame_weight = frame_weight / jnp.where(sum_of_weights > 0, sum_of_weights, 1.0)

    def mean(values: Array) -> Array:
        return total(frame_weight * values)

    predicted, target = jnp.where(real, predicted, 0.0), jnp.where(real, target, 0.0)
    predicted_mean, target_mean = mean(predicted), mean(target)
    predicted, target = predicted - predicted_mean[None, None], target - target_mean[None, None]
    spread = mean(predicted**2) + mean(target**2) + (predicted_mean - target_mean) ** 2
    return jnp.where(spread > 0, 2 * mean(predicted * target) / jnp.where(spread > 0, spread, 1.0), 0.0)


def utterance_concordance(
    predicted: Float[Array, "batch dimensions"],
    target: Float[Array, "batch dimensions"],
    weight: Float[Array, " batch"],
    axis_name: str | None = None,
) -> Float[Array, " dimensions"]:
    """Returns each dimension's `concordance` over the utterances of the batch; where a target is NaN, none counts."""
    one_frame = jnp.ones(len(weight), jnp.int32)

    def of_one(predicted: Array, target: Array) -> Array:
        known = jnp.where(jnp.isnan(target), 0.0, weight)
        target = jnp.where(jnp.isnan(target), 0.0, target)
        return concordance(predicted[:, None, None], target[:, None, None], one_frame, known, axis_name)[0]

    return jax.vmap(of_one, in_axes=1)(predicted.astype(jnp.float32), target)
