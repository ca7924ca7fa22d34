import argparse
import errno
import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from ser_jax.commands import prepare as command
from ser_jax.corpora import corpus, load_corpus, prepare
from ser_jax.corpora.builders import emodb
from ser_jax.corpora.builders.source import Release, sha256
from ser_jax.corpora.corpus import make_corpus, waveform
from ser_jax.corpora.prepare import Options, prepare_corpus
from ser_jax.errors import UserError

# Few utterances of EMO-DB's names, for what does not need the real recordings.
NAMES = ("03a01Fa", "03a01Wb", "08b02Tc", "16b10Na")


def prepare_folder(name, source, data_dir, **options):
    return prepare.prepare_folder(name, source, data_dir, Options(**options))


def write_noise(path, seed=0, rate=16000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, rate // 4), rate)


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A folder of four files that stands for all of EMO-DB."""
    folder = tmp_path / "toy"
    for seed, name in enumerate(NAMES):
        write_noise(folder / "wav" / f"{name}.wav", seed)
    hashes = {path.stem: sha256(path) for path in (folder / "wav").iterdir()}
    monkeypatch.setattr(emodb, "RELEASE", Release("Toy", "1.1.0", "http://127.0.0.1:9/toy.zip", hashes))
    return folder


def test_a_prepared_corpus_is_built_packed_and_loaded_by_name(toy, tmp_path):
    corpus = prepare_corpus("emodb", toy, tmp_path / "data")
    assert corpus.utterances["id"].tolist() == sorted(NAMES)
    assert isinstance(corpus.samples, np.memmap)
    for i, name in enumerate(corpus.utterances["id"]):
        expected, _ = soundfile.read(toy / "wav" / f"{name}.wav", dtype="int16")
        np.testing.assert_array_equal(waveform(corpus, i), expected)
    assert load_corpus("emodb", tmp_path / "data").fingerprint == corpus.fingerprint
    assert (tmp_path / "data" / "emodb" / "1.1.0" / "dataset_info.json").is_file()
    assert corpus.info["source_check"]["same_as_released"] == 4
    assert corpus.info["licence"] == "CC BY 4.0"


def test_preparing_again_from_the_same_files_does_nothing_unless_forced(toy, tmp_path, capsys):
    first = prepare_corpus("emodb", toy, tmp_path / "data")
    stamp = tmp_path / "data" / "packed" / "emodb" / "stamp"
    stamp.touch()
    shutil.make_archive(str(tmp_path / "toy"), "zip", toy)
    for source in (toy, tmp_path / "toy.zip", None):
        assert prepare_corpus("emodb", source, tmp_path / "data").fingerprint == first.fingerprint
        assert "already prepared" in capsys.readouterr().out
        assert stamp.exists()
    assert prepare_corpus("emodb", toy, tmp_path / "data", force=True).fingerprint == first.fingerprint
    assert not stamp.exists()


def test_a_source_that_is_refused_leaves_what_was_prepared(toy, tmp_path):
    first = prepare_corpus("emodb", toy, tmp_path / "data")
    before = files_in(tmp_path / "data")
    (toy / "wav" / "03a01Fa.wav").unlink()
    with pytest.raises(UserError, match="1 missing"):
        prepare_corpus("emodb", toy, tmp_path / "data")
    assert files_in(tmp_path / "data") == before
    assert load_corpus("emodb", tmp_path / "data").fingerprint == first.fingerprint


def test_an_allowed_mismatch_is_prepared_and_recorded_and_then_replaced_by_the_whole(toy, tmp_path):
    missing = toy / "wav" / "03a01Fa.wav"
    missing.rename(tmp_path / "aside.wav")
    part = prepare_corpus("emodb", toy, tmp_path / "data", allow_mismatch=True)
    assert part.utterances["id"].tolist() == sorted(NAMES)[1:]
    assert part.info["source_check"]["missing"] == ["03a01Fa"]
    (tmp_path / "aside.wav").rename(missing)
    whole = prepare_corpus("emodb", toy, tmp_path / "data")
    assert len(whole.utterances) == 4
    assert whole.info["source_check"]["missing"] == []


@pytest.mark.parametrize("stage", ["records", "pack"])
def test_a_full_disk_is_reported_and_leaves_nothing_half_written_and_a_second_try_works(
    toy, tmp_path, monkeypatch, stage
):
    from ser_jax.corpora.builders import speech_builder

    def raise_full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(
            *((speech_builder, "read_recording") if stage == "records" else (corpus, "_write_samples")), raise_full
        )
        with pytest.raises(UserError, match="the disk is full"):
            prepare_corpus("emodb", toy, tmp_path / "data")
    assert not list((tmp_path / "data").rglob("packed/*"))
    assert not list((tmp_path / "data").rglob("*incomplete*"))
    records = tmp_path / "data" / "emodb"
    assert records.exists() == (stage == "pack"), "the builder's records are whole, or not there"
    assert not (tmp_path / "data" / "downloads").exists()
    assert len(prepare_corpus("emodb", toy, tmp_path / "data").utterances) == 4


def test_an_unknown_corpus_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no builder for corpus 'emo', expected emodb, ravdess, cafe.* or folder"):
        prepare_corpus("emo", None, tmp_path)


@pytest.fixture
def recordings(tmp_path):
    """The user's own recordings and their table: three utterances of two speakers."""
    folder = tmp_path / "own"
    for seed, (name, rate) in enumerate((("a.wav", 8000), ("b.flac", 16000), ("deep/c.ogg", 48000))):
        write_noise(folder / name, seed, rate)
    return folder


def write_table(tmp_path, **changes):
    columns = {
        "path": ["a.wav", "b.flac", "deep/c.ogg"],
        "emotion": ["joy", "anger", "joy"],
        "speaker": ["01", "01", "02"],
    } | changes
    table = tmp_path / "table.csv"
    pd.DataFrame({name: values for name, values in columns.items() if values is not None}).to_csv(table, index=False)
    return table


def test_a_table_becomes_a_corpus_with_all_its_columns(recordings, tmp_path):
    table = write_table(tmp_path, gender=["F", "f", "male"], text=["1", "2", ""], device=["phone", "", "null"])
    corpus = prepare_folder("own", recordings, tmp_path / "data", table=table)
    utterances = corpus.utterances
    assert utterances["id"].tolist() == ["a", "b", "deep/c"]
    assert utterances["speaker"].tolist() == ["01", "01", "02"]
    assert utterances["gender"].tolist() == ["female", "female", "male"]
    assert utterances["text"].tolist() == ["1", "2", ""]
    assert utterances["device"].tolist() == ["phone", "", "null"]
    assert "path" not in utterances, "a corpus does not tell where it came from"
    assert corpus.emotions == ("anger", "joy")
    assert utterances["num_samples"].tolist() == [4000, 4000, 4000]
    assert corpus.info["speakers_known"]
    assert load_corpus("own", tmp_path / "data").fingerprint == corpus.fingerprint


def test_emotions_name_the_allowed_set_and_the_order_of_the_classes(recordings, tmp_path):
    emotions = ["joy", "neutral", "anger"]
    corpus = prepare_folder(
        "own", recordings, tmp_path / "data", table=write_table(tmp_path), emotions=["joy", "neutral", "anger"]
    )
    assert corpus.emotions == tuple(emotions)
    assert corpus.utterances["label"].tolist() == [0, 2, 0]


def test_a_folder_per_emotion_becomes_a_corpus_without_speakers(tmp_path):
    for seed, name in enumerate(("joy/1.wav", "joy/more/2.wav", "anger/1.wav")):
        write_noise(tmp_path / "own" / name, seed)
    corpus = prepare_folder("own", tmp_path / "own", tmp_path / "data")
    assert corpus.utterances["id"].tolist() == ["anger/1", "joy/1", "joy/more/2"]
    assert corpus.utterances["emotion"].tolist() == ["anger", "joy", "joy"]
    assert set(corpus.utterances["speaker"]) == {""}
    assert corpus.info["speakers_known"] is False


def test_a_table_without_speakers_is_refused_unless_told_so(recordings, tmp_path):
    table = write_table(tmp_path, speaker=None)
    message = "table.csv: no column `speaker`, which speaker-independent protocols need, found "
    with pytest.raises(UserError, match=message):
        prepare_folder("own", recordings, tmp_path / "data", table=table)
    corpus = prepare_folder("own", recordings, tmp_path / "data", table=table, speakers=False)
    assert corpus.info["speakers_known"] is False


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": None}, "no column `path`, found emotion, speaker"),
        ({"emotion": None}, "no column `emotion`"),
        ({"emotion": ["joy", "anger", "envy"]}, "line 4 has the emotion 'envy', expected one of anger, joy"),
        ({"emotion": ["joy", "", "joy"]}, "line 3 has no emotion"),
        ({"speaker": ["01", "", ""]}, r"line 3 has no speaker \(and 1 more\)"),
        ({"id": ["x", "y", "x"]}, "line 4 repeats the id 'x'"),
        ({"path": ["a.wav", "a.wav", "b.flac"]}, "line 3 repeats the id 'a'"),
        ({"path": ["a.wav", "gone.wav", "b.flac"]}, "line 3 names the file .*gone.wav, which is not there"),
        ({"gender": ["f", "m", "x"]}, r"line 2 is of speaker 01, who has the genders female, male \(and 1 more\)"),
        ({"label": ["1", "2", "3"]}, "the column `label` is computed"),
        ({"path": [], "emotion": [], "speaker": []}, "no rows"),
    ],
)
def test_a_bad_table_is_refused_by_row_and_leaves_nothing(recordings, tmp_path, changes, message):
    table = write_table(tmp_path, **changes)
    with pytest.raises(UserError, match=f"table.csv: {message}") as error:
        prepare_folder("own", recordings, tmp_path / "data", table=table, emotions=["anger", "joy"])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data" / "packed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a CSV file"),
        (b"path,emotion\na,b,c,d\ne,f,g\n", "line 2 has 4 cells, expected 2"),
        (b"\xff\xfe\x00\x01", "no rows|not a CSV"),
    ],
)
def test_what_is_no_table_is_refused(recordings, tmp_path, content, message):
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        prepare_folder("own", recordings, tmp_path / "data", table=tmp_path / "table.csv")
    with pytest.raises(UserError, match=r"gone.csv: no such table"):
        prepare_folder("own", recordings, tmp_path / "data", table=tmp_path / "gone.csv")


