import dataclasses
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax import config as configuration
from ser_jax.frontend import Frontend, Statistics, features
from ser_jax.inference.latency import one_utterance, relative_latency
from ser_jax.models import build
from ser_jax.models.output import Output
from ser_jax.training import state as states


def test_medians_are_of_calls_in_turn_and_leave_the_first_call_and_a_rare_delay_out():
    calls = []

    def sleeps(name, seconds, first=0.0, rare=0.0):
        def forward():
            before = calls.count(name)
            calls.append(name)
            time.sleep(first if not before else rare if before == 4 and rare else seconds)
            return np.zeros(1)

        return forward

    found = relative_latency(
        {"plain": sleeps("plain", 0.02, first=0.25), "twice": sleeps("twice", 0.04, rare=0.5)}, repeats=9
    )
    assert list(found) == ["plain", "twice"]
    assert found["plain"]["relative"] == 1.0
    assert 20.0 <= found["plain"]["median_ms"] < 40.0
    assert 1.5 < found["twice"]["relative"] < 2.5
    # Warm-up, then rounds in which each is called once.
    assert calls[:2] == ["plain", "twice"]
    assert all(set(calls[i : i + 2]) == {"plain", "twice"} for i in range(0, len(calls), 2))
    assert len({tuple(calls[i : i + 2]) for i in range(2, len(calls), 2)}) == 2


def test_a_ratio_is_of_the_times_of_one_round(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def takes(*seconds):
        left = iter((0.0, *seconds))  # the first call does not count

        def forward():
            clock[0] += next(left)
            return np.zeros(1)

        return forward

    found = relative_latency({"plain": takes(1, 10, 100), "other": takes(3, 30, 10)}, repeats=3)
    assert found["other"] == {"median_ms": 10_000, "relative": 3}


@pytest.fixture(scope="module")
def learner():
    return states.make_learner(
        build("linear", 4),
        Frontend(num_mels=8, hop_ms=40.0, window_ms=50.0, normalization="train"),
        num_classes=4,
        crop_samples=8000,
        num_steps=2,
        warmup_steps=1,
        optimizer=configuration.default()["optimizer"],
    )


def test_the_forward_pass_of_an_utterance_is_frontend_and_model(learner):
    rng = np.random.default_rng(1)
    parameters = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), learner.parameters)
    names = [field.name for field in dataclasses.fields(states.State)]
    state = states.State(**dict.fromkeys(names) | {"ema_parameters": parameters, "ema_batch_stats": {}})
    variables = states.variables(state)
    statistics = Statistics(np.full(8, -3, np.float32), np.full(8, 2, np.float32))
    forward = one_utterance(learner, variables, statistics, seconds=0.5)

    waveform = (0.1 * np.random.default_rng(0).standard_normal((1, 8000))).astype(np.float32)
    inputs, num_frames = features(learner.frontend, jnp.asarray(waveform), jnp.array([8000]), statistics)
    expected = learner.model.apply(variables, inputs, num_frames, train=False).logits
    np.testing.assert_allclose(forward(), expected, atol=1e-4)

    found = relative_latency({"linear": forward, "again": forward}, repeats=5)
    assert found["linear"]["median_ms"] > 0 and 0.2 < found["again"]["relative"] < 5


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_timed_computes_in_the_precision_of_the_training(learner, precision):
    noted = []

    class Noting(nn.Module):
        @nn.compact
        def __call__(self, features, num_frames, *, train):
            noted.append((features.dtype.name, jax.config.jax_default_matmul_precision))
            return Output(jnp.zeros((1, 4)))

    statistics = Statistics(np.zeros(8, np.float32), np.ones(8, np.float32))
    one_utterance(dataclasses.replace(learner, model=Noting(), precision=precision), {}, statistics, seconds=0.5)
    assert set(noted) == {{"float32": ("float32", "highest"), "bfloat16": ("bfloat16", "bfloat16")}[precision]}
