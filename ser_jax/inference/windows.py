"""Which pieces of its utterances a model sees when it is evaluated."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import flax.struct
import numpy as np
from jaxtyping import Int

from ser_jax.corpora.corpus import Corpus
from ser_jax.feeds.resident import Resident, RowNumbers


@flax.struct.dataclass
class Windows:
    """Pieces of utterances to evaluate, as long as the window or shorter; in tables [batches, batch], or in a row.

    `utterance` is the row of the corpus that a piece belongs to, or -1 where an entry only fills the table up.
    """

    start: Int[np.ndarray, "*places"]
    num_samples: Int[np.ndarray, "*places"]
    utterance: Int[np.ndarray, "*places"]


def evaluation_windows(
    corpus: Corpus,
    rows: RowNumbers,
    window_samples: int,
    batch_size: int,
    num_batches: int,
    *,
    of_one_speaker: bool = False,
) -> Iterator[Windows]:
    """Yields tables of `num_batches` batches that cover the utterances `rows` with windows.

    An utterance longer than the window is covered by windows that overlap evenly, the first at its begin, the last at
    its end. With `of_one_speaker` the windows of a batch are one speaker's, who has as few batches as hold them all,
    each with about as many; utterances of unknown speakers count as one speaker's.
    """
    rows = np.asarray(rows, int)
    start, length = (corpus.utterances[name].to_numpy()[rows] for name in ("start", "num_samples"))
    count = num_windows(length, window_samples)
    which = np.repeat(np.arange(len(rows)), count)
    number = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    distance = np.maximum(length - window_samples, 0) / np.maximum(count - 1, 1)
    starts = start[which] + np.rint(number * distance[which]).astype(int)
    lengths, utterances = np.minimum(length, window_samples)[which], rows[which]
    order = np.arange(len(which))
    if of_one_speaker:
        order = _by_speaker(corpus.utterances["speaker"].to_numpy()[utterances], batch_size)
    block = batch_size * num_batches
    for first in range(0, len(order), block):
        chosen = np.pad(order[first : first + block], (0, max(first + block - len(order), 0)), constant_values=-1)
        table = [
            np.append(column, fill)[chosen].reshape(num_batches, batch_size)
            for column, fill in ((starts, 0), (lengths, 0), (utterances, -1))
        ]
        yield Windows(*table)


def timeline_windows(corpus: Corpus, window_samples: int, hop_samples: int) -> Corpus:
    """Returns windows of a corpus's one recording as its utterances; the samples are shared.

    They begin every `hop_samples`, and the last one ends with the recording, which is one window if it is shorter.
    """
    (length,) = corpus.utterances["num_samples"]
    last = max(length - window_samples, 0)
    start = np.append(np.arange(0, last, hop_samples), last)
    columns = corpus.utterances.drop(columns=["id", "start", "num_samples"]).iloc[[0] * len(start)]
    table = columns.assign(id=[str(i) for i in range(len(start))], start=start, num_samples=min(window_samples, length))
    which = f"{corpus.fingerprint} in windows of {window_samples} every {hop_samples}"
    return dataclasses.replace(corpus, utterances=table.reset_index(drop=True), fingerprint=which)


def _by_speaker(speakers: np.ndarray, batch_size: int) -> Int[np.ndarray, " places"]:
    """Windows in the order of their speakers, given for each; -1 fills every batch up that is not full."""
    batches = []
    for speaker in np.unique(speakers):
        own = np.flatnonzero(speakers == speaker)
        count = -(-len(own) // batch_size)
        for number in range(count):
            chosen = own[number::count]  # some of every utterance, rather than all of some
            batches.append(np.pad(chosen, (0, batch_size - len(chosen)), constant_values=-1))
    return np.concatenate(batches) if batches else np.zeros(0, int)


def num_windows(num_samples: Any, window_samples: int) -> Any:
    """Returns how many windows cover an utterance, or each of an array of them."""
    return -(-num_samples // window_samples)


def cut_windows(corpus: Corpus, windows: Windows, window_samples: int) -> tuple[Windows, Resident]:
    """Returns these windows of a corpus that is not on the device, and a `Resident` of nothing else to find them in."""
    samples = np.zeros((windows.start.size * window_samples, *corpus.samples.shape[1:]), corpus.samples.dtype)
    starts = np.arange(windows.start.size, dtype=np.int32) * window_samples
    for here, there, length in zip(starts, windows.start.flat, windows.num_samples.flat, strict=True):
        samples[here : here + length] = corpus.samples[there : there + length]
    nothing = np.zeros(1, np.int32)
    return windows.replace(start=starts.reshape(windows.start.shape)), Resident(samples, nothing, nothing, nothing)
