"""Trains every variant of a configuration over all folds and seeds, and compares them.

Writes to the workdir: report.html and report.md, summary.json, predictions.parquet, figures and tables, config.json,
and in populations/ a folder for each variant with its checkpoints, log and predictions. After an interruption
the same command resumes. Several machines that run it with the same folder share the work, and the last one to finish
writes the results.
"""

import argparse
import shlex

from ser_jax.commands.common import (
    add_config_arguments,
    add_process_arguments,
    add_profile_argument,
    join_processes,
    load_config,
    start_jax,
)

EXAMPLES = """examples:
  python launch.py study configs/studies/attention.py
  python launch.py study configs/studies/attention.py:emodb --dry_run
  python launch.py study configs/studies/attention.py:emodb --shard 0/4
  python launch.py study configs/studies/sweep.py:emodb --select 4
  python launch.py study configs/studies/encoder_choice.py:emodb --select folds
  python launch.py study configs/studies/attention.py:emodb \\
      --slurm jobs=4,partition=gpu,gpus_per_node=1,timeout_min=240
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.epilog = EXAMPLES
    add_config_arguments(parser)
    parser.add_argument(
        "--store",
        metavar="DIR",
        help="where trained populations are kept and found again, by what decides them (default: WORKDIR/populations); "
        "studies that share it train what they have in common once",
    )
    parser.add_argument(
        "--shard", metavar="I/N", help="leave to others all variants but every N-th, from the I-th (from 0) on"
    )
    parser.add_argument(
        "--slurm",
        metavar="KEY=VALUE,...",
        help="send the study to Slurm by submitit: jobs=N shards it, all else are submitit's own parameters "
        "(partition, timeout_min, gpus_per_node ...); cluster=local runs the jobs on this machine",
    )
    parser.add_argument(
        "--select",
        metavar="SPEAKERS|folds",
        help="a selection that uses no test speaker's labels. SPEAKERS: set so many speakers apart, choose the variant "
        "with the highest UA on them (WORKDIR/choice), and test it alone on all other speakers (WORKDIR/tested). "
        "folds: train all variants (WORKDIR/choice), and test in each fold the one with the highest UA on its "
        "validation speakers, or of linear models on the speakers that it learns from (WORKDIR/tested)",
    )
    add_profile_argument(parser)
    add_dry_run_argument(parser)
    add_process_arguments(parser)


def add_dry_run_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --dry_run."""
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="print what would be trained (runs, steps, parameters, memory, time by earlier trainings here) and what "
        "is trained already; compile nothing",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    from ser_jax.errors import UserError
    from ser_jax.studies.plan import make_plan

    settings, shard = load_config(args), _shard(args.shard)
    if args.select is not None:
        return _run_selection(args, settings)
    if args.dry_run:
        return print_dry_run(args, settings, args.store)
    if args.slurm and args.shard:
        raise UserError("--slurm makes its own shards: expected no --shard beside it")
    if args.slurm and (args.distributed or args.coordinator):
        raise UserError("--slurm sends the study to jobs of one process each: expected no --distributed, --coordinator")
    if args.slurm and args.profile_steps:
        raise UserError("--profile_steps traces a training of this process: expected no --slurm")
    if args.slurm:
        from ser_jax.studies.slurm import submit

        make_plan(settings)  # refused here and not in every job
        jobs = submit(run_shard, (settings, args.workdir, args.data_dir, args.store), args.slurm, args.workdir)
        print(f"sent to Slurm: {', '.join(jobs)}; their output is in {args.workdir}/slurm")
        print("the last one to finish writes the results; the same command without --slurm shows them")
        return 0
    return run_together(args, settings, args.store, shard)


