"""Trains one variant over all folds and seeds, at once.

Writes the same files to the workdir as `study`. After an interruption the same command resumes.
"""

import argparse

from ser_jax.commands import study
from ser_jax.commands.common import add_config_arguments, add_process_arguments, add_profile_argument, load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    add_config_arguments(parser)
    parser.add_argument(
        "--variant", metavar="NAME", help="train this variant of the study (default: the configuration itself)"
    )
    add_profile_argument(parser)
    study.add_dry_run_argument(parser)
    add_process_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    from ser_jax.errors import UserError
    from ser_jax.studies.plan import one_variant

    of_study = next((change for change in args.overrides if change.startswith("--config.study.")), None)
    if of_study and args.variant is None:
        raise UserError(f"train: found {of_study}, but no variant of the study; expected --variant NAME, or `study`")
    settings = one_variant(load_config(args), args.variant)
    if args.dry_run:
        return study.print_dry_run(args, settings, None)
    return study.run_together(args, settings, None, (0, 1))
