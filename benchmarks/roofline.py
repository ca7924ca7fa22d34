"""How near the training step of each model comes to the limit of the machine.

python -m benchmarks.roofline [--model NAME ...] [--option NAME=VALUE ...] [--batch 32] [--frames 152]

A step is ours whole but for the log-mel: it cuts a batch out of resident features, mixes, trains, and updates AdamW and
the moving averages. Its work is counted twice. By hand: three times the products of a forward pass
(`ser_jax.models.cost`), and as bytes the least that has to move: the optimizer's state once to and fro, and every
product's result written and read, forward and backward. By XLA's cost analysis of the compiled program, which counts
the body of a loop once (too little for recurrent models) and each kernel's arguments as if no cache held them.
The ceilings, a large matrix product and a large copy, are measured in turns with the step. The limit is the time that
the hand count takes at the ceilings, the longer of the two; the share is limit / measured.
Prints a table, and a JSON line for each model to stderr.
"""

import argparse
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import (
    add_model_arguments,
    add_step_arguments,
    chosen_models,
    done,
    emit,
    take_turns,
    timed,
)
from ser_jax import config as configuration
from ser_jax.feeds.resident import Resident
from ser_jax.frontend import Frontend, Strengths
from ser_jax.models import FAMILIES, build, cost
from ser_jax.training.precision import activations_dtype, products_in
from ser_jax.training.state import Learner, Run, State, initialise, make_learner
from ser_jax.training.step import train_step

NUM_CLASSES = 7
UTTERANCES = 64
# Arrays as long as the parameter vector that a step reads or writes: the gradient, the parameters, two moments and the
# moving average, each read and written.
STATE_TRAFFIC = 10
# Every product's result is written and read forward, and read once more backward, where its gradient is written and
# read.
RESULT_TRAFFIC = 5


