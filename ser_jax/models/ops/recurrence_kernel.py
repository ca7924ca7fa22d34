"""The loop of a recurrent layer over frames as one kernel of a GPU, forward and backward.

As a loop of XLA's, a step of all runs is three kernels or more that wait for one another. Here a program of the GPU has
one direction of a run, for some utterances, and goes through all frames by itself. It keeps the weights in the shared
memory of its processor, if these have room there.

Written in Pallas for Triton. The sums are those of XLA's loop in `recurrence`, which tests compare it with, on a CPU by
an interpreter.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from ser_jax import machine
from ser_jax.models.ops.cells import GATES, GRADIENTS, SAVED, STATES, STEPS, State

_CAPABILITY = 9  # of the GPUs that it is for, Hopper: older ones have less shared memory, newer ones other products
_FEWEST, _MOST = 16, 32  # utterances that a program has: a product needs the first, registers suffice for the second
_HIDDEN = (16, 32, 64, 128)  # powers of two, of which a product needs 16
_WEIGHTS = 128 * 1024  # bytes of weights that stay in 227 KiB of shared memory, beside what they are multiplied with
_WARPS = 8


def is_for_these_devices() -> bool:
    """Whether all devices of this process are GPUs of the kind that the kernels are for."""
    return all(machine.capability(device) == _CAPABILITY for device in jax.local_devices())


def takes(hidden: int) -> bool:
    """Whether the kernels take a state of this size."""
    return hidden in _HIDDEN


def rows(batch: int) -> int:
    """How many utterances of a batch a program of the GPU has."""
    return _FEWEST if batch <= _FEWEST else _MOST


def forward(
    cell: str,
    inputs: Float[Array, "directions frames batch gates_x_hidden"],
    weights: dict[str, Array],
    real: Bool[Array, "directions frames batch"],
) -> tuple[Float[Array, "directions frames batch hidden"], State, Float[Array, "kept directions frames batch hidden"]]:
    """The outputs, the final state in float32, and what `backward` has to know.

    That is what a cell's step saves, `SAVED` arrays, then c if there is one, then h. The recurrent kernel of `weights`
    is in the dtype of the inputs.
    """
    directions, frames, batch, width = inputs.shape
    hidden = width // GATES[cell]
    of_frames = directions, frames, batch, hidden
    kept, *final = _call(
        functools.partial(recurrence_forward, cell),
        [
            ("dtbw", inputs),
            ("dhw", weights["recurrent_kernel"]),
            ("dw", weights["input_bias"]),
            ("dw", weights["recurrent_bias"]),
            ("dtb", real.astype(jnp.int32)),
        ],
        [
            ("kdtbh", jax.ShapeDtypeStruct((SAVED + STATES[cell], *of_frames), inputs.dtype)),
            *[("dbh", jax.ShapeDtypeStruct((directions, batch, hidden), jnp.float32))] * STATES[cell],
        ],
    )
    return kept[-1], tuple(final), kept


def backward(
    cell: str,
    kept: Float[Array, "kept directions frames batch hidden"],
    transposed: Float[Array, "directions gates_x_hidden hidden"],
    real: Bool[Array, "directions frames batch"],
    d_outputs: Float[Array, "directions frames batch hidden"],
    d_final: State,
) -> tuple[Float[Array, "directions frames batch gates_x_hidden"], Array | None]:
    """The gradients of what frames contribute to the gates, and of what the last h does, where it is another.

    `transposed` is the recurrent kernel in the dtype of `kept`, which the gradients have too.
    """
    _, *of_frames, hidden = kept.shape
    gradient = jax.ShapeDtypeStruct((*of_frames, GATES[cell] * hidden), kept.dtype)
    d_inputs, *d_products = _call(
        functools.partial(recurrence_backward, cell),
        [
            ("kdtbh", kept),
            ("dwh", transposed),
            ("dtb", real.astype(jnp.int32)),
            ("dtbh", d_outputs),
            *(("dbh", part) for part in d_final),
        ],
        [("dtbw", gradient)] * (1 if cell == "lstm" else 2),
    )
    return d_inputs, d_products[0] if d_products else None


def recurrence_forward(
    cell: str, inputs: Any, kernel: Any, input_bias: Any, recurrent_bias: Any, real: Any, kept: Any, *final: Any
) -> None:
    """The program of one direction, for some utterances; what it is given are places in memory."""
    frames = inputs.shape[0]
    gates, dtype = _gates(cell, final[0].shape[-1]), inputs.dtype
    parts = [(slice(None), gate) for gate in gates]
    resident = _resident(kernel, parts, dtype)
    biases = [(input_bias[gate][None], recurrent_bias[gate][None]) for gate in gates]

    def of_frame(t: Array | int) -> tuple[list[Array], Array]:
        return [inputs[t, :, gate] for gate in gates], real[t]

    def step(t: Array, carry: tuple[State, Array, Any]) -> tuple[State, Array, Any]:
        state, h, this = carry
        contributed, is_real = this or of_frame(t)
        following = of_frame(jnp.minimum(t + 1, frames - 1)) if resident else ()
        is_real = (is_real != 0)[:, None]
        contributed = [part.astype(jnp.float32) + bias for part, (bias, _) in zip(contributed, biases, strict=True)]
        weights = resident or [kernel[part] for part in parts]
        products = [_product(h, one) + bias for one, (_, bias) in zip(weights, biases, strict=True)]
        new, saved = STEPS[cell](state, tuple(contributed), tuple(products))
        state = tuple(jnp.where(is_real, a, b) for a, b in zip(new, state, strict=True))
        h = state[0].astype(dtype)
        for i, part in enumerate((*saved, *state[1:], h)):
            kept[i, t] = part.astype(dtype)
        return state, h, following

    zero = jnp.zeros(final[0].shape, jnp.float32)
    carry = (zero,) * STATES[cell], zero.astype(dtype), of_frame(0) if resident else ()
    state, *_ = jax.lax.fori_loop(0, frames, step, carry)
    for place, part in zip(final, state, strict=True):
        place[...] = part


def recurrence_backward(cell: str, kept: Any, kernel: Any, real: Any, d_outputs: Any, *places: Any) -> None:
    """The program of one direction, for some utterances, from the last frame to the first."""
    d_final, gradients = places[: STATES[cell]], places[STATES[cell] :]
    frames, _, hidden = d_outputs.shape
    gates, dtype = _gates(cell, hidden), kept.dtype
    parts = [(gate, slice(None)) for gate in gates]
    resident = _resident(kernel, parts, dtype)

    def of_frame(t: Array | int) -> tuple[list[Array], Array, Array, Array]:
        return [kept[part, t] for part in range(SAVED)], kept[SAVED, jnp.maximum(t - 1, 0)], d_outputs[t], real[t]

    def step(i: Array, carry: tuple[State, Any]) -> tuple[State, Any]:
        t = frames - 1 - i
        d_state, this = carry
        saved, last, d_output, is_real = this or of_frame(t)
        following = of_frame(jnp.maximum(t - 1, 0)) if resident else ()
        saved = tuple(part.astype(jnp.float32) for part in saved)
        last = jnp.where(t > 0, last.astype(jnp.float32), 0)
        is_real = (is_real != 0)[:, None]
        d_state = (d_state[0] + d_output.astype(jnp.float32), *d_state[1:])
        d_inputs, d_products, d_previous = GRADIENTS[cell](last, saved, d_state)
        made = [
            [jnp.where(is_real, part, 0).astype(dtype) for part in gradient]
            for gradient in (d_inputs, d_products)
            if gradient is not None
        ]
        for place, gradient in zip(gradients, made, strict=True):
            for gate, part in zip(gates, gradient, strict=True):
                place[t, :, gate] = part
        weights = resident or [kernel[part] for part in parts]
        d_h = d_previous[0] + sum(_product(part, one) for part, one in zip(made[-1], weights, strict=True))
        d_state = tuple(jnp.where(is_real, a, b) for a, b in zip((d_h, *d_previous[1:]), d_state, strict=True))
        return d_state, following

    first = of_frame(frames - 1) if resident else ()
    jax.lax.fori_loop(0, frames, step, (tuple(place[...] for place in d_final), first))


def _gates(cell: str, hidden: int) -> list[slice]:
    """Where the gates are that lie side by side."""
    return [slice(start, start + hidden) for start in range(0, GATES[cell] * hidden, hidden)]


def _resident(kernel: Any, parts: list[tuple[slice, slice]], dtype: DTypeLike) -> list[Array]:
    """The parts of a kernel, read once for all frames; none where there is no room for them.

    Where there is, each frame is read one step before it is needed, since to read one takes nearly as long as a step.
    """
    stay = math.prod(kernel.shape) * jnp.dtype(dtype).itemsize <= _WEIGHTS
    return [kernel[part] for part in parts] if stay else []


def _product(x: Float[Array, "rows a"], kernel: Float[Array, "a b"]) -> Float[Array, "rows b"]:
    return jnp.matmul(x, kernel, preferred_element_type=jnp.float32)


def _call(
    kernel: Callable[..., None],
    arguments: Sequence[tuple[str, Array]],
    results: Sequence[tuple[str, jax.ShapeDtypeStruct]],
) -> list[Array]:
    """Calls a kernel for every direction "d" and some utterances of the batch "b" at a time.

    Arguments and results come with the names of their axes, a letter each: a program has the whole of the others.
    """
    from jax.experimental.pallas import triton  # which not every jaxlib has

    axes, shape = arguments[0][0], arguments[0][1].shape
    directions, batch = (shape[axes.index(name)] for name in "db")
    size = rows(batch)
    programs = -(-batch // size)

    def padded_shape(axes: str, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(programs * size if axis == "b" else length for axis, length in zip(axes, shape, strict=True))

    def padded(axes: str, x: Array) -> Array:
        whole = padded_shape(axes, x.shape)
        return jnp.pad(x, [(0, more - length) for more, length in zip(whole, x.shape, strict=True)])

    def block(axes: str, shape: Sequence[int]) -> pl.BlockSpec:
        sizes = tuple({"d": None, "b": size}.get(axis, length) for axis, length in zip(axes, shape, strict=True))
        return pl.BlockSpec(sizes, lambda d, b: tuple({"d": d, "b": b}.get(axis, 0) for axis in axes))

    made = pl.pallas_call(
        kernel,
        grid=(directions, programs),
        in_specs=[block(axes, x.shape) for axes, x in arguments],
        out_specs=[block(axes, one.shape) for axes, one in results],
        out_shape=[jax.ShapeDtypeStruct(padded_shape(axes, one.shape), one.dtype) for axes, one in results],
        compiler_params=triton.CompilerParams(num_warps=_WARPS, num_stages=1),
        interpret=jax.default_backend() == "cpu",
    )(*(padded(axes, x) for axes, x in arguments))
    return [jax.lax.slice_in_dim(x, 0, batch, axis=axes.index("b")) for (axes, _), x in zip(results, made, strict=True)]
