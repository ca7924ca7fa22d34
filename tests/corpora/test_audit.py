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
from ser_jax.corpora.audit import audit
from ser_jax.corpora.corpus import make_corpus
from ser_jax.corpora.duplicates import exact_copies, near_copies
from ser_jax.corpora.protocols import Fold, Protocol, make_protocol
from ser_jax.errors import UserError


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


def test_segments_that_overlap_across_a_fold_are_a_leak():
    starts = [0.0, 1.0, 2.0, 2.04, 9.0, 9.0, np.nan, np.nan]
    recordings = ["x"] * 4 + ["y", "z", "", ""]
    rng = np.random.default_rng(2)
    waveforms = [rng.integers(-3000, 3000, 17_000).astype(np.int16) for _ in starts]
    corpus = made(waveforms, recording=recordings, segment_start=starts, segment_end=[start + 1 for start in starts])
    report = audit(corpus, protocol_of([0, 2, 4, 6], [], [1, 3, 5, 7]))
    assert report.folds[0].recordings == [["u0", "u1"], ["u1", "u2"], ["u2", "u3"]] and report.duplicates == []
    assert report.verdict == "leaks"
    assert any(
        finding.startswith("LEAK of recordings: 3 pairs of segments that overlap") and "u0 and u1, u1 and u2" in finding
        for finding in report.findings
    )
    assert audit(corpus, protocol_of([0, 1, 2, 3, 4, 6], [], [5, 7])).folds[0].recordings == []


def test_silent_recordings_on_both_sides_are_no_leak():
    waveforms = [np.random.default_rng(1).integers(-3000, 3000, 400).astype(np.int16)] * 8
    waveforms[:7] = [np.zeros(400, np.int16)] * 7
    report = audit(made(waveforms), protocol_of([0, 2, 4, 5], [3], [1, 6]))
    assert report.folds[0].recordings == [] == report.duplicates
    assert not any("recordings" in finding for finding in report.findings)


def test_speakers_texts_and_sessions_on_both_sides_are_named():
    corpus = made(session=list("11112222"), text=list("xxyyzzxx"))
    report = audit(corpus, protocol_of([0, 2], [4], [1, 3, 6]))
    fold = report.folds[0]
    assert (fold.speakers, fold.texts, fold.sessions) == (["s0", "s1"], ["x", "y"], ["1", "2"])
    assert report.leaks_speakers and report.not_tested == 5


def test_speakers_of_whom_some_are_not_known_leak_all_the_same_and_are_counted():
    corpus = made(speaker=["s0", "s0", "", "s1", "s1", "s2", "s2", ""], text=["", "x", "y", "", "x", "", "y", "x"])
    report = audit(corpus, protocol_of([0, 2, 3], [5], [1, 4, 6]))
    assert report.verdict == "leaks"
    assert report.findings[:2] == [
        "LEAK of speakers: 3 of 3 are in both training and test data, in 1 of 1 folds; figures are speaker-dependent",
        "SPEAKERS UNKNOWN: training and test data may share more than these",
    ]
    assert any(finding.startswith("1 of 2 texts are in both training and test data") for finding in report.findings)
    assert command.table(report.as_dict()).startswith("made: 8 utterances, some of unknown speakers\n")
    assert "SPEAKER-DEPENDENT" in make_protocol(corpus, "random", num_folds=2, validation_speakers=0).description
    assert "SPEAKERS UNKNOWN" in make_protocol(made(speaker=[""] * 8), "random", num_folds=4).description


def test_a_text_in_several_spellings_is_one_and_is_told():
    corpus = made(text=["It is on.", "it is on", "x", "x"] * 2)
    report = audit(corpus, protocol_of([0, 2], [], [5, 7]))
    assert report.folds[0].texts == ["it is on", "x"]
    assert 'texts in several spellings, each counted as one: 1: "it is on" = "It is on."' in report.findings
    assert any(finding.startswith("2 of 2 texts are in both training and test data") for finding in report.findings)


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
    assert any("cannot avoid" in finding for finding in clean.findings)
    apart = audit(corpus, make_protocol(corpus, "speaker_and_text_independent"))
    assert not any(fold.texts or fold.speakers for fold in apart.folds) and apart.findings == []


def run(*arguments, overrides=()):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    parsed = parser.parse_args([str(argument) for argument in arguments])
    parsed.overrides = list(overrides)
    return command.run(parsed)


@pytest.mark.parametrize(
    ("changes", "protocol", "verdict", "reason"),
    [
        ({}, ("leave_one_speaker_out",), "independent", "no speakers or recordings are in both training and test data"),
        ({}, ("random", 3), "leaks", "speakers are in both training and test data"),
        ({}, ("everything",), "leaks", "speakers are in both training and test data"),
        ({"copy": True}, ("leave_one_speaker_out",), "leaks", "recordings are in both training and test data"),
        ({"speaker": ""}, ("random", 3), "cannot be told", "the speakers of some utterances are not known"),
        ({"speaker": "", "copy": True}, ("random", 3), "leaks", "recordings are in both training and test data"),
        ({}, ("speaker_and_text_independent",), "independent", "no speakers, texts or recordings"),
        ({"session": "12"}, ("leave_one_session_out",), "independent", "no speakers, sessions or recordings"),
    ],
)
def test_the_verdict_is_of_what_has_to_be_apart(changes, protocol, verdict, reason):
    rng = np.random.default_rng(0)
    waveforms = [rng.integers(-3000, 3000, 400).astype(np.int16) for _ in range(40)]
    if changes.get("copy"):
        waveforms[10:20] = waveforms[:10]  # another speaker's, and of another random fold
        waveforms[20:30] = [-wave for wave in waveforms[:10]]
    columns = {"speaker": ""} if changes.get("speaker") == "" else {}
    columns |= {"session": ["1"] * 20 + ["2"] * 20} if "session" in changes else {}
    corpus = made(waveforms, per_speaker=10, **columns)
    corpus.info["speakers_known"] = "speaker" not in columns
    name, folds = (*protocol, None)[:2]
    options = {"validation_speakers": 0} if name == "leave_one_session_out" else {}
    report = audit(corpus, make_protocol(corpus, name, num_folds=folds, **options))
    assert (report.verdict, reason in report.reason) == (verdict, True), report.reason


