"""A trained population out of a workdir, put to work on its own corpus, on another corpus, or on recordings."""

import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
import pandas as pd
from jaxtyping import Int16

from ser_jax.corpora.audio import read_recording, to_int16
from ser_jax.corpora.corpus import SAMPLE_RATE, Corpus
from ser_jax.corpora.features import load_features
from ser_jax.corpora.silence import speech_bounds
from ser_jax.errors import UserError
from ser_jax.frontend import num_frames
from ser_jax.inference.attention import Look
from ser_jax.inference.predict import evaluate
from ser_jax.inference.restore import Network, network_of
from ser_jax.inference.tables import predictions_table, test_predictions
from ser_jax.studies import baselines, looks
from ser_jax.studies.baselines import Baselines
from ser_jax.studies.variants import load, population_of
from ser_jax.studies.workdirs import Restored, for_use, population_on, recordings
from ser_jax.training import devices, loop
from ser_jax.training.population import Population
from ser_jax.training.state import State


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
        return baselines.own_predictions(restored.name, population, restored.folder), population
    trained, found = restored.metadata["corpus"].get("features"), population.corpus.info.get("features")
    if found != trained:
        raise UserError(
            f"features {found['name']!r} of corpus {corpus.name}: their fingerprint is {found['fingerprint'][:12]}, "
            f"but {restored.folder} was trained on {trained['fingerprint'][:12]}; prepare the features of that "
            "training again"
        )
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
    population = population_on(restored, corpus, features=packed if features else None)
    rows = np.arange(len(corpus.utterances))
    state = loop.restore(population, restored.folder)
    return predictions_table(population, state, restored.name, [rows] * len(population.runs)), population


def relabel(corpus: Corpus, emotions: Sequence[str]) -> tuple[Corpus, list[str]]:
    """Returns the part of a corpus whose emotions are among `emotions`, labelled by them, and the emotions dropped.

    Raises `UserError` where nothing is left.
    """
    dropped = [emotion for emotion in corpus.emotions if emotion not in emotions]
    table = corpus.utterances[corpus.utterances["emotion"].isin(emotions)].reset_index(drop=True)
    if table.empty:
        raise UserError(
            f"corpus {corpus.name}: none of its emotions ({', '.join(corpus.emotions)}) is known to the model "
            f"({', '.join(emotions)})"
        )
    table["label"] = [emotions.index(emotion) for emotion in table["emotion"]]
    return dataclasses.replace(corpus, utterances=table, emotions=tuple(emotions)), dropped


def predict_files(
    restored: Restored,
    files: Sequence[str],
    *,
    fold: str | None = None,
    seed: int | None = None,
    data_dir: str | os.PathLike | None = None,
) -> tuple[pd.DataFrame, list[UserError]]:
    """Returns class probabilities of recordings, one row per readable file, and an error for each other one.

    The probabilities are the mean over all runs, or over those of one fold or seed. A file of any length, rate and
    channel count that libsndfile reads is taken. `data_dir` holds the pretrained encoder, where the model needs one.
    """
    _refuse_recordings(restored)
    waveforms, errors = _read(restored, files)
    chosen = _choose(restored, fold, seed)
    emotions = restored.emotions
    if not waveforms:
        return pd.DataFrame(columns=["file", *emotions]), errors
    if restored.is_baseline:
        names, probabilities, more = baselines.predict_waveforms(
            restored.metadata, restored.folder, waveforms, chosen, data_dir
        )
        return _table(names, emotions, probabilities), errors + more
    population = population_on(restored, recordings(waveforms, emotions), batch_size=4)
    state = _select(population, loop.restore(population, restored.folder), chosen)
    rows = [np.arange(len(waveforms))] * len(chosen)
    return _table(list(waveforms), emotions, np.mean(evaluate(population, state, rows), axis=0)), errors


