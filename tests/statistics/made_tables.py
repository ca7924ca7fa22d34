"""Tables of predictions with known effects, for the tests of statistics and reports."""

import numpy as np

from ser_jax import predictions
from ser_jax.statistics.components import Cells

EMOTIONS = ("anger", "joy", "neutral", "sadness")


def make_table(variants=("none", "eca"), speakers=6, seeds=(0, 1), utterances=24, sharp=1.0, gain=1.0):
    """One fold for each speaker; later variants are better."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (speakers, utterances))
    tables = []
    for rank, variant in enumerate(variants):
        for speaker in range(speakers):
            for seed in seeds:
                logits = rng.normal(0, 1, (utterances, 4)) + (sharp + gain * rank) * np.eye(4)[labels[speaker]]
                probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
                ids = [f"{speaker}-{i:02d}" for i in range(utterances)]
                run = ("corpus", variant, f"fold{speaker}", seed, ids, [f"s{speaker}"] * utterances)
                tables.append(predictions.make_predictions(*run, labels[speaker], probabilities, EMOTIONS))
    return predictions.merge(tables)


def sizes(table):
    return {fold: (120, 24) for fold in table["fold"].unique()}


def one_fold_each(counts):
    """The cells of counts [variants, seeds, speakers, ...] of which each speaker has a model of its own."""
    numbers = np.arange(counts.shape[2])
    names = tuple(map(str, numbers))
    return Cells(counts, numbers, numbers, tuple(range(counts.shape[1])), names, names)
