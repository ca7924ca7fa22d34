"""An exported file in its own runtime: a process without ser_jax, on one core."""

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32

from ser_jax.errors import UserError

# `load(path)`, which each format defines, returns a function of (samples [max_samples], their number).
_RUNNER = """
import json, os, sys, time
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import numpy as np
path, recordings, repeats = sys.argv[1:]
call = load(path)
found = []
with np.load(recordings) as archive:
    for name in archive:
        size, samples = int(archive[name][0]), archive[name][1:]
        seconds = []
        for _ in range(int(repeats) + 1):
            begun = time.perf_counter()
            probabilities = np.asarray(call(samples, np.array(size, np.int32)))
            seconds.append(time.perf_counter() - begun)
        found.append({"probabilities": probabilities.tolist(), "seconds": float(np.median(seconds[1:]))})
assert not any(name.startswith("ser_jax") for name in sys.modules)
print(json.dumps(found))
"""


@dataclasses.dataclass(frozen=True)
class Ran:
    """What an exported file said of recordings in its own runtime, and the median time of each on one core."""

    probabilities: Float[np.ndarray, "recordings emotions"]
    seconds: tuple[float, ...]


def run(
    load: str, runtime: str, path: Path, max_samples: int, waveforms: Sequence[Float32[np.ndarray, " _"]], repeats: int
) -> Ran:
    """Runs a file on recordings in a new process that does not import ser_jax; each `repeats` times.

    `load` is the source of a function `load(path)`. Raises `UserError`, which names the runtime, where that process
    fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        padded = [np.pad(one, (0, max_samples - len(one))) for one in waveforms]
        arrays = [np.concatenate([[len(w)], p]).astype(np.float32) for w, p in zip(waveforms, padded, strict=True)]
        recordings = Path(folder, "recordings.npz")
        np.savez(recordings, **{f"{i:05}": array for i, array in enumerate(arrays)})
        command = [sys.executable, "-I", "-c", load + _RUNNER, str(path.absolute()), str(recordings), str(repeats)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"the exported program does not run in {runtime}: {said}")
    found = json.loads(done.stdout.splitlines()[-1])
    return Ran(np.array([one["probabilities"] for one in found]), tuple(one["seconds"] for one in found))
