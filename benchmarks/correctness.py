"""Does a training step on this machine's accelerator give what it gives on the CPU, in float32?

python -m benchmarks.correctness [--model shufflenet_v2] [--option NAME=VALUE ...]

One step from the same state on the same batch, with the matrix products in full float32 on both; then with the
accelerator's own default precision, which is only told. Compared are the loss, the updated moving statistics, and the
gradient by what the optimizer's first moment kept of it: parameters would not do, since Adam's first step makes its
rounding errors as large as its values. Exit status 1 where float32 differs by more than the tolerance.
"""

import argparse
import functools

import jax
import numpy as np

from benchmarks.common import emit
from benchmarks.roofline import make, make_program
from ser_jax.training.step import train_step

TOLERANCE = 1e-3  # of the largest value: sums of tens of thousands of float32 terms, in another order


def main() -> None:
    """Compares the two platforms and prints by how much they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shufflenet_v2")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--frames", type=int, default=152)
    parser.add_argument("--features", type=int, default=64)
    args = parser.parse_args()
    args.steps = 1
    options = dict(option.split("=", 1) for option in args.option)
    expected = step_on(jax.devices("cpu")[0], "highest", options, args)
    failed = []
    print(f"{'':24}{'loss':>10}{'gradient':>12}{'statistics':>12}   difference, of the largest value")
    for precision in ("highest", "default"):
        found = step_on(jax.devices()[0], precision, options, args)
        differences = {
            what: float(np.abs(found[what] - expected[what]).max() / np.abs(expected[what]).max()) for what in expected
        }
        emit("correctness", model=args.model, options=options, precision=precision, **differences)
        print(f"{precision + ' precision':24}{differences['loss']:10.1e}", end="")
        print(f"{differences['gradient']:12.1e}{differences['statistics']:12.1e}")
        if precision == "highest" and not max(differences.values()) <= TOLERANCE:
            failed.append(precision)
    if failed:
        raise SystemExit(f"error: {args.model}: {jax.devices()[0].device_kind} and CPU differ")


def step_on(device: jax.Device, precision: str, options: dict[str, str], args: argparse.Namespace) -> dict:
    """One step on `device`: its loss, gradient (as the first moment) and batch statistics."""
    with jax.default_device(device), jax.default_matmul_precision(precision):
        learner = make(args.model, options, args.frames, args.features)
        _, state, (run, rows, resident, _) = make_program(learner, args)
        state, run, rows, resident = jax.device_put((state, run, rows, resident), device)
        state, sums = jax.jit(functools.partial(train_step, learner))(state, run, rows, resident)
        first_moment = state.optimizer[1].mu
    found = {"loss": sums["loss"], "gradient": first_moment, "statistics": state.batch_stats}
    found = {what: np.asarray(value, np.float64) for what, value in found.items()}
    return {what: value for what, value in found.items() if value.size} | {"loss": found["loss"][None]}


if __name__ == "__main__":
    main()
