import functools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from ser_jax.corpora.corpus import Corpus, make_corpus
from ser_jax.errors import UserError
from ser_jax.feeds import resident
from ser_jax.frontend import Frontend, place_crop, read_crop


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    rng = np.random.default_rng(0)
    lengths = [5, 40, 17, 100, 1]
    table = pd.DataFrame({"id": list("abcde"), "emotion": ["x", "y", "x", "y", "x"], "speaker": list("ppqqq")})
    waveforms = [rng.integers(-30000, 30000, length).astype(np.int16) for length in lengths]
    return make_corpus("five", table, waveforms, ("x", "y"))


def test_a_crop_is_a_stretch_of_its_utterance_and_padding_is_zero(corpus):
    data = jax.device_put(resident.make_resident(corpus, 64))
    rows = jnp.asarray([0, 1, 3])
    batch = resident.crop_batch(data, rows, jax.random.split(jax.random.key(0), 3), 32, jnp.zeros(()))
    assert batch.num_samples.tolist() == [5, 32, 32]
    assert batch.label.tolist() == [0, 1, 1]
    for row, wave, length in zip(rows.tolist(), np.asarray(batch.waveform), batch.num_samples.tolist(), strict=True):
        start = corpus.utterances["start"][row]
        own = corpus.samples[start : start + corpus.utterances["num_samples"][row]] / 32768.0
        found = [np.array_equal(own[i : i + length], wave[:length]) for i in range(len(own) - length + 1)]
        assert any(found)
        assert not wave[length:].any()


@pytest.mark.parametrize("speed", [None, 0.0, 0.2])
def test_crops_taken_one_by_one_as_on_a_cpu_are_those_taken_at_once(corpus, speed):
    data = jax.device_put(resident.make_resident(corpus, 64))
    rows, keys = jnp.asarray([3, 0, 4, 3, 1]), jax.random.split(jax.random.key(1), 5)
    speed = None if speed is None else jnp.float32(speed)
    found = jax.jit(resident.crop_batch, static_argnums=3)(data, rows, keys, 32, speed)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, 0, 0, None))
    def at_once(start, num_samples, key, speed):
        return read_crop(data.samples, start, num_samples, 32, *place_crop(num_samples, 32, key, speed))

    waveform, num_samples = at_once(data.start[rows], data.num_samples[rows], keys, speed)
    np.testing.assert_array_equal(found.waveform, waveform)
    np.testing.assert_array_equal(found.num_samples, num_samples)


@pytest.mark.parametrize("speed", [None, 0.5])
def test_tracks_are_read_when_the_samples_of_the_crop_were_spoken(speed):
    """Samples are their own places, and so are the tracks, every 8 ms: 128 samples."""
    places = jnp.arange(8000)
    tracks = resident.Tracks(jnp.arange(0.0, 8000, 128)[:, None], jnp.zeros(1, int), jnp.array([63]), jnp.float32(8))
    one = resident.Resident(
        places.astype(jnp.int16), jnp.zeros(1, int), jnp.array([8000]), jnp.zeros(1, int), tracks=tracks
    )
    keys = jax.random.split(jax.random.key(0), 4)
    frontend = Frontend(hop_ms=10.0)
    batch = resident.crop_batch(one, jnp.zeros(4, int), keys, 3200, speed and jnp.float32(speed), frontend)
    np.testing.assert_allclose(batch.tracks[:, :-1, 0], batch.waveform[:, ::160] * 32768, rtol=1e-5, atol=0.01)
    rates = np.diff(batch.tracks[:, :2, 0]) / 160
    if speed:
        assert (np.abs(rates - 1) > 0.02).all()
    else:
        np.testing.assert_allclose(rates, 1, rtol=1e-5)


def test_a_row_that_only_fills_the_batch_up_has_no_samples_and_no_weight(corpus):
    data = jax.device_put(resident.make_resident(corpus, 64))
    keys = jax.random.split(jax.random.key(0), 2)
    batch = resident.crop_batch(data, jnp.asarray([3, -1]), keys, 32, jnp.zeros(()))
    assert batch.weight.tolist() == [1.0, 0.0]
    assert batch.num_samples.tolist() == [32, 0]
    assert not batch.waveform[1].any()


def test_a_window_holds_its_samples_scaled_to_one_and_zeros_after_them(corpus):
    data = jax.device_put(resident.make_resident(corpus, 64))
    start = corpus.utterances["start"][2]
    batch = resident.window_batch(data, jnp.asarray([start, 0]), jnp.asarray([17, 0]), 20)
    np.testing.assert_array_equal(batch.waveform[0, :17], corpus.samples[start : start + 17] / np.float32(32768))
    assert not batch.waveform[0, 17:].any()
    assert not batch.waveform[1].any()
    assert batch.weight.tolist() == [1.0, 0.0]


def test_more_samples_than_32_bit_integers_address_are_refused(corpus):
    with pytest.raises(UserError, match=r"five: .* 2\^31"):
        resident.make_resident(corpus, 2**31)
