import dataclasses
import importlib
import json
import shutil
import tracemalloc

import numpy as np
import pandas as pd
import pytest

from ser_jax.corpora.corpus import Corpus, load, make_corpus, save, waveform
from ser_jax.errors import UserError
from ser_jax.feeds import records as records_module
from ser_jax.feeds.order import file_layout
from ser_jax.feeds.records import SPLIT, import_tensorflow, open_records, records_folder


def noise_corpus(size: int, seed: int = 0, name: str = "noise") -> Corpus:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {"id": [f"u{i}" for i in range(size)], "emotion": ["x", "y"] * (size // 2) + ["x"] * (size % 2)}
    )
    waveforms = [rng.integers(-30000, 30000, rng.integers(1, 40)).astype(np.int16) for _ in range(size)]
    return make_corpus(name, table, waveforms, ("x", "y"))


@pytest.fixture(scope="module")
def corpus():
    return noise_corpus(50)


@pytest.fixture(scope="module")
def written(corpus, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("data")
    open_records(corpus, data_dir)
    return data_dir


@pytest.fixture
def data_dir(written, tmp_path):
    """A copy of the records, to be damaged."""
    return shutil.copytree(written, tmp_path / "data")


def test_the_records_hold_every_utterance_in_the_order_of_the_layout(corpus, written):
    import tensorflow_datasets as tfds

    records = open_records(corpus, written)
    layout = file_layout(len(corpus.utterances))
    assert len(records.files) == len(layout.files) == 16
    builder = tfds.builder_from_directory(records.folder)
    assert builder.info.splits[SPLIT].shard_lengths == [len(rows) for rows in layout.files]
    examples = builder.as_dataset(split=SPLIT).as_numpy_iterator()
    for row, example in zip(np.concatenate(layout.files), examples, strict=True):
        assert example["row"] == row
        assert example["id"].decode() == corpus.utterances["id"][row]
        np.testing.assert_array_equal(example["waveform"], waveform(corpus, int(row)))


def test_records_are_written_once_and_again_for_another_corpus_or_format(corpus, data_dir, capsys, monkeypatch):
    open_records(corpus, data_dir)
    assert capsys.readouterr().out == ""
    other = noise_corpus(50, seed=1)
    assert open_records(other, data_dir).folder != records_folder(corpus, data_dir)
    assert "writing the 50 utterances of noise as records" in capsys.readouterr().out
    monkeypatch.setattr(records_module, "FORMAT_VERSION", 2)
    folder = open_records(corpus, data_dir).folder
    assert "writing" in capsys.readouterr().out
    assert json.loads((folder / "metadata.json").read_text())["format_version"] == 2


def damage(file, how):
    if how == "missing":
        file.unlink()
    elif how == "cut short":
        file.write_bytes(file.read_bytes()[:-1])
    elif how == "too long":
        file.write_bytes(file.read_bytes() + b"x")


@pytest.mark.parametrize("how", ["missing", "cut short", "too long"])
@pytest.mark.parametrize("number", [0, 15])
def test_a_damaged_file_is_named_with_what_was_found_and_the_way_out(corpus, data_dir, how, number):
    file = open_records(corpus, data_dir).files[number]
    size = file.stat().st_size
    damage(file, how)
    found = {"missing": "missing", "cut short": f"{size - 1} bytes", "too long": f"{size + 1} bytes"}[how]
    with pytest.raises(UserError) as caught:
        open_records(corpus, data_dir)
    for words in (str(file), found, f"expected {size}", "delete the folder, it is written again"):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    shutil.rmtree(file.parent)
    assert open_records(corpus, data_dir).files[number].stat().st_size == size


@pytest.mark.parametrize("text", [None, "{", "[]", "{}"])
def test_a_damaged_description_is_named(corpus, data_dir, text):
    path = records_folder(corpus, data_dir) / "metadata.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(UserError, match=r"metadata.json: damaged records .* delete the folder"):
        open_records(corpus, data_dir)


def test_a_full_disk_is_reported_and_leaves_nothing_half_written(corpus, tmp_path, monkeypatch):
    tf = import_tensorflow()

    class Full(tf.io.TFRecordWriter):
        def write(self, record):
            if next(left) == 0:
                raise tf.errors.ResourceExhaustedError(None, None, "writing failed; No space left on device")
            super().write(record)

    left = iter(range(20, -1, -1))
    with monkeypatch.context() as patch:
        patch.setattr(tf.io, "TFRecordWriter", Full)
        with pytest.raises(UserError, match="the disk is full"):
            open_records(corpus, tmp_path)
    assert not list((tmp_path / "records").glob("*noise-*/*"))
    assert len(open_records(corpus, tmp_path).files) == 16


def test_writing_does_not_hold_the_corpus_in_memory(tmp_path):
    size, length = 64, 100_000  # 13 MB
    table = pd.DataFrame({"id": [f"u{i}" for i in range(size)], "emotion": "x"})
    waveforms = [np.full(length, i, np.int16) for i in range(size)]
    save(make_corpus("long", table, waveforms, ("x",)), tmp_path / "packed")
    corpus = load(tmp_path / "packed")
    import_tensorflow()
    importlib.import_module("tensorflow_datasets")  # what it allocates is not counted

    tracemalloc.start()
    try:
        open_records(corpus, tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * 2 * length


def test_features_in_the_place_of_samples_are_refused(corpus, tmp_path):
    features = dataclasses.replace(corpus, samples=np.zeros((10, 3), np.float32))
    with pytest.raises(UserError, match="noise: its samples are features"):
        open_records(features, tmp_path)


def test_tensorflow_sees_no_accelerator(monkeypatch):
    import tensorflow as tf

    hidden = []
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda devices, kind: hidden.append((devices, kind)))
    import_tensorflow()
    assert ([], "GPU") in hidden
