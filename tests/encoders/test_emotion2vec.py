"""emotion2vec against PyTorch that was written from its description, and its checkpoints in all their forms."""

import dataclasses
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from ser_jax.commands.main import main
from ser_jax.corpora import load_corpus
from ser_jax.corpora.features import frames, load_features
from ser_jax.encoders import architecture, catalogue, emotion2vec, extract, store, weights
from ser_jax.encoders.wav2vec2 import linear_slopes
from ser_jax.errors import UserError
from tests.encoders import torch_emotion2vec as reference
from tests.encoders.applied import apply, noise, to_float64
from tests.encoders.torch_emotion2vec import AUDIO, torch

ODD, EVEN = 1_203, 1_600  # samples
FLAGS = {
    "model_conf": {
        "depth": reference.BLOCKS,
        "num_heads": reference.HEADS,
        "norm_eps": "1e-05",  # as YAML reads 1e-05
        "layer_norm_first": False,
        "normalize": True,
        "modalities": {"audio": {"prenet_depth": reference.PRENET, "feature_encoder_spec": reference.SPEC}},
    }
}
CFG = {"model": FLAGS["model_conf"], "task": {"normalize": True}}


def numbers(state, dtype=np.float64):
    return {name: value.detach().numpy().astype(dtype) for name, value in state.items()}


@pytest.fixture(scope="module")
def state():
    return reference.draw()


@pytest.fixture(scope="module")
def spec(state, tmp_path_factory):
    folder = tmp_path_factory.mktemp("spec")
    return architecture.read_architecture(as_folder(folder, state))


def as_folder(folder, state, cfg=CFG):
    """A checkpoint folder as other families have it."""
    config, preprocessor = emotion2vec.configuration(folder / "x.pt", numbers(state, np.float32), cfg)
    for name, content in (("config.json", config), ("preprocessor_config.json", preprocessor)):
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.fixture
def in_float64(state, spec):
    with jax.enable_x64(True):
        yield to_float64(spec, numbers(state))


@pytest.mark.parametrize("samples", [ODD, EVEN])
def test_every_layer_is_that_of_the_description(state, spec, in_float64, samples):
    waveform = noise(samples)
    layers, tokens = reference.states(state, torch.tensor(waveform))
    ours = apply(spec, in_float64, waveform)
    assert layers.shape[:2] == (4, samples // 40 - (samples % 40 < 25)) and int(ours.num_frames[0]) == layers.shape[1]
    np.testing.assert_allclose(ours.layers[:, 0], layers, rtol=0, atol=1e-10)
    np.testing.assert_allclose(ours.tokens[:, 0], tokens, rtol=0, atol=1e-10)
    np.testing.assert_allclose(ours.final[0], layers[-1], rtol=0, atol=1e-10)
    single = jax.tree.map(lambda x: x.astype(np.float32), in_float64)
    rounded = apply(spec, single, waveform.astype(np.float32), dtype=jnp.float32)
    assert rounded.final.dtype == jnp.float32
    np.testing.assert_allclose(rounded.layers[:, 0], layers, rtol=1e-5, atol=1e-5)
    half = np.asarray(apply(spec, single, waveform, dtype=jnp.bfloat16).final[0], np.float64)
    expected = layers[-1].numpy()
    assert np.sum(half * expected) / np.linalg.norm(half) / np.linalg.norm(expected) > 0.999


def test_a_soft_waveform_is_normalised_by_the_epsilon_of_a_layer_norm(state, spec, in_float64):
    waveform = noise(EVEN) / 50  # of a variance near epsilon
    for normalize in (True, False):
        own = dataclasses.replace(spec, normalize=normalize)
        layers, _ = reference.states(state, torch.tensor(waveform), normalize)
        np.testing.assert_allclose(apply(own, in_float64, waveform).layers[:, 0], layers, rtol=0, atol=1e-10)


def test_padding_changes_nothing(spec, in_float64):
    waveforms = [noise(n, seed) for seed, n in enumerate((EVEN, ODD))]
    together = apply(spec, in_float64, *waveforms, pad=500)
    for i, waveform in enumerate(waveforms):
        alone = apply(spec, in_float64, waveform)
        own = alone.layers.shape[2]
        assert int(together.num_frames[i]) == own
        np.testing.assert_allclose(together.layers[:, i, :own], alone.layers[:, 0], rtol=0, atol=1e-10)
        np.testing.assert_allclose(together.tokens[:, i], alone.tokens[:, 0], rtol=0, atol=1e-10)
        np.testing.assert_allclose(together.final[i, :own], alone.final[0], rtol=0, atol=1e-10)
        assert not np.any(together.layers[:, i, own:]) and not np.any(together.final[i, own:])


def test_a_stack_cut_short_ends_with_the_inner_layer(spec, in_float64):
    waveform = noise(ODD)
    whole = apply(spec, in_float64, waveform)
    cut = apply(spec, weights.truncate(in_float64, 2), waveform, depth=2)
    assert cut.final is None
    np.testing.assert_allclose(cut.layers, whole.layers[:3], rtol=0, atol=1e-12)


def test_gradients_are_those_of_the_description(state, spec, in_float64):
    waveform = noise(ODD)
    own = {name: value.clone().requires_grad_(True) for name, value in state.items()}
    layers, _ = reference.states(own, torch.tensor(waveform))
    factors = torch.linspace(-1, 1, layers[-1].numel(), dtype=torch.float64).reshape(layers[-1].shape)
    (layers[-1] * factors).sum().backward()
    theirs = to_float64(spec, {name: value.grad.numpy() for name, value in own.items()})

    def loss(parameters):
        return jnp.sum(apply(spec, parameters, waveform).final[0] * jnp.asarray(factors.numpy()))

    ours = jax.jit(jax.grad(loss))(in_float64)
    for (path, found), expected in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        largest = np.abs(expected).max()  # the bias of keys has no gradient: softmax takes no heed of it
        message = jax.tree_util.keystr(path)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * max(largest, 1), err_msg=message)
        assert largest > 1e-3 or message == "['layers']['key']['bias']"
    assert np.array_equal(theirs["relative_positions"] == 0, [False, False, True, False, False, False])


