"""The layers of a pretrained encoder that a training computes itself, from hidden states or from waveforms."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from ser_jax.corpora.features import Packed
from ser_jax.encoders.adapters import COLLECTION, upper_weights
from ser_jax.encoders.architecture import SAMPLE_RATE, Architecture, from_json
from ser_jax.encoders.extract import encoder_of
from ser_jax.encoders.store import load, refuse_folder
from ser_jax.encoders.weights import truncate
from ser_jax.errors import UserError, reading
from ser_jax.plugins import is_outside

_WHERE = "config.model.layers"


@dataclasses.dataclass(frozen=True)
class Upper:
    """The layers above the hidden states that a model takes, or all of them that it needs above waveforms.

    Attributes:
      encoder: name, sha256, source and licence of the whole encoder.
      architecture: of the whole encoder.
      first, depth: how many layers are below, not trained, and how many these are.
      collection: their weights as the linen collection `ser_jax.encoders.adapters.COLLECTION` of a model.
    """

    encoder: dict[str, str]
    architecture: Architecture
    first: int
    depth: int
    collection: dict[str, Any]

    def describe(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps: not the weights, but which they are."""
        # As JSON has them: a checkpoint's metadata are compared with these when a training goes on.
        fields = json.loads(json.dumps(dataclasses.asdict(self.architecture)))
        architecture = {"family": self.architecture.family, **fields}
        return {**self.encoder, "first": self.first, "depth": self.depth, "architecture": architecture}


def upper_layers(config: dict, features: Packed | None, data_dir: str | os.PathLike | None = None) -> Upper | None:
    """Returns the layers that a configuration's model computes from its input, or None: it computes none.

    Raises `UserError` where the features are no frames of hidden states, the encoder is not on this machine or another
    one, or has no such layers.
    """
    model, kind = config["model"], config["frontend"]["kind"]
    if kind == "waveform" and model["name"] == "encoder_head":
        return _from_waveforms(config, data_dir)
    if kind == "waveform" and not is_outside(model["name"]):
        raise UserError(f"config.frontend.kind: found waveform, which encoder_head alone takes, not {model['name']}")
    if "encoder" in model:
        raise UserError(
            "config.model.encoder: the features decide it; expected it with config.frontend.kind=waveform and "
            "config.model.name=encoder_head alone"
        )
    depth = model.get("layers", 0)
    for option in ("lower", "stem"):
        if model["name"] == "encoder_head" and model.get(option, 0) not in (0, "frozen"):
            raise UserError(
                f"config.model.{option}: found {model[option]}, expected config.frontend.kind=waveform with it: what "
                "is below the states of features has been computed"
            )
    info = {} if features is None else features.info
    if features is not None and model["name"] == "encoder_head" and info.get("form") == "frames":
        _require_states(model, features, exactly=False)
    if model["name"] != "encoder_head" or not isinstance(depth, int) or depth < 1:
        return None  # what is no number of layers is refused with the model's other options
    if info.get("form") != "frames" or info.get("average") != 1 or "encoder" not in info:
        raise UserError(
            f"{_WHERE}: found {depth}, expected 0: layers are computed from frames of hidden states as the encoder "
            "makes them (`prepare encoder CORPUS --encoder NAME --layers N`, without --pooled and --average)"
        )
    _require_states(model, features, exactly=True)
    _require_plain(config, "hidden states")
    last = info["states"][-1]
    encoder = encoder_of(info, data_dir)
    if encoder.architecture.extra_tokens:
        raise UserError(
            f"{_WHERE}: found {depth}, expected 0, or config.frontend.kind=waveform: the layers of encoder "
            f"{encoder.name} attend to extra tokens, of which the features have no states"
        )
    first = -1 if last == "final" else int(last.removeprefix("layer "))
    if first < 0 or first + depth > encoder.architecture.depth:
        raise UserError(
            f"{_WHERE}: found {depth} above {last!r}, the last state of features {features.name}; encoder "
            f"{encoder.name} has the layers 1 to {encoder.architecture.depth}"
        )
    weights = upper_weights(encoder.parameters, first, depth)
    return Upper(encoder.describe(), encoder.architecture, first, depth, {"adapter": {"weights": weights}})


