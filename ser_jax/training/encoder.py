"""The layers of a pretrained encoder that a training computes itself, from the hidden states that it is given."""

import dataclasses
import json
import os
from typing import Any

from ser_jax.corpora.features import Packed
from ser_jax.encoders.adapters import COLLECTION, upper_weights
from ser_jax.encoders.architecture import Architecture, from_json
from ser_jax.encoders.extract import encoder_of
from ser_jax.errors import UserError

_WHERE = "config.model.layers"


@dataclasses.dataclass(frozen=True)
class Upper:
    """The layers above the hidden states that a model takes.

    Attributes:
      encoder: name, sha256, source and licence of the whole encoder.
      architecture: of the whole encoder.
      first, depth: how many layers are below, and how many these are.
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
    """Returns the layers that a configuration's model computes from its features, or None: it computes none.

    Raises `UserError` where the features are no frames of hidden states, the encoder is not on this machine or another
    one, or has no such layers.
    """
    if "encoder" in config["model"]:
        raise UserError("config.model.encoder: the features decide it; expected it not to be set")
    depth = config["model"].get("layers", 0)
    if config["model"]["name"] != "encoder_head" or not isinstance(depth, int) or depth < 1:
        return None  # what is no number of layers is refused with the model's other options
    info = {} if features is None else features.info
    if info.get("form") != "frames" or info.get("average") != 1 or "encoder" not in info:
        raise UserError(
            f"{_WHERE}: found {depth}, expected 0: layers are computed from frames of hidden states as the encoder "
            "makes them (`prepare encoder CORPUS --encoder NAME --layers N`, without --pooled and --average)"
        )
    states, last = info["states"], info["states"][-1]
    if config["model"].get("states", 1) != len(states):
        found = config["model"].get("states", 1)
        raise UserError(f"config.model.states: found {found}; features {features.name} have the {len(states)} {states}")
    if config["frontend"]["normalization"] != "none":
        raise UserError(
            f"config.frontend.normalization: found {config['frontend']['normalization']}, expected none: "
            f"{_WHERE} are computed from hidden states as they are"
        )
    encoder = encoder_of(info, data_dir)
    first = -1 if last == "final" else int(last.removeprefix("layer "))
    if first < 0 or first + depth > encoder.architecture.depth:
        raise UserError(
            f"{_WHERE}: found {depth} above {last!r}, the last state of features {features.name}; encoder "
            f"{encoder.name} has the layers 1 to {encoder.architecture.depth}"
        )
    weights = upper_weights(encoder.parameters, first, depth)
    return Upper(encoder.describe(), encoder.architecture, first, depth, {"adapter": {"weights": weights}})


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
    described = metadata.get(COLLECTION)
    return described and from_json(described["architecture"])
