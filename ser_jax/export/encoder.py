"""A pretrained encoder as part of a program: samples in, the hidden states that a model takes out."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ser_jax.encoders import extract
from ser_jax.encoders.weights import make_module, truncate
from ser_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Hearing:
    """What an encoder hears of a recording.

    Attributes:
      call: (samples [max_samples] in [-1, 1), how many count) -> states [frames, dims], and how many frames count.
      trim_db: silence at both ends is left out before, as by a corpus's `trim_db`.
      min_samples: of a recording that it can hear.
    """

    call: Callable[[Float[Array, " samples"], Int[Array, ""]], tuple[Float[Array, "frames dims"], Int[Array, ""]]]
    trim_db: float
    min_samples: int


def check_hearing(info: Mapping[str, Any], seconds: float | None, where: str) -> float:
    """Returns how many seconds an encoder hears at once.

    Raises `UserError` for states that one pass of it over a recording of `seconds` does not give.
    """
    if "encoder" not in info:
        raise UserError(f"{where}: the model takes pre-extracted features; expected one that takes recordings")
    if (speeds := list(info.get("speeds", [1.0]))) != [1.0]:
        said = ", ".join(f"{speed:g}" for speed in speeds)
        raise UserError(
            f"{where}: its encoder hears every recording at the speeds {said}, which needs resampling; expected a "
            "model of states prepared without --speeds"
        )
    window = info["window_seconds"]
    if seconds is not None and seconds > window:
        raise UserError(f"--seconds {seconds:g}: the encoder of {where} hears {window:g} s at once; expected no more")
    return window


def make_hearing(info: Mapping[str, Any], data_dir: str | os.PathLike | None = None) -> Hearing:
    """Returns the encoder of the features that `prepare encoder` described by `info`."""
    encoder, request = extract.encoder_of(info, data_dir), extract.request_of(info)
    deepest = extract.deepest_layer(request)
    module = make_module(encoder.architecture, depth=deepest)
    parameters = encoder.parameters if deepest is None else truncate(encoder.parameters, deepest)

    def call(samples: Array, num_samples: Array) -> tuple[Array, Array]:
        heard = jnp.maximum(num_samples, encoder.architecture.min_samples)  # the rest is refused elsewhere
        found = module.apply({"params": parameters}, samples[None], heard[None])
        states = extract.select(found, request)[0]
        if request.form == "frames":
            return states.astype(jnp.float32), -(-found.num_frames[0] // request.average)
        mean, variance = states
        each = jnp.stack([mean, jnp.sqrt(variance)]).reshape(2, len(request.states), -1)
        return each.swapaxes(0, 1).reshape(1, -1), jnp.int32(1)

    return Hearing(call, request.trim_db, encoder.architecture.min_samples)
