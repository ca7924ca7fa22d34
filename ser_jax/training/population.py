"""A population: all runs of one variant (folds x seeds), trained and evaluated by one compiled program each."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Float, Int

from ser_jax import config as configuration
from ser_jax import models, predictions
from ser_jax.corpora.corpus import Corpus
from ser_jax.corpora.features import Packed, in_place_of_samples
from ser_jax.corpora.protocols import Fold, Protocol, speakers_known
from ser_jax.corpora.silence import trimmed
from ser_jax.corpora.tracks import interpolate
from ser_jax.corpora.vocabulary import Vocabulary, encode_all, from_json, make_vocabulary, to_json
from ser_jax.errors import UserError
from ser_jax.feeds import resident as resident_feed
from ser_jax.feeds.choice import choose_feed
from ser_jax.feeds.order import lane_size, record_layout
from ser_jax.feeds.records import open_records
from ser_jax.feeds.resident import Piece, Resident, ResidentFeed, Tracks, Windows, cut_windows
from ser_jax.feeds.streaming import StreamingFeed
from ser_jax.frontend import (
    FeatureSums,
    Frontend,
    Masking,
    Statistics,
    Strengths,
    check_augmentation,
    feature_sums,
    fit_statistics,
    num_features,
    num_frames,
)
from ser_jax.statistics import metrics
from ser_jax.training import checkpoints, heads, parallel
from ser_jax.training.heads import Heads
from ser_jax.training.initial import Initial, begin_with, check_initial
from ser_jax.training.state import Learner, Run, State, initialise, make_learner
from ser_jax.training.step import evaluate_batch, metric_names, train_step
from ser_jax.training.teacher import Teacher, check_teacher, taught

_EVALUATION_BATCHES = 16  # batches of windows in one call of the evaluation program
_STREAMED_BATCHES = 4  # where the windows have to be brought to the devices first
_SPEAKER_WINDOWS = 256  # of which batch normalisation takes a speaker's statistics, at most
_TABLE_STEPS = 256  # steps that one call of the training program can make at most


@dataclasses.dataclass(frozen=True)
class Targets:
    """What a model learns beside the emotion, each None or empty without, and by which classifiers it tells that.

    Attributes:
      vocabulary, tokens: of the transcripts, and those of every utterance, [utterances, tokens]; see `encode_all`.
      tracks, track_names: values for every utterance's frames, and what they are.
      heads: classifiers of the source corpora, or None: one for all.
      frames: features of a frame, where the model tells those of hidden frames; else 0.
    """

    vocabulary: Vocabulary | None = None
    tokens: np.ndarray | None = None
    tracks: Packed | None = None
    track_names: tuple[str, ...] = ()
    heads: Heads | None = None
    frames: int = 0

    @property
    def options(self) -> dict[str, int]:
        """The options of a model that learns them."""
        options = {} if self.vocabulary is None else {"num_symbols": self.vocabulary.num_symbols}
        options |= {"tracks": len(self.track_names)} if self.track_names else {}
        return options | ({"frames": self.frames} if self.frames else {})


@dataclasses.dataclass(frozen=True)
class Population:
    """All that a population's programs work with; made by `make_population`.

    Attributes:
      runs: which fold and seed each entry of the run axis is.
      run: the runs' own values, [groups, runs per group, ...] on the devices.
      layout: how the runs lie on the devices.
      feed: "resident" or "streaming", and in `feed_reason` why.
      targets: what the model learns beside the emotion, and its heads.
      initial: what the runs begin with, instead of what is drawn; or None.
      teacher: whose probabilities they learn beside the labels; or None.
      made: what populations have in common and is made once, by what it is made of.
    """

    config: dict
    corpus: Corpus
    protocol: Protocol
    learner: Learner
    runs: tuple[tuple[int, int], ...]
    run: Run
    targets: Targets
    initial: Initial | None
    teacher: Teacher | None
    num_steps: int
    steps_per_epoch: float
    layout: parallel.Layout
    feed: str
    feed_reason: str
    data_dir: str | None
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
        """The corpus on every device of this process, brought there when it is first asked for."""
        corpus, targets = self.corpus, self.targets
        features = corpus.info.get("features")
        devices = self.layout.local.devices
        source = (corpus.fingerprint, features and features["fingerprint"], self.window_samples, len(devices))
        source += (self.learner.frontend.trim_db,)
        if self.learner.frontend.normalization == "speaker":
            source += (self.learner.frontend,)
        learnt = (targets.vocabulary, self.config["corpus"]["tracks"] if targets.tracks is not None else "")
        learnt += (targets.heads,)
        if self.teacher is not None:
            learnt += (self.teacher.parameters, [fold.name for fold in _distinct(self.folds)])
        return _once(self.made, ("resident", *source, *learnt), self._bring)

    def _bring(self) -> Resident:
        tracks = self.targets.tracks
        if tracks is not None:
            tracks = Tracks(tracks.values, tracks.start, tracks.num_frames, np.float32(tracks.frame_ms))
        own_heads = self.targets.heads
        source = None if own_heads is None else heads.source_numbers(own_heads, self.corpus)
        resident = resident_feed.make_resident(self.corpus, self.window_samples, self.targets.tokens, tracks, source)
        if self.teacher is not None:
            table = taught(self.teacher, _distinct(self.folds), len(resident.label), self.learner.num_classes)
            resident = resident.replace(taught=table)
        resident = parallel.replicate(resident, self.layout.local.devices)
        if self.learner.frontend.normalization == "speaker":
            statistics = _speaker_statistics(self, resident)
            resident = resident.replace(statistics=parallel.replicate(statistics, self.layout.local.devices))
        return resident


def make_population(
    config: dict,
    corpus: Corpus,
    protocol: Protocol,
    *,
    tracks: Packed | None = None,
    features: Packed | None = None,
    trained: dict | None = None,
    initial: Initial | None = None,
    teacher: Teacher | None = None,
    made: dict[str, Any] | None = None,
    data_dir: str | None = None,
) -> Population:
    """Checks a variant's configuration; compiles nothing, and brings nothing to the devices yet.

    `tracks`, `features`, `initial` and `teacher` are those that the configuration names. `data_dir` is where the
    streaming feed keeps its record files. `trained` is what a checkpoint's metadata say of the targets, for a model
    that is not trained here. Populations that are given the same dict `made` share in it what they have in common:
    programs (of variants that differ only in what runs have along the run axis: learning rate, weight decay, strengths
    ...), the corpus on the devices, sums of features.
    """
    made = {} if made is None else made
    runs = runs_of(config, protocol)
    frontend = make_frontend(config, features)
    check_augmentation(frontend, config["augmentation"])
    if features is not None:
        corpus = in_place_of_samples(corpus, features)
    if frontend.trim_db:
        if tracks is not None:
            raise UserError(
                f"config.frontend.trim_db: found {frontend.trim_db}, expected 0: tracks are of whole recordings"
            )
        key = "trimmed", corpus.fingerprint, frontend.trim_db
        corpus = _once(made, key, functools.partial(trimmed, corpus, frontend.trim_db))
    crop_samples = max(round(config["training"]["crop_seconds"] * frontend.rate), 1)
    window_seconds = config["evaluation"]["window_seconds"]
    if not 0 <= window_seconds < np.inf:
        raise UserError(
            f"config.evaluation.window_seconds: found {window_seconds}, expected seconds, or 0 for a crop's"
        )
    window_samples = round(window_seconds * frontend.rate) or crop_samples
    # Of all folds of the protocol, not only those trained here: a run does not depend on its neighbours.
    utterances = np.mean([len(fold.train) for fold in protocol.folds])
    steps_per_epoch = float(utterances / config["training"]["batch_size"])
    num_steps = configuration.steps(config, "training", "train", steps_per_epoch)
    warmup_steps = configuration.steps(config, "optimizer", "warmup", steps_per_epoch)
    if tracks is not None and (frontend.kind in ("histogram", "functionals") or not frontend.rate):
        raise UserError(f"config.corpus.tracks: features of kind {frontend.kind} have no frames in time to follow them")
    targets = targets_of(config, corpus, tracks) if trained is None else _trained_targets(trained, corpus)
    if targets.heads is not None and trained is None:
        heads.check_folds(targets.heads, corpus, [protocol.folds[fold] for fold, _ in runs])
    masking = make_masking(config, frontend)
    if masking is not None:
        targets = dataclasses.replace(targets, frames=num_features(frontend))
    batch_statistics = config["evaluation"]["batch_statistics"]
    if frontend.normalization == "speaker" and trained is None and not speakers_known(corpus):
        raise UserError(f"config.frontend.normalization=speaker: corpus {corpus.name} does not say who speaks")
    num_outputs = len(corpus.emotions) if targets.heads is None else targets.heads.num_outputs
    model = models.build(num_classes=num_outputs, **config["model"], **targets.options)
    _check_features(model, frontend, corpus)
    durations = {"num_steps": max(num_steps, warmup_steps + 1), "warmup_steps": warmup_steps}
    _check_batch_statistics(config, corpus, model, trained)
    layout = parallel.make_layout(len(runs), config["training"]["split"], config["training"]["batch_size"])
    feed, reason = choose_feed(
        config["feed"],
        corpus,
        longest_read=window_samples,
        memory=parallel.device_memory(layout.local.devices),
        only_resident=_only_resident(frontend, targets, teacher),
    )
    accumulate = _check_batch(config, targets, layout, feed)
    _check_order(config, corpus, [protocol.folds[fold] for fold, _ in runs], feed)

    def make_programs() -> tuple[Learner, Callable, parallel.Program, parallel.Program]:
        learner = make_learner(
            model,
            frontend,
            num_classes=len(corpus.emotions),
            heads=targets.heads,
            crop_samples=crop_samples,
            gradient_clip=config["optimizer"]["gradient_clip"],
            ema_decay=config["optimizer"]["ema_decay"],
            accumulate=accumulate,
            axis_name=parallel.BATCH if layout.shares_batch else None,
            masking=masking,
            **durations,
        )
        draw = jax.vmap(jax.vmap(functools.partial(initialise, learner)))
        # With little optimisation: it runs once, and some hundred small random draws take long to optimise.
        options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
        train = functools.partial(_train_steps, learner)
        test = functools.partial(_evaluate_windows, learner, window_samples, batch_statistics)
        corpus_lies = "shared" if feed == "resident" else "part"
        return (
            learner,
            jax.jit(draw, compiler_options=options),
            parallel.on_devices(train, layout, ("run", "run", "part", "shared", corpus_lies), "run", donate=1),
            parallel.on_devices(test, layout.local, ("run", "part", "part", "part", "shared", corpus_lies), "part"),
        )

    optimizer = [config["optimizer"][name] for name in ("gradient_clip", "ema_decay")]
    key = (model, frontend, masking, crop_samples, window_samples, batch_statistics)
    key += (*durations.values(), *optimizer, accumulate, layout, feed, targets.heads)
    learner, initialise_program, train_program, evaluate_program = _once(made, key, make_programs)
    if initial is not None:
        check_initial(initial, config, corpus, learner)
    numbers = list(dict.fromkeys(fold for fold, _ in runs))
    if teacher is not None:
        own_heads = heads.to_json(targets.heads, corpus.emotions)
        check_teacher(teacher, corpus, [protocol.folds[fold] for fold in numbers], own_heads)
    own = [make_run(config, corpus, protocol.folds[fold], fold, seed, numbers.index(fold)) for fold, seed in runs]
    keys = parallel.spread(np.stack([jax.random.key_data(run.key) for run in own]), layout.groups)
    run = parallel.stack_runs([run.replace(key=0) for run in own], layout.groups)
    return Population(
        config=config,
        corpus=corpus,
        protocol=protocol,
        learner=learner,
        runs=runs,
        run=run.replace(key=jax.random.wrap_key_data(jnp.asarray(keys))),
        targets=targets,
        initial=initial,
        teacher=teacher,
        num_steps=num_steps,
        steps_per_epoch=steps_per_epoch,
        initialise_program=initialise_program,
        train_program=train_program,
        layout=layout,
        feed=feed,
        feed_reason=reason,
        data_dir=data_dir,
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
    """What a variant learns beside the emotion, and its heads; raises `UserError` where the corpus has none."""
    for option, by in (("num_symbols", "the corpus"), ("tracks", "the corpus"), ("frames", "config.objective.frames")):
        if option in config["model"]:
            raise UserError(f"config.model.{option}: {by} decides it; expected it not to be set")
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
    names = () if tracks is None else tuple(tracks.names)
    return Targets(vocabulary, tokens, tracks, names, heads.make_heads(config, corpus))


def _trained_targets(metadata: dict, corpus: Corpus) -> Targets:
    """The targets that `describe` wrote, without the values that only a training needs."""
    vocabulary = None if metadata["vocabulary"] is None else from_json(metadata["vocabulary"])
    own_heads = heads.from_json(metadata["heads"], corpus.emotions)
    return Targets(vocabulary, track_names=tuple(metadata["tracks"]), heads=own_heads)


def _check_batch(config: dict, targets: Targets, layout: parallel.Layout, feed: str) -> int:
    """Returns the parts that a device's share of a batch is cut into, after refusing what does not divide."""
    batch_size, accumulate = (config["training"][name] for name in ("batch_size", "accumulate"))
    lanes, window = (config["order"][name] for name in ("lanes", "window"))
    for name, value in (("order.lanes", lanes), ("order.window", window), ("training.accumulate", accumulate)):
        if value < 1:
            raise UserError(f"config.{name}: found {value}, expected at least 1")
    share = batch_size // layout.parts
    if share % accumulate:
        raise UserError(f"config.training.accumulate: {accumulate} does not divide the {share} rows that a device has")
    if batch_size % lanes:
        raise UserError(f"config.order.lanes: {lanes} does not divide the batch of {batch_size}")
    processes = jax.process_count()
    if feed == "streaming" and lanes % processes:
        raise UserError(
            f"config.order.lanes: {lanes} cannot be shared out to {processes} processes that read the corpus together"
        )
    if accumulate > 1 and targets.tracks is not None:
        raise UserError(
            f"config.training.accumulate: found {accumulate}, expected 1: tracks are learnt by a coefficient of the "
            "whole batch, which its parts do not add up to"
        )
    return accumulate


