"""The recordings of a table, decoded on all cores: samples for the corpus, problems and notes for its user."""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, islice
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int16
from tqdm import tqdm

from ser_jax import machine
from ser_jax.corpora.audio import Recording, read_recording
from ser_jax.corpora.corpus import SAMPLE_RATE
from ser_jax.corpora.problems import Problems
from ser_jax.errors import UserError

_MOST_KEPT = 2**30  # bytes of recordings that are not decoded again for their later segments
_TOLERATED_SECONDS = 0.05  # by which a segment may end behind its file's end: times are rounded


def read_utterances(
    name: str, utterances: pd.DataFrame, problems: Problems, info: dict[str, Any], min_seconds: float
) -> Iterator[tuple[dict[str, Any], Int16[np.ndarray, " _"]]]:
    """Yields the rows of a table from `folder.read_table` and their waveforms, in the table's order.

    A file is decoded once, unless more than `_MOST_KEPT` stands between segments of it. Files that cannot be read and
    utterances shorter than `min_seconds` are added to `problems` and left out. At the end `info` gets `rates` and
    `channels`, how many files have which, and more `notes`.
    """
    notes: dict[str, list[str]] = {}
    decoded: dict[str, tuple[int, int]] = {}
    rows = utterances.to_dict("records")
    of_file = [(path, list(group)) for path, group in groupby(rows, key=lambda row: row["path"])]
    with tqdm(total=len(rows), desc=name, unit="file", disable=None) as bar:
        for (path, group), recording in zip(of_file, _decoded([path for path, _ in of_file]), strict=True):
            bar.update(len(group))
            if isinstance(recording, UserError):
                where, _, what = str(recording).partition(": ")
                for row in group:
                    problems.add(where, what, row["id"])
                continue
            decoded[path] = recording.rate, recording.channels
            for row in group:
                samples = _segment(row, recording, problems, min_seconds)
                if samples is None:
                    continue
                still = ["silent"] if samples.min() == samples.max() else []  # also a part of a recording with sound
                for kind in dict.fromkeys([*recording.notes, *still]):
                    notes.setdefault(kind, []).append(row["id"])
                yield {key: value for key, value in row.items() if key != "path"}, samples
    info["notes"] = info["notes"] | notes
    for at, key in enumerate(("rates", "channels")):
        info[key] = {str(value): count for value, count in sorted(Counter(own[at] for own in decoded.values()).items())}


def _segment(row: dict[str, Any], recording: Recording, problems: Problems, min_seconds: float) -> np.ndarray | None:
    samples = recording.samples
    where = row["path"]
    if "segment_start" in row:
        seconds = len(samples) / SAMPLE_RATE
        start, end = row["segment_start"], row["segment_end"]
        end = seconds if np.isnan(end) else end
        where = f"{where}, {start:g} to {end:g} s"
        if start >= seconds or end > seconds + _TOLERATED_SECONDS:
            problems.add(where, f"the file has {seconds:.2f} s", row["id"])
            return None
        samples = samples[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
    if len(samples) < min_seconds * SAMPLE_RATE:
        found = f"{len(samples) / SAMPLE_RATE:.3f} s long, expected at least {min_seconds:g} (--min_seconds)"
        problems.add(where, found, row["id"])
        return None
    return samples


def _decoded(paths: Sequence[str]) -> Iterator[Recording | UserError]:
    """Yields the recordings of files in their order, some of them decoded ahead on every core.

    A file that comes again, as in a dialog's turns, is kept until then. Where these are more than `_MOST_KEPT`, those
    that come again last are decoded anew, unless they are among those ahead.
    """

    def one(path: str) -> Recording | UserError:
        try:
            return read_recording(path)
        except UserError as error:
            return error

    cores = machine.cores()
    following, waiting = iter(paths), deque[tuple[str, Future]]()
    turns: dict[str, deque[int]] = {}  # places in the order at which a file has yet to come
    for place, path in enumerate(paths):
        turns.setdefault(path, deque()).append(place)
    first = {path: places[0] for path, places in turns.items()}
    kept: dict[str, Future] = {}  # what comes again
    sizes: dict[str, int] = {}  # of those kept that were yielded, in bytes
    total = 0  # of these
    with ThreadPoolExecutor(cores) as pool:  # decoders and resampler work outside Python's lock

        def submit() -> None:
            nonlocal total
            for path in islice(following, 4 * cores - len(waiting)):
                place = turns[path].popleft()
                future = kept.get(path)
                if future is None and place > first[path]:
                    future = next((future for ahead, future in waiting if ahead == path), None)
                future = future or pool.submit(one, path)
                if turns[path]:
                    kept[path] = future
                elif kept.pop(path, None):
                    total -= sizes.pop(path, 0)
                waiting.append((path, future))

        submit()
        while waiting:
            path, future = waiting.popleft()
            recording = future.result()
            yield recording
            if path in kept and path not in sizes:
                sizes[path] = recording.samples.nbytes if isinstance(recording, Recording) else 0
                total += sizes[path]
            while total > _MOST_KEPT:
                last = max(sizes, key=lambda path: turns[path][0])
                del kept[last]
                total -= sizes.pop(last)
            submit()
