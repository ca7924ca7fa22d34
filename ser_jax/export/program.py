"""All of a prediction as one function of a waveform: silence, windows, features, network, the mean over runs."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ser_jax.baselines import is_baseline, linear
from ser_jax.corpora.audio import SILENT, gain_of
from ser_jax.corpora.corpus import SAMPLE_RATE
from ser_jax.corpora.levels import GREATEST
from ser_jax.errors import UserError
from ser_jax.export import eight_bits
from ser_jax.export.encoder import check_hearing, make_hearing
from ser_jax.export.rounding import rounded_share
from ser_jax.frontend import features, num_frames
from ser_jax.inference.restore import restore_network
from ser_jax.training import heads
from ser_jax.training.precision import activations_dtype, products_in
from ser_jax.training.setup import restored_targets
from ser_jax.training.state import State, variables

_SECONDS = 30.0  # of the longest recording, if it is not said
_FRAME, _HOP = 512, 160  # samples: those of `ser_jax.corpora.silence`
_COLUMNS = 512  # of positions
_BLOCK = 32  # samples: divides half a frame and a hop


@dataclasses.dataclass(frozen=True)
class Program:
    """What an export holds.

    Attributes:
      call: (waveform [max_samples] in [-1, 1) at 16 kHz, number of samples that count) -> probabilities [emotions],
        NaN for a recording that is too short for the model, has more samples than the waveform, or NaN or infinity
        among them. Another level is scaled as `ser_jax.corpora.audio.heard` scales it.
      emotions: in the order of the probabilities.
      max_samples: of the longest recording.
      int8: whether weights are rounded to 8 bits.
      num_rounded: how many weights are.
      num_weights: how many there are, those of an encoder included.
    """

    call: Callable[[Float[Array, " samples"], Int[Array, ""]], Float[Array, " emotions"]]
    emotions: tuple[str, ...]
    max_samples: int
    int8: bool = False
    num_rounded: int = 0
    num_weights: int = 0


@dataclasses.dataclass(frozen=True)
class Recogniser:
    """What tells the emotion of a window of samples, or of frames of hidden states.

    Attributes:
      of_window: (window, how many of it count) -> probabilities.
      window: how many samples or frames a window has.
      too_short: whether so many samples or frames are too few.
      precision: of its products.
      trim_db: of its frontend; 0 for one that takes hidden states.
      sizes: how many of its weights are rounded to 8 bits, and how many there are.
    """

    of_window: Callable[[Array, Array], Array]
    window: int
    too_short: Callable[[Array], Array]
    precision: str
    trim_db: float = 0.0
    sizes: tuple[int, int] = (0, 0)


def check_exportable(metadata: Mapping[str, Any], seconds: float | None, where: str) -> float:
    """Returns the seconds of the longest recording: what is asked for, or 30, or as many as its encoder hears at once.

    Raises `UserError` where a model does not tell a recording's emotion from its waveform alone.
    """
    config, described = metadata["config"], features_of(metadata)
    if not metadata["corpus"]["emotions"]:
        raise UserError(f"{where}: predicts dimensions alone; expected a model of emotions")
    longest = check_hearing(described.get("info", {}), seconds, where) if described else _SECONDS
    if is_baseline(config["model"]):
        if not described:
            raise UserError(f"{where}: a linear model on functionals cannot be exported; expected a network")
        return longest if seconds is None else seconds
    if config["model"].get("layers", 0) or config["frontend"]["kind"] == "waveform":
        raise UserError(
            f"{where}: computes layers of its encoder by itself, which cannot be exported; expected layers=0 and "
            "precomputed features"
        )
    for group, option in (("frontend", "normalization"), ("evaluation", "batch_statistics")):
        if config[group][option] == "speaker":
            raise UserError(
                f"{where}: config.{group}.{option} is speaker, which needs the speaker's other recordings; expected a "
                "model that judges a recording by itself"
            )
    return longest if seconds is None else seconds


def make_program(
    metadata: Mapping[str, Any],
    recogniser: Recogniser,
    seconds: float,
    data_dir: str | os.PathLike | None = None,
    int8: bool = False,
) -> Program:
    """Returns a recogniser's program, for recordings of at most `seconds`.

    `data_dir` holds its encoder, if it has one; with `int8` its weights have 8 bits. `check_exportable` has to have
    passed.
    """
    described = features_of(metadata)
    hearing = make_hearing(described["info"], data_dir, int8) if described else None
    max_samples = max(round(seconds * SAMPLE_RATE), 1 if hearing else recogniser.window)
    trim_db = hearing.trim_db if hearing else recogniser.trim_db
    num_rounded, num_weights = np.add(recogniser.sizes, hearing.sizes if hearing else (0, 0)).tolist()

    def call(waveform: Array, num_samples: Array) -> Array:
        refused = num_samples > max_samples  # its end is not here
        num_samples = jnp.clip(num_samples, 0, max_samples)
        # As 16-bit samples, since recordings are kept so; what lies behind the last sample counts as zero.
        there = _first(num_samples, max_samples)
        refused |= jnp.any(there & ~(jnp.abs(waveform) <= GREATEST))
        samples = jnp.clip(jnp.round(_gain(waveform, there) * waveform * 32768.0), -32768, 32767)
        samples = jnp.where(there, samples, 0.0)
        begin, end = _speech_bounds(samples, num_samples, trim_db) if trim_db else (jnp.int32(0), num_samples)
        inputs = samples / 32768.0
        if hearing:
            refused |= end - begin < hearing.min_samples
            speech = jax.lax.dynamic_slice_in_dim(jnp.pad(inputs, (0, max_samples)), begin, max_samples)
            inputs, end = hearing.call(jnp.where(_first(end - begin, max_samples), speech, 0.0), end - begin)
            begin = jnp.int32(0)
        with products_in(recogniser.precision):
            refused |= recogniser.too_short(end - begin)
            return _mean_over_windows(recogniser.of_window, inputs, begin, end, recogniser.window, refused)

    return Program(call, tuple(metadata["corpus"]["emotions"]), max_samples, int8, num_rounded, num_weights)


def of_network(metadata: Mapping[str, Any], folder: Path, chosen: Sequence[int], int8: bool = False) -> Recogniser:
    """Returns the mean over the runs `chosen` of a variant's folder; `int8`: with weights of 8 bits."""
    config = metadata["config"]
    network, state = restore_network(metadata, folder)
    state = jax.tree.map(lambda leaf: jnp.asarray(leaf[jnp.asarray(chosen)]), state)
    weights = eight_bits.packed(state.ema_parameters, stacked=True) if int8 else state.ema_parameters
    targets = restored_targets(metadata["targets"], metadata["corpus"]["emotions"])
    crop = config["evaluation"]["window_seconds"] or config["training"]["crop_seconds"]
    precision = config["training"]["precision"]

    def of_window(window: Array, length: Array) -> Array:
        def of_run(own: State) -> Array:
            x, frames = features(network.frontend, window[None], length[None], own.feature_statistics)
            output = network.model.apply(variables(own), x.astype(activations_dtype(precision)), frames, train=False)
            # Outputs for dimensions such as arousal follow those of the emotions, and are left out.
            logits = output.logits[:, : output.logits.shape[1] - len(targets.dimension_names)]
            return heads.probabilities(targets.heads, logits, jnp.full((1,), -1, jnp.int32))[0]

        return jnp.mean(jax.vmap(of_run)(state.replace(ema_parameters=eight_bits.unpacked(weights))), axis=0)

    def too_short(length: Array) -> Array:
        return num_frames(network.frontend, length) < max(network.min_frames, 1)

    window = max(round(crop * network.frontend.rate), 1)
    sizes = eight_bits.count(weights)
    return Recogniser(of_window, window, too_short, precision, network.frontend.trim_db, sizes)


