"""Convolutions equal XLA's own, and so do their gradients, of one run and of several."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax.models import ops
from ser_jax.models.ops.taps import KERNEL_GRADIENT
from tests.programs import equations, located

SIZES = [(3, 3), (5, 3), (1, 3)]
KINDS = [("full", size) for size in (*SIZES, (2, 4))] + [("depthwise", size) for size in SIZES]
STRIDES = [(1, 1), (2, 2), (1, 2)]
CELLS = [(7, 6), (8, 5), (1, 1)]


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def convolved(x, kernel, strides, groups=1):
    padding = [(taps // 2, (taps - 1) // 2) for taps in kernel.shape[:2]]
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=numbers, feature_group_count=groups
    )


def depthwise(x, kernel, strides):
    return convolved(x, kernel[:, :, None], strides, kernel.shape[-1])


def assert_equal(function, oracle, x, kernel, cotangent, jit, axes=None):
    """Values and gradients; with axes, of runs that are batched along them."""

    def of(function):
        def one_run(x, kernel):
            value, pull = jax.vjp(function, x, kernel)
            return value, pull(cotangent.astype(value.dtype))

        return jit(one_run if axes is None else jax.vmap(one_run, in_axes=axes))(x, kernel)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), of(function), of(oracle))


@pytest.mark.parametrize("strides", STRIDES)
@pytest.mark.parametrize("cells", CELLS)
@pytest.mark.parametrize(("kind", "size"), KINDS)
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_a_convolution_equals_xlas_and_so_do_its_gradients(kind, size, cells, strides, backend, jit, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    x = random(2, *cells, 3)
    kernel = random(*size, *((3, 5) if kind == "full" else (3,)), seed=1)
    ours, oracle = (ops.convolution, convolved) if kind == "full" else (ops.depthwise, depthwise)
    cotangent = random(*jax.eval_shape(lambda: oracle(x, kernel, strides)).shape, seed=2)
    assert_equal(
        lambda x, kernel: ours(x, kernel, strides),
        lambda x, kernel: oracle(x, kernel, strides),
        x,
        kernel,
        cotangent,
        jit,
    )


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
@pytest.mark.parametrize("kind", ["full", "depthwise"])
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_of_several_runs_it_equals_those_of_each(kind, strides, axes, backend, jit, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    has_runs = [axis == 0 for axis in axes]
    x = random(*((2,) if has_runs[0] else ()), 3, 5, 6, 4)
    kernel = random(*((2,) if has_runs[1] else ()), 5, 3, *((4, 2) if kind == "full" else (4,)), seed=1)
    cotangent = random(3, -(-5 // strides[0]), -(-6 // strides[1]), 2 if kind == "full" else 4, seed=2)
    ours, oracle = (ops.convolution, convolved) if kind == "full" else (ops.depthwise, depthwise)
    assert_equal(
        lambda x, kernel: ours(x, kernel, strides),
        lambda x, kernel: oracle(x, kernel, strides),
        x,
        kernel,
        cotangent,
        jit,
        axes,
    )


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("kind", ["full", "few", "depthwise", "product"])
def test_in_bfloat16_the_maps_are_bfloat16_and_the_kernels_gradient_is_summed_in_float32(kind, backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    kernel = {
        "full": random(3, 3, 4, 5),
        "few": random(3, 3, 2, 5),
        "depthwise": random(3, 3, 4),
        "product": random(4, 5),
    }[kind]
    function = {"depthwise": ops.depthwise, "product": ops.product}.get(kind, ops.convolution)
    x = random(8, 40, 16, 2 if kind == "few" else 4).astype(jnp.bfloat16)
    value, pull = jax.vjp(function, x, kernel)
    np.testing.assert_allclose(value, function(x.astype(jnp.float32), kernel), atol=0.2)
    of_map, of_kernel = pull(jnp.ones_like(value))
    assert (value.dtype, of_map.dtype, of_kernel.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    _, exact_pull = jax.vjp(function, x.astype(jnp.float32), kernel)
    exact = exact_pull(jnp.ones(value.shape, jnp.float32))[1]
    # A sum of 5,120 products in bfloat16 would be off by several percent; the products are rounded one by one.
    np.testing.assert_allclose(of_kernel, exact, atol=2e-3 * float(jnp.abs(exact).max()))


def test_in_the_loop_of_a_training_no_convolution_has_a_kernel_in_an_order_that_a_cpu_is_slow_with():
    """XLA computes cell by cell where the kernel has the channels that come out before those that go in."""

    def loss(kernels, x):
        for kernel in kernels:
            x = jax.nn.relu(ops.convolution(x, kernel))
        return jnp.sum(x**2)

    def train(kernels, x):
        def step(kernels, _):
            gradients = jax.grad(loss)(kernels, x)
            return [kernel - gradient for kernel, gradient in zip(kernels, gradients, strict=True)], None

        return jax.lax.scan(step, kernels, None, length=3)[0]

    kernels = [random(3, 3, 16, 16), random(3, 3, 16, 32), random(3, 3, 32, 32)]
    program = jax.jit(train).lower(kernels, random(8, 20, 16, 16)).compile().as_text()
    orders = re.findall(r"convolution\(.*dim_labels=b01f_01(\w\w)->b01f", program)
    assert len(orders) == 5 and set(orders) == {"io"}, orders


@pytest.mark.parametrize(("backend", "sums"), [("gpu", 1), ("cpu", 9), ("tpu", 9)])
def test_the_gradient_of_a_depthwise_kernel_is_one_sum_on_a_gpu_and_stacks_no_windows_elsewhere(
    backend, sums, monkeypatch
):
    """A GPU reads stacked windows from the map itself, and has work for all its processors; others would write them."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    x, kernel = random(2, 5, 6, 4).astype(jnp.bfloat16), random(3, 3, 4)
    traced = jax.make_jaxpr(jax.grad(lambda kernel: jnp.sum(ops.depthwise(x, kernel).astype(jnp.float32))))(kernel)
    found = list(equations(traced.jaxpr))
    sums_of_cells = [
        one for one in found if one.primitive.name == "reduce_sum" and one.outvars[0].aval.shape[-1:] == (4,)
    ]
    assert len(sums_of_cells) == sums
    of_kernel = [one for one, scope, *_ in located(traced.jaxpr) if KERNEL_GRADIENT in scope]
    products = [one for one in of_kernel if one.primitive.name == "mul"]
    assert len(products) == sums
    assert {operand.aval.dtype for one in (*products, *sums_of_cells) for operand in one.invars} == {
        jnp.dtype(jnp.float32)
    }
    assert (max(one.outvars[0].aval.size for one in found) == 9 * x.size) == (backend == "gpu")


@pytest.mark.parametrize(("backend", "products"), [("gpu", 1), ("cpu", 9), ("tpu", 9)])
@pytest.mark.parametrize("channels", [1, 8])
def test_the_gradient_of_a_kernel_is_one_product_on_a_gpu_of_columns_that_it_takes(
    channels, backend, products, monkeypatch
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    x, kernel = random(2, 5, 6, channels).astype(jnp.bfloat16), random(3, 3, channels, 8)
    traced = jax.make_jaxpr(jax.grad(lambda kernel: jnp.sum(ops.convolution(x, kernel).astype(jnp.float32))))(kernel)
    found = [
        one
        for one, scope, *_ in located(traced.jaxpr)
        if KERNEL_GRADIENT in scope and one.primitive.name == "dot_general"
    ]
    assert len(found) == (1 if channels == 1 else products)
    columns = {operand.aval.shape[-1] for one in found for operand in one.invars}
    assert all(number % 8 == 0 for number in columns) or (backend, channels) in (("cpu", 1), ("tpu", 1))
