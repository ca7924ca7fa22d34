"""The code behind a result: which files can change it, found by following imports, and a hash of what they mean."""

import ast
import functools
import hashlib
import importlib
import importlib.metadata
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import ser_jax
from ser_jax import plugins
from ser_jax.baselines import is_baseline

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "soxr")  # whose versions can change a result
_BASELINE_PACKAGES = ("scikit-learn", "opensmile")

# Where the computation of a result begins; what these modules import can change it. Files that only pass corpora and
# folds on are taken by themselves: they import reports too.
_NETWORK = ("ser_jax.training.loop", "ser_jax.inference.tables", "ser_jax.corpora.perturbations")
_BASELINE = ("ser_jax.baselines.columns", "ser_jax.baselines.functionals", "ser_jax.corpora.perturbations")
_ALONE = ("ser_jax.studies.variants", "ser_jax.studies.more_seeds", "ser_jax.studies.robustness")
_BASELINE_ALONE = ("ser_jax.studies.baselines", "ser_jax.baselines.dimensions")
_TABLE_OF_FAMILIES = "ser_jax.models"  # imports every family
_INTERFACE = "ser_jax.api"  # `ser_jax.load` imports it, and with it everything; no training calls that

_DIGITS = 12  # hexadecimal, of a version


def code_version(config: dict, package: Path | None = None) -> str:
    """Returns a hash of the code that trains and evaluates a variant, without comments and docstrings.

    `package` is the folder of ser_jax, by default the one that runs. Code outside of it counts too, see
    `files_behind`.
    """
    package = package or Path(ser_jax.__file__).parent
    digest = hashlib.sha256()
    for name, file in sorted(files_behind(config, package).items()):
        digest.update(f"{name}\n{_meaning(file.read_text(encoding='utf-8'))}\n".encode())
    return digest.hexdigest()[:_DIGITS]


def package_versions(config: dict) -> dict[str, str]:
    """Returns the versions of the installed packages that can change a variant's result."""
    names = (*PACKAGES, *_BASELINE_PACKAGES) if is_baseline(config["model"]) else PACKAGES
    found = {name: _version(name) for name in names}
    return {name: version for name, version in found.items() if version}


def files_behind(config: dict, package: Path) -> dict[str, Path]:
    """Returns the files whose code can change a variant's result, by the names of their modules.

    Of the families of models only the variant's own counts, with those that it imports. Of modules outside the package
    those count that the configuration names, with what they import of their own packages and of the folder in which
    these lie; what is installed beside them does not.
    """
    from ser_jax.models import FAMILIES  # imports JAX, which a report does without

    baseline = is_baseline(config["model"])
    roots, alone = (_BASELINE, (*_ALONE, *_BASELINE_ALONE)) if baseline else (_NETWORK, _ALONE)
    outside = plugins.files_outside(config)
    folders = _folders_outside(outside) | {"ser_jax": package}
    families = {name: family.module.__module__ for name, family in FAMILIES.items()}
    family = [families[name] for name in [config["model"]["name"]] if name in families]
    own = reachable([*outside, *family], folders, without={_TABLE_OF_FAMILIES, _INTERFACE})
    found = reachable([*roots, *outside], folders, without={_INTERFACE, *families.values()} - set(own))
    return found | {name: _file_of(name, folders) for name in alone} | outside


def reachable(roots: Iterable[str], folders: Mapping[str, Path], without: Collection[str] = ()) -> dict[str, Path]:
    """Returns the modules that `roots` import, directly or not, with their files.

    Only those count whose top-level module is in `folders`, which has the path of each, without an ending. Imports
    inside functions count. `without` names modules that are not followed.
    """
    found: dict[str, Path] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        file = _file_of(name, folders)
        if name in found or name in without or file is None:
            continue
        found[name] = file
        parent = name.rpartition(".")[0]
        waiting += [parent] if parent else []
        waiting += _imported(file.read_text(encoding="utf-8"), name if file.name == "__init__.py" else parent)
    return found


def _folders_outside(files: Mapping[str, Path]) -> dict[str, Path]:
    """The paths of the top-level modules of `files`, and of those that lie beside them but are not installed."""
    folders = {}
    for name, file in files.items():
        folder = file.parents[name.count(".") + (file.name == "__init__.py")]
        if folder.name not in ("site-packages", "dist-packages"):
            beside = (path for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file())
            folders |= {path.stem: path.with_suffix("") for path in beside}
        top = name.split(".")[0]
        folders[top] = folder / top
    return folders


@functools.cache
def _imported(source: str, package: str) -> tuple[str, ...]:
    """What a module of `package` may import; of `from a import b` both a and a.b, one of which may be no module."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names += [module, *(f"{module}.{alias.name}" for alias in node.names)]
    return tuple(names)


def _file_of(name: str, folders: Mapping[str, Path]) -> Path | None:
    """The file of a module; None where the name is not that of a module of `folders`."""
    top, *rest = name.split(".")
    if top not in folders:
        return None
    path = folders[top].joinpath(*rest)
    return next((file for file in (path / "__init__.py", path.parent / f"{path.name}.py") if file.is_file()), None)


@functools.cache
def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def _meaning(source: str) -> str:
    """The code without what does not change its meaning."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
            node.body = node.body[1:] or [ast.Pass()]
    return _dump(tree)


def _dump(part: Any) -> str:
    """What `ast.dump` gives, but the same by every Python: newer ones have fields that older code leaves empty."""
    if isinstance(part, ast.AST):
        fields = (f"{name}={_dump(value)}" for name, value in ast.iter_fields(part) if value not in (None, []))
        return f"{type(part).__name__}({', '.join(fields)})"
    return f"[{', '.join(map(_dump, part))}]" if isinstance(part, list) else repr(part)
