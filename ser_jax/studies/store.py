"""Where populations are kept: each in a folder that is named after what decides its results, and made once.

The name ends in a key, a hash of the configuration, the corpus, the folds, the code that trains and evaluates and the
versions of the packages that it computes with. So a variant that another study has trained already is not trained
again, whatever it is called there; two processes on one folder share the work, since whoever trains a population holds
its lock; and a change to the code that could change a result begins anew, beside the old one. Changes to comments,
docstrings and layout do not count as changes.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ser_jax import checksums, files, predictions
from ser_jax import config as configuration
from ser_jax.baselines import is_baseline
from ser_jax.corpora.corpus import Corpus
from ser_jax.corpora.protocols import Protocol
from ser_jax.errors import UserError, reading, reason_of
from ser_jax.files import atomic_file, to_json
from ser_jax.locks import alone
from ser_jax.report import summary
from ser_jax.report.summary import Summary
from ser_jax.studies.source_code import code_version, package_versions

# What a population's folder holds beside its predictions, checkpoints and log.
RESULT, FAILURE, PICTURE, CONDITIONS = "result.json", "failure.json", "attention.png", "conditions.parquet"
PREDICTIONS, VALIDATION, TRACKS = "predictions.parquet", "validation.parquet", "tracks.parquet"
CONFIG, SUMMARY, LATENCY = "config.json", "summary.json", "latency.json"  # of a workdir
OF_RESULTS = (CONFIG, PREDICTIONS, SUMMARY)  # what has checksums in a folder of results
STUDY = "study.json"  # of a workdir: its variants in their order, and the folder of each one's population
_RESULTS = (RESULT, PREDICTIONS, VALIDATION, TRACKS)  # what a finished training wrote last
_MADE_AGAIN = ("tensorboard", "profile", FAILURE, PICTURE, CONDITIONS)  # what is of no result, or has its own checksum
_KEY = 12  # hexadecimal digits of a key
_NAME = 48  # letters of a folder's name before the key


def population_key(
    config: dict,
    corpus: Corpus,
    protocol: Protocol,
    features: dict | None,
    initial: dict | None,
    teacher: dict | None,
    targets: Sequence[str] = (),
) -> str:
    """Returns the key of a variant's population.

    `features` describes the pre-extracted ones that the variant takes, `initial` the parameters that it begins with,
    `teacher` the runs from which it learns, `targets` the columns of the table that it learns beside the emotion, which
    the corpus's fingerprint does not know.
    """
    folds = [protocol.folds[number] for number in config["folds"]] or protocol.folds
    parts = [
        json.dumps(deciding(config), sort_keys=True),
        corpus.fingerprint,
        json.dumps([features, initial, teacher, list(targets)], sort_keys=True),
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


def newest_checkpoint(folder: Path) -> int:
    """Returns the step of the newest checkpoint that a population's training has left; 0 where there is none.

    What a process left that was killed while it wrote one is none.
    """
    names = [path.name for path in folder.glob("checkpoints/*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def finish(folder: Path, result: dict) -> None:
    """Writes a population's checksums and, last of all, its result: from then on it counts as trained."""
    text = to_json(result, in_order=True)
    names = [name for name in checksums.files_below(folder) if name.split("/")[0] not in (RESULT, *_MADE_AGAIN)]
    checksums.write(folder, names, known={RESULT: hashlib.sha256(text.encode()).hexdigest()})
    with atomic_file(folder / RESULT) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_results(folder: Path) -> None:
    """Raises `UserError` where a finished population's results are not those any more that its training wrote."""
    if not (folder / RESULT).exists():
        return
    recorded = checksums.read(folder) or {}
    for name in (name for name in _RESULTS if name in recorded):
        found = checksums.sha256(folder / name) if (folder / name).exists() else "nothing"
        if found != recorded[name]:
            raise UserError(
                f"{folder / name}: its SHA-256 is {found[:12]}, but the training wrote {recorded[name][:12]}; delete "
                f"{RESULT} in that folder, and the variant is tested again, or trained where its checkpoints are gone"
            )


def write_results(folder: Path, table: pd.DataFrame, made: Summary, others: Mapping[str, Any] | None = None) -> None:
    """Writes predictions.parquet, summary.json and `others`, JSON by names, to a folder, and the checksums of all."""
    others = others or {}
    with checksums.renewed(folder, (*OF_RESULTS, *others)):
        for name, value in others.items():
            write_json(folder / name, value)
        predictions.write(table, folder / PREDICTIONS)
        summary.write(made, folder / SUMMARY)


def read_json(path: Path) -> Any:
    """Reads JSON of a workdir or a population; raises UserError where it is missing or damaged."""
    checksums.read(path.parent)  # where that is damaged, the file itself may be whole
    try:
        checksums.check(path)
    except UserError as error:
        raise UserError(f"{error}; remove it, and the study's own command makes it again") from error
    try:
        return files.read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: damaged ({reason_of(error)}); remove it, and the study's own command makes it again"
        ) from error


def read_places(workdir: Path) -> dict[str, Path]:
    """Returns the folder of each variant's population, by study.json; raises UserError where that is damaged."""
    path = workdir / STUDY
    with reading(f"{path}: damaged; the study's own command makes it again"):
        places = [(one["name"], one["folder"]) for one in read_json(path)]
        if not places or not all(isinstance(text, str) for place in places for text in place):
            raise ValueError("expected the name and the folder of one variant or more")
        return {name: workdir / folder for name, folder in places}


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all; keys stay in their order."""
    with atomic_file(path) as temporary:
        temporary.write_text(to_json(value, in_order=True), encoding="utf-8")


def locked(store: Path, key: str, *, wait: bool, what: str = "") -> contextlib.AbstractContextManager[bool]:
    """Returns the lock of a population, as `locks.alone` does: by the name `what`, if it is waited for."""
    return alone(store / key, what or key, wait=wait)


def deciding(config: dict) -> dict:
    """Returns what decides a variant's results, as JSON has it; of a network's options, those left out too."""
    result = configuration.deciding(config)
    if not is_baseline(config["model"]):
        from ser_jax.models import family_of, options_of

        result["model"] = options_of(family_of(config["model"]["name"])) | config["model"]
    return json.loads(json.dumps(result))
