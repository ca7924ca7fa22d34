"""Files and folders that appear whole or not at all, and stay after a power cut.

What is written lies in a temporary place beside its own until it is whole and on the disk. A process that is killed
leaves that temporary place behind; the next one that writes the same file or folder removes it. It knows by a lock
whether the other still lives.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_MARK = ".writing-"  # in the names of temporary files and folders
_RANDOM = "[a-z0-9_]{8}"  # what tempfile appends to a prefix
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux's renameat2
_HALF = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")  # in JSON, of a character that needs two, or half of one
_being_written: set[tuple[int, Path]] = set()  # by which process: a forked one inherits the set


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path`, renamed to it when the block ends well and removed when it does not.

    Raises what the block raises, and `OSError` where the folder cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_litter(path)
    with _temporary(path, folder=False) as temporary, named(path, temporary):
        yield temporary
        os.chmod(temporary, 0o666 & ~_UMASK)  # mkstemp makes files that only their owner can read
        _synchronise(temporary)
        os.replace(temporary, path)
        _synchronise(path.parent)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary folder beside `path`, put in its place when the block ends well, else removed.

    An older folder is replaced whole. On Linux the two change places in one call, so that a whole folder is there at
    every instant; elsewhere the old one steps aside first.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_litter(path)
    with _temporary(path, folder=True) as temporary, named(path, temporary):
        yield temporary
        os.chmod(temporary, 0o777 & ~_UMASK)
        for folder, _, names in os.walk(temporary):
            for name in names:
                _synchronise(Path(folder, name))
            _synchronise(Path(folder))
        if not os.path.lexists(path):
            os.replace(temporary, path)
        elif not _exchange(temporary, path):
            _step_aside(temporary, path)
        _synchronise(path.parent)


@contextlib.contextmanager
def scratch_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary folder beside `path`, named after it, that is removed when the block ends.

    Where the process is killed, the next one that asks for the same `path` removes it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_litter(path)
    with _temporary(path, folder=True) as temporary:
        yield temporary


@contextlib.contextmanager
def named(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Lets an error of the disk name the path that was to be written, where it names none or the temporary one."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and not (temporary and str(error.filename).startswith(str(temporary))):
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def discard() -> None:
    """Removes all that this process has not finished writing. For a process that ends at once, from any thread."""
    for process, temporary in list(_being_written):
        if process != os.getpid():
            continue
        gone = temporary.with_name(f"{temporary.name.rpartition(_MARK)[0]}{_MARK}{secrets.token_hex(4)}")
        with contextlib.suppress(OSError):
            os.rename(temporary, gone)  # at once: another thread may be about to put it in its place
            _remove(gone)


def read_text(path: str | os.PathLike, encoding: str = "utf-8") -> str:
    """Returns the text of a file. Raises `OSError` for a pipe or a device, which might never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe is waited for otherwise
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, descriptor)
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "a folder, a pipe or a device, expected a file", os.fspath(path))
        with open(descriptor, encoding=encoding, closefd=False) as file:
            return file.read()


def read_json(path: str | os.PathLike) -> Any:
    """Returns what a JSON file in UTF-8 holds; raises as `read_text` and `from_json` do."""
    return from_json(read_text(path))


def from_json(text: str, *, repeats: bool = True) -> Any:
    """Returns what a text of JSON says. Raises ValueError where it is none, or names half a character, as "\\ud800".

    Such a text could be written nowhere. Without `repeats`, a name that occurs twice in an object is refused too.
    """
    value = json.loads(text, object_pairs_hook=None if repeats else _without_repeats)
    if (half := _HALF.search(text)) and not _is_text(value):
        raise ValueError(f"a text in it has half a character, {half[0]}")
    return value


def _is_text(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
        return True
    except UnicodeEncodeError:
        return False


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} occurs twice in an object")
    return dict(pairs)


def to_json(value: Any, *, in_order: bool = False) -> str:
    """Serialises with sorted keys, so that equal values are equal text; `in_order`: with keys as they come.

    Configurations are written in order, which is that of a study's variants in its report.
    """
    return json.dumps(value, indent=1, sort_keys=not in_order, ensure_ascii=False) + "\n"


@contextlib.contextmanager
def _temporary(path: Path, folder: bool) -> Iterator[Path]:
    """Yields a new and locked temporary file or folder beside `path`, and removes what lies there afterwards."""
    descriptor = None
    while descriptor is None:  # else another process took it for left behind in the instant before it was locked
        make = tempfile.mkdtemp if folder else _new_file
        temporary = Path(make(prefix=f".{path.name}{_MARK}", dir=path.parent))
        descriptor, _ = _lock(temporary)
    entry = (os.getpid(), temporary)
    _being_written.add(entry)
    try:
        yield temporary
    finally:
        _remove(temporary)
        _being_written.discard(entry)
        os.close(descriptor)


def _new_file(prefix: str, dir: Path) -> str:
    descriptor, name = tempfile.mkstemp(prefix=prefix, dir=dir)
    os.close(descriptor)
    return name


def _lock(path: Path) -> tuple[int | None, bool]:
    """Locks a file or folder for as long as this process lives.

    Returns an open descriptor, None where another process holds the lock or the path is gone; and whether the lock is
    held. It is not on file systems that have no such locks.
    """
    try:
        # Network file systems lock files that are open for writing alone; folders cannot be opened for writing.
        descriptor = os.open(path, (os.O_RDONLY if path.is_dir() else os.O_RDWR) | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None, False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        locked = True
    except BlockingIOError:
        os.close(descriptor)
        return None, False
    except OSError:
        locked = False
    if os.path.lexists(path) and os.path.samestat(os.fstat(descriptor), os.lstat(path)):
        return descriptor, locked
    os.close(descriptor)
    return None, False


def _remove_litter(path: Path) -> None:
    """Removes the temporary files and folders of `path` whose processes have died."""
    pattern = re.compile(re.escape(f".{path.name}{_MARK}") + _RANDOM)
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for found in [Path(entry.path) for entry in entries if pattern.fullmatch(entry.name)]:
            descriptor, locked = _lock(found)
            if locked:  # without locks nobody knows whether its process lives: then it stays
                _remove(found)
            if descriptor is not None:
                os.close(descriptor)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _synchronise(path: Path) -> None:
    """Waits until a file's or a folder's content is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot do this to folders
            raise
    finally:
        os.close(descriptor)


def _exchange(one: Path, other: Path) -> bool:
    """Lets two paths change places in one step; False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0


def _step_aside(new: Path, path: Path) -> None:
    """Puts a folder in the place of an old one, which comes back where that cannot be done."""
    with _temporary(path, folder=True) as aside:
        _being_written.discard((os.getpid(), aside))  # what it will hold is whole
        old = aside / path.name
        try:
            os.replace(path, old)
            os.replace(new, path)
        except BaseException:
            if old.exists() and not path.exists():
                os.replace(old, path)
            raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


_UMASK = _umask()  # asked once, at import: asking sets it to 0 for a moment, in all threads
