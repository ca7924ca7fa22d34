"""List the corpora that can be named: language, speakers, licence, where to get them, and what is prepared here.

The protocol is the one that a corpus's literature uses most; `audit CORPUS --protocol NAME` says what it keeps apart.
"""

import argparse
import os
from typing import Any

from ser_jax.commands.common import add_data_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_data_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    import json

    rows = table(args.data_dir)
    print(json.dumps(rows, indent=1, ensure_ascii=False) if args.json else text(rows))
    return 0


def table(data_dir: str | os.PathLike | None) -> list[dict[str, Any]]:
    """Returns a row for every corpus: the published ones, then the user's own that are prepared."""
    from ser_jax.corpora import available_corpora, catalogue, corpus, packed_folder
    from ser_jax.corpora.synthetic import BUILT_IN
    from ser_jax.errors import UserError

    rows = catalogue.published()
    for name in available_corpora(data_dir):
        if name not in rows and name not in BUILT_IN:
            rows[name] = {"title": "your own"}
    for name, row in rows.items():
        try:
            here = corpus.load(packed_folder(name, data_dir))
            row["prepared"] = len(here.utterances)
            row["hours"] = round(len(here.samples) / corpus.SAMPLE_RATE / 3600, 2)
        except UserError:
            row["prepared"] = 0
    return [{"name": name, **row} for name, row in rows.items()]


def text(rows: list[dict[str, Any]]) -> str:
    """Returns the table as text."""
    columns = ("name", "language", "speakers", "utterances", "prepared", "hours", "protocol", "licence", "from")
    cells = [["" if row.get(column) is None else str(row[column]) for column in columns] for row in rows]
    widths = [max(len(line[at]) for line in [list(columns), *cells]) for at in range(len(columns))]
    lines = [list(columns), *cells]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
    return "\n".join(padded)