def test_a_bad_recording_is_named_and_a_second_try_works(recordings, tmp_path):
    good = (recordings / "b.flac").read_bytes()
    (recordings / "b.flac").write_bytes(b"no audio")
    with pytest.raises(UserError, match=r"b.flac: cannot be read as audio"):
        prepare_folder("own", recordings, tmp_path / "data", table=write_table(tmp_path))
    assert files_in(tmp_path / "data") == ["problems/own.csv"]
    (recordings / "b.flac").write_bytes(good)
    assert len(prepare_folder("own", recordings, tmp_path / "data", table=write_table(tmp_path)).utterances) == 3


def test_a_folder_without_emotions_is_refused(recordings, tmp_path):
    with pytest.raises(UserError, match=r"a.wav is in no emotion's folder"):
        prepare_folder("own", recordings, tmp_path / "data")
    with pytest.raises(UserError, match="gone: no such folder"):
        prepare_folder("own", tmp_path / "gone", tmp_path / "data")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no audio file anywhere below it"):
        prepare_folder("own", tmp_path / "empty", tmp_path / "data")
    write_noise(tmp_path / "typo" / "jo" / "a.wav")
    with pytest.raises(UserError, match=r"file .*a.wav has the emotion 'jo', expected one of joy"):
        prepare_folder("own", tmp_path / "typo", tmp_path / "data", emotions=["joy"])


