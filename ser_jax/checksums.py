"""SHA256SUMS: the SHA-256 of the files of a folder, kept in it, in the form that `sha256sum --check` reads.

A folder that appears whole gets it before it appears. Where files are replaced one by one, it is removed first and
written last: after a process was killed in between there is none, and the command that writes the files makes them
again. What is read from a folder that has it is compared with it.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ser_jax.errors import UserError, brief
from ser_jax.files import atomic_file

FILE = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](\S.*)")  # the star is of what Windows calls binary


def sha256(path: Path) -> str:
    """Returns the SHA-256 (hex) of a file."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def write(folder: Path, names: Iterable[str], known: Mapping[str, str] | None = None) -> None:
    """Writes the checksums of files of a folder, in place of those before; `known` are of files still to be written."""
    _write(folder, {name: sha256(folder / name) for name in names} | dict(known or {}))


def write_all(folder: Path) -> None:
    """Writes the checksums of all files in a folder and below it, but not of hidden ones."""
    write(folder, files_below(folder))


def record(path: Path) -> None:
    """Adds the checksum of one file to those of its folder, or replaces it."""
    _write(path.parent, (read(path.parent) or {}) | {path.name: sha256(path)})


@contextlib.contextmanager
def renewed(folder: Path, names: Iterable[str]) -> Iterator[None]:
    """Removes a folder's checksums, and after the block writes those of the files of these names that are there."""
    (folder / FILE).unlink(missing_ok=True)
    yield
    write(folder, [name for name in names if (folder / name).is_file()])


def read(folder: Path) -> dict[str, str] | None:
    """Returns the checksums of a folder by the files' names, None where it has none. Raises UserError for damaged."""
    path = folder / FILE
    if not path.is_file():
        return None
    found = {}
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines[:-1], start=1):
        match = _LINE.fullmatch(line)
        if not match:
            raise UserError(f"{path}: damaged in line {number}, found {brief(line)}, expected a SHA-256 and a name")
        found[match[2]] = match[1]
    if lines[-1]:
        raise UserError(f"{path}: damaged, its last line has no end")
    return found


def check(path: Path) -> None:
    """Raises UserError where a file is not the one of which its folder has the checksum; where it has none, it passes.

    A file that is not there passes too: its reader says so.
    """
    expected = (read(path.parent) or {}).get(path.name)
    if expected is not None and path.is_file() and (found := sha256(path)) != expected:
        raise UserError(_differs(path, found, expected))


def is_whole(path: Path) -> bool:
    """Whether a file is there, and is the one of which its folder has the checksum."""
    try:
        return path.is_file() and (read(path.parent) or {}).get(path.name) == sha256(path)
    except UserError:
        return False


def faults(folder: Path) -> list[str]:
    """Returns what differs from a folder's checksums: each file that is missing or another one; [] without any."""
    try:
        recorded = read(folder) or {}
    except UserError as error:
        return [str(error)]
    found = []
    for name, expected in recorded.items():
        path = folder / name
        if not path.is_file():
            found.append(f"{path}: missing, expected SHA-256 {expected[:12]}")
        elif (own := sha256(path)) != expected:
            found.append(_differs(path, own, expected))
    return found


def files_below(folder: Path) -> list[str]:
    """Returns the names of all files in a folder and below it, sorted, but of hidden ones and of SHA256SUMS."""
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    hidden = [any(part.startswith(".") for part in name.parts) or name == Path(FILE) for name in names]
    return sorted(name.as_posix() for name, leave_out in zip(names, hidden, strict=True) if not leave_out)


def _write(folder: Path, sums: Mapping[str, str]) -> None:
    with atomic_file(folder / FILE) as temporary:
        temporary.write_text("".join(f"{sums[name]}  {name}\n" for name in sorted(sums)), encoding="utf-8")


def _differs(path: Path, found: str, expected: str) -> str:
    return f"{path}: damaged or changed, its SHA-256 is {found[:12]}, expected {expected[:12]} ({FILE} beside it)"
