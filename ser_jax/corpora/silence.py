"""The silence before and after an utterance, left out of a corpus without a copy of its samples."""

import dataclasses

import numpy as np
from jaxtyping import Int16

from ser_jax.corpora.corpus import Corpus, waveform

_FRAME, _HOP = 512, 160  # samples, of which the mean power is compared: 32 ms, every 10 ms


def trimmed(corpus: Corpus, trim_db: float) -> Corpus:
    """Returns the corpus with each utterance from its first to its last frame within `trim_db` of its loudest one.

    The samples are shared, the table's `start` and `num_samples` change; the fingerprint remains, and
    `info["trim_db"]` says what was done.
    """
    bounds = np.array([speech_bounds(waveform(corpus, row), trim_db) for row in range(len(corpus.utterances))])
    table = corpus.utterances.assign(
        start=corpus.utterances["start"] + bounds[:, 0], num_samples=bounds[:, 1] - bounds[:, 0]
    )
    return dataclasses.replace(corpus, utterances=table, info=corpus.info | {"trim_db": trim_db})


def speech_bounds(samples: Int16[np.ndarray, " samples"], trim_db: float) -> tuple[int, int]:
    """Returns where the first frame that is loud enough begins, and where the last one ends; all, if none has a sound.

    As `librosa.effects.trim(top_db=trim_db, frame_length=512, hop_length=160)`, whose frames are centred.
    """
    total = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    centers = np.arange(0, len(samples) + 1, _HOP)
    low, high = (np.clip(centers + shift, 0, len(samples)) for shift in (-_FRAME // 2, _FRAME // 2))
    power = (total[high] - total[low]) / _FRAME
    if not power.max() > 0:
        return 0, len(samples)
    loud = np.flatnonzero(power > power.max() * 10 ** (-trim_db / 10))
    return int(centers[loud[0]]), min(int(centers[loud[-1]]) + _HOP, len(samples))
