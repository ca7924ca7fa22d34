"""A training step of K runs at once, for each family of models, and how near it is to the limit.

python -m benchmarks.steps [--model NAME ...] [--runs 50,1,100,10] [--precision tf32 ...] [--batch 32]

From the waveform on, with the augmentation of configs/recipe.py: crops of 2 s, log-mel at a hop of 20 ms, the network
at its default size, AdamW, moving averages. Where no --model is named, four families are measured first, in every
--precision, then the others in the first one alone. The programs of some families for one K are compiled together, then
timed while nothing is compiled. The limit is that of `benchmarks.roofline`, K times:
products and bytes that a step needs at least, at the rates of a large product in the same precision and a large copy.
Prints a table, and a JSON line for each family and K to stderr.
"""

import argparse
import functools
import itertools
import threading
import time
from collections.abc import Collection

import jax
import numpy as np

from benchmarks.common import done, emit, take_turns
from benchmarks.corpora import noise
from benchmarks.roofline import by_hand, make_ceilings
from ser_jax import config as configuration
from ser_jax.commands.common import start_jax
from ser_jax.corpora.corpus import Corpus
from ser_jax.corpora.protocols import Protocol, make_protocol
from ser_jax.frontend import num_features, num_frames
from ser_jax.models import FAMILIES
from ser_jax.training import ahead, background, devices
from ser_jax.training import population as populations
from ser_jax.training.population import Population
from ser_jax.training.precision import PRECISIONS
from ser_jax.training.state import State

FOLDS = 10
# Those whose input is not log-mel, or that are no network to speak of.
LEFT_OUT = {"encoder_head", "linear"}
# Those that say most, should time run out: convolutions, many small kernels, attention, recurrence.
FIRST = ("shufflenet_v2", "cnn", "transformer", "rnn")


