"""A whole study, with compilation, evaluation and report, against PyTorch one model at a time.

python -m benchmarks.study --corpus emodb [--data_dir data] [--epochs 50] [--seeds 5] [--torch_device cuda]
python -m benchmarks.study --small

Does ECA help ShuffleNet V2 0.5x: every fold, every seed, with and without, by the recipe of configs/recipe.py; on
EMO-DB with 5 seeds that is 100 models. The time is that of `launch.py study`, a process of its own: cold with an empty
cache of compiled programs, warm with the programs that it left. What it learnt is told as its unweighted accuracy.
PyTorch's time is that of a step of its twin (`benchmarks.torch_step`: without augmentation and log-mel, which ours has)
times the steps of all models: eager, as one CUDA graph, and eager in several processes at once. The fair peer is the
graph. Its steps take half a minute, and are measured before ours warm, should time run out. --small trains a tiny
network on the built-in voices. Prints a table, and at once a JSON line for each contestant to stderr.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from benchmarks.common import emit
from ser_jax import config as configuration
from ser_jax import machine, predictions

ROOT = Path(__file__).parents[1]
COLD = "ser_jax, all at once, cold"
MODES = {
    "eager": "PyTorch, eager",
    "graph": "PyTorch, a CUDA graph",
    "graph_bfloat16": "PyTorch, a CUDA graph, bfloat16",
}


def main() -> None:
    """Runs the study and the twin's steps, and prints what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="emodb")
    parser.add_argument("--data_dir", default=os.environ.get("SER_JAX_DATA", "data"))
    parser.add_argument("--epochs", type=float, default=50.0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--torch_device", default="cpu", help="of the twin; none: leave it out")
    parser.add_argument("--torch_seconds", type=float, default=3.0, help="of the twin's steps that are timed at least")
    parser.add_argument("--torch_processes", type=int, default=8, help="of the twin at once")
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    print(f"{'':36}{'models':>8}{'seconds':>10}{'compiling':>11}{'training':>10}{'against ours':>14}")
    with tempfile.TemporaryDirectory() as folder:
        cold = ours(COLD, args, Path(folder))
        modes = ["eager"] if args.torch_device == "cpu" else ["eager", "graph", "graph_bfloat16"]
        left_out = peers(cold, args, modes, 1)
        ours("ser_jax, all at once, warm", args, Path(folder))
    left_out += peers(cold, args, ["eager"], args.torch_processes)
    if left_out:
        raise SystemExit(f"error: left out: {'; '.join(left_out)}")


def peers(cold: dict, args: argparse.Namespace, modes: Sequence[str], number: int) -> list[str]:
    """Prints what all models would take in PyTorch, beside ours, in each mode, in so many processes at once.

    Returns the names of those that failed.
    """
    left_out = []
    for mode, seconds in torch_seconds(args, modes, number) if args.torch_device != "none" else ():
        name = MODES[mode] + (f", {number} processes" if number > 1 else "")
        if isinstance(seconds, str):
            print(f"{name:36} left out ({seconds})", flush=True)
            left_out.append(name)
            continue
        figures = {"models": cold["models"], "seconds": seconds * cold["run_steps"], "step_seconds": seconds}
        figures["against_ours"] = figures["seconds"] / cold["seconds"]
        emit("study", contestant=name, **figures, **settings(args))
        ratio = figures["against_ours"]
        print(f"{name:36}{cold['models']:8}{figures['seconds']:8.1f} s{'':21}{ratio:13.2f}x", flush=True)
    return left_out


def ours(name: str, args: argparse.Namespace, folder: Path) -> dict:
    """Runs the study and prints what it took; returns the figures."""
    seconds, results, summary, written = run(make_config(args), args.data_dir, folder)
    steps = [entry["seconds"] for entry in results]
    figures = {
        "models": sum(len(result["trained"]["runs"]) for result in results),
        "seconds": seconds,
        "compile_seconds": sum(part["compile"] for part in steps),
        "train_seconds": sum(part["train"] for part in steps),
        "evaluate_seconds": sum(part["evaluate"] + part["validate"] for part in steps),
        "run_steps": sum(int(result["steps"]) for result in results),
        "unweighted_accuracy": summary,
        "written_after_seconds": written,
    }
    emit("study", contestant=name, **figures, **settings(args))
    parts = f"{figures['compile_seconds']:9.1f} s{figures['train_seconds']:8.1f} s"
    print(f"{name:36}{figures['models']:8}{seconds:8.1f} s{parts}", flush=True)
    return figures


def settings(args: argparse.Namespace) -> dict:
    """What the figures are of; not where the data are on this machine."""
    return {key: value for key, value in vars(args).items() if key != "data_dir"}


def make_config(args: argparse.Namespace) -> dict:
    """The study's configuration."""
    changes = {
        "corpus": {"name": args.corpus},
        "protocol": {"validation_speakers": 0},
        "seeds": list(range(args.seeds)),
        "frontend": {"hop_ms": 20.0, "normalization": "speaker"},
        "augmentation": {"speed": 0.15, "vocal_tract": 0.1, "spec_augment": 0.5},
        "optimizer": {"learning_rate": 5e-3},
        "training": {"crop_seconds": 2.0, "train_epochs": args.epochs},
        "evaluation": {"latency": False},
        "study": {
            "title": "Does ECA help?",
            "variants": {name: {"model": {"attention": name}} for name in ("none", "eca")},
            "comparisons": [["eca", "none"]],
        },
    }
    if args.small:
        small = {
            "corpus": {"name": "synthetic", "options": {"num_speakers": 3, "utterances_per_speaker": 12}},
            "model": {"width": "tiny"},
            "seeds": [0],
            "frontend": {"hop_ms": 40.0, "window_ms": 50.0},
            "optimizer": {"warmup_epochs": 1.0},
            "training": {"crop_seconds": 1.0, "train_epochs": 2.0, "batch_size": 8},
        }
        changes = configuration.merge(configuration.merge(configuration.default(), changes), small)
    return configuration.merge(configuration.default(), changes)


def run(config: dict, data_dir: str, folder: Path) -> tuple[float, list[dict], dict, dict[str, float]]:
    """Runs `launch.py study`; returns its seconds, what every variant's training says, the accuracies, and after how
    many seconds each file was written, which tells where time goes beside the steps.
    """
    path, workdir = folder / "config.json", Path(tempfile.mkdtemp(dir=folder))
    path.write_text(json.dumps(config))
    command = [sys.executable, "launch.py", "study", "--config", str(path), "--workdir", str(workdir)]
    kept = {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5"}
    begun, start = time.perf_counter(), time.time()
    subprocess.run([*command, "--data_dir", data_dir], cwd=ROOT, env=os.environ | kept, check=True, stderr=sys.stdout)
    seconds = time.perf_counter() - begun
    results = []
    for result in sorted(workdir.glob("populations/*/result.json")):
        last = (result.parent / "log.jsonl").read_text().splitlines()[-1]
        found = json.loads(result.read_text())
        results.append(found | {"steps": json.loads(last)["step"] * len(found["trained"]["runs"])})
    table = pd.read_parquet(workdir / "predictions.parquet")
    table["correct"] = predictions.probabilities_of(table).argmax(1) == predictions.labels_of(table)
    recalls = table.groupby(["variant", "label"], observed=True)["correct"].mean()
    accuracies = {str(name): float(value) for name, value in recalls.groupby("variant", observed=True).mean().items()}
    written = {
        path.relative_to(workdir).as_posix(): round(path.stat().st_mtime - start, 2)
        for path in (*workdir.glob("*"), *workdir.glob("populations/*/*"))
    }
    return seconds, results, accuracies, dict(sorted(written.items(), key=lambda item: item[1]))


def torch_seconds(args: argparse.Namespace, modes: Sequence[str], number: int) -> Iterator[tuple[str, float | str]]:
    """Yields each mode of the twin with the seconds of a step where so many processes train at once, or what failed.

    After one that failed, the others have new processes.
    """
    size = ["--option", "width=tiny", "--batch", "8", "--frames", "26"] if args.small else []
    command = [sys.executable, "-m", "benchmarks.torch_step", "--wait", "--torch_device", args.torch_device, *size]
    command += ["--seconds", str(args.torch_seconds), *(part for mode in modes for part in ("--mode", mode))]
    if args.torch_device == "cpu":
        command += ["--threads", str(max(machine.cores() // number, 1))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(subprocess.Popen(command, cwd=ROOT, text=True, **pipes)) for _ in range(number)
        ]
        for number_of_mode, mode in enumerate(modes, start=1):
            for process in processes:
                process.stdout.readline()  # empty where it failed
            for process in processes:
                with contextlib.suppress(BrokenPipeError):
                    os.write(process.stdin.fileno(), b"go\n")
            seconds = [next_seconds(process) for process in processes]
            failed = next((reason for reason in seconds if isinstance(reason, str)), "")
            yield mode, failed or 1 / sum(1 / one for one in seconds)
            if failed:
                yield from torch_seconds(args, modes[number_of_mode:], number) if modes[number_of_mode:] else ()
                return


def next_seconds(process: subprocess.Popen) -> float | str:
    """The seconds of a step that a process tells next, or what went wrong."""
    last = "it had ended"
    for line in process.stderr:
        if line.startswith("{"):
            return json.loads(line)["seconds"]
        last = line.strip() or last
    return last[:150]


if __name__ == "__main__":
    main()
