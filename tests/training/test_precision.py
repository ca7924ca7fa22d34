"""`training.precision` decides what programs compute in; they are only traced."""

import contextlib
import functools
import types

import jax
import jax.numpy as jnp
import pytest

from ser_jax import config as configuration
from ser_jax.errors import UserError
from ser_jax.training import devices
from ser_jax.training import population as populations
from ser_jax.training.precision import check_precision
from ser_jax.training.programs import _evaluate_windows, _train_steps
from ser_jax.training.step import evaluate_batch
from tests.programs import equations, multiply_adds
from tests.training.tiny import tiny_corpus, tiny_population


@pytest.fixture(scope="module")
def data():
    return tiny_corpus()


def products(data, precision, evaluation=False, **changes):
    """The products and convolutions of a program of one run: their operands' dtypes and their precision."""
    population = tiny_population(
        *data, model={"name": "cnn", "width": 4}, feed="resident", training={"precision": precision}, **changes
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
    ("precision", "dtype", "algorithm", "evaluation"),
    [
        ("float32", "float32", "HIGHEST", False),
        ("tf32", "float32", "HIGH", False),
        ("bfloat16", "bfloat16", "DEFAULT", False),
        ("bfloat16", "bfloat16", "DEFAULT", True),
    ],
)
def test_one_option_decides_activations_and_products(data, precision, dtype, algorithm, evaluation):
    dtypes, precisions = products(data, precision, evaluation)
    assert dtypes == {dtype}
    assert all(algorithm in name.replace("Precision.", "").replace("(", "").split(",")[0] for name in precisions)
    assert all(("HIGHEST" in name) == (precision == "float32") for name in precisions)


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
