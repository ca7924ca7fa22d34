"""The part of a corpus that is on the devices while a population trains, and the sums of its features.

The samples lie there once, whatever the frontends and models of a study are. What differs between them (the statistics
of speakers, the probabilities of a teacher ...) is small and lies beside. Of each kind only the latest is kept: what no
later variant asks for does not stay.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ser_jax.corpora.corpus import Corpus
from ser_jax.corpora.protocols import Fold
from ser_jax.feeds import resident as resident_feed
from ser_jax.feeds.resident import Resident, Tracks
from ser_jax.frontend import FeatureSums, Frontend, Statistics, feature_sums, num_features
from ser_jax.frontend.statistics import speaker_statistics
from ser_jax.inference.windows import Windows, cut_windows
from ser_jax.training import devices, heads
from ser_jax.training.setup import Targets
from ser_jax.training.teacher import Teacher, teacher_table

_SUM_BATCH = 32  # pieces of utterances whose features are summed together
_SUM_SECONDS = 10.0  # of a piece; a shorter utterance is one


def place_corpus(
    corpus: Corpus,
    frontend: Frontend,
    targets: Targets,
    teacher: Teacher | None,
    folds: Sequence[Fold],
    read_samples: int,
    layout: devices.Layout,
    cache: dict[str, Any],
) -> Resident:
    """Returns a corpus on every device of `layout`, with all that its utterances are looked up by there.

    `folds` are those that `teacher` teaches, each once. Reads of up to `read_samples` may begin anywhere. What is in
    `cache` and as it is wanted is not brought again.
    """
    source = *source_of(corpus), frontend.trim_db, len(layout.devices)
    bring = functools.partial(devices.replicate, devices=layout.devices)
    longest = longest_read(corpus, frontend, read_samples)
    key = *source, resident_feed.padded_size(corpus, longest)
    resident = latest(cache, "samples", key, lambda: bring(resident_feed.make_resident(corpus, longest)))
    for name, (what, value) in _beside(corpus, targets, len(resident.start)).items():
        found = latest(cache, name, (*source, what), functools.partial(bring, jax.tree.map(np.asarray, value)))
        resident = resident.replace(**{name: found})
    if frontend.normalization == "speaker":

        def statistics() -> Any:
            sums = utterance_sums(corpus, frontend, resident)
            return bring(speaker_statistics(sums, corpus.utterances["speaker"].to_numpy(), len(resident.start)))

        speakers = tuple(corpus.utterances["speaker"])
        found = latest(cache, "statistics", (*source, frontend, hash(speakers)), statistics)
        resident = resident.replace(statistics=found)
    if teacher is not None:
        key = *source, teacher.parameters, tuple(fold.name for fold in folds)

        def table() -> Any:
            return bring(teacher_table(teacher, folds, len(resident.label), len(corpus.emotions)))

        resident = resident.replace(teacher_probabilities=latest(cache, "teacher", key, table))
    return resident


def resident_shapes(
    corpus: Corpus,
    frontend: Frontend,
    targets: Targets,
    teacher: Teacher | None,
    folds: Sequence[Fold],
    read_samples: int,
) -> Resident:
    """Returns the shapes and dtypes of what `place_corpus` returns; brings nothing to the devices."""
    rows = resident_feed.padded_rows(corpus)
    size = resident_feed.padded_size(corpus, longest_read(corpus, frontend, read_samples))
    column = jax.ShapeDtypeStruct((rows,), np.int32)
    samples = jax.ShapeDtypeStruct((size, *corpus.samples.shape[1:]), corpus.samples.dtype)
    resident = Resident(samples, column, column, column)
    for name, (_, value) in _beside(corpus, targets, rows).items():
        resident = resident.replace(**{name: jax.eval_shape(lambda value=value: jax.tree.map(jnp.asarray, value))})
    if frontend.normalization == "speaker":
        figures = jax.ShapeDtypeStruct((rows, num_features(frontend)), np.float32)
        resident = resident.replace(statistics=Statistics(figures, figures))
    if teacher is not None:
        table = jax.ShapeDtypeStruct((len(folds), rows, len(corpus.emotions)), np.float32)
        resident = resident.replace(teacher_probabilities=table)
    return resident


def _beside(corpus: Corpus, targets: Targets, rows: int) -> dict[str, tuple[Any, Any]]:
    """What else is learnt, by its field of `Resident`: what tells it apart, and its arrays."""
    found = utterance_targets(targets)
    if targets.tracks is not None:
        own = targets.tracks
        tracks = Tracks(own.values, own.start, own.num_frames, np.float32(own.frame_ms))
        found["tracks"] = (own.name, own.fingerprint), tracks
    if targets.heads is not None:
        numbers = heads.source_numbers(targets.heads, corpus)
        found["source"] = targets.heads, np.pad(numbers, (0, rows - len(numbers)))
    return found


def utterance_targets(targets: Targets) -> dict[str, tuple[Any, np.ndarray]]:
    """Returns what is learnt of whole utterances, as `_beside` does: an array [utterances, ...] of each kind."""
    found: dict[str, tuple[Any, np.ndarray]] = {}
    if targets.tokens is not None:
        found["tokens"] = targets.vocabulary, targets.tokens.astype(np.int32)
    for name in ("dimensions", "votes"):
        values = getattr(targets, name)
        if values is not None:
            found[name] = hashlib.sha256(values.tobytes()).hexdigest(), values
    return found


def latest(cache: dict[str, Any], kind: str, key: Sequence[Any], make: Callable[[], Any]) -> Any:
    """Returns what `cache` has of a kind, if it is `key`'s; else what `make` makes, in the place of the one before.

    The one before is let go first, so that the devices do not have to hold both.
    """
    name = repr(key)
    known = cache.get(kind)
    if known is None or known[0] != name:
        cache.pop(kind, None)
        del known
        cache[kind] = name, make()
    return cache[kind][1]


def source_of(corpus: Corpus) -> tuple:
    """Returns what tells a corpus's samples and labels apart from all others, also from a part of its utterances."""
    features = corpus.info.get("features")
    return corpus.fingerprint, features and features["fingerprint"], corpus.emotions, len(corpus.utterances)


