"""What is named in a configuration: an entry of one of the package's tables, or `package.module:NAME` from outside.

A module outside the package is found as Python finds any: installed, or below the folder in which the command runs.
Python's own modules are refused: no part of a model is there, but what removes files or starts programs is. What is
stored, as JSON or beside a model, is not trusted: a name in it is refused unless the environment lists its module.
"""

import functools
import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ser_jax.errors import UserError, brief, did_you_mean

Entry = TypeVar("Entry")

TRUSTED = "SER_JAX_PLUGINS"  # of the environment: modules that stored data may name, with commas between
_PLACES = (  # where a configuration names parts
    ("corpus", "name"),
    ("frontend", "kind"),
    ("augmentation", "custom"),
    ("model", "name"),
    ("optimizer", "name"),
    ("optimizer", "schedule"),
    ("training", "loss"),
    ("study", "metrics"),
)
_OUTSIDE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_outside(name: Any) -> bool:
    """Whether a name has the form `package.module:NAME`."""
    return isinstance(name, str) and bool(_OUTSIDE.fullmatch(name))


def resolve(name: str, table: Mapping[str, Entry], where: str, kind: type | tuple[type, ...] | None = None) -> Entry:
    """Returns the entry of a table, or what a module outside the package has under `package.module:NAME`.

    `where` is the option that names it. Raises `UserError` for a name that is not in the table (with the nearest), for
    a module or attribute that is not there, and for what is no `kind` (where that is None: no function).
    """
    if name in table:
        return table[name]
    if not is_outside(name):
        raise UserError(f"unknown {where}: {brief(name)}{did_you_mean(name, table)}")
    found = _load(name, where)
    if not (callable(found) if kind is None else isinstance(found, kind)):
        expected = "a function" if kind is None else f"a {getattr(kind, '__name__', kind)}"
        raise UserError(f"{where}: {name} is a {type(found).__name__}, expected {expected}")
    return found


def require_trusted(stored: Any, where: str) -> None:
    """Raises `UserError` where stored data name code outside the package that the environment does not list.

    To import a module runs it, and one may lie below the folder that holds the data; to call what another package has
    with untrusted arguments may run anything.
    """
    trusted = [name.strip() for name in os.environ.get(TRUSTED, "").split(",") if name.strip()]
    for name in _part_names(stored):
        module = name.partition(":")[0]
        if not any(module == one or module.startswith(f"{one}.") for one in trusted):
            raise UserError(
                f"{where}: names code outside of ser_jax, {brief(name)}, which would run; if you trust it, set "
                f"{TRUSTED}={module.partition('.')[0][:80]} in the environment"
            )


def files_outside(config: Any) -> dict[str, Path]:
    """Returns the files of the modules outside the package that a configuration names, by the names of the modules."""
    modules = {name.partition(":")[0] for name in _part_names(config)}
    return {module: Path(inspect.getfile(importlib.import_module(module))) for module in sorted(modules)}


@functools.cache
def _load(name: str, where: str) -> Any:
    module, _, attribute = name.partition(":")
    if module.split(".")[0] in sys.stdlib_module_names:
        raise UserError(f"{where}: {brief(name)} is of Python's own modules, expected one of yours or of a package")
    try:
        return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
    except UserError:
        raise
    except Exception as error:  # whatever it is: it is of the user's module
        said = (str(error).strip().splitlines() or [""])[-1]
        raise UserError(f"{where}: {name} cannot be imported ({type(error).__name__}: {said})") from error


def _part_names(value: Any) -> Iterator[str]:
    """The names of that form where a configuration, or a study's part of one, means them: titles and paths are not."""
    if isinstance(value, Mapping):
        for group, option in _PLACES:
            if isinstance(part := value.get(group), Mapping):
                yield from _names(part.get(option))
        if "field" in value:  # a factor, whose levels are values of an option
            yield from _names(value.get("levels"))
    for entry in value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ():
        yield from _part_names(entry)


def _names(value: Any) -> Iterator[str]:
    """The names of that form among a configuration's keys and values."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from (*_names(key), *_names(entry))
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _names(entry)
    elif is_outside(value):
        yield value
