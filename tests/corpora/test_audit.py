"""The audit: it finds what is planted, and nothing else."""

import argparse
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import soundfile

from ser_jax.commands import audit as command
from ser_jax.corpora import corpus as corpora
from ser_jax.corpora.audit import audit, duplicate_recordings
from ser_jax.corpora.corpus import make_corpus
from ser_jax.corpora.protocols import Fold, Protocol, make_protocol


def made(waveforms=None, per_speaker=2, **columns):
    """Utterances of four speakers, two classes, two texts."""
    rng, number = np.random.default_rng(0), 4 * per_speaker
    table = pd.DataFrame({"id": [f"u{i}" for i in range(number)]})
    table["speaker"] = [f"s{i // per_speaker}" for i in range(number)]
    table = table.assign(**({"emotion": list("ab") * (number // 2), "text": list("xxyy") * (number // 4)} | columns))
    if waveforms is None:
        waveforms = [rng.integers(-3000, 3000, 400).astype(np.int16) for _ in range(number)]
    return make_corpus("made", table, waveforms, ("a", "b"))


def protocol_of(train, validation, test):
    return Protocol(
        "official", False, (Fold("1", *(np.array(rows, np.int64) for rows in (train, validation, test))),), "as given"
    )


def test_copies_are_found_through_silence_gain_and_polarity_and_takes_are_not():
    rng = np.random.default_rng(1)
    takes = [rng.integers(-3000, 3000, 400).astype(np.int16) for _ in range(3)]
    takes[0][[0, -1]] = 7
    silence = np.zeros(50, np.int16)
    copies = [takes[0], np.concatenate([silence, takes[0], silence, silence]), -2 * takes[0], takes[0] + np.int16(1)]
    corpus = made([*copies, takes[1], takes[2], silence, silence.copy()])
    assert duplicate_recordings(corpus) == [[0, 1, 2], [6, 7]]


def test_a_recording_on_both_sides_is_named_and_one_within_a_side_is_not():
    rng = np.random.default_rng(1)
    waveforms = [rng.integers(-3000, 3000, 400).astype(np.int16) for _ in range(8)]
    waveforms[1], waveforms[5] = waveforms[0], waveforms[4]
    corpus = made(waveforms)
    fold = audit(corpus, protocol_of([0, 2, 4, 5], [3], [1, 6])).folds[0]
    assert fold.recordings == [["u0", "u1"]]
    report = audit(corpus, protocol_of([2, 4, 5], [0], [1, 6]))  # validation is a side to learn from too
    assert report.folds[0].recordings == [["u0", "u1"]]
    assert report.duplicates == [["u0", "u1"], ["u4", "u5"]]
    assert any("LEAK of recordings: 1" in finding and "u0 = u1" in finding for finding in report.findings)
    assert audit(corpus, protocol_of([4, 5], [], [0, 1])).folds[0].recordings == []


def test_speakers_texts_and_sessions_on_both_sides_are_named():
    corpus = made(session=list("11112222"), text=list("xxyyzzxx"))
    report = audit(corpus, protocol_of([0, 2], [4], [1, 3, 6]))
    fold = report.folds[0]
    assert (fold.speakers, fold.texts, fold.sessions) == (["s0", "s1"], ["x", "y"], ["1", "2"])
    assert report.leaks_speakers and report.not_tested == 5


def test_missing_classes_are_named_and_an_empty_validation_is_not():
    report = audit(made(), protocol_of([0, 2], [], [5, 7]))
    assert report.folds[0].missing == {"train": ["b"], "test": ["a"]}
    assert report.folds[0].test_emotions == {"a": 0, "b": 2}


def test_random_folds_leak_all_speakers_and_leave_one_speaker_out_leaks_texts_alone():
    corpus = made(per_speaker=10)
    leaky = audit(corpus, make_protocol(corpus, "random", num_folds=4))
    assert leaky.leaks_speakers and {s for fold in leaky.folds for s in fold.speakers} == {"s0", "s1", "s2", "s3"}
    clean = audit(corpus, make_protocol(corpus, "leave_one_speaker_out"))
    assert not clean.leaks_speakers and not any("LEAK" in finding for finding in clean.findings)
    assert any("can not avoid" in finding for finding in clean.findings)
    apart = audit(corpus, make_protocol(corpus, "speaker_and_text_independent"))
    assert not any(fold.texts or fold.speakers for fold in apart.folds) and apart.findings == []


def run(*arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(argument) for argument in arguments]))


def test_the_command_exits_1_on_speakers_on_both_sides_and_0_otherwise(tmp_path, capsys):
    corpora.save(made(per_speaker=10), tmp_path / "packed" / "made")
    assert run("made", "--data_dir", tmp_path) == 0
    assert "verdict: no speaker stands on both sides" in capsys.readouterr().out
    assert run("made", "--data_dir", tmp_path, "--protocol", "random", "--folds", 3) == 1
    assert "LEAK of speakers: 4 of 4" in capsys.readouterr().out
    assert run("made", "--data_dir", tmp_path, "--protocol", "random", "--folds", 3, "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["leaks_speakers"] and len(report["folds"]) == 3


def test_the_command_imports_neither_jax_nor_numpy_before_it_runs():
    heavy = "import sys, ser_jax.commands.audit; print([m for m in ('jax', 'numpy', 'pandas') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_recording_that_ravdess_has_twice_is_found(real_corpora):
    files = sorted((real_corpora / "ravdess" / "Actor_07").glob("*.flac"))
    if not files:
        pytest.skip(f"no RAVDESS in {real_corpora}")
    table = pd.DataFrame({"id": [file.stem for file in files], "emotion": "any", "speaker": "07"})
    waveforms = [soundfile.read(file, dtype="int16")[0] for file in files]
    corpus = make_corpus("ravdess", table, waveforms, ("any",))
    found = [[corpus.utterances["id"][i] for i in rows] for rows in duplicate_recordings(corpus)]
    assert found == [["03-01-03-01-02-01-07", "03-01-03-01-02-02-07"]]
