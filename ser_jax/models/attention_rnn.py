"""An attention-RNN: a recurrent encoder, and a decoder that emits the emotion and then, if asked to, the transcript.

At every token the decoder's last state looks at the encoder's outputs, and steps on with the last token and the mean of
the outputs, weighted by where it looked (Bahdanau et al. 2015, arXiv 1409.0473, section 3.1).
"""

from typing import Any, Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ser_jax.errors import UserError
from ser_jax.models import layers, ops
from ser_jax.models.family import COUNT, RATE, Family, Range
from ser_jax.models.output import Attention, Output
from ser_jax.models.pooling import masked_softmax
from ser_jax.models.recurrent import GATES, Cell, Recurrent

ATTENTION = ("none", "additive", "dot", "general", "location")


@flax.struct.dataclass
class Memory:
    """What the encoder leaves of a batch of utterances for the decoder.

    Attributes:
        outputs: of the last layer, zero in the padding, Float[Array, "batch frames 2*hidden"]; one for every
            `subsampling` frames of the features.
        keys: the outputs as the attention compares them with the decoder's state, or None.
        lengths: real frames of the outputs, Int[Array, "batch"].
        last: the last layer's last state in both directions, Float[Array, "batch 2*hidden"].
    """

    outputs: Any
    keys: Any
    lengths: Any
    last: Any


@flax.struct.dataclass
class Position:
    """Where the decoder stands: its cell's state, and the last weights, Float[Array, "batch frames"], or None."""

    cell: Any
    weights: Any


