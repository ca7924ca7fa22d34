"""A population: all runs of one variant (folds x seeds), trained and evaluated by one compiled program each."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Float, Int

from ser_jax import config as configuration
from ser_jax import models
from ser_jax.corpora.corpus import Corpus
from ser_jax.corpora.features import Packed, in_place_of_samples
from ser_jax.corpora.protocols import Fold, Protocol
from ser_jax.corpora.tracks import interpolate
from ser_jax.corpora.vocabulary import Vocabulary, encode_all, from_json, make_vocabulary, to_json
from ser_jax.errors import UserError
from ser_jax.evaluation import metrics, predictions
from ser_jax.feeds import resident as resident_feed
from ser_jax.feeds.resident import Resident, Tracks, Windows
from ser_jax.frontend import (
    FeatureSums,
    Frontend,
    Statistics,
    Strengths,
    check_augmentation,
    feature_sums,
    fit_statistics,
    num_features,
    num_frames,
)
from ser_jax.training import checkpoints, parallel
from ser_jax.training.state import Learner, Run, State, initialise, make_learner
from ser_jax.training.step import evaluate_batch, metric_names, train_step

_EVALUATION_BATCHES = 16  # batches of windows in one call of the evaluation program


@dataclasses.dataclass(frozen=True)
class Targets:
    """What a model learns beside the emotion, each None or empty without.

    Attributes:
      vocabulary, tokens: of the transcripts, and those of every utterance, [utterances, tokens]; see `encode_all`.
      tracks, track_names: values for every utterance's frames, and what they are.
    """

    vocabulary: Vocabulary | None = None
    tokens: np.ndarray | None = None
    tracks: Packed | None = None
    track_names: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, int]:
        """The options of a model that learns them."""
        options = {} if self.vocabulary is None else {"num_symbols": self.vocabulary.num_symbols}
        return options | ({"tracks": len(self.track_names)} if self.track_names else {})


@dataclasses.dataclass(frozen=True)
class Population:
    """All that a population's programs work with; made by `make_population`.

    Attributes:
      runs: which fold and seed each entry of the run axis is.
      run: the runs' own values, [devices, runs per device, ...] on the devices.
      targets: what the model learns beside the emotion.
      made: what populations have in common and is made once, by what it is made of.
    """

    config: dict
    corpus: Corpus
    protocol: Protocol
    learner: Learner
    runs: tuple[tuple[int, int], ...]
    run: Run
    targets: Targets
    num_steps: int
    steps_per_epoch: float
    devices: tuple[jax.Device, ...]
    initialise_program: Callable
    train_program: parallel.Program
    evaluate_program: parallel.Program
    window_samples: int
    made: dict[str, Any]

    @property
    def folds(self) -> list[Fold]:
        """The fold of each run."""
        return [self.protocol.folds[fold] for fold, _ in self.runs]

    @property
    def num_parameters(self) -> int:
        """Of the model of one run."""
        return self.learner.num_parameters

    @functools.cached_property
    def resident(self) -> Resident:
        """The corpus on every device, brought there when it is first asked for."""
        corpus, targets = self.corpus, self.targets
        features = corpus.info.get("features")
        source = (corpus.fingerprint, features and features["fingerprint"], self.window_samples, len(self.devices))
        learnt = (targets.vocabulary, self.config["corpus"]["tracks"] if targets.tracks is not None else "")
        return _once(self.made, ("resident", *source, *learnt), self._bring)

    def _bring(self) -> Resident:
        tracks = self.targets.tracks
        if tracks is not None:
            tracks = Tracks(tracks.values, tracks.start, tracks.num_frames, np.float32(tracks.frame_ms))
        resident = resident_feed.make_resident(self.corpus, self.window_samples, self.targets.tokens, tracks)
        return parallel.replicate(resident, self.devices)


def make_population(
    config: dict,
    corpus: Corpus,
    protocol: Protocol,
    *,
    tracks: Packed | None = None,
    features: Packed | None = None,
    trained: dict | None = None,
    made: dict[str, Any] | None = None,
) -> Population:
    """Checks a variant's configuration; compiles nothing, and brings nothing to the devices yet.

    `tracks` and `features` are those that the configuration names. `trained` is what a checkpoint's metadata say of the
    targets, for a model that is not trained here. Populations that are given the same dict `made` share in it what
    they have in common: programs (of variants that differ only in what runs have along the run axis: learning rate,
    weight decay, strengths ...), the corpus on the devices, sums of features.
    """
    made = {} if made is None else made
    runs = runs_of(config, protocol)
    frontend = make_frontend(config, features)
    check_augmentation(frontend, config["augmentation"])
    if features is not None:
        corpus = in_place_of_samples(corpus, features)
    crop_samples = max(round(config["training"]["crop_seconds"] * frontend.rate), 1)
    window_samples = round(config["evaluation"]["window_seconds"] * frontend.rate) or crop_samples
    # Of all folds of the protocol, not only those trained here: a run does not depend on its neighbours.
    utterances = np.mean([len(fold.train) for fold in protocol.folds])
    steps_per_epoch = float(utterances / config["training"]["batch_size"])
    num_steps = configuration.steps(config, "training", "train", steps_per_epoch)
    warmup_steps = configuration.steps(config, "optimizer", "warmup", steps_per_epoch)
    if tracks is not None and (frontend.kind in ("histogram", "functionals") or not frontend.rate):
        raise UserError(f"config.corpus.tracks: features of kind {frontend.kind} have no frames in time to follow them")
    targets = targets_of(config, corpus, tracks) if trained is None else _trained_targets(trained)
    model = models.build(num_classes=len(corpus.emotions), **config["model"], **targets.options)
    _check_features(model, frontend, corpus)
    durations = {"num_steps": max(num_steps, warmup_steps + 1), "warmup_steps": warmup_steps}
    devices = parallel.choose_devices(len(runs))

    def make_programs() -> tuple[Learner, Callable, parallel.Program, parallel.Program]:
        learner = make_learner(
            model,
            frontend,
            num_classes=len(corpus.emotions),
            crop_samples=crop_samples,
            gradient_clip=config["optimizer"]["gradient_clip"],
            ema_decay=config["optimizer"]["ema_decay"],
            **durations,
        )
        draw = jax.vmap(jax.vmap(functools.partial(initialise, learner)))
        # With little optimisation: it runs once, and some hundred small random draws take long to optimise.
        options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
        train = functools.partial(_train_steps, learner)
        test = functools.partial(_evaluate_windows, learner, window_samples)
        return (
            learner,
            jax.jit(draw, compiler_options=options),
            parallel.over_runs(train, devices, per_run=3, shared=2, donate=1),
            parallel.over_runs(test, devices, per_run=3, shared=2),
        )

    optimizer = [config["optimizer"][name] for name in ("gradient_clip", "ema_decay")]
    key = (model, frontend, crop_samples, window_samples, *durations.values(), *optimizer, *devices)
    learner, initialise_program, train_program, evaluate_program = _once(made, key, make_programs)
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
        targets=targets,
        num_steps=num_steps,
        steps_per_epoch=steps_per_epoch,
        initialise_program=initialise_program,
        train_program=train_program,
        devices=tuple(devices),
        evaluate_program=evaluate_program,
        window_samples=window_samples,
        made=made,
    )


def runs_of(config: dict, protocol: Protocol) -> tuple[tuple[int, int], ...]:
    """Returns the (fold, seed) of each run that a configuration asks for; raises `UserError` for what is not there."""
    folds = config["folds"] or range(len(protocol.folds))
    for fold in folds:
        if fold not in range(len(protocol.folds)):
            raise UserError(f"config.folds: no fold {fold}; {protocol.name} has folds 0 to {len(protocol.folds) - 1}")
    if not config["seeds"]:
        raise UserError("config.seeds: found none, expected at least one whole number")
    return tuple((fold, seed) for fold in folds for seed in config["seeds"])


def targets_of(config: dict, corpus: Corpus, tracks: Packed | None) -> Targets:
    """What a variant learns beside the emotion; raises `UserError` where the corpus has no such thing."""
    for option in ("num_symbols", "tracks"):
        if option in config["model"]:
            raise UserError(f"config.model.{option}: the corpus decides it; expected it not to be set")
    kind = config["model"].get("text", "none")
    if (kind != "none" or tracks is not None) and config["augmentation"]["mixup"]:
        what = f"config.model.text={kind}" if kind != "none" else "config.corpus.tracks"
        raise UserError(f"config.augmentation.mixup: two utterances mixed have no one {what}; expected 0")
    vocabulary = tokens = None
    if kind != "none":
        if "transcript" not in corpus.utterances or not corpus.utterances["transcript"].any():
            raise UserError(f"config.model.text={kind}: corpus {corpus.name} has no transcripts")
        transcripts = corpus.utterances["transcript"].tolist()
        vocabulary = make_vocabulary(
            [config["corpus"]["symbols"]] if config["corpus"]["symbols"] else transcripts, kind
        )
        tokens, _ = encode_all(vocabulary, transcripts)
    return Targets(vocabulary, tokens, tracks, () if tracks is None else tuple(tracks.names))


def _trained_targets(metadata: dict) -> Targets:
    """The targets that `describe` wrote, without the values that only a training needs."""
    vocabulary = None if metadata["vocabulary"] is None else from_json(metadata["vocabulary"])
    return Targets(vocabulary, track_names=tuple(metadata["tracks"]))


def _check_features(model: nn.Module, frontend: Frontend, corpus: Corpus) -> None:
    """Refuses features without the deltas that a model takes apart, and an utterance too short for its subsampling."""
    deltas = getattr(model, "deltas", 0)
    if frontend.kind != "precomputed" and frontend.deltas < deltas:
        raise UserError(
            f"config.frontend.deltas: found {frontend.deltas}; the model takes {deltas} orders of them apart"
        )
    fewest = getattr(model, "min_frames", 1)
    shortest = corpus.utterances.loc[corpus.utterances["num_samples"].idxmin()]
    frames = int(num_frames(frontend, shortest["num_samples"]))
    if frames < fewest:
        raise UserError(
            f"corpus {corpus.name}: utterance {shortest['id']!r} has {frames} frames; the model needs {fewest}"
        )


def make_frontend(config: dict, features: Packed | None = None) -> Frontend:
    """Builds the frontend of a configuration, and of the features made elsewhere that it names.

    Raises `UserError` for an option that it does not have.
    """
    frontend = configuration.construct(Frontend, config["frontend"], "config.frontend")
    if features is None:
        return frontend
    return dataclasses.replace(frontend, dims=features.values.shape[1], frame_ms=features.frame_ms)


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
        loss_weights={name: np.float32(weight) for name, weight in config["objective"].items()},
        strengths=jax.tree.map(np.float32, strengths),
    )


def initial_state(population: Population) -> State:
    """Returns every run's state before its first step, [devices, runs per device, ...]."""
    statistics = None
    if population.learner.frontend.normalization == "train":
        source = population.corpus.fingerprint, population.learner.frontend, population.window_samples
        sums = _once(population.made, ("sums", *source), lambda: _utterance_sums(population))
        statistics = parallel.stack_runs(
            [_fold_statistics(sums, fold) for fold in population.folds], len(population.devices)
        )
    return jax.tree.map(np.asarray, population.initialise_program(population.run.key, statistics))


