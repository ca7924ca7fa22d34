"""`predict` as a user types it, by a model as it is drawn."""

import contextlib
import errno
import io
import json
import os
import re
import sys
import types

import numpy as np
import pandas as pd
import pytest
import soundfile

import ser_jax
from ser_jax.commands.main import main
from ser_jax.commands.predict import _places
from ser_jax.corpora.corpus import SAMPLE_RATE
from ser_jax.errors import UserError
from ser_jax.studies.workdirs import find
from tests.statistics.made_tables import make_table
from tests.training.tiny import tiny_corpus
from tests.untrained import untrained_workdir


def predict(*arguments):
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        status = main(["predict", *map(str, arguments)])
    return status, output.getvalue(), errors.getvalue()


def noise(seconds, seed):
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * SAMPLE_RATE))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    untrained_workdir(folder, *tiny_corpus(), frontend={"normalization": "utterance"}, folds=[0])
    return folder


@pytest.fixture
def speech(tmp_path):
    """Two recordings in a folder and one beneath it, of which one is silent."""
    folder = tmp_path / "speech"
    (folder / "more").mkdir(parents=True)
    soundfile.write(folder / "a.wav", noise(1.5, 0), SAMPLE_RATE)
    soundfile.write(folder / "b.flac", np.zeros(9000), SAMPLE_RATE)
    soundfile.write(folder / "more" / "c.wav", noise(0.7, 1), 2 * SAMPLE_RATE)
    return folder


def test_a_folder_is_one_table_in_every_form(workdir, speech, tmp_path):
    files = [str(speech / name) for name in ("a.wav", "b.flac", "more/c.wav")]
    arguments = ["--workdir", workdir, "--json", "--embeddings", tmp_path / "e.npz"]
    status, output, errors = predict(speech, *arguments, "--out", tmp_path / "out.csv")
    assert (status, errors) == (0, f"note: {files[1]}: silent: there is no sound in it\n")
    rows = [json.loads(line) for line in output.splitlines()]
    assert [row["file"] for row in rows] == files
    assert [row["notes"] for row in rows] == ["", "silent: there is no sound in it", ""]
    model = ser_jax.load(workdir)
    expected = model.predict(soundfile.read(files[2])[0], 2 * SAMPLE_RATE)
    assert [rows[2][emotion] for emotion in model.emotions] == pytest.approx(expected.tolist(), abs=1e-5)
    assert rows[2]["emotion"] == expected.idxmax()
    written = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    assert written.columns.tolist() == ["file", "emotion", *model.emotions, "notes"] == list(rows[0])
    pd.testing.assert_frame_equal(written, pd.DataFrame(rows), check_dtype=False)
    with np.load(tmp_path / "e.npz") as stored:
        assert stored["files"].tolist() == files
        own = model.embed(soundfile.read(files[2])[0], 2 * SAMPLE_RATE)
        np.testing.assert_allclose(stored["embeddings"][2], own, atol=1e-5)
    for suffix, read in ((".parquet", pd.read_parquet), (".jsonl", lambda path: pd.read_json(path, lines=True))):
        arguments = ["--out", tmp_path / f"out{suffix}", "--embeddings", tmp_path / "e.parquet"]
        status, output, _ = predict(speech / "*.wav", "--workdir", workdir, *arguments)
        assert (status, output) == (0, "")
        assert read(tmp_path / f"out{suffix}")[model.emotions[0]].tolist() == pytest.approx(
            [rows[0][model.emotions[0]]]
        )
    table = pd.read_parquet(tmp_path / "e.parquet")
    assert (
        table.columns.tolist() == ["file", *(f"e{i}" for i in range(len(own)))] and table["file"].tolist() == files[:1]
    )


