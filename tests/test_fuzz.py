"""The short form of `make fuzz`: over a thousand cases of the doors that cost little, the same ones every time."""

import pytest

from ser_jax.errors import UserError
from tests import fuzz
from tests.doors import DOORS, make_doors

_SLOW = ("encoders", "models")  # tens of milliseconds a case


@pytest.mark.parametrize("door", [name for name in DOORS if name not in _SLOW])
def test_whatever_a_file_holds_is_taken_or_refused_in_one_short_line(door, tmp_path):
    ((_, count),) = fuzz.fuzz(make_doors(tmp_path, [door]), cases=160).values()
    assert count.findings == {}
    assert count.cases > 120 and count.taken and count.refused


def test_a_door_that_breaks_is_found(tmp_path):
    def read(path):
        if b"[" in path.read_bytes():
            raise KeyError("broken")
        raise UserError("long " * 100)

    count = fuzz.run(("a.csv", b"a,b\n1,2\n", read), tmp_path, cases=200, seed=0, kept=tmp_path / "kept")
    assert any("KeyError: \"'broken'\"" in finding for finding in count.findings.values())
    assert any("a long message: 500 letters" in finding for finding in count.findings.values())
    assert len(list((tmp_path / "kept").iterdir())) == len(count.findings) == 2


def test_values_of_a_tree_are_set_dropped_and_renamed():
    tree = {"a": [1, {"b": 2}]}
    assert fuzz.with_values(tree, [(2, "set", None)]) == {"a": [1, None]}
    assert fuzz.with_values(tree, [(3, "drop", 0)]) == {"a": [1, {}]}
    assert fuzz.with_values(tree, [(0, "rename", "c")]) == {"c": tree["a"]}
    assert fuzz.with_values({}, [(0, "set", 5)]) == 5
    assert tree == {"a": [1, {"b": 2}]}
