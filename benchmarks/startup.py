"""Time from the start of a command to help, a first prediction and a first training step; and memory.

python -m benchmarks.startup [--model NAME ...] [--width tiny] [--turns 3] [--quickstart]

Every figure is of a process of its own, from its start to its end, with its largest resident memory. `predict` is cold
with an empty cache of compiled programs and warm with a full one; so is the compilation of each model's training step
(the program of `benchmarks.roofline`: fetched from the cache where warm). The checkpoint that `predict` uses is trained
for a few steps first, by a command that is timed too. --quickstart adds the README's study, cold and warm.
Prints a table, and a JSON line for each row to stderr.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.common import emit
from ser_jax import config as configuration
from ser_jax.models import FAMILIES

ROOT = Path(__file__).parents[1]
# Compiles one model's training step, as `benchmarks.roofline` has it, and prints the seconds.
COMPILE = """
import argparse, sys, time
from benchmarks import roofline
args = argparse.Namespace(batch=32, frames=152, features=64, steps=1)
program, state, arguments = roofline.make_program(roofline.make(sys.argv[1], {}, args.frames, args.features), args)
begun = time.perf_counter()
lowered = program.lower(state, *arguments)
traced = time.perf_counter()
lowered.compile()
print(traced - begun, time.perf_counter() - traced)
"""

# Runs a command and prints its seconds and its largest memory.
WAIT = """
import resource, subprocess, sys, time
begun = time.perf_counter()
code = subprocess.call(sys.argv[1:])
print(time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def main() -> None:
    """Runs every process and prints what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=sorted(FAMILIES), help="only this one; may be repeated")
    parser.add_argument("--width", default="tiny", help="of the ShuffleNet V2 that predicts")
    parser.add_argument("--turns", type=int, default=3, help="processes of each kind but the cold ones")
    parser.add_argument("--quickstart", action="store_true", help="the README's quickstart as well: some minutes")
    args = parser.parse_args()
    print(f"{'':38}{'seconds':>10}{'of which tracing':>18}{'compiling':>11}{'memory':>12}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        report("help", [run(["launch.py", "--help"], folder / "none") for _ in range(args.turns)])
        workdir, wav = prepare(folder, args.width)
        predict = ["launch.py", "predict", str(wav), "--workdir", str(workdir)]
        report("predict, cold", [run(predict, folder / "cache")])
        report("predict, warm", [run(predict, folder / "cache") for _ in range(args.turns)])
        for model in args.model or ["shufflenet_v2", "transformer"]:
            command = ["-c", COMPILE, model]
            report(f"training step of {model}, cold", [run(command, folder / "cache")])
            report(f"training step of {model}, warm", [run(command, folder / "cache")])
        for state in ("cold", "warm") if args.quickstart else ():
            study = ["launch.py", "study", "--config", "configs/quickstart.py", "--workdir", str(folder / state)]
            report(f"quickstart, {state}", [run(study, folder / "cache_of_quickstart")])


def prepare(folder: Path, width: str) -> tuple[Path, Path]:
    """Trains a ShuffleNet V2 for two steps; returns its workdir and a recording of 3 s."""
    changes = {
        "corpus": {"options": {"num_speakers": 3, "utterances_per_speaker": 8}},
        "frontend": {"hop_ms": 20.0},
        "optimizer": {"warmup_epochs": -1.0, "warmup_steps": 1},
        "training": {"train_epochs": -1.0, "train_steps": 2, "validate_epochs": 0.0},
        "evaluation": {"latency": False},
        "model": {"width": width},
        "folds": [0],
    }
    config, wav = folder / "config.json", folder / "noise.wav"
    config.write_text(json.dumps(configuration.merge(configuration.default(), changes)))
    noise = 0.1 * np.random.default_rng(0).standard_normal(3 * 16_000)
    soundfile.write(wav, noise, 16_000)
    workdir = folder / "workdir"
    train = ["launch.py", "train", "--config", str(config), "--workdir", str(workdir), "--data_dir", str(folder)]
    report("train, two steps of one run, cold", [run(train, folder / "cache_of_training")])
    return workdir, wav


def run(command: Sequence[str], cache: Path) -> tuple[float, float, str]:
    """Runs Python on `command`; returns the seconds, the largest resident bytes and what it printed."""
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT),
    }
    # By way of a small process: a child's largest memory is never less than its parent's.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", WAIT, sys.executable, *command],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        raise SystemExit(f"error: {' '.join(command)[:80]} ended with {done.returncode}:\n{done.stdout}")
    *lines, figures = done.stdout.splitlines()
    seconds, kibibytes = map(float, figures.split())
    return seconds, 1024.0 * kibibytes, "\n".join(lines)


def report(name: str, processes: Sequence[tuple[float, float, str]]) -> None:
    """Prints the medians of several processes of one kind."""
    seconds, memory = (float(np.median([process[i] for process in processes])) for i in range(2))
    figures = {"what": name, "seconds": seconds, "resident_bytes": memory}
    parts = ""
    if name.startswith("training step"):
        tracing, compiling = map(float, processes[0][2].splitlines()[-1].split())
        figures |= {"trace_seconds": tracing, "compile_seconds": compiling}
        parts = f"{tracing:16.1f} s{compiling:9.1f} s"
    emit("startup", **figures)
    print(f"{name:38}{seconds:8.2f} s{parts:29}{memory / 2**20:8.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
