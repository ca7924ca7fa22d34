"""Each family's gradient program, without a device: how large it is, and in what precision it computes.

Traced for one run, and lowered for a GPU and a TPU, at which this machine need not have any.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax.models import FAMILIES, build, shufflenet_v2
from ser_jax.training.precision import PRECISIONS, products_in
from tests.programs import CLASSES, drawn, equations, gradient_program, multiply_adds

OPTIONS = {
    "cnn": {"attention": "eca"},
    "shufflenet_v2": {"width": 0.5, "attention": "eca", "activation": "hard_swish"},
}
# Equations of the gradient program of each family at its default size, some 15 % above what was found.
EQUATIONS = {
    "attention_rnn": 800,
    "cnn": 2200,
    "crnn": 1600,
    "encoder_head": 200,
    "linear": 100,
    "reslstm": 750,
    "rnn": 550,
    "shufflenet_v2": 5000,
    "tcn": 5000,
    "transformer": 1200,
}
BATCH, FRAMES, FEATURES = 32, 101, 64
FEW = 32  # channels that taps side by side may have
LARGE = 2**20  # bytes: what is smaller is a kernel, not a map


@pytest.fixture(scope="module", params=list(FAMILIES))
def traced(request):
    """A family's name, and the equations of its gradient program in bfloat16."""
    model = build(request.param, CLASSES, **OPTIONS.get(request.param, {}))
    function, arguments = gradient_program(model, BATCH, FRAMES, FEATURES, jnp.bfloat16)
    with products_in("bfloat16"):
        return request.param, list(equations(jax.make_jaxpr(function)(*arguments).jaxpr))


def test_a_gradient_program_has_no_more_equations_than_its_layers_need(traced):
    name, found = traced
    assert 0.7 * EQUATIONS[name] < len(found) < EQUATIONS[name]  # much smaller: lower the limit


def test_no_concatenation_is_much_larger_than_what_it_is_made_of(traced):
    """As windows set side by side would be, but for those of a map of few channels."""
    for equation in traced[1]:
        if equation.primitive.name == "concatenate":
            (out,) = equation.outvars
            if out.aval.shape[-1] <= FEW:
                continue
            parts = [math.prod(part.aval.shape) for part in equation.invars]
            size = math.prod(out.aval.shape)
            assert size * out.aval.dtype.itemsize < LARGE or size <= 2 * max(parts), equation


def test_on_an_accelerator_equal_units_are_written_out_and_traced_once(monkeypatch):
    """A loop would write to memory, and read again, all that the gradient has to know of each of them."""
    model = build("shufflenet_v2", CLASSES, **OPTIONS["shufflenet_v2"])
    function, arguments = gradient_program(model, 2, 64, 64)
    features = jnp.asarray(np.random.default_rng(0).normal(size=arguments[2].shape), jnp.float32)
    arguments = (*map(drawn, arguments[:2]), features, jnp.array([64, 37]))
    found, calls = {}, []
    unit = shufflenet_v2.Unit.__call__
    monkeypatch.setattr(
        shufflenet_v2.Unit, "__call__", lambda *args, **kwargs: calls.append(1) or unit(*args, **kwargs)
    )
    for backend in ("cpu", "gpu"):
        with monkeypatch.context() as changed:
            changed.setattr(jax, "default_backend", lambda backend=backend: backend)
            traced = jax.jit(lambda *arguments: function(*arguments)).trace(*arguments)
        loops = [one for one in equations(traced.jaxpr.jaxpr) if one.primitive.name == "scan"]
        assert bool(loops) == (backend == "cpu")
        assert len(calls) == 6  # for each of three stages, the first unit and those that are equal
        calls.clear()
        found[backend] = traced.lower().compile()(*arguments)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), *found.values())


def test_products_are_bfloat16_and_softmax_and_statistics_float32(traced):
    name, found = traced
    by_dtype = {}
    for equation in found:
        if count := multiply_adds(equation):
            operands = {str(operand.aval.dtype) for operand in equation.invars}
            by_dtype[frozenset(operands)] = by_dtype.get(frozenset(operands), 0) + count
            assert "HIGHEST" not in str(equation.params["precision"])
        if equation.primitive.name in ("exp", "log", "rsqrt", "sqrt"):
            assert equation.outvars[0].aval.dtype == jnp.float32, equation
        assert "callback" not in equation.primitive.name
    if name != "linear":  # whose only product is the classifier
        assert by_dtype[frozenset({"bfloat16"})] > 0.95 * sum(by_dtype.values())


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("name", ["cnn", "rnn", "shufflenet_v2", "transformer"])
def test_a_program_of_several_runs_is_lowered_for_an_accelerator(name, platform):
    function, arguments = gradient_program(build(name, CLASSES, **FAMILIES[name].tiny), 4, 24, 16, jnp.bfloat16)
    runs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape), leaf.dtype), arguments)
    with products_in("bfloat16"):
        text = jax.export.export(jax.jit(jax.vmap(function)), platforms=[platform])(*runs).mlir_module()
    products = [
        line for line in text.splitlines() if "stablehlo.dot_general" in line or "stablehlo.convolution" in line
    ]
    assert len(products) > 10
    assert "HIGHEST" not in text
    assert "callback" not in text
    assert any("bf16" in line for line in products)


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
