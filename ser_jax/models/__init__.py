"""Models by name: `build("shufflenet_v2", num_classes=7, width=0.5, attention="eca")`."""

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any

import flax.linen as nn

from ser_jax.errors import UserError
from ser_jax.models import linear, shufflenet_v2

# name -> the module, and the values that its options take (several of them, for an option whose default is a tuple).
# A model that is listed here joins the contract tests, with the options in TINY.
MODELS: dict[str, tuple[type[nn.Module], dict[str, Sequence[Any]]]] = {
    "linear": (linear.Linear, linear.CHOICES),
    "shufflenet_v2": (shufflenet_v2.ShuffleNetV2, shufflenet_v2.CHOICES),
}
TINY: dict[str, dict[str, Any]] = {"linear": {}, "shufflenet_v2": {"width": "tiny", "attention": "eca"}}


def build(name: str, num_classes: int, **options: Any) -> nn.Module:
    """The model `name` for `num_classes` emotions.

    Args:
        name: a key of `MODELS`.
        num_classes: at least 2.
        options: fields of the module; text is taken for the value that it spells ("0.5", "none").

    Raises:
        UserError: for an unknown model, option or value, naming the nearest right one and all of them.
    """
    if num_classes < 2:
        raise UserError(f"model {name}: a classifier needs at least 2 emotions, found {num_classes}")
    module, choices = MODELS[_nearest("model", name, list(MODELS))]
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(module)
        if field.name not in ("num_classes", "parent", "name")
    }
    checked = {}
    for option, value in options.items():
        _nearest(f"option of model {name}", option, list(defaults))
        what = f"{option} of model {name}"
        if option == "dropout" and not 0 <= value < 1:
            raise UserError(f"{what}: {value}; expected a rate of at least 0 and below 1")
        if option not in choices:
            checked[option] = value
        elif isinstance(defaults[option], tuple):
            values = value if isinstance(value, (list, tuple)) else [value]
            checked[option] = tuple(_nearest(what, v, choices[option]) for v in values)
        else:
            checked[option] = _nearest(what, value, choices[option])
    return module(num_classes=num_classes, **checked)


def _nearest(what: str, found: Any, choices: Sequence[Any]) -> Any:
    """The choice that `found` is or spells; otherwise an error that names the nearest one."""
    for choice in choices:
        if found == choice or str(found) == str(choice):
            return choice
    near = difflib.get_close_matches(str(found), map(str, choices), n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise UserError(f"unknown {what}: {found}{hint}; expected one of {', '.join(map(str, choices))}")
