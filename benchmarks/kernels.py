"""What would a GPU that is not here do in a training step: how many kernels, how many bytes, how long to compile?

JAX_PLATFORMS=cpu python -m benchmarks.kernels [--model NAME ...] [--runs 50] [--precision bfloat16] [--keep FOLDER]

XLA compiles the programs of `benchmarks.steps` for an NVIDIA H200 on a machine without one; nothing is computed, and
nothing is tuned. What is counted is what XLA launches: a convolution of many runs is one call here, of which cuDNN may
make several. A loop of known length counts that often. On an H200 this has told the kernels of a step of ShuffleNet V2
within one in two hundred. --keep writes the programs as text. It needs the compiler, and no driver: Python 3.12 and

    pip install --no-deps jax==0.11.2 jaxlib==0.11.2 jax-cuda13-plugin==0.11.2 jax-cuda13-pjrt==0.11.2
    pip install --no-deps nvidia-cuda-nvcc nvidia-nvvm nvidia-cudnn-cu13

Prints a table, and a JSON line for each family to stderr.
"""

import argparse
import contextlib
import functools
import importlib
import math
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AbstractDevice, AbstractMesh, Mesh, NamedSharding, PartitionSpec

from benchmarks import steps
from benchmarks.common import emit
from benchmarks.corpora import noise
from ser_jax import machine
from ser_jax.corpora.protocols import make_protocol
from ser_jax.models import FAMILIES
from ser_jax.training import ahead, devices, programs
from ser_jax.training.population import Population
from ser_jax.training.precision import PRECISIONS

# Of NVIDIA's data sheet, and of its table of what compute capability 9.0 has. With a driver of before 12.3, XLA would
# leave what libraries launch out of its CUDA graphs (--xla_dump_to has a thunk_sequence_after_thunk_passes with them).
_H200 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  memory_bandwidth: 4800000000000 device_memory_size: 151397597184 l2_cache_size: 52428800
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  registers_per_block_limit: 65536 registers_per_core_limit: 65536
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  driver_version: "13.0.0" runtime_version: "13.0.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H200"
"""
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s64": 8, "u64": 8, "f64": 8, "c64": 8}
# What launches nothing.
_FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all", "fusion-done"}


def main() -> None:
    """Compiles the training program of each family and counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = sorted(set(FAMILIES) - steps.LEFT_OUT)
    parser.add_argument("--model", action="append", choices=known, help="may be repeated")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the only --model")
    parser.add_argument("--runs", type=int, default=50, help="2 to 10, or a multiple of 10")
    parser.add_argument("--precision", choices=sorted(PRECISIONS), default="bfloat16")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a crop")
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    if args.runs < 2:
        parser.error("--runs: expected 2 at least: a GPU computes a single one twice over")
    everywhere = NamedSharding(Mesh(np.array(absent_gpu()), ("devices",)), PartitionSpec())
    corpus, cache = noise(400), {}
    protocol = make_protocol(corpus, "random", num_folds=steps.FOLDS)
    print(f"{'':16}{'kernels':>9}{'distinct':>10}{'moved':>11}{'trace':>10}{'compile':>10}{'memory':>12}")
    for name in args.model or known:
        population = steps.make(name, args.runs, args.precision, args, corpus, protocol, cache)
        has_fused_attention = mock.patch.object(machine, "capability", lambda device: 9)
        with as_on("gpu", everywhere.mesh.abstract_mesh), has_fused_attention:
            begun = time.perf_counter()
            train, arguments = steps_of(population, everywhere)
            traced = train.trace(*arguments)
            compiled_from = time.perf_counter()
            program = traced.lower().compile(compiler_options=devices.compiler_options())
        ended = time.perf_counter()
        text = program.as_text()
        if args.keep:
            args.keep.mkdir(parents=True, exist_ok=True)
            (args.keep / f"{name}_{args.precision}_{args.runs}.txt").write_text(text)
        launched = launches(text)
        figures = {
            "model": name,
            "kernels": sum_of_kernels(launched),
            "distinct_kernels": len(launched),
            "trace_seconds": compiled_from - begun,
            "compile_seconds": ended - compiled_from,
            "moved_bytes": sum(moved for _, moved in launched),
            "temporary_bytes": program.memory_analysis().temp_size_in_bytes,
        }
        emit("kernels", **figures, runs=args.runs, precision=args.precision, batch=args.batch, seconds=args.seconds)
        times = f"{figures['trace_seconds']:8.1f} s{figures['compile_seconds']:8.1f} s"
        memory = f"{figures['temporary_bytes'] / 2**30:8.2f} GiB"
        moved = f"{figures['moved_bytes'] / 1e9:8.1f} GB"
        print(f"{name:16}{figures['kernels']:9}{figures['distinct_kernels']:10}{moved}{times}{memory}", flush=True)


def absent_gpu() -> Sequence[Any]:
    """The description of one H200, as JAX takes devices."""
    try:
        importlib.import_module("jax_plugins.xla_cuda13")
    except ImportError:
        raise SystemExit("error: jax_plugins.xla_cuda13: not installed; see --help") from None
    jax.devices()  # finds the plug-in
    name = "1x1x1"  # one GPU of one machine
    return topologies.get_topology_desc(name, "cuda", target_config=_H200, topology=name).devices


