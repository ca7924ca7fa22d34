"""Calibration: does a variant that says 80 percent get it right in 80 percent of the cases?

Expected calibration error (ECE; Guo et al. 2017, ICML, section 2): utterances are sorted into ten bins of equal width
by their confidence, the highest of their class probabilities; ECE is the mean over the bins, weighted by their
utterances, of |accuracy - mean confidence|. It is never below what chance alone makes of it: of a perfectly calibrated
variant too, some bins are a little off. `ece_by_chance` is that amount, the ECE to expect if every utterance were
recognised with exactly the probability that its confidence states.
Brier score (Brier 1950): the squared distance of the probabilities from the one-hot reference, summed over the classes
and averaged over the utterances: 0 to 2.
Both are pooled over folds for each seed and averaged over seeds, as UA is, but weigh utterances, not classes.

A temperature divides the logits (Guo et al. 2017, section 4.2). It is fitted by likelihood to the predictions for the
validation speakers of a run, and applied to the test fold of that run alone.
"""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import optimize, special

from ser_jax.errors import UserError
from ser_jax.predictions import PREFIX, labels_of, probabilities_of
from ser_jax.statistics import bootstrap, components, intervals
from ser_jax.statistics.components import Cells

BINS = 10
TEMPERATURES = (0.05, 20.0)  # outside there is nothing but 0 and 1, or equal probabilities
SMALLEST = float(np.finfo(np.float32).tiny)
RUN = ["fold", "seed"]


