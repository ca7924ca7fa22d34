"""How long one run of a configuration takes on this machine, from a few seconds of training."""

import contextlib
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from ser_jax import config as configuration
from ser_jax.baselines import is_baseline
from ser_jax.errors import UserError
from ser_jax.studies.variants import load, population_of
from ser_jax.training import loop

SECONDS = 8.0  # of training that are timed, after the first call of the compiled program
_STEPS = 100_000  # more than are made in them
_RUNS = 64  # at most, on an accelerator
# What a training is not timed with: it takes another training, and costs little.
_WITHOUT = {"initial": "", "teacher": "", "keep": "last", "patience": 0}
_NEVER = {"validate_epochs": 0.0, "validate_steps": -1, "checkpoint_seconds": 1e9}
_LONG = {"train_steps": _STEPS, "train_epochs": -1.0}
_ANY_CORPUS = {"corpus": {"name": "synthetic", "options": {}}, "protocol": configuration.default()["protocol"]}


class _TimedEnoughError(Exception):
    """Ends a training of which enough was seen."""


def seconds_of_run(config: dict, train_utterances: float, runs: int, data_dir: str | os.PathLike | None) -> float:
    """Returns the seconds that training one run of so many utterances takes here, beside others.

    A CPU trains one run on each core at once, an accelerator up to `runs` together. The corpus is the configuration's,
    or where it is not on this machine the built-in one: a step takes as long. Compilation is left out.
    Raises `UserError` for a baseline, and for features that are of a corpus that is not here.
    """
    if is_baseline(config["model"]):
        raise UserError("a baseline: nothing is trained in steps")
    on_cpu = jax.devices()[0].platform == "cpu"
    together = jax.device_count() if on_cpu else max(1, min(runs, _RUNS))
    short = configuration.merge(
        config, {"training": {**_WITHOUT, **_NEVER, **_LONG}, "optimizer": {"warmup_steps": -1}}
    )
    short = configuration.merge(short, {"optimizer": {"warmup_epochs": -1.0}, "evaluation": {"robustness": ()}})
    short |= {"folds": [0], "seeds": list(range(together))}
    per_step = _seconds_of_step(short, data_dir) / together
    per_epoch = train_utterances / config["training"]["batch_size"]
    return per_step * configuration.steps(config, "training", "train", per_epoch)


def _seconds_of_step(config: dict, data_dir: str | os.PathLike | None) -> float:
    """Seconds of one step of all runs together."""
    try:
        corpus, protocol = load(config, data_dir)
    except UserError:
        needs_its_own = config["frontend"]["kind"] == "precomputed" or config["corpus"]["tracks"]
        if needs_its_own:
            raise
        config = configuration.merge(config, {**_ANY_CORPUS, "training": {"heads": "shared"}})
        config = configuration.merge(config, {"corpus": {"dimensions": (), "votes": "", "symbols": ""}})
        corpus, protocol = load(config, data_dir)
    population = population_of(config, corpus, protocol, data_dir)
    seen: list[tuple[int, float]] = []  # (step, seconds) after each call

    def watch(row: dict) -> None:
        seen.append((int(row["step"]), time.monotonic()))
        if seen[-1][1] - seen[0][1] >= SECONDS:
            raise _TimedEnoughError

    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(_TimedEnoughError):
        loop.train(population, Path(folder), report=watch)
    return pace(seen)


def pace(seen: Sequence[tuple[int, float]]) -> float:
    """Returns the seconds of a step from (step, seconds) after each call, without the first, which warms up."""
    (step, seconds), (last_step, last_seconds) = seen[0], seen[-1]
    if last_step <= step:
        raise UserError("too few steps were made to time a training")
    return (last_seconds - seconds) / (last_step - step)
