"""A lock between processes that would make the same thing."""

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import filelock


@contextlib.contextmanager
def alone(path: str | os.PathLike, what: str, *, wait: bool = True) -> Iterator[bool]:
    """Holds the lock of `path`, a file or folder that is made inside the block, in a hidden file beside it.

    Says whether it could be had; with `wait` it always can, in the end. Where another process has it, a line on stderr
    says that `what` is waited for. The operating system frees the lock of a process that died.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(_file(path))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        if not wait:
            yield False
            return
        print(f"{what}: another process is at it; waiting", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield True
    finally:
        lock.release()


def held(path: str | os.PathLike) -> bool:
    """Returns whether a process holds the lock of `path`. Nothing is written, so that the folder may be read-only."""
    try:
        with _file(Path(path)).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # freed when it is closed
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _file(path: Path) -> Path:
    return path.parent / f".{path.name}.lock"
