"""How long variants took on this machine, kept to estimate the time of the next one.

DATA/rates.jsonl has a line for each that took long enough. What another one takes is estimated by the amount of work:
of a network the multiply-adds of its forward pass, of a baseline the values that it is fitted to. Within a family of
networks that is close, between families it is not.
"""

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from ser_jax.corpora import default_data_dir
from ser_jax.corpora.corpus import SAMPLE_RATE
from ser_jax.frontend import num_features, num_frames
from ser_jax.models.cost import cost
from ser_jax.studies.baselines import Baselines, inner_folds
from ser_jax.studies.provenance import hardware
from ser_jax.training.population import Population

FILE = "rates.jsonl"
_LEAST_STEPS = 10  # fewer are mostly the first call of a program
_LEAST_SECONDS = {True: 3.0, False: 0.5}  # of a network, and of a baseline
_FIGURES = ("work", "seconds_of_work", "seconds_of_compiling", "seconds_of_evaluating")


def remember(
    population: Population | Baselines, seconds: Mapping[str, float], data_dir: str | os.PathLike | None
) -> None:
    """Appends the `seconds` by phase that a variant took which this process trained in one go.

    Nothing where that was short or could end early, and where the folder of the data may not be written.
    """
    is_network, (units, work) = isinstance(population, Population), work_of(population)
    short = seconds["train"] < _LEAST_SECONDS[is_network] or (is_network and population.num_steps < _LEAST_STEPS)
    if short or (is_network and population.config["training"]["patience"] > 0):
        return
    row = {
        **_machine(),
        "model": family_of(population),
        "network": is_network,
        "work": work,
        "seconds_of_work": (seconds["train"] + seconds.get("validate", 0.0)) / (units * work),
        "seconds_of_compiling": seconds.get("initialise", 0.0) + seconds.get("compile", 0.0),
        "seconds_of_evaluating": seconds["evaluate"] / _heard(population),
    }
    path = Path(data_dir or default_data_dir()) / FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    except OSError:  # a corpus of somebody else's: what was trained is kept all the same
        return


def seconds_of(
    population: Population | Baselines, data_dir: str | os.PathLike | None, *, any_family: bool = True
) -> tuple[float, float, str] | None:
    """Returns the seconds that a variant takes on this machine, those of compiling, and the model that tells it.

    That is of the training with the most similar work among those of the same family that were made here, else among
    all networks with `any_family`; the latest of several alike. Compiling takes what it took at most: later programs
    may have been there. None where nothing like it was trained here. Evaluating is among the seconds, openSMILE's
    functionals are not.
    """
    rows = [row for row in _read(data_dir) if {key: row.get(key) for key in _machine()} == _machine()]
    name, is_network = family_of(population), isinstance(population, Population)
    of_family = [row for row in rows if row.get("model") == name]
    others = [row for row in rows if any_family and is_network and row.get("network")]
    if not of_family and not others:
        return None
    units, work = work_of(population)
    row = min(reversed(of_family or others), key=lambda row: max(row["work"] / work, work / row["work"]))
    evaluating = row["seconds_of_evaluating"] * _heard(population)
    seconds, times = row["seconds_of_work"] * units * work + evaluating, row["work"] / work
    compiling = max(other["seconds_of_compiling"] for other in rows if other.get("model") == row["model"])
    alike = 0.5 <= times <= 2
    return (
        seconds,
        compiling,
        f"{row['model']}" if alike else f"{row['model']} (with {times:.2g} times the multiply-adds)",
    )


def _machine() -> dict[str, Any]:
    found = hardware()
    return {"device": found["device"], "devices": found["devices"]}


def family_of(population: Population | Baselines) -> str:
    """Returns the name under which times are kept: of models whose time goes by the same work."""
    model = population.config["model"]
    if isinstance(population, Baselines):
        return f"{model['name']} on {population.baseline.functionals}"
    # No gradient goes through the layers of an encoder that are computed and not trained.
    return (
        f"{model['name']} on frozen layers"
        if model.get("layers") and model.get("adapt", "frozen") == "frozen"
        else model["name"]
    )


def work_of(population: Population | Baselines) -> tuple[float, float]:
    """Returns how many steps all runs make, and the multiply-adds of each one's forward pass, traced, not compiled.

    Of a baseline it is how many values all fits see, and 1.
    """
    if isinstance(population, Baselines):
        fits = [len(rows) * (1 + len(held_out)) for _, rows, held_out in inner_folds(population)]
        return float(sum(fits) * population.num_parameters), 1.0
    learner = population.learner
    frames = max(int(num_frames(learner.frontend, np.int64(learner.crop_samples))), 1)
    of_one = max(_multiply_adds(learner.model, frames, num_features(learner.frontend)), 1)
    batch = population.config["training"]["batch_size"]
    return float(population.num_steps * len(population.runs)), float(of_one * batch)


def _multiply_adds(model: nn.Module, frames: int, features: int) -> int:
    try:
        return _counted_once(model, frames, features)
    except TypeError:  # a model from outside whose options have no hash
        return cost(model, frames, features).multiply_adds


@functools.lru_cache
def _counted_once(model: nn.Module, frames: int, features: int) -> int:
    return cost(model, frames, features).multiply_adds  # which takes a moment


def _heard(population: Population | Baselines) -> float:
    """Seconds of speech that all runs are tested on."""
    samples = population.corpus.utterances["num_samples"].to_numpy()
    return max(sum(float(samples[fold.test].sum()) for fold in population.folds) / SAMPLE_RATE, 1.0)


def _read(data_dir: str | os.PathLike | None) -> list[dict[str, Any]]:
    """The rows of the file, without lines that are damaged."""
    rows = []
    try:
        lines = (Path(data_dir or default_data_dir()) / FILE).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return rows
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        known = isinstance(row, dict) and all(isinstance(row.get(name), int | float) for name in _FIGURES)
        if known and row["work"] > 0 and all(row[name] >= 0 for name in _FIGURES):
            rows.append(row)
    return rows
