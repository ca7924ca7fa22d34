"""A configuration, checked against its corpus and folds: the frontend, what is learnt, and every refusal."""

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax
import numpy as np

from ser_jax import config as configuration
from ser_jax import machine, models
from ser_jax.corpora.corpus import Corpus
from ser_jax.corpora.features import Packed
from ser_jax.corpora.protocols import Fold, speakers_known
from ser_jax.corpora.targets import DIMENSIONS, check_dimensions, dimension_values, scaling_of, vote_shares
from ser_jax.corpora.vocabulary import Vocabulary, encode_all, from_json, make_vocabulary
from ser_jax.encoders.architecture import Architecture
from ser_jax.errors import UserError, reading
from ser_jax.feeds.order import file_layout, lane_size
from ser_jax.frontend import Frontend, Masking, num_features, num_frames
from ser_jax.numbers import count
from ser_jax.training import heads
from ser_jax.training.devices import Layout
from ser_jax.training.heads import Heads
from ser_jax.training.teacher import Teacher


@dataclasses.dataclass(frozen=True)
class Targets:
    """What a model learns beside the emotion, each None or empty without, and by which classifiers it tells that.

    Attributes:
      vocabulary, tokens: of the transcripts, and those of every utterance, [utterances, tokens]; see `encode_all`.
      tracks, track_names: values for every utterance's frames, and what they are.
      dimensions, dimension_names: values of every utterance, [utterances, dimensions], NaN where not known, and
        what they are.
      scaling: mean and deviation that each run's values are standardised by, [runs, 2, dimensions].
      votes: the share of raters that heard each class, [utterances, classes], in the place of labels.
      heads: classifiers of the source corpora, or None: one for all.
    """

    vocabulary: Vocabulary | None = None
    tokens: np.ndarray | None = None
    tracks: Packed | None = None
    track_names: tuple[str, ...] = ()
    dimensions: np.ndarray | None = None
    dimension_names: tuple[str, ...] = ()
    scaling: np.ndarray | None = None
    votes: np.ndarray | None = None
    heads: Heads | None = None

    @property
    def options(self) -> dict[str, int]:
        """The options of a model that learns them."""
        options = {} if self.vocabulary is None else {"num_symbols": self.vocabulary.num_symbols}
        return options | ({"tracks": len(self.track_names)} if self.track_names else {})


def make_frontend(config: dict, features: Packed | None = None) -> Frontend:
    """Builds the frontend of a configuration, and of the pre-extracted features that it names.

    Raises `UserError` for an option that it does not have.
    """
    frontend = configuration.construct(Frontend, config["frontend"], "config.frontend")
    if features is None:
        return frontend
    if not features.frame_ms and features.num_frames.max() > 1:
        raise UserError(
            f"config.frontend.features={features.name}: has {features.num_frames.max()} versions of an utterance "
            "(--speeds), which linear baselines take; a network takes one"
        )
    return dataclasses.replace(frontend, dims=features.values.shape[1], frame_ms=features.frame_ms)


def make_masking(config: dict, frontend: Frontend) -> Masking | None:
    """Returns how frames are masked for a model to predict, or None where `config.objective.frames` is 0.

    Raises `UserError` where there are no frames to hide, or no zero to hide them by.
    """
    masking = configuration.construct(Masking, config["masking"], "config.masking")
    if not config["objective"]["frames"]:
        return None
    if frontend.kind in ("histogram", "functionals") or not frontend.rate:
        raise UserError(f"config.objective.frames: features of kind {frontend.kind} have no frames in time to mask")
    if frontend.normalization == "none":
        raise UserError(
            "config.frontend.normalization: found none, expected utterance, train or speaker: masked frames are zero, "
            "which has to be the features' mean"
        )
    return masking


def check_classes(config: dict, corpus: Corpus) -> None:
    """Raises `UserError` for a corpus of one emotion, and for one without where other targets do not take its place."""
    number, dimensions = len(corpus.emotions), config["corpus"]["dimensions"]
    if number > 1:
        return
    if number == 1:
        raise UserError(f"corpus {corpus.name}: has the emotion {corpus.emotions[0]} alone, expected at least 2")
    if not dimensions:
        there = ",".join(name for name in DIMENSIONS if name in corpus.utterances)
        raise UserError(
            f"config.corpus.dimensions: corpus {corpus.name} has no emotions, expected what to learn in their place, "
            f"as --config.corpus.dimensions={there}"
        )
    training = config["training"]
    for option, name, value in (
        ("training.keep", training["keep"], "best"),
        ("training.teacher", bool(training["teacher"]), True),
        ("training.patience", training["patience"] > 0, True),
        ("training.heads", training["heads"], "source"),
        ("corpus.votes", bool(config["corpus"]["votes"]), True),
    ):
        if name == value:
            raise UserError(f"config.{option}: is about emotions, and corpus {corpus.name} has none; expected it unset")


