"""A training by either feed is the same training, and goes on where it was to the last sample."""

import hashlib
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax import config as configuration
from ser_jax.errors import UserError
from ser_jax.feeds.choice import choose_feed
from ser_jax.feeds.resident import crop_batch
from ser_jax.inference import tables
from ser_jax.training import devices, loop
from ser_jax.training import population as populations
from ser_jax.training.population import make_population
from tests.training.tiny import CONFIG, tiny_corpus, tiny_population


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return (*tiny_corpus(), str(tmp_path_factory.mktemp("data")))


def population_of(data, feed, **changes):
    corpus, protocol, data_dir = data
    settings = configuration.merge(CONFIG, {"feed": feed, "training": {"train_steps": 12, "validate_steps": 6}})
    settings = configuration.merge(settings, changes)
    return make_population(settings, corpus, protocol, data_dir=data_dir)


def leaves(state, runs):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(devices.gather(state, runs))]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"order": {"lanes": 2, "window": 3}},
        {"folds": [1], "training": {"batch_size": 8, "split": "batch"}, "order": {"lanes": 4}},
        {"folds": [1], "training": {"batch_size": 8, "split": "batch"}},
    ],
    ids=["runs over devices", "lanes and windows", "a shared batch with lanes", "a shared batch of one lane"],
)
def test_a_training_by_either_feed_is_the_same(data, tmp_path, changes):
    states, predicted, logs = [], [], []
    for feed in ("resident", "streaming"):
        population = population_of(data, feed, **changes)
        assert population.feed == feed
        state, _ = loop.train(population, tmp_path / feed)
        states.append(leaves(state, len(population.runs)))
        predicted.append(tables.test_predictions(population, state, "tiny"))
        logs.append((tmp_path / feed / "log.jsonl").read_text().count("\n"))
    for resident, streamed in zip(*states, strict=True):
        np.testing.assert_allclose(streamed, resident, rtol=1e-6, atol=1e-7)
    probabilities = [table.filter(like="p_").to_numpy() for table in predicted]
    np.testing.assert_allclose(probabilities[1], probabilities[0], atol=1e-6)
    assert min(logs) > 2


@pytest.mark.parametrize("feed", ["resident", "streaming"])
def test_a_training_cut_short_ends_as_if_it_had_not_been(data, tmp_path, feed):
    population = population_of(data, feed)
    whole, _ = loop.train(population, tmp_path / "whole")

    def interrupt(entry):
        if entry["step"] in (2, 7):
            os.kill(os.getpid(), signal.SIGINT)

    while True:
        try:
            resumed, _ = loop.train(population, tmp_path / "cut", report=interrupt)
        except KeyboardInterrupt:
            continue
        break
    for a, b in zip(leaves(whole, 3), leaves(resumed, 3), strict=True):
        np.testing.assert_array_equal(a, b)


def hashes(population, cuts, steps):
    """A hash of every batch of every run, its crops too, of a feed that is opened anew at each of the `cuts`."""
    found = []
    ends = [*cuts[1:], steps]
    for begin, end in zip(cuts, ends, strict=True):
        feed = populations.training_feed(population, begin)
        step = begin
        while step < end:
            piece = feed.take(min(end - step, 3))
            for number in range(piece.count):
                for run in range(len(population.runs)):
                    own = piece.resident
                    if population.feed == "streaming":
                        own = jax.tree.map(lambda leaf, run=run: leaf[0, run], own)
                    batch = crop(own, piece.rows[0, run, number], run, step + number)
                    found.append(hashlib.sha256(b"".join(leaf.tobytes() for leaf in batch)).hexdigest())
            step += piece.count
        feed.close()
    return found


@jax.jit
def _crop(resident, rows, run, step):
    keys = jax.random.split(jax.random.fold_in(jax.random.key(run), step), len(rows))
    batch = crop_batch(resident, rows, keys, 4000, jnp.float32(0.1))
    return batch.waveform, batch.num_samples, batch.label, batch.weight


def crop(resident, rows, run, step):
    return [np.asarray(part) for part in _crop(resident, rows, run, step)]


