"""From the predictions table to summary.json: every variant's figures with intervals, and the comparisons."""

import dataclasses
import json
import os
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ser_jax.errors import UserError
from ser_jax.evaluation import metrics, statistics
from ser_jax.evaluation.predictions import emotions_of, validate
from ser_jax.files import atomic_file


def summarise(
    predictions: pd.DataFrame,
    *,
    comparisons: Sequence[tuple[str, str]] = (),
    fold_sizes: Mapping[str, tuple[int, int]] = types.MappingProxyType({}),
    parameters: Mapping[str, int] = types.MappingProxyType({}),
    meta: Mapping[str, Any] = types.MappingProxyType({}),
    replicates: int = statistics.REPLICATES,
) -> dict[str, Any]:
    """Returns what summary.json holds: plain JSON values, shares from 0 to 1, None for what cannot be estimated.

    `comparisons` are (variant, baseline) pairs, `fold_sizes` each fold's numbers of (training, test) utterances,
    `parameters` each variant's parameter count, in the order in which variants shall appear; `meta` (protocol,
    fingerprint, versions, seconds ...) is put beside.
    Raises UserError for an invalid table, one of several corpora, and a comparison that cannot be made.
    """
    validate(predictions)
    corpora = predictions["corpus"].unique()
    if len(corpora) > 1:
        raise UserError(f"one summary is of one corpus, found predictions on {', '.join(sorted(corpora))}")
    compared = statistics.compare_all(predictions, comparisons, fold_sizes, replicates=replicates)
    tables = dict(list(predictions.groupby("variant")))
    order = [name for name in parameters if name in tables]
    variants = {
        name: _summarise_variant(tables[name], parameters.get(name), replicates)
        for name in dict.fromkeys([*order, *tables])
    }
    summary = {
        **meta,
        "corpus": corpora[0],
        "emotions": emotions_of(predictions),
        "chance_ua": 1 / predictions["label"].nunique(),
        "variants": variants,
        "comparisons": [dataclasses.asdict(comparison) for comparison in compared],
    }
    return _plain(summary)


def _summarise_variant(table: pd.DataFrame, parameters: int | None, replicates: int) -> dict[str, Any]:
    confusion = metrics.confusion_counts(table, "speaker")
    pooled = confusion.counts.sum(axis=1)
    figures = {
        "ua": metrics.unweighted_accuracy,
        "wa": metrics.weighted_accuracy,
        "macro_f1": metrics.macro_f1,
        "recall": metrics.recall,
    }
    summary: dict[str, Any] = {}
    for name, metric in figures.items():
        estimate = statistics.bootstrap_interval(confusion.counts, metric, replicates=replicates)
        ends = np.stack([estimate.low, estimate.high], axis=-1)
        if name == "recall":
            summary["recall"] = dict(zip(confusion.emotions, estimate.value, strict=True))
            summary["recall_ci95"] = {e: _interval(pair) for e, pair in zip(confusion.emotions, ends, strict=True)}
        else:
            summary[name], summary[f"{name}_ci95"] = estimate.value, _interval(ends)
    ua_per_seed = metrics.unweighted_accuracy(pooled)
    return summary | {
        "confusion": pooled.sum(axis=0),  # rows are the reference; seeds are added up
        "ua_per_seed": dict(zip(map(str, confusion.seeds), ua_per_seed, strict=True)),
        "ua_seed_sd": ua_per_seed.std(ddof=1) if len(ua_per_seed) > 1 else None,
        "runs": len(table[["fold", "seed"]].drop_duplicates()),
        "folds": table["fold"].nunique(),
        "seeds": len(confusion.seeds),
        "speakers": len(confusion.groups),
        "utterances": table["utterance"].nunique(),
        "parameters": parameters,
        "notes": _notes(table, confusion, has_interval=summary["ua_ci95"] is not None),
    }


def _interval(ends: np.ndarray) -> np.ndarray | None:
    return None if np.isnan(ends).any() else ends


def _notes(table: pd.DataFrame, confusion: metrics.ConfusionCounts, *, has_interval: bool) -> list[str]:
    """What a reader must know of the figures: what is missing, and what cannot be estimated."""
    notes = []
    heard_from = (confusion.counts.sum(axis=(0, -1)) > 0).sum(axis=0)  # speakers, for each emotion
    absent = [emotion for emotion, speakers in zip(confusion.emotions, heard_from, strict=True) if speakers == 0]
    single = [emotion for emotion, speakers in zip(confusion.emotions, heard_from, strict=True) if speakers == 1]
    if absent:
        notes.append(f"not in the test data and left out of UA and macro F1: {', '.join(absent)}")
    if not has_interval:
        notes.append(statistics.no_interval(len(confusion.groups)))
    elif single:
        notes.append(f"from one speaker only, so the intervals leave out how speakers differ in: {', '.join(single)}")
    if len(confusion.seeds) == 1:
        notes.append("one seed: how much UA varies between seeds is not known")
    runs = len(table[["fold", "seed"]].drop_duplicates())
    if runs < table["fold"].nunique() * len(confusion.seeds):
        notes.append(f"{runs} runs of {table['fold'].nunique()} folds x {len(confusion.seeds)} seeds: some are missing")
    return notes


def _plain(value: Any) -> Any:
    """The same as plain JSON values: arrays as lists, and None for NaN."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def write(summary: dict[str, Any], path: str | os.PathLike) -> None:
    """Writes a summary as JSON; the file appears whole or not at all."""
    text = json.dumps(summary, indent=1, allow_nan=False, ensure_ascii=False)
    with atomic_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