def run_snippet(number):
    """Runs a Python block of the page; the first is for recordings inside a table, the second for Kaldi's files."""
    page = (Path(__file__).parents[2] / "docs/your_corpus.md").read_text()
    exec([part for part in page.split("```") if part.startswith("python\nimport")][number].removeprefix("python\n"), {})


def test_the_page_writes_the_recordings_inside_a_table_to_files(recordings, tmp_path, monkeypatch):
    whole = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted(recordings.rglob("*.*"))]
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"audio": whole, "emotion": "joy", "speaker": "s"}).to_parquet("train.parquet")
    run_snippet(0)
    own = prepare_folder("own", tmp_path / "RECORDINGS", tmp_path / "data", table=tmp_path / "calls.csv")
    assert len(own.utterances) == len(whole) > 1


@pytest.mark.parametrize("segments", [False, True])
def test_the_page_makes_a_table_of_the_files_of_kaldi(tmp_path, monkeypatch, segments):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        write_noise(Path("wav") / f"{name}.wav")
    content = {
        "wav.scp": "one wav/one.wav\ntwo\twav/two.wav\n",
        "utt2spk": "one ann\ntwo ben\n",
        "utt2emo": "one joy\ntwo anger\n",
        "text": "one hello  there\ntwo\n",
    }
    if segments:
        content["segments"] = "one-1 one 0.0 0.1 1\n\none-2 one 0.1 0.225 1\ntwo-1 two 0.05 0.25 1\n"  # the channel too
        content["utt2spk"] = "one-1 ann\none-2 cid\ntwo-1 ben\n"
        content["utt2emo"] = "one-1 joy\none-2 joy\ntwo-1 anger\n"
        content["text"] = "one-1 hello  there\none-2\ntwo-1 ja\n"
    Path("KALDI").mkdir()
    for name, lines in content.items():
        (Path("KALDI") / name).write_text(lines)
    run_snippet(1)
    own = prepare_folder("own", tmp_path, tmp_path / "data", table=tmp_path / "calls.csv").utterances
    found = [tuple(row) for row in own[["id", "speaker", "emotion"]].to_numpy()]
    of_recordings = [("one", "ann", "joy"), ("two", "ben", "anger")]
    of_segments = [("one-1", "ann", "joy"), ("one-2", "cid", "joy"), ("two-1", "ben", "anger")]
    assert found == (of_segments if segments else of_recordings) and own["transcript"][0] == "hello  there"
    if segments:
        assert own["segment_start"].tolist() == [0, 0.1, 0.05]
        assert own["segment_end"].tolist() == [0.1, 0.225, 0.25]


