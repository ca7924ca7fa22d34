"""Runs a study: every variant a population, then its results."""

import contextlib
import dataclasses
import functools
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ser_jax import checksums, predictions
from ser_jax import config as configuration
from ser_jax.corpora.corpus import verify
from ser_jax.errors import UserError, refusal
from ser_jax.files import atomic_file
from ser_jax.inference.tables import test_predictions, test_tracks, validation_predictions
from ser_jax.report.attention_figure import attention_figure
from ser_jax.statistics.concordance import summarise_tracks
from ser_jax.studies import baselines, looks, rates, robustness, together
from ser_jax.studies.baselines import Baselines
from ser_jax.studies.collect import Outcome, collect
from ser_jax.studies.expected import expect, in_words
from ser_jax.studies.more_seeds import Part, find_parts, join, lacking_seeds, still_to_train
from ser_jax.studies.plan import make_plan
from ser_jax.studies.progress import progress, show
from ser_jax.studies.provenance import differences, of_seeds, provenance
from ser_jax.studies.source_code import code_version
from ser_jax.studies.store import (
    CONDITIONS,
    CONFIG,
    FAILURE,
    PICTURE,
    PREDICTIONS,
    RESULT,
    TRACKS,
    VALIDATION,
    check_results,
    finish,
    locked,
    newest_checkpoint,
    population_folder,
    read_json,
    write_json,
)
from ser_jax.studies.variants import Variant, prepare
from ser_jax.training import ahead, background, devices, log, loop, processes
from ser_jax.training.population import Population, describe, diverged
from ser_jax.training.state import State

POPULATIONS = "populations"  # of a workdir: where its populations are kept, unless the user names another place


@dataclasses.dataclass(frozen=True)
class How:
    """Where and how a variant is trained.

    Attributes:
        store: the folder of all populations.
        profile_steps: for `loop.train`.
        data_dir: the folder of the data, in which is kept how long trainings take.
        trained: what was trained beside other variants, by its key.
        failed: why a training failed, by its key: another variant of that key does not try again.
    """

    store: Path
    profile_steps: tuple[int, int] | None
    data_dir: str | None
    trained: dict[str, loop.Trained] = dataclasses.field(default_factory=dict)
    failed: dict[str, dict] = dataclasses.field(default_factory=dict)


def run_study(
    config: dict,
    workdir: str | os.PathLike,
    *,
    data_dir: str | None = None,
    store: str | os.PathLike | None = None,
    shard: tuple[int, int] = (0, 1),
    profile_steps: tuple[int, int] | None = None,
) -> Outcome:
    """Trains and evaluates what no process has yet, and where all is there, writes the study's results to `workdir`.

    `store` is where populations are kept, by default a folder of `workdir`. `shard` (i, n) leaves to others all
    variants but every n-th, from the i-th on; a variant that another process is at is left to it, and waited for.
    A variant that fails is reported, and the others finish. `profile_steps` is for `loop.train`.

    Raises `UserError` for a configuration that cannot be run (before anything is compiled) and for a workdir that holds
    another study.
    """
    workdir = Path(workdir)
    store = Path(store) if store else workdir / POPULATIONS
    plan = make_plan(config)
    variants = prepare(plan, data_dir)
    processes.require_same({"configuration": config, "populations": [variant.key for variant in variants]})
    if processes.leads():
        # Nobody writes results meanwhile, as those of fewer seeds.
        with locked(store, "results", wait=True, what=f"{store}: results of a study"):
            claim(workdir, config)
    index, count = shard
    titles = {name: f"{name} ({number} of {len(variants)})" for number, name in enumerate(plan.variants, start=1)}
    how = How(store, profile_steps, data_dir)
    own = variants[index::count]
    beside = together.is_faster() and not profile_steps
    groups = together.groups(own) if beside else [[variant] for variant in own]
    busy, failures = [], {}
    for group, following in zip(groups, [*groups[1:], []], strict=True):
        busy += _finish_all(group, following, how, titles, failures, wait=False)
    for variant in busy:
        _finish_all([variant], [], how, titles, failures, wait=True)
    if processes.leads():
        with locked(store, "results", wait=True, what=f"{store}: results of a study"):
            _still_claimed(workdir, config)
            outcome = collect(plan, variants, workdir, store, failures)
    else:
        outcome = Outcome(None, (), {})
    processes.of_the_leader(0)  # no process leaves before the first is done
    devices.forget_programs()
    return outcome