def targets_of(config: dict, corpus: Corpus, tracks: Packed | None, folds: Sequence[Fold]) -> Targets:
    """What a variant learns beside the emotion, and its heads; raises `UserError` where the corpus has none.

    `folds` are those of the runs.
    """
    for option, by in (
        ("num_symbols", "the corpus"),
        ("tracks", "the corpus"),
        ("reconstruction", "config.objective.frames"),
    ):
        if option in config["model"]:
            raise UserError(f"config.model.{option}: {by} decides it; expected it not to be set")
    kind = config["model"].get("text", "none")
    dimensions = tuple(config["corpus"]["dimensions"])
    if (kind != "none" or tracks is not None or dimensions) and config["augmentation"]["mixup"]:
        what = f"config.model.text={kind}" if kind != "none" else "config.corpus.tracks"
        what = "config.corpus.dimensions" if dimensions else what
        raise UserError(f"config.augmentation.mixup: mixed utterances have no single {what}; expected 0")
    vocabulary = tokens = None
    if kind != "none":
        if "transcript" not in corpus.utterances or not corpus.utterances["transcript"].any():
            raise UserError(f"config.model.text={kind}: corpus {corpus.name} has no transcripts")
        transcripts = corpus.utterances["transcript"].tolist()
        vocabulary = make_vocabulary(
            [config["corpus"]["symbols"]] if config["corpus"]["symbols"] else transcripts, kind
        )
        tokens, _ = encode_all(vocabulary, transcripts)
    if dimensions and kind != "none":
        raise UserError(f"config.corpus.dimensions: config.model.text={kind} follows the emotion alone, expected none")
    names = () if tracks is None else tuple(tracks.names)
    found = Targets(vocabulary, tokens, tracks, names, heads=heads.make_heads(config, corpus))
    if dimensions:
        values = dimension_values(corpus, dimensions)
        check_dimensions(values, dimensions, folds)
        scaling = np.stack([scaling_of(values, fold) for fold in folds])
        found = dataclasses.replace(found, dimensions=values, dimension_names=dimensions, scaling=scaling)
    if config["corpus"]["votes"]:
        if found.heads is not None:
            raise UserError(
                "config.corpus.votes: raters voted for all classes, and config.training.heads=source has some"
            )
        found = dataclasses.replace(found, votes=vote_shares(corpus, config["corpus"]["votes"]))
    return found


def restored_targets(metadata: dict, emotions: Sequence[str]) -> Targets:
    """Returns the targets that `describe` wrote, without the values that only a training needs."""
    with reading("the targets in a model's metadata are none that a training wrote"):
        vocabulary = None if metadata["vocabulary"] is None else from_json(metadata["vocabulary"])
        own_heads = heads.from_json(metadata["heads"], tuple(emotions))
        dimensions = metadata.get("dimensions")  # a checkpoint of an earlier version does not know of them
        return Targets(
            vocabulary,
            track_names=tuple(metadata["tracks"]),
            dimension_names=tuple(dimensions["names"]) if dimensions else (),
            scaling=np.array(dimensions["scaling"], np.float32) if dimensions else None,
            heads=own_heads,
        )


def make_model(
    config: dict, frontend: Frontend, targets: Targets, num_classes: int, encoder: Architecture | None = None
) -> nn.Module:
    """Returns the model of a configuration: an output for each class (of each head), then for each dimension.

    `encoder` is the one of which the model computes layers.
    """
    options = targets.options
    if encoder is not None:
        options = options | {"encoder": encoder, "waveforms": frontend.kind == "waveform"}
    if config["objective"]["frames"]:
        options = options | {"reconstruction": num_features(frontend)}
    num_outputs = num_classes if targets.heads is None else targets.heads.num_outputs
    return models.build(num_classes=num_outputs + len(targets.dimension_names), **config["model"] | options)


