"""Augmentation on the device: pure functions of a key and of a strength that is an array, exactly off at strength 0.

All but `mixup` see one utterance: `jax.vmap` takes them over a batch, with one key per utterance, so that what happens
to an utterance does not depend on the batch beside it. Every augmentation has a key of its own, so that switching one
on changes the draws of no other. Strengths may differ from run to run along a vmapped axis.
"""

import dataclasses
import functools
import zlib
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Int16, Key

from ser_jax.corpora.corpus import SAMPLE_RATE
from ser_jax.errors import UserError, reading
from ser_jax.frontend.logmel import Frontend
from ser_jax.plugins import resolve

Scalar = Float[ArrayLike, ""]

_FULL_SCALE = 32768  # int16 samples become floats in [-1, 1)
_LOWEST_SNR, _HIGHEST_SNR = 5.0, 30.0  # dB
_NOISE_OFFSETS = 1 << 16  # different stretches of the noise table, in samples
_WIDEST_BAND_MASK, _WIDEST_TIME_MASK = 0.25, 0.2  # of the bands and of the valid frames, at strength 1
_NUM_MASKS = 2  # along each axis


OF_WAVEFORMS = frozenset({"time_shift", "gain", "noise"})  # speed is that of the crop
OF_FEATURES = frozenset({"vocal_tract", "spec_augment"})
AUGMENTATIONS = OF_WAVEFORMS | OF_FEATURES | {"speed", "mixup"}
_OF_WAVEFORMS = ("speed", "time_shift", "gain", "noise")
# What has a meaning for each kind of features: a warped mel axis needs one, masks need neighbours on both axes.
_AUGMENTATIONS = {
    "log_mel": (*_OF_WAVEFORMS, "vocal_tract", "spec_augment", "mixup"),
    "mfcc": (*_OF_WAVEFORMS, "mixup"),
    "histogram": (*_OF_WAVEFORMS, "mixup"),
    "functionals": (*_OF_WAVEFORMS, "mixup"),
    "waveform": (*_OF_WAVEFORMS, "mixup"),
    "precomputed": ("spec_augment", "mixup"),
}


@flax.struct.dataclass
class Strengths:
    """How strong each augmentation is: scalars, or arrays along the run axis. All are off unless set.

    speed: the factor of tempo and pitch is log-uniform in [1 / (1 + speed), 1 + speed] (Ko et al. 2015).
    time_shift: the farthest cyclic shift, in seconds.
    gain: the largest change of level, in dB.
    noise: the probability that noise is added, at a signal-to-noise ratio uniform in 5 to 30 dB.
    vocal_tract: the mel axis is stretched by a factor log-uniform in [1 / (1 + s), 1 + s] (after Jaitly & Hinton 2013).
    spec_augment: the greatest width of two masks along each axis; at 1 a quarter of the bands, a fifth of the frames.
    mixup: the share of another utterance that is mixed in; at 1 the shares follow Beta(1/2, 1/2) (Zhang et al. 2018).
    custom: `package.module:NAME` -> strength, of functions outside the package; see `augment_waveform`.
    """

    speed: Any = 0.0
    time_shift: Any = 0.0
    gain: Any = 0.0
    noise: Any = 0.0
    vocal_tract: Any = 0.0
    spec_augment: Any = 0.0
    mixup: Any = 0.0
    custom: dict[str, Any] = dataclasses.field(default_factory=dict)


def check_augmentation(frontend: Frontend, strengths: Mapping[str, float]) -> None:
    """Raises `UserError` that names the first augmentation that is on and has no meaning for the frontend's kind."""
    possible = _augmentations(frontend.kind)
    for name, strength in (strengths | strengths["custom"]).items():
        allowed = name in possible or (name in strengths["custom"] and frontend.kind != "precomputed")
        if name != "custom" and strength and not allowed:
            raise UserError(
                f"config.augmentation.{name}: found {strength:g}, expected 0: it has no meaning for features of kind "
                f"{frontend.kind}, for which there are {', '.join(possible)}"
            )
        if name in strengths["custom"]:
            _check_custom(name, 30 * frontend.sample_rate)  # longer than a reverberation