def state_like(population: Population) -> State:
    """Returns what `initial_state` does, but all zeros: what a checkpoint is read into."""
    statistics = None
    if population.learner.frontend.normalization == "train":
        runs = population.run.key.shape
        statistics = Statistics(*(np.zeros((*runs, num_features(population.learner.frontend)), np.float32),) * 2)
    draw = jax.vmap(jax.vmap(functools.partial(initialise, population.learner)))
    shapes = jax.eval_shape(draw, population.run.key, statistics)
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def evaluate(
    population: Population, state: State, rows: Sequence[Int[np.ndarray, " _"]]
) -> list[Float[np.ndarray, "_ classes"]]:
    """Returns the class probabilities of the utterances `rows[r]` by run r; windows of one utterance are averaged."""
    totals = [np.zeros((len(population.corpus.utterances), population.learner.num_classes)) for _ in rows]
    pieces = [np.zeros(len(population.corpus.utterances)) for _ in rows]
    for r, table, probabilities, _ in _evaluated_windows(population, state, rows):
        np.add.at(totals[r], table.utterance, probabilities)
        np.add.at(pieces[r], table.utterance, 1)
    return [totals[r][run_rows] / pieces[r][run_rows][:, None] for r, run_rows in enumerate(rows)]


def evaluate_tracks(
    population: Population, state: State, rows: Sequence[Int[np.ndarray, " _"]]
) -> list[list[Float[np.ndarray, "frames tracks"]]]:
    """Returns the tracks of the utterances `rows[r]` by run r at every frame; where windows overlap, their mean."""
    table, frontend = population.corpus.utterances, population.learner.frontend
    starts, lengths = (table[name].to_numpy() for name in ("start", "num_samples"))
    shapes = [(num_frames(frontend, length), len(population.targets.track_names)) for length in lengths]
    totals = [{row: np.zeros(shapes[row]) for row in run_rows} for run_rows in rows]
    pieces = [{row: np.zeros((shapes[row][0], 1)) for row in run_rows} for run_rows in rows]
    for r, windows, _, tracks in _evaluated_windows(population, state, rows):
        for row, start, length, values in zip(
            windows.utterance, windows.start, windows.num_samples, tracks, strict=True
        ):
            first = round((start - starts[row]) / frontend.hop)
            frames = min(num_frames(frontend, length), shapes[row][0] - first)
            totals[r][row][first : first + frames] += values[:frames]
            pieces[r][row][first : first + frames] += 1
    return [[totals[r][row] / np.maximum(pieces[r][row], 1) for row in run_rows] for r, run_rows in enumerate(rows)]


