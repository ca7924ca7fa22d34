"""The resident feed: the whole corpus on the device; batches are cut out of it inside the compiled step.

Which utterances a step sees is drawn on the host (`ser_jax.feeds.order`): a few kilobytes of row numbers.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from ser_jax.corpora.corpus import Corpus
from ser_jax.errors import UserError
from ser_jax.feeds.batch import Batch
from ser_jax.feeds.order import FileLayout, training_rows
from ser_jax.frontend import Frontend, num_frames, place_crop, read_crop

ADDRESSED = 2**31  # samples that 32-bit integers can number

_FROM_WAVEFORMS = Frontend()

RowNumbers = Int[np.ndarray, " utterances"] | Sequence[int]  # of a corpus's table


@flax.struct.dataclass
class Tracks:
    """Values that change during an utterance, every `frame_ms` milliseconds. Types as in `Resident`.

    Attributes:
      values: float32 [frames, tracks], all utterances end to end.
      start, num_frames: [utterances], where each lies.
      frame_ms: a scalar.
    """

    values: Any
    start: Any
    num_frames: Any
    frame_ms: Any


@flax.struct.dataclass
class Resident:
    """A corpus on the device. The types are here alone: transformations put axes in the places of arrays.

    Attributes:
      samples: int16 [samples], all utterances end to end; or float [frames, dims], pre-extracted features. Zeros come
        after them, as many as are read at once: a slice beyond the end would begin earlier without a word.
      start, num_samples, label: [utterances], where each lies (in samples or in frames) and its class.
      tokens: int32 [utterances, tokens] of the transcripts, -1 after their ends, or None.
      dimensions: float32 [utterances, dimensions], NaN where a value is not known, or None.
      votes: float32 [utterances, classes], the share of raters that heard each class, or None.
      tracks: `Tracks` or None.
      statistics: `ser_jax.frontend.Statistics` of each utterance's speaker, [utterances, features], or None.
      source: int32 [utterances], as in `Batch`, or None.
      teacher_probabilities: float32 [folds, utterances, classes], what a teacher predicts for each fold's
        training utterances, or None.
    """

    samples: Any
    start: Any
    num_samples: Any
    label: Any
    tokens: Any = None
    dimensions: Any = None
    votes: Any = None
    tracks: Any = None
    statistics: Any = None
    source: Any = None
    teacher_probabilities: Any = None


def make_resident(corpus: Corpus, longest_read: int) -> Resident:
    """Returns a corpus for the device, with zeros behind it so that `longest_read` samples can be read from any place.

    It has the utterances and their labels alone. The sizes are rounded up, so that corpora of similar size share
    compiled programs. Raises `UserError` for a corpus whose samples 32-bit integers cannot address.
    """
    table = corpus.utterances
    size = padded_size(corpus, longest_read)
    if size >= ADDRESSED:
        raise UserError(
            f"corpus {corpus.name}: {len(corpus.samples)} samples; the resident feed addresses fewer than 2^31"
        )
    samples = np.zeros((size, *corpus.samples.shape[1:]), corpus.samples.dtype)
    samples[: len(corpus.samples)] = corpus.samples
    rows = padded_rows(corpus)

    def padded(column: np.ndarray) -> np.ndarray:
        return np.pad(column.astype(np.int32), (0, rows - len(table)))

    return Resident(samples, *(padded(table[name].to_numpy()) for name in ("start", "num_samples", "label")))


def padded_size(corpus: Corpus, longest_read: int) -> int:
    """Returns the length of `make_resident`'s samples."""
    return _round_up(len(corpus.samples) + longest_read)


def padded_rows(corpus: Corpus) -> int:
    """Returns the length of `make_resident`'s columns."""
    return _round_up(len(corpus.utterances))


@dataclasses.dataclass(frozen=True)
class Piece:
    """What one call of a training program gets from a feed; `population.place` lays it on the devices.

    Attributes:
      rows: [parts, runs, steps, batch / parts] utterances of `resident`; -1 only fills a batch up, and what lies past
        `count` steps is not looked at.
      count: the number of steps.
      resident: the utterances; [parts, runs, ...] each where every run has its own, as the streaming feed brings them.
    """

    rows: Int[np.ndarray | Array, "parts runs steps batch"]
    count: int
    resident: Resident


class ResidentFeed:
    """Gives the steps of runs one after another, of a corpus that is on the devices already.

    `runs` are (seed, fold number, training rows); `parts` is the number of parts that every batch is cut into, of
    which `own_parts` are wanted; `table_steps` the largest number of steps of one piece.
    """

    def __init__(
        self,
        resident: Resident,
        layout: FileLayout,
        runs: Sequence[tuple[int, int, Int[np.ndarray, " _"]]],
        batch_size: int,
        *,
        parts: int,
        own_parts: range,
        first_step: int,
        table_steps: int,
    ) -> None:
        self._resident, self._layout, self._runs, self._batch_size = resident, layout, runs, batch_size
        self._parts, self._own_parts, self._step, self._table_steps = parts, own_parts, first_step, table_steps

    def take(self, count: int) -> Piece:
        """Returns the next `count` steps, or fewer."""
        count = min(count, self._table_steps)
        tables = []
        for seed, fold, train in self._runs:
            rows = training_rows(self._layout, train, seed, fold, self._batch_size, self._step, count)
            tables.append(np.pad(rows, ((0, self._table_steps - count), (0, 0))))
        self._step += count
        parts = np.split(np.stack(tables), self._parts, axis=2)
        return Piece(np.stack([parts[part] for part in self._own_parts]), count, self._resident)

    def close(self) -> None:
        """Nothing to be done."""


