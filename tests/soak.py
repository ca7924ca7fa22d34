"""Kills small jobs at random instants, goes on with the same command, and compares what they come to.

    python -m tests.soak --kills 100

The jobs are studies on both feeds, with and without a cache of compiled programs, by one process and by several of
which one is killed, and the preparation of a folder, of a published corpus by TFDS and of an encoder's states. Each is
done once undisturbed. Then it is killed some times (SIGKILL, or by --signal) and left to end. Parameters and optimizer
states (by the SHA-256 of every array of the last checkpoint), predictions.parquet and summary.json but for times, and
all files of what was prepared, have to be the same bit for bit; `verify` has to find all whole, and nothing temporary
may be left. Prints a table of kills by phase; the status is 1 where something differs.
"""

import argparse
import collections
import dataclasses
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ser_jax import checksums
from ser_jax import config as configuration

ROOT = Path(__file__).parents[1]
OF_STUDY = ("start and preparation", "compilation", "training and checkpoints", "tests and report")
VARIANTS = {"plain": {}, "noisy": {"augmentation": {"noise": 0.5}}}
CHANGES = {
    "training": {"train_steps": 400, "checkpoint_seconds": 0.1, "validate_steps": 100},
    "evaluation": {"latency": False, "robustness": ["noise_0"]},
    "study": {"variants": VARIANTS, "comparisons": [["noisy", "plain"]]},
}
UTTERANCES = 200  # of a corpus that is prepared: enough to be killed while it is written
TEMPORARY = re.compile(r"\.writing-|-tmp|\.incomplete|\.partial")


@dataclasses.dataclass(frozen=True)
class Job:
    """What is killed.

    Attributes:
      commands: the arguments of its processes, for the folder of all jobs and the job's own.
      phase: what it is at, by what its folder holds.
      outcome: all of it that must not depend on how often it was interrupted.
      environment: what its processes have beside that of all.
    """

    commands: Callable[[Path, Path], list[list[str]]]
    phase: Callable[[Path], str]
    outcome: Callable[[Path], dict[str, Any]]
    environment: dict[str, str] = dataclasses.field(default_factory=dict)


def make_recordings(folder: Path) -> None:
    """Makes recordings as an owner has them: a folder for each emotion, and EMO-DB's names."""
    from ser_jax.corpora.builders import emodb

    rng = np.random.default_rng(0)
    for number, published in zip(range(UTTERANCES), emodb.RELEASE.hashes, strict=False):
        for path in (
            folder / "own" / ("anger", "joy")[number % 2] / f"{number}.wav",
            folder / "berlin" / f"{published}.wav",
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, rng.uniform(-0.5, 0.5, 44100), 44100)


def make_data(folder: Path) -> None:
    """Makes a packed corpus and an encoder."""
    from ser_jax.corpora import packed_folder
    from ser_jax.corpora.corpus import make_corpus, save, waveform
    from ser_jax.corpora.synthetic import make_synthetic
    from ser_jax.encoders import store
    from tests.doors import tiny_encoder

    store.get(str(tiny_encoder(folder / "taken")), folder / "data", name="tiny", licence="mine")
    made = make_synthetic("synthetic", num_speakers=3, utterances_per_speaker=8)
    waveforms = [waveform(made, row) for row in range(len(made.utterances))]
    table = made.utterances.drop(columns=["label", "start", "num_samples"])
    save(make_corpus("heard", table, waveforms, made.emotions, made.info), packed_folder("heard", folder / "data"))


def study(folder: Path, own: Path, feed: str = "auto", several: int = 1) -> list[list[str]]:
    """The commands of a study in a workdir of its own; corpora are shared."""
    from tests.training.tiny import CONFIG  # which imports JAX

    config = folder / f"{feed}.json"
    config.write_text(json.dumps(configuration.merge(CONFIG, CHANGES | {"feed": feed})))
    arguments = ["study", "--config", str(config), "--workdir", str(own), "--data_dir", str(folder / "data")]
    if several == 1:
        return [arguments]
    with socket.socket() as unused:
        unused.bind(("localhost", 0))
        arguments += ["--coordinator", f"localhost:{unused.getsockname()[1]}", "--num_processes", str(several)]
    return [[*arguments, "--process_id", str(number)] for number in range(several)]


