"""A population: all runs of one variant (folds x seeds), trained and evaluated by one compiled program each."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Float, Int

from ser_jax import config as configuration
from ser_jax import models
from ser_jax.corpora.corpus import SAMPLE_RATE, Corpus
from ser_jax.corpora.protocols import Fold, Protocol
from ser_jax.errors import UserError
from ser_jax.evaluation import metrics, predictions
from ser_jax.feeds import resident as resident_feed
from ser_jax.feeds.resident import Resident
from ser_jax.frontend import FeatureSums, Frontend, Statistics, Strengths, feature_sums, fit_statistics
from ser_jax.training import checkpoints, parallel
from ser_jax.training.state import Learner, Run, State, initialise, make_learner
from ser_jax.training.step import evaluate_batch, train_step

_EVALUATION_BATCHES = 16  # batches of windows in one call of the evaluation program


@dataclasses.dataclass(frozen=True)
class Population:
    """All that a population's programs work with; made by `make_population`.

    Attributes:
      runs: which fold and seed each entry of the run axis is.
      run: the runs' own values, [devices, runs per device, ...] on the devices.
    """

    config: dict
    corpus: Corpus
    protocol: Protocol
    learner: Learner
    runs: tuple[tuple[int, int], ...]
    run: Run
    resident: Resident
    num_steps: int
    steps_per_epoch: float
    devices: tuple[jax.Device, ...]
    train_program: Callable
    evaluate_program: Callable
    window_samples: int

    @property
    def folds(self) -> list[Fold]:
        """The fold of each run."""
        return [self.protocol.folds[fold] for fold, _ in self.runs]


def make_population(config: dict, corpus: Corpus, protocol: Protocol) -> Population:
    """Checks a variant's configuration and brings its corpus to the devices; compiles nothing."""
    folds = config["folds"] or range(len(protocol.folds))
    for fold in folds:
        if fold not in range(len(protocol.folds)):
            raise UserError(f"config.folds: no fold {fold}; {protocol.name} has folds 0 to {len(protocol.folds) - 1}")
    if not config["seeds"]:
        raise UserError("config.seeds: found none, expected at least one whole number")
    runs = tuple((fold, seed) for fold in folds for seed in config["seeds"])
    frontend = make_frontend(config)
    crop_samples = round(config["training"]["crop_seconds"] * SAMPLE_RATE)
    window_samples = round(config["evaluation"]["window_seconds"] * SAMPLE_RATE) or crop_samples
    # Of all folds of the protocol, not only those trained here: a run does not depend on its neighbours.
    utterances = np.mean([len(fold.train) for fold in protocol.folds])
    steps_per_epoch = float(utterances / config["training"]["batch_size"])
    num_steps = configuration.steps(config, "training", "train", steps_per_epoch)
    warmup_steps = configuration.steps(config, "optimizer", "warmup", steps_per_epoch)
    learner = make_learner(
        models.build(num_classes=len(corpus.emotions), **config["model"]),
        frontend,
        num_classes=len(corpus.emotions),
        crop_samples=crop_samples,
        num_steps=max(num_steps, warmup_steps + 1),
        config={**config["optimizer"], "warmup_steps": warmup_steps},
    )
    devices = parallel.choose_devices(len(runs))
    resident = parallel.replicate(resident_feed.make_resident(corpus, window_samples), devices)
    own = [make_run(config, corpus, protocol.folds[fold], fold, seed) for fold, seed in runs]
    keys = parallel.spread(np.stack([jax.random.key_data(run.key) for run in own]), len(devices))
    run = parallel.stack_runs([run.replace(key=0) for run in own], len(devices))
    return Population(
        config=config,
        corpus=corpus,
        protocol=protocol,
        learner=learner,
        runs=runs,
        run=run.replace(key=jax.random.wrap_key_data(jnp.asarray(keys))),
        resident=resident,
        num_steps=num_steps,
        steps_per_epoch=steps_per_epoch,
        train_program=parallel.over_runs(
            functools.partial(_train_steps, learner), devices, per_run=3, shared=2, donate=1
        ),
        devices=tuple(devices),
        evaluate_program=parallel.over_runs(
            functools.partial(_evaluate_windows, learner, window_samples), devices, per_run=3, shared=2
        ),
        window_samples=window_samples,
    )


