"""A head on the hidden states of a pretrained encoder: a learned mixture of states, pooling, a linear classifier."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ser_jax.encoders.adapters import ADAPTATIONS, PROJECTIONS, STEMS, LowerLayers, UpperLayers
from ser_jax.encoders.architecture import Architecture
from ser_jax.errors import UserError
from ser_jax.models import attention_rnn
from ser_jax.models import layers as dropouts
from ser_jax.models.attention_rnn import ATTENTION, AttentionRNN
from ser_jax.models.channel_attention import channel_attention
from ser_jax.models.family import COUNT, RATE, Family, Range
from ser_jax.models.output import Attention, Output
from ser_jax.models.pooling import OVER_TIME, Pooling, check_heads, masked_softmax, of_frames
from ser_jax.models.transformer import Block, Dense

MIXINGS = ("none", "convolution", "self_attention")
DECODERS = ("none", "without_attention", *ATTENTION[1:])


class EncoderHead(nn.Module):
    """States side by side in every frame, normalised, summed with learned weights, and classified over time.

    Each state is normalised over its channels first: the upper states of some encoders are a hundred times as large as
    the lower ones. The weights of the sum are a softmax, equal at first (SUPERB, Yang et al. 2021).

    The encoder's next layers can be computed from the last of these states, adapted or as they are (`UpperLayers`);
    what they return is normalised and summed with the others. The states themselves can be computed from waveforms
    (`LowerLayers`), so that these can be augmented.

    Attributes:
        num_classes: number of emotions.
        states: how many hidden states a frame has; divides its features. Of waveforms: the last so many that the lower
            layers make.
        lower: layers of the encoder below the last of these states, computed from waveforms as they are.
        stem: what is trained of the part before them: "frozen", "projection" or "full" (see `LowerLayers`).
        layers: of the encoder, computed from the last of these states; 0: none.
        adapt: what is trained of these layers: "frozen", "lora" or "full" (see `UpperLayers`).
        rank, alpha, projections: of LoRA.
        encoder: the architecture that has these layers.
        waveforms: whether the features are waveforms, [batch, samples, 1]. Features and frontend decide these two.
        state: 0: all states, summed with learned weights; n: the n-th alone, computed ones after the others.
        width: channels of the projection after the sum; 0: none, and no blocks.
        depth: Transformer blocks after the projection.
        mixing: what mixes frames in the blocks; each has as many parameters as self-attention (see Transformer).
        attention: gates for channels after the pooling's mean: "none" or "eca".
        pooling: a kind of `ser_jax.models.pooling.Pooling`.
        heads: of the blocks and of the poolings that have some.
        hidden: channels of a layer between pooling and classifier; 0: none.
        decoder: in the place of pooling and classifier, a recurrent layer over the frames, of as many channels, and a
            decoder that emits the emotion (`AttentionRNN`): "without_attention", it sees the last state of that layer,
            or with an attention of `AttentionRNN`; "none": pooling.
        decoder_hidden: size of the decoder's state.
        dropout: rate before the projection, in the blocks, and before each layer after the pooling; may be a traced
            scalar.
    """

    num_classes: int
    states: int = 1
    lower: int = 0
    stem: Literal["frozen", "projection", "full"] = "frozen"
    layers: int = 0
    adapt: Literal["frozen", "lora", "full"] = "frozen"
    rank: int = 8
    alpha: float = 16.0
    projections: tuple[str, ...] = ("query", "value")
    encoder: Architecture | None = None
    waveforms: bool = False
    state: int = 0
    width: int = 128
    depth: int = 0
    mixing: Literal["none", "convolution", "self_attention"] = "none"
    attention: Literal["none", "eca"] = "none"
    pooling: str = "mean"
    heads: int = 4
    hidden: int = 0
    decoder: Literal["none", "without_attention", "additive", "dot", "general", "location"] = "none"
    decoder_hidden: int = 128
    dropout: float | Float[Array, ""] = 0.0

    @nn.compact
    def __call__(
        self, features: Float[Array, "batch frames features"], num_frames: Int[Array, " batch"], *, train: bool
    ) -> Output:
        """Logits, and the weights of the pooling, the blocks ("block1") and the channels, where there are some."""

        def dropped(x: Array) -> Array:
            if train and dropouts.is_on(self.dropout):
                return dropouts.dropout(x, self.dropout, self.make_rng("dropout")).astype(x.dtype)
            return x

        states, num_frames = self._states(features, num_frames)
        x = self._mixture(states)
        real = jnp.arange(x.shape[1])[None] < num_frames[:, None]
        stride = self.encoder.hop if self.waveforms else 1  # from one frame to the next, in what comes in
        attention = {}
        if self.width:
            x = jax.nn.gelu(Dense(self.width, name="projection")(dropped(x)))
        for i in range(1, self.depth + 1):
            x, scores = Block(self.heads, self.mixing, dropout=self.dropout, name=f"block{i}")(
                jnp.where(real[..., None], x, 0), num_frames, train=train
            )
            if scores is not None:
                weights = masked_softmax(scores, real[:, None, None])
                attention[f"block{i}"] = Attention(weights, ("batch", "heads", "queries", "frames"), stride)
        x = jnp.where(real[..., None], x, 0)
        if self.attention != "none":
            means = jnp.sum(x, 1) / jnp.maximum(num_frames, 1)[:, None].astype(x.dtype)
            gates = channel_attention(self.attention, name="channels")(means)
            attention["channels"] = Attention(gates, ("batch", "channels"))
            x = x * gates[:, None]
        if self.decoder != "none":
            decoded = _recurrent(self, name="recurrent")(x, num_frames, train=train)
            looked = {name: one.replace(stride=stride) for name, one in decoded.attention.items()}
            return decoded.replace(attention=attention | looked)
        pooled, weights = Pooling(self.pooling, self.heads, name="pool")(x, num_frames)
        if weights is not None:
            attention["pooling"] = of_frames(weights, stride)
        pooled = pooled.astype(jnp.float32)
        if self.hidden:
            pooled = jax.nn.gelu(nn.Dense(self.hidden, name="hidden")(dropped(pooled)))
        logits = nn.Dense(self.num_classes, name="classifier")(dropped(pooled))
        return Output(logits, attention)

    def _states(
        self, x: Float[Array, "batch frames features"], num_frames: Int[Array, " batch"]
    ) -> tuple[Float[Array, "batch _frames states channels"], Int[Array, " batch"]]:
        """The states of each frame, those that are computed included, and how many frames there are."""
        tokens = None
        if self.waveforms:
            below = LowerLayers(self.encoder, self.lower, self.states, self.stem, name="below")
            states, num_frames, tokens = below(x[..., 0], num_frames)
        elif x.shape[-1] % self.states:
            raise UserError(f"config.model.states: {self.states} does not divide the {x.shape[-1]} features of a frame")
        else:
            real = jnp.arange(x.shape[1])[None] < num_frames[:, None]
            states = jnp.where(real[..., None], x, 0).reshape(*x.shape[:2], self.states, -1)
        if not self.layers:
            return states, num_frames
        if self.encoder is None:
            raise UserError(
                f"config.model.layers: found {self.layers}, expected 0: the features are no hidden states of an encoder"
            )
        upper = UpperLayers(
            self.encoder, self.layers, self.adapt, self.rank, self.alpha, self.projections, name="adapter"
        )
        computed = upper(states[:, :, -1], num_frames, tokens)
        return jnp.concatenate([states, jnp.moveaxis(computed, 0, 2)], 2), num_frames

    def _mixture(self, states: Float[Array, "batch frames states channels"]) -> Float[Array, "batch frames channels"]:
        """The states of each frame, normalised, in one weighted sum; or one of them."""
        parts = states.astype(jnp.float32)
        if self.state:
            parts = parts[:, :, self.state - 1 : self.state]
        centred = parts - jnp.mean(parts, -1, keepdims=True)
        normal = centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), -1, keepdims=True) + 1e-5)
        if parts.shape[2] == 1:
            return normal[:, :, 0].astype(states.dtype)
        weights = jax.nn.softmax(self.param("state_weights", nn.initializers.zeros, (parts.shape[2],)))
        return jnp.einsum("btsc,s->btc", normal, weights).astype(states.dtype)


def _recurrent(head: EncoderHead, **attributes: str) -> AttentionRNN:
    """The recurrent layer and the decoder of a head."""
    return AttentionRNN(
        head.num_classes,
        hidden=head.width // 2,
        depth=1,
        decoder_hidden=head.decoder_hidden,
        subsampling=1,
        attention="none" if head.decoder == "without_attention" else head.decoder,
        dropout=head.dropout,
        **attributes,
    )


def _check(model: EncoderHead) -> None:
    if model.state > model.states + model.layers:
        raise UserError(
            f"config.model.state: found {model.state}, expected at most {model.states + model.layers}, the sum of "
            "model.states and model.layers"
        )
    if model.adapt != "frozen" and not model.layers:
        raise UserError(f"config.model.adapt={model.adapt}: expected config.model.layers of at least 1")
    if model.stem != "frozen" and model.lower:
        raise UserError(
            f"config.model.lower: found {model.lower}, expected 0 with stem={model.stem}: the layers above what is "
            "trained are adapted too, by config.model.layers"
        )
    if model.adapt == "lora" and not model.projections:
        raise UserError("config.model.projections: found none, expected at least one with adapt=lora")
    if model.decoder != "none":
        if model.width < 2 or model.width % 2:
            raise UserError(f"config.model.width: found {model.width}, expected an even number with a decoder")
        for option, found, plain in (("pooling", model.pooling, "mean"), ("hidden", model.hidden, 0)):
            if found != plain:
                raise UserError(f"config.model.{option}: found {found}, expected {plain}: a decoder takes its place")
        attention_rnn.FAMILY.check(_recurrent(model))
    if model.depth and not model.width:
        raise UserError("config.model.depth: blocks need a projection; expected config.model.width of at least 1")
    if model.width:
        check_heads(model.pooling, model.heads, model.width)
        if model.depth and model.width % model.heads:
            raise UserError(f"model encoder_head: {model.heads} heads do not divide a width of {model.width}")


FAMILY = Family(
    module=EncoderHead,
    summary="a head on hidden states of a pretrained encoder",
    choices={
        "states": COUNT,
        "lower": Range(0),
        "stem": STEMS,
        "layers": Range(0),
        "adapt": ADAPTATIONS,
        "rank": COUNT,
        "alpha": Range(0.0),
        "projections": PROJECTIONS,
        "state": Range(0),
        "width": Range(0),
        "depth": Range(0),
        "mixing": MIXINGS,
        "attention": ("none", "eca"),
        "pooling": OVER_TIME,
        "heads": COUNT,
        "hidden": Range(0),
        "decoder": DECODERS,
        "decoder_hidden": COUNT,
        "dropout": RATE,
    },
    switches={"pooling": OVER_TIME, "mixing": MIXINGS, "attention": ("none", "eca"), "decoder": DECODERS},
    rates=("dropout",),
    tiny={
        **{"states": 2, "width": 8, "depth": 1, "mixing": "self_attention", "attention": "eca"},
        **{"pooling": "multi_head", "decoder_hidden": 8},
    },
    check=_check,
    min_frames=lambda model: model.encoder.min_samples if model.waveforms else 1,
)
