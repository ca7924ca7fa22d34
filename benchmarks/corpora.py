"""Corpora for the benchmarks: as large as wanted, and made in seconds; and what a feed should bring of them."""

import itertools
import os
from collections.abc import Iterator

import jax
import numpy as np
import pandas as pd

from ser_jax.corpora.corpus import SAMPLE_RATE, Corpus, make_corpus, pack, waveform
from ser_jax.corpora.protocols import Fold, Protocol
from ser_jax.feeds.order import file_layout, training_rows
from ser_jax.feeds.resident import Piece
from ser_jax.training.population import Population

CLASSES = ("low", "high")


def noise(size: int) -> Corpus:
    """A corpus of cuts from one noise, 2 to 5 s long; what they are called means nothing."""
    rng = np.random.default_rng(0)
    source = rng.integers(-3000, 3000, 6 * SAMPLE_RATE).astype(np.int16)
    lengths = rng.integers(2 * SAMPLE_RATE, 5 * SAMPLE_RATE, size)
    starts = rng.integers(0, SAMPLE_RATE, size)
    table = pd.DataFrame({"id": [f"u{i}" for i in range(size)], "emotion": np.resize(CLASSES, size)})
    cuts = [source[start : start + length] for start, length in zip(starts, lengths, strict=True)]
    return make_corpus("noise", table, cuts, CLASSES)


def repeated(corpus: Corpus, size: int, folder: str | os.PathLike) -> Corpus:
    """Packs the first `size` utterances of `corpus` repeated without end, each with an id of its own."""

    def examples() -> Iterator[tuple[dict, np.ndarray]]:
        rows = corpus.utterances[["speaker", "emotion"]].to_dict("records")
        for i, place in zip(range(size), itertools.cycle(range(len(rows))), strict=False):
            yield {"id": f"u{i}", **rows[place]}, waveform(corpus, place)

    return pack(folder, corpus.name, examples(), corpus.emotions)


def all_for_training(corpus: Corpus) -> Protocol:
    """One fold that trains on every utterance."""
    nothing = np.zeros(0, np.int64)
    fold = Fold("all", np.arange(len(corpus.utterances)), nothing, nothing)
    return Protocol("all", False, (fold,), "every utterance is trained on")


def compare_piece(population: Population, piece: Piece) -> None:
    """Stops where the piece of the first steps of one run does not hold the samples of their utterances."""
    corpus, config = population.corpus, population.config
    layout = file_layout(len(corpus.utterances), **config["order"])
    ((fold, seed),), batch_size = population.runs, config["training"]["batch_size"]
    expected = training_rows(layout, population.folds[0].train, seed, fold, batch_size, 0, piece.count).ravel()
    of_the_run = (0, 0) if population.feed == "streaming" else ()
    held = jax.tree.map(lambda leaf: np.asarray(leaf)[of_the_run], piece.resident)
    for row, place in zip(expected.tolist(), piece.rows[0, 0, : piece.count].ravel().tolist(), strict=True):
        found = held.samples[held.start[place] : held.start[place] + held.num_samples[place]]
        if not np.array_equal(found, waveform(corpus, row)):
            raise SystemExit(f"error: the {population.feed} feed has other samples than utterance {row} of the corpus")
