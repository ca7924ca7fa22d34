"""The short form of `make faults`: a command on a failing disk, and what the campaign would not let pass."""

import subprocess
import sys
from pathlib import Path

import pytest

from ser_jax.files import atomic_file
from tests import faults, soak

ROOT = Path(__file__).parents[1]


def test_a_preparation_on_a_failing_disk_is_one_line_and_goes_on_afterwards(tmp_path):
    if faults.build(tmp_path) is None:
        pytest.skip("needs Linux and a C compiler")
    arguments = ["--case", "prepare folder", "--points", "3", "--kind", "full disk", "--kind", "no inodes"]
    command = [sys.executable, "-W", "ignore", "-m", "tests.faults", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "| 3 of 3 | 3 of 3 |" in result.stdout


def test_the_layer_lets_the_calls_fail_that_it_is_told_to(tmp_path):
    library = faults.build(tmp_path)
    if library is None:
        pytest.skip("needs Linux and a C compiler")
    code = """
import ctypes, errno, os, shutil, sys
layer, folder = ctypes.CDLL(None), sys.argv[1]
def tried(call, creating=False):
    layer.faults_arm(os.fsencode(folder), call, call, errno.EDQUOT, creating)
    try:
        os.makedirs(folder + "/made", exist_ok=True)  # 1
        with open(folder + "/made/file", "w") as file:  # 2
            file.write("text")  # 3
            file.flush()
            os.fsync(file.fileno())  # 4
        os.replace(folder + "/made/file", folder + "/file")  # 5
        open(folder + "2", "w").close()
    except OSError as error:
        return error.errno
print([tried(call) for call in range(1, 7)], layer.faults_calls())
shutil.rmtree(folder + "/made")
os.unlink(folder + "/file")
print([tried(call, True) for call in range(2, 6)], tried(1, True), tried(2, True))
"""
    (tmp_path / "below").mkdir()
    environment = {"LD_PRELOAD": str(library)}
    command = [sys.executable, "-c", code, str(tmp_path / "below")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout == f"{[122] * 5 + [None]} 5\n[122, None, None, None] None 122\n"


def test_what_is_said_badly_is_found():
    good = faults.Ran(2, "", "error: /a/b: No space left on device (errno 28)\n", 1)
    assert faults.not_said(good, "/a") == []
    for status, errors, words in (
        (1, good.errors, "status 1"),
        (2, f"Traceback (most recent call last):\n{good.errors}", "a traceback"),
        (2, "", "0 lines"),
        (2, 3 * good.errors, "3 lines"),
        (2, "error: the operating system: No space left on device\n", "no path"),
    ):
        (found,) = faults.not_said(faults.Ran(status, "", errors, 1), "/a")
        assert found.startswith(words)


def test_what_is_left_behind_is_found(tmp_path):
    assert faults.left_behind(tmp_path) == []
    with atomic_file(tmp_path / "half") as temporary:
        assert faults.left_behind(tmp_path) == [str(temporary)]
        temporary.write_text("whole")
    (tmp_path / "SHA256SUMS").write_text(f"{64 * '0'}  half\n")
    (found,) = faults.left_behind(tmp_path)
    assert "half: damaged or changed" in found


def test_a_killed_preparation_comes_to_the_same(tmp_path, monkeypatch):
    """The short form of `make soak`: a study takes longer than all of these tests may."""
    monkeypatch.setattr(soak, "UTTERANCES", 12)
    soak.make_recordings(tmp_path)
    counts, wrong = soak.soak(soak.JOBS["folder"], tmp_path, kills=2, each=2, warm=False)
    assert wrong == []
    assert sum(tried for tried, _ in counts.values()) == sum(survived for _, survived in counts.values()) == 2
