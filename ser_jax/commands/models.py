"""Prints every model with its parameters and multiply-adds, for each value of its attention switches.

Multiply-adds are those of the forward pass for a second of audio, in thousands: matrix products and convolutions.
Those of self-attention grow with the square of the utterance's length, so a length is assumed. Nothing is compiled.
"""

import argparse
from typing import Any

NUM_CLASSES = 7


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("--features", type=int, default=64, help="features of a frame (default: %(default)s)")
    parser.add_argument("--hop_ms", type=float, default=10.0, help="time between frames (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of the utterance (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON, with all options and their defaults")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    import json

    from ser_jax.errors import UserError
    from ser_jax.models import cost

    for option in ("features", "hop_ms", "seconds"):
        if not 0 < getattr(args, option) < float("inf"):
            raise UserError(f"--{option} {getattr(args, option):g}: expected a positive number")
    num_frames = max(round(args.seconds * 1000 / args.hop_ms), 1)
    # Tracing compiles nothing, so that what start_jax makes ready is not needed.
    rows = cost.table(NUM_CLASSES, num_frames, args.features)
    if args.json:
        setting = {name: getattr(args, name) for name in ("features", "hop_ms", "seconds")}
        print(json.dumps({**setting, "frames": num_frames, "classes": NUM_CLASSES, "models": rows}, indent=1))
    else:
        print(text(rows, args.features, args.hop_ms, args.seconds))
    return 0


def text(rows: list[dict[str, Any]], features: int, hop_ms: float, seconds: float) -> str:
    """The table for people: a block for each model, and how much more each value of a switch costs than the first."""
    lines = [
        f"{features} features every {hop_ms:g} ms, {NUM_CLASSES} emotions; thousands of multiply-adds for a second of",
        f"audio in an utterance of {seconds:g} s; * marks the default, + what is more than with a switch's first value",
        "",
        f"{'model':30}{'parameters':>12}{'k mult-adds/s':>15}{'+ parameters':>14}{'+ k mult-adds/s':>17}",
    ]
    for row in rows:
        lines += ["", f"{row['name']:30}{_numbers(row, seconds)}", f"  {row['summary']}"]
        for switch, values in row["switches"].items():
            for value in values:
                label = f"  {switch} = {value['value']}{' *' if value['default'] else ''}"
                if "refused" in value:
                    lines.append(f"{label:30}  {value['refused']}")
                else:
                    more = _more(value, values[0], seconds) if value is not values[0] else ""
                    lines.append(f"{label:30}{_numbers(value, seconds)}{more}")
    return "\n".join(lines)


def _numbers(cost: dict[str, Any], seconds: float) -> str:
    return f"{cost['parameters']:12,}{cost['multiply_adds'] / seconds / 1e3:15,.1f}"


def _more(cost: dict[str, Any], first: dict[str, Any], seconds: float) -> str:
    if "refused" in first:
        return ""
    parameters, multiply_adds = (cost[what] - first[what] for what in ("parameters", "multiply_adds"))
    return f"{parameters:+14,}{multiply_adds / seconds / 1e3:+17,.1f}"
