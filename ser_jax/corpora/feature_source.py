"""Pre-extracted features, as other programs write them: one array [frames, dims] or [dims] per utterance.

Where they may lie:

- a folder with a file `ID.npy`, or `ID.npz` with a single array, per utterance (ids with a / are files in subfolders);
- a file `.npz`, or `.h5` or `.hdf5` (HDF5), with an array per utterance under the utterance's id;
- a file `.parquet` with a column `id`, and either one column of lists (dims, or frames of dims) per utterance; or one
  column of numbers per dim, a row per utterance; or the same with a column `frame` (0, 1, ...), a row per frame.
"""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int
from tqdm import tqdm

from ser_jax import bounded
from ser_jax.corpora.corpus import Corpus
from ser_jax.errors import UserError, reading

_HDF5 = (".h5", ".hdf5")
_EXPECTED = "expected a folder of .npy or .npz files, or a .npz, .h5, .hdf5 or .parquet file"

Readers = dict[str, Callable[[], Any]]  # by utterance id; each reads its array when it is called


@dataclasses.dataclass(frozen=True)
class FeatureSource:
    """Features that were found good for a corpus; row i is that of the corpus's table.

    Attributes:
      names: of the dims, or None where the source does not name them.
      dtype: float16 where all arrays are, else float32.
      num_frames: of each utterance.
      read: row -> the array [frames, dims] of that utterance, of `dtype`.
    """

    names: tuple[str, ...] | None
    dims: int
    dtype: np.dtype
    num_frames: Int[np.ndarray, " utterances"]
    read: Callable[[int], np.ndarray]


@contextlib.contextmanager
def read_features(source: str | os.PathLike, corpus: Corpus) -> Iterator[FeatureSource]:
    """Opens features and checks them against the corpus: each of its utterances has one good array, and nobody else.

    Every array is read once for the check and again by `FeatureSource.read`; only one is held at a time.
    Raises UserError that counts and names the utterances that are missing or extra, whose array cannot be read, is not
    of numbers, has neither one nor two axes, no frame, other dims than the rest, or a value that is not finite.
    """
    path = Path(source)
    with contextlib.ExitStack() as stack:
        readers, names = _open(path, stack)
        ids = corpus.utterances["id"].tolist()
        present = set(ids)
        _refuse(path, [name for name in ids if name not in readers], f"utterances of corpus {corpus.name} are missing")
        extra = [name for name in readers if name not in present]
        _refuse(path, extra, f"arrays belong to no utterance of corpus {corpus.name}")
        yield _check(path, [readers[name] for name in ids], ids, names)


def _check(
    path: Path, readers: Sequence[Callable[[], Any]], ids: Sequence[str], names: tuple[str, ...] | None
) -> FeatureSource:
    unreadable, not_numbers, wrong_rank, empty, not_finite = ([] for _ in range(5))
    shapes: dict[str, tuple[int, int]] = {}
    dtypes = set()
    for name, reader in zip(tqdm(ids, "checking", unit="utterance", disable=None), readers, strict=True):
        try:
            array = np.asarray(reader())
        except UserError:
            raise
        except Exception:  # of a damaged array, readers raise whatever they ran into
            unreadable.append(name)
            continue
        if array.dtype.kind not in "fiu":
            not_numbers.append(name)
        elif array.ndim not in (1, 2):
            wrong_rank.append(name)
        elif array.size == 0:
            empty.append(name)
        else:
            dtypes.add(np.dtype(np.float16 if array.dtype == np.float16 else np.float32))
            array = _as_frames(array, np.result_type(*dtypes))
            shapes[name] = array.shape
            if not np.isfinite(array).all():
                not_finite.append(name)
    _refuse(path, unreadable, "arrays cannot be read")
    _refuse(path, not_numbers, "arrays are not of real numbers")
    _refuse(path, wrong_rank, "arrays have neither the axes [frames, dims] nor [dims]")
    _refuse(path, empty, "arrays hold no value")
    # What most utterances have is taken as right.
    dims = pd.Series([dims for _, dims in shapes.values()]).mode().iloc[0]
    others = [name for name, shape in shapes.items() if shape[1] != dims]
    found = f", expected {dims} like the other {len(ids) - len(others)}"
    _refuse(path, others, f"arrays have other dims{found}", lambda name: f"{name}: {shapes[name][1]}")
    _refuse(path, not_finite, "arrays hold NaN or infinity (as float32, or float16 where all are)")
    dtype = np.result_type(*dtypes)
    return FeatureSource(
        names=names,
        dims=int(dims),
        dtype=dtype,
        num_frames=np.array([shapes[name][0] for name in ids], np.int64),
        read=lambda row: _as_frames(np.asarray(readers[row]()), dtype),
    )


