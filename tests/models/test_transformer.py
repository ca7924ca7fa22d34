from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax.errors import UserError
from ser_jax.models import build, transformer
from ser_jax.models.pooling import masked_softmax
from ser_jax.models.transformer import MIXINGS, SIZES, Block, SelfAttention, rotated

REFERENCES = Path(__file__).parents[1] / "references"

# The options of the networks in transformer.npz.
NETWORKS = {
    "attention": {"mixing": "self_attention", "positions": "sinusoidal", "pooling": "attentive_statistics"},
    "conformer": {"mixing": "conformer", "positions": "rotary", "pooling": "multi_head", "subsampling": 2},
}
DIMENSIONS = {"width": 8, "depth": 1, "heads": 2, "kernel_size": 5}
FEATURES = np.random.default_rng(0).normal(size=(4, 30, 10)).astype(np.float32)
LENGTHS = np.array([30, 1, 0, 22], np.int32)


def small(**options):
    return build("transformer", 5, **{**DIMENSIONS, **options})


def shapes_of(model, features=FEATURES):
    lengths = jnp.full(len(features), features.shape[1])
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.asarray(features), lengths, train=False))


def random_variables(model, *inputs, seed=1, **keywords):
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs, **keywords))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32), shapes)


def variables_of(model):
    return random_variables(model, jnp.asarray(FEATURES), jnp.asarray(LENGTHS), train=False)


def count(tree):
    return sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(tree))


# Against PyTorch ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
def test_logits_and_gradients_equal_pytorchs(network, jit):
    with np.load(REFERENCES / "transformer.npz") as file:
        arrays = {key.removeprefix(f"{network}."): file[key] for key in file.files if key.startswith(f"{network}.")}
    assert_equal_to(arrays, NETWORKS[network], jit, train=True)


@pytest.mark.parametrize(
    "options",
    [
        {"mixing": "self_attention", "positions": "none", "pooling": "class_token"},
        {"mixing": "none", "positions": "sinusoidal", "pooling": "self_attentive", "depth": 2},
        {"mixing": "convolution", "positions": "sinusoidal", "pooling": "mean"},
    ],
)
def test_logits_and_gradients_equal_pytorchs_live(options, jit, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(REFERENCES)
    from make_transformer import reference

    assert_equal_to(reference(options), options, jit, train=False)


def assert_equal_to(arrays, options, jit, train):
    model = small(**options)
    features, lengths, labels = (jnp.asarray(arrays[key]) for key in ("features", "lengths", "labels"))
    variables = tree_of(arrays["variables"], shapes_of(model, arrays["features"]))

    def loss(variables):
        logits = model.apply(variables, features, lengths, train=train).logits
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean(), logits

    (_, logits), gradient = jit(jax.value_and_grad(loss, has_aux=True))(variables)
    np.testing.assert_allclose(logits, arrays["logits"], atol=1e-4)
    expected = tree_of(arrays["gradient"], gradient)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), gradient, expected)


def tree_of(vector, shapes):
    """The tree whose leaves, end to end, are `vector`."""
    leaves, structure = jax.tree.flatten(shapes)
    parts = np.split(vector, np.cumsum([leaf.size for leaf in leaves])[:-1])
    return structure.unflatten([part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])


def test_attention_equals_pytorchs_multi_head_attention(jit):
    torch = pytest.importorskip("torch")
    x, lengths = jnp.asarray(FEATURES[:3, :7, :8]), jnp.array([7, 3, 1])
    layer = SelfAttention(heads=2)
    variables = random_variables(layer, x, lengths, train=False)
    params = jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf)), variables["params"])
    theirs = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(params["query_key_value"]["kernel"].T)
        theirs.in_proj_bias.copy_(torch.cat([params["query_bias"], torch.zeros(8), params["value_bias"]]))
        theirs.out_proj.weight.copy_(params["out"]["kernel"].T)
        theirs.out_proj.bias.copy_(params["out"]["bias"])
    frames = torch.tensor(np.asarray(x), requires_grad=True)
    padding = torch.arange(7)[None] >= torch.tensor(np.asarray(lengths))[:, None]
    expected, weights = theirs(frames, frames, frames, key_padding_mask=padding, average_attn_weights=False)
    expected.sin().sum().backward()

    def loss(variables, x):
        found, scores = layer.apply(variables, x, lengths, train=False)
        return jnp.sum(jnp.sin(found)), (found, scores)

    (gradient, x_gradient), (found, scores) = jit(jax.grad(loss, (0, 1), has_aux=True))(variables, x)
    real = (jnp.arange(7)[None] < lengths[:, None])[:, None, None]
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-4)
    np.testing.assert_allclose(masked_softmax(scores, real), weights.detach().numpy(), atol=1e-4)
    np.testing.assert_allclose(x_gradient, frames.grad.numpy(), atol=1e-4)
    kernel, bias = gradient["params"]["query_key_value"]["kernel"], theirs.in_proj_bias.grad.numpy()
    np.testing.assert_allclose(kernel, theirs.in_proj_weight.grad.numpy().T, atol=1e-4)
    np.testing.assert_allclose(gradient["params"]["query_bias"], bias[:8], atol=1e-4)
    np.testing.assert_allclose(bias[8:16], 0, atol=1e-4)  # so keys need none
    np.testing.assert_allclose(gradient["params"]["value_bias"], bias[16:], atol=1e-4)


