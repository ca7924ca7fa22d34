"""Baselines as variants of a study: the folds, the predictions table and the report are those of the networks.

A baseline learns from the training utterances of a fold alone; validation speakers, if the protocol sets some aside,
are left out as they are for a network. Nothing in it is random, so every seed of the configuration has the same
predictions.
"""

import dataclasses
import importlib.metadata
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from ser_jax import predictions
from ser_jax.baselines import dimensions, linear
from ser_jax.baselines.columns import Chosen, column_sets, fit_columns, inner_scores
from ser_jax.baselines.functionals import compute, load_functionals, require
from ser_jax.baselines.linear import Baseline, Fitted
from ser_jax.corpora.corpus import Corpus, waveform
from ser_jax.corpora.features import Packed, load_features
from ser_jax.corpora.protocols import Fold, Protocol, speakers_known
from ser_jax.corpora.targets import check_dimensions, dimension_values
from ser_jax.errors import UserError, reading
from ser_jax.inference.tables import references, tabulate
from ser_jax.training import checkpoints, published
from ser_jax.training.runs import runs_of
from ser_jax.training.setup import check_classes

FOLDER = "baseline"  # of a variant's folder: where its fitted baselines are
DIMENSIONS = "baseline_dimensions"  # and those of dimensions
HELD_OUT = "held_out_ua"  # of a result: fold -> `columns.Chosen.held_out_ua`

_AT_ONCE = 256  # recordings whose functionals are computed together

INNER_BY_UTTERANCE = "C was chosen on utterances of the training speakers: speakers are unknown, or there is one"


@dataclasses.dataclass(frozen=True)
class Baselines:
    """All runs of one variant (folds x seeds) that is a baseline; made by `make_baselines`."""

    config: dict
    corpus: Corpus
    protocol: Protocol
    baseline: Baseline
    runs: tuple[tuple[int, int], ...]
    num_parameters: int
    data_dir: str | None

    @property
    def folds(self) -> list[Fold]:
        """The fold of each run."""
        return [self.protocol.folds[fold] for fold, _ in self.runs]


def make_baselines(
    config: dict, corpus: Corpus, protocol: Protocol, data_dir: str | None, *, training: bool = True
) -> Baselines:
    """Checks a variant's configuration; computes nothing yet. A corpus that is only tested on need not know targets."""
    baseline, runs = linear.make_baseline(config["model"]), runs_of(config, protocol)
    if baseline.functionals == "precomputed":
        states = pooled_states(config, corpus, data_dir).names
        sets = column_sets(baseline.columns, states).values()
        dims = len(np.unique(np.concatenate(list(sets))))
    else:
        dims = require(baseline.functionals)
        if baseline.columns != "all":
            raise UserError(f"config.model.columns={baseline.columns}: expected config.model.functionals=precomputed")
    names = dimensions_of(config)
    if training:
        check_classes(config, corpus)
    if names and training:
        dimensions.check(baseline)
        check_dimensions(dimension_values(corpus, names), names, [protocol.folds[fold] for fold, _ in runs])
    if baseline.scaling == "speaker" and not speakers_known(corpus):
        raise UserError(
            f"config.model.scaling=speaker: the speakers of corpus {corpus.name} are not known; expected fold"
        )
    return Baselines(
        config=config,
        corpus=corpus,
        protocol=protocol,
        baseline=baseline,
        runs=runs,
        num_parameters=(len(corpus.emotions) + len(names)) * (dims + 1),
        data_dir=data_dir,
    )


def pooled_states(config: dict, corpus: Corpus, data_dir: str | None) -> Packed:
    """Returns the corpus's pooled hidden states, or other features with one array for each utterance.

    Raises UserError where the configuration names none, or some with several frames.
    """
    name = config["frontend"]["features"]
    if not name:
        raise UserError("config.frontend.features: functionals=precomputed needs the name of pooled features")
    packed = load_features(corpus, name, data_dir)
    if packed.frame_ms:
        raise UserError(f"config.frontend.features={name}: has frames; a baseline takes `prepare encoder --pooled`")
    return packed


