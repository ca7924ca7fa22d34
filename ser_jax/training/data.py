"""What of a corpus lies on the devices while a population trains, and the statistics of its features."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array

from ser_jax.corpora.corpus import Corpus
from ser_jax.corpora.protocols import Fold
from ser_jax.feeds import resident as resident_feed
from ser_jax.feeds.resident import Resident, Tracks
from ser_jax.frontend import FeatureSums, Frontend, feature_sums
from ser_jax.frontend.statistics import speaker_statistics
from ser_jax.inference.windows import cut_windows, evaluation_windows
from ser_jax.training import devices, heads
from ser_jax.training.setup import Targets
from ser_jax.training.teacher import Teacher, teacher_table

_SUM_BATCH = 32  # windows whose features are summed together


def place_corpus(
    corpus: Corpus,
    frontend: Frontend,
    targets: Targets,
    teacher: Teacher | None,
    folds: Sequence[Fold],
    window_samples: int,
    layout: devices.Layout,
) -> Resident:
    """Returns a corpus on every device of `layout`, with all that its utterances are looked up by there.

    `folds` are those that `teacher` teaches, each once. Reads of up to `window_samples` may begin anywhere.
    """
    tracks = targets.tracks
    if tracks is not None:
        tracks = Tracks(tracks.values, tracks.start, tracks.num_frames, np.float32(tracks.frame_ms))
    source = None if targets.heads is None else heads.source_numbers(targets.heads, corpus)
    resident = resident_feed.make_resident(corpus, window_samples, targets.tokens, tracks, source)
    if teacher is not None:
        table = teacher_table(teacher, folds, len(resident.label), len(corpus.emotions))
        resident = resident.replace(teacher_probabilities=table)
    resident = devices.replicate(resident, layout.devices)
    if frontend.normalization == "speaker":
        sums = utterance_sums(corpus, frontend, window_samples, resident)
        statistics = speaker_statistics(sums, corpus.utterances["speaker"].to_numpy(), len(resident.start))
        resident = resident.replace(statistics=devices.replicate(statistics, layout.devices))
    return resident


def utterance_sums(
    corpus: Corpus, frontend: Frontend, window_samples: int, resident: Resident | None = None
) -> FeatureSums:
    """Returns the sums of features over each utterance's windows, as arrays [utterances, ...].

    The statistics of every fold and speaker follow from them. `resident` holds the corpus on the devices; without it
    the windows are brought there one batch after another.
    """

    @functools.partial(jax.jit, compiler_options=devices.compiler_options())
    def sums(resident: Resident, start: Array, num_samples: Array) -> FeatureSums:
        batch = resident_feed.window_batch(resident, start, num_samples, window_samples)
        return feature_sums(frontend, batch.waveform, batch.num_samples)

    rows = range(len(corpus.utterances))
    total: FeatureSums | None = None
    for windows in evaluation_windows(corpus, rows, window_samples, _SUM_BATCH, 1):
        there, held = (windows, resident) if resident else cut_windows(corpus, windows, window_samples)
        start = there.start[0].astype(np.int32)
        part = jax.tree.map(np.asarray, sums(held, start, windows.num_samples[0].astype(np.int32)))
        if total is None:
            total = jax.tree.map(lambda leaf: np.zeros((len(rows), *leaf.shape[1:])), part)
        valid = windows.utterance[0] >= 0
        for leaf, more in zip(jax.tree.leaves(total), jax.tree.leaves(part), strict=True):
            np.add.at(leaf, windows.utterance[0][valid], more[valid])
    return total
