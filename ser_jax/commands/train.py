"""Trains one variant over all folds and seeds, at once.

Writes to the workdir what `study` does. Interrupted, the same command goes on where it was.
"""

import argparse

from ser_jax.commands.common import add_config_arguments, start_jax


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    add_config_arguments(parser)
    parser.add_argument(
        "--variant", metavar="NAME", help="train this variant of the study (default: the configuration itself)"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    from ser_jax import config
    from ser_jax.evaluation.tables import results_table
    from ser_jax.studies.run import run_study

    settings = config.one_variant(config.load(args.config, args.overrides), args.variant)
    start_jax()
    print(results_table(run_study(settings, args.workdir, data_dir=args.data_dir)))
    print(f"\n{args.workdir}: summary.json, predictions.parquet, confusion.png")
    return 0
