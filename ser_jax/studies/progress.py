"""The bar that shows how far a training is."""

import time

from tqdm import tqdm

_SHOWN = ("loss", "frames_loss", "dimensions_concordance")  # of what is logged, beside the progress


def progress(title: str, steps: int) -> tqdm:
    """Returns a bar of so many steps of single runs; nothing is shown where there is no terminal."""
    bar = tqdm(
        total=steps,
        desc=title,
        unit="step",
        unit_scale=True,
        smoothing=0.1,
        disable=None,  # where there is no terminal
    )
    bar.set_postfix_str("compiling")
    return bar


def show(bar: tqdm, entry: dict, num_runs: int) -> None:
    """Shows the figures that a step has: none where no run was trained, the last validation where it had none."""
    if bar.n == 0 and not bar.disable:  # the rate, and what is left by it, leave compiling out
        bar.initial, bar.start_t = entry["step"] * num_runs, time.time()
        bar.last_print_t = bar.start_t  # by which tqdm knows when it is closed that its line has to be ended
    bar.n = entry["step"] * num_runs
    shown = {name.replace("_", " "): f"{entry[name]:.3f}" for name in _SHOWN if name in entry}
    if "validation_ua" in entry:
        bar.validation = f"{100 * entry['validation_ua']:.1f}%"
    if hasattr(bar, "validation"):
        shown["validation UA"] = bar.validation
    bar.set_postfix(shown)
