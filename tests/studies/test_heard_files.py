"""Files are read in groups, heard, and told as a table; what cannot be heard is an error and nothing else is lost."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_jax.corpora.corpus import SAMPLE_RATE, waveform
from ser_jax.errors import UserError
from ser_jax.studies import heard_files
from ser_jax.studies.heard_files import HeardFile, read_groups, recognise
from ser_jax.studies.recognise import Recogniser
from ser_jax.studies.workdirs import Restored


def recogniser(emotions=("joy", "anger"), by_speaker=False):
    """Says of a recording the share of its samples above zero; refuses what ends in 7 samples of 7."""

    def probabilities(corpus):
        rows = []
        for row, name in enumerate(corpus.utterances["id"]):
            samples = waveform(corpus, row)
            if (samples[-7:] == 7).all():
                raise UserError(f"utterance {name}: no finite value")
            rows.append([np.mean(samples > 0), *[np.mean(samples <= 0) / (len(emotions) - 1)] * (len(emotions) - 1)])
        return np.array(rows)

    config = {"model": {"name": "linear"}, "frontend": {"normalization": "speaker" if by_speaker else "none"}}
    metadata = {"corpus": {"emotions": emotions}, "config": config | {"evaluation": {"batch_statistics": "running"}}}
    restored = Restored("stub", Path("stub"), metadata)

    def refusal(samples):
        return "too short" if len(samples) < 100 else ""

    def embeddings(corpus):
        return probabilities(corpus)[:, :1] * 10

    return Recogniser(restored, (0,), 0.0, refusal, probabilities, embeddings)


@pytest.fixture
def files(tmp_path):
    lengths = {"a.wav": 1600, "short.wav": 50, "b.wav": 3200}
    made = {name: 0.1 * np.random.default_rng(0).standard_normal(length) for name, length in lengths.items()}
    made["silent.wav"] = np.zeros(1600)
    for name, samples in made.items():
        soundfile.write(tmp_path / name, samples, SAMPLE_RATE)
    return [str(tmp_path / name) for name in ("a.wav", "short.wav", "b.wav", "gone.wav", "silent.wav")]


def test_files_are_read_in_groups_and_each_bad_one_is_named(files, monkeypatch):
    monkeypatch.setattr(heard_files, "_TOGETHER", 3200)
    errors = []
    groups = list(read_groups(recogniser(), files, errors))
    assert [[one.name for one in group] for group in groups] == [[files[0], files[2]], [files[4]]]
    assert [str(error) for error in errors] == [f"{files[1]}: too short", f"{files[3]}: no such audio file"]
    (together,) = read_groups(recogniser(by_speaker=True), files, [])
    assert len(together) == 3
    assert [one.notes for one in together] == [(), (), ("silent: there is no sound in it",)]


def test_one_file_that_cannot_be_computed_does_not_take_the_others_with_it():
    good, bad = np.tile(np.array([1, -1, 1, 1], np.int16), 50), np.full(200, 7, np.int16)
    group = [HeardFile("a", good, ()), HeardFile("bad", bad, ()), HeardFile("b", -good, ("soft", "odd"))]
    errors = []
    table, vectors = recognise(recogniser(), group, errors, embeddings=True)
    assert table.to_dict("list") == {
        "file": ["a", "b"],
        "emotion": ["joy", "anger"],
        "joy": [0.75, 0.25],
        "anger": [0.25, 0.75],
        "notes": ["", "soft; odd"],
    }
    assert vectors.tolist() == [[7.5], [2.5]]
    assert [str(error) for error in errors] == ["utterance bad: no finite value"]
    table, vectors = recognise(recogniser(), group[1:2], errors)
    assert table.columns.tolist() == ["file", "emotion", "joy", "anger", "notes"] and not len(table)
    assert vectors is None


def test_classes_may_be_called_like_columns():
    group = [HeardFile("a", np.tile(np.array([1, -1, 1, 1], np.int16), 50), ())]
    table, _ = recognise(recogniser(("emotion", "file", "joy")), group, [])
    assert table.columns.tolist() == ["file", "emotion", "p_emotion", "p_file", "joy", "notes"]
    assert table.iloc[0].tolist() == ["a", "emotion", 0.75, 0.125, 0.125, ""]


def test_dimensions_stand_behind_the_probabilities():
    group = [
        HeardFile("a", np.tile(np.array([1, -1, 1, 1], np.int16), 50), ()),
        HeardFile("b", np.ones(300, np.int16), ()),
    ]

    def lengths(corpus):
        return corpus.utterances[["num_samples"]].to_numpy() / 100.0

    heard = dataclasses.replace(recogniser(), dimensions=lengths, dimension_names=("joy",))
    table, _ = recognise(heard, group, [])
    assert table.columns.tolist() == ["file", "emotion", "joy", "anger", "predicted_joy", "notes"]
    assert table["predicted_joy"].tolist() == [2.0, 3.0]
