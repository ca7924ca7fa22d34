"""wav2vec 2.0 (Baevski et al. 2020), HuBERT, WavLM, data2vec and emotion2vec: one module with their switches.

An utterance's hidden states are those that it has by itself, whatever it is padded to and whoever is beside it: the
group normalisation over time counts its own frames only, what lies past its end is zero before every convolution that
would mix it in, and is never attended to.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ser_jax.encoders.architecture import Wav2Vec2Architecture
from ser_jax.encoders.layers import (
    Frames,
    HiddenStates,
    exact_dtype,
    gelu,
    hidden_states,
    layer_norm,
    layer_options,
    mask_frames,
    normalize_waveform,
    run_stack,
)


class Wav2Vec2Encoder(nn.Module):
    """Hidden states of waveforms.

    Attributes:
        architecture: what the checkpoint's configuration says.
        depth: so many of the layers; None: all, and the normalisation after them, where there is one.
        dtype: of the activations.
        remat: compute a layer's activations again in the backward pass.
    """

    architecture: Wav2Vec2Architecture
    depth: int | None = None
    dtype: Any = jnp.float32
    remat: bool = False

    def num_frames(self, num_samples: Any) -> Any:
        """Returns how many frames so many samples make."""
        for kernel, stride in zip(self.architecture.conv_kernels, self.architecture.conv_strides, strict=True):
            num_samples = (num_samples - kernel) // stride + 1
        return num_samples

    @nn.compact
    def __call__(self, waveform: Float[Array, "batch samples"], num_samples: Int[Array, " batch"]) -> HiddenStates:
        """Waveforms from -1 to 1 at 16 kHz; an utterance has at least `architecture.min_samples` samples."""
        spec = self.architecture
        if spec.normalize:
            waveform = normalize_waveform(waveform, num_samples, spec.waveform_epsilon)
        x = self._convolutions(waveform.astype(self.dtype), num_samples)
        num_frames = self.num_frames(num_samples)
        if spec.projection_norm:
            x = layer_norm(spec.epsilon, self.dtype, "projection_norm")(x)
        x = mask_frames(nn.Dense(spec.width, dtype=self.dtype, name="projection")(x), num_frames)
        x = self._with_tokens(x + self._positions(x, num_frames))
        around = layer_norm(spec.epsilon, self.dtype, "norm")  # before the stack, or after it
        if not spec.pre_norm:
            x = around(x)
        layers = run_stack(
            x,
            num_frames + spec.extra_tokens,
            self._relative_positions(x.shape[1]),
            depth=spec.depth if self.depth is None else self.depth,
            remat=self.remat,
            **layer_options(spec),
            dtype=self.dtype,
        )
        norm, whole = around if spec.pre_norm else None, self.depth is None
        return hidden_states(layers, num_frames, norm, whole=whole, tokens=spec.extra_tokens)

    def _convolutions(self, x: Float[Array, "batch samples"], num_samples: Int[Array, " batch"]) -> Frames:
        """Frames of 512 channels every 20 ms. No window of a frame within the utterance reaches past its end."""
        spec = self.architecture
        x = x[..., None]
        for i, (width, kernel, stride) in enumerate(
            zip(spec.conv_widths, spec.conv_kernels, spec.conv_strides, strict=True)
        ):
            x = nn.Conv(
                width, (kernel,), stride, padding="VALID", use_bias=spec.conv_bias, dtype=self.dtype, name=f"conv{i}"
            )(x)
            if spec.conv_norm == "layer":
                x = layer_norm(1e-5, self.dtype, f"conv{i}_norm")(x)
            elif i == 0:
                x = NormOverTime(name="conv0_norm")(x, (num_samples - kernel) // stride + 1)
            x = gelu(x)
        return x

    def _positions(self, x: Frames, num_frames: Int[Array, " batch"]) -> Frames:
        """What is added to the frames for where they stand."""
        spec = self.architecture
        kernel = spec.position_kernel
        convolution = functools.partial(
            nn.Conv,
            spec.width,
            (kernel,),
            padding=[(kernel // 2, kernel - 1 - kernel // 2)],
            feature_group_count=spec.position_groups,
            dtype=self.dtype,
        )
        if not spec.position_layers:
            return gelu(convolution(name="positions")(x))
        for i in range(spec.position_layers):
            x = layer_norm(1e-5, self.dtype, affine=False)(convolution(name=f"positions{i}")(x))
            x = mask_frames(gelu(x), num_frames)
        return x

    def _with_tokens(self, x: Frames) -> Frames:
        """The extra tokens, which are the same for every utterance, before the frames."""
        spec = self.architecture
        if not spec.extra_tokens:
            return x
        tokens = self.param("extra_tokens", nn.initializers.normal(1.0), (spec.extra_tokens, spec.width))
        tokens = jnp.broadcast_to(tokens.astype(x.dtype), (len(x), *tokens.shape))
        return jnp.concatenate([tokens, x], axis=1)

    def _relative_positions(self, frames: int) -> Float[Array, "heads frames frames"] | None:
        """The attention bias for the distance from a query to a key, before WavLM's is gated."""
        spec = self.architecture
        if spec.relative == "none":
            return None
        shape = (spec.buckets, spec.heads) if spec.relative == "buckets" else (spec.heads,)
        draw = nn.initializers.normal(0.02) if spec.relative == "buckets" else nn.initializers.ones
        return relative_bias(spec, self.param("relative_positions", draw, shape), frames, self.dtype)


