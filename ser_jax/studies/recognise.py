"""Trained runs applied to recordings: their predictions, and the input vectors of their classifiers."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import pandas as pd
from jaxtyping import Float, Int16

from ser_jax.baselines import linear
from ser_jax.corpora.corpus import SAMPLE_RATE, Corpus
from ser_jax.corpora.features import Packed, in_place_of_samples
from ser_jax.corpora.silence import speech_bounds, trimmed
from ser_jax.errors import UserError
from ser_jax.frontend import num_frames
from ser_jax.inference.predict import evaluate_with_dimensions, evaluate_with_embeddings
from ser_jax.inference.restore import Network, network_of
from ser_jax.numbers import count
from ser_jax.predictions import PREDICTED
from ser_jax.studies import baselines
from ser_jax.studies.workdirs import Restored, population_on, recordings
from ser_jax.training import devices, loop
from ser_jax.training.population import Population
from ser_jax.training.state import State

_BATCH = 8  # windows that a network hears at once; few, because most recordings have few
_EXAMPLE_SECONDS = 10  # of silence, in the place of recordings before there are any


# Of tables of recordings and of windows, beside the probabilities.
COLUMNS = ("file", "start", "end", "emotion", "confidence", "level_db", "notes")


@dataclasses.dataclass(frozen=True)
class Predicted:
    """What is predicted of utterances, in their order.

    Attributes:
        probabilities: of the classes; [utterances, 0] of a model without classes.
        dimensions: values such as arousal; [utterances, 0] of a model without.
        embeddings: what the classifier of the first run is given, or None where they were not asked for.
    """

    probabilities: Float[np.ndarray, "utterances classes"]
    dimensions: Float[np.ndarray, "utterances dimensions"]
    embeddings: Float[np.ndarray, "utterances dims"] | None = None


@dataclasses.dataclass(frozen=True)
class Recogniser:
    """Some runs of a variant, restored once and used on any number of recordings.

    Attributes:
        restored: the variant.
        runs: numbers of the runs whose probabilities are averaged.
        window_seconds: what is heard at once; a longer utterance is averaged over windows. 0: it is heard whole.
        refusal: of a waveform (16 kHz), why the model cannot hear it, or "".
        predict: of a corpus, the mean of what the runs say, in one pass; the second argument asks for embeddings.
        embed: of a corpus, [utterances, dims], the embeddings alone: no other run than the first is computed.
        dimension_names: such as arousal; empty for a model that predicts emotions alone.
    """

    restored: Restored
    runs: tuple[int, ...]
    window_seconds: float
    refusal: Callable[[Int16[np.ndarray, " samples"]], str]
    predict: Callable[[Corpus, bool], Predicted]
    embed: Callable[[Corpus], Float[np.ndarray, "utterances dims"]]
    dimension_names: tuple[str, ...] = ()


def make_recogniser(
    restored: Restored,
    *,
    fold: str | None = None,
    seed: int | None = None,
    data_dir: str | os.PathLike | None = None,
) -> Recogniser:
    """Restores all runs of a variant, or those of one fold or seed; `data_dir` holds its encoder, if it needs one.

    Raises `UserError` for runs that are not there or all diverged, for a model of features that recordings do not have,
    and where its encoder is missing or another one.
    """
    chosen = choose_runs(restored, fold, seed)
    make = _of_baseline if restored.is_baseline else _of_network
    return make(restored, chosen, data_dir)


def probability_columns(emotions: Sequence[str]) -> list[str]:
    """Returns the names of the emotions' columns: `p_EMOTION` where an emotion is called like one of `COLUMNS`."""
    return [f"p_{emotion}" if emotion in COLUMNS else emotion for emotion in emotions]


def as_columns(recogniser: Recogniser, found: Predicted) -> pd.DataFrame:
    """Returns what is predicted as columns: `emotion`, the classes' probabilities, `predicted_DIMENSION`.

    Of a model without classes there are dimensions alone.
    """
    emotions = recogniser.restored.emotions
    columns = {}
    if emotions:
        columns["emotion"] = [emotions[label] for label in found.probabilities.argmax(axis=1)]
    columns |= dict(zip(probability_columns(emotions), found.probabilities.T, strict=True))
    names = [PREDICTED + name for name in recogniser.dimension_names]
    return pd.DataFrame(columns | dict(zip(names, found.dimensions.T, strict=True)))