def claim(workdir: Path, config: dict) -> None:
    """Writes the study's configuration to its folder; raises `UserError` where another study's lies there.

    The same study with more seeds takes the place of the one with fewer.
    """
    path = workdir / CONFIG
    if path.exists():
        config = json.loads(json.dumps(config))  # as it will be read again: JSON knows no tuples
        found = configuration.completed(read_json(path))
        found = json.loads(json.dumps(found))
        more = found | {"seeds": config["seeds"]}
        grown = set(found["seeds"]) < set(config["seeds"]) and not any(configuration.differences(more, config))
        different = [] if grown else list(configuration.differences(found, config))
        if different:
            raise UserError(
                f"{workdir}: this workdir holds another configuration ({'; '.join(different[:3])}); "
                "use another --workdir"
            )
        if not grown:
            return
    (workdir / checksums.FILE).unlink(missing_ok=True)  # until there are results of this configuration
    write_json(path, config)


def _still_claimed(workdir: Path, config: dict) -> None:
    """Raises `UserError` where another process has given the folder more seeds meanwhile: its results are to stay."""
    read_json(workdir / CONFIG)  # that it is damaged is another matter
    try:
        claim(workdir, config)
    except UserError as error:
        raise UserError(
            f"{workdir}: given another configuration meanwhile, as more seeds; what was trained is kept, and the "
            "command of that configuration takes from it what it can"
        ) from error


def _finish_all(
    group: list[Variant],
    following: list[Variant],
    how: How,
    titles: dict[str, str],
    failures: dict[str, dict],
    *,
    wait: bool,
) -> list[Variant]:
    """Trains a group of variants and makes all else of them that is not there yet; returns those of other processes.

    Processes that train together are one here: the first holds the locks, and makes alone what no training is.
    """
    if not processes.leads():
        return [variant for variant in group if not _follow(variant, how.store)]
    if len(group) > 1:
        with contextlib.ExitStack() as stack:
            held = [one for one in group if stack.enter_context(locked(how.store, one.key, wait=False))]
            _compile_beside(held, following, how.store)
            how.trained.update(together.train(held, how.store))
    busy = []
    for variant in group:  # one lock at a time: what is finished may wait for that of its other seeds
        with locked(how.store, variant.key, wait=wait, what=titles[variant.name]) as has_lock:
            processes.of_the_leader(has_lock)
            if not has_lock:
                busy.append(variant)
                continue
            if len(group) == 1:
                _compile_beside(group, following, how.store)
            _finish(titles[variant.name], variant, how, failures)
    return busy


def _compile_beside(group: list[Variant], following: list[Variant], store: Path) -> None:
    """Lets threads compile what a group of variants calls, then what the following one will, where they help."""
    if not devices.compiles_ahead():
        return

    def begin(variants: list[Variant]) -> None:
        left = [(own, own.population()) for variant in variants if (own := still_to_train(variant, store))]
        networks = [
            population
            for own, population in left
            if isinstance(population, Population)
            and newest_checkpoint(population_folder(store, own.name, own.key)) < population.num_steps
        ]
        if networks:
            ahead.begin(*networks)

    background.begin(functools.partial(begin, group))
    if devices.compiles_beside():
        background.begin(functools.partial(begin, following))


