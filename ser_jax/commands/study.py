"""Trains every variant of a configuration over all folds and seeds, and compares them.

Writes to the workdir: config.json, summary.json, predictions.parquet, confusion.png, and a folder for each variant
with its checkpoints, log and predictions. Interrupted, the same command goes on where it was.
"""

import argparse

from ser_jax.commands.common import add_config_arguments, start_jax


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    from ser_jax import config
    from ser_jax.evaluation.tables import results_table
    from ser_jax.studies.run import run_study

    settings = config.load(args.config, args.overrides)
    start_jax()
    print(results_table(run_study(settings, args.workdir, data_dir=args.data_dir)))
    print(f"\n{args.workdir}: summary.json, predictions.parquet, confusion.png")
    return 0
