"""Self-attention encoder over features: subsampling convolutions, pre-norm blocks, pooling over time.

What mixes the frames of a block is the switch: self-attention (Vaswani et al. 2017), a depthwise convolution (the
other half of the Conformer, Gulati et al. 2020), both, or nothing at all, with as many parameters each.
"""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ser_jax import machine
from ser_jax.errors import UserError
from ser_jax.models import layers, ops
from ser_jax.models.family import RATE, Family, Range
from ser_jax.models.normalisation import LayerNorm
from ser_jax.models.output import Attention, Output
from ser_jax.models.pooling import Pooling, check_heads, masked_softmax, of_frames
from ser_jax.models.reconstruction import reconstructed

Frames = Float[Array, "batch _frames channels"]  # a leading underscore: sizes differ within a function
Rate = float | Float[Array, ""]


class Dimensions(NamedTuple):
    """Channels of a frame, number of blocks, and heads of the attention and of the pooling."""

    width: int
    depth: int
    heads: int


SIZES = {"tiny": Dimensions(16, 2, 2), "small": Dimensions(96, 3, 4), "base": Dimensions(256, 4, 4)}
MIXINGS = ("none", "convolution", "self_attention", "conformer")
WITH_ATTENTION = ("self_attention", "conformer")
_FUSED_SINCE = 8  # compute capability of NVIDIA's GPUs that cuDNN has fused attention for: from Ampere on
POOLINGS = ("mean", "self_attentive", "multi_head", "attentive_statistics", "class_token")


class Transformer(nn.Module):
    """Encoder whose blocks mix frames by attention, convolution, both or not at all, and pooling over time.

    Every mixing has the parameters of self-attention, 4 width^2 + 3 width in a block: `none` has a second feed-forward
    layer of exactly as many, `convolution` as many channels as come nearest in steps of 8, and `conformer`, which has
    both, half as wide a feed-forward layer. What is left are normalisations and that rounding: networks of size
    "small" or "base" differ by less than 1 %. Not matched are multiply-adds (attention's grow with the square of the
    utterance's length), nor the parameters of the poolings: attention in them adds to a mean that has none.

    Attributes:
        num_classes: number of emotions.
        size: "tiny" (for tests), "small" or "base".
        mixing: what mixes the frames of a block: "none", "convolution", "self_attention" or "conformer" (attention,
            then convolution).
        positions: "sinusoidal", added to the frames after the subsampling (Vaswani et al. 2017); "rotary", which turns
            queries and keys (Su et al. 2021) and does nothing without attention; or "none".
        pooling: "mean"; a kind of `ser_jax.models.pooling`; or "class_token": a learned frame before the others, of
            which the classifier sees what the blocks make (Devlin et al. 2019).
        subsampling: frames of the input per frame of the blocks, 2 or 4: one or two convolutions over 3 frames.
        width, depth, heads: instead of the size's own; 0: the size's own.
        kernel_size: frames that the depthwise convolution sees, odd.
        reconstruction: features of every frame of the input to reconstruct in training; 0: none.
        dropout: rate after each layer of a block and before the classifier; may be a traced scalar.
        stochastic_depth: rate at which the last block's layers are skipped, for each utterance; falls linearly towards
            the first block (Huang et al. 2016); may be a traced scalar.
    """

    num_classes: int
    size: Literal["tiny", "small", "base"] = "small"
    mixing: Literal["none", "convolution", "self_attention", "conformer"] = "self_attention"
    positions: Literal["sinusoidal", "rotary", "none"] = "sinusoidal"
    pooling: Literal["mean", "self_attentive", "multi_head", "attentive_statistics", "class_token"] = "mean"
    subsampling: Literal[2, 4] = 4
    width: int = 0
    depth: int = 0
    heads: int = 0
    kernel_size: int = 15
    reconstruction: int = 0
    dropout: Rate = 0.0
    stochastic_depth: Rate = 0.0

    @property
    def dimensions(self) -> Dimensions:
        """Width, depth and heads, the size's own where they are 0."""
        own = SIZES[self.size]
        return Dimensions(self.width or own.width, self.depth or own.depth, self.heads or own.heads)

    @property
    def min_frames(self) -> int:
        """The fewest frames of an utterance that fill a frame of the blocks."""
        return self.subsampling

    @nn.compact
    def __call__(
        self, features: Float[Array, "batch frames features"], num_frames: Int[Array, " batch"], *, train: bool
    ) -> Output:
        """Logits, and the weights of "pooling" and, unless training, of each block with attention ("block1").

        Computes in the dtype of the features; what lies past an utterance's `num_frames` does not matter. With a class
        token, the weights are those among the frames: what the token gives itself is left out.
        """
        dimensions = self.dimensions
        x, num_steps = self._subsampled(features, num_frames)
        if self.positions == "sinusoidal":
            x = x + jnp.asarray(sinusoids(x.shape[1], dimensions.width), x.dtype)[None]
        real = jnp.arange(x.shape[1])[None] < num_steps[:, None]
        first = 0  # frame of the utterance among those of the blocks
        if self.pooling == "class_token":
            first = 1
            token = self.param("class_token", nn.initializers.normal(0.02), (dimensions.width,)).astype(x.dtype)
            x = jnp.concatenate([jnp.broadcast_to(token[None, None], (len(x), 1, len(token))), x], 1)

        attention = {}
        for i in range(1, dimensions.depth + 1):
            x, scores = Block(
                heads=dimensions.heads,
                mixing=self.mixing,
                rotary=self.positions == "rotary",
                kernel_size=self.kernel_size,
                dropout=self.dropout,
                stochastic_depth=self.stochastic_depth * (i / dimensions.depth),
                name=f"block{i}",
            )(x, num_steps + first, train=train)
            if scores is not None:
                weights = masked_softmax(scores[:, :, first:, first:], real[:, None, None])
                attention[f"block{i}"] = Attention(weights, ("batch", "heads", "queries", "frames"), self.subsampling)

        x = LayerNorm(name="norm")(x)
        reconstruction = reconstructed(self, x[:, first:], features.shape[1], stride=self.subsampling, train=train)
        if self.pooling == "class_token":
            pooled = x[:, 0]
            weights = None if scores is None else masked_softmax(scores[:, :, 0, 1:], real[:, None])
        else:
            pooled, weights = Pooling(self.pooling, dimensions.heads, name="pool")(x, num_steps)
        if weights is not None:
            attention["pooling"] = of_frames(weights, self.subsampling)
        if train and layers.is_on(self.dropout):
            pooled = layers.dropout(pooled, self.dropout, self.make_rng("dropout"))
        logits = nn.Dense(self.num_classes, name="classifier")(pooled.astype(jnp.float32))
        return Output(logits, attention, reconstruction=reconstruction)

    def _subsampled(
        self, x: Float[Array, "batch frames features"], lengths: Int[Array, " batch"]
    ) -> tuple[Frames, Int[Array, " batch"]]:
        """Frames and their number after convolutions over 3 frames, 2 apart; zero in the padding."""
        x = _masked(x, lengths)
        for i in range(1, {2: 1, 4: 2}[self.subsampling] + 1):
            x = Dense(self.dimensions.width, name=f"subsampling{i}")(windows(x))
            lengths = (lengths + 1) // 2
            x = _masked(jax.nn.silu(x), lengths)
        return x, lengths


