"""How long do the programs of a study's variants take on this device, from nothing to a tested population?

python -m benchmarks.variant --config configs/studies/attention.py:emodb,eca --variant eca [--variant ...] [--seeds 5]

Each variant is measured as `launch.py study` would train it, all folds and seeds at once: its first parameters, the
compilation of its training program (without a cache, and with its first step), a step, in a call of many, and the test
of all runs, with its compilation and again. Nothing is trained to the end. Prints a table, and a JSON line for each
variant to stderr.
"""

import argparse
import dataclasses

import jax

from benchmarks.common import done, emit, timed
from ser_jax import config as configuration
from ser_jax.commands.common import start_jax
from ser_jax.errors import UserError
from ser_jax.inference import tables
from ser_jax.studies.plan import make_plan
from ser_jax.studies.variants import prepare
from ser_jax.training import population as populations
from ser_jax.training.population import Population


def main() -> None:
    """Measures every variant and prints its row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/studies/attention.py:emodb,eca")
    parser.add_argument("--variant", action="append", metavar="NAME", help="only this one; may be repeated")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40, help="of the timed call")
    parser.add_argument("--data_dir")
    args = parser.parse_args()
    start_jax()
    jax.config.update("jax_enable_compilation_cache", False)  # compiling is timed
    plan = make_plan(configuration.load(args.config) | {"seeds": list(range(args.seeds))})
    chosen = {name: plan.variants[name] for name in args.variant or plan.variants if name in plan.variants}
    if len(chosen) < len(args.variant or ()):
        parser.error(f"--variant: expected some of {', '.join(map(repr, plan.variants))}")
    print(f"{'':36}{'runs':>5}{'draw':>9}{'compile':>10}{'a step':>11}{'a run-step':>12}{'a training':>12}{'test':>17}")
    for name in chosen:
        (variant,) = prepare(dataclasses.replace(plan, variants={name: chosen[name]}), args.data_dir)
        measure(name, variant.population(), args)


def measure(name: str, population: Population, args: argparse.Namespace) -> None:
    """Times what a population goes through, and prints it."""
    state, initialise = timed(lambda: populations.initial_state(population))
    feed = populations.training_feed(population, 0)

    def steps(count: int) -> None:
        nonlocal state
        piece = populations.to_devices(population, feed.take(count))
        state, sums = populations.train_steps(population, state, piece)
        done((state, sums))

    _, compiling = timed(lambda: steps(1))
    steps(1)
    count = min(args.steps, population.num_steps)
    _, seconds = timed(lambda: steps(count))
    _, first_test = timed(lambda: tables.test_predictions(population, state, name))
    _, test = timed(lambda: tables.test_predictions(population, state, name))
    runs, step = len(population.runs), seconds / count
    figures = {
        "variant": name,
        "runs": runs,
        "initialise_seconds": initialise,
        "compile_seconds": compiling,
        "step_seconds": step,
        "run_step_seconds": step / runs,
        "utterances_per_second": runs * population.config["training"]["batch_size"] / step,
        "training_seconds": step * population.num_steps,
        "first_test_seconds": first_test,
        "test_seconds": test,
    }
    emit("variant", **figures, config=args.config, seeds=args.seeds, steps=count)
    print(
        f"{name:36}{runs:5}{initialise:7.1f} s{compiling:8.1f} s{1e3 * step:8.1f} ms{1e3 * step / runs:9.2f} ms", end=""
    )
    print(f"{step * population.num_steps:10.1f} s{first_test:7.1f}, {test:5.1f} s", flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
