"""Other targets of utterances than their emotion: values of dimensions, and raters' votes."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64

from ser_jax.corpora.corpus import Corpus
from ser_jax.corpora.labels import VOTE, meant_by
from ser_jax.corpora.protocols import Fold
from ser_jax.corpora.tables import says_nothing
from ser_jax.errors import UserError, brief, did_you_mean

DIMENSIONS = ("arousal", "valence", "dominance")  # that a table without emotions is known by
_DIMENSIONS, _VOTES = "config.corpus.dimensions", "config.corpus.votes"


def dimension_values(corpus: Corpus, names: Sequence[str]) -> Float32[np.ndarray, "utterances dimensions"]:
    """Returns the values of dimensions such as arousal and valence, NaN where the table does not say.

    Raises UserError for a column that there is not, and for what is neither a number nor empty.
    """
    values = np.full((len(corpus.utterances), len(names)), np.nan)
    for i, name in enumerate(names):
        if name not in corpus.utterances:
            hint = did_you_mean(name, list(corpus.utterances.columns))
            raise UserError(f"{_DIMENSIONS}: corpus {corpus.name} has no column {brief(name)}{hint}")
        values[:, i] = _numbers(corpus, name, _DIMENSIONS, "a number, or nothing where it is not known")
    return values.astype(np.float32)


def range_of(utterances: pd.DataFrame, name: str) -> tuple[float, float, int]:
    """Returns the least and the highest value of a dimension, and how many utterances have one; NaN where none has."""
    known = _numbers_of(utterances[name].map(_text)).dropna()
    return float(known.min()), float(known.max()), len(known)


def note_of_outliers(utterances: pd.DataFrame) -> dict[str, list[str]]:
    """Returns, as "outlying", the ids with a value of a dimension further from all others than those from each other.

    As 99 on a scale of 1 to 5, by which some tables say that nothing is known.
    """
    found: list[str] = []
    for name in [name for name in DIMENSIONS if name in utterances]:
        values = _numbers_of(utterances[name].map(_text))
        for extreme in (values.min(), values.max()):
            others = values[values.notna() & (values != extreme)]
            if others.nunique() > 1 and (others - extreme).abs().min() > others.max() - others.min():
                found += utterances["id"][values == extreme].tolist()
    return {"outlying": list(dict.fromkeys(found))} if found else {}


def check_dimensions(
    values: Float32[np.ndarray, "utterances dimensions"], names: Sequence[str], folds: Sequence[Fold]
) -> None:
    """Raises UserError for a fold whose training utterances have no two different values of a dimension."""
    for fold in folds:
        for name, column in zip(names, values[fold.train].T, strict=True):
            known = column[~np.isnan(column)]
            if len(known) == 0 or known.min() == known.max():
                raise UserError(
                    f"{_DIMENSIONS}: fold {fold.name} trains on {len(known)} utterances with a value of {name}, "
                    "expected at least two that differ"
                )


def scaling_of(values: Float32[np.ndarray, "utterances dimensions"], fold: Fold) -> Float32[np.ndarray, "2 dimensions"]:
    """Returns the mean and the standard deviation of each dimension over the training utterances of a fold."""
    known = values[fold.train].astype(np.float64)
    return np.stack([np.nanmean(known, axis=0), np.nanstd(known, axis=0)]).astype(np.float32)


def vote_shares(corpus: Corpus, columns: str, *, partly: bool = False) -> Float32[np.ndarray, "utterances classes"]:
    """Returns the share of the raters' votes that each class got, of every utterance.

    `columns` is what the names of the columns begin with (vote_), or their names, as a,b,c. They are either one column
    for each class, `PREFIX` and its name, with how many raters chose it, or one for each rater, with that rater's
    choice. Votes for emotions that are no class of the corpus count for nothing.
    Raises UserError where there are no such columns or, unless `partly`, not one for every class, and for an utterance
    with no vote for any class, whose shares are NaN with `partly`.
    """
    names = columns.split(",") if "," in columns else [one for one in corpus.utterances if one.startswith(columns)]
    absent = [name for name in names if name not in corpus.utterances]
    if absent or not names:
        what = f"no column {absent[0]}" if absent else f"no columns that begin with {columns}"
        raise UserError(
            f"{_VOTES}={columns}: corpus {corpus.name} has {what}; expected {VOTE}EMOTION for every emotion, or a "
            "column for every rater"
        )
    spelled = {name.casefold(): name for name in names}
    counted = [columns + emotion for emotion in corpus.emotions]
    counted = [spelled.get(name.casefold(), name) for name in counted]
    lacking = [name for name in counted if name not in names]
    if lacking and len(lacking) < len(counted) and not partly:
        raise UserError(
            f"{_VOTES}={columns}: corpus {corpus.name} has no column {lacking[0]}, expected one for every emotion "
            "(`prepare --drop` leaves an emotion out)"
        )
    if len(lacking) == len(counted):
        votes = _heard(corpus, names, columns)
    else:
        votes = np.zeros((len(corpus.utterances), len(counted)))
        there = [name not in lacking for name in counted]
        votes[:, there] = _counts(corpus, [name for name in counted if name not in lacking])
    total = votes.sum(axis=1)
    if partly:
        total = np.where(total > 0, total, np.nan)
    if (total <= 0).any():
        utterance = corpus.utterances["id"].iloc[int(np.argmin(total))]
        raise UserError(
            f"{_VOTES}={columns}: {(total <= 0).sum()} utterances of corpus {corpus.name} have no vote for any of "
            f"{', '.join(corpus.emotions)}, the first is {utterance!r}"
        )
    return (votes / total[:, None]).astype(np.float32)


def describe_targets(corpus: Corpus, dimensions: Sequence[str], votes: str) -> list[str]:
    """Returns a SHA-256 (hex) of the values of dimensions, and of the shares of votes: of what is asked for."""
    found = [dimension_values(corpus, dimensions)] if dimensions else []
    found += [vote_shares(corpus, votes)] if votes else []
    return [hashlib.sha256(values.tobytes()).hexdigest() for values in found]


def _counts(corpus: Corpus, columns: Sequence[str]) -> Float64[np.ndarray, "utterances classes"]:
    votes = np.stack([_numbers(corpus, name, _VOTES, "how many raters chose it") for name in columns], axis=1)
    votes = np.nan_to_num(votes)
    if (votes < 0).any():
        row, column = np.argwhere(votes < 0)[0]
        raise UserError(f"{_VOTES}: utterance {corpus.utterances['id'].iloc[row]!r} has {columns[column]} below zero")
    return votes


def _heard(corpus: Corpus, raters: Sequence[str], columns: str) -> Float64[np.ndarray, "utterances classes"]:
    number = {emotion.casefold(): i for i, emotion in enumerate(corpus.emotions)}
    votes = np.zeros((len(corpus.utterances), len(corpus.emotions)))
    for rater in raters:
        words = corpus.utterances[rater].map(_text).str.casefold()
        several = words.str.contains(r"[;|]")
        if several.any():
            utterance, word = corpus.utterances["id"][several].iloc[0], corpus.utterances[rater][several].iloc[0]
            raise UserError(
                f"{_VOTES}={columns}: utterance {utterance!r} has several emotions at once in {rater}, {word!r}; "
                "expected one for each rater"
            )
        for word in sorted(set(words) - set(number)):
            meant = meant_by(word, number)
            if meant:
                utterance = corpus.utterances["id"][words == word].iloc[0]
                raise UserError(
                    f"{_VOTES}={columns}: utterance {utterance!r} has {word!r} in {rater}, which may be {meant}; spell "
                    "them alike: a vote for no class of the corpus counts for nothing"
                )
        heard = words.map(number)
        rows = np.flatnonzero(heard.notna())
        votes[rows, heard.iloc[rows].astype(int)] += 1
    if not votes.any():
        found = ", ".join(sorted(set(corpus.utterances[raters[0]].map(_text)))[:5])
        raise UserError(
            f"{_VOTES}={columns}: {raters[0]} of corpus {corpus.name} has {found}; expected names among "
            f"{', '.join(corpus.emotions)}"
        )
    return votes


def _numbers(corpus: Corpus, name: str, option: str, expected: str) -> Float64[np.ndarray, " utterances"]:
    """A column's numbers, also those with a decimal comma; NaN where nothing is said."""
    words = corpus.utterances[name].map(_text)
    found, wrong = _numbers_of(words), ~is_number_or_nothing(words).to_numpy()
    if wrong.any():
        row = int(np.argmax(wrong))
        raise UserError(
            f"{option}: utterance {corpus.utterances['id'].iloc[row]!r} of corpus {corpus.name} has the {name} "
            f"{words.iloc[row]!r}, expected {expected}"
        )
    return found.to_numpy(np.float64)


def is_number_or_nothing(words: pd.Series) -> pd.Series:
    """Returns which cells are numbers, also with a decimal comma, or say that a value is not known.

    Infinity is none, nor what is beyond the numbers of 32 bits.
    """
    return words.map(says_nothing) | (_numbers_of(words.map(_text)).abs() <= np.finfo(np.float32).max)


def _numbers_of(words: pd.Series) -> pd.Series:
    unknown = words.map(says_nothing)
    return pd.to_numeric(words.where(~unknown, "nan").str.replace(",", ".", regex=False), errors="coerce")


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()
