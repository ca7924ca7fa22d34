import errno
import json
import subprocess
import sys
import tracemalloc

import numpy as np
import pandas as pd
import pytest

from ser_jax import corpora
from ser_jax.corpora.corpus import COLUMNS, fingerprint, load, make_corpus, pack, save, waveform
from ser_jax.errors import UserError


def small_corpus(**changes):
    table = pd.DataFrame(
        {
            "id": ["a", "b", "c"],
            "speaker": ["01", "01", "02"],
            "emotion": ["joy", "anger", "joy"],
            "text": ["t1", "t2", "t1"],
            "session": ["1", "1", "2"],
        }
    ).assign(**changes)
    waveforms = [np.arange(5, dtype=np.int16), np.full(2, -7, np.int16), np.full(4, 9, np.int16)]
    return make_corpus("small", table, waveforms, ("anger", "joy"), {"licence": "none"})


def test_a_corpus_has_all_columns_and_keeps_further_ones():
    corpus = small_corpus()
    assert list(corpus.utterances.columns) == [*COLUMNS, "session"]
    assert corpus.utterances["label"].tolist() == [1, 0, 1]
    assert corpus.utterances["start"].tolist() == [0, 5, 7]
    assert corpus.utterances["num_samples"].tolist() == [5, 2, 4]
    assert corpus.utterances["gender"].tolist() == ["", "", ""]
    assert waveform(corpus, 1).tolist() == [-7, -7]


def test_what_is_saved_is_loaded_memory_mapped(tmp_path):
    corpus = small_corpus()
    save(corpus, tmp_path / "small")
    loaded = load(tmp_path / "small")
    assert isinstance(loaded.samples, np.memmap)
    np.testing.assert_array_equal(loaded.samples, corpus.samples)
    pd.testing.assert_frame_equal(loaded.utterances, corpus.utterances)
    assert (loaded.name, loaded.emotions, loaded.info) == ("small", ("anger", "joy"), {"licence": "none"})
    assert loaded.fingerprint == corpus.fingerprint
    assert fingerprint(loaded.utterances, loaded.emotions, loaded.samples) == corpus.fingerprint


def test_what_is_packed_as_it_comes_is_what_would_be_saved(tmp_path):
    corpus = small_corpus()
    save(corpus, tmp_path / "saved")
    rows = corpus.utterances[["id", "speaker", "emotion", "text", "session"]].to_dict("records")
    examples = ((row, np.array(waveform(corpus, i))) for i, row in enumerate(rows))
    packed = pack(tmp_path / "packed", "small", examples, corpus.emotions, corpus.info)
    assert isinstance(packed.samples, np.memmap)
    assert packed.fingerprint == corpus.fingerprint
    for name in ("samples.npy", "utterances.parquet", "corpus.json"):
        assert (tmp_path / "packed" / name).read_bytes() == (tmp_path / "saved" / name).read_bytes()


def test_packing_holds_one_waveform_in_memory(tmp_path):
    length, size = 100_000, 64  # 13 MB
    examples = (({"id": f"u{i}", "emotion": "x"}, np.full(length, i, np.int16)) for i in range(size))
    tracemalloc.start()
    try:
        pack(tmp_path / "packed", "long", examples, ("x",))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * 2 * length


def test_what_cannot_be_packed_leaves_nothing_behind(tmp_path):
    def broken():
        yield {"id": "a", "emotion": "x"}, np.ones(3, np.int16)
        raise UserError("b.wav: not audio")

    with pytest.raises(UserError, match=r"b\.wav"):
        pack(tmp_path / "packed", "broken", broken(), ("x",))
    with pytest.raises(UserError, match="no utterances"):
        pack(tmp_path / "packed", "none", iter([]), ("x",))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes",
    [
        {"id": ["a", "b", "d"]},
        {"speaker": ["01", "02", "02"]},
        {"text": ["t1", "t2", "t3"]},
        {"emotion": ["joy", "joy", "joy"]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_the_fingerprint_changes_with_every_column_that_results_hang_on(changes):
    assert small_corpus(**changes).fingerprint != small_corpus().fingerprint


def test_the_fingerprint_changes_with_one_sample_a_boundary_and_a_class_name():
    corpus = small_corpus()
    samples = corpus.samples.copy()
    samples[-1] += 1
    moved = corpus.utterances.assign(num_samples=[4, 3, 4])
    prints = {
        corpus.fingerprint,
        fingerprint(corpus.utterances, corpus.emotions, samples),
        fingerprint(moved, corpus.emotions, corpus.samples),
        fingerprint(corpus.utterances, ("rage", "joy"), corpus.samples),
    }
    assert len(prints) == 4


def test_the_fingerprint_ignores_columns_that_only_inform():
    assert small_corpus(session=["9", "9", "9"]).fingerprint == small_corpus().fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": ["a", "b", "a"]}, "duplicate ids, the first is 'a'"),
        ({"emotion": ["joy", "anger", "envy"]}, "'c' has the emotion 'envy', expected one of anger, joy"),
    ],
)
def test_a_table_that_cannot_be_right_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        small_corpus(**changes)


