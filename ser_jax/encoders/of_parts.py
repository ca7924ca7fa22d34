"""Hidden states of a merged corpus out of those of its parts, where all of these have them: nothing is computed."""

import os
from typing import Any

import numpy as np

from ser_jax.corpora import load_corpus
from ser_jax.corpora.corpus import Corpus
from ser_jax.corpora.feature_source import FeatureSource
from ser_jax.corpora.features import available_features, frames, load_features
from ser_jax.corpora.merge import parts_of


def states_of_parts(
    corpus: Corpus, name: str, info: dict[str, Any], data_dir: str | os.PathLike | None
) -> FeatureSource | None:
    """Returns the features `name` of a merged corpus, as its parts have them, made as `info` says; or None.

    None where the corpus is not merged, or where one part is another one now, or has none that were made alike.
    """
    found = {}
    for part, fingerprint in parts_of(corpus).items():
        if "/" in part:  # a part of a part
            continue
        if name not in available_features(part, data_dir):
            return None
        source = load_corpus(part, data_dir)
        if source.fingerprint != fingerprint:  # its features are those of the part as it was
            return None
        packed = load_features(source, name, data_dir)
        if packed.info != info:
            return None
        rows = {f"{part}-{utterance}": row for row, utterance in enumerate(source.utterances["id"])}
        found |= {utterance: (packed, row) for utterance, row in rows.items()}
    places = [found.get(utterance) for utterance in corpus.utterances["id"]]
    if not found or None in places:
        return None
    first = places[0][0]
    number = np.array([packed.num_frames[row] for packed, row in places], np.int64)

    def read(row: int) -> np.ndarray:
        return frames(*places[row])

    return FeatureSource(first.names, len(first.names), first.values.dtype, number, read)