def make_frontend(config: dict) -> Frontend:
    """Builds the frontend of a configuration; raises `UserError` for an option that it does not have."""
    return configuration.construct(Frontend, config["frontend"], "config.frontend")


def make_run(config: dict, corpus: Corpus, fold: Fold, number: int, seed: int) -> Run:
    """Returns one run's values; its key depends on its fold and seed alone."""
    optimizer = config["optimizer"]
    strengths = configuration.construct(Strengths, config["augmentation"], "config.augmentation")
    counts = np.bincount(corpus.utterances["label"].to_numpy()[fold.train], minlength=len(corpus.emotions))
    weights = np.ones(len(corpus.emotions))
    if optimizer["class_weights"]:
        # The mean weight of the training utterances is 1; a class that the fold lacks has none to weigh.
        weights = counts.sum() / (np.maximum(counts, 1) * np.count_nonzero(counts))
    return Run(
        key=jax.random.fold_in(jax.random.key(seed), number),
        learning_rate=np.float32(optimizer["learning_rate"]),
        weight_decay=np.float32(optimizer["weight_decay"]),
        label_smoothing=np.float32(optimizer["label_smoothing"]),
        class_weights=weights.astype(np.float32),
        strengths=jax.tree.map(np.float32, strengths),
    )


def initial_state(population: Population) -> State:
    """Returns every run's state before its first step, [devices, runs per device, ...]."""
    statistics = None
    if population.learner.frontend.normalization == "train":
        sums = _utterance_sums(population)
        statistics = parallel.stack_runs(
            [_fold_statistics(sums, fold) for fold in population.folds], len(population.devices)
        )
    # Compiled with little optimisation: it runs once, and some hundred small random draws take long to optimise.
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    draw = jax.jit(jax.vmap(jax.vmap(functools.partial(initialise, population.learner))), compiler_options=options)
    return jax.tree.map(np.asarray, draw(population.run.key, statistics))


def evaluate(
    population: Population, state: State, rows: Sequence[Int[np.ndarray, " _"]]
) -> list[Float[np.ndarray, "_ classes"]]:
    """Returns the class probabilities of the utterances `rows[r]` by run r; windows of one utterance are averaged."""
    batch_size = population.config["evaluation"]["batch_size"]
    totals = [np.zeros((len(population.corpus.utterances), population.learner.num_classes)) for _ in rows]
    pieces = [np.zeros(len(population.corpus.utterances)) for _ in rows]
    blocks = [
        list(
            resident_feed.evaluation_windows(
                population.corpus, run_rows, population.window_samples, batch_size, _EVALUATION_BATCHES
            )
        )
        for run_rows in rows
    ]
    for number in range(max(map(len, blocks))):
        # A run with fewer windows than its neighbours repeats its last ones; they are not counted again.
        tables = [own[min(number, len(own) - 1)] for own in blocks]
        starts, lengths = (
            parallel.spread(np.stack([getattr(table, name) for table in tables]), len(population.devices))
            for name in ("start", "num_samples")
        )
        used = max(int(np.ceil(np.sum(table.utterance >= 0) / batch_size)) for table in tables)
        output = population.evaluate_program(state, starts, lengths, jnp.int32(used), population.resident)
        probabilities = parallel.gather(output, len(rows))
        for r, (own, table) in enumerate(zip(blocks, tables, strict=True)):
            if number < len(own):
                valid = table.utterance >= 0
                np.add.at(totals[r], table.utterance[valid], probabilities[r][valid])
                np.add.at(pieces[r], table.utterance[valid], 1)
    return [totals[r][run_rows] / pieces[r][run_rows][:, None] for r, run_rows in enumerate(rows)]


