"""Damages and makes up untrusted files, and reads them through every door of the project.

    python -m tests.fuzz --cases 100000
    python -m tests.fuzz --cases 2000 --door tables --door predictions

Every case is a small valid file with some bytes or values changed, drawn by hypothesis. A door may take it, or refuse
it by a `UserError` of one line and at most 300 letters; anything else is a finding, as is a case that takes longer than
ten seconds. The table counts cases by door. Findings are printed, and the status is then 1.
"""

import argparse
import collections
import contextlib
import dataclasses
import json
import logging
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import strategies as st

from ser_jax.errors import UserError

MOST_SECONDS = 10.0  # of one case
MOST_LETTERS = 300  # of a message, the paths in it left out

Door = tuple[str, bytes, Callable[[Path], object]]  # the name of a file, a valid content, and what reads it

# What has broken readers before, here or elsewhere.
_TOKENS = (
    b"",
    b"\0",
    b"\xff",
    b"\n",
    b'"',
    b",",
    b"[" * 3000,
    b"{",
    b"NaN",
    b"-1",
    b"1e999",
    b"9" * 40,
    b"\x1b[2J",
    b"null",
)
_TOKENS += (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"../", b"\xe2\x80\xa8", b"\xed\xa0\x80", b"<script>", b"\0" * 64)

_BYTES = st.lists(
    st.tuples(
        st.sampled_from(("flip", "replace", "insert", "delete", "cut", "repeat")),
        st.integers(0, 2**20),  # where, of the length
        st.integers(0, 255),
        st.sampled_from(_TOKENS),
    ),
    min_size=1,
    max_size=4,
)
_SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
_SCALARS |= st.sampled_from((0, -1, 1e308, "", "../..", "\x1b[2J", "a" * 5000, "1", [], {}))
_JSON = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_VALUES = st.lists(
    st.tuples(st.integers(0, 2**20), st.sampled_from(("set", "drop", "rename")), _JSON), min_size=1, max_size=3
)


def with_bytes(content: bytes, changes: list[tuple[str, int, int, bytes]]) -> bytes:
    """Returns a content with some of its bytes changed."""
    data = bytearray(content)
    for what, where, byte, token in changes:
        at = where * len(data) // 2**20 if data else 0
        if what == "flip" and data:
            data[min(at, len(data) - 1)] ^= 1 << byte % 8
        elif what == "replace":
            data[at : at + len(token)] = token
        elif what == "insert":
            data[at:at] = token or bytes([byte])
        elif what == "delete":
            del data[at : at + byte]
        elif what == "cut":
            del data[at:]
        elif what == "repeat":
            data[at:at] = data[at : at + 4 * byte]
    return bytes(data)


def with_values(tree: Any, changes: list[tuple[int, str, Any]]) -> Any:
    """Returns a tree of JSON with some of its values set, dropped or found under another name."""
    tree = json.loads(json.dumps(tree))
    for where, what, value in changes:
        places = list(_places(tree))
        if not places:
            return value
        node, key = places[where % len(places)]
        if what == "set" or isinstance(node, list):
            node[key] = value
        else:
            kept = node.pop(key)
            if what == "rename":
                node[str(value)[:20]] = kept
    return tree


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yields (the object or list, the key or number) of every value in a tree."""
    for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield node, key
        yield from _places(node[key])


@dataclasses.dataclass
class Count:
    """What came of a door's cases; findings by where they were raised, each with its first example."""

    cases: int = 0
    taken: int = 0
    refused: int = 0
    seconds: float = 0.0
    findings: dict[str, str] = dataclasses.field(default_factory=dict)


