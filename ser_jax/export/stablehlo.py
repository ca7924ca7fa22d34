"""A model as a StableHLO program of `jax.export`, and the same file in a process of JAX alone."""

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32

from ser_jax.errors import UserError
from ser_jax.export.program import Program

PLATFORMS = ("cpu", "cuda", "tpu")
# What a program needs to run the file: jax, numpy and these lines. It has one core.
_RUNNER = """
import json, os, sys, time
os.environ["JAX_PLATFORMS"] = "cpu"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax, numpy as np
path, recordings, repeats = sys.argv[1:]
with open(path, "rb") as file:
    call = jax.jit(jax.export.deserialize(bytearray(file.read())).call)
found = []
with np.load(recordings) as archive:
    for name in archive:
        size, samples = int(archive[name][0]), archive[name][1:]
        seconds = []
        for _ in range(int(repeats) + 1):
            begun = time.perf_counter()
            probabilities = np.asarray(call(samples, np.int32(size)))
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


def serialised(program: Program) -> bytes:
    """Returns the program, for each of `PLATFORMS`."""
    waveform = jax.ShapeDtypeStruct((program.max_samples,), jnp.float32)
    exported = jax.export.export(jax.jit(program.call), platforms=PLATFORMS)(
        waveform, jax.ShapeDtypeStruct((), jnp.int32)
    )
    return bytes(exported.serialize())


def run(path: Path, max_samples: int, waveforms: Sequence[Float32[np.ndarray, " _"]], repeats: int) -> Ran:
    """Runs a file on recordings in a new process that does not import ser_jax; each `repeats` times.

    Raises `UserError` where that process fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        padded = [np.pad(one, (0, max_samples - len(one))).astype(np.float32) for one in waveforms]
        arrays = {
            f"{i:05}": np.concatenate([[len(w)], p]) for i, (w, p) in enumerate(zip(waveforms, padded, strict=True))
        }
        recordings = Path(folder, "recordings.npz")
        np.savez(recordings, **{name: array.astype(np.float32) for name, array in arrays.items()})
        command = [sys.executable, "-I", "-c", _RUNNER, str(path.absolute()), str(recordings), str(repeats)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"the exported program does not run in JAX alone: {said}")
    found = json.loads(done.stdout.splitlines()[-1])
    return Ran(np.array([one["probabilities"] for one in found]), tuple(one["seconds"] for one in found))
