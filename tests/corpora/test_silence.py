import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax.corpora.corpus import waveform
from ser_jax.corpora.silence import speech_bounds, trimmed
from ser_jax.corpora.synthetic import make_synthetic

LEVELS = (0, 1, 30, 900, 30_000)


@st.composite
def recordings(draw):
    """Some stretches of noise of very different levels, and at the end a click."""
    lengths = draw(st.lists(st.integers(0, 900), min_size=1, max_size=8))
    random = np.random.default_rng(draw(st.integers(0, 9)))
    parts = [draw(st.sampled_from(LEVELS)) * random.uniform(-1, 1, length) for length in lengths]
    return np.concatenate([*parts, [1]]).astype(np.int16)


@given(samples=recordings(), trim_db=st.sampled_from([10.0, 25.0, 40.0, 60.0]))
def test_bounds_are_those_of_the_first_and_last_loud_frame(samples, trim_db):
    padded = np.pad(samples.astype(float), 256)
    power = np.array([np.mean(padded[center : center + 512] ** 2) for center in range(0, len(samples) + 1, 160)])
    loud = [frame for frame in range(len(power)) if power[frame] > power.max() * 10 ** (-trim_db / 10)]
    start, end = speech_bounds(samples, trim_db)
    assert (start, end) == (160 * loud[0], min(160 * (loud[-1] + 1), len(samples)))
    assert start < end


@settings(deadline=None)  # the first call imports more
@given(samples=recordings())
def test_bounds_are_librosa_s(samples, librosa):
    loud = 1e3 * samples.astype(float)  # librosa's floor under a power lies below all of them
    _, expected = librosa.effects.trim(loud, top_db=35.0, frame_length=512, hop_length=160)
    assert speech_bounds(samples, 35.0) == tuple(expected)


def test_without_a_sound_all_remains():
    assert speech_bounds(np.zeros(700, np.int16), 40.0) == (0, 700)


def test_a_corpus_is_trimmed_without_a_copy_and_remains_itself():
    corpus = make_synthetic("synthetic", num_speakers=2, utterances_per_speaker=6)
    cut = trimmed(corpus, 25.0)
    assert cut.samples is corpus.samples
    assert cut.fingerprint == corpus.fingerprint
    assert cut.info["trim_db"] == 25.0
    assert (cut.utterances["num_samples"] < corpus.utterances["num_samples"]).any()
    for row in range(len(corpus.utterances)):
        whole = waveform(corpus, row)
        start, end = speech_bounds(whole, 25.0)
        np.testing.assert_array_equal(waveform(cut, row), whole[start:end])
    others = [name for name in corpus.utterances if name not in ("start", "num_samples")]
    assert cut.utterances[others].equals(corpus.utterances[others])
