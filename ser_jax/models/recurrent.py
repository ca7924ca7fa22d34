"""LSTM and GRU layers over utterances of different lengths, in PyTorch's parameterisation.

Gates lie side by side in PyTorch's order, (input, forget, cell, output) of an LSTM and (reset, update, new) of a GRU,
whose new gate has its recurrent bias within the reset product. Kernels are PyTorch's, transposed.

A layer is a loop over frames with next to nothing in it: the inputs of all frames go through one matrix product before
it, both directions advance in the same step, and the gradients of all weights are matrix products after it. That last
is what JAX does not find by itself: derived from the loop, they are summed up frame by frame. So the gradient is
written out below.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ser_jax.models import ops

GATES = {"lstm": 4, "gru": 3}

# (h, c) of an LSTM, (h,) of a GRU, in float32 whatever the layer computes in: c is a sum over many frames.
State = tuple[Float[Array, "*rows hidden"], ...]


class Recurrent(nn.Module):
    """One layer of LSTM or GRU, forward in time or in both directions side by side.

    Recurrent kernels begin orthogonal, gate by gate, and forget gates open (a bias of 1, Jozefowicz et al. 2015); all
    other biases are zero. There are two biases, as in PyTorch, though only a GRU's new gate tells them apart.

    Attributes:
        hidden: size of the state of a direction.
        cell: "lstm" or "gru".
        bidirectional: whether a second direction starts at each utterance's own last frame.
    """

    hidden: int
    cell: str = "lstm"
    bidirectional: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch frames channels"], lengths: Int[Array, " batch"]
    ) -> tuple[Float[Array, "batch frames outputs"], tuple[Float[Array, "batch outputs"], ...]]:
        """Outputs, zero in the padding and in the dtype of x, and the final state in float32.

        The final state is the forward direction's after the last real frame beside the backward direction's after the
        first frame: (h, c) of an LSTM, (h,) of a GRU; zero for an utterance without frames. What x holds in the padding
        does not matter.
        """
        directions = 2 if self.bidirectional else 1
        weights = _weights(self, x.shape[-1], (directions,))
        real = jnp.arange(x.shape[1])[:, None] < lengths[None]
        x = jnp.where(real[..., None], x.swapaxes(0, 1), 0)

        # The backward direction reads all frames from the last to the first and keeps its zero state in the padding.
        def in_order(x: Array) -> tuple[Array, ...]:
            return (x, x[::-1])[:directions]

        kernels = weights.pop("input_kernel")
        inputs = jnp.stack([ops.product(x, kernel) for x, kernel in zip(in_order(x), kernels, strict=True)], 1)
        outputs, final = _scan(self.cell, inputs, weights, jnp.stack(in_order(real), 1))
        outputs = jnp.concatenate([outputs[:, 0], outputs[::-1, -1]][:directions], -1)
        outputs = jnp.where(real[..., None], outputs, 0).swapaxes(0, 1)
        return outputs, tuple(part.swapaxes(0, 1).reshape(x.shape[1], -1) for part in final)


class Cell(nn.Module):
    """One step of an LSTM or GRU, for decoders; its weights are those of one direction of a `Recurrent`.

    Attributes:
        hidden: size of the state.
        cell: "lstm" or "gru".
    """

    hidden: int
    cell: str = "lstm"

    @nn.compact
    def __call__(self, state: State, x: Float[Array, "batch channels"]) -> tuple[State, Float[Array, "batch hidden"]]:
        """The state after x, and its h in the dtype of x."""
        weights = _weights(self, x.shape[-1], ())
        inputs = ops.product(x, weights.pop("input_kernel"))
        state, _ = _step(self.cell, state, state[0].astype(x.dtype), inputs, weights)
        return state, state[0].astype(x.dtype)


def _weights(module: Recurrent | Cell, channels: int, directions: tuple[int, ...]) -> dict[str, Array]:
    hidden, width = module.hidden, GATES[module.cell] * module.hidden
    input_kernel = nn.initializers.lecun_normal(in_axis=-2, out_axis=-1, batch_axis=tuple(range(len(directions))))
    input_bias = _open_forget_gate if module.cell == "lstm" else nn.initializers.zeros
    return {
        "input_kernel": module.param("input_kernel", input_kernel, (*directions, channels, width)),
        "recurrent_kernel": module.param("recurrent_kernel", _orthogonal_gates, (*directions, hidden, width)),
        "input_bias": module.param("input_bias", input_bias, (*directions, width)),
        "recurrent_bias": module.param("recurrent_bias", nn.initializers.zeros, (*directions, width)),
    }


def _orthogonal_gates(key: Array, shape: Sequence[int]) -> Float[Array, "*directions hidden gates_x_hidden"]:
    *directions, hidden, width = shape
    gates = (*directions, width // hidden)
    kernels = _orthogonal(jax.random.normal(key, (*gates, hidden, hidden)))
    return jnp.moveaxis(kernels, -3, -2).reshape(shape)


def _orthogonal(x: Float[Array, "*matrices size size"]) -> Float[Array, "*matrices size size"]:
    """The orthogonal matrices nearest to Gaussian ones, by Newton and Schulz's iteration.

    They are distributed evenly, as those of a QR decomposition are. That one is left to LAPACK, whose batches never end
    on a CPU of few cores when many runs are initialised in one program (jaxlib 0.10.2).
    """
    # The iteration needs singular values of at most 1, and makes small ones half as large again: the least of 256 are
    # near 1 / 4000, and rarely a thousandth of that.
    x = x / jnp.linalg.norm(x, axis=(-2, -1), keepdims=True)

    def nearer(_: Array, x: Array) -> Array:
        gram = jnp.matmul(jnp.swapaxes(x, -1, -2), x, precision="highest")
        return 1.5 * x - 0.5 * jnp.matmul(x, gram, precision="highest")

    return jax.lax.fori_loop(0, 60, nearer, x)


def _open_forget_gate(key: Array, shape: Sequence[int]) -> Float[Array, "*directions gates_x_hidden"]:
    del key
    return jnp.broadcast_to(jnp.repeat(jnp.array([0.0, 1.0, 0.0, 0.0]), shape[-1] // 4), shape)


# The step -----------------------------------------------------------------------------------------------------------
#
# A cell takes a state, what the frame contributes to its gates, and what the last h does. It returns the new state and
# what else its gradient has to know. The gradient takes that, the part of the last state that it names first, and the
# new state's gradient. It returns those of the frame's contribution, of the last h's (None: the same), and of the last
# state where it acts by another way than the gates.


def _lstm(state: State, inputs: Array, product: Array) -> tuple[State, tuple[Array, ...]]:
    _, c = state
    i, f, g, o = jnp.split(inputs + product, 4, -1)
    i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
    new_c = f * c + i * g
    return (o * jnp.tanh(new_c), new_c), (i, f, g, o)


def _lstm_gradient(c: Array, saved: tuple[Array, ...], gradient: State) -> tuple[Array, None, State]:
    i, f, g, o = saved
    d_h, d_c = gradient
    tanh_c = jnp.tanh(f * c + i * g)
    d_c = d_c + d_h * o * (1 - tanh_c * tanh_c)
    d_gates = [d_c * g * i * (1 - i), d_c * c * f * (1 - f), d_c * i * (1 - g * g), d_h * tanh_c * o * (1 - o)]
    return jnp.concatenate(d_gates, -1), None, (jnp.zeros_like(d_h), d_c * f)


def _gru(state: State, inputs: Array, product: Array) -> tuple[State, tuple[Array, ...]]:
    (h,) = state
    (input_r, input_z, input_n), (product_r, product_z, product_n) = (jnp.split(x, 3, -1) for x in (inputs, product))
    r, z = jax.nn.sigmoid(input_r + product_r), jax.nn.sigmoid(input_z + product_z)
    n = jnp.tanh(input_n + r * product_n)
    return (n + z * (h - n),), (r, z, n, product_n)


def _gru_gradient(h: Array, saved: tuple[Array, ...], gradient: State) -> tuple[Array, Array, State]:
    r, z, n, product_n = saved
    (d_h,) = gradient
    d_n = d_h * (1 - z) * (1 - n * n)
    d_rz = [d_n * product_n * r * (1 - r), d_h * (h - n) * z * (1 - z)]
    return jnp.concatenate([*d_rz, d_n], -1), jnp.concatenate([*d_rz, d_n * r], -1), (d_h * z,)


_CELLS = {"lstm": (_lstm, _lstm_gradient), "gru": (_gru, _gru_gradient)}
_STATES = {"lstm": 2, "gru": 1}


def _step(
    cell: str, state: State, rounded: Array, inputs: Array, weights: dict[str, Array]
) -> tuple[State, tuple[Array, ...]]:
    """The new state and what else the gradient has to know, all of shapes [*directions, batch, ...].

    `rounded` is the state's h in the dtype of the inputs.
    """
    # Behind a barrier: cuBLAS would add the bias, and have it written out for every row before.
    product = jax.lax.optimization_barrier(_product(rounded, weights["recurrent_kernel"]))
    inputs = inputs + weights["input_bias"][..., None, :]
    return _CELLS[cell][0](state, inputs, product + weights["recurrent_bias"][..., None, :])


def _product(x: Float[Array, "*directions batch a"], kernel: Float[Array, "*directions a b"]) -> Array:
    """Their matrix product with operands in the dtype of x, in float32."""
    return jnp.matmul(x, kernel.astype(x.dtype), preferred_element_type=jnp.float32)


# The loop -----------------------------------------------------------------------------------------------------------
#
# Directions lie side by side, and so does all that is kept of a frame: a GPU reads and writes each array of a loop by a
# kernel of its own, and one step has hardly anything else to do. An utterance that has ended holds its state.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(
    cell: str,
    inputs: Float[Array, "frames directions batch gates_x_hidden"],
    weights: dict[str, Array],
    real: Bool[Array, "frames directions batch"],
) -> tuple[Float[Array, "frames directions batch hidden"], State]:
    """Outputs, and the final state [directions, batch, hidden]."""
    return _scan_forward(cell, inputs, weights, real, save=False)[0]


def _scan_forward(
    cell: str, inputs: Array, weights: dict[str, Array], real: Array, save: bool = True
) -> tuple[tuple, tuple]:
    dtype = inputs.dtype
    hidden = weights["recurrent_kernel"].shape[-2]
    rounded = weights | {"recurrent_kernel": weights["recurrent_kernel"].astype(dtype)}  # once, and not in every step

    def step(carry: tuple[State, Array], frame: tuple) -> tuple[tuple[State, Array], Array]:
        (state, h), (inputs, real) = carry, frame
        new, gates = _step(cell, state, h, inputs, rounded)
        new = _where(real, new, state)
        h = new[0].astype(dtype)
        return (new, h), jnp.stack([part.astype(dtype) for part in (*gates, *new[1:], h)] if save else [h])

    zero = tuple(jnp.zeros((*real.shape[1:], hidden)) for _ in range(_STATES[cell]))
    (final, _), kept = jax.lax.scan(step, (zero, zero[0].astype(dtype)), (inputs, real))
    return (kept[:, -1], final), (kept, weights, real)


def _scan_backward(cell: str, saved: tuple, gradients: tuple) -> tuple[Array, dict[str, Array], None]:
    kept, weights, real = saved
    d_outputs, d_final = gradients
    dtype = kept.dtype
    transposed = weights["recurrent_kernel"].swapaxes(-1, -2).astype(dtype)
    count = kept.shape[1] - _STATES[cell]  # of what is kept beside the state: c, if there is one, then h
    last_h, last = _last(kept[:, -1]), _last(kept[:, count])

    def step(d_state: State, frame: tuple) -> tuple[State, tuple]:
        kept, last, d_output, real = frame
        d_state = (d_state[0] + d_output, *d_state[1:])
        gates = tuple(kept[:count].astype(jnp.float32))
        d_inputs, d_product, d_previous = _CELLS[cell][1](last.astype(jnp.float32), gates, d_state)
        d_inputs, d_product = (
            None if part is None else jnp.where(real[..., None], part, 0).astype(dtype)
            for part in (d_inputs, d_product)
        )
        d_h = d_previous[0] + _product(d_inputs if d_product is None else d_product, transposed)
        return _where(real, (d_h, *d_previous[1:]), d_state), (d_inputs, d_product)

    _, (d_inputs, d_products) = jax.lax.scan(step, d_final, (kept, last, d_outputs, real), reverse=True)
    return d_inputs, _weight_gradients(last_h, d_inputs, d_inputs if d_products is None else d_products), None


def _last(x: Float[Array, "frames ..."]) -> Float[Array, "frames ..."]:
    """What the frame before had, zero for the first."""
    return jnp.pad(x[:-1], ((1, 0), *((0, 0) for _ in x.shape[1:])))


def _where(real: Array, new: State, old: State) -> State:
    return tuple(jnp.where(real[..., None], a, b) for a, b in zip(new, old, strict=True))


def _weight_gradients(last_h: Array, d_inputs: Array, d_products: Array) -> dict[str, Array]:
    return {
        "recurrent_kernel": jnp.einsum("tdbh,tdbg->dhg", last_h, d_products, preferred_element_type=jnp.float32),
        "input_bias": jnp.sum(d_inputs, (0, 2), dtype=jnp.float32),
        "recurrent_bias": jnp.sum(d_products, (0, 2), dtype=jnp.float32),
    }


_scan.defvjp(_scan_forward, _scan_backward)
