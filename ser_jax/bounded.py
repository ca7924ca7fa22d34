"""Readers of untrusted files that may unpack to far more than they are: such a file is refused before it is unpacked.

A Parquet file of a kilobyte may hold a billion equal rows, an archive of arrays a gigabyte of zeros, and an HDF5 file
an array that was never written.
"""

import os
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from ser_jax.errors import UserError

MOST_BYTES = 100_000_000  # to which any file may unpack
MOST_TIMES = 200  # its own size, to which a larger one may


def read_parquet(path: str | os.PathLike, *, whole_numbers: bool = False) -> pd.DataFrame:
    """Returns the table of a Parquet file. Raises UserError for far more values than its bytes hold.

    With `whole_numbers` integers of which some are missing stay as they are: as floating point two would become one.
    """
    import pyarrow.parquet  # pandas imports it too, when it reads

    with pyarrow.parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        if (twice := next((name for name in names if names.count(name) > 1), None)) is not None:
            raise UserError(f"{path}: the column `{twice}` occurs twice")
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        values = sum(group.column(j).num_values for group in groups for j in range(group.num_columns))
        refuse(path, 8 * max(values, file.metadata.num_rows), os.stat(path).st_size)
        # Not by pandas: the threads that Arrow starts abort some process in a hundred at its end.
        table = file.read(use_threads=False, use_pandas_metadata=True)
        return table.to_pandas(use_threads=False, integer_object_nulls=whole_numbers)


def load_npz(path: str | os.PathLike) -> "np.lib.npyio.NpzFile":
    """Opens an .npz file, without pickle. Raises UserError for an array far larger than its packed bytes."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            refuse(f"{path}: {member.filename[:80]}", member.file_size, member.compress_size)
    return np.load(path, allow_pickle=False)


def refuse(what: str | Path | os.PathLike, unpacked: int, packed: int) -> None:
    """Raises UserError where so many bytes would unpack to far more."""
    if unpacked > max(MOST_BYTES, MOST_TIMES * packed):
        raise UserError(
            f"{what}: would unpack from {packed:,} to {unpacked / 1e6:,.0f} MB, expected at most {MOST_TIMES} times as "
            "much; write it without compression, if that is meant"
        )
