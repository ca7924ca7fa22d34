"""All of a prediction as one function of a waveform: silence, windows, features, network, the mean over runs."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ser_jax.corpora.corpus import SAMPLE_RATE
from ser_jax.errors import UserError
from ser_jax.frontend import features, num_frames
from ser_jax.inference.restore import Network, restore_network
from ser_jax.training import heads
from ser_jax.training.precision import activations_dtype, products_in
from ser_jax.training.setup import restored_targets
from ser_jax.training.state import State, variables

_FRAME, _HOP, _BLOCK = (
    512,
    160,
    32,
)  # samples: those of `ser_jax.corpora.silence`, and what divides half a frame and a hop


@dataclasses.dataclass(frozen=True)
class Program:
    """What an export holds.

    Attributes:
      call: (waveform [max_samples] in [-1, 1) at 16 kHz, number of samples that count) -> probabilities [emotions],
        NaN for a recording that is too short for the model.
      emotions: in the order of the probabilities.
      max_samples: of the longest recording.
    """

    call: Callable[[Float[Array, " samples"], Int[Array, ""]], Float[Array, " emotions"]]
    emotions: tuple[str, ...]
    max_samples: int


def check_exportable(metadata: Mapping[str, Any], where: str) -> None:
    """Raises `UserError` where a network does not tell a recording's emotion from its waveform alone."""
    config = metadata["config"]
    if metadata["corpus"].get("features"):
        raise UserError(f"{where}: the model takes pre-extracted features; expected one that takes recordings")
    for group, option in (("frontend", "normalization"), ("evaluation", "batch_statistics")):
        if config[group][option] == "speaker":
            raise UserError(
                f"{where}: config.{group}.{option} is speaker, which needs the speaker's other recordings; expected a "
                "model that judges a recording by itself"
            )


def make_program(metadata: Mapping[str, Any], folder: Path, chosen: Sequence[int], seconds: float) -> Program:
    """Returns the mean over the runs `chosen` of a variant's folder, for recordings of at most `seconds`."""
    config, emotions = metadata["config"], metadata["corpus"]["emotions"]
    network, state = restore_network(metadata, folder)
    state = jax.tree.map(lambda leaf: jnp.asarray(leaf[jnp.asarray(chosen)]), state)
    targets = restored_targets(metadata["targets"], emotions)
    crop = config["evaluation"]["window_seconds"] or config["training"]["crop_seconds"]
    window = max(round(crop * SAMPLE_RATE), 1)
    max_samples = max(round(seconds * SAMPLE_RATE), window)
    precision = config["training"]["precision"]

    def of_window(waveform: Array, num_samples: Array) -> Array:
        def of_run(own: State) -> Array:
            x, frames = features(network.frontend, waveform[None], num_samples[None], own.feature_statistics)
            output = network.model.apply(variables(own), x.astype(activations_dtype(precision)), frames, train=False)
            # Outputs for dimensions such as arousal follow those of the emotions, and are left out.
            logits = output.logits[:, : output.logits.shape[1] - len(targets.dimension_names)]
            return heads.probabilities(targets.heads, logits, jnp.full((1,), -1, jnp.int32))[0]

        return jnp.mean(jax.vmap(of_run)(state), axis=0)

    def call(waveform: Array, num_samples: Array) -> Array:
        num_samples = jnp.clip(num_samples, 0, max_samples)
        with products_in(precision):
            # As 16-bit samples, since recordings are kept so; what lies behind the last sample counts as zero.
            samples = jnp.clip(jnp.round(waveform * 32768.0), -32768, 32767)
            samples = jnp.where(jnp.arange(max_samples) < num_samples, samples, 0.0)
            begin, end = jnp.int32(0), num_samples
            if network.frontend.trim_db:
                begin, end = _speech_bounds(samples, num_samples, network.frontend.trim_db)
            return _mean_over_windows(
                of_window, samples / 32768.0, begin, end, window, _too_short(network, end - begin)
            )

    return Program(call, tuple(emotions), max_samples)


def _too_short(network: Network, num_samples: Array) -> Array:
    return num_frames(network.frontend, num_samples) < max(network.min_frames, 1)


def window_start(i: Array, last: Array, gaps: Array) -> Array:
    """Returns the nearest sample of i * last / gaps, and of two the even one, without a product beyond int32."""
    least, more = last // gaps, last % gaps
    whole, rest = i * least + i * more // gaps, i * more % gaps
    return whole + (2 * rest > gaps) + ((2 * rest == gaps) & (whole % 2 == 1))


def _mean_over_windows(
    of_window: Callable[[Array, Array], Array], waveform: Array, begin: Array, end: Array, window: int, refused: Array
) -> Array:
    """The mean over the windows that cover the samples from `begin` to `end`; see `inference.windows`."""
    padded = jnp.concatenate([waveform, jnp.zeros(window)])
    length = end - begin
    count = jnp.maximum(-(-length // window), 1)
    last, gaps = jnp.maximum(length - window, 0), jnp.maximum(count - 1, 1)
    own = jnp.minimum(length, window)

    def add(i: Array, total: Array) -> Array:
        start = begin + window_start(i, last, gaps)
        cut = jax.lax.dynamic_slice_in_dim(padded, start, window)
        return total + of_window(jnp.where(jnp.arange(window) < own, cut, 0.0), own)

    shape = jax.eval_shape(of_window, padded[:window], own)
    mean = jax.lax.fori_loop(0, count, add, jnp.zeros(shape.shape, shape.dtype)) / count
    return jnp.where(refused, jnp.nan, mean)


def _speech_bounds(samples: Array, num_samples: Array, trim_db: float) -> tuple[Array, Array]:
    """What `ser_jax.corpora.silence.speech_bounds` finds, as part of a program; `samples` are zero after the last."""
    centers = len(samples) // _HOP + 1
    stride, side = _HOP // _BLOCK, _FRAME // _BLOCK
    blocks = stride * (centers - 1) + side
    padded = jnp.pad(samples, (_FRAME // 2, max(blocks * _BLOCK - len(samples) - _FRAME // 2, 0)))[: blocks * _BLOCK]
    sums = jnp.sum(jnp.square(padded.reshape(blocks, _BLOCK)), axis=1)
    power = sum(sums[first : first + stride * (centers - 1) + 1 : stride] for first in range(side))
    there = jnp.arange(centers) * _HOP <= num_samples
    power = jnp.where(there, power, 0.0)
    loud = power > jnp.max(power) * 10 ** (-trim_db / 10)
    first, last = jnp.argmax(loud), centers - 1 - jnp.argmax(loud[::-1])
    silent = jnp.max(power) == 0
    begin = jnp.where(silent, 0, first * _HOP)
    end = jnp.where(silent, num_samples, jnp.minimum(last * _HOP + _HOP, num_samples))
    return begin.astype(jnp.int32), end.astype(jnp.int32)
