"""What all encoders share: the stack of attention layers, and how padding is kept out of it.

A frame past the end of its utterance is never attended to. Parameters are float32 and activations have the module's
`dtype`; normalisations, the softmax and the gates of relative positions are computed in float32 at least.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Frames = Float[Array, "batch _frames width"]  # a leading underscore: sizes differ within a function


class HiddenStates(NamedTuple):
    """What an encoder makes of a batch of utterances; zero past the end of each.

    Attributes:
        layers: the residual stream: "layer 0" is what the first layer is given, "layer n" what the n-th one returns,
            before any normalisation that follows the stack.
        final: what the encoder as a whole returns: the last layer's output after the normalisation that follows the
            stack, where there is one. None where the stack was cut short.
        num_frames: frames of each utterance.
        tokens: the residual stream of the extra tokens, where the encoder has some; they are none of the frames.
    """

    layers: Float[Array, "states batch frames width"]
    final: Float[Array, "batch frames width"] | None
    num_frames: Int[Array, " batch"]
    tokens: Float[Array, "states batch tokens width"]


def state_names(depth: int) -> tuple[str, ...]:
    """Returns the names of the hidden states of an encoder with `depth` layers."""
    return (*(f"layer {n}" for n in range(depth + 1)), "final")


def exact_dtype(dtype: Any) -> Any:
    """Returns the dtype of what is not computed in half precision: float32, or float64 with activations of float64."""
    return jnp.promote_types(dtype, jnp.float32)


def gelu(x: Array) -> Array:
    """Returns the exact GELU, by the error function, which all encoders were trained with."""
    return jax.nn.gelu(x, approximate=False)


def layer_norm(epsilon: float, dtype: Any, name: str | None = None, *, affine: bool = True) -> nn.LayerNorm:
    """Returns a normalisation over channels with PyTorch's way to compute the variance."""
    return nn.LayerNorm(
        epsilon=epsilon, dtype=dtype, use_fast_variance=False, use_bias=affine, use_scale=affine, name=name
    )


def mask_frames(x: Frames, num_frames: Int[Array, " batch"]) -> Frames:
    """Returns `x` with zeros past the end of each utterance."""
    return jnp.where(real_frames(x.shape[1], num_frames)[..., None], x, 0)


def real_frames(frames: int, num_frames: Int[Array, " batch"]) -> Bool[Array, "batch {frames}"]:
    """Returns which of `frames` frames belong to their utterance."""
    return jnp.arange(frames)[None] < num_frames[:, None]


def normalize_waveform(
    waveform: Float[Array, "batch samples"], num_samples: Int[Array, " batch"], epsilon: float = 1e-7
) -> Float[Array, "batch samples"]:
    """Returns the waveforms with mean 0 and variance 1 over the samples of each utterance, and zeros past its end."""
    real = real_frames(waveform.shape[1], num_samples)
    count = jnp.maximum(num_samples, 1)[:, None]
    mean = jnp.sum(jnp.where(real, waveform, 0), 1, keepdims=True) / count
    centred = jnp.where(real, waveform - mean, 0)
    return centred / jnp.sqrt(jnp.sum(jnp.square(centred), 1, keepdims=True) / count + epsilon)


LOW_RANK = "_low_rank"  # ends the name of what is added to a projection


