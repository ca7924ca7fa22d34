import re

import pytest

from ser_jax.commands.predict import _pictures
from ser_jax.errors import UserError


def test_one_recording_s_picture_has_the_given_name_and_several_have_their_own(tmp_path):
    out = tmp_path / "out.png"
    assert _pictures("--attention", str(out), ["a.wav"], (".png",)) == {"a.wav": out}
    assert _pictures("--attention", str(out), ["a.wav", "x/b.flac"], (".png",)) == {
        "a.wav": tmp_path / "out-a.png",
        "x/b.flac": tmp_path / "out-b.png",
    }


@pytest.mark.parametrize(
    ("path", "files", "message"),
    [
        ("out.jpg", ["a.wav"], "expected a name that ends in .png"),
        ("nowhere/out.png", ["a.wav"], "no such folder as nowhere"),
        ("out.png", ["x/a.wav", "y/a.wav"], "two recordings have the same name"),
    ],
)
def test_a_picture_that_cannot_be_is_refused(path, files, message):
    with pytest.raises(UserError, match=re.escape(message)):
        _pictures("--attention", path, files, (".png",))
