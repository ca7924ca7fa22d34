"""What commands print: names come from untrusted data, and may not control a terminal."""

import codecs
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ser_jax.errors import visible
from ser_jax.files import named

_OUTPUT = Path("standard output")
_ESCAPES = "ser_jax.escapes"
codecs.register_error(_ESCAPES, lambda error: (_escape(error.object[error.start : error.end]), error.end))


def open_streams() -> None:
    """Lets a standard stream that was closed be one of nothing, so that reading and writing find one."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


def settle_streams() -> None:
    """Drops what cannot be written, as to a full disk: at its end Python would try again and say so at length."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextlib.contextmanager
def visible_output() -> Iterator[None]:
    """Inside the block, control characters that are printed to standard output are visible escapes ("\\u001b").

    So are characters that its encoding lacks. Line ends and tabs stay. The escapes are JSON's, so that what is printed
    as JSON stays JSON.
    """
    stream = sys.stdout
    sys.stdout = _Visible(stream)
    try:
        yield
    finally:
        sys.stdout = stream


class _Visible:
    """A text stream that passes all on to another one, with control characters as escapes; its errors name it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        shown = "".join(sign if sign in "\n\t" or visible(sign) == sign else _escape(sign) for sign in text)
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        with named(_OUTPUT):
            self._stream.write(shown.encode(encoding, _ESCAPES).decode(encoding))
        return len(text)

    def flush(self) -> None:
        with named(_OUTPUT):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _escape(sign: str) -> str:
    return json.dumps(sign)[1:-1] if ord(sign) != 0x7F else "\\u007f"