def _as_frames(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):  # becomes infinite, which is refused
        return np.atleast_2d(array).astype(dtype)


def _refuse(path: Path, names: Sequence[str], what: str, show: Callable[[str], str] = str) -> None:
    """Raises UserError that counts the utterances `names`, says what is wrong with them and names the first."""
    if names:
        shown = ", ".join(show(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")
        raise UserError(f"{path}: {len(names)} {what} ({shown})")


def _open(path: Path, stack: contextlib.ExitStack) -> tuple[Readers, tuple[str, ...] | None]:
    """Returns what a source holds by id, and the names of its dims where it has them; `stack` closes its files."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; {_EXPECTED}")
    with reading(f"{path}: cannot be read"):
        if path.is_dir():
            return _open_folder(path), None
        if path.suffix == ".npz":
            archive = stack.enter_context(bounded.load_npz(path))
            return {name: functools.partial(archive.__getitem__, name) for name in archive.files}, None
        if path.suffix in _HDF5:
            return _open_hdf5(path, stack), None
        if path.suffix == ".parquet":
            return _open_parquet(path)
    raise UserError(f"{path}: {_EXPECTED}")


def _open_folder(folder: Path) -> Readers:
    readers: Readers = {}
    for path in sorted(folder.rglob("*.np[yz]")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if path.name.startswith("."):
            continue
        if name in readers:
            raise UserError(f"{folder}: utterance {name!r} has two files, {path.stem}.npy and {path.stem}.npz")
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: a folder, a pipe or a device, expected a file with an array")
        readers[name] = functools.partial(_read_file, path)
    if not readers:
        raise UserError(f"{folder}: no .npy or .npz file anywhere below it")
    return readers


def _read_file(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.load(path)
    with bounded.load_npz(path) as archive:
        if len(archive.files) != 1:
            raise UserError(f"{path}: holds {len(archive.files)} arrays, expected one")
        return archive[archive.files[0]]


def _open_hdf5(path: Path, stack: contextlib.ExitStack) -> Readers:
    try:
        import h5py
    except ImportError as error:
        raise UserError(f"{path}: reading HDF5 needs the package h5py: `pip install h5py`") from error
    file = stack.enter_context(h5py.File(path))
    readers: Readers = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            bounded.refuse(f"{path}: {name[:80]}", item.size * item.dtype.itemsize, item.id.get_storage_size())
            readers[name] = functools.partial(item.__getitem__, ())

    file.visititems(visit)
    return readers


def _open_parquet(path: Path) -> tuple[Readers, tuple[str, ...] | None]:
    table = bounded.read_parquet(path)
    if "id" not in table:
        raise UserError(f"{path}: no column `id`, found {', '.join(map(str, table.columns[:5])) or 'none'}")
    table["id"] = table["id"].astype(str)
    columns = [column for column in table.columns if column not in ("id", "frame")]
    if not columns:
        raise UserError(f"{path}: no column but {' and '.join(table.columns)}, expected the features beside them")
    if len(columns) == 1 and "frame" not in table and table[columns[0]].dtype == object:
        _refuse_repeated(path, table)
        rows = zip(table["id"], table[columns[0]], strict=True)
        return {name: functools.partial(_from_lists, value) for name, value in rows}, None
    for column in columns:
        if not pd.api.types.is_numeric_dtype(table[column]):
            raise UserError(f"{path}: column `{column}` is not of numbers, expected one dim of the features")
    if "frame" in table:
        table = table.sort_values(["id", "frame"], kind="stable")
        wrong = table["id"][table["frame"] != table.groupby("id").cumcount()]
        _refuse(path, wrong.drop_duplicates().tolist(), "utterances' frames are not numbered 0, 1, 2, ...")
    else:
        _refuse_repeated(path, table)
    values = table[columns].to_numpy()
    places = pd.Series(np.arange(len(table))).groupby(table["id"].to_numpy(), sort=False).agg(["min", "max"])
    readers = {
        name: functools.partial(values.__getitem__, slice(first, last + 1))
        for name, first, last in places.itertuples(name=None)
    }
    return readers, tuple(map(str, columns))


def _refuse_repeated(path: Path, table: pd.DataFrame) -> None:
    _refuse(path, table["id"][table["id"].duplicated()].tolist(), "ids are repeated, and there is no column `frame`")


def _from_lists(value: Any) -> np.ndarray:
    """A list of numbers, or of lists of numbers, as pandas gives it: nested arrays of objects."""
    value = np.asarray(value)
    return np.stack([np.asarray(row) for row in value]) if value.dtype == object and value.ndim else value