# Positions ----------------------------------------------------------------------------------------------------------


def test_rotary_positions_turn_complex_numbers_frame_by_frame():
    x = np.random.default_rng(0).normal(size=(2, 6, 3, 8))
    expected = np.empty_like(x)
    for position in range(6):
        for i in range(4):
            turned = (x[:, position, :, i] + 1j * x[:, position, :, i + 4]) * np.exp(1j * position * 10_000 ** (-i / 4))
            expected[:, position, :, i], expected[:, position, :, i + 4] = turned.real, turned.imag
    np.testing.assert_allclose(rotated(jnp.asarray(x, jnp.float32)), expected, atol=1e-5)


def test_rotary_scores_depend_on_the_distance_alone():
    query, key = np.random.default_rng(0).normal(size=(2, 1, 1, 1, 8)).astype(np.float32)
    queries, keys = (rotated(jnp.broadcast_to(x, (1, 20, 1, 8)))[0, :, 0] for x in (query, key))
    scores = np.asarray(queries @ keys.T)
    for distance in range(-5, 6):
        diagonal = np.diagonal(scores, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-4)
    assert np.ptp(scores[0]) > 0.1


@pytest.mark.parametrize("positions", ["sinusoidal", "rotary", "none"])
def test_only_with_positions_the_order_of_frames_matters(positions, jit):
    model = small(positions=positions, subsampling=2)
    features = jnp.asarray(FEATURES[:1])
    # Frames in groups of four, silent at both ends, so that the convolution sees the same within each.
    features = features.at[:, ::4].set(0).at[:, 3::4].set(0)[:, :28]
    swapped = features.reshape(1, 7, 4, 10)[:, ::-1].reshape(1, 28, 10)
    variables = variables_of(model)
    logits = jit(lambda features: model.apply(variables, features, jnp.array([28]), train=False).logits)
    a, b = logits(features), logits(swapped)
    assert (np.abs(a - b).max() < 1e-5) == (positions == "none")


# What mixes frames --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixing", MIXINGS)
def test_frames_see_each_other_as_the_mixing_says_and_never_the_padding(mixing, jit):
    block = Block(heads=2, mixing=mixing, rotary=True, kernel_size=3)
    x, lengths = jnp.asarray(FEATURES[:1, :6, :8]), jnp.array([4])
    variables = random_variables(block, x, lengths, train=False)

    def jacobian(x):
        return jax.jacobian(lambda x: block.apply(variables, x, lengths, train=True)[0][0])(x)[:, :, 0]

    seen = np.abs(jit(jacobian)(x)).sum((1, 3))[:4] > 0
    distance = np.abs(np.arange(4)[:, None] - np.arange(4)[None])
    expected = {"none": distance == 0, "convolution": distance <= 1}.get(mixing, distance >= 0)
    np.testing.assert_array_equal(seen[:, :4], expected)
    assert not seen[:, 4:].any()


# Parameters ---------------------------------------------------------------------------------------------------------


