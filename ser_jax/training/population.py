"""A population: all runs of one variant (folds x seeds), trained and evaluated by one compiled program each."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from ser_jax import config as configuration
from ser_jax import plugins
from ser_jax.corpora.corpus import Corpus
from ser_jax.corpora.duplicates import recordings
from ser_jax.corpora.features import Packed, in_place_of_samples
from ser_jax.corpora.protocols import Fold, Protocol, speakers_known
from ser_jax.corpora.silence import trimmed
from ser_jax.corpora.vocabulary import to_json
from ser_jax.errors import UserError
from ser_jax.feeds.choice import choose_feed
from ser_jax.feeds.order import file_layout
from ser_jax.feeds.records import open_records
from ser_jax.feeds.resident import Piece, Resident, ResidentFeed
from ser_jax.feeds.streaming import StreamingFeed
from ser_jax.frontend import Statistics, check_augmentation, num_features
from ser_jax.frontend.statistics import fold_statistics
from ser_jax.training import checkpoints, devices, heads
from ser_jax.training.data import latest, longest_read, place_corpus, source_of, utterance_sums, utterance_targets
from ser_jax.training.encoder import Upper, upper_layers
from ser_jax.training.initial import Initial, begin_with, check_initial
from ser_jax.training.objectives import LOSSES, check_loss
from ser_jax.training.precision import check_precision
from ser_jax.training.programs import Programs, make_programs
from ser_jax.training.runs import ANY_RATE, BY_RUN, make_run, rates_of, run_keys, runs_of
from ser_jax.training.setup import (
    Targets,
    check_batch,
    check_batch_statistics,
    check_classes,
    check_features,
    check_order,
    check_selection,
    make_frontend,
    make_masking,
    make_model,
    only_resident,
    restored_targets,
    targets_of,
)
from ser_jax.training.state import Learner, Run, State, make_learner
from ser_jax.training.teacher import Teacher, check_teacher

_TABLE_STEPS = 256  # steps that one call of the training program can make at most


@dataclasses.dataclass(frozen=True)
class Population:
    """All that a population's programs work with; made by `make_population`.

    Attributes:
      corpus: what is trained on: utterances trimmed, or features in the place of samples.
      packed: the corpus as it is packed.
      runs: which fold and seed each entry of the run axis is.
      run_values: what distinguishes them in the programs, [groups, runs per group, ...] on the devices.
      layout: how the runs lie on the devices.
      feed: "resident" or "streaming", and in `feed_reason` why.
      targets: what the model learns beside the emotion, and its heads.
      initial: what the runs begin with, instead of what is drawn; or None.
      teacher: whose probabilities they learn beside the labels; or None.
      upper: the layers of an encoder that the model computes; or None.
      num_steps, steps_per_epoch: of the training.
      programs: what is compiled.
      window_samples: the length of what is evaluated in one piece.
      cache: what populations have in common, by what it is made of.
    """

    config: dict
    corpus: Corpus
    packed: Corpus
    protocol: Protocol
    runs: tuple[tuple[int, int], ...]
    run_values: Run
    targets: Targets
    initial: Initial | None
    teacher: Teacher | None
    upper: Upper | None
    num_steps: int
    steps_per_epoch: float
    layout: devices.Layout
    feed: str
    feed_reason: str
    data_dir: str | None
    programs: Programs
    window_samples: int
    cache: dict[str, Any]

    @property
    def folds(self) -> list[Fold]:
        """The fold of each run."""
        return [self.protocol.folds[fold] for fold, _ in self.runs]

    @property
    def distinct_folds(self) -> list[Fold]:
        """The folds of all runs, each once."""
        return list({fold.name: fold for fold in self.folds}.values())

    @property
    def learner(self) -> Learner:
        """What is static in the population's programs."""
        return self.programs.learner

    @property
    def num_parameters(self) -> int:
        """Of the model of one run."""
        return self.learner.num_parameters

    @property
    def read_samples(self) -> int:
        """How many samples its programs read at once from any place, at most."""
        return max(self.window_samples, self.learner.crop_samples)

    @functools.cached_property
    def resident(self) -> Resident:
        """The corpus on every device of this process, brought there when it is first asked for."""
        return place_corpus(
            self.corpus,
            self.learner.frontend,
            self.targets,
            self.teacher,
            self.distinct_folds,
            self.read_samples,
            self.layout.local,
            self.cache,
        )

    @functools.cached_property
    def encoder(self) -> Any:
        """The weights of the encoder's layers that the model computes, on every device of this process; or None."""
        if self.upper is None:
            return None
        local = self.layout.local.devices
        key = self.upper.encoder["sha256"], self.upper.first, self.upper.depth, *self.upper.collection, len(local)
        return latest(self.cache, "encoder", key, lambda: devices.replicate(self.upper.collection, local))


