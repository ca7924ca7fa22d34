"""Models by name: `build("shufflenet_v2", num_classes=7, width=0.5, attention="eca")`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn

from ser_jax import plugins
from ser_jax.errors import UserError, brief, did_you_mean
from ser_jax.models import attention_rnn, cnn, crnn, encoder_head, linear, reslstm, rnn, shufflenet_v2, tcn, transformer
from ser_jax.models.family import Family, Range

# A family that is listed here joins the configurations, the table of models and the contract tests.
FAMILIES: dict[str, Family] = {
    "attention_rnn": attention_rnn.FAMILY,
    "cnn": cnn.FAMILY,
    "crnn": crnn.FAMILY,
    "encoder_head": encoder_head.FAMILY,
    "linear": linear.FAMILY,
    "reslstm": reslstm.FAMILY,
    "rnn": rnn.FAMILY,
    "shufflenet_v2": shufflenet_v2.FAMILY,
    "tcn": tcn.FAMILY,
    "transformer": transformer.FAMILY,
}


def build(name: str, num_classes: int, *, encoder: Any = None, waveforms: bool = False, **options: Any) -> nn.Module:
    """The model `name` for `num_classes` emotions.

    Args:
        name: a key of `FAMILIES`, or `package.module:NAME` of a `Family` outside the package.
        num_classes: at least 1: beside emotions, of which there are 2 and more, each dimension is one.
        encoder: the `Architecture` of the layers that the model computes itself; or None.
        waveforms: whether it computes them from waveforms, in the place of features.
        options: fields of the module; text is taken for the value that it spells ("0.5", "none").

    Raises:
        UserError: for an unknown model, option or value, naming the nearest right one and all of them, and for options
            that do not go together.
    """
    if num_classes < 1:
        raise UserError(f"model {name}: found {num_classes} outputs, expected at least 1")
    family = family_of(name)
    defaults = options_of(family)
    checked = {}
    for option, value in options.items():
        if option not in defaults:
            _refuse_option(name, option, list(defaults))
        what = f"{option} of model {name}"
        choices = family.choices.get(option)
        if choices is None:
            checked[option] = value
        elif isinstance(choices, Range):
            checked[option] = _within(what, value, choices)
        elif isinstance(defaults[option], tuple):
            values = value if isinstance(value, (list, tuple)) else [value]
            checked[option] = tuple(_nearest(what, v, choices) for v in values)
        else:
            checked[option] = _nearest(what, value, choices)
    if encoder is not None:
        checked |= {"encoder": encoder, "waveforms": waveforms}
    model = family.module(num_classes=num_classes, **checked)
    family.check(model)
    return model


def family_of(name: str) -> Family:
    """Returns the family of a model's name; raises `UserError` for one that there is not."""
    return plugins.resolve(name, FAMILIES, "model", Family)


def options_of(family: Family) -> dict[str, Any]:
    """The options of a family and their defaults."""
    return {
        field.name: field.default
        for field in dataclasses.fields(family.module)
        if field.name not in ("num_classes", "encoder", "waveforms", "axis_name", "parent", "name")
    }


def _refuse_option(name: str, option: str, options: Sequence[str]) -> None:
    others = [other for other, family in FAMILIES.items() if other != name and option in options_of(family)]
    if others:
        raise UserError(
            f"model {name} has no option {option}, which is one of {', '.join(others)}; "
            f"expected one of {', '.join(options)}"
        )
    _nearest(f"option of model {name}", option, options)


def _within(what: str, value: Any, allowed: Range) -> Any:
    """The number that `value` is or spells, if it is allowed."""
    if isinstance(value, str):
        try:
            value = int(value) if isinstance(allowed.low, int) else float(value)
        except ValueError:
            raise UserError(f"{what}: {brief(value)}; expected {allowed}") from None
    if value not in allowed:
        raise UserError(f"{what}: {brief(value)}; expected {allowed}")
    return float(value) if isinstance(allowed.low, float) else value


def _nearest(what: str, found: Any, choices: Sequence[Any]) -> Any:
    """The choice that `found` is or spells; otherwise an error that names the nearest one."""
    for choice in choices:
        if found == choice or str(found) == str(choice):
            return choice
    raise UserError(f"unknown {what}: {brief(found)}{did_you_mean(found, choices)}")
