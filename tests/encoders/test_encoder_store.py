"""Checkpoints of all layouts, taken and loaded, and what is said of those that do not fit."""

import argparse
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ser_jax.encoders import architecture, foreign, store, weights
from ser_jax.errors import UserError
from tests.encoders import checkpoints
from tests.encoders.checkpoints import torch


@pytest.fixture(scope="module", params=["wav2vec2-group", "wavlm-layer", "data2vec", "whisper"])
def checkpoint(request, tmp_path_factory):
    model = checkpoints.make_reference(request.param, torch.float32)
    return model, checkpoints.save(model, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def group(tmp_path):
    return checkpoints.save(checkpoints.make_reference("wav2vec2-group", torch.float32), tmp_path / "tiny")


def same(ours, theirs):
    assert ours.sha256 == theirs.sha256
    assert ours.architecture == theirs.architecture


def edit(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in (content | changes).items() if value is not ...}))


def test_what_is_taken_is_what_the_folder_holds(checkpoint, tmp_path):
    model, folder = checkpoint
    kept = store.get(str(folder), tmp_path, name="mine", licence="CC0")
    taken, direct = store.load("mine", tmp_path), store.load(str(folder))
    same(taken, direct)
    assert taken.licence == "CC0" and taken.source == folder.name
    assert store.available(tmp_path)["mine"]["layers"] == taken.architecture.depth == 3
    assert not any("decoder" in name for name in load_file(kept / "model.safetensors"))
    for query in (taken, direct):
        kernel = query.parameters["layers"]["query"]["kernel"][1]
        own = "encoder.layers.1." + ("self_attn" if taken.architecture.family == "whisper" else "attention")
        np.testing.assert_array_equal(kernel, model.state_dict()[f"{own}.q_proj.weight"].numpy().T)


def test_a_pytorch_file_and_its_older_names_give_the_same_encoder(checkpoint, tmp_path):
    model, folder = checkpoint
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "model.safetensors").unlink()
    prefix = {"whisper": "model."}.get(model.config.model_type, f"{model.config.model_type.replace('-', '_')}.")
    spelling = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state = {}
    for name, value in model.state_dict().items():
        for new, old in spelling.items():
            name = name.replace(new, old)
        state[prefix + name] = value
    torch.save(state | {"quantizer.codevectors": torch.zeros(2)}, other / "pytorch_model.bin")
    same(store.load(str(other)), store.load(str(folder)))


def test_fairseq_files_are_read_by_their_own_names_and_flags(tmp_path):
    for name in ("wav2vec2-layer", "hubert-group", "wavlm-group", "data2vec"):
        model = checkpoints.make_reference(name, torch.float32)
        if name == "hubert-group":  # fairseq has no HuBERT without this norm
            model.config.feat_proj_layer_norm = True
            model.feature_projection.layer_norm = torch.nn.LayerNorm(24)
        folder = checkpoints.save(model, tmp_path / name, normalize=name.endswith("layer"))
        torch.save(as_fairseq(name, model), tmp_path / f"{name}.pt")
        store.get(str(tmp_path / f"{name}.pt"), tmp_path)
        same(store.load(name, tmp_path), store.load(str(folder)))


