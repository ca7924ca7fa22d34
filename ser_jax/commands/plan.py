"""Predicts which differences of UA a study could detect, and its time on this machine, from earlier results.

The squared standard error of a difference has a part due to speakers and a part due to seeds. Both are estimated from
the comparisons in RESULTS and extrapolated to other numbers of speakers and seeds:

  python launch.py plan docs/results/five_seeds/emodb_recurrent --seeds 5 20 --speakers 10 40 --comparisons 3

A detectable difference is one that 80 % of such studies find significant, after correction for `--comparisons`.
If the results were trained on other hardware, a training is timed for some seconds (not with --no_timing).
"""

import argparse
from typing import Any

from ser_jax.commands.common import add_data_argument, start_jax


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("results", metavar="RESULTS", help="a folder that `study` or `compare` made")
    parser.add_argument(
        "--seeds", type=int, nargs="+", help="numbers of seeds (default: 1, 2 and 4 times those of RESULTS)"
    )
    parser.add_argument("--speakers", type=int, nargs="+", help="numbers of speakers (default: that of RESULTS)")
    parser.add_argument(
        "--comparisons",
        type=int,
        default=1,
        help="comparisons of one question, which are corrected together (default: %(default)s)",
    )
    parser.add_argument(
        "--no_timing", action="store_true", help="give the time on the hardware of RESULTS; train nothing"
    )
    add_data_argument(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    import json
    import sys

    from ser_jax.errors import printed, refusal
    from ser_jax.studies import design

    results = design.read_results(args.results)
    one_seed = results.parts.seeds != results.parts.seeds  # NaN: what seeds are worth is not known
    seeds = args.seeds or [results.seeds * times for times in ((1,) if one_seed else (1, 2, 4))]
    wanted = [(speakers, number) for speakers in args.speakers or [results.speakers] for number in seeds]

    def designs() -> list[design.Design]:
        return [design.design(results, *sizes, args.comparisons) for sizes in wanted]

    made, why_not = designs(), ""
    if not args.no_timing:
        try:
            start_jax()
            results = design.timed_here(results, args.data_dir)
        except Exception as error:  # what cannot be timed here takes nothing from what was computed
            why_not = refusal(error) or ""
            if not why_not:
                raise
        made = designs()
    if args.json:
        print(json.dumps(design.as_dict(results, made), indent=1))
    else:
        print(text(results, made))
    if why_not:
        print(printed(f"the time on this machine is not known: {why_not}"), file=sys.stderr)
    return 0


def text(results: Any, designs: list[Any]) -> str:
    """The table for people."""
    from ser_jax.numbers import count
    from ser_jax.report.numbers import detectable, duration

    share = results.parts.seeds / results.parts.total
    nouns = ("comparison", "speaker", "fold", "seed")
    sizes = ", ".join(count(getattr(results, f"{noun}s"), noun) for noun in nouns)
    lines = [f"{results.folder}: {sizes}."]
    if share == share:
        lines.append(
            f"{100 * share:.0f} % of the squared standard error is seeds, {100 * (1 - share):.0f} % is speakers."
        )
    else:
        lines.append("One seed: how much of the squared standard error is seeds is not known.")
    of = designs[0].comparisons
    corrected = "" if of == 1 else f", corrected for {of} comparisons"
    lines += ["", f"Points of UA: what 80 % of studies detect{corrected}, and the 95 % interval's half width", ""]
    lines.append(f"{'speakers':>8}{'seeds':>8}{'detectable':>12}{'half width':>12}{'runs':>8}{'time':>12}")
    for one in designs:
        told = "-" if one.seconds is None else duration(one.seconds)
        figures = f"{detectable([one.detectable]):>12}{100 * one.half_width:12.1f}{one.runs:8,}"
        lines.append(f"{one.speakers:8}{one.seeds:8}{figures}{told:>12}")
    lines.append("")
    if results.seconds is None:
        lines.append("Runs are those of two variants. How long they take was not measured in these results.")
    else:
        place = f"{results.hardware or 'unknown hardware'}{', this machine' if results.here else ''}"
        how = ", from some seconds of training" if results.here == "timed" else ""
        lines.append(f"Runs are those of two variants; their time is that of {place}{how}, without compilation.")
    return "\n".join(lines)
