import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax.models import layers
from ser_jax.models.layers import Mask


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (1, 2)])
@pytest.mark.parametrize("size", [(7, 6), (8, 5), (1, 1)])
def test_depthwise_equals_a_grouped_convolution_and_so_do_its_gradients(strides, size, jit):
    x, kernel = random(2, *size, 5), random(3, 3, 5, seed=1)

    def ours(x, kernel):
        everything = jnp.array([size[0], size[0]])
        real = Mask(everything, *size).strided(strides).real
        return layers.depthwise_convolution(layers.border(x, strides), kernel, real, strides)

    def oracle(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel[:, :, None],
            strides,
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=5,
        )

    cotangent = random(*oracle(x, kernel).shape, seed=2)

    def value_and_gradients(function):
        value, pull = jax.vjp(function, x, kernel)
        return value, pull(cotangent)

    found, expected = jit(lambda: value_and_gradients(ours))(), jit(lambda: value_and_gradients(oracle))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


@pytest.mark.parametrize("size", [(7, 6), (8, 5), (1, 1)])
def test_max_pool_equals_a_windowed_reduction_and_so_does_its_gradient(size, jit):
    x = random(2, *size, 3)
    mask = Mask(jnp.array([size[0], size[0]]), *size)

    def oracle(x):
        return jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
        )

    cotangent = random(*oracle(x).shape, seed=2)
    found = jit(lambda: jax.vjp(lambda x: layers.max_pool(layers.phases(x), mask), x)[1](cotangent))()
    expected = jit(lambda: jax.vjp(oracle, x)[1](cotangent))()
    np.testing.assert_allclose(layers.max_pool(layers.phases(x), mask), oracle(x))
    np.testing.assert_allclose(found[0], expected[0], atol=1e-6)


def test_max_pool_sees_no_padding_even_where_all_real_cells_are_negative():
    x = -1 - jnp.abs(random(2, 6, 4, 3))
    mask = Mask(jnp.array([6, 3]), 6, 4)
    pooled = layers.max_pool(layers.phases(mask.apply(x)), mask)
    np.testing.assert_allclose(pooled[1, :2], layers.max_pool(layers.phases(x[1:, :3]), Mask(jnp.array([3]), 3, 4))[0])
    assert (pooled[1, :2] < 0).all()
    assert (pooled[1, 2:] == 0).all()


@pytest.mark.parametrize("norm_input", [False, True])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_normalized_pointwise_equals_a_dense_layer_and_masked_batch_norms(norm_input, offset, jit):
    mask = Mask(jnp.array([5, 2, 0]), 5, 4)
    x = mask.apply(random(3, 5, 4, 6) + offset)
    layer = layers.NormalizedPointwise(7, norm_input)
    variables = layer.init(jax.random.key(0), x, mask, train=False)
    leaves, structure = jax.tree.flatten(variables["params"])
    params = structure.unflatten([leaf + random(*leaf.shape, seed=i) / 5 for i, leaf in enumerate(leaves)])
    real = jnp.broadcast_to(mask.real, (*x.shape[:3], 1))

    def norm(x, name):
        module = nn.BatchNorm(use_running_average=False, use_fast_variance=False)
        stats = {"mean": jnp.zeros(x.shape[-1]), "var": jnp.ones(x.shape[-1])}
        return module.apply({"params": params[name], "batch_stats": stats}, x, mask=real, mutable=["batch_stats"])[0]

    def oracle(x):
        normed = norm(x, "input_norm") if norm_input else x
        return mask.apply(norm(normed @ params["kernel"], "norm"))

    def ours(x):
        (out, shift), _ = layer.apply(variables | {"params": params}, x, mask, train=True, mutable=["batch_stats"])
        return layers.activated(out, shift, lambda x: x, mask)

    weights = random(3, 5, 4, 7, seed=9)
    with jax.numpy_rank_promotion("allow"):  # Flax's own
        expected = jit(oracle)(x)
        expected_gradient = jit(jax.grad(lambda x: jnp.sum(oracle(x) * weights)))(x)
    np.testing.assert_allclose(jit(ours)(x), expected, atol=1e-4 if not offset else 2e-2)
    gradient = mask.apply(jit(jax.grad(lambda x: jnp.sum(ours(x) * weights)))(x))
    np.testing.assert_allclose(gradient, mask.apply(expected_gradient), atol=1e-4 if not offset else 2e-2)