def main() -> None:
    """Measures every model and the ceilings, and prints the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser, FAMILIES)
    add_step_arguments(parser)
    args = parser.parse_args()
    chosen = chosen_models(parser, args, set(FAMILIES) - {"linear"})
    ceilings = make_ceilings()
    print(f"{'':16}{'G products':>11}{'by XLA':>8}{'MB by hand':>12}{'by XLA':>8}{'median':>11}", end="")
    print(f"{'limit':>10}{'share':>7}  bound by{'compile':>10}")
    for name, options in chosen:
        benchmark(name, options, args, ceilings)


def benchmark(name: str, options: dict[str, str], args: argparse.Namespace, ceilings: dict[str, tuple]) -> None:
    """Measures one model and prints its row."""
    learner = make(name, options, args.frames, args.features)
    program, state, arguments = make_program(learner, args)
    compiled, compile_seconds = timed(lambda: program.lower(state, *arguments).compile())

    def turn() -> None:
        nonlocal state
        state = compiled(state, *arguments)
        done(state)

    contestants = {"step": turn} | {ceiling: call for ceiling, (call, _) in ceilings.items()}
    seconds = take_turns(contestants, args.turns)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.parameters)):
        raise SystemExit(f"error: {name}: the parameters are no longer finite")
    rates = {ceiling: work / float(np.median(seconds[ceiling])) for ceiling, (_, work) in ceilings.items()}
    measured = float(np.median(seconds["step"])) / args.steps
    products, moved = by_hand(learner, args)
    analysis = compiled.cost_analysis()
    limits = {"matmul": 2 * products / rates["matmul"], "copy": moved / rates["copy"]}
    bound = max(limits, key=limits.get)
    figures = {
        "model": name,
        "options": options,
        "products": products,
        "products_xla": analysis["flops"] / 2,
        "bytes": moved,
        "bytes_xla": analysis["bytes accessed"],
        "matmul_flops_per_second": rates["matmul"],
        "copy_bytes_per_second": rates["copy"],
        "median_seconds": measured,
        "limit_seconds": limits[bound],
        "bound_by": bound,
        "share_of_limit": limits[bound] / measured,
        "compile_seconds": compile_seconds,
        "memory_bytes": compiled.memory_analysis().temp_size_in_bytes,
    }
    emit("roofline", **figures, **{key: value for key, value in vars(args).items() if key not in ("model", "option")})
    work = f"{products / 1e9:11.3f}{figures['products_xla'] / 1e9:8.3f}"
    work += f"{moved / 1e6:12.1f}{figures['bytes_xla'] / 1e6:8.0f}"
    times = f"{1e3 * measured:8.1f} ms{1e3 * limits[bound]:7.1f} ms{limits[bound] / measured:6.0%}"
    print(f"{name:16}{work}{times}  {bound:8}{compile_seconds:8.1f} s", flush=True)


def make_ceilings(precision: str = "tf32") -> dict[str, tuple[Callable[[], None], float]]:
    """A large matrix product and a large copy: {name: (call, operations or bytes of a call)}."""
    on_cpu = jax.default_backend() == "cpu"
    size, length = (1024, 1 << 24) if on_cpu else (8192, 1 << 29)
    matrix = jnp.full((size, size), 1e-3, activations_dtype(precision))
    vector = jnp.zeros(length, jnp.float32)
    # In place: where new memory is asked for at every call, its first use is slower than the copy.
    shift = jax.jit(lambda x: x + 1, donate_argnums=0)

    @jax.jit
    def multiply(one: jax.Array, other: jax.Array) -> jax.Array:
        with products_in(precision):
            return jnp.matmul(one, other)

    def copy() -> None:
        nonlocal vector
        vector = shift(vector)
        done(vector)

    return {"matmul": (lambda: done(multiply(matrix, matrix)), 2.0 * size**3), "copy": (copy, 2.0 * vector.nbytes)}


def make(name: str, options: dict[str, str], num_frames: int, num_features: int) -> Learner:
    """A model with what trains it, on features made elsewhere."""
    frontend = Frontend(kind="precomputed", features="noise", dims=num_features, frame_ms=20.0)
    return make_learner(
        build(name, NUM_CLASSES, **options),
        frontend,
        num_classes=NUM_CLASSES,
        crop_samples=num_frames,
        num_steps=1000,
        warmup_steps=100,
        optimizer=configuration.default()["optimizer"],
    )


def make_program(learner: Learner, args: argparse.Namespace) -> tuple[Callable, State, tuple]:
    """The program that makes some steps, not yet compiled, a state, and the program's other arguments."""
    rng = np.random.default_rng(0)
    key = jax.random.key(0)
    run = Run(
        key=key,
        learning_rate=np.float32(1e-3),
        weight_decay=np.float32(0.05),
        label_smoothing=np.float32(0.1),
        class_weights=np.ones(NUM_CLASSES, np.float32),
        loss_weights={"emotion": np.float32(1)},
        strengths=jax.tree.map(np.float32, Strengths()),
        ema_decay=np.float32(0.99),
    )
    # How long a step takes does not depend on the values: small ones in place of an initialisation to be compiled.
    shapes = jax.eval_shape(functools.partial(initialise, learner), key, None)
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    drawn = jax.tree.map(lambda leaf: 0.1 * rng.standard_normal(leaf.shape, np.float32), shapes.parameters)
    state = state.replace(parameters=drawn)
    length = args.frames
    resident = Resident(
        samples=rng.standard_normal((UTTERANCES * length, args.features), np.float32),
        start=np.arange(UTTERANCES, dtype=np.int32) * length,
        num_samples=np.full(UTTERANCES, length, np.int32),
        label=rng.integers(NUM_CLASSES, size=UTTERANCES).astype(np.int32),
    )
    rows = rng.integers(UTTERANCES, size=args.batch).astype(np.int32)

    def steps(state: State, run: Run, rows: jax.Array, resident: Resident, count: jax.Array) -> State:
        # The number of steps is an argument: XLA then counts the work of one.
        return jax.lax.fori_loop(0, count, lambda _, state: train_step(learner, state, run, rows, resident)[0], state)

    arguments = jax.device_put((run, rows, resident, jnp.int32(args.steps)))
    return jax.jit(steps, donate_argnums=0), jax.device_put(state), arguments


def by_hand(learner: Learner, args: argparse.Namespace) -> tuple[float, float]:
    """The multiply-adds of one step, and the bytes that it has to move at least, results in the learner's precision."""
    found = cost.cost(learner.model, args.frames, args.features)
    inputs = jax.ShapeDtypeStruct((1, args.frames, args.features), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
    variables = jax.eval_shape(lambda *inputs: learner.model.init(jax.random.key(0), *inputs, train=False), *inputs)
    forward = functools.partial(learner.model.apply, train=False)
    values = results(jax.make_jaxpr(lambda *call: forward(*call).logits)(variables, *inputs).jaxpr)
    size = jnp.dtype(activations_dtype(learner.precision)).itemsize
    moved = 4 * STATE_TRAFFIC * learner.num_parameters + size * RESULT_TRAFFIC * args.batch * values
    return 3.0 * args.batch * found.multiply_adds, float(moved)


def results(jaxpr: Any) -> int:
    """The values that the matrix products and convolutions of a traced function give."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            total += math.prod(equation.outvars[0].aval.shape)
        for parameter in equation.params.values():
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                total += equation.params.get("length", 1) * results(inner)
    return total


if __name__ == "__main__":
    main()