def as_fairseq(name, model):
    config = model.config
    layer = config.feat_extract_norm == "layer" if name != "data2vec" else True
    flags = {
        "extractor_mode": "layer_norm" if layer else "default",
        "conv_feature_layers": "[(24,10,5)] + [(24, 3, 2)] * 2 + [(24,2,2)]",
        "conv_bias": config.conv_bias,
        "layer_norm_first": name == "wav2vec2-layer",
        "encoder_layers": 3,
        "encoder_embed_dim": 32,
        "encoder_ffn_embed_dim": 48,
        "encoder_attention_heads": 4,
        "conv_pos": 15 if name in ("wav2vec2-layer", "data2vec") else 16,
        "pos_conv_depth": 3,
        "conv_pos_groups": 4,
        "num_buckets": 16,
        "max_distance": 800,
    }
    rules = [
        (r"\.parametrizations\.weight\.original0", ".weight_g"),
        (r"\.parametrizations\.weight\.original1", ".weight_v"),
        (r"(conv_layers\.\d+)\.conv\.", r"\1.0."),
        (r"(conv_layers\.\d+)\.layer_norm\.", r"\1.2.1." if layer else r"\1.2."),
        (r"^feature_projection\.projection\.", "post_extract_proj."),
        (r"^feature_projection\.layer_norm\.", "layer_norm."),
        (r"^encoder\.pos_conv_embed\.layers\.(\d+)\.conv", r"encoder.pos_conv.\1.0"),
        (r"^encoder\.pos_conv_embed\.conv", "encoder.pos_conv.0"),
        (r"(layers\.\d+)\.layer_norm\.", r"\1.self_attn_layer_norm."),
        (r"\.attention\.gru_rel_pos_const", ".self_attn.grep_a"),
        (r"\.attention\.gru_rel_pos_linear", ".self_attn.grep_linear"),
        (r"\.attention\.rel_attn_embed", ".self_attn.relative_attention_bias"),
        (r"\.attention\.", ".self_attn."),
        (r"\.feed_forward\.intermediate_dense\.", ".fc1."),
        (r"\.feed_forward\.output_dense\.", ".fc2."),
        (r"^masked_spec_embed$", "mask_emb"),
    ]
    state = {}
    for key, value in model.state_dict().items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        state[key] = value
    if name.startswith("wavlm"):  # the original WavLM keeps its flags by themselves
        return {"cfg": flags | {"normalize": False}, "model": state}
    if name.startswith("hubert"):
        return {"cfg": {"model": flags | {"label_rate": 50.0}, "task": {"normalize": False}}, "model": state}
    args = argparse.Namespace(**flags, normalize=name.endswith("layer"))
    prefixed = {f"w2v_encoder.w2v_model.{key}": value for key, value in state.items()}
    return {"args": args, "model": prefixed}


FLAGS = {"encoder_layers": 1, "extractor_mode": "default", "encoder_embed_dim": 16}
FLAGS |= {"encoder_ffn_embed_dim": 12, "encoder_attention_heads": 2}


@pytest.mark.parametrize(
    ("content", "tensor", "family", "normalize"),
    [
        ({"cfg": {"model": FLAGS, "task": {}}}, "x", "wav2vec2", False),
        ({"cfg": {"model": FLAGS, "task": {"normalize": True}}}, "x", "wav2vec2", True),
        ({"cfg": {"model": FLAGS, "task": {"label_rate": 50.0}}}, "x", "hubert", False),
        ({"cfg": {"model": FLAGS | {"label_rate": 50.0}}}, "x", "hubert", False),
        ({"args": argparse.Namespace(**FLAGS, normalize=True)}, "label_embs_concat", "hubert", True),
    ],
)
def test_fairseqs_flags_decide_the_family_and_the_rest_has_its_defaults(content, tensor, family, normalize):
    config, preprocessor = foreign._fairseq_configuration(Path("x.pt"), content, {tensor: np.zeros(1)})
    found = architecture.make_architecture(config, preprocessor, "a", "b")
    assert (found.family, found.normalize, found.conv_norm, found.pre_norm) == (family, normalize, "group", False)
    assert (found.position_kernel, found.min_samples, found.hop, found.conv_bias) == (128, 400, 320, False)
    assert config["num_conv_pos_embedding_groups"] == 16


@pytest.mark.parametrize(("width", "kernel"), [(95, 19), (10, 3)])
def test_data2vecs_positions_are_several_narrow_convolutions(width, kernel):
    content = {"cfg": {"model": FLAGS | {"conv_pos": width, "conv_pos_groups": 4}}}
    tensors = {"encoder.pos_conv_embed.layers.0.conv.weight": np.zeros(1)}
    found = architecture.make_architecture(*foreign._fairseq_configuration(Path("x.pt"), content, tensors), "a", "b")
    assert (found.family, found.position_layers, found.position_kernel) == ("data2vec-audio", 5, kernel)


