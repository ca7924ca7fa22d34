"""What an encoder is, as its checkpoint's `config.json` and `preprocessor_config.json` say in Hugging Face's terms.

Every switch comes from these files; a value that the code does not know is refused, because a wrong guess gives hidden
states that look right and are not.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from ser_jax.errors import UserError, brief, reason_of
from ser_jax.files import read_json

SAMPLE_RATE = 16_000  # of every encoder
_SIZE = r"\s*[1-9]\d{0,4}\s*"
_LAYER = rf"\({_SIZE},{_SIZE},{_SIZE}\)"
_SAME_LAYERS = re.compile(rf"\s*\[\s*({_LAYER}(?:\s*,\s*{_LAYER})*)\s*,?\s*\]\s*(?:\*\s*([1-9]\d?))?\s*")
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
PROCESSOR = "processor_config.json"  # of transformers 5, which keeps the preprocessor's entries under one key of it
_EXTRACTOR = "feature_extractor"
_MOST = 1_000_000  # of any size; a larger one would be asked for memory before it is found not to fit the weights
_IN_JSON = {bool: "true or false", tuple: "a list"}
_MOST_MEL_BANDS = 201  # as many as the spectrum has frequencies


@dataclasses.dataclass(frozen=True)
class WhisperArchitecture:
    """The encoder half of Whisper: log-mel, two convolutions, learned or sinusoidal positions, pre-norm layers.

    Attributes:
        width, depth, heads, hidden: of the layers; `hidden` is the width inside their feed-forward part.
        mel_bands: of the log-mel spectrogram.
        positions: the most frames of 20 ms that an utterance can have.
        align: which positions an utterance shorter than that takes: the "first", or the "last" where the checkpoint's
            authors padded on the left.
        normalize: whether the waveform is scaled to mean 0 and variance 1.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    mel_bands: int
    positions: int
    align: Literal["first", "last"] = "first"
    normalize: bool = False

    family = "whisper"
    pre_norm = True
    key_bias = False
    relative = "none"
    extra_tokens = 0
    epsilon = 1e-5
    hop = 320  # samples from one frame to the next
    min_samples = 201  # the reflected border of the first window needs so many

    @property
    def max_samples(self) -> int:
        """The longest utterance that the positions reach."""
        return self.positions * self.hop


@dataclasses.dataclass(frozen=True)
class Wav2Vec2Architecture:
    """wav2vec 2.0, HuBERT, WavLM or data2vec: convolutions over the waveform, positions by convolution, layers.

    Attributes:
        family: "wav2vec2", "hubert", "wavlm" or "data2vec-audio"; the names of the weights follow from it.
        width, depth, heads, hidden: of the layers; `hidden` is the width inside their feed-forward part.
        conv_widths, conv_kernels, conv_strides, conv_bias: of the convolutions over the waveform.
        conv_norm: "group": over time, per channel, after the first convolution; "layer": over channels, after each.
        pre_norm: layers normalise their input, and the last one's output is normalised; else each normalises its sums.
        projection_norm: whether the convolutions' output is normalised before the projection.
        position_kernel, position_groups: of the convolution that stands for positions.
        position_layers: so many such convolutions without weight norm (data2vec); 0: one with weight norm.
        buckets, max_distance: of WavLM's relative positions, which a gate scales; 0: there are none.
        epsilon: of the normalisations in and around the layers.
        normalize: whether the waveform is scaled to mean 0 and variance 1.
    """

    family: str
    width: int
    depth: int
    heads: int
    hidden: int
    conv_widths: tuple[int, ...]
    conv_kernels: tuple[int, ...]
    conv_strides: tuple[int, ...]
    conv_bias: bool
    conv_norm: Literal["group", "layer"]
    pre_norm: bool
    projection_norm: bool
    position_kernel: int
    position_groups: int
    position_layers: int
    buckets: int
    max_distance: int
    epsilon: float
    normalize: bool

    key_bias = True
    extra_tokens = 0
    waveform_epsilon = 1e-7  # of the waveform's normalisation
    max_samples = None  # any length

    @property
    def relative(self) -> Literal["none", "buckets", "linear"]:
        """What the distance from a query to a key adds to its score."""
        return "buckets" if self.buckets else "none"

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        hop = 1
        for stride in self.conv_strides:
            hop *= stride
        return hop

    @property
    def min_samples(self) -> int:
        """The receptive field of one frame."""
        samples = 1
        for kernel, stride in zip(reversed(self.conv_kernels), reversed(self.conv_strides), strict=True):
            samples = (samples - 1) * stride + kernel
        return samples


@dataclasses.dataclass(frozen=True)
class Emotion2vecArchitecture(Wav2Vec2Architecture):
    """emotion2vec, a data2vec 2.0: data2vec's convolutions and layers, extra tokens, scores that fall with distance.

    Attributes:
        extra_tokens: learned vectors before the frames: all attend to them, and they are left out of the hidden states.
        prenet_depth: the first so many layers, which the checkpoint keeps by themselves.
    """

    extra_tokens: int = 10
    prenet_depth: int = 4

    waveform_epsilon = 1e-5

    @property
    def relative(self) -> Literal["none", "buckets", "linear"]:
        """What the distance from a query to a key adds to its score."""
        return "linear"


