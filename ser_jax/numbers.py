"""Numbers as people write them: Python itself takes the mistyped "1_0" for 10."""


def to_float(text: str) -> float:
    """Returns the number that a text spells; raises ValueError where it is none."""
    return float(_plain(text))


def to_int(text: str) -> int:
    """Returns the whole number that a text spells; raises ValueError where it is none."""
    return int(_plain(text))


def _plain(text: str) -> str:
    if "_" in text:
        raise ValueError(f"{text!r} is no number")
    return text
