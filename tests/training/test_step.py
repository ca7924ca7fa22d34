"""Single steps of a model of a few parameters: what decays, what is drawn anew, and what a step that fails leaves."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ser_jax import config as configuration
from ser_jax.feeds.batch import Batch
from ser_jax.feeds.resident import Resident
from ser_jax.frontend import Frontend, Masking, Strengths, features
from ser_jax.models import build, layers
from ser_jax.models.output import Output
from ser_jax.training import packing
from ser_jax.training.arrays import named_arrays
from ser_jax.training.objectives import cross_entropy
from ser_jax.training.state import Run, initialise, make_learner, variables
from ser_jax.training.step import _accumulated, _training_input, _update, embed_batch, evaluate_batch, train_step
from tests.training.tiny import vectors

OPTIMIZER = configuration.default()["optimizer"] | {"schedule": "constant", "ema_decay": 0.5}
ROWS = jnp.arange(4)
LENGTH, FRAMES = 4000, 11
FRONTEND = Frontend(num_mels=4, window_ms=50.0, hop_ms=25.0, normalization="none")


def learner_of(model, crop_samples, frontend=FRONTEND, masking=None, **changes):
    return make_learner(
        model,
        frontend,
        num_classes=3,
        crop_samples=crop_samples,
        num_steps=10,
        warmup_steps=0,
        optimizer=OPTIMIZER | changes,
        masking=masking,
    )


def run_of(**changes):
    values = {
        "key": jax.random.key(3),
        "learning_rate": np.float32(0.1),
        "weight_decay": np.float32(0.0),
        "label_smoothing": np.float32(0.0),
        "class_weights": np.ones(3, np.float32),
        "loss_weights": {"emotion": np.float32(1), "frames": np.float32(1)},
        "strengths": jax.tree.map(np.float32, Strengths()),
        "ema_decay": np.float32(0.5),
    }
    return Run(**values | changes)


@pytest.fixture(scope="module")
def resident():
    rng = np.random.default_rng(0)
    return Resident(
        samples=rng.normal(0, 3000, 4 * LENGTH).astype(np.int16),
        start=np.arange(4, dtype=np.int32) * LENGTH,
        num_samples=np.full(4, LENGTH, np.int32),
        label=np.array([0, 1, 2, 0], np.int32),
    )


def begun(learner):
    """A state whose parameters, biases among them, are not zero."""
    state = initialise(learner, jax.random.key(0), None)
    return state.replace(parameters=jax.tree.map(lambda leaf: leaf + 0.3, state.parameters))


LEARNERS = {name: learner_of(build("linear", 3), samples) for name, samples in (("crop", 2000), ("whole", LENGTH))}


@functools.cache
def stepper(name):
    return jax.jit(functools.partial(train_step, LEARNERS[name]))


@pytest.mark.parametrize(
    ("optimizer", "selects", "copies"),
    [("adamw", False, 9), ("adamw", True, 10), ("sgd", False, 5), ("lamb", False, 5)],
)
def test_what_a_run_keeps_is_its_state_a_gradient_and_the_vectors_of_what_is_packed(optimizer, selects, copies):
    learner = dataclasses.replace(learner_of(build("linear", 3), 2000, name=optimizer), selects=selects)
    state = jax.eval_shape(lambda key: initialise(learner, key, None), jax.random.key(0))
    packed = jax.eval_shape(functools.partial(packing.packed, learner), state)
    vectors = [leaf for leaf in jax.tree.leaves(packed) if leaf.shape == (learner.num_parameters,)]
    sizes = [leaf.size for leaf in (*jax.tree.leaves(state), *vectors)]
    found = learner.num_kept
    assert abs(sum(sizes) + learner.num_parameters - found) <= 6  # where it is in the training, and of validations
    assert 0 <= found - copies * learner.num_parameters <= 5


def weighed(times, logits, targets, weight, class_weights, label_smoothing, possible=None):
    loss, sum_of_weights = cross_entropy(logits, targets, weight, class_weights, label_smoothing, possible)
    return loss, times * sum_of_weights


def test_the_gradient_is_divided_by_the_weight_that_the_loss_itself_returns(resident):
    learner = dataclasses.replace(LEARNERS["crop"], loss=functools.partial(weighed, 4.0))
    steps = stepper("crop"), jax.jit(functools.partial(train_step, learner))
    norms = [float(step(begun(learner), run_of(), ROWS, resident)[1]["gradient_norm"]) for step in steps]
    assert norms[0] > 0.01
    np.testing.assert_allclose(norms[1], norms[0] / 4, rtol=1e-5)


def test_weight_decay_pulls_at_kernels_and_at_nothing_else(resident):
    state = begun(LEARNERS["crop"])
    ends = [
        stepper("crop")(state, run_of(weight_decay=np.float32(decay)), ROWS, resident)[0].parameters["classifier"]
        for decay in (0.0, 0.5)
    ]
    kernel = state.parameters["classifier"]["kernel"]
    np.testing.assert_allclose(ends[1]["kernel"] - ends[0]["kernel"], -0.1 * 0.5 * kernel, atol=1e-6)
    np.testing.assert_array_equal(ends[1]["bias"], ends[0]["bias"])


class Dropping(nn.Module):
    """The mean over time, much of which is dropped."""

    dropout: Any

    @nn.compact
    def __call__(self, inputs, num_frames, *, train):
        x = jnp.mean(inputs, axis=1)
        return Output(nn.Dense(3)(layers.dropout(x, self.dropout, self.make_rng("dropout")) if train else x))


def test_a_rate_of_a_run_does_what_it_does_as_a_constant_of_the_model(resident):
    def norm_of(step, learner, **changes):
        return float(step(begun(learner), run_of(**changes), ROWS, resident)[1]["gradient_norm"])

    any_rate, constant = (learner_of(Dropping(rate), 2000) for rate in (0.5, 0.3))
    steps = [jax.jit(functools.partial(train_step, learner)) for learner in (any_rate, constant)]
    little, much = (norm_of(steps[0], any_rate, rates={"dropout": np.float32(rate)}) for rate in (0.3, 0.8))
    np.testing.assert_allclose(little, norm_of(steps[1], constant), rtol=1e-4)
    assert abs(much / little - 1) > 0.01


def gradient_at(name, resident, step, strengths=None, key=3):
    """What the gradient of a step is, from the first moment that it leaves."""
    strengths = jax.tree.map(np.float32, strengths or Strengths())
    state = begun(LEARNERS[name]).replace(step=jnp.int32(step))
    after, _ = stepper(name)(state, run_of(strengths=strengths, key=jax.random.key(key)), ROWS, resident)
    return vectors(after.optimizer, 1)


@pytest.mark.parametrize(
    ("name", "strengths"),
    [
        ("crop", None),
        ("whole", Strengths(noise=1.0)),
        ("whole", Strengths(spec_augment=1.0)),
        ("whole", Strengths(mixup=1.0)),
    ],
    ids=["crop", "noise", "spec_augment", "mixup"],
)
def test_every_step_and_every_run_draws_anew(resident, name, strengths):
    first, again, later, other = (
        gradient_at(name, resident, step, strengths, key) for step, key in ((0, 3), (0, 3), (1, 3), (0, 4))
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - later).max() > 1e-5
    assert np.abs(first - other).max() > 1e-5


def test_a_whole_utterance_without_augmentation_is_the_same_at_every_step(resident):
    """So that what the test above sees are the draws, and not the number of the step."""
    np.testing.assert_array_equal(gradient_at("whole", resident, 0), gradient_at("whole", resident, 1))


def test_waveforms_and_features_are_augmented_by_draws_of_their_own(resident, monkeypatch):
    def of_waveform(key, waveform, num_samples, strengths, active):
        return jnp.full_like(waveform, jax.random.uniform(key))

    def of_features(key, features, num_frames, strengths, deltas, kind, active):
        return features - jax.random.uniform(key)

    monkeypatch.setattr("ser_jax.training.step.augment_waveform", of_waveform)
    monkeypatch.setattr("ser_jax.training.step.augment_features", of_features)
    learner = learner_of(build("linear", 3), 20, dataclasses.replace(FRONTEND, kind="waveform"))
    waveform, number = jnp.zeros((4, 20)), jnp.full(4, 20, jnp.int32)
    batch = Batch(waveform, number, resident.label, jnp.ones(4))
    found, *_ = _training_input(learner, begun(learner), run_of(), batch, jnp.ones((4, 3)), jax.random.key(0))
    assert len(np.unique(found[:, 0])) == 4 and np.abs(found).min() > 1e-3


def test_other_frames_are_hidden_at_every_step(resident):
    frontend = Frontend(num_mels=4, window_ms=50.0, hop_ms=25.0, normalization="utterance")
    learner = learner_of(build("rnn", 3, reconstruction=4, hidden=4), LENGTH, frontend, Masking(share=0.5, span=2))
    step = jax.jit(functools.partial(train_step, learner))
    state = begun(learner)
    losses = [
        float(step(state.replace(step=jnp.int32(number)), run_of(), ROWS, resident)[1]["frames_loss"])
        for number in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_a_state_keeps_no_chosen_parameters_where_validation_chooses_none():
    model = build("linear", 3)
    assert begun(learner_of(model, 2000)).selection is None
    assert begun(dataclasses.replace(learner_of(model, 2000), selects=True)).selection is not None


class Remembers(nn.Module):
    """A model whose statistics are the features that it was given."""

    @nn.compact
    def __call__(self, features, num_frames, *, train):
        seen = self.variable("batch_stats", "seen", jnp.zeros, (len(ROWS), FRAMES, features.shape[-1]))
        if train:
            seen.value = features
        scale = self.param("scale", nn.initializers.ones, ())
        return Output(jnp.zeros((len(features), 3)) * scale, reconstruction=features * scale)


def test_a_hidden_frame_is_the_mean_of_normalised_features_and_the_others_are_as_they_were(resident):
    frontend = Frontend(num_mels=4, window_ms=50.0, hop_ms=25.0, normalization="utterance")
    given = []
    for masking in (None, Masking(share=0.5, span=2)):
        learner = learner_of(Remembers(), LENGTH, frontend, masking)
        state = initialise(learner, jax.random.key(0), None)
        state, _ = jax.jit(functools.partial(train_step, learner))(state, run_of(), ROWS, resident)
        given.append(np.asarray(state.batch_stats["seen"]))
    whole, masked = given
    hidden = (masked == 0).all(axis=-1)
    np.testing.assert_array_equal(masked[~hidden], whole[~hidden])
    np.testing.assert_array_equal(hidden.sum(axis=1), 6)  # of 11: three spans of two
    assert not (whole == 0).all(axis=-1).any()


def test_nothing_is_dropped_when_a_model_is_evaluated(resident):
    learner = learner_of(build("rnn", 3, hidden=4, depth=1, dropout=0.5), LENGTH)
    state = begun(learner)
    waveform = jnp.asarray(resident.samples.reshape(4, LENGTH), jnp.float32) / 32768
    lengths = jnp.asarray(resident.num_samples)

    @jax.jit
    def expected():
        inputs, frames = features(FRONTEND, waveform, lengths)
        return jax.nn.softmax(learner.model.apply(variables(state), inputs, frames, train=False).logits)

    windows = jnp.asarray(resident.start), lengths, ROWS, jax.tree.map(jnp.asarray, resident)
    evaluate = functools.partial(evaluate_batch, learner, window_samples=LENGTH, batch_statistics="running")
    np.testing.assert_allclose(jax.jit(evaluate)(state, *windows)[0], expected(), atol=1e-5)
    embed = functools.partial(embed_batch, learner, window_samples=LENGTH, batch_statistics="running")
    probabilities, _, vectors = jax.jit(embed)(state, *windows)
    classifier = state.ema_parameters["classifier"]
    np.testing.assert_allclose(probabilities, expected(), atol=1e-5)
    logits = vectors @ classifier["kernel"] + classifier["bias"][None]
    np.testing.assert_allclose(jax.nn.softmax(logits), expected(), atol=1e-5)


class Skipping(nn.Module):
    """The mean over time, of which another rate than that of dropout is dropped; from outside, without an axis name."""

    skipped: Any

    @nn.compact
    def __call__(self, inputs, num_frames, *, train):
        x = jnp.mean(inputs, axis=1)
        if train and layers.is_on(self.skipped):
            x = layers.dropout(x, self.skipped, self.make_rng("dropout"))
        return Output(nn.Dense(3, name="classifier")(x))


def test_no_rate_of_a_model_acts_when_a_speaker_s_batch_normalises(resident):
    learner = dataclasses.replace(learner_of(Skipping(0.5), LENGTH), rates=("skipped",))
    windows = jnp.asarray(resident.start), jnp.asarray(resident.num_samples), ROWS, jax.tree.map(jnp.asarray, resident)
    own, running = (
        evaluate_batch(learner, begun(learner), *windows, LENGTH, statistics)[0]
        for statistics in ("speaker", "running")
    )
    np.testing.assert_allclose(own, running, atol=1e-6)


@pytest.mark.parametrize("broken", [{"learning_rate": np.float32(np.nan)}, {"learning_rate": np.float32(1e38)}])
def test_a_run_that_diverges_is_frozen_as_it_was_before(resident, broken):
    state = begun(LEARNERS["crop"])
    well, metrics = stepper("crop")(state, run_of(), ROWS, resident)
    assert well.diverged_at == -1 and metrics["steps"] == 1 and metrics["gradient_norm"] > 0
    frozen, metrics = stepper("crop")(well, run_of(**broken), ROWS, resident)
    assert frozen.step == 2 and frozen.diverged_at == 2
    assert not any(float(value) for value in metrics.values())
    # It stays so, also where what broke it is gone.
    later, metrics = stepper("crop")(frozen, run_of(), ROWS, resident)
    assert later.step == 3 and later.diverged_at == 2 and not float(metrics["steps"])
    for state in (frozen, later):
        jax.tree.map(np.testing.assert_array_equal, state.replace(step=1, diverged_at=-1), well.replace(step=1))


def test_a_loss_that_is_not_finite_freezes_a_run_too(resident):
    state = begun(LEARNERS["crop"])
    after, _ = stepper("crop")(state, run_of(class_weights=np.full(3, np.inf, np.float32)), ROWS, resident)
    assert after.diverged_at == 1
    jax.tree.map(np.testing.assert_array_equal, after.parameters, state.parameters)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("linear", {}, False),
        ("transformer", {}, True),
        ("shufflenet_v2", {"width": "tiny"}, False),
        ("shufflenet_v2", {"width": "tiny", "attention": "eca"}, True),
    ],
)
def test_a_learner_says_whether_there_is_attention_to_draw(name, options, expected):
    assert learner_of(build(name, 3, **options), 2000).attends is expected


def test_the_default_is_adamw_with_a_cosine_and_short_averages_at_first():
    """Against optax's own AdamW, its schedule and mask, on gradients that are made up."""
    options = configuration.default()["optimizer"]
    learner = make_learner(
        build("linear", 3), FRONTEND, num_classes=3, crop_samples=2000, num_steps=10, warmup_steps=3, optimizer=options
    )
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.02, warmup_steps=3, decay_steps=10)
    twin = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, weight_decay=0.3, mask={"classifier": {"kernel": True, "bias": False}}),
    )
    statistics = {"mean": jnp.array([1.0, -2.0])}
    state = begun(learner).replace(batch_stats=statistics, ema_batch_stats=statistics)
    expected, average, twin_state = state.parameters, state.ema_parameters, twin.init(state.parameters)
    average_statistics = statistics
    run = run_of(learning_rate=np.float32(0.02), weight_decay=np.float32(0.3))
    rng = np.random.default_rng(0)
    for step in range(6):
        gradient = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), expected)
        metrics = {"loss": jnp.ones(())}
        statistics = {"mean": jnp.asarray(rng.normal(size=2), jnp.float32)}
        state, metrics = _update(learner, state, run, gradient, statistics, metrics)
        np.testing.assert_allclose(metrics["learning_rate"], schedule(step), rtol=1e-6)
        np.testing.assert_allclose(metrics["gradient_norm"], optax.tree.norm(gradient), rtol=1e-6)
        updates, twin_state = twin.update(gradient, twin_state, expected)
        expected = optax.apply_updates(expected, updates)
        decay = min(options["ema_decay"], (1 + step) / (10 + step))
        average, average_statistics = jax.tree.map(
            lambda a, b, decay=decay: decay * a + (1 - decay) * b,
            (average, average_statistics),
            (expected, statistics),
        )
        for found, wanted in (
            (state.parameters, expected),
            (state.ema_parameters, average),
            (state.ema_batch_stats, average_statistics),
        ):
            jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), found, wanted)


