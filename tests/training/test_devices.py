import dataclasses

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from ser_jax.errors import UserError
from ser_jax.training import devices


@dataclasses.dataclass(frozen=True)
class Fake:
    """A device of one of several processes, of which nothing is computed."""

    process_index: int
    id: int
    used: int = 0

    @property
    def __class__(self):  # for isinstance
        return jax.Device

    def memory_stats(self):
        return {"bytes_limit": 1000, "bytes_in_use": self.used}


def test_the_parts_of_each_process_follow_one_another_however_the_devices_are_numbered(monkeypatch):
    """Four hosts of 2 x 2 on a torus of 4 x 4 whose devices are numbered row by row."""
    torus = [Fake(2 * (row // 2) + column // 2, 4 * row + column) for row in range(4) for column in range(4)]
    assert [device.process_index for device in torus[:4]] == [0, 0, 1, 1]
    monkeypatch.setattr(jax, "devices", lambda: torus)
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    own = []
    for process in range(4):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        layout = devices.make_layout(3, "auto", 32)
        assert layout.parts == 16
        own.append(layout.own_parts)
        assert [layout.devices[part].process_index for part in layout.own_parts] == [process] * 4
        assert [layout.devices[part] for part in layout.own_parts] == list(layout.local.devices)
    assert sorted(part for parts in own for part in parts) == list(range(16))


def test_what_others_hold_of_a_device_is_not_free():
    assert devices.free_memory([Fake(0, 0)]) == 900
    assert devices.free_memory([Fake(0, 0, used=300)]) == 600
    assert devices.device_memory([Fake(0, 0, used=300)]) == 900


def test_a_program_s_own_arguments_are_not_counted_twice():
    device = jax.devices()[0]
    held = jax.device_put(np.zeros(50, np.float32), device)

    class Counting:
        __class__ = jax.Device  # for isinstance

        def memory_stats(self):
            return {"bytes_limit": 1000, "bytes_in_use": 300}

        def __eq__(self, other):
            return other == device

        __hash__ = None

    keys = jax.random.split(jax.random.key(0), 3)
    assert devices.free_memory([Counting()], (held, np.zeros(9), keys)) == 900 - (300 - 200)


@given(st.integers(1, 20), st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_gathering_undoes_spreading(num_runs, num_devices):
    array = np.random.default_rng(0).normal(size=(num_runs, 3))
    spread = devices.spread(array, num_devices)
    assert spread.shape[0] == num_devices
    np.testing.assert_array_equal(devices.gather(spread, num_runs), array)


def each(of_one):
    """The same of every run."""
    return lambda over_runs, *arguments: over_runs(of_one)(*arguments)


def test_every_run_gets_its_own_values_and_all_share_the_rest():
    layout = devices.make_layout(11, "auto", 32)
    assert layout.groups == jax.local_device_count() == 8
    program = devices.on_devices(
        each(lambda own, scale, shared: own * scale + shared.sum()), layout, ("run", "run", "shared"), "run"
    )
    own, scale = np.arange(11.0), np.arange(11.0) + 1
    shared = devices.replicate(jnp.arange(4.0), layout.devices)
    result = program(devices.spread(own, 8), devices.spread(scale, 8), shared)
    np.testing.assert_allclose(devices.gather(result, 11), own * scale + 6)


def test_a_loop_over_steps_has_all_runs_within_it_where_they_are_batched(monkeypatch):
    """`vmap` of a loop would trace its body until it knows what differs between runs."""
    own, shared = np.arange(10.0).reshape(1, 5, 2), jnp.ones(2)
    for batched, shape in ((True, (5, 2)), (False, (2,))):
        given = []

        def function(over_runs, own, shared, given=given):
            given.append(own.shape)
            return jax.lax.fori_loop(0, 3, lambda i, own: over_runs(lambda own, shared: own + shared)(own, shared), own)

        monkeypatch.setattr(devices, "batches_runs", lambda batched=batched: batched)
        program = devices.on_devices(function, devices.make_layout(1, "runs", 32), ("run", "shared"), "run")
        np.testing.assert_array_equal(program(own, shared), own + 3)
        assert given == [shape]


def test_what_does_not_fit_the_memory_is_computed_in_pieces_with_the_same_results():
    layout = devices.make_layout(2, "runs", 32)
    own = np.random.default_rng(0).normal(size=(2, 5, 64)).astype(np.float32)
    shared = devices.replicate(jnp.arange(64.0), layout.devices)

    @each
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
        each(lambda own, shared: traced.append(own.shape) or own + shared),
        devices.make_layout(1, "runs", 32),
        ("run", "shared"),
        "run",
    )
    for value in (1.0, 2.0):
        np.testing.assert_array_equal(program(np.full((1, 3), value), jnp.float32(1)), np.full((1, 3), value + 1))
    assert len(traced) == 1


def test_one_run_that_no_device_holds_is_refused_in_a_line_that_says_what_would_fit():
    program = devices.on_devices(
        each(jnp.sort),
        devices.make_layout(1, "runs", 32),
        ("run",),
        "run",
        memory=1000,
        advice="a smaller batch",
    )
    with pytest.raises(UserError, match=r"not enough memory on cpu: one run takes .* GiB are free .*smaller batch$"):
        program(np.zeros((1, 3, 640), np.float32))
    assert program.compile(np.zeros((1, 3, 32), np.float32))[1] >= 1


def test_a_gpu_computes_a_single_run_twice_where_that_takes_little_of_it(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    own = np.random.default_rng(0).normal(size=(1, 1, 64)).astype(np.float32)
    matrix = jnp.asarray(np.random.default_rng(1).normal(size=(64, 64)), jnp.float32)
    for memory, batched in ((None, True), (10 * 64 * 64 * 4, False)):
        program = devices.on_devices(
            each(lambda own, matrix: jnp.sort(own @ matrix)),
            devices.make_layout(1, "runs", 32),
            ("run", "shared"),
            "run",
            memory=memory,
        )
        np.testing.assert_allclose(program(own, matrix), np.sort(own @ np.asarray(matrix)), atol=1e-5)
        executable, at_once = program.compile(own, matrix)
        assert at_once == 1
        assert ("f32[2,64]" in executable.as_text()) == batched
        assert len(program.made) == 1
    two = np.concatenate([own, own], axis=1)
    assert "f32[4,64]" not in program.compile(two, matrix)[0].as_text()


def test_what_was_begun_by_its_shapes_is_not_compiled_again_and_still_obeys_the_memory():
    traced = []
    own = np.random.default_rng(0).normal(size=(1, 5, 64)).astype(np.float32)
    shapes = jax.ShapeDtypeStruct(own.shape, own.dtype), jax.ShapeDtypeStruct((64,), np.float32)
    for memory, at_once in ((None, 5), (2500, 2)):
        program = devices.on_devices(
            each(lambda own, shared: traced.append(1) or jnp.sort(own * shared)),
            devices.make_layout(1, "runs", 32),
            ("run", "shared"),
            "run",
            memory=memory,
        )
        program.begin(*shapes)
        found = program(own, jnp.arange(64.0))
        np.testing.assert_array_equal(found, np.sort(own * np.arange(64, dtype=np.float32)))
        assert program.compile(own, jnp.arange(64.0))[1] in (at_once, at_once + 1)
        assert len(program.made) == 1
    assert len(traced) == 1 + 2  # for all runs, which does not fit the second time, and for as many as do
