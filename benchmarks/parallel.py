"""What spreading a training over devices costs with one device, and gains with several.

python -m benchmarks.parallel [--model shufflenet_v2 --option model.width=tiny] [--turns 80] [--devices 2]

The training program of a small model, a TCN unless `--model` says another. On one device, one run: the training steps
under `jax.jit`, along an axis of runs as every population has them, and without it; spread by `pmap` as runs are, and
spread by `pmap` as a batch that devices share (with its sums over devices, though there is only one). The parameters
are compared first. A call without a step shows what a call costs, however many steps it makes: trainings make calls of
some seconds. Then a population of several runs, on one device and on more; on a CPU `--devices` says how many there
are. Contestants take turns; a ratio is the median over turns, and that of the fastest turns where little else ran.
Prints tables, and a JSON line for each contestant to stderr.
"""

import argparse
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from benchmarks.common import agree, done, emit, take_turns
from benchmarks.corpora import all_for_training
from ser_jax import config as configuration
from ser_jax.corpora.synthetic import make_synthetic
from ser_jax.numbers import count
from ser_jax.training import devices, programs
from ser_jax.training import population as populations
from ser_jax.training.devices import Layout
from ser_jax.training.population import Population, make_population
from ser_jax.training.state import Learner, Run, State

CONFIG = Path(__file__).parents[1] / "configs" / "recipe.py"
TOLERANCE = 1e-5
OPTIONS = ("training.crop_seconds=1.2", "frontend.normalization=utterance")
SMALL = ("model.width=8", "model.levels=3")  # of the default model, whose steps are to hide little

Call = Callable[[int], Any]  # makes so many steps and returns the state