def test_a_frozen_layer_stays_has_no_moments_and_a_slow_one_moves_by_its_share(resident):
    def moved(**rates):
        learner = learner_of(build("linear", 3), 2000, rates=list(rates.items()))
        state = begun(learner)
        run = run_of(weight_decay=np.float32(0.5))
        after, metrics = jax.jit(functools.partial(train_step, learner))(state, run, ROWS, resident)
        difference = jax.tree.map(lambda a, b: np.asarray(a - b), after.parameters, state.parameters)["classifier"]
        return difference, named_arrays(after.optimizer), metrics["gradient_norm"]

    everything, moments, norm = moved()
    slow, _, _ = moved(bias=0.25)
    np.testing.assert_allclose(slow["bias"], 0.25 * everything["bias"], rtol=1e-5)
    np.testing.assert_array_equal(slow["kernel"], everything["kernel"])
    frozen, fewer, smaller = moved(kernel=0)
    assert not frozen["kernel"].any() and np.abs(frozen["bias"]).min() > 0
    assert sum("kernel" in name for name in moments) == 2 and not any("kernel" in name for name in fewer)
    assert smaller < norm


def test_every_part_of_a_batch_drops_out_by_a_draw_of_its_own():
    def gradient_of(batch_stats, example, key):
        draw = jax.random.uniform(key)
        return {"kernel": draw}, ({"squares": draw**2}, batch_stats)

    learner = dataclasses.replace(LEARNERS["crop"], accumulate=4)
    gradient, metrics, _ = _accumulated(learner, {}, gradient_of, (jnp.zeros((8, 3)),), jax.random.key(0))
    assert 4 * metrics["squares"] > 1.05 * gradient["kernel"] ** 2  # equal for draws that are the same
