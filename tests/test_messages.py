"""Messages that no other test comes to, each provoked once; and the plugin that finds those (tests/messages.py)."""

import builtins
import json
import sys
import types

import numpy as np
import pandas as pd
import pytest

from ser_jax import config as configuration
from ser_jax import corpora, predictions
from ser_jax.commands import prepare as prepare_command
from ser_jax.commands.main import main
from ser_jax.config.tree import choose, construct
from ser_jax.corpora import audio, corpus, microphone, prepare, synthetic, tables, targets
from ser_jax.corpora.annotations import text_of
from ser_jax.corpora.layouts import msp_improv, msp_podcast
from ser_jax.corpora.protocols import Fold
from ser_jax.encoders import architecture, extract, foreign, smart_turn, store, weights
from ser_jax.errors import UserError, reading
from tests import messages
from tests.doors import PREPROCESSOR, WHISPER, assert_refused, spoken, tiny_encoder

STUDY = ("study", "configs/quickstart.py")
EXPORT = ("export", "emodb", "--to")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compare", "docs/results/tracks", "--margin", "200"), "--margin 200: expected points of UA above 0"),
        (("compare", "x", "--across_corpora", "--baseline", "y"), "--across_corpora: expected neither --baseline"),
        (("report", "docs/results/tracks", "--out", "pretrained/emodb"), "--out pretrained/emodb: holds a published"),
        (("evaluate", "--workdir", "x", "--drop", "joy"), "--drop are for another corpus, expected --corpus"),
        ((*EXPORT, "stablehol", "--out", "x"), "--to stablehol: not a format; did you mean stablehlo?"),
        ((*EXPORT, "stablehlo", "--out", "x", "--seconds", "0"), "--seconds 0: expected more than 0 and at most 600"),
        ((*EXPORT, "stablehlo", "--out", "x.bin"), "--out x.bin: expected a name that ends in .stablehlo"),
        (
            (*EXPORT, "stablehlo", "--out", "no/x.stablehlo"),
            "--out no/x.stablehlo: expected a file in a folder that is",
        ),
        ((*EXPORT, "stablehlo", "--out", "pretrained/emodb/x.stablehlo"), "its folder is a published model, which is"),
        ((*STUDY, "--slurm", "jobs=2", "--shard", "0/2"), "--slurm makes its own shards: expected no --shard"),
        (
            (*STUDY, "--slurm", "jobs=2", "--coordinator", "a:1"),
            "to jobs of one process each: expected no --distributed",
        ),
        ((*STUDY, "--slurm", "jobs=2", "--profile_steps", "0:2"), "a training of this process: expected no --slurm"),
        ((*STUDY, "--shard", "2/2"), "--shard 2/2: expected I/N with I from 0 to N - 1"),
        (("study", "LICENSE"), "--config LICENSE: expected a file that ends in .py or .json"),
        (("study", "launch.py"), "--config launch.py: no function get_config in it"),
        ((*STUDY, "--config.model=1", "--config.model.name=cnn"), "config.model is set as a whole beside it"),
        (
            ("prepare", "iemocap", "--source", "nowhere"),
            "nowhere: no such folder, expected that with the recordings of",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_a_command_refuses_before_it_begins(capsys, arguments, message):
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.count("\n") == 1


def _written(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _encoder(folder, config, preprocessor=None):
    _written(folder, architecture.CONFIG, config if isinstance(config, str) else json.dumps(config))
    _written(folder, architecture.PREPROCESSOR, json.dumps(preprocessor or PREPROCESSOR))
    return architecture.read_architecture(folder)


def no_corpus():
    return {}


WAV2VEC2 = {"model_type": "wav2vec2", "hidden_size": 10, "num_attention_heads": 2, "num_conv_pos_embedding_groups": 3}
FOLD = Fold("p", np.array([0, 1]), np.array([], int), np.array([2]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: construct(Fold, {"trian": 1}, "config.x"), "config.x has no 'trian'; did you mean train?"),
        (lambda f: choose("voice", "tenor", {"bass": 1}), "no voice 'tenor'"),
        (lambda f: configuration.check({}), "is missing"),
        (
            lambda f: configuration.load("configs/quickstart.py", [f"--config.optimizer.learni{'[' * 3000}=1"]),
            "has no 'le",
        ),
        (lambda f: corpora.load_corpus("tests.test_messages:no_corpus", f), "returned a dict, expected a Corpus"),
        (lambda f: text_of(_written(f, "a.txt", b"\xff\xfe\xfa")), "cannot be read as text in UTF-8"),
        (lambda f: audio.read_recording(f / ("a" * 300)), "cannot be read (File name too long)"),
        (lambda f: msp_podcast._read_json(_written(f, "a.json", "[")), "a.json: not JSON"),
        (lambda f: msp_podcast._read_json(_written(f, "a.json", "[]")), "expected an object with an entry for every"),
        (lambda f: msp_improv._described(f, {}, "x", "A"), "the recording 'x', expected a name as S01A-F01-P-FM01"),
        (lambda f: synthetic.affect_tracks(spoken()), "corpus own: it has no affect tracks"),
        (lambda f: tables.read_table(_written(f, "a.parquet", "x")), "a.parquet: not a Parquet file"),
        (
            lambda f: targets.dimension_values(spoken(), ["takes"]),
            "corpus own has no column 'takes'; did you mean take?",
        ),
        (
            lambda f: targets.check_dimensions(np.ones((3, 1), np.float32), ["a"], [FOLD]),
            "fold p trains on 2 utterances",
        ),
        (lambda f: _encoder(f, "["), "config.json: cannot be read"),
        (lambda f: _encoder(f, "[]"), "config.json: list, expected a JSON object"),
        (lambda f: _encoder(f, WHISPER | {"encoder_layers": 0}), "encoder_layers 0, expected a whole number from 1"),
        (lambda f: _encoder(f, WAV2VEC2), "num_conv_pos_embedding_groups 3 does not divide hidden_size"),
        (
            lambda f: extract.make_request(_encoder(f, WHISPER), "frames", trim_db=-1.0),
            "--trim_db -1: expected dB below",
        ),
        (lambda f: extract.make_request(_encoder(f, WHISPER), "frames", average=0), "--average 0: expected at least 1"),
        (lambda f: prepare_command._numbers("--speeds", "1_0"), "--speeds 1_0: expected numbers, as 0.9,1,1.1"),
        (lambda f: prepare_command._numbers("--speeds", "1,fast"), "--speeds 1,fast: expected numbers, as 0.9,1,1.1"),
        (
            lambda f: store.get(str(tiny_encoder(f / "tiny")), f, name="a b"),
            "encoder 'a b': expected a name of letters",
        ),
        (lambda f: store._read_card(f), "encoder.json: damaged, take the encoder again"),
        (
            lambda f: architecture.conv_layers(f, "conv_feature_layers", "[(1,2)]"),
            "conv_feature_layers '[(1,2)]', expected [(width",
        ),
        (
            lambda f: architecture.conv_layers(f, "conv_feature_layers", "[(1,0,2)]"),
            "'[(1,0,2)]', expected [(width, kernel, stride)] * times + ..., all above 0",
        ),
        (lambda f: architecture.conv_layers(f, "conv_feature_layers", "[(1,2,3)] * 0"), "times + ..., all above 0"),
        (lambda f: foreign._fairseq_configuration(f, {}, {}), "does not say with which flags it was trained"),
        (
            lambda f: weights.clean_names({"a.weight_g": np.ones(2), "a.weight_v": np.ones((1, 1, 3))}),
            "a.weight_g: shape (2,), expected (1, 1, 3)",
        ),
        (lambda f: predictions.merge([]), "there are no predictions to merge"),
        (lambda f: predictions.read(_written(f, "a.parquet", "x")), "a.parquet: not a readable Parquet file"),
    ],
)
def test_what_is_refused_when_it_is_read(tmp_path, call, message):
    assert_refused(call, tmp_path, message)


def test_a_corpus_of_which_all_is_bad_is_refused_with_skip_too(tmp_path):
    for emotion in ("anger", "joy"):
        (tmp_path / "own" / emotion).mkdir(parents=True)
        _written(tmp_path / "own" / emotion, "a.wav", "no audio")
    with pytest.raises(UserError, match=r"mine: all of its 2 utterances are bad, listed in .*mine.csv; none is left"):
        prepare.prepare_folder("mine", tmp_path / "own", tmp_path / "data", prepare.Options(skip_bad=True))


def test_a_packed_corpus_without_a_column_is_refused(tmp_path):
    corpus.save(spoken(), tmp_path / "own")
    table = pd.read_parquet(tmp_path / "own" / "utterances.parquet")
    table.drop(columns="speaker").to_parquet(tmp_path / "own" / "utterances.parquet")
    with pytest.raises(
        UserError, match=r"damaged packed corpus, prepare it again .utterances.parquet has no column speaker"
    ):
        corpus.load(tmp_path / "own")
    (tmp_path / "own" / "samples.npy").write_bytes(b"x")
    with pytest.raises(UserError, match="damaged packed corpus, prepare it again"):
        corpus.load(tmp_path / "own")


@pytest.mark.parametrize(
    ("package", "error", "call", "message"),
    [
        (
            "sounddevice",
            OSError("PortAudio library not found"),
            lambda: microphone.record(1.0),
            "not found; install PortAu",
        ),
        ("torch", ImportError(), lambda: foreign.read_pytorch("a.pt"), "a.pt: reading a PyTorch file needs torch"),
    ],
)
def test_what_a_package_is_needed_for_is_said(monkeypatch, package, error, call, message):
    imported = builtins.__import__

    def refuse(name, *others):
        if name == package:
            raise error
        return imported(name, *others)

    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError) as refused:
        call()
    assert message in str(refused.value)


