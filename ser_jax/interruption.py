"""Ctrl-C and SIGTERM end a command within seconds and with one line, wherever it is.

Python tells its main thread of a signal, and the main thread may be inside of a library for minutes, as when a program
is compiled, or the library may lose it. So a thread waits for signals too. Where the command is not over some seconds
after one, that thread ends the process: nothing is lost, since all that is written appears whole or not at all. A
training that finishes its step and writes a checkpoint is waited for.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STATUS = 130
GRACE = 8.0  # seconds that a command has to end by itself

_saving = threading.Event()


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Inside the block SIGTERM raises `KeyboardInterrupt` as Ctrl-C does, and both end the process after `GRACE`."""
    if threading.current_thread() is not threading.main_thread():  # elsewhere its owner decides
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    previous = signal.signal(signal.SIGTERM, _interrupt)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
        signal.set_wakeup_fd(before)
        os.close(writer)  # which ends the thread


@contextlib.contextmanager
def saved() -> Iterator[None]:
    """Inside the block a signal is answered by whoever runs it, who has something to save first."""
    _saving.set()
    try:
        yield
    finally:
        _saving.clear()


def say() -> None:
    """Says that a command was interrupted."""
    print("interrupted", file=sys.stderr, flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _watch(reader: int) -> None:
    """Waits for a signal, as the bytes of a pipe that Python writes when one comes, then for the command's end."""
    with open(reader, "rb", buffering=0) as pipe:
        while number := pipe.read(1):
            if number[0] not in SIGNALS:
                continue
            waited = 0.0
            while waited < GRACE:
                time.sleep(0.1)
                waited = 0.0 if _saving.is_set() else waited + 0.1
            say()
            os._exit(STATUS)