def _evaluated_windows(
    population: Population, state: State, rows: Sequence[Int[np.ndarray, " _"]]
) -> Iterator[tuple[int, Windows, np.ndarray, np.ndarray | None]]:
    """Yields (run, its windows, their class probabilities, their tracks), some windows at a time, as flat arrays."""
    batch_size = population.config["evaluation"]["batch_size"]
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
        probabilities, tracks = parallel.gather(output, len(rows))
        for r, (own, table) in enumerate(zip(blocks, tables, strict=True)):
            if number < len(own):
                valid = table.utterance >= 0
                flat = jax.tree.map(lambda column, valid=valid: column[valid], table)
                yield r, flat, probabilities[r][valid], None if tracks is None else tracks[r][valid]


def validation_ua(population: Population, state: State) -> float:
    """Returns the unweighted accuracy on the validation speakers, pooled over folds, as a mean over seeds."""
    table = validation_predictions(population, state, "validation")
    confusion = metrics.confusion_counts(table, "fold").counts.sum(axis=1)
    return float(np.mean(metrics.unweighted_accuracy(confusion)))


def test_predictions(population: Population, state: State, variant: str) -> pd.DataFrame:
    """Returns the predictions table of every run on its own test fold."""
    return predictions_table(population, state, variant, [fold.test for fold in population.folds])


