import numpy as np
import pytest

from ser_jax import config as configuration
from ser_jax.corpora.features import Packed
from ser_jax.errors import UserError
from ser_jax.training.setup import make_frontend


def packed(versions, frame_ms):
    start = np.arange(3) * versions
    return Packed(np.zeros((3 * versions, 4)), start, np.full(3, versions), tuple("abcd"), frame_ms, name="states")


def test_a_network_takes_one_version_of_an_utterance():
    config = configuration.merge(configuration.default(), {"frontend": {"kind": "precomputed", "features": "states"}})
    with pytest.raises(UserError, match=r"features=states: has 5 versions of an utterance \(--speeds\)"):
        make_frontend(config, packed(5, 0.0))
    assert make_frontend(config, packed(1, 0.0)).dims == 4
    assert make_frontend(config, packed(5, 20.0)).frame_ms == 20.0