def parameters(features, width, depth, mixing, pooling="mean", subsampling=4, kernel_size=15):
    """How many there should be, with 7 emotions."""

    def linear(channels, channels_out):
        return (channels + 1) * channels_out

    def feed_forward(hidden):
        return linear(width, hidden) + linear(hidden, width)

    norm = 2 * width
    attention = norm + 4 * width**2 + 3 * width
    channels = 8 * round((4 * width**2 + 2 * width) / (3 * width + kernel_size + 4) / 8)
    convolution = norm + linear(width, 2 * channels) + (kernel_size + 2) * channels + linear(channels, width)
    block = (
        norm
        + {
            "none": norm + feed_forward(2 * width) + feed_forward(4 * width),
            "self_attention": attention + feed_forward(4 * width),
            "convolution": convolution + feed_forward(4 * width),
            "conformer": attention + convolution + feed_forward(2 * width),
        }[mixing]
    )
    stem = linear(3 * features, width) + (linear(3 * width, width) if subsampling == 4 else 0)
    pool = {"mean": 0, "class_token": width, "self_attentive": width * width // 2 + width // 2}[pooling]
    return stem + depth * block + norm + pool + linear(width, 7)


@pytest.mark.parametrize(
    ("size", "mixing"), [("small", mixing) for mixing in MIXINGS] + [("tiny", "conformer"), ("base", "self_attention")]
)
def test_parameter_counts_follow_their_formula(size, mixing):
    shapes = shapes_of(build("transformer", 7, size=size, mixing=mixing), np.zeros((1, 40, 64)))
    assert count(shapes) == parameters(64, *SIZES[size][:2], mixing)


@pytest.mark.parametrize(("size", "low", "high"), [("tiny", 5e3, 15e3), ("small", 3e5, 4.5e5), ("base", 3e6, 5e6)])
def test_mixings_are_matched_in_parameters_and_sizes_are_what_they_say(size, low, high):
    counts = {mixing: parameters(64, *SIZES[size][:2], mixing) for mixing in MIXINGS}
    assert low < counts["self_attention"] < high
    assert counts["none"] == counts["self_attention"]
    for matched in counts.values():
        assert abs(matched / counts["self_attention"] - 1) < (0.02 if size == "tiny" else 0.01)


def test_overrides_pooling_and_subsampling_count_as_their_formula():
    options = {"width": 24, "depth": 1, "heads": 3, "subsampling": 2, "kernel_size": 7, "mixing": "conformer"}
    for pooling in ("class_token", "self_attentive"):
        model = build("transformer", 7, pooling=pooling, **options)
        expected = parameters(10, 24, 1, "conformer", pooling, 2, 7)
        assert count(shapes_of(model)) == expected
    assert (model.dimensions, model.min_frames) == ((24, 1, 3), 2)


# Training, attention, precision -------------------------------------------------------------------------------------


def test_dropout_and_stochastic_depth_work_in_training_alone_and_may_be_traced(jit):
    model = small(mixing="none")
    variables = variables_of(model)
    features, lengths = jnp.asarray(FEATURES), jnp.asarray(LENGTHS)

    @jit
    def logits(dropout, stochastic_depth, key):
        dropping = model.clone(dropout=dropout, stochastic_depth=stochastic_depth)
        evaluated = dropping.apply(variables, features, lengths, train=False).logits
        return evaluated, dropping.apply(variables, features, lengths, train=True, rngs={"dropout": key}).logits

    expected = model.apply(variables, features, lengths, train=True).logits
    for rates in ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5)):
        evaluated, a = logits(*map(jnp.float32, rates), jax.random.key(0, impl="rbg"))
        _, b = logits(*map(jnp.float32, rates), jax.random.key(1, impl="rbg"))
        np.testing.assert_allclose(evaluated, expected, atol=1e-5)
        for found, other in ((a, expected), (a, b)):
            assert (np.abs(found - other).max() > 1e-2) == (rates != (0.0, 0.0))


def test_stochastic_depth_skips_layers_for_whole_utterances_and_scales_up_the_others(jit):
    block = Block(heads=2, mixing="none", stochastic_depth=0.75)
    x, lengths = jnp.broadcast_to(jnp.asarray(FEATURES[:1, :2, :8]), (600, 2, 8)), jnp.full(600, 2)
    variables = random_variables(block, x, lengths, train=False)
    # The second layer adds nothing, so that what the first does is seen.
    variables["params"]["feed_forward"]["contract"] = jax.tree.map(
        jnp.zeros_like, variables["params"]["feed_forward"]["contract"]
    )

    def added(block, x, lengths):
        key = jax.random.key(0)
        return jit(lambda x: block.apply(variables, x, lengths, train=True, rngs={"dropout": key})[0] - x)(x)

    found, whole = added(block, x, lengths), added(block.clone(stochastic_depth=0.0), x[:1], lengths[:1])
    skipped = (np.asarray(found) == 0).all((1, 2))
    assert 0.7 < skipped.mean() < 0.8
    np.testing.assert_allclose(found[~skipped], np.broadcast_to(whole / 0.25, found[~skipped].shape), atol=1e-4)


