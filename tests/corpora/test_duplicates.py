"""Copies are found however they were made; takes of one text by one speaker are none."""

import dataclasses
import io

import numpy as np
import pandas as pd
import pytest
import soundfile
import soxr

from ser_jax.corpora import corpus as corpora
from ser_jax.corpora import duplicates
from ser_jax.corpora.corpus import make_corpus
from ser_jax.corpora.duplicates import CACHE, exact_copies, near_copies, recordings

RATE = 16000


def voice(seed, seconds=1.2):
    """A vowel that glides: pitch and loudness are drawn, so no two are alike."""
    rng, time = np.random.default_rng(seed), np.arange(int(seconds * RATE)) / RATE
    glide = sum(
        rng.uniform(-30, 30) * np.sin(2 * np.pi * rng.uniform(0.5, 4) * time + rng.uniform(0, 6)) for _ in range(4)
    )
    phase = 2 * np.pi * np.cumsum(150 + glide) / RATE
    envelope = 0.6 + 0.4 * np.sin(2 * np.pi * rng.uniform(1, 6) * time + rng.uniform(0, 6))
    formants = 1 / (1 + 0.5 * np.abs(np.arange(1, 25) - rng.uniform(3, 15)))
    sound = sum(strength * np.sin(k * phase) for k, strength in enumerate(formants, start=1))
    return np.rint(4000 * envelope * sound / np.abs(sound).max()).astype(np.int16)


def corpus_of(waveforms):
    table = pd.DataFrame({"id": [f"u{i}" for i in range(len(waveforms))], "emotion": "a"})
    return make_corpus("made", table, waveforms, ("a",))


def test_exact_copies_are_found_through_silence_gain_and_polarity_and_takes_are_not():
    rng = np.random.default_rng(1)
    takes = [rng.integers(-3000, 3000, 400).astype(np.int16) for _ in range(3)]
    takes[0][[0, -1]] = 7
    silence = np.zeros(50, np.int16)
    copies = [takes[0], np.concatenate([silence, takes[0], silence, silence]), -2 * takes[0], takes[0] + np.int16(1)]
    corpus = corpus_of([*copies, takes[1], takes[2], silence, silence.copy()])
    assert exact_copies(corpus) == [[0, 1, 2]]  # silence is no copy of silence


def coded(samples, kind, subtype):
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format=kind, subtype=subtype)
    file.seek(0)
    return soundfile.read(file, dtype="int16")[0]


COPIES = {
    "exact": lambda x: x.copy(),
    "cut": lambda x: x[100:],
    "gain": lambda x: np.rint(0.8 * x).astype(np.int16),
    "half": lambda x: x // 2,
    "noise": lambda x: x + np.random.default_rng(9).integers(-20, 20, len(x)).astype(np.int16),
    "resampled": lambda x: np.rint(soxr.resample(soxr.resample(x.astype(np.float64), RATE, 44100), 44100, RATE)).astype(
        np.int16
    ),
    "mp3": lambda x: coded(x, "MP3", "MPEG_LAYER_III"),
    "vorbis": lambda x: coded(x, "OGG", "VORBIS"),
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_found_however_it_was_made_and_other_recordings_are_not(kind):
    takes = [voice(seed) for seed in range(12)]
    corpus = corpus_of([*takes, COPIES[kind](takes[3]), COPIES[kind](takes[7])])
    assert near_copies(corpus) == [[3, 12], [7, 13]]


def test_what_was_computed_is_kept_beside_the_corpus_and_belongs_to_it(tmp_path, monkeypatch):
    takes = [voice(seed) for seed in range(4)]
    corpora.save(corpus_of([*takes, takes[0]]), tmp_path / "made")
    corpus = corpora.load(tmp_path / "made")
    assert near_copies(corpus) == [[0, 4]]
    assert (tmp_path / "made" / CACHE).is_file()
    with monkeypatch.context() as patch:
        patch.setattr(duplicates, "_signature", lambda samples: pytest.fail("computed again"))
        assert exact_copies(corpora.load(tmp_path / "made")) == [[0, 4]]
    corpora.save(corpus_of([*takes, takes[1]]), tmp_path / "made")
    assert near_copies(corpora.load(tmp_path / "made")) == [[1, 4]]
    (tmp_path / "made" / CACHE).write_bytes(b"damaged")
    assert near_copies(corpora.load(tmp_path / "made")) == [[1, 4]]


def test_silence_is_like_nothing():
    hum, silence = np.rint(3 * np.sin(np.arange(RATE))).astype(np.int16), np.zeros(RATE, np.int16)
    corpus = corpus_of([silence, np.zeros(2 * RATE, np.int16), hum, voice(0), silence.copy()])
    assert near_copies(corpus) == [] == exact_copies(corpus)
    assert list(recordings(corpus).values()) == ["u2", "u3"]


def test_what_is_kept_is_of_the_code_that_computed_it(tmp_path, monkeypatch):
    corpora.save(corpus_of([voice(0), voice(1)]), tmp_path / "made")
    assert near_copies(corpora.load(tmp_path / "made")) == []
    monkeypatch.setattr(duplicates, "_VERSION", duplicates._VERSION + 1)
    monkeypatch.setattr(duplicates, "_signature", lambda samples: ("one and all", 0, np.zeros(128, np.float32)))
    assert near_copies(corpora.load(tmp_path / "made")) == [[0, 1]]


def test_recordings_are_those_of_the_utterances_that_a_corpus_has_and_names():
    whole = corpus_of([voice(0), voice(1), voice(2)])
    keys = list(recordings(whole))
    part = dataclasses.replace(whole, utterances=whole.utterances.iloc[1:].reset_index(drop=True))
    assert recordings(part) == dict(zip(keys[1:], ("u1", "u2"), strict=True))
    renamed = dataclasses.replace(part, utterances=part.utterances.assign(id=["a", "b"]))
    assert recordings(renamed) == dict(zip(keys[1:], ("a", "b"), strict=True))


def test_copies_of_copies_are_one_group():
    first, last = voice(0), voice(1)
    corpus = corpus_of([last, first, COPIES["noise"](first), COPIES["gain"](COPIES["noise"](first)), last.copy()])
    assert near_copies(corpus) == [[0, 4], [1, 2, 3]]
