"""Runs a set of benchmarks, keeps their figures by device, and writes docs/performance.md and its plots from them.

python -m benchmarks.run [--set short] [--only NAME ...] [--results benchmarks/results] [--page docs/performance.md]
python -m benchmarks.run --set none     # the page alone, from the figures that there are

Each benchmark is a process of its own, and what it prints is shown. Its JSON lines go to RESULTS/DEVICE.json as they
come, beside the figures of those that were not run; whole figures from before stay where it fails. One that fails is
named at the end, and the others run.
"""

import argparse
import ast
import contextlib
import datetime
import functools
import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ser_jax import machine
from ser_jax.files import atomic_file

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent

_ONE_MODEL = "--model rnn --option hidden=8 --option depth=1"

# What is run, in this order: benchmark -> its options; a benchmark's further figures are "NAME-...". "small" only shows
# that everything works.
SETS: dict[str, dict[str, str]] = {
    "none": {},
    "short": {
        "models": "--turns 5 --steps 2",
        "population": "",
        "roofline": "--turns 5",
        "frontend": "",
        "inference": "",
        "extraction": "",
        "heads": "--turns 1",
        "preparing": "--turns 3",
        "feeds": "",
        "input_bound": "",
        "parallel": "",
        "startup": "--quickstart",
    },
    "gpu": {
        "study": "--torch_device cuda",
        "steps": "--runs 50 --precision tf32 --precision bfloat16",
        "steps-more": "--runs 1,10,100 --precision tf32 --precision bfloat16",
        "extraction": "--torch_device cuda --precision bfloat16 --batch 64 --shape wavlm_large --shape whisper_large",
    },
    "gpu_more": {
        "models": "--torch_device cuda --compiled --turns 20",
        "population": "--torch_device cuda --runs 1,2,5,10,20,50,100 --steps 16 --turns 5",
        "roofline": "--turns 20 --steps 16",
        "frontend": "--torch_device cuda --turns 20",
        "inference": "--torch_device cuda --model shufflenet_v2 --model transformer --model crnn --model rnn",
        "variant": "",
        "startup": "--width 0.5",
    },
    "rehearsal": {
        "study": "--small --torch_device cpu --torch_seconds 0 --torch_processes 2",
        "steps": f"{_ONE_MODEL} --runs 10 --batch 4 --seconds 1 --turns 2 --steps 1",
        "steps-more": f"{_ONE_MODEL} --runs 1 --batch 4 --seconds 1 --turns 2 --steps 1",
        "extraction": "--shape small --batch 2 --turns 2",
    },
    "small": {
        "models": "--model shufflenet_v2 --option width=tiny --batch 4 --turns 2 --steps 1",
        "population": "--runs 1,2 --option width=tiny --batch 4 --crop_seconds 1 --turns 2",
        "roofline": "--model linear --turns 2",
        "frontend": "--batch 4 --turns 2",
        "inference": "--model shufflenet_v2 --option width=tiny --utterances 8 --batch 4 --repeats 3 --turns 2",
        "extraction": "--shape small --batch 2 --turns 2",
        "heads": "--runs 10 --dims 32 --hidden 8 --turns 1 --others 1",
        "preparing": "--recordings 4 --seconds 1 --turns 1",
        "startup": "--model linear --turns 1",
    },
}

# After these contestants of a study, or so many rows of others (K = 50 of four families in two precisions), it is no
# failure that time is up. Parts without which nothing is decided are in gpu.sh too, for when none of them begins.
DECISIVE = {"ser_jax, all at once, cold", "PyTorch, eager", "PyTorch, a CUDA graph"}
ENOUGH = {"steps": 8, "steps-more": 0, "extraction": 0}
NO_TIME = "no time left"
TIME_UP = 3  # the exit status where only time for more lacked

