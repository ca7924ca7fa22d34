"""How far a study is, read from what its workdir holds, while it runs or afterwards."""

import dataclasses
import json
import os
import re
import time
from pathlib import Path

from ser_jax import config as configuration
from ser_jax.errors import UserError
from ser_jax.studies.plan import make_plan
from ser_jax.studies.store import FAILURE, RESULT, has_checkpoint, locked, population_folder

_KEY = re.compile(r"-([0-9a-f]{12})$")
_LOG = "log.jsonl"


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far one variant is.

    Attributes:
      state: trained, running, interrupted, failed or not begun.
      step, steps: of the training, 0 where unknown.
      seconds_ago: when the log was last written to, or None.
      message: what failed.
    """

    name: str
    state: str
    step: int = 0
    steps: int = 0
    seconds_ago: float | None = None
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
    return [_progress(name, config, populations) for name, config in variants.items()]


def _progress(name: str, config: dict, store: Path) -> Progress:
    folder = _newest(name, store)
    if folder is None:
        return Progress(name, "not begun")
    entry = _last_entry(folder / _LOG)
    step = entry.get("step", 0)
    steps = configuration.steps(config, "training", "train", step / entry["epoch"]) if entry.get("epoch") else 0
    if (folder / RESULT).exists():
        return Progress(name, "trained", step, steps)
    with locked(store, _KEY.search(folder.name)[1], wait=False) as free:
        running = not free
    if running:
        return Progress(name, "running", step, steps, _age(folder / _LOG))
    if (folder / FAILURE).exists():
        return Progress(name, "failed", step, steps, message=_message(folder / FAILURE))
    return Progress(name, "interrupted" if has_checkpoint(folder) else "not begun", step, steps)


def _newest(name: str, store: Path) -> Path | None:
    """The newest of the folders of a variant's name: changed code begins a new one."""
    slug = population_folder(store, name, "").name.removesuffix("-")
    found = [path for path in store.glob(f"{slug}-*") if _KEY.search(path.name) and path.name[:-13] == slug]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _last_entry(log: Path) -> dict:
    """The last whole line of a log; empty where there is none."""
    for line in reversed(log.read_text(errors="replace").splitlines() if log.is_file() else []):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and "step" in entry:
            return entry
    return {}


def _message(path: Path) -> str:
    try:
        return str(json.loads(path.read_text()).get("message", ""))
    except (ValueError, AttributeError):
        return ""


def _age(path: Path) -> float | None:
    return time.time() - path.stat().st_mtime if path.is_file() else None
