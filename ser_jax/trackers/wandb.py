"""Weights & Biases, offline: nothing is sent. `wandb sync` sends the folder of a run later."""

import io
from collections.abc import Sequence
from pathlib import Path

from ser_jax.trackers.run import TrackedRun


def write(runs: Sequence[TrackedRun], folder: Path, project: str) -> None:
    """Writes runs as offline runs of a project, grouped by variant."""
    import wandb
    from PIL import Image

    settings = wandb.Settings(  # nothing of the machine, its packages or repositories
        silent=True,
        console="off",
        disable_git=True,
        save_code=False,
        x_disable_stats=True,
        x_disable_meta=True,
        x_save_requirements=False,
    )
    for run in runs:
        tracked = wandb.init(
            mode="offline",
            dir=folder,
            project=project,
            group=run.variant,
            name=run.name,
            config=run.labels() | run.options,
            reinit="finish_previous",
            settings=settings,
        )
        for step, figures in run.curves:
            tracked.log(figures, step=step)
        if run.confusion:
            tracked.log({"confusion": wandb.Image(Image.open(io.BytesIO(run.confusion)))}, step=run.last_step)
        tracked.summary.update(run.scores)
        tracked.finish()
    wandb.teardown()  # its service has written all of them when it ends
