"""The runs of a workdir for an experiment tracker: from logs, configurations and predictions."""

import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ser_jax import predictions
from ser_jax.errors import UserError
from ser_jax.report import figures
from ser_jax.report.vector_graphics import style
from ser_jax.statistics import metrics
from ser_jax.statistics.scores import scores_of
from ser_jax.studies import workdirs
from ser_jax.studies.store import PREDICTIONS
from ser_jax.trackers.run import TrackedRun
from ser_jax.training import log, published


def tracked_runs(workdir: str | os.PathLike, variant: str | None = None) -> list[TrackedRun]:
    """Returns the runs of all variants of a workdir, or of the one named, in the order of its folds and seeds.

    A run that diverged has no scores, and a baseline on functionals no curves. Raises `UserError` for what is no
    workdir of a training or study.
    """
    if published.is_published(Path(workdir)):
        raise UserError(
            f"{workdir}: a published model, which has no log; expected a folder that `train` or `study` made"
        )
    return [run for restored in workdirs.find(workdir, variant, option="workdir") for run in _runs(restored)]


def _runs(restored: workdirs.Restored) -> Iterator[TrackedRun]:
    table = predictions.read(restored.folder / PREDICTIONS)
    logged = log.read(restored.folder / log.FILE)
    options = dict(_flat(restored.metadata["config"]))
    for run in restored.metadata["runs"]:
        fold, seed = run["fold"], run["seed"]
        own = table[(table["fold"] == fold) & (table["seed"] == seed)]
        rows = [row for row in logged if (row.get("fold"), row.get("seed")) == (fold, seed)]
        curves = [(row["step"], log.figures_of(row)) for row in rows]
        scores, confusion = _tested(own, f"{restored.name}, {fold}, seed {seed}") if len(own) else ({}, b"")
        yield TrackedRun(restored.name, fold, seed, options, curves, scores, confusion)


def _tested(table: pd.DataFrame, title: str) -> tuple[dict[str, float], bytes]:
    """The scores of a run's test utterances, and their confusion matrix as a PNG picture; b"" without emotions."""
    scores = {f"test_{score.name}": float(score.value(_sums(score.per_row(table)))) for score in scores_of(table)}
    if not predictions.emotions_of(table):
        return scores, b""
    counts = metrics.confusion_counts(table, "fold")
    confusion = counts.counts.sum(axis=(0, 1))
    scores |= {
        "test_ua": float(metrics.unweighted_accuracy(confusion)),
        "test_wa": float(metrics.weighted_accuracy(confusion)),
        "test_macro_f1": float(metrics.macro_f1(confusion)),
    }
    picture = io.BytesIO()
    with style():
        figures.confusion_panel(title, confusion.tolist(), counts.emotions).savefig(
            picture, format="png", dpi=120, facecolor="white"
        )
    return scores, picture.getvalue()


def _sums(rows: np.ndarray) -> np.ndarray:
    return rows[~np.isnan(rows).any(axis=1)].sum(axis=0)


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int | float | bool | str]]:
    """The options of a configuration by their names; what is neither a number nor a truth value becomes text."""
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, bool | int | float | str) else str(value)
