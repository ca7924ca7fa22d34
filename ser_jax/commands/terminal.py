"""What commands print: names come from untrusted data, and no terminal may obey them."""

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

from ser_jax.errors import visible


@contextlib.contextmanager
def visible_output() -> Iterator[None]:
    """Inside the block, control characters that are printed to standard output are visible escapes ("\\u001b").

    Line ends and tabs stay. The escapes are JSON's, so that what is printed as JSON stays JSON.
    """
    stream = sys.stdout
    sys.stdout = _Visible(stream)
    try:
        yield
    finally:
        sys.stdout = stream


class _Visible:
    """A text stream that passes all on to another one, with control characters as escapes."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write("".join(sign if sign in "\n\t" or visible(sign) == sign else _escape(sign) for sign in text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _escape(sign: str) -> str:
    return json.dumps(sign)[1:-1] if ord(sign) != 0x7F else "\\u007f"