@pytest.mark.parametrize(("folder", "emotions"), [("wav", ["wav"]), ("wav", None), ("anger", None)])
def test_one_folder_that_is_named_by_no_emotion_is_taken_for_one_only_where_it_is_said(tmp_path, folder, emotions):
    write_noise(tmp_path / "all" / folder / "a.wav")

    def prepared():
        return prepare_folder("own", tmp_path / "all", tmp_path / "data", emotions=emotions).emotions

    if folder == "wav" and emotions is None:
        other = os.fsencode(tmp_path / "all") + b"/\xe4rger"
        os.mkdir(other)
        shutil.copy(tmp_path / "all" / folder / "a.wav", other + b"/a.wav")
        with pytest.raises(UserError, match="its name is not UTF-8; rename it"):
            prepared()
        shutil.rmtree(other)
        with pytest.raises(UserError, match=r"all recordings are in one folder, '?wav'?, expected .* --emotions says"):
            prepared()
    else:
        assert prepared() == (folder,)


@pytest.mark.parametrize("emotions", [["joy", "joy"], ["joy", ""]])
def test_classes_without_a_name_of_their_own_are_refused(recordings, tmp_path, emotions):
    with pytest.raises(UserError, match=r"--emotions joy,.*each once"):
        prepare_folder("own", recordings, tmp_path / "data", table=write_table(tmp_path), emotions=emotions)


