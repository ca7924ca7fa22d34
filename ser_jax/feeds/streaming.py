"""The streaming feed: utterances from TFRecord files by tf.data, in exactly the order of `ser_jax.feeds.order`.

Each lane reads the files of a window one after another, drops what is not trained on, and gives the rest out shuffled
while the next window is read: two windows of utterances are in memory for every lane and run. What some steps need goes
to the devices together, as a small `Resident`. TensorFlow is imported when a stream is opened.
"""

import functools
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Int16

from ser_jax.corpora.corpus import Corpus
from ser_jax.errors import UserError
from ser_jax.feeds.order import FileLayout, Stretch, position, stretches, training_rows
from ser_jax.feeds.records import Records, damaged, import_tensorflow
from ser_jax.feeds.resident import Piece, Resident

_RECORDS = 16  # parsed together: few enough that the processor's cache holds them
_READ_AHEAD = 4  # batches that wait, ready to be taken


class StreamingFeed:
    """Brings the utterances of all runs, some steps at a time.

    A batch is cut into `parts`, one for each device that shares it, and a process reads those that are its own. How
    many steps there are in a piece depends on the lengths in all parts: all processes take the same.
    """

    def __init__(
        self,
        records: Records,
        corpus: Corpus,
        layout: FileLayout,
        runs: Sequence[tuple[int, int, Int[np.ndarray, " _"]]],
        batch_size: int,
        *,
        parts: int,
        own_parts: range,
        first_step: int,
        crop_samples: int,
        beside: Mapping[str, np.ndarray] | None = None,
        table_steps: int = 256,
        bytes_per_call: int = 64 << 20,
    ) -> None:
        """Opens the streams.

        Args:
          runs: the seed, the number of the fold and its training rows, of each run.
          first_step: from which step on.
          crop_samples: what the step reads of an utterance at once; a piece has so many zeros behind its utterances.
          beside: what else is learnt of every utterance of the corpus, by its field of `Resident`: tokens, ...
          table_steps: the largest number of steps of a piece.
          bytes_per_call: about the size of a piece, of all parts and runs together; a single step may need more.
        """
        if any(part * layout.lanes % parts for part in (own_parts.start, own_parts.stop)):
            raise ValueError(f"{layout.lanes} lanes: parts {own_parts} of {parts} do not begin and end with one")
        lanes = range(own_parts.start * layout.lanes // parts, own_parts.stop * layout.lanes // parts)
        table = corpus.utterances
        self._columns = {name: table[name].to_numpy(np.int32) for name in ("num_samples", "label")}
        self._beside = tuple(beside or {})
        self._columns |= beside or {}
        self._layout, self._runs, self._batch_size = layout, runs, batch_size
        self._parts, self._own_parts, self._table_steps = parts, own_parts, table_steps
        self._step = first_step

        share = batch_size // parts
        longest = max(int(self._columns["num_samples"][train].max()) for _, _, train in runs)
        self._crop_samples = crop_samples
        # At least the worst case of a single step.
        self._capacity = max(share * longest, bytes_per_call // (2 * parts * len(runs)) - crop_samples)
        self._streams = [
            open_stream(records, layout, train, seed, fold, batch_size, first_step, lanes) for seed, fold, train in runs
        ]

    def take(self, count: int) -> Piece:
        """Returns the next steps: at most `count`, and fewer where a piece cannot hold the samples of more.

        Raises `UserError` for records that are damaged or of another corpus.
        """
        rows = self._rows(min(count, self._table_steps))
        lengths = self._columns["num_samples"][rows].sum(axis=-1).cumsum(axis=-1)  # [runs, parts, steps]
        count = max(int(np.count_nonzero((lengths <= self._capacity).all(axis=(0, 1)))), 1)
        own = rows[:, self._own_parts.start : self._own_parts.stop, :count].swapaxes(0, 1)
        piece = self._piece(own)
        self._fill(piece.resident, count)
        self._step += count
        return piece

    def close(self) -> None:
        """Ends the reading."""
        for stream in self._streams:
            stream.close()

    def _rows(self, count: int) -> Int[np.ndarray, "runs parts steps batch"]:
        """The rows of the corpus's table that the next steps see."""
        drawn = [
            training_rows(self._layout, train, seed, fold, self._batch_size, self._step, count)
            for seed, fold, train in self._runs
        ]
        return np.stack(drawn).reshape(len(drawn), count, self._parts, -1).swapaxes(1, 2)

    def _piece(self, rows: Int[np.ndarray, "parts runs steps batch"]) -> Piece:
        """A piece of these rows of the corpus's table, still without samples."""
        parts, runs, count, share = rows.shape
        table = np.full((parts, runs, self._table_steps, share), -1, np.int32)
        table[:, :, :count] = np.arange(count * share, dtype=np.int32).reshape(count, share)
        utterances = rows.reshape(parts, runs, -1)

        def column(name: str) -> np.ndarray:
            values = self._columns[name]
            filled = np.zeros((parts, runs, self._table_steps * share, *values.shape[1:]), values.dtype)
            filled[:, :, : count * share] = values[utterances]
            return filled

        num_samples = column("num_samples")
        resident = Resident(
            samples=np.zeros((parts, runs, self._capacity + self._crop_samples), np.int16),
            start=(np.cumsum(num_samples, axis=-1) - num_samples).astype(np.int32),
            num_samples=num_samples,
            label=column("label"),
            **{name: column(name) for name in self._beside},
        )
        return Piece(table, count, resident)

    def _fill(self, resident: Resident, count: int) -> None:
        """Reads the samples of the next `count` steps."""
        for run, stream in enumerate(self._streams):
            filled = [0] * len(self._own_parts)
            for waveforms in itertools.islice(stream, count):
                share = len(waveforms) // len(filled)
                for i, waveform in enumerate(waveforms):
                    part = i // share
                    end = filled[part] + len(waveform)
                    resident.samples[part, run, filled[part] : end] = waveform
                    filled[part] = end


def open_stream(
    records: Records,
    layout: FileLayout,
    train: Int[np.ndarray, " utterances"],
    seed: int,
    fold: int,
    batch_size: int,
    first_step: int,
    lanes: Sequence[int],
) -> Generator[list[Int16[np.ndarray, " _"]], None, None]:
    """Yields the waveforms of each step's training rows that are in these lanes, without end, from `first_step` on.

    They come in the order of `order.training_rows`; to begin at any step, no lane reads more than one window. Closing
    the generator ends the reading. Raises `UserError` for records that are damaged or of another corpus.
    """
    opened = [_open_lane(records, layout, train, seed, fold, lane, batch_size, first_step) for lane in lanes]
    try:
        while True:
            yield [waveform for lane in opened for waveform in next(lane)]
    finally:
        for lane in opened:
            lane.close()


def _open_lane(
    records: Records,
    layout: FileLayout,
    train: Int[np.ndarray, " utterances"],
    seed: int,
    fold: int,
    lane: int,
    batch_size: int,
    first_step: int,
) -> Generator[list[Int16[np.ndarray, " _"]], None, None]:
    """Yields the waveforms that one lane gives to each step."""
    tf = import_tensorflow()
    epoch, skip = position(layout, train, lane, batch_size, first_step)
    trained = np.zeros(sum(map(len, layout.files)), bool)
    trained[train] = True
    being_read: deque[Stretch] = deque(maxlen=4)

    def windows() -> Iterator[tuple]:
        """What to read: the files, which of their records, and in which order they are given out, with their rows."""
        to_skip = skip
        for stretch in stretches(layout, train, lane, seed, fold, epoch):
            if to_skip >= len(stretch.rows):
                to_skip -= len(stretch.rows)
                continue
            being_read.append(stretch)
            order = stretch.order[to_skip:]
            kept = trained[np.concatenate([layout.files[number] for number in stretch.files])]
            yield [str(records.files[number]) for number in stretch.files], kept, order, stretch.rows[order]
            to_skip = 0

    signature = (
        tf.TensorSpec((None,), tf.string),
        tf.TensorSpec((None,), tf.bool),
        tf.TensorSpec((None,), tf.int64),
        tf.TensorSpec((None,), tf.int64),
    )
    read, shuffled = _graph_functions()
    dataset = tf.data.Dataset.from_generator(windows, output_signature=signature)
    dataset = dataset.map(read).prefetch(1).flat_map(shuffled).batch(batch_size // layout.lanes).prefetch(_READ_AHEAD)
    options = tf.data.Options()  # what tf.data would tune by itself costs more than it gains
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    batches = iter(dataset.with_options(options))
    while True:
        try:
            expected, rows, waveforms = next(batches)
        except tf.errors.OpError as error:
            raise _unreadable(records, being_read) from error
        if not np.array_equal(rows, expected):
            raise _of_another_corpus(records)
        yield [np.frombuffer(waveform, "<i2") for waveform in waveforms.numpy()]


@functools.cache
def _graph_functions() -> tuple[Callable, Callable]:
    """What tf.data does with a window: reads it, and gives it out in its order. Traced once for all streams."""
    tf = import_tensorflow()

    def parse(serialized: Any, kept: Any) -> tuple:
        features = {"row": tf.io.FixedLenFeature((), tf.int64), "waveform": tf.io.FixedLenFeature((), tf.string)}
        example = tf.io.parse_example(tf.boolean_mask(serialized, kept), features)
        return example["row"], example["waveform"]

    def read(files: Any, kept: Any, order: Any, expected: Any) -> tuple:
        serialized = tf.data.TFRecordDataset(files)
        chunks = tf.data.Dataset.zip((serialized, tf.data.Dataset.from_tensor_slices(kept))).batch(_RECORDS)
        examples = chunks.map(parse, num_parallel_calls=2, deterministic=True).unbatch()
        rows, waveforms = examples.batch(tf.size(kept, tf.int64)).get_single_element()
        return rows, waveforms, order, expected

    def shuffled(rows: Any, waveforms: Any, order: Any, expected: Any) -> Any:
        places = tf.data.Dataset.from_tensor_slices((order, expected)).batch(_RECORDS)
        return places.map(lambda at, row: (row, tf.gather(rows, at), tf.gather(waveforms, at))).unbatch()

    return tf.function(read, autograph=False), tf.function(shuffled, autograph=False)


def _unreadable(records: Records, being_read: Sequence[Stretch]) -> UserError:
    """The error for what could not be read, naming the file: TensorFlow does not."""
    tf = import_tensorflow()
    for number in dict.fromkeys(number for stretch in being_read for number in stretch.files):
        try:
            for _ in tf.data.TFRecordDataset(str(records.files[number])):
                pass
        except tf.errors.OpError as error:
            return damaged(records.files[number], error.message.split("}}")[-1].split(" [Op")[0].strip())
    return _of_another_corpus(records)


def _of_another_corpus(records: Records) -> UserError:
    return damaged(records.folder, "other rows of the corpus than its files should hold")