def describe(all_runs: Baselines) -> dict:
    """Returns what makes the saved arrays self-contained: what they were trained on, and how."""
    names = [(fold.name, seed) for fold, (_, seed) in zip(all_runs.folds, all_runs.runs, strict=True)]
    metadata = checkpoints.describe(all_runs.config, all_runs.corpus, all_runs.protocol, names, {}, None, None)
    kind = all_runs.baseline.functionals
    packages = ["scikit-learn"] + (["opensmile"] if kind not in ("own", "precomputed") else [])
    metadata["versions"] = {name: importlib.metadata.version(name) for name in (*packages, "numpy")}
    notes = []
    if any(_few_speakers(all_runs.corpus, fold) for fold in all_runs.folds):
        notes.append(INNER_BY_UTTERANCE)
    if kind == "precomputed":
        packed = pooled_states(all_runs.config, all_runs.corpus, all_runs.data_dir)
        metadata["features"] = {"name": packed.name, "fingerprint": packed.fingerprint, "info": packed.info}
    return {**metadata, "notes": notes}


def run_variant(name: str, all_runs: Baselines, folder: Path) -> dict:
    """Fits and evaluates a variant, writes what it predicts to its folder, and returns its result."""
    begun, description = time.monotonic(), describe(all_runs)
    values = standardised(all_runs)
    extracted = time.monotonic()
    chosen = fit_folds(name, all_runs, values)
    fitted = {fold: one.fitted for fold, one in chosen.items()}
    linear.save(folder / FOLDER, list(fitted.values()), {**description, "folds": list(fitted)})
    regressed = fit_dimensions(all_runs, values)
    if regressed:
        linear.save(folder / DIMENSIONS, list(regressed.values()), {**description, "folds": list(regressed)})
    trained = time.monotonic()
    for part in ("test", "validation"):
        rows = [getattr(fold, part) for fold in all_runs.folds]
        if all(map(len, rows)):
            file = "predictions.parquet" if part == "test" else "validation.parquet"
            predictions.write(_table(all_runs, fitted, regressed, values, name, rows), folder / file)
    return {
        "trained": description,
        "tracks": {},
        "C": {fold: float(one.C) for fold, one in fitted.items()},
        HELD_OUT: {fold: one.held_out_ua for fold, one in chosen.items()},
        "seconds": {
            "functionals": extracted - begun,
            "train": trained - extracted,
            "evaluate": time.monotonic() - trained,
        },
    }


def standardised(all_runs: Baselines) -> Float[np.ndarray, "utterances versions dims"]:
    """Returns the corpus's functionals, with scaling "speaker" standardised by each speaker's own utterances.

    Pooled hidden states have as many versions of an utterance as it was heard at different speeds; others have one.
    """
    if all_runs.baseline.functionals == "precomputed":
        packed = pooled_states(all_runs.config, all_runs.corpus, all_runs.data_dir)
        values = versions(packed)
    else:
        values = load_functionals(all_runs.corpus, all_runs.baseline.functionals, all_runs.data_dir).values[:, None]
    if all_runs.baseline.scaling == "speaker":
        return linear.scale_by_speaker(values, all_runs.corpus.utterances["speaker"].to_numpy())
    return values


def versions(packed: Packed) -> Float[np.ndarray, "utterances versions dims"]:
    """Returns the pooled states of every utterance, at each of the speeds that it was heard at."""
    rows = packed.start[:, None] + np.arange(packed.num_frames.max())[None]
    return np.asarray(packed.values[rows], np.float32)


