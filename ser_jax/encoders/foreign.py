"""Checkpoints that are PyTorch files: Hugging Face's, fairseq's, the original WavLM's, OpenAI's Whisper, emotion2vec's.

They need PyTorch to be read, and are read for their tensors alone (`weights_only`). Their names and configurations are
turned into Hugging Face's; emotion2vec keeps its names.
"""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ser_jax.encoders import emotion2vec
from ser_jax.encoders.architecture import conv_layers
from ser_jax.errors import UserError, reading, reason_of

Tensors = dict[str, np.ndarray]

_FAIRSEQ = [
    (r"^w2v_encoder\.w2v_model\.", ""),
    (r"^(feature_extractor\.conv_layers\.\d+)\.0\.", r"\1.conv."),
    (r"^(feature_extractor\.conv_layers\.\d+)\.2(\.1)?\.", r"\1.layer_norm."),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"^encoder\.pos_conv\.(\d+)\.0\.", r"encoder.pos_conv_embed.layers.\1.conv."),
    (r"^encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
    (r"\.self_attn_layer_norm\.", ".layer_norm."),
    (r"\.self_attn\.grep_a$", ".attention.gru_rel_pos_const"),
    (r"\.self_attn\.grep_linear\.", ".attention.gru_rel_pos_linear."),
    (r"\.self_attn\.relative_attention_bias\.", ".attention.rel_attn_embed."),
    (r"\.self_attn\.", ".attention."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
]
_OPENAI = [
    (r"^encoder\.blocks\.", "encoder.layers."),
    (r"\.attn\.query\.", ".self_attn.q_proj."),
    (r"\.attn\.key\.", ".self_attn.k_proj."),
    (r"\.attn\.value\.", ".self_attn.v_proj."),
    (r"\.attn\.out\.", ".self_attn.out_proj."),
    (r"\.attn_ln\.", ".self_attn_layer_norm."),
    (r"\.mlp\.0\.", ".fc1."),
    (r"\.mlp\.2\.", ".fc2."),
    (r"\.mlp_ln\.", ".final_layer_norm."),
    (r"^encoder\.ln_post\.", "encoder.layer_norm."),
    (r"^encoder\.positional_embedding$", "encoder.embed_positions.weight"),
]


def read_pytorch(path: str | Path) -> tuple[Tensors, dict[str, Any] | None, dict[str, Any] | None]:
    """Returns the tensors of a PyTorch file under Hugging Face's names, and its own configuration where it has one.

    The configuration is what Hugging Face's `config.json` and `preprocessor_config.json` would say.
    Raises UserError without PyTorch, and for a file that is damaged or holds code.
    """
    path = Path(path)
    try:
        import torch
    except ImportError as error:
        raise UserError(f"{path}: reading a PyTorch file needs torch, or take a .safetensors file") from error
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # older fairseq checkpoints keep their flags so
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch raises whatever the unpickling ran into
        raise UserError(f"{path}: damaged, or more than tensors ({_reason(error)})") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: {type(content).__name__}, expected tensors by name")
    state = content.get("model_state_dict", content.get("model", content))
    if not isinstance(state, Mapping):
        raise UserError(f"{path}: no tensors by name under 'model' or 'model_state_dict'")
    tensors = {str(name): value.float().numpy() for name, value in state.items() if isinstance(value, torch.Tensor)}
    if emotion2vec.is_one(tensors):
        return tensors, *emotion2vec.configuration(path, tensors, content.get("cfg"))
    with reading(f"{path}: its flags are missing or damaged"):
        if "dims" in content:
            return _renamed(tensors, _OPENAI), *_openai_configuration(content["dims"])
        if any(name.endswith("post_extract_proj.weight") for name in tensors):
            tensors = _renamed(tensors, _FAIRSEQ)
            return tensors, *_fairseq_configuration(path, content, tensors)
    return tensors, None, None


def _reason(error: Exception) -> str:
    """What PyTorch ran into, without its advice, which is to let the file run code."""
    text = str(error).partition("WeightsUnpickler error:")[2].strip() or reason_of(error)
    return text.splitlines()[0].partition(". ")[0][:120]


def _renamed(tensors: Tensors, rules: list[tuple[str, str]]) -> Tensors:
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def _openai_configuration(dims: Mapping[str, int]) -> tuple[dict[str, Any], dict[str, Any]]:
    config = {
        "model_type": "whisper",
        "d_model": dims["n_audio_state"],
        "encoder_layers": dims["n_audio_layer"],
        "encoder_attention_heads": dims["n_audio_head"],
        "encoder_ffn_dim": 4 * dims["n_audio_state"],
        "num_mel_bins": dims["n_mels"],
        "max_source_positions": dims["n_audio_ctx"],
    }
    return config, {"feature_size": dims["n_mels"], "sampling_rate": 16_000}


def _fairseq_configuration(
    path: Path, content: Mapping[str, Any], tensors: Tensors
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The flags that a fairseq checkpoint, or the original WavLM's, was trained with."""
    given = content.get("cfg") or content.get("args")
    flags = dict(given) if isinstance(given, Mapping) else vars(given) if given is not None else {}
    model = dict(flags.get("model") or flags)
    task = dict(flags.get("task") or {}) if isinstance(flags.get("task"), Mapping) else {}
    if "encoder_layers" not in model or "extractor_mode" not in model:
        raise UserError(
            f"{path}: does not say with which flags it was trained; expected encoder_layers, extractor_mode"
        )
    key = "conv_feature_layers"
    layers = conv_layers(path, key, model.get(key, "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"))
    wavlm = any("gru_rel_pos" in name for name in tensors)
    data2vec = any("pos_conv_embed.layers" in name for name in tensors)
    hubert = "label_rate" in model or "label_rate" in task or any("label_embs" in name for name in tensors)
    config = {
        "model_type": "wavlm" if wavlm else "data2vec-audio" if data2vec else "hubert" if hubert else "wav2vec2",
        "hidden_size": model["encoder_embed_dim"],
        "num_hidden_layers": model["encoder_layers"],
        "num_attention_heads": model["encoder_attention_heads"],
        "intermediate_size": model["encoder_ffn_embed_dim"],
        "conv_dim": [width for width, _, _ in layers],
        "conv_kernel": [kernel for _, kernel, _ in layers],
        "conv_stride": [stride for _, _, stride in layers],
        "conv_bias": bool(model.get("conv_bias", False)),
        "feat_extract_norm": "layer" if model["extractor_mode"] == "layer_norm" else "group",
        "do_stable_layer_norm": bool(model.get("layer_norm_first", False)),
        "num_conv_pos_embedding_groups": model.get("conv_pos_groups", 16),
        "num_conv_pos_embeddings": model.get("pos_conv_depth", 5) if data2vec else model.get("conv_pos", 128),
    }
    if data2vec:
        config["conv_pos_kernel_size"] = max(3, model.get("conv_pos", 95) // config["num_conv_pos_embeddings"])
    if wavlm:
        config |= {"num_buckets": model["num_buckets"], "max_bucket_distance": model["max_distance"]}
    normalize = bool(task.get("normalize", model.get("normalize", flags.get("normalize", False))))
    return config, {"do_normalize": normalize, "sampling_rate": 16_000}
