"""What is in a corpus: speakers, emotions, lengths, levels, clipping, silence, copies, and what is unknown."""

from typing import Any

import numpy as np
import pandas as pd

from ser_jax.corpora.corpus import SAMPLE_RATE, Corpus, waveform
from ser_jax.corpora.duplicates import exact_copies, near_copies
from ser_jax.corpora.protocols import speakers_known
from ser_jax.corpora.targets import DIMENSIONS, dimension_values

_KNOWN = ("speaker", "gender", "text", "transcript", "language", "session")  # what a corpus may tell of utterances
_FULL_SCALE = 32_766  # int16 steps from which on a sample stands at full scale
_CLIPPED, _SOFT_DB = 1e-3, -60.0  # share of such samples, and level, from which on an utterance is listed


def inspect(corpus: Corpus) -> dict[str, Any]:
    """Returns what is in a corpus as JSON-able data; lengths are seconds, levels dB below full scale (RMS)."""
    table = corpus.utterances
    seconds = table["num_samples"].to_numpy() / SAMPLE_RATE
    levels, clipped = _levels(corpus)
    counts = pd.crosstab(table["speaker"], table["emotion"]).reindex(columns=list(corpus.emotions), fill_value=0)
    ids = table["id"].to_numpy()
    exact, near = exact_copies(corpus), near_copies(corpus)
    return {
        "corpus": corpus.name,
        "fingerprint": corpus.fingerprint,
        "utterances": len(table),
        "minutes": float(seconds.sum() / 60),
        "speakers": int(table["speaker"].nunique()) if speakers_known(corpus) else None,
        "emotions": {name: int((table["emotion"] == name).sum()) for name in corpus.emotions},
        "speakers_x_emotions": {str(name): row.to_dict() for name, row in counts.iterrows()},
        "utterances_of_speakers": {str(name): int(count) for name, count in table.groupby("speaker").size().items()},
        "dimensions": {name: _of_dimension(corpus, name) for name in DIMENSIONS if name in table},
        "missing_cells": [
            f"{speaker or '?'}: {emotion}" for speaker, row in counts.iterrows() for emotion in row.index[row == 0]
        ],
        "seconds": _quantiles(seconds) | {"histogram": _histogram(seconds)},
        "level_db": _quantiles(levels[np.isfinite(levels)]) | {"histogram": _histogram(levels[np.isfinite(levels)])},
        "silent": ids[~np.isfinite(levels)].tolist(),
        "soft": ids[np.isfinite(levels) & (levels < _SOFT_DB)].tolist(),
        "clipped": ids[clipped >= _CLIPPED].tolist(),
        "copies": [ids[rows].tolist() for rows in exact],
        "near_copies": [ids[rows].tolist() for rows in near if rows not in exact],
        "rates": corpus.info.get("rates", {}),
        "channels": corpus.info.get("channels", {}),
        "notes": corpus.info.get("notes", {}),
        "labels": corpus.info.get("labels", []),
        "left_out": corpus.info.get("left_out", []),
        "columns": {name: _known(table, name) for name in _KNOWN},
        "genders": _genders(table),
    }


def _levels(corpus: Corpus) -> tuple[np.ndarray, np.ndarray]:
    levels, clipped = [], []
    for i in range(len(corpus.utterances)):
        samples = np.asarray(waveform(corpus, i))
        power = np.square(samples / 32768.0).mean()
        levels.append(10 * np.log10(power) if power else -np.inf)
        clipped.append((np.abs(samples.astype(np.int32)) >= _FULL_SCALE).mean())
    return np.array(levels), np.array(clipped)


def _quantiles(values: np.ndarray) -> dict[str, float | None]:
    if not len(values):
        return dict.fromkeys(("least", "quarter", "median", "three_quarters", "most"))
    names = ("least", "quarter", "median", "three_quarters", "most")
    return dict(zip(names, np.quantile(values, [0, 0.25, 0.5, 0.75, 1]).tolist(), strict=True))


def _histogram(values: np.ndarray) -> dict[str, list]:
    if not len(values):
        return {"counts": [], "edges": []}
    counts, edges = np.histogram(values, bins=min(30, max(5, len(values) // 5)))
    return {"counts": counts.tolist(), "edges": edges.tolist()}


def _of_dimension(corpus: Corpus, name: str) -> dict[str, Any]:
    """How a dimension's values are spread, and how many utterances have one."""
    values = dimension_values(corpus, [name])[:, 0].astype(np.float64)
    known = values[~np.isnan(values)]
    return {"known": len(known)} | _quantiles(known) | {"histogram": _histogram(known)}


def _known(table: pd.DataFrame, column: str) -> float:
    """The share of utterances of which the corpus tells a column."""
    return float((table[column].astype(str) != "").mean()) if column in table else 0.0


def _genders(table: pd.DataFrame) -> dict[str, int]:
    of_speakers = table.groupby("speaker")["gender"].first()
    return {name or "unknown": int(number) for name, number in of_speakers.value_counts().items()}
