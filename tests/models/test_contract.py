"""What every registered model promises: padding, neighbours and order in a batch never change a logit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax.models import FAMILIES, build

NUM_CLASSES = 5
LENGTHS = np.array([70, 1, 33, 46])
LONGEST = 70
BANDS = 40


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


def test_rows_without_frames_change_no_other_logit(forward, features):
    lengths = np.concatenate([LENGTHS, [0, 0]])
    padded = np.concatenate([features, np.ones((2, LONGEST, BANDS), np.float32)])
    found = forward(True, padded, lengths).logits
    np.testing.assert_allclose(found[:4], forward(True, features, LENGTHS).logits, atol=1e-5)
    assert np.isfinite(found).all()
