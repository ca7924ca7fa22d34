"""What the attention of one trained model looked at in one recording."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ser_jax.frontend import Frontend, Statistics, features
from ser_jax.frontend.logmel import mel_filters
from ser_jax.models.decoding import decode_text
from ser_jax.models.output import Attention, Output
from ser_jax.training.precision import activations_dtype, products_in

# How a recording is drawn, whatever the model hears it with.
DRAWN = Frontend(num_mels=80, normalization="none")
MOST_TOKENS = 100  # of a decoded text


@dataclasses.dataclass(frozen=True)
class Look:
    """A recording, and what a model made of it and looked at.

    Attributes:
        log_mel: natural logarithm of the mel power, frames and bands of `DRAWN`.
        mel_frequencies: the bands' centres in Hz.
        seconds: the length of what was heard.
        probabilities: of the emotions; none of a model of dimensions alone.
        attention: as in `Output`, for a batch of this recording alone, without padding.
        frame_seconds: from one frame of the model's input to the next.
        tokens: what a decoder emits: the emotion, then the text if there is one.
    """

    log_mel: Float[np.ndarray, "frames mels"]
    mel_frequencies: Float[np.ndarray, " mels"]
    seconds: float
    probabilities: dict[str, float]
    attention: dict[str, Attention]
    frame_seconds: float
    tokens: tuple[str, ...] = ()


def look(
    model: nn.Module,
    variables: dict[str, Any],
    frontend: Frontend,
    statistics: Statistics | None,
    emotions: Sequence[str],
    waveform: Float[np.ndarray, " samples"],
    *,
    precision: str,
    symbols: Sequence[str] = (),
    probabilities_of: Callable[[Array], Array] = jax.nn.softmax,
) -> Look:
    """Runs a trained model on one recording (16 kHz) and keeps what it looked at.

    `precision` is a key of `ser_jax.training.precision.PRECISIONS`, that of the training.
    `symbols` are those of the text that the model emits, the last of them the text's end. `probabilities_of` takes the
    model's logits, [1, outputs], to the emotions' probabilities, [1, emotions].
    """
    inputs = jnp.asarray(waveform)[None], jnp.full((1,), len(waveform), jnp.int32)

    # Compiled with little optimisation: it runs once for every length of a recording.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(variables: dict, statistics: Statistics | None) -> tuple:
        drawn, _ = features(DRAWN, *inputs)
        heard, num_frames = features(frontend, *inputs, statistics)
        heard = heard.astype(activations_dtype(precision))
        text = {}
        if symbols:
            text["tokens"] = decode_text(model, variables, heard, num_frames, max_tokens=MOST_TOKENS).tokens
        return drawn, num_frames, text, model.apply(variables, heard, num_frames, train=False, **text)

    with products_in(precision):
        drawn, num_frames, text, output = jax.tree.map(np.asarray, run(variables, statistics))
    probabilities = dict(zip(emotions, probabilities_of(jnp.asarray(output.logits))[0].tolist(), strict=True))
    return Look(
        log_mel=drawn[0],
        mel_frequencies=_centres(DRAWN),
        seconds=len(waveform) / frontend.sample_rate,
        probabilities=probabilities,
        attention=own_frames(output, int(num_frames[0])),
        frame_seconds=frontend.hop / frontend.sample_rate,
        tokens=(
            max(probabilities, key=probabilities.get),
            *(symbols[t] for t in text.get("tokens", [[]])[0] if t >= 0),
        ),
    )


def own_frames(output: Output, num_frames: int) -> dict[str, Attention]:
    """The attention of an output of one utterance, without the frames that only fill it up."""

    def cut(attention: Attention) -> Attention:
        own = -(-num_frames // attention.stride)
        parts = [slice(own if axis in ("frames", "queries") else None) for axis in attention.axes]
        return attention.replace(weights=np.asarray(attention.weights, np.float32)[tuple(parts)])

    return {name: cut(attention) for name, attention in output.attention.items()}


def _centres(frontend: Frontend) -> Float[np.ndarray, " mels"]:
    filters = mel_filters(frontend)
    hertz = np.arange(len(filters)) * frontend.sample_rate / frontend.fft
    return hertz @ filters / filters.sum(0)
