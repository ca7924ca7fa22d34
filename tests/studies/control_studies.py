"""Many small studies of the controls, trained for real: how often attention is found where it helps and where not.

Run `python -m tests.studies.control_studies --studies 100` for the rates, as JSON. A study is a new corpus, from a new
seed, and one question: does an encoder that sees every frame alone gain from self-attentive pooling over the mean? It
leaves one speaker out. Its log-mel features are computed once, instead of in every step. All studies share compiled
programs: the corpora are laid out alike, and have two classes each.
"""

import argparse
import dataclasses
import functools
import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from ser_jax import config as configuration
from ser_jax.corpora.corpus import Corpus, waveform
from ser_jax.corpora.features import Packed
from ser_jax.corpora.protocols import make_protocol
from ser_jax.corpora.synthetic import make_synthetic
from ser_jax.frontend import Frontend, features
from ser_jax.inference import tables
from ser_jax.statistics import paired
from ser_jax.training import population as populations
from ser_jax.training.state import State

CONTROLS = ("localized", "uniform", "null")
POOLINGS = ("mean", "self_attentive")
SPEAKERS, UTTERANCES = 6, 24  # of each speaker
CUE_DB = 10.0  # of localized: a little above its default, since the corpora are small
SECONDS = 2.5  # no utterance is longer
# Of the band in which the cues are, not normalised here: the training does it, by its training fold.
FRONTEND = Frontend(num_mels=6, fmin=1500.0, fmax=3500.0, window_ms=50.0, hop_ms=40.0, normalization="none")
CONFIG = configuration.merge(
    configuration.default(),
    {
        "protocol": {"validation_speakers": 0},
        "frontend": {"kind": "precomputed", "features": "log_mel", "normalization": "train"},
        "model": {
            "name": "transformer",
            "mixing": "none",
            "positions": "none",
            "subsampling": 2,
            "width": 8,
            "depth": 1,
            "heads": 1,
        },
        "optimizer": {"learning_rate": 2e-2, "warmup_epochs": -1.0, "warmup_steps": 10},
        "training": {
            "batch_size": 32,
            "crop_seconds": SECONDS,
            "train_epochs": -1.0,
            "train_steps": 250,
        },
    },
)


def control_study(control: str, seed: int, cache: dict[str, Any]) -> paired.Comparison:
    """Trains both variants on a new corpus, all folds, and compares them; `cache` is what the studies share."""
    corpus = control_corpus(control, seed)
    protocol = make_protocol(corpus, "leave_one_speaker_out", validation_speakers=0)
    log_mel = log_mel_of(corpus)
    made = []
    for pooling in POOLINGS:
        config = configuration.merge(CONFIG, {"model": {"pooling": pooling}, "seeds": [seed]})
        population = populations.make_population(config, corpus, protocol, features=log_mel, cache=cache)
        made.append(tables.test_predictions(population, trained(population), pooling))
    fold_sizes = {fold.name: (len(fold.train), len(fold.test)) for fold in protocol.folds}
    table = pd.concat(made, ignore_index=True)
    return paired.compare(table, *POOLINGS[::-1], fold_sizes, replicates=1000)


def control_corpus(control: str, seed: int) -> Corpus:
    """A control of two classes: the labels of `null`, which mean nothing, count as two of two."""
    options = {"cue_db": CUE_DB} if control == "localized" else {}
    corpus = make_synthetic(control, num_speakers=SPEAKERS, utterances_per_speaker=UTTERANCES, seed=seed, **options)
    if control != "null":
        return corpus
    names = np.array(["one", "other"])
    label = corpus.utterances["label"] % 2
    return dataclasses.replace(
        corpus, emotions=tuple(names), utterances=corpus.utterances.assign(label=label, emotion=names[label])
    )


def log_mel_of(corpus: Corpus) -> Packed:
    """Log-mel features of every utterance, each with as much room as the longest may need."""
    lengths = corpus.utterances["num_samples"].to_numpy()
    waveforms = np.zeros((len(lengths), round(SECONDS * FRONTEND.rate)), np.float32)
    for i, length in enumerate(lengths):
        waveforms[i, :length] = waveform(corpus, i) / 32768
    values, num_frames = _log_mel(waveforms, jnp.asarray(lengths, jnp.int32))
    room, bands = values.shape[1:]
    return Packed(
        values=np.asarray(values).reshape(-1, bands),
        start=np.arange(len(lengths)) * room,
        num_frames=np.asarray(num_frames).astype(np.int64),
        names=tuple(map(str, range(bands))),
        frame_ms=FRONTEND.hop_ms,
        fingerprint=corpus.fingerprint,
    )


_log_mel = jax.jit(functools.partial(features, FRONTEND))


def trained(population: populations.Population) -> State:
    """The state of every run after the whole schedule, in one call of the program."""
    piece = populations.to_devices(population, populations.training_feed(population, 0).take(population.num_steps))
    return populations.train_steps(population, populations.initial_state(population), piece)[0]


def rates(control: str, studies: int, cache: dict[str, Any]) -> dict[str, Any]:
    """How many of the studies of a control call a difference, by the interval and by the test of Nadeau and Bengio."""
    found = [control_study(control, seed, cache) for seed in range(studies)]
    differences = [comparison.estimate for comparison in found]
    intervals = [comparison.ci95 or (0.0, 0.0) for comparison in found]  # where nothing differs, nothing is called
    return {
        "control": control,
        "studies": studies,
        "gains_by_interval": sum(low > 0 for low, _ in intervals),
        "losses_by_interval": sum(high < 0 for _, high in intervals),
        "differences_by_nadeau_bengio": sum(c.nadeau_bengio is not None and c.nadeau_bengio.p < 0.05 for c in found),
        "mean_difference": float(np.mean(differences)),
        "smallest_difference": float(np.min(differences)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--controls", nargs="+", choices=CONTROLS, default=CONTROLS)
    options = parser.parse_args()
    cache: dict[str, Any] = {}
    for control in options.controls:
        begun = time.monotonic()
        found = rates(control, options.studies, cache)
        print(json.dumps(found | {"seconds": round(time.monotonic() - begun, 1)}), flush=True)


if __name__ == "__main__":
    main()