def _check_batch_statistics(config: dict, corpus: Corpus, model: nn.Module, trained: dict | None) -> None:
    where, found = "config.evaluation.batch_statistics", config["evaluation"]["batch_statistics"]
    if found not in ("running", "speaker"):
        raise UserError(f"{where}: found {found!r}, expected running or speaker")
    if found == "running":
        return
    if not hasattr(model, "axis_name"):  # which every model with batch normalisation has
        raise UserError(f"{where}=speaker: model {config['model']['name']} has no batch normalisation")
    if trained is None and not speakers_known(corpus):
        raise UserError(f"{where}=speaker: corpus {corpus.name} does not say who speaks")


def _check_order(config: dict, corpus: Corpus, folds: Sequence[Fold], feed: str) -> None:
    """Refuses lanes that a fold leaves empty, and windows of all runs that this machine's memory cannot hold."""
    lanes, window = (config["order"][name] for name in ("lanes", "window"))
    files = record_layout(len(corpus.utterances), lanes, window)
    waiting = 0
    for fold in folds:
        sizes = [lane_size(files, fold.train, lane) for lane in range(lanes)]
        if not all(sizes):
            raise UserError(
                f"config.order.lanes: found {lanes}; lane {sizes.index(0)} has none of the {len(fold.train)} "
                f"utterances that fold {fold.name} trains on"
            )
        waiting += sum(min(size, window) for size in sizes)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * jax.process_count()
    size = 2 * waiting * corpus.samples.nbytes / len(corpus.utterances)  # a window is read while another is used
    if feed == "streaming" and size > memory / 2:
        raise UserError(
            f"config.order.window: {window} utterances for each of {len(folds)} runs and {lanes} lanes take "
            f"{size / 2**30:.1f} GiB, more than half of the memory; expected a smaller window, or fewer runs at once"
        )


