"""Per-frame tracks of a corpus, such as arousal and valence: what a time-continuous model learns to follow.

Tracks are packed like features, from annotations in any format that these may have: `python launch.py prepare features
--name tracks --dims arousal,valence ...`. The built-in corpus `synthetic` comes with tracks of its own, named "tracks".
"""

import os

import numpy as np
from jaxtyping import Float

from ser_jax.corpora.corpus import SAMPLE_RATE, Corpus
from ser_jax.corpora.features import Packed, available_features, frames, load_features
from ser_jax.corpora.synthetic import AFFECT_HOP, AFFECT_TRACKS, affect_tracks

SYNTHETIC = "tracks"  # the name of those of the corpus `synthetic`


def load_tracks(corpus: Corpus, data_dir: str | os.PathLike | None = None, name: str = SYNTHETIC) -> Packed:
    """Returns the tracks `name` of a corpus, or of a part of its utterances; frame t is at `t * frame_ms`.

    Raises UserError for a corpus that has none of this name.
    """
    if (corpus.name, name) == ("synthetic", SYNTHETIC) and name not in available_features(corpus.name, data_dir):
        return _synthetic(corpus)
    return load_features(corpus, name, data_dir)


def interpolate(
    tracks: Packed, i: int | np.integer, seconds: Float[np.ndarray, " times"]
) -> Float[np.ndarray, "times tracks"]:
    """Returns the tracks of utterance `i` (its row number) at some times; between frames by a straight line."""
    own = frames(tracks, i)
    times = np.arange(len(own)) * tracks.frame_ms / 1000
    return np.stack([np.interp(seconds, times, track) for track in np.asarray(own, np.float64).T], axis=1)


def _synthetic(corpus: Corpus) -> Packed:
    tracks = affect_tracks(corpus)
    num_frames = np.array([len(track) for track in tracks], np.int64)
    return Packed(
        values=np.concatenate(tracks).astype(np.float32),
        start=np.cumsum(num_frames) - num_frames,
        num_frames=num_frames,
        names=AFFECT_TRACKS,
        frame_ms=1000 * AFFECT_HOP / SAMPLE_RATE,
        name=SYNTHETIC,
        fingerprint=corpus.fingerprint,
        info={"source": "computed from the manners that the corpus was generated with", "licence": ""},
    )