def _check_custom(name: str, num_samples: int) -> None:
    """Raises `UserError` unless an augmentation from outside the package returns a waveform like that it is given."""
    where = "config.augmentation.custom"
    augment, scalar = resolve(name, {}, where), jax.ShapeDtypeStruct((), jnp.float32)
    waveform, count = jax.ShapeDtypeStruct((num_samples,), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
    with reading(f"{where}: {name} failed"):
        found = jax.eval_shape(augment, jax.eval_shape(lambda: jax.random.key(0)), waveform, count, scalar)
    if (shape := getattr(found, "shape", None)) != waveform.shape:
        raise UserError(f"{where}: {name} returned the shape {shape}, expected {waveform.shape}")


def _augmentations(kind: str) -> tuple[str, ...]:
    return _AUGMENTATIONS.get(kind, (*_OF_WAVEFORMS, "spec_augment", "mixup"))  # of kinds from outside the package


def read_crop(
    samples: Int16[Array, " total"] | Float[Array, "total dims"],
    start: Int[Array, ""],
    num_samples: Int[Array, ""],
    crop_samples: int,
    offset: Int[Array, ""],
    rate_excess: Float[Array, ""] | None,
) -> tuple[Float[Array, "{crop_samples} ..."], Int[Array, ""]]:
    """The crop of one utterance of a resident corpus that `place_crop` placed, and its number of valid samples.

    The utterance is `samples[start : start + num_samples]`, int16 samples, which become floats in [-1, 1), or frames of
    pre-extracted features, which have no speed. What is shorter than the crop at its drawn speed comes whole, with
    zeros after it; an utterance without samples is all zeros. Speed resamples by linear interpolation.

    Indices are int32: `samples` has fewer than 2**31 elements, and at least `crop_samples` from every `start` on.
    """
    scale = _FULL_SCALE if samples.ndim == 1 else 1.0
    if rate_excess is None:
        cut = jax.lax.dynamic_slice_in_dim(samples, start + offset, crop_samples).astype(jnp.float32)
        valid = jnp.minimum(num_samples - offset, crop_samples)
        is_valid = jnp.arange(crop_samples, dtype=jnp.int32) < valid
        return jnp.where(is_valid.reshape(-1, *[1] * (cut.ndim - 1)), cut / scale, 0.0), valid
    last = jnp.maximum(num_samples - 1, 0)

    def read(positions: Array) -> Array:
        return samples.at[start + jnp.minimum(positions, last)].get(mode="clip").astype(jnp.float32)

    steps, fraction = _steps(crop_samples, rate_excess)
    positions = offset + steps
    is_valid = (positions < num_samples - 1) | ((positions == num_samples - 1) & (fraction == 0))
    left, right = read(positions), read(positions + 1)
    waveform = (left + fraction * (right - left)) / scale
    return jnp.where(is_valid, waveform, 0.0), jnp.sum(is_valid, dtype=jnp.int32)


def place_crop(
    num_samples: Int[Array, ""], crop_samples: int, key: Key[Array, ""], speed: Scalar | None
) -> tuple[Int[Array, ""], Float[Array, ""] | None]:
    """Draws where a crop begins, in samples of its utterance, and by how much its speed is above 1.

    `speed` is the strength of the speed perturbation; None: the crop is what was recorded, and so is the second result.
    """
    speed_draw, crop_draw = _draws(key)[:2]
    if speed is None:
        return _integer_up_to(crop_draw, jnp.maximum(num_samples - crop_samples, 0)), None
    rate_excess = jnp.expm1(_symmetric(speed_draw) * jnp.log1p(speed))
    steps, fraction = _steps(crop_samples, rate_excess)
    spare = jnp.maximum(num_samples - 1 - (steps[-1] + (fraction[-1] > 0)), 0)
    return _integer_up_to(crop_draw, spare), rate_excess


def _steps(crop_samples: int, rate_excess: Float[Array, ""]) -> tuple[Array, Array]:
    """The whole samples and the fractions from a crop's begin to each of its samples.

    They are sample numbers plus a small excess: float32 cannot hold long positions to a fraction of a sample.
    """
    numbers = jnp.arange(crop_samples, dtype=jnp.int32)
    excess = numbers.astype(jnp.float32) * rate_excess
    whole = jnp.floor(excess)
    return numbers + whole.astype(jnp.int32), excess - whole


def augment_waveform(
    key: Key[Array, ""],
    waveform: Float[Array, " samples"],
    num_samples: Int[Array, ""],
    strengths: Strengths,
    active: frozenset[str] = OF_WAVEFORMS,
) -> Float[Array, " samples"]:
    """Shifts one utterance in time, adds noise and changes its level; samples from `num_samples` on stay 0.

    Those that are not `active` leave no trace in the program, whatever their strengths. Augmentations from outside the
    package follow: functions of a key, the waveform, the number of its samples and the strength, which return the
    waveform, and at strength 0 exactly as it was.
    """
    shift_key, noise_key, gain_key = (jax.random.fold_in(key, purpose) for purpose in range(3))
    if "time_shift" in active:
        waveform = time_shift(shift_key, waveform, num_samples, strengths.time_shift)
    if "noise" in active:
        waveform = additive_noise(noise_key, waveform, num_samples, strengths.noise)
    if "gain" in active:
        waveform = gain(gain_key, waveform, strengths.gain)
    for name, strength in sorted(strengths.custom.items()):
        own_key = jax.random.fold_in(key, zlib.crc32(name.encode()))  # whatever else is on, the draws are the same
        waveform = resolve(name, {}, "config.augmentation.custom")(own_key, waveform, num_samples, strength)
    return waveform


def augment_features(
    key: Key[Array, ""],
    features: Float[Array, "frames features"],
    num_frames: Int[Array, ""],
    strengths: Strengths,
    deltas: int,
    kind: str = "log_mel",
    active: frozenset[str] = OF_FEATURES,
) -> Float[Array, "frames features"]:
    """Warps one utterance's mel axis, then masks bands and frames; frames from `num_frames` on stay 0.

    `features` are normalised, with `deltas` derivatives beside them, which are warped and masked alike. What has no
    meaning for their `kind`, or is not `active`, is left out.
    """
    warp_key, mask_key = (jax.random.fold_in(key, purpose) for purpose in range(2))
    frames = features.shape[0]
    bands = features.reshape(frames, 1 + deltas, -1)
    possible = active.intersection(_augmentations(kind))
    if "vocal_tract" in possible:
        bands = vocal_tract_length(warp_key, bands, strengths.vocal_tract)
    if "spec_augment" in possible:
        bands = spec_augment(mask_key, bands, num_frames, strengths.spec_augment)
    return bands.reshape(features.shape)


def time_shift(
    key: Key[Array, ""],
    waveform: Float[Array, " samples"],
    num_samples: Int[Array, ""],
    seconds: Scalar,
) -> Float[Array, " samples"]:
    """Rolls the valid samples by a shift uniform in [-seconds, seconds], at most the utterance's length."""
    length = jnp.maximum(num_samples, 1)
    farthest = jnp.minimum(SAMPLE_RATE * seconds, length - 1.0)
    shift = jnp.round(_symmetric(_draws(key)[0]) * farthest).astype(jnp.int32)
    numbers = jnp.arange(waveform.shape[0], dtype=jnp.int32)
    sources = numbers - shift
    sources = jnp.where(sources < 0, sources + length, jnp.where(sources >= length, sources - length, sources))
    return jnp.where(numbers < num_samples, waveform.at[sources].get(mode="clip"), 0.0)


def additive_noise(
    key: Key[Array, ""],
    waveform: Float[Array, " samples"],
    num_samples: Int[Array, ""],
    probability: Scalar,
) -> Float[Array, " samples"]:
    """Adds Gaussian noise, between white and pink, with the given probability and 5 to 30 dB below the valid samples.

    The noise is a random stretch of a fixed table of each colour: drawing it anew costs more than the log-mel features.
    """
    draws = _draws(key)
    table = _noise_table(waveform.shape[0])
    white, pink = (
        jax.lax.dynamic_slice(jnp.asarray(row), (_integer_up_to(draw, _NOISE_OFFSETS - 1),), waveform.shape)
        for row, draw in zip(table, draws[:2], strict=True)
    )
    angle = draws[2] * (np.pi / 2)
    valid = jnp.arange(waveform.shape[0], dtype=jnp.int32) < num_samples
    noise = jnp.where(valid, jnp.cos(angle) * white + jnp.sin(angle) * pink, 0.0)
    ratio_db = _LOWEST_SNR + (_HIGHEST_SNR - _LOWEST_SNR) * draws[3]
    energy, noise_energy = jnp.sum(jnp.square(waveform)), jnp.sum(jnp.square(noise))
    scale = jnp.sqrt(energy / jnp.maximum(noise_energy, 1e-12)) * 10 ** (-ratio_db / 20)
    return waveform + jnp.where(draws[4] < probability, scale, 0.0) * noise


def gain(key: Key[Array, ""], waveform: Float[Array, " samples"], decibels: Scalar) -> Float[Array, " samples"]:
    """Changes the level by an amount uniform in [-decibels, decibels]."""
    return waveform * jnp.exp(_symmetric(_draws(key)[0]) * decibels * (np.log(10) / 20))


def vocal_tract_length(
    key: Key[Array, ""], features: Float[Array, "frames stacks bands"], strength: Scalar
) -> Float[Array, "frames stacks bands"]:
    """Stretches the axis of bands by a factor log-uniform in [1 / (1 + strength), 1 + strength].

    Between bands it interpolates linearly; beyond the highest band it repeats that band (after Jaitly & Hinton 2013).
    """
    bands = features.shape[-1]
    numbers = jnp.arange(bands, dtype=jnp.float32)
    factor = jnp.exp(_symmetric(_draws(key)[0]) * jnp.log1p(strength))
    positions = jnp.minimum(numbers * factor, bands - 1)
    # Interpolation as a matrix product: far cheaper on an accelerator than a gather along the innermost axis.
    weights = jnp.maximum(0.0, 1 - jnp.abs(numbers[:, None] - positions[None, :]))
    return jnp.matmul(features, weights[None])


def spec_augment(
    key: Key[Array, ""],
    features: Float[Array, "frames stacks bands"],
    num_frames: Int[Array, ""],
    strength: Scalar,
) -> Float[Array, "frames stacks bands"]:
    """Sets two stretches of bands and two of valid frames to 0, the mean of normalised features (Park et al. 2019).

    A stretch's width is uniform from 0 to strength times a quarter of the bands, or a fifth of the valid frames.
    """
    frames, _, bands = features.shape
    band_draws, frame_draws = _draws(key).reshape(2, _NUM_MASKS, 2)
    masked_bands = _stretches(band_draws, bands, jnp.asarray(bands), _WIDEST_BAND_MASK * strength)
    masked_frames = _stretches(frame_draws, frames, num_frames, _WIDEST_TIME_MASK * strength)
    return jnp.where(masked_frames[:, None, None] | masked_bands[None, None, :], 0.0, features)


def mixup(
    key: Key[Array, ""],
    features: Float[Array, "batch frames features"],
    num_frames: Int[Array, " batch"],
    targets: Float[Array, "batch classes"],
    weight: Float[Array, " batch"],
    strength: Scalar,
) -> tuple[Float[Array, "batch frames features"], Int[Array, " batch"], Float[Array, "batch classes"]]:
    """Mixes each utterance with another of the batch: features, frame counts (the longer one's) and soft targets.

    The other's share is strength * min(b, 1 - b) with b from Beta(1/2, 1/2) (Zhang et al. 2018): at strength 1 from 0
    to 1/2, so that an utterance stays the larger part of its mixture. Rows of weight 0 are padding and are mixed with
    nothing.
    """
    order_key, share_key = jax.random.split(key)
    other = jax.random.permutation(order_key, features.shape[0])
    # The inverse of Beta(1/2, 1/2)'s distribution function is sin(pi u / 2) ** 2; its lower half is the folded draw.
    share = strength * jnp.square(jnp.sin(jax.random.uniform(share_key, weight.shape) * (np.pi / 4)))
    share = jnp.where((weight > 0) & (weight[other] > 0), share, 0.0)
    features = _blend(features, features[other], share[:, None, None])
    targets = _blend(targets, targets[other], share[:, None])
    return features, jnp.where(share > 0, jnp.maximum(num_frames, num_frames[other]), num_frames), targets


def _blend(x: Array, other: Array, share: Array) -> Array:
    return (1 - share) * x + share * other


def _draws(key: Key[Array, ""]) -> Float[Array, "8"]:
    """Draws from [0, 1), of one shape for all purposes: other shapes would make XLA compile the generator again."""
    return jax.random.uniform(key, (8,))


def _symmetric(draw: Float[Array, ""]) -> Float[Array, ""]:
    """A draw from [0, 1) as one from [-1, 1)."""
    return 2 * draw - 1


def _integer_up_to(draw: Float[Array, "*shape"], largest: Int[Array, "..."] | int) -> Int[Array, "*shape"]:
    """A draw from [0, 1), of 23 bits, as an integer: uniform over 0 to `largest` where that has fewer bits."""
    return jnp.minimum(jnp.floor(draw * (jnp.asarray(largest) + 1.0)).astype(jnp.int32), largest)


def _stretches(draws: Float[Array, "masks 2"], size: int, valid: Int[Array, ""], widest: Scalar) -> Array:
    """Where an axis lies in any of the masks, each at most `widest` times `valid` long and wholly before `valid`."""
    width = _integer_up_to(draws[:, :1], jnp.minimum(jnp.floor(widest * valid).astype(jnp.int32), valid))
    start = _integer_up_to(draws[:, 1:], valid - width)
    numbers = jnp.arange(size, dtype=jnp.int32)[None, :]
    return jnp.any((numbers >= start) & (numbers < start + width), axis=0)


@functools.cache
def _noise_table(samples: int) -> Float[np.ndarray, "2 length"]:
    """White and pink noise (power falling by 3 dB per octave), Gaussian, of variance 1; the same in every process."""
    length = _NOISE_OFFSETS + samples - 1
    white = np.random.default_rng(0).standard_normal((2, length))
    spectrum = np.fft.rfft(white[1])
    pink = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), length)
    return np.stack([white[0], pink / pink.std()]).astype(np.float32)