def make_population(
    config: dict,
    corpus: Corpus,
    protocol: Protocol,
    *,
    tracks: Packed | None = None,
    features: Packed | None = None,
    trained_targets: dict | None = None,
    initial: Initial | None = None,
    teacher: Teacher | None = None,
    cache: dict[str, Any] | None = None,
    data_dir: str | None = None,
) -> Population:
    """Checks a variant's configuration; compiles nothing, and brings nothing to the devices yet.

    `tracks`, `features`, `initial` and `teacher` are those that the configuration names. `data_dir` is where the
    streaming feed keeps its record files, and where encoders are. `trained_targets` is what a checkpoint's metadata say
    of the targets, for a model that is not trained here. Populations that are given the same dict `cache` share in it
    what they have in common: programs (of variants that differ only in what runs have along the run axis: learning
    rate, weight decay, strengths ...), the corpus on the devices, sums of features.
    """
    cache = {} if cache is None else cache
    packed, training = corpus, trained_targets is None
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
        corpus = cached(cache, key, functools.partial(trimmed, corpus, frontend.trim_db))
    crop_samples = max(round(config["training"]["crop_seconds"] * frontend.rate), 1)
    window_samples = round(config["evaluation"]["window_seconds"] * frontend.rate) or crop_samples
    # Of all folds of the protocol, not only those trained here: a run does not depend on its neighbours.
    utterances = np.mean([len(fold.train) for fold in protocol.folds])
    steps_per_epoch = float(utterances / config["training"]["batch_size"])
    num_steps = configuration.steps(config, "training", "train", steps_per_epoch)
    warmup_steps = configuration.steps(config, "optimizer", "warmup", steps_per_epoch)
    if training and warmup_steps >= num_steps:
        raise UserError(
            f"config.optimizer: found a warm-up of {warmup_steps} steps, expected less than the training's {num_steps}"
        )
    if tracks is not None and (frontend.kind in ("histogram", "functionals") or not frontend.rate):
        raise UserError(f"config.corpus.tracks: features of kind {frontend.kind} have no frames in time to follow them")
    if training:
        check_classes(config, packed)
        targets = targets_of(config, corpus, tracks, [protocol.folds[fold] for fold, _ in runs])
    else:
        targets = restored_targets(trained_targets, corpus.emotions)
    if targets.heads is not None and training:
        heads.check_folds(targets.heads, corpus, [protocol.folds[fold] for fold, _ in runs])
    masking = make_masking(config, frontend)
    batch_statistics = config["evaluation"]["batch_statistics"]
    if frontend.normalization == "speaker" and training and not speakers_known(corpus):
        raise UserError(f"config.frontend.normalization=speaker: the speakers of corpus {corpus.name} are not known")
    upper = upper_layers(config, features, data_dir)
    model = make_model(config, frontend, targets, len(corpus.emotions), upper and upper.architecture)
    check_features(config, model, frontend, corpus)
    rates = rates_of(config["model"]["name"], model)
    model = model.clone(**dict.fromkeys(rates, ANY_RATE))
    durations = {"num_steps": max(num_steps, warmup_steps + 1), "warmup_steps": warmup_steps}
    check_batch_statistics(config, corpus, training=training)
    layout = devices.make_layout(len(runs), config["training"]["split"], config["training"]["batch_size"])
    longest = longest_read(corpus, frontend, max(window_samples, crop_samples))
    needed = only_resident(frontend, targets, teacher, training=training)

    def chosen() -> tuple[str, str]:
        # Samples that lie there are the same, or make room for these.
        memory = devices.free_memory(layout.local.devices, cache.get("samples"))
        return choose_feed(config["feed"], corpus, longest_read=longest, memory=memory, only_resident=needed)

    # Once, so that it does not depend on which other variant is training.
    feed, reason = cached(cache, ("feed", config["feed"], *source_of(corpus), longest, needed), chosen)
    if config["training"]["deterministic"]:
        devices.check_deterministic()
    accumulate = check_batch(config, targets, layout, feed)
    loss = plugins.resolve(config["training"]["loss"], LOSSES, "config.training.loss")
    if loss not in LOSSES.values() and corpus.emotions:
        check_loss(config["training"]["loss"], loss, len(corpus.emotions))
    check_order(config, corpus, [protocol.folds[fold] for fold, _ in runs], feed)

    selects = config["training"]["keep"] == "best" or config["training"]["patience"] > 0
    if selects and training:
        check_selection(config, [protocol.folds[fold] for fold, _ in runs], steps_per_epoch, num_steps)
    precision = config["training"]["precision"]
    check_precision(precision, training=training)
    augmentations = frozenset(name for name, strength in config["augmentation"].items() if strength)

    def compiled_later() -> Programs:
        learner = make_learner(
            model,
            frontend,
            num_classes=len(corpus.emotions),
            dimensions=targets.dimension_names,
            heads=targets.heads,
            crop_samples=crop_samples,
            optimizer=config["optimizer"],
            loss=loss,
            accumulate=accumulate,
            axis_name=devices.BATCH if layout.shares_batch else None,
            masking=masking,
            selects=selects,
            precision=precision,
            augmentations=augmentations,
            rates=rates,
            **durations,
        )
        return make_programs(
            learner, layout, feed, window_samples, batch_statistics, deterministic=config["training"]["deterministic"]
        )

    optimizer = [value for name, value in config["optimizer"].items() if name not in BY_RUN]
    optimizer.append(bool(config["optimizer"]["ema_decay"]))
    key = (model, frontend, masking, crop_samples, window_samples, batch_statistics)
    key += (
        *durations.values(),
        *optimizer,
        loss,
        *sorted(config["augmentation"]["custom"]),
        accumulate,
        layout,
        feed,
        targets.heads,
        targets.dimension_names,
        config["training"]["deterministic"],
        selects,
        precision,
        augmentations,
    )
    programs = cached(cache, key, compiled_later)
    if initial is not None:
        check_initial(initial, config, corpus, programs.learner)
    numbers = list(dict.fromkeys(fold for fold, _ in runs))
    if teacher is not None:
        own_heads = heads.to_json(targets.heads, corpus.emotions)
        check_teacher(teacher, corpus, [protocol.folds[fold] for fold in numbers], own_heads)
    own = [make_run(config, corpus, protocol.folds[fold], numbers.index(fold), rates) for fold, _ in runs]
    if training and targets.scaling is not None:
        own = [run.replace(dimension_scaling=scaling) for run, scaling in zip(own, targets.scaling, strict=True)]
    run_values = devices.stack_runs(own, layout.groups).replace(key=run_keys(runs, layout.groups))
    return Population(
        config=config,
        corpus=corpus,
        packed=packed,
        protocol=protocol,
        runs=runs,
        run_values=run_values,
        targets=targets,
        initial=initial,
        teacher=teacher,
        upper=upper,
        num_steps=num_steps,
        steps_per_epoch=steps_per_epoch,
        programs=programs,
        layout=layout,
        feed=feed,
        feed_reason=reason,
        data_dir=data_dir,
        window_samples=window_samples,
        cache=cache,
    )


