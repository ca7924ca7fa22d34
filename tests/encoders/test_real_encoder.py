"""The default encoder itself: against its ONNX file in ONNX Runtime, and against transformers with its weights."""

import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from flax.traverse_util import flatten_dict

from ser_jax.encoders import smart_turn, store, weights
from ser_jax.encoders.layers import normalize_waveform
from ser_jax.encoders.whisper import log_mel
from ser_jax.errors import UserError


@pytest.fixture(scope="module")
def folder():
    """The folder with `smart-turn-v3.2-cpu.onnx`: SER_JAX_ENCODERS, or ../shared/encoders."""
    found = Path(os.environ.get("SER_JAX_ENCODERS", Path(__file__).parents[2].parent / "shared" / "encoders"))
    if not (found / "smart-turn-v3.2-cpu.onnx").is_file():
        pytest.skip(f"no smart-turn-v3.2-cpu.onnx in {found}: set SER_JAX_ENCODERS to the folder that holds it")
    return found


@pytest.fixture(scope="module")
def encoder(folder, tmp_path_factory):
    pytest.importorskip("onnx", reason="the file is ONNX (requirements-references.txt)")
    data = tmp_path_factory.mktemp("data")
    store.get(str(folder / "smart-turn-v3.2-cpu.onnx"), data)
    return store.load("smart-turn-v3.2", data)


@pytest.fixture(scope="module")
def speech(real_corpora):
    """Eight seconds of EMO-DB."""
    files = sorted((real_corpora / "emodb" / "wav").glob("03a*.wav"))
    return np.concatenate([soundfile.read(file, dtype="float32")[0] for file in files[:8]])[:128_000]


def test_it_is_the_checkpoint_folder_of_the_same_weights(encoder, folder):
    if not (folder / "smart-turn-v3.2").is_dir():
        pytest.skip(f"no folder smart-turn-v3.2 in {folder}")
    assert store.load(str(folder / "smart-turn-v3.2")).sha256 == encoder.sha256
    assert encoder.licence.startswith("BSD-2-Clause")


def test_another_file_is_refused_by_its_hash():
    with pytest.raises(UserError, match=r"turn.onnx: sha256 .* expected 2bb026316b14a660"):
        smart_turn.dequantize(b"something else", "turn.onnx")


def test_hidden_states_are_those_of_onnx_runtime(encoder, folder, speech):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime (requirements-references.txt)")
    onnx = pytest.importorskip("onnx", reason="needs onnx (requirements-references.txt)")
    model = without_rounded_activations(onnx.load(str(folder / "smart-turn-v3.2-cpu.onnx")))
    norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    streams = [node.input[0] for node in norms[::2]][:5]  # what each layer, and the last norm, is given
    outputs = [*streams, norms[8].output[0]]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in outputs)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    length = jnp.array([len(speech)])
    mel = log_mel(normalize_waveform(jnp.asarray(speech)[None], length), length, 80)
    theirs = session.run(outputs, {"input_features": np.asarray(mel).transpose(0, 2, 1)})
    module = weights.make_module(encoder.architecture)
    ours = module.apply({"params": encoder.parameters}, jnp.asarray(speech)[None], length)
    for expected, found in zip(theirs, [*ours.layers, ours.final], strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * np.abs(expected).max())
        expected, found = np.ravel(expected), np.ravel(found)
        assert expected @ found / np.linalg.norm(expected) / np.linalg.norm(found) > 0.99999


def without_rounded_activations(model):
    """The file rounds every activation to 8 bits and back, which alone turns the last state by a cosine of .88."""
    nodes = model.graph.node
    rounded = {node.output[0]: node.input[0] for node in nodes if node.op_type == "QuantizeLinear"}
    exact = {node.output[0]: rounded[node.input[0]] for node in nodes if node.input[0] in rounded}
    assert len(exact) == len(rounded) == 78
    for node in nodes:
        for i, name in enumerate(node.input):
            if name in exact:
                node.input[i] = exact[name]
    return model


def test_hidden_states_are_those_of_transformers(encoder, speech):
    from tests.encoders.checkpoints import reference_states, torch, transformers

    config = transformers.WhisperConfig(**smart_turn.CONFIG, decoder_layers=1, decoder_attention_heads=6)
    model = transformers.WhisperModel(config).eval()
    extractor = transformers.WhisperFeatureExtractor(chunk_length=8)
    mel = extractor(speech, sampling_rate=16_000, do_normalize=True, return_tensors="pt").input_features
    tensors = {name: torch.tensor(value) for name, value in _tensors(encoder).items()}
    assert not model.encoder.load_state_dict(tensors).missing_keys
    with torch.no_grad():
        layers, final = reference_states(model, mel)
    module = weights.make_module(encoder.architecture)
    length = jnp.array([len(speech)])
    ours = module.apply({"params": encoder.parameters}, jnp.asarray(speech)[None], length)
    np.testing.assert_allclose(ours.final, final.numpy(), rtol=0, atol=1e-4 * float(final.abs().max()))
    for found, expected in zip(ours.layers, layers.numpy(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def _tensors(encoder):
    """The stacked parameters under the names of transformers' encoder."""
    names = {entry.path: entry for entry in weights._entries(encoder.architecture)}
    found = {}
    for path, value in flatten_dict(encoder.parameters, sep="/").items():
        entry = names[path]
        for name, each in zip(entry.names, value if entry.stacked else [value], strict=True):
            turned = {"linear": each.T, "convolution": each.transpose()}.get(entry.layout, each)
            found[name.removeprefix("encoder.")] = np.ascontiguousarray(turned)
    return found


def test_a_short_utterance_ends_at_the_last_position(encoder, speech):
    short = jnp.asarray(speech[:32_000])[None]
    module = weights.make_module(encoder.architecture)
    states = module.apply({"params": encoder.parameters}, short, jnp.array([32_000]))
    table = encoder.parameters["positions"]
    shifted = encoder.parameters | {"positions": np.roll(table, -300, axis=0)}
    first = weights.make_module(encoder.architecture.__class__(**(vars(encoder.architecture) | {"align": "first"})))
    np.testing.assert_allclose(
        states.final, first.apply({"params": shifted}, short, jnp.array([32_000])).final, rtol=0, atol=1e-4
    )
