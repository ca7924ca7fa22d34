"""A training step of each model, against the same network in PyTorch.

python -m benchmarks.models [--model NAME ...] [--option NAME=VALUE ...] [--batch 32] [--frames 152] [--compiled]
python -m benchmarks.models --torch_device cuda --compiled

As in `python -m benchmarks.models --model shufflenet_v2 --option width=1.0 --option attention=eca`; without --model,
every model at its default size. Forward, backward and Adam in float32, on utterances of equal length. The networks
share their weights, and their first losses are compared before anything is timed. Then they take turns, so that a busy
machine slows all of them. A turn is several steps: ser_jax trains in a scan over steps, whose memory is allocated once.
--compiled adds torch.compile, and on a GPU also with CUDA graphs and in bfloat16; what cannot be compiled is named.
Prints a table, and a JSON line for each contestant to stderr.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib
import sys
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from benchmarks.common import (
    REFERENCES,
    add_model_arguments,
    add_step_arguments,
    chosen_models,
    emit,
    take_turns,
)
from ser_jax import machine
from ser_jax.models import build

sys.path.insert(0, str(REFERENCES))

NUM_CLASSES = 7
LEARNING_RATE = 1e-3

# Model -> its twin's module and class in tests/references.
TWINS = {
    "attention_rnn": ("torch_attention_rnn", "Network"),
    "cnn": ("torch_convolution", "CNN"),
    "crnn": ("torch_convolution", "CRNN"),
    "reslstm": ("torch_reslstm", "Network"),
    "rnn": ("torch_rnn", "Network"),
    "shufflenet_v2": ("torch_models", "ShuffleNetV2"),
    "tcn": ("torch_convolution", "TCN"),
    "transformer": ("torch_transformer", "Network"),
}


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A function that takes a turn of steps, the loss before the first step, and the seconds to compile."""

    turn: Callable[[], None]
    first_loss: float
    compile_seconds: float = 0.0


def main() -> None:
    """Times every model and prints what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser, TWINS)
    add_step_arguments(parser)
    parser.add_argument("--threads", type=int, default=machine.cores(), help="of PyTorch; use taskset for both")
    parser.add_argument("--torch_device", default="cpu")
    parser.add_argument("--compiled", action="store_true", help="PyTorch's compiler as well")
    args = parser.parse_args()
    chosen = chosen_models(parser, args, TWINS)

    torch.set_num_threads(args.threads)
    torch.set_default_device(args.torch_device)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")  # as JAX's default on a GPU
    random = np.random.default_rng(0)
    features = random.normal(size=(args.batch, args.frames, args.features)).astype(np.float32)
    labels = random.integers(NUM_CLASSES, size=args.batch)
    print(f"{'':34}{'median':>10}{'fastest':>10}{'against ours':>14}{'compile':>10}")
    for name, options in chosen:
        benchmark(name, options, features, labels, args)


def benchmark(
    name: str, options: dict[str, str], features: np.ndarray, labels: np.ndarray, args: argparse.Namespace
) -> None:
    """Times one model against its twin and prints the figures."""
    model = build(name, NUM_CLASSES, **options)
    options = {option: getattr(model, option) for option in options}
    module, network = (importlib.import_module(TWINS[name][0]), TWINS[name][1])

    def twin() -> torch.nn.Module:
        torch.manual_seed(0)  # the same weights at every call
        inputs = () if name == "shufflenet_v2" else (features.shape[-1],)
        return getattr(module, network)(NUM_CLASSES, *inputs, **options)

    weights = twin().to("cpu")
    contestants = {"ser_jax": jax_contestant(model, weights, module.variables_of, features, labels, args.steps)}
    for contestant, setting in settings_of(weights, args).items():
        net = twin().to(memory_format=setting.memory_format)
        inputs = torch.from_numpy(features).to(args.torch_device)
        if name == "shufflenet_v2":
            inputs = (inputs[:, None].contiguous(memory_format=setting.memory_format),)
        else:
            inputs = (inputs, torch.full((len(features),), features.shape[1]))
        try:
            contestants[contestant] = torch_contestant(
                net, inputs, torch.from_numpy(labels).to(args.torch_device), args.steps, setting
            )
        except Exception as error:
            if setting.mode is None:
                raise
            print(f"  {name}, {contestant}: left out ({type(error).__name__}: {str(error).splitlines()[0][:80]})")
    losses = {contestant: entry.first_loss for contestant, entry in contestants.items()}
    exact = {contestant: loss for contestant, loss in losses.items() if "bfloat16" not in contestant}
    if np.ptp(list(exact.values())) > (1e-4 if jax.default_backend() == "cpu" else 5e-3):
        raise SystemExit(f"error: {name}: the networks do not agree on the first loss: {losses}")

    seconds = take_turns({contestant: entry.turn for contestant, entry in contestants.items()}, args.turns)
    for contestant, times in seconds.items():
        figures = {
            "model": name,
            "options": options,
            "contestant": contestant,
            "median_seconds": float(np.median(times)) / args.steps,
            "fastest_seconds": float(np.min(times)) / args.steps,
            "against_ours": float(np.median(times / seconds["ser_jax"])),
            "compile_seconds": contestants[contestant].compile_seconds or None,
        }
        emit("models", **figures, **{key: value for key, value in vars(args).items() if key not in ("model", "option")})
        label = name if contestant == "ser_jax" else f"  {contestant}"
        compiling = f"{figures['compile_seconds']:8.1f} s" if figures["compile_seconds"] else ""
        median, fastest = (f"{1e3 * figures[key]:7.1f} ms" for key in ("median_seconds", "fastest_seconds"))
        print(f"{label:34}{median}{fastest}{figures['against_ours']:13.2f}x{compiling}", flush=True)


@dataclasses.dataclass(frozen=True)
class Setting:
    """How the twin is run: its memory layout, a mode of torch.compile or None for eager, and its number format."""

    memory_format: torch.memory_format = torch.contiguous_format
    mode: str | None = None
    bfloat16: bool = False


def settings_of(net: torch.nn.Module, args: argparse.Namespace) -> dict[str, Setting]:
    """The ways in which the twin is run, by the contestant's name."""
    images = any(weight.ndim == 4 for weight in net.parameters())
    layout = torch.channels_last if images else torch.contiguous_format
    settings = {"PyTorch": Setting()}
    if images:
        settings = {"PyTorch channels first": Setting(), "PyTorch channels last": Setting(layout)}
    if args.compiled:
        settings["PyTorch compiled"] = Setting(layout, "default")
        if args.torch_device != "cpu":
            settings["PyTorch CUDA graphs"] = Setting(layout, "reduce-overhead")
            settings["PyTorch CUDA graphs, bfloat16"] = Setting(layout, "reduce-overhead", bfloat16=True)
    return settings