def _only_resident(frontend: Frontend, targets: Targets, teacher: Teacher | None) -> str:
    """What of a training the streaming feed cannot bring; empty: nothing."""
    if frontend.kind == "precomputed":
        return "features made elsewhere"
    if frontend.normalization == "speaker":
        return "normalization by speaker"
    if frontend.trim_db:
        return "trimmed recordings"
    if targets.heads is not None:
        return "sources with heads of their own"
    if teacher is not None:
        return "what a teacher says"
    return "tracks" if targets.tracks is not None else ""


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


def make_masking(config: dict, frontend: Frontend) -> Masking | None:
    """Returns how frames are hidden for a model to tell them, or None where `config.objective.frames` is 0.

    Raises `UserError` for weights below zero, and where there are no frames to hide, or no zero to hide them by.
    """
    for name, weight in config["objective"].items():
        if not 0 <= weight < np.inf:
            raise UserError(f"config.objective.{name}: found {weight}, expected a number of at least 0")
    masking = configuration.construct(Masking, config["masking"], "config.masking")
    if not config["objective"]["frames"]:
        return None
    if frontend.kind in ("histogram", "functionals") or not frontend.rate:
        raise UserError(f"config.objective.frames: features of kind {frontend.kind} have no frames in time to hide")
    if frontend.normalization == "none":
        raise UserError(
            "config.frontend.normalization: found none, expected utterance, train or speaker: hidden frames are zero, "
            "which has to be the features' mean"
        )
    return masking


