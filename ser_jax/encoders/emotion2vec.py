"""How an emotion2vec checkpoint, which has no `config.json`, is built: by its tensors, and its flags if it has some.

The published files have no flags, flags of fairseq ("cfg"), or FunASR's `config.yaml` beside them. Most sizes are those
of the tensors. Strides of convolutions and whether the waveform is normalised are not: without flags they are those of
the published models (FunASR's `template.yaml`), whose convolutions the tensors have to fit.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ser_jax.encoders.architecture import conv_layers
from ser_jax.encoders.weights import EMOTION2VEC, Tensors, clean_names
from ser_jax.errors import UserError, brief, reason_of

FLAGS = "config.yaml"  # FunASR's
_KERNELS, _STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
# What has to be so, where flags say it: nothing else is known. The second part is flags of the audio encoder.
_KNOWN = {"layer_norm_first": False, "norm_eps": 1e-5, "norm_affine": True}
_KNOWN_OF_AUDIO = {
    "use_alibi_encoder": True,
    "learned_alibi": False,
    "learned_alibi_scale_per_layer": False,
    "extractor_mode": "layer_norm",
    "conv_pos_pre_ln": False,
}


def is_one(tensors: Mapping[str, np.ndarray]) -> bool:
    """Returns whether these are the tensors of an emotion2vec."""
    return any(f"{EMOTION2VEC}." in name for name in tensors)


def configuration(path: Path, tensors: Tensors, cfg: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns what `config.json` and `preprocessor_config.json` would say of the checkpoint at `path`.

    `cfg` is what a fairseq file keeps of its flags. Raises UserError where tensors that decide a size are missing, or
    flags have a value that is not known.
    """
    tensors = clean_names(tensors)
    model, normalize = _flags(path, cfg)
    audio = _part(_part(model, "modalities"), "audio")
    for flags, known in ((model, _KNOWN), (audio, _KNOWN_OF_AUDIO)):
        for key, expected in known.items():
            if not _is(flags.get(key, expected), expected):
                raise UserError(f"{path}: {key} {brief(flags[key])} is not known, expected {expected}")
    convolutions = _of_layers(path, tensors, f"{EMOTION2VEC}.local_encoder.conv_layers.{{}}.0.weight", 3)
    positions = _of_layers(path, tensors, f"{EMOTION2VEC}.relative_positional_encoder.{{}}.0.weight", 3, first=1)
    width = _shape(path, tensors, f"{EMOTION2VEC}.project_features.2.weight", 2)[0]
    block = f"{EMOTION2VEC}.context_encoder.blocks"
    prenet = _count(tensors, f"{block}.{{}}.norm1.weight")
    depth = _count(tensors, "blocks.{}.norm1.weight")
    for flags, key, number in ((audio, "prenet_depth", prenet), (model, "depth", depth)):
        if flags.get(key, number) != number:
            raise UserError(f"{path}: {key} {brief(flags[key])}, but its tensors are those of {number} such layers")
    first = f"{block}.0" if prenet else "blocks.0"
    config = {
        "model_type": "emotion2vec",
        "hidden_size": width,
        "num_hidden_layers": prenet + depth,
        "num_prenet_layers": prenet,
        "num_attention_heads": _heads(path, tensors, model),
        "intermediate_size": _shape(path, tensors, f"{first}.mlp.fc1.weight", 2)[0],
        "conv_dim": [shape[0] for shape in convolutions],
        "conv_kernel": [shape[2] for shape in convolutions],
        "conv_stride": _strides(path, audio, [shape[2] for shape in convolutions]),
        "conv_bias": f"{EMOTION2VEC}.local_encoder.conv_layers.0.0.bias" in tensors,
        "conv_pos_kernel_size": positions[0][2],
        "num_conv_pos_embeddings": len(positions),
        "num_conv_pos_embedding_groups": width // positions[0][1],
        "num_extra_tokens": _shape(path, tensors, f"{EMOTION2VEC}.extra_tokens", 3)[1],
    }
    return config, {"do_normalize": normalize, "sampling_rate": 16_000}


def _flags(path: Path, cfg: Any) -> tuple[Mapping[str, Any], bool]:
    """The model's flags, and whether the waveform is normalised."""
    beside = path.parent / FLAGS
    if beside.is_file():
        try:
            content = yaml.safe_load(beside.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
            raise UserError(f"{beside}: cannot be read ({reason_of(error)})") from error
        model = _part(content, "model_conf")
        return model, bool(model.get("normalize", True))
    model, task = _part(cfg, "model"), _part(cfg, "task")
    return model if "modalities" in model else {}, bool(task.get("normalize", True))


def _part(content: Any, key: str) -> Mapping[str, Any]:
    found = content.get(key) if isinstance(content, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _is(found: Any, expected: Any) -> bool:
    """Whether a flag has a value; YAML takes 1e-05 for a word."""
    try:
        return found == expected or (isinstance(expected, float) and float(found) == expected)
    except (TypeError, ValueError):
        return False


def _heads(path: Path, tensors: Tensors, model: Mapping[str, Any]) -> int:
    """As many as there are scales of the scores' slopes."""
    name = f"{EMOTION2VEC}.alibi_scale"
    shape = _shape(path, tensors, name, 5)
    heads = model.get("num_heads", shape[2])
    if heads == 1 and "num_heads" not in model:  # or one scale that all heads share
        raise UserError(
            f"{path}: {name} has one value, and nothing says of how many heads; expected num_heads in {FLAGS}"
        )
    if shape != (1, 1, heads, 1, 1):
        raise UserError(f"{path}: {name} has shape {shape}, expected (1, 1, {brief(heads)}, 1, 1) for its heads")
    return shape[2]


def _strides(path: Path, audio: Mapping[str, Any], kernels: list[int]) -> list[int]:
    spec = audio.get("feature_encoder_spec")
    if spec is not None:
        layers = conv_layers(path, "feature_encoder_spec", spec)
        if [kernel for _, kernel, _ in layers] != kernels:
            raise UserError(f"{path}: feature_encoder_spec {brief(spec)}, but its convolutions have kernels {kernels}")
        return [stride for _, _, stride in layers]
    if tuple(kernels) != _KERNELS:
        raise UserError(
            f"{path}: convolutions with kernels {kernels}, and nothing says their strides; expected {FLAGS} beside it"
        )
    return list(_STRIDES)


def _of_layers(path: Path, tensors: Tensors, name: str, axes: int, first: int = 0) -> list[tuple[int, ...]]:
    """The shapes of tensors that are numbered; at least one."""
    last = max(first + 1, first + _count(tensors, name, first))
    return [_shape(path, tensors, name.format(i), axes) for i in range(first, last)]


def _count(tensors: Tensors, name: str, first: int = 0) -> int:
    """How many of tensors there are that are numbered from `first`: up to the last one, should some be missing."""
    pattern = re.compile(re.escape(name).replace(r"\{\}", r"(\d{1,9})"))
    found = [int(match[1]) for match in map(pattern.fullmatch, tensors) if match]
    return max(found) + 1 - first if found else 0


def _shape(path: Path, tensors: Tensors, name: str, axes: int) -> tuple[int, ...]:
    if name not in tensors:
        raise UserError(f"{path}: of the emotion2vec encoder, {name} is missing")
    shape = tensors[name].shape
    if len(shape) != axes or 0 in shape:
        raise UserError(f"{path}: {name} has shape {shape}, expected {axes} axes")
    return shape
