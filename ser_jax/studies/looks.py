"""The attention weights of a run of a population for one recording."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ser_jax.corpora.corpus import waveform
from ser_jax.inference import attention
from ser_jax.inference.attention import Look
from ser_jax.training import devices, heads
from ser_jax.training.population import Population
from ser_jax.training.state import State, variables
from ser_jax.training.step import split_outputs


def describe(seen: Look) -> str:
    """Returns the most probable emotion and its probability; "" of a model without emotions."""
    if not seen.probabilities:
        return ""
    emotion = max(seen.probabilities, key=seen.probabilities.get)
    return f": {emotion} {seen.probabilities[emotion]:.2f}"


def look_into(population: Population, state: State, run: int, row: int) -> Look:
    """Returns what run number `run` looked at in the first window of utterance `row` of the population's corpus.

    `state` is that of all runs, [devices, runs per device, ...]. Batch normalisation takes its running averages, also
    where the evaluation takes the speaker's statistics: one window has none.
    """
    learner, vocabulary = population.learner, population.targets.vocabulary
    own = jax.tree.map(lambda leaf: leaf[run], devices.gather(state, len(population.runs)))
    statistics = own.feature_statistics
    if learner.frontend.normalization == "speaker":
        statistics = jax.tree.map(lambda leaf: np.asarray(leaf)[row][None], population.resident.statistics)
    source = None
    if learner.heads is not None:
        source = jnp.asarray(heads.source_numbers(learner.heads, population.corpus)[[row]])

    def probabilities_of(outputs: Array) -> Array:
        return heads.probabilities(learner.heads, split_outputs(learner, outputs)[0], source)

    # One recording, once: on an accelerator compiling would take many times as long as looking.
    with jax.default_device(devices.host()):
        return attention.look(
            learner.model,
            variables(own, population.encoder),
            learner.frontend,
            statistics,
            population.corpus.emotions,
            waveform(population.corpus, row)[: population.window_samples].astype(np.float32) / 32768,
            precision=learner.precision,
            symbols=(*vocabulary.symbols, "(end)") if vocabulary else (),
            probabilities_of=probabilities_of,
        )
