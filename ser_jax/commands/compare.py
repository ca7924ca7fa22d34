"""Compare results: workdirs, tables of predictions, and what other programs predicted.

Each argument is [NAME=]PATH[:VARIANT]. PATH is a workdir, its predictions.parquet, or another program's table (CSV or
Parquet) with the columns utterance, label and p_<emotion> (or one named after each emotion, or prediction alone), and
speaker, fold and seed where they are known. All figures are of the utterances that all results have; every variant is
measured against the first one, or against --baseline.
"""

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("results", nargs="+", metavar="[NAME=]PATH[:VARIANT]", help="what is compared")
    parser.add_argument("--baseline", metavar="NAME", help="the variant that all others are measured against")
    parser.add_argument("--out", metavar="DIR", help="write summary.json and the merged predictions.parquet there")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    from ser_jax.evaluation.tables import results_table
    from ser_jax.studies import compare

    made, table, remarks = compare.compare(args.results, args.baseline)
    if args.out:
        compare.write(made, table, args.out)
    if args.json:
        print(json.dumps(made, indent=1, ensure_ascii=False))
        return 0
    print(results_table(made))
    if remarks:
        print("", *remarks, sep="\n")
    if args.out:
        print(f"\n{args.out}: summary.json, predictions.parquet")
    return 0
