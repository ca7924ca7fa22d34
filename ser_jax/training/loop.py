"""The training loop of a population: resume, train, validate, log, checkpoint, stop when asked to."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from ser_jax import config as configuration
from ser_jax.errors import UserError
from ser_jax.feeds.resident import training_rows
from ser_jax.training import checkpoints, parallel
from ser_jax.training.population import Population, describe, initial_state, state_like, validation_ua
from ser_jax.training.state import State

_CALL_STEPS = 256  # steps that one call of the training program can make at most
_CALL_SECONDS = 4.0  # how long a call should take: the progress bar and an interruption wait for it


def train(
    population: Population, folder: Path, *, report: Callable[[dict], None] = lambda _: None
) -> tuple[State, dict[str, float]]:
    """Trains to the end, from the newest checkpoint in `folder` if there is one.

    `report` gets the progress after every call of the program, as it stands in `log.jsonl`. SIGINT and SIGTERM end the
    training after the call in flight, with a checkpoint; then `KeyboardInterrupt` is raised.

    Returns the final state, [devices, runs per device, ...], and the seconds spent by phase.
    Raises `UserError` where the folder's checkpoints are of another training.
    """
    store = checkpoints.Checkpoints(folder / "checkpoints")
    try:
        with _postponed_signals() as interrupted:
            state, seconds = _train(population, store, _Log(folder), report, interrupted)
            stopped = interrupted()
    finally:
        store.close()
    if stopped:
        raise KeyboardInterrupt
    return state, seconds


def restore(population: Population, folder: Path) -> State:
    """Returns the newest checkpoint's state of a population, [devices, runs per device, ...]."""
    return _restore(population, checkpoints.Checkpoints(folder / "checkpoints"), state_like(population))


def _train(
    population: Population,
    store: checkpoints.Checkpoints,
    log: "_Log",
    report: Callable[[dict], None],
    interrupted: Callable[[], bool],
) -> tuple[State, dict[str, float]]:
    seconds = {"initialise": 0.0, "compile": 0.0, "train": 0.0, "validate": 0.0}
    with _timed(seconds, "initialise"):
        # 1. Every run's initial state, 2. or the newest checkpoint's; 3. the log forgets what came after it.
        metadata = describe(population)
        if store.latest_step() is None:
            state = initial_state(population)
        else:
            _check_same(store, metadata)
            state = _restore(population, store, state_like(population))
        step = int(np.max(np.asarray(state.step)))
        log.forget_after(step)
    if step == population.num_steps:
        return state, seconds
    with _timed(seconds, "compile"):
        arguments = (state, population.run, _rows(population, step, 1), jnp.int32(1), population.resident)
        population.train_program.compile(*arguments)
    validate_every = _validate_every(population)
    count, saved_at = 1, time.monotonic()
    while step < population.num_steps:
        # 4. As many steps as take a few seconds, but no further than the next validation.
        count = min(count, _CALL_STEPS, validate_every - step % validate_every, population.num_steps - step)
        begun = time.monotonic()
        state, sums = population.train_program(
            state, population.run, _rows(population, step, count), jnp.int32(count), population.resident
        )
        sums = parallel.gather(sums, len(population.runs))
        elapsed = time.monotonic() - begun
        step, seconds["train"] = step + count, seconds["train"] + elapsed
        entry = _entry(population, step, count, sums, elapsed)
        # 5. The validation speakers.
        if step % validate_every == 0:
            with _timed(seconds, "validate"):
                entry["validation_ua"] = validation_ua(population, state)
        log.write(entry)
        report(entry)
        # 6. A checkpoint at the end, every so often, and before a stop.
        late = time.monotonic() - saved_at > population.config["training"]["checkpoint_seconds"]
        if late or interrupted() or step == population.num_steps:
            store.save(parallel.gather(state, len(population.runs)), metadata)
            saved_at = time.monotonic()
        if interrupted():
            break
        count = max(1, int(count * _CALL_SECONDS / elapsed))
    return state, seconds


def _rows(population: Population, step: int, count: int) -> Int[np.ndarray, "devices runs steps batch"]:
    """The corpus rows of the next `count` steps of every run, in a table of `_CALL_STEPS` steps."""
    batch_size = population.config["training"]["batch_size"]
    tables = []
    for (number, seed), fold in zip(population.runs, population.folds, strict=True):
        rows = training_rows(seed, number, fold.train, batch_size, step, count)
        tables.append(np.pad(rows, ((0, _CALL_STEPS - count), (0, 0))))
    return parallel.spread(np.stack(tables), len(population.devices))


def _validate_every(population: Population) -> int:
    every = configuration.steps(population.config, "training", "validate", population.steps_per_epoch)
    has_validation = all(len(fold.validation) for fold in population.folds)
    return every if every > 0 and has_validation else population.num_steps + 1


def _entry(population: Population, step: int, steps: int, sums: dict[str, np.ndarray], elapsed: float) -> dict:
    entry = {
        "step": step,
        "epoch": round(step / population.steps_per_epoch, 3),
        "loss": float(np.mean(sums["loss"] / sums["weight"])),
        "accuracy": float(np.mean(sums["correct"] / sums["count"])),
        "utterances_per_second": float(np.sum(sums["count"]) / elapsed),
    }
    if "text_loss" in sums:
        entry["text_loss"] = float(np.mean(sums["text_loss"] / np.maximum(sums["text_weight"], 1)))
    if "concordance" in sums:
        entry["concordance"] = float(np.mean(sums["concordance"]) / steps)
    return entry


def _check_same(store: checkpoints.Checkpoints, metadata: dict) -> None:
    found = store.metadata()
    for what in ("config", "corpus", "protocol"):
        old, new = (
            configuration.deciding(data[what]) if what == "config" else data[what] for data in (found, metadata)
        )
        different = list(configuration.differences(old, new, what))
        if different:
            raise UserError(
                f"{store.folder.parent}: this workdir holds another training ({'; '.join(different[:3])}); "
                "use another --workdir, or the configuration that it was started with"
            )


def _restore(population: Population, store: checkpoints.Checkpoints, like: State) -> State:
    restored = store.restore(parallel.gather(like, len(population.runs)))
    return jax.tree.map(lambda leaf: parallel.spread(leaf, len(population.devices)), restored)


class _Log:
    """Progress as JSON lines and, where TensorBoard is installed, as its events."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "log.jsonl"
        try:
            from tensorboard.summary import Writer
        except ImportError:
            self._writer = None
        else:
            self._writer = Writer(str(folder / "tensorboard"))

    def forget_after(self, step: int) -> None:
        """Drops the lines of steps that a restart makes again, and a line cut short."""
        lines = self._path.read_text().splitlines(keepends=True) if self._path.exists() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        self._path.write_text("".join(kept))

    def write(self, entry: dict) -> None:
        """Appends one line."""
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        if self._writer:
            for name in entry.keys() - {"step", "epoch"}:
                self._writer.add_scalar(name, entry[name], entry["step"])
            self._writer.flush()


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    seconds[phase] += time.monotonic() - begun


@contextmanager
def _postponed_signals() -> Iterator[Callable[[], bool]]:
    """Turns SIGINT and SIGTERM into a question to be asked between two calls of the program; a second one is obeyed."""
    received: list[int] = []
    previous = {}

    def remember(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            previous[number] = signal.signal(number, remember)
        except ValueError:  # only the main thread may: elsewhere its owner decides
            break
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
