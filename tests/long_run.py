"""Trains for long and often in one process, and looks whether memory, arrays, threads and open files grow.

    python -m tests.long_run --steps 20000 --populations 200

First one training of so many steps, with validations and checkpoints throughout; then so many populations, each
trained, tested and checkpointed, one after another. Prints what the process holds as it goes on. The status is 1 where
memory grew by more than 10 % after the first fifth, or anything else by more than a tenth and two.
"""

import argparse
import gc
import os
import shutil
import sys
import tempfile
from pathlib import Path

import jax

from ser_jax.inference.tables import test_predictions
from ser_jax.training import loop
from tests.training.tiny import tiny_corpus, tiny_population

COLUMNS = ("memory, MB", "arrays", "threads", "open files")


def held() -> tuple[int, int, int, int]:
    """Returns what this process holds: resident memory, JAX's arrays, threads and open files."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    memory = pages * os.sysconf("SC_PAGE_SIZE") // 1_000_000
    counts = (len(jax.live_arrays()), len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd")))
    return memory, *counts


def growth(rows: list[tuple[int, int, int, int]]) -> list[str]:
    """Returns what grew between the first fifth and the end."""
    first, last = rows[len(rows) // 5], rows[-1]
    allowed = (1.1 * first[0], *(1.1 * count + 2 for count in first[1:]))
    return [f"{name}: {a} to {b}" for name, a, b, most in zip(COLUMNS, first, last, allowed, strict=True) if b > most]


def many_steps(folder: Path, steps: int) -> list[tuple[int, int, int, int]]:
    """Trains one population for so many steps; returns what was held a hundred times on the way."""
    corpus, protocol = tiny_corpus()
    training = {"train_steps": steps, "validate_steps": max(steps // 100, 1), "checkpoint_seconds": 1.0}
    population = tiny_population(corpus, protocol, training=training)
    rows = []

    def report(entry: dict) -> None:
        if entry["step"] % training["validate_steps"] == 0:
            rows.append(held())
            _print(f"step {entry['step']}", rows)

    loop.train(population, folder, report=report)
    size = (folder / "log.jsonl").stat().st_size
    print(f"\nlog.jsonl has {size / 1e6:.2f} MB, {len((folder / 'log.jsonl').read_text().splitlines())} rows\n")
    return rows


def many_populations(folder: Path, number: int) -> list[tuple[int, int, int, int]]:
    """Trains and tests so many populations of different seeds; returns what was held after each."""
    corpus, protocol = tiny_corpus()
    rows, cache = [], {}  # the programs, as the variants of a study share them
    for seed in range(number):
        population = tiny_population(corpus, protocol, cache=cache, seeds=(seed,), folds=(0,))
        state, _ = loop.train(population, folder / str(seed))
        test_predictions(population, state, "plain")
        del population, state
        shutil.rmtree(folder / str(seed))
        rows.append(held())
        _print(f"population {seed + 1}", rows, every=10)
    return rows


def _print(what: str, rows: list[tuple[int, int, int, int]], every: int = 10) -> None:
    if len(rows) == 1:
        print(f"| after | {' | '.join(COLUMNS)} |\n|---|---|---|---|---|")
    if len(rows) % every == 0 or len(rows) == 1:
        print(f"| {what} | {' | '.join(map(str, rows[-1]))} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--populations", type=int, default=200)
    args = parser.parse_args()
    grown = []
    with tempfile.TemporaryDirectory() as folder:
        if args.steps:
            grown += growth(many_steps(Path(folder) / "long", args.steps))
        if args.populations:
            grown += growth(many_populations(Path(folder), args.populations))
    print(*(f"grew: {one}" for one in grown), sep="\n")
    return int(bool(grown))


if __name__ == "__main__":
    sys.exit(main())