def test_a_name_that_is_not_utf8_is_written_with_escapes(workdir, speech, tmp_path):
    odd = os.fsdecode(os.fsencode(speech) + b"/\xff.wav")
    try:
        os.rename(speech / "a.wav", odd)
    except OSError as error:
        if error.errno != errno.EILSEQ:
            raise
        pytest.skip("the file system takes names of UTF-8 alone")
    arguments = ["--workdir", workdir, "--json", "--out", tmp_path / "out.csv", "--embeddings", tmp_path / "e.parquet"]
    status, output, _ = predict(odd, *arguments, "--timeline", tmp_path / "t.png")
    assert status == 0 and json.loads(output)["file"] == f"{speech}/\\xff.wav"
    assert [
        read["file"][0] for read in (pd.read_csv(tmp_path / "out.csv"), pd.read_parquet(tmp_path / "e.parquet"))
    ] == [f"{speech}/\\xff.wav"] * 2


def test_timelines_are_written_in_several_forms_and_for_several_recordings(workdir, speech, tmp_path):
    forms = [option for suffix in ("csv", "TextGrid", "png") for option in ("--timeline", tmp_path / f"t.{suffix}")]
    status, _, errors = predict(speech / "a.wav", "--workdir", workdir, *forms, "--hop", 0.5, "--window", 0.5)
    assert (status, errors) == (0, "")
    table = pd.read_csv(tmp_path / "t.csv")
    model = ser_jax.load(workdir)
    expected = model.timeline(soundfile.read(speech / "a.wav", dtype="int16")[0], SAMPLE_RATE, 0.5, 0.5)
    pd.testing.assert_frame_equal(table, expected, check_exact=False, atol=1e-5)
    assert len(table) == 3 and (tmp_path / "t.TextGrid").is_file() and (tmp_path / "t.png").is_file()
    (tmp_path / "folder").mkdir()
    predict(speech, "--workdir", workdir, "--timeline", tmp_path / "folder", "--timeline", tmp_path / "all.txt")
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["a.csv", "b.csv", "c.csv"]
    assert (tmp_path / "all-b.txt").read_text().splitlines()[0].endswith("\tsilence")


def test_abstention_goes_by_the_predictions_beside_the_model(workdir, speech, monkeypatch):
    (restored,) = find(workdir)
    emotions = restored.emotions
    made = make_table(variants=("drawn", "other"))
    made = made.rename(
        columns=dict(zip([c for c in made if c.startswith("p_")], [f"p_{e}" for e in emotions], strict=True))
    )
    renamed = dict(zip(("anger", "joy", "neutral", "sadness"), emotions, strict=True))
    made.assign(label=made["label"].map(renamed)).to_parquet(workdir / "predictions.parquet")
    arguments = [speech / "a.wav", "--workdir", workdir, "--json"]
    status, output, errors = predict(*arguments, "--abstain", 0.9)
    assert status == 0, errors
    found = ser_jax.load(workdir).abstention(0.9)
    said = (
        "no emotion below a confidence of {:.2f}; of 144 utterances of unseen speakers 10 % are answered, "
        "with {:.1f} % UA"
    )
    assert said.format(found.threshold, 100 * found.ua) in errors
    row = json.loads(output)
    assert list(row)[:3] == ["file", "emotion", "confidence"] and row["confidence"] < found.threshold
    assert row["emotion"] is None and row["notes"] == f"confidence {row['confidence']:.2f}, below {found.threshold:.2f}"
    table = predict(*arguments[:-1], "--abstain", 0.9)[1]
    assert table.splitlines()[1].split()[1] == "-"
    status, output, _ = predict(*arguments, "--abstain", 0.001)
    assert json.loads(output)["emotion"] in emotions

    restored.metadata["protocol"] |= {"name": "everything", "speaker_independent": False}
    monkeypatch.setattr("ser_jax.studies.workdirs.find", lambda *_, **__: [restored])
    status, _, errors = predict(*arguments, "--abstain", 0.2)
    assert status == 2 and "found those of protocol everything; expected a training whose folds share no" in errors
    (workdir / "predictions.parquet").unlink()
    status, output, errors = predict(*arguments, "--abstain", 0.2)
    assert (status, output) == (2, "") and "goes by predictions for unseen speakers, found none" in errors


