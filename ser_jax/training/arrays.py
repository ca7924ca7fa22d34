"""Arrays of a tree under their names: described, hashed, compared; and metadata that carry a hash of themselves."""

import hashlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ser_jax.files import to_json


def named_arrays(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by their paths, such as "parameters/classifier/kernel", in the order of the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def digest(tree: Any) -> str:
    """Returns a SHA-256 that changes with any name, shape, dtype or value of a tree of arrays."""
    arrays = {name: describe_array(array) | {"sha256": sha256(array)} for name, array in named_arrays(tree).items()}
    return hashlib.sha256(to_json(arrays).encode()).hexdigest()


def describe_array(array: Any) -> dict[str, Any]:
    """Returns an array's shape and dtype as JSON has them."""
    return {"shape": list(array.shape), "dtype": str(array.dtype)}


def sha256(array: np.ndarray) -> str:
    """Returns the SHA-256 (hex) of an array's values, in C order."""
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()


def sealed(metadata: dict) -> dict:
    """Returns the metadata with a SHA-256 of all else in them."""
    rest = {name: value for name, value in metadata.items() if name != "sha256"}
    return {**rest, "sha256": hashlib.sha256(to_json(rest).encode()).hexdigest()}


def differences(saved: dict[str, dict], expected: dict[str, dict]) -> Iterator[str]:
    """Yields a line for each array that is missing, unexpected, or of another shape or dtype."""
    for name in sorted({*saved, *expected}):
        if name not in saved:
            yield f"{name} is missing"
        elif name not in expected:
            yield f"{name} is unexpected"
        else:
            for what in ("shape", "dtype"):
                found, wanted = saved[name][what], expected[name][what]
                if found != wanted:
                    yield f"{name} has {what} {found}, expected {wanted}"