def choose_runs(restored: Restored, fold: str | None = None, seed: int | None = None) -> tuple[int, ...]:
    """Returns the numbers of the runs of a fold and a seed, or of all, without those that diverged.

    Raises `UserError` where none is left.
    """
    runs = restored.metadata["runs"]
    lost = [(run["fold"], run["seed"]) for run in restored.metadata.get("diverged", [])]  # a baseline has none
    chosen = [i for i, run in enumerate(runs) if fold in (None, run["fold"]) and (seed is None or seed == run["seed"])]
    asked = " ".join(f"--{name} {value}" for name, value in (("fold", fold), ("seed", seed)) if value is not None)
    if chosen and all((runs[i]["fold"], runs[i]["seed"]) in lost for i in chosen):
        raise UserError(f"{restored.folder}: every run {asked and f'of {asked} '}diverged in training")
    chosen = [i for i in chosen if (runs[i]["fold"], runs[i]["seed"]) not in lost]
    if not chosen:
        folds, seeds = ({str(run[what]): None for run in runs} for what in ("fold", "seed"))
        raise UserError(
            f"{asked}: no such run in {restored.folder}; it has the folds {', '.join(folds)} "
            f"and the seeds {', '.join(seeds)}"
        )
    return tuple(chosen)


# --- Networks. ---


def _of_network(restored: Restored, chosen: tuple[int, ...], data_dir: str | os.PathLike | None) -> Recogniser:
    network, emotions = network_of(restored.metadata), restored.emotions
    features = restored.metadata.get("features") or restored.metadata["corpus"].get("features")
    hear = _encoder(restored, features, data_dir)
    example = recordings({"": np.zeros(_EXAMPLE_SECONDS * SAMPLE_RATE, np.int16)}, emotions)
    population = population_on(
        restored,
        example,
        batch_size=_BATCH,
        features=_example_features(features) if hear else None,
        # Windows are brought to the device a few at a time, so that recordings of any length share one program and
        # little memory. What is looked up by utterance has to lie there: speakers' statistics, heads of sources.
        feed="auto" if restored.by_speaker or restored.metadata["targets"]["heads"] else "streaming",
        data_dir=data_dir,
    )
    state = loop.restore(population, restored.folder)
    own, first = (_select(population, state, runs) for runs in (chosen, chosen[:1]))

    def on(corpus: Corpus) -> Population:
        heard = in_place_of_samples(corpus, hear.states(corpus)) if hear else _trimmed(corpus, network)
        return dataclasses.replace(population, corpus=heard)

    def rows(corpus: Corpus, count: int) -> list[np.ndarray]:
        return [np.arange(len(corpus.utterances))] * count

    def predict(corpus: Corpus, embeddings: bool = False) -> Predicted:
        arguments = on(corpus), own, rows(corpus, len(chosen))
        if embeddings:
            found = evaluate_with_embeddings(*arguments)
            probabilities, told, vectors = found.probabilities, found.dimensions, found.embeddings[0]
        else:
            (probabilities, told), vectors = evaluate_with_dimensions(*arguments), None
        if population.targets.dimension_names:
            scaling = population.targets.scaling[list(chosen)]
            told = [values * scale + mean for values, (mean, scale) in zip(told, scaling, strict=True)]
        return Predicted(np.mean(probabilities, axis=0), np.mean(told, axis=0), vectors)

    return Recogniser(
        restored,
        chosen,
        population.window_samples / population.learner.frontend.rate,
        hear.refusal if hear else functools.partial(_refusal, network),
        predict,
        lambda corpus: evaluate_with_embeddings(on(corpus), first, rows(corpus, 1)).embeddings[0],
        population.targets.dimension_names,
    )


def _select(population: Population, state: State, chosen: Sequence[int]) -> State:
    state = devices.gather(state, len(population.runs))
    return jax.tree.map(lambda leaf: devices.spread(leaf[np.asarray(chosen)], population.layout.groups), state)


def _trimmed(corpus: Corpus, network: Network) -> Corpus:
    """The corpus without the silence that the model's frontend leaves out, but where too little would be left."""
    frontend = network.frontend
    if not frontend.trim_db:
        return corpus
    return trimmed(corpus, frontend.trim_db, lambda samples: num_frames(frontend, samples) >= network.min_frames)