def validation_predictions(population: Population, state: State, variant: str) -> pd.DataFrame:
    """Returns the predictions table of every run on its own validation speakers."""
    return predictions_table(population, state, variant, [fold.validation for fold in population.folds])


def test_tracks(population: Population, state: State, variant: str) -> pd.DataFrame:
    """Returns every run's tracks of its own test fold, one row for every frame; see `ser_jax.evaluation.tracks`."""
    table, targets = population.corpus.utterances, population.targets
    rows = [fold.test for fold in population.folds]
    seconds_per_frame = population.learner.frontend.hop / population.learner.frontend.rate
    parts = []
    for fold, (_, seed), own, found in zip(
        population.folds, population.runs, rows, evaluate_tracks(population, state, rows), strict=True
    ):
        for row, predicted in zip(own, found, strict=True):
            seconds = np.arange(len(predicted)) * seconds_per_frame
            columns = {"variant": variant, "fold": fold.name, "seed": seed, "utterance": table["id"].iloc[row]}
            columns |= {"speaker": table["speaker"].iloc[row], "seconds": seconds.astype(np.float32)}
            true = interpolate(targets.tracks, int(row), seconds)
            for i, name in enumerate(targets.track_names):
                columns |= {f"true_{name}": true[:, i], f"predicted_{name}": predicted[:, i].astype(np.float32)}
            parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def predictions_table(
    population: Population, state: State, variant: str, rows: Sequence[Int[np.ndarray, " _"]]
) -> pd.DataFrame:
    """Returns the predictions table of each run on the utterances `rows[run]` of the population's corpus."""
    seeds = [seed for _, seed in population.runs]
    found = evaluate(population, state, rows)
    return tabulate(population.corpus, variant, population.folds, seeds, rows, found)