def training_feed(population: Population, first_step: int) -> ResidentFeed | StreamingFeed:
    """Returns what gives a training its batches from `first_step` on."""
    order, layout = population.config["order"], population.layout
    runs = [(seed, number, fold.train) for (number, seed), fold in zip(population.runs, population.folds, strict=True)]
    files = file_layout(len(population.corpus.utterances), **order)
    common = {"parts": layout.parts, "own_parts": layout.own_parts, "first_step": first_step}
    batch_size = population.config["training"]["batch_size"]
    if population.feed == "resident":
        return ResidentFeed(population.resident, files, runs, batch_size, **common, table_steps=_TABLE_STEPS)
    records = open_records(population.corpus, population.data_dir)
    return StreamingFeed(
        records,
        population.corpus,
        files,
        runs,
        batch_size,
        **common,
        crop_samples=population.learner.crop_samples,
        beside={name: values for name, (_, values) in utterance_targets(population.targets).items()},
    )


def to_devices(population: Population, piece: Piece) -> Piece:
    """Lays a piece out as the training program takes it and sends it, without waiting for it to arrive."""
    rows, resident = devices.place_parts(piece.rows, population.layout), piece.resident
    if population.feed == "streaming":
        resident = jax.tree.map(lambda leaf: devices.place_parts(leaf, population.layout), resident)
    return dataclasses.replace(piece, rows=rows, resident=resident)


def train_steps(population: Population, state: State, piece: Piece) -> tuple[State, dict[str, Array]]:
    """Makes the steps of a piece that is on the devices; the metrics are sums over them, and of every run."""
    return population.programs.train(*training_arguments(population, state, piece))