def _require_states(model: Mapping[str, Any], features: Packed, *, exactly: bool) -> None:
    """Refuses a head that takes parts of a state for states, each normalised; `exactly`: or several for one."""
    found, states = model.get("states", 1), features.info["states"]
    if not isinstance(found, int) or found < 1:
        return  # refused with the model's other options
    if len(states) % found or (exactly and found != len(states)):
        raise UserError(
            f"config.model.states: found {found}, expected {len(states)}: features {features.name} have "
            f"{', '.join(states)}"
        )


def _from_waveforms(config: dict, data_dir: str | os.PathLike | None) -> Upper:
    """All layers that a model needs whose input are waveforms."""
    name, options = config["model"].get("encoder", ""), config["model"]
    if not isinstance(name, str) or not name:
        raise UserError(
            "config.model.encoder: found none, expected the name of an encoder (`python launch.py encoders`) with "
            "config.frontend.kind=waveform"
        )
    _require_plain(config, "waveforms")
    if config["training"]["precision"] == "bfloat16":
        raise UserError("config.training.precision: found bfloat16, expected float32 or tf32 with waveforms")
    refuse_folder(name, data_dir)
    encoder = load(name, data_dir)
    architecture = encoder.architecture
    lower, layers, states = (options.get(key, value) for key, value in (("lower", 0), ("layers", 0), ("states", 1)))
    whole = all(isinstance(number, int) and number >= 0 for number in (lower, layers, states))
    if whole and lower + layers > architecture.depth:
        raise UserError(
            f"{_WHERE}: found {layers} above the {lower} of config.model.lower; encoder {name} has {architecture.depth}"
        )
    if whole and states > lower + 1:
        raise UserError(
            f"config.model.states: found {states}, expected at most {lower + 1}, those up to config.model.lower={lower}"
        )
    for group, key in (("training", "crop_seconds"), ("evaluation", "window_seconds")):
        seconds = config[group][key]
        if seconds and round(seconds * SAMPLE_RATE) < architecture.min_samples:
            raise UserError(
                f"config.{group}.{key}: found {seconds:g}, expected at least "
                f"{architecture.min_samples / SAMPLE_RATE:g} s, which encoder {name} makes one frame of"
            )
        if architecture.max_samples and seconds * SAMPLE_RATE > architecture.max_samples:
            raise UserError(
                f"config.{group}.{key}: found {seconds:g}, expected at most {architecture.max_samples / SAMPLE_RATE:g} "
                f"s, which the positions of encoder {name} reach"
            )
    collection = {"below": {"weights": truncate(encoder.parameters, lower)}} if whole else {}
    if whole and layers:
        collection["adapter"] = {"weights": upper_weights(encoder.parameters, lower, layers)}
    return Upper(encoder.describe(), architecture, lower, layers, collection)


def _require_plain(config: dict, what: str) -> None:
    """Refuses features that are not as the encoder takes them."""
    if config["frontend"]["normalization"] != "none":
        raise UserError(
            f"config.frontend.normalization: found {config['frontend']['normalization']}, expected none: "
            f"{_WHERE} are computed from {what} as they are"
        )


def check_encoder(upper: Upper | None, metadata: dict, folder: os.PathLike) -> None:
    """Refuses other layers, or those of another encoder, than those that the runs of a checkpoint were trained on."""
    if upper is None:
        return
    found, own = metadata[COLLECTION], upper.describe()
    if found["sha256"] != own["sha256"]:
        raise UserError(
            f"{folder}: trained on layers of encoder {found['name']} with sha256 {found['sha256'][:12]}, but "
            f"{own['name']} has {own['sha256'][:12]}"
        )
    if found["first"] != own["first"]:
        raise UserError(
            f"{folder}: trained on the states of layer {found['first']} of encoder {found['name']}, but these features "
            f"are those of layer {own['first']}"
        )


def restored_architecture(metadata: dict) -> Architecture | None:
    """Returns the architecture that `Upper.describe` wrote to a checkpoint's metadata, or None: there is none."""
    with reading("the encoder in a model's metadata is none that a training wrote"):
        described = metadata.get(COLLECTION)
        return described and from_json(described["architecture"])
