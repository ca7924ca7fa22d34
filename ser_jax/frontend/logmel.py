"""Waveform to features on the device: log-mel and what is computed from it, and the normalisation of all features.

The frames are those of librosa with `center=True, pad_mode="constant"`: frame t is centred on sample t * hop, and what
lies outside the utterance counts as zero. So more padding never changes a valid frame, and an utterance has
1 + num_samples // hop of them. Every sample lies in some frame where the hop is at most half the window; with a
coarser hop at most the last hop - window / 2 samples lie in none.
"""

import dataclasses
import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from jaxtyping import Array, Float, Int

from ser_jax.errors import UserError
from ser_jax.frontend import summaries
from ser_jax.plugins import is_outside, resolve
from ser_jax.portable import is_portable

Count = int | np.integer | Int[Array | np.ndarray, "..."]

_VARIANCE_FLOOR = 1e-5  # keeps a constant feature (silence) finite; log-mel variances are of the order of 1 to 10
_DELTA_REACH = 4  # frames on each side that a delta is fitted to: librosa's width of 9


def _transform_ends(jaxlib_version: str) -> bool:
    """Whether a Fourier transform on a CPU comes to its end.

    From jaxlib 0.11 on it can wait for ever for the threads that it runs on itself, as with two devices of two cores. A
    product with sines and cosines takes twice as long, some 12 ms for 32 crops of 2 s.
    """
    return tuple(map(int, jaxlib_version.split(".")[:2])) < (0, 11)


_FFT_ENDS = _transform_ends(jaxlib.__version__)


@dataclasses.dataclass(frozen=True)
class Frontend:
    """The settings of the features; static and hashable.

    `kind` is "log_mel"; "mfcc"; "histogram", the distribution of every mel band's levels over the utterance, with the
    bins in the place of frames; "functionals" of the log-mel bands and their deltas, a single frame; "waveform", whose
    frames are single samples, for a model that computes hidden states itself; or "precomputed": the pre-extracted
    features named `features`, which have `dims` dims every `frame_ms` milliseconds (filled in from what was packed).

    `trim_db` is applied by the caller: waveforms begin and end at frames that are at most so many dB below the loudest
    one (`ser_jax.corpora.silence`); 0: nothing is trimmed.

    `histogram_bins` divide the `histogram_range_db` below an utterance's loudest level; `histogram_assignment` is
    "hard", a level counts in its bin, or "soft", it is shared with the next bin.
    `fft_size` 0 stands for the smallest power of two that holds a window. Frequencies are in Hz; `log_floor` is the
    least power before the logarithm. `deltas` is 0, 1 or 2: so many derivatives in time are added to the features.
    `normalization` is "none", "utterance" (mean 0 and variance 1 over an utterance's own frames), "train" (by
    `Statistics` fitted on the training fold) or "speaker" (by those of all utterances of its speaker in the corpus,
    without their labels; a tested speaker needs more than one utterance).

    Raises UserError for settings that no features can be computed with.
    """

    kind: str = "log_mel"
    sample_rate: int = 16_000
    window_ms: float = 25.0
    hop_ms: float = 10.0
    fft_size: int = 0
    num_mels: int = 64
    fmin: float = 20.0
    fmax: float = 8000.0
    trim_db: float = 0.0
    mel_scale: str = "slaney"
    log_floor: float = 1e-10
    num_mfcc: int = 20
    deltas: int = 0
    histogram_bins: int = 64
    histogram_range_db: float = 80.0
    histogram_assignment: str = "hard"
    features: str = ""
    dims: int = 0
    frame_ms: float = 0.0
    normalization: str = "utterance"

    def __post_init__(self) -> None:
        _require("sample_rate", self.sample_rate, self.sample_rate > 0, "a positive rate in Hz")
        _require("hop_ms", self.hop_ms, self.hop >= 1, "at least one sample")
        _require("window_ms", self.window_ms, self.window >= 2, "at least two samples")
        _require(
            "fft_size", self.fft_size, self.fft_size == 0 or self.fft_size >= self.window, f"at least {self.window}"
        )
        _require("fmax", self.fmax, self.fmax <= self.sample_rate / 2, f"at most {self.sample_rate / 2:g} Hz")
        _require("fmin", self.fmin, 0 <= self.fmin < self.fmax, f"from 0 to below fmax, {self.fmax:g} Hz")
        if self.kind == "mfcc":
            _require("num_mfcc", self.num_mfcc, 1 <= self.num_mfcc <= self.num_mels, f"1 to num_mels, {self.num_mels}")
        _require("log_floor", self.log_floor, self.log_floor > 0, "a positive power")
        if self.kind in ("histogram", "functionals"):
            found, expected = (
                self.normalization,
                f"none, train or speaker: {self.kind} are of a whole utterance already",
            )
            _require("normalization", found, found != "utterance", expected)
        if self.kind in ("histogram", "precomputed", "waveform"):
            _require("deltas", self.deltas, self.deltas == 0, f"0: kind {self.kind} has none")
        if self.kind == "precomputed":
            _require("features", self.features, self.features != "", "the name of packed features")
            _require("trim_db", self.trim_db, self.trim_db == 0, "0: kind precomputed is not made from waveforms")
        else:
            _require("features", self.features, self.features == "", f"none: kind {self.kind} is made from waveforms")

    @property
    def window(self) -> int:
        """Samples in a window."""
        return round(self.window_ms * self.sample_rate / 1000)

    @property
    def hop(self) -> int:
        """Samples from one frame to the next; pre-extracted features come in frames already."""
        return 1 if self.kind in ("precomputed", "waveform") else round(self.hop_ms * self.sample_rate / 1000)

    @property
    def rate(self) -> float:
        """Samples, or pre-extracted frames, per second of what comes in; 0 where a frame is a whole utterance."""
        if self.kind == "precomputed":
            return 1000 / self.frame_ms if self.frame_ms else 0.0
        return float(self.sample_rate)

    @property
    def fft(self) -> int:
        """Samples in a Fourier transform."""
        return self.fft_size or 1 << (self.window - 1).bit_length()


