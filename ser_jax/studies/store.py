"""Where populations are kept: each in a folder that is named after what decides its results, and made once.

The name ends in a key, a hash of the configuration, the corpus, the folds and the code that trains and evaluates. So a
variant that another study has trained already is not trained again, whatever it is called there; two processes on one
folder share the work, since whoever trains a population holds its lock; and a change to the code that could change a
result begins anew, beside the old one. Changes to comments, docstrings and layout do not count as changes.
"""

import ast
import hashlib
import inspect
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

import ser_jax
from ser_jax import config as configuration
from ser_jax.baselines import is_baseline
from ser_jax.corpora.corpus import Corpus
from ser_jax.corpora.protocols import Protocol

# What a population's folder holds beside its predictions, checkpoints and log.
RESULT, FAILURE, PICTURE, CONDITIONS = "result.json", "failure.json", "attention.png", "conditions.parquet"
STUDY = "study.json"  # of a workdir: its variants in their order, and the folder of each one's population
_KEY = 12  # hexadecimal digits of a key
_NAME = 48  # letters of a folder's name before the key


def population_key(
    config: dict,
    corpus: Corpus,
    protocol: Protocol,
    features: dict | None,
    initial: dict | None,
    teacher: dict | None,
) -> str:
    """Returns the key of a variant's population.

    `features` describes those made elsewhere that the variant takes, `initial` the parameters that it begins with,
    `teacher` the runs from which it learns.
    """
    folds = [protocol.folds[number] for number in config["folds"]] or protocol.folds
    parts = [
        json.dumps(_deciding(config), sort_keys=True),
        corpus.fingerprint,
        json.dumps([features, initial, teacher], sort_keys=True),
        code_version(config),
    ]
    digest = hashlib.sha256("\n".join(parts).encode())
    for fold in folds:
        digest.update(fold.name.encode())
        for rows in (fold.train, fold.validation, fold.test):
            digest.update(b"|" + rows.tobytes())
    return digest.hexdigest()[:_KEY]


def code_version(config: dict) -> str:
    """Returns a hash of the code that trains and evaluates a variant, without comments and docstrings.

    Of the model families only the variant's own counts: they do not import one another.
    """
    package = Path(ser_jax.__file__).parent
    if is_baseline(config["model"]):
        files = [package / f"baselines/{name}.py" for name in ("linear", "functionals", "opensmile")]
        files += package.glob("frontend/*.py")
    else:
        from ser_jax.models import FAMILIES

        modules = {name: Path(inspect.getfile(family.module)).name for name, family in FAMILIES.items()}
        others = {file for name, file in modules.items() if name != config["model"]["name"]}
        files = [file for room in ("frontend", "feeds", "training") for file in package.glob(f"{room}/*.py")]
        files += [file for file in package.glob("models/*.py") if file.name not in {*others, "__init__.py", "cost.py"}]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.name.encode() + _meaning(file.read_text()).encode())
    return digest.hexdigest()[:_KEY]


def population_folder(store: Path, name: str, key: str) -> Path:
    """Returns the folder of the population `key`: the one there is, or one to be named after the variant `name`."""
    found = sorted(store.glob(f"*-{key}"))
    slug = re.sub(r"[^a-z0-9.]+", "_", name.lower()).strip("_.")[:_NAME] or "variant"
    return found[0] if found else store / f"{slug}-{key}"


def has_checkpoint(folder: Path) -> bool:
    """Whether a population's training has left a checkpoint, of its end or of where it was interrupted."""
    return any(folder.glob("checkpoints/*"))


@contextmanager
def locked(store: Path, key: str, *, wait: bool) -> Iterator[bool]:
    """Holds the lock of a population, and says whether it could be had; with `wait` it always can, in the end.

    The operating system frees the lock of a process that died.
    """
    store.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(store / f".{key}.lock")
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except filelock.Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _deciding(config: dict) -> dict:
    """What decides a variant's results; of a network's options, those left out too."""
    if is_baseline(config["model"]):
        return configuration.deciding(config)
    from ser_jax.models import FAMILIES, options_of

    family = FAMILIES[config["model"]["name"]]
    return configuration.deciding(config) | {"model": options_of(family) | config["model"]}


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
