"""Predictions of another program, read from CSV or Parquet.

One row for each utterance, and these columns, in any order and in capitals or not:

    utterance    or id, key, file, filename: the utterance's name, or its audio file
    label        or emotion, truth: the reference
    p_<emotion>  or prob_<emotion>, or plainly <emotion>, for each class: probabilities that sum to one; or else
    prediction   or predicted, predictions, pred: the predicted emotion alone
    speaker, fold, seed, variant    where they are known

nkululeko's own table of predictions is read as it is (`print_probabilities` of nkululeko/reporting/reporter.py:
`file`, `start`, `end`, a column for each class, `predicted`, `truth`, `uncertainty`, `correct`). Those of a neural
network are scores, not probabilities; their softmax is taken. Further columns are passed over.
"""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import softmax

from ser_jax import bounded
from ser_jax.corpora import tables
from ser_jax.errors import UserError, reading
from ser_jax.predictions import PREFIX, SUM_TOLERANCE, probabilities_of

SUFFIXES = (".csv", ".tsv", ".parquet")

# The first name of each is the one that wins where a table has several.
_NAMES = {
    "utterance": ("utterance", "id", "key", "file", "filename"),
    "label": ("label", "emotion", "truth"),
    "prediction": ("prediction", "predicted", "predictions", "pred"),
    "speaker": ("speaker",),
    "fold": ("fold",),
    "seed": ("seed",),
    "variant": ("variant",),
}
_PREFIXES = (PREFIX, "prob_", "probability_")
_NKULULEKO = {"predicted", "truth", "uncertainty", "correct"}
_NOT_CLASSES = _NKULULEKO | {"start", "end"}  # of nkululeko's table

LABELS_ALONE = "predicted labels alone, without probabilities: nothing can be said of calibration"
FROM_SCORES = "the softmax of nkululeko's scores stands for the probabilities"


@dataclasses.dataclass(frozen=True)
class Outside:
    """What a table of predictions holds: `utterance`, `label`, `p_<emotion>`, and those of speaker, fold, seed, variant
    that it knows; and what a reader must know of it."""

    table: pd.DataFrame
    notes: tuple[str, ...]


def read_outside(path: str | os.PathLike) -> Outside:
    """Reads a table of predictions. Raises UserError, in one line, for what is missing, ambiguous or no probability."""
    path = Path(path)
    raw = _read(path)
    columns = _columns(raw, path)
    table = pd.DataFrame({name: _text(raw[column]) for name, column in columns.items() if name != "prediction"})
    for name in ("utterance", "label", "fold", "speaker", "variant"):
        if name in table and (table[name] == "").any():
            raise UserError(f"{path}: row {_first(table[name] == '')} has no {columns[name]}")
    if "seed" in table:
        table["seed"] = _numbers(table["seed"], columns["seed"], table["utterance"], path, whole=True)
    predicted = _text(raw[columns["prediction"]]) if "prediction" in columns else None
    probabilities, notes = _probabilities(raw, table, predicted, set(columns.values()), path)
    table = pd.concat([table, probabilities], axis=1)
    _refuse_repeated(table, path)
    return Outside(table, tuple(notes))


