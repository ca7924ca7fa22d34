"""What people bring: every bad file at once, segments, several spellings, phones' recordings, odd names of emotions."""

import csv
import json
import os
import re
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from ser_jax.commands import prepare as command
from ser_jax.commands.main import main
from ser_jax.corpora import decode, load_corpus
from ser_jax.corpora.audio import read_recording
from ser_jax.corpora.corpus import waveform
from ser_jax.corpora.labels import Changes, parse_map
from ser_jax.corpora.merge import merge_corpora
from ser_jax.corpora.prepare import Options, prepare_folder
from ser_jax.corpora.protocols import make_protocol
from ser_jax.errors import UserError

RATE = 16000


def voice(seconds=0.8, seed=0):
    rng, time = np.random.default_rng(seed), np.arange(int(seconds * RATE)) / RATE
    pitch = 100 + 20 * seed
    return 0.2 * np.sin(2 * np.pi * pitch * time) * (1 + 0.5 * np.sin(9 * time)) + 0.003 * rng.normal(size=len(time))


@pytest.fixture
def own(tmp_path):
    """A folder `in` of twelve recordings and their table."""
    folder, rows = tmp_path / "in", []
    folder.mkdir()
    for speaker in range(3):
        for seed, emotion in enumerate(("anger", "joy", "neutral", "sadness")):
            name = f"s{speaker}_{emotion}.wav"
            soundfile.write(folder / name, voice(seed=4 * speaker + seed), RATE)
            rows.append((name, emotion, f"s{speaker}"))
    write_table(tmp_path / "table.csv", rows)
    return rows


def write_table(path, rows, head=("path", "emotion", "speaker")):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])


def prepare(tmp_path, **options):
    return prepare_folder("own", tmp_path / "in", tmp_path / "data", Options(table=tmp_path / "table.csv", **options))


