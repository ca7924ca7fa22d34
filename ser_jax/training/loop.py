"""The training loop of a population: resume, train, validate, log, checkpoint, stop when asked to."""

import contextlib
import dataclasses
import functools
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import jax
import numpy as np

from ser_jax import config as configuration
from ser_jax import interruption
from ser_jax.errors import UserError, one_line
from ser_jax.files import atomic_file
from ser_jax.inference.tables import validation_ua
from ser_jax.training import checkpoints, devices, optimizers, processes, selection
from ser_jax.training.log import Log, fifth, means
from ser_jax.training.population import (
    Population,
    describe,
    diverged,
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
    population: Population,
    folder: Path,
    *,
    report: Callable[[dict], None] = lambda _: None,
    profile_steps: tuple[int, int] | None = None,
) -> tuple[State, dict[str, float]]:
    """Trains to the end, from the newest checkpoint in `folder` if there is one.

    Writes `parameters.txt`, a table of the model's parameters, and `log.jsonl`, see `ser_jax.training.log`. The steps
    after the first of `profile_steps` up to the second are traced by JAX's profiler, to `profile/`.

    `report` gets the progress after every call of the program: the means over runs of what `log.jsonl` gets. SIGINT and
    SIGTERM end the training after the call in flight, with a checkpoint; then `KeyboardInterrupt` is raised.

    Returns the final state, [groups, runs per group, ...], and the seconds spent by phase.
    Raises `UserError` where the folder's checkpoints are of another training, and where every run diverged.
    """
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)  # refused now, not after the training
    store = checkpoints.Checkpoints(folder / "checkpoints")
    try:
        with _postponed_signals() as interrupted, contextlib.ExitStack() as stack:
            if processes.several():  # all end together
                stack.enter_context(interruption.saved())
            steps = _Profile(folder / "profile", profile_steps)
            if processes.leads():
                table = optimizers.overview(population.learner.parameters, population.learner.optimizer)
                with atomic_file(folder / "parameters.txt") as temporary:
                    temporary.write_text(table)
            state, seconds = _train(population, store, Log(folder), report, interrupted, steps, stack)
            (stopped,) = processes.largest(interrupted())
    finally:
        store.close()
    if stopped:
        raise KeyboardInterrupt
    return state, seconds


def restore(population: Population, folder: Path, *, whole: bool = False) -> State:
    """Returns the newest checkpoint's state of a population, [groups, runs per group, ...].

    It is what evaluation uses, or with `whole` what a training needs as well. Raises `UserError` where it is damaged:
    an earlier checkpoint does not take its place.
    """
    like = state_like(population)
    return _read(population, functools.partial(checkpoints.restore, folder), like if whole else for_evaluation(like))


