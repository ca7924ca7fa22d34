"""The loop of a recurrent layer over frames, and its gradient.

Derived by JAX from the loop, the gradients of all weights would be summed up frame by frame; written out, they are
matrix products after it. In a training on a GPU that has room for it, the loop is one kernel: see `recurrence_kernel`.

In XLA's loop directions lie side by side, and so does all that is kept of a frame: a GPU reads and writes each array of
a loop by a kernel of its own, and one step has hardly anything else to do. An utterance that has ended holds its state.
"""

import functools
import sys
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from ser_jax.errors import one_line
from ser_jax.models.ops import recurrence_kernel
from ser_jax.models.ops.cells import GATES, GRADIENTS, SAVED, STATES, STEPS, Parts, State

_ROUNDING = 0.03  # of the largest value: what a kernel may differ by from XLA's loop


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def recurrence(
    cell: str,
    inputs: Float[Array, "directions frames batch gates_x_hidden"],
    weights: dict[str, Array],
    real: Bool[Array, "directions frames batch"],
) -> tuple[Float[Array, "directions frames batch hidden"], State]:
    """Outputs in the dtype of the inputs, and the final state [directions, batch, hidden] in float32.

    `cell` is "lstm" or "gru"; `inputs` are what each frame contributes to the gates, in the order in which a direction
    reads them. `weights` are `recurrent_kernel` [directions, hidden, gates_x_hidden], `recurrent_bias` and `input_bias`
    [directions, gates_x_hidden].
    """
    rounded = _rounded(weights, inputs.dtype)

    def step(carry: tuple[State, Array], frame: tuple) -> tuple[tuple[State, Array], Array]:
        state, h, _ = _new_state(cell, carry, frame, rounded)
        return (state, h), h

    (final, _), outputs = jax.lax.scan(step, _first(cell, inputs), _by_frame(inputs, real))
    return outputs.swapaxes(0, 1), final


def recurrent_step(
    cell: str, state: State, rounded: Array, inputs: Array, weights: dict[str, Array]
) -> tuple[State, Parts]:
    """The new state and what else the gradient has to know, all of shapes [*directions, batch, hidden].

    `rounded` is the state's h in the dtype of the inputs, which are what the frame contributes to the gates.
    """
    # Behind a barrier: cuBLAS would add the bias, and have it written out for every row before.
    product = jax.lax.optimization_barrier(_product(rounded, weights["recurrent_kernel"]))
    product = product + weights["recurrent_bias"][..., None, :]
    inputs = inputs + weights["input_bias"][..., None, :]
    return STEPS[cell](state, *(tuple(jnp.split(x, GATES[cell], -1)) for x in (inputs, product)))


def _forward(cell: str, inputs: Array, weights: dict[str, Array], real: Array) -> tuple[tuple, tuple]:
    way = "kernel" if _is_kernel(cell, inputs) else "loop"
    outputs, final, kept = _FORWARD[way](cell, inputs, _rounded(weights, inputs.dtype), real)
    return (outputs, final), (outputs, {way: kept}, weights, real)  # a dict's key is static, as the way has to be


def _backward(cell: str, saved: tuple, gradients: tuple) -> tuple[Array, dict[str, Array], None]:
    outputs, of_way, weights, real = saved
    ((way, kept),) = of_way.items()
    transposed = weights["recurrent_kernel"].swapaxes(-1, -2).astype(outputs.dtype)
    d_inputs, d_products = _BACKWARD[way](cell, kept, transposed, real, *gradients)
    d_products = d_inputs if d_products is None else d_products
    last_h = jnp.pad(outputs[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0)))  # zero before the first frame
    of_weights = {
        "recurrent_kernel": jnp.einsum("dtbh,dtbg->dhg", last_h, d_products, preferred_element_type=jnp.float32),
        "input_bias": jnp.sum(d_inputs, (1, 2), dtype=jnp.float32),
        "recurrent_bias": jnp.sum(d_products, (1, 2), dtype=jnp.float32),
    }
    return d_inputs, of_weights, None


recurrence.defvjp(_forward, _backward)


