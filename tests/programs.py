"""What a traced program consists of: its equations, and those of the functions within it."""

import math

import jax
import jax.numpy as jnp
import numpy as np

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
    for equation in jaxpr.eqns:
        yield equation
        for parameter in equation.params.values():
            for inner in parameter if isinstance(parameter, (tuple, list)) else (parameter,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


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
