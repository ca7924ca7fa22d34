"""Distillation: predictions of other runs, of the same folds, for the training utterances are targets with the labels.

Several seeds of a network agree on more than one of them knows: their mean beats each of them by points. A run that
learns that mean beside the labels has something of it in one network (Hinton et al. 2015, arXiv 1503.02531; Furlanello
et al. 2018, arXiv 1805.04770). A fold is taught by runs of that very fold, so the tested speaker is never heard.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from ser_jax.corpora.corpus import Corpus
from ser_jax.corpora.protocols import Fold
from ser_jax.errors import UserError

_WHERE = "config.training.teacher"


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Trained runs, and what they say of the utterances that they were trained on.

    Attributes:
      metadata: of their checkpoint.
      parameters: a hash that changes with any of theirs.
      folds: of each run.
      predict: computes each run's class probabilities [training utterances, classes] of its fold's training utterances.
    """

    metadata: dict
    parameters: str
    folds: tuple[Fold, ...]
    predict: Callable[[], list[Float[np.ndarray, "_ classes"]]]

    def describe(self) -> dict:
        """Returns what a checkpoint keeps of it: what it is, and what it began with and learnt from itself."""
        config = self.metadata["config"]
        seeds = sorted({run["seed"] for run in self.metadata["runs"]})
        earlier = {what: self.metadata[what] for what in ("initial", "teacher")}
        return {**earlier, "model": config["model"], "seeds": seeds, "parameters": self.parameters}


def check_teacher(teacher: Teacher, corpus: Corpus, folds: Sequence[Fold], heads: Sequence[dict]) -> None:
    """Raises `UserError` where the teacher has not learnt the folds of these runs, and nothing but them.

    `heads` are the runs' own, as checkpoints keep them: what a teacher says of classes that a head does not have could
    not be learnt.
    """
    learnt = teacher.metadata["corpus"]
    if learnt["fingerprint"] != corpus.fingerprint:
        raise UserError(f"{_WHERE}: trained on {learnt['name']}, expected {corpus.name} as it is packed here")
    if heads and teacher.metadata["targets"]["heads"] != heads:
        raise UserError(f"{_WHERE}: it has not the same heads; expected one trained with config.training.heads=source")
    by_name = {fold.name: fold for fold in teacher.folds}
    for fold in folds:
        own = by_name.get(fold.name)
        if own is None:
            raise UserError(f"{_WHERE}: it has no fold {fold.name!r}, found {', '.join(by_name)}")
        if not np.array_equal(own.train, fold.train):
            raise UserError(f"{_WHERE}: it learnt other utterances of fold {fold.name!r}; expected the same protocol")


def teacher_table(
    teacher: Teacher, folds: Sequence[Fold], num_utterances: int, num_classes: int
) -> Float[np.ndarray, "folds utterances classes"]:
    """Returns the mean over the teacher's seeds of what it says of each fold's training utterances, else zeros."""
    table = np.zeros((len(folds), num_utterances, num_classes), np.float32)
    seeds = {name: sum(fold.name == name for fold in teacher.folds) for name in {fold.name for fold in teacher.folds}}
    places = {fold.name: place for place, fold in enumerate(folds)}
    for fold, probabilities in zip(teacher.folds, teacher.predict(), strict=True):
        if fold.name in places:
            table[places[fold.name], fold.train] += probabilities / seeds[fold.name]
    return table
