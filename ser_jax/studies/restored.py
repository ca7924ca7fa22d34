"""A trained population out of a workdir, put to work on its own corpus, on another corpus, or on recordings."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pandas as pd

from ser_jax import config as configuration
from ser_jax.corpora.audio import read_audio, to_int16
from ser_jax.corpora.corpus import Corpus, make_corpus
from ser_jax.corpora.protocols import Fold, Protocol
from ser_jax.errors import UserError
from ser_jax.studies.run import load
from ser_jax.training import checkpoints, loop, parallel
from ser_jax.training.population import Population, evaluate, make_population, predictions_table, test_predictions
from ser_jax.training.state import State


@dataclasses.dataclass(frozen=True)
class Restored:
    """One variant's checkpoint: where it lies and what its metadata say."""

    name: str
    folder: Path
    metadata: dict

    @property
    def emotions(self) -> tuple[str, ...]:
        """The classes that the variant knows, in the order of its outputs."""
        return tuple(self.metadata["corpus"]["emotions"])


def find(workdir: str | os.PathLike, variant: str | None = None) -> list[Restored]:
    """Returns the variants with a checkpoint in a workdir (or the one named), by name.

    Raises `UserError` for a folder that is no workdir, a variant that is not there and a damaged checkpoint.
    """
    workdir = Path(workdir)
    if not workdir.is_dir():
        raise UserError(f"--workdir {workdir}: no such folder; expected one that `train` or `study` made")
    folders = {path.parent.name: path.parent for path in sorted(workdir.glob("*/checkpoints"))}
    if not folders:
        raise UserError(f"--workdir {workdir}: no checkpoints; expected a folder that `train` or `study` made")
    if variant is not None:
        if variant not in folders:
            raise UserError(f"--variant {variant}: not in {workdir}; expected one of {', '.join(folders)}")
        folders = {variant: folders[variant]}
    found = []
    for name, folder in folders.items():
        store = checkpoints.Checkpoints(folder / "checkpoints")
        try:
            found.append(Restored(name, folder, store.metadata()))
        finally:
            store.close()
    return found


def own_predictions(restored: Restored, data_dir: str | None) -> tuple[pd.DataFrame, Population]:
    """Returns the predictions of every run on its own test fold, and the population.

    Raises `UserError` where the corpus at hand is not the one that the variant was trained on.
    """
    corpus, protocol = load(restored.metadata["config"], data_dir)
    if corpus.fingerprint != restored.metadata["corpus"]["fingerprint"]:
        raise UserError(
            f"corpus {corpus.name}: its fingerprint is {corpus.fingerprint[:12]}, but {restored.folder} was trained on "
            f"{restored.metadata['corpus']['fingerprint'][:12]}; prepare the corpus of that training again"
        )
    population = make_population(restored.metadata["config"], corpus, protocol)
    return test_predictions(population, loop.restore(population, restored.folder), restored.name), population


def predictions_on(restored: Restored, corpus: Corpus) -> tuple[pd.DataFrame, Population]:
    """Returns the predictions of every run on the whole of another corpus, as `relabel` left it, and the population."""
    population = _population(restored, corpus)
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
    restored: Restored, files: Sequence[str], *, fold: str | None = None, seed: int | None = None
) -> tuple[pd.DataFrame, list[UserError]]:
    """Returns class probabilities of recordings, one row per readable file, and an error for each other one.

    The probabilities are the mean over all runs, or over those of one fold or seed. A file of any length, rate and
    channel count that libsndfile reads is taken.
    """
    waveforms, errors = {}, []
    for file in dict.fromkeys(files):
        try:
            waveforms[file] = to_int16(read_audio(file))
        except UserError as error:
            errors.append(error)
    chosen = _choose(restored, fold, seed)
    emotions = restored.emotions
    if not waveforms:
        return pd.DataFrame(columns=["file", *emotions]), errors
    # The emotion is what is asked for: any stands in for it, and none is looked at.
    table = pd.DataFrame({"id": list(waveforms), "emotion": emotions[0]})
    population = _population(restored, make_corpus("files", table, list(waveforms.values()), emotions), batch_size=4)
    state = _select(population, loop.restore(population, restored.folder), chosen)
    rows = [np.arange(len(waveforms))] * len(chosen)
    probabilities = np.mean(evaluate(population, state, rows), axis=0)
    return pd.DataFrame({"file": list(waveforms), **dict(zip(emotions, probabilities.T, strict=True))}), errors


def _population(restored: Restored, corpus: Corpus, batch_size: int | None = None) -> Population:
    """The runs of a checkpoint, on a corpus that has no part in their folds."""
    runs = restored.metadata["runs"]
    names = list(dict.fromkeys(run["fold"] for run in runs))
    everything = np.arange(len(corpus.utterances))
    folds = tuple(Fold(name, train=everything, validation=everything[:0], test=everything) for name in names)
    config = configuration.merge(restored.metadata["config"], {"folds": []})
    if batch_size:
        config = configuration.merge(config, {"evaluation": {"batch_size": batch_size}})
    return make_population(config, corpus, Protocol("none", True, folds, "a corpus apart from the training's"))


def _choose(restored: Restored, fold: str | None, seed: int | None) -> list[int]:
    runs = restored.metadata["runs"]
    chosen = [i for i, run in enumerate(runs) if fold in (None, run["fold"]) and (seed is None or seed == run["seed"])]
    if not chosen:
        folds, seeds = ({str(run[what]): None for run in runs} for what in ("fold", "seed"))
        raise UserError(
            f"--fold {fold} --seed {seed}: no such run in {restored.folder}; it has the folds {', '.join(folds)} "
            f"and the seeds {', '.join(seeds)}"
        )
    return chosen


def _select(population: Population, state: State, chosen: list[int]) -> State:
    state = parallel.gather(state, len(population.runs))
    return jax.tree.map(lambda leaf: parallel.spread(leaf[np.asarray(chosen)], len(population.devices)), state)
