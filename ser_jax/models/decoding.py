"""Search for the likeliest sequence of a decoder, whatever the decoder is.

A decoder is a carry, the log-probabilities of the first token, and a pure function `step(carry, token)` that returns
the carry after a token and the log-probabilities of the next one, for a batch of utterances at a time. All that differs
between the hypotheses of an utterance is in the carry; what does not (the encoder's outputs) `step` holds itself, so
that it is never copied.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ser_jax.models.attention_rnn import AttentionRNN, Memory, Position

Step = Callable[[Any, Array], tuple[Any, Array]]


@flax.struct.dataclass
class Decoded:
    """Sequences and how likely they are.

    Attributes:
        tokens: Int[Array, "*batch max_tokens"], the end symbol included, -1 behind it.
        lengths: how many tokens there are, Int[Array, "*batch"]; a sequence that was cut at the most has no end.
        log_probabilities: of the sequences, natural logarithms, Float[Array, "*batch"].
    """

    tokens: Any
    lengths: Any
    log_probabilities: Any


@flax.struct.dataclass
class _Hypotheses:
    """The hypotheses of a search, best first, [beam, batch, ...]; `next` are the next token's log-probabilities."""

    position: Any
    carry: Any
    next: Any
    tokens: Any
    lengths: Any
    log_probabilities: Any
    ended: Any


def beam_search(
    step: Step,
    carry: Any,
    log_probabilities: Float[Array, "batch symbols"],
    *,
    end: int,
    beam: int,
    max_tokens: int,
    length_normalization: float = 0.0,
) -> Decoded:
    """The `beam` best sequences of every utterance, best first, [batch, beam, ...].

    At every length the best `beam` hypotheses stay, those that have ended among them. A beam of 1 is greedy: it
    takes the likeliest token at every step.

    Args:
        step: see above.
        carry: any tree of arrays [batch, ...].
        log_probabilities: of the first token.
        end: the token that ends a sequence.
        beam: how many hypotheses are kept; with all there are, the search is exhaustive.
        max_tokens: the most tokens of a sequence, at least 1.
        length_normalization: hypotheses are compared by their log-probability / length^this: 0 compares
            log-probabilities, which are the higher the shorter; 1 compares means over the tokens.
    """
    batch, symbols = log_probabilities.shape
    rows = jnp.arange(batch)[None]
    # An ended hypothesis goes on with its end at no cost, and with nothing else.
    stays = jnp.where(jnp.arange(symbols) == end, 0.0, -jnp.inf)[None, None]

    def is_running(search: _Hypotheses) -> Array:
        alive = ~search.ended & (search.log_probabilities > -jnp.inf)
        return (search.position < max_tokens) & jnp.any(alive)

    def extend(search: _Hypotheses) -> _Hypotheses:
        totals = search.log_probabilities[..., None] + jnp.where(search.ended[..., None], stays, search.next)
        lengths = search.lengths + ~search.ended
        ranks = totals / lengths[..., None].astype(jnp.float32) ** length_normalization
        _, chosen = jax.lax.top_k(ranks.swapaxes(0, 1).reshape(batch, -1), beam)
        parents, token = jnp.divmod(chosen.T, symbols)

        def of_parents(x: Array) -> Array:
            return x[parents, rows]

        ended = of_parents(search.ended)
        carry, following = jax.vmap(step)(jax.tree.map(of_parents, search.carry), token)
        return _Hypotheses(
            position=search.position + 1,
            carry=carry,
            next=following,
            tokens=of_parents(search.tokens).at[..., search.position].set(jnp.where(ended, -1, token)),
            lengths=of_parents(lengths),
            log_probabilities=totals[parents, rows, token],
            ended=ended | (token == end),
        )

    def repeated(x: Array) -> Array:
        return jnp.broadcast_to(x[None], (beam, *x.shape))

    # There is one hypothesis to begin with; the others are impossible until they descend from it.
    first = repeated(jnp.zeros(batch)).at[1:].set(-jnp.inf)
    search = _Hypotheses(
        position=jnp.int32(0),
        carry=jax.tree.map(repeated, carry),
        next=repeated(log_probabilities.astype(jnp.float32)),
        tokens=jnp.full((beam, batch, max_tokens), -1, jnp.int32),
        lengths=jnp.zeros((beam, batch), jnp.int32),
        log_probabilities=first,
        ended=jnp.zeros((beam, batch), bool),
    )
    found = jax.lax.while_loop(is_running, extend, search)
    decoded = Decoded(found.tokens, found.lengths, found.log_probabilities)
    return jax.tree.map(lambda x: x.swapaxes(0, 1), decoded)


def decode_text(
    model: AttentionRNN,
    variables: Any,
    features: Float[Array, "batch frames features"],
    num_frames: Int[Array, " batch"],
    *,
    beam: int = 1,
    max_tokens: int,
    length_normalization: float = 0.0,
) -> Decoded:
    """The likeliest text of every utterance after its likeliest emotion, [batch, ...]; see `beam_search`.

    The emotion is that of the model's logits, so that the text is the one that goes with the prediction.
    """
    memory, position, log_probabilities = model.apply(variables, features, num_frames, method=_first)
    search = functools.partial(beam_search, beam=beam, length_normalization=length_normalization)
    found = search(
        lambda position, token: model.apply(variables, memory, position, token, method=_next),
        position,
        log_probabilities,
        end=model.num_symbols - 1,
        max_tokens=max_tokens,
    )
    return jax.tree.map(lambda x: x[:, 0], found)


def _first(model: AttentionRNN, features: Array, num_frames: Array) -> tuple[Memory, Position, Array]:
    """The position after the emotion, and the log-probabilities of the text's first token."""
    memory, position = model.encode(features, num_frames)
    start = jnp.broadcast_to(model.start[None], (len(features), model.hidden))
    position, readout = model.step(memory, position, start)
    emotion = jnp.argmax(model.classifier(readout), -1)
    return memory, *_after(model, memory, position, model.embed_emotion(emotion))


def _next(model: AttentionRNN, memory: Memory, position: Position, token: Array) -> tuple[Position, Array]:
    return _after(model, memory, position, model.embed_symbol(token))


def _after(model: AttentionRNN, memory: Memory, position: Position, embedding: Array) -> tuple[Position, Array]:
    position, readout = model.step(memory, position, embedding)
    return position, jax.nn.log_softmax(model.symbol_head(readout))
