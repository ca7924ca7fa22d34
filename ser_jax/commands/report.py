"""Writes the report of a study again from its predictions, summary and configuration.

It needs no accelerator, no corpus and no checkpoint. Published results hold these sources alone:

  python launch.py report docs/results/five_seeds/emodb_cnn --out runs/report_emodb_cnn
"""

import argparse

from ser_jax.commands.common import refuse_published


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument(
        "workdir", metavar="WORKDIR", help="a folder that `train`, `study`, `evaluate` or `compare` made"
    )
    parser.add_argument("--out", metavar="DIR", help="where the report goes (default: WORKDIR)")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    from ser_jax.studies.render import render

    refuse_published("--out", args.out)
    out = render(args.workdir, args.out)
    print(f"{out}: report.html, report.md, figures, tables")
    return 0
