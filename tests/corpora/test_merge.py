"""Several corpora as one: nothing is lost, nothing is mistaken for another, and folds keep its speakers apart."""

import argparse

import numpy as np
import pandas as pd
import pytest

from ser_jax.commands import prepare as command
from ser_jax.corpora import load_corpus, packed_folder
from ser_jax.corpora.corpus import make_corpus, save, waveform
from ser_jax.corpora.labels import Changes, relabelled
from ser_jax.corpora.merge import merge_corpora
from ser_jax.corpora.protocols import make_protocol
from ser_jax.errors import UserError


@pytest.fixture
def data_dir(tmp_path):
    """Two corpora with the same ids, speakers and texts, which share two of their emotions."""
    for name, emotions, extra, licence in (
        ("first", ("calm", "anger", "joy"), {"naturalness": 0.5}, "CC BY 4.0"),
        ("second", ("anger", "fear", "joy"), {"intensity": "strong"}, "CC BY-NC-SA 4.0"),
    ):
        rows = [(s, e) for s in ("01", "02") for e in emotions]
        table = pd.DataFrame({"id": [f"{s}{e}" for s, e in rows], "speaker": [s for s, _ in rows]})
        table["emotion"], table["text"] = [e for _, e in rows], "a"
        waveforms = [np.arange(5 + i, dtype=np.int16) + len(name) for i in range(len(rows))]
        info = {"speakers_known": True, "licence": licence, "language": "de"}
        save(make_corpus(name, table.assign(**extra), waveforms, emotions, info), packed_folder(name, tmp_path))
    return tmp_path


def test_all_utterances_are_there_under_names_of_their_own(data_dir):
    merged = merge_corpora("both", ["first", "second"], data_dir)
    table = merged.utterances
    assert merged.emotions == ("calm", "anger", "joy", "fear")
    assert table["source"].tolist() == ["first"] * 6 + ["second"] * 6
    assert set(table["speaker"]) == {"first-01", "first-02", "second-01", "second-02"}
    assert (
        table["id"].is_unique and table["id"][6] == "second-01anger" and set(table["text"]) == {"first-a", "second-a"}
    )
    for name, first in (("first", 0), ("second", 6)):
        part = load_corpus(name, data_dir)
        for row in range(6):
            np.testing.assert_array_equal(waveform(merged, first + row), waveform(part, row))
            assert table["emotion"][first + row] == part.utterances["emotion"][row]
    assert table["naturalness"].isna().sum() == 6 and table["intensity"].tolist() == [""] * 6 + ["strong"] * 6
    assert merged.info["licence"] == "CC BY 4.0 and CC BY-NC-SA 4.0" and merged.info["language"] == "de"
    protocol = make_protocol(merged, "leave_one_speaker_out", validation_speakers=0)
    assert len(protocol.folds) == 4 and protocol.speaker_independent


def test_columns_that_corpora_have_each_in_their_own_way_are_kept(data_dir):
    alike = {"id": ["u0", "u1"], "speaker": ["1", "2"], "emotion": ["joy", "joy"], "recording": ["a.wav", "b.wav"]}
    for name, columns in (
        ("numbers", {"naturalness": [0.5, np.nan], "source": ["tv", "radio"], "valid": [True, False]}),
        ("words", {"naturalness": ["0,7", ""]}),
    ):
        waveforms = [np.arange(9, dtype=np.int16)] * 2
        corpus = make_corpus(name, pd.DataFrame(alike | columns), waveforms, ("joy",), {"speakers_known": True})
        save(corpus, packed_folder(name, data_dir))
    merged = merge_corpora("both", ["numbers", "words"], data_dir)
    assert merged.utterances["naturalness"].tolist() == ["0.5", "", "0,7", ""]
    assert merged.utterances["valid"].tolist() == ["True", "False", "", ""]
    recordings = ["numbers-a.wav", "numbers-b.wav", "words-a.wav", "words-b.wav"]  # of one name, and not one
    assert merged.utterances["recording"].tolist() == recordings
    assert merged.info["labels"] == ["numbers: without its own column source"]
    again = merge_corpora("again", ["both", "first"], data_dir)
    assert again.info["labels"] == ["both: numbers: without its own column source"]


