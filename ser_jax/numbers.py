"""Numbers as people write them: as texts that are read, and with what is counted."""


def count(number: int, noun: str) -> str:
    """A number of things: "1 fold", "10 folds"."""
    return f"{number} {plural(number, noun)}"


def plural(number: int | float, noun: str) -> str:
    """The noun as it stands after a number."""
    return noun if number == 1 else f"{noun}s"


def to_float(text: str) -> float:
    """Returns the number that a text spells; raises ValueError where it is none."""
    return float(_plain(text))


def to_int(text: str) -> int:
    """Returns the whole number that a text spells; raises ValueError where it is none."""
    return int(_plain(text))


def _plain(text: str) -> str:
    if "_" in text:  # Python itself takes the mistyped "1_0" for 10
        raise ValueError(f"{text!r} is no number")
    return text
