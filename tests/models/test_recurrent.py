from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax.models.recurrent import GATES, Cell, Recurrent
from tests.programs import equations

REFERENCES = Path(__file__).parents[1] / "references"
LENGTHS = jnp.array([6, 1, 4, 5])
FRAMES, CHANNELS, HIDDEN = 6, 3, 4

cells = pytest.mark.parametrize("cell", list(GATES))


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def weights_of(layer, *arguments):
    """Random weights, biases included, for a layer."""
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), *arguments))
    return jax.tree.map(lambda leaf: random(*leaf.shape, seed=leaf.size) / 2, shapes)


def inputs():
    return random(len(LENGTHS), FRAMES, CHANNELS)


def weighted_sum(tree):
    """A number that depends on every element of a tree in a way of its own."""
    return sum(jnp.sum(leaf * random(*leaf.shape, seed=leaf.ndim)) for leaf in jax.tree.leaves(tree))


def assert_close(found, expected, atol=1e-5):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), found, expected)


@pytest.mark.parametrize(("cell", "bidirectional"), [("lstm", True), ("gru", True), ("gru", False)])
def test_outputs_final_states_and_gradients_equal_pytorchs_for_packed_lengths(cell, bidirectional, jit, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(REFERENCES)
    from torch_recurrent import LAYERS, run_packed, variables_of

    torch.manual_seed(0)
    net = LAYERS[cell](CHANNELS, HIDDEN, bidirectional=bidirectional, batch_first=True)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape))
    layer, x = Recurrent(HIDDEN, cell, bidirectional), inputs()
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), x, LENGTHS))
    weights = variables_of(net, shapes)

    their_x = torch.tensor(np.asarray(x), requires_grad=True)
    theirs = run_packed(net, their_x, torch.tensor(np.asarray(LENGTHS)))
    their_outputs = jax.tree.map(lambda a: a.detach().numpy(), theirs)
    sum(
        (leaf * torch.tensor(np.asarray(random(*leaf.shape, seed=leaf.ndim)))).sum() for leaf in jax.tree.leaves(theirs)
    ).backward()
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(weight.grad)

    def loss(weights, x):
        outputs = layer.apply(weights, x, LENGTHS)
        return weighted_sum(outputs), outputs

    gradients, outputs = jit(jax.grad(loss, (0, 1), has_aux=True))(weights, x)
    assert_close(outputs, their_outputs, 1e-4)
    assert_close(gradients, (variables_of(net, shapes), their_x.grad.numpy()), 1e-4)


@cells
def test_cell_step_by_step_equals_a_layer_and_so_do_its_gradients(cell, jit):
    layer, single, x = Recurrent(HIDDEN, cell, bidirectional=False), Cell(HIDDEN, cell), inputs()
    weights = weights_of(layer, x, LENGTHS)

    def by_layer(weights, x):
        outputs = layer.apply(weights, x, LENGTHS)
        return weighted_sum(outputs), outputs

    def by_steps(weights, x):
        weights = jax.tree.map(lambda leaf: leaf[0], weights)
        state = tuple(jnp.zeros((len(x), HIDDEN)) for _ in range(2 if cell == "lstm" else 1))
        outputs = []
        for t in range(FRAMES):
            real = (t < LENGTHS)[:, None]
            new, h = single.apply(weights, state, x[:, t])
            state = jax.tree.map(lambda a, b, real=real: jnp.where(real, a, b), new, state)
            outputs.append(jnp.where(real, h, 0))
        outputs = jnp.stack(outputs, 1), state
        return weighted_sum(outputs), outputs

    found, expected = (jit(jax.value_and_grad(f, (0, 1), has_aux=True))(weights, x) for f in (by_layer, by_steps))
    assert_close(found, expected)


@cells
def test_a_reversed_utterance_with_swapped_weights_swaps_the_directions(cell, jit):
    layer, x = Recurrent(HIDDEN, cell), inputs()
    weights = weights_of(layer, x, LENGTHS)
    position = LENGTHS[:, None] - 1 - jnp.arange(FRAMES)[None]
    position = jnp.where(position >= 0, position, jnp.arange(FRAMES)[None])[..., None]

    def swapped(x):
        return jnp.roll(x, HIDDEN, -1)

    run = jit(layer.apply)
    outputs, final = run(weights, x, LENGTHS)
    reversed_x = jnp.take_along_axis(x, position, 1)
    mirrored = run(jax.tree.map(lambda leaf: leaf[::-1], weights), reversed_x, LENGTHS)
    assert_close(mirrored, (jnp.take_along_axis(swapped(outputs), position, 1), jax.tree.map(swapped, final)))


@cells
def test_padding_holds_zeros_passes_no_gradient_and_may_hold_anything(cell, jit):
    layer, x = Recurrent(HIDDEN, cell), inputs()
    weights, lengths = weights_of(layer, x, LENGTHS), LENGTHS.at[3].set(0)
    padding = (jnp.arange(FRAMES)[None] >= lengths[:, None])[..., None]

    def run(weights, x):
        outputs = layer.apply(weights, x, lengths)
        return weighted_sum(outputs), outputs

    run = jit(jax.value_and_grad(run, (0, 1), has_aux=True))
    expected = run(weights, x)
    (_, (outputs, final)), (_, x_gradient) = expected
    assert (jnp.where(padding, outputs, 0) == 0).all()
    assert (jnp.where(padding, x_gradient, 0) == 0).all()
    assert all((part[3] == 0).all() for part in final)
    assert_close(run(weights, jnp.where(padding, jnp.nan, x)), expected)
    alone = jit(layer.apply)(weights, x[2:3, :4], lengths[2:3])
    assert_close(alone, (outputs[2:3, :4], tuple(part[2:3] for part in final)))