def test_what_cannot_be_merged_is_refused_and_nothing_is_lost(data_dir):
    for name, corpora, message in (
        ("both", ["first"], "expected at least two corpora"),
        ("both", ["first", "first"], "each once"),
        ("first", ["first", "second"], "expected a new name"),
        ("both", ["first", "secund"], "did you mean second"),
    ):
        with pytest.raises(UserError, match=message):
            merge_corpora(name, corpora, data_dir)
    assert len(load_corpus("first", data_dir).utterances) == 6
    assert not packed_folder("both", data_dir).exists()


def test_the_command_merges_and_prints_what_there_is(data_dir, capsys):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    arguments = ["merge", "--name", "both", "--corpora", "first, second", "--data_dir", str(data_dir)]
    assert command.run(parser.parse_args(arguments)) == 0
    printed = capsys.readouterr().out
    assert "utterances    12" in printed and "calm 2, anger 4, joy 4, fear 2" in printed
    with pytest.raises(UserError, match="prepare merge: expected --name NAME and --corpora"):
        command.run(parser.parse_args(["merge", "--name", "both", "--data_dir", str(data_dir)]))
    with pytest.raises(UserError, match="--source has no meaning"):
        command.run(parser.parse_args([*arguments, "--source", "x"]))


def test_folds_of_a_source_are_that_corpus_s_own_and_learn_all_others(data_dir):
    merged, alone = merge_corpora("both", ["first", "second"], data_dir), load_corpus("second", data_dir)
    found = make_protocol(merged, "leave_one_speaker_out", source="second", validation_speakers=0)
    own = make_protocol(alone, "leave_one_speaker_out", validation_speakers=0)
    assert found.speaker_independent and found.description.endswith("; first learnt in every fold")
    for fold, expected in zip(found.folds, own.folds, strict=True):
        assert fold.name == f"second-{expected.name}"
        np.testing.assert_array_equal(fold.test, expected.test + 6)
        np.testing.assert_array_equal(fold.train, np.append(np.arange(6), expected.train + 6))


def test_a_source_that_is_not_there_is_refused_in_one_line(data_dir):
    merged, alone = merge_corpora("both", ["first", "second"], data_dir), load_corpus("second", data_dir)
    with pytest.raises(UserError, match="protocol source=third: corpus both has the sources first, second"):
        make_protocol(merged, "leave_one_speaker_out", source="third")
    with pytest.raises(UserError, match="protocol source=first: corpus second was not made of several"):
        make_protocol(alone, "leave_one_speaker_out", source="first")


def test_emotions_get_other_names_before_corpora_are_merged(data_dir):
    changes = Changes({"joy": "happiness", "calm": "neutral"}, dropped=("fear",))
    merged = merge_corpora("both", ["first", "second"], data_dir, changes)
    assert merged.emotions == ("neutral", "anger", "happiness")
    assert merged.utterances["emotion"].value_counts().to_dict() == {"anger": 4, "happiness": 4, "neutral": 2}
    second = load_corpus("second", data_dir)
    row = merged.utterances["id"].tolist().index("second-02joy")
    np.testing.assert_array_equal(waveform(merged, row), waveform(second, 5))
    said = [
        "first: calm as neutral, joy as happiness",
        "second: joy as happiness",
        "second: without fear (2 utterances)",
    ]
    assert merged.info["labels"] == said
    with pytest.raises(UserError, match="--map rage=anger: no emotion of this name"):
        merge_corpora("both", ["first", "second"], data_dir, Changes({"rage": "anger"}))


def test_a_corpus_under_other_names_shares_its_samples(data_dir):
    second = load_corpus("second", data_dir)
    made, done = relabelled(second, Changes({"fear": "anger"}, dropped=("joy",)))
    assert made.emotions == ("anger",) and set(made.utterances["label"]) == {0} and made.samples is second.samples
    assert done["said"] == ["fear as anger", "without joy (2 utterances)"]
    np.testing.assert_array_equal(waveform(made, 3), waveform(second, 4))
    with pytest.raises(UserError, match="no utterance is left"):
        relabelled(second, Changes({"fear": "anger", "joy": "anger"}, dropped=("anger",)))
