"""Do a training step's time and memory stay the same however large the corpus is, with either feed?

python -m benchmarks.corpus_size [--size 500 --size 50000] [--model shufflenet_v2] [--plot docs/corpus_size.png]

Corpora of 500 to 50,000 utterances of some 1.4 s (500 of the synthetic voice, repeated); one run of a small network,
whose steps hide little of what a feed costs, or of each `--model`. Every corpus and feed has a process of its own,
which trains from one feed and measures its memory. First each process shows that its batches hold the utterances that
the order of the corpus says, then those of one feed take turns, so that a busy machine slows all of them alike. `feed`
is the time in which the host prepares the next step, while the device is at the one before.
The memory is what the process holds in the end, and at its peak; `growth` is from the first timed turn to the last.
Pages of the packed corpus's file that were read are part of both; the system takes them back when it needs them.
Needs 6 GB of disk and 10 GB of memory for 50,000 utterances, and Linux. Prints a table, and a JSON line for every
figure to stderr.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.common import emit
from benchmarks.corpora import all_for_training, compare_piece, repeated
from ser_jax import config as configuration
from ser_jax.corpora.corpus import load
from ser_jax.corpora.synthetic import make_synthetic
from ser_jax.feeds.records import open_records
from ser_jax.training.population import (
    initial_state,
    make_population,
    to_devices,
    train_steps,
    training_arguments,
    training_feed,
)

SIZES = (500, 2_000, 10_000, 50_000)
FEEDS = ("resident", "streaming")
MODELS = {
    "tcn": {"name": "tcn", "width": 8, "levels": 3},
    "shufflenet_v2": {"name": "shufflenet_v2", "width": "tiny", "attention": "eca"},
}
NAMES = {"tcn": "TCN of width 8", "shufflenet_v2": "tiny ShuffleNet V2"}
WARM_UP = 2  # turns


def main() -> None:
    """Makes the corpora, lets the processes take turns, and prints and plots the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, action="append", help="in utterances; may be repeated")
    parser.add_argument("--model", action="append", choices=MODELS, help="may be repeated; tcn if none is given")
    parser.add_argument("--steps", type=int, default=32, help="of a turn, at most: a piece of the feed may hold fewer")
    parser.add_argument("--turns", type=int, default=6, help="timed turns of each")
    parser.add_argument("--plot", help="write a figure here")
    args = parser.parse_args()
    sizes, args.model = sorted(args.size or SIZES), args.model or ["tcn"]
    voices = make_synthetic(num_speakers=10, utterances_per_speaker=50)
    with tempfile.TemporaryDirectory() as folder:
        # Processes whose programs have the same shapes compile them once.
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{folder}/compiled")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
        for size in sizes:
            open_records(repeated(voices, size, f"{folder}/{size}"), folder)
        figures = [figure for feed in FEEDS for figure in take_turns(feed, sizes, folder, args)]
    report(figures)
    if args.plot:
        plot(figures, args.plot)