def main() -> None:
    """Times one run on one device, then a population on one and on more."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tcn")
    parser.add_argument("--option", action="append", metavar="NAME=VALUE", help="of the configuration")
    parser.add_argument("--steps", type=int, default=4, help="steps of a call, which is a turn")
    parser.add_argument("--turns", type=int, default=80, help="timed turns of each on one device")
    parser.add_argument("--runs", type=int, default=8, help="of the population")
    parser.add_argument("--devices", type=int, default=2, help="of a CPU")
    parser.add_argument("--population_turns", type=int, default=20, help="timed turns of each population")
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", args.devices)
    one_device(args)
    more_devices(args)


def one_device(args: argparse.Namespace) -> None:
    """What spreading costs where nothing is gained by it."""
    population, sharing = (population_of(1, split, args) for split in ("runs", "batch"))
    device = tuple(jax.devices()[:1])
    contestants = {
        "jit": plain(population, args, axis_of_runs=True),
        "jit, no axis of runs": plain(population, args),
        "pmap over runs": spread(population, population.learner, Layout(device), args),
        "pmap over a shared batch": spread(population, sharing.learner, Layout(device, shares_batch=True), args),
    }
    first = {name: call(2) for name, call in contestants.items()}
    for what in ("parameters", "batch_stats"):
        vectors = {name: ravel_pytree(getattr(state, what))[0] for name, state in first.items()}
        agree(what, vectors, TOLERANCE)
    seconds = take_turns({name: functools.partial(call, args.steps) for name, call in contestants.items()}, args.turns)
    empty = take_turns({name: functools.partial(call, 0) for name, call in contestants.items()}, args.turns)
    columns = f"{'step':>11}{'against jit':>13}{'quartiles':>17}{'fastest':>10}{'call without a step':>22}"
    print(f"{'one run, one device':26}{columns}")
    for name, values in seconds.items():
        low, ratio, high = np.percentile(values / seconds["jit"], (25, 50, 75))
        step, call = float(np.median(values)) / args.steps, float(np.median(empty[name]))
        fastest = values.min() / seconds["jit"].min()
        times = f"{1e3 * step:8.2f} ms{ratio:12.3f}x{low:9.3f} to {high:.3f}{fastest:9.3f}x{1e3 * call:19.2f} ms"
        print(f"{name:26}{times}")
        record = {"contestant": name, "runs": 1, "devices": 1, "step_seconds": step, "call_seconds": call}
        record |= {"against_jit": ratio, "against_jit_quartiles": [low, high], "fastest_against_jit": fastest}
        write(record, args)


def more_devices(args: argparse.Namespace) -> None:
    """What a population gains by more devices."""
    population = population_of(args.runs, "runs", args)
    counts = [n for n in range(1, len(jax.devices()) + 1) if args.runs % n == 0]
    contestants = {n: spread(population, population.learner, Layout(tuple(jax.devices()[:n])), args) for n in counts}
    calls = {n: functools.partial(call, args.steps) for n, call in contestants.items()}
    seconds = take_turns(calls, args.population_turns)
    print(f"\n{f'{args.runs} runs':28}{'steps of all runs':>20}{'against one':>13}{'quartiles':>18}")
    for n, values in seconds.items():
        low, ratio, high = np.percentile(seconds[1] / values, (25, 50, 75))
        rate = args.runs * args.steps / float(np.median(values))
        name = count(n, "device")
        print(f"{name:28}{rate:18.0f}/s{ratio:12.2f}x{low:9.2f} to {high:.2f}x")
        record = {"contestant": name, "devices": n, "run_steps_per_second": rate}
        write(record | {"against_one_device": ratio, "against_one_device_quartiles": [low, high]}, args)


def write(record: dict[str, Any], args: argparse.Namespace) -> None:
    """Prints a line of JSON."""
    emit("parallel", **vars(args) | {"load": os.getloadavg()[0]} | record)


def population_of(runs: int, split: str, args: argparse.Namespace) -> Population:
    """So many runs, which differ in their seeds."""
    options = (f"training.split={split}", *OPTIONS, *(args.option or (SMALL if args.model == "tcn" else ())))
    config = configuration.load(
        f"{CONFIG}:emodb,{args.model},transductive", [f"--config.{option}" for option in options]
    )
    corpus = make_synthetic(num_speakers=4, utterances_per_speaker=16)
    return make_population(config | {"seeds": tuple(range(runs))}, corpus, all_for_training(corpus))


def plain(population: Population, args: argparse.Namespace, axis_of_runs: bool = False) -> Call:
    """The training steps of one run, compiled as they are, or along an axis of runs as `on_devices` has it."""
    state, run, rows = arguments(population, args)
    state, run = jax.tree.map(lambda leaf: leaf[0, 0], (state, run))
    resident = jax.device_put(jax.device_get(population.resident), jax.devices()[0])
    steps, rows = training(population.learner), rows[0, 0]
    steps_of_one = functools.partial(steps, devices.alone)

    def steps_of_all(state: State, run: Run, rows: np.ndarray, *shared: Any) -> Any:
        if devices.batches_runs():
            return steps(devices.over_runs(population.programs.train.kinds), state, run, rows, *shared)
        return jax.lax.map(lambda own: steps_of_one(*own, *shared), (state, run, rows))

    program = jax.jit(steps_of_one, donate_argnums=0)
    if axis_of_runs:
        state, run, rows = jax.tree.map(lambda leaf: leaf[None], (state, run, rows))
        program = jax.jit(steps_of_all, donate_argnums=0)

    def call(count: int) -> State:
        nonlocal state
        state, _ = program(state, run, rows, jnp.int32(count), resident, None)
        done(state)
        return state

    return call


def spread(population: Population, learner: Learner, layout: Layout, args: argparse.Namespace) -> Call:
    """The training program of all runs on these devices, as populations have it."""
    state, run, rows = arguments(population, args)
    state, run = jax.tree.map(lambda leaf: leaf.reshape(layout.groups, -1, *leaf.shape[2:]), (state, run))
    rows = devices.spread_parts(rows, layout)
    resident = devices.replicate(jax.device_get(population.resident), layout.devices)
    program = devices.on_devices(training(learner), layout, population.programs.train.kinds, "run", donate=1)

    def call(count: int) -> State:
        nonlocal state
        state, _ = program(state, run, rows, jnp.int32(count), resident, None)
        done(state)
        return state

    return call


def arguments(population: Population, args: argparse.Namespace) -> tuple[State, Run, np.ndarray]:
    """The first state, the runs' values, and the rows of the first steps, [1, runs, steps, batch]."""
    rows = populations.training_feed(population, 0).take(args.steps).rows
    return populations.initial_state(population), population.run_values, np.concatenate(rows, axis=-1)[None]


def training(learner: Learner) -> Callable:
    """The training steps, as `on_devices` takes them."""
    return functools.partial(programs._train_steps, learner)


if __name__ == "__main__":
    main()