Architecture = WhisperArchitecture | Wav2Vec2Architecture


def from_json(fields: Mapping[str, Any]) -> Architecture:
    """Returns an architecture from its family and its fields, as JSON keeps them."""
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    if values["family"] != WhisperArchitecture.family:
        of = Emotion2vecArchitecture if values["family"] == "emotion2vec" else Wav2Vec2Architecture
        return of(**values)
    return WhisperArchitecture(**{name: value for name, value in values.items() if name != "family"})


def read_architecture(folder: str | Path) -> Architecture:
    """Returns the architecture of the checkpoint in `folder`.

    Raises UserError for a folder without the two files, a family or a switch that is not known.
    """
    return make_architecture(*read_configuration(folder))


def read_configuration(folder: str | Path) -> tuple[dict[str, Any], dict[str, Any], Path, Path]:
    """Returns the arguments of `make_architecture`, from the files in `folder`.

    Raises UserError where there are none, or they cannot be read.
    """
    path, beside = Path(folder) / CONFIG, Path(folder) / PREPROCESSOR
    config = _read_json(path, "a checkpoint folder has it beside its weights")
    processor = Path(folder) / PROCESSOR
    if processor.is_file():  # transformers takes it first
        nested = _read_json(processor, "")
        if isinstance(nested.get(_EXTRACTOR), dict):
            return config, nested[_EXTRACTOR], path, processor
    preprocessor = {}
    if _family(path, config) != "whisper" or beside.is_file():
        preprocessor = _read_json(beside, "it says whether the waveform is normalised")
    return config, preprocessor, path, beside