def take_turns(feed: str, sizes: list[int], folder: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The figures of every model and size with one feed."""
    context, rng = multiprocessing.get_context("spawn"), np.random.default_rng(0)
    workers: dict[int, Connection] = {}
    processes = []
    for size in sizes:
        workers[size], there = context.Pipe()
        process = context.Process(target=work, args=(there, f"{folder}/{size}", folder, feed, args), daemon=True)
        process.start()
        there.close()
        processes.append(process)
        receive(workers[size])  # one after another: when it is ready
    contestants = [(model, size) for model in args.model for size in sizes]
    taken: dict[tuple[str, int], list[tuple]] = {contestant: [] for contestant in contestants}
    for turn in range(WARM_UP + args.turns):
        for i in rng.permutation(len(contestants)):
            model, size = contestants[i]
            workers[size].send(model)
            measured = receive(workers[size])
            if turn >= WARM_UP:
                taken[model, size].append(measured)
    for worker, process in zip(workers.values(), processes, strict=True):
        worker.send(None)
        process.join()
    figures = []
    for (model, size), values in taken.items():
        steps, host, held, peak = np.array(values).T
        low, median, high = np.percentile(steps, (25, 50, 75))
        figure = {"model": model, "feed": feed, "utterances": size, "step_seconds": median, "quartiles": [low, high]}
        figure |= {"fastest_seconds": steps.min(), "feed_seconds": float(np.median(host)), "bytes": held[-1]}
        figure |= {"growth": held[-1] - held[0], "peak_bytes": peak[-1], "load": os.getloadavg()[0]}
        figures.append(figure | {"steps": args.steps, "turns": args.turns})
    return figures


def receive(worker: Connection) -> Any:
    """What a process answers."""
    try:
        return worker.recv()
    except EOFError:
        raise SystemExit("error: a process that measures has ended") from None


def work(orders: Connection, packed: str, data_dir: str, feed: str, args: argparse.Namespace) -> None:
    """Trains one turn of the model that is asked for, until none is, and answers what it took."""
    corpus, cache = load(packed), {}
    protocol = all_for_training(corpus)
    populations = {
        model: make_population(config(MODELS[model], feed), corpus, protocol, cache=cache, data_dir=data_dir)
        for model in args.model
    }
    population = next(iter(populations.values()))
    source = training_feed(population, 0)
    following = source.take(args.steps)
    compare_piece(population, following)
    following = to_devices(population, following)
    states = {model: initial_state(population) for model, population in populations.items()}
    for model, population in populations.items():
        population.programs.train.compile(*training_arguments(population, states[model], following))
    orders.send("ready")
    for model in iter(orders.recv, None):
        count, start = following.count, time.perf_counter()
        states[model], sums = train_steps(populations[model], states[model], following)
        before = time.perf_counter()
        following = to_devices(population, source.take(args.steps))
        prepared = time.perf_counter() - before
        jax.block_until_ready(sums)
        seconds = time.perf_counter() - start
        orders.send((seconds / count, prepared / following.count, memory("VmRSS"), memory("VmHWM")))
    source.close()


def config(model: dict[str, Any], feed: str) -> dict:
    """The training of a model: batches of 32 crops of 1.2 s."""
    changes = {"feed": feed, "frontend": {"hop_ms": 20.0}, "training": {"crop_seconds": 1.2}}
    return configuration.merge(configuration.default(), changes) | {"model": model}


def memory(name: str) -> int:
    """Bytes of this process's memory that are in use: `VmRSS`, or were at most: `VmHWM`.

    (The peak that `getrusage` knows includes that of the process that started this one.)
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return 1024 * int(kilobytes)


def report(figures: list[dict[str, Any]]) -> None:
    """Prints a table and the JSON lines."""
    columns = f"{'step':>11}{'quartiles':>17}{'fastest':>11}{'feed':>11}{'memory':>11}{'growth':>10}{'peak':>10}"
    print(f"{'':20}{'feed':>10}{'utterances':>12}{columns}")
    for figure in sorted(figures, key=lambda figure: [figure[key] for key in ("model", "feed", "utterances")]):
        keys = ("step_seconds", "fastest_seconds", "feed_seconds")
        step, fastest, feed, low, high = (1e3 * s for s in (*(figure[key] for key in keys), *figure["quartiles"]))
        held, growth, peak = (figure[key] / 1e6 for key in ("bytes", "growth", "peak_bytes"))
        name = f"{NAMES[figure['model']]:20}{figure['feed']:>10}{figure['utterances']:12,}"
        times = f"{step:8.2f} ms{low:8.2f} to {high:5.2f}{fastest:8.2f} ms{feed:8.2f} ms"
        print(f"{name}{times}{held:8.0f} MB{growth:7.0f} MB{peak:7.0f} MB")
        emit("corpus_size", **figure)


def plot(figures: list[dict[str, Any]], path: str) -> None:
    """Draws step time and memory against the number of utterances."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    colours = dict(zip(FEEDS, ("#0072b2", "#d55e00"), strict=True))
    models = list(dict.fromkeys(entry["model"] for entry in figures))
    markers = dict(zip(MODELS, ("o", "s"), strict=True))

    def curve(model: str, feed: str, value: Callable[[dict], Any]) -> tuple[list[int], np.ndarray]:
        own = [entry for entry in figures if (entry["model"], entry["feed"]) == (model, feed)]
        own.sort(key=lambda entry: entry["utterances"])
        return [entry["utterances"] for entry in own], np.array([value(entry) for entry in own])

    for model in models:
        for feed in FEEDS:
            sizes, steps = curve(model, feed, lambda entry: 1e3 * entry["step_seconds"])
            _, quartiles = curve(model, feed, lambda entry: 1e3 * np.array(entry["quartiles"]))
            bars = np.abs(quartiles.T - steps)
            style = {"color": colours[feed], "marker": markers[model], "capsize": 3}
            left.errorbar(sizes, steps, bars, label=f"{NAMES[model]}, {feed} feed", **style)
    for feed in FEEDS:
        for name, style in (("peak_bytes", "--"), ("bytes", "-")):
            sizes, gigabytes = curve(models[0], feed, lambda entry, name=name: entry[name] / 1e9)
            label = f"{feed} feed, {'peak' if name == 'peak_bytes' else 'while training'}"
            right.plot(sizes, gigabytes, style, color=colours[feed], marker="o", markersize=4, label=label)
    left.set(title="Time of a training step", ylabel="milliseconds (median, quartiles)")
    right.set(title="Memory of the process", ylabel="gigabytes")
    ticks = sorted({entry["utterances"] for entry in figures})
    for axes in (left, right):
        axes.set(xscale="log", xlabel="utterances of the corpus")
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
