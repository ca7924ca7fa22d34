"""Whisper's encoder (Radford et al. 2022): log-mel, two convolutions, positions, attention layers.

An utterance need not be padded to 30 s: it may have any length up to the positions. Work is in proportion to it.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ser_jax.encoders.architecture import SAMPLE_RATE, WhisperArchitecture
from ser_jax.encoders.layers import (
    HiddenStates,
    gelu,
    hidden_states,
    layer_norm,
    layer_options,
    mask_frames,
    normalize_waveform,
    real_frames,
    run_stack,
)
from ser_jax.frontend.logmel import Frontend, mel_filters

_WINDOW, _HOP = 400, 160  # samples


class WhisperEncoder(nn.Module):
    """Hidden states of waveforms.

    Attributes:
        architecture: what the checkpoint's configuration says.
        depth: so many of the layers; None: all, and the normalisation after them.
        dtype: of the activations.
        remat: compute a layer's activations again in the backward pass.
    """

    architecture: WhisperArchitecture
    depth: int | None = None
    dtype: Any = jnp.float32
    remat: bool = False

    def num_frames(self, num_samples: Any) -> Any:
        """Returns how many frames of 20 ms so many samples make."""
        return (num_samples // _HOP + 1) // 2

    def __call__(self, waveform: Float[Array, "batch samples"], num_samples: Int[Array, " batch"]) -> HiddenStates:
        """Waveforms from -1 to 1 at 16 kHz; at least 201 samples, at most what the positions reach."""
        if self.architecture.normalize:
            waveform = normalize_waveform(waveform, num_samples)
        return self.from_log_mel(log_mel(waveform, num_samples, self.architecture.mel_bands), num_samples // _HOP)

    @nn.compact
    def from_log_mel(
        self, x: Float[Array, "batch mel_frames bands"], num_mel_frames: Int[Array, " batch"]
    ) -> HiddenStates:
        """Hidden states of log-mel spectrograms, which are zero past `num_mel_frames`."""
        spec = self.architecture
        x = gelu(nn.Conv(spec.width, (3,), padding=1, dtype=self.dtype, name="conv1")(x))
        x = mask_frames(x, num_mel_frames)
        x = gelu(nn.Conv(spec.width, (3,), strides=2, padding=1, dtype=self.dtype, name="conv2")(x))
        num_frames = (num_mel_frames + 1) // 2
        x = mask_frames(x + self._positions(x.shape[1], num_frames), num_frames)
        depth = spec.depth if self.depth is None else self.depth
        layers = run_stack(
            x,
            num_frames,
            None,
            depth=depth,
            remat=self.remat,
            **layer_options(spec),
            dtype=self.dtype,
        )
        norm = layer_norm(1e-5, self.dtype, "final_norm")
        return hidden_states(layers, num_frames, norm, whole=self.depth is None)

    def _positions(self, frames: int, num_frames: Int[Array, " batch"]) -> Float[Array, "#batch frames width"]:
        spec = self.architecture
        table = self.param("positions", nn.initializers.normal(0.02), (spec.positions, spec.width))
        table = jnp.asarray(table, self.dtype)
        if spec.align == "first":
            return table[None, :frames]
        first = spec.positions - num_frames
        return jnp.take(table, jnp.minimum(first[:, None] + jnp.arange(frames)[None], spec.positions - 1), axis=0)


def log_mel(
    waveform: Float[Array, "batch samples"], num_samples: Int[Array, " batch"], bands: int
) -> Float[Array, "batch mel_frames bands"]:
    """Returns Whisper's log-mel: 25 ms windows every 10 ms, within 8 decades of each utterance's loudest cell.

    The borders are reflected at both ends of each utterance, so that padding changes nothing; zero past its end.
    The precision is that of the waveform. An utterance has `num_samples // 160` frames.
    """
    frames = waveform.shape[1] // _HOP
    place = jnp.abs(jnp.arange(_HOP * (frames - 1) + _WINDOW) - _WINDOW // 2)[None]
    last = num_samples[:, None] - 1
    place = jnp.clip(jnp.where(place > last, 2 * last - place, place), 0, waveform.shape[1] - 1)
    reflected = jnp.take_along_axis(waveform, place, axis=1)
    windows = reflected[:, _HOP * np.arange(frames)[:, None] + np.arange(_WINDOW)[None]]
    cosines, sines = (jnp.asarray(table, waveform.dtype) for table in _fourier())
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    power = jnp.square(product(windows, cosines)) + jnp.square(product(windows, sines))
    filters = mel_filters(Frontend(num_mels=bands, fft_size=_WINDOW, fmin=0.0, fmax=SAMPLE_RATE / 2))
    log = jnp.log10(jnp.maximum(product(power, jnp.asarray(filters, waveform.dtype)), 1e-10))
    real = real_frames(frames, num_samples // _HOP)[..., None]
    loudest = jnp.max(jnp.where(real, log, -jnp.inf), axis=(1, 2), keepdims=True)
    return jnp.where(real, (jnp.maximum(log, loudest - 8) + 4) / 4, 0)


@functools.cache
def _fourier() -> tuple[np.ndarray, np.ndarray]:
    """A Fourier transform under a periodic Hann window, as two matrices [window, bins]."""
    n = np.arange(_WINDOW)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * n / _WINDOW)
    angle = 2 * np.pi * np.outer(n, np.arange(_WINDOW // 2 + 1)) / _WINDOW
    return hann[:, None] * np.cos(angle), hann[:, None] * np.sin(angle)
