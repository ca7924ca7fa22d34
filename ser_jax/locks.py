"""A lock between processes that would make the same thing."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import filelock


@contextlib.contextmanager
def alone(path: str | os.PathLike, what: str) -> Iterator[None]:
    """Holds the lock of `path`, a file or folder that is made inside the block, in a hidden file beside it.

    Where another process has it, a line on stderr says that `what` is waited for. The operating system frees the lock
    of a process that died.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path.parent / f".{path.name}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        print(f"{what}: another process is at it; waiting", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