@pytest.mark.parametrize("name", ["emodb", "synthetic", "folder", "a/b", "..", ""])
def test_a_name_that_is_taken_or_no_name_is_refused(recordings, tmp_path, name):
    with pytest.raises(UserError, match="--name"):
        prepare_folder(name, recordings, tmp_path / "data", table=write_table(tmp_path))


def test_own_recordings_are_packed_again_only_when_something_changed(recordings, tmp_path, capsys):
    def again(**changes):
        prepare_folder("own", recordings, tmp_path / "data", table=write_table(tmp_path, **changes))
        return "already prepared" in capsys.readouterr().out

    assert not again()
    assert again()
    assert not again(speaker=["01", "02", "02"])
    write_noise(recordings / "a.wav", seed=99)
    assert not again(speaker=["01", "02", "02"])
    assert again(speaker=["01", "02", "02"])


def run_command(*arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(arguments))


def test_the_command_prints_what_it_prepared(toy, tmp_path, capsys):
    data = str(tmp_path / "data")
    assert run_command("emodb", "--source", str(toy), "--data_dir", data) == 0
    out = capsys.readouterr().out
    corpus = load_corpus("emodb", data)
    for expected in (
        "utterances    4",
        "speakers      3",
        "anger 1, boredom 0, disgust 0, fear 0, happiness 1, sadness 1, neutral 1",
        corpus.fingerprint,
        "verified      4 files, compared with the hashes of Toy as released",
        f"packed in     {data}/packed/emodb",
        f"next          `inspect emodb --data_dir {data}`, `audit emodb --data_dir {data}`, "
        f"`study configs/baselines.py:emodb --dry_run --data_dir {data}`\n",
    ):
        assert expected in out


@pytest.mark.parametrize(
    ("speakers", "known", "expected"),
    [
        (20, True, "`inspect own`, `audit own`, `study configs/baselines.py:own --dry_run`"),
        (
            21,
            True,
            "`inspect own`, `audit own`, `study configs/baselines.py:own --config.protocol.name=grouped_k_fold "
            "--config.protocol.num_folds=5 --dry_run`",
        ),
        (1, False, "`inspect own`"),
        (1, True, "`inspect own`"),
    ],
)
def test_what_comes_next_suits_the_speakers(speakers, known, expected):
    names = [f"s{i}" for i in range(speakers)] * 2
    table = pd.DataFrame({"id": [f"u{i}" for i in range(len(names))], "speaker": names, "emotion": "joy"})

    def proposed(table, data_dir=None):
        waveforms = [np.full(9, i, np.int16) for i in range(len(table))]
        return command._next(make_corpus("own", table, waveforms, ("joy",), {"speakers_known": known}), data_dir)

    assert proposed(table) == expected
    assert proposed(table.replace("s0", "")) == "`inspect own`"  # as an earlier version packed some
    assert proposed(table, "my data").startswith("`inspect own --data_dir 'my data'`")


def test_the_command_says_what_differs_from_the_release(toy, tmp_path, capsys):
    (toy / "wav" / "03a01Fa.wav").unlink()
    run_command("emodb", "--source", str(toy), "--data_dir", str(tmp_path / "data"), "--allow_mismatch")
    out = capsys.readouterr().out
    assert "MISMATCH      3 files, compared with the hashes of Toy as released" in out
    assert "missing       1 files: 03a01Fa" in out
    assert "verified" not in out