def test_an_empty_corpus_and_an_utterance_without_samples_are_refused():
    with pytest.raises(UserError, match="no utterances"):
        make_corpus("none", pd.DataFrame({"id": [], "emotion": []}), [], ("joy",))
    table = pd.DataFrame({"id": ["a", "b"], "emotion": "joy"})
    with pytest.raises(UserError, match="'b' has no samples"):
        make_corpus("silent", table, [np.ones(3, np.int16), np.zeros(0, np.int16)], ("joy",))


def cut(path, num_bytes):
    path.write_bytes(path.read_bytes()[:num_bytes])


def change_description(folder, **changes):
    path = folder / "corpus.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_utterances(folder, **changes):
    path = folder / "utterances.parquet"
    pd.read_parquet(path).assign(**changes).to_parquet(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: cut(folder / "samples.npy", 140),
        lambda folder: cut(folder / "samples.npy", 20),
        lambda folder: cut(folder / "samples.npy", 0),
        lambda folder: (folder / "samples.npy").unlink(),
        lambda folder: cut(folder / "utterances.parquet", 200),
        lambda folder: (folder / "utterances.parquet").unlink(),
        lambda folder: cut(folder / "corpus.json", 30),
        lambda folder: (folder / "corpus.json").unlink(),
        lambda folder: (folder / "corpus.json").write_text("[]"),
        lambda folder: change_description(folder, format_version=99),
        lambda folder: change_description(folder, num_samples=10),
        lambda folder: change_description(folder, num_utterances=4),
        lambda folder: change_description(folder, name=5),
        lambda folder: change_description(folder, emotions=[1]),
        lambda folder: change_description(folder, info="none"),
        lambda folder: np.save(folder / "samples.npy", np.zeros(11, np.float32)),
        lambda folder: change_utterances(folder, id=[b"a", b"b", b"c"]),
        lambda folder: change_utterances(folder, num_samples=["5", "2", "4"]),
    ],
)
def test_a_damaged_packed_corpus_is_refused_by_name(tmp_path, damage):
    folder = tmp_path / "small"
    save(small_corpus(), folder)
    damage(folder)
    with pytest.raises(UserError, match=r"/small: ") as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_files_of_two_corpora_are_not_taken_for_one(tmp_path):
    save(small_corpus(), tmp_path / "small")
    other = small_corpus().utterances.assign(num_samples=[5, 2, 3])
    other.to_parquet(tmp_path / "small" / "utterances.parquet")
    with pytest.raises(UserError, match="do not belong together"):
        load(tmp_path / "small")


@pytest.mark.parametrize(
    "full",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("Not enough free space to write 47586950 bytes after offset 128"),  # NumPy's words, no errno
    ],
)
def test_a_full_disk_is_reported_and_leaves_nothing_and_a_second_try_works(tmp_path, monkeypatch, full):
    def raise_full(*_):
        raise full

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", raise_full)
        with pytest.raises(UserError, match="small: the disk is full"):
            save(small_corpus(), tmp_path / "small")
    assert list(tmp_path.iterdir()) == []
    save(small_corpus(), tmp_path / "small")
    assert load(tmp_path / "small").fingerprint == small_corpus().fingerprint