def main() -> None:
    """Compiles and times all programs, those of one K after those of another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=sorted(set(FAMILIES) - LEFT_OUT), help="may be repeated")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the only --model")
    parser.add_argument("--runs", default="50,1,100,10", help="values of K: up to 10, or multiples of 10")
    parser.add_argument("--precision", action="append", choices=sorted(PRECISIONS), help="may be repeated; tf32")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a crop")
    parser.add_argument("--steps", type=int, default=12, help="of a turn; a GPU makes four at a time")
    parser.add_argument("--turns", type=int, default=5, help="timed turns of each")
    args = parser.parse_args()
    start_jax()
    jax.config.update("jax_enable_compilation_cache", False)  # compiling is timed
    corpus = noise(400)
    protocol, cache = make_protocol(corpus, "random", num_folds=FOLDS), {}
    begun = time.perf_counter()
    rates = {precision: measure_rates(precision, args.turns) for precision in args.precision or ["tf32"]}
    print(f"{'':26}{'K':>5}{'at once':>9}{'a step':>12}{'of one run':>12}{'limit':>12}{'share':>7}")
    first = args.model or FIRST
    others = [] if args.model else sorted(set(FAMILIES) - LEFT_OUT - set(FIRST))
    together = [(first, list(rates)), (others, list(rates)[:1])]
    for (names, precisions), count in itertools.product(together, map(int, args.runs.split(","))):
        made = {
            (name, precision): make(name, count, precision, args, corpus, protocol, cache)
            for precision, name in itertools.product(precisions, names)
        }
        compile_all(made.values())
        for (name, precision), population in made.items():
            benchmark(name, count, precision, population, args, rates[precision])
    print(f"all programs compiled and timed within {time.perf_counter() - begun:.0f} s")


def measure_rates(precision: str, turns: int) -> dict[str, float]:
    """Operations of a large product and bytes of a large copy, in a second."""
    ceilings = make_ceilings(precision)
    seconds = take_turns({ceiling: call for ceiling, (call, _) in ceilings.items()}, turns)
    return {ceiling: work / float(np.median(seconds[ceiling])) for ceiling, (_, work) in ceilings.items()}


def compile_all(made: Collection[Population]) -> None:
    """Compiles the training programs in threads; what fails here fails again where it is called, and is told there."""
    left = threading.Semaphore(0)

    def compile_training(population: Population) -> None:
        try:
            population.programs.train.begin(*ahead.training_shapes(population))
        finally:
            left.release()

    for population in made:
        background.begin(functools.partial(compile_training, population))
    for _ in made:
        left.acquire()


def benchmark(
    name: str, count: int, precision: str, population: Population, args: argparse.Namespace, rates: dict
) -> None:
    """Times the step of one family, K and precision and prints its row."""
    state = devices.place_runs(any_state(population), population.layout)
    piece = populations.to_devices(population, populations.training_feed(population, 0).take(args.steps))

    def turn() -> None:
        nonlocal state
        state, sums = populations.train_steps(population, state, piece)
        done((state, sums))

    try:
        _, at_once = population.programs.train.compile(*populations.training_arguments(population, state, piece))
        step = float(np.median(take_turns({"step": turn}, args.turns)["step"])) / args.steps
    except Exception as error:
        print(
            f"{name:16}{precision:10}{count:5}  left out ({type(error).__name__}: {str(error).splitlines()[0][:80]})",
            flush=True,
        )
        return
    learner = population.learner
    frames = int(num_frames(learner.frontend, learner.crop_samples))
    size = argparse.Namespace(batch=args.batch, frames=frames, features=num_features(learner.frontend))
    products, moved = by_hand(learner, size)
    limits = {"matmul": 2 * count * products / rates["matmul"], "copy": count * moved / rates["copy"]}
    bound = max(limits, key=limits.get)
    figures = {
        "model": name,
        "runs": count,
        "precision": precision,
        "runs_in_a_program": at_once,
        "step_seconds": step,
        "run_step_seconds": step / count,
        "products": count * products,
        "bytes": count * moved,
        "limit_seconds": limits[bound],
        "bound_by": bound,
        "share_of_limit": limits[bound] / step,
    }
    settings = {key: value for key, value in vars(args).items() if key not in ("model", "runs", "precision", "option")}
    emit("steps", **figures, **settings)
    times = f"{1e3 * step:9.2f} ms{1e3 * step / count:9.2f} ms{1e3 * limits[bound]:9.2f} ms{limits[bound] / step:7.0%}"
    print(f"{name:16}{precision:10}{count:5}{at_once:9}{times}", flush=True)


def make(
    name: str, count: int, precision: str, args: argparse.Namespace, corpus: Corpus, protocol: Protocol, cache: dict
) -> Population:
    """The population of K runs of one family."""
    if count > FOLDS and count % FOLDS:
        raise SystemExit(f"error: --runs {count}: expected up to {FOLDS}, or a multiple of it")
    options = dict(option.split("=", 1) for option in args.option)
    config = configuration.merge(
        configuration.default(),
        {
            "folds": list(range(min(count, FOLDS))),
            "seeds": list(range(max(count // FOLDS, 1))),
            "frontend": {"hop_ms": 20.0, "deltas": 2 if name == "crnn" else 0},
            "augmentation": {"speed": 0.15, "vocal_tract": 0.1, "spec_augment": 0.5},
            "training": {"batch_size": args.batch, "crop_seconds": args.seconds, "precision": precision},
        },
    )
    model = {"attention": "eca"} if name in ("cnn", "shufflenet_v2") else {}
    config["model"] = {"name": name, **model, **options}
    return populations.make_population(config, corpus, protocol, cache=cache)


def any_state(population: Population) -> State:
    """Small numbers: how long a step takes does not depend on them, and drawing the first would be compiled."""
    rng = np.random.default_rng(0)
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), populations.state_shapes(population))
    drawn = jax.tree.map(lambda leaf: 0.1 * rng.standard_normal(leaf.shape, np.float32), state.parameters)
    return state.replace(parameters=drawn, diverged_at=np.full_like(state.diverged_at, -1))


if __name__ == "__main__":
    main()
