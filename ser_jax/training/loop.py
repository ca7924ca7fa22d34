"""The training loop of a population: resume, train, validate, log, checkpoint, stop when asked to."""

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import jax
import numpy as np

from ser_jax import config as configuration
from ser_jax.errors import UserError
from ser_jax.inference.tables import validation_ua
from ser_jax.training import checkpoints, devices, processes
from ser_jax.training.population import (
    Population,
    describe,
    initial_state,
    state_like,
    to_devices,
    train_steps,
    training_arguments,
    training_feed,
)
from ser_jax.training.state import State, for_evaluation

_CALL_SECONDS = 4.0  # how long a call should take: the progress bar and an interruption wait for it


def train(
    population: Population, folder: Path, *, report: Callable[[dict], None] = lambda _: None
) -> tuple[State, dict[str, float]]:
    """Trains to the end, from the newest checkpoint in `folder` if there is one.

    `report` gets the progress after every call of the program, as it stands in `log.jsonl`. SIGINT and SIGTERM end the
    training after the call in flight, with a checkpoint; then `KeyboardInterrupt` is raised.

    Returns the final state, [groups, runs per group, ...], and the seconds spent by phase.
    Raises `UserError` where the folder's checkpoints are of another training.
    """
    store = checkpoints.Checkpoints(folder / "checkpoints")
    try:
        with _postponed_signals() as interrupted, contextlib.ExitStack() as stack:
            state, seconds = _train(population, store, _Log(folder), report, interrupted, stack)
            (stopped,) = processes.largest(interrupted())
    finally:
        store.close()
    if stopped:
        raise KeyboardInterrupt
    return state, seconds


def restore(population: Population, folder: Path, *, whole: bool = False) -> State:
    """Returns the newest checkpoint's state of a population, [groups, runs per group, ...].

    It is what evaluation uses, or with `whole` what a training needs as well.
    """
    like = state_like(population)
    store = checkpoints.Checkpoints(folder / "checkpoints")
    try:
        return _restore(population, store, like if whole else for_evaluation(like))
    finally:
        store.close()


def _train(
    population: Population,
    store: checkpoints.Checkpoints,
    log: "_Log",
    report: Callable[[dict], None],
    interrupted: Callable[[], bool],
    stack: contextlib.ExitStack,
) -> tuple[State, dict[str, float]]:
    seconds = {"initialise": 0.0, "compile": 0.0, "train": 0.0, "validate": 0.0}
    with _timed(seconds, "initialise"):
        # 1. Every run's initial state, 2. or the newest checkpoint's; 3. the log forgets what came after it.
        metadata = describe(population)
        shared = ("config", "corpus", "protocol", "runs", "initial", "teacher", "versions")
        processes.require_same({what: metadata[what] for what in shared})
        if store.latest_step() is None:
            state = initial_state(population)
        else:
            _check_same(store, metadata)
            state = _restore(population, store, state_like(population))
        step = int(np.max(np.asarray(state.step)))
        log.forget_after(step)
    if step == population.num_steps:
        return state, seconds
    feed = stack.enter_context(contextlib.closing(training_feed(population, step)))
    piece = to_devices(population, feed.take(1))
    with _timed(seconds, "compile"):
        population.programs.train.compile(*training_arguments(population, state, piece))
    validate_every = _validate_every(population)
    count, saved_at = 1, time.monotonic()
    while step < population.num_steps:
        begun = time.monotonic()
        state, sums = train_steps(population, state, piece)
        made, step = piece.count, step + piece.count
        # 4. While the devices are at it, the next steps: as many as take a few seconds, no further than a validation.
        if step < population.num_steps:
            following = min(count, validate_every - step % validate_every, population.num_steps - step)
            piece = to_devices(population, feed.take(following))
        sums = devices.gather(sums, len(population.runs))
        late = time.monotonic() - saved_at > population.config["training"]["checkpoint_seconds"]
        elapsed, late, stop = processes.largest(time.monotonic() - begun, late, interrupted())
        seconds["train"] += elapsed
        entry = _entry(population, step, made, sums, elapsed)
        # 5. The validation speakers.
        if step % validate_every == 0 and processes.leads():
            with _timed(seconds, "validate"):
                entry["validation_ua"] = validation_ua(population, state)
        log.write(entry)
        report(entry)
        # 6. A checkpoint at the end, every so often, and before a stop.
        if (late or stop or step == population.num_steps) and processes.leads():
            store.save(devices.gather(state, len(population.runs)), metadata)
            saved_at = time.monotonic()
        if stop:
            break
        count = max(1, int(made * _CALL_SECONDS / elapsed))
    return state, seconds


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
    if "frames_loss" in sums:
        entry["frames_loss"] = float(np.mean(sums["frames_loss"] / np.maximum(sums["frames_weight"], 1)))
    return entry


def _check_same(store: checkpoints.Checkpoints, metadata: dict) -> None:
    found = store.metadata()
    for what in ("config", "corpus", "protocol", "initial", "teacher"):
        old, new = (
            configuration.deciding(data[what]) if what == "config" else data[what] or {} for data in (found, metadata)
        )
        different = list(configuration.differences(old, new, what))
        if different:
            raise UserError(
                f"{store.folder.parent}: this workdir holds another training ({'; '.join(different[:3])}); "
                "use another --workdir, or the configuration that it was started with"
            )


def _restore(population: Population, store: checkpoints.Checkpoints, like: State) -> State:
    restored = store.restore(devices.gather(like, len(population.runs)))
    return jax.tree.map(lambda leaf: devices.spread(leaf, population.layout.groups), restored)


class _Log:
    """Progress as JSON lines and, where TensorBoard is installed, as its events; of the first process alone."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "log.jsonl"
        self._writer = None
        if not processes.leads():
            return
        try:
            from tensorboard.summary import Writer
        except ImportError:
            pass
        else:
            self._writer = Writer(str(folder / "tensorboard"))

    def forget_after(self, step: int) -> None:
        """Drops the lines of steps that a restart makes again, and a line cut short."""
        if not processes.leads():
            return
        lines = self._path.read_text().splitlines(keepends=True) if self._path.exists() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        self._path.write_text("".join(kept))

    def write(self, entry: dict) -> None:
        """Appends one line."""
        if not processes.leads():
            return
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        if self._writer:
            for name in entry.keys() - {"step", "epoch"}:
                self._writer.add_scalar(name, entry[name], entry["step"])
            self._writer.flush()


@contextlib.contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    seconds[phase] += time.monotonic() - begun


@contextlib.contextmanager
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