def test_slopes_of_linear_biases_are_those_of_a_written_list():
    twelve = [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625]
    twelve += [0.7071067811865476, 0.3535533905932738, 0.1767766952966369, 0.08838834764831845]
    np.testing.assert_array_equal(linear_slopes(12), np.float32(twelve))
    sixteen = [0.5**0.5 * 0.5 ** (n / 2) for n in range(16)]
    np.testing.assert_allclose(linear_slopes(16), sixteen, rtol=1e-7)
    np.testing.assert_array_equal(linear_slopes(6), np.float32(reference.SLOPES))
    assert linear_slopes(1).tolist() == [1 / 256]


PUBLISHED = ((512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 2)


@pytest.mark.parametrize(
    ("name", "width", "heads", "parameters"),
    [("emotion2vec-base", 768, 12, 93_171_212), ("", 1024, 16, 162_130_960)],
)
def test_the_published_tensors_alone_say_how_the_encoder_is_built(tmp_path, name, width, heads, parameters):
    shapes = reference.shapes(width, 4 * width, heads, 4, 8, 10, PUBLISHED, 5, 19, 16)
    tensors = {f"d2v_model.{key}": np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
    config, preprocessor = emotion2vec.configuration(tmp_path / "model.pt", tensors)
    for file, content in (("config.json", config), ("preprocessor_config.json", preprocessor)):
        (tmp_path / file).write_text(json.dumps(content))
    spec = architecture.read_architecture(tmp_path)
    assert (spec.width, spec.depth, spec.heads, spec.hidden) == (width, 12, heads, 4 * width)
    assert (spec.prenet_depth, spec.extra_tokens, spec.hop, spec.min_samples, spec.normalize) == (4, 10, 320, 400, True)
    assert (spec.position_layers, spec.position_kernel, spec.position_groups) == (5, 19, 16)
    assert {key for entry in weights._entries(spec) for key in entry.names} == set(shapes)
    found = weights.parameter_shapes(spec)
    assert sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(found)) == parameters
    if name:
        known = catalogue.KNOWN[name]
        assert (known.layers, known.width, known.millions) == (spec.depth, width, round(parameters / 1e6, 1))


@pytest.fixture
def checkpoints(state, tmp_path):
    """One encoder in every form that it is taken in."""
    single = {name: value.float() for name, value in state.items()}
    beside = {
        f"{AUDIO}.decoder.blocks.0.0.weight": torch.ones(3),
        "proj.weight": torch.ones(9, reference.WIDTH),
        "recon_proj.bias": torch.ones(2),
    }
    prefixed = {f"d2v_model.{name}": value for name, value in single.items()}
    prefixed |= {name if name.startswith("proj") else f"d2v_model.{name}": value for name, value in beside.items()}
    fairseq, funasr, hub = tmp_path / "fairseq.pt", tmp_path / "funasr", tmp_path / "hub"
    torch.save({"model": single | beside | {"_ema": {"blocks.0": torch.ones(2)}}, "cfg": CFG}, fairseq)
    for folder in (funasr, hub):
        folder.mkdir()
    torch.save({"model": prefixed}, funasr / "model.pt")
    (funasr / "config.yaml").write_text(yaml.safe_dump(FLAGS).replace("'1e-05'", "1e-05"))
    save_file(numbers(prefixed, np.float32), funasr / "tensors.safetensors")
    save_file(numbers(single, np.float32), as_folder(hub, state) / "model.safetensors")
    return {"fairseq": fairseq, "funasr": funasr, "tensors": funasr / "tensors.safetensors", "hub": hub}


def test_a_checkpoint_is_the_same_encoder_in_every_form(checkpoints, state, spec, tmp_path, monkeypatch):
    taken = {}
    for name, path in checkpoints.items():
        kept = store.get(str(path), tmp_path, name=name, licence="mine")
        taken[name] = store.load(name, tmp_path)
        assert set(load_file(kept / "model.safetensors")) == set(reference.TINY)
    asked = []

    def snapshot_download(hub, *, allow_patterns):
        asked.append((hub, allow_patterns))
        return checkpoints["funasr"].rename(tmp_path / "snapshot") if len(asked) == 1 else tmp_path / "snapshot"

    (checkpoints["funasr"] / "tensors.safetensors").unlink()
    monkeypatch.setattr(store.extras, "load", lambda *_: types.SimpleNamespace(snapshot_download=snapshot_download))
    store.get("emotion2vec-base", tmp_path)
    assert asked[-1] == ("emotion2vec/emotion2vec_base", ["config.yaml", "*.pt"])
    taken["known"] = store.load("emotion2vec-base", tmp_path)
    assert "not settled" in taken["known"].licence
    for encoder in taken.values():
        assert encoder.architecture == spec and encoder.sha256 == taken["fairseq"].sha256
    names = [f"{AUDIO}.context_encoder.blocks.0", "blocks.0", "blocks.1"]
    for number, part in enumerate(("query", "key", "value")):
        for leaf, ending in (("kernel", "weight"), ("bias", "bias")):
            own = slice(number * reference.WIDTH, (number + 1) * reference.WIDTH)
            expected = np.stack([state[f"{name}.attn.qkv.{ending}"][own].float().numpy().T for name in names])
            np.testing.assert_array_equal(encoder.parameters["layers"][part][leaf], expected)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (f"{AUDIO}.alibi_bias", (6, 3, 3), f"1 are not known ({AUDIO}.alibi_bias)"),
        ("norm.weight", (24,), "1 are not known (norm.weight)"),
        ("blocks.99999999.norm1.weight", (24,), "depth 2, but its tensors are those of 100000000 such layers"),
        ("blocks.1.norm2.bias", None, "1 tensors are missing (blocks.1.norm2.bias)"),
        (f"{AUDIO}.context_encoder.norm.bias", None, f"1 tensors are missing ({AUDIO}.context_encoder.norm.bias)"),
        ("blocks.0.attn.qkv.weight", (48, 24), "has shape (48, 24); the configuration asks for (72, 24)"),
        ("blocks.0.attn.qkv.weight", (71, 24), "has shape (71, 24); the configuration asks for (72, 24)"),
        ("blocks.0.attn.qkv.bias", (), "has shape (1,); the configuration asks for (72,)"),
        (f"{AUDIO}.extra_tokens", (3, 24), "has shape (3, 24), expected 3 axes"),
        (f"{AUDIO}.extra_tokens", (2, 3, 24), "has shape (2, 3, 24); the configuration asks for (1, 3, 24)"),
        (f"{AUDIO}.alibi_scale", (6, 1, 1, 1, 1), "has shape (6, 1, 1, 1, 1), expected (1, 1, 6, 1, 1) for its heads"),
        (f"{AUDIO}.alibi_scale", None, f"of the emotion2vec encoder, {AUDIO}.alibi_scale is missing"),
        (
            f"{AUDIO}.relative_positional_encoder.1.0.weight",
            (24, 30, 5),
            "embedding_groups 0, expected a whole number from 1",
        ),
        (f"{AUDIO}.project_features.2.weight", None, "project_features.2.weight is missing"),
        (f"{AUDIO}.relative_positional_encoder.2.0.weight", None, "relative_positional_encoder.2.0.weight is missing"),
    ],
)
def test_tensors_that_do_not_fit_are_named(checkpoints, tmp_path, name, shape, message):
    content = torch.load(checkpoints["fairseq"], weights_only=True)
    content["model"].pop(name, None)
    if shape is not None:
        content["model"][name] = torch.ones(shape)
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(UserError) as error:
        store.get(str(tmp_path / "other.pt"), tmp_path)
    assert message in str(error.value) and str(error.value).startswith(f"{tmp_path / 'other.pt'}: ")
    assert not store.available(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_norm_first": True}, "layer_norm_first True is not known, expected False"),
        ({"norm_eps": "small"}, "norm_eps 'small' is not known, expected 1e-05"),
        ({"norm_affine": False}, "norm_affine False is not known, expected True"),
        (
            {"modalities": {"audio": {"use_alibi_encoder": False}}},
            "use_alibi_encoder False is not known, expected True",
        ),
        ({"modalities": {"audio": {"learned_alibi_scale_per_layer": True}}}, "scale_per_layer True is not known"),
        ({"modalities": {"audio": {"conv_pos_pre_ln": True}}}, "conv_pos_pre_ln True is not known, expected False"),
        ({"depth": 100_000_000}, "depth 100000000, but its tensors are those of 2 such layers"),
        ({"depth": "all"}, "depth 'all', but its tensors are those of 2 such layers"),
        ({"modalities": {"audio": {"prenet_depth": 4}}}, "prenet_depth 4, but its tensors are those of 1 such layers"),
        ({"num_heads": 4}, "alibi_scale has shape (1, 1, 6, 1, 1), expected (1, 1, 4, 1, 1) for its heads"),
        ({"modalities": {"audio": {"learned_alibi": True}}}, "learned_alibi True is not known, expected False"),
        ({"modalities": {"audio": {"extractor_mode": "default"}}}, "extractor_mode 'default' is not known"),
        ({"modalities": {"audio": {"feature_encoder_spec": "[(24,10,5)]"}}}, "its convolutions have kernels [10, 3, 3"),
        (
            {"modalities": {"audio": {"feature_encoder_spec": "[(24,10,0)]"}}},
            "'[(24,10,0)]', expected [(width, kernel, s",
        ),
        ({"modalities": {"audio": {"feature_encoder_spec": "x"}}}, "feature_encoder_spec 'x', expected [(width, ker"),
        ({"modalities": {}}, "kernels [10, 3, 3, 2], and nothing says their strides; expected config.yaml beside it"),
    ],
)
def test_flags_that_are_not_known_are_refused(checkpoints, tmp_path, change, message):
    flags = {"model_conf": FLAGS["model_conf"] | change}
    (checkpoints["funasr"] / "config.yaml").write_text(yaml.safe_dump(flags))
    with pytest.raises(UserError) as error:
        store.get(str(checkpoints["funasr"]), tmp_path)
    assert message in str(error.value)


