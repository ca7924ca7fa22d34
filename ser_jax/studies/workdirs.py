"""The variants that a workdir or a published model holds trained, found and put on another corpus than their own."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pandas as pd

from ser_jax import config as configuration
from ser_jax.baselines import is_baseline
from ser_jax.corpora.corpus import Corpus, make_corpus
from ser_jax.corpora.features import Packed
from ser_jax.corpora.protocols import Fold, Protocol
from ser_jax.errors import UserError
from ser_jax.inference.restore import restore_network
from ser_jax.studies import baselines
from ser_jax.studies.store import STUDY, read_places
from ser_jax.training import checkpoints, published
from ser_jax.training.encoder import check_encoder
from ser_jax.training.initial import Initial
from ser_jax.training.population import Population, make_population
from ser_jax.training.state import variables


@dataclasses.dataclass(frozen=True)
class Restored:
    """One variant's checkpoint: where it lies and what its metadata say."""

    name: str
    folder: Path
    metadata: dict

    @property
    def emotions(self) -> tuple[str, ...]:
        """The classes that the variant knows, in the order of its outputs."""
        return tuple(self.metadata["corpus"]["emotions"])

    @property
    def is_baseline(self) -> bool:
        """Whether the variant is a baseline on functionals, not a network."""
        return is_baseline(self.metadata["config"]["model"])

    @property
    def by_speaker(self) -> bool:
        """Whether what it says of a recording depends on what else the speaker said."""
        config = self.metadata["config"]
        ways = config["frontend"]["normalization"], config["evaluation"]["batch_statistics"]
        return not self.is_baseline and "speaker" in ways


def find(workdir: str | os.PathLike, variant: str | None = None, *, option: str = "--workdir") -> list[Restored]:
    """Returns the variants with a checkpoint in a workdir (or the one named), by name; `option` is where it was named.

    A published model is a workdir of one variant.

    Raises `UserError` for a folder that is no workdir, a variant that is not there and a damaged checkpoint.
    """
    workdir = Path(workdir)
    if not workdir.is_dir():
        raise UserError(f"{option} {workdir}: no such folder; expected one that `train`, `study` or `publish` made")
    if published.is_published(workdir):
        metadata = checkpoints.check_metadata(published.read_metadata(workdir), str(workdir))
        _check_variant(variant, workdir, [metadata["name"]])
        return [Restored(metadata["name"], workdir, metadata)]
    if not (workdir / STUDY).is_file():
        raise UserError(
            f"{option} {workdir}: no {STUDY}; expected a published model, or a folder in which `train` or `study` has "
            "finished"
        )
    folders = read_places(workdir)
    for name, folder in folders.items():
        if not folder.is_dir():
            raise UserError(f"{option} {workdir}: the population of {name} is not in {folder}")
    _check_variant(variant, workdir, list(folders))
    folders = folders if variant is None else {variant: folders[variant]}
    found = []
    for name, folder in folders.items():
        if (folder / baselines.FOLDER).is_dir():
            metadata = checkpoints.check_metadata(baselines.load_metadata(folder), str(folder))
            found.append(Restored(name, folder, metadata))
            continue
        store = checkpoints.Checkpoints(folder / "checkpoints")
        try:
            found.append(Restored(name, folder, checkpoints.check_metadata(store.metadata(), str(folder))))
        finally:
            store.close()
    return found


def _check_variant(variant: str | None, workdir: Path, names: Sequence[str]) -> None:
    if variant is not None and variant not in names:
        raise UserError(f"--variant {variant}: not in {workdir}; expected one of {', '.join(names)}")


def population_on(
    restored: Restored,
    corpus: Corpus,
    *,
    batch_size: int | None = None,
    features: Packed | None = None,
    feed: str = "auto",
    data_dir: str | os.PathLike | None = None,
) -> Population:
    """Returns the runs of a checkpoint, on a corpus that has no part in their folds.

    `data_dir` holds the pretrained encoder, where the model computes layers of one; raises `UserError` where that is
    another one, or the features are those of another layer.
    """
    runs = restored.metadata["runs"]
    names = list(dict.fromkeys(run["fold"] for run in runs))
    everything = np.arange(len(corpus.utterances))
    folds = tuple(Fold(name, train=everything, validation=everything[:0], test=everything) for name in names)
    config = configuration.merge(for_use(restored), {"folds": [], "feed": feed})
    if batch_size:
        config = configuration.merge(config, {"evaluation": {"batch_size": batch_size}})
    population = make_population(
        config,
        corpus,
        Protocol("none", True, folds, "a corpus apart from the training's"),
        features=features,
        trained_targets=restored.metadata["targets"],
        data_dir=data_dir,
    )
    check_encoder(population.upper, restored.metadata, restored.folder)
    return population


def for_use(restored: Restored) -> dict:
    """Returns the configuration of a training, without what only its own start, feed and devices had to do with."""
    if is_baseline(restored.metadata["config"]["model"]):
        return restored.metadata["config"]
    own_start = {"split": "auto", "accumulate": 1, "initial": "", "teacher": ""}
    return configuration.merge(restored.metadata["config"], {"feed": "auto", "training": own_start})


def recordings(waveforms: dict[str, np.ndarray], emotions: Sequence[str]) -> Corpus:
    """Returns a corpus of recordings whose emotion is what is asked for: any stands in for it, none is looked at.

    They are of no source that a model may have a head for.
    """
    table = pd.DataFrame({"id": list(waveforms), "emotion": emotions[0] if emotions else "", "source": ""})
    return make_corpus("files", table, list(waveforms.values()), emotions)


def find_network(workdir: str | os.PathLike, where: str) -> Restored:
    """Returns the one variant that a workdir holds; `where` is the key of the configuration that names it.

    Raises `UserError` where there are several variants, a baseline, or a model of pre-extracted features.
    """
    found = find(workdir, option=where)
    if len(found) > 1:
        raise UserError(f"{where}: {workdir} has {len(found)} variants, expected one")
    (restored,) = found
    if restored.is_baseline or restored.metadata["corpus"].get("features"):
        what = "a baseline" if restored.is_baseline else "a model of pre-extracted features"
        raise UserError(f"{where}: {workdir} holds {what}, expected a network that takes recordings")
    return restored


def load_initial(workdir: str | os.PathLike) -> Initial:
    """Returns the parameters of a workdir's one variant, for other runs to begin with; see `find_network`."""
    restored = find_network(workdir, "config.training.initial")
    _, state = restore_network(restored.metadata, restored.folder)
    by_seed = {}
    for number, run in enumerate(restored.metadata["runs"]):
        if state.diverged_at[number] >= 0:
            continue
        own = jax.tree.map(lambda leaf, number=number: leaf[number], state)
        by_seed.setdefault(run["seed"], jax.tree.map(np.asarray, variables(own)))
    return Initial(restored.metadata, by_seed)