# What the page shows of each benchmark: figure -> (heading, how it is written). Of others, all figures that differ.
MILLISECONDS, SECONDS, TIMES = "{:.1f} ms*1e3", "{:.1f} s", "{:.2f}x"
COLUMNS: dict[str, dict[str, tuple[str, str]]] = {
    "models": {
        "model": ("model", "{}"),
        "contestant": ("", "{}"),
        "median_seconds": ("a step", MILLISECONDS),
        "against_ours": ("against ours", TIMES),
        "compile_seconds": ("compile", SECONDS),
    },
    "population": {
        "runs": ("K", "{}"),
        "contestant": ("", "{}"),
        "run_steps_per_second": ("run-steps/s", "{:.1f}"),
        "utterances_per_second": ("utterances/s", "{:.0f}"),
        "seconds_per_run_step": ("a run-step", "{:.2f} ms*1e3"),
        "against_at_once": ("against at once", TIMES),
        "compile_seconds": ("compile", SECONDS),
    },
    "roofline": {
        "model": ("model", "{}"),
        "products": ("10⁹ multiply-adds", "{:.2f}*1e-9"),
        "products_xla": ("by XLA", "{:.2f}*1e-9"),
        "bytes": ("MB", "{:.0f}*1e-6"),
        "bytes_xla": ("by XLA", "{:.0f}*1e-6"),
        "matmul_flops_per_second": ("matmul, GFLOP/s", "{:.0f}*1e-9"),
        "copy_bytes_per_second": ("copy, GB/s", "{:.1f}*1e-9"),
        "median_seconds": ("a step", MILLISECONDS),
        "limit_seconds": ("limit", MILLISECONDS),
        "bound_by": ("bound by", "{}"),
        "share_of_limit": ("share", "{:.0%}"),
    },
    "frontend": {
        "contestant": ("", "{}"),
        "batch_seconds": ("a batch", MILLISECONDS),
        "rate": ("seconds of audio in a second", "{:.0f}"),
        "against_ours": ("against ours", TIMES),
    },
    "inference": {
        "model": ("model", "{}"),
        "contestant": ("", "{}"),
        "one_seconds": ("one utterance", "{:.2f} ms*1e3"),
        "one_against_ours": ("against ours", TIMES),
        "utterances_per_second": ("utterances/s, in batches", "{:.0f}"),
        "many_against_ours": ("against ours", TIMES),
        "ready_seconds": ("ready after", SECONDS),
    },
    "extraction": {
        "shape": ("encoder", "{}"),
        "contestant": ("", "{}"),
        "precision": ("precision", "{}"),
        "hours_per_hour": ("hours of speech in an hour", "{:.0f}"),
        "against_ours": ("against ours", TIMES),
        "share_of_limit": ("share of a product's rate", "{:.0%}"),
        "ready_seconds": ("ready after", SECONDS),
    },
    "preparing": {
        "kind": ("recordings", "{}"),
        "contestant": ("", "{}"),
        "hours_per_minute": ("hours of audio in a minute", "{:.1f}"),
        "against_ours": ("against ours", TIMES),
    },
    "heads": {
        "contestant": ("", "{}"),
        "runs": ("heads", "{}"),
        "steps": ("steps", "{}"),
        "seconds": ("all heads", SECONDS),
        "seconds_per_head": ("a head", "{:.2f} s"),
        "against_ours": ("against ours", TIMES),
        "compile_seconds": ("compile", SECONDS),
    },
    "startup": {
        "what": ("", "{}"),
        "seconds": ("whole process", "{:.2f} s"),
        "trace_seconds": ("of which tracing", SECONDS),
        "compile_seconds": ("of which compiling", SECONDS),
        "resident_bytes": ("memory, MB", "{:.0f}*1e-6"),
    },
    "feeds": {
        "contestant": ("", "{}"),
        "utterances_per_second": ("utterances/s", "{:,.0f}"),
        "fastest": ("fastest turn", "{:,.0f}"),
        "against_pytorch": ("against PyTorch", TIMES),
    },
    "input_bound": {
        "contestant": ("", "{}"),
        "step_seconds": ("a step", MILLISECONDS),
        "fastest_seconds": ("fastest", MILLISECONDS),
        "processor_seconds": ("processor time", MILLISECONDS),
        "share": ("longer by", "{:.1%}"),
        "share_quartiles": ("quartiles", "{:.1%}"),
        "processor_share": ("share of processor time", "{:.1%}"),
        "late": ("late calls", "{}"),
    },
    "parallel": {
        "runs": ("runs", "{}"),
        "devices": ("devices", "{}"),
        "contestant": ("", "{}"),
        "step_seconds": ("a step", "{:.2f} ms*1e3"),
        "call_seconds": ("a call without steps", "{:.2f} ms*1e3"),
        "against_jit": ("against jit", TIMES),
        "against_jit_quartiles": ("quartiles", TIMES),
        "run_steps_per_second": ("run-steps/s", "{:.0f}"),
        "against_one_device": ("against one device", TIMES),
        "against_one_device_quartiles": ("quartiles", TIMES),
    },
    "variant": {
        "variant": ("variant", "{}"),
        "runs": ("runs", "{}"),
        "initialise_seconds": ("draw", SECONDS),
        "compile_seconds": ("compile", SECONDS),
        "step_seconds": ("a step", MILLISECONDS),
        "run_step_seconds": ("of one run", "{:.2f} ms*1e3"),
        "training_seconds": ("a training", SECONDS),
        "first_test_seconds": ("test, first", SECONDS),
        "test_seconds": ("test", SECONDS),
    },
    "steps": {
        "model": ("model", "{}"),
        "precision": ("precision", "{}"),
        "runs": ("K", "{}"),
        "runs_in_a_program": ("at once", "{}"),
        "step_seconds": ("a step", "{:.2f} ms*1e3"),
        "run_step_seconds": ("of one run", "{:.2f} ms*1e3"),
        "products": ("10⁹ multiply-adds", "{:.1f}*1e-9"),
        "bytes": ("MB", "{:.0f}*1e-6"),
        "limit_seconds": ("limit", "{:.2f} ms*1e3"),
        "bound_by": ("bound by", "{}"),
        "share_of_limit": ("share", "{:.0%}"),
    },
    "study": {
        "contestant": ("", "{}"),
        "models": ("models trained", "{}"),
        "seconds": ("whole process", SECONDS),
        "compile_seconds": ("of which compiling", SECONDS),
        "train_seconds": ("of which training", SECONDS),
        "step_seconds": ("a step of one", "{:.2f} ms*1e3"),
        "against_ours": ("against ours, cold", TIMES),
    },
}


