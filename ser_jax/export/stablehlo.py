"""A model as a StableHLO program of `jax.export`."""

from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp

from ser_jax.export.program import Program

PLATFORMS = ("cpu", "cuda", "tpu")
# What a program needs to run the file: jax, numpy and these lines.
LOAD = """
def load(path):
    import jax
    with open(path, "rb") as file:
        return jax.jit(jax.export.deserialize(bytearray(file.read())).call)
"""


def write(program: Program, path: Path) -> int:
    """Writes the program, for each of `PLATFORMS`. Returns how many weights have 8 bits in it."""
    waveform = jax.ShapeDtypeStruct((program.max_samples,), jnp.float32)
    exported = jax.export.export(jax.jit(program.call), platforms=PLATFORMS)(
        waveform, jax.ShapeDtypeStruct((), jnp.int32)
    )
    path.write_bytes(bytes(exported.serialize()))
    return program.num_rounded