class Block(nn.Module):
    """What mixes the frames, and a feed-forward layer; each is normalised before and added to what it was given."""

    heads: int
    mixing: str
    rotary: bool = False
    kernel_size: int = 15
    dropout: Rate = 0.0
    stochastic_depth: Rate = 0.0

    @nn.compact
    def __call__(
        self, x: Frames, lengths: Int[Array, " batch"], *, train: bool
    ) -> tuple[Frames, Float[Array, "batch heads queries keys"] | None]:
        """The frames, and the attention's scores if it has any, None while training."""
        width, scores = x.shape[-1], None
        if self.mixing == "none":
            added = FeedForward(2 * width, name="mixing_feed_forward")(LayerNorm(name="mixing_feed_forward_norm")(x))
            x = self._sum(x, added, train=train)
        if self.mixing in WITH_ATTENTION:
            attention = SelfAttention(self.heads, self.rotary, name="attention")
            added, scores = attention(LayerNorm(name="attention_norm")(x), lengths, train=train)
            x = self._sum(x, added, train=train)
        if self.mixing in ("convolution", "conformer"):
            convolution = Convolution(self.kernel_size, name="convolution")
            x = self._sum(x, convolution(LayerNorm(name="convolution_norm")(x), lengths), train=train)
        hidden = 2 * width if self.mixing == "conformer" else 4 * width
        added = FeedForward(hidden, name="feed_forward")(LayerNorm(name="feed_forward_norm")(x))
        return self._sum(x, added, train=train), scores

    def _sum(self, x: Frames, added: Frames, *, train: bool) -> Frames:
        if train and layers.is_on(self.dropout):
            added = layers.dropout(added, self.dropout, self.make_rng("dropout"))
        if train and layers.is_on(self.stochastic_depth):
            utterances = jnp.ones((len(x), 1, 1), x.dtype)
            added = added * layers.dropout(utterances, self.stochastic_depth, self.make_rng("dropout"))
        return x + added.astype(x.dtype)


