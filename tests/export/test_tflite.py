"""A TFLite file has weights of 8 bits, and no large arrays of a single number; what it computes stays the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax.export import eight_bits
from ser_jax.export import program as programs
from ser_jax.export.formats import FORMATS
from tests.export.test_export import difference, exported, write

pytest.importorskip("tensorflow")
interpreter = pytest.importorskip("ai_edge_litert.interpreter")


def kinds_of(path):
    """How many values of each type the constants of a file have, and its operations, in all its graphs."""
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(path))
    names = {number: name for name, number in vars(schema.BuiltinOperator).items()}
    kinds = {number: name for name, number in vars(schema.TensorType).items()}
    sizes, operations = {}, []
    for buffer, kind in {(tensor.buffer, tensor.type) for graph in model.subgraphs for tensor in graph.tensors}:
        if (data := model.buffers[buffer].data) is not None:
            sizes[kinds[kind]] = sizes.get(kinds[kind], 0) + len(data) // (1 if kinds[kind] == "INT8" else 4)
    for graph in model.subgraphs:
        operations += [names[model.operatorCodes[one.opcodeIndex].builtinCode] for one in graph.operators]
    return sizes, operations


def test_a_file_keeps_integers_and_scales_of_one_axis_and_of_two(tmp_path):
    """Runs side by side have scales of two axes. Filters and masks stay as they are, inside a loop and outside it."""
    rng = np.random.default_rng(0)
    one, two, filters = (rng.normal(size=shape).astype(np.float32) for shape in ((32, 64), (3, 32, 64), (32, 64)))
    packed = eight_bits.packed({"one": one}, stacked=False) | eight_bits.packed({"two": two}, stacked=True)

    def call(waveform, num_samples):
        x = jnp.maximum(waveform, -9) * num_samples

        def step(i, total):
            kernels = eight_bits.unpacked(packed)
            runs = jnp.einsum("ri,rio->ro", jnp.stack([x, x + i, -x]), kernels["two"])
            return total + (x + i) @ kernels["one"] + jnp.max(runs, axis=0) + x @ filters

        below = jnp.where(jnp.arange(32.0)[None] < jnp.arange(64.0)[:, None] % num_samples, 1.0, 0.0)
        late = jnp.where(jnp.arange(300) < num_samples, 0.0, jnp.cumsum(jnp.tile(x, 10)[:300]))
        whole = jnp.where(jnp.arange(300) < num_samples, 0, jnp.tile(num_samples, 300))  # zeros of another type
        return jnp.concatenate([jax.lax.fori_loop(0, num_samples, step, jnp.zeros(64)), below @ x, late, whole])

    sizes, kept = {}, one.size + two.size
    for int8 in (False, True):
        path = tmp_path / f"{int8}.tflite"
        assert FORMATS["tflite"].write(programs.Program(call, (), 32, int8=int8), path) == int8 * kept
        sizes[int8] = path.stat().st_size
        runner = interpreter.Interpreter(str(path)).get_signature_runner()
        for size in map(np.int32, (1, 3, 60)):
            waveform = rng.normal(size=32).astype(np.float32)
            found = runner(waveform=waveform, num_samples=size)["probabilities"]
            np.testing.assert_allclose(found, call(waveform, size), atol=2e-2, rtol=1e-5)
    assert sizes[False] - sizes[True] > 2.5 * kept
    whole, operations = kinds_of(tmp_path / "True.tflite")
    assert whole["INT8"] == kept and whole["FLOAT32"] < 2 * filters.size
    assert operations.count("DEQUANTIZE") == 2 and {"MUL", "FILL"} <= set(operations)
    assert "DEQUANTIZE" not in kinds_of(tmp_path / "False.tflite")[1]


def test_the_command_runs_a_file_with_weights_of_8_bits(tmp_path, capsys):
    folder = write(tmp_path / "model", "cnn")
    out, said = exported("tflite", folder, tmp_path, capsys, "--int8")
    assert "on 1 recording, in LiteRT: " in said and "another emotion than the model's: 0 of 1 recording\n" in said
    assert 1e-6 < difference(said) < 0.05
    sizes, _ = kinds_of(out)
    (size,) = [int(line.split()[4].replace(",", "")) for line in said.splitlines() if line.startswith("weights of")]
    assert sizes["INT8"] == size > 1000
