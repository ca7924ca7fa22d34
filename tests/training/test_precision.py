"""What `training.precision` may be; what programs then compute in is in `test_accelerator_programs.py`."""

import contextlib
import types

import jax
import pytest

from ser_jax import config as configuration
from ser_jax.errors import UserError
from ser_jax.training.precision import check_precision


def test_an_unknown_precision_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"config\.training\.precision: found .*float16.*expected .*bfloat16"):
        configuration.check(configuration.merge(configuration.default(), {"training": {"precision": "float16"}}))


@pytest.mark.parametrize(("capability", "has"), [("7.5", False), ("8.0", True), ("12.0", True), ("gfx90a", True)])
def test_bfloat16_is_refused_on_a_card_that_has_none(capability, has, monkeypatch):
    card = types.SimpleNamespace(compute_capability=capability, device_kind="Tesla T4")
    monkeypatch.setattr(jax, "devices", lambda: [card])
    for precision in ("float32", "tf32"):
        check_precision(precision)
    expectation = contextlib.nullcontext() if has else pytest.raises(UserError, match=r"found bfloat16, which Tesla T4")
    with expectation:
        check_precision("bfloat16")
