"""Hidden states of a corpus, computed once and packed as its features: all frames, or mean and deviation of each state.

An utterance longer than a window is cut into equal parts of at most that length, each of which the encoder hears by
itself; their frames stand one after the other. What is computed is kept as it comes: the same command goes on where an
interrupted one ended.

An utterance may also be heard at other speeds, as if a tape ran faster or slower: pitch and formants move with the
tempo. Its pooled states at each speed are then kept side by side, as versions of one utterance (Ko et al. 2015).
"""

import contextlib
import dataclasses
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import soxr
from jaxtyping import Array, Float, Int, Int16
from tqdm import tqdm

from ser_jax.corpora.corpus import Corpus, refuse_full_disk
from ser_jax.corpora.feature_source import FeatureSource
from ser_jax.corpora.features import (
    Packed,
    available_features,
    check_features_name,
    features_folder,
    load_features,
    pack_source,
)
from ser_jax.corpora.silence import speech_bounds, trimmed
from ser_jax.encoders.architecture import SAMPLE_RATE, Architecture
from ser_jax.encoders.layers import HiddenStates, real_frames, state_names
from ser_jax.encoders.of_parts import states_of_parts
from ser_jax.encoders.store import LoadedEncoder, load
from ser_jax.encoders.weights import Encoder, make_module, truncate
from ser_jax.errors import UserError
from ser_jax.files import atomic_file
from ser_jax.locks import alone
from ser_jax.numbers import count

VERSION = 1  # of this computation; part of what a cache is recognised by
SPEEDS = 0.5, 2.0  # the lowest and the highest
MOST_SECONDS = 20.0  # of a window, where positions do not end earlier: attention's work grows with its square
_LONGEST_WINDOW = 3600.0  # seconds
_BATCH_SECONDS = 64.0  # of audio that the encoder hears at once
_LENGTHS_PER_OCTAVE = 4  # batches are padded to one of so many lengths, at most 19 % of padding: few programs


@dataclasses.dataclass(frozen=True)
class Request:
    """What is wanted of an encoder.

    Attributes:
        states: names of hidden states, in this order: "layer 0", ..., "final".
        form: "frames", or "pooled": mean and standard deviation over an utterance's frames, of each state.
        window_seconds: the longest part of an utterance that is heard at once.
        dtype: of what is kept.
        trim_db: silence before and after is left out: softer by so much than the loudest; 0: nothing is.
        average: so many consecutive frames of a window become their mean; the last one may be of fewer.
        speeds: of what is heard, each a version of the utterance; pooled states alone have several.
    """

    states: tuple[str, ...]
    form: Literal["frames", "pooled"]
    window_seconds: float
    dtype: Literal["float16", "bfloat16", "float32"]
    trim_db: float = 0.0
    average: int = 1
    speeds: tuple[float, ...] = (1.0,)


def make_request(
    architecture: Architecture,
    form: str = "frames",
    layers: Sequence[str] | None = None,
    window_seconds: float | None = None,
    dtype: str | None = None,
    trim_db: float = 0.0,
    average: int = 1,
    speeds: Sequence[float] = (1.0,),
) -> Request:
    """Returns what is wanted, checked against the encoder.

    `layers` are numbers from 0 (what the first layer is given) and "final"; by default all. The default window is 20 s,
    or what the encoder's positions reach. Raises UserError for what the encoder does not have.
    """
    names = state_names(architecture.depth)
    chosen = tuple(layer if layer == "final" else f"layer {layer}" for layer in layers) if layers else names
    for name, layer in zip(chosen, layers or names, strict=True):
        if name not in names:
            raise UserError(f"--layers {layer}: the encoder has 0 to {architecture.depth} and final")
    if len(set(chosen)) < len(chosen):
        raise UserError(f"--layers {','.join(layers or ())}: a layer is named twice")
    low, high = SPEEDS
    said = ",".join(f"{speed:g}" for speed in speeds)
    if not speeds or len(set(speeds)) < len(speeds) or not all(low <= speed <= high for speed in speeds):
        raise UserError(f"--speeds {said}: expected different speeds from {low:g} to {high:g}")
    if form != "pooled" and tuple(speeds) != (1.0,):
        raise UserError(f"--speeds {said}: expected --pooled, since frames are kept at speed 1 alone")
    reach = architecture.max_samples / SAMPLE_RATE if architecture.max_samples else _LONGEST_WINDOW
    window = min(MOST_SECONDS, reach) if window_seconds is None else window_seconds
    # An utterance that is a little longer is heard in halves, of which the first ends at a whole frame.
    fewest = 2 * (architecture.min_samples + _room(architecture, speeds)) / SAMPLE_RATE
    if not fewest <= window <= reach:
        raise UserError(f"--window_seconds {window:g}: expected {fewest:g} to {reach:g} s")
    if not 0 <= trim_db < float("inf"):
        raise UserError(f"--trim_db {trim_db:g}: expected dB below the loudest frame, or 0 for none")
    if average < 1 or (average > 1 and form == "pooled"):
        raise UserError(f"--average {average}: expected at least 1 frame, and 1 with --pooled")
    kept = dtype or ("float16" if form == "frames" else "float32")
    return Request(chosen, form, float(window), kept, float(trim_db), average, tuple(map(float, speeds)))