def make_run(config: dict, corpus: Corpus, fold: Fold, number: int, seed: int, place: int) -> Run:
    """Returns one run's values; its key depends on its fold's number and its seed alone, not on its fold's place."""
    optimizer, share = config["optimizer"], config["training"]["teacher_share"]
    if not 0 <= share <= 1:
        raise UserError(f"config.training.teacher_share: found {share}, expected a share from 0 to 1")
    strengths = configuration.construct(Strengths, config["augmentation"], "config.augmentation")
    counts = np.bincount(corpus.utterances["label"].to_numpy()[fold.train], minlength=len(corpus.emotions))
    weights = np.ones(len(corpus.emotions))
    if optimizer["class_weights"]:
        # The mean weight of the training utterances is 1; a class that the fold lacks has none to weigh.
        weights = counts.sum() / (np.maximum(counts, 1) * np.count_nonzero(counts))
    return Run(
        key=jax.random.fold_in(jax.random.key(seed), number),
        fold=np.int32(place),
        learning_rate=np.float32(optimizer["learning_rate"]),
        weight_decay=np.float32(optimizer["weight_decay"]),
        label_smoothing=np.float32(optimizer["label_smoothing"]),
        class_weights=weights.astype(np.float32),
        loss_weights={name: np.float32(weight) for name, weight in config["objective"].items()},
        strengths=jax.tree.map(np.float32, strengths),
        teacher_share=np.float32(share),
    )


