"""Devices that share a batch, and batches seen in parts, make the parameters that one device makes of the whole."""

import dataclasses
import functools
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ser_jax import config as configuration
from ser_jax import machine
from ser_jax.errors import UserError
from ser_jax.inference import tables
from ser_jax.training import devices, loop, programs
from ser_jax.training import population as populations
from ser_jax.training.step import train_step
from tests.training import tiny
from tests.training.tiny import tiny_corpus, tiny_population, vectors

BATCH, STEPS = 16, 20
MODELS = {
    "tcn": {"width": 8, "levels": 1},  # with batch normalisation
    "rnn": {"hidden": 8},  # without
    "cnn": {"width": 4, "attention": "eca"},
}


@pytest.fixture(scope="module")
def data():
    return tiny_corpus()


def population_of(data, model="tcn", split="runs", accumulate=1, **changes):
    """One run with every augmentation that mixes or moves rows, over all devices or on the first."""
    return tiny_population(
        *data,
        model={"name": model, **MODELS[model]},
        folds=[0],
        training={"batch_size": BATCH, "train_steps": STEPS, "split": split, "accumulate": accumulate},
        augmentation={"speed": 0.1, "gain": 6.0, "noise": 0.5, "spec_augment": 0.5, "mixup": 1.0},
        **changes,
    )


def rows_of(population):
    """The batches of all steps; the last of every five is only partly full."""
    rows = populations.training_feed(population, 0).take(STEPS).rows
    rows = rows.reshape(-1, *rows.shape[1:]) if population.layout.parts == 1 else np.concatenate(rows, -1)[None]
    rows = rows.copy()
    rows[:, :, 4:STEPS:5, BATCH // 2 - 3 :] = -1
    return rows


def trained(population, num_devices=None, steps=STEPS):
    """The state after all steps, as one run's arrays on the host, and the sums of the metrics."""
    rows = rows_of(population)
    if num_devices is None:
        layout = population.layout
    else:
        layout = devices.Layout(tuple(jax.devices()[:num_devices]), shares_batch=True)
    program = devices.on_devices(
        functools.partial(programs._train_steps, population.learner),
        layout,
        ("run", "run", "part", "shared", "shared", "shared"),
        "run",
    )
    parts = np.stack(np.split(rows[0], layout.parts, axis=-1))
    state = populations.initial_state(population)
    resident = devices.replicate(jax.device_get(population.resident), layout.devices)
    state, sums = program(state, population.run_values, parts, jnp.int32(steps), resident, None)
    return jax.tree.map(np.asarray, (devices.gather(state, 1), devices.gather(sums, 1)))


@pytest.fixture(scope="module")
def alone(data):
    """One device, whole batches."""
    return {model: trained(population_of(data, model)) for model in ("tcn", "rnn")}


def assert_close(found, expected, tolerance=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=tolerance), found, expected)


@pytest.mark.parametrize("num_devices", [1, 2, 8])
def test_devices_that_share_a_batch_make_the_parameters_of_one(data, alone, num_devices):
    found = trained(population_of(data, split="batch"), num_devices)
    assert_close(found, alone["tcn"])
    begun = vectors(populations.initial_state(population_of(data)).parameters, 1)
    assert np.abs(vectors(found[0].parameters, 1) - begun).max() > 1e-2


def test_devices_that_share_a_batch_have_the_gradients_of_one(data):
    """Of a network in which rounding grows: the parameters after all steps say less."""
    one, shared = (
        trained(population_of(data, "cnn", split), devices, steps=1)[0]
        for split, devices in (("runs", None), ("batch", 4))
    )
    moment, expected = (vectors(state.optimizer[1][0].mu, 1) for state in (shared, one))
    assert np.abs(expected).max() > 1e-2
    np.testing.assert_allclose(moment, expected, atol=5e-7)
    assert_close(shared.batch_stats, one.batch_stats, 1e-6)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_a_batch_seen_in_parts_makes_the_parameters_of_the_whole(data, alone, accumulate):
    """Of a model without batch normalisation, which sees the statistics of each part."""
    assert_close(trained(population_of(data, "rnn", accumulate=accumulate)), alone["rnn"])


def test_devices_and_parts_together_make_the_parameters_of_one(data, alone):
    assert_close(trained(population_of(data, "rnn", "batch", accumulate=2), 4), alone["rnn"])


def test_batch_normalisation_takes_the_statistics_of_every_part(data, alone):
    found, _ = trained(population_of(data, accumulate=2))
    assert np.isfinite(vectors(found.parameters, 1)).all()
    assert np.abs(vectors(found.batch_stats, 1) - vectors(alone["tcn"][0].batch_stats, 1)).max() > 1e-3


def test_the_twin_whose_sharding_the_compiler_chooses_agrees(data, alone):
    """`jit` over a batch that lies on all devices, with no word of devices in the step."""
    population = population_of(data)
    mesh = Mesh(np.asarray(jax.devices()), ("batch",))
    by_rows, everywhere = NamedSharding(mesh, PartitionSpec("batch")), NamedSharding(mesh, PartitionSpec())
    state, run, resident = jax.device_put(
        (
            jax.tree.map(lambda leaf: leaf[0, 0], populations.initial_state(population)),
            jax.tree.map(lambda leaf: leaf[0, 0], population.run_values),
            jax.device_get(population.resident),
        ),
        everywhere,
    )
    step = jax.jit(functools.partial(train_step, population.learner))
    for rows in rows_of(population)[0, 0, :STEPS]:
        state, _ = step(state, run, jax.device_put(rows, by_rows), resident)
        jax.block_until_ready(state)  # sharded loops abort with many steps in flight (docs/scaling.md)
    assert_close(vectors(state.parameters, 1), vectors(alone["tcn"][0].parameters, 1))


