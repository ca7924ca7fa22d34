"""The log of a training: a row for each run and logging step, as JSON lines and as TensorBoard's events.

A row holds `step`, `epoch`, `fold`, `seed` and `seconds`, since the process began to train, then the means of the steps
since the row before: `loss`, `accuracy`, `gradient_norm`, `learning_rate` and what else is learnt, and where it was
computed `validation_ua`. A figure that a diverged run does not have is null, and `diverged_at` says at which step it
diverged.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
import socket
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ser_jax.files import atomic_file, named

FILE, EVENTS = "log.jsonl", "tensorboard"
_LONGEST_NAME = 200  # bytes; file systems take 255
_OF_ROW = ("step", "epoch", "fold", "seed", "seconds", "diverged_at")  # what is no figure


class Log:
    """Writes the log of a training to its folder; TensorBoard's events where that package is installed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._events = folder / FILE, Events(folder / EVENTS)

    def forget_after(self, step: int) -> None:
        """Drops the rows of steps that a restart makes again, and lines that are damaged."""
        rows = [row for row in read(self._path) if row["step"] <= step]
        with atomic_file(self._path) as temporary:
            temporary.write_text("".join(map(_line, rows)))
        self._events.replace(rows)

    def write(self, rows: Sequence[dict]) -> None:
        """Appends rows."""
        with named(self._path), self._path.open("a") as file:
            file.write("".join(map(_line, rows)))
        self._events.append(rows)


class Events:
    """TensorBoard's events of each run, in a folder of its own; nothing where TensorBoard is not installed.

    They are written without TensorFlow, which TensorBoard's own writer of summaries would import. No file stays open:
    a population may have more runs than a process may have open files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._files = folder, {}  # of each run, by its name

    def replace(self, rows: Iterable[dict]) -> None:
        """Removes all events and writes those of `rows`."""
        self._files = {}
        shutil.rmtree(self._folder, ignore_errors=True)
        self.append(rows)

    def append(self, rows: Iterable[dict]) -> None:
        """Writes the figures of rows."""
        try:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            return
        by_run: dict[str, list[dict]] = {}
        for row in rows:
            by_run.setdefault(f"{row['fold']}, seed {row['seed']}", []).append(row)
        for run, own in by_run.items():
            with named(self._folder), self._file(run).open("ab") as file:
                for row in own:
                    values = [Summary.Value(tag=name, simple_value=value) for name, value in figures_of(row).items()]
                    event = Event(wall_time=time.time(), step=row["step"], summary=Summary(value=values))
                    RecordWriter(file).write(event.SerializeToString())

    def _file(self, run: str) -> Path:
        if run not in self._files:
            name = run.replace("%", "%25").replace(os.sep, "%2F")  # no two runs have one folder
            if len(os.fsencode(name)) > _LONGEST_NAME:
                name = hashlib.sha256(os.fsencode(run)).hexdigest()
            folder = self._folder / name
            folder.mkdir(parents=True, exist_ok=True)
            self._files[run] = folder / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        return self._files[run]


def read(path: Path) -> list[dict]:
    """Returns the rows of a log that are whole, in their order; none where there is no file."""
    rows = []
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError, OverflowError, RecursionError):
            row = json.loads(line)
            if _is_row(row):
                rows.append(row)
    return rows


def _is_row(found: Any) -> bool:
    """Whether it is a row as `_line` writes it: a step was made, and no number is infinite or NaN."""
    if not isinstance(found, dict) or not {"step", "epoch"} <= found.keys():
        return False
    numbers = [value for value in found.values() if isinstance(value, int | float)]
    if not all(math.isfinite(value) for value in numbers) or type(found["step"]) is not int or found["step"] < 1:
        return False
    return all(isinstance(value := found.get(name, 0), int | float) and value >= 0 for name in ("epoch", "seconds"))


def means(rows: Iterable[dict]) -> list[dict]:
    """Returns one entry for each step, in order: means over the runs that have the figure."""
    by_step: dict[int, list[dict]] = {}
    for row in rows:
        by_step.setdefault(row["step"], []).append(row)
    entries = []
    for step, own in sorted(by_step.items()):
        figures = [figures_of(row) for row in own]
        names = dict.fromkeys(name for of_run in figures for name in of_run)
        entry = {name: float(np.mean([of_run[name] for of_run in figures if name in of_run])) for name in names}
        entries.append({"step": step, "epoch": own[0]["epoch"], **entry})
    return entries


def fifth(num_steps: int) -> int:
    """Returns the steps of a fifth of a training, at whose multiples rows end, wherever else it was interrupted."""
    return -(-num_steps // 5)


def learning(entries: Sequence[dict], num_steps: int, last: int) -> tuple[float | None, float]:
    """Returns the training accuracy at the end of a training, and by how much it had still risen.

    `entries` are those of `means`; the training was to have `num_steps`, and ended after step `last`. The accuracy is
    the mean over the steps of the last fifth, or None where the end was not logged; what it had risen by is against the
    fifth before, and 0 of fewer than 20 steps. Fifths begin at multiples of `fifth`, so that they hold the same steps
    however an interruption cut the entries.
    """
    known = [entry for entry in entries if "accuracy" in entry]
    if not known or known[-1]["step"] != last:
        return None, 0.0
    begins = [0, *(entry["step"] for entry in known)]
    steps = {entry["step"]: entry["step"] - begin for entry, begin in zip(known, begins, strict=False)}

    unit = fifth(num_steps)
    high = min(round(0.8 * last / unit), -(-last // unit) - 1)  # so that something is left
    low = min(round(0.6 * last / unit), high - 1)

    def mean(low: int, high: int) -> float:
        """Over the steps after `low` up to `high`."""
        own = [entry for entry in known if low < entry["step"] <= high]
        weights = [steps[entry["step"]] for entry in own]
        # Rounded, since sums in another order differ in their last digits.
        return round(float(np.average([entry["accuracy"] for entry in own], weights=weights)), 9) if own else np.nan

    end = mean(high * unit, last)
    gained = end - mean(low * unit, high * unit) if num_steps >= 20 else 0.0
    return end, gained if np.isfinite(gained) else 0.0


def figures_of(row: dict) -> dict[str, float]:
    """Returns what of a row is a figure, by its name."""
    return {name: value for name, value in row.items() if name not in _OF_ROW and isinstance(value, int | float)}


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, allow_nan=False) + "\n"
