"""What a traced program consists of: its equations, and those of the functions within it."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from ser_jax.models.ops.taps import KERNEL_GRADIENT
from ser_jax.training.arrays import named_arrays

CLASSES = 7


def drawn(shapes):
    """Variables of these shapes: kernels that keep a sum's size, scales and variances about one, the rest about zero.

    Nothing is compiled for them, as it would be for a model's own.
    """
    random = np.random.default_rng(1)

    def draw(name, shape):
        values = random.normal(size=shape)
        if len(shape) > 1:
            return values / math.sqrt(math.prod(shape[:-1]))
        return 1 + 0.1 * np.abs(values) if name.endswith(("scale", "var")) else 0.1 * values

    leaves = {name: leaf.shape for name, leaf in named_arrays(shapes).items()}
    values = [jnp.asarray(draw(name, shape), jnp.float32) for name, shape in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(shapes), values)


def equations(jaxpr):
    """All equations of a traced program; the body of a loop counts once."""
    return (equation for equation, *_ in located(jaxpr))


def located(jaxpr, platform=None, scope="", times=1):
    """Each equation of a traced program; the named scopes that it is in; what made the variables beside it; how often
    loops of known length compute it.

    `platform`: of what depends on the platform, that of this one alone.
    """
    made = {id(variable): equation for equation in jaxpr.eqns for variable in equation.outvars}
    for equation in jaxpr.eqns:
        own_scope = f"{scope}/{equation.source_info.name_stack}"
        yield equation, own_scope, made, times
        platforms = equation.params.get("branches_platforms")
        inner_times = times * (equation.params["length"] if equation.primitive.name == "scan" else 1)
        for name, parameter in equation.params.items():
            inner = parameter if isinstance(parameter, (tuple, list)) else (parameter,)
            if platform and platforms and name == "branches":
                inner = [one for one, those in zip(inner, platforms, strict=True) if not those or platform in those][:1]
            for one in inner:
                one = getattr(one, "jaxpr", one)
                if hasattr(one, "eqns"):
                    yield from located(one, platform, own_scope, inner_times)


# What lays the values of its first operand elsewhere.
MOVES = {"convert_element_type", "copy", "dynamic_slice", "pad", "reshape", "slice", "squeeze", "transpose"}
FEW = 32  # taps times channels of a map that all taps may see side by side, as in `convolution`
OVERLAP = 1.5  # of windows of three frames, two apart, that the Transformer subsamples by
TOGETHER = 4  # parts as large as the largest: an LSTM's gates; query, key and value; features and deltas


def joined_too_much(found, batch, backend):
    """The equations, of those `located`, that join arrays to more than they were: windows of one map, or what many taps
    make of it. `batch` are the leading axes of maps.

    On a GPU but those of a kernel's gradient: its compiler writes windows for products either way, and reads those of
    depthwise kernels from the map.
    """
    exempt = KERNEL_GRADIENT if backend == "gpu" else "nothing"
    return [one for one, scope, made, _ in found if exempt not in scope and _joins_too_much(one, made, batch)]


def _joins_too_much(equation, made, batch):
    if equation.primitive.name not in ("concatenate", "stack"):
        return False
    sources = [_source(part, made) for part in equation.invars]
    size, largest = (max(math.prod(x.aval.shape) for x in those) for those in (equation.outvars, equation.invars))
    whole = sum({id(source): math.prod(source.aval.shape) for source in sources}.values())
    if equation.invars[0].aval.shape[: len(batch)] != batch:
        return size > OVERLAP * whole
    channels = sources[0].aval.shape[len(batch) + 1 :][-1:]  # after time; there may be none
    if len(sources) * math.prod(channels) <= FEW:
        return False
    return size > OVERLAP * whole or size > TOGETHER * largest


def _source(variable, made):
    """The array that this one was cut out of."""
    while (equation := made.get(id(variable))) is not None:
        before = equation.invars[0] if equation.invars else None
        same_size = before is not None and math.prod(before.aval.shape) == math.prod(variable.aval.shape)
        if equation.primitive.name not in MOVES and not (equation.primitive.name == "broadcast_in_dim" and same_size):
            break
        variable = before
    return variable


def multiply_adds(equation):
    """Those of one product or convolution, 0 for all else."""
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        length = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        return length * math.prod(equation.outvars[0].aval.shape)
    if equation.primitive.name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        return math.prod(kernel[2:]) * math.prod(equation.outvars[0].aval.shape)
    return 0


def gradient_program(model, batch, frames, features, dtype=jnp.float32):
    """A function that gives the loss and its gradient, and the shapes of its arguments: nothing is computed."""
    inputs = jax.ShapeDtypeStruct((batch, frames, features), dtype), jax.ShapeDtypeStruct((batch,), jnp.int32)

    def init(features, lengths):
        return model.init(jax.random.key(0), features, lengths, train=False)

    variables = jax.eval_shape(init, jax.ShapeDtypeStruct(inputs[0].shape, jnp.float32), inputs[1])

    def loss(params, statistics, features, lengths):
        variables = {"params": params, "batch_stats": statistics}
        output, updates = model.apply(variables, features, lengths, train=True, mutable=["batch_stats"])
        labels = jnp.arange(batch) % CLASSES
        losses = -jnp.take_along_axis(jax.nn.log_softmax(output.logits), labels[:, None], 1)
        return jnp.mean(losses), updates

    arguments = (variables["params"], variables.get("batch_stats", {}), *inputs)
    return jax.value_and_grad(loss, has_aux=True), arguments
