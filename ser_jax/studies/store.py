"""Where populations are kept: each in a folder that is named after what decides its results, and made once.

The name ends in a key, a hash of the configuration, the corpus, the folds, the code that trains and evaluates and the
versions of the packages that it computes with. So a variant that another study has trained already is not trained
again, whatever it is called there; two processes on one folder share the work, since whoever trains a population holds
its lock; and a change to the code that could change a result begins anew, beside the old one. Changes to comments,
docstrings and layout do not count as changes.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from ser_jax import config as configuration
from ser_jax.baselines import is_baseline
from ser_jax.corpora.corpus import Corpus
from ser_jax.corpora.protocols import Protocol
from ser_jax.errors import UserError
from ser_jax.studies.source_code import code_version, package_versions

# What a population's folder holds beside its predictions, checkpoints and log.
RESULT, FAILURE, PICTURE, CONDITIONS = "result.json", "failure.json", "attention.png", "conditions.parquet"
PREDICTIONS = "predictions.parquet"
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

    `features` describes the pre-extracted ones that the variant takes, `initial` the parameters that it begins with,
    `teacher` the runs from which it learns.
    """
    folds = [protocol.folds[number] for number in config["folds"]] or protocol.folds
    parts = [
        json.dumps(_deciding(config), sort_keys=True),
        corpus.fingerprint,
        json.dumps([features, initial, teacher], sort_keys=True),
        code_version(config),
        json.dumps(package_versions(config), sort_keys=True),
    ]
    digest = hashlib.sha256("\n".join(parts).encode())
    for fold in folds:
        digest.update(fold.name.encode())
        for rows in (fold.train, fold.validation, fold.test):
            digest.update(b"|" + rows.tobytes())
    return digest.hexdigest()[:_KEY]


def population_folder(store: Path, name: str, key: str) -> Path:
    """Returns the folder of the population `key`: the one there is, or one to be named after the variant `name`."""
    found = sorted(store.glob(f"*-{key}"))
    slug = re.sub(r"[^a-z0-9.]+", "_", name.lower()).strip("_.")[:_NAME] or "variant"
    return found[0] if found else store / f"{slug}-{key}"


def has_checkpoint(folder: Path) -> bool:
    """Whether a population's training has left a checkpoint, of its end or of where it was interrupted."""
    return any(folder.glob("checkpoints/*"))


def content_of(file: Path) -> str:
    """Returns the SHA-256 (hex) of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def check_predictions(folder: Path) -> None:
    """Raises `UserError` where a finished population's predictions are not those any more that its training wrote."""
    result, file = folder / RESULT, folder / PREDICTIONS
    if not result.exists():
        return
    expected = json.loads(result.read_text()).get("predictions")  # of an older population it is not known
    found = content_of(file) if file.exists() else "nothing"
    if expected not in (None, found):
        raise UserError(
            f"{file}: its SHA-256 is {found[:12]}, but the training wrote {expected[:12]}; delete {folder} to train "
            "the variant again"
        )


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
    from ser_jax.models import family_of, options_of

    family = family_of(config["model"]["name"])
    return configuration.deciding(config) | {"model": options_of(family) | config["model"]}