@contextlib.contextmanager
def as_on(backend: str, mesh: AbstractMesh | None = None) -> Iterator[None]:
    """What is traced within it has the form that it has on a "cpu", a "gpu", one of Hopper's, or a "tpu".

    But for fused attention, which can be traced only where cuDNN is. `mesh` is of a GPU that programs are compiled for.
    """
    recurrence = importlib.import_module("ser_jax.models.ops.recurrence")  # the function of the package has its name
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(jax, "default_backend", lambda: backend))
        if backend == "gpu":
            device = AbstractDevice("NVIDIA H200", None, "gpu")
            mesh = mesh or AbstractMesh((), (), abstract_device=device)
            stack.enter_context(mock.patch.object(recurrence, "kernel_works", lambda *_: True))
            stack.enter_context(jax.sharding.use_abstract_mesh(mesh))  # Pallas asks it which GPU it is
        yield


def steps_of(population: Population, everywhere: NamedSharding | None = None) -> tuple[Any, tuple]:
    """The training steps of all runs on one device, to be traced within `as_on`, and the shapes of their arguments.

    `everywhere`: on what they are compiled for.
    """
    state, run, rows, count, resident, _ = ahead.training_shapes(population)

    def shapes(tree: Any, axes: int = 0) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[axes:], x.dtype, sharding=everywhere), tree)

    over_runs = devices.over_runs(population.programs.train.kinds)
    train = functools.partial(programs._train_steps, population.learner, over_runs)
    arguments = *(shapes(tree, 1) for tree in (state, run, rows)), shapes(count), shapes(resident)
    return jax.jit(lambda *arguments: train(*arguments, None), donate_argnums=0), arguments


class Instruction(NamedTuple):
    """A line of a program: what it makes, by which operation, of what."""

    shape: str
    operation: str
    operands: list[str]
    line: str


def launches(text: str) -> list[tuple[int, int]]:
    """How often a step launches each kernel of an optimised program, and how many bytes that moves in all.

    The longest loop of the program is that over the steps. A kernel reads all of an operand, or the parts that it cuts
    out of it, once, and writes its result; what a GPU's cache saves or a kernel reads again is not seen.
    """
    computations = _parsed(text)
    bodies = {found for line in text.splitlines() for found in re.findall(r" while\(.* body=%?([\w.\-]+)", line)}

    def launched(computation: str, times: int) -> list[tuple[int, int]]:
        found = []
        for name, (_, operation, _, line) in computations[computation].items():
            if operation == "while":
                length = re.search(r"known_trip_count\D*(\d+)", line)
                body = re.search(r"body=%?([\w.\-]+)", line)[1]
                found += launched(body, times * int(length[1] if length else 1))
            elif operation in ("call", "conditional"):
                called = re.findall(
                    r"%?([\w.\-]+)", re.search(r"(?:to_apply=|_computations?=)\{?([^}\s]+(?:, [^}\s]+)*)", line)[1]
                )
                found += max((launched(branch, times) for branch in called), key=sum_of_kernels)
            elif operation not in _FREE:
                found.append((times, times * _moved(computations, computations[computation], name)))
        return found

    return launched(max(bodies, key=lambda body: len(computations[body])), 1)


def sum_of_kernels(launched: list[tuple[int, int]]) -> int:
    """How many kernels these are."""
    return sum(times for times, _ in launched)


def _parsed(text: str) -> dict[str, dict[str, Instruction]]:
    """The instructions of each computation, by their names."""
    computations, instructions = {}, {}
    for line in text.splitlines():
        if found := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            instructions = computations[found[1]] = {}
        # After the shape, which is in brackets where there are several.
        elif found := re.search(r"%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)", line):
            name, shape, operation, rest = found.groups()
            instructions[name] = Instruction(shape, operation, re.findall(r"%([\w.\-]+)", rest.split(")")[0]), line)
    return computations


def _moved(computations: dict[str, dict[str, Instruction]], among: dict[str, Instruction], name: str) -> int:
    """The bytes that a kernel reads and writes."""
    shape, _, operands, line = among[name]
    fused = computations.get((re.search(r"fusion.* calls=%?([\w.\-]+)", line) or [None, ""])[1])
    if not fused:
        return _bytes(shape) + sum(_bytes(among[operand].shape) for operand in operands if operand in among)
    users: dict[str, list[str]] = {}
    for user, instruction in fused.items():
        for operand in instruction.operands:
            users.setdefault(operand, []).append(user)

    def read(part: str) -> int:
        """Of a parameter, or of what it is but in another form: all, or as much as is cut out."""
        whole, total = _bytes(fused[part].shape), 0
        for user in users.get(part, []):
            shape, operation, operands, _ = fused[user]
            if operation in ("slice", "dynamic-slice"):
                total += _bytes(shape)
            elif operation in ("bitcast", "convert"):
                total += read(user)
            elif operation != "dynamic-update-slice" or operands[0] != part:  # which writes over it
                return whole
        return min(whole, total)

    written = _bytes(shape)
    if (root := next(reversed(fused.values()))).operation == "dynamic-update-slice":
        written = _bytes(fused[root.operands[1]].shape)
    return written + sum(read(part) for part, one in fused.items() if one.operation == "parameter")


def _bytes(shape: str) -> int:
    """The size of an array, or of several."""
    return sum(
        _BYTES.get(dtype, 4) * math.prod(int(length) for length in lengths.split(",") if length)
        for dtype, lengths in re.findall(r"(\w+)\[([\d,]*)\]", shape)
    )


if __name__ == "__main__":
    main()
