import pytest

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


def test_a_folder_replaces_the_old_one_whole_or_not_at_all(tmp_path):
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