def _require(option: str, found: object, holds: bool, expected: str) -> None:
    if not holds:
        raise UserError(f"frontend.{option}: found {found!r}, expected {expected}")


# Fields have no checked types: transformations put shapes and axes in the places of arrays.


@flax.struct.dataclass
class Statistics:
    """The mean and standard deviation of every feature over the frames of a training fold, or of a speaker."""

    mean: Any  # float [*runs or *utterances, features]
    std: Any  # the same


@flax.struct.dataclass
class FeatureSums:
    """Sums over the valid frames of utterances; added up over utterances, batches and devices, those of a fold."""

    count: Any  # int [*batch]
    total: Any  # float [*batch, features]
    squares: Any  # float [*batch, features]


def num_features(frontend: Frontend) -> int:
    """The size of the feature axis."""
    if frontend.kind == "precomputed":
        return frontend.dims
    if frontend.kind == "waveform":
        return 1
    if is_outside(frontend.kind):
        seen = jax.ShapeDtypeStruct((frontend.sample_rate,), jnp.float32)
        return jax.eval_shape(functools.partial(_outside, frontend), seen).shape[-1] * (1 + frontend.deltas)
    bands = frontend.num_mfcc if frontend.kind == "mfcc" else frontend.num_mels
    each = len(summaries.FUNCTIONALS) if frontend.kind == "functionals" else 1
    return bands * (1 + frontend.deltas) * each


def num_frames(frontend: Frontend, num_samples: Count) -> Count:
    """The valid frames of utterances of `num_samples` samples; none for no sample, so padding rows count nowhere.

    Of pre-extracted features, `num_samples` are frames already.
    """
    if frontend.kind in ("precomputed", "waveform"):
        return num_samples
    if frontend.kind == "functionals":
        return 1 * (num_samples > 0)
    if frontend.kind == "histogram":
        return frontend.histogram_bins * (num_samples > 0)
    return _num_windows(frontend, num_samples)