def jax_contestant(
    model: nn.Module, net: torch.nn.Module, variables_of: Callable, features: np.ndarray, labels: np.ndarray, steps: int
) -> Contestant:
    """Our model with the twin's weights."""
    features, labels = jnp.asarray(features), jnp.asarray(labels)
    num_frames = jnp.full(len(features), features.shape[1])
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), features, num_frames, train=False))
    variables = jax.tree.map(jnp.array, variables_of(net, shapes))
    optimizer = optax.adam(LEARNING_RATE)

    def loss(params: dict, statistics: dict, num_frames: jax.Array) -> tuple[jax.Array, dict]:
        variables = {"params": params, "batch_stats": statistics}
        output, updates = model.apply(variables, features, num_frames, train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(output.logits, labels)
        return losses.mean(), updates.get("batch_stats", {})

    def step(num_frames: jax.Array, state: tuple, _: None) -> tuple[tuple, jax.Array]:
        params, statistics, moments = state
        (value, statistics), gradients = jax.value_and_grad(loss, has_aux=True)(params, statistics, num_frames)
        updates, moments = optimizer.update(gradients, moments, params)
        return (optax.apply_updates(params, updates), statistics, moments), value

    state = (variables["params"], variables.get("batch_stats", {}), optimizer.init(variables["params"]))
    start = time.perf_counter()

    def all_steps(state: tuple, num_frames: jax.Array) -> tuple[tuple, jax.Array]:
        return jax.lax.scan(functools.partial(step, num_frames), state, length=steps)

    compiled = jax.jit(all_steps, donate_argnums=0).lower(state, num_frames).compile()
    compile_seconds = time.perf_counter() - start
    state, values = compiled(state, num_frames)

    def turn() -> None:
        nonlocal state
        state, _ = compiled(state, num_frames)
        jax.block_until_ready(state)

    return Contestant(turn, float(values[0]), compile_seconds)


def torch_contestant(
    net: torch.nn.Module, inputs: tuple[Any, ...], targets: torch.Tensor, steps: int, setting: Setting
) -> Contestant:
    """The twin. The clock waits for its device at the end of a turn, as it does for ours."""
    optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE)

    def loss_of(*inputs: Any) -> torch.Tensor:
        with torch.autocast(targets.device.type, torch.bfloat16) if setting.bfloat16 else contextlib.nullcontext():
            return torch.nn.functional.cross_entropy(net(*inputs).float(), targets)

    loss_of = loss_of if setting.mode is None else torch.compile(loss_of, mode=setting.mode)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(*inputs)
        loss.backward()
        optimizer.step()
        return loss

    def turn() -> None:
        for _ in range(steps):
            loss = step()
        loss.item()

    start = time.perf_counter()
    first_loss = step().item()
    return Contestant(turn, first_loss, time.perf_counter() - start if setting.mode else 0.0)


if __name__ == "__main__":
    main()
