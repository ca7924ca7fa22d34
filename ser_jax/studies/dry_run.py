"""What a study would train, and what of it is there already; nothing is compiled or written."""

import os
from pathlib import Path

import numpy as np

from ser_jax.corpora.corpus import SAMPLE_RATE
from ser_jax.frontend import num_features, num_frames
from ser_jax.studies.baselines import Baselines
from ser_jax.studies.plan import make_plan
from ser_jax.studies.run import POPULATIONS
from ser_jax.studies.store import RESULT, has_checkpoint, population_folder
from ser_jax.studies.variants import Variant, prepare

_COPIES = 5  # of a run's parameters: themselves, their average, Adam's two moments, and the gradient


def dry_run(config: dict, workdir: str | os.PathLike, data_dir: str | None, store: str | None = None) -> str:
    """Returns a table of a study's variants: runs, steps, input, parameters, memory, and what is trained already.

    Raises `UserError` for everything that the training itself would refuse before it starts.
    """
    variants = prepare(make_plan(config), data_dir)
    folder = Path(store) if store else Path(workdir) / POPULATIONS
    head = ("variant", "runs", "steps", "batch", "frames x features", "parameters", "MB of all runs", "there already")
    rows = [head, *(_row(variant, folder) for variant in variants)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    corpus, protocol = variants[0].corpus, variants[0].protocol
    seconds = len(corpus.samples) / SAMPLE_RATE
    lines += [
        "",
        f"corpus {corpus.name}: {len(corpus.utterances)} utterances, {seconds / 3600:.2f} h, "
        f"{corpus.samples.nbytes / 1e6:,.0f} MB; protocol {protocol.name}: {len(protocol.folds)} folds",
        f"workdir {workdir}; MB are of parameters, their average, the optimizer and gradients, without activations",
    ]
    return "\n".join(lines)


def _row(variant: Variant, store: Path) -> tuple[str, ...]:
    population = variant.population()
    there = _there(population_folder(store, variant.name, variant.key))
    if isinstance(population, Baselines):
        return (variant.name, f"{len(population.runs)}", "", "", "", f"{population.num_parameters:,}", "", there)
    frontend, training = population.learner.frontend, population.config["training"]
    crop = np.int64(max(round(training["crop_seconds"] * frontend.rate), 1))
    megabytes = 4 * _COPIES * population.num_parameters * len(population.runs) / 1e6
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


def _there(folder: Path) -> str:
    if (folder / RESULT).exists():
        return "trained"
    return "begun" if has_checkpoint(folder) else "nothing"
