"""The predictions table: what every run predicted for every utterance that it was tested on.

Columns: corpus, variant, fold, seed, utterance, speaker, label (an emotion's name), then one probability column
`p_<emotion>` for each class, in class order. Where dimensions such as arousal are predicted too, `true_<dimension>`
(NaN where it is not known) and `predicted_<dimension>`; where raters' votes are known, their shares `v_<emotion>`.
Of a corpus without emotions the label is "", and there are no probabilities.
Every figure of a report is computed from this table.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from ser_jax import bounded, checksums
from ser_jax.errors import UserError, reading
from ser_jax.files import atomic_file

RUN = ["variant", "fold", "seed"]
KEY = [*RUN, "utterance"]
COLUMNS = ["corpus", *KEY, "speaker", "label"]
PREFIX = "p_"
TRUE, PREDICTED, VOTES = "true_", "predicted_", "v_"
SUM_TOLERANCE = 1e-3  # softmax in bfloat16 is no better than this


def make_predictions(
    corpus_name: str,
    variant: str,
    fold: str,
    seed: int,
    utterances: Sequence[str],
    speakers: Sequence[str],
    labels: Int[np.ndarray, " utterances"],
    probabilities: Float[np.ndarray, "utterances classes"],
    emotions: Sequence[str],
    beside: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Makes the table of one run, sorted by utterance.

    `labels` are class numbers: label i means `emotions[i]`. `beside` are further columns.
    Raises UserError where `validate` does.
    """
    table = pd.DataFrame(
        {
            "corpus": corpus_name,
            "variant": variant,
            "fold": fold,
            "seed": int(seed),
            "utterance": list(utterances),
            "speaker": list(speakers),
            "label": [emotions[label] for label in labels] if emotions else "",
        }
    )
    classes = pd.DataFrame(np.asarray(probabilities), columns=[PREFIX + emotion for emotion in emotions])
    return merge([pd.concat([table, classes] + ([] if beside is None else [beside]), axis=1)])


def emotions_of(predictions: pd.DataFrame) -> tuple[str, ...]:
    """Returns the class names, in class order."""
    return tuple(column.removeprefix(PREFIX) for column in predictions.columns if column.startswith(PREFIX))


def dimensions_of(predictions: pd.DataFrame) -> tuple[str, ...]:
    """Returns the names of the dimensions that are predicted and known, such as arousal."""
    told = [column.removeprefix(PREDICTED) for column in predictions.columns if column.startswith(PREDICTED)]
    return tuple(name for name in told if TRUE + name in predictions)


def votes_of(predictions: pd.DataFrame) -> Float[np.ndarray, "rows classes"] | None:
    """Returns the shares of the raters' votes among the classes, in class order, or None without.

    They are NaN in rows that have no votes for any of the classes.
    """
    columns = [VOTES + emotion for emotion in emotions_of(predictions)]
    if not columns or not set(columns) <= set(predictions.columns):
        return None
    shares = predictions[columns].to_numpy(np.float64)
    total = shares.sum(axis=1, keepdims=True)
    return np.divide(shares, total, out=np.full_like(shares, np.nan), where=total > 0)


def probabilities_of(predictions: pd.DataFrame) -> Float[np.ndarray, "rows classes"]:
    """Returns the class probabilities, in class order."""
    return predictions[[PREFIX + emotion for emotion in emotions_of(predictions)]].to_numpy(np.float64)


def labels_of(predictions: pd.DataFrame) -> Int[np.ndarray, " rows"]:
    """Returns the reference classes as class numbers."""
    return pd.Index(emotions_of(predictions)).get_indexer(predictions["label"]).astype(np.int64)