def _room(architecture: Architecture, speeds: Sequence[float]) -> int:
    """By so many samples, as they are heard, a part may be longer for beginning at a whole frame."""
    return max(architecture.hop if speed == 1 else round(architecture.hop / speed) + 1 for speed in speeds)


def prepare_states(
    corpus: Corpus,
    encoder: LoadedEncoder,
    request: Request,
    data_dir: str | os.PathLike | None = None,
    *,
    name: str | None = None,
    force: bool = False,
) -> Packed:
    """Returns the hidden states of a corpus as its features `name` (by default ENCODER.frames or ENCODER.pooled).

    What was computed before with the same encoder, states, window and dtype, of this corpus or of all parts that it was
    merged from, is not computed again, unless `force`.
    Raises UserError for utterances that are too short, values beyond the range of the dtype, and a full disk.
    """
    name = check_features_name(name or f"{encoder.name}.{request.form}")
    info = {"encoder": encoder.describe(), "states": list(request.states), "form": request.form}
    info |= {"width": encoder.architecture.width, "window_seconds": request.window_seconds}
    info |= {"dtype": request.dtype, "trim_db": request.trim_db, "average": request.average}
    info |= {"speeds": list(request.speeds), "version": VERSION, "licence": encoder.licence}
    if not force and (packed := _prepared(corpus, name, info, data_dir)):
        return packed
    with alone(features_folder(corpus.name, name, data_dir), name):  # processes that start together compute them once
        packed = None if force else _prepared(corpus, name, info, data_dir)
        return packed or _prepare(corpus, encoder, request, data_dir, name, info, force=force)


def _prepared(corpus: Corpus, name: str, info: dict[str, Any], data_dir: str | os.PathLike | None) -> Packed | None:
    """The features `name`, if there are some; refuses those that were made in another way."""
    if name not in available_features(corpus.name, data_dir):
        return None
    try:
        packed = load_features(corpus, name, data_dir)
    except UserError as error:  # damaged, or of a corpus of this name as it was
        raise UserError(f"{error}, with --force") from error
    found = {"speeds": [1.0]} | packed.info  # earlier versions knew one speed
    if found == info:
        return packed
    differ = [key for key in {**info, **found} if found.get(key) != info.get(key)]
    raise UserError(
        f"corpus {corpus.name} has other features {name!r}, which differ in {', '.join(differ)}: expected another "
        "--name, or --force to replace them"
    )


