"""What every registered model promises: padding, neighbours and order in a batch never change a logit."""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ser_jax.models import FAMILIES, build
from ser_jax.models.family import RATE
from ser_jax.training.arrays import named_arrays

NUM_CLASSES = 5
LENGTHS = np.array([70, 1, 33, 46])
LONGEST = 70
BANDS = 40
NUM_STEPS = 80
LABELS = np.arange(16) % 4
GOLDEN = Path(__file__).parents[1] / "references" / "golden.json"

# Utterances; the same in another order; and padded with more frames, and with rows that have none, of which the values
# must not matter. Few shapes, because every one is a compilation for every model.
FEATURES = np.random.default_rng(0).normal(size=(4, LONGEST, BANDS)).astype(np.float32)
FEATURES[np.arange(LONGEST)[None] >= LENGTHS[:, None]] = 0
ORDER = np.array([2, 0, 3, 1])
PADDED = np.full((6, LONGEST + 37, BANDS), 9, np.float32)
PADDED_LENGTHS = np.concatenate([LENGTHS, [0, 0]])
for row, length in enumerate(LENGTHS):
    PADDED[row, :length] = FEATURES[row, :length]
BATCHES = {
    "plain": (FEATURES, LENGTHS),
    "reordered": (FEATURES[ORDER], LENGTHS[ORDER]),
    "padded": (PADDED, PADDED_LENGTHS),
}


@dataclasses.dataclass(frozen=True)
class Tiny:
    """A tiny model with attention, its first variables, and (train, features, lengths) -> Output with them."""

    model: nn.Module
    variables: dict
    forward: Callable


@pytest.fixture(scope="module", params=list(FAMILIES))
def tiny(request):
    model = build(request.param, NUM_CLASSES, **FAMILIES[request.param].tiny)

    def init(key):
        return model.init(key, jnp.zeros((1, LONGEST, BANDS)), jnp.array([LONGEST]), train=False)

    # This kind of key compiles faster: nothing else matters of it here.
    variables = jax.jit(init)(jax.random.key(0, impl="rbg"))

    def run(train, features, lengths):
        if train:
            return model.apply(variables, features, lengths, train=True, mutable=["batch_stats"])[0]
        return model.apply(variables, features, lengths, train=False)

    return Tiny(model, variables, jax.jit(run, static_argnums=0))


@pytest.fixture(scope="module")
def forward(tiny):
    """(train, name of a batch) -> Output, computed once."""
    return functools.cache(lambda train, batch: tiny.forward(train, *BATCHES[batch]))


def test_outputs_have_the_promised_shapes(forward):
    output = forward(True, "plain")
    assert output.logits.shape == (4, NUM_CLASSES)
    assert all(attention.weights.shape[0] == 4 for attention in output.attention.values())
    assert all(attention.weights.ndim == len(attention.axes) for attention in output.attention.values())


@pytest.mark.parametrize("train", [False, True])
def test_more_padding_rows_without_frames_and_what_they_hold_never_change_a_logit(forward, train):
    expected, found = forward(train, "plain").logits, forward(train, "padded").logits
    np.testing.assert_allclose(found[:4], expected, atol=1e-5)
    assert np.isfinite(found).all()
    assert np.ptp(expected, 0).max() > 1e-4


def test_an_utterance_alone_and_unpadded_gets_the_logits_it_gets_beside_longer_ones(tiny, forward):
    together = forward(False, "plain").logits
    for i in (1, 2):
        alone = tiny.forward(False, FEATURES[i : i + 1, : LENGTHS[i]], LENGTHS[i : i + 1]).logits
        np.testing.assert_allclose(together[i : i + 1], alone, atol=1e-5)


@pytest.mark.parametrize("train", [False, True])
def test_the_order_of_a_batch_only_orders_its_logits(forward, train):
    expected, found = forward(train, "plain").logits, forward(train, "reordered").logits
    np.testing.assert_allclose(found, expected[ORDER], atol=1e-5)


