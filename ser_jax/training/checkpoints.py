"""Orbax checkpoints of populations: every run's state, and all that is needed to use it, as named arrays and JSON.

A checkpoint has three items. `evaluation` holds what predictions are made with, `training` what a training needs beside
that to go on, and `metadata` describes both. Arrays lie under their paths, such as
`ema_parameters/classifier/kernel`, with the run axis first. The metadata keep each array's shape, dtype and SHA-256,
and a SHA-256 of themselves.
"""

import contextlib
import functools
import importlib.metadata
import json
import logging
import operator
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict

from ser_jax import config as configuration
from ser_jax import plugins
from ser_jax.corpora.merge import parts_of
from ser_jax.errors import UserError, brief, reading, reason_of
from ser_jax.files import named
from ser_jax.training import published
from ser_jax.training.arrays import describe_array, differences, named_arrays, sealed, sha256
from ser_jax.training.initial import trainings_behind
from ser_jax.training.state import State

# Orbax logs what it raises too, with tracebacks, by absl's logger, which is others' as well.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
# Of several arrays that TensorStore cannot read Orbax raises the first one's error, and asyncio logs what no one took.
logging.getLogger("asyncio").addFilter(lambda record: "tensorstore_spec" not in record.getMessage())

FORMAT_VERSION = 2
# What metadata may have beside what all have.
_OPTIONAL = {"features": dict, "encoder": dict, "initial": dict, "teacher": dict}
_OPTIONAL |= {"recordings": list, "notes": list, "folds": list, "diverged": list}
_EVALUATION, _TRAINING, _METADATA = "evaluation", "training", "metadata"
_OF_TRAINING = (
    "parameters",
    "batch_stats",
    "optimizer",
    "selection",
)  # the fields of `State` that evaluation does without
_STATUS_OF_DAMAGE = ("DATA_LOSS", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE")


class _Damaged(UserError):
    """A checkpoint that is not what was written: changed, cut off, incomplete, or of another format."""


class Checkpoints:
    """The checkpoints of one population, in `folder`, the newest two kept.

    The folder is made by the first of them: what reads makes none. A checkpoint appears whole or not at all, whenever
    the process dies. Of several processes, which all have the whole
    state, the first one saves and all restore.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._is_first = folder, True
        # Each process by itself: Orbax would have them wait for one another, longer than one of them may live.
        own = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process{own}"
        )
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2,
            enable_async_checkpointing=True,
            create=False,
            multiprocessing_options=alone if jax.process_count() > 1 else ocp.options.MultiprocessingOptions(),
        )
        # Orbax would wait for a pipe; what another process removes meanwhile is passed over.
        for path in (Path(parent, name) for parent, _, names in os.walk(folder) for name in names):
            if path.exists() and not path.is_file() and not path.is_dir():
                raise UserError(f"{path}: a pipe or a device, expected a file of a checkpoint")
        items = (_EVALUATION, _TRAINING, _METADATA)
        _say_errors_once()
        with reading(f"{folder}: its checkpoints cannot be read"):
            self._manager = ocp.CheckpointManager(folder.absolute(), options=options, item_names=items)

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, state: State, metadata: dict) -> None:
        """Writes a checkpoint of `state` (NumPy arrays with a run axis) in the background.

        A state without parameters, see `state.for_evaluation`, can be evaluated later but not trained further.
        """
        arrays = named_arrays(state)
        described = {name: describe_array(array) | {"sha256": sha256(array)} for name, array in arrays.items()}
        runs = zip(metadata["runs"], np.asarray(state.diverged_at).tolist(), strict=True)
        diverged = [{**run, "step": step} for run, step in runs if step >= 0]
        metadata = {**metadata, "format": FORMAT_VERSION, "diverged": diverged, "arrays": described}
        self.folder.mkdir(parents=True, exist_ok=True)
        items = {_METADATA: ocp.args.JsonSave(sealed(metadata))}
        for item, part in _by_item(arrays).items():
            items[item] = ocp.args.StandardSave(part)
        with self._writing():
            if self._is_first:  # what a process that died has begun: Orbax clears that of the same step alone
                for unfinished in self.folder.glob("*.orbax-checkpoint-tmp"):
                    shutil.rmtree(unfinished)
            self._is_first = False
            self._manager.save(int(np.max(state.step)), args=ocp.args.Composite(**items))

    def metadata(self) -> dict:
        """Reads the metadata of the newest checkpoint that is whole.

        Raises `UserError` where there is no checkpoint, or none that can be read.
        """
        steps = self._steps()
        for step in steps:
            try:
                found = self._metadata(step)
            except _Damaged:
                if step == steps[-1]:
                    raise
            else:
                return {name: value for name, value in found.items() if name not in ("arrays", "sha256")}

    def restore(self, like: State) -> State:
        """Reads the newest checkpoint as NumPy arrays; `like` gives the structure, shapes and dtypes that are expected.

        Where `like` has no parameters, see `state.for_evaluation`, what only a training needs is not read. Raises
        `UserError` where the checkpoint cannot be read, is damaged, or has arrays that differ from `like` in name,
        shape or dtype.
        """
        return self._restore(self._steps()[0], like)

    def resume(self, like: State) -> State:
        """Reads the newest whole checkpoint, for a training that goes on from it; see `restore`.

        Damaged ones are named on standard error and deleted, because the training makes them again. One that cannot be
        read for another reason (too many open files, no permission) stays, and raises `UserError`.
        """
        steps = self._steps()
        for step in steps:
            try:
                restored = self._restore(step, like)
            except _Damaged as error:
                if step == steps[-1]:
                    raise
                print(f"note: {error}; the training goes on from an earlier one", file=sys.stderr, flush=True)
            else:
                if jax.process_index() == 0:
                    for damaged in self._manager.all_steps():
                        if damaged > step:
                            self._manager.delete(damaged)
                return restored

    def verify(self) -> dict[int, str]:
        """Reads every checkpoint and compares all that is in it with its hashes; returns what is wrong, by step.

        "" stands for nothing. Raises `UserError` where there is no checkpoint.
        """
        found = {}
        for step in self._steps():
            try:
                self._arrays(step, self._described(step))
            except UserError as error:
                found[step] = str(error)
            else:
                found[step] = ""
        return found

    def wait(self) -> None:
        """Waits until the last checkpoint is written."""
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits until the last checkpoint is written, and lets go of the folder."""
        self.wait()
        with self._writing():
            self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Lets what the disk refused, now or in the background since the last checkpoint, name the folder."""
        with named(self.folder):
            try:
                yield
            except ValueError as error:  # TensorStore's, with the system's number in it
                number = re.search(r"os_error_code='(\d+)'", str(error))
                if number is None:
                    raise UserError(f"{self.folder}: no checkpoint can be written ({reason_of(error)})") from error
                raise OSError(int(number[1]), os.strerror(int(number[1]))) from error

    def _steps(self) -> list[int]:
        """The steps of all checkpoints, the newest first."""
        steps = sorted(self._manager.all_steps(), reverse=True)
        if not steps:
            raise UserError(f"{self.folder}: no checkpoint; expected one that `train` or `study` made")
        return steps

    def _metadata(self, step: int) -> dict:
        metadata = self._read(step, _METADATA, ocp.args.JsonRestore())
        where = self.folder / str(step)
        if not isinstance(metadata, dict):
            raise _Damaged(f"{where}: damaged checkpoint (its metadata are no JSON object)")
        if metadata.get("format") == 1:
            raise _Damaged(f"{where}: checkpoint of format 1, of an earlier version; expected format {FORMAT_VERSION}")
        if sealed(metadata)["sha256"] != metadata.get("sha256"):
            raise _Damaged(f"{where}: damaged checkpoint (its metadata have another SHA-256)")
        with reading(f"{where}: metadata of a checkpoint that no training wrote"):
            return metadata | {"config": json.loads(json.dumps(configuration.completed(metadata["config"])))}

    def _restore(self, step: int, like: State) -> State:
        saved = self._described(step)
        expected = {name: describe_array(array) for name, array in named_arrays(like).items()}
        if like.parameters is None:
            saved = {name: array for name, array in saved.items() if _item_of(name) == _EVALUATION}
        if different := list(differences(saved, expected)):
            more = f" and {len(different) - 3} more" if len(different) > 3 else ""
            raise UserError(
                f"{self.folder / str(step)}: its arrays are not those of the model: {'; '.join(different[:3])}{more}"
            )
        found = self._arrays(step, saved)
        names = named_arrays(like).keys()
        return jax.tree.unflatten(jax.tree.structure(like), [found[name] for name in names])

    def _described(self, step: int) -> dict[str, dict]:
        """Reads the shape, dtype and SHA-256 of each array."""
        metadata = self._metadata(step)
        with reading(f"{self.folder / str(step)}: metadata of a checkpoint that no training wrote"):
            return {
                name: {
                    "shape": [operator.index(size) for size in array["shape"]],
                    "dtype": np.dtype(str(array["dtype"])).name,
                    "sha256": str(array["sha256"]),
                }
                for name, array in metadata["arrays"].items()
            }

    def _arrays(self, step: int, described: dict[str, dict]) -> dict[str, np.ndarray]:
        """Reads arrays by their names, and compares each with its hash."""
        with reading(f"{self.folder / str(step)}: metadata of a checkpoint that no training wrote"):
            parts = _by_item({name: np.zeros(a["shape"], a["dtype"]) for name, a in described.items()})
        found = {}
        for item, part in parts.items():
            restored = self._read(step, item, ocp.args.StandardRestore(part))
            found |= {"/".join(path): np.asarray(leaf) for path, leaf in flatten_dict(restored).items()}
        for name, array in found.items():
            if sha256(array) != described[name]["sha256"]:
                raise _Damaged(f"{self.folder / str(step)}: damaged checkpoint ({name} has another SHA-256)")
        return found

    def _read(self, step: int, item: str, arguments: Any) -> Any:
        where = self.folder / str(step)
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**{item: arguments}))[item]
        except (OSError, ValueError, KeyError, RecursionError) as error:
            if _is_damage(error):
                raise _Damaged(f"{where}: damaged checkpoint ({reason_of(error)})") from error
            raise UserError(f"{where}: the checkpoint cannot be read ({reason_of(error)}); it is left there") from error
        except (
            TypeError,
            AttributeError,
            IndexError,
        ) as error:  # of its own files in JSON, Orbax expects its own values
            raise UserError(f"{where}: the checkpoint cannot be read ({reason_of(error)}); it is left there") from error


def restore(folder: Path, like: State) -> State:
    """Reads the newest state of a population's folder, or of a published model; see `Checkpoints.restore`."""
    if published.is_published(folder):
        return published.restore(folder, like)
    store = Checkpoints(folder / "checkpoints")
    try:
        return store.restore(like)
    finally:
        store.close()


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
        "config": config,
        "corpus": {
            "name": corpus.name,
            "fingerprint": corpus.fingerprint,
            "parts": parts_of(corpus),  # the fingerprints of those that it was merged from
            "emotions": list(corpus.emotions),
            "licence": corpus.info.get("licence", ""),
            "features": corpus.info.get("features"),  # the pre-extracted ones that the model takes
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


def check_metadata(metadata: dict, where: str) -> dict:
    """Returns metadata; raises `UserError` where `describe` did not make them, as in an untrusted file."""
    with reading(f"{where}: not the metadata of a training"):
        kinds = {"config": dict, "corpus": dict, "protocol": dict, "targets": dict, "runs": list, "versions": dict}
        for name, kind in kinds.items():
            if not isinstance(metadata[name], kind):
                raise ValueError(f"{name} is {brief(metadata[name])}, expected {kind.__name__}")
        corpus, runs = metadata["corpus"], [(run["fold"], run["seed"]) for run in metadata["runs"]]
        for name, kind in _OPTIONAL.items():
            if not isinstance(metadata.get(name), kind | None):
                raise ValueError(f"{name} is {brief(metadata[name])}, expected {kind.__name__}")
        if features := corpus.get("features"):
            numbers = operator.index(features["dims"]), float(features["frame_ms"])
            if not (isinstance(features["name"], str) and all(0 <= number < 1e9 for number in numbers)):
                raise ValueError(f"features are {brief(features)}")
        texts = [one["corpus"][what] for one in trainings_behind(metadata) for what in ("name", "fingerprint")]
        texts += [*corpus["emotions"], *(fold for fold, _ in runs)]
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(seed, int) for _, seed in runs):
            raise ValueError("expected texts for the corpus, its emotions and the folds, and numbers for the seeds")
        if not (
            corpus["emotions"]
            or metadata["targets"].get("dimensions")
            or metadata["config"]["corpus"].get("dimensions")
        ):
            raise ValueError("expected emotions or dimensions, found neither")
        if not runs:
            raise ValueError("expected runs, found none")
        if len(set(corpus["emotions"])) < len(corpus["emotions"]):
            raise ValueError("expected emotions of different names")
        folds = dict.fromkeys(fold for fold, _ in runs)
        if runs != [(fold, seed) for fold in folds for seed in metadata["config"]["seeds"]]:
            raise ValueError("expected a run of every fold with every seed of config.seeds")
        config = {name: value for name, value in metadata["config"].items() if name != "study"}
        plugins.require_trusted([config, *trainings_behind(metadata)], where)
        configuration.check(config)
    return metadata


@functools.cache
def _say_errors_once() -> None:
    """Keeps TensorStore's threads from printing tracebacks of an error that is raised as well.

    When one array cannot be written or read Orbax raises, and closes the loop of events that the threads of the other
    arrays still tell of theirs.
    """
    before = sys.unraisablehook

    def hook(found: Any) -> None:
        if found.object is not None or str(found.exc_value) != "Event loop is closed":
            before(found)

    sys.unraisablehook = hook


def _item_of(name: str) -> str:
    return _TRAINING if name.split("/")[0] in _OF_TRAINING else _EVALUATION


def _by_item(arrays: dict[str, np.ndarray]) -> dict[str, dict]:
    """The items of a checkpoint, each a tree of dicts as Orbax takes it."""
    items = {}
    for name, array in arrays.items():
        items.setdefault(_item_of(name), {})[tuple(name.split("/"))] = array
    return {item: unflatten_dict(part) for item, part in items.items()}


def _is_damage(error: OSError | ValueError | KeyError | RecursionError) -> bool:
    """Whether Orbax and TensorStore failed for what a file holds, or lacks, and not for a reason that may pass."""
    if isinstance(error, OSError):
        return isinstance(error, FileNotFoundError | NotADirectoryError)
    status = re.match(r"([A-Z_]+): ", str(error))  # TensorStore raises ValueError for most of its status codes
    return status is None or status[1] in _STATUS_OF_DAMAGE
