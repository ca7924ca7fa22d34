"""Optimizers and schedules by name, and what they do to each parameter: decay it, slow it down, or leave it alone.

A step is `parameter - rate * (direction + weight_decay * parameter)`, where the direction comes from an optax
transformation and weight decay is decoupled from it (Loshchilov and Hutter 2019, arXiv 1711.05101). Learning rate and
weight decay are values of a run, so that a sweep of them is one population.
"""

import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from ser_jax import plugins
from ser_jax.errors import UserError, did_you_mean, reading
from ser_jax.training import devices

# The parameters that decay: kernels of dense, convolution and recurrent layers, and embeddings. Biases, norms' gains,
# queries of attention pooling, start vectors and class tokens do not. One rule for all models, ECA and SE included.
DECAYED = re.compile(r"(^|/)(\w*kernel|\w*embedding|linear|depthwise)$")
_WHERE = "config.optimizer"
# Of optax's, those that treat every parameter by itself, whatever array it lies in.
_ELEMENTWISE = frozenset(
    {"adam", "adamw", "adamax", "adamaxw", "adabelief", "adagrad", "amsgrad", "lion", "radam"}
    | {"rmsprop", "sgd", "yogi"}
)
_SHARES = frozenset({"b1", "b2", "b3", "decay", "momentum"})  # what moving averages of gradients keep at each step


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """What is static in an update of the parameters.

    Attributes:
      transformation: gradient -> what is added to the parameters at a learning rate of 1, without weight decay.
      schedule: step -> share of the peak learning rate.
      decays: the parameters that weight decay pulls to zero, a tree of booleans.
      rates: each parameter's share of the learning rate, a tree of floats; 0: it is frozen.
      elementwise: whether the transformation treats every parameter by itself, but for the norm that is clipped.
    """

    transformation: optax.GradientTransformation
    schedule: optax.Schedule
    decays: Any
    rates: Any
    elementwise: bool


def make_optimizer(options: Mapping[str, Any], parameters: Any, *, num_steps: int, warmup_steps: int) -> Optimizer:
    """Builds an `Optimizer` for a tree of parameters, from the group `config.optimizer`.

    A frozen parameter has no optimizer state, and its gradient does not count in the norm that is clipped.
    Raises `UserError` for an optimizer, a schedule or an argument that does not exist, and for a pattern in `rates`
    that fits no parameter.
    """
    rates = _rates(options["rates"], parameters)
    clip, arguments = options["gradient_clip"], dict(options["arguments"])
    make = resolve(options["name"], (optax,), f"{_WHERE}.name")
    accepted = inspect.signature(make).parameters
    for name in ("learning_rate", "weight_decay"):
        if name in arguments:
            raise UserError(f"{_WHERE}.arguments: {name} has an option of its own, {_WHERE}.{name}")
    if not plugins.is_outside(options["name"]):
        _check_shares(arguments)
    own = {"weight_decay": 0.0} if "weight_decay" in accepted else {}
    transformation = _call(make, {"learning_rate": 1.0, **own, **arguments}, f"{_WHERE}.arguments")
    if not isinstance(transformation, optax.GradientTransformation):
        raise UserError(f"{_WHERE}.name: {options['name']} is no optimizer: it does not return an optax transformation")
    clipped = [optax.clip_by_global_norm(clip)] if clip else []
    transformation = optax.chain(*clipped, transformation)
    with reading(f"{_WHERE}.name: {options['name']} makes no step of a gradient with these arguments"):
        jax.eval_shape(lambda tree: transformation.update(tree, transformation.init(tree), tree), parameters)
    trained = jax.tree.map(bool, rates)
    if not all(jax.tree.leaves(trained)):
        transformation = optax.masked(transformation, trained)
    return Optimizer(
        transformation=transformation,
        schedule=make_schedule(options, num_steps=num_steps, warmup_steps=warmup_steps),
        decays=jax.tree_util.tree_map_with_path(lambda path, _: bool(DECAYED.search(path_of(path))), parameters),
        rates=rates,
        elementwise=options["name"] in _ELEMENTWISE and "mask" not in arguments and all(jax.tree.leaves(trained)),
    )


def make_schedule(options: Mapping[str, Any], *, num_steps: int, warmup_steps: int) -> optax.Schedule:
    """Returns step -> share of the peak rate: a linear warm-up from 0, then `config.optimizer.schedule` to the end.

    A schedule is called with a peak of 1 and with the steps that remain after the warm-up; arguments of the
    configuration come before these.
    """
    name, arguments = options["schedule"], _with_numbers(options["schedule_arguments"])
    where = f"{_WHERE}.schedule_arguments"
    make = resolve(name, (optax.schedules, optax), f"{_WHERE}.schedule", suffix="_schedule")
    remaining = num_steps - warmup_steps
    known = {"value": 1.0, "init_value": 1.0, "decay_steps": remaining, "transition_steps": remaining, "end_value": 0.0}
    required = [key for key, one in inspect.signature(make).parameters.items() if one.default is one.empty]
    rest = _call(make, {key: known[key] for key in required if key in known} | arguments, where)
    if arguments or plugins.is_outside(name):  # as it stands, one of optax ends at or above 0
        _check_schedule(rest, max(remaining, 1), name)
    if not warmup_steps:
        return rest
    return optax.join_schedules([optax.linear_schedule(0.0, 1.0, warmup_steps), rest], [warmup_steps])