def test_openais_file_is_read_by_its_own_names(tmp_path):
    model = checkpoints.make_reference("whisper", torch.float32, encoder_ffn_dim=128)  # always 4 times the width
    folder = checkpoints.save(model, tmp_path / "folder")
    rules = [
        (r"encoder\.layers\.", "encoder.blocks."),
        (r"self_attn\.(q|k|v|out)_proj", lambda m: "attn." + {"q": "query", "k": "key", "v": "value"}.get(m[1], "out")),
        (r"self_attn_layer_norm", "attn_ln"),
        (r"final_layer_norm", "mlp_ln"),
        (r"\.fc1\.", ".mlp.0."),
        (r"\.fc2\.", ".mlp.2."),
        (r"encoder\.layer_norm", "encoder.ln_post"),
        (r"encoder\.embed_positions\.weight", "encoder.positional_embedding"),
    ]
    state = {}
    for key, value in model.state_dict().items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key) if key.startswith("encoder.") else key
        state[key] = value
    dims = {"n_mels": 80, "n_audio_ctx": 40, "n_audio_state": 32, "n_audio_head": 4, "n_audio_layer": 3}
    path = tmp_path / "tiny.pt"
    torch.save({"dims": dims, "model_state_dict": state}, path)
    store.get(str(path), tmp_path)
    same(store.load("tiny", tmp_path), store.load(str(folder)))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"model_type": "wav2vec2-bert"}, "model_type 'wav2vec2-bert', expected one of whisper"),
        ("config.json", {"hidden_act": "relu"}, "hidden_act 'relu' is not known, expected 'gelu'"),
        ("config.json", {"feat_extract_norm": "batch"}, "feat_extract_norm 'batch' is not known"),
        ("config.json", {"add_adapter": True}, "add_adapter True is not known"),
        ("config.json", {"num_attention_heads": 5}, "5 attention heads do not divide the width 32"),
        ("config.json", {"num_hidden_layers": "3"}, "num_hidden_layers '3', expected a whole number from 1"),
        ("config.json", {"num_hidden_layers": 4}, "tensors are missing (encoder.layers.3.attention.k_proj.bias"),
        ("config.json", {"num_hidden_layers": 2}, "are not known (encoder.layers.2.attention.k_proj.bias"),
        ("config.json", {"intermediate_size": 64}, "has shape (48, 32); the configuration asks for (64, 32)"),
        ("config.json", {"conv_stride": [5, 2, 2]}, "conv_dim, conv_kernel and conv_stride"),
        ("config.json", {"conv_stride": [5] + [0] * 6}, "of each, whole numbers above 0"),
        ("config.json", {"conv_stride": [10**6] * 4}, "expected at most 1000000 channels, and samples of a frame"),
        ("config.json", {"num_conv_pos_embeddings": 0}, "num_conv_pos_embeddings 0, expected a whole number from 1"),
        ("config.json", {"layer_norm_eps": 0.0}, "layer_norm_eps 0.0, expected a number between 0 and 1"),
        ("config.json", {"layer_norm_eps": 10**30}, "expected a number between 0 and 1"),
        ("preprocessor_config.json", {"sampling_rate": 8000}, "sampling_rate 8000, expected 16000"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_by_name(group, file, changes, message):
    edit(group / file, **changes)
    with pytest.raises(UserError) as error:
        store.load(str(group))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "wavlm", "num_buckets": 3}, "num_buckets 3, expected a whole number from 4 to"),
        ({"model_type": "wavlm", "max_bucket_distance": 80}, "max_bucket_distance 80, expected a whole number from 81"),
        (
            {"model_type": "data2vec-audio", "conv_pos_kernel_size": 0},
            "conv_pos_kernel_size 0, expected a whole number",
        ),
        ({"model_type": "whisper", "num_mel_bins": 10**9}, "num_mel_bins 1000000000, expected a whole number from 1"),
        ({"model_type": "whisper", "max_source_positions": -1}, "max_source_positions -1, expected a whole number"),
        ({"model_type": "emotion2vec", "num_extra_tokens": -1}, "num_extra_tokens -1, expected a whole number from 0"),
        ({"model_type": "emotion2vec", "num_prenet_layers": 13}, "13, expected at most the 12 of num_hidden_layers"),
        (
            {"model_type": "hubert", "conv_dim": [], "conv_kernel": [], "conv_stride": []},
            "expected as many of each, whole numbers above 0",
        ),
    ],
)
def test_a_size_that_no_encoder_has_is_refused(config, message):
    with pytest.raises(UserError, match=message):
        architecture.make_architecture(config, {}, "config.json", "preprocessor_config.json")


