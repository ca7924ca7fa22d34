"""Runs a study: every variant a population, then one table of predictions, one summary, one picture."""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from ser_jax import config as configuration
from ser_jax.corpora import load_corpus
from ser_jax.corpora.corpus import Corpus
from ser_jax.corpora.protocols import Protocol, make_protocol
from ser_jax.errors import UserError
from ser_jax.evaluation import figures, predictions, summary
from ser_jax.files import atomic_file
from ser_jax.training import checkpoints, loop
from ser_jax.training.population import Population, describe, make_population, test_predictions


def run_study(config: dict, workdir: str | os.PathLike, *, data_dir: str | None = None) -> dict:
    """Trains and evaluates what is not yet in `workdir`, writes the study's results there and returns its summary.

    Raises `UserError` for a configuration that cannot be run (before anything is compiled) and for a workdir that holds
    another study.
    """
    begun, workdir = time.monotonic(), Path(workdir)
    variants, comparisons = configuration.variants(config), configuration.comparisons(config)
    corpora = {name: load(variant, data_dir) for name, variant in variants.items()}
    populations = {name: make_population(variants[name], *corpora[name]) for name in variants}
    claim(workdir, config)
    seconds: dict[str, float] = {"load": time.monotonic() - begun}
    results = {}
    for name, population in populations.items():
        results[name] = _run_variant(name, population, workdir / name)
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
    parameters = {name: result["parameters"] for name, result in results.items()}
    fold_sizes = {fold.name: (len(fold.train), len(fold.test)) for fold in protocol.folds}
    return write_results(workdir, table, meta, fold_sizes=fold_sizes, comparisons=comparisons, parameters=parameters)


def load(config: dict, data_dir: str | None) -> tuple[Corpus, Protocol]:
    """Returns the corpus and the folds of one variant's configuration."""
    corpus = load_corpus(config["corpus"]["name"], data_dir, **config["corpus"]["options"])
    options = {key: value for key, value in config["protocol"].items() if key != "name"}
    options["num_folds"] = options["num_folds"] or None
    options["file"] = options["file"] or None
    return corpus, make_protocol(corpus, config["protocol"]["name"], **options)


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
) -> dict:
    """Writes predictions.parquet, summary.json and confusion.png to a folder and returns the summary.

    `fold_sizes` are each fold's numbers of (training, test) utterances; the other arguments are `summary.summarise`'s.
    """
    result = summary.summarise(table, comparisons=comparisons, fold_sizes=fold_sizes, parameters=parameters, meta=meta)
    predictions.write(table, folder / "predictions.parquet")
    summary.write(result, folder / "summary.json")
    figures.confusion_figure(result, folder / "confusion.png")
    return result


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(checkpoints.to_json(value))


def _run_variant(name: str, population: Population, folder: Path) -> dict:
    """Trains and evaluates one variant, unless its folder holds its result already; returns that result."""
    path = folder / "result.json"
    if path.exists():
        result = json.loads(path.read_text())
        if result["trained"] == describe(population):
            return result
    with _progress(name, population) as bar:
        state, seconds = loop.train(population, folder, report=lambda entry: _show(bar, entry, population))
    begun = time.monotonic()
    predictions.write(test_predictions(population, state, name), folder / "predictions.parquet")
    seconds = {**seconds, "evaluate": time.monotonic() - begun}
    result = {"trained": describe(population), "parameters": population.learner.num_parameters, "seconds": seconds}
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