def _loop_forward(
    cell: str, inputs: Array, weights: dict[str, Array], real: Array
) -> tuple[Array, State, Float[Array, "frames kept directions batch hidden"]]:
    """The outputs, the final state, and what the gradient has to know of every frame, with c if there is one, and h."""

    def step(carry: tuple[State, Array], frame: tuple) -> tuple[tuple[State, Array], Array]:
        state, h, saved = _new_state(cell, carry, frame, weights)
        return (state, h), jnp.stack([part.astype(inputs.dtype) for part in (*saved, *state[1:], h)])

    (final, _), kept = jax.lax.scan(step, _first(cell, inputs), _by_frame(inputs, real))
    return kept[:, -1].swapaxes(0, 1), final, kept


def _loop_backward(
    cell: str, kept: Array, transposed: Array, real: Array, d_outputs: Array, d_final: State
) -> tuple[Float[Array, "directions frames batch gates_x_hidden"], Array | None]:
    """The gradients of what frames contribute to the gates, and of what the last h does, where it is another."""
    last = jnp.pad(kept[:-1, SAVED], ((1, 0), (0, 0), (0, 0), (0, 0)))  # c if there is one, else h; zero at first

    def step(d_state: State, frame: tuple) -> tuple[State, tuple]:
        kept, last, d_output, real = frame
        d_state = (d_state[0] + d_output, *d_state[1:])
        saved = tuple(kept[:SAVED].astype(jnp.float32))
        d_inputs, d_products, d_previous = GRADIENTS[cell](last.astype(jnp.float32), saved, d_state)
        d_inputs, d_products = (
            None if parts is None else jnp.where(real[..., None], jnp.concatenate(parts, -1), 0).astype(kept.dtype)
            for parts in (d_inputs, d_products)
        )
        d_h = d_previous[0] + _product(d_inputs if d_products is None else d_products, transposed)
        return _where(real, (d_h, *d_previous[1:]), d_state), (d_inputs, d_products)

    _, gradients = jax.lax.scan(step, d_final, (kept, last, *_by_frame(d_outputs, real)), reverse=True)
    return jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), gradients)


def _by_frame(*arrays: Array) -> tuple[Array, ...]:
    """Arrays [directions, frames, ...] as a loop takes them: frames first."""
    return tuple(x.swapaxes(0, 1) for x in arrays)


def _new_state(
    cell: str, carry: tuple[State, Array], frame: tuple, weights: dict[str, Array]
) -> tuple[State, Array, Parts]:
    """The state after a frame, its h in the dtype of the inputs, and what else the gradient has to know."""
    (state, h), (inputs, real) = carry, frame
    new, saved = recurrent_step(cell, state, h, inputs, weights)
    new = _where(real, new, state)
    return new, new[0].astype(inputs.dtype), saved


