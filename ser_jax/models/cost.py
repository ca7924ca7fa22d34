"""What a model costs: its parameters, and the multiply-adds of a forward pass. Traced, never compiled.

Counted are matrix products and convolutions, and products with weights that are added to one another, which is what a
convolution written as shifted multiply-adds is. What an utterance has no part in (weights multiplied with weights) is
left out, and so are activations, normalisation and pooling, as usual in the field.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ser_jax.errors import UserError
from ser_jax.models import FAMILIES, build, options_of


@dataclasses.dataclass(frozen=True)
class Cost:
    """Trained parameters, and multiply-adds of the forward pass of one utterance."""

    parameters: int
    multiply_adds: int


def cost(model: nn.Module, num_frames: int, num_features: int) -> Cost:
    """The cost of a model for one utterance of `num_frames` frames."""
    inputs = jax.ShapeDtypeStruct((1, num_frames, num_features), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)

    def forward(features: jax.Array, lengths: jax.Array) -> tuple:
        return model.init_with_output(jax.random.key(0), features, lengths, train=False)

    traced, (_, variables) = jax.make_jaxpr(forward, return_shape=True)(*inputs)
    multiply_adds, _ = _multiply_adds(traced.jaxpr, [True, True])
    return Cost(sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables.get("params", {}))), multiply_adds)


def table(num_classes: int, num_frames: int, num_features: int) -> list[dict[str, Any]]:
    """Every registered family and its cost, by default and by each value of its attention switches.

    A value that does not go together with the default options has no cost, and the reason why under "refused".
    """
    cost_once = functools.cache(lambda model: dataclasses.asdict(cost(model, num_frames, num_features)))

    def cost_of(name: str, **options: Any) -> dict[str, Any]:
        try:
            return cost_once(build(name, num_classes, **options))
        except UserError as error:
            return {"refused": str(error)}

    rows = []
    for name, family in FAMILIES.items():
        defaults = options_of(family)
        switches = {
            switch: [{"value": v, "default": v == defaults[switch], **cost_of(name, **{switch: v})} for v in values]
            for switch, values in family.switches.items()
        }
        row = {"name": name, "summary": family.summary, **cost_of(name), "options": defaults, "switches": switches}
        rows.append(row)
    return rows


# Counting -----------------------------------------------------------------------------------------------------------


def _multiply_adds(jaxpr: Any, given: Sequence[bool]) -> tuple[int, list[bool]]:
    """The multiply-adds of a traced function, and which of its results depend on an utterance.

    `given` says which of its arguments do.
    """
    dependent = {variable for variable, depends in zip(jaxpr.invars, given, strict=True) if depends}
    products: dict[Any, int] = {}  # sums of products with weights -> those of its multiply-adds not counted yet
    total = 0
    for equation in jaxpr.eqns:
        depends = [_is_variable(atom) and atom in dependent for atom in equation.invars]
        if not any(depends):
            continue
        count, results = _of_equation(equation, depends)
        total += count
        dependent |= {variable for variable, result in zip(equation.outvars, results, strict=True) if result}
        if equation.primitive.name == "mul" and not all(depends):
            products[equation.outvars[0]] = math.prod(equation.outvars[0].aval.shape)
        elif equation.primitive.name in ("add", "add_any"):
            terms = [atom for atom in equation.invars if _is_variable(atom) or atom.val != 0]
            if all(_is_variable(term) and term in products for term in terms):
                uncounted = sum(products[term] for term in terms)
                total += uncounted if len(terms) > 1 else 0
                products[equation.outvars[0]] = 0 if len(terms) > 1 else uncounted
    return total, [_is_variable(atom) and atom in dependent for atom in jaxpr.outvars]


def _of_equation(equation: Any, depends: list[bool]) -> tuple[int, list[bool]]:
    """The same of one equation of a traced function; what loops carry is taken to depend on the utterance."""
    name, parameters = equation.primitive.name, equation.params
    everything = [True] * len(equation.outvars)
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        length = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        return length * math.prod(equation.outvars[0].aval.shape), everything
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        taps = math.prod(kernel) // kernel[parameters["dimension_numbers"].rhs_spec[0]]
        return taps * math.prod(equation.outvars[0].aval.shape), everything
    if name == "scan":
        constants, carry = _constants_and_carry(equation)
        depends = [*depends[:constants], *[True] * carry, *depends[constants + carry :]]
        count, results = _multiply_adds(parameters["jaxpr"].jaxpr, depends)
        return parameters["length"] * count, [*[True] * carry, *results[carry:]]
    if name == "cond":
        branches = [_multiply_adds(branch.jaxpr, depends[1:]) for branch in parameters["branches"]]
        return max(count for count, _ in branches), everything
    inner = [function for function in map(_traced, parameters.values()) if function is not None]
    if name == "while":
        if any(_multiply_adds(function, [True] * len(function.invars))[0] for function in inner):
            raise ValueError("a while loop has as many turns as its data tell; its multiply-adds cannot be counted")
        return 0, everything
    if len(inner) == 1 and len(inner[0].invars) == len(depends):  # a function within the function
        return _multiply_adds(inner[0], depends)
    return sum(_multiply_adds(function, [True] * len(function.invars))[0] for function in inner), everything


def _constants_and_carry(scan: Any) -> tuple[int, int]:
    """How many of a loop's arguments are constants, and how many are carried.

    Told by their shapes, since the parameters that say so are called otherwise in every version of JAX: what is taken
    apart or put together step by step has another shape outside the loop than inside.
    """
    body = scan.params["jaxpr"].jaxpr

    def same(outside: Any, inside: Any) -> int:
        return sum(a.aval.shape == b.aval.shape for a, b in zip(outside, inside, strict=True))

    carry = same(scan.outvars, body.outvars)
    return same(scan.invars, body.invars) - carry, carry


def _traced(parameter: Any) -> Any:
    """The traced function that a parameter of an equation is, if it is one."""
    jaxpr = getattr(parameter, "jaxpr", parameter)
    return jaxpr if hasattr(jaxpr, "eqns") else None


def _is_variable(atom: Any) -> bool:
    return not hasattr(atom, "val")  # literals have a value
