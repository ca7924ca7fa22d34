"""What trained runs predict: class probabilities and tracks of utterances, from the windows that cover them."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from ser_jax.errors import UserError
from ser_jax.frontend import num_frames
from ser_jax.inference.windows import Windows, cut_windows, evaluation_windows, num_windows
from ser_jax.training import devices
from ser_jax.training.population import Population
from ser_jax.training.state import State, for_evaluation

_EVALUATION_BATCHES = 16  # batches of windows in one call of the evaluation program
_STREAMED_BATCHES = 4  # where the windows have to be brought to the devices first
_SPEAKER_WINDOWS = 256  # of which batch normalisation takes a speaker's statistics, at most


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """What each run says of its utterances: an array [utterances, ...] for each run.

    Attributes:
        probabilities: of the classes.
        dimensions: standardised as the run learnt them; [utterances, 0] without.
        embeddings: what its classifier is given; [utterances, 0] where they were not asked for.
    """

    probabilities: list[Float[np.ndarray, "_ classes"]]
    dimensions: list[Float[np.ndarray, "_ dimensions"]]
    embeddings: list[Float[np.ndarray, "_ dims"]]


def evaluate(
    population: Population, state: State, rows: Sequence[Int[np.ndarray, " _"]]
) -> list[Float[np.ndarray, "_ classes"]]:
    """Returns the class probabilities of the utterances `rows[r]` by run r; windows of one utterance are averaged.

    Raises `UserError` where a probability of a run that has not diverged is not finite.
    """
    return evaluate_with_dimensions(population, state, rows)[0]


def evaluate_with_dimensions(
    population: Population, state: State, rows: Sequence[Int[np.ndarray, " _"]]
) -> tuple[list[Float[np.ndarray, "_ classes"]], list[Float[np.ndarray, "_ dimensions"]]]:
    """Returns what `evaluate` does, and the dimensions of the same utterances, standardised as each run learnt them.

    Raises `UserError` where a figure of a run that has not diverged is not finite.
    """
    found = _utterance_means(population, state, rows, population.programs.evaluate, False)
    return found.probabilities, found.dimensions


def evaluate_with_embeddings(population: Population, state: State, rows: Sequence[Int[np.ndarray, " _"]]) -> Evaluated:
    """Returns what `evaluate_with_dimensions` does, and what the classifier of each run is given, in one pass.

    Raises `UserError` as that does, and for a model without a layer of the name `classifier`.
    """
    return _utterance_means(population, state, rows, population.programs.embed, True)


def _utterance_means(
    population: Population,
    state: State,
    rows: Sequence[Int[np.ndarray, " _"]],
    program: devices.Program,
    embeddings: bool,
) -> Evaluated:
    """The means over each utterance's windows of what a program says of them."""
    learner, utterances = population.learner, len(population.corpus.utterances)
    classes, figures = learner.num_classes, learner.num_classes + len(learner.dimensions)
    totals: list[np.ndarray | None] = [None for _ in rows]
    pieces = [np.zeros(utterances) for _ in rows]
    for r, table, probabilities, dimensions, vectors in _evaluated_windows(population, state, rows, program):
        kinds = [probabilities, dimensions, vectors if embeddings else None]
        told = np.concatenate([kind for kind in kinds if kind is not None], axis=1)
        if totals[r] is None:
            totals[r] = np.zeros((utterances, told.shape[1]))
        np.add.at(totals[r], table.utterance, told)
        np.add.at(pieces[r], table.utterance, 1)
    found = [totals[r][run_rows] / pieces[r][run_rows][:, None] for r, run_rows in enumerate(rows)]
    for r, well in enumerate(devices.gather(state.diverged_at, len(rows)) < 0):
        finite = np.isfinite(found[r]).all(axis=1)
        if well and not finite.all():
            utterance = population.corpus.utterances["id"].iloc[rows[r][np.argmin(finite)]]
            raise UserError(
                f"{population.corpus.name}: run {r + 1} of {len(rows)} predicts figures that are not finite for "
                f"{(~finite).sum()} of {len(finite)} utterances, first {utterance!r}"
            )
    bounds = (0, classes), (classes, figures), (figures, None)
    return Evaluated(*([own[:, low:high] for own in found] for low, high in bounds))


def evaluate_tracks(
    population: Population, state: State, rows: Sequence[Int[np.ndarray, " _"]]
) -> list[list[Float[np.ndarray, "frames tracks"]]]:
    """Returns the tracks of the utterances `rows[r]` by run r at every frame; where windows overlap, their mean."""
    table, frontend = population.corpus.utterances, population.learner.frontend
    starts, lengths = (table[name].to_numpy() for name in ("start", "num_samples"))
    shapes = [(num_frames(frontend, length), len(population.targets.track_names)) for length in lengths]
    totals = [{row: np.zeros(shapes[row]) for row in run_rows} for run_rows in rows]
    pieces = [{row: np.zeros((shapes[row][0], 1)) for row in run_rows} for run_rows in rows]
    for r, windows, _, _, tracks in _evaluated_windows(population, state, rows, population.programs.evaluate):
        for row, start, length, values in zip(
            windows.utterance, windows.start, windows.num_samples, tracks, strict=True
        ):
            first = round((start - starts[row]) / frontend.hop)
            frames = min(num_frames(frontend, length), shapes[row][0] - first)
            totals[r][row][first : first + frames] += values[:frames]
            pieces[r][row][first : first + frames] += 1
    for r, run_rows in enumerate(rows):
        for row in run_rows:
            told, number = totals[r][row], pieces[r][row]
            # Where a window is no whole number of hops, it may be that no window has the last frame.
            if len(told) > 1 and not number[-1]:
                told[-1], number[-1] = told[-2], number[-2]
    return [[totals[r][row] / np.maximum(pieces[r][row], 1) for row in run_rows] for r, run_rows in enumerate(rows)]