class Layer(nn.Module):
    """Self-attention and a feed-forward part, each added to the residual stream.

    Attributes:
        heads, hidden: attention heads, and width inside the feed-forward part.
        pre_norm: normalise what each part is given, else the sum that it was added to.
        key_bias: whether the keys' projection has a bias (Whisper's has none).
        gated: whether relative positions are scaled by a gate (WavLM).
        epsilon: of the normalisations.
        low_rank: projections, by their names, to whose result that of a `LowRank` is added.
        rank, scale: of these.
        dtype: of the activations.
    """

    heads: int
    hidden: int
    pre_norm: bool
    key_bias: bool = True
    gated: bool = False
    epsilon: float = 1e-5
    low_rank: tuple[str, ...] = ()
    rank: int = 0
    scale: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Frames,
        num_frames: Int[Array, " batch"],
        relative: Float[Array, "heads frames frames"] | None,
    ) -> tuple[Frames, Frames]:
        """The new residual stream, twice: to carry on and to keep."""
        norm = {name: layer_norm(self.epsilon, self.dtype, name) for name in ("attention_norm", "feed_forward_norm")}
        if self.pre_norm:
            x = x + self._attention(norm["attention_norm"](x), num_frames, relative)
            x = x + self._feed_forward(norm["feed_forward_norm"](x))
        else:
            x = norm["attention_norm"](x + self._attention(x, num_frames, relative))
            x = norm["feed_forward_norm"](x + self._feed_forward(x))
        return x, x

    def _attention(
        self, x: Frames, num_frames: Int[Array, " batch"], relative: Float[Array, "heads frames frames"] | None
    ) -> Frames:
        batch, frames, width = x.shape
        query, key, value = (
            self._projection(x, width, name, use_bias).reshape(batch, frames, self.heads, -1)
            for name, use_bias in (("query", True), ("key", self.key_bias), ("value", True))
        )
        scores = jnp.einsum(
            "bqhd,bkhd->bhqk", query * query.shape[-1] ** -0.5, key, preferred_element_type=exact_dtype(self.dtype)
        )
        if relative is not None:
            gates = self._gate(x)[..., None] if self.gated else 1
            scores = scores + gates * relative[None]
        scores = jnp.where(real_frames(frames, num_frames)[:, None, None], scores, jnp.finfo(scores.dtype).min)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores).astype(value.dtype), value)
        return self._projection(mixed.reshape(batch, frames, width), width, "output")

    def _gate(self, x: Frames) -> Float[Array, "batch heads frames"]:
        """How much each query heeds relative positions (Chen et al. 2022, WavLM)."""
        x = x.astype(exact_dtype(self.dtype)).reshape(*x.shape[:2], self.heads, -1)
        gates = nn.sigmoid(nn.Dense(8, dtype=x.dtype, name="gate")(x).reshape(*x.shape[:3], 2, 4).sum(-1))
        scale = self.param("gate_scale", nn.initializers.ones, (self.heads,)).astype(x.dtype)
        update, reset = gates[..., 0], gates[..., 1]
        return jnp.moveaxis(update * (reset * scale[None, None] - 1) + 2, 1, 2)

    def _feed_forward(self, x: Frames) -> Frames:
        hidden = gelu(self._projection(x, self.hidden, "feed_forward_in"))
        return self._projection(hidden, x.shape[-1], "feed_forward_out")

    def _projection(
        self, x: Frames, width: int, name: str, use_bias: bool = True
    ) -> Float[Array, "batch _frames projected"]:
        projected = nn.Dense(width, use_bias=use_bias, dtype=self.dtype, name=name)(x)
        if name not in self.low_rank:
            return projected
        return projected + LowRank(width, self.rank, self.scale, self.dtype, name=f"{name}{LOW_RANK}")(x)


class LowRank(nn.Module):
    """What LoRA (Hu et al. 2022) adds to a projection: a product of two thin matrices, the second 0 at first.

    Attributes:
        width: of the result.
        rank: channels between the two matrices.
        scale: factor of the result.
        dtype: of the activations.
    """

    width: int
    rank: int
    scale: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Frames) -> Float[Array, "batch _frames projected"]:
        """What is added."""
        down = self.param("down_kernel", nn.initializers.lecun_normal(), (x.shape[-1], self.rank))
        up = self.param("up_kernel", nn.initializers.zeros, (self.rank, self.width))
        return self.scale * (x @ down.astype(self.dtype) @ up.astype(self.dtype))


def layer_options(architecture: Any) -> dict[str, Any]:
    """Returns the attributes of `Layer` that an architecture decides."""
    return {
        "heads": architecture.heads,
        "hidden": architecture.hidden,
        "pre_norm": architecture.pre_norm,
        "key_bias": architecture.key_bias,
        "gated": architecture.relative == "buckets",
        "epsilon": architecture.epsilon,
    }


def run_stack(
    x: Frames,
    num_frames: Int[Array, " batch"],
    relative: Float[Array, "heads frames frames"] | None,
    *,
    depth: int,
    remat: bool,
    **layer: Any,
) -> Float[Array, "states batch frames width"]:
    """Returns the residual stream before the first of `depth` layers and after each of them.

    The layers are one scan, so that any number of them compiles as one; their parameters are stacked on a first axis.
    `remat` computes a layer's activations again in the backward pass. `layer` are the attributes of `Layer`.
    """
    block: Callable = nn.remat(Layer, prevent_cse=False) if remat else Layer
    stack = nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(nn.broadcast, nn.broadcast),
        length=depth,
    )
    _, after = stack(**layer, name="layers")(x, num_frames, relative)
    return jnp.concatenate([x[None], after])


def hidden_states(
    layers: Float[Array, "states batch frames width"],
    num_frames: Int[Array, " batch"],
    norm: Callable[[Array], Array] | None,
    *,
    whole: bool,
    tokens: int = 0,
) -> HiddenStates:
    """Returns what `run_stack` gave as hidden states; `norm` follows a `whole` stack, and None where nothing does.

    The first `tokens` of its frames are extra tokens, which `num_frames` does not count.
    """
    extra, layers = layers[:, :, :tokens], layers[:, :, tokens:]
    layers = jnp.where(real_frames(layers.shape[2], num_frames)[None, ..., None], layers, 0)
    final = None
    if whole:
        final = layers[-1] if norm is None else mask_frames(norm(layers[-1]), num_frames)
    return HiddenStates(layers, final, num_frames, extra)
