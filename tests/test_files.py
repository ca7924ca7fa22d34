import errno
import fcntl
import os
import signal
import subprocess
import sys
import time

import pytest

from ser_jax import files
from ser_jax.files import atomic_file, atomic_folder


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with atomic_file(path) as temporary:
        temporary.write_text("first")
        assert not path.exists()
    assert path.read_text() == "first"
    with pytest.raises(RuntimeError), atomic_file(path) as temporary:
        temporary.write_text("second")
        raise RuntimeError
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("made", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, made):
    made(tmp_path / "a.json")
    with pytest.raises(OSError, match=r"expected a file: .*a.json"):
        files.read_json(tmp_path / "a.json")


def test_half_a_character_in_json_is_refused(tmp_path):
    (tmp_path / "a.json").write_text(r'["\ud83d\ude00", "\\ud800"]')
    assert files.read_json(tmp_path / "a.json") == ["\U0001f600", r"\ud800"]
    with pytest.raises(ValueError, match=r"a text in it has half a character, \\uD83D"):
        files.from_json(r'{"\uD83D": 1}')
    assert files.from_json('{"a": 1, "a": 2}') == {"a": 2}
    with pytest.raises(ValueError, match="'a' occurs twice in an object"):
        files.from_json('{"a": 1, "a": 2}', repeats=False)


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_replaces_the_old_one_whole_or_not_at_all(tmp_path, monkeypatch, exchange):
    if not exchange:  # as on systems that cannot exchange two folders
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    path = tmp_path / "folder"
    for text in ("first", "second"):
        with atomic_folder(path) as temporary:
            (temporary / text).write_text(text)
        assert [file.name for file in path.iterdir()] == [text]
    with pytest.raises(RuntimeError), atomic_folder(path) as temporary:
        (temporary / "third").write_text("third")
        raise RuntimeError
    assert [file.name for file in path.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="folders are exchanged on Linux alone")
def test_two_folders_change_places_in_one_call(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for path in (one, other):
        path.mkdir()
        (path / path.name).touch()
    assert files._exchange(one, other)
    assert (one / "other").exists() and (other / "one").exists()


def test_files_get_the_modes_that_the_user_has_set(tmp_path):
    with atomic_file(tmp_path / "file") as temporary:
        temporary.touch()
    with atomic_folder(tmp_path / "folder"):
        pass
    (tmp_path / "plain").touch()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o777 & ~files._UMASK


WRITER = """
import sys, time
from ser_jax.files import atomic_file, atomic_folder
kind = {"file": atomic_file, "folder": atomic_folder}[sys.argv[1]]
with kind(sys.argv[2]) as temporary:
    print(temporary, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path, kind):
    path = tmp_path / "result"
    writers = []
    for _ in range(2):
        command = [sys.executable, "-c", WRITER, kind, str(path)]
        writers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=os.getcwd()))
    dead, living = (tmp_path / writer.stdout.readline().strip() for writer in writers)
    (tmp_path / ".result.abcdefgh").touch()  # a name of the user's own that looks alike
    try:
        writers[0].send_signal(signal.SIGKILL)
        writers[0].wait()
        assert dead.exists()
        with {"file": atomic_file, "folder": atomic_folder}[kind](path) as temporary:
            assert not dead.exists()
            assert living.exists()
            if kind == "file":
                temporary.write_text("whole")
        assert path.exists() and living.exists()
        assert (tmp_path / ".result.abcdefgh").exists()
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EBADF, errno.EOPNOTSUPP])
@pytest.mark.parametrize("kind", [atomic_file, atomic_folder])
def test_where_there_are_no_locks_results_are_written_and_nothing_of_others_is_removed(
    tmp_path, monkeypatch, number, kind
):
    def no_locks(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with kind(tmp_path / "result") as first:
        with kind(tmp_path / "result") as second:
            assert first != second and first.exists()
        assert first.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_content_is_on_the_disk_before_it_is_renamed(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append("fsync") or fsync(descriptor))
    monkeypatch.setattr(os, "replace", lambda *paths: events.append("replace") or replace(*paths))
    with atomic_file(tmp_path / "file") as temporary:
        temporary.write_text("text")
    assert events == ["fsync", "replace", "fsync"]
    events.clear()
    with atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "inside").mkdir()
        (temporary / "inside" / "file").write_text("text")
    assert events == ["fsync"] * 3 + ["replace", "fsync"]  # the file, two folders; then the folder that holds them


def test_a_folder_is_there_at_every_instant_while_it_is_replaced(tmp_path):
    path = tmp_path / "folder"
    with atomic_folder(path) as temporary:
        (temporary / "file").write_text("0")
    looker = subprocess.Popen(
        [sys.executable, "-c", f"import os\nwhile True:\n    os.stat({str(path / 'file')!r})"], stderr=subprocess.PIPE
    )
    time.sleep(0.3)
    for number in range(100):
        with atomic_folder(path) as temporary:
            (temporary / "file").write_text(str(number))
    gone = looker.poll()
    looker.kill()
    looker.communicate()
    if sys.platform.startswith("linux"):
        assert gone is None


@pytest.mark.parametrize("moved", ["new", "old"])  # Ctrl-C before the new one moves, and right after the old one has
def test_the_old_folder_comes_back_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch, moved):
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    path = tmp_path / "folder"
    with atomic_folder(path) as temporary:
        (temporary / "old").touch()
    replace = os.replace

    def fail(source, target):
        if moved == "new" and os.path.exists(os.path.join(source, "new")):
            raise KeyboardInterrupt
        replace(source, target)
        if moved == "old" and os.fspath(source) == os.fspath(path):
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt), atomic_folder(path) as temporary:
        (temporary / "new").touch()
    assert [found.relative_to(tmp_path).as_posix() for found in sorted(tmp_path.rglob("*"))] == ["folder", "folder/old"]


def test_a_process_that_ends_at_once_leaves_nothing_unfinished(tmp_path):
    """And none of it appears, though the thread that was writing goes on for a moment."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    with pytest.raises(FileNotFoundError), atomic_folder(tmp_path / "folder") as folder:
        (folder / "new").touch()
        with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "file") as file:
            file.write_text("half")
            files.discard()
        (tmp_path / "other").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder", "old", "other"]
    files.discard()  # nothing is left to remove


