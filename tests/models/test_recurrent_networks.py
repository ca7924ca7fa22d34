"""The families "rnn" and "reslstm"."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax.errors import UserError
from ser_jax.models import build

REFERENCES = Path(__file__).parents[1] / "references"

# The networks in recurrent.npz.
NETWORKS = {
    "rnn_weighted": ("rnn", {"hidden": 4, "depth": 2, "pooling": "weighted", "tracks": 2}),
    "rnn_gru_multi_head": ("rnn", {"cell": "gru", "hidden": 4, "depth": 1, "pooling": "multi_head", "heads": 2}),
    "reslstm": ("reslstm", {"hidden": 4, "depth": 2, "vectors": 3}),
}


def shapes(model, *feature_shape):
    features, lengths = jnp.zeros(feature_shape), jnp.full(feature_shape[0], feature_shape[1])
    return jax.eval_shape(lambda: model.init(jax.random.key(0), features, lengths, train=False))


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def variables_for(model, features):
    """Random weights, biases included."""
    return jax.tree.map(lambda leaf: random(*leaf.shape, seed=leaf.size) / 2, shapes(model, *features.shape))


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("network", NETWORKS)
def test_outputs_and_gradients_equal_pytorchs(network, jit):
    with np.load(REFERENCES / "recurrent.npz") as file:
        arrays = {key.removeprefix(f"{network}."): file[key] for key in file.files if key.startswith(f"{network}.")}
    assert_equal_to(arrays, *NETWORKS[network], jit)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("rnn", {"cell": "gru", "hidden": 3, "depth": 1, "pooling": "last"}),
        ("rnn", {"cell": "lstm", "hidden": 4, "depth": 1, "pooling": "mean", "tracks": 1}),
        ("reslstm", {"hidden": 3, "depth": 1, "attention": "none", "residual": False}),
    ],
)
def test_outputs_and_gradients_equal_pytorchs_live(family, options, jit, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(REFERENCES)
    from make_recurrent import reference

    assert_equal_to(reference(family, options), family, options, jit)


def assert_equal_to(arrays, family, options, jit):
    model = build(family, 5, **options)
    features, lengths, labels = (jnp.asarray(arrays[key]) for key in ("features", "lengths", "labels"))
    tree = shapes(model, *features.shape)
    variables = tree_of(arrays["variables"], tree)

    def loss(variables):
        output = model.apply(variables, features, lengths, train=True)
        log_probabilities = jax.nn.log_softmax(output.logits)
        loss = -jnp.take_along_axis(log_probabilities, labels[:, None], 1).mean()
        if output.tracks is not None:
            loss += jnp.square(output.tracks).mean()
        return loss, output

    (_, output), gradient = jit(jax.value_and_grad(loss, has_aux=True))(variables)
    np.testing.assert_allclose(output.logits, arrays["logits"], atol=1e-4)
    if "tracks" in arrays:
        np.testing.assert_allclose(output.tracks, arrays["tracks"], atol=1e-4)
    expected = tree_of(arrays["gradient"], tree)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), gradient, expected)


def tree_of(vector, shapes):
    """The tree whose leaves, end to end, are `vector`."""
    leaves, structure = jax.tree.flatten(shapes)
    parts = np.split(vector, np.cumsum([leaf.size for leaf in leaves])[:-1])
    return structure.unflatten([part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])


@pytest.mark.parametrize(("cell", "gates"), [("lstm", 4), ("gru", 3)])
@pytest.mark.parametrize(("pooling", "of_pooling"), [("mean", 0), ("last", 0), ("weighted", 32)])
def test_rnn_has_the_parameters_of_its_formula(cell, gates, pooling, of_pooling):
    model = build("rnn", 7, cell=cell, hidden=16, depth=3, pooling=pooling, tracks=2)
    of_layers = sum(2 * gates * 16 * (inputs + 16 + 2) for inputs in (40, 32, 32))
    assert count(shapes(model, 1, 20, 40)) == of_layers + of_pooling + (32 + 1) * (7 + 2)


def test_reslstm_has_the_parameters_of_its_formula():
    of_layers = 2 * (2 * 4 * 32 * (64 + 32 + 2)) + 2 * 2 * 64
    of_classifier = 64 * 7 + 7
    assert count(shapes(build("reslstm", 7), 1, 20, 64)) == of_layers + of_classifier + 64 * 32 + 32 == 52_967
    assert count(shapes(build("reslstm", 7, attention="none"), 1, 20, 64)) == of_layers + of_classifier
    without_path, with_path = (
        count(shapes(build("reslstm", 7, residual=residual), 1, 20, 40)) for residual in (False, True)
    )
    assert with_path - without_path == 40 * 64


@pytest.mark.parametrize(
    ("family", "options", "axes", "weights"),
    [
        ("rnn", {"pooling": "mean"}, None, None),
        ("rnn", {"pooling": "last"}, None, None),
        ("rnn", {"pooling": "weighted"}, ("batch", "frames"), (3, 7)),
        ("rnn", {"pooling": "multi_head", "heads": 2}, ("batch", "heads", "frames"), (3, 2, 7)),
        ("rnn", {"pooling": "attentive_statistics", "heads": 2}, ("batch", "heads", "frames"), (3, 2, 7)),
        ("reslstm", {"attention": "none"}, None, None),
        ("reslstm", {"vectors": 5}, ("batch", "heads", "frames"), (3, 5, 7)),
    ],
)
def test_pooling_weights_come_out_where_there_are_some(family, options, axes, weights):
    model = build(family, 4, hidden=4, **options)
    features, lengths = jnp.zeros((3, 7, 6)), jnp.full(3, 7)
    output = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), features, lengths, train=False)[0])
    if axes is None:
        assert output.attention == {}
    else:
        found = output.attention["pooling"]
        assert (found.axes, found.weights.shape, found.stride) == (axes, weights, 1)
        assert found.weights.dtype == jnp.float32
    assert output.tracks is None


@pytest.mark.parametrize("family", ["rnn", "reslstm"])
def test_half_precision_features_are_near_single_precision_and_utterances_without_frames_are_finite(family, jit):
    options = {"rnn": {"pooling": "weighted", "tracks": 2}, "reslstm": {"vectors": 2}}[family]
    model = build(family, 4, hidden=4, depth=1, **options)
    features = random(3, 7, 6)
    lengths = jnp.array([7, 0, 3])
    variables = variables_for(model, features)

    def loss(variables, features):
        output = model.apply(variables, features, lengths, train=True)
        return jnp.sum(jnp.square(output.logits)), output

    gradient, output = jit(jax.grad(loss, has_aux=True))(variables, features.astype(jnp.bfloat16))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((gradient, output)))
    assert {leaf.dtype for leaf in jax.tree.leaves((gradient, output))} == {jnp.dtype(jnp.float32)}
    expected = jit(lambda: model.apply(variables, features, lengths, train=False))().logits
    np.testing.assert_allclose(output.logits[::2], expected[::2], atol=0.03)
    weights = output.attention["pooling"].weights.reshape(3, -1, 7).sum(-1)
    np.testing.assert_allclose(weights, jnp.broadcast_to(jnp.array([1, 0, 1])[:, None], weights.shape), atol=1e-5)
    if output.tracks is not None:
        assert (output.tracks[2, 3:] == 0).all()
        assert (output.tracks[2, :3] != 0).all()


@pytest.mark.parametrize("family", ["rnn", "reslstm"])
def test_dropout_may_be_traced_and_changes_logits_in_training_alone(family, jit):
    model = build(family, 4, hidden=4)
    features, lengths = random(3, 7, 6), jnp.array([7, 2, 3])
    variables = variables_for(model, features)

    def logits(rate, train):
        dropping = model.clone(dropout=rate)
        return dropping.apply(variables, features, lengths, train=train, rngs={"dropout": jax.random.key(1)}).logits

    trained = jit(lambda rate: logits(rate, True))
    kept = jit(lambda: logits(0.5, False))()
    np.testing.assert_allclose(trained(jnp.float32(0)), kept, atol=1e-5)
    assert not np.allclose(trained(jnp.float32(0.5)), kept, atol=1e-3)


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("rnn", {"pooling": "multi_head", "hidden": 5, "heads": 4}, "4 heads do not divide 10 channels"),
        ("rnn", {"cell": "lstn"}, "unknown cell of model rnn: 'lstn'; did you mean lstm?"),
        ("rnn", {"residual": True}, "model rnn has no option residual, which is one of reslstm"),
        ("rnn", {"tracks": -1}, "tracks of model rnn: -1; expected a whole number of at least 0"),
        ("reslstm", {"vectors": 0}, "vectors of model reslstm: 0; expected a whole number of at least 1"),
    ],
)
def test_options_that_do_not_go_are_refused(family, options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        build(family, 7, **options)