def phase_of_study(own: Path) -> str:
    """What a study is at."""
    logs = list(own.glob("populations/*/log.jsonl"))
    if not logs:
        return OF_STUDY[0]
    if all(path.stat().st_size == 0 for path in logs):
        return OF_STUDY[1]
    return OF_STUDY[2] if len(list(own.glob("populations/*/result.json"))) < len(VARIANTS) else OF_STUDY[3]


def outcome_of_study(own: Path) -> dict[str, Any]:
    """A finished study's predictions, summary, parameters and optimizer states."""
    found: dict[str, Any] = {"predictions": (own / "predictions.parquet").read_bytes()}
    summary = json.loads((own / "summary.json").read_text())
    summary["study"].pop("seconds")
    for variant in summary["variants"].values():
        variant["known"].pop("trained")  # by which process
    found["summary"] = summary
    for folder in sorted(own.glob("populations/*-*")):
        last = max((folder / "checkpoints").iterdir(), key=lambda path: int(path.name) if path.name.isdigit() else -1)
        metadata = json.loads((last / "metadata" / "metadata").read_text())
        found[f"parameters of {folder.name}"] = {name: a["sha256"] for name, a in metadata["arrays"].items()}
        if (folder / "conditions.parquet").exists():
            found[f"conditions of {folder.name}"] = (folder / "conditions.parquet").read_bytes()
    return found


def prepared(own: Path) -> dict[str, Any]:
    """The hashes of all that was packed."""
    return {name: checksums.sha256(own / "packed" / name) for name in checksums.files_below(own / "packed")}


def prepare(*arguments: str) -> Callable[[Path, Path], list[list[str]]]:
    """The command of a preparation into a data folder of its own; `{}` is the folder of all jobs."""
    return lambda folder, own: [
        ["prepare", *(part.replace("{}", str(folder)) for part in arguments), "--data_dir", str(own)]
    ]


def states(folder: Path, own: Path) -> list[list[str]]:
    """The command that computes an encoder's states of a corpus; both are copied to the job's own folder."""
    if not own.exists():
        shutil.copytree(folder / "data", own, ignore=shutil.ignore_patterns(".*"))
    return [["prepare", "encoder", "heard", "--encoder", "tiny", "--data_dir", str(own)]]


def phase_of_preparation(own: Path) -> str:
    """Whether anything of a preparation is there."""
    begun = [path for path in own.rglob("*") if TEMPORARY.search(path.name) or path.name == "packed"]
    return "preparation: writing" if begun else "preparation: start"


def phase_of_states(own: Path) -> str:
    """Whether any states were computed."""
    return "encoder states: computing" if list(own.rglob(".*.partial")) else "encoder states: start"