@pytest.mark.parametrize("pooling", ["class_token", "multi_head"])
def test_attention_weights_sum_to_one_over_real_frames_alone(pooling, jit):
    model = small(pooling=pooling)
    variables = variables_of(model)
    output = jit(lambda: model.apply(variables, jnp.asarray(FEATURES), jnp.asarray(LENGTHS), train=False))()
    assert set(output.attention) == {"block1", "pooling"}
    assert output.attention["block1"].axes == ("batch", "heads", "queries", "frames")
    assert output.attention["block1"].weights.shape == (4, 2, 8, 8)
    assert output.attention["pooling"].weights.ndim == len(output.attention["pooling"].axes)
    for attention in output.attention.values():
        assert (attention.axes[-1], attention.stride, attention.weights.dtype) == ("frames", 4, jnp.float32)
        for weights, length in zip(attention.weights, LENGTHS, strict=True):
            steps = -(-length // 4)
            np.testing.assert_allclose(weights.sum(-1), float(length > 0), atol=1e-5)
            np.testing.assert_array_equal(weights[..., steps:], 0)
    trained = jax.eval_shape(lambda: model.apply(variables, jnp.asarray(FEATURES), jnp.asarray(LENGTHS), train=True))
    assert set(trained.attention) <= {"pooling"}


@pytest.mark.parametrize("pooling", ["class_token", "attentive_statistics"])
def test_utterances_without_frames_have_finite_gradients(pooling, jit):
    model = small(mixing="conformer", positions="rotary", pooling=pooling)
    variables = variables_of(model)

    def loss(variables, features):
        return jnp.sum(jnp.sin(model.apply(variables, features, jnp.asarray(LENGTHS), train=True).logits))

    gradients = jit(jax.grad(loss, (0, 1)))(variables, jnp.asarray(FEATURES))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    np.testing.assert_array_equal(gradients[1][2], 0)
    assert (np.abs(gradients[1][0]).max(-1) > 0).all()


@pytest.mark.parametrize("pooling", ["class_token", "attentive_statistics"])
def test_half_precision_features_are_computed_in_half_precision_up_to_the_classifier(pooling):
    model = small(mixing="conformer", positions="rotary", pooling=pooling, dropout=0.1, stochastic_depth=0.1)
    features, lengths = jnp.ones((2, 30, 10), jnp.bfloat16), jnp.array([30, 7])
    variables = shapes_of(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}

    def apply(variables):
        rngs = {"dropout": jax.random.key(0)}
        output, state = model.apply(variables, features, lengths, train=True, rngs=rngs, capture_intermediates=True)
        return output, state["intermediates"]

    output, intermediates = jax.eval_shape(apply, variables)
    assert output.logits.dtype == jnp.float32
    intermediates = {name: value for name, value in intermediates.items() if name not in ("__call__", "classifier")}
    pooled, _ = intermediates.pop("pool", {"__call__": ((None, None),)})["__call__"][0]
    assert pooled is None or pooled.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(intermediates)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize(
    ("dtype", "channels", "capability", "implementation"),
    [
        (jnp.bfloat16, 24, "9.0", "cudnn"),
        (jnp.float16, 8, "12.0", "cudnn"),
        (jnp.float32, 24, "9.0", "xla"),
        (jnp.bfloat16, 20, "9.0", "xla"),
        (jnp.bfloat16, 24, "7.5", "xla"),
        (jnp.bfloat16, 24, "gfx942", "xla"),
        (jnp.bfloat16, 24, None, "xla"),
    ],
)
def test_fused_attention_is_taken_where_cudnn_has_it(dtype, channels, capability, implementation, monkeypatch):
    device = SimpleNamespace() if capability is None else SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    called = {}

    def attention(query, key, value, **keywords):
        called.update(keywords)
        return query

    monkeypatch.setattr(jax.nn, "dot_product_attention", attention)
    x = jnp.ones((2, 3, 1, channels), dtype)
    transformer.attended(x, x, x, jnp.array([3, 0]))
    assert called["implementation"] == implementation
    np.testing.assert_array_equal(called["key_value_seq_lengths"], [3, 1])
    if implementation == "cudnn":
        np.testing.assert_array_equal(called["query_seq_lengths"], [3, 3])


# Refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 5}, "5 heads do not divide a width of 96"),
        ({"width": 30, "heads": 10, "positions": "rotary"}, "even number of channels in a head, found 3"),
        ({"mixing": "none", "pooling": "class_token"}, "mixing none has none"),
        ({"mixing": "none", "heads": 5, "pooling": "multi_head"}, "5 heads do not divide 96 channels"),
        ({"subsampling": 3}, "expected one of 2, 4"),
        ({"kernel_size": 4}, "kernel_size of model transformer: 4"),
        ({"width": -1}, "whole number of at least 0"),
        ({"dropout": 1.0}, "below 1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        build("transformer", 7, **options)


def test_heads_do_not_matter_where_nothing_has_them():
    assert build("transformer", 7, mixing="none", heads=5).dimensions.heads == 5
