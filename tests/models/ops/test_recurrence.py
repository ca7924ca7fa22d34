"""The loop of a recurrent layer as a kernel of a GPU, by Pallas' interpreter, against XLA's loop."""

import functools
import importlib

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax.models.ops import recurrence_kernel
from ser_jax.models.ops.cells import GATES, STATES
from ser_jax.models.recurrent import Recurrent
from tests.programs import drawn, equations

recurrence = importlib.import_module("ser_jax.models.ops.recurrence")  # the function of the package has its name
FRAMES, HIDDEN = 5, 16
KERNEL = "__gpu$xla.gpu.triton"

cells = pytest.mark.parametrize("cell", list(GATES))


def random(*shape, dtype=jnp.float32, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def arguments(cell, batch, dtype=jnp.float32, directions=2):
    """Inputs, weights and what is real, of one run; gradients of outputs and of the final state."""
    width = GATES[cell] * HIDDEN
    weights = {
        "recurrent_kernel": random(directions, HIDDEN, width, seed=1) / HIDDEN**0.5,
        "input_bias": random(directions, width, seed=2),
        "recurrent_bias": random(directions, width, seed=3),
    }
    weights["recurrent_kernel"] = weights["recurrent_kernel"].astype(dtype)
    # Some have ended, some begin late, as they do backward, and one has no frame.
    real = jnp.asarray(np.random.default_rng(4).uniform(size=(directions, FRAMES, batch)) < 0.7).at[..., -1].set(False)
    gradients = (
        random(directions, FRAMES, batch, HIDDEN, dtype=dtype, seed=5),
        tuple(random(directions, batch, HIDDEN, seed=6 + i) for i in range(STATES[cell])),
    )
    return (random(directions, FRAMES, batch, width, dtype=dtype), weights, real), gradients


def both_ways(cell, forward, backward, made, gradients):
    """All that a training's two passes give."""
    inputs, weights, real = made
    outputs, final, kept = forward(cell, inputs, weights, real)
    transposed = weights["recurrent_kernel"].swapaxes(-1, -2)
    return outputs, final, backward(cell, kept, transposed, real, *gradients)


def compare(cell, made, gradients, jit, atol):
    of_kernel, of_loop = (
        jit(functools.partial(both_ways, cell, *passes))(made, gradients)
        for passes in (
            (recurrence_kernel.forward, recurrence_kernel.backward),
            (recurrence._loop_forward, recurrence._loop_backward),
        )
    )
    assert jax.tree.structure(of_kernel) == jax.tree.structure(of_loop)
    for found, expected in zip(jax.tree.leaves(of_kernel), jax.tree.leaves(of_loop), strict=True):
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        assert float(jnp.abs(expected.astype(jnp.float32)).max()) > 0.1
        np.testing.assert_allclose(found.astype(jnp.float32), expected.astype(jnp.float32), atol=atol)


@cells
@pytest.mark.parametrize("batch", [3, 16, 33])
def test_the_kernel_returns_what_the_loop_does_for_any_batch(cell, batch, jit):
    compare(cell, *arguments(cell, batch), jit, 1e-5)


@cells
def test_the_kernel_rounds_where_the_loop_does(cell, jit):
    compare(cell, *arguments(cell, 4, jnp.bfloat16, directions=1), jit, 0.02)


def test_weights_that_have_no_room_are_read_in_every_step(jit, monkeypatch):
    monkeypatch.setattr(recurrence_kernel, "_WEIGHTS", 0)
    compare("lstm", *arguments("lstm", 3), jit, 1e-5)


@pytest.fixture
def on_a_gpu(monkeypatch):
    """What is traced has the form that it has on a GPU whose kernels work."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(recurrence, "kernel_works", lambda *_: True)


def gradient(cell="lstm", hidden=HIDDEN, dtype=jnp.float32):
    """The gradient of two runs of a layer, and the shapes of its arguments."""
    layer = Recurrent(hidden, cell)
    x, lengths = jax.ShapeDtypeStruct((4, FRAMES, 3), dtype), jax.ShapeDtypeStruct((4,), jnp.int32)
    weights = jax.eval_shape(lambda: layer.init(jax.random.key(0), jnp.zeros(x.shape), jnp.zeros(4, jnp.int32)))

    def loss(weights, x, lengths):
        outputs, final = layer.apply(weights, x, lengths)
        return jnp.sum(jnp.sin(outputs.astype(jnp.float32))) + sum(jnp.sum(jnp.sin(part)) for part in final)

    return jax.vmap(jax.grad(loss, (0, 1))), loss, (weights, x, lengths)


def of_two_runs(shapes):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape), leaf.dtype), shapes)


def names(function, shapes):
    """The operations of a function, traced anew."""
    traced = jax.make_jaxpr(lambda *made: function(*made))(*shapes)
    return {equation.primitive.name for equation in equations(traced.jaxpr)}


@cells
def test_the_gradient_of_a_layer_by_the_kernel_is_that_by_the_loop_for_runs_side_by_side(cell, jit, monkeypatch):
    function, _, shapes = gradient(cell)
    weights, x = (jax.tree.map(lambda a, b: jnp.stack([a, b]), *map(drawn, (one, one))) for one in shapes[:2])
    weights = jax.tree.map(lambda leaf: leaf.at[1].multiply(0.5), weights)
    made = weights, x, jnp.array([[5, 2, 0, 3], [1, 5, 4, 4]])
    by_loop = jit(function)(*made)
    monkeypatch.setattr(recurrence, "_is_kernel", lambda *_: True)
    assert "pallas_call" in names(function, of_two_runs(shapes))
    by_kernel = jit(lambda *made: function(*made))(*made)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), by_kernel, by_loop)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@cells
def test_a_trainings_layer_is_lowered_for_a_gpu_without_a_loop(cell, dtype, on_a_gpu):
    function, _, shapes = gradient(cell, dtype=dtype)
    allowed = [jax.export.DisabledSafetyCheck.custom_call(KERNEL)]
    program = jax.export.export(jax.jit(function), platforms=["cuda"], disabled_checks=allowed)(*of_two_runs(shapes))
    text = program.mlir_module()
    assert text.count(f"@{KERNEL}(") == 2  # forward and backward
    assert "stablehlo.while" not in text


def test_only_a_trainings_layer_is_the_kernel_and_only_where_that_can_be(on_a_gpu, monkeypatch):
    function, loss, shapes = gradient()
    assert "pallas_call" in names(function, of_two_runs(shapes))
    # What is exported, or evaluated, has the loop.
    assert "pallas_call" not in names(loss, shapes)
    for precision in ("highest", "float32"):
        with jax.default_matmul_precision(precision):
            assert "pallas_call" not in names(function, of_two_runs(shapes))
    with jax.default_matmul_precision("tensorfloat32"):
        assert "pallas_call" in names(function, of_two_runs(shapes))
    other, _, shapes_of_other = gradient(hidden=24)
    assert "pallas_call" not in names(other, of_two_runs(shapes_of_other))
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert "pallas_call" not in names(function, of_two_runs(shapes))


class Device:
    """A GPU, as far as it is asked."""

    def __init__(self, compute_capability):
        self.compute_capability = compute_capability


@pytest.fixture
def works(monkeypatch):
    """Whether the kernel works, asked while something is traced on a GPU of a compute capability."""

    def ask(capability):
        monkeypatch.setattr(jax, "local_devices", lambda **_: [Device(capability)])
        recurrence.kernel_works.cache_clear()
        found = []

        @jax.jit
        def traced(x):
            found.append(recurrence.kernel_works("lstm", HIDDEN, jnp.dtype(jnp.float32)))
            return x

        traced.lower(1.0)
        return found[0]

    yield ask
    recurrence.kernel_works.cache_clear()


def test_a_kernel_that_computes_what_the_loop_does_works_on_hopper_alone(works, capsys):
    assert works("9.0")
    assert not works("8.6")
    assert not works("")
    assert capsys.readouterr().err == ""


def test_a_kernel_that_computes_something_else_is_not_used_and_says_so(works, monkeypatch, capsys):
    forward = recurrence_kernel.forward

    def wrong(*made):
        outputs, final, kept = forward(*made)
        return outputs, (final[0] * 1.1, *final[1:]), kept

    monkeypatch.setattr(recurrence_kernel, "forward", wrong)
    assert not works("9.0")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: recurrent layers without their kernel, by a loop: what it computes differs by 0.1 ")


@pytest.mark.parametrize("result", ["nan", "error"])
def test_a_kernel_that_computes_nothing_is_not_used_and_says_why(works, result, monkeypatch, capsys):
    forward = recurrence_kernel.forward

    def broken(cell, inputs, *made):
        if result == "error":
            raise NotImplementedError("no such\nbackend")
        outputs, final, kept = forward(cell, inputs, *made)
        return outputs * jnp.nan, final, kept

    monkeypatch.setattr(recurrence_kernel, "forward", broken)
    assert not works("9.0")
    (line,) = capsys.readouterr().err.splitlines()
    assert ("NotImplementedError: no such" if result == "error" else "differs by nan") in line
