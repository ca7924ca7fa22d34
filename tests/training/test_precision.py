"""What `training.precision` may be; what programs then compute in is in `test_accelerator_programs.py`."""

import contextlib
import dataclasses

import jax
import pytest

from ser_jax import config as configuration
from ser_jax.errors import UserError
from ser_jax.training import population as populations
from ser_jax.training import precision, programs
from tests.training.tiny import tiny_corpus, tiny_population


@pytest.fixture(scope="module")
def data():
    return tiny_corpus()


def test_an_unknown_precision_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"config\.training\.precision: found .*float16.*expected .*bfloat16"):
        configuration.check(configuration.merge(configuration.default(), {"training": {"precision": "float16"}}))


class Card:
    """A device of which nothing is computed."""

    __class__ = jax.Device  # for isinstance

    def __init__(self, compute_capability):
        self.compute_capability, self.device_kind = compute_capability, f"Card {compute_capability}"


@pytest.mark.parametrize(("capability", "has"), [("7.5", False), ("8.0", True), ("12.0", True), ("gfx90a", True)])
def test_bfloat16_is_refused_on_a_card_that_has_none(capability, has, monkeypatch):
    """Whichever of a process's cards it is, and also where a model is only used."""
    monkeypatch.setattr(jax, "local_devices", lambda: [Card("9.0"), Card(capability)])
    for training, expected in ((True, "tf32 or float32"), (False, "another device, or JAX_PLATFORMS=cpu")):
        for name in ("float32", "tf32"):
            precision.check_precision(name, training=training)
        message = rf"found bfloat16, which Card 7.5 does not have \(.* 7.5, .*\); expected {expected}$"
        with contextlib.nullcontext() if has else pytest.raises(UserError, match=message):
            precision.check_precision("bfloat16", training=training)


@pytest.mark.parametrize(
    ("found", "kind", "device", "advised"),
    [
        ("tf32", "log_mel", "9.0", True),
        ("bfloat16", "log_mel", "9.0", False),
        ("tf32", "waveform", "9.0", False),
        ("tf32", "log_mel", "7.5", False),
    ],
)
def test_bfloat16_is_advised_where_it_is_to_be_had_and_not_had_yet(data, found, kind, device, advised, monkeypatch):
    learner = tiny_population(*data).learner
    frontend = dataclasses.replace(learner.frontend, kind=kind)
    monkeypatch.setattr(jax, "local_devices", lambda: [Card(device)])
    advice = programs._advice(dataclasses.replace(learner, precision=found, frontend=frontend))
    assert "batch_size" in advice and ("training.precision=bfloat16" in advice) == advised


def test_the_precision_of_a_trained_model_is_looked_at_too(data, monkeypatch):
    population = tiny_population(*data, training={"precision": "bfloat16"})
    targets = populations.describe(population)["targets"]
    monkeypatch.setattr(precision, "lacking_bfloat16", lambda: Card("7.5"))
    for trained, expected in ((None, "expected tf32"), (targets, "expected another device")):
        with pytest.raises(UserError, match=rf"Card 7.5 .*; {expected}"):
            populations.make_population(population.config, *data, trained_targets=trained)