class AttentionRNN(nn.Module):
    """A bidirectional encoder and a decoder whose first token is the emotion.

    Attributes:
        num_classes: number of emotions.
        cell: "lstm" or "gru", of the encoder and the decoder.
        hidden: size of the encoder's state in each direction, and of the embeddings of emotions and symbols.
        depth: layers of the encoder.
        decoder_hidden: size of the decoder's state.
        subsampling: frames of the features for each output of the encoder; each of its first layers passes on every two
            neighbours as one frame, until that is reached (Chan et al. 2016, arXiv 1508.01211, eq. 5).
        attention: what the decoder knows of the encoder beside its initial state. "none": the encoder's last state, at
            every token. Otherwise a mean of its outputs with a softmax of scores, of the decoder's state s and an
            output h: "additive", v.tanh(Ws + Vh + b) (Bahdanau et al. 2015); "dot", s.h; "general", s.Wh (Luong et al.
            2015, arXiv 1508.04025, eq. 8); "location", additive with what a convolution of the last token's weights has
            at that frame (Chorowski et al. 2015, arXiv 1506.07503, eq. 8 and 9).
        location_filters: number of these convolutions.
        location_width: outputs that each of them sees; odd.
        text: what follows the emotion, "none", or the transcript in "characters" or "words".
        num_symbols: number of the text's symbols and its end; 0 without text.
        scheduled_sampling: how often, in training, a token is followed by what the model takes it for rather than by
            what it is (Bengio et al. 2015, arXiv 1506.03099); may be a traced scalar.
        dropout: rate between the encoder's layers and before the decoder's logits; may be a traced scalar.
        tracks: values for every frame, from the encoder's outputs; 0: none.
    """

    num_classes: int
    cell: Literal["lstm", "gru"] = "lstm"
    hidden: int = 64
    depth: int = 2
    decoder_hidden: int = 128
    subsampling: Literal[1, 2, 4] = 2
    attention: Literal["none", "additive", "dot", "general", "location"] = "additive"
    location_filters: int = 8
    location_width: int = 31
    text: Literal["none", "characters", "words"] = "none"
    num_symbols: int = 0
    scheduled_sampling: float | Float[Array, ""] = 0.0
    dropout: float | Float[Array, ""] = 0.0
    tracks: int = 0

    @property
    def min_frames(self) -> int:
        """The fewest frames of an utterance that make sense."""
        return self.subsampling

    def setup(self) -> None:
        """The parts; those that an option leaves out have no parameters."""
        self.encoder = [Recurrent(self.hidden, self.cell) for _ in range(self.depth)]
        self.bridge = [nn.Dense(self.decoder_hidden) for _ in range(2 if self.cell == "lstm" else 1)]
        self.decoder = Cell(self.decoder_hidden, self.cell)
        if self.attention != "none":
            self.alignment = Alignment(
                self.attention, self.decoder_hidden, 2 * self.hidden, self.location_filters, self.location_width
            )
        self.start = self.param("start", nn.initializers.zeros, (self.hidden,))
        self.readout = nn.Dense(self.decoder_hidden)
        self.classifier = nn.Dense(self.num_classes)
        if self.text != "none":
            if not self.num_symbols:
                raise UserError(f"model attention_rnn: text {self.text} needs num_symbols, the size of its vocabulary")
            embedding = nn.initializers.normal(1.0)
            self.emotion_embedding = self.param("emotion_embedding", embedding, (self.num_classes, self.hidden))
            self.symbol_embedding = self.param("symbol_embedding", embedding, (self.num_symbols, self.hidden))
            self.symbol_head = nn.Dense(self.num_symbols)
        if self.tracks:
            self.track_head = nn.Dense(self.tracks)

    def __call__(
        self,
        features: Float[Array, "batch frames features"],
        num_frames: Int[Array, " batch"],
        *,
        train: bool,
        tokens: Int[Array, "batch tokens"] | None = None,
        label: Int[Array, " batch"] | Float[Array, "batch classes"] | None = None,
    ) -> Output:
        """Logits of the emotions, and of the tokens of the text if they are given.

        Args:
            features: in whose dtype the encoder and the attention compute.
            num_frames: real frames of each utterance.
            train: whether to drop out and to sample tokens.
            tokens: the transcripts with their ends, as the decoder would have emitted them; what is negative is
                padding, and what it has for logits means nothing.
            label: the emotion that the tokens follow, or the probabilities of each; None: the one that the model takes
                it for.

        Returns:
            `attention["alignment"]`: of the emotion and each of the tokens.
        """
        memory, position = self.encode(features, num_frames, train=train)
        start = jnp.broadcast_to(self.start[None], (len(features), self.hidden))
        position, readout = self.step(memory, position, start)
        logits = self.classifier(self._dropped(readout, self._dropout_key(train)))

        weights = None if self.attention == "none" else position.weights[:, None]
        symbol_logits = None
        if self.text != "none" and self.is_initializing():  # creates the parameters
            self.symbol_head(self.step(memory, position, self.embed_emotion(logits))[1])
            self.embed_symbol(jnp.zeros(len(features), jnp.int32))
        elif self.text != "none" and tokens is not None:
            symbol_logits, symbol_weights = self._text(memory, position, logits, tokens, label, train)
            weights = None if weights is None else jnp.concatenate([weights, symbol_weights], 1)

        attention = {}
        if weights is not None:
            attention["alignment"] = Attention(weights, ("batch", "tokens", "frames"), self.subsampling)
        tracks = self._tracks(memory, num_frames, features.shape[1]) if self.tracks else None
        return Output(logits, attention, symbol_logits, tracks)

    def encode(
        self, features: Float[Array, "batch frames features"], num_frames: Int[Array, " batch"], *, train: bool = False
    ) -> tuple[Memory, Position]:
        """What the decoder looks at, and where it starts."""
        x, lengths = features, num_frames
        for number, layer in enumerate(self.encoder):
            if number and 2**number <= self.subsampling:
                x, lengths = _paired(x), (lengths + 1) // 2
            if number:
                x = self._dropped(x, self._dropout_key(train))
            x, final = layer(x, lengths)
        memory = Memory(x, None, lengths, final[0].astype(x.dtype))
        position = Position(
            tuple(jnp.tanh(bridge(part)) for bridge, part in zip(self.bridge, final, strict=True)), None
        )
        if self.attention == "none":
            return memory, position
        # The first token's "last weights" lie on all frames alike: there the location tells the utterance's ends apart.
        real = jnp.arange(x.shape[1])[None] < lengths[:, None]
        even = real / jnp.maximum(lengths, 1)[:, None].astype(jnp.float32)
        return memory.replace(keys=self.alignment.keys(x)), position.replace(weights=even)

    def step(
        self, memory: Memory, position: Position, embedding: Float[Array, "batch hidden"]
    ) -> tuple[Position, Float[Array, "batch decoder_hidden"]]:
        """One token further: the position after the token that is embedded, and what the next one's logits are of."""
        dtype = memory.outputs.dtype
        if self.attention == "none":
            weights, context = None, memory.last
        else:
            weights = self.alignment(position.cell[0].astype(dtype), memory.keys, position.weights, memory.lengths)
            context = jnp.einsum("bt,btc->bc", weights.astype(dtype), memory.outputs)
        cell, h = self.decoder(position.cell, jnp.concatenate([embedding.astype(dtype), context], -1))
        readout = jnp.tanh(self.readout(jnp.concatenate([h, context], -1).astype(jnp.float32)))
        return Position(cell, weights), readout

    def embed_emotion(
        self, label: Int[Array, " batch"] | Float[Array, "batch classes"]
    ) -> Float[Array, "batch hidden"]:
        """The embeddings of emotions, or their means by the emotions' probabilities."""
        if label.ndim == 2:
            return label @ self.emotion_embedding
        return self.emotion_embedding[label]

    def embed_symbol(self, token: Int[Array, " batch"]) -> Float[Array, "batch hidden"]:
        """The embeddings of a text's symbols; any will do for padding."""
        return self.symbol_embedding[jnp.maximum(token, 0)]

    def _text(
        self,
        memory: Memory,
        position: Position,
        emotion_logits: Float[Array, "batch classes"],
        tokens: Int[Array, "batch tokens"],
        label: Array | None,
        train: bool,
    ) -> tuple[Float[Array, "batch tokens symbols"], Float[Array, "batch tokens frames"] | None]:
        """The logits of a text's tokens, each after the true tokens before it, and the weights."""
        batch, num_tokens = tokens.shape
        own = jnp.argmax(emotion_logits, -1)
        label = own if label is None else label
        embedding = self.embed_emotion(label)
        sampled = None
        if train and layers.is_on(self.scheduled_sampling):
            draws = jax.random.uniform(self.make_rng("dropout"), (num_tokens + 1, batch))
            sampled = draws < self.scheduled_sampling
            embedding = jnp.where(sampled[0][:, None], self.embed_emotion(own), embedding)
            sampled = sampled[1:]
        key = self._dropout_key(train)
        keys = None if key is None else jax.random.split(key, num_tokens)

        def emit(model: AttentionRNN, state: tuple[Position, Array], token: tuple) -> tuple[tuple, tuple]:
            true, sampled, key = token
            position, readout = model.step(memory, *state)
            logits = model.symbol_head(model._dropped(readout, key))
            if sampled is not None:
                true = jnp.where(sampled, jnp.argmax(logits, -1), true)
            return (position, model.embed_symbol(true)), (logits, position.weights)

        scan = nn.scan(emit, variable_broadcast="params", split_rngs={"params": False})
        _, (logits, weights) = scan(self, (position, embedding), (tokens.T, sampled, keys))
        return logits.swapaxes(0, 1), None if weights is None else weights.swapaxes(0, 1)

    def _tracks(
        self, memory: Memory, num_frames: Int[Array, " batch"], frames: int
    ) -> Float[Array, "batch frames tracks"]:
        values = self.track_head(memory.outputs.astype(jnp.float32))
        values = jnp.repeat(values, self.subsampling, axis=1)[:, :frames]
        return jnp.where((jnp.arange(frames)[None] < num_frames[:, None])[..., None], values, 0)

    def _dropout_key(self, train: bool) -> Array | None:
        return self.make_rng("dropout") if train and layers.is_on(self.dropout) else None

    def _dropped(self, x: Array, key: Array | None) -> Array:
        return x if key is None else layers.dropout(x, self.dropout, key).astype(x.dtype)


