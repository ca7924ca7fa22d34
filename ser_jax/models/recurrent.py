"""LSTM and GRU layers over utterances of different lengths, in PyTorch's parameterisation.

Gates lie side by side in PyTorch's order, (input, forget, cell, output) of an LSTM and (reset, update, new) of a GRU,
whose new gate has its recurrent bias within the reset product. Kernels are PyTorch's, transposed.

A layer is a loop over frames with next to nothing in it, `ops.recurrence`: the inputs of all frames go through one
matrix product before it, and both directions advance in the same step.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ser_jax.models import ops
from ser_jax.models.ops.cells import GATES, State


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

        inputs = jax.vmap(ops.product)(jnp.stack(in_order(x)), weights.pop("input_kernel"))
        outputs, final = ops.recurrence(self.cell, inputs, weights, jnp.stack(in_order(real)))
        outputs = jnp.concatenate([outputs[0], outputs[-1, ::-1]][:directions], -1)
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
        state, _ = ops.recurrent_step(self.cell, state, state[0].astype(x.dtype), inputs, weights)
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
