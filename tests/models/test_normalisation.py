import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax.models import layers
from ser_jax.models.mask import Mask
from ser_jax.models.normalisation import BatchNorm, LayerNorm, moments


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


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
        out, _ = layer.apply(variables | {"params": params}, x, mask, train=True, mutable=["batch_stats"])
        return mask.apply(out)

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
        out, updates = layer.apply(variables, x, mask, train=True, mutable=["batch_stats"])
        return jnp.sum(mask.apply(jnp.tanh(out)) * weights), updates

    gradient, updates = jit(jax.grad(lambda x: loss(alone, x, mask.lengths, weights), has_aux=True))(x)
    halves = [a.reshape(2, 2, *a.shape[1:]) for a in (x, mask.lengths, weights)]
    half_gradients, half_updates = jax.pmap(
        lambda *half: jax.grad(lambda x: loss(layer, x, *half[1:]), has_aux=True)(half[0]), axis_name="devices"
    )(*halves)
    np.testing.assert_allclose(half_gradients.reshape(gradient.shape), gradient, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, np.stack([b, b]), atol=1e-5), half_updates, updates)


def test_a_map_is_normalised_by_the_statistics_of_its_real_cells_on_all_devices(jit):
    lengths = jnp.array([5, 2, 0, 4])
    mask = Mask(lengths, 5, 3)
    x = random(4, 5, 3, 6) + 2
    real = jnp.broadcast_to(mask.real, (4, 5, 3, 1))

    class Ours(nn.Module):
        axis_name: str | None = None

        @nn.compact
        def __call__(self, x, lengths):
            mask = Mask(lengths, 5, 3)
            return BatchNorm(self.axis_name, name="norm")(mask.apply(x), mask, train=True)

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


@pytest.mark.parametrize("cells", [0, 1, 2])
def test_statistics_of_one_cell_or_none_are_finite_and_those_of_two_unbiased(cells):
    x, mask = random(1, 3, 1, 4) + 2, Mask(jnp.array([cells]), 3, 1)
    real = np.asarray(x)[0, :cells, 0]
    mean, var = (real.mean(0), real.var(0, ddof=1) if cells > 1 else np.zeros(4)) if cells else np.zeros((2, 4))
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), mask.apply(x), mask, train=False)
    _, updates = norm.apply(variables, mask.apply(x), mask, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(updates["batch_stats"]["mean"], 0.1 * mean, atol=1e-6)
    np.testing.assert_allclose(updates["batch_stats"]["var"], 0.9 + 0.1 * var, atol=1e-5)


def test_layer_norm_is_flax_s_over_the_channels(jit):
    x = 3 * random(2, 7, 5) + 1
    parameters = {"scale": random(5, seed=1), "bias": random(5, seed=2)}
    for dtype, tolerance in ((jnp.float32, 1e-5), (jnp.bfloat16, 0.05)):
        found = jit(LayerNorm().apply)({"params": parameters}, x.astype(dtype))
        assert found.dtype == dtype
        np.testing.assert_allclose(
            found.astype(jnp.float32), nn.LayerNorm(epsilon=1e-5).apply({"params": parameters}, x), atol=tolerance
        )
    made = LayerNorm().init(jax.random.key(0), x)["params"]
    np.testing.assert_array_equal(made["scale"], np.ones(5))
    np.testing.assert_array_equal(made["bias"], np.zeros(5))


def test_statistics_of_a_bfloat16_map_are_summed_in_float32():
    """A sum of 20,000 ones in bfloat16 would stop at 256."""
    mask = Mask(jnp.full(20, 100), 100, 10)
    mean, variance, count = moments(jnp.full((20, 100, 10, 2), 1.5, jnp.bfloat16), mask)
    assert {part.dtype for part in (mean, variance, count)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(mean, 1.5, rtol=1e-5)
    np.testing.assert_allclose(variance, 0, atol=1e-4)
    assert count == 20_000