def main() -> None:
    """Runs the set and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=sorted(SETS), default="short")
    parser.add_argument("--only", action="append", metavar="NAME", help="only this benchmark of the set")
    parser.add_argument("--limit", type=float, help="seconds for all: what has no time left is ended, its figures kept")
    parser.add_argument("--results", type=Path, default=FOLDER / "results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "performance.md")
    parser.add_argument("--no_page", action="store_true", help="leave the page to a later call")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what it started ends too
    failed, cut, until = [], [], time.monotonic() + args.limit if args.limit else None
    chosen = {name: options for name, options in SETS[args.set].items() if not args.only or name in args.only}
    for name, options in chosen.items():
        print(f"\n== {name} {options}", flush=True)
        left = None if until is None else max(until - time.monotonic(), 0)
        keep_so_far = functools.partial(keep, args.results, name, options, error="interrupted")
        records, seconds, error = run(["-m", f"benchmarks.{module(name)}", *options.split()], left, keep_so_far)
        keep(args.results, name, options, records, seconds, error)
        if error:
            enough = error.endswith(NO_TIME) and decides(name, records)
            (cut if enough else failed).append(name)
            print(f"{name} {'was cut' if enough else 'failed'}: {error}, {len(records)} rows", flush=True)
    if not args.no_page:
        write_page(args.results, args.page)
        print(f"\n{args.page}")
    if failed:
        raise SystemExit(f"error: {', '.join(failed)} failed")
    if cut:
        print(f"time is up: {', '.join(cut)} has more to measure", flush=True)
        raise SystemExit(TIME_UP)


def decides(name: str, records: list[dict]) -> bool:
    """Whether the rows of a benchmark suffice for what it is run for."""
    if name == "study":
        return {record["contestant"] for record in records} >= DECISIVE
    return len(records) >= ENOUGH.get(name, 1)


def module(name: str) -> str:
    """The module of a benchmark of a set."""
    return name.partition("-")[0]


def run(
    arguments: Sequence[str], limit: float | None = None, so_far: Callable[[list[dict], float], Any] | None = None
) -> tuple[list[dict], float, str]:
    """Runs Python on `arguments`, its table shown as it comes; returns its JSON lines, seconds, and what went wrong.

    `so_far` is called with the first two at each line. After `limit` seconds it is ended, with all processes that it
    started.
    """
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    over = threading.Event()

    def end() -> None:
        over.set()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(limit if limit is not None else threading.TIMEOUT_MAX, end)
    timer.daemon = True
    timer.start()
    records, last = [], ""
    try:
        for line in process.stderr:
            if line.startswith("{"):
                records.append(json.loads(line))
                if so_far:
                    so_far(records, time.monotonic() - begun)
            elif line.strip():
                last = line.strip()
        code = process.wait()
    except BaseException:
        end()
        raise
    finally:
        timer.cancel()
    error = f"exit status {code}: {last}" if code else ""
    return records, time.monotonic() - begun, f"ended after {limit:.0f} s: {NO_TIME}" if over.is_set() else error


def keep(results: Path, name: str, options: str, records: list[dict], seconds: float, error: str) -> None:
    """Puts one benchmark's figures into the file of the device that they name.

    Those of one that failed do not take the place of whole ones.
    """
    if not records:
        return
    first = records[0]
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{re.sub(r'[^a-z0-9]+', '-', first['device'].lower()).strip('-')}.json"
    found = json.loads(path.read_text()) if path.exists() else {"benchmarks": {}}
    if error and name in found["benchmarks"] and not found["benchmarks"][name]["error"]:
        return
    found |= {"device": first["device"], "platform": first["platform"], "cores": machine.cores()}
    of_when = {"date": datetime.date.today().isoformat(), "commit": commit(), "versions": versions()}
    found["benchmarks"][name] = {"options": options, "seconds": seconds, "records": records, "error": error} | of_when
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")


@functools.cache
def commit() -> str:
    """The commit that is measured, "" where git does not say."""
    try:
        command = ["git", "rev-parse", "--short", "HEAD"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def versions() -> dict[str, str]:
    """The versions of what is measured, as far as it is installed."""
    found = {}
    for package in ("jax", "flax", "torch", "onnxruntime", "librosa", "opensmile"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


# The page ------------------------------------------------------------------------------------------------------------


def write_page(results: Path, page: Path) -> None:
    """Writes the page and its plots from all devices' files."""
    page.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        "# Performance",
        "",
        "`make bench` (`python -m benchmarks.run`) writes this page from `benchmarks/results/`; edit neither by hand.",
        "Figures are medians of alternating turns, so that other work on the machine slows all programs alike.",
        "*against ours* is the other program's time divided by ours, in the same turn: above 1, ours is faster.",
        "*limit* is the time that a step's multiply-adds and bytes need at least, at the rates of a large matrix",
        "product and of a large copy on the same machine; *bound by* names the longer of the two.",
        "On a CPU compare ratios, not times: the machine was shared. [scaling.md](scaling.md) has more about GPUs.",
        "",
        "Ours is compared with PyTorch on the same network. On a GPU a PyTorch step is measured eagerly, operation by",
        "operation, and as one CUDA graph, its fastest form there; the comparison is with the graph. PyTorch's time of",
        "a study is that of a step, times the steps of all models. On a CPU, convolutions have their channels first or",
        "last; the comparison is with the faster of the two. Both are with glibc's memory allocator. With tcmalloc",
        "most are faster, and PyTorch gains more ([scaling.md](scaling.md#on-a-cpu-with-another-allocator)). Other",
        "programs are named in their tables.",
    ]
    devices = [json.loads(path.read_text()) | {"stem": path.stem} for path in sorted(results.glob("*.json"))]
    for found in sorted(devices, key=lambda one: one.get("platform", "cpu") == "cpu"):  # accelerators first
        lines += ["", f"## {found['device']}, {found['cores']} cores"]
        for name, entry in found["benchmarks"].items():
            lines += ["", f"### {title(name)}", ""]
            package = ", ".join(f"{key} {value}" for key, value in entry["versions"].items())
            lines += [f"`python -m benchmarks.{module(name)} {entry['options']}`".replace(" `", "`")]
            lines += [f"({entry['date']}, commit {entry['commit']}, {entry['seconds']:.0f} s; {package})", ""]
            if entry["error"]:
                lines += [f"Did not finish: {entry['error']}", ""]
            if entry["records"]:
                lines += table(name, entry["records"])
            if picture := draw(name, entry["records"], page.parent / f"performance-{found['stem']}-{name}.png"):
                lines += ["", f"![{name}]({picture.name})"]
    page.write_text("\n".join(lines) + "\n")


