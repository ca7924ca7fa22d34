"""Simulates studies of known truth, and counts how often intervals cover it and verdicts find it.

It makes the tables of docs/statistics.md:

  OPENBLAS_NUM_THREADS=1 python -m benchmarks.inference_simulations --studies 400

and with --time, instead of them, says how long a comparison of two variants with 100,000 utterances takes.

A row is a design, a number of speakers and of seeds. Columns, in percent of the studies: `type I`, a difference where
there is none; `covered`, the 95 % interval of a difference that is there; `power`, a difference found that is as large
as the mean detectable difference of studies without one; `of four`, the same where it is one of four comparisons of a
question; `UA covered`, the interval of a single variant; `flips`, type I error of exact sign flips over speakers; then
in points of UA the detectable difference and the half width of the interval. One training that tests all speakers has
no verdict: what is covered is the difference of these models.
"""

import argparse
import functools
import math
import resource
import time

import numpy as np
import pandas as pd

from ser_jax.statistics import bootstrap, components, paired
from tests.statistics.simulated_designs import DESIGNS, effect_of, rates

FAMILY = 4
_POINTS = ("detectable", "half width")


def row(design: str, speakers: int, seeds: int, studies: int, *, balanced: bool = True) -> str:
    """Simulates one row of the table."""
    of = functools.partial(rates, design, speakers, seeds, balanced=balanced)
    without = of(studies=studies, of_variants=True)
    verdicts = not math.isnan(without["detectable"])
    there = of(studies=studies, effect=effect_of(without["detectable" if verdicts else "half width"]), seed=1)
    figures = [there["covered"], without["UA covered"]]
    if verdicts:
        effect = effect_of(without["detectable of four"])
        many = of(studies=studies // 2, family=FAMILY, effect=effect, seed=1)
        figures[1:1] = [there["difference"], many["difference"]]
        figures = [without["difference"], *figures, without["flips"]]
    else:
        figures = [math.nan, figures[0], math.nan, math.nan, figures[1], math.nan]
    cells = [f"{100 * value:.1f}" if value == value else "-" for value in (*figures, *map(without.get, _POINTS))]
    name = design if balanced else f"{design}, unbalanced"
    return f"| {name} | {speakers} | {seeds} | {' | '.join(cells)} |"


def time_of_a_comparison(utterances: int = 100_000, speakers: int = 1_000, seeds: int = 3) -> str:
    """Times one comparison of two variants, of seven emotions and ten folds, and its bootstrap."""
    rng, number = np.random.default_rng(0), np.arange(utterances)
    emotions, parts = np.array(list("abcdefg")), []
    speaker = number % speakers
    for variant in ("variant", "baseline"):
        for seed in range(seeds):
            probabilities = rng.dirichlet(np.ones(7), utterances)
            columns = {"corpus": "made", "variant": variant, "seed": seed, "label": emotions[number % 7]}
            columns |= {"utterance": [f"u{i}" for i in number], "fold": [f"f{i % 10}" for i in speaker]}
            columns |= {"speaker": [f"s{i}" for i in speaker]} | dict(zip("abcdefg", probabilities.T, strict=True))
            parts.append(pd.DataFrame(columns).rename(columns=lambda name: f"p_{name}" if len(name) == 1 else name))
    table = pd.concat(parts, ignore_index=True)
    begun = time.perf_counter()
    paired.compare(table, "variant", "baseline", {})
    whole = time.perf_counter() - begun
    tables, *_ = paired.paired(table, ["variant", "baseline"], "the comparison", {})
    cells = components.count_cells(tables)
    begun = time.perf_counter()
    bootstrap.bootstrap_contrasts(cells.drawn(), np.array([[1.0, -1.0]]))
    of_draws = time.perf_counter() - begun
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return f"{utterances:,} utterances: {whole:.1f} s, of which the bootstrap {of_draws:.1f} s; {memory:.1f} GiB"


def main() -> None:
    """Prints the table, a row at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--designs", nargs="+", choices=DESIGNS, default=list(DESIGNS))
    parser.add_argument("--speakers", type=int, nargs="+", default=[6, 10, 24, 60])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 5, 20])
    parser.add_argument("--time", action="store_true")
    options = parser.parse_args()
    if options.time:
        print(time_of_a_comparison())
        return
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