def _refusal(network: Network, waveform: Int16[np.ndarray, " samples"]) -> str:
    """Why a recording has fewer frames than the model's subsampling needs, silence before and after left out."""
    frontend, fewest = network.frontend, network.min_frames
    begin, end = speech_bounds(waveform, frontend.trim_db) if frontend.trim_db else (0, len(waveform))
    frames = int(num_frames(frontend, end - begin))
    if frames >= fewest:
        return ""
    waveforms = frontend.kind == "waveform"
    found = (
        f"{count(frames, 'sample')} at 16 kHz" if waveforms else f"{count(frames, 'frame')} of {frontend.hop_ms:g} ms"
    )
    return f"{found} with sound; the model needs {fewest}"


# --- Baselines. ---


def _of_baseline(restored: Restored, chosen: tuple[int, ...], data_dir: str | os.PathLike | None) -> Recogniser:
    metadata, folder = restored.metadata, restored.folder
    baseline = linear.make_baseline(metadata["config"]["model"])
    if baseline.scaling == "speaker":
        raise UserError(
            f"{folder}: standardised by each speaker's own utterances, and the speaker of a recording is not known; "
            "use a variant with scaling=fold"
        )
    hear = _encoder(restored, metadata.get("features"), data_dir)
    folds = baselines.load_folds(folder)
    of_runs = [metadata["runs"][i]["fold"] for i in chosen]
    fitted, regressed = [folds[fold] for fold in of_runs], baselines.load_dimensions(folder)

    def values(corpus: Corpus) -> np.ndarray:
        if hear:
            return baselines.versions(hear.states(corpus))
        return baselines.functionals_of(corpus, baseline.functionals)

    first = fitted[0] if restored.emotions else regressed[of_runs[0]]

    def embedded(own: np.ndarray) -> np.ndarray:
        used = first.coefficients.any(axis=0)  # of named or chosen columns, the others mean nothing to the model
        return linear.standardise(first, own)[:, used]

    def predict(corpus: Corpus, embeddings: bool = False) -> Predicted:
        own = values(corpus)
        probabilities = np.mean([linear.predict(one, own) for one in fitted], axis=0)
        told = [linear.scores(regressed[fold], own) for fold in of_runs] if regressed else [np.zeros((len(own), 0))]
        return Predicted(probabilities, np.mean(told, axis=0), embedded(own) if embeddings else None)

    return Recogniser(
        restored,
        chosen,
        0.0,
        hear.refusal if hear else lambda waveform: "",
        predict,
        lambda corpus: embedded(values(corpus)),
        baselines.dimensions_of(metadata["config"]) if regressed else (),
    )


# --- Models of hidden states: their encoder hears the recordings. ---


@dataclasses.dataclass(frozen=True)
class Encoded:
    """An encoder before a model: a corpus -> its states; and a waveform -> why it cannot be heard, or ""."""

    states: Callable[[Corpus], Packed]
    refusal: Callable[[Int16[np.ndarray, " samples"]], str]


def _encoder(
    restored: Restored, features: Mapping[str, Any] | None, data_dir: str | os.PathLike | None
) -> Encoded | None:
    """What makes the features that a model takes, or None: it takes recordings as they are."""
    if features is None:
        return None
    if "encoder" not in features.get("info", {}):
        raise UserError(
            f"{restored.folder}: the model takes the pre-extracted features {features['name']!r}, not recordings; "
            "extract them from the recordings too, pack both with `prepare`, and use `evaluate --corpus`"
        )
    from ser_jax.encoders import extract  # its layers take a second to import, which other models need not wait

    encoder = extract.encoder_of(features["info"], data_dir)
    return Encoded(
        lambda corpus: extract.states_of(features["info"], corpus, encoder),
        lambda waveform: extract.refusal(features["info"], waveform, encoder),
    )


def _example_features(features: Mapping[str, Any]) -> Packed:
    frames = np.zeros((64, features["dims"]), np.float32)
    names = tuple(map(str, range(features["dims"])))
    one = np.zeros(1, int), np.full(1, len(frames))
    identity = features["frame_ms"], features["name"], features["fingerprint"]
    return Packed(frames, *one, names, *identity, info=features["info"])