def training_feed(population: Population, first_step: int) -> ResidentFeed | StreamingFeed:
    """Returns what gives a training its batches from `first_step` on."""
    order, layout = population.config["order"], population.layout
    runs = [(seed, number, fold.train) for (number, seed), fold in zip(population.runs, population.folds, strict=True)]
    files = record_layout(len(population.corpus.utterances), **order)
    common = {"parts": layout.parts, "own_parts": layout.own_parts, "first_step": first_step}
    batch_size = population.config["training"]["batch_size"]
    if population.feed == "resident":
        return ResidentFeed(population.resident, files, runs, batch_size, **common, table_steps=_TABLE_STEPS)
    records = open_records(population.corpus, population.data_dir)
    return StreamingFeed(
        records, population.corpus, files, runs, batch_size, **common, tokens=population.targets.tokens
    )


def place(population: Population, piece: Piece) -> Piece:
    """Lays a piece as the training program takes it and sends it to the devices, without waiting for it to arrive."""
    rows, resident = parallel.place_parts(piece.rows, population.layout), piece.resident
    if population.feed == "streaming":
        resident = jax.tree.map(lambda leaf: parallel.place_parts(leaf, population.layout), resident)
    return dataclasses.replace(piece, rows=rows, resident=resident)


def train_steps(population: Population, state: State, placed: Piece) -> tuple[State, dict[str, Array]]:
    """Makes the steps of a placed piece; the metrics are sums over them, and of every run."""
    return population.train_program(*training_arguments(population, state, placed))


def training_arguments(population: Population, state: State, placed: Piece) -> tuple:
    """Returns what the training program takes."""
    return state, population.run, placed.rows, jnp.int32(placed.count), placed.resident


