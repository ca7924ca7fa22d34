"""A corpus as its owner publishes it, found in a folder or zip and verified file by file."""

import contextlib
import dataclasses
import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ser_jax.corpora.audio import AUDIO_SUFFIXES, find_audio
from ser_jax.corpora.corpus import refuse_full_disk
from ser_jax.errors import UserError, brief, reason_of
from ser_jax.files import scratch_folder

_BESIDE = ("SHA256SUMS", "erkennung.txt")  # what may stand beside the recordings and is read
_MOST_BYTES = 100_000_000  # of one file of a release: a zip that was made to fill the disk promises more


@dataclasses.dataclass(frozen=True)
class Release:
    """What the owner published: `hashes` maps the name of every recording, without its suffix, to its SHA-256."""

    title: str
    version: str  # of the builder: raised when the same files would give another corpus
    url: str
    hashes: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Source:
    """A verified copy of a release: the path of every recording by name, and what the check found."""

    folder: Path
    recordings: dict[str, Path]
    check: dict[str, Any]


def read_sums(path: str | os.PathLike) -> dict[str, str]:
    """Returns SHA-256 by file name without suffix, from a file of lines `hash  path` (as `sha256sum` writes)."""
    hashes = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        digest, _, name = line.partition(" ")
        if len(digest) != 64 or not name.strip(" *"):
            raise UserError(f"{path}: line {number} is {brief(line)}, expected a SHA-256 and a file name")
        hashes[Path(name.strip(" *")).stem] = digest.lower()
    return hashes


@contextlib.contextmanager
def open_source(
    path: str | os.PathLike, release: Release, scratch: str | os.PathLike, *, allow_mismatch: bool = False
) -> Iterator[Source]:
    """Yields the verified recordings of a folder, or of a zip (unpacked below `scratch` while the block runs).

    Recordings (wav or flac) may stand anywhere below the folder. Each is compared with the release: with its hash, or,
    where a folder that is no plain copy brings its own SHA256SUMS, by name with the release and by hash with that file.
    Raises UserError that names what is missing, extra or changed, unless `allow_mismatch`; then what is missing is left
    out, what is extra is passed over, what is changed is used, and `check` lists all three.
    """
    with _unpacked(Path(path), release, Path(scratch)) as (folder, extra):
        recordings = _find_recordings(path, folder)
        hashes = {name: sha256(recording) for name, recording in recordings.items()}
        hashes |= dict.fromkeys(extra, "not unpacked")
        check = _compare(hashes, release, _own_sums(folder))
        differences = [
            f"{len(check[kind])} {kind} ({', '.join(check[kind][:3])}{', ...' if len(check[kind]) > 3 else ''})"
            for kind in ("missing", "extra", "changed")
            if check[kind]
        ]
        if differences and not allow_mismatch:
            raise UserError(
                f"{path}: not {release.title} as released: of {len(release.hashes)} files {', '.join(differences)}; "
                f"compared with {check['verified_against']}; --allow_mismatch takes it all the same"
            )
        known = {name: recording for name, recording in recordings.items() if name in release.hashes}
        if not known:
            raise UserError(f"{path}: holds no recording of {release.title}")
        yield Source(folder, known, check)


def sha256(path: Path) -> str:
    """Returns the SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _unpacked(path: Path, release: Release, scratch: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yields the folder with the recordings, and the names of those that a zip has beside the release's."""
    if path.is_dir():
        yield path, []
        return
    if not path.exists():
        raise UserError(f"{path}: no such folder or zip")
    if not path.is_file() or not zipfile.is_zipfile(path):  # a pipe or a device may give bytes without end
        raise UserError(
            f"{path}: neither a folder nor a complete zip, expected the owner's archive or what it unpacks to"
        )
    with scratch_folder(scratch / "unpacked") as folder:
        try:
            with refuse_full_disk(scratch), zipfile.ZipFile(path) as archive:
                extra = _unpack(path, archive, release, folder)
        except (zipfile.BadZipFile, EOFError, zlib.error, OSError, ValueError) as error:
            raise UserError(f"{path}: damaged zip ({reason_of(error)}), download it again") from error
        yield folder, extra


def _unpack(path: Path, archive: zipfile.ZipFile, release: Release, folder: Path) -> list[str]:
    """Unpacks the release's own files, looked at before they take any room; returns the names of other recordings."""
    extra = []
    for member in archive.infolist():
        name = Path(member.filename)
        is_audio = name.suffix.lower() in AUDIO_SUFFIXES and not name.name.startswith(".")
        if member.is_dir() or "__MACOSX" in name.parts or not (is_audio or name.name in _BESIDE):
            continue
        if is_audio and name.stem not in release.hashes:
            extra.append(name.stem)
            continue
        if member.flag_bits & 1:
            raise UserError(
                f"{path}: encrypted, expected the owner's archive without a password, or what it unpacks to"
            )
        if member.file_size > _MOST_BYTES:
            raise UserError(
                f"{path}: {member.filename} would take {member.file_size / 1e6:.0f} MB, expected a recording of at "
                f"most {_MOST_BYTES / 1e6:.0f}"
            )
        try:
            archive.extract(member, folder)
        except NotImplementedError as error:
            raise UserError(
                f"{path}: {member.filename} is compressed by a method that Python does not know ({error}); unpack it "
                "yourself and pass the folder"
            ) from error
    return extra


def _find_recordings(path: str | os.PathLike, folder: Path) -> dict[str, Path]:
    recordings: dict[str, Path] = {}
    for recording in find_audio(folder):
        if recording.stem in recordings:
            both = f"{recordings[recording.stem].relative_to(folder)} and {recording.relative_to(folder)}"
            raise UserError(f"{path}: holds {recording.stem} twice, {both}; expected every recording once")
        recordings[recording.stem] = recording
    if not recordings:
        raise UserError(f"{path}: no audio file anywhere below it, expected wav or flac")
    return recordings


def _own_sums(folder: Path) -> dict[str, str] | None:
    sums = sorted(folder.rglob("SHA256SUMS"))
    return read_sums(sums[0]) if len(sums) == 1 else None


def _compare(hashes: dict[str, str], release: Release, own_sums: dict[str, str] | None) -> dict[str, Any]:
    known = {name: digest for name, digest in hashes.items() if name in release.hashes}
    same_as_released = sum(release.hashes[name] == digest for name, digest in known.items())
    if own_sums is None or same_as_released == len(known):
        expected, verified_against = release.hashes, f"the hashes of {release.title} as released"
    else:
        expected = own_sums
        verified_against = f"the names of {release.title} as released, and the hashes of the folder's own SHA256SUMS"
    content = hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in sorted(hashes.items())).encode())
    return {
        "files": len(hashes),
        "verified_against": verified_against,
        "same_as_released": same_as_released,
        "missing": sorted(release.hashes.keys() - hashes.keys()),
        "extra": sorted(hashes.keys() - release.hashes.keys()),
        "changed": sorted(name for name, digest in known.items() if expected.get(name) != digest),
        "content": content.hexdigest(),
    }