@cells
@pytest.mark.parametrize("bidirectional", [False, True])
def test_only_the_backward_direction_sees_later_frames(cell, bidirectional, jit):
    layer, x = Recurrent(HIDDEN, cell, bidirectional), inputs()
    weights, lengths = weights_of(layer, x, LENGTHS), jnp.full(len(LENGTHS), FRAMES)
    run = jit(layer.apply)
    before, _ = run(weights, x, lengths)
    after, _ = run(weights, x.at[:, 3:].add(1), lengths)
    np.testing.assert_array_equal(before[:, :3, :HIDDEN], after[:, :3, :HIDDEN])
    assert (before[:, 3, :HIDDEN] != after[:, 3, :HIDDEN]).any()
    if bidirectional:
        assert (before[:, 0, HIDDEN:] != after[:, 0, HIDDEN:]).any()


def test_runs_side_by_side_equal_runs_one_by_one_in_gradients_too(jit):
    layer, x = Recurrent(HIDDEN, "gru"), inputs()
    weights = weights_of(layer, x, LENGTHS)
    runs = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf / 2]), (weights, x))
    gradient = jax.grad(lambda weights, x, lengths: weighted_sum(layer.apply(weights, x, lengths)), (0, 1))
    lengths = jnp.stack([LENGTHS, LENGTHS[::-1]])
    together = jit(jax.vmap(gradient))(*runs, lengths)
    one_by_one = jit(gradient)
    for i in range(2):
        run = jax.tree.map(lambda leaf, i=i: leaf[i], runs)
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], together), one_by_one(*run, lengths[i]))


def test_half_precision_is_near_single_and_keeps_state_and_weight_gradients_single(jit):
    layer, x = Recurrent(HIDDEN), inputs()
    weights = weights_of(layer, x, LENGTHS)

    def run(weights, x):
        outputs, final = layer.apply(weights, x, LENGTHS)
        return weighted_sum((outputs, final)), (outputs, final)

    run = jit(jax.grad(run, (0, 1), has_aux=True))
    (weights_gradient, x_gradient), (outputs, final) = found = run(weights, x.astype(jnp.bfloat16))
    assert (outputs.dtype, x_gradient.dtype) == (jnp.bfloat16, jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves((weights_gradient, final))} == {jnp.dtype(jnp.float32)}
    found = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), found)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=0.03 * jnp.abs(b).max()), found, run(weights, x))


@cells
@pytest.mark.parametrize("bidirectional", [False, True])
def test_parameter_count_is_pytorchs(cell, bidirectional):
    layer = Recurrent(HIDDEN, cell, bidirectional)
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), inputs(), LENGTHS))
    of_direction = GATES[cell] * HIDDEN * (CHANNELS + HIDDEN + 2)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == (2 if bidirectional else 1) * of_direction


@pytest.mark.parametrize("hidden", [1, 2, 48])
def test_recurrent_kernels_begin_orthogonal_gate_by_gate_and_forget_gates_open(jit, hidden):
    weights = jit(lambda key: Recurrent(hidden).init(key, inputs(), LENGTHS))(jax.random.key(0))["params"]
    for direction in weights["recurrent_kernel"]:
        for gate in jnp.split(direction, 4, -1):
            np.testing.assert_allclose(gate @ gate.T, np.eye(hidden), atol=1e-4)
    forget = np.repeat([0, 1, 0, 0], hidden)
    np.testing.assert_array_equal(weights["input_bias"], np.stack([forget, forget]))


@cells
def test_a_step_of_the_loop_has_one_product_and_reads_and_writes_few_arrays(cell):
    """A GPU has a kernel for each: there are as many of them as utterances have frames."""
    layer, lengths = Recurrent(HIDDEN, cell), jnp.array([3, 5])
    weights = jax.eval_shape(lambda: layer.init(jax.random.key(0), jnp.zeros((2, 5, 3)), lengths))

    def loss(weights, x):
        outputs, final = layer.apply(weights, x, lengths)
        return jnp.sum(outputs.astype(jnp.float32)) + sum(map(jnp.sum, final))

    x = jax.ShapeDtypeStruct((2, 5, 3), jnp.bfloat16)
    program = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(weights, x).jaxpr
    loops = [equation for equation in equations(program) if equation.primitive.name == "scan"]
    read, written = [], []
    for loop in loops:
        carried = loop.params["num_carry"]
        read.append(len(loop.invars) - loop.params["num_consts"] - carried)
        written.append(len(loop.outvars) - carried)
        body = list(equations(loop.params["jaxpr"].jaxpr))
        assert len([equation for equation in body if equation.primitive.name == "dot_general"]) == 1
        kernel = 2, HIDDEN, GATES[cell] * HIDDEN  # rounded before the loop
        rounded = [one.invars[0].aval.shape for one in body if one.primitive.name == "convert_element_type"]
        assert kernel not in rounded and kernel[:1] + kernel[:0:-1] not in rounded
    assert len(loops) == 2
    # Inputs and what is real; what was kept, the state before, gradients of outputs, what is real.
    assert read == [2, 4]
    assert written == [1, 1 if cell == "lstm" else 2]  # what is kept; the gradient of inputs and products
