"""What a study would train, how long it takes, and what of it is trained already; nothing is compiled or written."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ser_jax.baselines import opensmile
from ser_jax.baselines.functionals import seconds_of_functionals
from ser_jax.corpora import default_data_dir
from ser_jax.corpora.corpus import SAMPLE_RATE
from ser_jax.frontend import num_features, num_frames
from ser_jax.numbers import count
from ser_jax.report.numbers import duration, join
from ser_jax.studies import expected, rates
from ser_jax.studies.baselines import Baselines
from ser_jax.studies.more_seeds import still_to_train
from ser_jax.studies.plan import make_plan
from ser_jax.studies.run import POPULATIONS
from ser_jax.studies.store import RESULT, newest_checkpoint, population_folder
from ser_jax.studies.variants import Variant, prepare
from ser_jax.training.population import Population


def dry_run(config: dict, workdir: str | os.PathLike, data_dir: str | None, store: str | None = None) -> str:
    """Returns a table of a study's variants: runs, steps, input, parameters, memory, and what is trained already.

    Raises `UserError` for everything that the training itself would refuse before it starts.
    """
    variants = prepare(make_plan(config), data_dir)
    folder = Path(store) if store else Path(workdir) / POPULATIONS
    head = (
        *("variant", "runs", "steps", "batch", "frames x features", "parameters", "MB of all runs", "trained"),
        "time",
    )
    timed: set[Any] = set()  # openSMILE's sets and the programs, which the first variant with each one makes for all
    told = [_seconds(variant, folder, data_dir, timed) for variant in variants]
    rows = [head, *((*_row(variant, folder), _time(one)) for variant, one in zip(variants, told, strict=True))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    corpus, protocol = variants[0].corpus, variants[0].protocol
    seconds = len(corpus.samples) / SAMPLE_RATE
    lines += [
        "",
        f"corpus {corpus.name}: {len(corpus.utterances)} utterances, {seconds / 3600:.2f} h, "
        f"{corpus.samples.nbytes / 1e6:,.0f} MB; protocol {protocol.name}: {count(len(protocol.folds), 'fold')}",
        f"workdir {workdir}; MB are of parameters, their averages, the optimizer and gradients, without activations",
        _about_time(told, Path(data_dir or default_data_dir())),
    ]
    return "\n".join(lines)


def _row(variant: Variant, store: Path) -> tuple[str, ...]:
    population = variant.population()
    there = _there(population_folder(store, variant.name, variant.key))
    if isinstance(population, Baselines):
        return (variant.name, f"{len(population.runs)}", "", "", "", f"{population.num_parameters:,}", "", there)
    frontend, training = population.learner.frontend, population.config["training"]
    crop = np.int64(max(round(training["crop_seconds"] * frontend.rate), 1))
    megabytes = 4 * population.learner.num_kept * len(population.runs) / 1e6
    return (
        variant.name,
        f"{len(population.runs)}",
        f"{population.num_steps:,}",
        f"{training['batch_size']}",
        f"{int(num_frames(frontend, crop))} x {num_features(frontend)}",
        f"{population.num_parameters:,}",
        f"{megabytes:,.1f}",
        there,
    )


@dataclasses.dataclass(frozen=True)
class _Told:
    """How long what is left of a variant takes: seconds, or None; `expected.HERE` or the like, and the model."""

    seconds: float | None
    how: str = expected.HERE
    by: str = ""


def _seconds(variant: Variant, store: Path, data_dir: str | None, timed: set[Any]) -> _Told:
    own = still_to_train(variant, store)
    if own is None:
        return _Told(0.0)
    population = own.population()
    kind = population.baseline.functionals if isinstance(population, Baselines) else ""
    functionals = 0.0
    if kind in opensmile.SETS and kind not in timed:
        functionals = seconds_of_functionals(variant.corpus, kind, data_dir)
        timed.add(kind)
    found = expected.expect(population, data_dir)
    if found is None:
        return _Told(functionals or None)
    program = id(population.programs) if isinstance(population, Population) else None
    seconds = found.seconds + (0.0 if program in timed else found.compiling)
    timed.add(program)
    return _Told(seconds + functionals, found.how, found.by)


def _time(told: _Told) -> str:
    return "not known" if told.seconds is None else "" if not told.seconds else f"about {duration(told.seconds)}"


def _about_time(told: Sequence[_Told], data_dir: Path) -> str:
    """What the times of the table are, all together."""
    known = [one for one in told if one.seconds and one.how == expected.HERE]
    lacking = sum(one.seconds is None for one in told)
    parts = []
    if known:
        by = join(sorted({one.by for one in known if one.by}))
        how = f", by trainings of {by} on this machine ({data_dir / rates.FILE})" if by else ", openSMILE's alone"
        parts.append(
            f"time: about {duration(sum(one.seconds for one in known))}{how}; rough for other networks than those"
        )
    for how, words in expected.HOW.items():
        if guessed := [one.seconds for one in told if one.seconds and one.how == how]:
            parts.append(
                f"time of {count(len(guessed), 'variant')}: roughly {duration(sum(guessed))} on an idle machine, "
                f"several times that on a busy one: {words}"
            )
    if lacking:
        parts.append(f"time of {count(lacking, 'variant')}: not known, since {expected.unknown()}")
    return "; ".join(parts) or "time: nothing is left to train"


def _there(folder: Path) -> str:
    if (folder / RESULT).exists():
        return "yes"
    return "begun" if newest_checkpoint(folder) else "no"
