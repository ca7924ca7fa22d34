"""What is left of an utterance's log-mel frames when their order or all of time is given up: images and vectors.

Both are of a fixed size, however long the utterance, and see its valid frames alone.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

PERCENTILES = (5, 25, 50, 75, 95)
FUNCTIONALS = ("mean", "std", *(f"p{percent}" for percent in PERCENTILES), "range", "slope")

_DECIBELS = 10 / np.log(10)  # in a natural logarithm of power


def level_histogram(
    log_mel: Float[Array, "*batch frames bands"],
    num_frames: Int[Array, "*batch"],
    bins: int,
    range_db: float,
    soft: bool,
) -> Float[Array, "*batch {bins} bands"]:
    """The distribution of every band's levels over an utterance's frames: shares that sum to 1 over the bins.

    Levels are in dB below the utterance's loudest band of a frame, so that the gain of a recording does not matter. The
    bins divide the `range_db` below it equally, the softest first; softer levels count in the first bin. With `soft`
    a level is shared linearly by the two bins whose centres it lies between, instead of counting in one.
    """
    frames = log_mel.shape[-2]
    valid = jnp.arange(frames).reshape((1,) * num_frames.ndim + (frames, 1)) < num_frames[..., None, None]
    peak = jnp.max(jnp.where(valid, log_mel, -jnp.inf), axis=(-2, -1), keepdims=True)
    level = jnp.where(valid, (log_mel - peak) * _DECIBELS, 0.0)
    place = jnp.clip((level / range_db + 1) * bins, 0, bins)  # from 0 to bins, for the softest to the loudest
    numbers = jnp.arange(bins, dtype=place.dtype).reshape((1,) * num_frames.ndim + (1, bins, 1))
    if soft:
        place = jnp.clip(place - 0.5, 0, bins - 1)
        share = jnp.maximum(0, 1 - jnp.abs(place[..., None, :] - numbers))
    else:
        share = jnp.where(jnp.minimum(jnp.floor(place), bins - 1)[..., None, :] == numbers, 1.0, 0.0)
    count = jnp.maximum(num_frames, 1)[..., None, None]
    return jnp.sum(jnp.where(valid[..., None, :], share, 0.0), axis=-3) / count


def functionals(
    x: Float[Array, "*batch frames features"], num_frames: Int[Array, "*batch"], seconds_per_frame: float
) -> Float[Array, "*batch functionals_x_features"]:
    """What `FUNCTIONALS` say of every feature over an utterance's frames, all features of one, then of the next.

    The standard deviation is that of the frames themselves (divided by their number), percentiles lie on a line between
    neighbours (as NumPy's), the range goes from the least to the greatest, the slope is that of the straight line of
    least squares, per second. All are 0 where there is no frame.
    """
    frames = x.shape[-2]
    numbers = jnp.arange(frames, dtype=x.dtype).reshape((1,) * num_frames.ndim + (frames, 1))
    valid = numbers < num_frames[..., None, None]
    count = jnp.maximum(num_frames, 1)[..., None].astype(x.dtype)

    def over_frames(values: Array) -> Array:
        return jnp.sum(jnp.where(valid, values, 0.0), axis=-2)

    mean = over_frames(x) / count
    centred = x - mean[..., None, :]
    std = jnp.sqrt(over_frames(jnp.square(centred)) / count)
    time = numbers - (count[..., None] - 1) / 2
    spread = jnp.maximum(over_frames(jnp.square(time)), 0.5)  # that of two frames; one frame has no slope
    slope = over_frames(time * centred) / spread / seconds_per_frame
    ordered = jnp.sort(jnp.where(valid, x, jnp.inf), axis=-2)  # the padding comes last
    low, *percentiles, high = (_percentile(ordered, count, percent) for percent in (0, *PERCENTILES, 100))
    found = jnp.concatenate([mean, std, *percentiles, high - low, slope], axis=-1)
    return jnp.where(num_frames[..., None] > 0, found, 0.0)


def _percentile(
    ordered: Float[Array, "*batch frames features"], count: Float[Array, "*batch 1"], percent: int
) -> Float[Array, "*batch features"]:
    place = percent / 100 * (count - 1)
    below = jnp.floor(place)
    # A matrix product with two weights would meet the infinities of the padding; two gathers do not.
    low, high = (
        jnp.take_along_axis(ordered, at.astype(jnp.int32)[..., None], axis=-2)[..., 0, :]
        for at in (below, jnp.ceil(place))
    )
    return jnp.where(low == high, low, low + (place - below) * (high - low))