def test_attention_to_frames_is_a_distribution_over_the_utterances_own(forward):
    for attention in forward(False, "padded").attention.values():
        if attention.axes[-1] != "frames":
            continue
        weights = np.asarray(attention.weights)
        own = -(-PADDED_LENGTHS // attention.stride)
        for length, row in zip(own, weights, strict=True):
            assert not row[..., length:].any()
            if attention.axes[-2] == "queries":
                row = row[..., :length, :]
            if length:
                np.testing.assert_allclose(row[..., :length].sum(-1), 1, atol=1e-5)


def training_of(model):
    """A compiled training of sixteen utterances: (parameters, rest) -> what is predicted at last, losses, gradients."""
    random = np.random.default_rng(0)
    features = jnp.asarray(random.normal(size=(16, 16, BANDS)), jnp.float32)
    lengths = jnp.asarray(random.integers(8, 17, size=16))
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-2, NUM_STEPS))

    def loss(params, rest):
        variables = {"params": params, **rest}
        output, rest = model.apply(variables, features, lengths, train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(output.logits, LABELS)
        return losses.mean(), (rest, output.logits)

    def step(state, _):
        params, rest, moments = state
        (value, (rest, logits)), gradients = jax.value_and_grad(loss, has_aux=True)(params, rest)
        updates, moments = optimizer.update(gradients, moments, params)
        figures = jnp.argmax(logits, -1), value, optax.global_norm(gradients)
        return (optax.apply_updates(params, updates), rest, moments), figures

    @jax.jit
    def train(params, rest):
        predicted, *figures = jax.lax.scan(step, (params, rest, optimizer.init(params)), length=NUM_STEPS)[1]
        return predicted[-1], *figures

    return train


def drawn(params):
    """Parameters of these shapes that are the same on every machine, for every version of JAX."""
    random = np.random.default_rng(1)
    leaves = {name: leaf.shape for name, leaf in sorted(named_arrays(params).items())}
    values = {
        name: (name.endswith("scale") + 0.2 * random.normal(size=shape)).astype(np.float32)
        for name, shape in leaves.items()
    }
    return jax.tree.unflatten(jax.tree.structure(params), [values[name] for name in named_arrays(params)])


@pytest.fixture(scope="module")
def training(tiny):
    return training_of(tiny.model)


def test_sixteen_utterances_are_learnt_by_heart(tiny, training):
    """That the gradient of every part finds its way, whatever the model."""
    rest = dict(tiny.variables)
    np.testing.assert_array_equal(training(rest.pop("params"), rest)[0], LABELS)


def test_a_step_has_the_loss_and_the_gradient_that_it_had(request, tiny, training):
    """A change of these figures is a change of the model: meant, `python -m tests.references.make_golden` notes it."""
    rest = dict(tiny.variables)
    params = drawn(rest.pop("params"))
    _, losses, gradients = training(params, rest)
    found = [losses[0], gradients[0], losses[1]]
    family = next(name for name in FAMILIES if f"[{name}]" in request.node.name)
    np.testing.assert_allclose(found, json.loads(GOLDEN.read_text())[family], rtol=1e-3)
    again = training(params, rest)
    np.testing.assert_array_equal(losses, again[1])  # to the last bit, at every step
    np.testing.assert_array_equal(gradients, again[2])


@pytest.mark.parametrize("name", list(FAMILIES))
def test_every_rate_may_be_a_value_that_a_program_is_given(name):
    family = FAMILIES[name]
    assert set(family.rates) == {option for option, choices in family.choices.items() if choices is RATE}
    model = build(name, NUM_CLASSES, **family.tiny)
    inputs = jnp.zeros((2, 32, BANDS)), jnp.array([32, 20])
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs, train=False))

    def train(rates, variables, key):
        dropping = model.clone(**rates)
        return dropping.apply(variables, *inputs, train=True, rngs={"dropout": key}, mutable=["batch_stats"])

    rates = {option: jnp.float32(0.5) for option in family.rates}
    program = jax.make_jaxpr(train)(rates, variables, jax.random.key(0)).jaxpr
    read = {id(variable) for equation in program.eqns for variable in equation.invars}
    read_rates = [
        option for option, variable in zip(sorted(rates), program.invars, strict=False) if id(variable) in read
    ]
    assert set(read_rates) == set(rates) - {"scheduled_sampling"}  # which acts where there is text