def initial_state(population: Population) -> State:
    """Returns every run's state before its first step, [groups, runs per group, ...]."""
    statistics = None
    if population.learner.frontend.normalization == "train":
        source = population.corpus.fingerprint, population.learner.frontend, population.window_samples
        sums = _once(
            population.made, ("sums", *source), lambda: _utterance_sums(population, _resident_or_none(population))
        )
        statistics = parallel.stack_runs(
            [_fold_statistics(sums, fold) for fold in population.folds], population.layout.groups
        )
    keys = np.asarray(jax.random.key_data(population.run.key))
    # A hundred small draws take a minute and more to compile for a GPU, and two seconds for the processor beside it.
    with jax.default_device(parallel.host()):
        drawn = population.initialise_program(jax.random.wrap_key_data(jnp.asarray(keys)), statistics)
        state = jax.tree.map(np.asarray, drawn)
    if population.initial is None:
        return state
    seeds = [seed for _, seed in population.runs]
    gathered = parallel.gather(state, len(seeds))
    begun = begin_with(population.initial, population.learner, gathered, seeds, population.corpus.emotions)
    return jax.tree.map(lambda leaf: parallel.spread(leaf, population.layout.groups), begun)


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
    """Yields (run, its windows, their class probabilities, their tracks), some windows at a time, as flat arrays.

    Where devices share the batches, each takes other windows of every run.
    """
    batch_size, layout = _evaluation_batch_size(population), population.layout.local
    batches = _EVALUATION_BATCHES if population.feed == "resident" else _STREAMED_BATCHES
    blocks = [
        list(
            resident_feed.evaluation_windows(
                population.corpus,
                run_rows,
                population.window_samples,
                batch_size,
                batches,
                of_one_speaker=population.config["evaluation"]["batch_statistics"] == "speaker",
            )
        )
        for run_rows in rows
    ]
    if population.layout.local != population.layout:
        state = jax.tree.map(np.asarray, state)  # of all processes; this program is of this one alone
    for number in range(0, max(map(len, blocks)), layout.parts):
        # A run with fewer windows than its neighbours repeats its last ones; they are not counted again.
        tables = [[own[min(number + part, len(own) - 1)] for own in blocks] for part in range(layout.parts)]
        used = max(int(np.flatnonzero((table.utterance >= 0).any(1))[-1]) + 1 for part in tables for table in part)
        output = population.evaluate_program(state, *_window_arguments(population, layout, tables, used))
        for part in range(layout.parts):
            own = jax.tree.map(lambda leaf, part=part: leaf[part : part + 1], output) if layout.shares_batch else output
            probabilities, tracks = parallel.gather(own, len(rows))
            for r, (known, table) in enumerate(zip(blocks, tables[part], strict=True)):
                if number + part < len(known):
                    valid = table.utterance >= 0
                    flat = jax.tree.map(lambda column, valid=valid: column[valid], table)
                    yield r, flat, probabilities[r][valid], None if tracks is None else tracks[r][valid]


def _evaluation_batch_size(population: Population) -> int:
    """The windows of a batch: as configured, or as many as the speaker with the most has."""
    evaluation, table = population.config["evaluation"], population.corpus.utterances
    if evaluation["batch_statistics"] == "running":
        return evaluation["batch_size"]
    count = resident_feed.num_windows(table["num_samples"], population.window_samples)
    return min(int(count.groupby(table["speaker"]).sum().max()), _SPEAKER_WINDOWS)


def _window_arguments(population: Population, layout: parallel.Layout, tables: list[list[Windows]], used: int) -> tuple:
    """What the evaluation program takes beside the state.

    Where the windows begin, how long they are and of which utterances, [parts, runs, ...]; how many batches there are
    to compute; the corpus.
    """

    def stacked(parts: Any) -> Any:
        return jax.tree.map(
            lambda leaf: parallel.spread_parts(leaf, layout),
            _stack([_stack(part) for part in parts]),
        )

    if population.feed == "resident":
        resident = population.resident
    else:
        cut = [[cut_windows(population.corpus, table, population.window_samples) for table in part] for part in tables]
        tables = [[windows for windows, _ in part] for part in cut]
        resident = stacked([[own for _, own in part] for part in cut])

    def places_of(table: Windows) -> tuple[np.ndarray, ...]:
        return tuple(
            np.asarray(column, np.int32) for column in (table.start, table.num_samples, np.maximum(table.utterance, 0))
        )

    places = stacked([[places_of(table) for table in part] for part in tables])
    return *places, jnp.int32(used), resident


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


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
    """Returns every run's tracks of its own test fold, one row for every frame; see `statistics.concordance`."""
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
    targets["heads"] = heads.to_json(population.targets.heads, population.corpus.emotions)
    initial = population.initial and population.initial.describe()
    teacher = population.teacher and population.teacher.describe()
    return checkpoints.describe(
        population.config, population.corpus, population.protocol, names, targets, initial, teacher
    )


def _train_steps(
    learner: Learner, state: State, run: Run, rows: Array, count: Array, resident: Resident
) -> tuple[State, dict[str, Array]]:
    """Makes `count` training steps on the batches `rows[:count]`; the metrics are sums over them."""

    def one(i: Array, carry: tuple[State, dict]) -> tuple[State, dict]:
        state, sums = carry
        state, metrics = train_step(learner, state, run, rows[i], resident)
        return state, jax.tree.map(jnp.add, sums, metrics)

    zeros = {name: jnp.zeros(()) for name in metric_names(learner, resident)}
    return jax.lax.fori_loop(0, count, one, (state, zeros))