def title(name: str) -> str:
    """The first sentence of a benchmark's docstring, without its full stop; further figures of it carry their name."""
    path = FOLDER / f"{module(name)}.py"
    if not path.exists():
        return name
    first = (ast.get_docstring(ast.parse(path.read_text())) or name).split("\n\n")[0].replace("\n", " ").rstrip(".")
    return f"{first} ({name})" if name != module(name) else first


def table(name: str, records: list[dict]) -> list[str]:
    """A Markdown table of a benchmark's figures."""
    columns = COLUMNS.get(module(name))
    if columns is None:
        keys = list(dict.fromkeys(key for record in records for key in record))
        varying = [key for key in keys if len({str(record.get(key)) for record in records}) > 1]
        columns = {key: (key.replace("_", " "), "{:.3g}") for key in varying}
    rows = [[write(record.get(key), style) for key, (_, style) in columns.items()] for record in records]
    headings = [heading for heading, _ in columns.values()]
    return ["| " + " | ".join(row) + " |" for row in (headings, ["---"] * len(headings), *rows)]


def write(value: Any, style: str) -> str:
    """A figure as text; "*FACTOR" at the end of a style is what it is multiplied with first."""
    if value is None or value != value:
        return ""
    if isinstance(value, list):
        return " to ".join(write(one, style) for one in value)
    style, _, factor = style.partition("*")
    if isinstance(value, bool | str | dict):
        return str(value)
    if factor:
        value *= float(factor)
    return style.format(value)


