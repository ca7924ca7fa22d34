"""What every registered model promises: padding, neighbours and order in a batch never change a logit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ser_jax.models import FAMILIES, build

NUM_CLASSES = 5
LENGTHS = np.array([70, 1, 33, 46])
LONGEST = 70
BANDS = 40
NUM_STEPS = 80


@pytest.fixture(scope="module", params=list(FAMILIES))
def forward(request):
    """(train, features, lengths) -> Output, of a model with attention and random weights."""
    model = build(request.param, NUM_CLASSES, **FAMILIES[request.param].tiny)

    def init(features, lengths):
        return model.init(jax.random.key(0), features, lengths, train=False)

    fast_compile = {"xla_backend_optimization_level": 0}
    variables = jax.jit(init, compiler_options=fast_compile)(jnp.zeros((1, LONGEST, BANDS)), jnp.array([LONGEST]))

    def run(train, features, lengths):
        features, lengths = jnp.asarray(features), jnp.asarray(lengths)
        if train:
            return model.apply(variables, features, lengths, train=True, mutable=["batch_stats"])[0]
        return model.apply(variables, features, lengths, train=False)

    return jax.jit(run, static_argnums=0, compiler_options=fast_compile)


@pytest.fixture(scope="module")
def features():
    values = np.random.default_rng(0).normal(size=(4, LONGEST, BANDS)).astype(np.float32)
    return np.where(np.arange(LONGEST)[None, :, None] < LENGTHS[:, None, None], values, 0)


def test_outputs_have_the_promised_shapes(forward, features):
    output = forward.eval_shape(True, features, LENGTHS)
    assert output.logits.shape == (4, NUM_CLASSES)
    assert all(attention.weights.shape[0] == 4 for attention in output.attention.values())
    assert all(attention.weights.ndim == len(attention.axes) for attention in output.attention.values())


@pytest.mark.parametrize("train", [False, True])
def test_more_padding_and_what_it_holds_never_change_a_logit(forward, features, train):
    padded = np.pad(features, ((0, 0), (0, 37), (0, 0)))
    padded = np.where(np.arange(LONGEST + 37)[None, :, None] < LENGTHS[:, None, None], padded, 9.0)
    expected, found = forward(train, features, LENGTHS), forward(train, padded, LENGTHS)
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-5)
    assert np.ptp(expected.logits, 0).max() > 1e-4


def test_an_utterance_alone_and_unpadded_gets_the_logits_it_gets_beside_longer_ones(forward, features):
    together = forward(False, features, LENGTHS).logits
    for i in (1, 2):
        alone = forward(False, features[i : i + 1, : LENGTHS[i]], LENGTHS[i : i + 1]).logits
        np.testing.assert_allclose(together[i : i + 1], alone, atol=1e-5)


@pytest.mark.parametrize("train", [False, True])
def test_the_order_of_a_batch_only_orders_its_logits(forward, features, train):
    order = np.array([2, 0, 3, 1])
    expected, found = forward(train, features, LENGTHS), forward(train, features[order], LENGTHS[order])
    np.testing.assert_allclose(found.logits, expected.logits[order], atol=1e-5)


def test_attention_to_frames_is_a_distribution_over_the_utterances_own(forward, features):
    lengths = np.concatenate([LENGTHS, [0]])
    output = forward(False, np.concatenate([features, features[:1]]), lengths)
    for attention in output.attention.values():
        if attention.axes[-1] != "frames":
            continue
        weights = np.asarray(attention.weights)
        own = -(-lengths // attention.stride)
        for length, row in zip(own, weights, strict=True):
            assert not row[..., length:].any()
            if attention.axes[-2] == "queries":
                row = row[..., :length, :]
            if length:
                np.testing.assert_allclose(row[..., :length].sum(-1), 1, atol=1e-5)


def test_rows_without_frames_change_no_other_logit(forward, features):
    lengths = np.concatenate([LENGTHS, [0, 0]])
    padded = np.concatenate([features, np.ones((2, LONGEST, BANDS), np.float32)])
    found = forward(True, padded, lengths).logits
    np.testing.assert_allclose(found[:4], forward(True, features, LENGTHS).logits, atol=1e-5)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_sixteen_utterances_are_learnt_by_heart(name):
    """That the gradient of every part finds its way, whatever the model."""
    random = np.random.default_rng(0)
    features = jnp.asarray(random.normal(size=(16, 16, 16)), jnp.float32)
    lengths = jnp.asarray(random.integers(8, 17, size=16))
    labels = jnp.arange(16) % 4
    model = build(name, 4, **FAMILIES[name].tiny)
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-2, NUM_STEPS))

    def loss(params, rest):
        output, rest = model.apply({"params": params, **rest}, features, lengths, train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(output.logits, labels)
        return losses.mean(), (rest, output.logits)

    def step(state, _):
        params, rest, moments = state
        gradients, (rest, logits) = jax.grad(loss, has_aux=True)(params, rest)
        updates, moments = optimizer.update(gradients, moments, params)
        return (optax.apply_updates(params, updates), rest, moments), jnp.argmax(logits, -1)

    def train(key):
        rest = dict(model.init(key, features, lengths, train=False))
        params = rest.pop("params")
        return jax.lax.scan(step, (params, rest, optimizer.init(params)), length=NUM_STEPS)[1][-1]

    # This kind of key compiles faster: nothing else matters of it here.
    key = jax.random.key(0, impl="rbg")
    predicted = jax.jit(train, compiler_options={"xla_backend_optimization_level": 0})(key)
    np.testing.assert_array_equal(predicted, labels)