@pytest.mark.parametrize(
    ("config", "preprocessor", "message"),
    [
        (
            {"model_type": "whisper", "activation_function": "relu"},
            {},
            "config.json: activation_function 'relu' is not",
        ),
        ({"model_type": "whisper", "scale_embedding": True}, {}, "config.json: scale_embedding True is not known"),
        ({"model_type": "whisper"}, {"n_fft": 512}, "preprocessor_config.json: n_fft 512 is not known, expected 400"),
        ({"model_type": "whisper"}, {"hop_length": 320}, "hop_length 320 is not known, expected 160"),
        ({"model_type": "whisper"}, {"feature_size": 128}, "feature_size 128 is not known, expected 80"),
        ({"model_type": "whisper"}, {"padding_side": "both"}, "padding_side 'both' is not known, expected 'right' or"),
        ({"model_type": "whisper"}, {"dither": 0.1}, "dither 0.1 is not known, expected 0.0"),
        (
            {"model_type": "whisper"},
            {"do_normalize": 1},
            "preprocessor_config.json: do_normalize 1, expected true or false",
        ),
        ({"model_type": "wav2vec2", "conv_dim": 512}, {}, "config.json: conv_dim 512, expected a list"),
        ({"model_type": "wav2vec2", "feat_extract_activation": "relu"}, {}, "feat_extract_activation 'relu' is not"),
        ({"model_type": "wav2vec2", "adapter_attn_dim": 16}, {}, "adapter_attn_dim 16 is not known"),
        ({"model_type": "hubert", "conv_pos_batch_norm": True}, {}, "conv_pos_batch_norm True is not known"),
    ],
)
def test_a_setting_that_is_not_known_is_refused(config, preprocessor, message):
    with pytest.raises(UserError, match=message):
        architecture.make_architecture(config, preprocessor, "config.json", "preprocessor_config.json")


def test_speech_takes_the_last_positions_where_padding_is_on_the_left():
    for side, align in (("left", "last"), ("right", "first")):
        found = architecture.make_architecture({"model_type": "whisper"}, {"padding_side": side}, "a", "b")
        assert found.align == align


@pytest.mark.parametrize("family", ["wav2vec2-group", "whisper"])
def test_transformers_5_keeps_the_preprocessor_inside_that_of_the_processor(family, tmp_path):
    folder = checkpoints.save(checkpoints.make_reference(family, torch.float32), tmp_path / "tiny", normalize=False)
    assert not store.load(str(folder)).architecture.normalize
    extractor = json.loads((folder / "preprocessor_config.json").read_text()) | {"do_normalize": True}
    processor = folder / "processor_config.json"
    processor.write_text(json.dumps({"processor_class": "any"}))  # of transformers 4
    assert not store.load(str(folder)).architecture.normalize
    processor.write_text(json.dumps({"feature_extractor": extractor}))
    (folder / "preprocessor_config.json").unlink()
    assert store.load(str(folder)).architecture.normalize
    store.get(str(folder), tmp_path)
    same(store.load("tiny", tmp_path), store.load(str(folder)))
    processor.write_text(json.dumps({"feature_extractor": extractor | {"sampling_rate": 8000}}))
    with pytest.raises(UserError, match=r"processor_config.json: sampling_rate 8000, expected 16000"):
        store.load(str(folder))


