"""Whether packed files are still those that were packed: their content against the fingerprint that is kept with them.

Content is hashed when it is first read, and again where a file's size, inode or time of change is another than then;
what was found is remembered beside the packed folder. Damage that changes none of these is found by `audit --verify`.
"""

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ser_jax.files import atomic_file, read_json

_MEMORY = ".verified"  # the folder, beside the packed one, that holds what was found


def content(folder: Path, files: Sequence[str], compute: Callable[[], str], *, again: bool = False) -> str:
    """Returns the hash of what a packed folder holds: the one that is remembered, or else what `compute` returns.

    `files` are the names of those that it depends on. With `again` nothing that is remembered counts. A folder beside
    which nothing can be written is hashed each time.
    """
    memory = folder.parent / _MEMORY / f"{folder.name}.json"
    states = {name: _state(folder / name) for name in files}
    if not again:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            known = read_json(memory)
            if known["files"] == states:
                return known["content"]
    found = compute()
    if {name: _state(folder / name) for name in files} == states:  # else another process is writing
        with contextlib.suppress(OSError), atomic_file(memory) as temporary:
            temporary.write_text(json.dumps({"files": states, "content": found}))
    return found


def _state(path: Path) -> list[int]:
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
