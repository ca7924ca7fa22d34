"""How much of a variant's accuracy is left when the test recordings are noisy, reverberant, narrow in band, or few.

Nothing is trained again: the same trained runs see their own test folds as they are under each condition of
`ser_jax.corpora.perturbations`. Statistics that normalise features stay those of the clean training folds.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ser_jax import bounded, checksums, predictions
from ser_jax.baselines.linear import Fitted
from ser_jax.corpora.corpus import Corpus, fingerprint, waveform
from ser_jax.corpora.perturbations import KNOWN, known_together, perturb, require
from ser_jax.errors import UserError, reading
from ser_jax.files import atomic_file
from ser_jax.inference.tables import test_predictions
from ser_jax.statistics import bootstrap, components, intervals, paired
from ser_jax.studies.baselines import Baselines, own_predictions
from ser_jax.training.population import Population
from ser_jax.training.state import State

_WHERE = "config.evaluation.robustness"


def check(config: dict) -> None:
    """Raises UserError for a configuration that asks for conditions that there are not, or cannot be had."""
    conditions = config["evaluation"]["robustness"]
    require(conditions, _WHERE)
    if conditions and config["frontend"]["features"]:
        raise UserError(
            f"{_WHERE}: found {', '.join(conditions)}, expected none: the features {config['frontend']['features']!r} "
            "were pre-extracted, from recordings as they were"
        )


def perturbed(corpus: Corpus, condition: str) -> Corpus:
    """Returns the corpus with every utterance as it is under a condition; utterances, labels and lengths stay.

    Where few recordings of a speaker are known, each few of them have a speaker of their own. The corpus's fingerprint
    is its own. Raises UserError for an unknown condition, and for features in the place of samples.
    """
    require([condition])
    if "features" in corpus.info:
        raise UserError(f"corpus {corpus.name}: pre-extracted features cannot be perturbed, expected recordings")
    table = corpus.utterances
    if condition in KNOWN:
        table = table.assign(speaker=known_together(list(table["id"]), list(table["speaker"]), KNOWN[condition]))
    samples = np.zeros(corpus.samples.shape, np.int16)  # of trimmed utterances, what is left out
    for row, (utterance, start, length) in enumerate(
        zip(table["id"], table["start"], table["num_samples"], strict=True)
    ):
        samples[start : start + length] = perturb(np.asarray(waveform(corpus, row)), utterance, condition)
    return dataclasses.replace(
        corpus,
        utterances=table,
        samples=samples,
        fingerprint=fingerprint(table, corpus.emotions, samples),
        info=corpus.info | {"condition": condition},
    )


def asked_of(config: dict, corpus: Corpus) -> list[str]:
    """Returns the conditions that a variant is to be tested under: none without emotions, of whose UA all this is."""
    return list(config["evaluation"]["robustness"]) if corpus.emotions else []


def test_predictions_under(
    population: Population | Baselines,
    trained: State | Mapping[str, Fitted],
    variant: str,
    conditions: Sequence[str],
    make: Callable[[Corpus, str], Corpus] = perturbed,
) -> pd.DataFrame:
    """Returns the predictions of every run on its own test fold under each condition, with a column `condition`.

    `trained` is a population's state, or the fitted baseline of each fold. `make` is `perturbed`, or remembers what it
    made. Networks are not compiled again: the same program is given another corpus. Raises UserError as `perturbed`
    does, before anything is computed.
    """
    require(conditions)
    if not conditions:
        raise UserError(f"{variant}: no condition to predict under")
    speakers = population.corpus.utterances.set_index("id")["speaker"]
    tables = []
    for condition in conditions:
        # Nothing of a condition stays on the devices: what populations share is not shared here.
        under = dataclasses.replace(population, corpus=make(population.corpus, condition))
        if isinstance(under, Population):
            under = dataclasses.replace(under, cache={})
        if isinstance(under, Baselines):
            table = own_predictions(variant, under, trained, {})
        else:
            table = test_predictions(under, trained, variant)
        tables.append(table.assign(condition=condition, speaker=table["utterance"].map(speakers)))
    return pd.concat(tables, ignore_index=True)


def write(table: pd.DataFrame, path: str | os.PathLike) -> None:
    """Writes a table of `test_predictions_under` as Parquet, whole or not at all, and its checksum."""
    _validate(table, path)
    with atomic_file(path) as temporary:
        table.to_parquet(temporary, index=False)
    checksums.record(Path(path))


def read(path: str | os.PathLike) -> pd.DataFrame:
    """Reads what `write` wrote; raises UserError where it is missing or damaged."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no predictions under other conditions there")
    checksums.check(Path(path))
    with reading(f"{path}: not a readable Parquet file"):
        table = bounded.read_parquet(path)
        _validate(table, path)
    return table


def summarise_robustness(
    clean: pd.DataFrame, table: pd.DataFrame, *, replicates: int = bootstrap.REPLICATES
) -> dict[str, Any]:
    """Returns what summary.json holds under `robustness`: UA of every variant under every condition, and what it loses.

    `clean` are the predictions of the recordings as they are, `table` those under conditions. A difference is UA under
    the condition less UA of the same runs on the same utterances without it: the same speakers are drawn for both.
    Raises UserError for rows that `clean` does not have.
    """
    _validate(table, "predictions under other conditions")
    conditions = list(dict.fromkeys(table["condition"]))
    variants: dict[str, Any] = {}
    for (variant, condition), rows in table.groupby(["variant", "condition"], sort=False):
        twin = _same_rows(clean[clean["variant"] == variant], rows, variant, condition)
        figures = _figures(rows.drop(columns="condition"), twin, replicates)
        variants.setdefault(variant, {})[condition] = figures
    order = [variant for variant in dict.fromkeys(clean["variant"]) if variant in variants]
    return {"conditions": conditions, "variants": {variant: variants[variant] for variant in order}}


def _figures(rows: pd.DataFrame, twin: pd.DataFrame, replicates: int) -> dict[str, Any]:
    cells = components.count_cells([rows, twin])
    ua = intervals.interval(dataclasses.replace(cells, counts=cells.counts[:1]), replicates=replicates)
    less = np.array([[1.0, -1.0]])
    (difference,), (parts,) = paired.estimate_variances(cells, less, replicates=replicates, seed=0)
    half = parts.half_width()
    return {
        "ua": float(ua.value),
        "ua_ci95": bootstrap.ends(ua.low, ua.high),
        "difference": float(difference),
        "difference_ci95": bootstrap.ends(*np.clip([difference - half, difference + half], -1, 1)),
    }


def _same_rows(clean: pd.DataFrame, rows: pd.DataFrame, variant: str, condition: str) -> pd.DataFrame:
    """The rows of the clean predictions that are of the same runs and utterances."""
    clean, wanted = clean.set_index(predictions.KEY), pd.MultiIndex.from_frame(rows[predictions.KEY])
    missing = wanted.difference(clean.index)
    if len(missing):
        _, fold, seed, utterance = missing[0]
        raise UserError(
            f"robustness of {variant}: {len(missing)} of the predictions under {condition} have none without it to "
            f"compare with, first utterance {utterance} (fold {fold}, seed {seed})"
        )
    return clean.loc[wanted].reset_index()


def _validate(table: pd.DataFrame, source: str | os.PathLike) -> None:
    if "condition" not in table:
        raise UserError(f"{source}: columns missing: condition")
    for condition, rows in table.groupby("condition", sort=False):
        predictions.validate(rows, f"{source}, {condition}")
