"""The tree of a configuration: its defaults, what changes it, and the checks that every configuration passes."""

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ser_jax.config.kinds import in_order
from ser_jax.config.options import OPTIONS, Option
from ser_jax.errors import UserError, brief, did_you_mean

_UNITS = (("_steps", "_epochs"), ("_epochs", "_steps"))
# A training of no set length: so many epochs of so many utterances (the recipe of EMO-DB), and of n times as many the
# square root of n times the steps. RAVDESS then gets 32 epochs, both corpora 25, where searches had found 30 and 20.
_EPOCHS, _UTTERANCES = 50.0, 480.0


def default() -> dict:
    """Returns every key of a configuration with its default; what is not here cannot be configured."""
    return _defaults(OPTIONS)


def merge(config: dict, changes: dict, where: str = "config") -> dict:
    """Returns `config` with the leaves that `changes`, a part of such a tree, names.

    Raises `UserError` that names the nearest existing key for one that does not exist. Below `config.model` any key is
    taken: models differ in their options, which are checked when the model is built. Where the name of the model
    changes, the changes replace the model whole. A duration in one unit takes the place of the same in the other.
    `config.optimizer.rates` are kept as a list of pairs, and replaced whole.
    """
    result = dict(config)
    for key, value in changes.items():
        if not _is_free(where):
            _check_key(key, config, where)
        if isinstance(config.get(key), dict) and isinstance(value, dict) and not _another_model(key, config, value):
            value = merge(config[key], value, f"{where}.{key}")
        result[key] = copy.deepcopy(in_order(value) if f"{where}.{key}" == "config.optimizer.rates" else value)
        for unit, other in _UNITS:
            twin = f"{str(key).removesuffix(unit)}{other}"
            if str(key).endswith(unit) and twin in config and twin not in changes and value != -1:
                result[twin] = -1
    return result


def completed(config: dict) -> dict:
    """Returns a part of a tree with the defaults of what is not in it; a model that it names keeps its own defaults."""
    others = {key: value for key, value in config.items() if key != "model"}
    return {**merge(default(), others), **({"model": config["model"]} if "model" in config else {})}


def check(config: dict) -> dict:
    """Returns a complete configuration with every value as its option keeps it (1 as 1.0, a tuple as a list).

    A variant of a study, without the group `study`, is taken too. Raises `UserError` for a key that does not exist or
    is missing, a value out of the option's range or of another type, and for options that do not go together.
    """
    options = OPTIONS if "study" in config else {key: value for key, value in OPTIONS.items() if key != "study"}
    result = _check_group(config, options, "config")
    if not isinstance(result["model"].get("name"), str):
        raise UserError(f"config.model.name: found {brief(result['model'].get('name'))}, expected the name of a model")
    if not result["seeds"]:
        raise UserError("config.seeds: found none, expected at least one whole number")
    _check_durations(result)
    if result["augmentation"]["spec_augment"] and result["frontend"]["normalization"] == "none":
        raise UserError(
            f"config.augmentation.spec_augment: found {result['augmentation']['spec_augment']:g}, expected 0 beside "
            "frontend.normalization=none: masks are zeros, which have to be the features' mean"
        )
    return result


def deciding(config: dict) -> dict:
    """Returns the part of a variant's configuration that decides what is trained and what it predicts."""
    result = {key: value for key, value in config.items() if key not in ("study", "feed")}
    result["training"] = {
        key: value
        for key, value in config["training"].items()
        if key
        not in (
            "checkpoint_seconds",
            "deterministic",
            "split",
            "initial",
            "teacher",
        )  # what these hold counts, not where it lies
    }
    result["evaluation"] = {name: config["evaluation"][name] for name in ("window_seconds", "batch_statistics")}
    return result


def steps(config: dict, section: str, name: str, steps_per_epoch: float) -> int:
    """Returns the duration `name` in steps, from `<name>_steps` or `<name>_epochs`.

    A unit that is not set is -1. Where neither is, the duration follows from others: the training's from the number of
    utterances (`_EPOCHS`), a warm-up is a tenth of the training, and there are five validations in it.
    Raises `UserError` where both are set.
    """
    in_steps, in_epochs = _in_one_unit(config, section, name)
    if in_steps >= 0:
        return in_steps
    if in_epochs >= 0:
        return max(round(in_epochs * steps_per_epoch), 1 if name == "train" else 0)
    if name == "train":
        utterances = steps_per_epoch * config["training"]["batch_size"]
        return max(round(_EPOCHS * (_UTTERANCES / utterances) ** 0.5 * steps_per_epoch), 1)
    return steps(config, "training", "train", steps_per_epoch) // {"warmup": 10, "validate": 5}[name]


