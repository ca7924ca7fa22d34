"""openSMILE's functionals, in processes of their own: in one process with TensorFlow its library crashes.

This module is what those processes import, so it imports little.
"""

import contextlib
import importlib.metadata
import importlib.util
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np

from ser_jax import machine
from ser_jax.corpora.corpus import SAMPLE_RATE
from ser_jax.errors import UserError

SETS = {"egemaps": "eGeMAPSv02", "compare": "ComParE_2016", "emobase": "emobase"}
DIMS = {"egemaps": 88, "compare": 6373, "emobase": 988}

Extract = Callable[[Sequence[np.ndarray]], Iterator[np.ndarray]]

_LEAST_SAMPLES = SAMPLE_RATE // 10  # the sets need several frames: a shorter utterance gets silence behind it
_PER_PROCESS = 32  # utterances that are worth the start of another process

_smile: Any = None  # in a process of its own: openSMILE, set up for one set


def require(kind: str) -> None:
    """Raises UserError, with the command that installs it and a word on its licence, where openSMILE is missing."""
    if importlib.util.find_spec("opensmile") is None:
        raise UserError(
            f"functionals {kind!r} need openSMILE: pip install opensmile==2.6.0 (its licence is for research and "
            "other non-commercial use); 'own' needs nothing"
        )


def version() -> str:
    """What the values depend on, beside the sound."""
    return f"opensmile {importlib.metadata.version('opensmile')}, from {_LEAST_SAMPLES} samples on"


def workers(num_utterances: int) -> int:
    """Returns how many processes work on so many utterances."""
    return min(machine.cores(), 1 + num_utterances // _PER_PROCESS)


@contextlib.contextmanager
def opened(kind: str, num_utterances: int) -> Iterator[tuple[tuple[str, ...], Extract]]:
    """Yields the names of a set's functionals, and a function from waveforms at 16 kHz to their functionals.

    It works on as many cores as there are and `num_utterances` are worth. Raises UserError where openSMILE is missing
    and where it crashes.
    """
    require(kind)
    spawned = multiprocessing.get_context("spawn")  # a fork would inherit TensorFlow
    try:
        with ProcessPoolExecutor(
            workers(num_utterances), mp_context=spawned, initializer=_set_up, initargs=(kind,)
        ) as processes:
            yield processes.submit(_names).result(), lambda waveforms: processes.map(_extract, waveforms, chunksize=4)
    except BrokenProcessPool as error:
        raise UserError(f"functionals {kind!r}: openSMILE's process died before its end") from error


def seconds_of(kind: str, waveforms: Sequence[np.ndarray], total_samples: int) -> float:
    """Returns about how long a set's functionals of so many samples take, by those of some waveforms at 16 kHz."""
    with opened(kind, 1) as (_, extract):
        list(extract(waveforms[:1]))  # the first one sets up
        begun = time.monotonic()
        list(extract(waveforms))
        elapsed = time.monotonic() - begun
    return elapsed * total_samples / sum(map(len, waveforms))


def _set_up(kind: str) -> None:
    global _smile
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command, which ends its processes
    import opensmile

    _smile = opensmile.Smile(
        feature_set=getattr(opensmile.FeatureSet, SETS[kind]), feature_level=opensmile.FeatureLevel.Functionals
    )


def _names() -> tuple[str, ...]:
    return tuple(_smile.feature_names)


def _extract(samples: np.ndarray) -> np.ndarray:
    padded = np.pad(samples, (0, max(0, _LEAST_SAMPLES - len(samples))))
    return _smile.process_signal(padded, SAMPLE_RATE).to_numpy()[0]
