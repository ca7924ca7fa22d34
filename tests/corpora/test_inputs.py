import re

import pytest

from ser_jax.corpora.inputs import expand
from ser_jax.errors import UserError


@pytest.fixture
def there(tmp_path, monkeypatch):
    for name in ("b.wav", "a.flac", "notes.txt", "in/c.WAV", "in/deep/d.mp3", "in/.hidden.wav", "odd[1].wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        (["b.wav", "a.flac"], ["b.wav", "a.flac"]),
        (["in"], ["in/c.WAV", "in/deep/d.mp3"]),
        (["b.wav", "*.wav"], ["b.wav", "odd[1].wav"]),
        (["odd[1].wav"], ["odd[1].wav"]),
        (["in/**/*.mp3", "-"], ["in/deep/d.mp3", "-"]),
        (["*"], ["a.flac", "b.wav", "notes.txt", "odd[1].wav"]),
        (["gone.wav"], ["gone.wav"]),
    ],
    ids=" ".join,
)
def test_files_folders_and_patterns_are_files_each_once(there, arguments, files):
    assert expand(arguments) == files


@pytest.mark.parametrize(
    ("argument", "message"),
    [("empty", "empty: no audio files in this folder"), ("*.ogg", "*.ogg: no file matches, expected at least one")],
)
def test_what_stands_for_no_file_is_refused(there, argument, message):
    with pytest.raises(UserError, match=re.escape(message)):
        expand(["b.wav", argument])
