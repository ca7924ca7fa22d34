"""TensorBoard: a folder for each run with its curves, hyperparameters, scores and confusion picture.

The events are written without TensorFlow, which TensorBoard's own writer of summaries would import.
"""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ser_jax.trackers.run import TrackedRun

_LONGEST_NAME = 200  # letters of a run's folder; file systems take 255 bytes


def write(runs: Sequence[TrackedRun], folder: Path, project: str) -> None:
    """Writes events of runs; the project's name is that of the folder."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import summary_v2
    from tensorboard.summary.writer.record_writer import RecordWriter

    for number, run in enumerate(runs):
        name = re.sub(r"[^A-Za-z0-9.]+", "_", run.name).strip("_")[:_LONGEST_NAME]
        own = folder / f"{number:04}_{name}"
        own.mkdir(parents=True)
        summaries = [(step, _scalars(Summary, figures)) for step, figures in run.curves]
        summaries.append((run.last_step, _scalars(Summary, run.scores)))
        if run.confusion:
            picture = Summary.Image(encoded_image_string=run.confusion)
            summaries.append((run.last_step, Summary(value=[Summary.Value(tag="confusion", image=picture)])))
        summaries.append((0, summary_v2.hparams_pb(run.labels() | run.options, trial_id=run.name)))
        now = time.time()
        with (own / f"events.out.tfevents.{int(now)}.ser_jax").open("wb") as file:
            writer = RecordWriter(file)
            for step, summary in summaries:
                writer.write(Event(wall_time=now, step=step, summary=summary).SerializeToString())


def _scalars(summary: Any, figures: dict[str, float]) -> Any:
    return summary(value=[summary.Value(tag=name, simple_value=value) for name, value in figures.items()])