class SelfAttention(nn.Module):
    """Multi-head attention of all frames to the real ones.

    Keys have no bias: it would add the same to all scores of a query, which the softmax does not see.
    """

    heads: int
    rotary: bool = False

    @nn.compact
    def __call__(
        self, x: Frames, lengths: Int[Array, " batch"], *, train: bool
    ) -> tuple[Frames, Float[Array, "batch heads queries keys"] | None]:
        """The frames, and the scores before the softmax (float32), of keys past the `lengths` as well.

        The scores are computed a second time, so they are None while training; jit drops them where nobody looks.
        """
        batch, frames, width = x.shape
        query_bias, value_bias = (
            self.param(name, nn.initializers.zeros, (width,)) for name in ("query_bias", "value_bias")
        )
        bias = jnp.concatenate([query_bias, jnp.zeros(width), value_bias]).astype(x.dtype)
        x = Dense(3 * width, use_bias=False, name="query_key_value")(x) + bias[None, None]
        query, key, value = (part.reshape(batch, frames, self.heads, -1) for part in jnp.split(x, 3, -1))
        if self.rotary:
            query, key = rotated(query), rotated(key)
        scores = None
        if not train:
            scores = jnp.einsum("bqhc,bkhc->bhqk", query, key, preferred_element_type=jnp.float32)
            scores = scores / np.sqrt(query.shape[-1])
        x = attended(query, key, value, lengths)
        return Dense(width, name="out")(x.reshape(batch, frames, width)), scores


def attended(
    query: Float[Array, "batch frames heads channels"],
    key: Float[Array, "batch frames heads channels"],
    value: Float[Array, "batch frames heads channels"],
    lengths: Int[Array, " batch"],
) -> Float[Array, "batch frames heads channels"]:
    """Softmax attention to the first `lengths` frames; to the first alone where there are none.

    In half precision on a GPU that has it, by cuDNN's fused attention. It takes lengths rather than a mask, which it
    would make a bias of, and refuse for odd numbers of frames.
    """
    lengths = jnp.maximum(lengths, 1).astype(jnp.int32)
    fused = query.dtype in (jnp.bfloat16, jnp.float16) and query.shape[-1] % 8 == 0 and query.shape[-1] <= 128
    if not (fused and machine.capability(jax.local_devices()[0]) >= _FUSED_SINCE):
        return jax.nn.dot_product_attention(query, key, value, key_value_seq_lengths=lengths, implementation="xla")
    # Under vmap, cuDNN's lengths have to be mapped wherever the queries are: these selections are, and change nothing.
    some = query[:, 0, 0, 0] == 0
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        query_seq_lengths=jnp.where(some, jnp.int32(query.shape[1]), jnp.int32(query.shape[1])),
        key_value_seq_lengths=jnp.where(some, lengths, lengths),
        implementation="cudnn",
    )


class Convolution(nn.Module):
    """The Conformer's convolution module: a gated linear unit, a depthwise convolution over time, a linear layer.

    Normalised frame by frame where the Conformer normalises over the batch.
    """

    kernel_size: int

    @nn.compact
    def __call__(self, x: Frames, lengths: Int[Array, " batch"]) -> Frames:
        """The frames; no real one sees padding."""
        width = x.shape[-1]
        channels = convolution_channels(width, self.kernel_size)
        x, gate = jnp.split(Dense(2 * channels, name="expand")(x), 2, -1)
        x = _masked(x * jax.nn.sigmoid(gate), lengths)
        initializer = nn.initializers.lecun_normal(in_axis=0, out_axis=())
        kernel = self.param("depthwise", initializer, (self.kernel_size, channels))
        x = ops.depthwise(x[:, :, None], kernel[:, None])[:, :, 0]
        return Dense(width, name="contract")(jax.nn.silu(LayerNorm(name="norm")(x)))


def convolution_channels(width: int, kernel_size: int) -> int:
    """Channels of a convolution module with about the parameters of self-attention, a multiple of 8.

    With c channels it has (3 width + kernel_size + 4) c + width of them, self-attention 4 width^2 + 3 width.
    """
    channels = (4 * width**2 + 2 * width) / (3 * width + kernel_size + 4)
    return max(8 * round(channels / 8), 8)