def _prepare(
    corpus: Corpus,
    encoder: LoadedEncoder,
    request: Request,
    data_dir: str | os.PathLike | None,
    name: str,
    info: dict[str, Any],
    *,
    force: bool,
) -> Packed:
    """What `prepare_states` returns, computed or taken from the parts of a merged corpus."""
    of_parts = None if force else states_of_parts(corpus, name, info, data_dir)
    if of_parts is not None:
        return pack_source(name, of_parts, corpus, data_dir, _frame_ms(encoder, request), info=info)
    corpus = trimmed(corpus, request.trim_db) if request.trim_db else corpus
    shortest = fewest_samples(request, encoder)
    too_short = corpus.utterances["num_samples"] < shortest
    if too_short.any():
        ids = corpus.utterances["id"][too_short].tolist()
        raise UserError(
            f"corpus {corpus.name}: {len(ids)} utterances are shorter than {shortest} samples, "
            f"the shortest input of encoder {encoder.name} ({', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''})"
        )
    scratch = features_folder(corpus.name, f".{name}.partial", data_dir)
    pieces = _pieces(corpus, encoder, request)
    with refuse_full_disk(scratch):
        values = _compute(corpus, encoder, request, pieces, scratch, info | {"corpus": corpus.fingerprint})
    source = (_frames if request.form == "frames" else _pooled)(request, encoder, pieces, values)
    packed = pack_source(name, source, corpus, data_dir, _frame_ms(encoder, request), info=info)
    shutil.rmtree(scratch)
    return packed


def encoder_of(info: Mapping[str, Any], data_dir: str | os.PathLike | None = None) -> LoadedEncoder:
    """Returns the encoder of the features that `prepare_states` described by `info`.

    Raises UserError where the encoder is not on this machine, or is another one than that of `info`.
    """
    encoder = load(info["encoder"]["name"], data_dir)
    if encoder.sha256 != info["encoder"]["sha256"]:
        raise UserError(
            f"encoder {encoder.name}: sha256 {encoder.sha256[:12]}, but the model learnt from the states of "
            f"{info['encoder']['sha256'][:12]} ({info['encoder']['source'] or 'source unknown'})"
        )
    return encoder


def request_of(info: Mapping[str, Any]) -> Request:
    """Returns what was wanted of the encoder of features that `prepare_states` described by `info`."""
    options = {field.name: info[field.name] for field in dataclasses.fields(Request) if field.name in info}
    return Request(**{name: tuple(one) if isinstance(one, list) else one for name, one in options.items()})


def states_of(info: Mapping[str, Any], corpus: Corpus, encoder: LoadedEncoder) -> Packed:
    """Returns the states of another corpus as `info` says, of the same encoder; keeps none.

    Raises UserError as `prepare_states` does.
    """
    request = request_of(info)
    if request.trim_db:  # a window of a timeline may be all but silent
        shortest = fewest_samples(request, encoder)
        corpus = trimmed(corpus, request.trim_db, lambda samples: samples >= shortest)
        request = dataclasses.replace(request, trim_db=0.0)
    with tempfile.TemporaryDirectory() as folder:
        packed = prepare_states(corpus, encoder, request, folder, name="states")
        return dataclasses.replace(packed, values=np.array(packed.values))


def refusal(info: Mapping[str, Any], samples: Int16[np.ndarray, " samples"], encoder: LoadedEncoder) -> str:
    """Returns why a waveform (16 kHz) is too short for the encoder, as `info` says that it hears, or ""."""
    request = request_of(info)
    begin, end = speech_bounds(samples, request.trim_db) if request.trim_db else (0, len(samples))
    shortest = fewest_samples(request, encoder)
    if end - begin >= shortest:
        return ""
    heard = " with sound" if request.trim_db else ""
    return f"{count(end - begin, 'sample')}{heard} at 16 kHz; the encoder {encoder.name} needs {shortest}"


def fewest_samples(request: Request, encoder: LoadedEncoder) -> int:
    """Returns the fewest samples of an utterance that the encoder hears at each of the speeds."""
    return int(np.ceil(encoder.architecture.min_samples * max(request.speeds)))


def _frame_ms(encoder: LoadedEncoder, request: Request) -> float:
    return 1000 * encoder.architecture.hop * request.average / SAMPLE_RATE if request.form == "frames" else 0.0


