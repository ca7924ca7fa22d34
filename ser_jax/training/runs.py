"""The runs of a variant, a fold and a seed each, and what distinguishes them as arrays."""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Key

from ser_jax import config as configuration
from ser_jax import models
from ser_jax.corpora.corpus import Corpus
from ser_jax.corpora.protocols import Fold, Protocol
from ser_jax.errors import UserError
from ser_jax.frontend import Strengths
from ser_jax.training import devices
from ser_jax.training.state import Run

# Of config.optimizer what is a value of each run, and no part of the compiled programs.
BY_RUN = ("learning_rate", "weight_decay", "label_smoothing", "class_weights", "ema_decay")
ANY_RATE = 0.5  # of a model whose rates come with each run: in the programs nothing depends on it


def runs_of(config: dict, protocol: Protocol) -> tuple[tuple[int, int], ...]:
    """Returns the (fold, seed) of each run that a configuration asks for; raises `UserError` for what is not there."""
    folds = config["folds"] or range(len(protocol.folds))
    for fold in folds:
        if fold not in range(len(protocol.folds)):
            raise UserError(f"config.folds: no fold {fold}; {protocol.name} has folds 0 to {len(protocol.folds) - 1}")
    return tuple((fold, seed) for fold in folds for seed in config["seeds"])


def rates_of(name: str, model: nn.Module) -> dict[str, float]:
    """Returns those rates of a model that a run has as values; one of 0 leaves no trace in the programs."""
    rates = {option: getattr(model, option) for option in models.family_of(name).rates}
    return {option: rate for option, rate in rates.items() if rate}


def shared_options(config: dict) -> dict:
    """Returns a configuration without what is each run's own: seed, first parameters, and the values of `make_run`."""
    rates = models.family_of(config["model"]["name"]).rates
    values = {"optimizer": BY_RUN, "training": ("teacher_share", "initial"), "model": rates}
    shared = {
        group: options for group, options in config.items() if group not in ("seeds", "objective", "augmentation")
    }
    for group, names in values.items():
        shared[group] = {name: value for name, value in config[group].items() if name not in names}
    return shared


def run_keys(runs: Sequence[tuple[int, int]], groups: int) -> Key[Array, "groups runs"]:
    """Returns the key of each run, of which all its random draws come; it depends on fold and seed alone.

    Drawn on the host, by one program: on an accelerator each of the operations would be compiled and sent by itself.
    """
    folds, seeds = (
        devices.spread(np.array(column, np.int64).astype(np.int32), groups) for column in zip(*runs, strict=True)
    )
    with jax.default_device(devices.host()):
        return _keys(seeds, folds)


@jax.jit
@jax.vmap
@jax.vmap
def _keys(seed: Array, fold: Array) -> Array:
    return jax.random.fold_in(jax.random.key(seed), fold)


def make_run(config: dict, corpus: Corpus, fold: Fold, index: int, rates: Mapping[str, float]) -> Run:
    """Returns one run's values but for its key, see `run_keys`.

    `index` is the place of its fold among those of the population, `rates` are the model's.
    """
    optimizer = config["optimizer"]
    strengths = configuration.construct(Strengths, config["augmentation"], "config.augmentation")
    labels = corpus.utterances["label"].to_numpy()[fold.train]
    counts = np.bincount(labels[labels >= 0], minlength=len(corpus.emotions))
    weights = np.ones(len(corpus.emotions))
    if optimizer["class_weights"] and corpus.emotions:
        # The mean weight of the training utterances is 1; a class that the fold lacks has none to weigh.
        weights = counts.sum() / (np.maximum(counts, 1) * np.count_nonzero(counts))
    return Run(
        key=0,
        fold=np.int32(index),
        learning_rate=np.float32(optimizer["learning_rate"]),
        weight_decay=np.float32(optimizer["weight_decay"]),
        label_smoothing=np.float32(optimizer["label_smoothing"]),
        class_weights=weights.astype(np.float32),
        loss_weights={name: np.float32(weight) for name, weight in config["objective"].items()},
        strengths=jax.tree.map(np.float32, strengths),
        teacher_share=np.float32(config["training"]["teacher_share"]),
        rates={name: np.float32(rate) for name, rate in rates.items()},
        ema_decay=np.float32(optimizer["ema_decay"]),
    )
