"""A training step of ShuffleNet V2's PyTorch twin, as one who knows PyTorch would run it; a process of its own.

python -m benchmarks.torch_step --mode graph [--mode ...] [--torch_device cuda] [--seconds 3] [--option NAME=VALUE ...]

eager: AdamW (fused on a GPU), channels last, products in TensorFloat-32, no value brought to the host; graph: the same
step captured once as a CUDA graph and replayed; graph_bfloat16: in bfloat16 by autocast. Log-mel is computed beforehand
and lies on the device, so that the twin has less to do than ours. --wait: prints "ready" and waits for a line before
it times a mode, so that several processes begin together. Prints a JSON line to stderr for each mode: the seconds of a
step.
"""

import argparse
import contextlib
import importlib
import json
import sys
import time
from collections.abc import Callable

import torch

from benchmarks.common import REFERENCES

MODES = ("eager", "graph", "graph_bfloat16")
_CLASSES, _MELS, _WARM_UP = 7, 64, 5


def main() -> None:
    """Times the step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", action="append", choices=MODES, help="may be repeated: one after another; eager")
    parser.add_argument("--torch_device", default="cuda")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the network")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--frames", type=int, default=101)
    parser.add_argument("--steps", type=int, default=50, help="from one look at the clock to the next")
    parser.add_argument("--seconds", type=float, default=3.0, help="that are timed at least")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU; on a GPU no thread of the host computes")
    parser.add_argument("--wait", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    for mode in args.mode or ["eager"]:
        step = make_step(mode, args)
        for _ in range(_WARM_UP):
            step()
        finish(args.torch_device)
        if args.wait:
            print("ready", flush=True)
            sys.stdin.readline()
        begun, made = time.perf_counter(), 0
        while not made or time.perf_counter() < begun + args.seconds:
            for _ in range(args.steps):
                step()
            finish(args.torch_device)
            made += args.steps
        seconds = (time.perf_counter() - begun) / made
        print(json.dumps({"mode": mode, "seconds": seconds, "steps": made}), file=sys.stderr, flush=True)


def make_step(mode: str, args: argparse.Namespace) -> Callable[[], object]:
    """Returns what makes a step: eager, or the replay of a graph."""
    sys.path.insert(0, str(REFERENCES))
    options = {"width": 0.5, "attention": "eca", "activation": "hard_swish"}
    options |= {name: _number(value) for name, value in (option.split("=", 1) for option in args.option)}
    torch.manual_seed(0)
    net = importlib.import_module("torch_models").ShuffleNetV2(_CLASSES, **options)
    net = net.to(args.torch_device, memory_format=torch.channels_last)
    inputs = torch.randn(args.batch, 1, args.frames, _MELS, device=args.torch_device)
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    targets = torch.randint(_CLASSES, (args.batch,), device=args.torch_device)
    graph = mode != "eager"
    fused = args.torch_device != "cpu"  # where a busy CPU takes ten times as long for it
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, fused=fused, capturable=graph)
    bfloat16 = mode == "graph_bfloat16"

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(args.torch_device, torch.bfloat16) if bfloat16 else contextlib.nullcontext():
            loss = torch.nn.functional.cross_entropy(net(inputs).float(), targets)
        loss.backward()
        optimizer.step()

    return captured(step) if graph else step


def captured(step: Callable[[], None]) -> Callable[[], None]:
    """Returns the replay of a step that is captured as one CUDA graph, after some steps on a stream beside."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def finish(device: str) -> None:
    """Waits for the device."""
    if device != "cpu":
        torch.cuda.synchronize()


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


if __name__ == "__main__":
    main()
