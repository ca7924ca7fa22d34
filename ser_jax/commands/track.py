"""Writes the runs of a training or study for an experiment tracker: curves, options, scores, confusion pictures.

  python launch.py track runs/calls --to mlflow --out runs/calls_mlflow

TensorBoard, Weights & Biases (offline) and MLflow; none of them needs a network, and nothing is sent. Every run, of a
variant, fold and seed, is one of the tracker's runs.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("workdir", metavar="WORKDIR", help="a folder that `train` or `study` made")
    parser.add_argument("--to", required=True, metavar="TRACKER", help="tensorboard, wandb or mlflow")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder for the tracker's files")
    parser.add_argument("--variant", metavar="NAME", help="only this variant")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    import re
    import shutil
    from pathlib import Path

    from ser_jax import extras, trackers
    from ser_jax.errors import UserError, did_you_mean
    from ser_jax.numbers import count

    if args.to not in trackers.TRACKERS:
        raise UserError(f"--to {args.to}: not a tracker{did_you_mean(args.to, trackers.TRACKERS)}")
    extras.require(args.to, f"--to {args.to}", *trackers.MODULES[args.to])
    out = Path(args.out)
    if out.exists() or not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: expected a new folder, in one that is there")

    from ser_jax.commands.common import start_jax
    from ser_jax.studies.track import tracked_runs

    start_jax()
    runs = tracked_runs(args.workdir, args.variant)
    out.mkdir()
    try:
        # Letters that a tracker refuses in names of projects are left out.
        project = re.sub(r"[^\w. -]+", "_", Path(args.workdir).resolve().name)[:100] or "runs"
        trackers.TRACKERS[args.to](runs, out, project)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    print(f"{out}: {count(len(runs), 'run')}; to look at them: {trackers.VIEWS[args.to].format(folder=out)}")
    return 0