def test_a_single_run_shares_its_batches_among_all_devices_and_predicts_the_same(data, tmp_path):
    found = []
    assert population_of(data, split="auto").layout.parts == 8
    for split in ("runs", "batch"):
        population = population_of(data, split=split)
        state, _ = loop.train(population, tmp_path / split)
        found.append(tables.test_predictions(population, state, "one"))
    one, shared = found
    assert (shared["utterance"] == one["utterance"]).all()
    np.testing.assert_allclose(shared.filter(like="p_"), one.filter(like="p_"), atol=1e-4)


def test_a_training_goes_on_with_another_number_of_devices(data, tmp_path):
    whole, _ = loop.train(population_of(data, split="runs"), tmp_path / "whole")
    short = population_of(data, split="batch")

    def interrupt(entry):
        if entry["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        loop.train(short, tmp_path / "cut", report=interrupt)
    assert 0 < loop.restore(short, tmp_path / "cut").step.max() < STEPS
    resumed, _ = loop.train(population_of(data, split="runs"), tmp_path / "cut")
    assert_close(vectors(resumed.parameters, 1), vectors(whole.parameters, 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"batch_size": 12, "split": "batch"}}, r"batch_size: 12 does not divide by the 8 devices"),
        ({"training": {"batch_size": 12, "split": "runs", "accumulate": 5}}, r"accumulate: 5 does not divide the 12"),
        ({"order": {"lanes": 3}}, r"lanes: 3 does not divide the batch of 4"),
    ],
)
def test_what_does_not_divide_is_refused(data, changes, message):
    with pytest.raises(UserError, match=message):
        tiny_population(*data, **changes)


def test_a_lane_without_an_utterance_to_train_on_is_refused(data):
    corpus, protocol = data
    few = dataclasses.replace(protocol.folds[0], train=protocol.folds[0].train[:3])
    with pytest.raises(UserError, match=r"lanes: found 4; lane \d has none of the 3 utterances that fold"):
        tiny_population(corpus, dataclasses.replace(protocol, folds=(few,)), order={"lanes": 4})


def test_windows_that_memory_cannot_hold_are_refused(data, monkeypatch):
    corpus, protocol = data
    monkeypatch.setattr(machine, "memory", lambda: 409_600)
    with pytest.raises(UserError, match=r"window: 8192 utterances for each of 3 runs and 1 lanes take 0\.0 GiB"):
        tiny_population(corpus, protocol, feed="streaming")


@pytest.mark.parametrize("feed", ["resident", "streaming"])
@pytest.mark.parametrize("split", ["runs", "batch"])
def test_a_placed_piece_is_on_its_devices_before_a_program_asks_for_it(data, tmp_path, feed, split):
    training = {"batch_size": BATCH, "split": split}
    corpus, protocol = data
    config = configuration.merge(tiny.CONFIG, {"feed": feed, "training": training})
    population = populations.make_population(config, corpus, protocol, data_dir=str(tmp_path))
    layout = population.layout
    piece = populations.training_feed(population, 0).take(2)
    placed = populations.to_devices(population, piece)
    brought = [(piece.rows, placed.rows)]
    if feed == "streaming":
        brought += zip(jax.tree.leaves(piece.resident), jax.tree.leaves(placed.resident), strict=True)
    for on_host, on_devices in brought:
        laid = devices.spread_parts(on_host, layout)
        assert [shard.device for shard in on_devices.addressable_shards] == list(layout.devices)
        for own, shard in zip(laid, on_devices.addressable_shards, strict=True):
            np.testing.assert_array_equal(shard.data[0], own)


def test_runs_that_do_not_divide_by_the_devices_give_what_one_device_gives(data):
    """Nine runs on eight devices, and the same on one."""
    everywhere = tiny_population(*data, seeds=[0, 1, 2], folds=[0, 1, 2])
    assert everywhere.layout.groups == 8
    layout = devices.Layout((jax.devices()[0],))
    alone = devices.on_devices(
        functools.partial(programs._train_steps, everywhere.learner),
        layout,
        ("run", "run", "part", "shared", "shared", "shared"),
        "run",
    )
    piece = populations.training_feed(everywhere, 0).take(6)
    placed = populations.to_devices(everywhere, piece)
    state, sums = populations.train_steps(everywhere, populations.initial_state(everywhere), placed)
    one = jax.tree.map(lambda leaf: devices.spread(devices.gather(leaf, 9), 1), populations.initial_state(everywhere))
    key = devices.spread(devices.gather(jax.random.key_data(everywhere.run_values.key), 9), 1)
    run = jax.tree.map(
        lambda leaf: devices.spread(devices.gather(leaf, 9), 1),
        everywhere.run_values.replace(key=0.0 * np.zeros((8, 2))),
    ).replace(key=jax.random.wrap_key_data(jnp.asarray(key)))
    resident = jax.device_get(everywhere.resident)
    found = alone(one, run, devices.spread_parts(piece.rows, layout), jnp.int32(6), resident, None)
    for a, b in zip(
        jax.tree.leaves(devices.gather(found, 9)), jax.tree.leaves(devices.gather((state, sums), 9)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
