"""Configurations from files and from the command line: `FILE.py`, `FILE.py:ARGUMENT`, `FILE.json`, `--config.x=y`.

A configuration that comes with ser_jax is found from any folder, by its file or by its name: `configs/quickstart.py`,
`quickstart`, `studies/attention:emodb`.

A Python file has a function `get_config` that returns the tree of a configuration, or the part of it that differs from
the defaults; a JSON file holds such a tree. What a command line changes has one grammar for both.
"""

import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ser_jax import files, plugins
from ser_jax.config.kinds import guess, plain
from ser_jax.config.options import OPTIONS, Option
from ser_jax.config.tree import check, completed, merge
from ser_jax.errors import UserError, brief, did_you_mean
from ser_jax.numbers import count
from ser_jax.shipped import CONFIGURATIONS, ROOT

PREFIX = "--config."


def load(path: str, overrides: Sequence[str] = ()) -> dict:
    """Returns the checked configuration of a file (`FILE.py`, `FILE.py:ARGUMENT` or `FILE.json`).

    `overrides` are texts `--config.x=y`. Raises `UserError` for a missing or broken file, for a key that does not exist
    (naming the nearest that does), and for a value that the option does not take.
    """
    try:
        config = completed(plain(_read_file(path)))
        return check(merge(config, _tree_of(overrides)))
    except RecursionError:
        raise UserError(f"--config {path}: nested too deeply for a configuration") from None


def _read_file(path: str) -> dict:
    file, _, argument = (path, "", "") if path.endswith(".json") else path.partition(":")
    if not Path(file).is_file():
        file = _shipped(path, file)
    config = _read_json(file) if file.endswith(".json") else _call(_get_config(file), file, argument)
    if isinstance(config, dict) and "library_name" in config:  # of a published model, which keeps its own in it
        config = config.get("config")
    if file.endswith(".json"):
        plugins.require_trusted(config, f"--config {path}")
    if not isinstance(config, dict):
        raise UserError(f"--config {path}: not a configuration: found {brief(config)}, expected a dict of options")
    return config


def _shipped(path: str, file: str) -> str:
    """The configuration that comes with ser_jax, named as `configs/NAME.py` or NAME."""
    name = file.removeprefix("configs/").removesuffix(".py")
    found = CONFIGURATIONS / f"{name}.py"
    if found.is_file():
        return str(found)
    names = sorted(str(one.relative_to(CONFIGURATIONS).with_suffix("")) for one in CONFIGURATIONS.rglob("*.py"))
    hint = did_you_mean(name, names)
    hint = hint if "did you mean" in hint else "; expected one of configs/*.py or a workdir's config.json"
    raise UserError(f"--config {path}: no such file{hint}")


def _read_json(file: str) -> Any:
    try:
        return files.from_json(files.read_text(file, "utf-8-sig"), repeats=False)
    except ValueError as error:  # of JSON, of UTF-8, and of numbers with thousands of digits
        raise UserError(f"--config {file}: not JSON ({error})") from error


def _get_config(file: str) -> Callable[..., dict]:
    """The function `get_config` of a Python file, which may import what lies in the present folder, and `configs`."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))  # those that come with ser_jax import one another
    spec = importlib.util.spec_from_file_location(f"configuration_{Path(file).stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"--config {file}: expected a file that ends in .py or .json")
    module = importlib.util.module_from_spec(spec)
    _one_line(file, lambda: spec.loader.exec_module(module))
    if not callable(getattr(module, "get_config", None)):
        raise UserError(f"--config {file}: no function get_config in it")
    return module.get_config


def _call(get_config: Callable[..., dict], file: str, argument: str) -> Any:
    """What a configuration's function returns for the argument after the colon, whose parts commas divide."""
    given = argument.split(",") if argument else []
    names = list(inspect.signature(get_config).parameters)
    if len(given) > len(names):
        form = f":{','.join(name.upper() for name in names)}" if names else " without an argument"
        raise UserError(f"--config {file}:{argument}: found {count(len(given), 'argument')}, expected {file}{form}")
    return _one_line(file, lambda: get_config(*given))


def _one_line(file: str, run: Callable[[], Any]) -> Any:
    try:
        return run()
    except (UserError, RecursionError):
        raise
    except (Exception, SystemExit) as error:  # whatever it is: it is of the user's file
        said = (str(error).strip().splitlines() or [""])[-1]
        raise UserError(f"--config {file}: {type(error).__name__}: {said}") from error


def _tree_of(overrides: Sequence[str]) -> dict:
    """The part of a tree that texts `--config.KEY.KEY=VALUE` say."""
    result: dict = {}
    for override in overrides:
        name, _, value = override.partition("=")
        keys = name.removeprefix(PREFIX).split(".")
        read = _reader(keys, name)
        node = result
        for key in keys[:-1]:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise UserError(f"{name}: {PREFIX}{key} is set as a whole beside it")
        node[keys[-1]] = read(value)
    return result


def _reader(keys: Sequence[str], name: str) -> Callable[[str], Any]:
    """How the value of the option that `keys` lead to is read from a text."""
    node, where = OPTIONS, "config"
    for key in keys:
        if isinstance(node, Option):  # one of the groups that are checked elsewhere, as the model's options
            if not isinstance(node.default, dict):
                raise UserError(f"{name}: {where} is no group of options; expected --{where}=VALUE")
            return guess
        if key not in node:
            raise UserError(f"--{where} has no {brief(key)}{did_you_mean(key, node)}")
        node, where = node[key], f"{where}.{key}"
    if not isinstance(node, Option):
        raise UserError(f"{name}: a group of options; expected one of them, as {name}.{next(iter(node))}=VALUE")
    return node.kind.read