def of_linear(fitted: Sequence[linear.Fitted]) -> Recogniser:
    """Returns the mean over the folds of a linear model on the pooled states of an encoder."""
    fields = ("mean", "scale", "coefficients", "intercept")
    mean, scale, coefficients, intercept = (
        jnp.asarray(np.stack([getattr(one, name) for one in fitted]), jnp.float32) for name in fields
    )

    def of_window(pooled: Array, length: Array) -> Array:
        values = (pooled - mean) / scale  # of the one row that there is, for each fold
        scores = jnp.einsum("rd,rcd->rc", values, coefficients, precision="highest") + intercept
        return jnp.mean(jax.nn.softmax(scores, axis=-1), axis=0)

    return Recogniser(of_window, 1, lambda length: jnp.array(False), "float32", sizes=(0, coefficients.size))


def features_of(metadata: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Returns what the metadata say of the pre-extracted features that a model takes; None: it takes recordings."""
    return metadata.get("features") or metadata["corpus"].get("features")


def _first(number: Array, size: int) -> Bool[Array, " size"]:
    """Returns which of `size` positions are the first `number`.

    As rows and columns: a converter that computes constants beforehand would keep all positions in its file.
    """
    columns = min(size, _COLUMNS)
    rows = jnp.arange(-(-size // columns), dtype=jnp.int32)[:, None] * columns
    return (rows < (number - jnp.arange(columns, dtype=jnp.int32))[None]).reshape(-1)[:size]


def _gain(waveform: Array, there: Bool[Array, " samples"]) -> Array:
    """By what `ser_jax.corpora.audio.heard` scales samples, of which those that are `there` count."""
    samples = jnp.where(there, waveform, waveform[0])
    low, high = jnp.min(samples), jnp.max(samples)
    return jnp.where(high - low <= SILENT, 1.0, gain_of(jnp.maximum(high, -low), where=jnp.where))


def _mean_over_windows(
    of_window: Callable[[Array, Array], Array], inputs: Array, begin: Array, end: Array, window: int, refused: Array
) -> Array:
    """The mean over the windows that cover the samples, or frames, from `begin` to `end`; see `inference.windows`."""
    padded = jnp.concatenate([inputs, jnp.zeros((window, *inputs.shape[1:]), inputs.dtype)])
    length = end - begin
    count = jnp.maximum(-(-length // window), 1)
    last, gaps = jnp.maximum(length - window, 0), jnp.maximum(count - 1, 1)
    own = jnp.minimum(length, window)
    valid = _first(own, window).reshape(-1, *(1,) * (inputs.ndim - 1))

    def add(i: Array, total: Array) -> Array:
        start = begin + rounded_share(i, last, gaps)
        cut = jax.lax.dynamic_slice_in_dim(padded, start, window)
        return total + of_window(jnp.where(valid, cut, 0.0), own)

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
    # Not by `argmax`, which some formats have for floating point alone.
    frame = jnp.arange(centers)
    first, last = jnp.min(jnp.where(loud, frame, centers)), jnp.max(jnp.where(loud, frame, 0))
    silent = jnp.max(power) == 0
    begin = jnp.where(silent, 0, first * _HOP)
    end = jnp.where(silent, num_samples, jnp.minimum(last * _HOP + _HOP, num_samples))
    return begin.astype(jnp.int32), end.astype(jnp.int32)
