import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax.models import build
from ser_jax.models.decoding import beam_search, decode_text

SYMBOLS, END = 3, 2


def fast_jit(function):
    """jax.jit that compiles fast rather than well."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module")
def decoder():
    """(step, carry, first log-probabilities) of four utterances: what follows depends on all tokens before."""
    rng = np.random.default_rng(0)
    recurrent, embedding, head = (
        jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((5, 5), (SYMBOLS, 5), (5, SYMBOLS))
    )

    def step(carry, token):
        state = jnp.tanh(carry["state"] @ recurrent + embedding[token])
        return {"state": state}, jax.nn.log_softmax(2 * state @ head)

    state = jnp.asarray(rng.normal(size=(4, 5)), jnp.float32)
    return jax.jit(step), {"state": state}, jax.nn.log_softmax(2 * state @ head)


def probability(decoder, row, tokens):
    """The log-probability of a sequence of one utterance."""
    step, carry, following = decoder
    carry, total = jax.tree.map(lambda x: x[row : row + 1], carry), 0.0
    following = following[row : row + 1]
    for token in tokens:
        total += float(following[0, token])
        carry, following = step(carry, jnp.array([token]))
    return total


def all_sequences(max_tokens):
    """Everything that ends with its first end symbol, or never does and has as many tokens as there may be."""
    for length in range(1, max_tokens + 1):
        for tokens in itertools.product(range(SYMBOLS), repeat=length):
            ends = tokens.index(END) + 1 if END in tokens else None
            if ends == length or (ends is None and length == max_tokens):
                yield tokens


def sequence(decoded, *index):
    tokens, length = np.asarray(decoded.tokens[index]), int(decoded.lengths[index])
    assert (tokens[length:] == -1).all() and (tokens[:length] >= 0).all()
    return tuple(int(token) for token in tokens[:length])


@pytest.mark.parametrize("normalization", [0.0, 1.0])
def test_a_wide_beam_is_an_exhaustive_search(decoder, normalization):
    max_tokens = 4
    everything = list(all_sequences(max_tokens))
    search = fast_jit(
        lambda: beam_search(
            *decoder, end=END, beam=len(everything), max_tokens=max_tokens, length_normalization=normalization
        )
    )
    found = search()
    for row in range(4):
        scores = {tokens: probability(decoder, row, tokens) for tokens in everything}
        ranked = sorted(everything, key=lambda tokens: -scores[tokens] / len(tokens) ** normalization)
        assert [sequence(found, row, place) for place in range(5)] == ranked[:5]
        assert {sequence(found, row, place) for place in range(len(everything))} == set(everything)
        expected = [scores[tokens] for tokens in ranked]
        np.testing.assert_allclose(found.log_probabilities[row], expected, rtol=1e-4)


@pytest.mark.parametrize("normalization", [0.0, 0.7])
def test_a_beam_of_one_is_greedy(decoder, normalization):
    step, carry, following = decoder
    found = fast_jit(lambda: beam_search(*decoder, end=END, beam=1, max_tokens=6, length_normalization=normalization))()
    chosen = []
    for _ in range(6):
        token = jnp.argmax(following, -1)
        chosen.append(np.asarray(token))
        carry, following = step(carry, token)
    for row, tokens in enumerate(np.stack(chosen, 1)):
        length = list(tokens).index(END) + 1 if END in tokens else 6
        assert sequence(found, row, 0) == tuple(tokens[:length])
        expected = probability(decoder, row, tokens[:length])
        np.testing.assert_allclose(found.log_probabilities[row, 0], expected, rtol=1e-5)


def test_the_carry_of_a_hypothesis_is_that_of_its_own_tokens(decoder):
    found = fast_jit(lambda: beam_search(*decoder, end=END, beam=4, max_tokens=5))()
    for row, place in itertools.product(range(4), range(4)):
        expected = probability(decoder, row, sequence(found, row, place))
        np.testing.assert_allclose(found.log_probabilities[row, place], expected, rtol=1e-4)
    assert (np.diff(found.log_probabilities, axis=1) <= 1e-6).all()


def test_a_decoder_that_never_ends_is_cut_and_one_that_ends_at_once_is_not(decoder):
    step, carry, following = decoder

    def endless(carry, token):
        return carry, following.at[:, END].set(-jnp.inf)

    first = following.at[:, END].set(-jnp.inf)
    cut = fast_jit(lambda: beam_search(endless, carry, first, end=END, beam=2, max_tokens=7))()
    assert (np.asarray(cut.lengths) == 7).all()
    assert (np.asarray(cut.tokens) != END).all()
    at_once = jnp.full_like(following, -jnp.inf).at[:, END].set(0.0)
    ended = fast_jit(lambda: beam_search(step, carry, at_once, end=END, beam=1, max_tokens=7))()
    assert np.asarray(ended.tokens).tolist() == [[[END] + [-1] * 6]] * 4
    assert (np.asarray(ended.lengths) == 1).all()


# A text -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def speller():
    options = {"cell": "gru", "hidden": 4, "depth": 1, "decoder_hidden": 8, "subsampling": 1}
    model = build("attention_rnn", 2, text="characters", num_symbols=SYMBOLS, **options)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 5)), jnp.array([8]), train=False))
    rng = np.random.default_rng(3)
    return model, jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)


LENGTHS = jnp.array([8, 3, 1])


@pytest.fixture(scope="module")
def features():
    return jnp.asarray(np.random.default_rng(1).normal(size=(3, 8, 5)), jnp.float32)


@pytest.fixture(scope="module")
def decode(speller):
    """Three hypotheses wide."""
    return fast_jit(lambda *inputs: decode_text(*speller, *inputs, beam=3, max_tokens=5))


def test_padding_changes_no_decoded_text(decode, features):
    expected = decode(features, LENGTHS)
    padded = jnp.pad(features, ((0, 0), (0, 6), (0, 0)))
    padded = jnp.where((jnp.arange(14)[None] < LENGTHS[:, None])[..., None], padded, 9)
    found = decode(padded, LENGTHS)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_array_equal(found.lengths, expected.lengths)
    np.testing.assert_allclose(found.log_probabilities, expected.log_probabilities, atol=1e-5)


def test_the_log_probability_of_a_decoded_text_is_that_of_the_model(speller, decode, features):
    model, variables = speller
    found = decode(features, LENGTHS)
    output = fast_jit(lambda: model.apply(variables, features, LENGTHS, train=False, tokens=found.tokens))()
    each = jax.nn.log_softmax(output.tokens)
    chosen = np.take_along_axis(np.asarray(each), np.maximum(found.tokens, 0)[..., None], -1)[..., 0]
    expected = np.where(np.asarray(found.tokens) >= 0, chosen, 0).sum(-1)
    np.testing.assert_allclose(found.log_probabilities, expected, atol=1e-4)