def draw(name: str, records: list[dict], path: Path) -> Path | None:
    """Draws what a picture says better than a table; returns its path."""
    if name not in ("models", "population", "roofline") or not records:
        return None
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    if name == "population":
        for contestant in dict.fromkeys(record["contestant"] for record in records):
            own = [record for record in records if record["contestant"] == contestant]
            axes.semilogx([r["runs"] for r in own], [r["run_steps_per_second"] for r in own], "o-", label=contestant)
        axes.set(xlabel="K, runs", ylabel="training steps of a run in a second", ylim=(0, None))
        runs = sorted({record["runs"] for record in records})
        axes.set_xticks(runs, [str(number) for number in runs])
        axes.minorticks_off()
        axes.legend()
    elif name == "roofline":
        axes.barh([record["model"] for record in records], [100 * record["share_of_limit"] for record in records])
        axes.set(xlabel="share of the machine's limit (%)")
        axes.invert_yaxis()
    else:
        models = list(dict.fromkeys(record["model"] for record in records))
        others = [
            contestant for contestant in dict.fromkeys(r["contestant"] for r in records) if "ser_jax" not in contestant
        ]
        for i, contestant in enumerate(others):
            own = {record["model"]: record["against_ours"] for record in records if record["contestant"] == contestant}
            at = [models.index(model) + 0.8 * (i + 0.5) / len(others) - 0.4 for model in own]
            axes.barh(at, list(own.values()), 0.8 / len(others), label=contestant)
        axes.set_yticks(range(len(models)), models)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set(xlabel="time of a training step, ours = 1")
        axes.invert_yaxis()
        axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


if __name__ == "__main__":
    main()