def test_the_microphone_and_standard_input_are_recordings(workdir, speech, monkeypatch, tmp_path):
    device = types.SimpleNamespace(rec=lambda frames, **_: noise(frames / 16_000, 0)[:, None], PortAudioError=OSError)
    monkeypatch.setitem(sys.modules, "sounddevice", device)
    status, output, errors = predict("--microphone", 1.5, "--workdir", workdir, "--json")
    assert (status, errors) == (0, "recording for 1.5 s\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((speech / "a.wav").read_bytes())))
    piped = json.loads(predict("-", "--workdir", workdir, "--json", "--timeline", tmp_path)[1])
    spoken = json.loads(output)
    assert (spoken.pop("file"), piped.pop("file")) == ("microphone", "-")
    assert spoken.pop("emotion") == piped.pop("emotion") and spoken.pop("notes") == piped.pop("notes") == ""
    assert spoken == pytest.approx(piped, abs=1e-3) and (tmp_path / "stdin.csv").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "predict: found neither, expected files, or --microphone SECONDS"),
        (["a.wav", "--microphone", "2"], "predict: found both, expected files, or --microphone SECONDS"),
        (["a.wav", "--out", "x.txt"], "--out x.txt: expected a name that ends in .csv, .parquet, .jsonl"),
        (["a.wav", "--out", "no/x.csv"], "--out no/x.csv: no such folder as no"),
        (["a.wav", "--embeddings", "x.csv"], "--embeddings x.csv: expected a name that ends in .npz, .parquet"),
        (
            ["a.wav", "--timeline", "x.mp3"],
            "--timeline x.mp3: expected a name that ends in .csv, .jsonl, .txt, .TextGrid",
        ),
        (
            ["a.wav", "--out", "x.parquet", "--embeddings", "./x.parquet"],
            "--embeddings ./x.parquet: --out writes this file too; expected another name",
        ),
        (
            ["a.wav", "--timeline", "x.png", "--attention", "x.png"],
            "--attention x.png: --timeline writes this file too; expected another name",
        ),
        (
            ["a.wav", "--timeline", "x.png", "--timeline", "./x.png", "--workdir", "emodq"],
            "model 'emodq': no such folder, nor a model of that name; did you mean emodb?",
        ),
        (["--microphone=-1", "--workdir", "{w}"], "--microphone -1: expected seconds, from one sample to 12 hours"),
        (["a.wav", "--hop", "1"], "--hop: is of a timeline; expected --timeline beside it"),
        (
            ["a.wav", "--workdir", "emodp"],
            "model 'emodp': no such folder, nor a model of that name; did you mean emodb?",
        ),
        (["{w}/*.wav"], "{w}/*.wav: no file matches, expected at least one"),
        (
            ["a.wav", "--workdir", "{w}", "--timeline", "x.csv", "--hop", "0"],
            "hop: found 0 s, expected one sample to 12 hours",
        ),
        (["a.wav", "--workdir", "{w}", "--abstain", "0.5"], "goes by predictions for unseen speakers, found none"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_is_refused_before_anything_is_computed(workdir, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, output, errors = predict(*(argument.format(w=workdir) for argument in arguments))
    assert (status, output, errors.count("\n")) == (2, "", 1), errors
    assert message.format(w=workdir) in errors
    assert not list(tmp_path.iterdir())


def test_one_recording_s_file_has_the_given_name_and_several_have_their_own(tmp_path):
    out = tmp_path / "out.png"
    assert _places("--attention", str(out), ["a.wav"], (".png",)) == {"a.wav": out}
    assert _places("--attention", str(out), ["a.wav", "x/b.flac"], (".png",)) == {
        "a.wav": tmp_path / "out-a.png",
        "x/b.flac": tmp_path / "out-b.png",
    }


@pytest.mark.parametrize(
    ("path", "files", "message"),
    [
        ("out.jpg", ["a.wav"], "expected a name that ends in .png"),
        ("nowhere/out.png", ["a.wav"], "no such folder as nowhere"),
        ("out.png", ["x/a.wav", "y/a.wav"], "two recordings have the same name"),
    ],
)
def test_a_picture_that_cannot_be_is_refused(path, files, message):
    with pytest.raises(UserError, match=re.escape(message)):
        _places("--attention", path, files, (".png",))
