import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings

from ser_jax.training import parallel


@given(st.integers(1, 20), st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_gathering_undoes_spreading(num_runs, num_devices):
    array = np.random.default_rng(0).normal(size=(num_runs, 3))
    spread = parallel.spread(array, num_devices)
    assert spread.shape[0] == num_devices
    np.testing.assert_array_equal(parallel.gather(spread, num_runs), array)


def test_every_run_gets_its_own_values_and_all_share_the_rest():
    devices = parallel.choose_devices(11)
    assert len(devices) == jax.local_device_count() == 8
    program = parallel.over_runs(lambda own, scale, shared: own * scale + shared.sum(), devices, per_run=2, shared=1)
    own, scale = np.arange(11.0), np.arange(11.0) + 1
    shared = parallel.replicate(jnp.arange(4.0), devices)
    result = program(parallel.spread(own, len(devices)), parallel.spread(scale, len(devices)), shared)
    np.testing.assert_allclose(parallel.gather(result, 11), own * scale + 6)
