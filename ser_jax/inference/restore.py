"""A trained network out of its checkpoint: its parts and its parameters, without the corpus that it was trained on."""

import dataclasses
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np

from ser_jax.frontend import Frontend, Statistics, num_features
from ser_jax.models import family_of
from ser_jax.training import checkpoints, setup
from ser_jax.training.encoder import restored_architecture
from ser_jax.training.state import State, example


@dataclasses.dataclass(frozen=True)
class Network:
    """What a checkpoint's metadata say of its runs: how features are made, and the model that takes them."""

    model: nn.Module
    frontend: Frontend
    num_runs: int
    min_frames: int

    @property
    def shapes(self) -> dict:
        """The linen collections of one run, with shapes and dtypes in the places of arrays."""
        return dict(jax.eval_shape(lambda: self.model.init(jax.random.key(0), *example(self.frontend), train=False)))

    @property
    def num_parameters(self) -> int:
        """Of one run."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.shapes["params"]))


def network_of(metadata: dict) -> Network:
    """Returns the network that a checkpoint describes."""
    config, corpus = metadata["config"], metadata["corpus"]
    frontend = setup.make_frontend(config)
    if features := corpus.get("features"):
        frontend = dataclasses.replace(frontend, dims=features["dims"], frame_ms=features["frame_ms"])
    targets = setup.restored_targets(metadata["targets"], corpus["emotions"])
    model = setup.make_model(config, frontend, targets, len(corpus["emotions"]), restored_architecture(metadata))
    min_frames = family_of(config["model"]["name"]).min_frames(model)
    return Network(model, frontend, len(metadata["runs"]), min_frames)


def restore_network(metadata: dict, folder: Path) -> tuple[Network, State]:
    """Returns a network, and of the newest checkpoint in a variant's folder what evaluation uses, [runs, ...].

    The folder may be a published model. `metadata` are those of the checkpoint. Raises `UserError` where its arrays are
    not those of the network.
    """
    network = network_of(metadata)
    return network, checkpoints.restore(folder, _expected(network))


def _expected(network: Network) -> State:
    """A state of zeros that has the names, shapes and dtypes of what is restored."""
    shapes, runs = network.shapes, network.num_runs
    parameters, batch_stats = (
        jax.tree.map(lambda leaf: np.zeros((runs, *leaf.shape), leaf.dtype), shapes.get(name, {}))
        for name in ("params", "batch_stats")
    )
    statistics = None
    if network.frontend.normalization == "train":
        statistics = Statistics(*(np.zeros((runs, num_features(network.frontend)), np.float32) for _ in range(2)))
    return State(
        step=np.zeros(runs, np.int32),
        diverged_at=np.full(runs, -1, np.int32),
        parameters=None,
        batch_stats=None,
        optimizer=None,
        ema_parameters=parameters,
        ema_batch_stats=batch_stats,
        feature_statistics=statistics,
    )
