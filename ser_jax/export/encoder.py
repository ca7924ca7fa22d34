"""A pretrained encoder as part of a program: samples in, the hidden states that a model takes out."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ser_jax.encoders import extract
from ser_jax.encoders.weights import make_module, truncate
from ser_jax.errors import UserError
from ser_jax.export import eight_bits
from ser_jax.export.speeds import at_speeds, check_speeds


@dataclasses.dataclass(frozen=True)
class Hearing:
    """What an encoder hears of a recording.

    Attributes:
      call: (samples [max_samples] in [-1, 1), how many count) -> states [frames, dims], and how many frames count.
      trim_db: silence at both ends is left out before, as by a corpus's `trim_db`.
      min_samples: of a recording that it can hear.
      sizes: how many of its weights are rounded to 8 bits, and how many there are.
    """

    call: Callable[[Float[Array, " samples"], Int[Array, ""]], tuple[Float[Array, "frames dims"], Int[Array, ""]]]
    trim_db: float
    min_samples: int
    sizes: tuple[int, int]


def check_hearing(info: Mapping[str, Any], seconds: float | None, where: str) -> float:
    """Returns how many seconds an encoder hears at once.

    Raises `UserError` for states that one pass of it over a recording of `seconds` does not give.
    """
    if "encoder" not in info:
        raise UserError(f"{where}: the model takes pre-extracted features; expected one that takes recordings")
    speeds = info.get("speeds", [1.0])
    check_speeds(speeds, where)
    window = np.floor(info["window_seconds"] * min(speeds) * 1000) / 1000  # the slowest version is the longest
    if seconds is not None and seconds > window:
        raise UserError(f"--seconds {seconds:g}: the encoder of {where} takes at most {window:g} s")
    return float(window)


def make_hearing(info: Mapping[str, Any], data_dir: str | os.PathLike | None = None, int8: bool = False) -> Hearing:
    """Returns the encoder of the features that `prepare encoder` described by `info`; `int8`: weights of 8 bits."""
    encoder, request = extract.encoder_of(info, data_dir), extract.request_of(info)
    deepest = extract.deepest_layer(request)
    module = make_module(encoder.architecture, depth=deepest)
    parameters = encoder.parameters if deepest is None else truncate(encoder.parameters, deepest)
    weights = {
        name: eight_bits.packed(part, stacked=name == "layers") if int8 else part for name, part in parameters.items()
    }

    def call(samples: Array, num_samples: Array) -> tuple[Array, Array]:
        versions, heard = at_speeds(samples, num_samples, request.speeds)
        heard = jnp.maximum(heard, encoder.architecture.min_samples)  # the rest is refused elsewhere
        found = module.apply({"params": eight_bits.unpacked(weights)}, versions, heard)
        states = extract.select(found, request)
        if request.form == "frames":
            return states[0].astype(jnp.float32), -(-found.num_frames[0] // request.average)
        mean, variance = states[:, 0], states[:, 1]
        each = jnp.stack([mean, jnp.sqrt(variance)], axis=1).reshape(len(versions), 2, len(request.states), -1)
        # A linear model's scores are the mean over versions: those of their mean.
        return jnp.mean(each.swapaxes(1, 2).reshape(len(versions), -1), axis=0, keepdims=True), jnp.int32(1)

    return Hearing(call, request.trim_db, extract.fewest_samples(request, encoder), eight_bits.count(weights))
