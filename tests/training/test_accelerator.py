"""What an accelerator computes, computed here: runs batched by `vmap`, spectra as products, nothing kept for a CPU."""

import jax
import numpy as np
import pytest

from ser_jax.inference import tables
from ser_jax.models import FAMILIES
from ser_jax.training import devices
from ser_jax.training import population as populations
from tests.training.tiny import tiny_corpus, tiny_population


@pytest.fixture(scope="module")
def data():
    return tiny_corpus()


def first_steps(data, model, calls):
    """What the calls say of every run, the steps that they made, and what the runs then say of their test folds."""
    population = tiny_population(*data, model=model, seeds=[0, 1], folds=[0, 2], feed="resident")
    assert population.layout.groups == 1
    state = populations.initial_state(population)
    losses, steps = [], []
    feed = populations.training_feed(population, 0)
    for count in calls:
        state, sums = populations.train_steps(population, state, populations.to_devices(population, feed.take(count)))
        sums, state_steps = devices.gather((sums, state.step), len(population.runs))
        losses.append(sums["loss"] / sums["weight"])
        steps.append((sums["steps"], state_steps))
    return np.stack(losses), np.array(steps), tables.test_predictions(population, state, "variant")


@pytest.mark.parametrize(
    ("name", "calls"),  # steps of a call: less than a pass of an accelerator's loop, and more
    [("cnn", (1, 5)), ("attention_rnn", (5,)), ("shufflenet_v2", (5,))],
)
def test_runs_batched_as_on_an_accelerator_train_as_they_do_one_after_another(data, name, calls, monkeypatch):
    model = {"name": name, **FAMILIES[name].tiny}
    one_device = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: one_device)
    expected, steps, expected_table = first_steps(data, model, calls)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    found, found_steps, found_table = first_steps(data, model, calls)
    assert np.unique(expected.round(4)).size == expected.size  # the runs differ
    np.testing.assert_array_equal(steps[..., 0].T, [calls, np.cumsum(calls)])
    np.testing.assert_array_equal(found_steps, steps)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    classes = [column for column in expected_table if column.startswith("p_")]
    assert classes
    np.testing.assert_allclose(found_table[classes], expected_table[classes], atol=1e-3)


def test_first_parameters_are_drawn_on_the_host_whatever_the_runs_compute_on(data, monkeypatch):
    population, used = tiny_population(*data), []
    draw = devices.HostProgram.__call__

    def recorded(*arguments):
        state = draw(*arguments)
        used.extend(leaf.devices() for leaf in jax.tree.leaves(state))
        return state

    assert devices.host() == jax.devices("cpu")[0]
    other = jax.devices()[3]
    monkeypatch.setattr(devices, "host", lambda: other)
    expected = populations.initial_state(population).parameters
    monkeypatch.setattr(devices.HostProgram, "__call__", recorded)
    found = populations.initial_state(population).parameters
    assert used
    assert all(where == {other} for where in used)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