def without_heads(checkpoints, scales):
    """The folder with flags that say no number of heads, whose only weights, in safetensors, have scales of a shape."""
    folder = checkpoints["funasr"]
    (folder / "model.pt").unlink(missing_ok=True)
    flags = {"model_conf": {key: value for key, value in FLAGS["model_conf"].items() if key != "num_heads"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(flags))
    tensors = load_file(checkpoints["tensors"]) | {f"d2v_model.{AUDIO}.alibi_scale": np.ones(scales, np.float32)}
    save_file(tensors, checkpoints["tensors"])
    return folder


def test_heads_are_those_of_the_scales_unless_one_may_be_shared(checkpoints, tmp_path):
    store.get(str(without_heads(checkpoints, (1, 1, 6, 1, 1))), tmp_path)  # a folder with one safetensors file
    assert store.load("funasr", tmp_path).architecture.heads == 6
    with pytest.raises(UserError, match=r"tensors.safetensors: 5 attention heads do not divide the width 24$"):
        store.get(str(without_heads(checkpoints, (1, 1, 5, 1, 1))), tmp_path)
    with pytest.raises(
        UserError,
        match=r"alibi_scale has one value, and nothing says of how many heads; expected num_heads in config.yaml",
    ):
        store.get(str(without_heads(checkpoints, (1, 1, 1, 1, 1))), tmp_path)
    flags = yaml.safe_load((checkpoints["funasr"] / "config.yaml").read_text())
    flags["model_conf"]["num_heads"] = 1
    (checkpoints["funasr"] / "config.yaml").write_text(yaml.safe_dump(flags))
    store.get(str(checkpoints["funasr"]), tmp_path, name="one")
    assert store.load("one", tmp_path).architecture.heads == 1


def test_a_pytorch_file_beside_a_configuration_is_not_taken_by_itself(checkpoints, tmp_path):
    torch.save(torch.load(checkpoints["funasr"] / "model.pt", weights_only=True), checkpoints["hub"] / "a.pt")
    (checkpoints["hub"] / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"hub: no weights; expected model.safetensors or pytorch_model.bin beside"):
        store.get(str(checkpoints["hub"]), tmp_path)


def test_of_two_files_the_one_of_tensors_alone_is_taken(checkpoints, tmp_path):
    (checkpoints["funasr"] / "model.pt").write_bytes(b"more than tensors")
    kept = store.get(str(checkpoints["funasr"]), tmp_path, name="taken", licence="mine")
    assert set(load_file(kept / "model.safetensors")) == set(reference.TINY)


def test_a_folder_without_a_configuration_is_loaded_as_it_is_taken(checkpoints, tmp_path):
    store.get(str(checkpoints["fairseq"]), tmp_path, name="taken")
    assert store.load(str(checkpoints["funasr"])).sha256 == store.load("taken", tmp_path).sha256


def test_of_several_checkpoints_in_a_folder_none_is_guessed(checkpoints, tmp_path):
    checkpoints["tensors"].rename(checkpoints["funasr"] / "b.pt")
    for use in (store.load, store.get):
        with pytest.raises(UserError) as error:
            use(str(checkpoints["funasr"]), tmp_path)
        assert str(error.value).endswith(
            "funasr: 2 checkpoints (b.pt, ...) and no config.json that says which; name one file"
        )


def test_a_file_that_does_not_say_enough_is_refused(checkpoints, tmp_path):
    (checkpoints["funasr"] / "config.yaml").write_text("a: [")
    with pytest.raises(UserError, match=r"config.yaml: cannot be read"):
        store.get(str(checkpoints["funasr"]), tmp_path)
    save_file({"encoder.weight": np.ones(2, np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"a.safetensors: does not say how the encoder is built; put it in a folder"):
        store.get(str(tmp_path / "a.safetensors"), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_prenet_layers": 4}, "num_prenet_layers 4, expected at most the 3 of num_hidden_layers"),
        ({"num_extra_tokens": -1}, "num_extra_tokens -1, expected a whole number from 0"),
        ({"num_hidden_layers": 1_000_000}, "hub: 62 tensors; the configuration asks for 1000000 layers"),
        ({"num_conv_pos_embeddings": 1_000_000}, "hub: 62 tensors; the configuration asks for 1000000 layers"),
        ({"do_stable_layer_norm": True}, "do_stable_layer_norm True is not known, expected False"),
        ({"num_conv_pos_embedding_groups": 5}, "num_conv_pos_embedding_groups 5 does not divide hidden_size"),
    ],
)
def test_a_configuration_that_is_not_known_is_refused(checkpoints, change, message):
    path = checkpoints["hub"] / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError) as error:
        store.load(str(checkpoints["hub"]))
    assert message in str(error.value)


def test_states_of_a_corpus_are_those_of_each_utterance(checkpoints, spec, state, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(extract, "_LENGTHS_PER_OCTAVE", 1)  # few programs
    corpus = load_corpus("synthetic", tmp_path, num_speakers=2, utterances_per_speaker=2)
    packed_corpora = tmp_path / "packed"
    folder = next(path for path in (packed_corpora / "synthetic").iterdir() if not path.name.startswith("."))
    folder.rename(packed_corpora / "few")
    data = ["--data_dir", str(tmp_path)]
    assert main(["encoders", "get", str(checkpoints["fairseq"]), "--name", "mine", "--licence", "CC0", *data]) == 0
    assert (
        main(["prepare", "encoder", "few", "--encoder", "mine", "--layers", "1,final", "--dtype", "float32", *data])
        == 0
    )
    assert main(["encoders", *data]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "mine emotion2vec 3 24 0.0 M yes CC0" in lines
    assert any(line.startswith("emotion2vec-base emotion2vec 12 768 93.2 M not settled") for line in lines)
    packed = load_features(load_corpus("few", tmp_path), "mine.frames", tmp_path)
    start, samples = corpus.utterances[["start", "num_samples"]].iloc[1]
    layers, _ = reference.states(state, torch.tensor(corpus.samples[start : start + samples] / 32768))
    expected = np.concatenate([layers[1], layers[-1]], -1)
    np.testing.assert_allclose(frames(packed, 1), expected, rtol=0, atol=1e-4)
