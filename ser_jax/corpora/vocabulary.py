"""The symbols that transcripts are made of, numbered, for models that emit a text."""

import dataclasses
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from ser_jax.errors import UserError

PADDING = -1  # fills the rows of `encode_all` behind their end

_SYMBOL = {"characters": "character", "words": "word"}  # kind of a vocabulary -> one of its symbols


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The symbols of a text: token i means symbols[i], and the token after the last symbol means the end.

    Attributes:
        kind: "characters" (spaces are among them) or "words".
        symbols: sorted, none twice.
    """

    kind: str
    symbols: tuple[str, ...]

    @property
    def end(self) -> int:
        """The token that ends a text."""
        return len(self.symbols)

    @property
    def num_symbols(self) -> int:
        """How many tokens there are, the end among them."""
        return len(self.symbols) + 1


def make_vocabulary(transcripts: Iterable[str], kind: str) -> Vocabulary:
    """The vocabulary of some transcripts; neither their order nor their repetitions matter.

    Raises:
        UserError: for an unknown kind, and where no utterance has a transcript.
    """
    if kind not in _SYMBOL:
        raise UserError(f"vocabulary: unknown kind {kind}; expected one of {', '.join(_SYMBOL)}")
    symbols = {symbol for transcript in transcripts for symbol in _split(transcript, kind)}
    if not symbols:
        raise UserError(f"vocabulary of {kind}: no utterance has a transcript; expected a column transcript with texts")
    return Vocabulary(kind, tuple(sorted(symbols)))


def normalize(transcript: str) -> str:
    """A transcript in lower case and composed characters (Unicode NFC), with single spaces between its words."""
    return " ".join(unicodedata.normalize("NFC", transcript.lower()).split())


def encode(vocabulary: Vocabulary, transcript: str) -> list[int]:
    """The tokens of a transcript, without the end.

    Raises:
        UserError: for a character or word outside the vocabulary.
    """
    tokens = {symbol: token for token, symbol in enumerate(vocabulary.symbols)}
    encoded = []
    for symbol in _split(transcript, vocabulary.kind):
        if symbol not in tokens:
            raise UserError(
                f"transcript {transcript!r}: {_SYMBOL[vocabulary.kind]} {symbol!r} is not in the vocabulary; "
                f"expected {vocabulary.kind} of the {len(vocabulary.symbols)} that the model was made for"
            )
        encoded.append(tokens[symbol])
    return encoded


def encode_all(
    vocabulary: Vocabulary, transcripts: Sequence[str]
) -> tuple[Int[np.ndarray, "utterances tokens"], Int[np.ndarray, " utterances"]]:
    """The tokens of every transcript with the end behind them, padded with -1, and how many there are with it.

    An utterance without a transcript ("") has none, not even the end.

    Raises:
        UserError: for a character or word outside the vocabulary.
    """
    encoded = [encode(vocabulary, transcript) for transcript in transcripts]
    encoded = [[*tokens, vocabulary.end] if tokens else [] for tokens in encoded]
    lengths = np.array([len(tokens) for tokens in encoded], np.int32)
    padded = np.full((len(encoded), max(lengths, default=0)), PADDING, np.int32)
    for row, tokens in zip(padded, encoded, strict=True):
        row[: len(tokens)] = tokens
    return padded, lengths


def decode(vocabulary: Vocabulary, tokens: Iterable[int] | Int[np.ndarray, " tokens"]) -> str:
    """The text of some tokens, up to the end or the padding."""
    symbols = []
    for token in tokens:
        if token in (vocabulary.end, PADDING):
            break
        symbols.append(vocabulary.symbols[token])
    return (" " if vocabulary.kind == "words" else "").join(symbols)


def to_json(vocabulary: Vocabulary) -> dict[str, Any]:
    """A vocabulary as JSON can hold it."""
    return {"kind": vocabulary.kind, "symbols": list(vocabulary.symbols)}


def from_json(values: dict[str, Any]) -> Vocabulary:
    """The vocabulary that `to_json` made these values of."""
    return Vocabulary(values["kind"], tuple(values["symbols"]))


def _split(transcript: str, kind: str) -> list[str]:
    text = normalize(transcript)
    return text.split() if kind == "words" else list(text)