def resolve(name: str, modules: tuple, where: str, suffix: str = "") -> Callable:
    """Returns what a name of a configuration means: a function of one of `modules`, or `package.module:NAME`.

    Raises `UserError`, naming the option `where`, for what is not there.
    """
    if plugins.is_outside(name):
        return plugins.resolve(name, {}, where)
    for module in modules:
        for attribute in (name + suffix, name):
            found = getattr(module, attribute, None)
            if inspect.isfunction(found):
                return found
    names = [key.removesuffix(suffix) for key in dir(modules[0]) if inspect.isfunction(getattr(modules[0], key))]
    close = did_you_mean(name, names).partition("; expected one of")[0]  # without the hundred names that are not near
    raise UserError(f"{where}: optax has no {name!r}{close or '; expected a name of optax, or package.module:NAME'}")


def path_of(path: tuple) -> str:
    """Returns a parameter's path as text, such as "classifier/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def overview(parameters: Any, optimizer: Optimizer) -> str:
    """Returns a table of a model's parameters: path, shape, count, whether it decays, and its share of the rate."""
    leaves = jax.tree_util.tree_leaves_with_path(parameters)
    decays, rates = jax.tree.leaves(optimizer.decays), jax.tree.leaves(optimizer.rates)
    rows = [("path", "shape", "count", "decays", "rate")]
    for (path, leaf), decay, rate in zip(leaves, decays, rates, strict=True):
        shape = " x ".join(map(str, leaf.shape)) or "1"
        rows.append((path_of(path), shape, f"{math.prod(leaf.shape):,}", "yes" if decay else "no", f"{rate:g}"))
    total = sum(math.prod(leaf.shape) for _, leaf in leaves)
    decayed = sum(math.prod(leaf.shape) for (_, leaf), decay in zip(leaves, decays, strict=True) if decay)
    rows.append(("total", "", f"{total:,}", f"{decayed:,}", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = (
        f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}  {row[4]:>4}"
        for row in rows
    )
    return "".join(line.rstrip() + "\n" for line in lines)


def _rates(pairs: Sequence[Sequence[Any]], parameters: Any) -> Any:
    """Each parameter's share of the learning rate: that of the first pattern that is found in its path, or 1."""
    used = set()

    def rate_of(path: tuple, _: Any) -> float:
        for pattern, rate in pairs:
            if re.search(pattern, path_of(path)):
                used.add(pattern)
                return float(rate)
        return 1.0

    rates = jax.tree_util.tree_map_with_path(rate_of, parameters)
    if unused := [pattern for pattern, _ in pairs if pattern not in used]:
        paths = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(parameters)]
        raise UserError(
            f"{_WHERE}.rates: {unused[0]!r} fits no parameter that an earlier pattern does not fit; expected part of a "
            f"path such as {paths[0]}"
        )
    if not any(jax.tree.leaves(rates)):
        raise UserError(f"{_WHERE}.rates: every parameter is frozen; expected one at least to be trained")
    return rates


def _check_schedule(schedule: optax.Schedule, num_steps: int, name: str) -> None:
    """Raises `UserError` unless a schedule gives a share of the peak rate for each of some steps of a training."""
    steps = np.unique(np.linspace(0, num_steps - 1, 100).astype(np.int32))
    with reading(f"{_WHERE}.schedule: {name} fails with these arguments"), jax.default_device(devices.host()):
        shares = np.asarray(jax.jit(jax.vmap(schedule))(steps), np.float64)
    good = np.isfinite(shares) & (shares > -1e-6)
    if not good.all():
        raise UserError(
            f"{_WHERE}.schedule: {name} gives {shares[~good][0]:g} times the peak rate, {steps[~good][0]} steps after "
            "the warm-up; expected at least 0"
        )


def _check_shares(arguments: Mapping[str, Any]) -> None:
    """Raises `UserError` for moving averages of optax's optimizers that would grow for ever."""
    for name in _SHARES & arguments.keys():
        value = arguments[name]
        if isinstance(value, int | float) and not 0 <= value < 1:
            raise UserError(f"{_WHERE}.arguments.{name}: found {value:g}, expected a number of at least 0 and below 1")


def _with_numbers(arguments: Any) -> Any:
    """Arguments with whole numbers for keys that spell one, as steps of boundaries do: JSON's keys are texts."""
    if not isinstance(arguments, Mapping):
        return arguments
    return {
        int(key) if isinstance(key, str) and key.isdecimal() else key: _with_numbers(entry)
        for key, entry in arguments.items()
    }


def _call(make: Callable, arguments: dict[str, Any], where: str) -> Any:
    accepted = inspect.signature(make).parameters
    if not any(one.kind is one.VAR_KEYWORD for one in accepted.values()):
        for name in arguments:
            if name not in accepted:
                raise UserError(f"{where}: {make.__name__} has no {name!r}{did_you_mean(name, list(accepted))}")
    try:
        return make(**arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"{where}: {make.__name__} refuses them ({str(error).splitlines()[0]})") from error
