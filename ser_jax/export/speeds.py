"""A recording as if a tape ran faster or slower, as part of a program: soxr's own filter as one convolution.

soxr resamples by a ratio L / M of small numbers with a filter that is the same for every M samples that come in and L
that go out. What it makes of M impulses is that filter, and a convolution of stride M with L outputs applies it.
"""

import functools
from collections.abc import Sequence
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import soxr
from jaxtyping import Array, Float, Float32, Int

from ser_jax.encoders.architecture import SAMPLE_RATE
from ser_jax.errors import UserError
from ser_jax.export.rounding import rounded_share

_MOST = 200  # of L and M: beyond it the filter takes megabytes
_REACH = 512  # samples to either side; what lies further away is below the rounding of 16 bits


def check_speeds(speeds: Sequence[float], where: str) -> None:
    """Raises `UserError` for a speed that is no ratio of small whole numbers."""
    for speed in speeds:
        ratio = _ratio(speed)
        if abs(float(ratio) - speed) > 1e-9 or ratio.numerator > _MOST:
            raise UserError(
                f"{where}: its encoder takes recordings at speed {speed:g}, which is no ratio of whole numbers up to "
                f"{_MOST}; expected one such as {float(Fraction(round(50 * speed), 50)):g}"
            )


def at_speeds(
    samples: Float[Array, " samples"], number: Int[Array, ""], speeds: Sequence[float]
) -> tuple[Float[Array, "speeds heard"], Int[Array, " speeds"]]:
    """Returns a recording in [-1, 1), of which the first `number` samples count, at each speed; and how many count.

    As `ser_jax.encoders.extract` has soxr make them, 16-bit samples, but for the first three: what soxr hears before a
    recording is not silence.
    """
    length = max(round(len(samples) / speed) for speed in speeds)
    found = [samples if speed == 1 else _resampled(samples, _ratio(speed)) for speed in speeds]
    numbers = jnp.stack(
        [
            number if speed == 1 else rounded_share(_ratio(speed).denominator, number, _ratio(speed).numerator)
            for speed in speeds
        ]
    )
    padded = jnp.stack([jnp.pad(one[:length], (0, max(length - len(one), 0))) for one in found])
    sixteen = jnp.clip(jnp.round(padded * 32768.0), -32768, 32767) / 32768.0
    return jnp.where(jnp.arange(length)[None] < numbers[:, None], sixteen, 0.0), numbers


def _ratio(speed: float) -> Fraction:
    """M / L: so many samples come in for so many that go out."""
    return Fraction(speed).limit_denominator(_MOST)


def _resampled(samples: Float[Array, " samples"], ratio: Fraction) -> Float[Array, " heard"]:
    blocks = -(-len(samples) // ratio.numerator)
    padded = jnp.pad(samples, (_REACH, blocks * ratio.numerator - len(samples) + _REACH))
    found = jax.lax.conv_general_dilated(
        padded[None, :, None],
        jnp.asarray(_filter(ratio)),
        window_strides=(ratio.numerator,),
        padding="VALID",
        dimension_numbers=("NWC", "WIO", "NWC"),
        precision="highest",
    )
    return found.reshape(-1)


@functools.cache
def _filter(ratio: Fraction) -> Float32[np.ndarray, "taps 1 outputs"]:
    """What each of L outputs is of the samples from `_REACH` before a block of M to `_REACH` after it."""
    comes, goes = ratio.numerator, ratio.denominator
    middle = _REACH // comes + 2  # the block with the impulses; the others are silent
    impulses = np.zeros(((2 * middle + 1) * comes, comes), np.float64)
    impulses[middle * comes + np.arange(comes), np.arange(comes)] = 1.0
    heard = soxr.resample(impulses, SAMPLE_RATE * float(ratio), SAMPLE_RATE)
    taps = np.arange(-_REACH, comes + _REACH)
    block, impulse = np.divmod(taps, comes)
    rows = (middle - block)[:, None] * goes + np.arange(goes)[None]
    there = (rows >= 0) & (rows < len(heard))
    found = np.where(there, heard[np.clip(rows, 0, len(heard) - 1), impulse[:, None]], 0.0)
    return found[:, None].astype(np.float32)
