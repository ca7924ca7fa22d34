"""The one kind of error that a user's mistake raises, and the words that such errors share."""

import contextlib
import difflib
import importlib.util
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

_LONGEST = 80  # letters of a value that a message shows
_MOST = 160  # letters of the names that a message lists
_REASON = 120  # letters of what a library says
_LINE, _BEGINNING = 300, 200  # letters of a message as it is printed, and those of its beginning where it is longer
_LONG_WORD = re.compile(r"\S{160,}")
_OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"  # as XLA says it
_JOINERS = "\u200c\u200d"  # which scripts and emoji need


class UserError(Exception):
    """A user's mistake, in one line: what is wrong, where (file or option), and what was expected.

    `launch.py` prints it without a traceback and exits with status 2. Of a word of hundreds of letters, as a value or a
    name in a damaged file may be, its beginning and end are kept.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(_LONG_WORD.sub(lambda found: f"{found[0][:100]}...{found[0][-40:]}", str(message)))


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Turns whatever a library raises inside the block into a `UserError` that begins with `what`.

    For the calls that decode a file and nothing else: of a damaged one, readers raise whatever they ran into.
    """
    try:
        yield
    except (UserError, PermissionError):
        raise
    except Exception as error:
        raise UserError(f"{what} ({reason_of(error)})") from error


def refusal(error: BaseException) -> str | None:
    """Returns the message of what a user or the machine did not allow; None for any other error, which is a fault here.

    The machine refuses by a full disk, a file that may not be read, too little memory of its own or of a device ...
    """
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        where = ", ".join(str(path) for path in (error.filename, error.filename2) if path is not None)
        number = "" if error.errno is None else f" (errno {error.errno})"
        return f"{where or 'the operating system'}: {error.strerror or reason_of(error)}{number}"
    if isinstance(error, MemoryError):
        return f"not enough memory{f': {reason_of(error)}' if str(error) else ''}"
    if is_out_of_memory(error):
        return out_of_memory(error)
    if isinstance(error, RecursionError):
        return "something that was given is nested too deeply"
    if isinstance(error, ModuleNotFoundError) and importlib.util.find_spec("jax") is None:  # no environment is active
        return (
            f"{sys.executable}: has no package {error.name}; expected the Python of an environment with ser_jax "
            "(`make environment`, then `source .venv/bin/activate`; or `pip install .`)"
        )
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device refused memory while a program was compiled or ran."""
    return _OUT_OF_MEMORY in str(error) and type(error).__module__.startswith("jax")


def out_of_memory(error: BaseException, device: str = "the device", *, advice: str = "fewer runs or utterances") -> str:
    """Returns the message of a device's refusal of memory; `advice` is what would help beside fewer processes."""
    return f"not enough memory on {device} ({reason_of(error)}); expected fewer processes on it, {advice}"


def reason_of(error: BaseException) -> str:
    """Returns what an error says, in one line of at most 120 letters; the name of its kind where it says nothing."""
    return _shortened(" ".join(str(error).split()), _REASON) or type(error).__name__


def did_you_mean(found: Any, expected: Iterable[Any]) -> str:
    """Returns the end of an error about a name that is not among those expected: the nearest of them, or else all.

    Empty where nothing is expected.
    """
    names = [str(name) for name in expected]
    close = difflib.get_close_matches(found[:_LONGEST], names, n=1, cutoff=0.5) if isinstance(found, str) else []
    if close:
        return f"; did you mean {close[0]}?"
    return f"; expected one of {_shortened(', '.join(names), _MOST)}" if names else ""


def brief(value: Any) -> str:
    """Returns a value as a message shows it: in one line, and its beginning where it is long."""
    try:
        return _shortened(repr(value), _LONGEST)
    except (RecursionError, ValueError):  # nested without end, or a whole number of thousands of digits
        return f"a {type(value).__name__}"


def printed(message: object) -> str:
    """Returns a message as a terminal shows it: `one_line` of at most 300 letters, without its middle where longer."""
    text = one_line(str(message).strip())
    return text if len(text) <= _LINE else f"{text[:_BEGINNING]} ... {text[len(text) - _LINE + _BEGINNING + 5 :]}"


def one_line(text: str) -> str:
    """The text in one line, control characters as visible escapes ("\\x1b"), so that no terminal obeys them."""
    return "".join(" " if sign in "\n\r\t" else visible(sign) for sign in text)


def visible(sign: str) -> str:
    """Returns a character as it is, or as a visible escape where it is one that controls and does not print."""
    if sign not in _JOINERS and unicodedata.category(sign) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp"):
        return sign.encode("unicode_escape").decode("ascii")
    return sign


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