def run(door: Door, folder: Path, cases: int, seed: int, kept: Path | None = None) -> Count:
    """Draws so many cases of a door's file and reads them; contents that are findings are kept in a folder."""
    name, valid, _ = door
    count, tree = Count(), None
    if name.endswith(".json"):
        with contextlib.suppress(ValueError):
            tree = json.loads(valid)

    def one(changes: Any) -> None:
        if isinstance(changes[0][0], str):
            content = with_bytes(valid, changes)
        else:
            content = json.dumps(with_values(tree, changes)).encode(errors="surrogatepass")
        read_one(door, folder, content, count, kept)

    strategy = _BYTES if tree is None else _BYTES | _VALUES
    begun = time.monotonic()
    drawn = hypothesis.settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
        derandomize=False,
    )(hypothesis.given(strategy)(one))
    hypothesis.seed(seed)(drawn)()
    count.seconds = time.monotonic() - begun
    return count


def read_one(door: Door, folder: Path, content: bytes, count: Count, kept: Path | None = None) -> None:
    """Reads one content through a door, and counts what came of it."""
    name, _, read = door
    path = folder / name
    path.write_bytes(content)
    begun, finding = time.monotonic(), None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(path)
        count.taken += 1
    except UserError as error:
        count.refused += 1
        text = re.sub(rf"{re.escape(tempfile.gettempdir())}\S*/", "", str(error))
        if "\n" in text or len(text) > MOST_LETTERS:
            finding = f"{_raised(error)}: a long message: {len(text)} letters, {text.count(chr(10)) + 1} lines: "
            finding += repr(text[:100])
    except Exception as error:
        finding = f"{_raised(error)}: {type(error).__name__}: {str(error)[:120]!r}"
    count.cases += 1
    if time.monotonic() - begun > MOST_SECONDS:
        finding = f"took {time.monotonic() - begun:.0f} s"
    kind = ":".join(finding.split(": ")[:2]) if finding else ""  # where, and what
    if finding and kind not in count.findings:
        count.findings[kind] = finding
        if kept:
            kept.mkdir(parents=True, exist_ok=True)
            (kept / f"{len(list(kept.iterdir()))}-{name}").write_bytes(content)


def _raised(error: BaseException) -> str:
    """The last place in the project's code that an error came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "ser_jax" in frame.filename]
    own = [frame for frame in frames if "site-packages" not in frame.filename]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "?"


def main() -> int:
    from tests.doors import DOORS, make_doors

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="of all doors together (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--door", action="append", choices=DOORS, help="only this door; may be given again")
    parser.add_argument("--kept", type=Path, help="a folder for the files that are findings")
    args = parser.parse_args()
    logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)  # on which Orbax's readers leave their errors too
    with tempfile.TemporaryDirectory() as scratch:
        counts = fuzz(make_doors(Path(scratch), args.door or DOORS), args.cases, args.seed, args.kept)
    print("| door | files | cases | taken | refused | findings | ms a case |\n|---|---|---|---|---|---|---|")
    for name, (files, count) in counts.items():
        each = 1000 * count.seconds / max(count.cases, 1)
        row = f"| {name} | {files} | {count.cases:,} | {count.taken:,} | {count.refused:,} | {len(count.findings)} |"
        print(f"{row} {each:.1f} |")
    found = [f"{name}: {finding}" for name, (_, count) in counts.items() for finding in count.findings.values()]
    print(f"{sum(count.cases for _, count in counts.values()):,} cases, {len(found)} findings", *found, sep="\n")
    return int(bool(found))


def fuzz(
    doors: dict[str, list[Door]], cases: int, seed: int = 0, kept: Path | None = None
) -> dict[str, tuple[int, Count]]:
    """Shares cases out among doors and their files; returns the number of files and what came of each door."""
    counts = {}
    for name, files in doors.items():
        total = collections.defaultdict(int)
        findings = {}
        for door in files:
            with tempfile.TemporaryDirectory() as scratch:
                each = max(cases // len(doors) // len(files), 1)
                count = run(door, Path(scratch), each, seed, kept / name if kept else None)
            for field in ("cases", "taken", "refused", "seconds"):
                total[field] += getattr(count, field)
            findings |= count.findings
        counts[name] = len(files), Count(**total, findings=findings)
        print(f"{name}: {total['cases']} cases, {len(findings)} findings", file=sys.stderr, flush=True)
    return counts


if __name__ == "__main__":
    sys.exit(main())