class Alignment(nn.Module):
    """Where a decoder's state looks: a softmax over the frames of its scores with them.

    Attributes:
        kind: of `ATTENTION`, but "none".
        queries, outputs: channels of the decoder's state and of the encoder's outputs.
        filters, width: of the convolutions of "location".
    """

    kind: str
    queries: int
    outputs: int
    filters: int
    width: int

    def setup(self) -> None:
        """The parameters; "dot" has none."""
        dense = nn.initializers.lecun_normal()
        if self.kind != "dot":
            self.key_kernel = self.param("key_kernel", dense, (self.outputs, self.queries))
        if self.kind in ("additive", "location"):
            self.key_bias = self.param("key_bias", nn.initializers.zeros, (self.queries,))
            self.query_kernel = self.param("query_kernel", dense, (self.queries, self.queries))
            self.vector = self.param("vector", dense, (self.queries, 1))
        if self.kind == "location":
            self.location_kernel = self.param("location_kernel", dense, (self.width, self.filters))
            self.filter_kernel = self.param("filter_kernel", dense, (self.filters, self.queries))

    def keys(self, outputs: Float[Array, "batch frames outputs"]) -> Float[Array, "batch frames keys"]:
        """What of the scores does not depend on the decoder."""
        if self.kind == "dot":
            return outputs
        keys = ops.product(outputs, self.key_kernel)
        return keys if self.kind == "general" else keys + self.key_bias.astype(keys.dtype)[None, None]

    def __call__(
        self,
        query: Float[Array, "batch queries"],
        keys: Float[Array, "batch frames keys"],
        last: Float[Array, "batch frames"],
        lengths: Int[Array, " batch"],
    ) -> Float[Array, "batch frames"]:
        """The weights, in float32; `last` are those of the token before."""
        if self.kind in ("dot", "general"):
            scores = jnp.einsum("bc,btc->bt", query, keys, preferred_element_type=jnp.float32)
        else:
            location = None
            if self.kind == "location":
                location = last.astype(keys.dtype), self.location_kernel, self.filter_kernel
            query = ops.product(query, self.query_kernel)
            scores = _additive_scores(query, keys, self.vector[:, 0], location)
        return masked_softmax(scores, jnp.arange(keys.shape[1])[None] < lengths[:, None])


