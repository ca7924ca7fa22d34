"""All that is wrong with a corpus, found in one go: listed, written as a CSV, refused or left out."""

import csv
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from ser_jax.errors import UserError
from ser_jax.files import atomic_file


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is wrong with one utterance: `where` is its file, or the line of the table; `id` may be unknown ("")."""

    where: str
    what: str
    id: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class Problems:
    """The problems that were found so far."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, where: str, what: str, id: str = "") -> None:
        """Adds one."""
        self.found.append(Problem(where, what, id))

    def rows(
        self, where: str | os.PathLike, rows: pd.DataFrame, bad: pd.Series, what: Callable[[pd.Series], str]
    ) -> pd.DataFrame:
        """Adds one for every row that is `bad`, and returns the other rows; the index of a table is its lines."""
        for line, row in rows[bad].iterrows():
            of = f"line {line}" if Path(where).is_file() else f"file {row['path']}"
            self.add(str(where), f"{of} {what(row)}", str(row.get("id", "")))
        return rows[~bad].copy() if bad.any() else rows

    def write(self, path: Path) -> None:
        """Writes all of them as a CSV with the columns where, what and id."""
        with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("where", "what", "id"))
            writer.writerows((problem.where, problem.what, problem.id) for problem in self.found)

    def refusal(self, name: str, total: int, file: Path) -> UserError:
        """Returns the error that names the first of them, counts the others and says where all are listed."""
        if len(self.found) == 1:
            return UserError(f"{self.found[0]}; --skip bad leaves it out")
        more = f" (and {len(self.found) - 1} more)"
        return UserError(
            f"{self.found[0]}{more}: {len(self.found)} of {total} utterances of {name} are bad, all listed in {file}; "
            "--skip bad leaves them out"
        )
