from types import SimpleNamespace

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings

from ser_jax.corpora.corpus import Corpus, make_corpus
from ser_jax.feeds import resident
from ser_jax.frontend import Frontend
from ser_jax.inference import predict
from ser_jax.inference.windows import Windows, cut_windows, evaluation_windows, timeline_windows
from ser_jax.training.population import Population
from ser_jax.training.state import State


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    rng = np.random.default_rng(0)
    lengths = [5, 40, 17, 100, 1]
    table = pd.DataFrame({"id": list("abcde"), "emotion": ["x", "y", "x", "y", "x"], "speaker": list("ppqqq")})
    waveforms = [rng.integers(-30000, 30000, length).astype(np.int16) for length in lengths]
    return make_corpus("five", table, waveforms, ("x", "y"))


@given(st.integers(1, 60), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_windows_cover_every_sample_of_every_utterance_and_no_other(corpus, window, batch_size):
    covered = {row: np.zeros(n, bool) for row, n in enumerate(corpus.utterances["num_samples"])}
    for table in evaluation_windows(corpus, range(5), window, batch_size, 3):
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
        for table in evaluation_windows(corpus, range(5), window, batch_size, num_batches, **options):
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


@given(st.integers(1, 60))
@settings(max_examples=10, deadline=None)
def test_windows_cut_on_the_host_are_those_of_the_corpus_on_the_device(corpus, window):
    data = jax.device_put(resident.make_resident(corpus, 64))
    for table in evaluation_windows(corpus, range(5), window, 2, 3):
        moved, alone = cut_windows(corpus, table, window)
        for number in range(3):
            expected, found = (
                resident.window_batch(jax.device_put(where), jnp.asarray(own.start[number]), length, window)
                for where, own in ((data, table), (alone, moved))
                for length in (jnp.asarray(table.num_samples[number]),)
            )
            jax.tree.map(np.testing.assert_array_equal, found, expected)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60))
@settings(max_examples=40, deadline=None)
@example(40, 10, 10)  # the last window begins at a hop
@example(7, 10, 5)
def test_windows_of_a_timeline_begin_every_hop_and_end_with_the_recording(length, window, hop):
    table = pd.DataFrame({"id": ["a"], "emotion": ["x"], "speaker": ["p"]})
    cut = timeline_windows(make_corpus("one", table, [np.zeros(length, np.int16)], ("x", "y")), window, hop).utterances
    starts = cut["start"].to_numpy()
    assert starts[0] == 0 and starts[-1] == max(length - window, 0)
    assert (np.diff(starts)[:-1] == hop).all() and ((np.diff(starts) > 0) & (np.diff(starts) <= hop)).all()
    assert set(cut["num_samples"]) == {min(window, length)} and cut["id"].is_unique


def test_tracks_of_windows_lie_where_the_windows_begin(corpus, monkeypatch):
    hop, window = 8, 30

    def told(*_):
        for table in evaluation_windows(corpus, range(5), window, 2, 3):
            own = [column.ravel()[table.utterance.ravel() >= 0] for column in (table.start, table.num_samples)]
            rows = table.utterance.ravel()[table.utterance.ravel() >= 0]
            places = (own[0] - corpus.utterances["start"].to_numpy()[rows])[:, None] / hop + np.arange(4)
            yield 0, Windows(*own, rows), None, None, places[..., None]

    monkeypatch.setattr(predict, "_evaluated_windows", told)
    frontend = Frontend(sample_rate=8000, fmax=4000.0, hop_ms=1.0)
    parts = {"learner": SimpleNamespace(frontend=frontend), "targets": SimpleNamespace(track_names=("place",))}
    parts |= {"corpus": corpus, "programs": SimpleNamespace(evaluate=None)}
    population = object.__new__(type("Told", (Population,), parts))
    (found,) = predict.evaluate_tracks(population, object.__new__(State), [np.arange(5)])
    for values, length in zip(found, corpus.utterances["num_samples"], strict=True):
        expected = np.arange(1 + length // hop)
        np.testing.assert_allclose(values[:-1, 0], expected[:-1], atol=0.5)  # windows begin between frames
        assert abs(values[-1, 0] - expected[-1]) < 1, "a last frame that no window has is like the one before it"