def _evaluated_windows(
    population: Population, state: State, rows: Sequence[Int[np.ndarray, " _"]], program: devices.Program
) -> Iterator[tuple[int, Windows, np.ndarray, np.ndarray | None, np.ndarray | None]]:
    """Yields (run, its windows, their class probabilities, dimensions and tracks), some windows at a time, flat.

    `program` is the population's `evaluate`, or its `embed`: then vectors come in the place of tracks. Where
    devices share the batches, each takes other windows of every run.
    """
    batch_size, layout = _evaluation_batch_size(population), population.layout.local
    batches = _EVALUATION_BATCHES if population.feed == "resident" else _STREAMED_BATCHES
    blocks = [
        list(
            evaluation_windows(
                population.corpus,
                run_rows,
                population.window_samples,
                batch_size,
                batches,
                of_one_speaker=population.config["evaluation"]["batch_statistics"] == "speaker",
            )
        )
        for run_rows in rows
    ]
    state = for_evaluation(state)  # one program, whether a state comes from a training or from a checkpoint
    if population.layout.local != population.layout:
        state = jax.tree.map(np.asarray, state)  # of all processes; this program is of this one alone
    for number in range(0, max(map(len, blocks)), layout.parts):
        # A run with fewer windows than its neighbours repeats its last ones; they are not counted again.
        tables = [[own[min(number + part, len(own) - 1)] for own in blocks] for part in range(layout.parts)]
        used = max(int(np.flatnonzero((table.utterance >= 0).any(1))[-1]) + 1 for part in tables for table in part)
        with program.advising():
            output = jax.block_until_ready(program(state, *_window_arguments(population, layout, tables, used)))
        for part in range(layout.parts):
            own = jax.tree.map(lambda leaf, part=part: leaf[part : part + 1], output) if layout.shares_batch else output
            predicted = devices.gather(own, len(rows))
            for r, (known, table) in enumerate(zip(blocks, tables[part], strict=True)):
                if number + part < len(known):
                    valid = table.utterance >= 0
                    flat = jax.tree.map(lambda column, valid=valid: column[valid], table)
                    yield r, flat, *(None if kind is None else kind[r][valid] for kind in predicted)


def evaluation_shapes(population: Population, state: State) -> tuple:
    """Returns the shapes and dtypes of what the evaluation program of the resident feed takes before the corpus.

    `state` has those of a training's state.
    """
    layout = population.layout.local
    table = layout.parts, len(population.runs), _EVALUATION_BATCHES, _evaluation_batch_size(population)
    places = devices.spread_parts(np.broadcast_to(np.int32(0), table), layout)
    column = jax.ShapeDtypeStruct(places.shape, np.int32)
    return for_evaluation(state), column, column, column, jax.ShapeDtypeStruct((), np.int32)


def _evaluation_batch_size(population: Population) -> int:
    """The windows of a batch: as configured, or as many as the speaker with the most has."""
    evaluation, table = population.config["evaluation"], population.corpus.utterances
    if evaluation["batch_statistics"] == "running":
        return evaluation["batch_size"]
    count = num_windows(table["num_samples"], population.window_samples)
    return min(int(count.groupby(table["speaker"]).sum().max()), _SPEAKER_WINDOWS)


def _window_arguments(population: Population, layout: devices.Layout, tables: list[list[Windows]], used: int) -> tuple:
    """What the evaluation program takes beside the state.

    Where the windows begin, how long they are and of which utterances, [parts, runs, ...]; how many batches there are
    to compute; the corpus; the weights of an encoder, or None.
    """

    def stacked(parts: Any) -> Any:
        return jax.tree.map(
            lambda leaf: devices.spread_parts(leaf, layout),
            _stack([_stack(part) for part in parts]),
        )

    if population.feed == "resident":
        resident = population.resident
    else:
        cut = [[cut_windows(population.corpus, table, population.window_samples) for table in part] for part in tables]
        tables = [[windows for windows, _ in part] for part in cut]
        resident = stacked([[own for _, own in part] for part in cut])

    def places_of(table: Windows) -> tuple[np.ndarray, ...]:
        return tuple(
            np.asarray(column, np.int32) for column in (table.start, table.num_samples, np.maximum(table.utterance, 0))
        )

    places = stacked([[places_of(table) for table in part] for part in tables])
    return *places, np.int32(used), resident, population.encoder


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
