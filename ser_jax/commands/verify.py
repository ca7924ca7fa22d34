"""Checks that data and results are unchanged: every file against its stored hash.

A PATH is a data directory, a corpus, features or hidden states, an encoder, records, a workdir, a store of populations,
a population, a published model, or a folder of these. It prints one line for each: whole, damaged (which file, and what
was expected), or cannot be told, if no hash was stored. Reports, TensorBoard's events and caches are not checked: they
can be made again.
"""

import argparse

_MOST = 3  # reasons that a line names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a folder that ser_jax made")
    parser.add_argument("--json", action="store_true", help="print JSON, with all reasons")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns 0 where all is whole, else 1."""
    import dataclasses
    import itertools
    import json

    from ser_jax.errors import one_line
    from ser_jax.studies.verify import WHOLE, verify

    whole, found = True, []
    looks = [verify(path) for path in args.paths]  # refuses a path that is none of ours before any is looked at
    for finding in itertools.chain.from_iterable(looks):
        whole &= finding.state == WHOLE
        found.append(dataclasses.asdict(finding) | {"path": str(finding.path)})
        if not args.json:
            more = f"; and {len(finding.reasons) - _MOST} more" if len(finding.reasons) > _MOST else ""
            reasons = "; ".join(finding.reasons[:_MOST])
            print(
                one_line(
                    f"{finding.state}: {finding.path}: {reasons or f'{finding.kind}, {finding.files} files'}{more}"
                )
            )
    if args.json:
        print(json.dumps(found, indent=1))
    return int(not whole)