def test_what_was_left_out_is_a_finding():
    corpus = made(per_speaker=10)
    corpus.info["left_out"] = [{"where": "a.wav", "what": "an empty file", "id": "a"}]
    report = audit(corpus, make_protocol(corpus, "leave_one_speaker_out"))
    assert report.left_out == 1 and any("1 bad utterance left out" in finding for finding in report.findings)


def test_the_command_exits_0_for_independent_alone(tmp_path, capsys):
    corpora.save(made(per_speaker=10), tmp_path / "packed" / "made")
    assert run("made", "--data_dir", tmp_path) == 0
    assert "verdict: independent: no speakers or recordings" in capsys.readouterr().out
    assert run("made", "--data_dir", tmp_path, "--protocol", "random", "--folds", 3) == 1
    assert "LEAK of speakers: 4 of 4" in capsys.readouterr().out
    assert run("made", "--data_dir", tmp_path, "--protocol", "random", "--folds", 3, "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["leaks_speakers"] and len(report["folds"]) == 3 and report["verdict"] == "leaks"
    unknown = made(per_speaker=10, speaker="")
    unknown.info["speakers_known"] = False
    corpora.save(unknown, tmp_path / "packed" / "unknown")
    with pytest.raises(UserError, match=r"not known, .* needs; expected random or everything, or official if"):
        run("unknown", "--data_dir", tmp_path)
    assert run("unknown", "--data_dir", tmp_path, "--protocol", "random", "--folds", 3) == 1
    assert "verdict: cannot be told" in capsys.readouterr().out
    two = made(per_speaker=4, speaker=["s0"] * 8 + ["s1"] * 8)  # one to test and one to learn from
    corpora.save(two, tmp_path / "packed" / "two")
    assert run("two", "--data_dir", tmp_path) == 0
    with pytest.raises(UserError, match="expected more than validation_speakers=1"):
        run("two", "--data_dir", tmp_path, "--validation_speakers", 1)
    capsys.readouterr()
    with pytest.raises(UserError, match="num_folds=3 does nothing there"):
        run("made", "--data_dir", tmp_path, "--folds", 3)


def test_the_split_of_a_configuration_is_audited(tmp_path, capsys):
    corpora.save(made(per_speaker=10), tmp_path / "packed" / "made")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"corpus": {"name": "made"}, "protocol": {"name": "random", "num_folds": 4}}))
    assert run("--config", config, "--data_dir", tmp_path) == 1
    assert "random: 4 random folds" in capsys.readouterr().out
    assert run("--config", config, "--data_dir", tmp_path, overrides=["--config.protocol.num_folds=5"]) == 1
    assert "random: 5 random folds" in capsys.readouterr().out
    with pytest.raises(UserError, match="--folds is the configuration's"):
        run("--config", config, "--data_dir", tmp_path, "--folds", 3)
    with pytest.raises(UserError, match="expected the name of a corpus, or --config"):
        run("--data_dir", tmp_path)
    with pytest.raises(UserError, match=r"--config.protocol.name=random is about a configuration, expected --config"):
        run("made", "--data_dir", tmp_path, overrides=["--config.protocol.name=random"])
    with pytest.raises(UserError, match="--variant is about a configuration"):
        run("made", "--data_dir", tmp_path, "--variant", "all")
    with pytest.raises(UserError, match="no fold 7"):
        run("--config", config, "--data_dir", tmp_path, overrides=["--config.folds=7"])
    file = tmp_path / "packed" / "made" / "samples.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(UserError, match="damaged"):
        run("--config", config, "--data_dir", tmp_path, "--verify")


def test_of_a_study_with_several_splits_one_is_audited(tmp_path, capsys):
    corpora.save(made(per_speaker=10), tmp_path / "packed" / "made")
    variants = {"apart": {"optimizer": {"weight_decay": 0}}, "mixed": {"protocol": {"name": "random", "num_folds": 4}}}
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"corpus": {"name": "made"}, "study": {"variants": variants}}))
    with pytest.raises(UserError, match="several splits, expected --variant NAME, one of apart, mixed"):
        run("--config", config, "--data_dir", tmp_path)
    for name, status in (("apart", 0), ("mixed", 1)):
        assert run("--config", config, "--data_dir", tmp_path, "--variant", name) == status
    del variants["apart"]  # what is trained counts, not what it differs from
    config.write_text(json.dumps({"corpus": {"name": "made"}, "study": {"variants": variants}}))
    assert run("--config", config, "--data_dir", tmp_path) == 1
    assert "random: 4 random folds" in capsys.readouterr().out


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
    found = [[corpus.utterances["id"][i] for i in rows] for rows in exact_copies(corpus)]
    assert found == [["03-01-03-01-02-01-07", "03-01-03-01-02-02-07"]]
    assert near_copies(corpus) == exact_copies(corpus), "takes of one sentence by one actor are no copies"
