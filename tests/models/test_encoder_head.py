"""The head on hidden states: what it makes of each state, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax.errors import UserError
from ser_jax.models import build

LENGTHS = jnp.array([7, 4])
FEATURES = np.random.default_rng(0).normal(size=(2, 7, 12)).astype(np.float32)


def run(model, features=FEATURES, **parameters):
    variables = model.init(jax.random.key(0), jnp.asarray(features), LENGTHS, train=False)
    variables = {"params": variables["params"] | parameters}
    return model.apply(variables, jnp.asarray(features), LENGTHS, train=False), variables["params"]


def test_a_plain_head_is_the_classifier_of_the_mean_of_the_weighted_normalised_states():
    weights = np.array([0.3, -1.0, 2.0], np.float32)
    output, parameters = run(build("encoder_head", 3, states=3, width=0), state_weights=jnp.asarray(weights))
    states = FEATURES.reshape(2, 7, 3, 4)
    normal = (states - states.mean(-1, keepdims=True)) / np.sqrt(states.var(-1, keepdims=True) + 1e-5)
    mixed = np.einsum("btsc,s->btc", normal, np.exp(weights) / np.exp(weights).sum())
    pooled = np.stack([mixed[i, :n].mean(0) for i, n in enumerate(LENGTHS)])
    kernel, bias = (np.asarray(parameters["classifier"][name]) for name in ("kernel", "bias"))
    expected = pooled @ kernel + bias
    np.testing.assert_allclose(output.logits, expected, atol=1e-5)


def test_one_state_alone_is_what_a_head_on_it_alone_makes():
    chosen, parameters = run(build("encoder_head", 3, states=3, state=2, width=8))
    alone = build("encoder_head", 3, states=1, width=8).apply(
        {"params": parameters}, jnp.asarray(FEATURES[..., 4:8]), LENGTHS, train=False
    )
    assert "state_weights" not in parameters
    np.testing.assert_array_equal(chosen.logits, alone.logits)


def test_a_hidden_layer_follows_the_pooling():
    output, parameters = run(build("encoder_head", 3, width=0, hidden=5))
    normal = (FEATURES - FEATURES.mean(-1, keepdims=True)) / np.sqrt(FEATURES.var(-1, keepdims=True) + 1e-5)
    pooled = np.stack([normal[i, :n].mean(0) for i, n in enumerate(LENGTHS)])
    hidden, classifier = (jax.tree.map(np.asarray, parameters[name]) for name in ("hidden", "classifier"))
    middle = np.asarray(jax.nn.gelu(pooled @ hidden["kernel"] + hidden["bias"]))
    expected = middle @ classifier["kernel"] + classifier["bias"]
    assert middle.shape == (2, 5)
    np.testing.assert_allclose(output.logits, expected, atol=1e-5)


def test_a_state_a_hundred_times_as_large_weighs_no_more():
    scaled = FEATURES.reshape(2, 7, 3, 4) * np.array([1, 100, 1], np.float32)[:, None]
    model = build("encoder_head", 3, states=3, width=8)
    np.testing.assert_allclose(run(model)[0].logits, run(model, scaled.reshape(2, 7, 12))[0].logits, atol=1e-3)


def test_blocks_without_attention_have_as_many_parameters():
    def count(mixing):
        _, parameters = run(build("encoder_head", 3, width=16, depth=1, mixing=mixing))
        return sum(leaf.size for leaf in jax.tree.leaves(parameters))

    assert count("none") == count("self_attention")


def test_channel_attention_gates_the_channels():
    plain, parameters = run(build("encoder_head", 3, width=8))
    gated, own = run(build("encoder_head", 3, width=8, attention="eca"), **parameters)
    assert gated.attention["channels"].weights.shape == (2, 8)
    assert set(own) - set(parameters) == {"channels"}
    assert np.abs(gated.logits - plain.logits).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0, "depth": 1}, "blocks need a projection"),
        ({"width": 6, "pooling": "multi_head"}, "4 heads do not divide 6 channels"),
        ({"width": 6, "depth": 1}, "4 heads do not divide a width of 6"),
        ({"states": 2, "state": 3}, "config.model.state: found 3, expected at most 2, the sum of model.states and"),
        ({"pooling": "last"}, "expected one of mean"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        build("encoder_head", 3, **options)


def test_layers_need_an_encoder():
    with pytest.raises(UserError, match=r"config.model.layers: found 2, expected 0: the features are no hidden states"):
        run(build("encoder_head", 3, layers=2))


def test_states_have_to_divide_the_features():
    with pytest.raises(UserError, match=r"config.model.states: 5 does not divide the 12 features of a frame"):
        run(build("encoder_head", 3, states=5))
