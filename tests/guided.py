"""Fuzzes the doors of the project by atheris: contents that reach new branches of ser_jax are changed further.

    python -m tests.guided --cases 5000 --door tables --door predictions

It needs the package atheris (pip install atheris), and has the rules and the table of `tests.fuzz`. libFuzzer ends a
process, so each door has one of its own.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz import Count, Door, read_one

DOORS = ("tables", "audio", "structure", "archives", "features", "packed", "configurations", "predictions")
DOORS += ("workdirs", "encoders", "models")


def fuzz_door(name: str, cases: int, seed: int) -> None:
    """Fuzzes one door and prints its row of the table, then its findings; ends the process."""
    import atheris

    with atheris.instrument_imports(include=["ser_jax"]):
        from tests.doors import make_doors
    with tempfile.TemporaryDirectory() as scratch:
        (files,) = make_doors(Path(scratch), [name]).values()
        count, seeds, work = Count(), Path(scratch) / "seeds", Path(scratch) / "work"
        seeds.mkdir(), work.mkdir()
        for number, (_, valid, _) in enumerate(files):
            (seeds / str(number)).write_bytes(bytes([number]) + valid)

        def one(data: bytes) -> None:
            if data:
                door: Door = files[data[0] % len(files)]
                read_one(door, work, data[1:], count)
            if count.cases == cases:
                row = f"| {name} | {len(files)} | {count.cases:,} | {count.taken:,} | {count.refused:,} |"
                print(f"{row} {len(count.findings)} |", *count.findings.values(), sep="\n", flush=True)
                os._exit(int(bool(count.findings)))

        longest = 2 * max(len(valid) for _, valid, _ in files) + 1
        atheris.Setup([name, str(seeds), f"-seed={seed + 1}", f"-max_len={longest}", "-timeout=60"], one)
        atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=5_000, help="of each door (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--door", action="append", choices=DOORS, help="only this door; may be given again")
    parser.add_argument("--here", choices=DOORS, help=argparse.SUPPRESS)  # in this process
    args = parser.parse_args()
    if args.here:
        fuzz_door(args.here, args.cases, args.seed)
    print("| door | files | cases | taken | refused | findings |\n|---|---|---|---|---|---|", flush=True)
    found = 0
    for name in args.door or DOORS:
        command = [sys.executable, "-m", "tests.guided", "--here", name, "--cases", str(args.cases)]
        done = subprocess.run([*command, "--seed", str(args.seed)], stderr=subprocess.DEVNULL, check=False)
        if done.returncode not in (0, 1):
            print(f"{name}: ended with status {done.returncode}", flush=True)
        found += done.returncode != 0
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
