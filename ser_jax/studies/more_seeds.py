"""More seeds for a variant: only those are trained that no finished population has, and joined with those that do.

A run's result does not depend on its neighbours, so a population of five seeds is one of three and one of two, with
their parameters put side by side. It is tested anew, as any population is after its training.
"""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from ser_jax import files
from ser_jax.errors import UserError, printed, reading
from ser_jax.studies.provenance import of_result
from ser_jax.studies.store import RESULT, newest_checkpoint, population_folder, read_json
from ser_jax.studies.variants import Variant
from ser_jax.training import checkpoints, devices, loop
from ser_jax.training.population import Population, describe
from ser_jax.training.state import State


@dataclasses.dataclass(frozen=True)
class Part:
    """A finished population of which some seeds are wanted.

    Attributes:
      folder: where it lies.
      seeds: all that it has, in its own order.
      wanted: those that are taken.
      seconds: what it took by phase of the training, by the share of its seeds that are taken.
      provenance: who trained its seeds; see `ser_jax.studies.provenance`.
    """

    folder: Path
    seeds: tuple[int, ...]
    wanted: tuple[int, ...]
    seconds: dict[str, float]
    provenance: list[dict]


def find_parts(variant: Variant, store: Path) -> list[Part]:
    """Returns finished populations of the variant with some of its seeds; each seed is taken from one, the largest.

    One whose checkpoints were deleted, or whose result is damaged, has nothing to give.
    """
    lacking, found = set(variant.config["seeds"]), []
    for path in sorted(store.glob(f"*/{RESULT}")):
        try:
            part = _finished(path, variant.family)
        except UserError as error:
            _note(printed(error))
        else:
            found += [part] if part else []
    parts = []
    for folder, seeds, seconds, entries in sorted(found, key=lambda one: -len(lacking.intersection(one[1]))):
        wanted = tuple(seed for seed in seeds if seed in lacking)
        if wanted:
            share = len(wanted) / len(seeds)
            spent = {phase: share * whole for phase, whole in seconds.items()}
            parts.append(Part(folder, seeds, wanted, spent, entries))
        lacking -= set(wanted)
    return parts


@functools.cache  # the store is looked through several times in a study
def _note(line: str) -> None:
    print(f"note: {line}", file=sys.stderr, flush=True)


def _finished(path: Path, family: str) -> tuple[Path, tuple[int, ...], dict[str, float], list[dict]] | None:
    """The folder, seeds, seconds and provenance of a population's result; None where it is of another family."""
    with contextlib.suppress(OSError, ValueError, RecursionError, AttributeError):
        if files.read_json(path).get("family") != family:  # damaged or not, nothing is wanted of it
            return None
    result = read_json(path)
    with reading(f"{path}: damaged; remove it, and its variant is tested again"):
        if not newest_checkpoint(path.parent):
            return None
        seconds = {phase: float(spent) for phase, spent in result["seconds"].items()}
        return path.parent, tuple(int(seed) for seed in result["seeds"]), seconds, of_result(result)


def lacking_seeds(variant: Variant, parts: Sequence[Part]) -> list[int]:
    """Returns the variant's seeds that no part has, in their order."""
    had = {seed for part in parts for seed in part.wanted}
    return [seed for seed in variant.config["seeds"] if seed not in had]


def still_to_train(variant: Variant, store: Path) -> Variant | None:
    """Returns what is to be trained of a variant: itself, it with the seeds that no part has, or None: nothing."""
    folder = population_folder(store, variant.name, variant.key)
    if (folder / RESULT).exists():
        return None
    parts = [] if newest_checkpoint(folder) else find_parts(variant, store)
    if not parts:
        return variant
    lacking = lacking_seeds(variant, parts)
    return still_to_train(variant.with_seeds(lacking), store) if lacking else None


def join(variant: Variant, population: Population, parts: Sequence[Part], folder: Path) -> State:
    """Writes the checkpoint that a training of all seeds at once would have ended with, and returns its state."""
    states, places = [], {}
    for number, part in enumerate(parts):
        trained = variant.with_seeds(part.seeds).population()
        states.append(devices.gather(loop.restore(trained, part.folder, whole=True), len(trained.runs)))
        places |= {run: (number, i) for i, run in enumerate(trained.runs) if run[1] in part.wanted}
    chosen = [places[run] for run in population.runs]
    joined = jax.tree.map(lambda *leaves: np.stack([leaves[number][i] for number, i in chosen]), *states)
    store = checkpoints.Checkpoints(folder / "checkpoints")
    try:
        store.save(joined, describe(population))
    finally:
        store.close()
    return loop.restore(population, folder)