def _finish(title: str, variant: Variant, how: How, failures: dict[str, dict]) -> None:
    """Trains a variant and makes all else of it that is not there yet; its lock is held.

    Why it failed is added to `failures`.
    """
    if variant.key in how.failed:
        failures[variant.name] = how.failed[variant.key]
        return
    folder = population_folder(how.store, variant.name, variant.key)
    trains = not (folder / RESULT).exists()
    processes.of_the_leader(trains)
    try:
        (folder / FAILURE).unlink(missing_ok=True)
        verify(variant.corpus)
        check_results(folder)
        population = variant.population()
        if trains:
            _train(title, variant, population, folder, how)
        load = baselines.load_folds if isinstance(population, Baselines) else _restore(population)
        trained = functools.cache(functools.partial(load, folder))
        _draw_attention(variant.name, population, trained, folder)
        _test_under_conditions(variant, population, trained, folder)
    except Exception as error:  # whatever it is: the other variants are to finish
        if processes.several():
            raise
        refused = refusal(error)
        lines = (refused or f"{type(error).__name__}: {error}").strip().splitlines() or [type(error).__name__]
        failure = {"message": lines[0], "refused": refused is not None, "traceback": traceback.format_exc()}
        failures[variant.name] = failure
        if trains and not (folder / RESULT).exists():
            how.failed[variant.key] = failure
        with contextlib.suppress(OSError):  # on a full disk nothing can be kept
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / FAILURE, failure)


def _follow(variant: Variant, store: Path) -> bool:
    """Does what the leading process does where all have to: trains, if it does."""
    if not processes.of_the_leader(0):  # another study has its lock
        return False
    trains, population = processes.of_the_leader(0), variant.population()
    if trains and not isinstance(population, Baselines):
        loop.train(population, population_folder(store, variant.name, variant.key))
    return True


def _restore(population: Population) -> Callable[[Path], State]:
    return functools.partial(loop.restore, population)


def _train(
    title: str,
    variant: Variant,
    population: Population | Baselines,
    folder: Path,
    how: How,
) -> None:
    """Trains one variant, writes its predictions and last of all its result."""
    trained_by = [provenance(variant.config)]
    begun, beside = newest_checkpoint(folder) > 0, how.trained.get(variant.key)
    in_one_go = not begun and not beside  # its share of a training beside others tells nothing of one by itself
    if isinstance(population, Baselines):
        _tell_time(title, population, how)
        result = baselines.run_variant(variant.name, population, folder)
    else:
        # Processes that train together share the runs out among them, and train all; a training begun is gone on with.
        parts = [] if begun or processes.several() else find_parts(variant, how.store)
        if parts:
            in_one_go = False
            state, seconds, trained_by = _join(title, variant, population, parts, folder, how)
        else:
            state, seconds = _train_runs(title, population, folder, how, beside)
        tested_from = time.monotonic()
        lost = diverged(population, devices.gather(state.diverged_at, len(population.runs)))
        result = {"tracks": _evaluate(variant.name, population, state, folder), "trained": describe(population)}
        result["trained"]["notes"] = [
            f"fold {one['fold']}, seed {one['seed']} diverged at step {one['step']}: nothing here is of that run"
            for one in lost
        ]
        result["diverged"] = lost
        logged, last = log.means(log.read(folder / log.FILE)), int(np.max(np.asarray(state.step)))
        result["learning"] = log.learning(logged, population.num_steps, last)
        result["seconds"] = {**seconds, "evaluate": time.monotonic() - tested_from}
    result |= {"parameters": population.num_parameters, "code": code_version(variant.config), "provenance": trained_by}
    result |= {"family": variant.family, "seeds": list(variant.config["seeds"])}
    finish(folder, result)
    if in_one_go:
        rates.remember(population, result["seconds"], how.data_dir)


def _train_runs(
    title: str,
    population: Population,
    folder: Path,
    how: How,
    beside: loop.Trained | None,
) -> tuple[State, dict[str, float]]:
    """Trains a population, or what is left of it after it was trained beside others; returns as `loop.train` does."""
    if beside and beside.error:
        raise beside.error
    _say_once(f"feed: {population.feed} ({population.feed_reason})")
    print(f"{title}: {population.num_parameters:,} parameters, listed in {folder}/parameters.txt", file=sys.stderr)
    if not newest_checkpoint(folder):
        _tell_time(title, population, how)
    runs = len(population.runs)
    with progress(title, population.num_steps * runs) as bar:
        state, seconds = loop.train(
            population, folder, report=lambda entry: show(bar, entry, runs), profile_steps=how.profile_steps
        )
        if not bar.n:  # nothing was left to train
            bar.n = bar.total
            bar.set_postfix_str("trained")
    return state, {phase: spent + (beside.seconds[phase] if beside else 0.0) for phase, spent in seconds.items()}