def inner_folds(
    all_runs: Baselines,
) -> Iterator[tuple[str, Int[np.ndarray, " learnt"], list[Bool[np.ndarray, " learnt"]]]]:
    """Yields each fold once: its name, the utterances that it learns, and which of them each inner fold holds out."""
    corpus = all_runs.corpus
    speakers, genders, labels = (corpus.utterances[name].to_numpy() for name in ("speaker", "gender", "label"))
    if not speakers_known(corpus):
        speakers = np.full(len(speakers), "")
    for name, rows in {fold.name: fold.train for fold in all_runs.folds}.items():
        yield name, rows, linear.inner_folds(speakers[rows], genders[rows], labels[rows])


def fit_folds(name: str, all_runs: Baselines, values: np.ndarray) -> dict[str, Chosen]:
    """Fits one baseline to the training utterances of each fold; `values` are those of `standardised`."""
    corpus, baseline, fitted = all_runs.corpus, all_runs.baseline, {}
    labels = corpus.utterances["label"].to_numpy()
    sets = {"all": np.arange(values.shape[2])}
    if baseline.functionals == "precomputed":
        names = pooled_states(all_runs.config, corpus, all_runs.data_dir).names
        sets = column_sets(baseline.columns, names)
    number = len({fold.name for fold in all_runs.folds})
    if not corpus.emotions:
        return {fold.name: Chosen(linear.without_classes(values.shape[2]), (), 0.0) for fold in all_runs.folds}
    of_sets = list(sets.values())
    scores_by = inner_scores(baseline, values, of_sets, labels, len(corpus.emotions))
    for fold, rows, held_out in tqdm(inner_folds(all_runs), desc=name, total=number, unit="fold", disable=None):
        fitted[fold] = fit_columns(baseline, values, of_sets, labels, rows, held_out, scores_by, len(corpus.emotions))
        if baseline.columns == "chosen":
            kept = fitted[fold].kept
            tqdm.write(f"{name}, fold {fold}: {list(sets)[kept[0]] if len(kept) == 1 else 'all sets combined'}")
    return fitted


def fit_dimensions(all_runs: Baselines, values: np.ndarray) -> dict[str, Fitted]:
    """Fits the dimensions that the configuration names to each fold; nothing where it names none."""
    corpus, names = all_runs.corpus, dimensions_of(all_runs.config)
    if not names:
        return {}
    targets, fitted = dimension_values(corpus, names), {}
    for name, rows, held_out in inner_folds(all_runs):
        fitted[name] = dimensions.fit_dimensions(all_runs.baseline, values[rows], targets[rows], held_out)
    return fitted


def own_predictions(
    name: str, all_runs: Baselines, fitted: Mapping[str, Fitted], regressed: Mapping[str, Fitted]
) -> pd.DataFrame:
    """Returns the predictions of every run on its own test fold.

    `fitted` is the baseline of each fold, `regressed` that of its dimensions, where they are predicted too.
    """
    rows = [fold.test for fold in all_runs.folds]
    return _table(all_runs, fitted, regressed, standardised(all_runs), name, rows)


def predictions_on(
    name: str, metadata: dict, folder: Path, corpus: Corpus, data_dir: str | None
) -> tuple[pd.DataFrame, Baselines]:
    """Returns the saved baselines' predictions of every run on the whole of another corpus, and the runs."""
    fitted = load_folds(folder)
    everything = np.arange(len(corpus.utterances))
    folds = tuple(Fold(fold, train=everything, validation=everything[:0], test=everything) for fold in fitted)
    protocol = Protocol("none", True, folds, "a corpus apart from the training's")
    all_runs = make_baselines({**metadata["config"], "folds": []}, corpus, protocol, data_dir, training=False)
    values, rows = standardised(all_runs), [everything] * len(all_runs.runs)
    return _table(all_runs, fitted, load_dimensions(folder), values, name, rows), all_runs


def functionals_of(corpus: Corpus, kind: str) -> Float[np.ndarray, "utterances versions dims"]:
    """Returns functionals of recordings, of which none are kept; a few hundred at a time, as they may overlap.

    Raises `UserError` where openSMILE is not installed, and for a recording that it has no finite value for.
    """
    require(kind)
    ids, rows = corpus.utterances["id"].tolist(), range(len(corpus.utterances))
    parts = [rows[first : first + _AT_ONCE] for first in range(0, len(rows), _AT_ONCE)]
    values = [compute([(ids[i], waveform(corpus, i)) for i in part], kind).values for part in parts]
    return np.concatenate(values)[:, None]


