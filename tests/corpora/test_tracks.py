"""Tracks: those of the built-in corpus say what it was made from; anybody's own are packed like features."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from ser_jax.corpora.corpus import SAMPLE_RATE, waveform
from ser_jax.corpora.features import frames, pack_features
from ser_jax.corpora.synthetic import TEXTS, make_synthetic
from ser_jax.corpora.tracks import interpolate, load_tracks
from ser_jax.errors import UserError


@pytest.fixture(scope="module")
def corpus():
    return make_synthetic("synthetic", num_speakers=3, utterances_per_speaker=16)


@pytest.fixture(scope="module")
def tracks(corpus, tmp_path_factory):
    return load_tracks(corpus, tmp_path_factory.mktemp("no_data"))


def test_the_synthetic_corpus_has_a_value_every_10_ms_from_its_first_sample_to_its_last(corpus, tracks):
    assert (tracks.names, tracks.frame_ms) == (("arousal", "valence"), 10.0)
    np.testing.assert_array_equal(tracks.num_frames, 1 + corpus.utterances["num_samples"] // 160)
    assert len(tracks.values) == tracks.num_frames.sum()
    assert np.all(np.abs(tracks.values) < 1)


def test_tracks_are_smooth_and_move_within_an_utterance(corpus, tracks):
    for i in range(len(corpus.utterances)):
        own = frames(tracks, i)
        assert np.abs(np.diff(own, axis=0)).max() < 0.15
        assert own[:, 0].std() > 0.02


def test_emotions_lie_where_the_field_puts_them(corpus, tracks):
    means = np.stack([frames(tracks, i).mean(0) for i in range(len(corpus.utterances))])
    by_emotion = pd.DataFrame(means, columns=list(tracks.names)).groupby(corpus.utterances["emotion"]).mean()
    arousal, valence = by_emotion["arousal"], by_emotion["valence"]
    assert min(arousal["anger"], arousal["happiness"]) > arousal["neutral"] > arousal["sadness"]
    assert valence["happiness"] > valence["neutral"] > valence["anger"]


def test_arousal_follows_how_loud_the_voice_is_within_the_utterance(corpus, tracks):
    correlations = []
    for i in range(len(corpus.utterances)):
        own = frames(tracks, i)[:, 0]
        power = np.square(waveform(corpus, i).astype(float) / 32768)
        loudness = np.convolve(power, np.hanning(3200), "same")[::160]
        correlations.append(np.corrcoef(own[: len(loudness)], np.sqrt(loudness[: len(own)]))[0, 1])
    assert np.median(correlations) > 0.5


def test_an_utterances_tracks_do_not_depend_on_how_many_others_there_are(corpus, tracks, tmp_path):
    few = load_tracks(make_synthetic("synthetic", num_speakers=1, utterances_per_speaker=3), tmp_path)
    np.testing.assert_array_equal(few.values, tracks.values[: len(few.values)])
    part = dataclasses.replace(corpus, utterances=corpus.utterances.iloc[[7, 2]].reset_index(drop=True))
    np.testing.assert_array_equal(frames(load_tracks(part, tmp_path), 0), frames(tracks, 7))


def test_another_seed_has_other_tracks(tmp_path):
    one, other = (make_synthetic("synthetic", num_speakers=1, utterances_per_speaker=1, seed=seed) for seed in (0, 1))
    assert not np.array_equal(load_tracks(one, tmp_path).values[:80], load_tracks(other, tmp_path).values[:80])


def test_built_in_corpora_say_their_syllables(corpus):
    for row in corpus.utterances.itertuples():
        text = TEXTS[int(row.text.removeprefix("text"))]
        assert row.transcript.split() == [consonant + vowel for consonant, vowel in text]
    assert corpus.utterances["transcript"].iloc[0] == "sa me ti sho a"


def test_ones_own_tracks_are_packed_features_and_come_before_the_built_in(corpus, tmp_path):
    values = {name: np.full((3, 1), i) for i, name in enumerate(corpus.utterances["id"])}
    np.savez(tmp_path / "tracks.npz", **values)
    pack_features("tracks", tmp_path / "tracks.npz", corpus, tmp_path / "data", 100.0, names=["tension"])
    own = load_tracks(corpus, tmp_path / "data")
    assert (own.names, own.frame_ms) == (("tension",), 100.0)
    np.testing.assert_array_equal(frames(own, 5), 5)


def test_between_frames_tracks_are_a_straight_line_and_their_ends_go_on(corpus, tracks):
    own = frames(tracks, 1)
    seconds = np.array([0.0, 0.015, 0.02, 99.0])
    found = interpolate(tracks, 1, seconds)
    np.testing.assert_allclose(found, [own[0], (own[1] + own[2]) / 2, own[2], own[-1]], rtol=1e-5)
    assert len(own) * 0.01 < corpus.utterances["num_samples"][1] / SAMPLE_RATE + 0.011


@pytest.mark.parametrize(("name", "which"), [("null", "tracks"), ("synthetic", "mine")])
def test_a_corpus_without_tracks_is_refused(tmp_path, name, which):
    corpus = make_synthetic(name, num_speakers=1, utterances_per_speaker=1)
    with pytest.raises(UserError, match=f"corpus {name} has no features '{which}'"):
        load_tracks(corpus, tmp_path, which)
