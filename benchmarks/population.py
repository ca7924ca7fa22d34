"""A run among K that train at once, against the same runs one by one, ours and PyTorch's.

python -m benchmarks.population [--runs 1,2,4] [--option width=1.0 ...] [--torch_device cuda]

K runs are folds and seeds of one variant on noise of 2 to 5 s, from the waveform on: crop, augmentation, log-mel,
network, AdamW, moving averages. One by one, ours are populations of one run each, laid out as a user would get them.
PyTorch's twin is trained one after another on log-mel that is computed beforehand, so that it has less to do than
ours; its time for K runs is K times that for one. Before anything is timed, a run among K is compared with the same
run alone. Compiling is apart. Prints a table, and a JSON line for each K and contestant to stderr.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.common import agree, done, emit, take_turns, timed
from benchmarks.corpora import noise
from ser_jax import config as configuration
from ser_jax.commands.common import start_jax
from ser_jax.corpora.corpus import Corpus
from ser_jax.corpora.protocols import Protocol, make_protocol
from ser_jax.training import population as populations
from ser_jax.training.devices import gather
from ser_jax.training.population import Population

FOLDS = 10
CLASSES = 2
UTTERANCES = 400


def main() -> None:
    """Times every K and prints what a run costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default="1,2,4", help="values of K: up to 10, or multiples of 10")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of ShuffleNet V2")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--crop_seconds", type=float, default=3.0)
    parser.add_argument("--hop_ms", type=float, default=20.0)
    parser.add_argument("--steps", type=int, default=2, help="steps of a turn")
    parser.add_argument("--turns", type=int, default=3, help="timed turns of each")
    parser.add_argument("--one_by_one", type=int, default=10, help="the largest K that is trained one by one as well")
    parser.add_argument("--torch_device", default="cpu", help="of the twin; none: leave it out")
    args = parser.parse_args()
    start_jax()
    jax.config.update("jax_enable_compilation_cache", False)  # compiling is timed
    corpus = noise(UTTERANCES)
    protocol, cache = make_protocol(corpus, "random", num_folds=FOLDS), {}
    alone = Training(args, corpus, protocol, cache, 1)
    torch_step = None if args.torch_device == "none" else make_torch_step(args)
    print(f"{'K':>5} {'':22}{'run-steps/s':>12}{'utterances/s':>14}{'a run-step':>12}", end="")
    print(f"{'against at once':>20}{'compile':>10}")
    for count in map(int, args.runs.split(",")):
        together = alone if count == 1 else Training(args, corpus, protocol, cache, count)
        compare(args, corpus, protocol, cache, together)
        benchmark(args, count, together, alone, torch_step)


def benchmark(args: argparse.Namespace, count: int, together: "Training", alone: "Training", torch_step: Any) -> None:
    """Times K runs at once, one by one, and the twin, and prints the figures."""
    contestants = {"ser_jax, at once": together.turn}
    if 1 < count <= args.one_by_one:
        contestants["ser_jax, one by one"] = lambda: [alone.turn() for _ in range(count)]
    if torch_step is not None:
        contestants["PyTorch, one by one"] = lambda: [torch_step() for _ in range(args.steps)]
    seconds = take_turns(contestants, args.turns)
    if torch_step is not None:
        seconds["PyTorch, one by one"] = count * seconds["PyTorch, one by one"]
    for name, values in seconds.items():
        run_step = float(np.median(values)) / args.steps / count
        figures = {
            "runs": count,
            "contestant": name,
            "seconds_per_run_step": run_step,
            "run_steps_per_second": 1 / run_step,
            "utterances_per_second": args.batch / run_step,
            "compile_seconds": together.compile_seconds if name == "ser_jax, at once" else None,
            "runs_in_a_program": together.at_once,
        }
        ratio = float(np.median(values / seconds["ser_jax, at once"]))
        figures["against_at_once"] = ratio
        emit("population", **figures, **{key: value for key, value in vars(args).items() if key != "runs"})
        compiling = f"{together.compile_seconds:8.1f} s" if name == "ser_jax, at once" else ""
        speed = f"{1 / run_step:12.2f}{args.batch / run_step:14.0f}{1e3 * run_step:9.2f} ms"
        print(f"{count:5} {name:22}{speed}{ratio:19.2f}x{compiling}", flush=True)


class Training:
    """K runs in training."""

    def __init__(self, args: argparse.Namespace, corpus: Corpus, protocol: Protocol, cache: dict, count: int) -> None:
        folds = range(min(count, FOLDS))
        if count > FOLDS and count % FOLDS:
            raise SystemExit(f"error: --runs {count}: expected up to {FOLDS}, or a multiple of it")
        self.population = make(args, corpus, protocol, cache, list(folds), list(range(max(count // FOLDS, 1))))
        self.state = populations.initial_state(self.population)
        self._feed = populations.training_feed(self.population, 0)
        self._steps = args.steps
        self._piece = populations.to_devices(self.population, self._feed.take(self._steps))
        arguments = populations.training_arguments(self.population, self.state, self._piece)
        (_, self.at_once), self.compile_seconds = timed(lambda: self.population.programs.train.compile(*arguments))

    def turn(self) -> None:
        """Trains all runs for some steps. The rows are the same in every turn: drawing them is not what is timed."""
        self.state, sums = populations.train_steps(self.population, self.state, self._piece)
        done((self.state, sums))


def make(
    args: argparse.Namespace, corpus: Corpus, protocol: Protocol, cache: dict, folds: list[int], seeds: list[int]
) -> Population:
    """The population of these folds and seeds."""
    options = {"width": 0.5, "attention": "eca", "activation": "hard_swish"}
    options |= dict(option.split("=", 1) for option in args.option)
    changes = {
        "model": {"name": "shufflenet_v2", **options},
        "folds": folds,
        "seeds": seeds,
        "frontend": {"hop_ms": args.hop_ms},
        "augmentation": {"speed": 0.1, "noise": 0.5, "spec_augment": 0.5, "mixup": 0.5},
        "training": {"batch_size": args.batch, "crop_seconds": args.crop_seconds},
    }
    return populations.make_population(
        configuration.merge(configuration.default(), changes), corpus, protocol, cache=cache
    )


def compare(args: argparse.Namespace, corpus: Corpus, protocol: Protocol, cache: dict, together: Training) -> None:
    """Stops where the last of K runs differs from the same run alone after the steps of a turn.

    Adam's first steps turn small differences of gradients into large ones of parameters: the losses are compared.
    """
    if len(together.population.runs) == 1:
        return
    fold, seed = together.population.runs[-1]
    single = make(args, corpus, protocol, cache, [fold], [seed])
    losses = {}
    for name, population in (("alone", single), ("among others", together.population)):
        state = populations.initial_state(population)
        piece = populations.to_devices(population, populations.training_feed(population, 0).take(args.steps))
        _, sums = populations.train_steps(population, state, piece)
        losses[name] = gather(sums, len(population.runs))["loss"][-1]
    agree(f"{len(together.population.runs)} runs", losses, 1e-3)


def make_torch_step(args: argparse.Namespace) -> Callable[[], None]:
    """The twin's training step, on log-mel that lies on its device."""
    from benchmarks import torch_step

    frames = 1 + round(args.crop_seconds * 1000 / args.hop_ms)
    step = torch_step.make_step("eager", argparse.Namespace(**(vars(args) | {"frames": frames})))

    def waited() -> None:
        step()
        torch_step.finish(args.torch_device)

    return waited


if __name__ == "__main__":
    main()
