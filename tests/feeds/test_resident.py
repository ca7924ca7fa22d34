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


def test_a_row_that_only_fills_the_batch_up_has_no_samples_and_no_weight(corpus):
    data = jax.device_put(resident.make_resident(corpus, 64))
    keys = jax.random.split(jax.random.key(0), 2)
    batch = resident.crop_batch(data, jnp.asarray([3, -1]), keys, 32, jnp.zeros(()))
    assert batch.weight.tolist() == [1.0, 0.0]
    assert batch.num_samples.tolist() == [32, 0]
    assert not batch.waveform[1].any()


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


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_batches_of_one_speaker_hold_the_same_windows(corpus, window, batch_size, num_batches):
    def batches(**options):
        for table in resident.evaluation_windows(corpus, range(5), window, batch_size, num_batches, **options):
            for batch in zip(table.start, table.num_samples, table.utterance, strict=True):
                yield [place for place in zip(*batch, strict=True) if place[2] >= 0]

    speakers, found = corpus.utterances["speaker"], [batch for batch in batches(of_one_speaker=True) if batch]
    assert sorted(place for batch in found for place in batch) == sorted(
        place for batch in batches() for place in batch
    )
    of = [{speakers[row] for *_, row in batch} for batch in found]
    assert all(len(names) == 1 for names in of)
    for name in set(speakers):
        sizes = [len(batch) for batch, names in zip(found, of, strict=True) if names == {name}]
        assert len(sizes) == -(-sum(sizes) // batch_size)
        assert max(sizes) - min(sizes) <= 1


def test_a_window_holds_its_samples_scaled_to_one_and_zeros_after_them(corpus):
    data = jax.device_put(resident.make_resident(corpus, 64))
    start = corpus.utterances["start"][2]
    batch = resident.window_batch(data, jnp.asarray([start, 0]), jnp.asarray([17, 0]), 20)
    np.testing.assert_array_equal(batch.waveform[0, :17], corpus.samples[start : start + 17] / np.float32(32768))
    assert not batch.waveform[0, 17:].any()
    assert not batch.waveform[1].any()
    assert batch.weight.tolist() == [1.0, 0.0]


@given(st.integers(1, 60))
@settings(max_examples=10, deadline=None)
def test_windows_cut_on_the_host_are_those_of_the_corpus_on_the_device(corpus, window):
    data = jax.device_put(resident.make_resident(corpus, 64))
    for table in resident.evaluation_windows(corpus, range(5), window, 2, 3):
        moved, alone = resident.cut_windows(corpus, table, window)
        for number in range(3):
            expected, found = (
                resident.window_batch(jax.device_put(where), jnp.asarray(own.start[number]), length, window)
                for where, own in ((data, table), (alone, moved))
                for length in (jnp.asarray(table.num_samples[number]),)
            )
            jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_more_samples_than_32_bit_integers_address_are_refused(corpus):
    with pytest.raises(UserError, match=r"five: .* 2\^31"):
        resident.make_resident(corpus, 2**31)
