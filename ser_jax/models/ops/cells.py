"""One step of an LSTM and of a GRU, and its gradient, gate by gate.

A step takes a state, what the frame contributes to its gates, and what the last h does. It returns the new state and
what else its gradient has to know. The gradient takes that, the part of the last state that `STATES` counts last, and
the new state's gradient. It returns those of the frame's contribution, of the last h's (None: the same), and of the
last state where it acts by another way than the gates.

Gates are in PyTorch's order: (input, forget, cell, output) of an LSTM and (reset, update, new) of a GRU, whose new gate
has its recurrent bias within the reset product. They are separate arrays here, since a kernel of a GPU can neither
split nor join what it computes with.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# (h, c) of an LSTM, (h,) of a GRU, in float32 whatever the layer computes in: c is a sum over many frames.
State = tuple[Float[Array, "*rows hidden"], ...]
Parts = tuple[Float[Array, "*rows hidden"], ...]

GATES = {"lstm": 4, "gru": 3}
STATES = {"lstm": 2, "gru": 1}
SAVED = 4  # arrays that the gradient of either has to know, beside states


def _lstm(state: State, inputs: Parts, products: Parts) -> tuple[State, Parts]:
    _, c = state
    i, f, g, o = (own + product for own, product in zip(inputs, products, strict=True))
    i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
    new_c = f * c + i * g
    return (o * jnp.tanh(new_c), new_c), (i, f, g, o)


def _lstm_gradient(c: Array, saved: Parts, gradient: State) -> tuple[Parts, None, State]:
    i, f, g, o = saved
    d_h, d_c = gradient
    tanh_c = jnp.tanh(f * c + i * g)
    d_c = d_c + d_h * o * (1 - tanh_c * tanh_c)
    d_gates = d_c * g * i * (1 - i), d_c * c * f * (1 - f), d_c * i * (1 - g * g), d_h * tanh_c * o * (1 - o)
    return d_gates, None, (jnp.zeros_like(d_h), d_c * f)


def _gru(state: State, inputs: Parts, products: Parts) -> tuple[State, Parts]:
    (h,) = state
    (input_r, input_z, input_n), (product_r, product_z, product_n) = inputs, products
    r, z = jax.nn.sigmoid(input_r + product_r), jax.nn.sigmoid(input_z + product_z)
    n = jnp.tanh(input_n + r * product_n)
    return (n + z * (h - n),), (r, z, n, product_n)


def _gru_gradient(h: Array, saved: Parts, gradient: State) -> tuple[Parts, Parts, State]:
    r, z, n, product_n = saved
    (d_h,) = gradient
    d_n = d_h * (1 - z) * (1 - n * n)
    d_rz = d_n * product_n * r * (1 - r), d_h * (h - n) * z * (1 - z)
    return (*d_rz, d_n), (*d_rz, d_n * r), (d_h * z,)


STEPS: dict[str, Callable[[State, Parts, Parts], tuple[State, Parts]]] = {"lstm": _lstm, "gru": _gru}
GRADIENTS: dict[str, Callable[[Array, Parts, State], tuple[Parts, Parts | None, State]]] = {
    "lstm": _lstm_gradient,
    "gru": _gru_gradient,
}