def test_statistics_along_an_axis_are_those_of_the_whole_batch(jit):
    mask = Mask(jnp.array([5, 2, 1, 4]), 5, 4)
    x = mask.apply(random(4, 5, 4, 6))
    weights = random(4, 5, 4, 7, seed=9)
    layer = layers.NormalizedPointwise(7, True, axis_name="devices")
    alone = layers.NormalizedPointwise(7, True)
    variables = jit(lambda: alone.init(jax.random.key(0), x, mask, train=False))()

    def loss(layer, x, lengths, weights):
        mask = Mask(lengths, 5, 4)
        (out, shift), updates = layer.apply(variables, x, mask, train=True, mutable=["batch_stats"])
        return jnp.sum(layers.activated(out, shift, jnp.tanh, mask) * weights), updates

    gradient, updates = jit(jax.grad(lambda x: loss(alone, x, mask.lengths, weights), has_aux=True))(x)
    halves = [a.reshape(2, 2, *a.shape[1:]) for a in (x, mask.lengths, weights)]
    half_gradients, half_updates = jax.pmap(
        lambda *half: jax.grad(lambda x: loss(layer, x, *half[1:]), has_aux=True)(half[0]), axis_name="devices"
    )(*halves)
    np.testing.assert_allclose(half_gradients.reshape(gradient.shape), gradient, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, np.stack([b, b]), atol=1e-5), half_updates, updates)


def convolved(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize("size", [(3, 3), (5, 3)])
@pytest.mark.parametrize("cells", [(7, 6), (1, 1)])
@pytest.mark.parametrize("pieces", [1, 2])
def test_a_convolution_equals_xlas_and_so_do_its_gradients(size, cells, pieces, jit, monkeypatch):
    monkeypatch.setattr(layers, "_num_pieces", lambda batch, bytes_each: pieces)
    x, kernel, cotangent = random(4, *cells, 3), random(*size, 3, 5, seed=1), random(4, *cells, 5, seed=2)

    def value_and_gradients(function):
        value, pull = jax.vjp(function, x, kernel)
        return value, pull(cotangent)

    found = jit(lambda: value_and_gradients(layers.convolution))()
    expected = jit(lambda: value_and_gradients(convolved))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, expected)


@pytest.mark.parametrize(("map_axis", "kernel_axis"), [(0, 0), (0, None), (None, 0)])
def test_a_convolution_of_several_runs_equals_those_of_each(map_axis, kernel_axis, jit):
    x = random(*((2,) if map_axis == 0 else ()), 4, 5, 6, 3)
    kernel = random(*((2,) if kernel_axis == 0 else ()), 5, 3, 3, 2, seed=1)
    cotangent = random(4, 5, 6, 2, seed=2)

    def value_and_gradients(function):
        def one_run(x, kernel):
            value, pull = jax.vjp(function, x, kernel)
            return value, pull(cotangent)

        return jax.vmap(one_run, in_axes=(map_axis, kernel_axis))(x, kernel)

    found = jit(lambda: value_and_gradients(layers.convolution))()
    expected = jit(lambda: value_and_gradients(convolved))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, expected)