@jax.checkpoint  # what tanh makes of all frames, for every token, is more than memory should hold
def _additive_scores(
    query: Float[Array, "batch channels"],
    keys: Float[Array, "batch frames channels"],
    vector: Float[Array, " channels"],
    location: tuple[Array, Array, Array] | None,
) -> Float[Array, "batch frames"]:
    total = keys + query[:, None]
    if location is not None:
        last, kernel, filter_kernel = location
        width, frames = len(kernel), last.shape[1]
        bordered = jnp.pad(last, ((0, 0), (width // 2, width // 2)))
        seen = jnp.stack([bordered[:, tap : tap + frames] for tap in range(width)], -1)
        total += ops.product(ops.product(seen, kernel), filter_kernel)
    return jnp.einsum("btc,c->bt", jnp.tanh(total), vector.astype(keys.dtype), preferred_element_type=jnp.float32)


def _paired(x: Float[Array, "batch frames channels"]) -> Float[Array, "batch half_frames both_channels"]:
    """Every two neighbours as one frame; zeros follow an odd number of them."""
    x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0)))
    return x.reshape(len(x), x.shape[1] // 2, -1)


def _check(model: AttentionRNN) -> None:
    """Refuse options that do not go together.

    Raises:
        UserError: naming them.
    """
    if model.attention == "dot" and model.decoder_hidden != 2 * model.hidden:
        raise UserError(
            f"model attention_rnn: attention dot compares decoder_hidden {model.decoder_hidden} with twice hidden "
            f"{model.hidden}; expected decoder_hidden {2 * model.hidden}, or attention general"
        )
    if model.subsampling > 2 ** (model.depth - 1):
        raise UserError(
            f"model attention_rnn: subsampling {model.subsampling} with depth {model.depth}; "
            f"expected at most {2 ** (model.depth - 1)}: each layer but the last halves the frames"
        )
    if model.location_width % 2 == 0:
        raise UserError(f"model attention_rnn: location_width {model.location_width}; expected an odd number")
    if model.text == "none" and model.num_symbols:
        raise UserError(f"model attention_rnn: num_symbols {model.num_symbols} without text; expected 0")


FAMILY = Family(
    module=AttentionRNN,
    summary="a recurrent encoder, and a decoder with attention that emits the emotion and a transcript",
    choices={
        "cell": tuple(GATES),
        "hidden": COUNT,
        "depth": COUNT,
        "decoder_hidden": COUNT,
        "subsampling": (1, 2, 4),
        "attention": ATTENTION,
        "location_filters": COUNT,
        "location_width": COUNT,
        "text": ("none", "characters", "words"),
        "num_symbols": Range(0),
        "scheduled_sampling": RATE,
        "dropout": RATE,
        "tracks": Range(0),
    },
    switches={"attention": ATTENTION},
    rates=("scheduled_sampling", "dropout"),
    tiny={"hidden": 8, "decoder_hidden": 16, "attention": "location", "location_filters": 2, "location_width": 5},
    check=_check,
    min_frames=lambda model: model.min_frames,
)