def merge(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Joins tables of the same classes into one valid table, sorted by variant, fold, seed and utterance.

    Raises UserError when the tables have different classes (or another order of them), and where `validate` does.
    """
    tables = list(tables)
    if not tables:
        raise UserError("there are no predictions to merge")
    expected = emotions_of(tables[0])
    for table in tables[1:]:
        if emotions_of(table) != expected:
            raise UserError(
                f"predictions of different classes cannot be merged: {', '.join(expected)} "
                f"against {', '.join(emotions_of(table))}"
            )
    predictions = pd.concat(tables, ignore_index=True)
    validate(predictions)
    return predictions.sort_values(KEY, ignore_index=True)


def validate(predictions: pd.DataFrame, source: str | os.PathLike = "predictions") -> None:
    """Raises UserError, naming `source`, if the table breaks the format or contradicts itself."""
    emotions = emotions_of(predictions)
    missing = [column for column in COLUMNS if column not in predictions]
    if missing:
        raise UserError(f"{source}: columns missing: {', '.join(missing)}")
    if len(emotions) < 2 and (emotions or not dimensions_of(predictions)):
        raise UserError(
            f"{source}: expected a column p_<emotion> for each of two or more classes, found {len(emotions)}"
        )
    if predictions.empty:
        raise UserError(f"{source}: no predictions in it")
    empty = [column for column in COLUMNS if predictions[column].isna().any()]
    if empty:
        raise UserError(f"{source}: missing values in column {', '.join(empty)}")
    if not pd.api.types.is_integer_dtype(predictions["seed"]):
        raise UserError(f"{source}: column seed must hold integers, found {predictions['seed'].dtype}")
    _validate_probabilities(predictions, source)
    _validate_rows(predictions, source)


def _validate_probabilities(predictions: pd.DataFrame, source: str | os.PathLike) -> None:
    columns = predictions.columns[predictions.columns.str.startswith(PREFIX)]
    for column in columns:
        if not pd.api.types.is_numeric_dtype(predictions[column]):
            raise UserError(f"{source}: column {column} must hold probabilities, found {predictions[column].dtype}")
    probabilities = probabilities_of(predictions)
    for wrong, what in (
        (~np.all(np.isfinite(probabilities), axis=1), "a probability that is NaN or infinite"),
        (np.any(probabilities < 0, axis=1), "a negative probability"),
        (
            (probabilities.shape[1] > 0) & (abs(probabilities.sum(axis=1) - 1) > SUM_TOLERANCE),
            "probabilities that do not sum to one",
        ),
    ):
        if wrong.any():
            raise UserError(f"{source}: {what} in {wrong.sum()} rows, first {_describe(predictions, wrong)}")


def _validate_rows(predictions: pd.DataFrame, source: str | os.PathLike) -> None:
    emotions = emotions_of(predictions)
    unknown = ~predictions["label"].isin(emotions or [""]).to_numpy()
    if unknown.any():
        label = predictions["label"].to_numpy()[unknown][0]
        raise UserError(
            f"{source}: label {label!r} of {_describe(predictions, unknown)} is not among the classes "
            f"{', '.join(emotions) or '(there are none)'}"
        )
    repeated = predictions.duplicated(KEY).to_numpy()
    if repeated.any():
        raise UserError(
            f"{source}: {repeated.sum()} rows repeat an utterance, first {_describe(predictions, repeated)}"
        )
    utterance = ["corpus", "utterance"]
    for column in ("label", "speaker"):
        different = predictions.drop_duplicates([*utterance, column])
        contradicts = different.duplicated(utterance).to_numpy()
        if contradicts.any():
            raise UserError(
                f"{source}: an utterance's {column} differs between runs, first {_describe(different, contradicts)}"
            )


def _describe(predictions: pd.DataFrame, rows: np.ndarray) -> str:
    first = predictions.loc[rows].iloc[0]
    return f"utterance {first.utterance} (variant {first.variant}, fold {first.fold}, seed {first.seed})"


def write(predictions: pd.DataFrame, path: str | os.PathLike) -> None:
    """Writes a valid table as Parquet, sorted; the file appears whole or not at all. Raises UserError as `validate`."""
    predictions = merge([predictions])
    with atomic_file(path) as temporary:
        predictions.to_parquet(temporary, index=False)


def read(path: str | os.PathLike) -> pd.DataFrame:
    """Reads a table and checks it, with its folder's SHA256SUMS too where that has it.

    Raises UserError for a missing or damaged file, and where `validate` does.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no predictions there (train or study writes them)")
    checksums.check(path)
    with reading(f"{path}: not a readable Parquet file"):
        predictions = bounded.read_parquet(path)
        validate(predictions, path)
    return predictions
