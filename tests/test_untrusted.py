"""What `make fuzz` found, as tests: each content raised another error than a refusal, or a long message, before."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_jax.corpora import duplicates, packed_folder
from ser_jax.corpora.builders.source import Release, open_source
from ser_jax.corpora.corpus import load, save
from ser_jax.corpora.feature_source import read_features
from ser_jax.corpora.fold_lists import read_fold_list
from ser_jax.corpora.folder import read_table
from ser_jax.corpora.problems import Problems
from ser_jax.encoders.architecture import read_architecture
from ser_jax.encoders.weights import read_tensors
from ser_jax.errors import UserError
from ser_jax.studies import more_seeds, store, workdirs
from ser_jax.training import log
from ser_jax.training.arrays import sealed
from tests.doors import spoken

ROOT = Path(__file__).parents[1]
DEEP = "[" * 3000


def table(path):
    return read_table(path, path.parent, Problems())


@pytest.mark.parametrize(
    ("name", "content", "read", "message"),
    [
        ("a.csv", '""\n', table, "not a CSV file, no line of column names"),
        ("a.csv", f"pa{DEEP}th,emotion\na,b\n", table, r"no column `path`, found pa\[+\.\.\.\[+th, emotion"),
        ("a.json", DEEP, read_fold_list, r"not json \(maximum recursion depth"),
        ("config.json", '{"model_type": []}', lambda p: read_architecture(p.parent), r"model_type \[\], expected one"),
        ("a.index.json", DEEP, read_tensors, "not an index of weights"),
        ("a.index.json", '{"weight_map": {"x": null}}', read_tensors, "names None, expected files"),
        ("a.index.json", '{"weight_map": {"x": "../b.safetensors"}}', read_tensors, "expected files .* beside it"),
        ("a.index.json", '{"weight_map": {"x": "a.index.json"}}', read_tensors, "expected files .* beside it"),
    ],
)
def test_a_file_is_refused_in_one_short_line(tmp_path, name, content, read, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value) and len(str(error.value).replace(str(tmp_path), "")) <= 300


@pytest.mark.parametrize("changes", [{"name": None}, {"corpus": []}, {"runs": [{}]}, {"config": {"model": 1}}])
def test_a_description_of_a_model_that_no_training_wrote_is_refused(tmp_path, changes):
    shutil.copytree(ROOT / "pretrained" / "both", tmp_path / "both")
    path = tmp_path / "both" / "config.json"
    path.write_text(json.dumps(sealed(json.loads(path.read_text()) | changes)))
    with pytest.raises(UserError):
        workdirs.find(tmp_path / "both")


def test_arrays_of_features_that_cannot_be_unpacked_are_counted(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", **{name: np.arange(99.0) for name in "abcd"})
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        at = archive.getinfo("c.npy").header_offset + 60
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[at : at + 40] = b"\xff" * 40
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"1 arrays cannot be read \(c\)"), read_features(tmp_path / "a.npz", spoken()):
        pass


def test_a_name_in_an_archive_does_not_fill_a_message(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(500), 16000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.wav", "own/a.wav")
    content = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(content.replace(b"own/a.wav", b"own/a.wax", 1))
    release = Release("Own", "1.0.0", "", {"a": 64 * "0"})
    with pytest.raises(UserError, match="damaged zip") as error, open_source(tmp_path / "a.zip", release, tmp_path):
        pass
    assert len(str(error.value).replace(str(tmp_path), "")) <= 300


def test_a_damaged_cache_of_near_copies_is_made_again(tmp_path):
    save(spoken(), packed_folder("own", tmp_path))
    corpus = load(packed_folder("own", tmp_path))
    expected = duplicates._signatures(corpus)
    cache = packed_folder("own", tmp_path) / duplicates.CACHE
    for content in (b"PK\3\4 no archive", b"", cache.read_bytes()[:-30]):
        cache.write_bytes(content)
        np.testing.assert_array_equal(duplicates._signatures(corpus)[0], expected[0])


def test_a_damaged_result_is_refused_by_its_name(tmp_path):
    for name, content in (("one", "{"), ("two", '{"family": "f", "seconds": 3}'), ("three", "[]"), ("four", DEEP)):
        (tmp_path / name / "checkpoints" / "6").mkdir(parents=True)
        (tmp_path / name / store.RESULT).write_text(content)
    for name in ("one", "two", "three", "four"):
        with pytest.raises(UserError, match=f"{name}.*damaged"):
            more_seeds._finished(tmp_path / name / store.RESULT, "f")


def test_a_log_with_a_line_nested_without_end_is_read(tmp_path):
    row = {"step": 1, "epoch": 0.5, "fold": "a", "seed": 0, "loss": 1.0}
    (tmp_path / "log.jsonl").write_text(f"{json.dumps(row)}\n{DEEP}\n")
    assert log.read(tmp_path / "log.jsonl") == [row]
