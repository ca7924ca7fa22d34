"""The utterances of a step: a pure function of (corpus, lanes, window, seed, fold, step), the same for every feed.

A corpus lies in files, in an order drawn once. An epoch reads whole files, in a new order each time, and shuffles what
lies in a window of them; a corpus smaller than the window is shuffled whole. Lanes are parts of the corpus that are
read side by side, each giving its share of every batch, so that processes can share the files out, without any batch
depending on how many processes there are.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Int

_FILES = 16  # a corpus has a multiple of this many files, so that as many lanes get the same number of them
_UTTERANCES_PER_FILE = 256  # at most


@dataclasses.dataclass(frozen=True)
class FileLayout:
    """Where the utterances of a corpus lie, and how they are read.

    Attributes:
      files: the rows of the corpus's table that each file holds, in the order in which they lie there.
      lanes: the number of parts of the corpus that are read side by side; lane l reads the files l, l + lanes, ...
      window: the number of utterances among which a lane shuffles.
    """

    files: tuple[Int[np.ndarray, " _"], ...]
    lanes: int
    window: int


@dataclasses.dataclass(frozen=True)
class Stretch:
    """The files of one window, and how what is read there is shuffled.

    Attributes:
      files: their numbers, in the order in which they are read.
      rows: the training rows among them, in the order in which reading meets them.
      order: what is read comes out as `rows[order]`.
    """

    files: tuple[int, ...]
    rows: Int[np.ndarray, " _"]
    order: Int[np.ndarray, " _"]


def file_layout(num_utterances: int, lanes: int = 1, window: int = 8192) -> FileLayout:
    """Returns how a corpus of so many utterances lies in its files.

    Some 256 utterances lie in each, and the number of files is a multiple of 16; one of fewer than 16 utterances has a
    file for each.
    """
    per_block = _FILES * _UTTERANCES_PER_FILE
    num_files = min(_FILES * -(-num_utterances // per_block), num_utterances)
    drawn = np.random.default_rng(0).permutation(num_utterances)
    return FileLayout(tuple(np.array_split(drawn, num_files)), lanes, window)


def training_rows(
    layout: FileLayout,
    train: Int[np.ndarray, " utterances"],
    seed: int,
    fold: int,
    batch_size: int,
    first_step: int,
    num_steps: int,
) -> Int[np.ndarray, "steps batch"]:
    """Returns which rows of the corpus the steps `first_step` and following see; `train` are those of the fold.

    Every epoch of a lane is a new order of all its training rows; batches run on over the end of an epoch, so all are
    full. Each lane gives `batch_size // lanes` rows to a batch, lane after lane.
    """
    lanes = []
    for lane in range(layout.lanes):
        share = batch_size // layout.lanes
        epoch, skipped = position(layout, train, lane, batch_size, first_step)
        rows, wanted = [], share * num_steps + skipped
        for stretch in stretches(layout, train, lane, seed, fold, epoch):
            if wanted <= 0:
                break
            rows.append(stretch.rows[stretch.order])
            wanted -= len(stretch.rows)
        lanes.append(np.concatenate(rows)[skipped:][: share * num_steps].reshape(num_steps, share))
    return np.concatenate(lanes, axis=1).astype(np.int32)


def position(
    layout: FileLayout, train: Int[np.ndarray, " utterances"], lane: int, batch_size: int, step: int
) -> tuple[int, int]:
    """Returns in which epoch a lane is before `step`, and how many of that epoch's rows it has given already."""
    return divmod(step * (batch_size // layout.lanes), lane_size(layout, train, lane))


def lane_size(layout: FileLayout, train: Int[np.ndarray, " utterances"], lane: int) -> int:
    """Returns how many of the training rows are a lane's."""
    trained = _mask(layout, train)
    return sum(int(np.count_nonzero(trained[rows])) for rows in layout.files[lane :: layout.lanes])


def stretches(
    layout: FileLayout, train: Int[np.ndarray, " utterances"], lane: int, seed: int, fold: int, first_epoch: int
) -> Iterator[Stretch]:
    """Yields the windows that a lane reads, one after another without end, from the begin of `first_epoch` on.

    Windows without a training row are left out.
    """
    mask, numbers = _mask(layout, train), range(lane, len(layout.files), layout.lanes)
    trained = {number: layout.files[number][mask[layout.files[number]]] for number in numbers}
    own = [number for number in numbers if len(trained[number])]
    epoch = first_epoch
    while True:
        rng = np.random.default_rng([seed, fold, epoch, lane])
        window: list[int] = []
        for number in rng.permutation(own).tolist():
            size = sum(len(trained[file]) for file in [*window, number])
            if window and size > layout.window:
                yield _stretch(window, trained, rng)
                window = []
            window.append(number)
        yield _stretch(window, trained, rng)
        epoch += 1


def _stretch(files: list[int], trained: dict[int, Any], rng: np.random.Generator) -> Stretch:
    rows = np.concatenate([trained[number] for number in files])
    return Stretch(tuple(files), rows, rng.permutation(len(rows)))


def _mask(layout: FileLayout, train: Int[np.ndarray, " utterances"]) -> np.ndarray:
    mask = np.zeros(sum(map(len, layout.files)), bool)
    mask[train] = True
    return mask
