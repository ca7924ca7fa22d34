"""Which frames are masked for a model that learns to predict them."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key


@dataclasses.dataclass(frozen=True)
class Masking:
    """How much of an utterance is masked, and in which pieces; static and hashable.

    Attributes:
      share: of the utterance's frames that are masked, above 0 and below 1.
      span: frames that are masked together; fewer where the whole share of a short utterance is less.
    """

    share: float = 0.4
    span: int = 10


def mask_spans(
    key: Key[Array, ""], num_frames: Int[Array, ""], frames: int, masking: Masking
) -> Bool[Array, " {frames}"]:
    """Where one utterance of `num_frames` of the `frames` of its row is masked, in spans (wav2vec 2.0, section 3.1).

    Spans of one width lie anywhere among the utterance's own frames, but never on one another, so that the share is the
    same of every utterance: as near to `masking.share` as whole spans come, and one frame at least. A row without
    frames has none to mask.
    """
    wished = masking.share * num_frames
    width = jnp.clip(jnp.round(wished).astype(jnp.int32), 1, masking.span)
    # Where the share is nearly all, the last span may have no place left.
    count = jnp.minimum(jnp.maximum(jnp.round(wished / width).astype(jnp.int32), 1), num_frames // width)
    numbers = jnp.arange(max(math.ceil(masking.share * frames / masking.span), 1))
    exists = numbers < count
    # How many frames are in view before each span: drawn for all alike and sorted, they leave the spans in their order.
    shown = num_frames - count * width
    draws = jnp.where(exists, jax.random.uniform(key, numbers.shape), 1.0)
    before = jnp.minimum(jnp.floor(jnp.sort(draws) * (shown + 1.0)).astype(jnp.int32), shown)
    start = (before + numbers * width)[:, None]
    place = jnp.arange(frames)[None]
    return jnp.any(exists[:, None] & (place >= start) & (place < start + width), axis=0)
