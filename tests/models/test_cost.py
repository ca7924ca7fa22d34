import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from ser_jax.models import build, cost
from ser_jax.models.output import Output

FRAMES, FEATURES = 12, 10


def cost_of(call, **fields):
    """The cost of a module whose `__call__(self, features)` is `call`, for 12 frames of 10 features."""

    class Model(nn.Module):
        @nn.compact
        def __call__(self, features, num_frames, *, train):
            return Output(call(features))

    found = cost.cost(Model(), FRAMES, FEATURES)
    return found.parameters, found.multiply_adds


@pytest.mark.parametrize(("width", "millions"), [(0.5, 13.5), (1.0, 54.6), (1.5, 113.9), (2.0, 227.1)])
def test_multiply_adds_of_shufflenet_are_the_published_ones(width, millions):
    found = cost.cost(build("shufflenet_v2", 7, width=width), num_frames=300, num_features=64)
    assert found.multiply_adds == pytest.approx(millions * 1e6, rel=0.005)


def test_a_dense_layer_costs_a_product_for_each_frame():
    assert cost_of(lambda x: nn.Dense(7)(x)) == (7 * FEATURES + 7, FRAMES * FEATURES * 7)


def test_a_function_within_a_function_is_counted_once_each_time_it_is_called():
    def twice(x):
        square = jax.jit(lambda x: x @ jnp.ones((FEATURES, FEATURES)))
        return jax.checkpoint(square)(square(x))

    assert cost_of(twice) == (0, 2 * FRAMES * FEATURES**2)


def test_an_lstm_costs_its_products_for_each_frame_of_the_scan():
    hidden = 6
    parameters, multiply_adds = cost_of(lambda x: nn.RNN(nn.OptimizedLSTMCell(hidden))(x))
    assert parameters == 4 * hidden * (FEATURES + hidden + 1)
    assert multiply_adds == FRAMES * 4 * hidden * (FEATURES + hidden)


def test_self_attention_costs_four_projections_and_two_products_of_all_frames_with_all():
    channels = 8
    parameters, multiply_adds = cost_of(
        lambda x: nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=channels, out_features=channels)(x)
    )
    assert parameters == 3 * (FEATURES + 1) * channels + (channels + 1) * channels
    assert multiply_adds == FRAMES * channels * (3 * FEATURES + channels) + 2 * FRAMES**2 * channels


@pytest.mark.parametrize(("groups", "strides"), [(1, 1), (5, 2)])
def test_a_convolution_costs_its_taps_for_each_value_of_its_result(groups, strides):
    parameters, multiply_adds = cost_of(
        lambda x: nn.Conv(20, (3,), strides=strides, feature_group_count=groups, use_bias=False)(x)
    )
    assert parameters == 3 * FEATURES // groups * 20
    assert multiply_adds == 3 * FEATURES // groups * 20 * FRAMES // strides


def test_a_convolution_of_shifted_products_costs_a_multiply_add_for_each_tap_and_value():
    def depthwise(x):
        kernel = jnp.ones((3, FEATURES))
        padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
        return sum(padded[:, i : i + FRAMES] * kernel[i][None, None] for i in range(3))

    assert cost_of(depthwise) == (0, 3 * FRAMES * FEATURES)


def test_scaling_shifting_and_what_weights_do_among_themselves_cost_nothing():
    def free(x):
        weights = jnp.ones((FEATURES, FEATURES)) @ jnp.ones((FEATURES, FEATURES))
        x = jax.nn.relu(x * weights[0][None, None] + 1.0) + x
        return x * jnp.mean(x, 1, keepdims=True)

    assert cost_of(free) == (0, 0)


def test_a_branch_costs_what_the_dearest_does_and_a_loop_of_unknown_turns_is_refused():
    kernel = jnp.ones((FEATURES, FEATURES))

    def branch(x):
        return jax.lax.cond(x[0, 0, 0] > 0, lambda x: x @ kernel, lambda x: x @ kernel @ kernel, x)

    def loop(x):
        return jax.lax.while_loop(lambda x: x[0, 0, 0] > 0, lambda x: x @ kernel, x)

    assert cost_of(branch) == (0, 2 * FRAMES * FEATURES**2)
    with pytest.raises(ValueError, match="cannot be counted"):
        cost_of(loop)
