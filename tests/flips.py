"""Flips single bits in the files of a folder, and counts those that `launch.py verify` notices.

    python -m tests.flips FOLDER [FOLDER ...] --per_file 20

prints a table by kind of file. Every file is put back as it was.
"""

import argparse
import collections
import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ser_jax.studies.verify import WHOLE, verify

# Made again where they are missing or damaged, and of no result: `verify` does not look at them.
DERIVED = ("report.html", "report.md", "figures", "tables", "tensorboard", "profile", "duplicates.npz")


def files_of(folder: Path) -> list[Path]:
    """Returns the files of a folder and below it that have to be whole."""
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    hidden = [any(part.startswith(".") or part in DERIVED for part in name.parts) for name in names]
    return [folder / name for name, leave_out in zip(names, hidden, strict=True) if not leave_out]


@contextlib.contextmanager
def flipped(path: Path, bit: int) -> Iterator[None]:
    """Flips one bit of a file; after the block it is as it was."""
    kept = path.read_bytes()
    content = bytearray(kept)
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(kept)


def unnoticed(folder: Path, per_file: int, seed: int = 0) -> dict[str, list[tuple[str, int]]]:
    """Flips so many bits of every file of a folder, one at a time; returns those of each kind that nothing noticed."""
    rng, found = np.random.default_rng(seed), {}
    for path in files_of(folder):
        own = found.setdefault(kind_of(path), [])
        for bit in rng.integers(0, 8 * path.stat().st_size, per_file).tolist():
            with flipped(path, bit):
                if all(finding.state == WHOLE for finding in verify(folder)):
                    own.append((str(path), bit))
    return found


def kind_of(path: Path) -> str:
    """Returns what a table calls a file."""
    if "checkpoints" in path.parts:
        return "checkpoints"
    return path.name if path.suffix in ("", ".md", ".safetensors", ".npy", ".npz") else f"*{path.suffix}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--per_file", type=int, default=20, help="bits flipped in each file (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    flips, missed = collections.Counter(), collections.Counter()
    for folder in args.folders:
        for kind, bits in unnoticed(folder, args.per_file, args.seed).items():
            missed[kind] += len(bits)
        flips.update({kind_of(path): 0 for path in files_of(folder)})
        for path in files_of(folder):
            flips[kind_of(path)] += args.per_file
    print("| kind of file | bits flipped | noticed |\n|---|---|---|")
    for kind in sorted(flips):
        print(f"| {kind} | {flips[kind]:,} | {flips[kind] - missed[kind]:,} |")
    print(f"| all | {sum(flips.values()):,} | {sum(flips.values()) - sum(missed.values()):,} |")


if __name__ == "__main__":
    main()
