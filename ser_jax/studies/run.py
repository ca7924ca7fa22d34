"""Runs a study: every variant a population, then one table of predictions, one summary, one picture."""

import json
import os
import time
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from ser_jax import config as configuration
from ser_jax.corpora import load_corpus
from ser_jax.corpora.corpus import Corpus
from ser_jax.corpora.features import load_features
from ser_jax.corpora.protocols import Protocol, make_protocol
from ser_jax.corpora.tracks import load_tracks
from ser_jax.errors import UserError
from ser_jax.evaluation import figures, predictions, summary
from ser_jax.evaluation.baselines import is_baseline
from ser_jax.evaluation.tracks import summarise_tracks
from ser_jax.files import atomic_file
from ser_jax.studies import baselines
from ser_jax.studies.baselines import Baselines
from ser_jax.training import checkpoints, loop
from ser_jax.training.population import Population, describe, make_population, test_predictions, test_tracks


def run_study(config: dict, workdir: str | os.PathLike, *, data_dir: str | None = None) -> dict:
    """Trains and evaluates what is not yet in `workdir`, writes the study's results there and returns its summary.

    Raises `UserError` for a configuration that cannot be run (before anything is compiled) and for a workdir that holds
    another study.
    """
    begun, workdir = time.monotonic(), Path(workdir)
    variants, comparisons = configuration.variants(config), configuration.comparisons(config)
    corpora = {name: load(variant, data_dir) for name, variant in variants.items()}
    populations = {name: population_of(variants[name], *corpora[name], data_dir) for name in variants}
    claim(workdir, config)
    seconds: dict[str, float] = {"load": time.monotonic() - begun}
    results = {}
    for name in variants:
        # Taken out: what it has on the devices goes when it is done.
        results[name] = _run_variant(name, populations.pop(name), workdir / name)
        for phase, spent in results[name]["seconds"].items():
            seconds[phase] = seconds.get(phase, 0.0) + spent
    table = predictions.merge([predictions.read(workdir / name / "predictions.parquet") for name in variants])
    seconds["total"] = sum(seconds.values())
    corpus, protocol = next(iter(corpora.values()))
    meta = {
        "corpus": corpus.name,
        "protocol": protocol.name,
        "speaker_independent": protocol.speaker_independent,
        "fingerprint": corpus.fingerprint,
        "versions": checkpoints.versions(),
        "seconds": {phase: round(spent, 2) for phase, spent in seconds.items()},
    }
    tracks = {name: result["tracks"] for name, result in results.items() if result["tracks"]}
    meta |= {"tracks": tracks} if tracks else {}
    parameters = {name: result["parameters"] for name, result in results.items()}
    fold_sizes = {fold.name: (len(fold.train), len(fold.test)) for fold in protocol.folds}
    notes = {name: result["trained"].get("notes", []) for name, result in results.items()}
    return write_results(
        workdir, table, meta, fold_sizes=fold_sizes, comparisons=comparisons, parameters=parameters, notes=notes
    )


def load(config: dict, data_dir: str | None) -> tuple[Corpus, Protocol]:
    """Returns the corpus and the folds of one variant's configuration."""
    corpus = load_corpus(config["corpus"]["name"], data_dir, **config["corpus"]["options"])
    options = {key: value for key, value in config["protocol"].items() if key != "name"}
    options["num_folds"] = options["num_folds"] or None
    options["file"] = options["file"] or None
    return corpus, make_protocol(corpus, config["protocol"]["name"], **options)


def population_of(config: dict, corpus: Corpus, protocol: Protocol, data_dir: str | None) -> Population | Baselines:
    """Returns the population of one variant's configuration, or its baselines; the configuration is checked."""
    if is_baseline(config["model"]):
        return baselines.make_baselines(config, corpus, protocol, data_dir)
    tracks, features = config["corpus"]["tracks"], config["frontend"]["features"]
    return make_population(
        config,
        corpus,
        protocol,
        tracks=load_tracks(corpus, data_dir, tracks) if tracks else None,
        features=load_features(corpus, features, data_dir) if features else None,
    )


def claim(workdir: Path, config: dict) -> None:
    """Writes the study's configuration to its folder; raises `UserError` where another study's lies there."""
    path = workdir / "config.json"
    if path.exists():
        different = list(configuration.differences(json.loads(path.read_text()), config))
        if different:
            raise UserError(
                f"{workdir}: this workdir holds another configuration ({'; '.join(different[:3])}); "
                "use another --workdir"
            )
        return
    write_json(path, config)


def write_results(
    folder: Path,
    table: pd.DataFrame,
    meta: dict,
    *,
    fold_sizes: dict[str, tuple[int, int]],
    parameters: dict[str, int],
    comparisons: Sequence[tuple[str, str]] = (),
    notes: Mapping[str, Sequence[str]] = types.MappingProxyType({}),
) -> dict:
    """Writes predictions.parquet, summary.json and confusion.png to a folder and returns the summary.

    `fold_sizes` are each fold's numbers of (training, test) utterances, and `notes` what a reader must know of a
    variant; the other arguments are `summary.summarise`'s.
    """
    result = summary.summarise(table, comparisons=comparisons, fold_sizes=fold_sizes, parameters=parameters, meta=meta)
    for name, of_variant in notes.items():
        result["variants"][name]["notes"] += of_variant
    predictions.write(table, folder / "predictions.parquet")
    summary.write(result, folder / "summary.json")
    figures.confusion_figure(result, folder / "confusion.png")
    return result


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(checkpoints.to_json(value))


def _run_variant(name: str, population: Population | Baselines, folder: Path) -> dict:
    """Trains and evaluates one variant, unless its folder holds its result already; returns that result."""
    if isinstance(population, Baselines):
        return baselines.run_variant(name, population, folder)
    path = folder / "result.json"
    if path.exists():
        result = json.loads(path.read_text())
        if result["trained"] == describe(population):
            return result
    with _progress(name, population) as bar:
        state, seconds = loop.train(population, folder, report=lambda entry: _show(bar, entry, population))
    begun = time.monotonic()
    predictions.write(test_predictions(population, state, name), folder / "predictions.parquet")
    tracks = {}
    if population.targets.track_names:
        table = test_tracks(population, state, name)
        with atomic_file(folder / "tracks.parquet") as temporary:
            table.to_parquet(temporary, index=False)
        tracks = summarise_tracks(table)
    seconds = {**seconds, "evaluate": time.monotonic() - begun}
    parameters = population.learner.num_parameters
    result = {"trained": describe(population), "parameters": parameters, "tracks": tracks, "seconds": seconds}
    write_json(path, result)
    return result


def _progress(name: str, population: Population) -> tqdm:
    return tqdm(
        total=population.num_steps * len(population.runs), desc=name, unit="step", unit_scale=True, smoothing=0.1
    )


def _show(bar: tqdm, entry: dict, population: Population) -> None:
    bar.n = entry["step"] * len(population.runs)
    figures_shown = {"loss": f"{entry['loss']:.3f}"}
    if "validation_ua" in entry:
        figures_shown["validation UA"] = f"{100 * entry['validation_ua']:.1f}%"
        bar.validation = figures_shown["validation UA"]
    elif hasattr(bar, "validation"):
        figures_shown["validation UA"] = bar.validation
    bar.set_postfix(figures_shown)
