"""How long a baseline takes if no such baseline was fitted yet: by one fit to random numbers of its shape.

A baseline is fitted once to every set of utterances that an inner fold learns, with each set of columns.
"""

import functools
import time

import numpy as np
from threadpoolctl import threadpool_limits

from ser_jax.baselines import linear
from ser_jax.baselines.columns import column_sets
from ser_jax.studies.baselines import Baselines, dimensions_of, inner_folds, pooled_states

MOST = 400  # utterances that the fit which is timed learns
_UNSEEN, _APART = 20, 3.0  # further utterances, and by how many deviations classes are apart


def seconds_of(baselines: Baselines) -> float | None:
    """Returns the seconds of fitting a baseline on this machine, without what its functionals take.

    None for a corpus of dimensions alone.
    """
    corpus, baseline = baselines.corpus, baselines.baseline
    if len(corpus.emotions) < 2:
        return None
    outputs = len(corpus.emotions) + len(dimensions_of(baselines.config))
    versions, widths = 1, [baselines.num_parameters // outputs - 1]
    if baseline.functionals == "precomputed":
        packed = pooled_states(baselines.config, corpus, baselines.data_dir)
        versions = int(packed.num_frames.max())
        widths = [len(columns) for columns in column_sets(baseline.columns, packed.names).values()]
    learnt = _learnt(baselines)
    fits = len(learnt) + len({fold.name for fold in baselines.folds}) / len(
        linear.grid_of(baseline)
    )  # at last each fold with one C
    rows = versions * round(sum(learnt.values()) / len(learnt))
    return fits * sum(_seconds_of_fit(baseline.name, rows, width, outputs) for width in widths)


def _learnt(baselines: Baselines) -> dict[bytes, int]:
    """The sets of utterances that inner folds learn, and how many these are; two folds may share one."""
    found = {}
    for _, rows, held_out in inner_folds(baselines):
        for out in held_out:
            known = np.zeros(len(baselines.corpus.utterances), bool)
            known[rows[~out]] = True
            found[known.tobytes()] = int(known.sum())
    return found


@functools.cache
def _seconds_of_fit(name: str, rows: int, width: int, outputs: int) -> float:
    """Seconds of fitting a baseline with all its values of C; of many rows in proportion to those of some.

    Where there are more columns than rows, what takes long are products of rows with rows: it is by their square then.
    """
    some, rng = min(rows, MOST), np.random.default_rng(0)
    labels = np.arange(some + _UNSEEN) % outputs
    means = rng.standard_normal((outputs, width), np.float32) * (_APART / np.sqrt(width))
    values = means[labels] + rng.standard_normal((len(labels), width), np.float32)
    with threadpool_limits(1, user_api="blas"):
        begun = time.process_time()
        linear.scores_of_others(linear.Baseline(name), values[:, None], labels, np.arange(len(labels)) < some, outputs)
        seconds = time.process_time() - begun
    return seconds * (rows / some) ** (2 if width > some else 1)