def look_at(
    restored: Restored, files: Sequence[str], *, fold: str | None = None, seed: int | None = None
) -> Iterator[tuple[str, str, Look]]:
    """Yields (file, title, what a run looked at in its first window) of each readable file.

    The run is the first one, or the first of a fold or seed. Raises `UserError` for a model without attention.
    """
    _refuse_recordings(restored)
    waveforms, _ = _read(restored, files)
    chosen = _choose(restored, fold, seed)[0]
    if restored.is_baseline:
        raise UserError(f"{restored.folder}: the model {restored.metadata['config']['model']['name']} has no attention")
    if not waveforms:
        return
    population = population_on(restored, recordings(waveforms, restored.emotions))
    if not looks.has_attention(population):
        raise UserError(f"{restored.folder}: the model {restored.metadata['config']['model']['name']} has no attention")
    state = loop.restore(population, restored.folder)
    run = restored.metadata["runs"][chosen]
    for row, (file, num_samples) in enumerate(zip(waveforms, population.corpus.utterances["num_samples"], strict=True)):
        seen = looks.look_into(population, state, chosen, row)
        emotion = max(seen.probabilities, key=seen.probabilities.get)
        title = f"{Path(file).name}: {emotion} {seen.probabilities[emotion]:.2f}"
        title += f"  ({restored.name}, fold {run['fold']}, seed {run['seed']}"
        if population.window_samples < num_samples:
            title += f"; the first {seen.seconds:.1f} of {num_samples / SAMPLE_RATE:.1f} s"
        yield file, title + ")", seen


def _refuse_recordings(restored: Restored) -> None:
    features = restored.metadata["corpus"].get("features")
    if features is not None:
        raise UserError(
            f"{restored.folder}: the model does not take recordings but the features {features['name']!r}, made "
            "elsewhere; make them for the recordings as well, pack both with `prepare`, and use `evaluate --corpus`"
        )


def _read(restored: Restored, files: Sequence[str]) -> tuple[dict[str, np.ndarray], list[UserError]]:
    """The samples of every file that can be read and is long enough, and an error for each other one."""
    network = None if restored.is_baseline else network_of(restored.metadata)
    waveforms, errors = {}, []
    for file in dict.fromkeys(files):
        try:
            recording = read_recording(file)
            waveform = to_int16(recording.samples)
            if network is not None:
                _check_length(file, waveform, network)
            waveforms[file] = waveform
            for note in recording.notes.values():
                print(f"note: {file}: {note}", file=sys.stderr)
        except UserError as error:
            errors.append(error)
    return waveforms, errors


def _check_length(file: str, waveform: Int16[np.ndarray, " samples"], network: Network) -> None:
    """Refuses a recording of fewer frames than the model's subsampling needs, silence before and after left out."""
    frontend, fewest = network.frontend, network.min_frames
    begin, end = speech_bounds(waveform, frontend.trim_db) if frontend.trim_db else (0, len(waveform))
    frames = int(num_frames(frontend, end - begin))
    if frames < fewest:
        raise UserError(f"{file}: {frames} frames of {frontend.hop_ms:g} ms with sound; the model needs {fewest}")


def _table(files: Sequence[str], emotions: Sequence[str], probabilities: np.ndarray) -> pd.DataFrame:
    # A class may be called like a column of this table, or like the one that `predict` adds.
    columns = [f"p_{emotion}" if emotion in ("file", "emotion") else emotion for emotion in emotions]
    return pd.DataFrame({"file": list(files), **dict(zip(columns, probabilities.T, strict=True))})


def _choose(restored: Restored, fold: str | None, seed: int | None) -> list[int]:
    runs = restored.metadata["runs"]
    lost = [(run["fold"], run["seed"]) for run in restored.metadata.get("diverged", [])]  # a baseline has none
    chosen = [i for i, run in enumerate(runs) if fold in (None, run["fold"]) and (seed is None or seed == run["seed"])]
    if chosen and all((runs[i]["fold"], runs[i]["seed"]) in lost for i in chosen):
        raise UserError(f"{restored.folder}: every run of --fold {fold} --seed {seed} diverged in training")
    chosen = [i for i in chosen if (runs[i]["fold"], runs[i]["seed"]) not in lost]
    if not chosen:
        folds, seeds = ({str(run[what]): None for run in runs} for what in ("fold", "seed"))
        raise UserError(
            f"--fold {fold} --seed {seed}: no such run in {restored.folder}; it has the folds {', '.join(folds)} "
            f"and the seeds {', '.join(seeds)}"
        )
    return chosen


def _select(population: Population, state: State, chosen: list[int]) -> State:
    state = devices.gather(state, len(population.runs))
    return jax.tree.map(lambda leaf: devices.spread(leaf[np.asarray(chosen)], population.layout.groups), state)
