"""Background threads: programs that will be needed are compiled while others run.

Python is held while a program is traced, but not while XLA compiles it, which is most of the time.
"""

import atexit
import contextlib
import os
import queue
import sys
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any

from ser_jax import files, interruption, machine

_CORES_OF_A_THREAD = 2  # XLA keeps little more than one busy with a program of many kernels

_jobs: queue.Queue[Callable[[], Any]] = queue.Queue()
_started = threading.Lock()
_threads: list[threading.Thread] = []


def begin(job: Callable[[], Any]) -> None:
    """Lets a thread do `job` when one is free, in the order of the calls.

    What it returns or raises is dropped: whoever needs what it makes asks for it by a `Once`, and makes it where it is
    not there.
    """
    with _started:
        if not _threads:
            # Before the first job, so that all that JAX registers is still whole when this is called.
            atexit.register(_end)
            for _ in range(max(1, machine.cores() // _CORES_OF_A_THREAD)):
                _threads.append(threading.Thread(target=_work, daemon=True))
                _threads[-1].start()
    _jobs.put(job)


def _work() -> None:
    while True:
        job = _jobs.get()
        with contextlib.suppress(BaseException):  # whoever needs what failed meets the same error
            job()
        _jobs.task_done()


def end(status: int) -> None:
    """Ends the process at once, with this status, where a thread still compiles what nobody waits for any more."""
    if _jobs.unfinished_tasks:
        files.discard()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _end() -> None:
    """Lets no thread be inside of XLA when the interpreter is taken down: that would be a crash.

    A program that calls ser_jax waits for what is begun; a command does not (`end`), nor what was interrupted.
    """
    if interruption.said():
        end(interruption.STATUS)
    while not _jobs.empty():
        with contextlib.suppress(queue.Empty):  # a thread took it
            _jobs.get_nowait()
            _jobs.task_done()
    try:
        _jobs.join()
    except KeyboardInterrupt:
        interruption.say()
        end(interruption.STATUS)


class Once:
    """What is made once for each key, by whichever thread asks for it first; the others wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[Hashable, Future] = {}

    def __call__(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Returns what `make` returned for this key; where that failed in another thread, makes it here."""
        while True:
            with self._lock:
                made, ours = self._made.get(key), key not in self._made
                if ours:
                    made = self._made[key] = Future()
            if ours:
                return self._make(key, make, made)
            if made.exception() is None:
                return made.result()

    def forget(self, key: Hashable) -> None:
        """Lets go of what was made for this key."""
        with self._lock:
            self._made.pop(key, None)

    def __len__(self) -> int:
        return len(self._made)

    def _make(self, key: Hashable, make: Callable[[], Any], made: Future) -> Any:
        try:
            result = make()
        except BaseException as error:
            self.forget(key)  # first, so that who waits makes it anew
            made.set_exception(error)
            raise
        made.set_result(result)
        return result
