"""Classifiers of their own for the source corpora of a merged one, on a network that they share.

The network's outputs are those of all heads end to end. What is picked of them is in the classes of the merged corpus,
so that everything behind it is as with one classifier for all.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Bool, Float, Int

from ser_jax.corpora.corpus import Corpus
from ser_jax.corpora.protocols import Fold
from ser_jax.errors import UserError

OUT_OF_REACH = -1e9  # a logit whose probability is exactly zero in float32; finite, as loss and gradients have to be
_WHERE = "config.training.heads"


@dataclasses.dataclass(frozen=True)
class Heads:
    """The classifiers of a merged corpus.

    Attributes:
      sources: the corpora that it was merged from, by name.
      classes: for each source the merged corpus's numbers of the classes that it has utterances of, ascending.
      num_classes: of the merged corpus.
    """

    sources: tuple[str, ...]
    classes: tuple[tuple[int, ...], ...]
    num_classes: int

    @property
    def num_outputs(self) -> int:
        """Of a model with these heads."""
        return sum(map(len, self.classes))

    @property
    def places(self) -> Int[np.ndarray, "sources classes"]:
        """Which of the outputs tells a class of a source; -1 for a class that the source does not have."""
        places = np.full((len(self.sources), self.num_classes), -1, np.int32)
        first = 0
        for row, own in zip(places, self.classes, strict=True):
            row[list(own)] = first + np.arange(len(own))
            first += len(own)
        return places


def make_heads(config: dict, corpus: Corpus) -> Heads | None:
    """Returns the heads that a configuration asks for on a corpus; None: one classifier for all utterances.

    Raises `UserError` for heads by source where the corpus does not have several sources of
    two emotions at least, or where something else that is learnt has no one head.
    """
    if config["training"]["heads"] == "shared":
        return None
    text = config["model"].get("text", "none")
    if text != "none":
        raise UserError(f"{_WHERE}=source: config.model.text={text} follows the emotion of one head, expected none")
    if config["augmentation"]["mixup"]:
        raise UserError("config.augmentation.mixup: mixed utterances have no single head of their source; expected 0")
    if "source" not in corpus.utterances:
        raise UserError(
            f"{_WHERE}=source: corpus {corpus.name} has no column source; expected one that `prepare merge` made"
        )
    column = _sources(corpus)
    sources = tuple(column.unique())
    if "" in sources:
        utterance = corpus.utterances["id"][column == ""].iloc[0]
        raise UserError(f"{_WHERE}=source: utterance {utterance!r} of corpus {corpus.name} has no source")
    if len(sources) < 2:
        raise UserError(f"{_WHERE}=source: corpus {corpus.name} has only the source {sources[0]}, expected several")
    labels = corpus.utterances["label"].to_numpy()
    classes = tuple(tuple(np.unique(labels[column == source]).tolist()) for source in sources)
    for source, own in zip(sources, classes, strict=True):
        if len(own) < 2:
            raise UserError(
                f"{_WHERE}=source: source {source} of corpus {corpus.name} has only {corpus.emotions[own[0]]}; "
                "a classifier needs at least 2 emotions"
            )
    return Heads(sources, classes, len(corpus.emotions))


def check_folds(heads: Heads, corpus: Corpus, folds: Sequence[Fold]) -> None:
    """Raises `UserError` where a fold trains on no utterance of a source, whose head would not be trained."""
    sources = source_numbers(heads, corpus)
    for fold in folds:
        lacking = set(range(len(heads.sources))) - set(sources[fold.train].tolist())
        if lacking:
            raise UserError(
                f"{_WHERE}=source: fold {fold.name} trains on no utterance of {heads.sources[min(lacking)]}, whose "
                "head would stay as it was drawn"
            )


def source_numbers(heads: Heads, corpus: Corpus) -> Int[np.ndarray, " utterances"]:
    """Returns the number of each utterance's source, -1 where it is none that has a head.

    The column `source` says it, and where it is missing or names no head, the corpus's own name does. An empty source
    is none.
    """
    source = _sources(corpus) if "source" in corpus.utterances else pd.Series(corpus.name, corpus.utterances.index)
    source = source.where(source.isin(heads.sources) | (source == ""), corpus.name)
    return pd.Index(heads.sources).get_indexer(source).astype(np.int32)


def own_logits(
    heads: Heads, outputs: Float[Array, "batch outputs"], source: Int[Array, " batch"]
) -> tuple[Float[Array, "batch classes"], Bool[Array, "batch classes"]]:
    """Returns what the head of each utterance's source says, and which classes that source has.

    The other classes are out of reach: their probability is zero, and no gradient comes from them.
    """
    chosen = source[:, None, None]
    logits = jnp.take_along_axis(_all_logits(heads, outputs), chosen, axis=1)[:, 0]
    return logits, possible_classes(heads, source)


def possible_classes(heads: Heads, source: Int[Array, " batch"]) -> Bool[Array, "batch classes"]:
    """Returns which classes the source of each utterance has."""
    return jnp.asarray(heads.places >= 0)[source]


def probabilities(
    heads: Heads | None, outputs: Float[Array, "batch outputs"], source: Int[Array, " batch"] | None
) -> Float[Array, "batch classes"]:
    """Returns the classes' probabilities: by the head of each utterance's source, or all heads' mean where it is -1.

    Without heads, and then without sources, the softmax of the outputs; of no outputs there are no probabilities.
    In float32, whatever the model computes in.
    """
    outputs = outputs.astype(jnp.float32)
    if heads is None:
        return jax.nn.softmax(outputs) if outputs.shape[-1] else outputs
    count = len(heads.sources)
    share = jnp.where(source[:, None] >= 0, jax.nn.one_hot(source, count), 1 / count)
    return jnp.sum(share[..., None] * jax.nn.softmax(_all_logits(heads, outputs)), axis=1)


def to_json(heads: Heads | None, emotions: Sequence[str]) -> list[dict]:
    """Returns heads as a checkpoint keeps them, each source and its emotions; nothing of one shared classifier."""
    if heads is None:
        return []
    pairs = zip(heads.sources, heads.classes, strict=True)
    return [{"source": source, "emotions": [emotions[number] for number in own]} for source, own in pairs]


def from_json(described: Sequence[dict], emotions: Sequence[str]) -> Heads | None:
    """Returns what `to_json` wrote; `emotions` are those of the merged corpus."""
    if not described:
        return None
    classes = tuple(tuple(emotions.index(emotion) for emotion in head["emotions"]) for head in described)
    return Heads(tuple(head["source"] for head in described), classes, len(emotions))


def _all_logits(heads: Heads, outputs: Float[Array, "batch outputs"]) -> Float[Array, "batch sources classes"]:
    places = heads.places
    return jnp.where(places[None] >= 0, outputs[:, np.maximum(places, 0)], OUT_OF_REACH)


def _sources(corpus: Corpus) -> pd.Series:
    """The column `source` as text, "" where nothing is said."""
    return corpus.utterances["source"].map(lambda value: "" if pd.isna(value) else str(value))
