"""What converters of programs do not know: within `portable()` every operation has the form that all of them read."""

import contextlib
import contextvars
from collections.abc import Iterator

_portable = contextvars.ContextVar("_portable", default=False)


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """What is traced within it has no Fourier transform but products, no windowed reduction but maxima of arrays."""
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)


def is_portable() -> bool:
    """Whether the present program is to be read by converters."""
    return _portable.get()
