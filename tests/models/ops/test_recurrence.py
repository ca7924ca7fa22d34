"""The loop of a recurrent layer as a kernel of a GPU, by Pallas' interpreter, against XLA's loop."""

import functools
import importlib
from unittest import mock

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.kernels import as_on
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
        jit(functools.partial(both_ways, cell, recurrence._FORWARD[way], recurrence._BACKWARD[way]))(made, gradients)
        for way in ("kernel", "loop")
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


@cells
def test_weights_that_have_no_room_are_read_in_every_step(cell, jit, monkeypatch):
    monkeypatch.setattr(recurrence_kernel, "_WEIGHTS", 0)
    compare(cell, *arguments(cell, 3), jit, 1e-5)


@pytest.mark.parametrize(
    ("hidden", "dtype", "stay"),
    [(128, jnp.bfloat16, True), (64, jnp.float32, True), (128, jnp.float32, False)],
)
def test_weights_stay_where_they_have_room(hidden, dtype, stay):
    kernel = jnp.zeros((hidden, 4 * hidden))
    found = recurrence_kernel._resident(kernel, [(slice(None), slice(0, hidden))], dtype)
    assert len(found) == (1 if stay else 0)


@pytest.mark.parametrize(("batch", "rows"), [(1, 16), (16, 16), (17, 32), (64, 32)])
def test_a_program_has_so_many_utterances_of_a_batch(batch, rows):
    assert recurrence_kernel.rows(batch) == rows


@pytest.fixture
def asked():
    """Of which kernels it was asked whether they work."""
    return []


@pytest.fixture
def on_a_gpu(asked):
    """What is traced has the form that it has on a GPU whose kernels work."""
    with as_on("gpu"), mock.patch.object(recurrence, "kernel_works", lambda *of: asked.append(of) or True):
        yield


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


def test_only_a_trainings_layer_is_the_kernel_and_only_where_that_can_be(on_a_gpu, asked, monkeypatch):
    function, loss, shapes = gradient("gru", dtype=jnp.bfloat16)
    with jax.default_matmul_precision("bfloat16"):
        assert "pallas_call" in names(function, of_two_runs(shapes))
    assert asked == [("gru", HIDDEN, jnp.bfloat16, 16, "bfloat16")]
    # What is exported, or evaluated, has the loop.
    assert "pallas_call" not in names(loss, shapes)
    for precision in ("highest", "float32", "F32_F32_F32"):
        with jax.default_matmul_precision(precision):
            assert "pallas_call" not in names(function, of_two_runs(shapes))
    with jax.default_matmul_precision("tensorfloat32"):
        assert "pallas_call" in names(function, of_two_runs(shapes))
    other, _, shapes_of_other = gradient(hidden=24)
    assert "pallas_call" not in names(other, of_two_runs(shapes_of_other))
    with monkeypatch.context() as changed:  # which might decide differently
        changed.setattr(jax, "process_count", lambda: 2)
        assert "pallas_call" not in names(function, of_two_runs(shapes))
    with as_on("cpu"):
        assert "pallas_call" not in names(function, of_two_runs(shapes))


def test_the_gradient_goes_the_way_that_the_layer_went(jit, monkeypatch):
    _, loss, shapes = gradient()
    made = (*map(drawn, shapes[:2]), jnp.array([5, 2, 0, 3]))
    expected = jax.grad(loss)(*made)
    monkeypatch.setattr(recurrence, "_is_kernel", lambda *_: True)
    _, pull_back = jax.vjp(lambda weights: loss(weights, *made[1:]), made[0])
    monkeypatch.setattr(recurrence, "_is_kernel", lambda *_: False)
    (found,) = pull_back(jnp.ones(()))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), found, expected)


class Device:
    """A GPU, as far as it is asked."""

    def __init__(self, compute_capability):
        self.compute_capability = compute_capability


@pytest.fixture
def works(monkeypatch):
    """Whether the kernel works, asked while something is traced on GPUs of some compute capabilities."""

    def ask(*capabilities, cell="lstm", rows=16):
        monkeypatch.setattr(jax, "local_devices", lambda **_: list(map(Device, capabilities)))
        recurrence.kernel_works.cache_clear()
        found = []

        @jax.jit
        def traced(x):
            found.append(recurrence.kernel_works(cell, HIDDEN, jnp.dtype(jnp.float32), rows, "tensorfloat32"))
            return x

        traced.lower(1.0)
        return found[0]

    yield ask
    recurrence.kernel_works.cache_clear()


@pytest.mark.parametrize("rows", [16, 32])
@cells
def test_a_kernel_that_computes_what_the_loop_does_works(cell, rows, works, capsys, monkeypatch):
    blocks, forward = [], recurrence_kernel.forward
    monkeypatch.setitem(
        recurrence._FORWARD,
        "kernel",
        lambda cell, x, *made: blocks.append((cell, x.shape[2])) or forward(cell, x, *made),
    )
    assert works("9.0", cell=cell, rows=rows)
    ((asked, batch),) = blocks
    assert (asked, recurrence_kernel.rows(batch)) == (cell, rows)
    assert batch % rows  # some are added
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("capabilities", [["8.6"], ["10.0"], ["12.0"], [""], ["9.0", "8.0"]])
def test_a_kernel_is_for_hopper_alone(capabilities, works, capsys):
    assert not works(*capabilities)
    assert capsys.readouterr().err == ""


def padding_of(real):
    """1 where an utterance is not there, of gates' width."""
    return 1 - real[..., None].astype(jnp.float32)


FAULTS = {
    "final state": ("_FORWARD", lambda made, real: (made[0], (made[1][0] * 1.05, *made[1][1:]), made[2])),
    "gradient": ("_BACKWARD", lambda made, real: (made[0] * 1.05, made[1])),
    "padding": ("_BACKWARD", lambda made, real: (made[0] + padding_of(real), made[1])),
    "not a number": ("_FORWARD", lambda made, real: (made[0] * jnp.nan, *made[1:])),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_kernel_that_computes_something_else_is_not_used_and_says_so(fault, works, monkeypatch, capsys):
    which, change = FAULTS[fault]
    right = getattr(recurrence, which)["kernel"]
    place = 3  # of what is real, in both
    monkeypatch.setitem(getattr(recurrence, which), "kernel", lambda *made: change(right(*made), made[place]))
    assert not works("9.0")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: recurrent layers without their kernel, by a loop: what it computes differs by ")
    assert ("nan" in line) == (fault == "not a number")


def test_a_kernel_that_cannot_be_compiled_is_not_used_and_says_why(works, monkeypatch, capsys):
    def broken(*made):
        raise ValueError("no such\nbackend")

    monkeypatch.setitem(recurrence._FORWARD, "kernel", broken)
    assert not works("9.0")
    (line,) = capsys.readouterr().err.splitlines()
    assert "ValueError: no such" in line
