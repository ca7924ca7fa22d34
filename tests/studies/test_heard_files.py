"""Files are read in groups, heard, and told as a table; what cannot be heard is an error and nothing else is lost."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_jax.corpora.corpus import SAMPLE_RATE, waveform
from ser_jax.errors import UserError
from ser_jax.statistics.abstention import Abstention
from ser_jax.studies import heard_files
from ser_jax.studies.heard_files import HeardFile, read_groups, recognise
from ser_jax.studies.recognise import Predicted, Recogniser
from ser_jax.studies.workdirs import Restored


def recogniser(emotions=("joy", "anger"), by_speaker=False, heard=None):
    """Says of a recording the share of its samples above zero; refuses what ends in 7 samples of 7.

    What it hears together is appended to `heard`.
    """
    heard = [] if heard is None else heard

    def predict(corpus, embeddings):
        heard.append(corpus.utterances["id"].tolist())
        rows = []
        for row, name in enumerate(corpus.utterances["id"]):
            samples = waveform(corpus, row)
            if (samples[-7:] == 7).all():
                raise UserError(f"utterance {name}: no finite value")
            rows.append([np.mean(samples > 0), *[np.mean(samples <= 0) / (len(emotions) - 1)] * (len(emotions) - 1)])
        rows = np.array(rows)
        return Predicted(rows, np.zeros((len(rows), 0)), rows[:, :1] * 10 if embeddings else None)

    config = {"model": {"name": "linear"}, "frontend": {"normalization": "speaker" if by_speaker else "none"}}
    metadata = {"corpus": {"emotions": emotions}, "config": config | {"evaluation": {"batch_statistics": "running"}}}
    restored = Restored("stub", Path("stub"), metadata)

    def refusal(samples):
        return "too short" if len(samples) < 100 else ""

    return Recogniser(restored, (0,), 0.0, refusal, predict, lambda corpus: predict(corpus, True).embeddings)


@pytest.fixture
def files(tmp_path):
    lengths = {"a.wav": 1600, "short.wav": 50, "b.wav": 3200}
    made = {name: 0.1 * np.random.default_rng(0).standard_normal(length) for name, length in lengths.items()}
    made["silent.wav"] = np.zeros(1600)
    for name, samples in made.items():
        soundfile.write(tmp_path / name, samples, SAMPLE_RATE)
    return [str(tmp_path / name) for name in ("a.wav", "short.wav", "b.wav", "gone.wav", "silent.wav")]


def test_where_no_file_can_be_computed_the_errors_are_kept_and_nothing_is_told():
    errors, bad = [], HeardFile("bad.wav", np.full(1600, 7, np.int16), ())
    table, _ = recognise(recogniser(), [bad], errors)
    abstention = Abstention(0.5, 1.0, 0.8, 1.0, 1.0, 0.9, 0.9, 10, ())
    assert len(heard_files.abstain(table, ("joy", "anger"), abstention)) == 0
    assert [str(error) for error in errors] == ["utterance bad.wav: no finite value"]


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
    assert not len(table) and vectors is None and len(errors) == 2


def test_what_can_be_heard_is_heard_together_without_a_bad_file_and_in_one_pass():
    """A model that adapts to the speaker needs all of the speaker's recordings at once."""
    good, bad = np.tile(np.array([1, -1, 1, 1], np.int16), 50), np.full(200, 7, np.int16)
    group = [HeardFile("a", good, ()), HeardFile("bad", bad, ()), HeardFile("b", -good, ())]
    heard, errors = [], []
    table, _ = recognise(recogniser(by_speaker=True, heard=heard), group, errors)
    assert table["file"].tolist() == ["a", "b"] and heard[-1] == ["a", "b"] and len(errors) == 1
    heard.clear()
    table, vectors = recognise(recogniser(heard=heard), group[:1], errors, embeddings=True)
    assert heard == [["a"]] and len(vectors) == len(table) == 1


def test_a_group_that_cannot_be_computed_together_is_one_error():
    def predict(corpus, embeddings):
        if len(corpus.utterances) > 1:
            raise UserError("files: figures that are not finite")
        return Predicted(np.ones((1, 2)) / 2, np.zeros((1, 0)))

    group = [HeardFile(name, np.ones(300, np.int16), ()) for name in "ab"]
    errors = []
    table, _ = recognise(dataclasses.replace(recogniser(by_speaker=True), predict=predict), group, errors)
    assert not len(table) and [str(error) for error in errors] == ["files: figures that are not finite"]


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

    plain = recogniser()

    def predict(corpus, embeddings):
        lengths = corpus.utterances[["num_samples"]].to_numpy() / 100.0
        return dataclasses.replace(plain.predict(corpus, embeddings), dimensions=lengths)

    table, _ = recognise(dataclasses.replace(plain, predict=predict, dimension_names=("joy",)), group, [])
    assert table.columns.tolist() == ["file", "emotion", "joy", "anger", "predicted_joy", "notes"]
    assert table["predicted_joy"].tolist() == [2.0, 3.0]
