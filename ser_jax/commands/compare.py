"""Compare results: workdirs and tables of predictions, also those of other programs.

Each argument is [NAME=]PATH[:VARIANT]. PATH is a workdir, its predictions.parquet, or another program's table (CSV or
Parquet) with the columns utterance, label and p_<emotion> (or one named after each emotion, or prediction alone), and
speaker, fold and seed where they are known. All figures are of the utterances that all results have; every variant is
compared with the first one, or with --baseline. For a single variant only its figures are computed again. A result on a
merged corpus can be compared with one on a part of it, over the utterances of that part.

With --across_corpora each argument is a workdir, and each of another corpus: the comparisons that all of them have are
pooled over corpora; --out writes the page.
"""

import argparse
import json
from typing import Any

from ser_jax.commands.common import refuse_published


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("results", nargs="+", metavar="[NAME=]PATH[:VARIANT]", help="a result to compare")
    parser.add_argument("--baseline", metavar="NAME", help="the variant that all others are compared with")
    parser.add_argument(
        "--margin",
        type=float,
        metavar="POINTS",
        help="points of UA within which variants are equivalent (default: 2, that of config.study.margin)",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="write the report there, and of one corpus summary.json and all predictions"
    )
    parser.add_argument("--across_corpora", action="store_true", help="the same variants on several corpora")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    from ser_jax.config.options import OPTIONS
    from ser_jax.errors import UserError
    from ser_jax.report.across import write_across
    from ser_jax.report.summary import to_json
    from ser_jax.report.terminal import results_table
    from ser_jax.studies import compare

    refuse_published("--out", args.out)
    if args.across_corpora:
        if args.baseline or args.margin is not None:
            raise UserError("--across_corpora: expected neither --baseline nor --margin beside it")
        if args.out:
            compare.check_folder(args.out)
        view = compare.view_across_corpora(args.results)
        if args.out:
            write_across(args.out, view)
        print(json.dumps(view, indent=1, ensure_ascii=False) if args.json else corpora_table(view))
        if args.out and not args.json:
            print(f"\n{args.out}: report.html, report.md, figures, tables")
        return 0
    margin = OPTIONS["study"]["margin"].default if args.margin is None else args.margin
    if not 0 < margin < 100:
        raise UserError(f"--margin {margin:g}: expected points of UA above 0 and below 100")
    made, table, remarks = compare.compare(args.results, args.baseline, margin / 100)
    if args.out:
        compare.write(made, table, args.out)
    if args.json:
        print(json.dumps(to_json(made), indent=1, ensure_ascii=False))
        return 0
    print(results_table(made))
    if remarks:
        print("", *remarks, sep="\n")
    if args.out:
        print(f"\n{args.out}: report.html, report.md, summary.json, predictions.parquet")
    return 0


def corpora_table(view: dict[str, Any]) -> str:
    """The view across corpora as text: UA, then every comparison on each corpus and pooled, then notes."""
    from ser_jax.report.across import notes_of, pair_of
    from ser_jax.report.numbers import p_equals, percent, points_with

    corpora, width = view["corpora"], max(map(len, (*view["variants"], "variant")))
    lines = [f"{'variant':{width}}" + "".join(f"{name:>12}" for name in corpora)]
    for variant in view["variants"]:
        lines.append(f"{variant:{width}}" + "".join(f"{percent(view['ua'][name][variant]):>12}" for name in corpora))
    for effect in view["effects"]:
        parts = [f"{name} {points_with(own['estimate'], own['ci95'])}" for name, own in effect["corpora"].items()]
        lines.append(f"{pair_of(effect)}, UA points: {', '.join(parts)}")
        pooled = effect["pooled"]
        if pooled:
            lines[-1] += f"; pooled {points_with(pooled['estimate'], pooled['ci95'])}, {p_equals(pooled['p'])}"
    return "\n".join([*lines, *(f"Note: {note}" for note in notes_of(view))])
