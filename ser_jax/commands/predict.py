"""Prints the emotions of recordings: any file that libsndfile reads, of any rate and length.

  python launch.py predict a.wav                          # by the model that comes with ser_jax
  python launch.py predict recordings/ --out emotions.csv
  python launch.py predict a.wav b.flac --workdir runs/emodb

The probabilities are the mean over the workdir's runs (all folds and seeds), or over those of one fold or seed. A
recording longer than the model's window is averaged over windows. A model that is normalised by speaker takes the
recordings of one call as one speaker's, and needs some ten of them. A file that cannot be read is named on standard
error, the others are predicted, and the exit status is 2.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ser_jax.commands.common import start_jax

if TYPE_CHECKING:
    import pandas as pd

    from ser_jax.api import Model

_TABLES = (".csv", ".parquet", ".jsonl")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="recordings (wav, flac, ogg, mp3, ...), folders of them, patterns with *, or - for standard input",
    )
    parser.add_argument(
        "--workdir",
        metavar="DIR",
        help="a folder that `train`, `study` or `publish` made, or the name of a model that comes with ser_jax "
        "(default: emodb)",
    )
    parser.add_argument("--variant", metavar="NAME", help="the variant to use, where the workdir has several")
    parser.add_argument("--fold", metavar="NAME", help="only the runs of this fold")
    parser.add_argument("--seed", metavar="N", type=int, help="only the runs of this seed")
    parser.add_argument("--out", metavar="FILE", help="write the table to FILE.csv, FILE.parquet or FILE.jsonl")
    parser.add_argument(
        "--attention", metavar="OUT.png", help="draw what was attended to; of several recordings as OUT-NAME.png"
    )
    parser.add_argument(
        "--data_dir", metavar="DIR", help="where pretrained encoders lie, for a model that needs one (see `encoders`)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of a table")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    import sys

    from ser_jax.corpora.inputs import expand
    from ser_jax.errors import printed

    files = expand(args.files)
    _check_file(args.out, "--out", _TABLES)
    pictures = _pictures("--attention", args.attention, files, (".png",)) if args.attention else {}

    import pandas as pd

    from ser_jax import api
    from ser_jax.studies.heard_files import read_groups, recognise

    start_jax()
    model = api.load(
        args.workdir or api.DEFAULT, variant=args.variant, fold=args.fold, seed=args.seed, data_dir=args.data_dir
    )
    if not args.workdir:
        print(f"model: {api.DEFAULT}; what it knows is in {model.folder}/README.md", file=sys.stderr)
    errors, tables = [], []
    for group in read_groups(model.recogniser, files, errors):
        table, _ = recognise(model.recogniser, group, errors)
        tables.append(table)
        if pictures:
            _draw_attention(model, {one.name: one.waveform for one in group}, pictures)
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"file": [], "notes": []})
    for file, notes in zip(table["file"], table["notes"], strict=True):
        if notes:
            print(f"note: {printed(f'{file}: {notes}')}", file=sys.stderr)
    if model.adapts and len(table):
        taken = f"the {len(table)} recordings are taken for one speaker's"
        known = taken if len(table) > 1 else "with one recording of a speaker it is lost"
        print(f"note: this model is normalised by speaker; {known}", file=sys.stderr)
    _tell(table, args.out, args.json)
    for error in errors:
        print(f"error: {printed(error)}", file=sys.stderr)
    return 2 if errors else 0


def _tell(table: "pd.DataFrame", out: str | None, as_json: bool) -> None:
    """Prints the table, or writes it to a file."""
    if out:
        write_table(table, out)
    if as_json:
        print(table.to_json(orient="records", lines=True, force_ascii=False, double_precision=15), end="")
    elif len(table) and not out:
        print(table.drop(columns="notes").to_string(index=False, float_format="{:.3f}".format))


def write_table(table: "pd.DataFrame", path: str) -> None:
    """Writes a table as its suffix says, .csv, .parquet or .jsonl; the file appears whole or not at all."""
    from ser_jax.files import atomic_file

    with atomic_file(path) as temporary:
        if path.endswith(".csv"):
            table.to_csv(temporary, index=False)
        elif path.endswith(".parquet"):
            table.to_parquet(temporary, index=False)
        else:
            table.to_json(temporary, orient="records", lines=True, force_ascii=False, double_precision=15)


def _draw_attention(model: "Model", waveforms: dict, pictures: dict[str, Path]) -> None:
    from ser_jax.report.attention_figure import attention_figure
    from ser_jax.studies import restored

    run = model.recogniser.runs[0]
    for file, title, look in restored.look_at(model.recogniser.restored, waveforms, run):
        attention_figure(look, title, pictures[file])


def _check_file(path: str | None, option: str, suffixes: Sequence[str]) -> None:
    """Refuses a name of another kind, or in a folder that is not there, before anything is computed."""
    from ser_jax.errors import UserError

    if path is None:
        return
    if Path(path).suffix not in suffixes:
        raise UserError(f"{option} {path}: expected a name that ends in {', '.join(suffixes)}")
    if not Path(path).parent.is_dir():
        raise UserError(f"{option} {path}: no such folder as {Path(path).parent}")


def _pictures(option: str, path: str, files: Sequence[str], suffixes: Sequence[str]) -> dict[str, Path]:
    """Where the file about every recording goes: `path`, or of several recordings `path` with the recording's name."""
    from ser_jax.errors import UserError

    _check_file(path, option, suffixes)
    path = Path(path)
    if len(files) == 1:
        return {files[0]: path}
    pictures = {file: path.with_name(f"{path.stem}-{Path(file).stem}{path.suffix}") for file in files}
    if len(set(pictures.values())) < len(files):
        raise UserError(f"{option} {path}: two recordings have the same name; take them one at a time")
    return pictures