def longest_read(corpus: Corpus, frontend: Frontend, read_samples: int) -> int:
    """Returns how many samples are read at once from any place, at most."""
    return max(read_samples, _piece_samples(corpus, frontend))


def utterance_sums(corpus: Corpus, frontend: Frontend, resident: Resident | None = None) -> FeatureSums:
    """Returns the sums of features over each utterance, every frame of it once, as arrays [utterances, ...].

    The statistics of every fold and speaker follow from them; how a variant is evaluated has no part in them.
    `resident` holds the corpus on the devices; without it the utterances are brought there one batch after another.
    """
    size = _piece_samples(corpus, frontend)

    @functools.partial(jax.jit, compiler_options=devices.compiler_options())
    def sums(resident: Resident, start: Array, num_samples: Array) -> FeatureSums:
        batch = resident_feed.window_batch(resident, start, num_samples, size)
        return feature_sums(frontend, batch.waveform, batch.num_samples)

    total: FeatureSums | None = None
    for pieces in _pieces(corpus, frontend):
        there, held = (pieces, resident) if resident else cut_windows(corpus, pieces, size)
        part = sums(held, there.start[0].astype(np.int32), pieces.num_samples[0].astype(np.int32))
        part = jax.tree.map(np.asarray, part)
        if total is None:
            total = jax.tree.map(lambda leaf: np.zeros((len(corpus.utterances), *leaf.shape[1:])), part)
        valid = pieces.utterance[0] >= 0
        for leaf, more in zip(jax.tree.leaves(total), jax.tree.leaves(part), strict=True):
            np.add.at(leaf, pieces.utterance[0][valid], more[valid])
    return total


def _piece_samples(corpus: Corpus, frontend: Frontend) -> int:
    """From one piece of an utterance to the next: whole hops, some seconds or as long as the longest utterance."""
    longest = int(corpus.utterances["num_samples"].max()) + 1
    return frontend.hop * max(-(-min(round(_SUM_SECONDS * frontend.rate), longest) // frontend.hop), 1)


def _pieces(corpus: Corpus, frontend: Frontend) -> Iterator[Windows]:
    """Yields the pieces of all utterances, [1, batch] at a time.

    A frame begins with every hop, the first one included, so a piece that another follows ends a sample before it;
    but for frames that are single samples, or come as frames.
    """
    step = _piece_samples(corpus, frontend)
    length = step if frontend.kind in ("precomputed", "waveform") else step - 1
    start, num_samples = (corpus.utterances[name].to_numpy() for name in ("start", "num_samples"))
    count = np.maximum(-(-num_samples // step), 1)
    utterance = np.repeat(np.arange(len(start)), count)
    offset = step * (np.arange(len(utterance)) - np.repeat(np.cumsum(count) - count, count))
    left = num_samples[utterance] - offset
    columns = start[utterance] + offset, np.where(left > step, length, left), utterance
    for first in range(0, len(utterance), _SUM_BATCH):
        chosen = [column[first : first + _SUM_BATCH] for column in columns]
        missing = _SUM_BATCH - len(chosen[0])
        fills = zip(chosen, (0, 0, -1), strict=True)
        yield Windows(*(np.pad(column, (0, missing), constant_values=fill)[None] for column, fill in fills))
