import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from ser_jax.models.channel_attention import channel_attention, eca_kernel_size


def test_eca_kernel_sizes_are_the_papers():
    sizes = {24: 3, 58: 3, 122: 3, 128: 5, 232: 5, 1024: 5, 2048: 7}
    assert {channels: eca_kernel_size(channels) for channels in sizes} == sizes


def test_gates_are_those_of_the_papers_layers_and_se_s_first_is_16_times_narrower():
    channels, rng = 96, np.random.default_rng(0)
    means = rng.normal(size=(3, channels)).astype(np.float32)

    def gates(kind, *arguments):
        module = channel_attention(kind, *arguments)
        params = module.init(jax.random.key(0), jnp.asarray(means))["params"]
        params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params)
        return np.asarray(module.apply({"params": params}, jnp.asarray(means))), params

    found, params = gates("eca", 5)
    seen = np.pad(means, ((0, 0), (2, 2)))
    expected = [np.correlate(row, params["kernel"], "valid") for row in seen]
    np.testing.assert_allclose(found, special.expit(expected), atol=1e-5)

    found, params = gates("se")
    assert params["squeeze"]["kernel"].shape == (channels, channels // 16)
    hidden = np.maximum(means @ params["squeeze"]["kernel"] + params["squeeze"]["bias"], 0)
    expected = special.expit(hidden @ params["excite"]["kernel"] + params["excite"]["bias"])
    np.testing.assert_allclose(found, expected, atol=1e-5)
