"""Prints the class probabilities of recordings: any file that libsndfile reads, of any rate and length.

The probabilities are the mean over the workdir's runs (all folds and seeds), or over those of one fold or seed. A
recording longer than the model's window is averaged over windows. A file that cannot be read is named on standard
error, the others are predicted, and the exit status is 2.
"""

import argparse

from ser_jax.commands.common import start_jax


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="recordings: wav, flac, ogg, mp3, ...")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="a folder that `train` or `study` made")
    parser.add_argument("--variant", metavar="NAME", help="the variant to use, where the workdir has several")
    parser.add_argument("--fold", metavar="NAME", help="only the runs of this fold")
    parser.add_argument("--seed", metavar="N", type=int, help="only the runs of this seed")
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of a table")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    import json
    import sys

    from ser_jax.errors import UserError
    from ser_jax.studies import restored

    start_jax()
    found = restored.find(args.workdir, args.variant)
    if len(found) > 1:
        raise UserError(
            f"{args.workdir} has several variants; choose one of --variant {', '.join(r.name for r in found)}"
        )
    table, errors = restored.predict_files(found[0], args.files, fold=args.fold, seed=args.seed)
    if args.json:
        for row in table.to_dict("records"):
            print(json.dumps(row, ensure_ascii=False))
    elif len(table):
        emotions = list(table.columns[1:])
        table.insert(1, "emotion", table[emotions].idxmax(axis=1))
        print(table.to_string(index=False, float_format="{:.3f}".format))
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return 2 if errors else 0
