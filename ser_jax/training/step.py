"""One training step and one evaluation, for one run: pure functions that populations spread over runs and devices.

Where devices share the batches, each calls the step with its part of the rows. What a step sums is then summed over the
devices, sums and not means, so that the parameters become what one device would make of the whole batch; a draw for a
row is the same on whichever device the row lies. Only dropout is drawn anew on every device.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from ser_jax.errors import UserError
from ser_jax.feeds.batch import Batch
from ser_jax.feeds.resident import Resident, crop_batch, window_batch
from ser_jax.frontend import Statistics, augment_features, augment_waveform, features, mask_spans, mixup
from ser_jax.frontend.augment import OF_FEATURES
from ser_jax.models.output import Output
from ser_jax.training import packing
from ser_jax.training.heads import own_logits, possible_classes, probabilities
from ser_jax.training.objectives import (
    concordance,
    masked_weights,
    reconstruction_error,
    token_cross_entropy,
    token_weights,
    utterance_concordance,
)
from ser_jax.training.precision import activations_dtype
from ser_jax.training.state import AUGMENTATION, CROP, DROPOUT, MASKING, Learner, Run, State, frozen, variables


def train_step(
    learner: Learner, state: State, run: Run, rows: Int[Array, " batch"], resident: Resident, encoder: Any = None
) -> tuple[State, dict[str, Float[Array, ""]]]:
    """Trains on one batch: the utterances `rows` of the resident corpus, cropped and augmented on the device.

    `encoder` are the weights of an encoder, the same for all runs and never changed; None where the model has none.
    The network sees the batch in `learner.accumulate` parts, one after another. Returns the new state and metrics as
    sums over the whole batch, those of `metric_names`.
    """
    crop_key, augment_key, dropout_key = (
        jax.random.fold_in(jax.random.fold_in(run.key, purpose), state.step)
        for purpose in (CROP, AUGMENTATION, DROPOUT)
    )
    crop_keys = _row_keys(learner, crop_key, len(rows))
    speed = run.strengths.speed if "speed" in learner.augmentations else None
    with jax.named_scope("crop"):
        batch = crop_batch(resident, rows, crop_keys, learner.crop_samples, speed, learner.frontend)
    targets = _targets(learner, run, resident, rows, batch)
    inputs, num_frames, targets = _training_input(learner, state, run, batch, targets, augment_key)
    # The network's kernels look at the input so often that it must not be computed in each of them.
    inputs = jax.lax.optimization_barrier(inputs)
    batch = batch.replace(masked=_masked_frames(learner, state, run, inputs, num_frames))
    example = (batch, inputs, num_frames, targets)
    totals = _over_devices(learner, _total_weights(learner, run, batch, targets))

    parameters, batch_stats = packing.of_network(learner, state)

    def gradient_of(batch_stats: dict, example: tuple, dropout_key: Array) -> tuple[dict, tuple]:
        def objective(parameters: dict) -> tuple[Array, tuple]:
            collections = {"params": parameters, "batch_stats": batch_stats, **frozen(encoder)}
            return _objective(collections, learner, run, totals, example, dropout_key)

        with jax.named_scope("forward"):
            loss, backward, made = jax.vjp(objective, parameters, has_aux=True)
        with jax.named_scope("backward"):
            (gradient,) = backward(jnp.ones_like(loss))
        return gradient, made

    if learner.axis_name:
        dropout_key = jax.random.fold_in(dropout_key, jax.lax.axis_index(learner.axis_name))
    if learner.accumulate == 1:
        gradient, (metrics, batch_stats) = gradient_of(batch_stats, example, dropout_key)
    else:
        gradient, metrics, batch_stats = _accumulated(learner, batch_stats, gradient_of, example, dropout_key)
    gradient, metrics = _over_devices(learner, (gradient, metrics))
    with jax.named_scope("update"):
        return _update(learner, state, run, gradient, batch_stats, metrics)


def _objective(
    collections: dict,
    learner: Learner,
    run: Run,
    totals: dict[str, Array],
    example: tuple[Batch, Array, Array, Array],
    dropout_key: Key[Array, ""],
) -> tuple[Float[Array, ""], tuple]:
    """This part's share of the loss of the whole batch, its metrics, and the new statistics of batch normalisation."""
    batch, inputs, num_frames, targets = example
    dtype = activations_dtype(learner.precision)
    output, updates = learner.model.clone(**run.rates).apply(
        collections,
        (inputs if batch.masked is None else jnp.where(batch.masked[..., None], 0.0, inputs)).astype(dtype),
        num_frames,
        train=True,
        **({} if batch.tokens is None else {"tokens": batch.tokens, "label": targets}),
        rngs={"dropout": dropout_key},
        mutable=["batch_stats"],
    )
    loss, metrics = _losses(learner, run, batch, inputs, targets, num_frames, output, totals)
    return loss, (metrics, updates.get("batch_stats", {}))


