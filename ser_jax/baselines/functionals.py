"""Functionals: one vector of fixed size for an utterance of any length, which is what classic baselines classify.

`own` needs nothing beside this package: statistics over time of log-mel bands and their deltas. `egemaps`, `compare`
and `emobase` are openSMILE's sets eGeMAPSv02 (Eyben et al. 2016), ComParE_2016 (Schuller et al. 2016) and emobase
(Eyben et al. 2010), from the optional package `opensmile`.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Int16
from tqdm import tqdm

from ser_jax.baselines import opensmile
from ser_jax.corpora import default_data_dir
from ser_jax.corpora.corpus import SAMPLE_RATE, Corpus, waveform
from ser_jax.errors import UserError
from ser_jax.files import atomic_file
from ser_jax.frontend import Frontend, features
from ser_jax.frontend.summaries import FUNCTIONALS

KINDS = ("own", *opensmile.SETS)

# Wide enough for the tilt and the formants, and few enough bands for a linear model to learn from some hundred
# utterances. Deltas carry how fast the spectrum moves. Nothing is normalised: level and tilt tell emotions apart.
FRONTEND = Frontend(kind="functionals", num_mels=40, deltas=1, normalization="none")

_TIMED, _WORTH_TIMING = 6, 100  # utterances that tell how long openSMILE takes, and from how many on it is told
_OWN_VERSION = 2  # of what `own` computes: raised when it changes, so that what was kept is computed again


@dataclasses.dataclass(frozen=True)
class Functionals:
    """The functionals of utterances, one row each, and the names of the columns."""

    values: Float32[np.ndarray, "utterances dims"]
    names: tuple[str, ...]


def load_functionals(corpus: Corpus, kind: str, data_dir: str | os.PathLike | None = None) -> Functionals:
    """Returns the functionals of a corpus's utterances, in the order of its table.

    They are computed once, and kept in DATA/functionals/CORPUS/ under a name that depends on the corpus's fingerprint,
    the kind, and the versions of what computes it. Raises UserError where `compute` does.
    """
    path = _path(corpus, kind, data_dir)
    ids = corpus.utterances["id"].tolist()
    kept = _read(path)
    if kept is not None:
        row_of = {utterance: row for row, utterance in enumerate(kept[0])}
        if all(utterance in row_of for utterance in ids):  # a part of a corpus has the fingerprint of the whole
            rows = np.array([row_of[utterance] for utterance in ids])
            return Functionals(kept[1].values[rows], kept[1].names)
    if kind in opensmile.SETS and len(ids) >= _WORTH_TIMING:
        minutes = seconds_of_functionals(corpus, kind, data_dir) / 60
        print(f"{corpus.name}: openSMILE's {kind} of {len(ids)} utterances: about {minutes:.1f} min", file=sys.stderr)
    utterances = [(utterance, waveform(corpus, i)) for i, utterance in enumerate(ids)]
    result = compute(utterances, kind, progress=f"{corpus.name}: {kind}")
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, ids=np.array(ids), values=result.values, names=np.array(result.names))
    return result


def seconds_of_functionals(corpus: Corpus, kind: str, data_dir: str | os.PathLike | None = None) -> float:
    """Returns about how long openSMILE will take for a corpus on all cores, by some utterances; 0 where it is done."""
    if _path(corpus, kind, data_dir).is_file():
        return 0.0
    chosen = np.unique(np.linspace(0, len(corpus.utterances) - 1, _TIMED).astype(int)).tolist()
    samples = int(corpus.utterances["num_samples"].sum())
    workers = opensmile.workers(len(corpus.utterances))
    return opensmile.seconds_of(kind, [_as_float(waveform(corpus, i)) for i in chosen], samples) / workers


def compute(
    utterances: Sequence[tuple[str, Int16[np.ndarray, " _"]]], kind: str, *, progress: str | None = None
) -> Functionals:
    """Computes the functionals of utterances, given as (id, samples at 16 kHz).

    `progress` is what a progress bar is called; without it there is none.
    Raises UserError for an unknown kind, for one of openSMILE's where that is not installed, and for an utterance
    that openSMILE has no finite value for.
    """
    require(kind)
    waveforms = [_as_float(samples) for _, samples in utterances]
    rows = []
    with _opened(kind, len(utterances)) as (names, extract):
        bar = tqdm(
            extract(waveforms),
            total=len(waveforms),
            desc=progress,
            unit="utterance",
            disable=progress is None or None,
        )
        for (utterance, samples), row in zip(utterances, bar, strict=True):
            if not np.isfinite(row).all():
                name, seconds = names[int(np.argmin(np.isfinite(row)))], len(samples) / SAMPLE_RATE
                raise UserError(f"utterance {utterance}: {kind} gives no finite {name} ({seconds:.2f} s of sound)")
            rows.append(row.astype(np.float32))
    return Functionals(np.stack(rows), names)


def _opened(kind: str, num_utterances: int) -> contextlib.AbstractContextManager:
    if kind == "own":
        return contextlib.nullcontext((own_names(), lambda waveforms: map(own_functionals, waveforms)))
    return opensmile.opened(kind, num_utterances)


def require(kind: str) -> int:
    """Returns how many functionals a kind has; raises UserError as `compute` does, where it cannot be computed here."""
    if kind == "own":
        return len(own_names())
    if kind not in KINDS:
        raise UserError(f"functionals {kind!r}: expected one of {', '.join(KINDS)}")
    opensmile.require(kind)
    return opensmile.DIMS[kind]


def own_functionals(samples: Float[np.ndarray, " samples"]) -> Float[np.ndarray, " dims"]:
    """What the frontend's functionals say of one utterance's log-mel bands and deltas, functional by functional."""
    # Lengths are rounded up to powers of two seconds: each length that occurs is compiled once.
    seconds = 1 << max(0, int(np.ceil(np.log2(len(samples) / SAMPLE_RATE))))
    padded = np.pad(samples, (0, seconds * SAMPLE_RATE - len(samples)))
    return np.asarray(_functionals(jnp.asarray(padded, jnp.float32), jnp.int32(len(samples))))


def own_names() -> tuple[str, ...]:
    """The names of what `own_functionals` gives: mean_mel1, ..., slope_delta40."""
    bands = [f"{what}{i + 1}" for what in ("mel", "delta") for i in range(FRONTEND.num_mels)]
    return tuple(f"{statistic}_{band}" for statistic in FUNCTIONALS for band in bands)


@jax.jit
def _functionals(samples: jax.Array, num_samples: jax.Array) -> jax.Array:
    return features(FRONTEND, samples, num_samples)[0][0]


def _path(corpus: Corpus, kind: str, data_dir: str | os.PathLike | None) -> Path:
    folder = Path(data_dir or default_data_dir()) / "functionals" / (corpus.name or "corpus")
    key = json.dumps([corpus.fingerprint, kind, _version(kind)])
    return folder / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"


def _as_float(samples: Int16[np.ndarray, " samples"]) -> Float32[np.ndarray, " samples"]:
    return np.asarray(samples, np.float32) / 32768


def _version(kind: str) -> str:
    require(kind)
    return f"{_OWN_VERSION} {FRONTEND} {FUNCTIONALS}" if kind == "own" else opensmile.version()


def _read(path: Path) -> tuple[list[str], Functionals] | None:
    """What was kept, or None where nothing was or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["ids"].tolist(), Functionals(file["values"], tuple(file["names"].tolist()))
    except Exception:  # of a damaged file NumPy raises whatever it ran into
        return None