@pytest.mark.parametrize(
    "head", ["CTC", "PreTraining", "SequenceClassification", "AudioFrameClassification", "XVector"]
)
def test_a_head_beside_the_encoder_is_left_out(head, group, tmp_path):
    model = checkpoints.make_reference("wav2vec2-group", torch.float32)
    with_head = getattr(checkpoints.transformers, f"Wav2Vec2For{head}")(model.config)
    with_head.wav2vec2.load_state_dict(model.state_dict())
    same(store.load(str(checkpoints.save(with_head, tmp_path / head))), store.load(str(group)))


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_a_checkpoint_in_several_files_is_one(ending, group, tmp_path):
    tensors = load_file(group / "model.safetensors")
    parts, other = ("model-1-of-2." + ending, "model-2-of-2." + ending), tmp_path / "other"
    shutil.copytree(group, other)
    (other / "model.safetensors").unlink()
    of = {name: parts[number % 2] for number, name in enumerate(tensors)}
    for part in parts:
        own = {name: torch.tensor(value) for name, value in tensors.items() if of[name] == part}
        if ending == "bin":
            torch.save(own, other / part)
        else:
            save_file({name: value.numpy() for name, value in own.items()}, other / part)
    whole = {"safetensors": "model.safetensors", "bin": "pytorch_model.bin"}[ending]
    (other / f"{whole}.index.json").write_text(json.dumps({"weight_map": of}))
    same(store.load(str(other)), store.load(str(group)))
    (other / parts[1]).unlink()
    with pytest.raises(UserError, match=rf"index.json: names '{parts[1]}', which is not beside it"):
        store.load(str(other))


def test_a_file_beside_its_configuration_is_taken_by_its_folder(group, tmp_path):
    with pytest.raises(UserError, match=rf"give the folder {group}, whose config.json does"):
        store.get(str(group / "model.safetensors"), tmp_path)


def test_another_encoder_does_not_take_the_name_of_one(group, tmp_path):
    kept = store.get(str(group), tmp_path)
    first = store.load("tiny", tmp_path)
    store.get(str(group), tmp_path, licence="CC0")  # the same one, with its licence
    store.get(str(group), tmp_path)
    assert store.load("tiny", tmp_path).licence == "CC0"
    edit(group / "config.json", num_attention_heads=2)
    with pytest.raises(UserError, match=rf"{kept}: has another encoder \(sha256 {first.sha256[:12]}, from tiny\)"):
        store.get(str(group), tmp_path, licence="MIT")
    same(store.load("tiny", tmp_path), first)
    (kept / "encoder.json").write_text("{")
    store.get(str(group), tmp_path)
    assert store.load("tiny", tmp_path).architecture.heads == 2


def test_a_card_without_an_entry_is_damaged(group, tmp_path):
    kept = store.get(str(group), tmp_path)
    edit(kept / "encoder.json", parameters="many")
    with pytest.raises(
        UserError, match=r"encoder.json: damaged, take the encoder again \(parameters 'many', expected int"
    ):
        store.available(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        {"dims": {"n_mels": 80}, "model_state_dict": {}},
        {"dims": 3, "model_state_dict": {}},
        {"args": 3, "model": {"post_extract_proj.weight": torch.zeros(2, 2)}},
        {
            "cfg": {"encoder_layers": 1, "extractor_mode": "default"},
            "model": {"post_extract_proj.weight": torch.zeros(2)},
        },
    ],
)
def test_flags_that_are_missing_or_damaged_are_refused(content, tmp_path):
    torch.save(content, tmp_path / "bad.pt")
    with pytest.raises(UserError, match=r"bad.pt: its flags are missing or damaged \("):
        store.get(str(tmp_path / "bad.pt"), tmp_path)