def validation_ua(population: Population, state: State) -> float:
    """Returns the unweighted accuracy on the validation speakers, pooled over folds, as a mean over seeds."""
    table = predictions_table(population, state, "validation", [fold.validation for fold in population.folds])
    confusion = metrics.confusion_counts(table, "fold").counts.sum(axis=1)
    return float(np.mean(metrics.unweighted_accuracy(confusion)))


def test_predictions(population: Population, state: State, variant: str) -> pd.DataFrame:
    """Returns the predictions table of every run on its own test fold."""
    return predictions_table(population, state, variant, [fold.test for fold in population.folds])


def predictions_table(
    population: Population, state: State, variant: str, rows: Sequence[Int[np.ndarray, " _"]]
) -> pd.DataFrame:
    """Returns the predictions table of each run on the utterances `rows[run]` of the population's corpus."""
    table = population.corpus.utterances
    parts = [
        predictions.make_predictions(
            population.corpus.name,
            variant,
            fold.name,
            seed,
            table["id"].iloc[own].tolist(),
            table["speaker"].iloc[own].tolist(),
            table["label"].to_numpy()[own],
            probabilities,
            population.corpus.emotions,
        )
        for fold, (_, seed), own, probabilities in zip(
            population.folds, population.runs, rows, evaluate(population, state, rows), strict=True
        )
    ]
    return predictions.merge(parts)


def describe(population: Population) -> dict:
    """Returns the metadata of the population's checkpoints."""
    names = [(fold.name, seed) for fold, (_, seed) in zip(population.folds, population.runs, strict=True)]
    return checkpoints.describe(population.config, population.corpus, population.protocol, names)


def _train_steps(
    learner: Learner, state: State, run: Run, rows: Array, count: Array, resident: Resident
) -> tuple[State, dict[str, Array]]:
    """Makes `count` training steps on the batches `rows[:count]`; the metrics are sums over them."""

    def one(i: Array, carry: tuple[State, dict]) -> tuple[State, dict]:
        state, sums = carry
        state, metrics = train_step(learner, state, run, rows[i], resident)
        return state, jax.tree.map(jnp.add, sums, metrics)

    zeros = {name: jnp.zeros(()) for name in ("loss", "weight", "correct", "count")}
    return jax.lax.fori_loop(0, count, one, (state, zeros))


def _evaluate_windows(
    learner: Learner,
    window_samples: int,
    state: State,
    starts: Int[Array, "batches batch"],
    lengths: Int[Array, "batches batch"],
    count: Array,
    resident: Resident,
) -> Float[Array, "batches batch classes"]:
    def one(i: Array, output: Array) -> Array:
        return output.at[i].set(evaluate_batch(learner, state, starts[i], lengths[i], resident, window_samples))

    return jax.lax.fori_loop(0, count, one, jnp.zeros((*starts.shape, learner.num_classes)))


def _utterance_sums(population: Population) -> FeatureSums:
    """The sums of features over each utterance's windows, from which every fold's statistics follow."""
    corpus, frontend, window_samples = population.corpus, population.learner.frontend, population.window_samples

    @jax.jit
    def sums(resident: Resident, start: Array, num_samples: Array) -> FeatureSums:
        batch = resident_feed.window_batch(resident, start, num_samples, window_samples)
        return feature_sums(frontend, batch.waveform, batch.num_samples)

    rows = range(len(corpus.utterances))
    total: FeatureSums | None = None
    for windows in resident_feed.evaluation_windows(corpus, rows, window_samples, 32, 1):
        part = jax.tree.map(np.asarray, sums(population.resident, windows.start[0], windows.num_samples[0]))
        if total is None:
            total = jax.tree.map(lambda leaf: np.zeros((len(rows), *leaf.shape[1:])), part)
        valid = windows.utterance[0] >= 0
        for leaf, more in zip(jax.tree.leaves(total), jax.tree.leaves(part), strict=True):
            np.add.at(leaf, windows.utterance[0][valid], more[valid])
    return total


def _fold_statistics(sums: FeatureSums, fold: Fold) -> Statistics:
    return jax.tree.map(np.asarray, fit_statistics(jax.tree.map(lambda leaf: leaf[fold.train].sum(0), sums)))