def training_arguments(population: Population, state: State, piece: Piece) -> tuple:
    """Returns what the training program takes."""
    count = devices.replicate(np.int32(piece.count), population.layout.local.devices)
    return state, population.run_values, piece.rows, count, piece.resident, population.encoder


def training_rows_shape(population: Population) -> tuple[int, ...]:
    """Returns the shape of the rows of a `Piece` that `to_devices` returns."""
    layout, batch_size = population.layout, population.config["training"]["batch_size"]
    rows = len(layout.own_parts), len(population.runs), _TABLE_STEPS, batch_size // layout.parts
    return devices.spread_parts(np.broadcast_to(np.int32(0), rows), layout).shape


def initial_state(population: Population) -> State:
    """Returns every run's state before its first step, [groups, runs per group, ...]."""
    statistics = None
    if population.learner.frontend.normalization == "train":
        corpus, frontend = population.corpus, population.learner.frontend
        resident = population.resident if population.feed == "resident" else None
        key = *source_of(corpus), frontend
        sums = latest(population.cache, "sums", key, lambda: utterance_sums(corpus, frontend, resident))
        statistics = devices.stack_runs(
            [fold_statistics(sums, fold.train) for fold in population.folds], population.layout.groups
        )
    # A hundred small draws take a minute and more to compile for a GPU, and two seconds for the processor beside it.
    state = jax.tree.map(np.asarray, population.programs.initialise(population.run_values.key, statistics))
    if population.initial is None:
        return state
    seeds = [seed for _, seed in population.runs]
    gathered = devices.gather(state, len(seeds))
    begun = begin_with(population.initial, population.learner, gathered, seeds, population.corpus.emotions)
    return jax.tree.map(lambda leaf: devices.spread(leaf, population.layout.groups), begun)


def diverged(population: Population, diverged_at: np.ndarray) -> list[dict]:
    """Returns {"fold", "seed", "step"} of each run that has diverged; `diverged_at` is `State.diverged_at`, [runs]."""
    runs = zip(population.folds, population.runs, diverged_at, strict=True)
    return [{"fold": fold.name, "seed": seed, "step": int(step)} for fold, (_, seed), step in runs if step >= 0]


def state_like(population: Population) -> State:
    """Returns what `initial_state` does, but all zeros: what a checkpoint is read into."""
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state_shapes(population))


def state_shapes(population: Population) -> State:
    """Returns the shapes and dtypes of what `initial_state` returns, as `jax.ShapeDtypeStruct`."""
    return population.programs.initialise.shapes(*first_shapes(population))


def first_shapes(population: Population) -> tuple[Any, Statistics | None]:
    """Returns the shapes and dtypes of what a population's first parameters are drawn from."""
    key = jax.ShapeDtypeStruct(population.run_values.key.shape, population.run_values.key.dtype)
    if population.learner.frontend.normalization != "train":
        return key, None
    figures = jax.ShapeDtypeStruct((*key.shape, num_features(population.learner.frontend)), np.float32)
    return key, Statistics(figures, figures)


def describe(population: Population) -> dict:
    """Returns the metadata of the population's checkpoints."""
    names = [(fold.name, seed) for fold, (_, seed) in zip(population.folds, population.runs, strict=True)]
    vocabulary, tracks = population.targets.vocabulary, list(population.targets.track_names)
    targets = {"vocabulary": None if vocabulary is None else to_json(vocabulary), "tracks": tracks}
    if population.targets.dimension_names:
        scaling = population.targets.scaling.tolist()
        targets["dimensions"] = {"names": list(population.targets.dimension_names), "scaling": scaling}
    targets["heads"] = heads.to_json(population.targets.heads, population.corpus.emotions)
    initial = population.initial and population.initial.describe()
    teacher = population.teacher and population.teacher.describe()
    metadata = checkpoints.describe(
        population.config, population.corpus, population.protocol, names, targets, initial, teacher
    )
    features = population.corpus.info.get("features")
    if features is not None:  # how they were made, for whoever has recordings alone
        metadata["features"] = features | {"info": population.corpus.info["features_info"]}
    if population.upper is not None:
        metadata["encoder"] = population.upper.describe()
    return metadata | {"recordings": list(recordings(population.packed))}


def cached(cache: dict[str, Any], key: Sequence[Any], make: Callable[[], Any]) -> Any:
    """Returns what `cache` has under `key`, and where it has nothing yet, what `make` makes."""
    name = repr(key)
    if name not in cache:
        cache[name] = make()
    return cache[name]
