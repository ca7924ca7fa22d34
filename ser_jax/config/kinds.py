"""What an option takes: numbers within a range, texts, switches, choices, lists and groups of one's own.

A kind checks a value that a Python or JSON file gives, and reads the text that a command line gives.
"""

import ast
import contextlib
import dataclasses
import json
import math
import re
from collections.abc import Callable
from typing import Any

from ser_jax.errors import brief, did_you_mean
from ser_jax.numbers import to_float, to_int
from ser_jax.plugins import is_outside

LARGEST = 2**31 - 1  # of whole numbers: what a device counts in
GREATEST = 1e30  # of other numbers: float32 holds it


@dataclasses.dataclass(frozen=True)
class Kind:
    """What an option takes.

    Attributes:
      expected: what it takes, in words.
      checked: a value -> the value as a configuration keeps it; raises ValueError, perhaps with the end of a message.
      read: the text of a command line -> a value that `checked` may still refuse.
    """

    expected: str
    checked: Callable[[Any], Any]
    read: Callable[[str], Any] = str


def number(
    low: int | float = 0,
    high: int | float = GREATEST,
    *,
    above: int | float | None = None,
    below: int | float | None = None,
    zero: str = "",
    unset: bool = False,
) -> Kind:
    """A number from `low` to `high`, or beyond `above` and short of `below`; `zero` says what 0 means.

    With `unset`, -1 is taken too: the option is not set.
    """
    bounds = f"above {above:g}" if above is not None else f"of at least {low:g}"
    if below is not None:
        bounds += f" and below {below:g}"
    elif high < GREATEST:
        bounds += f" and at most {high:g}"

    def checked(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError
        with contextlib.suppress(OverflowError):
            value = float(value)
            above_low = value > above if above is not None else value >= low
            below_high = value < below if below is not None else value <= high
            if math.isfinite(value) and ((above_low and below_high) or (unset and value == -1) or (zero and not value)):
                return value
            if value > GREATEST == high and below is None:
                raise ValueError(f", at most {GREATEST:g}")
        raise ValueError

    return Kind(f"a number {bounds}{_meanings(zero, unset)}", checked, _number)


def whole(low: int = 0, high: int = LARGEST, *, zero: str = "", unset: bool = False) -> Kind:
    """A whole number from `low` to `high`; `zero` says what 0 means, and with `unset` -1 is taken too."""
    bounds = f"of at least {low}" + (f" and at most {high}" if high < LARGEST else "")

    def checked(value: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError
        if low <= value <= high or (unset and value == -1) or (zero and value == 0):
            return value
        raise ValueError(f", at most {LARGEST}" if value > LARGEST == high else "")

    return Kind(f"a whole number {bounds}{_meanings(zero, unset)}", checked, _number)


def text(expected: str = "a text") -> Kind:
    """Any text in one line."""

    def checked(value: Any) -> str:
        if not isinstance(value, str) or not is_line(value):
            raise ValueError
        return value

    return Kind(expected, checked)


def is_line(value: str) -> bool:
    """Whether a text is one line that can be written as UTF-8, which half a character of a broken name cannot."""
    return not any(sign in "\n\0" or "\ud800" <= sign <= "\udfff" for sign in value)


def flag() -> Kind:
    """True or false."""

    def checked(value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError
        return value

    return Kind("true or false", checked, lambda found: {"true": True, "false": False}.get(found.lower(), found))


def one_of(*choices: str, outside: bool = False) -> Kind:
    """One of a few texts; with `outside`, `package.module:NAME` as well."""

    def checked(value: Any) -> str:
        if value not in choices and not (outside and is_outside(value)):
            hint = did_you_mean(value, choices)
            raise ValueError(hint if "did you mean" in hint else "")
        return value

    return Kind(f"one of {', '.join(choices)}{' or package.module:NAME' if outside else ''}", checked)


def list_of(item: Kind, of: str) -> Kind:
    """A list without repetitions; on a command line `0,1,2`, and brackets around it are welcome."""

    def checked(value: Any) -> list:
        if not isinstance(value, list | tuple):
            raise ValueError
        result = [_item(item, entry) for entry in value]
        seen = set()
        for entry in result:
            if repr(entry) in seen:
                raise ValueError(f"; {brief(entry)} is in it twice")
            seen.add(repr(entry))
        return result

    return Kind(f"a list of {of}", checked, lambda found: [item.read(entry) for entry in split(found)])


def group(expected: str) -> Kind:
    """A dict of options that are checked where they are used."""

    def checked(value: Any) -> dict:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise ValueError
        return plain(value)

    return Kind(expected, checked, guess)


def strengths() -> Kind:
    """A dict of what is outside the package: `package.module:NAME`, and a number of at least 0 for each."""
    of = number(zero="off")

    def checked(value: Any) -> dict[str, float]:
        if not isinstance(value, dict) or not all(is_outside(name) for name in value):
            raise ValueError
        return {name: _item(of, strength) for name, strength in value.items()}

    return Kind("a dict of package.module:NAME: a number of at least 0", checked, guess)


def rates() -> Kind:
    """Shares of the learning rate by regular expression, as a list of pairs: the first expression that fits counts."""
    of = number()

    def checked(value: Any) -> list[list]:
        pairs = in_order(value)
        if not isinstance(pairs, list | tuple) or not all(
            isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs
        ):
            raise ValueError
        patterns = [pattern for pattern, _ in pairs]
        for pattern in patterns:
            if patterns.count(pattern) > 1:
                raise ValueError(f"; {brief(pattern)} is in it twice")
            try:
                re.compile(pattern)
            except (re.error, OverflowError, RecursionError):
                raise ValueError(f"; {brief(pattern)} is no regular expression") from None
        return [[pattern, _item(of, rate)] for pattern, rate in pairs]

    return Kind("a dict or list of pairs, pattern and share", checked, guess)


def in_order(value: Any) -> Any:
    """Returns a dict as a list of pairs: an order that counts is then part of the value."""
    return [[key, entry] for key, entry in value.items()] if isinstance(value, dict) else value


def groups() -> Kind:
    """A dict of dicts: each a part of the tree, by the name of a variant."""

    def checked(value: Any) -> dict:
        if not isinstance(value, dict):
            raise ValueError
        for name, changes in value.items():
            if not isinstance(name, str) or not isinstance(changes, dict):
                raise ValueError(f"; found {brief(changes)} of {brief(name)}")
        return plain(value)

    return Kind("a dict of name: what differs from the configuration", checked, guess)


def pairs() -> Kind:
    """A list of pairs of names."""

    def checked(value: Any) -> list[list[str]]:
        if not isinstance(value, list | tuple):
            raise ValueError
        for pair in value:
            is_pair = isinstance(pair, list | tuple) and len(pair) == 2
            if not is_pair or not all(isinstance(name, str) for name in pair):
                raise ValueError(f"; found {brief(pair)} in it")
        return plain(value)

    return Kind("a list of pairs (variant, the variant it is compared with)", checked, guess)


def dicts() -> Kind:
    """A list of dicts, which are checked where they are used."""

    def checked(value: Any) -> list[dict]:
        if not isinstance(value, list | tuple) or not all(isinstance(entry, dict) for entry in value):
            raise ValueError
        return plain(value)

    return Kind("a list of dicts", checked, guess)


def guess(found: str) -> Any:
    """Returns what a text spells in JSON or Python (a number, true, None, a list); else a list, or the text itself."""
    for read in (json.loads, _literal):
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            return plain(read(found))
    return [guess(entry) for entry in split(found)] if "," in found else found


def _literal(found: str) -> Any:
    """What a text spells in Python, but for numbers such as 1_0, which nobody means for 10."""
    tree, lines = ast.parse(found.strip(), mode="eval"), found.strip().encode().splitlines()
    numbers = (one for one in ast.walk(tree) if isinstance(one, ast.Constant) and isinstance(one.value, int | float))
    if any(b"_" in lines[one.lineno - 1][one.col_offset : one.end_col_offset] for one in numbers):
        raise ValueError
    return ast.literal_eval(tree)


def split(found: str) -> list[str]:
    """Returns the entries of `a,b`, `[a, b]` or `(a,)`, without quotation marks around them."""
    inner = found.strip()
    if inner[:1] + inner[-1:] in ("[]", "()"):
        inner = inner[1:-1]
    return [entry.strip().strip("'\"") for entry in inner.split(",") if entry.strip()]


def plain(value: Any) -> Any:
    """Returns a copy as JSON has it, so that a configuration equals its own: lists for tuples, texts for whole keys."""
    if isinstance(value, dict):
        return {str(key) if type(key) is int else key: plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [plain(entry) for entry in value]
    return value


def _number(found: str) -> Any:
    for read in (to_int, to_float):
        with contextlib.suppress(ValueError):
            return read(found)
    return found


def _item(item: Kind, entry: Any) -> Any:
    try:
        return item.checked(entry)
    except ValueError as error:
        raise ValueError(str(error) or f"; {brief(entry)} is not {item.expected}") from None


def _meanings(zero: str, unset: bool) -> str:
    meanings = [*([f"0: {zero}"] if zero else []), *(["-1: not set"] if unset else [])]
    return f" ({', '.join(meanings)})" if meanings else ""