def _train(
    population: Population,
    store: checkpoints.Checkpoints,
    log: Log,
    report: Callable[[dict], None],
    interrupted: Callable[[], bool],
    profile: "_Profile",
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
            state = _read(population, store.resume, state_like(population))
        step = int(np.max(np.asarray(state.step)))
        if processes.leads():
            log.forget_after(step)
    validate_every, part = _validate_every(population), fifth(population.num_steps)
    if step == population.num_steps or selection.all_ended(state):
        return state, seconds
    feed = stack.enter_context(contextlib.closing(training_feed(population, step)))
    stack.callback(profile.stop)
    # What the devices have, they keep: no call of the program sends anything that was not sent on purpose.
    state, run_values = devices.place_runs((state, population.run_values), population.layout)
    population = dataclasses.replace(population, run_values=run_values)
    guard = "allow" if processes.several() else "disallow"  # several processes' arrays are placed by `pmap` itself
    piece = to_devices(population, feed.take(1))
    with _timed(seconds, "compile"):
        population.programs.train.compile(*training_arguments(population, state, piece))
    stack.enter_context(interruption.saved())  # from here on there are steps to save; before, nothing is lost
    started = time.monotonic()
    count, saved_at = 1, started
    known_diverged = devices.gather(state.diverged_at, len(population.runs))
    while True:
        begun = time.monotonic()
        profile.before(step)
        with jax.profiler.StepTraceAnnotation("train", step_num=step), jax.transfer_guard(guard):
            state, sums = train_steps(population, state, piece)
        made, step = piece.count, step + piece.count
        # 4. While the devices are at it, the next steps: as many as take a few seconds, no further than a validation or
        # a fifth of the training.
        if step < population.num_steps:
            following = min(count, validate_every - step % validate_every, part - step % part)
            following = min(following, population.num_steps - step)
            following = min(following, profile.steps_until_change(step))
            piece = to_devices(population, feed.take(following))
        sums, diverged_at = devices.gather((sums, state.diverged_at), len(population.runs))
        late = time.monotonic() - saved_at > population.config["training"]["checkpoint_seconds"]
        elapsed, late, stop = processes.largest(time.monotonic() - begun, late, interrupted())
        seconds["train"] += elapsed
        # 5. The validation speakers, if there is a run to predict with.
        validation = np.full(len(population.runs), np.nan)
        if step % validate_every == 0 and processes.leads() and (diverged_at < 0).any():
            with _timed(seconds, "validate"):
                validation = validation_ua(population, state)
        with np.errstate(divide="ignore", invalid="ignore"):  # of a run that has diverged there is nothing to divide
            rows = _rows(population, step, time.monotonic() - started, sums, diverged_at, validation)
        if processes.leads():
            log.write(rows)
        _tell_diverged(population, diverged_at, known_diverged)
        known_diverged = diverged_at
        report(means(rows)[0])
        if state.selection is not None and step % validate_every == 0:
            ua = processes.array_of_the_leader(validation.astype(np.float32))
            state = selection.after_validation(population, state, ua, step)
        ended = step == population.num_steps or selection.all_ended(state)
        if ended:
            state = selection.final(population, state)
        # 6. A checkpoint at the end, every so often, and before a stop.
        if late or stop or ended:
            if processes.leads():
                store.save(devices.gather(state, len(population.runs)), metadata)
            saved_at = time.monotonic()  # in every process, so that none of them goes on asking for one
        if stop or ended:
            break
        count = max(1, int(made * _CALL_SECONDS / elapsed))
    return state, seconds


def _validate_every(population: Population) -> int:
    every = configuration.steps(population.config, "training", "validate", population.steps_per_epoch)
    has_validation = all(len(fold.validation) for fold in population.folds) and population.learner.num_classes > 0
    return every if every > 0 and has_validation else population.num_steps + 1


def _rows(
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


def _tell_diverged(population: Population, diverged_at: np.ndarray, known: np.ndarray) -> None:
    """Names the runs that have diverged since; raises `UserError` where none is left."""
    rate = population.config["optimizer"]["learning_rate"]
    for one in diverged(population, np.where(known >= 0, -1, diverged_at)):
        print(
            f"note: fold {one_line(one['fold'])}, seed {one['seed']}: diverged at step {one['step']} "
            f"(config.optimizer.learning_rate {rate:g}); it is frozen, and the other runs go on",
            file=sys.stderr,
            flush=True,
        )
    if (diverged_at >= 0).all():
        raise UserError(
            f"config.optimizer.learning_rate: found {rate:g}; every run diverged, the last one at step "
            f"{diverged_at.max()}; expected a smaller one"
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


def _read(population: Population, read: Callable[[State], State], like: State) -> State:
    restored = read(devices.gather(like, len(population.runs)))
    return jax.tree.map(lambda leaf: devices.spread(leaf, population.layout.groups), restored)


class _Profile:
    """Traces the steps after `first` up to `last`, where they are given, with JAX's profiler."""

    def __init__(self, folder: Path, steps: tuple[int, int] | None) -> None:
        self._folder, self._steps, self._running = folder, steps, False

    def steps_until_change(self, step: int) -> float:
        """Returns how many steps may be made at once after `step` so that a call is traced whole or not at all."""
        return min((end - step for end in self._steps or () if end > step), default=float("inf"))

    def before(self, step: int) -> None:
        """Starts or stops the trace before the next call, when `step` steps are made."""
        if self._steps is None:
            return
        first, last = self._steps
        if self._running and step >= last:
            self.stop()
        elif not self._running and first <= step < last:
            self._running = True
            jax.profiler.start_trace(str(self._folder))

    def stop(self) -> None:
        """Ends the trace, if one is running, and writes it."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()


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
