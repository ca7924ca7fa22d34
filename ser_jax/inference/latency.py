"""How long a trained model takes for one utterance, beside others in the same process."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ser_jax.frontend import Statistics, features, num_features
from ser_jax.models.output import Output
from ser_jax.training.precision import activations_dtype, products_in
from ser_jax.training.state import Learner

SECONDS = 3.0  # of the utterance


def relative_latency(forwards: Mapping[str, Callable[[], Any]], repeats: int = 50) -> dict[str, dict[str, float]]:
    """Times calls that each return device arrays; returns {name: {"median_ms", "relative"}}, relative to the first.

    Every name is called once in each of `repeats` rounds, in another order each time, so that whatever else the machine
    does meets all alike; medians leave out what it does now and then. A call before them all, which compiles, does not
    count. `relative` is the median over rounds of the ratio to the first name's time in the same round.
    """
    for forward in forwards.values():
        jax.block_until_ready(forward())
    names = list(forwards)
    seconds = np.empty((repeats, len(names)))
    order = np.random.default_rng(0)
    for round_seconds in seconds:
        for i in order.permutation(len(names)):
            begun = time.perf_counter()
            jax.block_until_ready(forwards[names[i]]())
            round_seconds[i] = time.perf_counter() - begun
    medians = np.median(seconds, axis=0)
    relative = np.median(seconds / seconds[:, :1], axis=0)
    return {
        name: {"median_ms": 1000 * float(median), "relative": float(ratio)}
        for name, median, ratio in zip(names, medians, relative, strict=True)
    }


def one_utterance(
    learner: Learner, variables: dict, statistics: Statistics | None = None, seconds: float = SECONDS
) -> Callable[[], Array]:
    """Returns a compiled forward pass, frontend and model, of one utterance: its logits, [1, outputs].

    It computes in the learner's precision, as training and evaluation do.

    `variables` are those of one run (`ser_jax.training.state.variables`), and `statistics` its feature statistics,
    where the frontend normalises by them. The utterance is noise: no model here takes longer for one sound than for
    another. Pre-extracted features are taken as they are, `seconds` of them, or the one frame that an utterance has.
    """
    frontend = learner.frontend
    if frontend.normalization == "speaker":
        shape = (1, num_features(frontend))
        statistics = Statistics(np.zeros(shape, np.float32), np.ones(shape, np.float32))
    length = max(round(seconds * frontend.rate), 1)
    shape = (1, length, frontend.dims) if frontend.kind == "precomputed" else (1, length)
    waveform = jnp.asarray(0.1 * np.random.default_rng(0).standard_normal(shape), jnp.float32)
    num_samples = jnp.full((1,), length, jnp.int32)

    def forward(variables: dict, statistics: Statistics | None, waveform: Array, num_samples: Array) -> Array:
        inputs, num_frames = features(frontend, waveform, num_samples, statistics)
        inputs = inputs.astype(activations_dtype(learner.precision))
        output: Output = learner.model.apply(variables, inputs, num_frames, train=False)
        return output.logits

    # On the device once; arguments, not constants, which the compiler would fold.
    arguments = jax.device_put((variables, statistics, waveform, num_samples))
    with products_in(learner.precision):
        program = jax.jit(forward).lower(*arguments).compile()
    return lambda: program(*arguments)
