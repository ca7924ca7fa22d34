import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax.models import build

REFERENCES = Path(__file__).parents[1] / "references"

# The options of the networks in shufflenet.npz.
NETWORKS = {
    "plain": {},
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


def test_logits_statistics_and_gradients_equal_pytorchs_live(jit, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(REFERENCES)
    from make_shufflenet import reference

    options = {"attention": "eca", "attention_position": "after_activation", "eca_kernel": 5, "time_stride": 16}
    assert_equal_to(reference(options), options, jit)


def assert_equal_to(arrays, options, jit):
    model = build("shufflenet_v2", 5, width="tiny", **options)
    variables = unflattened(arrays, "before")
    lengths = np.full(len(arrays["features"]), arrays["features"].shape[1])

    def loss(params):
        output, updates = model.apply(
            variables | {"params": params}, arrays["features"], lengths, train=True, mutable=["batch_stats"]
        )
        log_probabilities = jax.nn.log_softmax(output.logits)
        return -jnp.take_along_axis(log_probabilities, arrays["labels"][:, None], 1).mean(), (output.logits, updates)

    (_, (logits, updates)), gradients = jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    np.testing.assert_allclose(logits, arrays["train_logits"], atol=1e-4)
    for found, expected in ((updates, unflattened(arrays, "after")), (gradients, unflattened(arrays, "gradient")["params"])):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), dict(found), expected)
    evaluated = jit(lambda x: model.apply(unflattened_after(variables, arrays), x, lengths, train=False).logits)
    np.testing.assert_allclose(evaluated(arrays["features"]), arrays["eval_logits"], atol=1e-4)


def unflattened(arrays, prefix):
    tree = {}
    for key, value in arrays.items():
        if key.startswith(f"{prefix}."):
            *parents, leaf = key.split(".")[1:]
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = value
    return tree


def unflattened_after(variables, arrays):
    return variables | unflattened(arrays, "after")


def test_strides_make_the_time_steps_that_an_unpadded_input_would_have(jit):
    gates = {}
    for time_stride in (32, 8):
        model = build("shufflenet_v2", 3, width="tiny", attention="se", time_stride=time_stride)
        output = jax.eval_shape(
            lambda model=model: model.init_with_output(
                jax.random.key(0), jnp.zeros((2, 9, 40)), jnp.array([9, 3]), train=False
            )[0]
        )
        gates[time_stride] = {name: gate.shape for name, gate in output.attention.items()}
    assert gates[32] == gates[8]
    assert gates[8]["stage2_unit1"] == (2, 4)


def test_dropout_may_be_traced_and_zeroes_some_features(jit):
    model = build("shufflenet_v2", 3, width="tiny")
    features, lengths = jnp.ones((2, 40, 40)), jnp.array([40, 40])
    variables = jit(lambda: model.init(jax.random.key(0), features, lengths, train=False))()

    @jit
    def logits(rate, key):
        return model.clone(dropout=rate).apply(
            variables, features, lengths, train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )[0].logits

    kept = logits(jnp.float32(0), jax.random.key(1))
    np.testing.assert_array_equal(kept, logits(jnp.float32(0), jax.random.key(2)))
    assert np.abs(logits(jnp.float32(0.5), jax.random.key(1)) - logits(jnp.float32(0.5), jax.random.key(2))).max() > 0


def test_half_precision_features_give_nearly_the_same_logits(jit):
    model = build("shufflenet_v2", 3, width="tiny", attention="eca")
    features, lengths = jax.random.normal(jax.random.key(1), (4, 40, 40)), jnp.array([40, 30, 20, 10])
    variables = jit(lambda: model.init(jax.random.key(0), features, lengths, train=False))()

    @jit
    def logits(features):
        return model.apply(variables, features, lengths, train=True, mutable=["batch_stats"])[0].logits

    half = logits(features.astype(jnp.bfloat16))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, logits(features), atol=0.1)
