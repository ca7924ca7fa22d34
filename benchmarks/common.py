"""What the benchmarks share: turns, a check that results agree, figures as JSON lines, and the name of the device."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

REFERENCES = Path(__file__).parents[1] / "tests" / "references"  # where the PyTorch twins are

_PAUSE_SECONDS = (
    0.02  # longer than the threads of PyTorch's and ONNX Runtime's pools keep a core busy, waiting for work
)


def add_model_arguments(parser: argparse.ArgumentParser, models: Iterable[str]) -> None:
    """Adds the options that say which models are measured, and on what."""
    parser.add_argument("--model", action="append", choices=sorted(models), help="only this one; may be repeated")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the only --model")
    parser.add_argument("--features", type=int, default=64)


def add_step_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a benchmark of training steps."""
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--frames", type=int, default=152)
    parser.add_argument("--turns", type=int, default=10, help="timed turns of each")
    parser.add_argument("--steps", type=int, default=4, help="steps of a turn")


def chosen_models(
    parser: argparse.ArgumentParser, args: argparse.Namespace, default: Iterable[str]
) -> list[tuple[str, dict[str, str]]]:
    """Returns each model that is to be measured, with its options."""
    names = args.model or sorted(default)
    if args.option and len(names) > 1:
        parser.error("--option: expected one --model that it is an option of")
    return [(name, dict(option.split("=", 1) for option in args.option)) for name in names]


def take_turns(contestants: Mapping[str, Callable[[], Any]], turns: int) -> dict[str, np.ndarray]:
    """Times calls that return when their work is done; returns the seconds of each one's turns, {name: [turns]}.

    The contestants take turns, in another order each time, so that whatever else the machine does meets all alike. A
    call of each before the first turn warms up and does not count. A pause before each call keeps the threads of the
    one before it, which look out for more work for a while, from taking a core.
    """
    names, order = list(contestants), np.random.default_rng(0)
    seconds = np.empty((turns, len(names)))
    for contestant in contestants.values():
        contestant()
    for row in seconds:
        for i in order.permutation(len(names)):
            time.sleep(_PAUSE_SECONDS)
            begun = time.perf_counter()
            contestants[names[i]]()
            row[i] = time.perf_counter() - begun
    return dict(zip(names, seconds.T, strict=True))


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Returns what a call does, and its seconds."""
    begun = time.perf_counter()
    result = function()
    return result, time.perf_counter() - begun


def emit(benchmark: str, **figures: Any) -> None:
    """Prints one JSON line of figures to stderr; tables for people go to stdout."""
    where = {"device": device(), "platform": jax.default_backend()}
    print(json.dumps({"benchmark": benchmark, **where, **figures}), file=sys.stderr, flush=True)


def device() -> str:
    """What JAX computes on."""
    if jax.default_backend() != "cpu":
        return jax.devices()[0].device_kind
    from ser_jax.studies.provenance import hardware  # needs packages that a machine with a GPU may lack

    return hardware()["device"]


def agree(what: str, results: Mapping[str, Any], tolerance: float) -> None:
    """Stops the benchmark where results differ from the first by more than `tolerance` of its largest value."""
    (first, expected), *others = ((name, np.asarray(result, np.float64)) for name, result in results.items())
    for name, found in others:
        difference = np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30)
        if not difference <= tolerance:
            raise SystemExit(f"error: {what}: {name} differs from {first} by {difference:.1e} of the largest value")


def done(tree: Any) -> None:
    """Waits for device arrays."""
    jax.block_until_ready(tree)