def test_the_default_encoders_package_may_not_come(monkeypatch):
    done = types.SimpleNamespace(returncode=1, stderr="ERROR: no network\n")
    monkeypatch.setattr(smart_turn.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(UserError, match=r"`pip download --no-deps .*` failed \(ERROR: no network\)"):
        smart_turn.download()


def test_where_a_message_is_made_is_noted():
    """Also that of `reading`, at the `with` that it stands in."""
    made = set()
    with messages.noted(made):
        with pytest.raises(UserError):
            prepare_command._numbers("--speeds", "x")
        with pytest.raises(UserError), reading("a test's own"):
            raise ValueError
    (place,) = [one for one in made if one[0].startswith("ser_jax")]
    lines = dict(messages.places())
    assert lines[place][1].startswith("UserError(f'{flag} {text}: expected numbers")
    everything = {(file, line) for file, line in lines}
    assert messages.missing(everything) == []
    (left,) = messages.missing(everything - {place})
    assert left.startswith("ser_jax/commands/prepare.py:") and "expected numbers, as" in left


@pytest.fixture
def whole_run(monkeypatch):
    """The session of a run of all tests that ended well, in which no message was made."""
    monkeypatch.setattr(messages, "_made", set())
    monkeypatch.setattr(messages, "_skipped", set())
    monkeypatch.delenv("MESSAGES", raising=False)
    config = types.SimpleNamespace(option=types.SimpleNamespace(keyword=""), ArgsSource=pytest.Config.ArgsSource)
    config.args_source = config.ArgsSource.TESTPATHS
    return types.SimpleNamespace(config=config, exitstatus=pytest.ExitCode.OK)


def _finished(session):
    messages.pytest_sessionfinish(session, session.exitstatus)
    return session.exitstatus


def test_a_whole_run_fails_where_no_test_came_to_a_message(whole_run, monkeypatch):
    assert _finished(whole_run) == pytest.ExitCode.TESTS_FAILED
    whole_run.exitstatus = pytest.ExitCode.OK
    monkeypatch.setattr(messages, "_made", set(messages.places()))
    assert _finished(whole_run) == pytest.ExitCode.OK


@pytest.mark.parametrize("option", ["keyword", "markexpr", "deselect", "ignore", "lf", "stepwise"])
def test_a_run_of_some_tests_does_not(whole_run, option):
    setattr(whole_run.config.option, option, ["x"])
    assert _finished(whole_run) == pytest.ExitCode.OK


def test_nor_does_one_of_some_files_or_one_that_failed_or_was_interrupted(whole_run):
    for status in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED):
        whole_run.exitstatus = status
        assert _finished(whole_run) == status
    whole_run.exitstatus = pytest.ExitCode.OK
    whole_run.config.args_source = pytest.Config.ArgsSource.ARGS
    assert _finished(whole_run) == pytest.ExitCode.OK


@pytest.mark.parametrize(("keywords", "fails"), [({"gpu": 1}, True), ({}, False)], ids=["no GPU", "no corpora"])
def test_nor_does_one_in_which_a_test_was_skipped_for_want_of_anything_but_a_gpu(whole_run, keywords, fails):
    report = types.SimpleNamespace(skipped=True, keywords=keywords, nodeid="a")
    messages.pytest_runtest_logreport(report)
    assert (_finished(whole_run) == pytest.ExitCode.TESTS_FAILED) == fails
    whole_run.exitstatus = pytest.ExitCode.OK
    messages.pytest_collectreport(report)  # a file that is skipped as a whole
    assert _finished(whole_run) == pytest.ExitCode.OK
