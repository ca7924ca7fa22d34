"""The recordings of a model's corpus that are nearest to another one, by the input vectors of its classifier."""

import dataclasses
import os

import numpy as np
import pandas as pd
from jaxtyping import Float, Int16

from ser_jax.corpora import load_corpus
from ser_jax.corpora.corpus import waveform
from ser_jax.errors import UserError
from ser_jax.studies.recognise import Recogniser
from ser_jax.studies.workdirs import recordings

MOST = 200  # recordings that are heard
SHOWN = 5
COLUMNS = ("id", "emotion", "speaker")


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """Recordings of a corpus.

    Attributes:
      table: `id`, `emotion` and `speaker` of each.
      vectors: of each, of length 1.
    """

    table: pd.DataFrame
    vectors: Float[np.ndarray, "recordings dims"]


def hear_corpus(recogniser: Recogniser, data_dir: str | os.PathLike | None = None) -> Neighbours | None:
    """Returns recordings of the corpus that a model learnt from, at most `MOST` of them, drawn at random.

    None where that corpus is not in `data_dir`, or is not the same any more.
    """
    about = recogniser.restored.metadata["corpus"]
    options = recogniser.restored.metadata["config"]["corpus"]["options"]
    try:
        corpus = load_corpus(about["name"], data_dir, **options)
    except UserError:
        return None
    if corpus.fingerprint != about["fingerprint"]:
        return None
    rows = np.random.default_rng(0).permutation(len(corpus.utterances))[:MOST]
    heard = {int(row): waveform(corpus, int(row)) for row in np.sort(rows)}
    heard = {row: samples for row, samples in heard.items() if not recogniser.refusal(samples)}
    if not heard:
        return None
    drawn = recordings({str(row): one for row, one in heard.items()}, corpus.emotions)
    vectors = recogniser.embed(dataclasses.replace(drawn, name=corpus.name))  # its name is in an encoder's progress bar
    table = corpus.utterances.iloc[list(heard)][list(COLUMNS)].reset_index(drop=True)
    return Neighbours(table, _of_length_one(vectors))


def nearest(neighbours: Neighbours, recogniser: Recogniser, samples: Int16[np.ndarray, " samples"]) -> pd.DataFrame:
    """Returns the `SHOWN` recordings that are nearest to a waveform, and their `similarity`: the cosine, 1 at most."""
    emotions = recogniser.restored.metadata["corpus"]["emotions"]
    (own,) = _of_length_one(recogniser.embed(recordings({"own": samples}, emotions)))
    similarity = neighbours.vectors @ own
    best = np.argsort(-similarity, kind="stable")[:SHOWN]
    return neighbours.table.iloc[best].assign(similarity=similarity[best].round(3)).reset_index(drop=True)


def _of_length_one(vectors: Float[np.ndarray, "recordings dims"]) -> Float[np.ndarray, "recordings dims"]:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)
