"""What of a corpus lies on the devices: the samples once, and every frame of an utterance counted once."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from ser_jax.corpora.corpus import make_corpus, waveform
from ser_jax.frontend import Frontend, feature_sums
from ser_jax.frontend.statistics import fold_statistics
from ser_jax.inference import tables
from ser_jax.training import data as data_module
from ser_jax.training import loop
from ser_jax.training.data import utterance_sums
from ser_jax.training.population import initial_state
from tests.training.tiny import tiny_corpus, tiny_population

LENGTHS = [700, 16_000, 40_123, 3_200, 9_599]


@pytest.fixture(scope="module")
def data():
    return tiny_corpus()


@pytest.fixture(scope="module")
def corpus():
    rng = np.random.default_rng(0)
    names = [f"u{i}" for i in range(len(LENGTHS))]
    table = pd.DataFrame({"id": names, "emotion": ["x", "y", "x", "y", "x"], "speaker": list("ppqqq")})
    waveforms = [(3000 * rng.normal(size=length)).astype(np.int16) for length in LENGTHS]
    return make_corpus("five", table, waveforms, ("x", "y"))


def whole(corpus, frontend):
    """The sums over each utterance in one piece."""
    found = []
    for row in range(len(corpus.utterances)):
        samples = jnp.asarray(waveform(corpus, row), jnp.float32)[None] / 32768
        found.append(jax.tree.map(np.asarray, feature_sums(frontend, samples, jnp.asarray([samples.shape[1]]))))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *found)


@pytest.mark.parametrize("kind", ["log_mel", "functionals"])
def test_sums_are_over_each_whole_utterance(corpus, kind):
    frontend = Frontend(kind=kind, normalization="train", num_mels=16)
    expected, found = whole(corpus, frontend), utterance_sums(corpus, frontend)
    np.testing.assert_array_equal(found.count, expected.count)
    np.testing.assert_allclose(found.total, expected.total, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(found.squares, expected.squares, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("seconds", [0.1, 0.3, 1.0])
def test_every_frame_of_a_long_utterance_is_counted_once_whatever_the_pieces(corpus, monkeypatch, seconds):
    frontend = Frontend(normalization="train", num_mels=16)
    expected = whole(corpus, frontend)
    monkeypatch.setattr(data_module, "_SUM_SECONDS", seconds)
    found = utterance_sums(corpus, frontend)
    np.testing.assert_array_equal(found.count, expected.count)
    every = np.arange(len(LENGTHS))
    own, other = (fold_statistics(sums, every) for sums in (found, expected))
    np.testing.assert_allclose(own.mean, other.mean, atol=0.3 if seconds < 0.2 else 0.1)  # frames at the pieces' ends


def test_how_a_variant_is_evaluated_has_no_part_in_what_it_is_trained_on(data):
    """Windows of 0.3 s overlap; those of 5 s hold each utterance whole."""
    states = [initial_state(tiny_population(*data, evaluation={"window_seconds": seconds})) for seconds in (0.3, 5.0)]
    jax.tree.map(np.testing.assert_array_equal, *(state.feature_statistics for state in states))


def test_samples_lie_on_each_device_once_while_variants_of_all_kinds_train_and_predict(data, tmp_path):
    """Also while the populations before are still there."""
    corpus, protocol = data

    def places_of_samples():
        return {
            (shard.device, shard.data.unsafe_buffer_pointer())
            for array in jax.live_arrays()
            if array.dtype == np.int16 and array.size >= len(corpus.samples) / 2
            for shard in array.addressable_shards
        }

    before, cache, populations = places_of_samples(), {}, []
    for number, normalization in enumerate(("speaker", "train", "utterance")):
        frontend = {"normalization": normalization, "hop_ms": (40.0, 20.0)[number % 2]}
        populations.append(tiny_population(corpus, protocol, cache=cache, frontend=frontend))
        state, _ = loop.train(populations[-1], tmp_path / normalization)
        tables.test_predictions(populations[-1], state, normalization)
    devices = [device for device, _ in places_of_samples() - before]
    assert sorted(devices, key=str) == sorted(populations[0].layout.devices, key=str)


def test_statistics_of_speakers_lie_beside_the_samples_for_each_frontend(data):
    cache = {}
    first, second = (
        tiny_population(*data, cache=cache, frontend={"normalization": "speaker", "hop_ms": hop}).resident
        for hop in (40.0, 20.0)
    )
    assert first.statistics is not second.statistics
    assert tiny_population(*data, cache=cache, frontend={"normalization": "utterance"}).resident.statistics is None


def test_what_no_later_variant_asks_for_is_not_kept(data):
    cache = {}
    for hop in (40.0, 20.0):
        population = tiny_population(*data, cache=cache, frontend={"normalization": "speaker", "hop_ms": hop})
        assert population.resident.statistics is cache["statistics"][1]
    before = cache["samples"][1].samples
    trimmed = tiny_population(*data, cache=cache, frontend={"trim_db": 20.0}).resident
    assert cache["samples"][1].samples is trimmed.samples
    held = [kept for name, kept in cache.items() if isinstance(kept, tuple) and name != "samples"]
    assert not any(leaf is before for kept in held for leaf in jax.tree.leaves(kept))


def test_the_one_before_is_let_go_before_the_next_is_made():
    cache, seen = {}, []
    data_module.latest(cache, "a", (1,), lambda: "first")
    data_module.latest(cache, "a", (2,), lambda: seen.append(dict(cache)) or "second")
    assert seen == [{}]
    assert data_module.latest(cache, "a", (2,), lambda: pytest.fail("made again")) == "second"
