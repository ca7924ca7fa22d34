import re

import numpy as np
import pytest

from ser_jax.commands.predict import _pictures
from ser_jax.errors import UserError
from ser_jax.studies.restored import _table


def test_one_recording_s_picture_has_the_given_name_and_several_have_their_own(tmp_path):
    out = tmp_path / "out.png"
    assert _pictures(str(out), ["a.wav", "a.wav"]) == {"a.wav": out}
    assert _pictures(str(out), ["a.wav", "x/b.flac"]) == {
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
        _pictures(path, files)


def test_classes_may_be_called_like_columns():
    table = _table(["a.wav", "b.wav"], ("emotion", "file", "joy"), np.array([[0.2, 0.5, 0.3], [0.1, 0.2, 0.7]]))
    assert table.columns.tolist() == ["file", "p_emotion", "p_file", "joy"]
    assert table["file"].tolist() == ["a.wav", "b.wav"] and table["p_file"].tolist() == [0.5, 0.2]