def listed(tmp_path):
    with (tmp_path / "data" / "problems" / "own.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def spoil(folder):
    (folder / "s0_joy.wav").write_bytes(b"")
    (folder / "s1_anger.wav").write_bytes((folder / "s1_anger.wav").read_bytes()[:5000])
    (folder / "s1_sadness.wav").write_text("no audio")
    soundfile.write(folder / "s2_joy.wav", np.zeros(0), RATE)
    soundfile.write(folder / "s2_anger.wav", voice(0.05), RATE)


def test_all_bad_files_are_named_at_once_and_can_be_left_out(own, tmp_path):
    spoil(tmp_path / "in")
    own[-1] = ("gone.wav", *own[-1][1:])
    write_table(tmp_path / "table.csv", own)
    with pytest.raises(
        UserError, match=r"\(and 5 more\): 6 of 12 utterances of own are bad.*own.csv; --skip bad"
    ) as error:
        prepare(tmp_path)
    assert "\n" not in str(error.value)
    whats = [row["what"] for row in listed(tmp_path)]
    expected = ("not there", "an empty file", "cut short", "cannot be read as audio", "0.050 s long", "without samples")
    for words in expected:
        assert sum(words in what for what in whats) == 1, words
    assert len(whats) == 6 and not (tmp_path / "data" / "packed").exists()

    corpus = prepare(tmp_path, skip_bad=True)
    bad = {"s0_joy", "s1_anger", "s1_sadness", "s2_anger", "s2_joy", "gone"}
    assert {left["id"] for left in corpus.info["left_out"]} == bad
    assert corpus.utterances["id"].tolist() == [name[:-4] for name, *_ in own if name[:-4] not in bad]
    assert load_corpus("own", tmp_path / "data").info["left_out"] == corpus.info["left_out"]
    for i, name in enumerate(corpus.utterances["id"]):
        expected, _ = soundfile.read(tmp_path / "in" / f"{name}.wav", dtype="int16")
        np.testing.assert_array_equal(waveform(corpus, i), expected)
    with pytest.raises(UserError, match="6 of 12"):
        prepare(tmp_path)


def test_a_folder_that_was_there_before_stays_and_one_made_for_nothing_goes(own, tmp_path):
    (tmp_path / "data").mkdir(mode=0o750)
    (tmp_path / "table.csv").write_text("path,emotion,speaker\n")
    with pytest.raises(UserError, match="no rows"):
        prepare(tmp_path)
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o750
    write_table(tmp_path / "table.csv", own)
    (tmp_path / "in" / "s0_joy.wav").write_bytes(b"")
    with pytest.raises(UserError, match="an empty file"):
        prepare(tmp_path)
    assert (tmp_path / "data").is_dir() and not (tmp_path / "data" / "packed").exists()


def test_segments_of_dialogs_are_cut_out_of_them(tmp_path):
    plan = [("anger", 2.0), ("neutral", 1.5), ("sadness", 2.0), ("joy", 1.0)]
    (tmp_path / "in").mkdir()
    dialogs, rows = {}, []
    for speaker in ("a", "b"):
        parts = [voice(seconds, seed=i + ord(speaker)) for i, (_, seconds) in enumerate(plan)]
        soundfile.write(tmp_path / "in" / f"{speaker}.wav", np.concatenate(parts), RATE)
        at = 0.0
        for (emotion, seconds), part in zip(plan, parts, strict=True):
            begin, end = (f"0 days 00:00:{time:09.6f}" for time in (at, at + seconds))
            rows.append((f"{speaker}.wav", begin, "" if emotion == "joy" else end, emotion, speaker))
            dialogs[speaker, emotion] = part
            at += seconds
    write_table(tmp_path / "table.csv", rows, ("file", "start", "end", "emotion", "speaker"))
    corpus = prepare(tmp_path)
    assert len(corpus.utterances) == 8 and len(corpus.samples) == 2 * 6.5 * RATE
    for i, row in corpus.utterances.iterrows():
        np.testing.assert_allclose(waveform(corpus, i), dialogs[row["speaker"], row["emotion"]] * 32768, atol=1)
    assert corpus.utterances["recording"].tolist() == ["a.wav"] * 4 + ["b.wav"] * 4
    assert corpus.utterances["id"].tolist()[:2] == ["a_0000000", "a_0002000"]

    rows[0], rows[3], rows[5] = (
        ("a.wav", "1", "0.5", "anger", "a"),
        ("a.wav", "5", "9", "joy", "a"),
        ("b.wav", "x", "2", *rows[5][3:]),
    )
    write_table(tmp_path / "table.csv", rows, ("file", "start", "end", "emotion", "speaker"))
    with pytest.raises(UserError, match="3 of 8"):
        prepare(tmp_path)
    whats = " | ".join(row["what"] for row in listed(tmp_path))
    assert "before it begins" in whats and "the file has 6.50 s" in whats and "has the start 'x'" in whats


def test_a_dialog_of_two_files_in_turns_is_decoded_once_and_counted_as_two(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for name in "ab":
        soundfile.write(tmp_path / "in" / f"{name}.wav", voice(40.0, seed=ord(name)), RATE)
    rows = [(f"{'ab'[at % 2]}.wav", at, at + 1, "joy", "ab"[at % 2]) for at in range(40)]
    read = []
    monkeypatch.setattr(decode, "read_recording", lambda path: read.append(path) or read_recording(path))
    write_table(tmp_path / "table.csv", rows, ("path", "start", "end", "emotion", "speaker"))
    in_turns = prepare(tmp_path)
    assert len(read) == 2 and in_turns.info["rates"] == {str(RATE): 2} and in_turns.info["channels"] == {"1": 2}
    write_table(tmp_path / "table.csv", sorted(rows), ("path", "start", "end", "emotion", "speaker"))
    in_order = prepare(tmp_path)
    for at, name in enumerate(in_order.utterances["id"]):
        there = in_turns.utterances["id"].tolist().index(name)
        np.testing.assert_array_equal(waveform(in_order, at), waveform(in_turns, there))


@pytest.mark.parametrize(("kept", "times"), [(2**30, 12), (12 * 2 * 40 * RATE, 12), (8 * 2 * 40 * RATE, 17), (0, 36)])
def test_segments_of_many_files_in_turns_are_decoded_once_as_far_as_memory_is_given(tmp_path, monkeypatch, kept, times):
    (tmp_path / "in").mkdir()
    names = [f"{at:02}.wav" for at in range(12)]
    for at, name in enumerate(names):
        soundfile.write(tmp_path / "in" / name, voice(40.0, seed=at), RATE)
    rows = [(name, turn, turn + 1, "joy", name) for turn in range(3) for name in names]
    read = []
    monkeypatch.setattr(decode, "read_recording", lambda path: read.append(path) or read_recording(path))
    monkeypatch.setattr(decode, "_MOST_KEPT", kept)
    monkeypatch.setattr(decode.machine, "cores", lambda: 1)
    write_table(tmp_path / "table.csv", rows, ("path", "start", "end", "emotion", "speaker"))
    corpus = prepare(tmp_path)
    assert len(read) == times
    write_table(tmp_path / "table.csv", sorted(rows), ("path", "start", "end", "emotion", "speaker"))
    in_order = prepare(tmp_path)
    for at, name in enumerate(in_order.utterances["id"]):
        there = corpus.utterances["id"].tolist().index(name)
        np.testing.assert_array_equal(waveform(in_order, at), waveform(corpus, there))


def test_a_file_among_those_ahead_is_not_decoded_again_though_no_memory_is_given(monkeypatch):
    read = []
    monkeypatch.setattr(decode, "read_recording", lambda path: read.append(path) or read_recording(path))
    monkeypatch.setattr(decode, "_MOST_KEPT", 0)
    assert len(list(decode._decoded(["a.wav", "b.wav"] * 50))) == 100
    assert sorted(read) == ["a.wav", "b.wav"]


def test_segments_that_begin_at_once_have_names_of_their_own(tmp_path):
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", voice(4.0), RATE)
    rows = [("0", "1", "joy", "x"), ("0.0001", "2", "anger", "y"), ("2", "3", "joy", "x"), ("2", "", "anger", "y")]
    write_table(
        tmp_path / "table.csv", [("a.wav", *row) for row in rows], ("path", "start", "end", "emotion", "speaker")
    )
    corpus = prepare(tmp_path)
    ids = ["a_0000000_0001000", "a_0000000_0002000", "a_0002000_0003000", "a_0002000"]
    assert corpus.utterances["id"].tolist() == ids == corpus.info["notes"]["overlapping"]


def test_a_start_may_be_blank_beside_others_and_times_that_are_not_finite_are_listed(tmp_path):
    (tmp_path / "in").mkdir()
    sound = voice(3.0)
    for speaker in ("a", "b"):
        soundfile.write(tmp_path / "in" / f"{speaker}.wav", sound, RATE)
    head = ("file", "start", "end", "emotion", "speaker")
    rows = [("a.wav", "", "1", "anger", "a"), ("a.wav", "1.5", "", "joy", "a"), ("b.wav", "NaT", "", "joy", "b")]
    write_table(tmp_path / "table.csv", rows, head)
    corpus = prepare(tmp_path)
    for i, (begin, end) in enumerate(((0.0, 1.0), (1.5, 3.0), (0.0, 3.0))):
        part = sound[round(begin * RATE) : round(end * RATE)]
        np.testing.assert_allclose(waveform(corpus, i), part * 32768, atol=1)
    assert corpus.utterances["segment_start"].tolist() == [0.0, 1.5, 0.0]
    assert corpus.info["source_check"]["files"] == 2  # not one for each segment
    prepare_folder("other", tmp_path / "in", tmp_path / "data", Options(table=tmp_path / "table.csv"))
    write_table(
        tmp_path / "files.csv", [("a.wav", "anger", "a"), ("b.wav", "joy", "b")], ("file", "emotion", "speaker")
    )
    prepare_folder("files", tmp_path / "in", tmp_path / "data", Options(table=tmp_path / "files.csv"))
    merge_corpora("both", ["own", "files"], tmp_path / "data")  # segments, and whole files
    assert merge_corpora("all", ["both", "other"], tmp_path / "data").info["source_check"]["files"] == 6

    bad = [
        ("b.wav", start, end, "anger", "b") for start, end in (("inf", ""), ("0", "inf"), ("-nan", "1"), ("1", "+nan"))
    ]
    write_table(tmp_path / "table.csv", rows + bad, head)
    with pytest.raises(UserError, match="4 of 7"):
        prepare(tmp_path)
    whats = " | ".join(row["what"] for row in listed(tmp_path))
    for what in ("the start 'inf'", "the end 'inf'", "the start '-nan'", "the end '+nan'"):
        assert f"has {what}, expected seconds, or hours:minutes:seconds" in whats
    assert len(prepare(tmp_path, skip_bad=True).utterances) == 3


def test_another_shortest_length_counts_in_what_is_already_prepared(own, tmp_path, capsys):
    soundfile.write(tmp_path / "in" / "s2_anger.wav", voice(0.3), RATE)

    def again(**options):
        number = len(prepare(tmp_path, **options).utterances)
        return number, "already prepared" in capsys.readouterr().out

    assert again(min_seconds=0.2) == (12, False) and again(min_seconds=0.2) == (12, True)
    with pytest.raises(UserError, match=r"0\.300 s long, expected at least 0\.5"):
        prepare(tmp_path, min_seconds=0.5)
    assert again(min_seconds=0.2) == (12, True), "a refusal leaves what was there"
    assert again(min_seconds=0.5, skip_bad=True) == (11, False)
    assert again(min_seconds=0.5, skip_bad=True) == (11, True)
    assert again(min_seconds=0.2, skip_bad=True) == (12, False)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_a_shortest_length_that_is_none_is_refused(own, tmp_path, seconds):
    with pytest.raises(UserError, match=r"--min_seconds .*: expected 0 or more seconds"):
        prepare(tmp_path, min_seconds=seconds)
    assert not (tmp_path / "data").exists()


def test_labels_are_mapped_merged_dropped_and_it_is_told(own, tmp_path):
    corpus = prepare(tmp_path, labels=Changes({"joy": "happiness", "neutral": "happiness"}, dropped=("sadness",)))
    assert corpus.emotions == ("anger", "happiness")
    assert corpus.utterances["emotion"].value_counts().to_dict() == {"happiness": 6, "anger": 3}
    assert corpus.info["labels"] == ["joy as happiness, neutral as happiness", "without sadness (3 utterances)"]


def test_votes_may_take_the_place_of_the_emotion(own, tmp_path):
    number = {"anger": (3, 1, ""), "joy": (0, "4", 1), "neutral": (1, 1, 2), "sadness": (2, 2, 0)}
    rows = [(path, speaker, *number[emotion]) for path, emotion, speaker in own]
    write_table(tmp_path / "table.csv", rows, ("path", "speaker", "vote_anger", "vote_joy", "vote_neutral"))
    corpus = prepare(tmp_path)
    assert corpus.emotions == ("anger", "joy", "neutral", "no agreement")
    assert corpus.utterances["emotion"].value_counts().to_dict() == dict.fromkeys(corpus.emotions, 3)
    merged = prepare(tmp_path, labels=Changes({"joy": "positive", "neutral": "positive"}, dropped=("no agreement",)))
    assert merged.emotions == ("anger", "positive")
    assert merged.utterances["vote_positive"].tolist() == ["1", "5", "3"] * 3
    write_table(
        tmp_path / "table.csv",
        [(*row[:2], "x", 1, 1) for row in rows],
        ("path", "speaker", "vote_anger", "vote_joy", "vote_neutral"),
    )
    with pytest.raises(UserError, match=r"table\.csv: line 2 has 'x' in the column vote_anger, expected how many"):
        prepare(tmp_path)
    for odd in (-1, "inf"):
        write_table(
            tmp_path / "table.csv", [(*row[:2], odd, 2) for row in rows], ("path", "speaker", "vote_anger", "vote_joy")
        )
        with pytest.raises(UserError, match=rf"line 2 has '{odd}' in the column vote_anger, expected how many"):
            prepare(tmp_path)


def test_spellings_of_one_emotion_or_speaker_are_refused_or_unified(own, tmp_path):
    rows = [
        (path, emotion.upper() if i % 5 == 0 else emotion, speaker.replace("s", "s0") if i % 7 == 0 else speaker)
        for i, (path, emotion, speaker) in enumerate(own)
    ]
    write_table(tmp_path / "table.csv", rows)
    with pytest.raises(UserError, match="speakers that differ by case, zeros, spaces or signs alone: 's0'"):
        prepare(tmp_path)
    corpus = prepare(tmp_path, labels=Changes(unify=True))
    assert corpus.emotions == ("anger", "joy", "neutral", "sadness")
    assert set(corpus.utterances["speaker"]) == {"s0", "s1", "s2"}
    assert len(corpus.info["labels"]) == 2


def test_several_emotions_at_once_are_refused_and_names_with_signs_are_not(own, tmp_path):
    write_table(tmp_path / "table.csv", [(p, "anger;joy" if i == 5 else e, s) for i, (p, e, s) in enumerate(own)])
    with pytest.raises(UserError, match="line 7 has several emotions at once, 'anger;joy'"):
        prepare(tmp_path)
    odd = {"anger": "生气/angry", "joy": "disappointment, disapproval", "neutral": "<unk>", "sadness": "$50%_sad|low$"}
    write_table(tmp_path / "table.csv", [(p, odd[e], s) for p, e, s in own])
    assert set(prepare(tmp_path).emotions) == set(odd.values())


def test_a_hugging_face_audio_folder_is_taken_as_it_is(own, tmp_path):
    write_table(tmp_path / "in" / "metadata.csv", own, ("file_name", "label", "speaker_id"))
    corpus = prepare_folder("own", tmp_path / "in", tmp_path / "data")
    assert corpus.info["speakers_known"] and corpus.utterances["speaker"].nunique() == 3


def test_a_hugging_face_audio_folder_with_json_lines_is_taken_as_it_is(own, tmp_path):
    splits = ("train", "validation", "test")
    lines = [
        {
            "file_name": path,
            "label": emotion,
            "actor": speaker,
            "transcription": "so\u2028it is",
            "split": splits[i // 4],
        }
        for i, (path, emotion, speaker) in enumerate(own)
    ]
    text = "\r\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    (tmp_path / "in" / "metadata.jsonl").write_text(text, encoding="utf-8")
    corpus = prepare_folder("own", tmp_path / "in", tmp_path / "data")
    assert set(corpus.utterances["transcript"]) == {"so\u2028it is"} and len(corpus.utterances) == 12
    (fold,) = make_protocol(corpus, "official").folds
    assert [len(fold.train), len(fold.validation), len(fold.test)] == [4, 4, 4]


def test_an_audio_folder_with_a_folder_for_each_split_is_no_corpus_of_the_emotions_train_and_test(own, tmp_path):
    for i, split in enumerate(("test", "train", "validation")):
        (tmp_path / "splits" / split).mkdir(parents=True)
        rows = own[4 * i : 4 * i + 4]
        for number, (path, *_) in enumerate(rows):
            (tmp_path / "in" / path).rename(tmp_path / "splits" / split / f"{number}.wav")
        rows = [(f"{number}.wav", *row[1:]) for number, row in enumerate(rows)]
        write_table(tmp_path / "splits" / split / "metadata.csv", rows, ("file_name", "label", "speaker_id"))
    corpus = prepare_folder("own", tmp_path / "splits", tmp_path / "data")
    assert corpus.emotions == ("anger", "joy", "neutral", "sadness") and corpus.info["speakers_known"]
    assert corpus.utterances["id"].tolist()[3:5] == ["test/3", "train/0"]
    (fold,) = make_protocol(corpus, "official").folds
    assert [rows.tolist() for rows in (fold.test, fold.train, fold.validation)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
    ]
    (tmp_path / "splits" / "train" / "2.wav").unlink()
    with pytest.raises(UserError, match=r"train/metadata\.csv: line 4 names the file .*2\.wav, which is not there"):
        prepare_folder("own", tmp_path / "splits", tmp_path / "data")


def test_a_split_of_segments_stands_beside_one_of_whole_files(tmp_path):
    head = ("file_name", "emotion", "speaker", "start", "end")
    rows = {"test": [("a.wav", "joy", "x", 1, 2), ("a.wav", "anger", "y", 2, "")]}
    rows["train"] = [("a.wav", "joy", "z"), ("b.wav", "anger", "z")]
    for split, of_split in rows.items():
        (tmp_path / "in" / split).mkdir(parents=True)
        for name in {row[0] for row in of_split}:
            soundfile.write(tmp_path / "in" / split / name, voice(3.0, seed=len(split) + ord(name[0])), RATE)
        write_table(tmp_path / "in" / split / "metadata.csv", of_split, head[: len(of_split[0])])
    corpus = prepare_folder("own", tmp_path / "in", tmp_path / "data")
    assert (corpus.utterances["num_samples"] / RATE).tolist() == [1, 1, 3, 3]
    assert corpus.utterances["recording"].tolist() == ["test/a.wav", "test/a.wav", "train/a", "train/b"]
    assert corpus.info["notes"] == {}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_an_audformat_table_is_taken_as_it_is(own, suffix, tmp_path):
    index = pd.MultiIndex.from_arrays(
        [
            [path for path, *_ in own],
            pd.to_timedelta([0.1] * len(own), unit="s"),
            pd.to_timedelta([0.5] * (len(own) - 1) + [None], unit="s"),
        ],
        names=["file", "start", "end"],
    )
    columns = {"emotion": pd.Categorical([emotion for _, emotion, _ in own]), "speaker": [name for *_, name in own]}
    table = pd.DataFrame({**columns, "arousal": [0.25, *[None] * (len(own) - 1)]}, index)
    path = tmp_path / f"db.emotion.{suffix}"
    if suffix == "csv":
        table.to_csv(path)
    else:
        table.to_parquet(path)
    corpus = prepare_folder("own", tmp_path / "in", tmp_path / "data", Options(table=path))
    assert corpus.utterances["num_samples"].tolist() == [6400] * 11 + [11200]
    assert corpus.utterances["speaker"].nunique() == 3 and corpus.utterances["arousal"].tolist() == ["0.25"] + [""] * 11


def test_a_class_of_phone_recordings_never_vanishes(own, tmp_path):
    for emotion, suffix in (("anger", "wav"), ("joy", "m4a"), ("sadness", "webm")):
        (tmp_path / "folders" / emotion).mkdir(parents=True)
        for k in range(3):
            path = tmp_path / "folders" / emotion / f"{k}.{suffix}"
            if suffix == "wav":
                soundfile.write(path, voice(seed=k), RATE)
            else:
                path.write_bytes(b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom\0\0\0\0" + bytes(4000))
    with pytest.raises(UserError, match=r"6 of 9 utterances of own are bad"):
        prepare_folder("own", tmp_path / "folders", tmp_path / "data")


def test_a_name_that_is_not_utf8_is_named_not_passed_over(tmp_path):
    (tmp_path / "in" / "joy").mkdir(parents=True)
    soundfile.write(tmp_path / "in" / "joy" / "good.wav", voice(), RATE)
    good = (tmp_path / "in" / "joy" / "good.wav").read_bytes()
    Path(os.fsdecode(os.fsencode(tmp_path / "in" / "joy") + b"/J\xfcrgen.wav")).write_bytes(good)
    with pytest.raises(UserError, match=r"J\\xfcrgen.wav: its name is not UTF-8; rename it"):
        prepare_folder("own", tmp_path / "in", tmp_path / "data")
    corpus = prepare_folder("own", tmp_path / "in", tmp_path / "data", Options(skip_bad=True))
    assert corpus.utterances["id"].tolist() == ["joy/good"] and len(corpus.info["left_out"]) == 1
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    os.rename(tmp_path / "in", odd)
    write_table(tmp_path / "t.csv", [("joy/good.wav", "joy", "a")])
    for options in (Options(), Options(table=tmp_path / "t.csv")):
        with pytest.raises(UserError, match=r"/\\xff: its name is not UTF-8; rename it"):
            prepare_folder("own", odd, tmp_path / "data", options)


def test_a_name_with_control_characters_is_bad_and_printed_with_escapes(tmp_path):
    for emotion in ("joy", "\x1b[2Jjoy"):
        (tmp_path / "in" / emotion).mkdir(parents=True)
        soundfile.write(tmp_path / "in" / emotion / "a.wav", voice(), RATE)
    with pytest.raises(UserError, match=r"^\\x1b\[2Jjoy/a.wav: its name has control characters; rename it; --skip bad"):
        prepare_folder("own", tmp_path / "in", tmp_path / "data")


def test_what_recordings_are_like_is_counted_and_printed(own, tmp_path, capsys):
    import argparse

    soundfile.write(tmp_path / "in" / "s0_anger.wav", np.zeros(RATE), RATE)
    soundfile.write(tmp_path / "in" / "s1_anger.wav", np.clip(voice() * 30, -1, 1), RATE)
    soundfile.write(tmp_path / "in" / "s2_anger.wav", np.stack([voice(), -voice()], 1), RATE)
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    names = (
        "--source",
        str(tmp_path / "in"),
        "--table",
        str(tmp_path / "table.csv"),
        "--data_dir",
        str(tmp_path / "data"),
    )
    assert command.run(parser.parse_args(["folder", "--name", "own", *names])) == 0
    out = capsys.readouterr().out
    assert "silent: 1 recordings: s0_anger" in out and "clipped: 1 recordings: s1_anger" in out
    assert "channels that cancel, the loudest one taken: 1 recordings: s2_anger" in out
    info = load_corpus("own", tmp_path / "data").info
    assert info["rates"] == {"16000": 12} and info["channels"] == {"1": 11, "2": 1}


def test_decomposed_names_are_one_with_composed_ones(own, tmp_path):
    names = ["Ärger", unicodedata.normalize("NFD", "Ärger")]
    write_table(tmp_path / "table.csv", [(p, names[i % 2], s) for i, (p, _, s) in enumerate(own)])
    assert prepare(tmp_path).emotions == ("Ärger",)


def test_a_data_dir_that_cannot_be_written_is_refused_in_one_line(own, tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(
        UserError, match=r"data/packed/own: cannot be written \(Not a directory\); choose another"
    ) as error:
        prepare(tmp_path)
    assert "\n" not in str(error.value)
    (tmp_path / "in" / "s0_joy.wav").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot be written"):
        prepare(tmp_path)


def dialog(tmp_path, head, rows):
    """A recording of 8 s in which four emotions follow one another, and a table of its segments."""
    (tmp_path / "in").mkdir(exist_ok=True)
    soundfile.write(tmp_path / "in" / "d.wav", voice(8.0), RATE)
    write_table(tmp_path / "table.csv", [("d.wav", "a", *row) for row in rows], ("file", "speaker", *head))


EMOTIONS = ("anger", "joy", "neutral", "sadness")


@pytest.mark.parametrize(
    ("head", "of"),
    [
        (("emotion", "start", "end"), lambda i: (2 * i, 2 * i + 2)),
        (("emotion", "start_ms", "end_ms"), lambda i: (2000 * i, 2000 * i + 2000)),
        (("emotion", "start", "duration"), lambda i: (f"0:0{2 * i}", "2,0")),
        (("emotion", "offset", "duration"), lambda i: (2.0 * i, 2)),
        (("emotion", "onset", "offset"), lambda i: (2 * i, 2 * i + 2)),
        (("emotion", "onset", "Offset (s)"), lambda i: (2 * i, 2 * i + 2)),
        (("emotion", "xmin [ms]", "offset_ms"), lambda i: (2000 * i, 2000 * i + 2000)),
        (("emotion", "offset (ms)", "duration_s"), lambda i: (2000 * i, 2)),
        (("emotion", "xmin", "xmax"), lambda i: (2 * i, "" if i == 3 else 2 * i + 2)),
        (("emotion", "Start [s]", "End (sec)"), lambda i: (2 * i, 2 * i + 2)),
        (("emotion", "Start time (ms)", "Duration (ms)"), lambda i: (2000 * i, 2000)),
        (("emotion", "Begin Time - ss.msec", "End Time - ss.msec"), lambda i: (2 * i, 2 * i + 2)),
    ],
)
def test_segments_are_cut_however_their_ends_are_told(tmp_path, head, of):
    dialog(tmp_path, head, [(emotion, *of(i)) for i, emotion in enumerate(EMOTIONS)])
    corpus = prepare(tmp_path)
    assert corpus.utterances["segment_start"].tolist() == [0, 2, 4, 6]
    assert corpus.utterances["num_samples"].tolist() == [2 * RATE] * 4


@pytest.mark.parametrize(
    ("head", "of", "bad", "what"),
    [
        (
            ("emotion", "end"),
            lambda i: (2 * i + 2,),
            3,
            "has no start, and the file has another segment before its end",
        ),
        (("emotion", "start"), lambda i: (2 * i,), 3, "has no end, and the file has another segment behind its start"),
        (
            ("emotion", "id", "start", "end"),
            lambda i: (i, 0, 2),
            4,
            "names a segment that has several emotions here: an",
        ),
        (
            ("emotion", "id"),
            lambda i: (i,),
            4,
            "names a file that has several emotions here: anger, joy, neutral, sadn",
        ),
        (
            ("emotion", "start", "end"),
            lambda i: (f"{i}s", f"{i}ms"),
            4,
            "has the end '3ms', expected seconds, or hours:",
        ),
        (
            ("emotion", "start", "duration"),
            lambda i: (2 * i, "two"),
            4,
            "has the end 'two', expected seconds, or hours",
        ),
    ],
)
def test_one_part_of_a_recording_is_never_packed_under_several_emotions(tmp_path, head, of, bad, what):
    dialog(tmp_path, head, [(emotion, *of(i)) for i, emotion in enumerate(EMOTIONS)])
    with pytest.raises(UserError, match=f"{bad} of 4 utterances" if bad > 1 else ""):
        prepare(tmp_path)
    problems = listed(tmp_path)
    assert len(problems) == bad and what in problems[-1]["what"]


def spellings_of(folder):
    """Names of one file, which a table may have: as it stands, by another way, with other slashes, as a URL, links."""
    (folder / "b").mkdir()
    (folder / "b" / "a.wav").write_bytes((folder / "d.wav").read_bytes())
    (folder / "soft.wav").symlink_to("b/a.wav")
    os.link(folder / "b" / "a.wav", folder / "hard.wav")
    return ["b/a.wav", "./b/a.wav", "b\\a.wav", (folder / "b" / "a.wav").as_uri(), "soft.wav", "hard.wav"]


@pytest.mark.parametrize("segment", [(), (0, 2)], ids=["file", "segment"])
def test_a_file_that_is_spelled_in_several_ways_is_never_packed_under_several_emotions(tmp_path, segment):
    dialog(tmp_path, ("emotion",), [])
    rows = [(path, f"e{i}", "s", i, *segment) for i, path in enumerate(spellings_of(tmp_path / "in"))]
    head = ("path", "emotion", "speaker", "id", "start", "end")[: len(rows[0])]
    write_table(tmp_path / "table.csv", rows, head)
    with pytest.raises(UserError, match="6 of 6 utterances"):
        prepare(tmp_path)
    what = f"names a {'segment' if segment else 'file'} that has several emotions here: e0, e1, e2, e3, e4, e5"
    assert all(row["what"].endswith(what) for row in listed(tmp_path))


def test_a_file_or_segment_that_is_listed_twice_or_for_two_speakers_is_refused(tmp_path):
    dialog(tmp_path, ("emotion",), [])
    head = ("path", "emotion", "speaker", "id", "start", "end")
    for row, what in (
        (("d.wav", "joy", "a", "y", 0, 2), "line 3 names a segment that is there already, as 'x'"),
        (("d.wav", "joy", "b", "y", 0, 2), "line 2 names a segment that has several speakers here: a, b .and 1 more"),
    ):
        write_table(
            tmp_path / "table.csv", [("d.wav", "joy", "a", "x", 0, 2), row, ("d.wav", "joy", "b", "z", 1, 3)], head
        )
        with pytest.raises(UserError, match=what):
            prepare(tmp_path)
    os.link(tmp_path / "in" / "d.wav", tmp_path / "in" / "e.wav")
    write_table(tmp_path / "table.csv", [("d.wav", "joy", "a"), ("e.wav", "joy", "a")])
    with pytest.raises(UserError, match="line 3 names a file that is there already, as 'd'; --skip bad"):
        prepare(tmp_path)


def test_copies_are_said_and_whether_they_contradict_one_another(own, tmp_path):
    folder = tmp_path / "in"
    for name, like in (("s1_joy.wav", "s0_joy.wav"), ("s2_anger.wav", "s2_sadness.wav")):
        (folder / name).write_bytes((folder / like).read_bytes())
    own[5] = (own[5][0], "joy", "s0")  # the copy of one of s0
    write_table(tmp_path / "table.csv", own)
    notes = prepare(tmp_path).info["notes"]
    assert notes == {"copies": ["s0_joy", "s1_joy"], "contradicting_copies": ["s2_anger", "s2_sadness"]}


def test_segments_that_overlap_others_of_another_emotion_or_speaker_are_said(tmp_path):
    rows = [("joy", 0, 2), ("joy", 1, 2.5), ("anger", 2.47, 4), ("anger", 3, 5)]
    dialog(tmp_path, ("emotion", "start", "end"), rows)
    assert "overlapping" not in prepare(tmp_path).info["notes"]
    dialog(tmp_path, ("emotion", "start", "end"), [*rows, ("joy", 4.5, 8)])
    assert prepare(tmp_path).info["notes"]["overlapping"] == ["d_0003000", "d_0004500"]


@pytest.mark.parametrize(
    ("speakers", "said"),
    [(("a", "b", "a;b"), "'a;b'"), (("a", "b", "['a', 'b']"), "['a', 'b']"), (("a", "b", "b and a"), "'b and a'")],
)
def test_several_speakers_at_once_are_refused(own, tmp_path, speakers, said):
    write_table(tmp_path / "table.csv", [(*row[:2], speakers[i % 3]) for i, row in enumerate(own)])
    with pytest.raises(UserError, match=r"line 4 has several speakers at once, .*3 more") as error:
        prepare(tmp_path)
    assert said in str(error.value)


@pytest.mark.parametrize(
    "both",
    [
        *("anger;joy", "anger/joy", "joy + anger", "anger, joy", "anger and joy", "['joy', 'anger']"),
        *("anger joy", "anger (joy)", "anger -> joy", "joy_anger"),
    ],
)
def test_several_emotions_are_refused_whatever_stands_between_them(own, tmp_path, both):
    write_table(tmp_path / "table.csv", [*own[:-1], (own[-1][0], both, "s2")])
    with pytest.raises(UserError, match="line 13 has several emotions at once"):
        prepare(tmp_path)


@pytest.mark.parametrize("one", ["very calm", "not_calm", "calm (very)", "nicht calm", "pleasant surprise"])
def test_a_word_of_degree_makes_one_name_of_two_classes(own, tmp_path, one):
    others = [*re.split(r"[\W_]+", one.strip(")")), "calm"]
    write_table(tmp_path / "table.csv", [(row[0], [*others, one][i % 4], row[2]) for i, row in enumerate(own)])
    assert one in prepare(tmp_path).emotions


@pytest.mark.parametrize(
    "how", [{"emotions": ("anger", "joy", "neutral", "sadness", "anger joy")}, {"map": "anger joy=anger joy"}]
)
def test_two_emotions_that_are_said_to_be_one_name_are_one(own, tmp_path, how):
    write_table(tmp_path / "table.csv", [*own[:-1], (own[-1][0], "anger joy", "s2")])
    with pytest.raises(UserError, match='or say that it is one: --map "anger joy=anger joy"'):
        prepare(tmp_path)
    changes = Changes(renamed=parse_map(how["map"])) if "map" in how else Changes()
    made = prepare(tmp_path, emotions=how.get("emotions"), labels=changes)
    assert set(made.emotions) == {"anger", "joy", "neutral", "sadness", "anger joy"}


def emotion_folders(tmp_path):
    for i, emotion in enumerate(("anger", "joy")):
        (tmp_path / "in" / emotion).mkdir(parents=True)
        soundfile.write(tmp_path / "in" / emotion / "a.wav", voice(seed=i), RATE)
    return tmp_path / "in"


def test_an_emotion_whose_folder_holds_no_audio_is_not_left_out_without_a_word(tmp_path):
    folder = emotion_folders(tmp_path)
    (folder / "calm").mkdir()
    (folder / "calm" / "a.txt").write_text("no audio")
    (folder / ".git").mkdir()
    with pytest.raises(UserError, match="calm: holds no audio file, expected the recordings of an emotion; --skip bad"):
        prepare_folder("own", folder, tmp_path / "data")
    assert prepare_folder("own", folder, tmp_path / "data", Options(skip_bad=True)).emotions == ("anger", "joy")
    (folder / "calm" / "a.txt").unlink()
    (folder / "calm").rmdir()
    (folder / "calm").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match="calm: a link to what is not there"):
        prepare_folder("own", folder, tmp_path / "data")


def test_what_begins_as_audio_is_audio_whatever_its_name(tmp_path):
    folder = emotion_folders(tmp_path)
    for i, name in enumerate(("b.wave", "c", "d.rec")):
        soundfile.write(folder / "joy" / name, voice(seed=5 + i), RATE, format=("WAV", "FLAC", "OGG")[i])
    (folder / "joy" / "e.weba").write_bytes(b"")
    soundfile.write(folder / "joy" / "k", voice(seed=9), RATE, format="MP3")
    for name, content in (("f.txt", b"RIFF is a word"), ("g", b"RIFF\0\0\0\0WEBP" + bytes(20)), ("h", b"")):
        (folder / "joy" / name).write_bytes(content)
    (folder / "joy" / "i.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    with pytest.raises(UserError, match=r"e\.weba: an empty file"):
        prepare_folder("own", folder, tmp_path / "data")
    corpus = prepare_folder("own", folder, tmp_path / "data", Options(skip_bad=True))
    assert corpus.utterances["id"].tolist() == ["anger/a", "joy/a", "joy/b", "joy/c", "joy/d", "joy/k"]


def test_a_pipe_in_a_folder_is_refused_and_not_waited_for(tmp_path):
    folder = emotion_folders(tmp_path)
    os.mkfifo(folder / "joy" / "b.wav")
    with pytest.raises(UserError, match=r"b\.wav: a pipe or a device, expected a file"):
        prepare_folder("own", folder, tmp_path / "data")


def test_a_segment_without_a_sound_is_called_silent_in_a_recording_that_has_one(tmp_path):
    dialog(tmp_path, ("emotion", "start", "end"), [("joy", 0, 2), ("anger", 2, 4), ("joy", 4, 6)])
    soundfile.write(tmp_path / "in" / "d.wav", np.concatenate([voice(2.0), np.zeros(2 * RATE), voice(4.0)]), RATE)
    assert prepare(tmp_path).info["notes"]["silent"] == ["d_0002000"]


def test_segments_of_a_file_that_is_spelled_in_several_ways_are_of_one_recording(tmp_path):
    dialog(tmp_path, ("emotion",), [])
    paths = spellings_of(tmp_path / "in")
    head = ("path", "emotion", "speaker", "id", "start", "end")
    write_table(tmp_path / "table.csv", [(path, "joy", "s", i, i, i + 1) for i, path in enumerate(paths)], head)
    assert set(prepare(tmp_path).utterances["recording"]) == {"b/a.wav"}
    write_table(tmp_path / "table.csv", [(path, "joy", "s", i, i, "") for i, path in enumerate(paths)], head)
    with pytest.raises(UserError, match=r"has no end, and the file has another segment behind .* 5 of 6 utterances"):
        prepare(tmp_path)


def test_one_file_under_two_emotions_in_the_tables_of_two_splits_is_refused(tmp_path):
    for split, emotion in (("train", "joy"), ("test", "anger")):
        (tmp_path / "in" / split).mkdir(parents=True)
        write_table(tmp_path / "in" / split / "metadata.csv", [("a.wav", emotion, "s")])
    soundfile.write(tmp_path / "in" / "train" / "a.wav", voice(), RATE)
    (tmp_path / "in" / "test" / "a.wav").symlink_to("../train/a.wav")
    expected = r"file \S*test/a.wav has several emotions here: anger, joy .and 1 more"
    with pytest.raises(UserError, match=expected):
        prepare_folder("own", tmp_path / "in", tmp_path / "data")


def test_the_tables_of_all_splits_may_have_an_emotion_that_is_called_by_a_word_for_nothing(tmp_path):
    for seed, split in enumerate(("train", "test", "validation")):
        (tmp_path / "in" / split).mkdir(parents=True)
        soundfile.write(tmp_path / "in" / split / "a.wav", voice(seed=seed), RATE)
        write_table(tmp_path / "in" / split / "metadata.csv", [("a.wav", "none", "s")])
    corpus = prepare_folder("own", tmp_path / "in", tmp_path / "data", Options(emotions=["none", "joy"]))
    assert corpus.utterances["emotion"].tolist() == ["none"] * 3


def test_paths_are_found_as_a_mac_and_a_browser_write_them_and_a_near_one_is_named(own, tmp_path):
    soundfile.write(tmp_path / "in" / unicodedata.normalize("NFC", "é 1.wav"), voice(seed=50), RATE)
    more = [(unicodedata.normalize("NFD", "é 1.wav"), "anger", "s0"), ("s1_joy%2Ewav", "joy", "s1")]
    write_table(tmp_path / "table.csv", [*own[:4], *more])
    assert len(prepare(tmp_path).utterances) == 6
    write_table(tmp_path / "table.csv", [*own[:4], ("S1_JOY.WAV", "joy", "s1"), ("http://x.org/a.wav", "joy", "s1")])
    with pytest.raises(UserError, match="2 of 6"):
        prepare(tmp_path)
    whats = [row["what"] for row in listed(tmp_path)]
    assert "s1_joy.wav is: write that" in whats[0] and "names http://x.org/a.wav, expected a file that is" in whats[1]


def test_a_folder_of_speakers_and_one_file_under_two_emotions_are_refused(tmp_path):
    for speaker in ("anna", "ben"):
        for emotion in ("anger", "joy"):
            (tmp_path / "in" / speaker / emotion).mkdir(parents=True)
            soundfile.write(tmp_path / "in" / speaker / emotion / "a.wav", voice(), RATE)
    expected = (
        r"its folders \(anna, ben, ...\) hold folders that are named by emotions \(anger, joy\), expected .*EMOTION"
    )
    with pytest.raises(UserError, match=expected):
        prepare_folder("own", tmp_path / "in", tmp_path / "data")
    folder = tmp_path / "in" / "anna"
    (folder / "joy").rename(folder / "joy ")
    assert prepare_folder("own", folder, tmp_path / "data").emotions == ("anger", "joy")
    (folder / "joy " / "linked.wav").symlink_to(folder / "anger" / "a.wav")
    with pytest.raises(UserError, match=r"has several emotions here: anger, joy .and 1 more"):
        prepare_folder("own", folder, tmp_path / "data")


def test_a_folder_of_a_split_beside_emotions_is_no_emotion(tmp_path):
    folder = emotion_folders(tmp_path)
    (folder / "train" / "joy").mkdir(parents=True)
    soundfile.write(folder / "train" / "joy" / "b.wav", voice(), RATE)
    with pytest.raises(UserError, match=r"its folders \(train, ...\) hold folders that are named by emotions \(joy\)"):
        prepare_folder("own", folder, tmp_path / "data")


@pytest.mark.parametrize("place", ["data/train/metadata.csv", "Metadata.CSV"])
def test_a_table_of_an_audio_folder_is_never_passed_over(tmp_path, place):
    folder = emotion_folders(tmp_path)
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    (folder / place).write_text("file_name,emotion,speaker\n")
    with pytest.raises(UserError, match=rf"{place} may describe the recordings, expected it as --table, or its folder"):
        prepare_folder("own", folder, tmp_path / "data")


def test_recordings_that_no_row_takes_are_said(own, tmp_path, capsys):
    write_table(tmp_path / "table.csv", own[:-2])
    given = ["prepare", "folder", "--name", "own", "--source", tmp_path / "in", "--table", tmp_path / "table.csv"]
    assert main([*map(str, given), "--data_dir", str(tmp_path / "data")]) == 0
    expected = "not used      2 audio files that no row names: s2_neutral.wav, s2_sadness.wav\n"
    assert expected in capsys.readouterr().out
    write_table(tmp_path / "table.csv", own)
    assert prepare(tmp_path).info["unused"] == {"files": 0, "first": []}


def test_a_value_far_from_all_others_and_several_scales_are_said(own, tmp_path):
    rows = [(*row, 99 if i == 7 else 1 + i % 5) for i, row in enumerate(own)]
    write_table(tmp_path / "table.csv", rows, ("path", "emotion", "speaker", "arousal"))
    corpus = prepare(tmp_path)
    assert corpus.info["notes"] == {"outlying": [own[7][0].removesuffix(".wav")]}
    assert "arousal       1 to 99, known of 12 utterances" in command._summary(corpus)
    rows = [(*row, i % 5 / 4) for i, row in enumerate(own)]
    write_table(tmp_path / "unit.csv", rows, ("path", "emotion", "speaker", "arousal"))
    unit = prepare_folder("unit", tmp_path / "in", tmp_path / "data", Options(table=tmp_path / "unit.csv"))
    assert unit.info["notes"] == {}
    merged = merge_corpora("both", ["own", "unit"], tmp_path / "data")
    assert merged.info["labels"] == [
        "arousal may be on several scales, taken as they are: 1 to 99 in own, 0 to 1 in unit"
    ]


def test_an_emotion_that_is_not_allowed_is_said_with_the_one_that_may_be_meant(own, tmp_path):
    write_table(tmp_path / "table.csv", [*own[:-1], (own[-1][0], "surprised", "s2")])
    with pytest.raises(
        UserError, match=r"expected one of anger, .*; --map surprised=surprise, if that is meant; --skip"
    ):
        prepare(tmp_path, emotions=["anger", "joy", "neutral", "sadness", "surprise"])
