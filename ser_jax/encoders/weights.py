"""A checkpoint's tensors as the parameters of a linen encoder: every one is used, and every parameter is filled.

Names are those of Hugging Face; fairseq's and OpenAI's are renamed first (`ser_jax.encoders.foreign`). emotion2vec has
names of its own, and one tensor for the projections of query, key and value. A tensor that is missing, unexpected or of
another shape is refused by its name; nothing is drawn at random in its place.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from ser_jax.encoders.architecture import Architecture, Emotion2vecArchitecture, WhisperArchitecture
from ser_jax.encoders.wav2vec2 import Wav2Vec2Encoder
from ser_jax.encoders.whisper import WhisperEncoder
from ser_jax.errors import UserError, brief
from ser_jax.files import read_json

Encoder = WhisperEncoder | Wav2Vec2Encoder
Tensors = dict[str, np.ndarray]

# What a checkpoint holds beside its encoder: heads, quantizers, decoders, the averaged weights of a teacher (_ema), and
# the vector that stands for masked frames in pretraining.
_NOT_OF_THE_ENCODER = re.compile(
    r"(quantizer|project_q|project_hid|lm_head|proj_out|final_proj|decoder|classifier|projector|layer_weights)(\.|$)"
    r"|^(label_embs_concat|mask_time_emb_vector|mask_emb|masked_spec_embed)$|^(proj|recon_proj|_ema)(\.|$)"
    r"|^(tdnn|objective)\.|^feature_extractor\.(weight|bias)$"  # of a head that verifies speakers
)
EMOTION2VEC = "modality_encoders.AUDIO"  # begins the names of emotion2vec's tensors, but those of its last layers
_PREFIX = re.compile(r"^(model|wav2vec2|hubert|wavlm|data2vec_audio|d2v_model)\.")
_WEIGHT_NORM = {"weight_g": "g", "weight_v": "v", "parametrizations.weight.original0": "g"}
_WEIGHT_NORM["parametrizations.weight.original1"] = "v"


def make_module(architecture: Architecture, **attributes: Any) -> Encoder:
    """Returns the linen module of an architecture; `attributes` are `depth`, `dtype` and `remat`."""
    of = WhisperEncoder if isinstance(architecture, WhisperArchitecture) else Wav2Vec2Encoder
    return of(architecture, **attributes)


def read_tensors(path: str | Path) -> Tensors:
    """Returns the tensors of a safetensors file, or of a PyTorch file where PyTorch is installed.

    `path` may be the index of a checkpoint in several files (`*.index.json`). Raises UserError for a file
    that is cut short or damaged, and for one that holds anything but tensors.
    """
    path = Path(path)
    if path.name.endswith(".index.json"):
        try:
            parts = sorted(set(read_json(path)["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise UserError(f"{path}: not an index of weights ({_one_line(error)})") from error
        for part in parts:
            if not isinstance(part, str) or not re.fullmatch(r"[^/\\]+\.(safetensors|bin)", part):
                raise UserError(f"{path}: names {brief(part)}, expected files .safetensors or .bin beside it")
            if not (path.parent / part).is_file():
                raise UserError(f"{path}: names {brief(part)}, which is not beside it")
        return {name: tensor for part in parts for name, tensor in read_tensors(path.parent / part).items()}
    if path.suffix == ".safetensors":
        try:
            return safetensors_numpy.load_file(path)
        except (OSError, safetensors.SafetensorError, KeyError, AttributeError) as error:  # of a dtype NumPy lacks
            raise UserError(
                f"{path}: damaged or cut short, expected a safetensors file ({_one_line(error)})"
            ) from error
    from ser_jax.encoders import foreign  # only these files need PyTorch, which takes seconds to import

    return foreign.read_pytorch(path)[0]


def clean_names(tensors: Mapping[str, np.ndarray], dtype: Any = np.float32) -> Tensors:
    """Returns the encoder's tensors, without a model's prefix and with weight norms multiplied out."""
    cleaned: Tensors = {}
    norms: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in tensors.items():
        short = _PREFIX.sub("", name)
        if _NOT_OF_THE_ENCODER.search(short):
            continue
        for ending, part in _WEIGHT_NORM.items():
            if short.endswith(f".{ending}"):
                norms.setdefault(short.removesuffix(ending), {})[part] = np.asarray(tensor, dtype)
                break
        else:
            cleaned[short] = np.asarray(tensor, dtype)
    for name, parts in norms.items():
        if set(parts) != {"g", "v"}:
            raise UserError(f"{name}weight: half of a weight norm; expected its length and its direction")
        if parts["v"].ndim != 3:
            raise UserError(f"{name}weight_v: shape {parts['v'].shape}, expected 3 axes, of a convolution")
        length = np.linalg.norm(parts["v"].reshape(-1, parts["v"].shape[-1]), axis=0)
        if parts["g"].size != length.size:
            raise UserError(f"{name}weight_g: shape {parts['g'].shape}, expected (1, 1, {length.size})")
        cleaned[f"{name}weight"] = parts["v"] * (parts["g"].reshape(-1) / length)
    return cleaned


def to_parameters(architecture: Architecture, tensors: Mapping[str, np.ndarray], source: str) -> dict[str, Any]:
    """Returns the linen parameters of an encoder from its tensors, as `clean_names` gives them.

    Raises UserError, naming `source` and the tensor, where one is missing, not known, of another shape, or
    not finite.
    """
    most = max(architecture.depth, getattr(architecture, "position_layers", 0))
    if most > len(tensors):  # each layer has some; the names of a hundred million layers would never be made
        raise UserError(f"{source}: {len(tensors)} tensors; the configuration asks for {most} layers")
    entries = list(_entries(architecture))
    wanted = {name for entry in entries for name in entry.names}
    missing, unexpected = sorted(wanted - set(tensors)), sorted(set(tensors) - wanted)
    if missing or unexpected:
        what = [f"{len(missing)} tensors are missing ({_some(missing)})"] if missing else []
        what += [f"{len(unexpected)} are not known ({_some(unexpected)})"] if unexpected else []
        raise UserError(f"{source}: of the {architecture.family} encoder, {' and '.join(what)}")
    shapes = flax.traverse_util.flatten_dict(parameter_shapes(architecture), sep="/")
    if set(shapes) != {entry.path for entry in entries}:  # a fault of the table below, not of the checkpoint
        raise AssertionError(set(shapes) ^ {entry.path for entry in entries})
    parameters = {}
    for entry in entries:
        expected = shapes[entry.path].shape
        expected_each = expected[1:] if entry.stacked else expected
        layers = []
        for name in entry.names:
            if not np.isfinite(tensors[name]).all():
                raise UserError(f"{source}: {name} has values that are not finite")
            layers.append(_LAYOUTS[entry.layout](tensors[name]))
            if layers[-1].shape != expected_each:
                raise UserError(
                    f"{source}: {name} has shape {tensors[name].shape}; the configuration asks for "
                    f"{_stored_shape(entry.layout, expected_each)}"
                )
        parameters[entry.path] = np.stack(layers) if entry.stacked else np.ascontiguousarray(layers[0])
    return flax.traverse_util.unflatten_dict(parameters, sep="/")


def parameter_shapes(architecture: Architecture) -> Any:
    """Returns the shapes and dtypes of the parameters of an encoder, without computing any."""
    module = make_module(architecture)
    waveform = jax.ShapeDtypeStruct((1, max(architecture.min_samples, 640)), np.float32)
    length = jax.ShapeDtypeStruct((1,), np.int32)
    return jax.eval_shape(module.init, jax.random.key(0), waveform, length)["params"]


def truncate(parameters: dict[str, Any], depth: int) -> dict[str, Any]:
    """Returns the parameters of an encoder's first `depth` layers, for a module with that `depth`."""
    kept = {name: value for name, value in parameters.items() if name != "final_norm"}
    return kept | {"layers": jax.tree.map(lambda x: x[:depth], parameters["layers"])}


