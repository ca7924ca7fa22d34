"""Utterances a second of the streaming feed, against a PyTorch DataLoader on the same TFRecord files.

python -m benchmarks.feeds [--utterances 8192] [--window 2048] [--batch 32] [--workers 2]

Utterances of 2 to 5 s, in batches of int16 crops of 3 s. The DataLoader's workers share out the files, read and parse
the records in plain Python, shuffle in buffers that hold as many utterances as our window, crop and collate. Both
readers are compared first: they must give the same utterances with the same samples. Then they take turns, an epoch
each, so that a busy machine slows both; the clock runs from the first batch, when buffers and windows are full.
`pieces` are what training takes of our feed: whole utterances, which are cropped on the device.
Prints a table, and a JSON line for each contestant to stderr.
"""

import argparse
import hashlib
import itertools
import random
import struct
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from benchmarks.common import emit
from benchmarks.corpora import noise
from ser_jax.corpora.corpus import SAMPLE_RATE, Corpus
from ser_jax.feeds.order import file_layout, training_rows
from ser_jax.feeds.records import Records, open_records
from ser_jax.feeds.streaming import StreamingFeed, open_stream

PIECE_STEPS = 16
PAUSE_SECONDS = 1.0


def main() -> None:
    """Writes the records, compares what the readers give, and times them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=8192)
    parser.add_argument("--window", type=int, default=2048, help="utterances among which is shuffled")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--crop_seconds", type=float, default=3.0)
    parser.add_argument("--workers", type=int, default=2, help="of the DataLoader")
    parser.add_argument("--turns", type=int, default=5, help="timed epochs of each")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus = noise(args.utterances)
        records = open_records(corpus, folder)
        compare(corpus, records, args)
        contestants = {
            "ser_jax, batches": our_batches(records, args),
            "ser_jax, pieces": our_pieces(corpus, records, args),
            "PyTorch DataLoader": torch_batches(records, args),
        }
        report(contestants, args)


def report(contestants: dict[str, Generator[int, None, None]], args: argparse.Namespace) -> None:
    """Lets them take turns and prints the figures; each gives the numbers of utterances that it brings."""
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(args.turns + 1):
        for name, sizes in contestants.items():
            # Each fills its buffers at the begin of an epoch: that is before the clock, and so is the first batch.
            brought = next(sizes)
            time.sleep(PAUSE_SECONDS)  # what the one before still reads ahead is not to slow this one
            start, first = time.perf_counter(), brought
            while brought < args.utterances:
                brought += next(sizes)
            seconds = time.perf_counter() - start
            if turn:  # the first turn warms up
                rates[name].append((brought - first) / seconds)
    for sizes in contestants.values():
        sizes.close()
    theirs = float(np.median(rates["PyTorch DataLoader"]))
    print(f"{'':24}{'utterances/s':>14}{'fastest':>10}{'against PyTorch':>18}")
    for name, values in rates.items():
        median, fastest = float(np.median(values)), max(values)
        print(f"{name:24}{median:14.0f}{fastest:10.0f}{median / theirs:17.2f}x")
        figures = {"utterances_per_second": median, "fastest": fastest, "against_pytorch": median / theirs}
        emit("feeds", contestant=name, **figures, **vars(args))


def compare(corpus: Corpus, records: Records, args: argparse.Namespace) -> None:
    """Stops where the two readers do not give the same samples of the same utterances in an epoch."""
    layout, everything = file_layout(args.utterances, window=args.window), np.arange(args.utterances)
    stream = open_stream(records, layout, everything, 0, 0, 1, 0, [0])
    rows = training_rows(layout, everything, 0, 0, 1, 0, args.utterances).ravel().tolist()
    ours = {(row, digest(waveform)) for row, (waveform,) in zip(rows, stream, strict=False)}
    stream.close()
    whole = Utterances(records, args.window, int(corpus.utterances["num_samples"].max()))
    theirs = {
        (int(row), digest(crop[:length].numpy()))
        for row, length, crop in DataLoader(whole, batch_size=None, num_workers=args.workers)
    }
    if ours != theirs or len(ours) != args.utterances:
        raise SystemExit(f"error: the readers differ: {len(ours - theirs)} of {len(ours)} utterances")


def digest(waveform: np.ndarray) -> bytes:
    """A hash of the samples."""
    return hashlib.blake2b(waveform.tobytes(), digest_size=16).digest()


def our_batches(records: Records, args: argparse.Namespace) -> Generator[int, None, None]:
    """Gives the sizes of our batches, cropped on the host, without end."""
    layout, everything = file_layout(args.utterances, window=args.window), np.arange(args.utterances)
    rng = random.Random(0)
    buffers = np.zeros((2, args.batch, round(args.crop_seconds * SAMPLE_RATE)), np.int16)  # used in turn
    stream = open_stream(records, layout, everything, 0, 0, args.batch, 0, [0])
    for batch, waveforms in zip(itertools.cycle(buffers), stream, strict=False):
        for place, waveform in zip(batch, waveforms, strict=True):
            place[cut(waveform, place, rng) :] = 0
        yield len(batch)


def our_pieces(corpus: Corpus, records: Records, args: argparse.Namespace) -> Generator[int, None, None]:
    """Gives the numbers of utterances in our pieces, ready for the device, without end."""
    layout, runs = file_layout(args.utterances, window=args.window), [(0, 0, np.arange(args.utterances))]
    whole = {"parts": 1, "own_parts": range(1), "first_step": 0}
    crop = round(args.crop_seconds * SAMPLE_RATE)
    feed = StreamingFeed(records, corpus, layout, runs, args.batch, **whole, crop_samples=crop)
    while True:
        yield feed.take(PIECE_STEPS).count * args.batch


def torch_batches(records: Records, args: argparse.Namespace) -> Generator[int, None, None]:
    """Gives the sizes of the DataLoader's batches, without end; its workers stay."""
    dataset = Utterances(records, args.window, round(args.crop_seconds * SAMPLE_RATE))
    loader = DataLoader(dataset, args.batch, num_workers=args.workers, persistent_workers=args.workers > 0)
    while True:
        for rows, _, _ in loader:
            yield len(rows)


