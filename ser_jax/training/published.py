"""A published model: a folder that a model hub takes as it is. It holds what evaluation uses, and is never changed.

`README.md` is its card. `model.safetensors` holds the arrays. Those of a network have the run axis first: linen
variables under their paths, such as `params/classifier/kernel`; `feature_statistics` where the training's normalise
features; `step` and `diverged_at`. Those of a linear baseline have the fold axis first, and those of its dimensions
stand under `baseline_dimensions/`. `config.json` holds the metadata of what was trained, with the shape, dtype and
SHA-256 of each array and a SHA-256 of themselves.
`tested.parquet` holds what the same configuration predicted for speakers that it had not heard.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy

from ser_jax import config as configuration
from ser_jax.errors import UserError, brief, reading
from ser_jax.files import read_json, to_json
from ser_jax.training.arrays import describe_array, differences, named_arrays, sealed, sha256
from ser_jax.training.state import State

WEIGHTS, METADATA, CARD = "model.safetensors", "config.json", "README.md"
TESTED = "tested.parquet"
LIBRARY = "ser_jax"  # what a hub calls the program that reads a model
FORMAT_VERSION = 1
# Fields of `State` under linen's names of what they hold.
_COLLECTIONS = {"ema_parameters": "params", "ema_batch_stats": "batch_stats"}


def is_published(folder: Path) -> bool:
    """Whether a folder is a published model, or one whose weights are lost."""
    return (folder / WEIGHTS).is_file() or _is_description(_json(folder / METADATA))


def arrays_of(state: State) -> dict[str, np.ndarray]:
    """Returns the arrays of a state for evaluation (see `state.for_evaluation`) under their published names."""
    return {_public(path): array for path, array in named_arrays(state).items()}


def write(folder: Path, name: str, arrays: Mapping[str, np.ndarray], metadata: dict) -> None:
    """Writes `model.safetensors` and `config.json` to a folder.

    Args:
      name: of the variant.
      arrays: by their published names.
      metadata: of what was trained.
    """
    arrays = {path: np.ascontiguousarray(array) for path, array in arrays.items()}
    described = {path: describe_array(array) | {"sha256": sha256(array)} for path, array in arrays.items()}
    header = {"library_name": LIBRARY, "format": FORMAT_VERSION, "name": name}
    (folder / WEIGHTS).write_bytes(safetensors.numpy.save(arrays, metadata={"format": "flax"}))
    text = to_json(sealed({**metadata, **header, "arrays": described}), in_order=True)
    (folder / METADATA).write_text(text, encoding="utf-8")


def read_metadata(folder: Path) -> dict:
    """Reads the metadata: those of the checkpoint, and the variant's `name`. Raises `UserError` where it is damaged."""
    found = _metadata(folder)
    return {name: value for name, value in found.items() if name not in ("arrays", "sha256", "library_name")}


def restore(folder: Path, like: State) -> State:
    """Reads a state as NumPy arrays; `like` gives the structure, shapes and dtypes that are expected.

    Raises `UserError` where an array is missing, unexpected, of another shape or dtype, or not what was published.
    """
    expected = arrays_of(like)
    found = read_arrays(folder, {name: describe_array(array) for name, array in expected.items()})
    return jax.tree.unflatten(jax.tree.structure(like), [found[name] for name in expected])


def read_arrays(folder: Path, expected: dict[str, dict] | None = None) -> dict[str, np.ndarray]:
    """Reads the arrays by their published names; raises `UserError` where they are not what was published.

    `expected` are shapes and dtypes (`describe_array`); by default those of `config.json`.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected the published model's arrays")
    with reading(f"{path}: damaged, expected a safetensors file"):
        found = safetensors.numpy.load_file(path)
    metadata = _metadata(folder)
    with reading(f"{folder / METADATA}: not the description of a training"):
        hashes = {name: array["sha256"] for name, array in metadata["arrays"].items()}
        said = {name: {key: array[key] for key in ("shape", "dtype")} for name, array in metadata["arrays"].items()}
    expected = said if expected is None else expected
    described = {name: describe_array(array) for name, array in found.items()}
    if different := list(differences(described, expected)):
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        raise UserError(f"{path}: its arrays are not those of the model: {'; '.join(different[:3])}{more}")
    for name, array in found.items():
        if sha256(array) != hashes.get(name):
            raise UserError(f"{path}: damaged ({name} has another SHA-256 than {METADATA} says)")
    return found


def _metadata(folder: Path) -> dict:
    path = folder / METADATA
    metadata = _json(path)
    if not _is_description(metadata):
        raise UserError(f"{path}: expected the description of a model that `publish` wrote")
    if metadata.get("format") != FORMAT_VERSION:
        raise UserError(f"{path}: format {brief(metadata.get('format'))}, expected {FORMAT_VERSION}")
    if not isinstance(metadata.get("name"), str):
        raise UserError(f"{path}: name is {brief(metadata.get('name'))}, expected that of the variant")
    if sealed(metadata)["sha256"] != metadata.get("sha256"):
        raise UserError(f"{path}: damaged (it has another SHA-256 than it says)")
    with reading(f"{path}: not the description of a training"):
        return metadata | {"config": json.loads(json.dumps(configuration.completed(metadata["config"])))}


def _json(path: Path) -> object:
    """What a JSON file holds; None where there is none, or it is damaged."""
    try:
        return read_json(path)
    except (OSError, ValueError, RecursionError):
        return None


def _is_description(found: object) -> bool:
    return isinstance(found, dict) and found.get("library_name") == LIBRARY


def _public(path: str) -> str:
    """The name in a published model of an array of `State`."""
    first, slash, rest = path.partition("/")
    return _COLLECTIONS.get(first, first) + slash + rest