def check_features(config: dict, model: nn.Module, frontend: Frontend, corpus: Corpus) -> None:
    """Refuses features without the deltas that a model takes apart.

    Also crops, windows and utterances that are too short for its subsampling.
    """
    family = models.family_of(config["model"]["name"])
    deltas = family.deltas(model)
    if frontend.kind != "precomputed" and frontend.deltas < deltas:
        raise UserError(
            f"config.frontend.deltas: found {frontend.deltas}; the model takes {deltas} orders of them apart"
        )
    fewest = family.min_frames(model)
    shortest = corpus.utterances.loc[corpus.utterances["num_samples"].idxmin()]
    frames = int(num_frames(frontend, shortest["num_samples"]))
    each = "sample" if frontend.kind == "waveform" else "frame"
    if frames < fewest:
        raise UserError(
            f"corpus {corpus.name}: utterance {shortest['id']!r} has {count(frames, each)}; the model needs {fewest}"
        )
    for group, option in (("training", "crop_seconds"), ("evaluation", "window_seconds")):
        seconds = config[group][option]
        frames = int(num_frames(frontend, round(seconds * frontend.rate)))
        if frontend.rate and seconds and frames < fewest:
            raise UserError(
                f"config.{group}.{option}: found {seconds:g}, which is {count(frames, each)}; the model needs {fewest}"
            )


def check_batch(config: dict, targets: Targets, layout: Layout, feed: str) -> int:
    """Returns the parts that a device's share of a batch is cut into, after refusing what does not divide."""
    batch_size, accumulate = (config["training"][name] for name in ("batch_size", "accumulate"))
    lanes = config["order"]["lanes"]
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
    if accumulate > 1 and (targets.tracks is not None or targets.dimension_names):
        what = "dimensions" if targets.dimension_names else "tracks"
        raise UserError(
            f"config.training.accumulate: found {accumulate}, expected 1: {what} are learnt by a coefficient of the "
            "whole batch, which its parts do not add up to"
        )
    return accumulate


def check_batch_statistics(config: dict, corpus: Corpus, *, training: bool) -> None:
    """Refuses statistics by speaker for a model or a corpus that has none."""
    if config["evaluation"]["batch_statistics"] == "running":
        return
    where = "config.evaluation.batch_statistics"
    if not models.family_of(config["model"]["name"]).batch_normalisation:
        raise UserError(f"{where}=speaker: model {config['model']['name']} has no batch normalisation")
    if training and not speakers_known(corpus):
        raise UserError(f"{where}=speaker: the speakers of corpus {corpus.name} are not known")


def check_order(config: dict, corpus: Corpus, folds: Sequence[Fold], feed: str) -> None:
    """Refuses lanes that a fold leaves empty, and windows of all runs that this machine's memory cannot hold."""
    lanes, window = (config["order"][name] for name in ("lanes", "window"))
    files = file_layout(len(corpus.utterances), lanes, window)
    waiting = 0
    for fold in folds:
        sizes = [lane_size(files, fold.train, lane) for lane in range(lanes)]
        if not all(sizes):
            raise UserError(
                f"config.order.lanes: found {lanes}; lane {sizes.index(0)} has none of the {len(fold.train)} "
                f"utterances that fold {fold.name} trains on"
            )
        waiting += sum(min(size, window) for size in sizes)
    memory = machine.memory() * jax.process_count()
    size = 2 * waiting * corpus.samples.nbytes / len(corpus.utterances)  # a window is read while another is used
    if feed == "streaming" and size > memory / 2:
        raise UserError(
            f"config.order.window: {window} utterances for each of {len(folds)} runs and {lanes} lanes take "
            f"{size / 2**30:.1f} GiB, more than half of the memory; expected a smaller window, or fewer runs at once"
        )


def check_selection(config: dict, folds: Sequence[Fold], steps_per_epoch: float, num_steps: int) -> None:
    """Refuses that validation decides which averages are kept, or when a run stops, where there is none."""
    training = config["training"]
    if not config["objective"]["emotion"]:
        raise UserError(
            "config.objective.emotion: found 0, but config.training.keep=best and patience go by the validation UA of "
            "the emotion; expected more than 0, or keep=last and patience=0"
        )
    every = configuration.steps(config, "training", "validate", steps_per_epoch)
    if 0 < every <= num_steps and all(len(fold.validation) for fold in folds):
        return
    what = "keep=best" if training["keep"] == "best" else f"patience={training['patience']}"
    raise UserError(
        f"config.training.{what}: no validation comes before the end of the training; expected "
        "protocol.validation_speakers of at least 1, and a shorter training.validate_epochs or validate_steps"
    )


def only_resident(frontend: Frontend, targets: Targets, teacher: Teacher | None, *, training: bool) -> str:
    """What the streaming feed cannot bring, to a training or to an evaluation alone; empty: nothing."""
    if training and frontend.kind == "precomputed":
        return "pre-extracted features"
    if frontend.normalization == "speaker":
        return "normalization by speaker"
    if training and frontend.trim_db:
        return "trimmed recordings"
    if targets.heads is not None:
        return "sources with heads of their own"
    if teacher is not None:
        return "what a teacher says"
    return "tracks" if targets.tracks is not None else ""
