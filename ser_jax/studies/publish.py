"""Makes a folder to share out of a training: its models, ready for `predict` and `evaluate`, and a card about them."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ser_jax import checksums, predictions
from ser_jax import config as configuration
from ser_jax.corpora import load_corpus
from ser_jax.corpora.corpus import Corpus
from ser_jax.corpora.merge import parts_of
from ser_jax.errors import UserError, brief
from ser_jax.files import atomic_folder
from ser_jax.inference.restore import restore_network
from ser_jax.report import card
from ser_jax.report import summary as tree
from ser_jax.report.summary import Summary
from ser_jax.studies import baselines, workdirs
from ser_jax.studies.store import PREDICTIONS
from ser_jax.studies.workdirs import Restored
from ser_jax.training import published
from ser_jax.training.initial import trainings_behind

_SPLITS = ("protocol", "folds", "seeds")  # in which a model and its tests may differ


def publish(
    workdir: str | os.PathLike,
    tested: str | os.PathLike,
    to: str | os.PathLike,
    data_dir: str | None = None,
    licence: str = "",
    description: str = "",
) -> Path:
    """Writes the one variant of `workdir` to the folder `to`, and returns that folder.

    What a training alone needs is left out. `tested` is a workdir in which the same configuration was trained and
    tested speaker-independently, or a study with a variant of the same name: the card's figures are read from its
    summary, and from its `on_CORPUS` where it was evaluated on other corpora. `licence` and `description` are for the
    card. Raises `UserError` where one of them has several variants, where their configurations differ in more than the
    folds and seeds, and where the tests' folds share speakers.
    """
    _check_place(Path(to))
    model = _single("--workdir", workdir)
    evidence = _single("--tested", tested, model.name)
    _check_alike(model, evidence)
    summary = tree.read(tested)
    if not summary.study.speaker_independent:
        raise UserError(
            f"--tested {tested}: its folds share speakers, or do not know them; expected a speaker-independent protocol"
        )
    elsewhere = _elsewhere(Path(tested), summary.corpus)
    corpora = _corpora(model.metadata, data_dir)
    arrays, parameters = _arrays(model)
    with atomic_folder(to) as folder:
        published.write(folder, model.name, arrays, model.metadata)
        of_tested = predictions.read(Path(tested) / PREDICTIONS)
        of_tested = of_tested[of_tested["variant"] == evidence.name].reset_index(drop=True)
        predictions.write(of_tested, folder / published.TESTED)
        described = _described(Path(to), model, evidence.name, parameters, corpora)
        described = dataclasses.replace(described, licence=licence.strip(), description=" ".join(description.split()))
        (folder / published.CARD).write_text(card.render(described, summary, elsewhere), encoding="utf-8")
        checksums.write_all(folder)
    return Path(to)


def _elsewhere(tested: Path, own: str) -> dict[str, Summary]:
    """The summaries of tests on other corpora than the model's own, by the names of their folders without `on_`."""
    folders = [path.parent for path in sorted(tested.glob("on_*/summary.json"))]
    summaries = {folder.name.removeprefix("on_"): tree.read(folder) for folder in folders}
    return {name: one for name, one in summaries.items() if one.corpus != own}


def _check_place(to: Path) -> None:
    """Refuses a folder that holds anything but a published model."""
    expected = f"--to {to}: is there already and %s; expected a new folder, or one published before"
    if not to.exists() or (to.is_dir() and not any(to.iterdir())):
        return
    if not published.is_published(to):
        raise UserError(expected % "is no published model")
    own = {published.WEIGHTS, published.METADATA, published.CARD, published.TESTED, checksums.FILE}
    others = {path.name for path in to.iterdir()} - own
    if others:
        raise UserError(expected % f"has {min(others)} too")


def _single(option: str, workdir: str | os.PathLike, name: str | None = None) -> Restored:
    """The one variant of a workdir, or among several the one of this name."""
    found = workdirs.find(workdir, option=option)
    alike = [one for one in found if one.name == name]
    if len(found) > 1 and not alike:
        names = ", ".join(brief(one.name) for one in found)
        other = f", or one called {brief(name)}" if name is not None else ""
        raise UserError(f"{option} {workdir}: found {len(found)} variants ({names}), expected one{other}")
    return alike[0] if len(found) > 1 else found[0]


def _arrays(model: Restored) -> tuple[dict[str, np.ndarray], int]:
    """What is published of a model, and how many parameters one run of it has."""
    if not model.is_baseline:
        network, state = restore_network(model.metadata, model.folder)
        return published.arrays_of(state), network.num_parameters
    return baselines.arrays_of(model.folder)


def _check_alike(model: Restored, evidence: Restored) -> None:
    for name in ("fingerprint", "name"):
        if model.metadata["corpus"][name] != evidence.metadata["corpus"][name]:
            raise UserError(
                f"--tested: its corpus is {evidence.metadata['corpus']['name']}, "
                f"{evidence.metadata['corpus']['fingerprint'][:12]}, expected {model.metadata['corpus']['name']}, "
                f"{model.metadata['corpus']['fingerprint'][:12]}, as in --workdir"
            )
    if _fingerprint(model.metadata) != _fingerprint(evidence.metadata):
        raise UserError("--tested: trained on other pre-extracted features than --workdir; prepare them once, for both")
    configs = [configuration.deciding(restored.metadata["config"]) for restored in (model, evidence)]
    own, other = ({key: value for key, value in config.items() if key not in _SPLITS} for config in configs)
    different = list(configuration.differences(own, other))
    if different:
        raise UserError(f"--tested: another configuration than in --workdir ({'; '.join(different[:3])})")


def _fingerprint(metadata: dict) -> str | None:
    """Of the pre-extracted features that a model takes."""
    return (_features(metadata) or {}).get("fingerprint")


def _features(metadata: dict) -> dict | None:
    """Which hidden states or other pre-extracted features a model takes."""
    return metadata.get("features") or metadata["corpus"].get("features")


def _corpora(metadata: dict, data_dir: str | None) -> list[Corpus]:
    """The corpora that a model has learnt from, the last one first; its teachers may have begun with others."""
    corpora = {}
    for described in trainings_behind({**metadata, "options": metadata["config"]["corpus"]["options"]}):
        name, fingerprint = (described["corpus"][what] for what in ("name", "fingerprint"))
        corpora[fingerprint] = load_corpus(name, data_dir, **described["options"])
        if corpora[fingerprint].fingerprint != fingerprint:
            raise UserError(f"corpus {name}: it has changed since the training; prepare that one again")
    return list(corpora.values())


def _sources(corpus: Corpus) -> list[str]:
    parts = parts_of(corpus)
    leaves = [name for name in parts if not any(other.startswith(f"{name}/") for other in parts)]
    return [name.split("/")[-1] for name in leaves] or [corpus.name]


def _described(to: Path, model: Restored, variant: str, parameters: int, corpora: Sequence[Corpus]) -> card.Published:
    """What the card says of a model."""
    return card.Published(
        folder=str(to),
        variant=variant,
        config=model.metadata["config"],
        emotions=model.emotions,
        parameters=parameters,
        runs=len(model.metadata["runs"]),
        heads={head["source"]: head["emotions"] for head in model.metadata["targets"].get("heads", [])},
        features=_features(model.metadata),
        computed=model.metadata.get("encoder"),
        corpora=[
            card.TrainingCorpus(
                corpus.name,
                len(corpus.utterances),
                corpus.utterances["speaker"].nunique(),
                corpus.info,
                _sources(corpus),
            )
            for corpus in corpora
        ],
        versions=model.metadata["versions"],
    )
