"""How far a study is, read from what its workdir holds, while it runs or afterwards."""

import dataclasses
import os
import re
import time
from pathlib import Path

from ser_jax import config as configuration
from ser_jax import locks
from ser_jax.errors import UserError
from ser_jax.files import read_json
from ser_jax.studies.plan import make_plan
from ser_jax.studies.store import (
    FAILURE,
    RESULT,
    STUDY,
    SUMMARY,
    deciding,
    newest_checkpoint,
    population_folder,
)
from ser_jax.training import log

_KEY = re.compile(r"-([0-9a-f]{12})$")
_Known = tuple[dict, dict]


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far one variant is.

    Attributes:
      state: trained, running, interrupted, failed or not begun.
      step, steps: of the training, 0 where unknown.
      seconds_ago: when the log was last written to, or None.
      seconds_left: of the training of a running one, at its pace until now, or None.
      message: what failed.
    """

    name: str
    state: str
    step: int = 0
    steps: int = 0
    seconds_ago: float | None = None
    seconds_left: float | None = None
    message: str = ""


def study_status(workdir: str | os.PathLike, store: str | os.PathLike | None = None) -> list[Progress]:
    """Returns how far each variant of a workdir's study is.

    `store` is where its populations are kept, where that is not the workdir. Raises `UserError` for a folder that holds
    no study.
    """
    workdir = Path(workdir)
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(f"{workdir}: no config.json; expected a folder that `train` or `study` made")
    variants = make_plan(configuration.load(str(path))).variants
    populations = Path(store) if store else workdir / "populations"
    if (workdir / SUMMARY).is_file() and not (workdir / STUDY).is_file() and not store:
        raise UserError(f"{workdir}: holds results alone, nothing is trained in it; expected another folder")
    folders = {path: _known(path) for path in populations.glob("*-*") if _KEY.search(path.name)}
    return [_progress(name, config, populations, folders) for name, config in variants.items()]


def _progress(name: str, config: dict, store: Path, folders: dict[Path, _Known | None]) -> Progress:
    folder = _newest(name, config, store, folders)
    if folder is None:
        return Progress(name, "not begun")
    rows = log.read(folder / log.FILE)
    step, epoch = (rows[-1]["step"], rows[-1]["epoch"]) if rows else (0, 0)
    steps = configuration.steps(config, "training", "train", step / epoch) if epoch else 0
    failed = (folder / FAILURE).exists()  # what comes after the training may fail as well
    if (folder / RESULT).exists() and not failed:
        return Progress(name, "trained", step, steps)
    if locks.held(store / _KEY.search(folder.name)[1]):
        ago = _age(folder / log.FILE)
        return Progress(name, "running", step, steps, ago, seconds_left=_seconds_left(rows, steps, ago))
    if failed:
        return Progress(name, "failed", step, steps, message=_message(folder / FAILURE))
    kept = newest_checkpoint(folder)  # from where it goes on, whatever was logged since
    return Progress(name, "interrupted", kept, steps) if kept else Progress(name, "not begun")


def _newest(name: str, config: dict, store: Path, folders: dict[Path, _Known | None]) -> Path | None:
    """The newest of a variant's folders: changed code begins a new one, and other names may be spelt the same there.

    A training that another variant or study began under its own name is the variant's too. It has to begin with the
    same workdir's parameters and the same teacher's, then: what those hold is not looked at here.
    """
    slug, wanted = population_folder(store, name, "").name.removesuffix("-"), deciding(config)
    begun_with = ("initial", "teacher")

    def is_own(path: Path) -> bool:
        is_named = path.name[:-13] == slug
        if (known := folders[path]) is None:
            return is_named
        theirs, decides = known
        same = is_named or all(theirs["training"][what] == config["training"][what] for what in begun_with)
        return same and decides == wanted

    own = [path for path in folders if is_own(path)]
    return max(own, key=lambda path: path.stat().st_mtime, default=None)


def _known(folder: Path) -> _Known | None:
    """The configuration of a population, from its result or a checkpoint on, and what of it decides; None before."""
    for path in (folder / RESULT, *sorted(folder.glob("checkpoints/*/metadata/metadata"))):
        try:
            known = read_json(path)
            known = configuration.completed(known.get("trained", known)["config"])
            return known, deciding(known)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UserError):
            continue
    return None


def _seconds_left(rows: list[dict], steps: int, ago: float | None) -> float | None:
    """How long a running training still takes at its pace since it was begun or gone on with; None if it is not known.

    The first call of the program does not count: it is slower than the others.
    """
    if not rows or not steps or "seconds" not in rows[-1]:
        return None
    last = first = rows[-1]
    for row in reversed(rows):
        if row.get("seconds", float("inf")) > first["seconds"]:
            break  # of a process before
        first = row
    made = last["step"] - first["step"]
    if not made:
        return None
    pace = (last["seconds"] - first["seconds"]) / made
    return max(0.0, (steps - last["step"]) * pace - (ago or 0.0))


def _message(path: Path) -> str:
    try:
        return str(read_json(path).get("message", ""))
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""


def _age(path: Path) -> float | None:
    return max(0.0, time.time() - path.stat().st_mtime) if path.is_file() else None  # clocks of machines differ
