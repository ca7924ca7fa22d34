"""The files of a population while it trains: its log and its checkpoints, from which it resumes."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from ser_jax import config as configuration
from ser_jax.errors import UserError, one_line
from ser_jax.files import atomic_file
from ser_jax.training import checkpoints, devices, optimizers, processes, selection
from ser_jax.training.log import Log
from ser_jax.training.population import Population, describe, diverged, initial_state, state_like
from ser_jax.training.state import State

_SAME = ("config", "corpus", "protocol", "runs", "initial", "teacher", "versions")  # in all processes


class Record:
    """Where the training of one population is written, by itself or beside others.

    Attributes:
      population: whose it is.
      runs: which of the runs that train side by side are its own.
      going: whether it is still trained.
      step: of the state that `begin` returned.
      error: why it ended before its time: every run diverged.
    """

    def __init__(self, population: Population, folder: Path, name: str = "") -> None:
        """Makes the folder; `name` begins what is said of the population."""
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)  # refused now, not after the training
        self.population, self._name = population, name
        self.runs, self.going, self.step = slice(0, len(population.runs)), False, 0
        self.error: UserError | None = None
        self._diverged_at = np.full(len(population.runs), -1)
        self.log = Log(folder)
        if processes.leads():
            table = optimizers.overview(population.learner.parameters, population.learner.optimizer)
            with atomic_file(folder / "parameters.txt") as temporary:
                temporary.write_text(table)
        self._store = checkpoints.Checkpoints(folder / "checkpoints")

    def begin(self) -> State:
        """Returns every run's initial state, or that of the newest checkpoint; the log forgets what came after it.

        Raises `UserError` where the checkpoints are of another training.
        """
        metadata = self._metadata
        processes.require_same({what: metadata[what] for what in _SAME} | {"feed": self.population.feed})
        if self._store.latest_step() is None:
            state = initial_state(self.population)
        else:
            _check_same(self._store, metadata)
            state = read_state(self.population, self._store.resume, state_like(self.population))
        self.step = int(np.max(np.asarray(state.step)))
        self.going = self.step < self.population.num_steps and not selection.ended(self.population, state).all()
        self._diverged_at = devices.gather(state.diverged_at, len(self.population.runs))
        if processes.leads():
            self.log.forget_after(self.step)
        return state

    def look(self, diverged_at: np.ndarray) -> None:
        """Names the runs that have diverged since; where none is left, the training ends with an error.

        `diverged_at` is of all runs that train side by side.
        """
        own, known = diverged_at[self.runs], self._diverged_at
        self._diverged_at = own
        try:
            _tell_diverged(self.population, self._name, own, known)
        except UserError as error:
            self.going, self.error = False, error

    def save(self, state: State, *, ended: bool) -> None:
        """Writes a checkpoint in the background, the last one with what a training ends with.

        `state` is [runs, ...], of all runs that train side by side.
        """
        own = jax.tree.map(lambda leaf: leaf[self.runs], state)
        self._store.save(selection.final(self.population, own) if ended else own, self._metadata)

    def wait(self) -> None:
        """Waits until the last checkpoint is written."""
        self._store.wait()

    def close(self) -> None:
        """Lets go of the folder, after the last checkpoint is written."""
        self._store.close()

    @functools.cached_property
    def _metadata(self) -> dict:
        return describe(self.population)


def rows_of(
    population: Population,
    step: int,
    seconds: int | float,
    sums: dict[str, np.ndarray],
    diverged_at: np.ndarray,
    validation: np.ndarray,
) -> list[dict]:
    """The log's row of each run; `sums` are over the steps since the last one, `validation` is each run's UA or NaN."""
    figures = {}
    if population.learner.num_classes:
        figures |= {"loss": sums["loss"] / sums["weight"], "accuracy": sums["correct"] / sums["count"].astype(float)}
    figures |= {
        "gradient_norm": sums["gradient_norm"] / sums["steps"],
        "learning_rate": sums["learning_rate"] / sums["steps"],
    }
    if "text_loss" in sums:
        figures["text_loss"] = sums["text_loss"] / np.maximum(sums["text_weight"], 1)
    for name in ("concordance", "dimensions_concordance"):
        if name in sums:
            figures[name] = sums[name] / sums["steps"]
    if "frames_loss" in sums:
        figures["frames_loss"] = sums["frames_loss"] / np.maximum(sums["frames_weight"], 1)
    rows = []
    for i, (fold, (_, seed)) in enumerate(zip(population.folds, population.runs, strict=True)):
        row = {"step": step, "epoch": round(step / population.steps_per_epoch, 3), "fold": fold.name, "seed": seed}
        row["seconds"] = round(seconds, 3)
        made = sums["steps"][i] > 0
        row |= {name: float(value[i]) if made and np.isfinite(value[i]) else None for name, value in figures.items()}
        row |= {"validation_ua": float(validation[i])} if np.isfinite(validation[i]) else {}
        rows.append(row | ({"diverged_at": int(diverged_at[i])} if diverged_at[i] >= 0 else {}))
    return rows


def read_state(population: Population, read: Callable[[State], State], like: State) -> State:
    """Reads a checkpoint into `like` and lays it as the population's runs lie."""
    restored = read(devices.gather(like, len(population.runs)))
    return jax.tree.map(lambda leaf: devices.spread(leaf, population.layout.groups), restored)


def _tell_diverged(population: Population, name: str, diverged_at: np.ndarray, known: np.ndarray) -> None:
    """Names the runs that have diverged since; raises `UserError` where none is left."""
    rate = population.config["optimizer"]["learning_rate"]
    if (diverged_at >= 0).all():
        raise UserError(
            f"config.optimizer.learning_rate: found {rate:g}; every run diverged, the last one at step "
            f"{diverged_at.max()}; expected a smaller one"
        )
    for one in diverged(population, np.where(known >= 0, -1, diverged_at)):
        whose = f"{one_line(name)}: " if name else ""
        print(
            f"note: {whose}fold {one_line(one['fold'])}, seed {one['seed']}: diverged at step {one['step']} "
            f"(config.optimizer.learning_rate {rate:g}); it is frozen, and the other runs go on",
            file=sys.stderr,
            flush=True,
        )


def _check_same(store: checkpoints.Checkpoints, metadata: dict) -> None:
    found = store.metadata()
    for what in ("config", "corpus", "protocol", "initial", "teacher", "encoder"):
        old, new = (
            configuration.deciding(data[what]) if what == "config" else data.get(what) or {}
            for data in (found, metadata)
        )
        different = list(configuration.differences(old, new, what))
        if different:
            raise UserError(
                f"{store.folder.parent}: this workdir holds another training ({'; '.join(different[:3])}); "
                "use another --workdir, or the configuration that it was started with"
            )
