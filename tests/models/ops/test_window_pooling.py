"""Pooling equals XLA's windowed reductions where all cells are real, and sees no others where they are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax.models import ops
from ser_jax.models.mask import Mask

WINDOWS = [((3, 3), (2, 2)), ((2, 2), (2, 2)), ((1, 2), (1, 2)), ((2, 4), (2, 4)), ((5, 3), (2, 1))]


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def reduced(x, size, strides):
    """XLA's maximum over windows that begin before their cell by half of what is larger than the stride."""
    padding = []
    for length, taps, stride in zip(x.shape[1:3], size, strides, strict=True):
        before = (taps - stride + 1) // 2
        padding.append((before, max(stride * (-(-length // stride) - 1) + taps - before - length, 0)))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, *size, 1), (1, *strides, 1), ((0, 0), *padding, (0, 0)))


@pytest.mark.parametrize(("size", "strides"), WINDOWS)
@pytest.mark.parametrize("cells", [(7, 6), (8, 5), (1, 1)])
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_the_maximum_equals_a_windowed_reduction_and_so_does_its_gradient(
    cells, size, strides, backend, jit, monkeypatch
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    x, mask = random(2, *cells, 3), Mask(jnp.array([cells[0], cells[0]]), *cells)

    def of(function):
        def both(x):
            value, pull = jax.vjp(function, x)
            return value, pull(random(*value.shape, seed=2))[0]

        return jit(both)(x)

    found = of(lambda x: ops.max_pool(x, mask, size, strides)[0])
    expected = of(lambda x: reduced(x, size, strides))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_first_cell_that_equals_the_maximum_has_its_gradient(dtype):
    mask = Mask(jnp.array([4]), 4, 4)
    gradient = jax.grad(lambda x: jnp.sum(ops.max_pool(x, mask, (2, 2), (2, 2))[0]))(jnp.zeros((1, 4, 4, 1), dtype))
    assert gradient.dtype == dtype
    expected = np.zeros((1, 4, 4, 1))
    expected[:, ::2, ::2] = 1
    np.testing.assert_array_equal(gradient, expected)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_where_windows_overlap_each_gives_its_gradient_to_one_of_equal_cells(backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    x, mask = jnp.zeros((2, 5, 6, 3)), Mask(jnp.array([5, 3]), 5, 6)

    def total(x):
        return jnp.sum(ops.max_pool(x, mask, (3, 3), (2, 2))[0])

    gradient = np.asarray(jax.grad(total)(x))
    expected = np.zeros((5, 6))
    for step, band in np.ndindex(3, 3):  # the windows begin one cell before their own
        expected[max(2 * step - 1, 0), max(2 * band - 1, 0)] += 1
    np.testing.assert_array_equal(gradient[0], np.broadcast_to(expected[..., None], (5, 6, 3)))
    np.testing.assert_array_equal(gradient[1, :3], gradient[0, :3])
    assert gradient[0].sum() == 27 and gradient[1].sum() == 18


@pytest.mark.parametrize(("size", "strides"), WINDOWS)
def test_the_maximum_sees_no_padding_even_where_all_real_cells_are_negative(size, strides):
    x = -1 - jnp.abs(random(3, 6, 4, 3))
    lengths = jnp.array([6, 3, 0])
    mask = Mask(lengths, 6, 4)
    pooled, pooled_mask = ops.max_pool(mask.apply(x), mask, size, strides)
    alone, _ = ops.max_pool(x[1:2, :3], Mask(lengths[1:2], 3, 4), size, strides)
    steps = alone.shape[1]
    np.testing.assert_array_equal(pooled_mask.lengths, [-(-6 // strides[0]), steps, 0])
    np.testing.assert_allclose(pooled[1, :steps], alone[0])
    assert (pooled[1, :steps] < 0).all()
    assert (pooled[1, steps:] == 0).all()
    assert (pooled[2] == 0).all()


@pytest.mark.parametrize("size", [(2, 2), (1, 2), (2, 4)])
@pytest.mark.parametrize("kind", ["max", "average"])
def test_windows_side_by_side_are_pooled_over_their_real_cells(size, kind):
    lengths = [7, 3, 0, 1]
    x = random(4, 7, 6, 2) - 3
    mask = Mask(jnp.array(lengths), 7, 6)
    pooled, pooled_mask = ops.max_pool(x, mask, size, size) if kind == "max" else ops.average_pool(x, mask, size)
    expected = np.zeros((4, -(-7 // size[0]), -(-6 // size[1]), 2))
    for i, t, f in np.ndindex(expected.shape[:3]):
        window = np.asarray(x)[i, : lengths[i]][t * size[0] :, f * size[1] :][: size[0], : size[1]]
        if window.size:
            expected[i, t, f] = window.max((0, 1)) if kind == "max" else window.mean((0, 1))
    np.testing.assert_allclose(pooled, expected, atol=1e-6)
    np.testing.assert_array_equal(pooled_mask.lengths, [-(-length // size[0]) for length in lengths])
    assert (pooled_mask.num_steps, pooled_mask.num_bands) == expected.shape[1:3]


def test_the_gradient_of_a_mean_goes_to_the_cells_that_were_pooled(jit):
    x, cotangent = random(2, 6, 8, 3), random(2, 3, 2, 3, seed=1)
    mask = Mask(jnp.array([6, 6]), 6, 8)
    found = jit(lambda: jax.vjp(lambda x: ops.average_pool(x, mask, (2, 4))[0], x)[1](cotangent))()
    expected = jit(lambda: jax.vjp(lambda x: jnp.mean(x.reshape(2, 3, 2, 2, 4, 3), (2, 4)), x)[1](cotangent))()
    np.testing.assert_allclose(found[0], expected[0], atol=1e-6)
