"""Predictions as tables: one row for each run and utterance, or for each frame of an utterance's tracks."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from ser_jax import predictions
from ser_jax.corpora.corpus import Corpus
from ser_jax.corpora.protocols import Fold
from ser_jax.corpora.targets import dimension_values, vote_shares
from ser_jax.corpora.tracks import interpolate
from ser_jax.errors import UserError
from ser_jax.inference.predict import evaluate_tracks, evaluate_with_dimensions
from ser_jax.statistics import metrics
from ser_jax.training import devices
from ser_jax.training.population import Population
from ser_jax.training.state import State


def validation_ua(population: Population, state: State) -> Float[np.ndarray, " runs"]:
    """Returns each run's unweighted accuracy on its own validation speakers, NaN where it has diverged."""
    counts = metrics.confusion_counts(validation_predictions(population, state, "validation"), "fold")
    ua = metrics.unweighted_accuracy(counts.counts)
    found = dict(zip(((fold, seed) for seed in counts.seeds for fold in counts.groups), ua.ravel(), strict=True))
    names = [(fold.name, seed) for fold, (_, seed) in zip(population.folds, population.runs, strict=True)]
    return np.array([found.get(name, np.nan) for name in names])


def test_predictions(population: Population, state: State, variant: str) -> pd.DataFrame:
    """Returns the predictions table of every run that has not diverged, on its own test fold."""
    return predictions_table(population, state, variant, [fold.test for fold in population.folds])


def validation_predictions(population: Population, state: State, variant: str) -> pd.DataFrame:
    """Returns the predictions table of every run that has not diverged, on its own validation speakers."""
    return predictions_table(population, state, variant, [fold.validation for fold in population.folds])


def test_tracks(population: Population, state: State, variant: str) -> pd.DataFrame:
    """Returns every run's tracks of its own test fold, one row for every frame; see `statistics.concordance`.

    Runs that have diverged are left out.
    """
    table, targets = population.corpus.utterances, population.targets
    rows = [fold.test for fold in population.folds]
    seconds_per_frame = population.learner.frontend.hop / population.learner.frontend.rate
    parts = []
    well = devices.gather(state.diverged_at, len(population.runs)) < 0
    for fold, (_, seed), own, found, kept in zip(
        population.folds, population.runs, rows, evaluate_tracks(population, state, rows), well, strict=True
    ):
        if not kept:
            continue
        for row, predicted in zip(own, found, strict=True):
            seconds = np.arange(len(predicted)) * seconds_per_frame
            columns = {"variant": variant, "fold": fold.name, "seed": seed, "utterance": table["id"].iloc[row]}
            columns |= {"speaker": table["speaker"].iloc[row], "seconds": seconds.astype(np.float32)}
            true = interpolate(targets.tracks, int(row), seconds)
            for i, name in enumerate(targets.track_names):
                columns |= {f"true_{name}": true[:, i], f"predicted_{name}": predicted[:, i].astype(np.float32)}
            parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def predictions_table(
    population: Population, state: State, variant: str, rows: Sequence[Int[np.ndarray, " _"]]
) -> pd.DataFrame:
    """Returns the predictions table of each run on the utterances `rows[run]` of the population's corpus.

    Runs that have diverged are left out. Raises `UserError` where all have.
    """
    found, standardised = evaluate_with_dimensions(population, state, rows)
    well = np.flatnonzero(devices.gather(state.diverged_at, len(population.runs)) < 0)
    if not len(well):
        raise UserError(f"{variant}: every run diverged; there is nothing to predict with")
    columns = (population.folds, [seed for _, seed in population.runs], rows, found)
    beside = references(population.corpus, population.config)
    names = population.targets.dimension_names
    if names:
        columns += (
            [
                own * scaling[1] + scaling[0]
                for own, scaling in zip(standardised, population.targets.scaling, strict=True)
            ],
        )
    columns = ([column[i] for i in well] for column in columns)
    return tabulate(population.corpus, variant, *columns, beside=beside, dimension_names=names)


def references(corpus: Corpus, config: dict) -> pd.DataFrame:
    """Returns what predictions are held against beside the label, one row for every utterance.

    Those are the columns `true_DIMENSION`, NaN where a value is not known, and `v_EMOTION`, the share of the raters'
    votes. Another corpus than the training's need not have them.
    """
    # A stored configuration of an earlier version does not know of them.
    dimensions, votes = config["corpus"].get("dimensions"), config["corpus"].get("votes")
    found = {}
    if dimensions:
        there = [name for name in dimensions if name in corpus.utterances]
        values = dimension_values(corpus, there)
        found |= {predictions.TRUE + name: np.full(len(values), np.nan, np.float32) for name in dimensions}
        found |= {predictions.TRUE + name: values[:, i] for i, name in enumerate(there)}
    if votes and any(column.startswith(votes.split(",")[0]) for column in corpus.utterances):
        shares = vote_shares(corpus, votes, partly=True)
        found |= {predictions.VOTES + emotion: shares[:, i] for i, emotion in enumerate(corpus.emotions)}
    return pd.DataFrame(found, index=corpus.utterances.index)


def tabulate(
    corpus: Corpus,
    variant: str,
    folds: Sequence[Fold],
    seeds: Sequence[int],
    rows: Sequence[Int[np.ndarray, " _"]],
    probabilities: Sequence[Float[np.ndarray, "_ classes"]],
    dimensions: Sequence[Float[np.ndarray, "_ dimensions"]] = (),
    *,
    beside: pd.DataFrame | None = None,
    dimension_names: Sequence[str] = (),
) -> pd.DataFrame:
    """Returns the predictions table of runs, each with its fold, its seed, the utterances `rows` and what it said.

    `dimensions` are what each said of the dimensions `dimension_names`; `beside` are the `references`.
    """
    table = corpus.utterances
    dimensions = dimensions or [np.zeros((len(own), 0)) for own in rows]
    parts = [
        predictions.make_predictions(
            corpus.name,
            variant,
            fold.name,
            seed,
            table["id"].iloc[own].tolist(),
            table["speaker"].iloc[own].tolist(),
            table["label"].to_numpy()[own],
            found,
            corpus.emotions,
            pd.concat(
                [
                    pd.DataFrame() if beside is None else beside.iloc[own].reset_index(drop=True),
                    pd.DataFrame(told.astype(np.float32), columns=[predictions.PREDICTED + n for n in dimension_names]),
                ],
                axis=1,
            ),
        )
        for fold, seed, own, found, told in zip(folds, seeds, rows, probabilities, dimensions, strict=True)
    ]
    return predictions.merge(parts)