@pytest.mark.parametrize("feed", ["resident", "streaming"])
def test_a_crop_longer_than_all_windows_has_zeros_after_the_last_utterance(data, feed):
    population = population_of(data, feed, training={"crop_seconds": 40.0}, evaluation={"window_seconds": 0.5})
    utterances = data[0].utterances
    piece = populations.training_feed(population, 0).take(1)
    own = jax.tree.map(lambda leaf: jnp.asarray(leaf[0, 0] if feed == "streaming" else leaf), piece.resident)
    rows = piece.rows[0, 0, 0]
    if feed == "resident":
        rows = np.full_like(rows, len(utterances) - 1)
    crop_samples = population.learner.crop_samples
    batch = crop_batch(own, jnp.asarray(rows), jax.random.split(jax.random.key(0), len(rows)), crop_samples, None)
    assert crop_samples > utterances["num_samples"].max()
    samples, length = np.asarray(own.samples), own.num_samples[rows[-1]]
    last = samples[own.start[rows[-1]] :][:length]
    assert np.abs(last).max() > 1000
    np.testing.assert_array_equal(batch.waveform[-1, :length] * 32768, last)
    assert not batch.waveform[-1, length:].any()


@given(st.lists(st.integers(1, 29), max_size=3, unique=True))
@settings(max_examples=2, deadline=None)
def test_batches_after_restarts_are_those_that_would_have_been(data, cuts):
    expected = hashes(population_of(data, "resident"), [0], 30)
    assert len(set(expected)) == len(expected)
    for feed in ("resident", "streaming"):
        assert hashes(population_of(data, feed), sorted([0, *cuts]), 30) == expected


@pytest.mark.parametrize(
    ("asked", "limits", "only_resident", "message"),
    [
        (
            "auto",
            {"memory": 1},
            "tracks",
            r"takes .* free on each device, and tracks cannot be streamed; expected a smaller",
        ),
        ("resident", {"memory": 1}, "tracks", "and tracks cannot be streamed; expected a smaller corpus"),
        ("auto", {"longest_read": 2**31}, "tracks", r"fewer than 2\^31 can be numbered, and tracks cannot be streamed"),
        ("resident", {"memory": 1}, "", "config.feed=resident: corpus synthetic takes .*; expected auto or streaming"),
        ("resident", {"longest_read": 2**31}, "", r"config.feed=resident: .* 2\^31 .*; expected auto or streaming"),
    ],
)
def test_what_no_feed_can_bring_is_refused_and_nobody_is_sent_in_a_circle(data, asked, limits, only_resident, message):
    corpus, *_ = data
    with pytest.raises(UserError, match=message) as refused:
        choose_feed(asked, corpus, **{"longest_read": 100, "memory": 2**60} | limits, only_resident=only_resident)
    assert not (only_resident and "config.feed" in str(refused.value))


def test_the_feed_is_chosen_by_what_fits(data):
    corpus, *_ = data
    size = corpus.samples.nbytes
    assert choose_feed("auto", corpus, longest_read=100, memory=3 * size)[0] == "resident"
    feed, reason = choose_feed("auto", corpus, longest_read=100, memory=size)
    assert feed == "streaming"
    assert "corpus synthetic takes" in reason
    feed, reason = choose_feed("auto", corpus, longest_read=2**31, memory=2**60)
    assert feed == "streaming"
    assert "2^31" in reason
    assert choose_feed("streaming", corpus, longest_read=100, memory=3 * size)[0] == "streaming"
    assert choose_feed("auto", corpus, longest_read=100, memory=2 * size, only_resident="tracks")[0] == "resident"
    with pytest.raises(UserError, match="tracks cannot be streamed"):
        choose_feed("streaming", corpus, longest_read=100, memory=1, only_resident="tracks")


def test_the_feed_is_chosen_once_by_what_is_free_beside_a_corpus_that_lies_there(data, monkeypatch):
    corpus, protocol, *_ = data
    free, kept, cache = 2**30, [], {}
    monkeypatch.setattr(devices, "free_memory", lambda _, own: kept.append(own) or free)

    def chosen(**changes):
        return tiny_population(corpus, protocol, cache=cache, **changes)

    samples = chosen().resident.samples
    assert kept == [None]
    free = 1000
    assert chosen(frontend={"hop_ms": 20.0}).feed == "resident"
    with pytest.raises(UserError, match="free on each device"):
        chosen(feed="resident")
    assert len(kept) == 2 and kept[1][1].samples is samples
    cache = {}
    assert chosen().feed == "streaming"