def crop_batch(
    resident: Resident,
    rows: Int[Array, " batch"],
    keys: Key[Array, " batch"],
    crop_samples: int,
    speed: Float[Array, ""] | None,
    frontend: Frontend = _FROM_WAVEFORMS,
) -> Batch:
    """Cuts a random crop of `crop_samples` out of each utterance, or takes it whole where it is shorter.

    A row of -1 only fills the batch up: it has no samples and weight 0. `speed` is the strength of the speed
    perturbation, None where no run has any. Each row has its own key: a crop does not depend on the others. Tracks are
    read at every frame that the frontend makes of the crop.
    """
    weight, rows = (rows >= 0).astype(jnp.float32), jnp.maximum(rows, 0)
    num_samples = jnp.where(weight > 0, resident.num_samples[rows], 0)
    speed = None if frontend.kind == "precomputed" else speed
    place = jax.vmap(place_crop, in_axes=(0, None, 0, None))
    offset, excess = place(num_samples, crop_samples, keys, speed)

    def crop(start: Array, num_samples: Array, offset: Array, excess: Array | None) -> tuple[Array, Array]:
        return read_crop(resident.samples, start, num_samples, crop_samples, offset, excess)

    def one_by_one(*placed: Array | None) -> tuple[Array, Array]:
        return jax.lax.map(lambda row: crop(*row), placed)

    # All at once, XLA would put the place back into the loop over samples: on a CPU many times as long.
    waveform, num_samples = jax.lax.platform_dependent(
        resident.start[rows], num_samples, offset, excess, cpu=one_by_one, default=jax.vmap(crop)
    )
    batch = Batch(waveform, num_samples, resident.label[rows], weight, **_looked_up(resident, rows))
    if resident.tokens is not None:
        # The utterance ends within the crop, so the crop begins where it begins.
        whole = (num_samples < crop_samples) & (weight > 0)
        batch = batch.replace(tokens=jnp.where(whole[:, None], resident.tokens[rows], -1))
    for name in ("dimensions", "votes"):
        values = getattr(resident, name)
        if values is not None:
            batch = batch.replace(**{name: values[rows]})
    if resident.tracks is not None:
        frames = jnp.arange(num_frames(frontend, crop_samples))[None, :]
        rate = 1 if excess is None else 1 + excess[:, None]
        samples = frames * frontend.hop * rate + offset[:, None]
        batch = batch.replace(tracks=_read_tracks(resident.tracks, rows, samples / frontend.rate))
    return batch


def _looked_up(resident: Resident, rows: Int[Array, " batch"]) -> dict[str, Any]:
    """What a batch has of these rows beside the utterances themselves."""
    return jax.tree.map(lambda leaf: leaf[rows], {"statistics": resident.statistics, "source": resident.source})


def _read_tracks(
    tracks: Tracks, rows: Int[Array, " batch"], seconds: Float[Array, "batch frames"]
) -> Float[Array, "batch frames tracks"]:
    """The tracks at these times of their utterances, between their frames by a straight line; the ends go on."""
    last = jnp.maximum(tracks.num_frames[rows] - 1, 0)[:, None]
    place = jnp.clip(1000 * seconds / jnp.maximum(tracks.frame_ms, 1e-3), 0, last)
    left = jnp.floor(place).astype(jnp.int32)
    start = tracks.start[rows][:, None]
    fraction = (place - left)[..., None]
    return (1 - fraction) * tracks.values[start + left] + fraction * tracks.values[start + jnp.minimum(left + 1, last)]


def window_batch(
    resident: Resident,
    start: Int[Array, " batch"],
    num_samples: Int[Array, " batch"],
    window_samples: int,
    utterance: Int[Array, " batch"] | None = None,
) -> Batch:
    """Cuts windows out of the resident corpus, zero past each one's `num_samples`; the labels are not looked up.

    `utterance` says of which rows they are; only their speakers' statistics and their sources are looked up by it.
    """
    cut = jax.vmap(lambda begin: jax.lax.dynamic_slice_in_dim(resident.samples, begin, window_samples))(start)
    scale = 1.0 if cut.ndim == 3 else 32768.0  # features are what they are; int16 samples become floats in [-1, 1)
    valid = jnp.arange(window_samples)[None, :] < num_samples[:, None]
    valid = valid.reshape(cut.shape[:2] + (1,) * (cut.ndim - 2))
    waveform = jnp.where(valid, cut.astype(jnp.float32) / scale, 0.0)
    batch = Batch(waveform, num_samples, jnp.zeros_like(start), (num_samples > 0).astype(jnp.float32))
    return batch if utterance is None else batch.replace(**_looked_up(resident, utterance))


def _round_up(size: int) -> int:
    """Rounds up to three significant binary digits: at most 25 % more."""
    step = 1 << max(size.bit_length() - 3, 0)
    return -(-size // step) * step