class _Entry(NamedTuple):
    """One parameter: its path in the linen tree, its tensors (one a layer where it is stacked), and their layout."""

    path: str
    names: tuple[str, ...]
    layout: str = "same"
    stacked: bool = False


_LAYOUTS = {
    "same": lambda tensor: tensor,
    "linear": lambda tensor: tensor.T,  # [out, in] to [in, out]
    "convolution": lambda tensor: tensor.transpose(2, 1, 0) if tensor.ndim == 3 else tensor,  # [out, in, kernel]
    "flat": lambda tensor: tensor.reshape(-1),  # [1, heads, 1, 1]
    "row": lambda tensor: tensor[0] if tensor.ndim == 3 and len(tensor) == 1 else tensor,  # [1, tokens, width]
    "query": lambda tensor: _third(tensor, 0),
    "key": lambda tensor: _third(tensor, 1),
    "value": lambda tensor: _third(tensor, 2),
}


def _third(tensor: np.ndarray, which: int) -> np.ndarray:
    """One of three projections, or their biases, that are one tensor; all of it where it is not of three."""
    if tensor.ndim == 0 or len(tensor) % 3:
        return tensor
    number = len(tensor) // 3
    return tensor[which * number : (which + 1) * number].T


def _stored_shape(layout: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if layout == "row":
        return (1, *shape)
    if layout in ("query", "key", "value"):
        return 3 * shape[-1], *shape[:-1]
    return shape[::-1] if layout in ("linear", "convolution") else shape


def _module(path: str, name: str, layout: str, bias: bool = True) -> list[_Entry]:
    """The weight and the bias of a dense layer or a convolution."""
    entries = [_Entry(f"{path}/kernel", (f"{name}.weight",), layout)]
    own = layout if layout in ("query", "key", "value") else "same"
    return [*entries, _Entry(f"{path}/bias", (f"{name}.bias",), own)] if bias else entries


def _norm(path: str, name: str) -> list[_Entry]:
    return [_Entry(f"{path}/scale", (f"{name}.weight",)), _Entry(f"{path}/bias", (f"{name}.bias",))]


def _entries(architecture: Architecture) -> Iterator[_Entry]:
    """All parameters of an encoder."""
    if isinstance(architecture, Emotion2vecArchitecture):
        yield from _emotion2vec_entries(architecture)
        return
    whisper = isinstance(architecture, WhisperArchitecture)
    yield from _whisper_entries() if whisper else _wav2vec2_entries(architecture)
    attention, norm, middle, out = (
        ("self_attn", "self_attn_layer_norm", "fc1", "fc2")
        if whisper
        else ("attention", "layer_norm", "feed_forward.intermediate_dense", "feed_forward.output_dense")
    )
    layer = [
        *_module("query", f"{attention}.q_proj", "linear"),
        *_module("key", f"{attention}.k_proj", "linear", bias=not whisper),
        *_module("value", f"{attention}.v_proj", "linear"),
        *_module("output", f"{attention}.out_proj", "linear"),
        *_module("feed_forward_in", middle, "linear"),
        *_module("feed_forward_out", out, "linear"),
        *_norm("attention_norm", norm),
        *_norm("feed_forward_norm", "final_layer_norm"),
    ]
    if architecture.relative == "buckets":
        layer += _module("gate", f"{attention}.gru_rel_pos_linear", "linear")
        layer.append(_Entry("gate_scale", (f"{attention}.gru_rel_pos_const",), "flat"))
    yield from _stacked(layer, [f"encoder.layers.{n}" for n in range(architecture.depth)])


def _stacked(layer: list[_Entry], prefixes: list[str]) -> Iterator[_Entry]:
    """The parameters of all layers, given those of one, and what the names of each one's tensors begin with."""
    for entry in layer:
        names = tuple(f"{prefix}.{entry.names[0]}" for prefix in prefixes)
        yield _Entry(f"layers/{entry.path}", names, entry.layout, stacked=True)


def _whisper_entries() -> Iterator[_Entry]:
    yield from _module("conv1", "encoder.conv1", "convolution")
    yield from _module("conv2", "encoder.conv2", "convolution")
    yield _Entry("positions", ("encoder.embed_positions.weight",))
    yield from _norm("final_norm", "encoder.layer_norm")


def _wav2vec2_entries(architecture: Any) -> Iterator[_Entry]:
    for i in range(len(architecture.conv_widths)):
        name = f"feature_extractor.conv_layers.{i}"
        yield from _module(f"conv{i}", f"{name}.conv", "convolution", architecture.conv_bias)
        if i == 0 or architecture.conv_norm == "layer":
            yield from _norm(f"conv{i}_norm", f"{name}.layer_norm")
    if architecture.projection_norm:
        yield from _norm("projection_norm", "feature_projection.layer_norm")
    yield from _module("projection", "feature_projection.projection", "linear")
    positions = "encoder.pos_conv_embed"
    if architecture.position_layers:
        for i in range(architecture.position_layers):
            yield from _module(f"positions{i}", f"{positions}.layers.{i}.conv", "convolution")
    else:
        yield from _module("positions", f"{positions}.conv", "convolution")
    yield from _norm("norm", "encoder.layer_norm")
    if architecture.buckets:
        yield _Entry("relative_positions", ("encoder.layers.0.attention.rel_attn_embed.weight",))


def _emotion2vec_entries(architecture: Emotion2vecArchitecture) -> Iterator[_Entry]:
    audio = EMOTION2VEC
    for i in range(len(architecture.conv_widths)):
        name = f"{audio}.local_encoder.conv_layers.{i}"
        yield from _module(f"conv{i}", f"{name}.0", "convolution", architecture.conv_bias)
        yield from _norm(f"conv{i}_norm", f"{name}.2.1")
    yield from _norm("projection_norm", f"{audio}.project_features.1")
    yield from _module("projection", f"{audio}.project_features.2", "linear")
    for i in range(architecture.position_layers):
        yield from _module(f"positions{i}", f"{audio}.relative_positional_encoder.{i + 1}.0", "convolution")
    if architecture.extra_tokens:
        yield _Entry("extra_tokens", (f"{audio}.extra_tokens",), "row")
    yield _Entry("relative_positions", (f"{audio}.alibi_scale",), "flat")
    yield from _norm("norm", f"{audio}.context_encoder.norm")
    layer = [
        *_module("query", "attn.qkv", "query"),
        *_module("key", "attn.qkv", "key"),
        *_module("value", "attn.qkv", "value"),
        *_module("output", "attn.proj", "linear"),
        *_module("feed_forward_in", "mlp.fc1", "linear"),
        *_module("feed_forward_out", "mlp.fc2", "linear"),
        *_norm("attention_norm", "norm1"),
        *_norm("feed_forward_norm", "norm2"),
    ]
    own = architecture.depth - architecture.prenet_depth
    prenet = [f"{audio}.context_encoder.blocks.{n}" for n in range(architecture.prenet_depth)]
    yield from _stacked(layer, [*prenet, *(f"blocks.{n}" for n in range(own))])


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