def _first(cell: str, inputs: Array) -> tuple[State, Array]:
    """The state before the first frame, which is zero, and its h in the dtype of the inputs."""
    directions, _, batch, width = inputs.shape
    zero = jnp.zeros((directions, batch, width // GATES[cell]))
    return (zero,) * STATES[cell], zero.astype(inputs.dtype)


def _rounded(weights: dict[str, Array], dtype: DTypeLike) -> dict[str, Array]:
    """The weights with a kernel in this dtype: rounded once, and not in every step."""
    return weights | {"recurrent_kernel": weights["recurrent_kernel"].astype(dtype)}


def _product(x: Float[Array, "*directions batch a"], kernel: Float[Array, "*directions a b"]) -> Array:
    """Their matrix product with operands in the dtype of x, in float32."""
    return jnp.matmul(x, kernel.astype(x.dtype), preferred_element_type=jnp.float32)


def _where(real: Array, new: State, old: State) -> State:
    return tuple(jnp.where(real[..., None], a, b) for a, b in zip(new, old, strict=True))


# Which of the two ---------------------------------------------------------------------------------------------------

_FORWARD = {"kernel": recurrence_kernel.forward, "loop": _loop_forward}
_BACKWARD = {"kernel": recurrence_kernel.backward, "loop": _loop_backward}
_PRECISIONS = (None, "default", "high", "tensorfloat32", "bfloat16")  # of products, which the kernel has
_checking = threading.Lock()


def _is_kernel(cell: str, inputs: Float[Array, "directions frames batch gates_x_hidden"]) -> bool:
    """Whether the loop is the kernel: on GPUs of the kind that it is for, where it does what the loop does.

    Not in a training of several processes, which might decide differently.
    """
    hidden, precision = inputs.shape[-1] // GATES[cell], jax.config.jax_default_matmul_precision
    if jax.default_backend() != "gpu" or jax.process_count() > 1:
        return False
    if precision not in _PRECISIONS or not recurrence_kernel.takes(hidden):
        return False
    with _checking:  # so that threads that trace at the same time check once
        return kernel_works(cell, hidden, inputs.dtype, recurrence_kernel.rows(inputs.shape[2]), precision)


@functools.cache
def kernel_works(cell: str, hidden: int, dtype: jnp.dtype, rows: int, precision: str | None) -> bool:
    """Whether the GPUs are of the kind that the kernel is for, and it computes a small example as XLA's loop does.

    `rows` are the utterances that a program of the GPU has, and `precision` is that of products, by JAX's name. Where a
    GPU is of that kind and the example fails or differs, a line on stderr says so.
    """
    if not recurrence_kernel.is_for_these_devices():
        return False
    found: list[float | str] = []

    def compare() -> None:
        try:
            with jax.default_matmul_precision(precision):
                found.append(_difference(cell, hidden, dtype, rows))
        except Exception as error:  # whatever a compiler raises
            found.append(one_line(f"{type(error).__name__}: {error}"))

    thread = threading.Thread(target=compare)  # where nothing is traced, as here
    thread.start()
    thread.join()
    (difference,) = found
    if isinstance(difference, float):
        if difference <= _ROUNDING:
            return True
        difference = f"what it computes differs by {difference:.2g} of the largest value"
    print(f"note: recurrent layers without their kernel, by a loop: {difference}", file=sys.stderr, flush=True)
    return False


def _difference(cell: str, hidden: int, dtype: jnp.dtype, rows: int) -> float:
    """The largest difference between what the kernel and XLA's loop compute, as a share of the largest value.

    Of two runs side by side, with utterances that do not fill the last program.
    """
    runs, directions, frames, batch, width = 2, 2, 4, rows - 3, GATES[cell] * hidden
    generator = np.random.default_rng(0)

    def drawn(*shape: int, dtype: DTypeLike = jnp.float32) -> Array:
        return jnp.asarray(generator.normal(size=(runs, *shape)), dtype)

    weights = {
        "recurrent_kernel": drawn(directions, hidden, width, dtype=dtype) / hidden**0.5,
        "input_bias": drawn(directions, width),
        "recurrent_bias": drawn(directions, width),
    }
    inputs = drawn(directions, frames, batch, width, dtype=dtype)
    real = drawn(directions, frames, batch) < 0.8
    d_outputs = drawn(directions, frames, batch, hidden, dtype=dtype)
    d_final = tuple(drawn(directions, batch, hidden) for _ in range(STATES[cell]))
    # Not by kernels that XLA would write in dozens of ways and time.
    options = {"xla_gpu_enable_triton_gemm": False} if jax.default_backend() == "gpu" else None

    @functools.partial(jax.jit, static_argnums=0, compiler_options=options)
    def by(way: str) -> Any:
        def of_run(inputs: Array, weights: dict[str, Array], real: Array, d_outputs: Array, d_final: State) -> Any:
            outputs, final, kept = _FORWARD[way](cell, inputs, weights, real)
            transposed = weights["recurrent_kernel"].swapaxes(-1, -2)
            return outputs, final, _BACKWARD[way](cell, kept, transposed, real, d_outputs, d_final)

        return jax.vmap(of_run)(inputs, weights, real, d_outputs, d_final)

    # By NumPy: XLA's maximum of many numbers passes over NaN on a CPU (jaxlib 0.10.2).
    pairs = zip(jax.tree.leaves(by("kernel")), jax.tree.leaves(by("loop")), strict=True)
    exact = [tuple(np.asarray(leaf, np.float32) for leaf in pair) for pair in pairs]
    return float(np.max([np.max(np.abs(a - b)) / np.max(np.abs(b)) for a, b in exact]))