def _read(path: Path) -> pd.DataFrame:
    """The table as it stands; what a CSV holds stays text, since an utterance's name may be 03."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with reading(f"{path}: not a readable table"):
        if path.suffix == ".parquet":
            raw = bounded.read_parquet(path)
        else:
            raw = tables.read_table(path, wanted=("utterance", "label"), columns=()).reset_index(drop=True)
    if raw.empty:
        raise UserError(f"{path}: no predictions in it")
    return raw.reset_index() if raw.index.names != [None] else raw


def _columns(raw: pd.DataFrame, path: Path) -> dict[str, str]:
    """Which column of the table is which."""
    found = {}
    by_name = {str(column).strip().lower(): column for column in raw.columns}
    for name, spellings in _NAMES.items():
        present = [spelling for spelling in spellings if spelling in by_name]
        if len(present) > 1 and present[0] != name:
            raise UserError(f"{path}: columns {' and '.join(present)} may both be the {name}; name one of them {name}")
        if present:
            found[name] = by_name[present[0]]
    for name in ("utterance", "label"):
        if name not in found:
            raise UserError(
                f"{path}: no column {name} (or {', '.join(_NAMES[name][1:])}); it has "
                f"{', '.join(map(str, raw.columns[:12]))}"
            )
    return found


def _probabilities(
    raw: pd.DataFrame, table: pd.DataFrame, predicted: pd.Series | None, taken: set[str], path: Path
) -> tuple[pd.DataFrame, list[str]]:
    """The columns p_<emotion>, and notes on them."""
    of_nkululeko = set(raw.columns) >= _NKULULEKO
    columns = _class_columns(raw, table["label"], predicted, taken, of_nkululeko)
    if not columns:
        if predicted is None:
            raise UserError(
                f"{path}: neither probabilities (columns p_<emotion>, prob_<emotion> or one named after each emotion) "
                "nor a column prediction"
            )
        return _one_hot(predicted, table["label"], path), [LABELS_ALONE]
    values = pd.DataFrame(
        {PREFIX + emotion: _numbers(raw[c], c, table["utterance"], path) for emotion, c in columns.items()}
    )
    scores, notes = probabilities_of(values), []
    if of_nkululeko and not _are_probabilities(scores).all():
        values[:], notes = softmax(scores, axis=1), [FROM_SCORES]
    wrong = ~_are_probabilities(probabilities_of(values))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise UserError(
            f"{path}: utterance {table['utterance'][row]}: {', '.join(columns.values())} are no probabilities, their "
            f"sum is {scores[row].sum():.4g}; expected 1 and none negative ({wrong.sum()} such rows)"
        )
    unknown = ~table["label"].isin(list(columns))
    if unknown.any():
        row = _first(unknown, count_from=0)
        raise UserError(
            f"{path}: utterance {table['utterance'][row]}: label {table['label'][row]!r}, but the probabilities are of "
            f"{', '.join(columns)}"
        )
    if predicted is not None:
        different = np.array(list(columns))[scores.argmax(axis=1)] != predicted.to_numpy()
        if different.any():
            notes.append(
                f"the predicted label is not the most probable one for {different.sum()} utterances; the "
                "probabilities are taken"
            )
    return values, notes


def _class_columns(
    raw: pd.DataFrame, labels: pd.Series, predicted: pd.Series | None, taken: set[str], of_nkululeko: bool
) -> dict[str, str]:
    """The column of each class's probabilities, in the order of the table."""
    for prefix in _PREFIXES:
        columns = {str(c)[len(prefix) :]: c for c in raw.columns if str(c).lower().startswith(prefix)}
        if columns:
            return columns
    free = [column for column in raw.columns if column not in taken]
    if of_nkululeko:
        return {column: column for column in free if column not in _NOT_CLASSES}
    emotions = {*labels, *(() if predicted is None else predicted)}
    return {column: column for column in free if column in emotions}


def _one_hot(predicted: pd.Series, labels: pd.Series, path: Path) -> pd.DataFrame:
    if (predicted == "").any():
        raise UserError(f"{path}: row {_first(predicted == '')} has no prediction")
    emotions = sorted({*labels, *predicted})
    return pd.DataFrame({PREFIX + emotion: (predicted == emotion).astype(np.float64) for emotion in emotions})


def _are_probabilities(values: np.ndarray) -> np.ndarray:
    return (values >= 0).all(axis=1) & (abs(values.sum(axis=1) - 1) <= SUM_TOLERANCE)


def _numbers(values: pd.Series, column: str, utterances: pd.Series, path: Path, *, whole: bool = False) -> np.ndarray:
    values = values.map(lambda value: value.replace(",", ".") if isinstance(value, str) else value)  # decimal commas
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64)
    wrong = ~np.isfinite(numbers) | (whole & (numbers != np.round(numbers)))
    if wrong.any():
        row = int(np.argmax(wrong))
        expected = "a whole number" if whole else "a number"
        raise UserError(
            f"{path}: utterance {utterances[row]}: {column} is {str(values.iloc[row])!r}, expected {expected}"
        )
    return numbers.astype(np.int64) if whole else numbers


def _refuse_repeated(table: pd.DataFrame, path: Path) -> None:
    keys = [name for name in ("variant", "fold", "seed", "utterance") if name in table]
    repeated = table.duplicated(keys)
    if repeated.any():
        missing = " or ".join(name for name in ("fold", "seed", "variant") if name not in table)
        hint = f"; where runs differ, add a column {missing}" if missing else ""
        raise UserError(
            f"{path}: utterance {table['utterance'][_first(repeated, count_from=0)]} occurs more than once{hint}"
        )


def _text(values: pd.Series) -> pd.Series:
    return values.astype(object).where(values.notna(), "").astype(str).str.strip().reset_index(drop=True)


def _first(rows: pd.Series, count_from: int = 1) -> int:
    return int(np.argmax(rows.to_numpy())) + count_from


def match_names(names: Sequence[str], known: Iterable[str], corpus: str) -> dict[str, str]:
    """Maps another program's names of utterances to the known ones, where they are the same utterances.

    A name is taken as it is where it is known; else without the prefix `corpus-` that EmoBox puts before its keys; else
    as the name of an audio file, without folders and suffix. Where two names would become one, both stay as they are.
    """
    known = set(known)
    found = {}
    for name in dict.fromkeys(names):
        spellings = (name, name.removeprefix(f"{corpus}-"), Path(name.replace("\\", "/")).stem)
        found[name] = next((spelling for spelling in spellings if spelling in known), name)
    times = pd.Series(list(found.values())).value_counts()
    return {name: target if times[target] == 1 else name for name, target in found.items()}