class NormOverTime(nn.Module):
    """Normalises every channel over the real frames of an utterance: a group normalisation, one channel a group."""

    @nn.compact
    def __call__(self, x: Frames, num_frames: Int[Array, " batch"]) -> Frames:
        """Zero past the end; statistics in float32 at least, the result in the dtype of `x`."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        dtype = exact_dtype(x.dtype)
        count = jnp.maximum(num_frames, 1)[:, None, None]
        mean = jnp.sum(mask_frames(x, num_frames), 1, keepdims=True, dtype=dtype) / count
        centred = mask_frames(x.astype(dtype) - mean, num_frames)
        variance = jnp.sum(jnp.square(centred), 1, keepdims=True) / count
        normalized = centred / jnp.sqrt(variance + 1e-5) * scale.astype(dtype)[None, None]
        return mask_frames(normalized + bias.astype(dtype)[None, None], num_frames).astype(x.dtype)


def relative_bias(
    architecture: Wav2Vec2Architecture, learned: Float[Array, "..."], frames: int, dtype: Any
) -> Float[Array, "heads frames frames"]:
    """Returns what is added to the scores of each query and key for the distance between them.

    `learned` is the module's parameter "relative_positions": a table [buckets, heads], or a scale of each head. `dtype`
    is that of the activations. The extra tokens are among the frames; scores with them are left as they are.
    """
    learned = jnp.asarray(learned, exact_dtype(dtype))
    if architecture.relative == "linear":
        return linear_bias(learned, frames, architecture.extra_tokens)
    buckets = relative_buckets(frames, len(learned), architecture.max_distance)
    by_distance = jnp.take(learned, buckets, axis=0).T  # [heads, distances]
    distance = np.arange(frames)[None] - np.arange(frames)[:, None] + frames - 1
    return jnp.take(by_distance, distance, axis=1)


def linear_bias(scale: Float[Array, " heads"], frames: int, tokens: int) -> Float[Array, "heads frames frames"]:
    """Returns scores that fall with the distance between two frames (ALiBi, Press et al. 2022), to both sides.

    Each head has a slope, times its learned scale, which counts as 0 below 0. The first `tokens` frames have no place.
    """
    slopes = jnp.maximum(scale, 0) * linear_slopes(len(scale)).astype(scale.dtype)
    place = jnp.arange(frames - tokens)
    distance = jnp.abs(place[None] - place[:, None])[None]
    return jnp.pad(-slopes[:, None, None] * distance, ((0, 0), (tokens, 0), (tokens, 0)))


def linear_slopes(heads: int) -> Float[np.ndarray, " heads"]:
    """Returns ALiBi's slope of each head, rounded to float32 as in the code that encoders were trained with.

    A power of two of heads has the powers of 2^(-8 / heads). Any other number has those of the power of two below it,
    then every second one of the power of two above it.
    """

    def powers(number: int) -> Float[np.ndarray, " number"]:
        return 2.0 ** (-8 / number * np.arange(1, number + 1))

    below = 1 << (heads.bit_length() - 1)
    slopes = np.concatenate([powers(below), powers(2 * below)[::2][: heads - below]])
    return slopes.astype(np.float32)


def relative_buckets(frames: int, buckets: int, max_distance: int) -> Int[np.ndarray, " distances"]:
    """Returns the bucket of every distance from `1 - frames` to `frames - 1` between a query and a key.

    Half of the buckets are for keys after the query. Of each half, one half is for single distances, and the other
    half's widths grow with the logarithm of the distance, up to `max_distance`.
    """
    distance = np.arange(1 - frames, frames)
    per_side = buckets // 2
    exact = per_side // 2
    far = np.abs(distance)
    scaled = np.log(np.maximum(far, 1) / exact) / math.log(max_distance / exact) * (per_side - exact)
    large = np.minimum(exact + scaled.astype(np.int64), per_side - 1)
    return np.where(distance > 0, per_side, 0) + np.where(far < exact, far, large)