def test_the_command_packs_own_recordings(recordings, tmp_path, capsys):
    table, data = str(write_table(tmp_path, text=["It is on.", "it is on", "No"])), str(tmp_path / "data")
    own = ("folder", "--name", "own", "--source", str(recordings), "--table", table, "--data_dir", data)
    assert run_command(*own, "--emotions", "joy, anger", "--no_speakers") == 0
    out = capsys.readouterr().out
    assert "speakers      unknown" in out
    assert "files         3, not compared with a release: your own recordings\n" in out and "verified" not in out
    assert "spaces or signs alone count as one text: 1: 'it is on' = 'It is on.'\n" in out
    assert load_corpus("own", data).emotions == ("joy", "anger")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("folder", "--name", "own"), "expected --name NAME and --source FOLDER"),
        (("folder", "--name", "own", "--source", ".", "--allow_mismatch"), "--allow_mismatch has no meaning"),
        (("emodb", "--source", ".", "--table", "x.csv"), "prepare emodb: --table has no meaning"),
        (("emodb", "--source", "/nowhere/at/all"), "/nowhere/at/all: no such folder or zip"),
    ],
)
def test_the_command_refuses_flags_that_do_not_fit(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        run_command(*arguments, "--data_dir", str(tmp_path / "data"))
    assert not (tmp_path / "data").exists()


def test_emodb_as_released_is_prepared_whole(real_corpora, tmp_path):
    corpus = prepare_corpus("emodb", real_corpora / "emodb", tmp_path)
    utterances = corpus.utterances
    counts = {"anger": 127, "boredom": 81, "disgust": 46, "fear": 69, "happiness": 71, "sadness": 62, "neutral": 79}
    assert utterances["emotion"].value_counts().to_dict() == counts
    assert corpus.emotions == tuple(counts)
    by_speaker = utterances["speaker"].value_counts().sort_index()
    assert by_speaker.index.tolist() == ["03", "08", "09", "10", "11", "12", "13", "14", "15", "16"]
    assert by_speaker.tolist() == [49, 58, 43, 38, 55, 35, 61, 69, 56, 71]
    assert utterances["gender"].value_counts().to_dict() == {"female": 302, "male": 233}
    assert utterances["text"].nunique() == utterances["transcript"].nunique() == 10
    assert utterances["recognition"].between(0.8, 1).all()
    assert utterances["naturalness"].between(0, 1).all()
    assert len(corpus.samples) / 16000 / 60 == pytest.approx(24.8, abs=0.05)
    for i, name in enumerate(utterances["id"]):
        expected, _ = soundfile.read(real_corpora / "emodb" / "wav" / f"{name}.wav", dtype="int16")
        assert np.array_equal(waveform(corpus, i), expected), name
    assert corpus.info["source_check"]["same_as_released"] == 535


def test_ravdess_resampled_is_prepared_whole_with_its_duplicate_and_says_against_what(real_corpora, tmp_path):
    corpus = prepare_corpus("ravdess", real_corpora / "ravdess", tmp_path)
    utterances = corpus.utterances
    counts = utterances["emotion"].value_counts()
    assert counts.pop("neutral") == 96
    assert set(counts) == {192}
    assert len(counts) == 7
    assert utterances["speaker"].value_counts().to_dict() == {f"{actor:02d}": 60 for actor in range(1, 25)}
    assert utterances["intensity"].value_counts().to_dict() == {"normal": 96 + 672, "strong": 672}
    assert utterances.groupby("text").size().to_dict() == {"01": 720, "02": 720}
    assert len(corpus.samples) / 16000 / 60 == pytest.approx(88.8, abs=0.05)
    assert "own SHA256SUMS" in corpus.info["source_check"]["verified_against"]
    by_samples = {}
    for i, name in enumerate(utterances["id"]):
        by_samples.setdefault(hashlib.sha256(waveform(corpus, i)).hexdigest(), []).append(name)
    duplicates = [names for names in by_samples.values() if len(names) > 1]
    assert duplicates == [["03-01-03-01-02-01-07", "03-01-03-01-02-02-07"]]


def test_one_changed_byte_in_a_real_corpus_is_found(real_corpora, tmp_path):
    copy = tmp_path / "emodb"
    shutil.copytree(real_corpora / "emodb", copy, copy_function=shutil.copyfile)
    copy.chmod(0o755)
    content = bytearray((copy / "wav" / "11b03Td.wav").read_bytes())
    content[5000] ^= 1
    (copy / "wav").chmod(0o755)
    (copy / "wav" / "11b03Td.wav").write_bytes(content)
    with pytest.raises(UserError, match=r"of 535 files 1 changed \(11b03Td\)"):
        prepare_corpus("emodb", copy, tmp_path / "data")
    assert not (tmp_path / "data").exists()
