"""The training loop, of one population or of several side by side: resume, train, validate, log, checkpoint, stop."""

import collections
import contextlib
import dataclasses
import functools
import itertools
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType

import jax
import numpy as np

from ser_jax import config as configuration
from ser_jax import interruption
from ser_jax.errors import UserError, one_line, refusal
from ser_jax.inference.tables import validation_ua
from ser_jax.training import checkpoints, devices, processes, selection
from ser_jax.training.log import fifth, means
from ser_jax.training.population import (
    Population,
    state_like,
    to_devices,
    train_steps,
    training_arguments,
    training_feed,
)
from ser_jax.training.programs import steps_of_a_pass
from ser_jax.training.record import Record, read_state, rows_of
from ser_jax.training.state import State, for_evaluation
from ser_jax.training.together import side_by_side

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
    Raises `UserError` where the folder's checkpoints are of another training, where every run diverged, and where no
    step is left to trace.
    """
    if profile_steps and profile_steps[0] >= population.num_steps:
        raise UserError(
            f"--profile_steps: found {profile_steps[0]}:{profile_steps[1]}, but the training has "
            f"{population.num_steps} steps, expected FROM below that"
        )
    profile = _Profile(folder / "profile", profile_steps)
    with _postponed_signals() as interrupted, contextlib.closing(Record(population, folder)) as record:
        state, seconds, _ = _train([record], report, profile, interrupted)
    if record.error:
        raise record.error
    return state, seconds


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a training beside others came to.

    Attributes:
      seconds: by phase, its share by runs; of what is done once for all, the first has the whole.
      error: where every run of it diverged.
    """

    seconds: dict[str, float]
    error: UserError | None


def train_side_by_side(
    members: Mapping[str, tuple[Population, Path]], *, report: Callable[[dict], None] = lambda _: None
) -> dict[str, Trained]:
    """Trains populations that are `together.alike` along one run axis, by name, each with its folder.

    Every folder gets what `train` would have written there, so that `train` goes on from it, and the other way round.
    Those at the step that most of them are at are trained; the others are left as they are, and are not in what is
    returned. Where every run of one diverged, the others go on.
    """
    with _postponed_signals() as interrupted, contextlib.ExitStack() as stack:
        records = {}
        for name, (population, folder) in members.items():
            records[name] = stack.enter_context(contextlib.closing(Record(population, folder, name)))
        _, seconds, going = _train(list(records.values()), report, _Profile(Path(), None), interrupted)
    total = sum(len(record.population.runs) for record in going)

    def share(record: Record) -> dict[str, float]:
        part = len(record.population.runs) / total
        once = ("initialise", "compile")
        return {phase: spent * (record is going[0] if phase in once else part) for phase, spent in seconds.items()}

    trained = {name: record for name, record in records.items() if record in going}
    return {name: Trained(share(record), record.error) for name, record in trained.items()}


def restore(population: Population, folder: Path, *, whole: bool = False) -> State:
    """Returns the newest checkpoint's state of a population, [groups, runs per group, ...].

    It is what evaluation uses, or with `whole` what a training needs as well. Raises `UserError` where it is damaged:
    an earlier checkpoint does not take its place.
    """
    like = state_like(population)
    read = functools.partial(checkpoints.restore, folder)
    return read_state(population, read, like if whole else for_evaluation(like))


def _train(
    records: list[Record], report: Callable[[dict], None], profile: "_Profile", interrupted: Callable[[], bool]
) -> tuple[State, dict[str, float], list[Record]]:
    """Trains populations side by side; returns the last state of all runs, the seconds, and which were trained."""
    seconds = {"initialise": 0.0, "compile": 0.0, "train": 0.0, "validate": 0.0}
    with contextlib.ExitStack() as stack:
        if processes.several():  # all end together
            stack.enter_context(interruption.saved())
        with _timed(seconds, "initialise"):
            # 1. Every run's initial state, 2. or the newest checkpoint's; 3. the log forgets what came after it.
            population, state, going = _joined(records, [record.begin() for record in records])
        if going:
            handed_over = [state]  # nothing here keeps the first state on the devices while they train
            del state
            with population.programs.train.advising():
                state = _make_steps(population, handed_over, going, seconds, report, interrupted, profile, stack)
            for record in going:
                record.wait()  # here, where the last checkpoint is waited for although a signal came
        (stopped,) = processes.largest(interrupted())
    if stopped:
        raise KeyboardInterrupt
    return state, seconds, going


def _joined(records: list[Record], states: list[State]) -> tuple[Population, State, list[Record]]:
    """Joins what is not at its end, as far as it is at one step, that of most: a population, its state, its records."""
    steps = collections.Counter(record.step for record in records if record.going)
    if not steps:
        return records[0].population, states[0], []
    ((step, _),) = steps.most_common(1)
    chosen = [i for i, record in enumerate(records) if record.going and record.step == step]
    going, populations = [records[i] for i in chosen], [records[i].population for i in chosen]
    counts = [len(population.runs) for population in populations]
    for record, end in zip(going, itertools.accumulate(counts), strict=True):
        record.runs = slice(end - len(record.population.runs), end)
    state = devices.joined([states[i] for i in chosen], counts, populations[0].layout.groups)
    return side_by_side(populations), state, going


