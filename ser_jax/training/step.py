"""One training step and one evaluation, for one run: pure functions that populations spread over runs and devices."""

import functools

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from ser_jax.feeds.batch import Batch
from ser_jax.feeds.resident import Resident, crop_batch, window_batch
from ser_jax.frontend import augment_features, augment_waveform, features, mixup
from ser_jax.models.output import Output
from ser_jax.training.objectives import concordance, cross_entropy, token_cross_entropy
from ser_jax.training.state import AUGMENTATION, CROP, DROPOUT, Learner, Run, State, variables


def train_step(
    learner: Learner, state: State, run: Run, rows: Int[Array, " batch"], resident: Resident
) -> tuple[State, dict[str, Float[Array, ""]]]:
    """Trains on one batch: the utterances `rows` of the resident corpus, cropped and augmented on the device.

    Returns the new state and metrics as sums, those of `metric_names`.
    """
    crop_key, augment_key, dropout_key = (
        jax.random.fold_in(jax.random.fold_in(run.key, purpose), state.step)
        for purpose in (CROP, AUGMENTATION, DROPOUT)
    )
    batch = crop_batch(resident, rows, crop_key, learner.crop_samples, run.strengths.speed, learner.frontend)
    inputs, num_frames, targets = _training_input(learner, state, run, batch, augment_key)

    def objective(parameters: Array) -> tuple[Array, tuple]:
        output, updates = learner.model.apply(
            {
                "params": learner.unravel_parameters(parameters),
                "batch_stats": learner.unravel_batch_stats(state.batch_stats),
            },
            inputs,
            num_frames,
            train=True,
            **({} if batch.tokens is None else {"tokens": batch.tokens, "label": targets}),
            rngs={"dropout": dropout_key},
            mutable=["batch_stats"],
        )
        loss, metrics = _losses(run, batch, targets, num_frames, output)
        return loss, (metrics, updates)

    gradient, (metrics, updates) = jax.grad(objective, has_aux=True)(state.parameters)
    batch_stats, _ = ravel_pytree(updates.get("batch_stats", {}))
    return _update(learner, state, run, gradient, batch_stats), metrics


def metric_names(resident: Resident) -> list[str]:
    """The sums that a training step gives.

    `loss` and its `weight`, `correct` and `count`; with text `text_loss` and `text_weight`, with tracks `concordance`.
    """
    names = ["loss", "weight", "correct", "count"]
    names += [] if resident.tokens is None else ["text_loss", "text_weight"]
    return names + ([] if resident.tracks is None else ["concordance"])


def _losses(
    run: Run, batch: Batch, targets: Array, num_frames: Array, output: Output
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The weighted sum of the losses, and their parts as sums."""
    loss, weight = cross_entropy(output.logits, targets, batch.weight, run.class_weights, run.label_smoothing)
    correct = jnp.sum((jnp.argmax(output.logits, -1) == batch.label) * batch.weight)
    metrics = {"loss": loss, "weight": weight, "correct": correct, "count": jnp.sum(batch.weight)}
    total = run.loss_weights["emotion"] * loss / weight
    if batch.tokens is not None:
        text_loss, text_weight = token_cross_entropy(output.tokens, batch.tokens, batch.weight)
        metrics |= {"text_loss": text_loss, "text_weight": text_weight}
        total += run.loss_weights["text"] * text_loss / jnp.maximum(text_weight, 1)  # no utterance may be whole
    if batch.tracks is not None:
        metrics["concordance"] = jnp.mean(concordance(output.tracks, batch.tracks, num_frames, batch.weight))
        total += run.loss_weights["tracks"] * (1 - metrics["concordance"])
    return total, metrics


def evaluate_batch(
    learner: Learner,
    state: State,
    start: Int[Array, " batch"],
    num_samples: Int[Array, " batch"],
    resident: Resident,
    window_samples: int,
) -> tuple[Float[Array, "batch classes"], Float[Array, "batch frames tracks"] | None]:
    """Returns class probabilities of windows of the resident corpus, with the averaged parameters, and their tracks."""
    batch = window_batch(resident, start, num_samples, window_samples)
    inputs, num_frames = features(learner.frontend, batch.waveform, batch.num_samples, state.feature_statistics)
    output = learner.model.apply(variables(learner, state), inputs, num_frames, train=False)
    return jax.nn.softmax(output.logits), output.tracks


def _training_input(learner: Learner, state: State, run: Run, batch: Batch, key: Array) -> tuple[Array, Array, Array]:
    waveform_key, features_key, mixup_key = jax.random.split(key, 3)
    # Every utterance has its own key: what happens to it does not depend on the batch beside it.
    keys = functools.partial(jax.random.split, num=batch.label.shape[0])
    frontend, waveform = learner.frontend, batch.waveform
    if frontend.kind != "precomputed":
        waveform = jax.vmap(augment_waveform, in_axes=(0, 0, 0, None))(
            keys(waveform_key), waveform, batch.num_samples, run.strengths
        )
    inputs, num_frames = features(frontend, waveform, batch.num_samples, state.feature_statistics)
    inputs = jax.vmap(
        functools.partial(augment_features, deltas=frontend.deltas, kind=frontend.kind), in_axes=(0, 0, 0, None)
    )(keys(features_key), inputs, num_frames, run.strengths)
    targets = jax.nn.one_hot(batch.label, learner.num_classes)
    return mixup(mixup_key, inputs, num_frames, targets, batch.weight, run.strengths.mixup)


def _update(learner: Learner, state: State, run: Run, gradient: Array, batch_stats: Array) -> State:
    """AdamW with decoupled weight decay (Loshchilov and Hutter 2019), then the moving averages."""
    updates, optimizer = learner.gradients.update(gradient, state.optimizer)
    learning_rate = run.learning_rate * learner.schedule(state.step)
    parameters = state.parameters - learning_rate * (updates + run.weight_decay * learner.decays * state.parameters)
    # The average starts short and lengthens to ema_decay, so that the first parameters, drawn at random, do not linger.
    decay = jnp.minimum(learner.ema_decay, (1.0 + state.step) / (10.0 + state.step)) if learner.ema_decay else 0.0
    return state.replace(
        step=state.step + 1,
        parameters=parameters,
        batch_stats=batch_stats,
        optimizer=optimizer,
        ema_parameters=optax.incremental_update(parameters, state.ema_parameters, 1.0 - decay),
        ema_batch_stats=optax.incremental_update(batch_stats, state.ema_batch_stats, 1.0 - decay),
    )
