"""A trained population of a workdir, applied to its own corpus, to another corpus, or to recordings."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int16

from ser_jax.corpora.corpus import SAMPLE_RATE, Corpus
from ser_jax.corpora.features import load_features
from ser_jax.corpora.labels import hint_of_map
from ser_jax.errors import UserError
from ser_jax.inference.attention import Look
from ser_jax.inference.tables import predictions_table, test_predictions
from ser_jax.studies import baselines, looks
from ser_jax.studies.baselines import Baselines
from ser_jax.studies.variants import load, population_of
from ser_jax.studies.workdirs import Restored, for_use, population_on, recordings
from ser_jax.training import loop
from ser_jax.training.encoder import check_encoder
from ser_jax.training.population import Population


def own_predictions(restored: Restored, data_dir: str | None) -> tuple[pd.DataFrame, Population | Baselines]:
    """Returns the predictions of every run on its own test fold, and the population (or the baselines).

    Raises `UserError` where the corpus at hand is not the one that the variant was trained on.
    """
    config = for_use(restored)
    corpus, protocol = load(config, data_dir)
    if corpus.fingerprint != restored.metadata["corpus"]["fingerprint"]:
        raise UserError(
            f"corpus {corpus.name}: its fingerprint is {corpus.fingerprint[:12]}, but {restored.folder} was trained on "
            f"{restored.metadata['corpus']['fingerprint'][:12]}; prepare the corpus of that training again"
        )
    population = population_of(config, corpus, protocol, data_dir)
    if isinstance(population, Baselines):
        fitted = baselines.load_folds(restored.folder), baselines.load_dimensions(restored.folder)
        return baselines.own_predictions(restored.name, population, *fitted), population
    trained, found = restored.metadata["corpus"].get("features"), population.corpus.info.get("features")
    if found != trained:
        raise UserError(
            f"features {found['name']!r} of corpus {corpus.name}: their fingerprint is {found['fingerprint'][:12]}, "
            f"but {restored.folder} was trained on {trained['fingerprint'][:12]}; prepare the features of that "
            "training again"
        )
    check_encoder(population.upper, restored.metadata, restored.folder)
    return test_predictions(population, loop.restore(population, restored.folder), restored.name), population


def predictions_on(
    restored: Restored, corpus: Corpus, data_dir: str | None
) -> tuple[pd.DataFrame, Population | Baselines]:
    """Returns the predictions of every run on the whole of another corpus, as `relabel` left it, and the population.

    Raises `UserError` where the model takes pre-extracted features that the corpus lacks or has with other dims.
    """
    if restored.is_baseline:
        return baselines.predictions_on(restored.name, restored.metadata, restored.folder, corpus, data_dir)
    features = restored.metadata["corpus"].get("features")
    if features is not None:
        packed = load_features(corpus, features["name"], data_dir)
        for what, found in (("dims", len(packed.names)), ("frame_ms", packed.frame_ms)):
            if found != features[what]:
                raise UserError(
                    f"features {packed.name!r} of corpus {corpus.name}: {what} is {found:g}, but {restored.folder} was "
                    f"trained with {features[what]:g}"
                )
    population = population_on(restored, corpus, features=packed if features else None, data_dir=data_dir)
    rows = np.arange(len(corpus.utterances))
    state = loop.restore(population, restored.folder)
    return predictions_table(population, state, restored.name, [rows] * len(population.runs)), population


def relabel(corpus: Corpus, emotions: Sequence[str]) -> tuple[Corpus, list[str]]:
    """Returns the part of a corpus whose emotions are among `emotions`, labelled by them, and the emotions dropped.

    Raises `UserError` where fewer than two emotions are left.
    """
    if not emotions:  # of a model of dimensions alone; they are what is compared
        table = corpus.utterances.assign(emotion="", label=-1)
        return dataclasses.replace(corpus, utterances=table, emotions=()), list(corpus.emotions)
    dropped = [emotion for emotion in corpus.emotions if emotion not in emotions]
    table = corpus.utterances[corpus.utterances["emotion"].isin(emotions)].reset_index(drop=True)
    if table["emotion"].nunique() < 2:
        found = f"{table['emotion'][0]} alone" if len(table) else "none"
        raise UserError(
            f"corpus {corpus.name}: {found} of its emotions ({', '.join(corpus.emotions) or 'it has none'}) is known "
            f"to the model ({', '.join(emotions)}), expected two or more"
            + "".join(hint_of_map(emotion, emotions) for emotion in dropped)
        )
    table["label"] = [emotions.index(emotion) for emotion in table["emotion"]]
    return dataclasses.replace(corpus, utterances=table, emotions=tuple(emotions)), dropped


def look_at(
    restored: Restored, waveforms: Mapping[str, Int16[np.ndarray, " samples"]], run: int
) -> Iterator[tuple[str, str, Look]]:
    """Yields (name, title, what a run looked at in its first window) of each recording (16 kHz), by its name.

    `run` is the number of the run. Raises `UserError` for a model without attention, and one of hidden states.
    """
    without = UserError(f"{restored.folder}: the model {restored.metadata['config']['model']['name']} has no attention")
    if restored.is_baseline:
        raise without
    if restored.metadata["corpus"].get("features"):
        raise UserError(f"{restored.folder}: the attention of a model of pre-extracted features cannot be drawn")
    population = population_on(restored, recordings(waveforms, restored.emotions))
    if not population.learner.attends:
        raise without
    state = loop.restore(population, restored.folder)
    described = restored.metadata["runs"][run]
    for row, (file, num_samples) in enumerate(zip(waveforms, population.corpus.utterances["num_samples"], strict=True)):
        seen = looks.look_into(population, state, run, row)
        title = f"{Path(file).name}{looks.describe(seen)}"
        title += f"  ({restored.name}, fold {described['fold']}, seed {described['seed']}"
        if population.window_samples < num_samples:
            title += f"; the first {seen.seconds:.1f} of {num_samples / SAMPLE_RATE:.1f} s"
        yield file, title + ")", seen