def _run_selection(args: argparse.Namespace, settings: dict) -> int:
    """Runs the study that chooses a variant and the test of the choice; returns the exit status."""
    from pathlib import Path

    from ser_jax.errors import UserError, printed
    from ser_jax.report.terminal import results_table
    from ser_jax.studies import selection

    in_folds = args.select == selection.FOLDS
    if not in_folds and not args.select.isdecimal():
        raise UserError(f"--select {args.select}: expected a number of speakers, or {selection.FOLDS}")

    others = {"--slurm": args.slurm, "--shard": args.shard, "--distributed": args.distributed}
    others |= {"--coordinator": args.coordinator, "--profile_steps": args.profile_steps}
    if given := [option for option, value in others.items() if value]:
        raise UserError(f"--select: one process chooses and tests; expected no {given[0]} beside it")
    choice, tested = (str(Path(args.workdir) / name) for name in (selection.CHOICE, selection.TESTED))
    if in_folds:
        selection.check_folds(settings, args.data_dir)
    chooses = settings if in_folds else selection.choosing(settings, int(args.select), args.data_dir)
    if args.dry_run:
        args.workdir = choice
        return print_dry_run(args, chooses, args.store)
    status = run_shard(chooses, choice, args.data_dir, args.store, (0, 1))
    if status:
        return status  # without a variant that failed, another might be chosen
    if in_folds:
        print(results_table(selection.test_in_folds(choice, tested)))
        print(f"\n{tested}: report.html, report.md, summary.json, predictions.parquet, figures, tables")
        return status
    name, ua = selection.choose(choice)
    print(printed(f"chosen: {name}, UA {100 * ua:.1f} % on speakers set apart; the others test it") + "\n", flush=True)
    return run_shard(selection.testing(settings, name, int(args.select)), tested, args.data_dir, args.store, (0, 1))


def print_dry_run(args: argparse.Namespace, settings: dict, store: str | None) -> int:
    """Prints what a study would train; returns the exit status."""
    from ser_jax.studies.dry_run import dry_run

    start_jax()
    print(dry_run(settings, args.workdir, args.data_dir, store))
    return 0


def run_together(args: argparse.Namespace, settings: dict, store: str | None, shard: tuple[int, int]) -> int:
    """Runs a study's share in this process, or in all those that the options name; returns the exit status."""
    from ser_jax.training import processes

    join_processes(args)
    with processes.ended_together():
        return run_shard(settings, args.workdir, args.data_dir, store, shard, args.profile_steps)


def run_shard(
    settings: dict,
    workdir: str,
    data_dir: str | None,
    store: str | None,
    shard: tuple[int, int],
    profile_steps: tuple[int, int] | None = None,
) -> int:
    """Runs a study's share and prints what came of it; returns the exit status, not 0 where a variant failed."""
    import sys

    from ser_jax.errors import printed
    from ser_jax.report.terminal import results_table
    from ser_jax.studies.run import run_study

    start_jax()
    outcome = run_study(settings, workdir, data_dir=data_dir, store=store, shard=shard, profile_steps=profile_steps)
    if outcome.summary is not None:
        print(results_table(outcome.summary))
        for name, variant in outcome.summary.variants.items():
            runs = "; ".join(f"fold {run.fold}, seed {run.seed}, at step {run.step}" for run in variant.known.diverged)
            if runs:
                print(printed(f"{name}: without the runs that diverged: {runs}"), file=sys.stderr)
        print(f"\n{workdir}: report.html, report.md, summary.json, predictions.parquet, figures, tables")
        print(f"next: {_next(workdir, len(outcome.summary.variants))}")
    elif outcome.missing:
        print(f"this share is done; still to come from others: {', '.join(outcome.missing)}")
    for name, message in outcome.failed.items():
        print(f"error: variant {printed(name)} failed: {printed(message)}", file=sys.stderr)
    return 0 if not outcome.failed else 2 if outcome.failed.keys() <= outcome.refused else 1


def _next(workdir: str, variants: int) -> str:
    """The commands that trained models are used with, and their results compared."""
    place, several = shlex.quote(workdir), " --variant NAME" if variants > 1 else ""
    return f"`predict RECORDING --workdir {place}{several}`, `compare {place} OTHER`"


def _shard(text: str | None) -> tuple[int, int]:
    from ser_jax.errors import UserError

    if text is None:
        return 0, 1
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise UserError(f"--shard {text}: expected I/N with I from 0 to N - 1, as 0/4")
    return int(index), int(count)
