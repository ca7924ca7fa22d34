"""Kills a small study at random instants, goes on with the same command, and compares what it comes to.

    python -m tests.soak --kills 20

An undisturbed study is the reference. Each other study is killed some times (SIGKILL, or by --signal) and then left to
end. Parameters and optimizer states (by the SHA-256 of every array of the last checkpoint), predictions.parquet and
summary.json, but for times, have to be the same bit for bit; `verify` has to find all whole, and no temporary file or
folder may be left. Prints a table of kills by phase; the status is 1 where something differs.
"""

import argparse
import collections
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ser_jax import config as configuration
from tests.training.tiny import CONFIG

ROOT = Path(__file__).parents[1]
PHASES = ("start and preparation", "compilation and first steps", "training and checkpoints", "tests and report")
VARIANTS = {"plain": {}, "noisy": {"augmentation": {"noise": 0.5}}}
CHANGES = {
    "training": {"train_steps": 400, "checkpoint_seconds": 0.1, "validate_steps": 100},
    "evaluation": {"latency": False, "robustness": ["noise_0"]},
    "study": {"variants": VARIANTS, "comparisons": [["noisy", "plain"]]},
}


def command(folder: Path, name: str) -> list[str]:
    """The command of a study in a workdir of its own; corpora are shared."""
    config = folder / "config.json"
    if not config.exists():
        config.write_text(json.dumps(configuration.merge(CONFIG, CHANGES)))
    arguments = ["study", "--config", str(config), "--workdir", str(folder / name), "--data_dir", str(folder / "data")]
    return [sys.executable, "launch.py", *arguments]


def environment(folder: Path) -> dict[str, str]:
    """One device, and little optimisation, as in the tests: most of a small study is the compilation."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def phase(workdir: Path) -> str:
    """What a study was at, by what its workdir holds."""
    logs = list(workdir.glob("populations/*/log.jsonl"))
    if not logs:
        return PHASES[0]
    if all(path.stat().st_size == 0 for path in logs):
        return PHASES[1]
    return PHASES[2] if len(list(workdir.glob("populations/*/result.json"))) < len(VARIANTS) else PHASES[3]


def outcome(workdir: Path) -> dict[str, Any]:
    """All of a finished study that must not depend on how often it was interrupted."""
    found: dict[str, Any] = {"predictions": (workdir / "predictions.parquet").read_bytes()}
    summary = json.loads((workdir / "summary.json").read_text())
    summary["study"].pop("seconds")
    for variant in summary["variants"].values():
        variant["known"].pop("trained")  # by which process
    found["summary"] = summary
    for folder in sorted(workdir.glob("populations/*-*")):
        last = max((folder / "checkpoints").iterdir(), key=lambda path: int(path.name) if path.name.isdigit() else -1)
        metadata = json.loads((last / "metadata" / "metadata").read_text())
        found[f"parameters of {folder.name}"] = {name: a["sha256"] for name, a in metadata["arrays"].items()}
        found[f"conditions of {folder.name}"] = (folder / "conditions.parquet").read_bytes()
    return found


def differences(workdir: Path, expected: dict[str, Any]) -> list[str]:
    """What a finished study differs in from the reference, and what is not whole or was left behind."""
    from ser_jax.studies.verify import WHOLE, verify

    found = outcome(workdir)
    different = [name for name in {*found, *expected} if found.get(name) != expected.get(name)]
    different += [f"{finding.path}: {finding.reasons}" for finding in verify(workdir) if finding.state != WHOLE]
    return different + [str(path) for path in workdir.rglob("*") if ".writing-" in path.name or "-tmp" in path.name]


def soak(folder: Path, kills: int, each: int, number: signal.Signals, seed: int) -> tuple[dict[str, list[int]], list]:
    """Returns kills by phase, [tried, survived], and what went wrong."""
    draw, wrong = random.Random(seed), []
    counts = collections.defaultdict(lambda: [0, 0])
    for name in ("warm", "reference"):  # the first fills the cache of programs, which all others then have
        begun = time.monotonic()
        subprocess.run(command(folder, name), cwd=ROOT, env=environment(folder), check=True, capture_output=True)
        seconds = time.monotonic() - begun
    expected = outcome(folder / "reference")
    print(f"an undisturbed study takes {seconds:.0f} s", file=sys.stderr, flush=True)
    study = 0
    while sum(tried for tried, _ in counts.values()) < kills:
        study += 1
        own, killed = folder / f"study{study}", []
        while True:
            process = subprocess.Popen(
                command(folder, own.name),
                cwd=ROOT,
                env=environment(folder),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            begun = time.monotonic()
            last = len(killed) == each or sum(tried for tried, _ in counts.values()) + len(killed) >= kills
            try:
                _, said = process.communicate(timeout=None if last else draw.uniform(0, seconds))
            except subprocess.TimeoutExpired:
                killed.append(phase(own))
                process.send_signal(number)
                _, said = process.communicate()
                if number != signal.SIGKILL and (process.returncode not in (130, -number) or "Traceback" in said):
                    wrong.append(f"study {study}: status {process.returncode} at {killed[-1]}: {said[-300:]}")
                continue
            seconds = min(seconds, time.monotonic() - begun)  # of a machine that others use too, times differ
            if process.returncode:
                wrong.append(f"study {study}: status {process.returncode} after {killed}: {said[-300:]}")
            break
        different = differences(own, expected) if not process.returncode else ["it did not end"]
        wrong += [f"study {study}, killed at {killed}: {one}" for one in different]
        for where in killed:
            counts[where][0] += 1
            counts[where][1] += not different
        print(f"study {study}: {len(killed)} kills, {different or 'the same'}", file=sys.stderr)
    return counts, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of all studies together (default: %(default)s)")
    parser.add_argument("--each", type=int, default=4, help="kills of one study at most (default: %(default)s)")
    parser.add_argument("--signal", choices=("KILL", "TERM", "INT"), default="KILL")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        number = signal.Signals[f"SIG{args.signal}"]
        counts, wrong = soak(Path(folder), args.kills, args.each, number, args.seed)
    print("| killed in | kills | survived, bit for bit the same |\n|---|---|---|")
    for where in PHASES:
        print(f"| {where} | {counts[where][0]} | {counts[where][1]} |")
    print(*wrong, sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
