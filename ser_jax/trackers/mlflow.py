"""MLflow: an SQLite database, which MLflow recommends over its file store, and a folder of pictures."""

import io
import itertools
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ser_jax.trackers.run import TrackedRun

_MOST_METRICS, _MOST_OPTIONS, _MOST_LETTERS = 1000, 100, 6000  # that MLflow takes in one call, and of one option
_LONGEST_NAME = 200  # letters; MLflow takes 250


def write(runs: Sequence[TrackedRun], folder: Path, project: str) -> None:
    """Writes runs as those of an experiment."""
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.tracking import MlflowClient

    if project.lower() == "default":  # which MLflow has already
        project += " runs"
    client = MlflowClient(tracking_uri=f"sqlite:///{folder.absolute()}/mlflow.db")
    experiment = client.create_experiment(project, artifact_location=(folder.absolute() / "pictures").as_uri())
    now = int(1000 * time.time())
    own = (itertools.chain(run.options, run.scores, *(figures for _, figures in run.curves)) for run in runs)
    names = _names(itertools.chain.from_iterable(own))
    for run in runs:
        tags = [RunTag(name, str(value)) for name, value in run.labels().items()]
        tracked = client.create_run(experiment, run_name=run.name).info.run_id
        rows = [*run.curves, (run.last_step, run.scores)]
        metrics = [Metric(names[name], value, now, step) for step, figures in rows for name, value in figures.items()]
        options = [Param(names[name], str(value)[:_MOST_LETTERS]) for name, value in run.options.items()]
        client.log_batch(tracked, tags=tags)
        for batch in _batches(metrics, _MOST_METRICS):
            client.log_batch(tracked, metrics=batch)
        for batch in _batches(options, _MOST_OPTIONS):
            client.log_batch(tracked, params=batch)
        if run.confusion:
            client.log_image(tracked, _picture(run.confusion), artifact_file="confusion.png")
        client.set_terminated(tracked)


def _names(names: Iterable[str]) -> dict[str, str]:
    """The names that MLflow takes for these. Dimensions are named by columns of a corpus, which have any letters."""
    taken = {name: re.sub(r"[^\w. :-]", "_", name)[:_LONGEST_NAME] for name in sorted(set(names))}
    found = {name: own for name, own in taken.items() if name == own}
    for name in sorted(set(taken) - set(found)):
        own = taken[name]
        while own in found.values():  # no two become one
            own += "_"
        found[name] = own
    return found


def _picture(png: bytes) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(png))


def _batches(items: Iterable[Any], size: int) -> Iterable[list[Any]]:
    waiting = iter(items)
    while batch := list(itertools.islice(waiting, size)):
        yield batch
