"""The silence before and after an utterance, left out of a corpus without a copy of its samples."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int, Int16

from ser_jax.corpora.corpus import Corpus, waveform

_FRAME, _HOP = 512, 160  # samples, of which the mean power is compared: 32 ms, every 10 ms
_BLOCK = 1 << 14  # frames whose power is computed at once, so that a long recording needs little memory


def trimmed(corpus: Corpus, trim_db: float, enough: Callable[[np.ndarray], np.ndarray] | None = None) -> Corpus:
    """Returns the corpus with each utterance from its first to its last frame within `trim_db` of its loudest one.

    An utterance of which, by `enough` (lengths in samples -> whether they are), too little would be left stays whole.
    The samples are shared, the table's `start` and `num_samples` change; the fingerprint remains, and
    `info["trim_db"]` says what was done.
    """
    bounds = np.array([speech_bounds(waveform(corpus, row), trim_db) for row in range(len(corpus.utterances))])
    if enough is not None:
        whole = np.stack([np.zeros(len(bounds), int), corpus.utterances["num_samples"].to_numpy()], axis=1)
        bounds = np.where(enough(bounds[:, 1] - bounds[:, 0])[:, None], bounds, whole)
    table = corpus.utterances.assign(
        start=corpus.utterances["start"] + bounds[:, 0], num_samples=bounds[:, 1] - bounds[:, 0]
    )
    return dataclasses.replace(corpus, utterances=table, info=corpus.info | {"trim_db": trim_db})


def speech_bounds(samples: Int16[np.ndarray, " samples"], trim_db: float) -> tuple[int, int]:
    """Returns where the first frame that is loud enough begins, and where the last one ends; all, if none has a sound.

    As `librosa.effects.trim(top_db=trim_db, frame_length=512, hop_length=160)`, whose frames are centred.
    """
    centers = np.arange(0, len(samples) + 1, _HOP)
    power = np.concatenate([_power(samples, part) for part in np.split(centers, range(_BLOCK, len(centers), _BLOCK))])
    if not power.max() > 0:
        return 0, len(samples)
    loud = np.flatnonzero(power > power.max() * 10 ** (-trim_db / 10))
    return int(centers[loud[0]]), min(int(centers[loud[-1]]) + _HOP, len(samples))


def _power(samples: Int16[np.ndarray, " samples"], centers: Int[np.ndarray, " frames"]) -> Float[np.ndarray, " frames"]:
    """The mean power of the frames around `centers`, which follow one another; beyond the ends there are zeros."""
    low, high = (np.clip(centers + shift, 0, len(samples)) for shift in (-_FRAME // 2, _FRAME // 2))
    squares = np.square(samples[low[0] : high[-1]], dtype=np.float64)
    total = np.concatenate([[0.0], np.cumsum(squares)])  # exact: whole numbers below 2^53
    return (total[high - low[0]] - total[low - low[0]]) / _FRAME