def test_another_failure_while_saving_is_not_taken_for_a_full_disk(tmp_path, monkeypatch):
    def raise_denied(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(np, "save", raise_denied)
    with pytest.raises(UserError, match=r"small: cannot be written \(Permission denied\)"):
        save(small_corpus(), tmp_path / "small")
    assert list(tmp_path.iterdir()) == []


def test_saving_again_replaces_the_whole_corpus(tmp_path):
    save(small_corpus(), tmp_path / "small")
    (tmp_path / "small" / "left_over").touch()
    save(small_corpus(session=["1", "2", "3"]), tmp_path / "small")
    assert load(tmp_path / "small").utterances["session"].tolist() == ["1", "2", "3"]
    assert sorted(path.name for path in (tmp_path / "small").iterdir()) == [
        "SHA256SUMS",
        "corpus.json",
        "samples.npy",
        "utterances.parquet",
    ]


def test_a_prepared_corpus_is_loaded_by_name(tmp_path):
    save(small_corpus(), tmp_path / "packed" / "small")
    assert corpora.load_corpus("small", tmp_path).fingerprint == small_corpus().fingerprint
    assert corpora.available_corpora(tmp_path)[-1] == "small"


def test_the_data_folder_comes_from_the_environment(tmp_path, monkeypatch):
    save(small_corpus(), tmp_path / "packed" / "small")
    monkeypatch.setenv("SER_JAX_DATA", str(tmp_path))
    assert corpora.load_corpus("small").name == "small"


def test_a_corpus_that_is_not_prepared_names_the_command(tmp_path):
    with pytest.raises(UserError, match=r"python launch.py prepare emodb --source"):
        corpora.load_corpus("emodb", tmp_path)


def test_a_misspelt_corpus_names_the_nearest(tmp_path):
    save(small_corpus(), tmp_path / "packed" / "small")
    for wrong, right in (("emodbb", "emodb"), ("smal", "small"), ("sinthetic", "synthetic")):
        with pytest.raises(UserError, match=f"unknown corpus '{wrong}'.*did you mean {right}"):
            corpora.load_corpus(wrong, tmp_path)
    with pytest.raises(UserError, match="unknown corpus ''"):
        corpora.load_corpus("", tmp_path)


def test_only_built_in_corpora_have_options(tmp_path):
    save(small_corpus(), tmp_path / "packed" / "small")
    with pytest.raises(UserError, match="small: unknown option 'speakers'"):
        corpora.load_corpus("small", tmp_path, speakers=3)


def test_a_misspelt_option_of_a_built_in_corpus_names_the_nearest(tmp_path):
    with pytest.raises(UserError, match="synthetic: unknown option 'num_speaker'; did you mean num_speakers"):
        corpora.load_corpus("synthetic", tmp_path, num_speaker=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_speakers": 1e9}, "num_speakers: found 1000000000.0, expected a whole number of at least 1 and at most"),
        ({"num_speakers": "three"}, "num_speakers: found 'three', expected a whole number"),
        ({"num_speakers": True}, "num_speakers: found True"),
        ({"utterances_per_speaker": [1]}, r"utterances_per_speaker: found \[1\]"),
        ({"utterances_per_speaker": 1.5}, "utterances_per_speaker: found 1.5"),
        ({"seed": -1}, "seed: found -1, expected a whole number of at least 0"),
        ({"cue_db": "loud"}, "cue_db: found 'loud', expected a number of at least -100 and at most 100"),
        ({"cue_db": float("nan")}, "cue_db: found nan"),
    ],
    ids=str,
)
def test_an_option_of_a_built_in_corpus_has_a_type_and_a_range(tmp_path, options, message):
    with pytest.raises(UserError, match=f"^corpus localized: config.corpus.options.{message}"):
        corpora.load_corpus("localized", tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_built_in_corpus_is_generated_once_for_each_set_of_options(tmp_path, monkeypatch):
    from ser_jax.corpora import synthetic

    calls = []

    def make_small(name, *, seed=0):
        calls.append((name, seed))
        return small_corpus()

    monkeypatch.setattr(synthetic, "make_synthetic", make_small)
    first = corpora.load_corpus("synthetic", tmp_path)
    assert isinstance(first.samples, np.memmap)
    assert corpora.load_corpus("synthetic", tmp_path).fingerprint == first.fingerprint
    corpora.load_corpus("synthetic", tmp_path, seed=3)
    assert calls == [("synthetic", 0), ("synthetic", 3)]

    for samples in tmp_path.rglob("samples.npy"):
        cut(samples, 100)
    assert corpora.load_corpus("synthetic", tmp_path).fingerprint == first.fingerprint
    assert len(calls) == 3, "a damaged copy must be generated again"


def test_corpora_import_neither_tensorflow_nor_jax_nor_anything_heavy():
    code = "import ser_jax.corpora, ser_jax.commands.prepare, sys; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"tensorflow", "jax", "numpy", "pandas"} & set(modules)


def test_a_packed_corpus_loads_without_tensorflow_jax_and_audio_libraries(tmp_path):
    save(small_corpus(), tmp_path / "packed" / "small")
    load = f"load_corpus('small', {str(tmp_path)!r})"
    # Left at once: under load, threads of pyarrow have aborted an interpreter on its way out.
    code = (
        f"from ser_jax.corpora import load_corpus; import os, sys; {load}; print(*sys.modules, flush=True); os._exit(0)"
    )
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"tensorflow", "tensorflow_datasets", "jax", "soundfile", "soxr"} & set(modules)


def test_an_option_of_a_built_in_corpus_can_have_its_default(tmp_path):
    corpus = corpora.load_corpus("synthetic", tmp_path, num_speakers=1, utterances_per_speaker=4, cue_db=None)
    assert len(corpus.utterances) == 4
