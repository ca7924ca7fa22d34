"""Pooling over time: one vector of an utterance's frames, however many, and the weights that attention gave them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ser_jax.errors import UserError
from ser_jax.models.output import Attention

KINDS = ("mean", "statistics", "last", "weighted", "self_attentive", "multi_head", "attentive_statistics")
OVER_TIME = tuple(kind for kind in KINDS if kind != "last")  # of frames that know nothing of those before them
WITH_HEADS = ("multi_head", "attentive_statistics")
_SMALL = 1e-5  # the square root's slope is infinite at zero, where the variance of an utterance of one frame is


class Pooling(nn.Module):
    """One vector for the real frames of an utterance.

    `statistics` are mean and standard deviation (Snyder et al. 2018), `last` is the last frame. The attentive kinds are
    means weighted by a softmax over frames of a score of each frame x: `weighted`, u.x (Mirsamadi et al. 2017);
    `self_attentive`, v.tanh(Wx), W halving the channels (Lin et al. 2017); `multi_head`, the same in every head, which
    sees and pools its own slice of the channels (India et al. 2019); `attentive_statistics`, v.tanh(Wx + b) in every
    head, and the weighted standard deviation beside the weighted mean (Okabe et al. 2018, who have one head).

    Attributes:
        kind: one of `KINDS`.
        heads: of the kinds `WITH_HEADS`; divides the channels (see `check_heads`).
    """

    kind: str
    heads: int = 4

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch frames channels"], lengths: Int[Array, " batch"]
    ) -> tuple[
        Float[Array, "batch pooled_channels"], Float[Array, "batch frames"] | Float[Array, "batch heads frames"] | None
    ]:
        """The vectors, zero (deviations: next to it) without frames, and the weights, float32, or None.

        `statistics` and `attentive_statistics` have twice the channels of x, means first.
        """
        check_heads(self.kind, self.heads, x.shape[-1])
        real = jnp.arange(x.shape[1])[None] < lengths[:, None]
        x = jnp.where(real[..., None], x, 0)
        if self.kind in ("mean", "statistics"):
            count = jnp.maximum(lengths, 1)[:, None]
            mean = jnp.sum(x, 1, dtype=jnp.float32) / count
            if self.kind == "mean":
                return mean.astype(x.dtype), None
            squares = jnp.where(real[..., None], jnp.square(x.astype(jnp.float32) - mean[:, None]), 0)
            deviation = jnp.sqrt(jnp.sum(squares, 1) / count + _SMALL)
            return jnp.concatenate([mean, deviation], -1).astype(x.dtype), None
        if self.kind == "last":
            return jnp.take_along_axis(x, jnp.maximum(lengths - 1, 0)[:, None, None], axis=1)[:, 0], None

        heads = self.heads if self.kind in WITH_HEADS else 1
        slices = x.reshape(*x.shape[:2], heads, -1)
        weights = masked_softmax(self._scores(slices), real[:, None])
        mean = jnp.einsum("bht,bthc->bhc", weights.astype(x.dtype), slices, preferred_element_type=jnp.float32)
        pooled = mean.reshape(len(x), -1)
        if self.kind == "attentive_statistics":
            squares = jnp.square(slices.astype(jnp.float32) - mean[:, None])
            variance = jnp.einsum("bht,bthc->bhc", weights, squares)
            deviation = jnp.sqrt(variance + _SMALL)
            pooled = jnp.concatenate([pooled, deviation.reshape(len(x), -1)], -1)
        return pooled.astype(x.dtype), weights if self.kind in WITH_HEADS else weights[:, 0]

    def _scores(self, x: Float[Array, "batch frames heads channels"]) -> Float[Array, "batch heads frames"]:
        heads, channels = x.shape[2:]
        if self.kind != "weighted":
            hidden = max(channels // 2, 1)
            initializer = nn.initializers.lecun_normal(batch_axis=0)
            kernel = self.param("kernel", initializer, (heads, channels, hidden)).astype(x.dtype)
            x = jnp.einsum("bthc,hcd->bthd", x, kernel)
            if self.kind == "attentive_statistics":
                bias = self.param("bias", nn.initializers.zeros, (heads, hidden))
                x = x + bias.astype(x.dtype)[None, None]
            x = jnp.tanh(x)
        initializer = nn.initializers.lecun_normal(in_axis=1, out_axis=(), batch_axis=0)
        vector = self.param("vector", initializer, (heads, x.shape[-1])).astype(x.dtype)
        return jnp.einsum("bthd,hd->bht", x, vector, preferred_element_type=jnp.float32)


def masked_softmax(scores: Float[Array, "*axes frames"], real: Bool[Array, "*#axes frames"]) -> Float[Array, "..."]:
    """Softmax over the real frames, in float32; zero elsewhere, and everywhere where no frame is real."""
    scores = jnp.where(real, scores.astype(jnp.float32), jnp.finfo(jnp.float32).min)
    return jnp.where(real, jax.nn.softmax(scores), 0)


def of_frames(weights: Float[Array, "batch *heads frames"], stride: int = 1) -> Attention:
    """The weights of a pooling, with the names of their axes; `stride` as in `Attention`."""
    return Attention(weights, ("batch", "heads", "frames") if weights.ndim == 3 else ("batch", "frames"), stride)


def check_heads(kind: str, heads: int, channels: int) -> None:
    """Refuse heads that do not divide the channels among them.

    Raises:
        UserError: naming both numbers.
    """
    if kind in WITH_HEADS and channels % heads:
        raise UserError(f"pooling {kind}: {heads} heads do not divide {channels} channels")