def test_a_folder_that_is_not_whole_is_refused(group, tmp_path):
    content = (group / "model.safetensors").read_bytes()
    (group / "model.safetensors").write_bytes(content[:-100])
    with pytest.raises(UserError, match="damaged or cut short"):
        store.get(str(group), tmp_path)
    (group / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no weights; expected model\.safetensors or pytorch_model\.bin"):
        store.get(str(group), tmp_path)
    (group / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"preprocessor_config.json: there is no such file"):
        store.load(str(group))
    (group / "config.json").unlink()
    with pytest.raises(UserError, match=r"config.json: there is no such file"):
        store.load(str(group))
    assert not store.available(tmp_path)


def test_a_weight_that_is_not_finite_is_refused_by_its_name(group, tmp_path):
    tensors = load_file(group / "model.safetensors")
    tensors["encoder.layer_norm.bias"][3] = np.nan
    save_file(tensors, group / "model.safetensors")
    with pytest.raises(UserError, match=rf"^{group}: encoder.layer_norm.bias has values that are not finite"):
        store.get(str(group), tmp_path)
    assert not store.available(tmp_path)


def test_half_of_a_weight_norm_is_refused(group):
    tensors = load_file(group / "model.safetensors")
    length = next(name for name in tensors if name.endswith(("weight_g", "original0")))
    save_file({name: value for name, value in tensors.items() if name != length}, group / "model.safetensors")
    with pytest.raises(UserError, match="half of a weight norm"):
        store.load(str(group))


def test_a_weight_norm_of_no_convolution_is_refused(group):
    tensors = load_file(group / "model.safetensors")
    direction = next(name for name in tensors if name.endswith(("weight_v", "original1")))
    save_file(tensors | {direction: np.float32(1)[...]}, group / "model.safetensors")
    with pytest.raises(UserError, match=r"weight_v: shape \(\), expected 3 axes"):
        store.load(str(group))


def test_weights_of_a_dtype_that_numpy_lacks_are_refused(group):
    header = json.dumps({"x": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}).encode()
    (group / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"0")
    with pytest.raises(UserError, match="expected a safetensors file"):
        store.load(str(group))


def test_other_weights_than_those_taken_are_refused(group, tmp_path):
    kept = store.get(str(group), tmp_path)
    tensors = load_file(kept / "model.safetensors")
    tensors["encoder.layer_norm.bias"] = tensors["encoder.layer_norm.bias"] + 1
    save_file(tensors, kept / "model.safetensors")
    with pytest.raises(UserError, match="take the encoder again"):
        store.load("tiny", tmp_path)


def test_an_encoder_that_is_not_here_is_named_with_its_command(tmp_path):
    with pytest.raises(UserError, match=r"run `python launch\.py encoders get wavlm-large`"):
        store.load("wavlm-large", tmp_path)
    with pytest.raises(UserError, match="did you mean wavlm-large"):
        store.load("wavlm-larg", tmp_path)


def test_a_pickle_with_code_is_refused(tmp_path):
    torch.save({"model": re.compile("a")}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match=r"more than tensors \(Unsupported global: GLOBAL re._compile .* by default\)$"):
        store.get(str(tmp_path / "bad.pt"), tmp_path)


@pytest.mark.parametrize(("content", "reason"), [(b"", "EOFError"), (b"{}", "Unsupported operand 123")])
def test_a_file_that_is_none_of_pytorch_is_refused_without_its_advice(content, reason, tmp_path):
    (tmp_path / "bad.pt").write_bytes(content)
    with pytest.raises(UserError, match=rf"bad.pt: damaged, or more than tensors \({reason}\)$"):
        store.get(str(tmp_path / "bad.pt"), tmp_path)


def test_frames_are_counted_as_the_formula_says():
    spec = architecture.Wav2Vec2Architecture(
        family="wav2vec2", width=8, depth=1, heads=1, hidden=8, conv_widths=(4,) * 7,
        conv_kernels=(10, 3, 3, 3, 3, 2, 2), conv_strides=(5, 2, 2, 2, 2, 2, 2), conv_bias=False, conv_norm="group",
        pre_norm=False, projection_norm=True, position_kernel=4, position_groups=1, position_layers=0, buckets=0,
        max_distance=0, epsilon=1e-5, normalize=True,
    )  # fmt: skip
    assert (spec.min_samples, spec.hop) == (400, 320)
    module = weights.make_module(spec)
    assert [module.num_frames(n) for n in (400, 16_000, 48_000, 80_000, 160_000)] == [1, 49, 149, 249, 499]
