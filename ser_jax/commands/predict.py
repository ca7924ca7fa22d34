"""Prints the class probabilities of recordings: any file that libsndfile reads, of any rate and length.

  python launch.py predict a.wav                          # by the model that comes with ser_jax
  python launch.py predict a.wav b.flac --workdir runs/emodb

The probabilities are the mean over the workdir's runs (all folds and seeds), or over those of one fold or seed. A
recording longer than the model's window is averaged over windows. A model that is normalised by speaker takes the
recordings of one call as one speaker's, and needs some ten of them. A file that cannot be read is named on standard
error, the others are predicted, and the exit status is 2.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ser_jax.commands.common import start_jax

PRETRAINED = Path(__file__).parents[2] / "pretrained" / "emodb"  # what predicts where no workdir is named


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="recordings: wav, flac, ogg, mp3, ...")
    parser.add_argument(
        "--workdir",
        metavar="DIR",
        help="a folder that `train`, `study` or `publish` made (default: the model that comes with ser_jax)",
    )
    parser.add_argument("--variant", metavar="NAME", help="the variant to use, where the workdir has several")
    parser.add_argument("--fold", metavar="NAME", help="only the runs of this fold")
    parser.add_argument("--seed", metavar="N", type=int, help="only the runs of this seed")
    parser.add_argument(
        "--attention", metavar="OUT.png", help="draw what was attended to; of several recordings as OUT-NAME.png"
    )
    parser.add_argument(
        "--data_dir", metavar="DIR", help="where pretrained encoders lie, for a model that needs one (see `encoders`)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of a table")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    import json
    import os
    import sys

    from ser_jax.errors import UserError
    from ser_jax.studies import restored, workdirs

    start_jax()
    workdir = args.workdir or PRETRAINED
    if not args.workdir:
        print(f"model: {os.path.relpath(workdir)}; what it knows is in its README.md", file=sys.stderr)
    found = workdirs.find(workdir, args.variant)
    if len(found) > 1:
        raise UserError(f"{workdir} has several variants; choose one of --variant {', '.join(r.name for r in found)}")
    pictures = _pictures(args.attention, args.files) if args.attention else {}
    if pictures:
        from ser_jax.report.attention_figure import attention_figure

        for file, title, look in restored.look_at(found[0], args.files, fold=args.fold, seed=args.seed):
            attention_figure(look, title, pictures[file])
    table, errors = restored.predict_files(found[0], args.files, fold=args.fold, seed=args.seed, data_dir=args.data_dir)
    if found[0].by_speaker and len(table):
        taken = f"the {len(table)} recordings are taken for one speaker's"
        known = taken if len(table) > 1 else "with one recording of a speaker it is lost"
        print(f"note: this model is normalised by speaker; {known}", file=sys.stderr)
    if args.json:
        for row in table.to_dict("records"):
            print(json.dumps(row, ensure_ascii=False))
    elif len(table):
        most_probable = table.iloc[:, 1:].to_numpy().argmax(axis=1)
        table.insert(1, "emotion", [found[0].emotions[label] for label in most_probable])
        print(table.to_string(index=False, float_format="{:.3f}".format))
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return 2 if errors else 0


def _pictures(path: str, files: Sequence[str]) -> dict[str, Path]:
    """Where the picture of every recording goes: `path`, or of several recordings `path` with the recording's name."""
    from ser_jax.errors import UserError

    path = Path(path)
    if path.suffix != ".png":
        raise UserError(f"--attention {path}: expected a name that ends in .png")
    if not path.parent.is_dir():
        raise UserError(f"--attention {path}: no such folder as {path.parent}")
    files = list(dict.fromkeys(files))
    if len(files) == 1:
        return {files[0]: path}
    pictures = {file: path.with_name(f"{path.stem}-{Path(file).stem}.png") for file in files}
    if len(set(pictures.values())) < len(files):
        raise UserError(f"--attention {path}: two recordings have the same name; draw them one at a time")
    return pictures
