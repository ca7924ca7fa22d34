"""The recordings with equal silence that docs/answer.md trains on."""

import sys

import numpy as np
import pandas as pd
import pytest
import soundfile

from docs import equal_silence
from ser_jax import corpora
from ser_jax.corpora.corpus import waveform
from tests.training.tiny import tiny_corpus


def test_every_recording_is_its_speech_between_silences_of_the_same_length(tmp_path):
    corpus, _ = tiny_corpus()
    bounds = np.array([[100 + i, 5000 + i] for i in range(len(corpus.utterances))])
    equal_silence.write(corpus, bounds, tmp_path)
    table = pd.read_csv(tmp_path / "table.csv", dtype=str)
    assert list(table["emotion"]) == list(corpus.utterances["emotion"])
    assert list(table["speaker"]) == list(corpus.utterances["speaker"])
    for i, path in enumerate(table["path"]):
        samples, rate = soundfile.read(tmp_path / path, dtype="int16")
        assert rate == 16_000 and not samples[:12_800].any() and not samples[-12_800:].any()
        np.testing.assert_array_equal(samples[12_800:-12_800], waveform(corpus, i)[100 + i : 5000 + i])


def test_the_command_writes_the_folder_and_says_what_lengths_tell(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(equal_silence, "FOLDS", 3)
    monkeypatch.setattr(corpora, "load_corpus", lambda *_: tiny_corpus()[0])
    monkeypatch.setattr(sys, "argv", ["equal_silence", "tiny", str(tmp_path)])
    equal_silence.main()
    assert len(list(tmp_path.glob("wav/*.wav"))) == len(pd.read_csv(tmp_path / "table.csv"))
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 6 and all(" UA " in line for line in said)


@pytest.mark.parametrize("kind", equal_silence.MODELS)
def test_lengths_that_follow_the_emotion_tell_it_and_others_are_chance(kind, monkeypatch):
    monkeypatch.setattr(equal_silence, "FOLDS", 3)
    corpus, _ = tiny_corpus()
    labels = corpus.utterances["label"].to_numpy()
    assert equal_silence.recognised(corpus, labels[:, None].astype(float), kind)[0] > 95
    chance = 100 / len(corpus.emotions)
    assert equal_silence.recognised(corpus, np.ones([len(labels), 1]), kind)[0] == pytest.approx(chance, abs=1)