def _evaluate_windows(
    learner: Learner,
    window_samples: int,
    batch_statistics: str,
    state: State,
    starts: Int[Array, "batches batch"],
    lengths: Int[Array, "batches batch"],
    utterances: Int[Array, "batches batch"],
    count: Array,
    resident: Resident,
) -> tuple[Float[Array, "batches batch classes"], Float[Array, "batches batch frames tracks"] | None]:
    def batch(i: Array) -> tuple[Array, Array | None]:
        places = starts[i], lengths[i], utterances[i]
        return evaluate_batch(learner, state, *places, resident, window_samples, batch_statistics)

    def one(i: Array, output: tuple[Array, Array | None]) -> tuple[Array, Array | None]:
        return jax.tree.map(lambda whole, part: whole.at[i].set(part), output, batch(i))

    shapes = jax.eval_shape(batch, jnp.int32(0))
    zeros = jax.tree.map(lambda part: jnp.zeros((len(starts), *part.shape), part.dtype), shapes)
    return jax.lax.fori_loop(0, count, one, zeros)


def _distinct(folds: Sequence[Fold]) -> list[Fold]:
    return list({fold.name: fold for fold in folds}.values())


def _resident_or_none(population: Population) -> Resident | None:
    return population.resident if population.feed == "resident" else None


def _utterance_sums(population: Population, resident: Resident | None) -> FeatureSums:
    """The sums of features over each utterance's windows, from which every fold's and speaker's statistics follow.

    `resident` holds the corpus; None: the windows are brought one by one.
    """
    corpus, frontend, window_samples = population.corpus, population.learner.frontend, population.window_samples

    @functools.partial(jax.jit, compiler_options=parallel.compiler_options())
    def sums(resident: Resident, start: Array, num_samples: Array) -> FeatureSums:
        batch = resident_feed.window_batch(resident, start, num_samples, window_samples)
        return feature_sums(frontend, batch.waveform, batch.num_samples)

    rows = range(len(corpus.utterances))
    total: FeatureSums | None = None
    for windows in resident_feed.evaluation_windows(corpus, rows, window_samples, 32, 1):
        there, held = (windows, resident) if resident else cut_windows(corpus, windows, window_samples)
        start = there.start[0].astype(np.int32)
        part = jax.tree.map(np.asarray, sums(held, start, windows.num_samples[0].astype(np.int32)))
        if total is None:
            total = jax.tree.map(lambda leaf: np.zeros((len(rows), *leaf.shape[1:])), part)
        valid = windows.utterance[0] >= 0
        for leaf, more in zip(jax.tree.leaves(total), jax.tree.leaves(part), strict=True):
            np.add.at(leaf, windows.utterance[0][valid], more[valid])
    return total


def _speaker_statistics(population: Population, resident: Resident) -> Statistics:
    """For each row of the resident corpus the statistics of all that its speaker says.

    Utterances of unknown speakers, such as the recordings of one call of `predict`, count as one speaker's.
    """
    sums = _utterance_sums(population, resident)
    speakers = population.corpus.utterances["speaker"].to_numpy()
    result = Statistics(*(np.zeros((len(resident.start), sums.total.shape[1]), np.float32) for _ in range(2)))
    for speaker in np.unique(speakers):
        rows = np.flatnonzero(speakers == speaker)
        own = fit_statistics(jax.tree.map(lambda leaf, rows=rows: leaf[rows].sum(0), sums))
        result.mean[rows], result.std[rows] = np.asarray(own.mean), np.asarray(own.std)
    return result.replace(std=np.where(result.std > 0, result.std, 1))


def _fold_statistics(sums: FeatureSums, fold: Fold) -> Statistics:
    return jax.tree.map(np.asarray, fit_statistics(jax.tree.map(lambda leaf: leaf[fold.train].sum(0), sums)))


def _once(made: dict[str, Any], key: Sequence[Any], make: Callable[[], Any]) -> Any:
    """What `made` has under `key`, and where it has nothing yet, what `make` makes."""
    name = repr(key)
    if name not in made:
        made[name] = make()
    return made[name]
