"""Training 50 heads on pooled states of an encoder, against scikit-learn and PyTorch, one head after another.

python -m benchmarks.heads [--runs 50] [--dims 1152] [--hidden 128] [--epochs 20] [--turns 3] [--others 2]

A head has one hidden layer. Ours are a population of folds and seeds: batches, normalisation of the states, AdamW,
moving averages. PyTorch's twin and scikit-learn's MLPClassifier (ReLU in the place of GELU, Adam) are given the arrays
of a fold, and make as many steps of as many utterances; `--others` heads are trained, and the time is multiplied.
PyTorch has one thread: a head's step is too short for more. Before anything is timed, each has to learn states that
tell the emotion. Compiling is apart. Prints a table, and a JSON line for each contestant to stderr.
"""

import argparse
import warnings
from collections.abc import Callable

import jax
import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from benchmarks.common import done, emit, take_turns, timed
from benchmarks.corpora import noise
from ser_jax import config as configuration
from ser_jax.commands.common import start_jax
from ser_jax.corpora.corpus import Corpus
from ser_jax.corpora.features import Packed
from ser_jax.corpora.protocols import make_protocol
from ser_jax.training import population as populations
from ser_jax.training.devices import gather

FOLDS, CLASSES, UTTERANCES, BATCH = 10, 2, 500, 32


def main() -> None:
    """Times the heads and prints what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50, help="a multiple of 10: ten folds, and seeds")
    parser.add_argument("--dims", type=int, default=1152, help="of the pooled states")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--others", type=int, default=2, help="heads that scikit-learn and PyTorch train in a turn")
    args = parser.parse_args()
    if args.runs < FOLDS or args.runs % FOLDS:
        parser.error(f"--runs {args.runs}: expected a multiple of {FOLDS}")
    start_jax()
    jax.config.update("jax_enable_compilation_cache", False)  # compiling is timed
    torch.set_num_threads(1)
    corpus = noise(UTTERANCES)
    labels = corpus.utterances["label"].to_numpy()
    rng = np.random.default_rng(0)
    states = rng.standard_normal((UTTERANCES, args.dims)).astype(np.float32)
    states[:, 0] += 8.0 * labels
    steps = args.epochs * UTTERANCES * (FOLDS - 1) // FOLDS // BATCH
    train, compile_seconds = ours(args, corpus, states, steps)
    rows = np.arange(UTTERANCES * (FOLDS - 1) // FOLDS)

    def other(fit: Callable) -> Callable[[], float]:
        return lambda: float(np.mean([fit(args, states[rows], labels[rows], steps) for _ in range(args.others)]))

    contestants = {"ser_jax, at once": train, "PyTorch, one by one": other(by_torch)}
    contestants["scikit-learn, one by one"] = other(by_sklearn)
    for name, contestant in contestants.items():
        if (accuracy := contestant()) < 0.9:
            raise SystemExit(f"error: {name}: learnt {accuracy:.0%} of what states tell, expected 90 % at least")
    seconds = take_turns(contestants, args.turns)
    print(
        f"{args.runs} heads of {steps} steps{'':12}{'all heads':>12}{'a head':>12}{'against ours':>14}{'compile':>10}"
    )
    for name, values in seconds.items():
        total = values * (1 if name.startswith("ser_jax") else args.runs / args.others)
        figures = {
            "contestant": name,
            "seconds": float(np.median(total)),
            "seconds_per_head": float(np.median(total)) / args.runs,
            "against_ours": float(np.median(total / seconds["ser_jax, at once"])),
            "compile_seconds": compile_seconds if name.startswith("ser_jax") else None,
        }
        emit("heads", steps=steps, **figures, **vars(args))
        compiling = f"{compile_seconds:8.1f} s" if figures["compile_seconds"] else ""
        shown = f"{figures['seconds']:10.1f} s{figures['seconds_per_head']:10.2f} s{figures['against_ours']:13.2f}x"
        print(f"{name:32}{shown}{compiling}", flush=True)


def ours(args: argparse.Namespace, corpus: Corpus, states: np.ndarray, steps: int) -> tuple[Callable, float]:
    """Returns what trains all heads and says what share of its batches was right; and the seconds of compiling."""
    packed = Packed(
        values=states,
        start=np.arange(UTTERANCES),
        num_frames=np.ones(UTTERANCES, np.int64),
        names=tuple(map(str, range(args.dims))),
        frame_ms=0.0,
        name="states",
        fingerprint="0",
    )
    changes = {
        "model": {"name": "encoder_head", "width": 0, "hidden": args.hidden},
        "folds": list(range(FOLDS)),
        "seeds": list(range(args.runs // FOLDS)),
        "frontend": {"kind": "precomputed", "features": "states", "normalization": "none"},
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 1},
        "training": {"batch_size": BATCH, "train_steps": steps, "crop_seconds": 1.0},
    }
    config = configuration.merge(configuration.default(), changes)
    protocol = make_protocol(corpus, "random", num_folds=FOLDS)
    population = populations.make_population(config, corpus, protocol, features=packed)
    first = populations.initial_state(population)

    def pieces() -> list:
        feed, left, found = populations.training_feed(population, 0), steps, []
        while left:
            found.append(populations.to_devices(population, feed.take(left)))
            left -= found[-1].count
        return found

    begin = pieces()[0]
    arguments = populations.training_arguments(population, first, begin)
    _, compile_seconds = timed(lambda: population.programs.train.compile(*arguments))

    def train() -> float:
        state = first
        for piece in pieces():
            state, sums = populations.train_steps(population, state, piece)
        done((state, sums))
        return float((gather(sums["correct"], args.runs) / gather(sums["count"], args.runs)).mean())

    return train, compile_seconds


def by_torch(args: argparse.Namespace, states: np.ndarray, labels: np.ndarray, steps: int) -> float:
    """Trains one head; returns the share of its training utterances that it gets right."""
    x, y = torch.tensor(states), torch.tensor(labels, dtype=torch.long)
    net = torch.nn.Sequential(
        torch.nn.LayerNorm(args.dims, elementwise_affine=False),
        torch.nn.Linear(args.dims, args.hidden),
        torch.nn.GELU(approximate="tanh"),
        torch.nn.Linear(args.hidden, CLASSES),
    )
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, foreach=True)
    order = torch.cat([torch.randperm(len(x)) for _ in range(-(-steps * BATCH // len(x)))])
    for rows in order[: steps * BATCH].split(BATCH):
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
        optimizer.step()
    return (net(x).argmax(1) == y).float().mean().item()


def by_sklearn(args: argparse.Namespace, states: np.ndarray, labels: np.ndarray, steps: int) -> float:
    """Trains one head; returns the share of its training utterances that it gets right."""
    net = MLPClassifier((args.hidden,), batch_size=BATCH, max_iter=args.epochs, n_iter_no_change=steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it makes as many epochs as the others
        return float(net.fit(states, labels).score(states, labels))


if __name__ == "__main__":
    main()
