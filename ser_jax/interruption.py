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
from collections.abc import Iterator
from types import FrameType

from ser_jax import files

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STATUS = 130
GRACE = 8.0  # seconds that a command has to end by itself

_saving, _received, _said = threading.Event(), threading.Event(), threading.Event()


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Inside the block SIGTERM raises `KeyboardInterrupt` as Ctrl-C does, and both end the process after `GRACE`.

    Where signals are ignored, as `nohup` has it, they stay so.
    """
    if threading.current_thread() is not threading.main_thread():  # elsewhere its owner decides
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    _received.clear(), _said.clear()
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    ours = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, _interrupt) for number in ours}
    over = threading.Event()
    threading.Thread(target=_watch, args=(reader, over), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        for number, handler in previous.items():
            signal.signal(number, handler)
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


def received() -> bool:
    """Whether a signal came since `heard` began. Libraries make other errors of a `KeyboardInterrupt` in an import."""
    return _received.is_set()


def said() -> bool:
    """Whether the command is over because it was interrupted: what is left is to end the process."""
    return _said.is_set()


def say() -> None:
    """Says that a command was interrupted."""
    _said.set()
    with contextlib.suppress(OSError):
        print("interrupted", file=sys.stderr, flush=True)


def _end() -> None:
    """Ends the process as it stands: blocks of the code are not left, so what they were writing is removed here."""
    files.discard()
    say()
    os._exit(STATUS)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _received.set()
    where = {(one.f_code.co_filename, one.f_code.co_name) for one in _frames(frame)}
    if any(file.startswith("<frozen importlib") for file, _ in where):
        # In the middle of an import libraries make another error of the exception, or die of it.
        _end()
    if any(name == "_xla_gc_callback" for _, name in where):  # where JAX would lose it
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
        return
    raise KeyboardInterrupt


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _watch(reader: int, over: threading.Event) -> None:
    """Waits for a signal, as the bytes of a pipe that Python writes when one comes, then for the command's end."""
    with open(reader, "rb", buffering=0) as pipe:
        while number := pipe.read(1):
            if number[0] not in SIGNALS or signal.getsignal(number[0]) == signal.SIG_IGN:
                continue
            waited = 0.0
            while waited < GRACE:
                if over.wait(0.1):
                    return
                waited = 0.0 if _saving.is_set() else waited + 0.1
            _end()