JOBS = {
    "study": Job(lambda *folders: study(*folders), phase_of_study, outcome_of_study),
    "streaming": Job(lambda *folders: study(*folders, "streaming"), phase_of_study, outcome_of_study),
    "compiling": Job(
        lambda *folders: study(*folders), phase_of_study, outcome_of_study, {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    ),
    "several": Job(lambda *folders: study(*folders, several=4), phase_of_study, outcome_of_study),
    "folder": Job(prepare("folder", "--name", "mine", "--source", "{}/own"), phase_of_preparation, prepared),
    "tfds": Job(prepare("emodb", "--source", "{}/berlin", "--allow_mismatch"), phase_of_preparation, prepared),
    "states": Job(states, phase_of_states, prepared),
}


def environment(folder: Path) -> dict[str, str]:
    """One device, and little optimisation, as in the tests: most of a small study is the compilation."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def start(job: Job, folder: Path, own: Path) -> list[subprocess.Popen]:
    """Starts the processes of a job."""
    return [
        subprocess.Popen(
            [sys.executable, "launch.py", *arguments],
            cwd=ROOT,
            env=environment(folder) | job.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for arguments in job.commands(folder, own)
    ]


def differences(job: Job, own: Path, expected: dict[str, Any]) -> list[str]:
    """What a finished job differs in from the reference, and what is not whole or was left behind."""
    from ser_jax.studies.verify import WHOLE, verify

    found = job.outcome(own)
    different = [name for name in {*found, *expected} if found.get(name) != expected.get(name)]
    different += [f"{finding.path}: {finding.reasons}" for finding in verify(own) if finding.state != WHOLE]
    return different + [str(path) for path in own.rglob("*") if TEMPORARY.search(path.name)]


def soak(
    job: Job,
    folder: Path,
    kills: int,
    each: int = 4,
    number: signal.Signals = signal.SIGKILL,
    seed: int = 0,
    *,
    warm: bool = True,
) -> tuple[dict[str, list[int]], list[str]]:
    """Returns kills by phase, [tried, survived], and what went wrong."""
    draw, wrong = random.Random(seed), []
    counts: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    for name in ("warm", "reference") if warm else ("reference",):  # the first fills the cache of compiled programs
        begun = time.monotonic()
        for process in start(job, folder, folder / name):
            _, said = process.communicate()
            if process.returncode:
                raise RuntimeError(f"undisturbed, status {process.returncode}: {said}")
        seconds = time.monotonic() - begun
    expected, done, attempt = job.outcome(folder / "reference"), 0, 0
    while done < kills:
        attempt += 1
        own, killed = folder / f"job{attempt}", []
        while True:
            processes = start(job, folder, own)
            begun, victim = time.monotonic(), draw.choice(processes)
            last = len(killed) == each or done + len(killed) == kills
            try:
                victim.communicate(timeout=None if last else draw.uniform(0, seconds))
                others = [process.communicate()[1] for process in processes if process is not victim]
            except subprocess.TimeoutExpired:
                killed.append(job.phase(own))
                victim.send_signal(number)
                said = [process.communicate()[1] for process in processes]  # the others end with it
                if number != signal.SIGKILL and (victim.returncode not in (130, -number) or "Traceback" in said[0]):
                    wrong.append(f"{own.name}: status {victim.returncode} at {killed[-1]}: {said[0][-300:]}")
                continue
            seconds = min(seconds, time.monotonic() - begun)  # of a machine that others use too, times differ
            failed = [process for process in processes if process.returncode]
            different = ["it did not end", *others] if failed else differences(job, own, expected)
            break
        wrong += [f"{own.name}, killed at {killed}: {one}" for one in different]
        for where in killed:
            counts[where][0] += 1
            counts[where][1] += not different
        done += len(killed)
        print(f"{own.name}: killed at {killed}: {different or 'the same'}", file=sys.stderr, flush=True)
        shutil.rmtree(own)
    return counts, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of all jobs together (default: %(default)s)")
    parser.add_argument("--each", type=int, default=4, help="kills until a job may end (default: %(default)s)")
    parser.add_argument("--job", action="append", choices=JOBS, help="only this job; may be given again")
    parser.add_argument("--signal", choices=("KILL", "TERM", "INT"), default="KILL")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    jobs = args.job or list(JOBS)
    print("| job | killed in | kills | survived, bit for bit the same |\n|---|---|---|---|", flush=True)
    wrong = []
    with tempfile.TemporaryDirectory() as scratch:
        make_recordings(Path(scratch)), make_data(Path(scratch))
        for place, name in enumerate(jobs):
            kills = args.kills // len(jobs) + (place < args.kills % len(jobs))
            with tempfile.TemporaryDirectory() as folder:
                shutil.copytree(scratch, folder, dirs_exist_ok=True)
                number = signal.Signals[f"SIG{args.signal}"]
                counts, found = soak(JOBS[name], Path(folder), kills, args.each, number, args.seed)
            for where, (tried, survived) in sorted(counts.items()):
                print(f"| {name} | {where} | {tried} | {survived} |", flush=True)
            wrong += [f"{name}: {one}" for one in found]
    print(*wrong, sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
