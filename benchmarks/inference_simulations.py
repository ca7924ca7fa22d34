"""Simulates studies of known truth, and counts how often intervals cover it and verdicts find it.

It makes the tables of docs/statistics.md:

  OPENBLAS_NUM_THREADS=1 python -m benchmarks.inference_simulations --studies 400

A row is a design, a number of speakers and of seeds. Columns, in percent of the studies: `type I`, a difference where
there is none; `covered`, the 95 % interval of a difference that is there; `power`, a difference found that is as large
as the mean detectable difference of studies without one; `of four`, the same where it is one of four comparisons of a
question; `UA covered`, the interval of a single variant; `flips`, type I error of exact sign flips over speakers; then
in points of UA the detectable difference and the half width of the interval.
"""

import argparse

from tests.statistics.simulated_designs import DESIGNS, effect_of, rates

FAMILY = 4


def row(design: str, speakers: int, seeds: int, studies: int, *, balanced: bool = True) -> str:
    """Simulates one row of the table."""
    options = {"studies": studies, "balanced": balanced}
    without = rates(design, speakers, seeds, of_variants=True, **options)
    there = rates(
        design, speakers, seeds, effect=effect_of(without["detectable"], balanced=balanced), seed=1, **options
    )
    effect = effect_of(without["detectable of four"], balanced=balanced)
    of_many = rates(
        design, speakers, seeds, family=FAMILY, effect=effect, seed=1, **{**options, "studies": studies // 2}
    )
    percent = (without["difference"], there["covered"], there["difference"], of_many["difference"])
    percent = (*percent, without["UA covered"], without["flips"])
    points = (without["detectable"], without["half width"])
    name = design if balanced else f"{design}, unbalanced"
    cells = [f"{100 * value:.1f}" if value == value else "-" for value in (*percent, *points)]
    return f"| {name} | {speakers} | {seeds} | {' | '.join(cells)} |"


def main() -> None:
    """Prints the table, a row at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--designs", nargs="+", choices=DESIGNS, default=list(DESIGNS))
    parser.add_argument("--speakers", type=int, nargs="+", default=[6, 10, 24, 60])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 5, 20])
    options = parser.parse_args()
    names = ("design", "speakers", "seeds", "type I", "covered", "power", "of four", "UA covered", "flips")
    names = (*names, "detectable", "half width")
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}", flush=True)
    for design in options.designs:
        for speakers in options.speakers:
            for seeds in options.seeds:
                print(row(design, speakers, seeds, options.studies), flush=True)
    for design in options.designs:
        print(row(design, 10, 5, options.studies, balanced=False), flush=True)


if __name__ == "__main__":
    main()
