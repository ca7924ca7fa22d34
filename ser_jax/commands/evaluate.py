"""Restores a workdir's checkpoints and scores them.

On their own corpus every run is scored on its own test fold, which reproduces the training's figures to the last
digit. With --corpus every run is scored on all of another corpus: emotions that the model does not know are dropped,
with a message. The results go to --out, else to WORKDIR/on_CORPUS. With --window_seconds or --batch_statistics the
runs are tested with these instead of their configuration's, and the folder's name says so.

The exit status is 1 if predictions of runs on their own corpus differ from those after their training.
"""

import argparse

from ser_jax.commands.common import add_data_argument, add_label_arguments, label_changes, start_jax


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("--workdir", required=True, metavar="DIR", help="a folder that `train` or `study` made")
    parser.add_argument(
        "--corpus", metavar="NAME", help="score on this corpus (default: the training's own, fold by fold)"
    )
    parser.add_argument("--variant", metavar="NAME", help="score only this variant (default: all in the workdir)")
    parser.add_argument(
        "--window_seconds",
        type=float,
        metavar="S",
        help="test on windows of this length instead (0: a training crop's)",
    )
    parser.add_argument(
        "--batch_statistics",
        choices=("running", "speaker"),
        help="statistics of batch normalisation instead: running averages, or those of each tested speaker",
    )
    parser.add_argument("--out", metavar="DIR", help="where the results go (default: a folder of the workdir)")
    add_label_arguments(parser.add_argument_group("other names for the emotions of --corpus"))
    add_data_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    from ser_jax.errors import UserError
    from ser_jax.report.terminal import results_table
    from ser_jax.studies.evaluate import evaluate_workdir

    labels = label_changes(args)
    if labels and not args.corpus:
        raise UserError("evaluate: --map, --synonyms and --drop are for another corpus, expected --corpus beside them")
    start_jax()
    changes = {name: getattr(args, name) for name in ("window_seconds", "batch_statistics")}
    changes = {name: value for name, value in changes.items() if value is not None}
    summary, folder, remarks, reproduced = evaluate_workdir(
        args.workdir, args.corpus, args.variant, args.data_dir, changes, labels, args.out
    )
    print(results_table(summary))
    print("", *remarks, f"{folder}: summary.json, predictions.parquet", sep="\n")
    return 0 if reproduced else 1