def load_metadata(folder: Path) -> dict:
    """Reads what the saved baselines of a variant's folder, or of a published model, say of themselves."""
    return published.read_metadata(folder) if published.is_published(folder) else linear.load_metadata(folder / FOLDER)


def load_folds(folder: Path) -> dict[str, Fitted]:
    """Reads the saved baselines of a variant's folder, or of a published model, by fold."""
    with reading(f"{folder}: not the baselines that a training wrote"):
        if published.is_published(folder):
            fitted = linear.from_arrays(published.read_arrays(folder))
        else:
            fitted = linear.load(folder / FOLDER)
        metadata = load_metadata(folder)
        for one in fitted:
            classes, dims = one.coefficients.shape
            sizes = one.mean.shape, one.scale.shape, one.intercept.shape, len(metadata["corpus"]["emotions"])
            if sizes != ((dims,), (dims,), (classes,), classes):
                raise ValueError(f"coefficients of {classes} classes and {dims} values, beside others")
        return dict(zip(metadata["folds"], fitted, strict=True))


def _few_speakers(corpus: Corpus, fold: Fold) -> bool:
    return not speakers_known(corpus) or corpus.utterances["speaker"].iloc[fold.train].nunique() < 2


def _table(
    all_runs: Baselines,
    fitted: Mapping[str, Fitted],
    regressed: Mapping[str, Fitted],
    values: np.ndarray,
    variant: str,
    rows: Sequence[Int[np.ndarray, " _"]],
) -> pd.DataFrame:
    """The predictions table of each run on the utterances `rows[run]`."""
    pairs = list(zip(all_runs.folds, rows, strict=True))
    found = [linear.predict(fitted[fold.name], values[own]) for fold, own in pairs]
    told = [linear.scores(regressed[fold.name], values[own]) for fold, own in pairs] if regressed else []
    names = dimensions_of(all_runs.config) if regressed else ()
    beside = references(all_runs.corpus, all_runs.config)
    columns = (all_runs.folds, [seed for _, seed in all_runs.runs], rows, found, told)
    return tabulate(all_runs.corpus, variant, *columns, beside=beside, dimension_names=names)


def dimensions_of(config: dict) -> tuple[str, ...]:
    """Returns the names of the dimensions that a configuration asks for."""
    return tuple(config["corpus"].get("dimensions", ()))  # a configuration of an earlier version does not know of them


def arrays_of(folder: Path) -> tuple[dict[str, np.ndarray], int]:
    """Returns the arrays of the saved baselines of a variant's folder under published names, and a run's parameters."""
    fitted, regressed = list(load_folds(folder).values()), list(load_dimensions(folder).values())
    arrays = linear.to_arrays(fitted)
    if regressed:
        arrays |= {f"{DIMENSIONS}/{name}": array for name, array in linear.to_arrays(regressed).items()}
    used = [one[0] for one in (fitted, regressed) if one]
    return arrays, sum(one.coefficients.size + one.intercept.size for one in used)


def load_dimensions(folder: Path) -> dict[str, Fitted]:
    """Reads the saved regressions of a variant's folder, or of a published model, by fold; nothing where none are."""
    if published.is_published(folder):
        arrays = published.read_arrays(folder)
        own = {
            name.removeprefix(f"{DIMENSIONS}/"): arrays[name] for name in arrays if name.startswith(f"{DIMENSIONS}/")
        }
        return dict(zip(load_metadata(folder)["folds"], linear.from_arrays(own), strict=True)) if own else {}
    place = folder / DIMENSIONS
    if not place.is_dir():
        return {}
    return dict(zip(linear.load_metadata(place)["folds"], linear.load(place), strict=True))