def tabulate(
    corpus: Corpus,
    variant: str,
    folds: Sequence[Fold],
    seeds: Sequence[int],
    rows: Sequence[Int[np.ndarray, " _"]],
    probabilities: Sequence[Float[np.ndarray, "_ classes"]],
) -> pd.DataFrame:
    """Returns the predictions table of runs, each with its fold, its seed, the utterances `rows` and what it said."""
    table = corpus.utterances
    parts = [
        predictions.make_predictions(
            corpus.name,
            variant,
            fold.name,
            seed,
            table["id"].iloc[own].tolist(),
            table["speaker"].iloc[own].tolist(),
            table["label"].to_numpy()[own],
            found,
            corpus.emotions,
        )
        for fold, seed, own, found in zip(folds, seeds, rows, probabilities, strict=True)
    ]
    return predictions.merge(parts)


def describe(population: Population) -> dict:
    """Returns the metadata of the population's checkpoints."""
    names = [(fold.name, seed) for fold, (_, seed) in zip(population.folds, population.runs, strict=True)]
    vocabulary, tracks = population.targets.vocabulary, list(population.targets.track_names)
    targets = {"vocabulary": None if vocabulary is None else to_json(vocabulary), "tracks": tracks}
    return checkpoints.describe(population.config, population.corpus, population.protocol, names, targets)


def _train_steps(
    learner: Learner, state: State, run: Run, rows: Array, count: Array, resident: Resident
) -> tuple[State, dict[str, Array]]:
    """Makes `count` training steps on the batches `rows[:count]`; the metrics are sums over them."""

    def one(i: Array, carry: tuple[State, dict]) -> tuple[State, dict]:
        state, sums = carry
        state, metrics = train_step(learner, state, run, rows[i], resident)
        return state, jax.tree.map(jnp.add, sums, metrics)

    zeros = {name: jnp.zeros(()) for name in metric_names(resident)}
    return jax.lax.fori_loop(0, count, one, (state, zeros))


def _evaluate_windows(
    learner: Learner,
    window_samples: int,
    state: State,
    starts: Int[Array, "batches batch"],
    lengths: Int[Array, "batches batch"],
    count: Array,
    resident: Resident,
) -> tuple[Float[Array, "batches batch classes"], Float[Array, "batches batch frames tracks"] | None]:
    def batch(i: Array) -> tuple[Array, Array | None]:
        return evaluate_batch(learner, state, starts[i], lengths[i], resident, window_samples)

    def one(i: Array, output: tuple[Array, Array | None]) -> tuple[Array, Array | None]:
        return jax.tree.map(lambda whole, part: whole.at[i].set(part), output, batch(i))

    shapes = jax.eval_shape(batch, jnp.int32(0))
    zeros = jax.tree.map(lambda part: jnp.zeros((len(starts), *part.shape), part.dtype), shapes)
    return jax.lax.fori_loop(0, count, one, zeros)


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


def _once(made: dict[str, Any], key: Sequence[Any], make: Callable[[], Any]) -> Any:
    """What `made` has under `key`, and where it has nothing yet, what `make` makes."""
    name = repr(key)
    if name not in made:
        made[name] = make()
    return made[name]
