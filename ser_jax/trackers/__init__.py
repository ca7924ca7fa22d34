"""Experiment trackers: each writes runs to a folder, in the format that the tracker's program reads."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ser_jax.trackers import mlflow, tensorboard, wandb
from ser_jax.trackers.run import TrackedRun

# A tracker writes runs to a new folder, under the name of their project. All work without a network.
TRACKERS: dict[str, Callable[[Sequence[TrackedRun], Path, str], None]] = {
    "tensorboard": tensorboard.write,
    "wandb": wandb.write,
    "mlflow": mlflow.write,
}
# What each imports, which is the extra of the same name.
MODULES = {"tensorboard": ("tensorboard",), "wandb": ("wandb",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}
# How its files are looked at.
VIEWS = {
    "tensorboard": "tensorboard --logdir {folder}",
    "wandb": "wandb sync {folder}/wandb/offline-run-*",
    "mlflow": "mlflow server --backend-store-uri sqlite:///{folder}/mlflow.db",
}