class Utterances(IterableDataset):
    """The records in a new order each epoch, shuffled in a buffer: rows, valid samples and crops."""

    def __init__(self, records: Records, window: int, crop_samples: int) -> None:
        self._files, self._window, self._crop_samples = records.files, window, crop_samples
        self._rng = random.Random(0)

    def __iter__(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        files = list(self._files[number::workers])
        self._rng.shuffle(files)
        return (self._crop(*utterance) for utterance in self._shuffled(files, self._window // workers))

    def _shuffled(self, files: Iterable[Path], size: int) -> Iterator[tuple[int, np.ndarray]]:
        buffer: list[tuple[int, np.ndarray]] = []
        for file in files:
            for record in read_records(file):
                utterance = parse_example(record)
                if len(buffer) < size:
                    buffer.append(utterance)
                else:
                    place = self._rng.randrange(size)
                    utterance, buffer[place] = buffer[place], utterance
                    yield utterance
        self._rng.shuffle(buffer)
        yield from buffer

    def _crop(self, row: int, waveform: np.ndarray) -> tuple[int, int, torch.Tensor]:
        crop = np.zeros(self._crop_samples, np.int16)
        return row, cut(waveform, crop, self._rng), torch.from_numpy(crop)


def cut(waveform: np.ndarray, place: np.ndarray, rng: random.Random) -> int:
    """Writes a random crop to `place`, or the whole where it is shorter, and returns its length."""
    begin = rng.randrange(max(len(waveform) - len(place), 0) + 1)
    crop = waveform[begin : begin + len(place)]
    place[: len(crop)] = crop
    return len(crop)


def read_records(file: Path) -> Iterator[bytes]:
    """The records of a TFRecord file: each is its length in 8 bytes, their checksum in 4, the data, its checksum."""
    with file.open("rb") as stream:
        while header := stream.read(12):
            (length,) = struct.unpack("<Q", header[:8])
            record = stream.read(length)
            stream.read(4)
            yield record


def parse_example(record: bytes) -> tuple[int, np.ndarray]:
    """The row and the waveform of a `tf.train.Example`: a map from names to lists of one value."""
    values = {}
    for features in fields(memoryview(record)):
        for entry in fields(features):
            name, feature = fields(entry)
            (values_of_a_kind,) = fields(feature)
            (values[bytes(name)],) = fields(values_of_a_kind)
    row, _ = varint(values[b"row"], 0)
    return row, np.frombuffer(values[b"waveform"], "<i2")


def fields(message: memoryview) -> Iterator[memoryview]:
    """The contents of a protobuf message's fields, all of which have a length here."""
    at = 0
    while at < len(message):
        _, at = varint(message, at)  # number and kind
        length, at = varint(message, at)
        yield message[at : at + length]
        at += length


def varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of varying length, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


if __name__ == "__main__":
    main()