def test_what_another_process_began_is_not_discarded(tmp_path):
    with atomic_file(tmp_path / "file") as temporary:
        temporary.write_text("whole")
        if (child := os.fork()) == 0:
            files.discard()
            os._exit(0)
        os.waitpid(child, 0)
    assert (tmp_path / "file").read_text() == "whole"


@pytest.mark.parametrize("kind", ["killed", "whole"])
def test_a_scratch_folder_goes_with_its_process_or_with_the_next(tmp_path, kind):
    code = "import os, sys; from ser_jax.files import scratch_folder\n"
    code += "with scratch_folder(sys.argv[1]) as folder: (folder / 'file').touch(); " + "os._exit(0)" * (
        kind == "killed"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "unpacked")], check=True)
    assert len(list(tmp_path.iterdir())) == (kind == "killed")
    with files.scratch_folder(tmp_path / "unpacked") as folder:
        assert list(tmp_path.iterdir()) == [folder] and not list(folder.iterdir())
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_disk_names_what_was_to_be_written(tmp_path):
    """And not the temporary file, nor nothing; what was read meanwhile keeps its name."""
    full = errno.ENOSPC, os.strerror(errno.ENOSPC)
    for arguments in (full, (*full, str(tmp_path / ".file.writing-abcdefgh"))):
        with pytest.raises(OSError) as caught, files.named(tmp_path / "file", tmp_path / ".file.writing-abcdefgh"):
            raise OSError(*arguments)
        assert str(caught.value) == f"[Errno 28] No space left on device: '{tmp_path / 'file'}'"
    with pytest.raises(PermissionError, match="other"), files.named(tmp_path / "file"):
        raise OSError(errno.EACCES, "Permission denied", "other")
    with pytest.raises(OSError, match="disk") as caught, atomic_folder(tmp_path / "folder"):
        raise OSError("disk")  # as libraries do
    assert caught.value.filename == str(tmp_path / "folder")