def _make_steps(
    population: Population,
    first: list[State],
    records: list[Record],
    seconds: dict[str, float],
    report: Callable[[dict], None],
    interrupted: Callable[[], bool],
    profile: "_Profile",
    stack: contextlib.ExitStack,
) -> State:
    """Makes the steps that are left, until every record has ended or a stop is asked for; returns the last state.

    The only state of `first` is taken out of it.
    """
    # What the devices have, they keep: no call of the program sends anything that was not sent on purpose.
    state, run_values = devices.place_runs((first.pop(), population.run_values), population.layout)
    population = dataclasses.replace(population, run_values=run_values)
    step, num_runs = records[0].step, len(population.runs)
    validate_every, part = _validate_every(population), fifth(population.num_steps)
    feed = stack.enter_context(contextlib.closing(training_feed(population, step)))
    stack.callback(profile.stop)
    guard = "allow" if processes.several() else "disallow"  # several processes' arrays are placed by `pmap` itself
    a_pass = steps_of_a_pass()

    def following(step: int, count: int) -> int:
        """As many steps, but no further than a validation or a fifth of the training."""
        ends = validate_every - step % validate_every, part - step % part, population.num_steps - step
        return min(count, *ends, profile.steps_until_change(step))

    piece = to_devices(population, feed.take(following(step, a_pass)))
    with _timed(seconds, "compile"):
        population.programs.train.compile(*training_arguments(population, state, piece))
    stack.enter_context(interruption.saved())  # from here on there are steps to save; before, nothing is lost
    started = time.monotonic()
    count, saved_at = a_pass, started
    while True:
        begun = time.monotonic()
        profile.before(step)
        with jax.profiler.StepTraceAnnotation("train", step_num=step), jax.transfer_guard(guard):
            state, sums = train_steps(population, state, piece)
        made, step = piece.count, step + piece.count
        # 4. While the devices are at it, the next steps: as many as take a few seconds.
        if step < population.num_steps:
            piece = to_devices(population, feed.take(following(step, count)))
        sums, diverged_at = devices.gather((sums, state.diverged_at), num_runs)
        late = time.monotonic() - saved_at > population.config["training"]["checkpoint_seconds"]
        elapsed, late, stop = processes.largest(time.monotonic() - begun, late, interrupted())
        seconds["train"] += elapsed
        # 5. The validation speakers, if there is a run to predict with.
        validation = np.full(num_runs, np.nan)
        if step % validate_every == 0 and processes.leads():
            with _timed(seconds, "validate"):
                for record in records:
                    if record.going and (diverged_at[record.runs] < 0).any():
                        own = devices.part_of(for_evaluation(state), record.runs, num_runs, population.layout.groups)
                        validation[record.runs] = validation_ua(record.population, own)
                        del own
        with np.errstate(divide="ignore", invalid="ignore"):  # of a run that has diverged there is nothing to divide
            rows = rows_of(population, step, time.monotonic() - started, sums, diverged_at, validation)
        for record in (record for record in records if record.going):
            if processes.leads():
                record.log.write(rows[record.runs])
            record.look(diverged_at)
        if not any(record.going for record in records):
            return state
        report(means(rows)[0])
        if state.selection is not None and step % validate_every == 0:
            ua = processes.array_of_the_leader(validation.astype(np.float32))
            state = selection.after_validation(population, state, ua, step)
        # 6. A checkpoint at the end of each, every so often, and before a stop.
        ended = selection.ended(population, state) | (step == population.num_steps)
        written = [one for one in records if one.going and (late or stop or ended[one.runs].all())]
        if written and processes.leads():
            gathered = devices.gather(state, num_runs)
            for record in written:
                record.save(gathered, ended=bool(ended[record.runs].all()))
            del gathered
        if late:
            saved_at = time.monotonic()  # in every process, so that none of them goes on asking for one
        for record in written:
            record.going = not ended[record.runs].all()
        if stop or not any(record.going for record in records):
            return selection.final(population, state) if ended.all() else state
        count = a_pass * max(1, int(made * _CALL_SECONDS / elapsed / a_pass))


def _validate_every(population: Population) -> int:
    every = configuration.steps(population.config, "training", "validate", population.steps_per_epoch)
    has_validation = all(len(fold.validation) for fold in population.folds) and population.learner.num_classes > 0
    return every if every > 0 and has_validation else population.num_steps + 1


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
    """Turns SIGINT and SIGTERM into a question to be asked between two calls of the program; a second one is obeyed.

    Where the machine refuses something after one, as a full disk the checkpoint before the stop, that is said, and the
    stop remains one.
    """
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
    except Exception as error:
        if not received or not (isinstance(error, OSError) or isinstance(error.__cause__, OSError)):
            raise
        reason = one_line(refusal(error) or f"{type(error).__name__}: {error}")
        print(f"note: {reason}; the same command goes on from what was kept before", file=sys.stderr, flush=True)
        raise KeyboardInterrupt from error
    else:
        if received:  # while the folders were let go of
            raise KeyboardInterrupt
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
