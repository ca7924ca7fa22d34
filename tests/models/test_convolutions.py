"""The convolutional families: cnn, crnn and tcn."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax.errors import UserError
from ser_jax.models import FAMILIES, build
from ser_jax.models.crnn import SIZES, split_channels
from ser_jax.models.mask import Mask
from ser_jax.models.tcn import Stream

REFERENCES = Path(__file__).parents[1] / "references"
NAMES = ("cnn", "crnn", "tcn")


def shapes(model, features=64, dtype=jnp.float32):
    """Shapes of the output and the variables, for two utterances."""
    inputs = jnp.zeros((2, 40, features), dtype), jnp.array([40, 7])
    return jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), *inputs, train=False))


def count(model, features=64):
    return sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(shapes(model, features)[1]["params"]))


@pytest.mark.parametrize("name", NAMES)
def test_logits_statistics_and_gradients_equal_pytorchs(name, jit):
    with np.load(REFERENCES / "convolution.npz") as file:
        arrays = {key.removeprefix(f"{name}."): file[key] for key in file.files if key.startswith(f"{name}.")}
    assert_equal_to(arrays, name, json.loads(str(arrays["options"])), jit)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (
            "cnn",
            {
                "width": 2,
                "attention": "se",
                "window_pooling": "average",
                "time_stride": 2,
                "pooling": "attentive_statistics",
                "heads": 2,
            },
        ),
        ("crnn", {"size": "tiny", "pooling": "last"}),
        ("tcn", {"width": 4, "levels": 5, "fusion": "uniform", "pooling": "multi_head", "heads": 2}),
    ],
)
def test_logits_statistics_and_gradients_equal_pytorchs_live(name, options, jit, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(REFERENCES)
    from make_convolution import reference

    assert_equal_to(reference(name, options), name, options, jit)


def assert_equal_to(arrays, name, options, jit):
    """With an utterance more, which has no frames and no weight."""
    model = build(name, 5, **options)
    features = jnp.pad(jnp.asarray(arrays["features"]), ((0, 1), (0, 0), (0, 0)), constant_values=1)
    lengths, labels = (jnp.asarray(np.append(arrays[key], 0)) for key in ("lengths", "labels"))
    weights = jnp.asarray(np.append(np.ones(4), 0) / 4, jnp.float32)
    tree = jax.eval_shape(lambda: model.init(jax.random.key(0), features, lengths, train=False))
    params, statistics = (tree_of(arrays["before"], tree)[key] for key in ("params", "batch_stats"))

    def loss(params):
        variables = {"params": params, "batch_stats": statistics}
        output, updates = model.apply(variables, features, lengths, train=True, mutable=["batch_stats"])
        log_probabilities = jax.nn.log_softmax(output.logits)
        losses = -jnp.take_along_axis(log_probabilities, labels[:, None], 1)[:, 0]
        return jnp.sum(losses * weights), (output.logits, updates)

    @jit
    def step(params):
        (_, (logits, updates)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        evaluated = model.apply({"params": params, **updates}, features, lengths, train=False)
        return logits, updates["batch_stats"], gradient, evaluated.logits

    logits, updates, gradient, evaluated = step(params)
    np.testing.assert_allclose(logits[:4], arrays["train_logits"], atol=1e-4)
    for found, expected in ((gradient, arrays["gradient"]), (updates, arrays["after"])):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, tree_of(expected, found))
    np.testing.assert_allclose(evaluated[:4], arrays["eval_logits"], atol=1e-4)


def tree_of(vector, shapes):
    """The tree whose leaves, end to end, are `vector`."""
    leaves, structure = jax.tree.flatten(shapes)
    parts = np.split(vector, np.cumsum([leaf.size for leaf in leaves]))
    return structure.unflatten([part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=False)])


# Sizes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [32, 8])
def test_a_cnn_has_the_parameters_of_its_layers(width):
    channels = [width * factor for factor in (1, 1, 2, 3, 4, 4)]
    convolutions = sum(9 * a * b for a, b in zip([1, *channels], channels, strict=False))
    expected = convolutions + 2 * sum(channels) + (channels[-1] + 1) * 7
    assert count(build("cnn", 7, width=width)) == expected
    assert count(build("cnn", 7, width=width), features=13) == expected
    if width == 32:
        assert expected == 343_143
        eca_kernels = sum(3 if c < 128 else 5 for c in channels)
        assert count(build("cnn", 7, attention="eca", pooling="weighted")) == expected + eca_kernels + channels[-1]


@pytest.mark.parametrize(
    ("size", "channels", "bands", "total"), [("small", 1, 64, 492_327), ("paper", 3, 40, 7_336_583 - 256)]
)
def test_a_crnn_has_the_parameters_of_its_layers(size, channels, bands, total):
    layers = SIZES[size]
    convolutions = [layers.first] + [layers.others] * (layers.num_convolutions - 1)
    expected = sum(15 * a * b for a, b in zip([channels, *convolutions], convolutions, strict=False))
    expected += 2 * sum(convolutions)
    expected += bands // 4 * layers.others * layers.linear + 2 * layers.linear
    expected += 2 * 4 * layers.hidden * (layers.linear + layers.hidden + 2)
    expected += (2 * layers.hidden + 1) * layers.fully_connected + (layers.fully_connected + 1) * 7
    assert count(build("crnn", 7, size=size, channels=channels), channels * bands) == expected == total


def test_a_tcn_has_the_parameters_of_its_layers():
    stream = 65 * 72 + 8 * 2 * (2 * 72 * 72 + 2 * 72)
    assert count(build("tcn", 7)) == 2 * stream + 8 + 73 * 7 == 346_263
    assert count(build("tcn", 7, fusion="uniform")) == 2 * stream + 73 * 7


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_features_are_computed_in_half_precision_up_to_the_classifier(name):
    model = build(name, 3, **FAMILIES[name].tiny)
    output, variables = shapes(model, dtype=jnp.bfloat16)
    assert output.logits.dtype == jnp.float32
    assert output.attention["pooling"].weights.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    _, kept = jax.eval_shape(
        lambda: model.init_with_output(
            jax.random.key(0),
            jnp.zeros((2, 40, 64), jnp.bfloat16),
            jnp.array([40, 7]),
            train=True,
            capture_intermediates=True,
        )
    )
    computed = {
        leaf.dtype
        for layer, values in kept["intermediates"].items()
        if layer.startswith(("layer", "convolution", "forward", "backward", "fully_connected"))
        for leaf in jax.tree.leaves(values.get("__call__"))
    }
    assert computed == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("name", NAMES)
def test_dropout_may_be_traced(name):
    model = build(name, 3, **FAMILIES[name].tiny)

    def logits(rate, key):
        inputs = jnp.ones((2, 40, 40)), jnp.array([40, 40])
        variables = model.init(jax.random.key(0), *inputs, train=False)
        rngs = {"dropout": key}
        return model.clone(dropout=rate).apply(variables, *inputs, train=True, mutable=["batch_stats"], rngs=rngs)

    assert jax.make_jaxpr(logits)(jnp.float32(0.5), jax.random.key(1)).out_avals[0].shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "options", "weights", "stride"),
    [
        ("cnn", {"time_stride": 16}, (2, 3), 16),
        ("cnn", {"time_stride": 2}, (2, 20), 2),
        ("crnn", {}, (2, 20), 2),
        ("tcn", {}, (2, 40), 1),
    ],
)
def test_frame_weights_come_with_the_frames_that_each_stands_for(name, options, weights, stride):
    attention = shapes(build(name, 3, **{**FAMILIES[name].tiny, "pooling": "weighted"}, **options))[0].attention[
        "pooling"
    ]
    assert (attention.weights.shape, attention.axes, attention.stride) == (weights, ("batch", "frames"), stride)


@pytest.mark.parametrize("name", NAMES)
def test_heads_that_do_not_divide_the_channels_are_refused(name):
    with pytest.raises(UserError, match="3 heads do not divide"):
        build(name, 7, **{**FAMILIES[name].tiny, "pooling": "multi_head", "heads": 3})


# Channels of the CRNN -----------------------------------------------------------------------------------------------


def test_features_are_split_into_static_ones_and_their_deltas():
    static = np.arange(20.0).reshape(1, 4, 5)
    features = jnp.asarray(np.concatenate([static, static + 100, static + 200], -1))
    split = split_channels(features, 3)
    np.testing.assert_array_equal(split, np.stack([static, static + 100, static + 200], -1))
    np.testing.assert_array_equal(split_channels(features, 1), features[..., None])


def test_features_that_are_no_deltas_are_refused():
    with pytest.raises(UserError, match="64 features do not divide into 3 channels"):
        shapes(build("crnn", 7, size="tiny", channels=3))


# Causality of the TCN -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
def test_a_stream_sees_no_later_frame_and_as_far_back_as_it_claims(reverse, jit):
    frames, levels = 20, 2
    stream = Stream(3, levels, reverse)
    mask = Mask(jnp.array([frames]), frames, 1)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, frames, 1, 2)), jnp.float32)
    variables = stream.init(jax.random.key(0), x, mask, train=False)
    # Biases keep the rectifiers open, so that what can be seen is seen.
    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + 5 if [part.key for part in path][-2:] == ["norm", "bias"] else leaf, variables
    )

    @jit
    def seen(x):
        """[frames, frames]: how much the result at one frame depends on the features at another."""
        jacobian = jax.jacrev(lambda x: jnp.sum(stream.apply(variables, x, mask, train=False)[-1], (0, 2, 3)))(x)
        return jnp.sum(jnp.abs(jacobian), (1, 3, 4))

    sees = np.asarray(seen(x)) > 0
    behind = np.arange(frames)[:, None] - np.arange(frames)[None]  # how much earlier the features are
    reach = 2 ** (levels + 1) - 2
    expected = (behind >= 0) & (behind <= reach)
    np.testing.assert_array_equal(sees, expected.T if reverse else expected)
