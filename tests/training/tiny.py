"""A training small enough for tests: three synthetic speakers, the linear model, some steps."""

import copy
import functools
from typing import Any

import jax
import numpy as np

from ser_jax import config as configuration
from ser_jax.corpora import packed_folder
from ser_jax.corpora.corpus import Corpus, make_corpus, save, waveform
from ser_jax.corpora.merge import merge_corpora
from ser_jax.corpora.protocols import Protocol, make_protocol
from ser_jax.corpora.synthetic import make_synthetic
from ser_jax.training.population import Population, make_population

CONFIG = configuration.merge(
    configuration.default(),
    {
        "corpus": {"options": {"num_speakers": 3, "utterances_per_speaker": 8}},
        "frontend": {"num_mels": 64, "hop_ms": 40.0, "window_ms": 50.0, "normalization": "train"},
        "augmentation": {"speed": 0.1, "spec_augment": 0.5, "mixup": 0.5},
        "optimizer": {"warmup_epochs": -1.0, "warmup_steps": 2},
        "training": {
            "batch_size": 4,
            "crop_seconds": 0.5,
            "train_epochs": -1.0,
            "train_steps": 6,
            "validate_epochs": -1.0,
            "validate_steps": 4,
        },
        "evaluation": {"batch_size": 8},
    },
)


# `merge` keeps the options of the default model, which the linear one does not have.
CONFIG["model"] = {"name": "linear"}

PARTS = {"first": ("neutral", "anger", "sadness"), "second": ("anger", "happiness")}


def tiny_corpus() -> tuple[Corpus, Protocol]:
    """Three speakers, and their leave-one-speaker-out folds with one validation speaker each."""
    corpus = copy.deepcopy(_generated())
    return corpus, make_protocol(corpus, "leave_one_speaker_out", validation_speakers=1)


@functools.cache
def _generated() -> Corpus:
    """Half a second's work, once for all files of tests."""
    return make_synthetic("synthetic", **CONFIG["corpus"]["options"])


def tiny_population(
    corpus: Corpus, protocol: Protocol, cache: dict | None = None, data_dir: str | None = None, **changes: object
) -> Population:
    """The tiny training with parts of its configuration changed; see `make_population` for `cache` and `data_dir`."""
    return make_population(configuration.merge(CONFIG, changes), corpus, protocol, cache=cache, data_dir=data_dir)


def tiny_merged(data_dir: str, name: str = "both") -> tuple[Corpus, Protocol]:
    """Packs the corpora first and second, two speakers each, and merges them: four emotions, of which they share one.

    The folds of the merged corpus leave one of its four speakers out.
    """
    for number, (part, emotions) in enumerate(PARTS.items()):
        spoken = make_synthetic("synthetic", num_speakers=2, utterances_per_speaker=8, seed=number)
        rows = spoken.utterances[spoken.utterances["emotion"].isin(emotions)].index
        table = spoken.utterances.loc[rows, ["id", "speaker", "gender", "emotion", "text"]]
        waveforms = [waveform(spoken, row) for row in rows]
        info = {"speakers_known": True, "licence": "CC BY 4.0", "description": f"The {part} of two."}
        save(make_corpus(part, table, waveforms, emotions, info), packed_folder(part, data_dir))
    corpus = merge_corpora(name, list(PARTS), data_dir)
    return corpus, make_protocol(corpus, "leave_one_speaker_out", validation_speakers=0)


def vectors(tree: Any, num_runs: int) -> np.ndarray:
    """All arrays of a tree whose first axes are those of `num_runs` runs, as one vector for each run."""
    return np.concatenate([np.asarray(leaf).reshape(num_runs, -1) for leaf in jax.tree.leaves(tree)], axis=1)
