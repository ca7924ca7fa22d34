"""What a model's file says of itself, for `build`, the table of models and the contract tests."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that an option takes: from `low` on, and up to but without `below`; whole ones where `low` is."""

    low: int | float
    below: int | float = 1 << 20

    def __contains__(self, value: Any) -> bool:
        kind = int if isinstance(self.low, int) else (int, float)
        return isinstance(value, kind) and not isinstance(value, bool) and self.low <= value < self.below

    def __str__(self) -> str:
        if isinstance(self.low, int):
            return f"a whole number of at least {self.low} and at most {self.below - 1}"
        return f"a number of at least {self.low:g} and below {self.below:.7g}"


RATE = Range(0.0, 1.0)  # of dropout and its kin
COUNT = Range(1)


@dataclasses.dataclass(frozen=True)
class Family:
    """A model, its options and its attention switches.

    Attributes:
        module: the linen module; its fields are the options.
        summary: what it is, in a few words.
        choices: option -> its allowed values; several of them, for an option whose default is a tuple.
        switches: the options that switch its attention -> their values, the one without attention first.
        tiny: options of an instance for tests, with attention.
        check: raises UserError for options that do not go together.
        rates: options that may be traced scalars: variants that differ only in them share a compiled program.
        batch_normalisation: whether it has batch normalisation, whose statistics devices can share along `axis_name`.
        min_frames: the frames of the shortest utterance that an instance takes.
        deltas: the orders of deltas that an instance separates from the features.
    """

    module: type[nn.Module]
    summary: str
    choices: Mapping[str, Sequence[Any] | Range]
    switches: Mapping[str, Sequence[Any]]
    tiny: Mapping[str, Any]
    check: Callable[[Any], None] = lambda model: None
    rates: tuple[str, ...] = ()
    batch_normalisation: bool = False
    min_frames: Callable[[Any], int] = lambda model: 1
    deltas: Callable[[Any], int] = lambda model: 0