def test_a_batch_goes_into_the_fewest_equal_pieces_that_fit_the_cache():
    fits = 2**21
    found = [layers._num_pieces(batch, size) for batch, size in ((32, fits), (32, fits // 5), (32, 1), (7, fits // 2))]
    assert found == [32, 8, 1, 7]
    assert [layers._num_pieces(batch, 2 * fits) for batch in (0, 1, 6)] == [1, 1, 6]


def test_a_map_is_normalised_by_the_statistics_of_its_real_cells_on_all_devices(jit):
    lengths = jnp.array([5, 2, 0, 4])
    mask = Mask(lengths, 5, 3)
    x = random(4, 5, 3, 6) + 2
    real = jnp.broadcast_to(mask.real, (4, 5, 3, 1))

    class Ours(nn.Module):
        axis_name: str | None = None

        @nn.compact
        def __call__(self, x, lengths):
            return layers.normalized(layers.BatchNorm(name="norm"), x, Mask(lengths, 5, 3), self.axis_name, train=True)

    cells = np.asarray(x)[np.asarray(real)[..., 0]]
    expected = (x - cells.mean(0)[None, None, None]) / np.sqrt(cells.var(0) + 1e-5)[None, None, None]
    found, updates = jit(lambda: Ours().init_with_output(jax.random.key(0), x, lengths))()
    np.testing.assert_allclose(mask.apply(found), mask.apply(expected), atol=1e-4)

    _, updates = jit(lambda: Ours().apply(updates, x, lengths, mutable=["batch_stats"]))()
    np.testing.assert_allclose(updates["batch_stats"]["norm"]["mean"], 0.1 * cells.mean(0), atol=1e-4)
    np.testing.assert_allclose(updates["batch_stats"]["norm"]["var"], 0.9 + 0.1 * cells.var(0, ddof=1), atol=1e-4)

    halves = x.reshape(2, 2, *x.shape[1:]), lengths.reshape(2, 2)
    on_devices = jax.vmap(lambda *half: Ours("devices").init_with_output(jax.random.key(0), *half), axis_name="devices")
    np.testing.assert_allclose(jit(on_devices)(*halves)[0].reshape(x.shape), found, atol=1e-4)


@pytest.mark.parametrize("size", [(2, 2), (1, 2), (2, 4)])
@pytest.mark.parametrize("kind", ["max", "average"])
def test_windows_are_pooled_over_their_real_cells(size, kind):
    lengths = [7, 3, 0, 1]
    x = random(4, 7, 6, 2) - 3
    mask = Mask(jnp.array(lengths), 7, 6)
    pooled, pooled_mask = layers.pool(x, mask, size, kind)
    expected = np.zeros((4, -(-7 // size[0]), -(-6 // size[1]), 2))
    for i, t, f in np.ndindex(expected.shape[:3]):
        window = np.asarray(x)[i, : lengths[i]][t * size[0] :, f * size[1] :][: size[0], : size[1]]
        if window.size:
            expected[i, t, f] = window.max((0, 1)) if kind == "max" else window.mean((0, 1))
    np.testing.assert_allclose(pooled, expected, atol=1e-6)
    np.testing.assert_array_equal(pooled_mask.lengths, [-(-length // size[0]) for length in lengths])
    assert (pooled_mask.num_steps, pooled_mask.num_bands) == expected.shape[1:3]


@pytest.mark.parametrize("kind", ["max", "average"])
def test_the_gradient_of_pooling_goes_to_the_cells_that_were_pooled(kind, jit):
    x, cotangent = random(2, 6, 8, 3), random(2, 3, 2, 3, seed=1)
    mask = Mask(jnp.array([6, 6]), 6, 8)

    def oracle(x):
        return (jnp.max if kind == "max" else jnp.mean)(x.reshape(2, 3, 2, 2, 4, 3), (2, 4))

    found = jit(lambda: jax.vjp(lambda x: layers.pool(x, mask, (2, 4), kind)[0], x)[1](cotangent))()
    expected = jit(lambda: jax.vjp(oracle, x)[1](cotangent))()
    np.testing.assert_allclose(found[0], expected[0], atol=1e-6)


def test_eca_kernel_sizes_are_the_papers():
    sizes = {24: 3, 58: 3, 122: 3, 128: 5, 232: 5, 1024: 5, 2048: 7}
    assert {channels: layers.eca_kernel_size(channels) for channels in sizes} == sizes
