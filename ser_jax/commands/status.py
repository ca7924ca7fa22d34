"""Shows which variants of a study are trained, running, interrupted or failed, and how far each is.

A variant is running if a process has locked its folder; after an interruption the same `study` command resumes.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("workdir", metavar="WORKDIR", help="a folder that `train` or `study` writes to")
    parser.add_argument("--store", metavar="DIR", help="the --store of `study`, if it had one")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns 1 where a variant failed, else 0."""
    import dataclasses
    import json

    from ser_jax.report import numbers
    from ser_jax.studies.status import study_status

    found = study_status(args.workdir, args.store)
    if args.json:
        print(json.dumps([dataclasses.asdict(one) for one in found], indent=1))
    else:
        width = max(len(one.name) for one in found)
        for one in found:
            said = [f"step {one.step:,} of {one.steps:,} ({one.step / one.steps:.0%})"] if one.steps else []
            said += [f"last written {one.seconds_ago:.0f} s ago"] if one.seconds_ago is not None else []
            said += [f"about {numbers.clock(one.seconds_left)} left"] if one.seconds_left is not None else []
            said += [one.message] if one.message else []
            print(f"{one.name:{width}}  {one.state:12}{', '.join(said)}".rstrip())
    return int(any(one.state == "failed" for one in found))
