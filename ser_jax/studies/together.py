"""Variants that train side by side: those that differ only in values that each run has for itself, as of a sweep.

A step of 80 runs takes an accelerator hardly longer than one of 10, so a sweep takes little more than one of its
variants. Each is trained into its own folder, as it would be alone: what is then left of it, its own training does.
"""

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ser_jax.baselines import is_baseline
from ser_jax.corpora.corpus import verify
from ser_jax.errors import one_line, refusal
from ser_jax.studies.more_seeds import still_to_train
from ser_jax.studies.progress import progress, show
from ser_jax.studies.store import FAILURE, locked, population_folder
from ser_jax.studies.variants import Variant
from ser_jax.training import devices, loop, processes
from ser_jax.training.loop import Trained
from ser_jax.training.population import Population
from ser_jax.training.runs import shared_options
from ser_jax.training.together import alike, most_beside


def is_faster() -> bool:
    """Whether variants train faster side by side: where runs are batched, as on an accelerator, by one process."""
    return devices.batches_runs() and not processes.several()


def groups(variants: Sequence[Variant]) -> list[list[Variant]]:
    """Returns the variants in groups, each of those that can train side by side."""
    by_options: dict[tuple[str, int], list[Variant]] = {}
    keys: list[str] = []
    for variant in variants:
        options = {"": variant.name} if is_baseline(variant.config["model"]) else shared_options(variant.config)
        # Two of one key are one training: the second one finds it done.
        name = json.dumps(options, sort_keys=True), keys.count(variant.key)
        by_options.setdefault(name, []).append(variant)
        keys.append(variant.key)
    return [group for found in by_options.values() for group in _groups_of_programs(found)]


def train(variants: Sequence[Variant], store: Path) -> dict[str, Trained]:
    """Trains what is still to train of a group, as far as it can be done side by side; returns it by keys.

    The caller holds the variants' locks. Nothing where fewer than two are left, or where it fails: then it says why,
    and each variant's own training meets the reason or does without.
    """
    with contextlib.ExitStack() as stack:
        try:
            members = _members(variants, store, stack)
            if len(members) < 2:
                return {}
            verify(variants[0].corpus)
            names = {own.name: own.key for own, _ in members}
            runs = sum(len(population.runs) for _, population in members)
            print(f"{len(names)} variants train side by side: {', '.join(names)}", file=sys.stderr, flush=True)
            with progress(f"{len(names)} variants", members[0][1].num_steps * runs) as bar:
                trained = loop.train_side_by_side(
                    {
                        own.name: (population, population_folder(store, own.name, own.key))
                        for own, population in members
                    },
                    report=lambda entry: show(bar, entry, runs),
                )
            return {names[name]: one for name, one in trained.items()}
        except Exception as error:  # whatever it is: each variant by itself is to meet it, and to say so
            reason = one_line(refusal(error) or f"{type(error).__name__}: {error}")
            print(f"note: not trained side by side ({reason}); each trains by itself", file=sys.stderr, flush=True)
            return {}


def _groups_of_programs(variants: list[Variant]) -> list[list[Variant]]:
    """Those of the same programs together, as many as the devices have room for, in groups of about equal size."""
    if len(variants) == 1:
        return [variants]
    found: list[tuple[Population, list[Variant]]] = []
    for variant in variants:
        population = variant.population()
        own = next((group for first, group in found if alike(first, population)), None)
        if own is None:
            found.append((population, [variant]))
        else:
            own.append(variant)
    divided = []
    for population, group in found:
        folds = len(population.runs) // len(population.config["seeds"])
        num_runs = folds * max(len(one.config["seeds"]) for one in group)
        number = -(-len(group) // most_beside(population, num_runs))
        size = -(-len(group) // number)
        divided += [group[first : first + size] for first in range(0, len(group), size)]
    return divided


def _members(variants: Sequence[Variant], store: Path, stack: contextlib.ExitStack) -> list[tuple[Variant, Population]]:
    """What is still to train of variants, as far as it is alike; the locks of what are only some seeds are taken."""
    members: list[tuple[Variant, Population]] = []
    for variant in variants:
        own = still_to_train(variant, store)
        if own is None:
            continue
        (population_folder(store, variant.name, variant.key) / FAILURE).unlink(missing_ok=True)
        if own.key != variant.key and not stack.enter_context(locked(store, own.key, wait=False)):
            continue
        population = own.population()
        if not members or alike(members[0][1], population):
            members.append((own, population))
    return members
