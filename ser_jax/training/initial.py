"""Initial parameters of runs from runs that were trained on another corpus."""

import dataclasses
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from ser_jax import config as configuration
from ser_jax.corpora.corpus import Corpus
from ser_jax.corpora.duplicates import recordings
from ser_jax.corpora.merge import parts_of
from ser_jax.errors import UserError
from ser_jax.training import heads
from ser_jax.training.arrays import digest
from ser_jax.training.state import Learner, State

_WHERE = "config.training.initial"


@dataclasses.dataclass(frozen=True)
class Initial:
    """What a population left for others to begin with.

    Attributes:
      metadata: of its checkpoint.
      variables: its runs' linen variables, moving averages, by seed; of several runs of a seed the first.
    """

    metadata: dict
    variables: dict[int, dict[str, Any]]

    def describe(self) -> dict:
        """Returns what a checkpoint keeps of it: the corpus, and a hash that changes with any parameter."""
        earlier = {what: self.metadata[what] for what in ("corpus", "initial", "teacher")}
        earlier["recordings"] = self.metadata.get("recordings", [])
        return {
            **earlier,
            "options": self.metadata["config"]["corpus"]["options"],
            "parameters": digest(self.variables),
        }


def trainings_behind(metadata: dict) -> list[dict]:
    """Returns what a checkpoint says of its own training and of those that it rests on, the last one first.

    Those are what it began with, and what its teachers did.
    """
    waiting, behind = [metadata], []
    while waiting:
        described = waiting.pop(0)
        behind += [described] if "corpus" in described else []  # a teacher's corpus is its pupil's
        waiting += [described[what] for what in ("initial", "teacher") if described.get(what)]
    return behind


def corpora_seen(metadata: dict) -> list[dict]:
    """Returns the corpora that a checkpoint's parameters have seen, as it describes them, the last one first.

    `recordings` are what tells their recordings apart; a checkpoint of an earlier version does not know them.
    """
    return [
        described["corpus"] | {"recordings": described.get("recordings", [])}
        for described in trainings_behind(metadata)
    ]


def in_common(seen: dict, corpus: Corpus) -> list[str]:
    """Returns the names of what a corpus has in common with one that `corpora_seen` describes.

    That is itself, its parts, or where it was packed otherwise, the utterances whose recordings are the same up to
    silence at their ends, gain and polarity. A checkpoint of an earlier version does not say what its corpus was merged
    from, or what recordings it had.
    """
    known = {seen["fingerprint"], *seen.get("parts", {}).values()}
    own = {corpus.name: corpus.fingerprint, **parts_of(corpus)}
    whole = [name for name, content in own.items() if content in known]
    if whole or not seen.get("recordings"):
        return whole
    heard = set(seen["recordings"])
    return [f"utterance {name}" for key, name in recordings(corpus).items() if key in heard]


def check_initial(initial: Initial, config: dict, corpus: Corpus, learner: Learner) -> None:
    """Raises `UserError` where runs on `corpus` cannot, or must not, begin with `initial`."""
    for seen in corpora_seen(initial.metadata):
        if seen["fingerprint"] == corpus.fingerprint:
            raise UserError(
                f"{_WHERE}: trained on {corpus.name} itself, with its test speakers; expected a workdir of another "
                "corpus"
            )
        if common := in_common(seen, corpus):
            raise UserError(
                f"{_WHERE}: trained on {seen['name']}, in which {common[0]} is too{_more(common)}, with test "
                f"speakers; expected a workdir of a corpus that has nothing of {corpus.name}"
            )
    for group in ("frontend", "model"):
        different = list(configuration.differences(initial.metadata["config"][group], config[group], f"config.{group}"))
        if different:
            raise UserError(f"{_WHERE}: trained with another {group} ({different[0]}); expected the same")
    fresh = flatten_dict(learner.parameters)
    for variables in initial.variables.values():
        found = flatten_dict(variables["params"])
        kept = [path for path, leaf in fresh.items() if path in found and found[path].shape == leaf.shape]
        if not kept:
            raise UserError(f"{_WHERE}: none of its parameters has the shape of one of this model")


def _more(common: list[str]) -> str:
    return f" (and {len(common) - 1} more)" if len(common) > 1 else ""


def begin_with(initial: Initial, learner: Learner, state: State, seeds: list[int], emotions: tuple[str, ...]) -> State:
    """Returns fresh states [runs, ...] with the parameters of `initial`, each of its own seed's run or the first one.

    What has another shape, and the classifier where the emotions or the sources with heads of their own are others,
    stays as it was drawn. The optimizer's moments are zero in any case.
    """
    same = initial.metadata["corpus"]["emotions"] == list(emotions)
    dimensions = initial.metadata["targets"].get("dimensions")
    same &= tuple(dimensions["names"] if dimensions else ()) == learner.dimensions
    keep = same and initial.metadata["targets"]["heads"] == heads.to_json(learner.heads, emotions)
    first = next(iter(initial.variables.values()))
    earlier = [initial.variables.get(seed, first) for seed in seeds]

    def begun(fresh: dict, collection: str) -> dict:
        found = [flatten_dict(variables[collection]) for variables in earlier]
        merged = {}
        for path, leaf in flatten_dict(fresh).items():
            fits = path in found[0] and found[0][path].shape == leaf.shape[1:]
            merged[path] = leaf
            if fits and (keep or "classifier" not in path):
                merged[path] = np.stack([variables[path] for variables in found])
        return unflatten_dict(merged)

    parameters, batch_stats = begun(state.parameters, "params"), begun(state.batch_stats, "batch_stats")
    return state.replace(
        parameters=parameters,
        batch_stats=batch_stats,
        ema_parameters=jax.tree.map(np.copy, parameters),
        ema_batch_stats=jax.tree.map(np.copy, batch_stats),
    )
