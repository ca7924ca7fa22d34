import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings

from ser_jax.training import devices


@given(st.integers(1, 20), st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_gathering_undoes_spreading(num_runs, num_devices):
    array = np.random.default_rng(0).normal(size=(num_runs, 3))
    spread = devices.spread(array, num_devices)
    assert spread.shape[0] == num_devices
    np.testing.assert_array_equal(devices.gather(spread, num_runs), array)


def test_every_run_gets_its_own_values_and_all_share_the_rest():
    layout = devices.make_layout(11, "auto", 32)
    assert layout.groups == jax.local_device_count() == 8
    program = devices.on_devices(
        lambda own, scale, shared: own * scale + shared.sum(), layout, ("run", "run", "shared"), "run"
    )
    own, scale = np.arange(11.0), np.arange(11.0) + 1
    shared = devices.replicate(jnp.arange(4.0), layout.devices)
    result = program(devices.spread(own, 8), devices.spread(scale, 8), shared)
    np.testing.assert_allclose(devices.gather(result, 11), own * scale + 6)


def test_what_does_not_fit_the_memory_is_computed_in_pieces_with_the_same_results():
    layout = devices.make_layout(2, "runs", 32)
    own = np.random.default_rng(0).normal(size=(2, 5, 64)).astype(np.float32)
    shared = devices.replicate(jnp.arange(64.0), layout.devices)

    def function(own, shared):
        return jnp.sort(own * shared), own.sum()

    whole = devices.on_devices(function, layout, ("run", "shared"), "run")
    pieces = devices.on_devices(function, layout, ("run", "shared"), "run", memory=2500)
    assert whole.compile(own, shared)[1] == 5
    assert pieces.compile(own, shared)[1] in (2, 3)
    jax.tree.map(np.testing.assert_array_equal, pieces(own, shared), whole(own, shared))
    assert [leaf.shape for leaf in jax.tree.leaves(pieces(own, shared))] == [(2, 5, 64), (2, 5)]


def test_a_program_is_compiled_once_for_the_same_shapes():
    traced = []
    program = devices.on_devices(
        lambda own, shared: traced.append(own.shape) or own + shared,
        devices.make_layout(1, "runs", 32),
        ("run", "shared"),
        "run",
    )
    for value in (1.0, 2.0):
        np.testing.assert_array_equal(program(np.full((1, 3), value), jnp.float32(1)), np.full((1, 3), value + 1))
    assert len(traced) == 1