class FeedForward(nn.Module):
    """Two linear layers on each frame alone, with a swish between them."""

    hidden: int

    @nn.compact
    def __call__(self, x: Frames) -> Frames:
        """The frames, as wide as they came."""
        return Dense(x.shape[-1], name="contract")(jax.nn.silu(Dense(self.hidden, name="expand")(x)))


class Dense(nn.Module):
    """A linear layer on each frame, in the dtype of the frames."""

    channels: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Frames) -> Float[Array, "batch _frames channels_out"]:
        """The frames, with other channels."""
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], self.channels))
        x = ops.product(x, kernel)
        if self.use_bias:
            x = x + self.param("bias", nn.initializers.zeros, (self.channels,)).astype(x.dtype)[None, None]
        return x


# Positions ----------------------------------------------------------------------------------------------------------


def sinusoids(frames: int, width: int) -> Float[np.ndarray, "frames width"]:
    """Sines of the position at falling frequencies, then cosines (Vaswani et al. 2017, section 3.5)."""
    angles = _angles(frames, (width + 1) // 2)
    return np.concatenate([np.sin(angles), np.cos(angles)], -1)[:, :width]


def rotated(x: Float[Array, "batch frames heads channels"]) -> Float[Array, "batch frames heads channels"]:
    """Channels i and i + half, as one complex number, turned by an angle that grows with the frame (Su et al. 2021).

    The product of a turned query and a turned key depends on where they are only by the frames between them.
    """
    angles = _angles(x.shape[1], x.shape[-1] // 2)[None, :, None]
    cosine, sine = jnp.asarray(np.cos(angles), x.dtype), jnp.asarray(np.sin(angles), x.dtype)
    real, imaginary = jnp.split(x, 2, -1)
    return jnp.concatenate([real * cosine - imaginary * sine, real * sine + imaginary * cosine], -1)


def _angles(frames: int, frequencies: int) -> Float[np.ndarray, "frames frequencies"]:
    return np.arange(frames)[:, None] * 10_000.0 ** -(np.arange(frequencies) / frequencies)[None]


# Over time ----------------------------------------------------------------------------------------------------------


def windows(x: Frames) -> Float[Array, "batch _windows channels_x_3"]:
    """What a convolution over 3 frames, 2 apart, sees: frames 2i - 1, 2i and 2i + 1, zero beyond the ends."""
    batch, frames, _ = x.shape
    x = jnp.pad(x, ((0, 0), (1, frames % 2), (0, 0)))
    return jnp.concatenate([x[:, :-1].reshape(batch, (frames + 1) // 2, -1), x[:, 2::2]], -1)


def _masked(x: Frames, lengths: Int[Array, " batch"]) -> Frames:
    return jnp.where(jnp.arange(x.shape[1])[None, :, None] < lengths[:, None, None], x, 0)


def _check(model: Transformer) -> None:
    width, _, heads = model.dimensions
    if model.mixing in WITH_ATTENTION:
        if width % heads:
            raise UserError(f"model transformer: {heads} heads do not divide a width of {width}")
        if model.positions == "rotary" and width // heads % 2:
            raise UserError(
                f"model transformer: rotary positions need an even number of channels in a head, found {width // heads}"
                f" (a width of {width} among {heads} heads)"
            )
    elif model.pooling == "class_token":
        raise UserError(
            f"model transformer: pooling class_token needs attention to see the frames, and mixing {model.mixing} has "
            f"none; expected mixing {' or '.join(WITH_ATTENTION)}"
        )
    check_heads(model.pooling, heads, width)


FAMILY = Family(
    module=Transformer,
    summary="an encoder with self-attention, convolution or both",
    choices={
        "size": tuple(SIZES),
        "mixing": MIXINGS,
        "positions": ("sinusoidal", "rotary", "none"),
        "pooling": POOLINGS,
        "subsampling": (2, 4),
        "width": Range(0),
        "depth": Range(0),
        "heads": Range(0),
        "kernel_size": tuple(range(3, 33, 2)),
        "reconstruction": Range(0),
        "dropout": RATE,
        "stochastic_depth": RATE,
    },
    switches={"mixing": MIXINGS, "pooling": POOLINGS},
    rates=("dropout", "stochastic_depth"),
    tiny={"size": "tiny", "mixing": "conformer", "positions": "rotary", "pooling": "attentive_statistics"},
    check=_check,
    min_frames=lambda model: model.min_frames,
)
