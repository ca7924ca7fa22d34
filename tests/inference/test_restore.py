"""A network is restored from its checkpoint alone: no corpus, no folds."""

import jax
import numpy as np
import pytest

from ser_jax.errors import UserError
from ser_jax.inference.restore import network_of, restore_network
from ser_jax.models import FAMILIES
from ser_jax.training import checkpoints, devices, loop
from ser_jax.training.population import describe, initial_state
from ser_jax.training.state import for_evaluation
from tests.training.tiny import tiny_corpus, tiny_population


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A population with batch normalisation and statistics of its training folds, its first state and its folder."""
    model = {"name": "cnn", **FAMILIES["cnn"].tiny}
    population = tiny_population(*tiny_corpus(), model=model, folds=[0, 2], seeds=[4])
    folder = tmp_path_factory.mktemp("saved")
    state = devices.gather(initial_state(population), 2)
    store = checkpoints.Checkpoints(folder / "checkpoints")
    store.save(state, describe(population))
    store.close()
    return population, state, folder, describe(population)


def test_a_restored_state_is_what_evaluation_uses_of_the_one_that_was_saved(saved):
    population, state, folder, metadata = saved
    network, found = restore_network(metadata, folder)
    jax.tree.map(np.testing.assert_array_equal, found, for_evaluation(state))
    assert found.feature_statistics.mean.shape[0] == network.num_runs == 2
    assert network.num_parameters == population.num_parameters
    assert network.frontend == population.learner.frontend
    again = devices.gather(loop.restore(population, folder), 2)
    jax.tree.map(np.testing.assert_array_equal, found, again)


def test_a_network_has_what_its_checkpoint_says_it_learnt(saved):
    *_, metadata = saved
    config = metadata["config"] | {"model": {"name": "linear"}, "objective": metadata["config"]["objective"]}
    heads = [{"source": "a", "emotions": ["anger"]}, {"source": "b", "emotions": ["anger", "sadness"]}]
    changed = metadata | {"config": config, "targets": metadata["targets"] | {"heads": heads}}
    assert network_of(metadata | {"config": config}).model.num_classes == len(metadata["corpus"]["emotions"])
    assert network_of(changed).model.num_classes == 3
    features = {"name": "x", "dims": 5, "frame_ms": 20.0, "fingerprint": ""}
    frontend = config["frontend"] | {"kind": "precomputed", "features": "x"}
    packed = metadata | {"config": config | {"frontend": frontend}}
    packed = packed | {"corpus": metadata["corpus"] | {"features": features}}
    assert (network_of(packed).frontend.dims, network_of(packed).frontend.frame_ms) == (5, 20.0)


def test_arrays_of_another_network_are_refused(saved):
    _, _, folder, metadata = saved
    other = metadata | {"config": metadata["config"] | {"model": {"name": "linear"}}}
    with pytest.raises(UserError, match="its arrays are not those of the model"):
        restore_network(other, folder)