def make_architecture(
    config: Mapping[str, Any], preprocessor: Mapping[str, Any], path: str | Path, beside: str | Path
) -> Architecture:
    """Returns the architecture that the contents of the two files say; messages name `path` and `beside` for them."""
    family = _family(path, config)
    rate = preprocessor.get("sampling_rate", SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        raise UserError(f"{beside}: sampling_rate {brief(rate)}, expected {SAMPLE_RATE}")
    return _READERS[family](_Switches(path, config), _Switches(beside, preprocessor))


def _family(path: str | Path, config: Mapping[str, Any]) -> str:
    family = config.get("model_type")
    if not isinstance(family, str) or family not in _READERS:
        raise UserError(f"{path}: model_type {brief(family)}, expected one of {', '.join(_READERS)}")
    return family


@dataclasses.dataclass(frozen=True)
class _Switches:
    """The entries of one file, checked when they are read."""

    path: str | Path
    values: Mapping[str, Any]

    def get(self, key: str, default: Any) -> Any:
        """Returns an entry of the default's type; a tuple for a list."""
        found = self.values.get(key, default)
        found = tuple(found) if isinstance(found, list) else found
        if type(found) is not type(default):
            raise UserError(f"{self.path}: {key} {brief(found)}, expected {_IN_JSON[type(default)]}")
        return found

    def size(self, key: str, default: int, least: int = 1, most: int = _MOST) -> int:
        """Returns an entry that is a whole number from `least` to `most`."""
        found = self.values.get(key, default)
        if type(found) is not int or not least <= found <= most:
            raise UserError(f"{self.path}: {key} {brief(found)}, expected a whole number from {least} to {most}")
        return found

    def epsilon(self, key: str, default: float) -> float:
        """Returns an entry that is added to a variance."""
        found = self.values.get(key, default)
        if type(found) is not float or not 0 < found < 1:
            raise UserError(f"{self.path}: {key} {brief(found)}, expected a number between 0 and 1")
        return found

    def one_of(self, key: str, *expected: Any) -> Any:
        """Returns an entry that has to be one of `expected`, the first of which is the default."""
        found = self.values.get(key, expected[0])
        if found not in expected:
            raise UserError(
                f"{self.path}: {key} {brief(found)} is not known, expected {' or '.join(map(repr, expected))}"
            )
        return found


def _whisper(config: _Switches, preprocessor: _Switches) -> WhisperArchitecture:
    config.one_of("activation_function", "gelu")
    config.one_of("scale_embedding", False)
    for key, expected in (("n_fft", 400), ("hop_length", 160), ("dither", 0.0)):
        preprocessor.one_of(key, expected)
    side = preprocessor.one_of("padding_side", "right", "left")
    architecture = WhisperArchitecture(
        width=config.size("d_model", 384),
        depth=config.size("encoder_layers", 4),
        heads=config.size("encoder_attention_heads", 6),
        hidden=config.size("encoder_ffn_dim", 1536),
        mel_bands=config.size("num_mel_bins", 80, most=_MOST_MEL_BANDS),
        positions=config.size("max_source_positions", 1500),
        align="last" if side == "left" else "first",
        normalize=preprocessor.get("do_normalize", False),
    )
    preprocessor.one_of("feature_size", architecture.mel_bands)
    return _checked(config.path, architecture)


def _wav2vec2(config: _Switches, preprocessor: _Switches) -> Wav2Vec2Architecture:
    family = config.values["model_type"]
    config.one_of("hidden_act", "gelu")
    config.one_of("feat_extract_activation", "gelu")
    config.one_of("add_adapter", False)
    config.one_of("adapter_attn_dim", None)
    config.one_of("conv_pos_batch_norm", False)
    data2vec, wavlm = family in ("data2vec-audio", "emotion2vec"), family == "wavlm"
    positions = config.size("num_conv_pos_embeddings", 5 if data2vec else 128)
    buckets = config.size("num_buckets", 320, 4) if wavlm else 0
    architecture = Wav2Vec2Architecture(
        family=family,
        width=config.size("hidden_size", 768),
        depth=config.size("num_hidden_layers", 12),
        heads=config.size("num_attention_heads", 12),
        hidden=config.size("intermediate_size", 3072),
        conv_widths=config.get("conv_dim", (512,) * 7),
        conv_kernels=config.get("conv_kernel", (10, 3, 3, 3, 3, 2, 2)),
        conv_strides=config.get("conv_stride", (5, 2, 2, 2, 2, 2, 2)),
        conv_bias=config.get("conv_bias", False),
        conv_norm="layer" if data2vec else config.one_of("feat_extract_norm", "group", "layer"),
        pre_norm=False if data2vec else config.get("do_stable_layer_norm", False),
        projection_norm=config.get("feat_proj_layer_norm", True) if family == "hubert" else True,
        position_kernel=config.size("conv_pos_kernel_size", 19) if data2vec else positions,
        position_groups=config.size("num_conv_pos_embedding_groups", 16),
        position_layers=positions if data2vec else 0,
        buckets=buckets,
        max_distance=config.size("max_bucket_distance", 800, buckets // 4 + 1) if wavlm else 0,
        epsilon=config.epsilon("layer_norm_eps", 1e-5),
        normalize=preprocessor.get("do_normalize", True),
    )
    sizes = (architecture.conv_widths, architecture.conv_kernels, architecture.conv_strides)
    if (
        len(set(map(len, sizes))) != 1
        or not sizes[0]
        or not all(type(size) is int and size > 0 for each in sizes for size in each)
    ):
        raise UserError(
            f"{config.path}: conv_dim, conv_kernel and conv_stride {brief(sizes)}, expected as many of each, whole "
            "numbers above 0"
        )
    if max(*architecture.conv_widths, architecture.hop, architecture.min_samples) > _MOST:
        raise UserError(
            f"{config.path}: conv_dim, conv_kernel and conv_stride {brief(sizes)}, expected at most {_MOST} channels, "
            "and samples of a frame"
        )
    groups = architecture.position_groups
    if architecture.width % groups:
        raise UserError(f"{config.path}: num_conv_pos_embedding_groups {groups} does not divide hidden_size")
    return _checked(config.path, architecture)


def _emotion2vec(config: _Switches, preprocessor: _Switches) -> Emotion2vecArchitecture:
    for key, expected in (("do_stable_layer_norm", False), ("layer_norm_eps", 1e-5)):
        config.one_of(key, expected)
    tokens, prenet = config.size("num_extra_tokens", 10, 0), config.size("num_prenet_layers", 4, 0)
    architecture = Emotion2vecArchitecture(
        **dataclasses.asdict(_wav2vec2(config, preprocessor)), extra_tokens=tokens, prenet_depth=prenet
    )
    if prenet > architecture.depth:
        raise UserError(
            f"{config.path}: num_prenet_layers {prenet}, expected at most the {architecture.depth} of num_hidden_layers"
        )
    return architecture


def conv_layers(path: Path, key: str, text: Any) -> list[tuple[int, int, int]]:
    """Returns width, kernel and stride of convolutions that are written as `[(512,10,5)] + [(512,3,2)] * 4`.

    Raises UserError for anything else, naming the file at `path` and its `key`.
    """
    layers: list[tuple[int, int, int]] = []
    for part in str(text).split("+"):
        found = _SAME_LAYERS.fullmatch(part)
        if not found:
            raise UserError(
                f"{path}: {key} {brief(text)}, expected [(width, kernel, stride)] * times + ..., all above 0"
            )
        triples = [tuple(map(int, re.findall(r"\d+", triple))) for triple in re.findall(_LAYER, found[1])]
        layers += triples * int(found[2] or 1)
    return layers


_READERS: dict[str, Callable[[_Switches, _Switches], Architecture]] = {
    "whisper": _whisper,
    "wav2vec2": _wav2vec2,
    "hubert": _wav2vec2,
    "wavlm": _wav2vec2,
    "data2vec-audio": _wav2vec2,
    "emotion2vec": _emotion2vec,
}
FAMILIES = tuple(_READERS)


def _checked(path: str | Path, architecture: Any) -> Any:
    if architecture.width % architecture.heads:
        raise UserError(f"{path}: {architecture.heads} attention heads do not divide the width {architecture.width}")
    return architecture


def _read_json(path: Path, purpose: str) -> dict[str, Any]:
    try:
        content = read_json(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file; {purpose}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({reason_of(error)})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: {type(content).__name__}, expected a JSON object")
    return content