def _accumulated(
    learner: Learner, batch_stats: dict, gradient_of: Callable, example: tuple, dropout_key: Key[Array, ""]
) -> tuple[dict, dict[str, Array], dict]:
    """The sums of gradients and metrics over parts of the batch, which follow one another, and the last statistics."""
    count = learner.accumulate
    parts = jax.tree.map(lambda leaf: leaf.reshape(count, leaf.shape[0] // count, *leaf.shape[1:]), example)
    keys = jax.random.split(dropout_key, count)

    def one(carry: tuple, part: tuple) -> tuple[tuple, None]:
        sums, batch_stats = carry
        gradient, (metrics, batch_stats) = gradient_of(batch_stats, *part)
        return (jax.tree.map(jnp.add, sums, (gradient, metrics)), batch_stats), None

    first = jax.tree.map(lambda leaf: leaf[0], (parts, keys))
    shapes = jax.eval_shape(lambda part: gradient_of(batch_stats, *part), first)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (shapes[0], shapes[1][0]))
    ((gradient, metrics), batch_stats), _ = jax.lax.scan(one, (zeros, batch_stats), (parts, keys))
    return gradient, metrics, batch_stats


def metric_names(learner: Learner, resident: Resident) -> list[str]:
    """The sums that a training step gives.

    `loss` and its `weight`, `correct` and `count`, `gradient_norm` and `learning_rate` and their number `steps`, which
    are zero where the run has diverged; with text `text_loss` and `text_weight`, with tracks `concordance`,
    with dimensions `dimensions_concordance`, with masked frames `frames_loss` and `frames_weight`.
    """
    names = ["loss", "weight", "correct", "count", "gradient_norm", "learning_rate", "steps"]
    names += [] if resident.tokens is None else ["text_loss", "text_weight"]
    names += [] if resident.tracks is None else ["concordance"]
    names += ["dimensions_concordance"] if learner.dimensions else []
    return names + ([] if learner.masking is None else ["frames_loss", "frames_weight"])


def _total_weights(learner: Learner, run: Run, batch: Batch, targets: Array) -> dict[str, Float[Array, ""]]:
    """What the losses of a batch are divided by; that of the emotion says it itself, whatever the logits are."""
    possible = None if learner.heads is None else possible_classes(learner.heads, batch.source)
    rows = jnp.zeros_like(targets), targets, batch.weight
    totals = {}
    if learner.num_classes:
        totals["emotion"] = learner.loss(*rows, run.class_weights, run.label_smoothing, possible)[1]
    if batch.tokens is not None:  # no utterance may be whole
        totals["text"] = jnp.sum(token_weights(batch.tokens, batch.weight))
    if batch.masked is not None:
        totals["frames"] = jnp.sum(masked_weights(batch.masked, batch.weight))
    return totals


def _losses(
    learner: Learner,
    run: Run,
    batch: Batch,
    inputs: Array,
    targets: Array,
    num_frames: Array,
    output: Output,
    totals: dict[str, Array],
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The weighted sum of the losses, divided by the whole batch's weights, and their parts as sums."""
    (logits, dimensions), possible = split_outputs(learner, output.logits), None
    if learner.heads is not None:
        logits, possible = own_logits(learner.heads, logits, batch.source)
    loss = weight = correct = total = jnp.zeros(())
    if learner.num_classes:
        loss, weight = learner.loss(logits, targets, batch.weight, run.class_weights, run.label_smoothing, possible)
        correct = jnp.sum((jnp.argmax(logits, -1) == batch.label) * batch.weight)
        total = run.loss_weights["emotion"] * loss / totals["emotion"]
    metrics = {"loss": loss, "weight": weight, "correct": correct, "count": jnp.sum(batch.weight)}
    if batch.tokens is not None:
        text_loss, text_weight = token_cross_entropy(output.tokens, batch.tokens, batch.weight)
        metrics |= {"text_loss": text_loss, "text_weight": text_weight}
        total += run.loss_weights["text"] * text_loss / jnp.maximum(totals["text"], 1)
    # Coefficients are no sums over utterances: every device has the whole batch's, and counts its share of it.
    share = 1 / jax.lax.axis_size(learner.axis_name) if learner.axis_name else 1.0
    if batch.tracks is not None:
        agreement = concordance(output.tracks, batch.tracks, num_frames, batch.weight, learner.axis_name)
        metrics["concordance"] = share * jnp.mean(agreement)
        total += run.loss_weights["tracks"] * (share - metrics["concordance"])
    if learner.dimensions:
        mean, deviation = run.dimension_scaling
        target = (batch.dimensions - mean[None]) / deviation[None]
        agreement = utterance_concordance(dimensions, target, batch.weight, learner.axis_name)
        metrics["dimensions_concordance"] = share * jnp.mean(agreement)
        total += run.loss_weights["dimensions"] * (share - metrics["dimensions_concordance"])
    if batch.masked is not None:
        frames_loss, frames_weight = reconstruction_error(output.reconstruction, inputs, batch.masked, batch.weight)
        metrics |= {"frames_loss": frames_loss, "frames_weight": frames_weight}
        total += run.loss_weights["frames"] * frames_loss / jnp.maximum(totals["frames"], 1)
    return total, metrics


def split_outputs(
    learner: Learner, outputs: Float[Array, "batch outputs"]
) -> tuple[Float[Array, "batch logits"], Float[Array, "batch dimensions"] | None]:
    """Returns the emotions' logits of a model's outputs and its standardised dimensions, if it has some, in float32."""
    outputs = outputs.astype(jnp.float32)  # a model of one's own may return what it computes in
    if not learner.dimensions:
        return outputs, None
    count = len(learner.dimensions)
    return outputs[:, :-count], outputs[:, -count:]


def evaluate_batch(
    learner: Learner,
    state: State,
    start: Int[Array, " batch"],
    num_samples: Int[Array, " batch"],
    utterance: Int[Array, " batch"],
    resident: Resident,
    window_samples: int,
    batch_statistics: str,
    encoder: Any = None,
) -> tuple[Array, Array | None, Array | None]:
    """Returns what is predicted of windows of the resident corpus with the averaged parameters.

    Class probabilities [batch, classes], standardised dimensions [batch, dimensions], tracks [batch, frames, tracks].

    Batch normalisation takes its running averages, or, where `batch_statistics` is "speaker", those of this very batch,
    whose windows are then one speaker's (Li et al. 2016, arXiv 1603.04779).
    """
    places = start, num_samples, utterance
    output, source = _windows_output(learner, state, *places, resident, window_samples, batch_statistics, encoder)
    return *_classified(learner, output, source), output.tracks


def embed_batch(
    learner: Learner,
    state: State,
    start: Int[Array, " batch"],
    num_samples: Int[Array, " batch"],
    utterance: Int[Array, " batch"],
    resident: Resident,
    window_samples: int,
    batch_statistics: str,
    encoder: Any = None,
) -> tuple[Array, Array | None, Float[Array, "batch dims"]]:
    """Returns what `evaluate_batch` does, but in the place of tracks the vectors that the classifier is given.

    Raises `UserError` for a model without a layer of the name `classifier`.
    """
    vectors = []

    def keep(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        if context.module.name == "classifier" and context.method_name == "__call__":
            vectors.append(args[0])
        return call(*args, **kwargs)

    with nn.intercept_methods(keep):
        places = start, num_samples, utterance
        output, source = _windows_output(learner, state, *places, resident, window_samples, batch_statistics, encoder)
    if not vectors:
        raise UserError(f"model {type(learner.model).__name__}: has no layer `classifier`, whose input would be taken")
    return *_classified(learner, output, source), vectors[0].astype(jnp.float32)


def _classified(learner: Learner, output: Output, source: Int[Array, " batch"] | None) -> tuple[Array, Array | None]:
    """The class probabilities and the standardised dimensions of a model's output."""
    logits, dimensions = split_outputs(learner, output.logits)
    return probabilities(learner.heads, logits, source), dimensions


def _windows_output(
    learner: Learner,
    state: State,
    start: Int[Array, " batch"],
    num_samples: Int[Array, " batch"],
    utterance: Int[Array, " batch"],
    resident: Resident,
    window_samples: int,
    batch_statistics: str,
    encoder: Any,
) -> tuple[Output, Int[Array, " batch"] | None]:
    """What the model says of windows, and their sources."""
    batch = window_batch(resident, start, num_samples, window_samples, utterance)
    inputs, num_frames = features(learner.frontend, batch.waveform, batch.num_samples, _statistics(state, batch))
    inputs = inputs.astype(activations_dtype(learner.precision))
    trained = variables(state, encoder)
    if batch_statistics == "running":
        return learner.model.apply(trained, inputs, num_frames, train=False), batch.source
    # Every device has batches of its own, and nothing is dropped.
    alone = {"axis_name": None} if hasattr(learner.model, "axis_name") else {}
    model = learner.model.clone(**dict.fromkeys(learner.rates, 0.0), **alone)
    output, _ = model.apply(trained, inputs, num_frames, train=True, mutable=["batch_stats"])
    return output, batch.source


def _statistics(state: State, batch: Batch) -> Statistics | None:
    """What the features are normalised by: the statistics of the training fold, of each row's speaker, or none."""
    return state.feature_statistics if batch.statistics is None else batch.statistics


def _targets(
    learner: Learner, run: Run, resident: Resident, rows: Int[Array, " batch"], batch: Batch
) -> Float[Array, "batch classes"]:
    """The labels, or the raters' votes, with the teacher's share of its probabilities where there is one."""
    labels = jax.nn.one_hot(batch.label, learner.num_classes) if batch.votes is None else batch.votes
    if resident.teacher_probabilities is None:
        return labels
    predicted = resident.teacher_probabilities[run.fold, jnp.maximum(rows, 0)]
    return labels + run.teacher_share * (predicted - labels)


def _training_input(
    learner: Learner, state: State, run: Run, batch: Batch, targets: Float[Array, "batch classes"], key: Array
) -> tuple[Array, Array, Array]:
    waveform_key, features_key, mixup_key = jax.random.split(key, 3)
    # Every utterance has its own key: what happens to it does not depend on the batch beside it.
    keys = functools.partial(_row_keys, learner, num_rows=batch.label.shape[0])
    frontend, waveform = learner.frontend, batch.waveform
    active = learner.augmentations
    with jax.named_scope("augmentation"):
        if frontend.kind != "precomputed" and active - OF_FEATURES - {"speed", "mixup"}:
            augment = functools.partial(augment_waveform, active=active)
            waveform = jax.vmap(augment, in_axes=(0, 0, 0, None))(
                keys(waveform_key), waveform, batch.num_samples, run.strengths
            )
    with jax.named_scope("frontend"):
        inputs, num_frames = features(frontend, waveform, batch.num_samples, _statistics(state, batch))
    with jax.named_scope("augmentation"):
        if active & OF_FEATURES:
            augment = functools.partial(augment_features, deltas=frontend.deltas, kind=frontend.kind, active=active)
            inputs = jax.vmap(augment, in_axes=(0, 0, 0, None))(keys(features_key), inputs, num_frames, run.strengths)
    if "mixup" not in active:
        return inputs, num_frames, targets
    rows = inputs, num_frames, targets, batch.weight
    if not learner.axis_name:
        return mixup(mixup_key, *rows, run.strengths.mixup)
    # An utterance's partner may lie on another device.
    whole = jax.lax.all_gather(rows, learner.axis_name, tiled=True)
    return _own_rows(learner, mixup(mixup_key, *whole, run.strengths.mixup), len(num_frames))


def _masked_frames(learner: Learner, state: State, run: Run, inputs: Array, num_frames: Array) -> Array | None:
    """Which frames of each row are masked, [batch, frames], or None where none is.

    Drawn from a stream of their own: masking changes neither crops nor augmentation.
    """
    if learner.masking is None:
        return None
    key = jax.random.fold_in(jax.random.fold_in(run.key, MASKING), state.step)
    keys = _row_keys(learner, key, len(num_frames))
    mask = jax.vmap(lambda key, count: mask_spans(key, count, inputs.shape[1], learner.masking))
    return mask(keys, num_frames)


def _row_keys(learner: Learner, key: Key[Array, ""], num_rows: int) -> Key[Array, " rows"]:
    """A key for each of this device's rows, which does not depend on how many devices share the batch."""
    if not learner.axis_name:
        return jax.random.split(key, num_rows)
    return _own_rows(learner, jax.random.split(key, num_rows * jax.lax.axis_size(learner.axis_name)), num_rows)


def _own_rows(learner: Learner, whole: Any, num_rows: int) -> Any:
    """This device's rows of arrays of the whole batch."""
    first = jax.lax.axis_index(learner.axis_name) * num_rows
    return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, first, num_rows), whole)


def _over_devices(learner: Learner, sums: Any) -> Any:
    """Sums over the devices that share a batch."""
    return jax.lax.psum(sums, learner.axis_name) if learner.axis_name else sums


def _update(
    learner: Learner, state: State, run: Run, gradient: dict, batch_stats: dict, metrics: dict[str, Array]
) -> tuple[State, dict[str, Array]]:
    """Updates the parameters, see `optimizers`, then the moving averages; or freezes a run that diverges.

    A run diverges where the loss, the gradient, or what they make of parameters and statistics is not finite. From that
    step on nothing of it changes but the number of steps, and its metrics are zero. So it is with one that was stopped.
    """
    optimizer = learner.optimizer
    decays, rates = packing.treatment(learner, state)
    gradient, batch_stats = packing.as_state_has(state, gradient), packing.as_state_has(state, batch_stats)
    gradient = jax.tree.map(lambda leaf, rate: jnp.zeros_like(leaf) if _is_zero(rate) else leaf, gradient, rates)
    norm = optax.tree.norm(gradient)
    updates, optimizer_state = optimizer.transformation.update(gradient, state.optimizer, state.parameters)
    learning_rate = run.learning_rate * optimizer.schedule(state.step)

    def stepped(parameter: Array, update: Array, decays: bool | np.ndarray, rate: float | np.ndarray) -> Array:
        if _is_zero(rate):
            return parameter
        decayed = jnp.where(decays, update - run.weight_decay * parameter, update)
        return parameter + rate * learning_rate * decayed

    parameters = jax.tree.map(stepped, state.parameters, updates, decays, rates)
    # The average starts short and lengthens to ema_decay, so that the first parameters, drawn at random, do not linger.
    decay = jnp.minimum(run.ema_decay, (1.0 + state.step) / (10.0 + state.step)) if learner.averages else 0.0
    after = state.replace(
        parameters=parameters,
        batch_stats=batch_stats,
        optimizer=optimizer_state,
        ema_parameters=optax.incremental_update(parameters, state.ema_parameters, 1.0 - decay),
        ema_batch_stats=optax.incremental_update(batch_stats, state.ema_batch_stats, 1.0 - decay),
    )
    finite = jnp.isfinite(metrics["loss"] + norm + optax.tree.norm((parameters, batch_stats)))
    active = state.diverged_at < 0
    if state.selection is not None:
        active &= state.selection.stopped_at < 0
    well, step = finite & active, state.step + 1
    state = jax.tree.map(lambda new, old: old if new is old else jnp.where(well, new, old), after, state)
    state = state.replace(step=step, diverged_at=jnp.where(active & ~finite, step, state.diverged_at))
    metrics = {**metrics, "gradient_norm": norm, "learning_rate": learning_rate, "steps": jnp.ones(())}
    return state, jax.tree.map(lambda value: jnp.where(well, value, 0.0), metrics)


def _is_zero(rate: float | np.ndarray) -> bool:
    """Whether a parameter is frozen."""
    return isinstance(rate, float) and rate == 0