def _num_windows(frontend: Frontend, num_samples: Count) -> Count:
    return (1 + num_samples // frontend.hop) * (num_samples > 0)


def features(
    frontend: Frontend,
    waveform: Float[Array, "..."],
    num_samples: Int[Array, "*batch"],
    statistics: Statistics | None = None,
) -> tuple[Float[Array, "*batch frames features"], Int[Array, "*batch"]]:
    """Features of utterances, and how many of their frames are valid; the frames after those are exactly 0.

    `waveform` is [*batch, samples], or for pre-extracted features [*batch, frames, dims], of which `num_samples` are
    frames. What lies from `num_samples` on is not looked at. `statistics` are needed for normalization "train", where
    they are [features], and "speaker", where they are [*batch, features], and for no other.
    """
    if (statistics is None) == (frontend.normalization in ("train", "speaker")):
        raise ValueError(f"normalization {frontend.normalization!r} with statistics {statistics!r}")
    valid = num_frames(frontend, num_samples)
    if frontend.kind == "precomputed":
        x = waveform
    elif frontend.kind == "waveform":
        x = waveform[..., None]
    else:
        x = _from_waveform(frontend, _before(num_samples, waveform, axis=-1), num_samples)
    if frontend.normalization == "utterance":
        x = _normalize_utterance(x, valid)
    elif frontend.normalization == "train":
        shape = (1,) * (x.ndim - 1) + (-1,)
        x = (x - statistics.mean.reshape(shape)) / statistics.std.reshape(shape)
    elif frontend.normalization == "speaker":
        x = (x - statistics.mean[..., None, :]) / statistics.std[..., None, :]
    return _before(valid, x, axis=-2), valid


def _from_waveform(
    frontend: Frontend, waveform: Float[Array, "*batch samples"], num_samples: Int[Array, "*batch"]
) -> Float[Array, "*batch frames features"]:
    """Features before normalisation; what lies in the frames that are not valid is left as it comes."""
    valid = _num_windows(frontend, num_samples)
    x = (_outside if is_outside(frontend.kind) else _log_mel)(frontend, waveform)
    if frontend.kind == "histogram":
        soft = frontend.histogram_assignment == "soft"
        return summaries.level_histogram(x, valid, frontend.histogram_bins, frontend.histogram_range_db, soft)
    if frontend.kind == "mfcc":
        x = jnp.matmul(x, _dct(frontend.num_mels, frontend.num_mfcc), precision="highest")
    x = jnp.concatenate([x, *(_delta(x, valid, order) for order in range(1, frontend.deltas + 1))], axis=-1)
    if frontend.kind == "functionals":
        return summaries.functionals(x, valid, frontend.hop / frontend.sample_rate)[..., None, :]
    return x


def _outside(frontend: Frontend, waveform: Float[Array, "*batch samples"]) -> Float[Array, "*batch frames features"]:
    """The features of a function outside the package, which is given the frontend and waveforms.

    Raises `UserError` where it does not return a row for each hop, the first at the first sample.
    """
    x = resolve(frontend.kind, {}, "config.frontend.kind")(frontend, waveform)
    expected = (*waveform.shape[:-1], 1 + waveform.shape[-1] // frontend.hop)
    if x.ndim != waveform.ndim + 1 or x.shape[:-1] != expected:
        raise UserError(f"{frontend.kind}: returned the shape {x.shape}, expected {(*expected, 'features')}")
    return x


def feature_sums(frontend: Frontend, waveform: Float[Array, "..."], num_samples: Int[Array, "*batch"]) -> FeatureSums:
    """Each utterance's sums of features before normalisation, from which `fit_statistics` makes a fold's statistics."""
    x, valid = features(dataclasses.replace(frontend, normalization="none"), waveform, num_samples)
    return FeatureSums(valid, jnp.sum(x, axis=-2), jnp.sum(jnp.square(x), axis=-2))


def fit_statistics(sums: FeatureSums) -> Statistics:
    """Mean and standard deviation of the features whose sums are given; with many utterances, add up in float64."""
    count = np.maximum(np.asarray(sums.count, np.float64), 1)[..., None]
    mean = np.asarray(sums.total, np.float64) / count
    variance = np.asarray(sums.squares, np.float64) / count - np.square(mean)
    std = np.sqrt(np.maximum(variance, 0) + _VARIANCE_FLOOR)
    return Statistics(jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32))


def _before(end: Int[Array, "*batch"], x: Array, axis: int) -> Array:
    """`x` where its index along `axis` is before `end`, 0 elsewhere."""
    positions = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim + axis)
    return jnp.where(positions < jnp.expand_dims(end, tuple(range(axis, 0))), x, jnp.zeros((), x.dtype))


