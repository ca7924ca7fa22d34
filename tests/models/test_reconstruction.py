"""The layer by which models reconstruct the features of masked frames."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from ser_jax.errors import UserError
from ser_jax.models import FAMILIES, build, options_of
from ser_jax.models.reconstruction import reconstructed

FEATURES = 12
WITH_LAYER = [name for name, family in FAMILIES.items() if "reconstruction" in options_of(family)]
STRIDED = {
    "transformer": [{"subsampling": 2}, {"mixing": "conformer", "pooling": "class_token", "subsampling": 4}],
    "cnn": [{"time_stride": 2}, {"time_stride": 8}, {"time_stride": 32}],
    "shufflenet_v2": [{"time_stride": 8}, {"stem_stride": 1, "time_stride": 16}],
}
CASES = [(name, options) for name in WITH_LAYER for options in STRIDED.get(name, [{}])]


def tiny(name, frames=FEATURES, **options):
    return build(name, 4, **{**FAMILIES[name].tiny, **options}, **({"reconstruction": frames} if frames else {}))


def shapes(model, frames=32):
    """Of the variables, and of the outputs in training and in evaluation."""
    features, lengths = jnp.zeros((2, frames, FEATURES)), jnp.full(2, frames)

    def all_three():
        variables = model.init(jax.random.key(0), features, lengths, train=False)
        trained, _ = model.apply(variables, features, lengths, train=True, mutable=["batch_stats"])
        return variables, trained, model.apply(variables, features, lengths, train=False)

    return jax.eval_shape(all_three)


def random_variables(model):
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32), shapes(model)[0])


def test_all_models_of_frames_in_time_have_the_layer():
    assert set(WITH_LAYER) == {"cnn", "crnn", "reslstm", "rnn", "shufflenet_v2", "tcn", "transformer"}


@pytest.mark.parametrize("frames", [1, 33])
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_every_frame_is_reconstructed_in_training_and_none_in_evaluation(name, options, frames):
    _, trained, evaluated = shapes(tiny(name, **options), frames)
    assert trained.reconstruction.shape == (2, frames, FEATURES)
    assert evaluated.reconstruction is None


@pytest.mark.parametrize("name", WITH_LAYER)
def test_the_other_parameters_are_those_of_the_model_without_it(name):
    (without, trained, _), (with_it, _, _) = shapes(tiny(name, 0)), shapes(tiny(name))
    assert trained.reconstruction is None
    without, with_it = flatten_dict(without), flatten_dict(with_it)
    added = {path for path in with_it if path not in without}
    assert added == {("params", "reconstruction", "kernel"), ("params", "reconstruction", "bias")}
    assert {path: leaf.shape for path, leaf in without.items()} == {path: with_it[path].shape for path in without}


def test_the_other_parameters_are_drawn_as_without_it(jit):
    features, lengths = jnp.zeros((1, 8, FEATURES)), jnp.array([8])

    def drawn(model):
        return jit(lambda: model.init(jax.random.key(0), features, lengths, train=False))()["params"]

    without, with_it = drawn(tiny("rnn", 0)), drawn(tiny("rnn"))
    with_it.pop("reconstruction")
    jax.tree.map(np.testing.assert_array_equal, with_it, without)


@pytest.mark.parametrize("name", WITH_LAYER)
def test_a_reconstruction_depends_on_no_padding(name, jit):
    model, lengths = tiny(name), jnp.array([40, 21])
    rng = np.random.default_rng(0)
    short = rng.normal(size=(2, 40, FEATURES)).astype(np.float32)
    long = np.full((2, 53, FEATURES), 9, np.float32)
    for row, length in enumerate(lengths):
        long[row, :length] = short[row, :length]
    variables = random_variables(model)

    @jit
    def found(features):
        return model.apply(variables, features, lengths, train=True, mutable=["batch_stats"])[0].reconstruction

    few, many = found(jnp.asarray(short)), found(jnp.asarray(long))
    assert few.dtype == jnp.float32
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(many[row, :length], few[row, :length], atol=1e-4)
        assert np.ptp(few[row, :length], 0).max() > 1e-3


class Layer(nn.Module):
    """The layer alone, on a map with two bands of three channels, each step of which stands for four frames."""

    reconstruction: int

    @nn.compact
    def __call__(self, x, num_frames):
        return reconstructed(self, x, num_frames, stride=4, train=True)


def test_a_step_reconstructs_the_frames_that_it_stands_for_one_after_another():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 5, 2, 3)), jnp.float32)
    kernel, bias = rng.normal(size=(6, 4 * FEATURES)), rng.normal(size=4 * FEATURES)
    variables = {"params": {"reconstruction": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}}}
    found = Layer(FEATURES).apply(variables, x, 18)
    assert found.shape == (2, 18, FEATURES)
    for frame in range(18):
        step, place = divmod(frame, 4)
        own = slice(place * FEATURES, (place + 1) * FEATURES)
        expected = np.asarray(x)[:, step].reshape(2, 6) @ kernel[:, own] + bias[own]
        np.testing.assert_allclose(found[:, frame], expected, atol=1e-5)


def test_a_model_without_the_layer_refuses_it():
    with pytest.raises(
        UserError, match="model linear has no option reconstruction, which is one of cnn, crnn, reslstm, rnn"
    ):
        build("linear", 4, reconstruction=12)
