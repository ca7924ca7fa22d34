import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

from ser_jax.corpora.corpus import Corpus, make_corpus
from ser_jax.errors import UserError
from ser_jax.feeds import resident


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    rng = np.random.default_rng(0)
    lengths = [5, 40, 17, 100, 1]
    table = pd.DataFrame({"id": list("abcde"), "emotion": ["x", "y", "x", "y", "x"], "speaker": list("ppqqq")})
    waveforms = [rng.integers(-30000, 30000, length).astype(np.int16) for length in lengths]
    return make_corpus("five", table, waveforms, ("x", "y"))


@given(
    st.integers(0, 3), st.integers(0, 3), st.integers(2, 30), st.integers(1, 9), st.integers(0, 40), st.integers(1, 20)
)
@settings(max_examples=50, deadline=None)
def test_a_step_sees_the_same_rows_however_the_training_is_cut(seed, fold, size, batch, first, count):
    rows = np.arange(100, 100 + size)
    whole = resident.training_rows(seed, fold, rows, batch, 0, first + count)
    part = resident.training_rows(seed, fold, rows, batch, first, count)
    np.testing.assert_array_equal(part, whole[first:])


def test_every_epoch_sees_every_utterance_once_and_in_another_order():
    rows = np.arange(7)
    drawn = resident.training_rows(0, 0, rows, 4, 0, 7).reshape(4, 7)
    for epoch in drawn:
        assert sorted(epoch) == list(rows)
    assert len({tuple(epoch) for epoch in drawn}) > 1


def test_seeds_and_folds_see_different_orders():
    orders = {
        tuple(resident.training_rows(seed, fold, np.arange(20), 20, 0, 1)[0]) for seed in (0, 1) for fold in (0, 1)
    }
    assert len(orders) == 4


def test_a_crop_is_a_stretch_of_its_utterance_and_padding_is_zero(corpus):
    data = resident.make_resident(corpus, 64)
    rows = jnp.asarray([0, 1, 3])
    batch = resident.crop_batch(data, rows, jax.random.key(0), 32, jnp.zeros(()))
    assert batch.num_samples.tolist() == [5, 32, 32]
    assert batch.label.tolist() == [0, 1, 1]
    for row, wave, length in zip(rows.tolist(), np.asarray(batch.waveform), batch.num_samples.tolist(), strict=True):
        start = corpus.utterances["start"][row]
        own = corpus.samples[start : start + corpus.utterances["num_samples"][row]] / 32768.0
        found = [np.array_equal(own[i : i + length], wave[:length]) for i in range(len(own) - length + 1)]
        assert any(found)
        assert not wave[length:].any()


@given(st.integers(1, 60), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_windows_cover_every_sample_of_every_utterance_and_no_other(corpus, window, batch_size):
    covered = {row: np.zeros(n, bool) for row, n in enumerate(corpus.utterances["num_samples"])}
    for table in resident.evaluation_windows(corpus, range(5), window, batch_size, 3):
        for start, length, row in zip(
            table.start.ravel(), table.num_samples.ravel(), table.utterance.ravel(), strict=True
        ):
            if row >= 0:
                begin = start - corpus.utterances["start"][row]
                assert 0 < length <= window
                assert 0 <= begin <= len(covered[row]) - length
                covered[row][begin : begin + length] = True
    assert all(own.all() for own in covered.values())


def test_a_window_holds_its_samples_scaled_to_one_and_zeros_after_them(corpus):
    data = resident.make_resident(corpus, 64)
    start = corpus.utterances["start"][2]
    batch = resident.window_batch(data, jnp.asarray([start, 0]), jnp.asarray([17, 0]), 20)
    np.testing.assert_array_equal(batch.waveform[0, :17], corpus.samples[start : start + 17] / np.float32(32768))
    assert not batch.waveform[0, 17:].any()
    assert not batch.waveform[1].any()
    assert batch.weight.tolist() == [1.0, 0.0]


def test_more_samples_than_32_bit_integers_address_are_refused(corpus):
    with pytest.raises(UserError, match=r"five: .* 2\^31"):
        resident.make_resident(corpus, 2**31)
