import shutil
import subprocess

import pytest

from ser_jax import checksums
from ser_jax.errors import UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "one.json").write_text("1")
    (tmp_path / "below" / "two words.json").write_text("2")
    (tmp_path / ".hidden").write_text("3")
    checksums.write_all(tmp_path)
    return tmp_path


def test_they_are_those_that_sha256sum_reads(folder):
    assert set(checksums.read(folder)) == {"one.json", "below/two words.json"}
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", checksums.FILE], cwd=folder, check=True)


def test_every_flipped_bit_of_a_file_or_of_the_checksums_is_noticed(folder):
    assert checksums.faults(folder) == []
    for name in ("one.json", checksums.FILE):
        path = folder / name
        content = path.read_bytes()
        for bit in range(8 * len(content)):
            changed = bytearray(content)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            assert checksums.faults(folder), f"{name}, bit {bit}"
        path.write_bytes(content)
    assert checksums.faults(folder) == []


def test_a_changed_or_missing_file_is_named_with_what_was_expected(folder):
    expected = checksums.sha256(folder / "one.json")[:12]
    (folder / "one.json").write_text("one")
    found = checksums.sha256(folder / "one.json")[:12]
    with pytest.raises(UserError, match=rf"one.json: damaged or changed, its SHA-256 is {found}, expected {expected}"):
        checksums.check(folder / "one.json")
    assert not checksums.is_whole(folder / "one.json")
    (folder / "one.json").unlink()
    assert checksums.faults(folder) == [f"{folder / 'one.json'}: missing, expected SHA-256 {expected}"]
    checksums.check(folder / ".hidden")  # of which nothing is known


def test_while_files_are_replaced_there_are_none(folder):
    with checksums.renewed(folder, ("one.json", "absent.json")):
        assert checksums.read(folder) is None
        (folder / "one.json").write_text("another")
    assert checksums.read(folder) == {"one.json": checksums.sha256(folder / "one.json")}
    with pytest.raises(OSError, match="stopped"), checksums.renewed(folder, ("one.json",)):
        raise OSError("stopped")
    assert checksums.read(folder) is None


def test_one_file_is_recorded_beside_the_others(folder):
    before = checksums.read(folder)
    (folder / "three.json").write_text("3")
    assert not checksums.is_whole(folder / "three.json")
    checksums.record(folder / "three.json")
    assert checksums.read(folder) == before | {"three.json": checksums.sha256(folder / "three.json")}
