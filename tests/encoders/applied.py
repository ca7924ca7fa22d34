"""Encoders applied to waveforms, for tests that compare what they make of these."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ser_jax.encoders import weights


def to_float64(spec, tensors):
    """Parameters without the rounding to float32 that `clean_names` makes."""
    return weights.to_parameters(spec, weights.clean_names(tensors, np.float64), "test")


def apply(spec, parameters, *waveforms, dtype=jnp.float64, pad=0, **attributes):
    """Hidden states of a batch, in which whatever is past the end of an utterance is loud."""
    longest = max(map(len, waveforms)) + pad
    batch = jnp.asarray(np.stack([np.pad(w, (0, longest - len(w)), constant_values=9.0) for w in waveforms]), dtype)
    module = weights.make_module(spec, dtype=dtype, **attributes)
    return run(module, parameters, batch, jnp.array([len(w) for w in waveforms]))


@functools.partial(jax.jit, static_argnums=0)
def run(module, parameters, batch, num_samples):
    return module.apply({"params": parameters}, batch, num_samples)


def noise(samples, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, samples)
