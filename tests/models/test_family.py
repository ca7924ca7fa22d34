"""What a family declares of its model is what the model does."""

import jax
import jax.numpy as jnp
import pytest

from ser_jax.models import FAMILIES, build

FEATURES = 12


def tiny(name):
    return build(name, 3, **FAMILIES[name].tiny)


def variables(model, frames):
    features = jnp.zeros((1, frames, FEATURES * (1 + getattr(model, "deltas", 0))))
    return jax.eval_shape(lambda: model.init(jax.random.key(0), features, jnp.array([frames]), train=False))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_says_whether_its_model_has_batch_normalisation(name):
    model = tiny(name)
    assert FAMILIES[name].batch_normalisation == ("batch_stats" in variables(model, 64))
    assert FAMILIES[name].batch_normalisation == hasattr(model, "axis_name")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_says_what_its_model_needs(name):
    model, family = tiny(name), FAMILIES[name]
    assert family.min_frames(model) == getattr(model, "min_frames", 1)
    assert family.deltas(model) == getattr(model, "deltas", 0)