@dataclasses.dataclass(frozen=True)
class _Pieces:
    """Parts of utterances that are heard by themselves, in the order of the corpus and of the versions."""

    version: Int[np.ndarray, " pieces"]  # of all versions of all utterances
    start: Int[np.ndarray, " pieces"]  # in the corpus's samples
    end: Int[np.ndarray, " pieces"]
    speed: Float[np.ndarray, " pieces"]
    num_samples: Int[np.ndarray, " pieces"]  # as they are heard
    num_frames: Int[np.ndarray, " pieces"]


def _pieces(corpus: Corpus, encoder: LoadedEncoder, request: Request) -> _Pieces:
    """Equal parts of each version, as few as the window allows; of speed 1, they begin at whole frames."""
    hop, longest = encoder.architecture.hop, int(request.window_seconds * SAMPLE_RATE)
    room = _room(encoder.architecture, request.speeds)
    found = []
    table = corpus.utterances[["start", "num_samples"]].to_numpy()
    for row, (start, samples) in enumerate(table):
        for i, speed in enumerate(request.speeds):
            heard = round(samples / speed)
            number = 1 if heard <= longest else -(-heard // (longest - room))
            cuts = np.append(np.arange(number) * samples // number // hop * hop, samples)
            found += [(row * len(request.speeds) + i, start + a, start + b, speed) for a, b in pairwise(cuts)]
    version, start, end, speed = map(np.array, zip(*found, strict=True))
    num_samples = np.round((end - start) / speed).astype(np.int64)
    num_frames = -(-make_module(encoder.architecture).num_frames(num_samples) // request.average)
    return _Pieces(version, start, end, speed, num_samples, num_frames)


def _heard(corpus: Corpus, pieces: _Pieces, piece: int | np.integer) -> Int[np.ndarray, " samples"]:
    """The samples of a piece at its speed."""
    samples = np.asarray(corpus.samples[pieces.start[piece] : pieces.end[piece]])
    if pieces.speed[piece] == 1:
        return samples
    found = soxr.resample(samples.astype(np.float32), SAMPLE_RATE * pieces.speed[piece], SAMPLE_RATE)
    number = pieces.num_samples[piece]
    found = np.pad(found[:number], (0, max(number - len(found), 0)))
    return np.clip(np.round(found), -32768, 32767).astype(np.int16)


def _compute(
    corpus: Corpus,
    encoder: LoadedEncoder,
    request: Request,
    pieces: _Pieces,
    scratch: Path,
    key: dict[str, Any],
) -> np.ndarray:
    """Returns what was computed of all pieces: their frames end to end, or means and squared deviations of each."""
    states, width = len(request.states), encoder.architecture.width
    frames = request.form == "frames"
    shape = (int(pieces.num_frames.sum()), states * width) if frames else (len(pieces.version), 2, states * width)
    values, done = _scratch(scratch, key, shape, request.dtype if frames else "float32", len(pieces.version))
    begin = np.cumsum(pieces.num_frames) - pieces.num_frames
    run = _program(encoder, request)
    waiting = np.flatnonzero(~done)
    progress = tqdm(
        total=round(pieces.num_samples.sum() / SAMPLE_RATE),
        initial=round(pieces.num_samples[done].sum() / SAMPLE_RATE),
        desc=f"encoding {corpus.name} with {encoder.name}",
        unit="s",
        disable=None,
    )
    with progress:
        for batch, length in _batches(pieces.num_samples, waiting, encoder.architecture):
            own = batch[batch >= 0]
            waveforms = np.zeros((len(batch), length), np.int16)
            lengths = np.full(len(batch), encoder.architecture.min_samples, np.int32)
            lengths[: len(own)] = pieces.num_samples[own]
            for i, piece in enumerate(own):
                waveforms[i, : lengths[i]] = _heard(corpus, pieces, piece)
            found = np.asarray(run(waveforms, lengths))
            _refuse_not_finite(found[: len(own)], encoder, request)
            for i, piece in enumerate(own):
                if frames:
                    end = begin[piece] + pieces.num_frames[piece]
                    values[begin[piece] : end] = found[i, : pieces.num_frames[piece]]
                else:
                    values[piece] = found[i]
            values.flush()
            done[own] = True
            done.flush()
            progress.update(round(pieces.num_samples[own].sum() / SAMPLE_RATE))
    return values


def _refuse_not_finite(values: np.ndarray, encoder: LoadedEncoder, request: Request) -> None:
    if not np.isfinite(values).all():
        reason = "values that are not finite"
        if request.dtype == "float16":
            reason = "values beyond the range of float16; --dtype bfloat16 or float32"
        raise UserError(f"encoder {encoder.name}: {reason}")


def _scratch(
    folder: Path, key: dict[str, Any], shape: tuple[int, ...], dtype: str, pieces: int
) -> tuple[np.memmap, np.memmap]:
    """What an interrupted computation of the same states left, or room for a new one."""
    path = folder / "key.json"
    with_shape = json.dumps({**key, "shape": shape}, sort_keys=True)
    stored = "uint16" if dtype == "bfloat16" else dtype  # its bits: NumPy's files have none
    files = {"values.npy": (stored, shape), "done.npy": (np.bool_, (pieces,))}

    def opened(mode: Literal["r", "r+", "w+"]) -> tuple[np.memmap, np.memmap]:
        values, done = (np.lib.format.open_memmap(folder / name, mode, *of) for name, of in files.items())
        return values.view(dtype), done

    with contextlib.suppress(OSError, ValueError):  # of one that is damaged or removed in part nothing is used
        if path.read_text(encoding="utf-8") == with_shape:
            opened("r")  # "r+" would fill up with zeros what was cut short
            return opened("r+")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    values, done = opened("w+")
    for name in files:
        _reserve(folder / name)
    with atomic_file(path) as temporary:
        temporary.write_text(with_shape, encoding="utf-8")
    return values, done


def _reserve(path: Path) -> None:
    """Takes the room of a file on the disk: a write to mapped memory that finds none kills the process."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _batches(
    num_samples: Int[np.ndarray, " pieces"], waiting: Int[np.ndarray, " _"], architecture: Architecture
) -> Iterator[tuple[Int[np.ndarray, " batch"], int]]:
    """Yields pieces of about one length, -1 where there are no more, and the length that they are padded to."""
    order = waiting[np.argsort(num_samples[waiting], kind="stable")]
    octaves = np.log2(num_samples[order] / SAMPLE_RATE)
    bucket = np.ceil(octaves * _LENGTHS_PER_OCTAVE - 1e-9).astype(int)
    devices = jax.device_count()
    for number in np.unique(bucket):
        length = int(np.ceil(SAMPLE_RATE * 2.0 ** (number / _LENGTHS_PER_OCTAVE) / architecture.hop)) * architecture.hop
        length = max(length, architecture.min_samples)
        length = min(length, architecture.max_samples or length)
        own = order[bucket == number]
        most = int(_BATCH_SECONDS * SAMPLE_RATE) // length // devices
        # A power of two: every size is a program of its own, and whoever predicts a few recordings has any number.
        size = max(min(most, 1 << (-(-len(own) // devices) - 1).bit_length()), 1) * devices
        for first in range(0, len(own), size):
            batch = own[first : first + size]
            yield np.pad(batch, (0, size - len(batch)), constant_values=-1), length


def _program(encoder: LoadedEncoder, request: Request) -> Callable[[np.ndarray, np.ndarray], Array]:
    """A batch of int16 waveforms and their lengths -> what is kept of each; the batch is shared out to all devices."""
    deepest = deepest_layer(request)
    parameters = encoder.parameters if deepest is None else truncate(encoder.parameters, deepest)
    kept, whole = _compiled(encoder.architecture, request)
    parameters = jax.device_put(parameters, whole)
    return lambda waveforms, lengths: kept(parameters, waveforms, lengths)


def deepest_layer(request: Request) -> int | None:
    """Returns the highest layer that is wanted; None: all, and what follows them."""
    if "final" in request.states:
        return None
    return max(int(name.removeprefix("layer ")) for name in request.states)


@functools.cache
def _compiled(architecture: Architecture, request: Request) -> tuple[Callable, jax.NamedSharding]:
    """The function of (parameters, waveforms, lengths), compiled once for each shape, and where parameters lie.

    It is kept: whoever predicts recordings asks for it again and again.
    """
    mesh = jax.make_mesh((jax.device_count(),), ("batch",))
    whole, share = jax.NamedSharding(mesh, jax.P()), jax.NamedSharding(mesh, jax.P("batch"))
    module = make_module(architecture, depth=deepest_layer(request))
    return jax.jit(functools.partial(_kept, module, request), in_shardings=(whole, share, share)), whole


def _kept(
    module: Encoder,
    request: Request,
    parameters: Any,
    waveforms: Int[Array, "batch samples"],
    num_samples: Int[Array, " batch"],
) -> Float[Array, "batch _ values"]:
    found = module.apply({"params": parameters}, waveforms.astype(jnp.float32) / 32768, num_samples)
    return select(found, request)


def select(found: HiddenStates, request: Request) -> Float[Array, "batch _ values"]:
    """Returns the states that are wanted side by side: all frames, or [mean, squared deviation]."""
    chosen = [found.final if name == "final" else found.layers[int(name.split()[1])] for name in request.states]
    states = jnp.concatenate(chosen, -1)
    if request.form == "frames":
        return average_frames(states, found.num_frames, request.average).astype(request.dtype)
    real = real_frames(states.shape[1], found.num_frames)[..., None]
    count = found.num_frames[:, None, None]
    mean = jnp.sum(states, 1, keepdims=True) / count
    variance = jnp.sum(jnp.square(jnp.where(real, states - mean, 0)), 1, keepdims=True) / count
    return jnp.concatenate([mean, variance], 1)


def average_frames(
    states: Float[Array, "batch frames values"], num_frames: Int[Array, " batch"], number: int
) -> Float[Array, "batch _ values"]:
    """Returns the means of `number` consecutive frames, of those that are the utterance's own."""
    if number == 1:
        return states
    padding = -states.shape[1] % number
    real = jnp.pad(real_frames(states.shape[1], num_frames), ((0, 0), (0, padding)))
    groups = jnp.pad(states, ((0, 0), (0, padding), (0, 0))).reshape(len(states), -1, number, states.shape[2])
    count = jnp.maximum(real.reshape(len(states), -1, number).sum(2), 1)
    return groups.sum(2) / count[..., None]


def _frames(request: Request, encoder: LoadedEncoder, pieces: _Pieces, values: np.ndarray) -> FeatureSource:
    num_frames = np.bincount(pieces.version, pieces.num_frames).astype(np.int64)
    start = np.cumsum(num_frames) - num_frames
    width = encoder.architecture.width
    names = tuple(f"{state}/{i}" for state in request.states for i in range(width))

    def read(row: int) -> np.ndarray:
        return values[start[row] : start[row] + num_frames[row]]

    return FeatureSource(names, values.shape[1], values.dtype, num_frames, read)


def _pooled(request: Request, encoder: LoadedEncoder, pieces: _Pieces, values: np.ndarray) -> FeatureSource:
    """Means and deviations of each version, from those of its pieces; of each state, means first."""
    versions, width = pieces.version[-1] + 1, encoder.architecture.width
    share = pieces.num_frames / np.bincount(pieces.version, pieces.num_frames)[pieces.version]
    mean = np.zeros((versions, values.shape[2]))
    np.add.at(mean, pieces.version, share[:, None] * values[:, 0])
    variance = np.zeros_like(mean)
    offset = np.square(values[:, 0] - mean[pieces.version])
    np.add.at(variance, pieces.version, share[:, None] * (values[:, 1] + offset))
    both = np.stack([mean, np.sqrt(variance)], 1).reshape(versions, 2, -1, width)
    with np.errstate(over="ignore"):
        table = both.swapaxes(1, 2).reshape(versions, -1).astype(request.dtype)
    _refuse_not_finite(table, encoder, request)
    parts = ("mean", "deviation")
    names = tuple(f"{state}/{part}/{i}" for state in request.states for part in parts for i in range(width))
    each = len(request.speeds)
    number = np.full(versions // each, each, np.int64)
    return FeatureSource(names, table.shape[1], table.dtype, number, lambda row: table[row * each : (row + 1) * each])
