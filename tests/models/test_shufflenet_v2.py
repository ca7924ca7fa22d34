from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax.models import build, layers

REFERENCES = Path(__file__).parents[1] / "references"

# The options of the networks in shufflenet.npz.
NETWORKS = {
    "eca_hard_swish": {"attention": "eca", "activation": "hard_swish"},
    "se_late_strides": {
        "attention": "se",
        "attention_stages": (3, 4),
        "attention_position": "after_activation",
        "time_stride": 8,
        "stem_stride": 1,
    },
}


def shapes(model, *feature_shape):
    features, lengths = jnp.zeros(feature_shape), jnp.full(feature_shape[0], feature_shape[1])
    return jax.eval_shape(lambda: model.init(jax.random.key(0), features, lengths, train=False))


def count(tree):
    return sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("width", "rgb_1000", "mono_7", "eca"),
    [
        (0.5, 1_366_792, 348_535, 48),
        (1.0, 2_278_604, 1_260_347, 56),
        (1.5, 3_503_624, 2_485_367, 72),
        (2.0, 7_393_996, 5_358_907, 72),
    ],
)
def test_parameter_counts_are_the_papers(width, rgb_1000, mono_7, eca):
    mono = count(shapes(build("shufflenet_v2", 7, width=width, attention="eca"), 1, 64, 64)["params"])
    assert mono - mono_7 == eca
    if width in (0.5, 2.0):  # the others differ in the stages alone, which the count above has seen
        assert count(shapes(build("shufflenet_v2", 1000, width=width), 1, 64, 64, 3)["params"]) == rgb_1000


def test_tiny_has_a_few_thousand_parameters_and_attention_sits_where_it_is_told():
    assert 2_000 < count(shapes(build("shufflenet_v2", 7, width="tiny"), 1, 64, 64)["params"]) < 5_000
    model = build("shufflenet_v2", 7, width="tiny", attention="eca", attention_stages=(3,), eca_kernel=7)
    params = shapes(model, 1, 64, 64)["params"]
    assert {name for name, unit in params.items() if "eca" in unit} == {"stage3_unit1", "stage3_unit2"}
    assert params["stage3_unit1"]["eca"]["kernel"].shape == (7,)


@pytest.mark.parametrize("network", NETWORKS)
def test_logits_statistics_and_gradients_equal_pytorchs(network, jit):
    with np.load(REFERENCES / "shufflenet.npz") as file:
        arrays = {key.removeprefix(f"{network}."): file[key] for key in file.files if key.startswith(f"{network}.")}
    assert_equal_to(arrays, NETWORKS[network], jit)


def test_logits_and_statistics_equal_pytorchs_live(jit, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(REFERENCES)
    from make_shufflenet import reference

    options = {"attention": "eca", "attention_position": "after_activation", "eca_kernel": 5, "time_stride": 16}
    assert_equal_to(reference(options), options, jit, gradients=False)


def assert_equal_to(arrays, options, jit, gradients=True):
    model = build("shufflenet_v2", 5, width="tiny", **options)
    features, labels = jnp.asarray(arrays["features"]), arrays["labels"]
    lengths = jnp.full(len(features), features.shape[1])
    tree = shapes(model, *features.shape)
    params, statistics = (tree_of(arrays["before"], tree)[key] for key in ("params", "batch_stats"))

    def loss(params):
        variables = {"params": params, "batch_stats": statistics}
        output, updates = model.apply(variables, features, lengths, train=True, mutable=["batch_stats"])
        log_probabilities = jax.nn.log_softmax(output.logits)
        return -jnp.take_along_axis(log_probabilities, labels[:, None], 1).mean(), (output.logits, updates)

    @jit
    def step(params):
        if not gradients:
            return loss(params)[1], None
        gradient, found = jax.grad(loss, has_aux=True)(params)
        return found, gradient

    (logits, updates), gradient = step(params)
    np.testing.assert_allclose(logits, arrays["train_logits"], atol=1e-4)
    for found, expected in ((gradient, arrays["gradient"]), (updates["batch_stats"], arrays["after"])):
        if found is not None:
            leaves = zip(jax.tree.leaves(found), jax.tree.leaves(tree_of(expected, found)), strict=True)
            for ours, theirs in leaves:
                np.testing.assert_allclose(ours, theirs, atol=1e-4)

    evaluated = jit(lambda variables: model.apply(variables, features, lengths, train=False).logits)
    np.testing.assert_allclose(evaluated({"params": params, **updates}), arrays["eval_logits"], atol=1e-4)


def tree_of(vector, shapes):
    """The tree whose leaves, end to end, are `vector`."""
    leaves, structure = jax.tree.flatten(shapes)
    parts = np.split(vector, np.cumsum([leaf.size for leaf in leaves]))
    return structure.unflatten([part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=False)])


def test_strides_make_the_time_steps_that_an_unpadded_input_would_have(jit):
    gates = {}
    for time_stride in (32, 8):
        model = build("shufflenet_v2", 3, width="tiny", attention="se", time_stride=time_stride)
        output = jax.eval_shape(
            lambda model=model: model.init_with_output(
                jax.random.key(0), jnp.zeros((2, 9, 40)), jnp.array([9, 3]), train=False
            )[0]
        )
        gates[time_stride] = {name: gate.weights.shape for name, gate in output.attention.items()}
    assert gates[32] == gates[8]
    assert gates[8]["stage2_unit1"] == (2, 4)


def test_dropout_may_be_traced_and_comes_before_the_classifier():
    model = build("shufflenet_v2", 3, width="tiny")
    features, lengths = jnp.ones((2, 40, 40)), jnp.array([40, 40])

    def logits(rate, key):
        variables = model.init(jax.random.key(0), features, lengths, train=False)
        return model.clone(dropout=rate).apply(
            variables, features, lengths, train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )

    jaxpr = jax.make_jaxpr(logits)(jnp.float32(0.5), jax.random.key(1))
    assert jaxpr.out_avals[0].shape == (2, 3)


def test_dropout_zeroes_at_its_rate_and_keeps_the_mean():
    dropped = layers.dropout(jnp.ones((100, 100)), jnp.float32(0.25), jax.random.key(0))
    assert 0.23 < (dropped == 0).mean() < 0.27
    assert 0.97 < dropped.mean() < 1.03
    np.testing.assert_array_equal(layers.dropout(dropped, 0.0, jax.random.key(1)), dropped)


def test_half_precision_features_are_computed_in_half_precision_up_to_the_classifier():
    model = build("shufflenet_v2", 3, width="tiny", attention="eca")
    features, lengths = jnp.ones((2, 40, 40), jnp.bfloat16), jnp.array([40, 40])
    output, variables = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), features, lengths, train=False)
    )
    assert output.logits.dtype == jnp.float32
    assert {gate.weights.dtype for gate in output.attention.values()} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
