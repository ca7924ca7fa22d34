"""The mean and the deviation of features over a training fold, or over a speaker, from sums over utterances."""

import jax
import numpy as np
from jaxtyping import Int

from ser_jax.frontend.logmel import FeatureSums, Statistics, fit_statistics


def fold_statistics(sums: FeatureSums, train: Int[np.ndarray, " rows"]) -> Statistics:
    """Returns the statistics of the utterances `train`; `sums` are of every utterance, [utterances, ...]."""
    return jax.tree.map(np.asarray, fit_statistics(jax.tree.map(lambda leaf: leaf[train].sum(0), sums)))


def speaker_statistics(sums: FeatureSums, speakers: np.ndarray, num_rows: int) -> Statistics:
    """Returns for each utterance the statistics of all that its speaker says, as arrays [num_rows, features].

    `sums` are of every utterance and `speakers` names the speaker of each; rows behind the last utterance are filled
    with mean 0 and deviation 1. Utterances of unknown speakers, such as the recordings of one call of `predict`, count
    as one speaker's.
    """
    result = Statistics(*(np.zeros((num_rows, sums.total.shape[1]), np.float32) for _ in range(2)))
    for speaker in np.unique(speakers):
        rows = np.flatnonzero(speakers == speaker)
        own = fit_statistics(jax.tree.map(lambda leaf, rows=rows: leaf[rows].sum(0), sums))
        result.mean[rows], result.std[rows] = np.asarray(own.mean), np.asarray(own.std)
    return result.replace(std=np.where(result.std > 0, result.std, 1))