def _log_mel(frontend: Frontend, waveform: Float[Array, "*batch samples"]) -> Float[Array, "*batch frames mels"]:
    power = _power_spectrum(frontend, waveform)
    # Powers and filters are positive, so that no term cancels another: eleven bits of each, a thousandth of a neper.
    mel = jnp.matmul(power, mel_filters(frontend), precision=jax.lax.Precision.HIGH)
    return jnp.log(jnp.maximum(mel, frontend.log_floor))


def _power_spectrum(frontend: Frontend, waveform: Float[Array, "*batch samples"]) -> Float[Array, "*batch frames bins"]:
    """By a fast Fourier transform in float32; by a product on a CPU where the transform may wait for ever."""

    def by_transform(waveform: Array) -> Array:
        window = np.pad(_hann(frontend.window), (0, frontend.fft - frontend.window))
        in_hops = np.split(window, range(frontend.hop, frontend.fft, frontend.hop))
        parts = zip(_frames(frontend, waveform, frontend.fft), in_hops, strict=True)
        weighted = [frames[..., : len(part)] * _like(frames, part) for frames, part in parts]
        transform = jnp.fft.rfft(jnp.concatenate(weighted, axis=-1))
        return jnp.square(transform.real) + jnp.square(transform.imag)

    def by_product(waveform: Array) -> Array:
        # Loud bins leak into quiet ones with less than all bits of float32.
        frames = jnp.concatenate(_frames(frontend, waveform, frontend.window), axis=-1)[..., : frontend.window]
        transform = jnp.matmul(frames, _fourier(frontend.window, frontend.fft), precision="highest")
        return sum(jnp.square(part) for part in jnp.split(transform, 2, axis=-1))

    if is_portable():
        return by_product(waveform)
    if _FFT_ENDS:
        return by_transform(waveform)
    return jax.lax.platform_dependent(waveform, cpu=by_product, default=by_transform)


def _frames(
    frontend: Frontend, waveform: Float[Array, "*batch samples"], width: int
) -> list[Float[Array, "*batch frames hop"]]:
    """The first `width` samples of overlapping windows and what fills up the last hop, in parts of a hop; zero outside
    the waveform.
    """
    *batch, samples = waveform.shape
    hop = frontend.hop
    frames, reach = 1 + samples // hop, -(-width // hop)
    before = frontend.fft // 2 - (frontend.fft - frontend.window) // 2  # librosa's window lies amid its transform
    # In blocks of a hop, a window is its first block and the next ones: slices, where an index for each sample would
    # be the slowest that a TPU can do.
    after = (frames + reach - 1) * hop - before - samples  # negative where a coarse hop leaves a tail in no frame
    padding = [(0, 0, 0)] * len(batch) + [(before, after, 0)]
    blocks = jax.lax.pad(waveform, jnp.zeros((), waveform.dtype), padding).reshape(*batch, frames + reach - 1, hop)
    return [blocks[..., first : first + frames, :] for first in range(reach)]


def _normalize_utterance(x: Float[Array, "*batch frames features"], valid: Int[Array, "*batch"]) -> Array:
    count = jnp.maximum(valid, 1)[..., None, None].astype(x.dtype)
    # From the first frame on, so that the mean of a constant, as of silence, leaves nothing for the floor to enlarge.
    x = x - x[..., :1, :]
    centred = _before(valid, x - jnp.sum(_before(valid, x, axis=-2), axis=-2, keepdims=True) / count, axis=-2)
    variance = jnp.sum(jnp.square(centred), axis=-2, keepdims=True) / count
    return centred * jax.lax.rsqrt(variance + _VARIANCE_FLOOR)


