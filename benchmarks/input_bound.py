"""What the streaming feed costs in a training: waiting for utterances, and reading during the steps.

python -m benchmarks.input_bound [--turns 20] [--steps 4] [--model NAME] [--option model.width=1.0 ...]

ShuffleNet V2 0.5x of configs/recipe.py, one run, batches of 32 crops of 3 s out of utterances of 2 to 5 s. The
training loop's calls with the streaming feed, which reads the next piece while the steps are made, take turns with
calls of the same program that are given one piece again and again, and with the feed alone. The share of the wall time
is what the streaming turns took longer. It is hard to see on a machine that does other work, so there is also the share
of the processor time: what the feed alone computes for a step, of that and the step. `late` counts the calls whose
steps were done before the next piece was there: only then does a step wait. That the feed brings the right utterances
is checked first. A small window makes every turn read as much as it uses.
Prints a table, and a JSON line for each contestant to stderr. Compiling takes most of the time: a folder in
JAX_COMPILATION_CACHE_DIR keeps what was compiled.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from benchmarks.common import emit
from benchmarks.corpora import all_for_training, compare_piece, noise
from ser_jax import config as configuration
from ser_jax.training.population import (
    Population,
    initial_state,
    make_population,
    to_devices,
    train_steps,
    training_arguments,
    training_feed,
)

CONFIG = Path(__file__).parents[1] / "configs" / "recipe.py"


def main() -> None:
    """Builds the training, checks its first piece and times its calls."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=2048)
    parser.add_argument("--window", type=int, default=512, help="utterances among which is shuffled")
    parser.add_argument("--model", default="shufflenet_v2")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the configuration")
    parser.add_argument("--steps", type=int, default=4, help="steps of a turn, which is one call of the program")
    parser.add_argument("--turns", type=int, default=20, help="timed turns of each")
    args = parser.parse_args()
    options = [f"order.window={args.window}", "training.crop_seconds=3.0"]
    options += ["frontend.normalization=utterance", "frontend.trim_db=0"]
    overrides = [f"--config.{option}" for option in ["feed=streaming", *options, *args.option]]
    config = configuration.load(f"{CONFIG}:emodb,{args.model}", overrides)
    corpus = noise(args.utterances)
    with tempfile.TemporaryDirectory() as folder:
        population = make_population(config, corpus, all_for_training(corpus), data_dir=folder)
        report(times(population, args), args)


def times(population: Population, args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Seconds of wall time, seconds of processor time and whether the piece came late, [turns, 3]."""
    feed = training_feed(population, 0)
    again = feed.take(args.steps)
    compare_piece(population, again)
    again = following = to_devices(population, again)
    state = initial_state(population)
    population.programs.train.compile(*training_arguments(population, state, again))

    def streaming() -> bool:
        nonlocal state, following
        state, sums = train_steps(population, state, following)
        following = to_devices(population, feed.take(args.steps))
        late = all(leaf.is_ready() for leaf in jax.tree.leaves(sums))
        jax.block_until_ready(sums)
        return late

    def one_piece() -> bool:
        nonlocal state
        state, sums = train_steps(population, state, again)
        jax.block_until_ready(sums)
        return False

    def alone() -> bool:
        to_devices(population, feed.take(args.steps))
        return False

    contestants = {"one piece": one_piece, "streaming feed": streaming, "feed alone": alone}
    taken: dict[str, list[tuple]] = {name: [] for name in contestants}
    for turn in range(args.turns + 1):
        for name in sorted(contestants, reverse=bool(turn % 2)):  # no one always comes after the same other
            measured = timed(contestants[name])
            if turn:  # the first turn warms up
                taken[name].append(measured)
    feed.close()
    return {name: np.array(values, float) for name, values in taken.items()}


def timed(turn: Callable[[], bool]) -> tuple[float, float, bool]:
    """Seconds of wall time and of processor time, and what the turn returns."""
    wall, processor = time.perf_counter(), time.process_time()
    late = turn()
    return time.perf_counter() - wall, time.process_time() - processor, late


def report(taken: dict[str, np.ndarray], args: argparse.Namespace) -> None:
    """Prints the medians, and the shares that follow from them."""
    longer = 1 - taken["one piece"][:, 0] / taken["streaming feed"][:, 0]
    low, share, high = np.percentile(longer, (25, 50, 75))
    processor = {name: float(np.median(values[:, 1])) for name, values in taken.items()}
    processor_share = processor["feed alone"] / (processor["feed alone"] + processor["one piece"])
    late = int(taken["streaming feed"][:, 2].sum())
    print(f"{'':20}{'a step':>12}{'fastest':>12}{'processor':>14}")
    for name, values in taken.items():
        figures = {
            "step_seconds": float(np.median(values[:, 0])) / args.steps,
            "fastest_seconds": float(np.min(values[:, 0])) / args.steps,
            "processor_seconds": processor[name] / args.steps,
        }
        step, fastest, computing = (1e3 * seconds for seconds in figures.values())
        print(f"{name:20}{step:9.1f} ms{fastest:9.1f} ms{computing:11.1f} ms")
        if name == "streaming feed":
            figures |= {"share": share, "share_quartiles": [low, high], "processor_share": processor_share}
            figures |= {"late": late}
        emit("input_bound", contestant=name, load=os.getloadavg()[0], **figures, **vars(args))
    print(f"share of the wall time {share:.1%} (quartiles {low:.1%} to {high:.1%})")
    print(f"share of the processor time {processor_share:.1%}; {late} of {args.turns} pieces late")


if __name__ == "__main__":
    main()
