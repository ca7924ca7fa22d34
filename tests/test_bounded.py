"""Files that would unpack to far more than they are, are refused before they do."""

import io
import json
import os
import struct
import subprocess
import sys
import tracemalloc
import types
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import soundfile

from ser_jax import bounded, predictions
from ser_jax.baselines import linear
from ser_jax.config import load
from ser_jax.corpora import audio
from ser_jax.corpora.annotations import one_file
from ser_jax.corpora.builders import emodb
from ser_jax.corpora.builders.source import open_source
from ser_jax.corpora.feature_source import read_features
from ser_jax.corpora.tables import read_table
from ser_jax.errors import UserError
from ser_jax.studies import outside
from tests.doors import spoken

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def bombs(tmp_path_factory):
    """Small files of twenty million equal values."""
    folder = tmp_path_factory.mktemp("bombs")
    pd.DataFrame({"id": np.zeros(20_000_000, np.int8)}).to_parquet(folder / "a.parquet")
    np.savez_compressed(folder / "a.npz", a=np.zeros(120_000_000, np.int8))
    np.savez_compressed(folder / "arrays.npz", C=np.zeros(120_000_000, np.int8))
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("a", (50_000_000,), np.float32)  # of which nothing is written
    return folder


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("a.parquet", predictions.read),
        ("a.parquet", read_table),
        ("a.parquet", outside.read_outside),
        ("a.parquet", lambda path: read_features(path, spoken()).__enter__()),
        ("a.npz", lambda path: read_features(path, spoken()).__enter__()),
        ("a.h5", lambda path: read_features(path, spoken()).__enter__()),
        ("arrays.npz", lambda path: linear.load(path.parent)),
    ],
)
def test_a_bomb_takes_neither_memory_nor_time(bombs, name, read):
    tracemalloc.start()
    with pytest.raises(UserError, match=r"would unpack from [\d,]+ to [\d,]+ MB, expected at most 200 times"):
        read(bombs / name)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_what_is_meant_passes(tmp_path):
    pd.DataFrame({"a": np.zeros(1000)}).to_parquet(tmp_path / "a.parquet")
    assert len(bounded.read_parquet(tmp_path / "a.parquet")) == 1000
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(1_000_000))
    assert bounded.load_npz(tmp_path / "a.npz")["a"].shape == (1_000_000,)


@pytest.mark.parametrize("rate", [1, 999, 768_001, 2**31 - 1])
def test_a_rate_that_no_recording_has_is_refused(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", np.zeros(20_000, np.int16), 16_000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[24:28] = struct.pack("<I", rate)
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(UserError, match=r"Hz, expected 1000 to 768000|cannot be read as audio"):
        audio.read_recording(tmp_path / "a.wav")


def test_hours_of_silence_that_pack_to_nothing_are_refused(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.flac", np.zeros(1_500_000, np.int16), 16_000)
    assert (tmp_path / "a.flac").stat().st_size < 10_000
    monkeypatch.setattr(audio, "MOST_HOURS", 0.02)
    with pytest.raises(UserError, match=r"longer than 0\.02 hours, expected less"):
        audio.read_recording(tmp_path / "a.flac")


class Endless(io.RawIOBase):
    """A device that never ends."""

    def read(self, size=-1):
        if size < 0:
            raise MemoryError("all of it was asked for")
        return bytes(size)


def test_a_pipe_or_a_device_without_end_is_left_off(monkeypatch):
    monkeypatch.setattr(audio, "MOST_PIPED", 4_000_000)
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=Endless()))
    for path, name in (("-", "standard input"), ("/dev/zero", "/dev/zero")):
        with pytest.raises(
            UserError, match=f"{name}: more than 0.004 GB from a pipe or a device, expected a recording"
        ):
            audio.read_recording(path)


def test_no_other_door_reads_a_pipe_or_a_device(tmp_path):
    with pytest.raises(UserError, match="/dev/zero: neither a folder nor a complete zip"):
        open_source("/dev/zero", emodb.RELEASE, tmp_path).__enter__()
    os.mkfifo(tmp_path / "a.npy"), os.mkfifo(tmp_path / "labels.csv")
    with pytest.raises(UserError, match=r"a\.npy: a folder, a pipe or a device, expected a file with an array"):
        read_features(tmp_path, spoken()).__enter__()
    assert one_file(tmp_path, ["labels.csv"]) is None


@pytest.mark.parametrize("size", [0xFFFFFFF0, 0x7FFFFFF0])
def test_a_header_that_promises_gigabytes_takes_none(tmp_path, size):
    soundfile.write(tmp_path / "a.wav", np.ones(2000, np.int16), 16_000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[40:44] = struct.pack("<I", size)
    (tmp_path / "a.wav").write_bytes(content)
    tracemalloc.start()
    assert len(audio.read_recording(tmp_path / "a.wav").samples) == 2000
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_a_npy_header_that_promises_gigabytes_is_refused(tmp_path):
    for name in "abcd":
        np.save(tmp_path / f"{name}.npy", np.zeros((2, 3), np.float32))
    content = (tmp_path / "a.npy").read_bytes().replace(b"(2, 3), }", b"(9999999999, 3), }")[: 128 + 24]
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(UserError, match="1 arrays cannot be read"), read_features(tmp_path, spoken()):
        pass


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 100_000])
def test_a_configuration_nested_without_end_is_one_short_line(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError) as error:
        load(str(tmp_path / "a.json"))
    assert "\n" not in str(error.value) and len(str(error.value)) < 300 + len(str(tmp_path))
    (tmp_path / "b.json").write_text(json.dumps({"a" * 5000: 1}))
    with pytest.raises(UserError) as error:
        load(str(tmp_path / "b.json"))
    assert len(str(error.value)) <= 300


READ = """
import os, sys
import pandas as pd, pyarrow.parquet
from ser_jax import bounded
threads = lambda: len(os.listdir("/proc/self/task"))
before = threads()
found = bounded.read_parquet(sys.argv[1])
alone = threads() - before
pd.testing.assert_frame_equal(found, pd.read_parquet(sys.argv[1]))
print(alone, threads() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted as Linux lists them")
def test_parquet_is_read_as_pandas_does_and_by_no_thread_that_may_outlive_its_process(tmp_path):
    table = pd.DataFrame({f"c{i}": np.arange(3000.0) for i in range(9)} | {"s": ["é"] * 3000, "l": [["a"]] * 3000})
    table.set_index(pd.Index(range(2, 3002), name="k")).to_parquet(tmp_path / "a.parquet", row_group_size=500)
    command = [sys.executable, "-c", READ, str(tmp_path / "a.parquet")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    alone, by_pandas = map(int, ran.stdout.split())
    assert alone == 0 < by_pandas