def _delta(x: Float[Array, "*batch frames features"], valid: Int[Array, "*batch"], order: int) -> Array:
    """The derivative of `order` in time, of the polynomial fitted to 9 frames; past either end the last frame repeats.

    As `librosa.feature.delta(..., mode="nearest")` on the valid frames alone (Savitzky & Golay 1964).
    """
    *batch, frames, _ = x.shape
    last = jnp.take_along_axis(x, jnp.maximum(valid - 1, 0)[..., None, None], axis=-2)
    inside = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 2) < valid[..., None, None]
    padding = [(0, 0)] * len(batch) + [(_DELTA_REACH, _DELTA_REACH), (0, 0)]
    x = jnp.pad(jnp.where(inside, x, last), padding, mode="edge")
    offsets = np.arange(-_DELTA_REACH, _DELTA_REACH + 1, dtype=np.float64)
    basis = offsets**order - np.mean(offsets**order)
    weights = order * basis / np.sum(basis**2)
    return sum(float(weight) * x[..., i : i + frames, :] for i, weight in enumerate(weights))


def _like(x: Array, constant: np.ndarray) -> Array:
    """A constant along the last axis, with the leading axes of `x` as 1."""
    return jnp.asarray(constant, x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


def _hann(window: int) -> np.ndarray:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)


@functools.cache
def _fourier(window: int, fft: int) -> Float[np.ndarray, "window bins"]:
    """Cosines, then sines, of every bin's frequency, with the window folded in."""
    # The integer product is reduced before it becomes an angle: float64 keeps all of it.
    angles = 2 * np.pi * (np.outer(np.arange(window), np.arange(fft // 2 + 1)) % fft) / fft
    return (np.concatenate([np.cos(angles), np.sin(angles)], axis=1) * _hann(window)[:, None]).astype(np.float32)


@functools.cache
def mel_filters(frontend: Frontend) -> Float[np.ndarray, "bins mels"]:
    """Triangular filters, equally spaced in mel and each of unit area over frequency in Hz.

    The scale is Slaney's (Auditory Toolbox, 1998: linear below 1 kHz, logarithmic above) or HTK's,
    2595 log10(1 + f / 700).
    """
    to_mel, to_hz = (_slaney_mel, _slaney_hz) if frontend.mel_scale == "slaney" else (_htk_mel, _htk_hz)
    edges = to_hz(np.linspace(to_mel(frontend.fmin), to_mel(frontend.fmax), frontend.num_mels + 2))
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    bins = np.arange(frontend.fft // 2 + 1)[:, None] * frontend.sample_rate / frontend.fft
    triangles = np.maximum(0, np.minimum((bins - lower) / (centre - lower), (upper - bins) / (upper - centre)))
    return (triangles * 2 / (upper - lower)).astype(np.float32)


def _htk_mel(hz: float) -> float:
    return 2595 * np.log10(1 + hz / 700)


def _htk_hz(mel: np.ndarray) -> np.ndarray:
    return 700 * (10 ** (mel / 2595) - 1)


def _slaney_mel(hz: float) -> float:
    return 3 * hz / 200 if hz < 1000 else 15 + 27 * np.log(hz / 1000) / np.log(6.4)


def _slaney_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, 200 * mel / 3, 1000 * 6.4 ** ((mel - 15) / 27))


def _dct(size: int, kept: int) -> Float[np.ndarray, "size kept"]:
    """The first columns of the orthonormal type-II discrete cosine transform."""
    order = np.arange(kept)
    basis = np.cos(np.pi * (np.arange(size)[:, None] + 0.5) * order / size) * np.sqrt(2 / size)
    return (basis * np.where(order == 0, np.sqrt(0.5), 1)).astype(np.float32)
