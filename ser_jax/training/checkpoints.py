"""Orbax checkpoints of populations: every run's state, and all that is needed to use it, as arrays and JSON."""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ser_jax import config as configuration
from ser_jax.corpora.merge import parts_of
from ser_jax.errors import UserError
from ser_jax.training.state import State

FORMAT_VERSION = 1
_STATE, _METADATA = "state", "metadata"


class Checkpoints:
    """The checkpoints of one population, in `folder`, the newest two kept.

    A checkpoint appears whole or not at all, whenever the process dies. Of several processes, which all have the whole
    state, the first one saves and all restore.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Each process by itself: Orbax would have them wait for one another, longer than one of them may live.
        own = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process{own}"
        )
        folder.mkdir(parents=True, exist_ok=True)
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=2,
                enable_async_checkpointing=True,
                create=False,
                multiprocessing_options=alone if jax.process_count() > 1 else ocp.options.MultiprocessingOptions(),
            ),
            item_names=(_STATE, _METADATA),
        )

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, state: State, metadata: dict) -> None:
        """Writes a checkpoint of `state` (NumPy arrays with a run axis) in the background."""
        self._manager.save(
            int(np.max(state.step)),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_without_empty(state)), metadata=ocp.args.JsonSave(metadata)
            ),
        )

    def metadata(self) -> dict:
        """Reads the newest checkpoint's metadata; raises `UserError` where there is none or it cannot be read."""
        step = self.latest_step()
        if step is None:
            raise UserError(f"{self.folder}: no checkpoint; expected one that `train` or `study` made")
        try:
            metadata = self._manager.restore(step, args=ocp.args.Composite(metadata=ocp.args.JsonRestore()))[_METADATA]
        except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file
            raise UserError(f"{self.folder / str(step)}: damaged checkpoint ({_first_line(error)})") from error
        if metadata["format"] != FORMAT_VERSION:
            raise UserError(f"{self.folder}: checkpoint of format {metadata['format']}, expected {FORMAT_VERSION}")
        # Older trainings knew the emotion alone and one classifier, began with what was drawn, and had no teacher.
        config = json.loads(json.dumps(configuration.completed(metadata["config"])))
        targets = {"vocabulary": None, "tracks": [], "heads": [], **metadata.get("targets", {})}
        return {"initial": None, "teacher": None, **metadata, "targets": targets, "config": config}

    def restore(self, like: State) -> State:
        """Reads the newest checkpoint's state as NumPy arrays; `like` gives its structure and shapes."""
        step = self.latest_step()
        like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
        arguments = ocp.args.Composite(state=ocp.args.StandardRestore(_without_empty(like)))
        try:
            restored = self._manager.restore(step, args=arguments)[_STATE]
        except Exception as error:  # as above
            raise UserError(f"{self.folder / str(step)}: damaged checkpoint ({_first_line(error)})") from error

        return jax.tree.map(lambda empty, array: empty if array is None else array, like, restored)

    def close(self) -> None:
        """Waits until the last checkpoint is written."""
        self._manager.wait_until_finished()
        self._manager.close()


def describe(
    config: dict,
    corpus: Any,
    protocol: Any,
    runs: list[tuple[str, int]],
    targets: dict,
    initial: dict | None,
    teacher: dict | None,
) -> dict:
    """Returns the metadata that make a checkpoint self-contained: what it was trained on, and how."""
    metadata = {
        "format": FORMAT_VERSION,
        "config": config,
        "corpus": {
            "name": corpus.name,
            "fingerprint": corpus.fingerprint,
            "parts": parts_of(corpus),  # the fingerprints of those that it was merged from
            "emotions": list(corpus.emotions),
            "licence": corpus.info.get("licence", ""),
            "features": corpus.info.get("features"),  # those made elsewhere that the model takes
        },
        "protocol": {"name": protocol.name, "speaker_independent": protocol.speaker_independent},
        "targets": targets,
        "initial": initial,  # what the runs began with, where that was trained on another corpus
        "teacher": teacher,  # whose probabilities the runs learnt beside the labels
        "runs": [{"fold": fold, "seed": seed} for fold, seed in runs],
        "versions": versions(),
    }
    # As it will be read again: JSON knows no tuples.
    return json.loads(json.dumps(metadata))


def versions() -> dict[str, str]:
    """Returns the versions of the packages that decide a result."""
    return {
        name: importlib.metadata.version(name)
        for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    }


def to_json(value: Any) -> str:
    """Serialises with sorted keys, so that equal values are equal text."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _without_empty(state: State) -> State:
    """Orbax refuses arrays of size zero, which the statistics of a model without batch normalisation are."""
    return jax.tree.map(lambda leaf: leaf if leaf.size else None, state)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