def _join(
    title: str,
    variant: Variant,
    population: Population,
    parts: list[Part],
    folder: Path,
    how: How,
) -> tuple[State, dict[str, float], list[dict]]:
    """Trains the seeds that no part has, by themselves.

    Returns the state of all, the seconds spent by phase, and who trained which seeds.
    """
    lacking = lacking_seeds(variant, parts)
    had = ", ".join(str(seed) for part in parts for seed in part.wanted)
    print(f"{title}: seeds {had} are trained already", file=sys.stderr, flush=True)
    if lacking:
        rest = variant.with_seeds(lacking)
        own = population_folder(how.store, rest.name, rest.key)
        with locked(how.store, rest.key, wait=True, what=f"{title}: seeds {', '.join(map(str, lacking))}"):
            if not (own / RESULT).exists():
                _train(title, rest, rest.population(), own, how)
        parts = find_parts(variant, how.store)
    phases = [phase for phase in parts[0].seconds if phase != "evaluate"]
    seconds = {phase: sum(part.seconds[phase] for part in parts) for phase in phases}
    trained_by = [entry for part in parts for entry in of_seeds(part.provenance, part.wanted)]
    if said := differences(trained_by):
        print(f"{title}: what is joined was not trained alike: {said}", file=sys.stderr, flush=True)
    return join(variant, population, parts, folder), seconds, trained_by


def _evaluate(name: str, population: Population, state: State, folder: Path) -> dict:
    """Writes what every run predicts for its test fold and its validation speakers; returns its tracks' figures."""
    predictions.write(test_predictions(population, state, name), folder / PREDICTIONS)
    if all(len(fold.validation) for fold in population.folds):
        predictions.write(validation_predictions(population, state, name), folder / VALIDATION)
    if not population.targets.track_names:
        return {}
    table = test_tracks(population, state, name)
    with atomic_file(folder / TRACKS) as temporary:
        table.to_parquet(temporary, index=False)
    return summarise_tracks(table)


def _draw_attention(name: str, population: Population | Baselines, trained: Callable[[], Any], folder: Path) -> None:
    """Draws what the first run that has not diverged looked at in the first utterance that it is tested on.

    Nothing where there is no attention to draw.
    """
    if isinstance(population, Baselines) or population.corpus.info.get("features"):
        return
    if checksums.is_whole(folder / PICTURE):
        return
    if not population.learner.attends:
        return
    state = trained()
    run = int(np.argmin(devices.gather(state.diverged_at, len(population.runs)) >= 0))
    fold, (_, seed) = population.folds[run], population.runs[run]
    row = fold.test[0]
    seen = looks.look_into(population, state, run, int(row))
    utterance = population.corpus.utterances.loc[row]
    reference = f" ({utterance['emotion']})" if utterance["emotion"] else ""
    title = f"{utterance['id']}{reference}{looks.describe(seen)}"
    title += f"  ({name}, fold {fold.name}, seed {seed})"
    attention_figure(seen, title, folder / PICTURE)
    checksums.record(folder / PICTURE)


def _test_under_conditions(
    variant: Variant, population: Population | Baselines, trained: Callable[[], Any], folder: Path
) -> None:
    """Tests a trained variant under the conditions that its configuration names and its folder lacks."""
    path, conditions = folder / CONDITIONS, robustness.asked_of(variant.config, variant.corpus)
    known = robustness.read(path) if checksums.is_whole(path) else None
    lacking = [name for name in conditions if known is None or name not in set(known["condition"])]
    if lacking:
        table = robustness.test_predictions_under(population, trained(), variant.name, lacking, variant.perturbed)
        robustness.write(table if known is None else pd.concat([known, table], ignore_index=True), path)


@functools.cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _tell_time(title: str, population: Population | Baselines, how: How) -> None:
    print(f"{title}: {in_words(expect(population, how.data_dir))}", file=sys.stderr, flush=True)
