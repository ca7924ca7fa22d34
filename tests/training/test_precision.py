"""`training.precision` decides what programs compute in; they are only traced."""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from ser_jax import config as configuration
from ser_jax.errors import UserError
from ser_jax.training import devices, precision, programs
from ser_jax.training import population as populations
from ser_jax.training.programs import _evaluate_windows, _train_steps
from ser_jax.training.step import evaluate_batch
from tests.programs import equations, multiply_adds
from tests.training.tiny import tiny_corpus, tiny_population


@pytest.fixture(scope="module")
def data():
    return tiny_corpus()


def products(data, name, evaluation=False, **changes):
    """The products and convolutions of a program of one run: their operands' dtypes and their precision."""
    population = tiny_population(
        *data, model={"name": "cnn", "width": 4}, feed="resident", training={"precision": name}, **changes
    )
    learner = population.programs.learner

    def one(leaf):
        return jax.ShapeDtypeStruct(leaf.shape[2:], leaf.dtype)

    state = jax.tree.map(one, populations.state_like(population))
    resident = population.resident
    if evaluation:
        size = population.window_samples
        program = functools.partial(_evaluate_windows, evaluate_batch, learner, size, "running", devices.alone)
        table = jax.ShapeDtypeStruct((2, 4), jnp.int32)
        arguments = (state, table, table, table, jnp.int32(2), resident, None)
    else:
        program = functools.partial(_train_steps, learner, devices.alone)
        run = jax.tree.map(one, population.run_values)
        arguments = (state, run, jax.ShapeDtypeStruct((2, 4), jnp.int32), jnp.int32(2), resident, None)
    found = [part for part in equations(jax.make_jaxpr(program)(*arguments).jaxpr) if multiply_adds(part)]
    convolutions = [part for part in found if part.primitive.name == "conv_general_dilated"]
    assert len(convolutions) >= 5
    dtypes = {str(part.invars[0].aval.dtype) for part in convolutions}
    return dtypes, {str(part.params["precision"]) for part in convolutions}


@pytest.mark.parametrize(
    ("name", "dtype", "algorithm", "evaluation"),
    [
        ("float32", "float32", "HIGHEST", False),
        ("tf32", "float32", "HIGH", False),
        ("bfloat16", "bfloat16", "DEFAULT", False),
        ("bfloat16", "bfloat16", "DEFAULT", True),
    ],
)
def test_one_option_decides_activations_and_products(data, name, dtype, algorithm, evaluation):
    dtypes, precisions = products(data, name, evaluation)
    assert dtypes == {dtype}
    assert all(algorithm in one.replace("Precision.", "").replace("(", "").split(",")[0] for one in precisions)
    assert all(("HIGHEST" in one) == (name == "float32") for one in precisions)


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
