"""How long does a training step of ShuffleNet V2 take, against the same network in PyTorch?

python benchmarks/training_step.py [--width 0.5] [--attention none] [--batch 32] [--frames 152]

Forward, backward and AdamW in float32. The networks share their weights, and their first losses are compared before
anything is timed. Then they take turns, so that a busy machine slows all of them. A turn is several steps: ser_jax
trains in a scan over steps, whose memory is allocated once. Prints a table, and a JSON line for each contestant to
stderr.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests" / "references")]

import torch_models  # noqa: E402

from ser_jax.models import build  # noqa: E402

NUM_CLASSES = 7
LEARNING_RATE = 1e-3


def main() -> None:
    """Times every contestant and prints what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", default="0.5", help="tiny, 0.5, 1.0, 1.5 or 2.0")
    parser.add_argument("--attention", default="none", choices=("none", "eca", "se"))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--frames", type=int, default=152)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--turns", type=int, default=10, help="timed turns of each")
    parser.add_argument("--steps", type=int, default=4, help="steps of a turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of PyTorch; use taskset for both")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    random = np.random.default_rng(0)
    features = random.normal(size=(options.batch, options.frames, options.features)).astype(np.float32)
    labels = random.integers(NUM_CLASSES, size=options.batch)

    contestants = {"ser_jax": jax_step(options, features, labels)}
    for name, memory_format in (("channels first", torch.contiguous_format), ("channels last", torch.channels_last)):
        contestants[f"PyTorch {name}"] = torch_step(options, features, labels, memory_format)
    losses = {name: first_loss for name, (_, first_loss, _) in contestants.items()}
    if np.ptp(list(losses.values())) > 1e-4:
        raise SystemExit(f"error: the networks do not agree on the first loss: {losses}")

    seconds = {name: [] for name in contestants}
    for i in range(options.turns + 1):
        for name, (turn, _, _) in contestants.items():
            start = time.perf_counter()
            turn()
            if i:  # the first turn warms up
                seconds[name].append((time.perf_counter() - start) / options.steps)

    ours = np.median(seconds["ser_jax"])
    print(f"{'':24}{'median':>10}{'fastest':>10}{'against ours':>15}{'compile':>10}")
    for name, times in seconds.items():
        median, compile_seconds = float(np.median(times)), contestants[name][2]
        record = {
            "benchmark": "training_step",
            "contestant": name,
            "median_seconds": median,
            "fastest_seconds": min(times),
            "against_ours": median / ours,
            "compile_seconds": compile_seconds,
        }
        print(json.dumps(record | vars(options)), file=sys.stderr)
        print(
            f"{name:24}{median * 1e3:7.1f} ms{min(times) * 1e3:7.1f} ms{median / ours:14.2f}x{compile_seconds:8.1f} s"
        )


def torch_network(options: argparse.Namespace) -> torch_models.ShuffleNetV2:
    """The PyTorch network, the same weights at every call."""
    torch.manual_seed(0)
    width = options.width if options.width == "tiny" else float(options.width)
    return torch_models.ShuffleNetV2(NUM_CLASSES, width=width, attention=options.attention)


def jax_step(options: argparse.Namespace, features: np.ndarray, labels: np.ndarray) -> tuple[Callable, float, float]:
    """A function that takes a turn, the first step's loss, and the seconds to compile."""
    model = build("shufflenet_v2", NUM_CLASSES, width=options.width, attention=options.attention)
    features, labels = jnp.asarray(features), jnp.asarray(labels)
    num_frames = jnp.full(len(features), features.shape[1])
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), features, num_frames, train=False))
    variables = jax.tree.map(jnp.asarray, torch_models.variables_of(torch_network(options), shapes))
    optimizer = optax.adamw(LEARNING_RATE)

    def loss(params: dict, statistics: dict) -> tuple[jax.Array, dict]:
        variables = {"params": params, "batch_stats": statistics}
        output, updates = model.apply(variables, features, num_frames, train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(output.logits, labels)
        return losses.mean(), updates["batch_stats"]

    def training_step(state: tuple) -> tuple[tuple, jax.Array]:
        params, statistics, moments = state
        (value, statistics), gradients = jax.value_and_grad(loss, has_aux=True)(params, statistics)
        updates, moments = optimizer.update(gradients, moments, params)
        return (optax.apply_updates(params, updates), statistics, moments), value

    state = (variables["params"], variables["batch_stats"], optimizer.init(variables["params"]))
    start = time.perf_counter()
    turn_steps = jax.jit(
        lambda state: jax.lax.scan(lambda state, _: training_step(state), state, length=options.steps), donate_argnums=0
    )
    compiled = turn_steps.lower(state).compile()
    compile_seconds = time.perf_counter() - start
    state, values = compiled(state)

    def turn() -> None:
        nonlocal state
        state, _ = compiled(state)
        jax.block_until_ready(state)

    return turn, float(values[0]), compile_seconds


def torch_step(
    options: argparse.Namespace, features: np.ndarray, labels: np.ndarray, memory_format: torch.memory_format
) -> tuple[Callable, float, float]:
    """The same of PyTorch."""
    net = torch_network(options).to(memory_format=memory_format)
    optimizer = torch.optim.AdamW(net.parameters(), LEARNING_RATE)
    inputs = torch.from_numpy(features)[:, None].contiguous(memory_format=memory_format)
    targets = torch.from_numpy(labels)

    def step() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(inputs), targets)
        loss.backward()
        optimizer.step()
        return loss.item()

    def turn() -> None:
        for _ in range(options.steps):
            step()

    return turn, step(), 0.0


if __name__ == "__main__":
    main()
