"""Each family's gradient program, without a device: how large it is, and in what precision it computes.

At its default size, traced for one run, in the forms that it has on a CPU and on a GPU. What accelerators are given,
with all that is around the network, is in `tests/training/test_accelerator_programs.py`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.kernels import as_on
from ser_jax.models import FAMILIES, build
from ser_jax.training.precision import PRECISIONS, products_in
from tests.programs import CLASSES, drawn, gradient_program, joined_too_much, located, multiply_adds

OPTIONS = {
    "cnn": {"attention": "eca"},
    "shufflenet_v2": {"width": 0.5, "attention": "eca", "activation": "hard_swish"},
}
# Equations of the gradient program of each family, on a CPU and on a GPU, as XLA compiles them: a function that is
# called several times counts each time. Some 15 % above what was found.
EQUATIONS = {
    "attention_rnn": (800, 1100),
    "cnn": (2200, 2050),
    "crnn": (1450, 1500),
    "encoder_head": (200, 200),
    "linear": (100, 100),
    "reslstm": (750, 1050),
    "rnn": (550, 820),
    "shufflenet_v2": (5000, 10800),
    "tcn": (5000, 5000),
    "transformer": (1200, 1200),
}
TRACED = 5000  # equations of the largest, functions that are called several times counted once
BATCH, FRAMES, FEATURES = 32, 101, 64
BACKENDS = ("cpu", "gpu")


@pytest.fixture(scope="module", params=[(name, backend) for name in FAMILIES for backend in BACKENDS], ids="-".join)
def traced(request):
    """A family's name, a backend, and the equations of its gradient program there in bfloat16; see `located`."""
    name, backend = request.param
    model = build(name, CLASSES, **OPTIONS.get(name, {}))
    function, arguments = gradient_program(model, BATCH, FRAMES, FEATURES, jnp.bfloat16)
    with as_on(backend), products_in("bfloat16"):
        return name, backend, list(located(jax.make_jaxpr(function)(*arguments).jaxpr))


def test_a_gradient_program_has_no_more_equations_than_its_layers_need(traced):
    name, backend, found = traced
    most = EQUATIONS[name][BACKENDS.index(backend)]
    assert 0.7 * most < len(found) < most  # much smaller: lower the limit
    assert len({id(equation) for equation, *_ in found}) < TRACED


def test_equal_units_are_a_loop_on_a_cpu_alone(traced):
    """On an accelerator it would write to memory, and read again, all that the gradient has to know of each of them."""
    name, backend, found = traced
    if name == "shufflenet_v2":
        loops = [equation for equation, *_ in found if equation.primitive.name == "scan"]
        assert bool(loops) == (backend == "cpu")


def test_no_arrays_are_joined_to_more_than_they_were(traced):
    _, backend, found = traced
    assert not joined_too_much(found, (BATCH,), backend)


def test_products_are_bfloat16_and_softmax_and_statistics_float32(traced):
    name, _, found = traced
    by_dtype = {}
    for equation, _, _, times in found:
        if count := times * multiply_adds(equation):
            operands = {str(operand.aval.dtype) for operand in equation.invars}
            by_dtype[frozenset(operands)] = by_dtype.get(frozenset(operands), 0) + count
            assert "HIGHEST" not in str(equation.params["precision"])
        if equation.primitive.name in ("exp", "log", "rsqrt", "sqrt"):
            assert equation.outvars[0].aval.dtype == jnp.float32, equation
    if name != "linear":  # whose only product is the classifier
        assert by_dtype[frozenset({"bfloat16"})] > 0.95 * sum(by_dtype.values())


@pytest.mark.parametrize("name", list(FAMILIES))
def test_bfloat16_gives_the_logits_of_float32_but_for_rounding(name):
    model = build(name, CLASSES, **FAMILIES[name].tiny)
    features = jnp.asarray(np.random.default_rng(0).normal(size=(6, 40, 40)), jnp.float32)
    lengths = jnp.array([40, 17, 8, 33, 40, 24])
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), features, lengths)
    variables = drawn(shapes)
    train = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))

    def logits(precision):
        with products_in(precision):
            output, updates = train(variables, features.astype(PRECISIONS[precision].activations), lengths)
        assert output.logits.dtype == jnp.float32
        assert {leaf.dtype for leaf in jax.tree.leaves(updates)} <= {jnp.dtype(jnp.float32)}
        return output.logits

    exact, rounded = logits("float32"), logits("bfloat16")
    assert float(jnp.std(exact)) > 0
    difference = float(jnp.abs(rounded - exact).max())
    assert 0 < difference < 0.15 * max(float(jnp.abs(exact).max()), 0.1)
    if name in ("cnn", "rnn", "transformer"):  # every kind of product: a compilation each
        np.testing.assert_allclose(logits("tf32"), exact, atol=1e-5)  # which a CPU computes in float32