def calibration(
    table: pd.DataFrame,
    validation: pd.DataFrame | None = None,
    *,
    replicates: int = bootstrap.REPLICATES,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns one variant's calibration; None, and a note, for what cannot be estimated.

    `ece`, `ece_ci95`, `ece_by_chance`, `brier`, `brier_ci95` (intervals as of UA); `reliability`: for each bin
    low, high, confidence, accuracy and count, over all folds and seeds; `temperature`: median, lowest and highest over
    the runs, and their number; `ece_scaled` and `brier_scaled` after scaling. `validation` has the predictions of the
    same variant's runs for their validation speakers.
    Raises UserError where a run's validation and test utterances overlap.
    """
    probabilities, labels = probabilities_of(table), labels_of(table)
    none = dict.fromkeys(("temperature", "ece_scaled", "brier_scaled"))
    if ((probabilities == 0) | (probabilities == 1)).all():
        figures = dict.fromkeys(("ece", "ece_ci95", "ece_by_chance", "brier", "brier_ci95"))
        note = "every probability is 0 or 1: classes were predicted without probabilities, so calibration is not known"
        return {**figures, "reliability": [], **none, "notes": [note]}
    cells = cell_sums(table, probabilities, labels)
    pooled = table.assign(seed=0) if len(cells.seeds) == 1 else table  # each fold was trained by a seed of its own
    sums = np.moveaxis(cells.by_speaker()[0], 1, 0)
    found, notes = estimate(sums, cells, replicates=replicates, seed=seed), []
    ends = [*map(bootstrap.ends, found.low, found.high)]
    if ends[0] is None:
        notes.append(bootstrap.no_interval(len(sums)))
    figures = {
        "ece": found.value[0],
        "ece_ci95": ends[0],
        "ece_by_chance": ece_by_chance(pooled, probabilities, seed=seed),
        "brier": found.value[1],
        "brier_ci95": ends[1],
        "reliability": reliability(sums.sum(axis=(0, 1))),
    }
    fitted = {} if validation is None else temperatures(table, validation)
    runs = len(table[RUN].drop_duplicates())
    if len(fitted) < runs:
        what = "no validation predictions" if not fitted else f"validation predictions of {len(fitted)} of {runs} runs"
        return {**figures, **none, "notes": [*notes, f"{what}: no temperature was fitted"]}
    scaled = scale(probabilities, np.array([fitted[run] for run in zip(table["fold"], table["seed"], strict=True)]))
    after = ece_and_brier(speaker_sums(pooled, scaled, labels).sum(axis=0))
    values = np.array(list(fitted.values()))
    at_the_end = np.isclose(values[:, None], TEMPERATURES, rtol=1e-2).any(axis=1).sum()
    if at_the_end:
        notes.append(f"temperature at an end of its range {TEMPERATURES} in {at_the_end} of {runs} runs")
    return {
        **figures,
        "temperature": {
            "median": np.median(values),
            "lowest": values.min(),
            "highest": values.max(),
            "runs": len(values),
        },
        "ece_scaled": after[0],
        "brier_scaled": after[1],
        "notes": notes,
    }


def speaker_sums(
    table: pd.DataFrame, probabilities: Float[np.ndarray, "rows classes"], labels: Int[np.ndarray, " rows"]
) -> Float[np.ndarray, "speakers seeds sums 3"]:
    """What adds up over utterances: count, confidence, hits of each bin; and in a last row count, Brier sum and 0."""
    speaker_codes, speakers = pd.factorize(table["speaker"], sort=True)
    seed_codes, seeds = pd.factorize(table["seed"], sort=True)
    confidence, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    distance = ((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1)
    shape = (len(speakers), len(seeds), BINS + 1)
    one, zero = np.ones(len(table)), np.zeros(len(table))
    total = np.zeros((*shape, 3))
    last = np.full(len(table), BINS)
    for bins, values in ((_bin(confidence), (one, confidence, hit)), (last, (one, distance, zero))):
        cells = np.ravel_multi_index((speaker_codes, seed_codes, bins), shape)
        for i, value in enumerate(values):
            total[..., i] += np.bincount(cells, weights=value, minlength=np.prod(shape)).reshape(shape)
    return total


def cell_sums(
    table: pd.DataFrame, probabilities: Float[np.ndarray, "rows classes"], labels: Int[np.ndarray, " rows"]
) -> Cells:
    """The same sums of each cell, a speaker's utterances in a fold."""
    cell_of, cells = components.grid_of(table)
    sums = speaker_sums(table.assign(speaker=cell_of), probabilities, labels)
    return cells.counted(np.moveaxis(sums, 0, 1)[None])


def ece_and_brier(sums: Float[np.ndarray, "*batch seeds sums 3"]) -> Float[np.ndarray, "*batch 2"]:
    """ECE and the Brier score of sums over speakers, averaged over seeds; NaN where there is nothing."""
    count, confidence, hits = np.moveaxis(sums[..., :-1, :], -1, 0)
    total, brier = sums[..., -1, 0], sums[..., -1, 1]
    with np.errstate(invalid="ignore"):
        figures = np.stack([abs(confidence - hits).sum(axis=-1) / count.sum(axis=-1), brier / total], axis=-1)
    return figures.mean(axis=-2)


def estimate(
    sums: Float[np.ndarray, "speakers seeds sums 3"],
    cells: Cells | None = None,
    *,
    replicates: int = bootstrap.REPLICATES,
    seed: int = 0,
) -> bootstrap.Estimate:
    """ECE and Brier score, [2], with their intervals over speakers.

    The noise of training that speakers share is added where `cells`, whose sums they are, have models of several.
    ECE is too high by chance, and its replicates are higher still. The interval's lower end is moved down by as much as
    they are higher: without that, it holds the ECE of a calibrated variant in 8 of 10 studies.
    """
    value = ece_and_brier(sums.sum(axis=0))
    drawn = bootstrap.bootstrap_sums(sums, ece_and_brier, replicates=replicates, seed=seed)
    bounds = np.zeros(2), np.array([1.0, 2.0])
    found = bootstrap.estimate(value, drawn, len(sums), bounds)
    if cells is not None and cells.shares_models():
        own = components.slopes(cells.counts[0], lambda of_one_seed: ece_and_brier(of_one_seed[..., None, :, :]))
        found = intervals.widened(found, own, cells, len(sums), bounds)
    bias = np.maximum(drawn.mean(axis=0) - value, 0) * [1, 0]
    return dataclasses.replace(found, low=np.maximum(found.low - bias, 0))


def reliability(sums: Float[np.ndarray, "sums 3"]) -> list[dict[str, Any]]:
    """The reliability curve: each bin's confidence and accuracy; None in an empty bin."""
    rows = []
    for i, (count, confidence, hits) in enumerate(sums[:-1]):
        means = (confidence / count, hits / count) if count else (None, None)
        rows.append(
            {"low": i / BINS, "high": (i + 1) / BINS, "confidence": means[0], "accuracy": means[1], "count": int(count)}
        )
    return rows


def ece_by_chance(
    table: pd.DataFrame, probabilities: Float[np.ndarray, "rows classes"], *, seed: int = 0, draws: int = 200
) -> float:
    """The mean ECE over draws in which every utterance is recognised with the probability that it states."""
    rng = np.random.default_rng(seed)
    confidence = probabilities.max(axis=1)
    codes, seeds = pd.factorize(table["seed"], sort=True)
    cells, number = codes * BINS + _bin(confidence), len(seeds) * BINS
    of_seed, total = np.bincount(codes), 0.0
    for _ in range(draws):
        gaps = (rng.random(len(table)) < confidence) - confidence
        off = abs(np.bincount(cells, weights=gaps, minlength=number)).reshape(-1, BINS).sum(axis=-1)
        total += (off / of_seed).mean()
    return float(total / draws)


def temperatures(table: pd.DataFrame, validation: pd.DataFrame) -> dict[tuple[str, int], float]:
    """Fits a temperature to the validation predictions of each run of `table` that has them; (fold, seed) -> it."""
    key = [*RUN, "utterance"]
    both = table[key].merge(validation[key], on=key)
    if len(both):
        fold, seed, utterance = both.iloc[0]
        raise UserError(f"fold {fold}, seed {seed}: {utterance} is among both the validation and the test predictions")
    wanted = set(table[RUN].drop_duplicates().itertuples(index=False, name=None))
    own = validation[validation.columns[validation.columns.str.startswith(PREFIX)].union([*RUN, "label"], sort=False)]
    return {
        (fold, int(seed)): fit_temperature(probabilities_of(rows), labels_of(rows))
        for (fold, seed), rows in own.groupby(RUN)
        if (fold, seed) in wanted
    }


def fit_temperature(
    probabilities: Float[np.ndarray, "utterances classes"], labels: Int[np.ndarray, " utterances"]
) -> float:
    """The temperature of the highest likelihood, within `TEMPERATURES`."""
    logits = np.log(np.maximum(probabilities, SMALLEST))
    logits = logits - np.take_along_axis(logits, labels[:, None], axis=1)  # of the reference class: 0

    def loss(log_temperature: float) -> float:
        return special.logsumexp(logits / np.exp(log_temperature), axis=1).mean()

    found = optimize.minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def scale(
    probabilities: Float[np.ndarray, "rows classes"], temperature: Float[np.ndarray, " rows"]
) -> Float[np.ndarray, "rows classes"]:
    """The probabilities after their logits were divided by each row's temperature."""
    return special.softmax(np.log(np.maximum(probabilities, SMALLEST)) / temperature[:, None], axis=1)


def _bin(confidence: Float[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
    """The bin of each confidence; its upper end belongs to it."""
    return np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence)