def construct(kind: type, options: dict, where: str) -> Any:
    """Builds the dataclass `kind` from a group of options; raises `UserError` for an option that it does not have."""
    names = [field.name for field in dataclasses.fields(kind)]
    for key in options:
        if key not in names:
            raise UserError(f"{where} has no {key!r}{did_you_mean(key, names)}")
    return kind(**options)


def choose(what: str, name: str, choices: Mapping[str, Any]) -> Any:
    """Returns what `choices` hold under `name`: for the arguments of configuration files.

    Raises `UserError` that names the nearest choice, or all, for one that there is not.
    """
    if name not in choices:
        raise UserError(f"no {what} {brief(name)}{did_you_mean(name, choices)}")
    return choices[name]


def differences(old: dict, new: dict, prefix: str = "config") -> Iterator[str]:
    """Yields one "path: old -> new" for each leaf in which two configurations differ."""
    for key in sorted({*old, *new}):
        path, a, b = f"{prefix}.{key}", old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from differences(a, b, path)
        elif a != b:
            yield f"{path}: {a!r} -> {b!r}"


def _defaults(options: dict[str, Any]) -> dict:
    return {
        key: copy.deepcopy(option.default) if isinstance(option, Option) else _defaults(option)
        for key, option in options.items()
    }


def _check_group(config: Any, options: dict[str, Any], where: str) -> dict:
    if not isinstance(config, dict):
        raise UserError(f"{where}: found {brief(config)}, expected a group of options: {', '.join(options)}")
    for key in config:
        _check_key(key, options, where)
    result = {}
    for key, option in options.items():
        if key not in config:
            raise UserError(f"{where}: {key!r} is missing")
        path = f"{where}.{key}"
        check_one = _check_value if isinstance(option, Option) else _check_group
        result[key] = check_one(config[key], option, path)
    return result


def _check_value(value: Any, option: Option, where: str) -> Any:
    try:
        return option.kind.checked(value)
    except ValueError as error:
        raise UserError(f"{where}: found {brief(value)}, expected {option.kind.expected}{error}") from None


def _check_durations(config: dict) -> None:
    """Refuses a duration in two units, and a warm-up that is longer than the training."""
    _in_one_unit(config, "training", "validate")
    warmup, train = _in_one_unit(config, "optimizer", "warmup"), _in_one_unit(config, "training", "train")
    for unit, short, whole in zip(("steps", "epochs"), warmup, train, strict=True):
        if 0 < whole <= short:
            raise UserError(
                f"config.optimizer.warmup_{unit}: found {short:g}, expected less than the training's {whole:g} {unit}"
            )


def _in_one_unit(config: dict, section: str, name: str) -> tuple[int | float, int | float]:
    """The duration in steps and in epochs, of which one or both are -1."""
    in_steps, in_epochs = config[section][f"{name}_steps"], config[section][f"{name}_epochs"]
    if in_steps >= 0 and in_epochs >= 0:
        where = f"config.{section}.{name}"
        raise UserError(f"{where}_steps={in_steps} and {where}_epochs={in_epochs}: both are set, expected one")
    return in_steps, in_epochs


def _check_key(key: Any, node: Any, where: str) -> None:
    names = list(node) if isinstance(node, dict) else []
    if key not in names:
        raise UserError(f"{where} has no {brief(key)}{did_you_mean(key, names)}")


def _is_free(where: str) -> bool:
    """Whether a group's keys are checked where they are used: they depend on the corpus, the model or the study."""
    node: Any = OPTIONS
    for key in where.split(".")[1:]:
        if isinstance(node, Option) or key not in node:  # within such a group
            return True
        node = node[key]
    return isinstance(node, Option)


def _another_model(key: str, config: dict, changes: dict) -> bool:
    return key == "model" and changes.get("name", config[key].get("name")) != config[key].get("name")
