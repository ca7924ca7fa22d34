"""Recordings that a corpus holds more than once: exact copies, and copies cut, scaled, coded or noised anew."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import scipy.sparse.csgraph
from jaxtyping import Float32, Int16

from ser_jax import machine
from ser_jax.corpora.corpus import Corpus, waveform
from ser_jax.files import atomic_file

CACHE = "duplicates.npz"  # beside the corpus: what is computed of every recording
_VERSION = 2  # of what is kept there: one more with each change of `_signature` and all that it calls

_FRAME, _HOP = 512, 160  # samples: 32 ms, every 10 ms
_BANDS = 24
_RANGE_DB = 45.0  # below the loudest band, under which noise may differ
_TIMES, _COARSE_BANDS = 16, 8  # of the coarse picture by which candidates are found
_TOLERATED_FRAMES = 12  # by which copies may differ in length
_SHIFTS = range(-4, 5)  # frames by which a copy may be moved
# Correlations from which two pictures are alike. Of copies that were cut, scaled, noised or coded anew the fine one is
# 0.977 or more; of takes of one sentence by one speaker 0.78 at most in EMO-DB, 0.92 in RAVDESS.
_COARSE, _FINE = 0.7, 0.95
_KEY = 16  # hexadecimal digits that tell recordings apart
_KNOWN: dict[str, dict[str, str]] = {}  # recordings of a corpus, by its content
_WAVE, _WAVE_SAMPLES = 0.5, 480_000  # correlation of two waves that are one, and how much of them is looked at


def exact_copies(corpus: Corpus) -> list[list[int]]:
    """Returns groups of row numbers whose recordings are the same, up to silence at the ends, gain and polarity.

    Silence is digital zero; recordings of nothing else are no copies of one another. A gain that rounds samples
    differently is not seen through: `near_copies` does that.
    """
    digests = _signatures(corpus)[0]
    return _connected(_pairs_of_equals(digests), len(digests))


def recordings(corpus: Corpus) -> dict[str, str]:
    """Returns utterances by what tells their recordings from all others, in whichever corpus they are packed.

    Recordings that `exact_copies` finds the same have the same key, of which one utterance is named; those without a
    sound are left out.
    """
    known = _content(corpus)
    if known not in _KNOWN:
        digests = (_digest(np.asarray(waveform(corpus, i))) for i in range(len(corpus.utterances)))
        found = zip(digests, corpus.utterances["id"], strict=True)
        _KNOWN.clear()  # the last corpus is asked for again and again
        _KNOWN[known] = {key[:_KEY]: name for key, name in found if key}
    return _KNOWN[known]


def near_copies(corpus: Corpus) -> list[list[int]]:
    """Returns groups of row numbers whose recordings sound the same, exact copies among them.

    Two recordings are copies where their log-mel spectra, each band about its own mean, correlate by 0.95 or more at
    one of the shifts of up to 40 ms, their lengths differ by 120 ms at most, and their waves correlate by 0.5 or more
    where they fit best. Takes of one text by one speaker stay below that. Copies at another speed are not found.
    """
    digests, lengths, coarse = _signatures(corpus)
    pairs = _pairs_of_equals(digests)
    spectra: dict[int, np.ndarray] = {}
    for i, j in _candidates(lengths, coarse):
        if digests[i] == digests[j]:
            continue
        for k in (i, j):
            if k not in spectra:
                spectra[k] = _spectrum(waveform(corpus, k))
        if _alike(spectra[i], spectra[j]) and _same_wave(waveform(corpus, i), waveform(corpus, j)):
            pairs.append((i, j))
    return _connected(pairs, len(digests))


def _pairs_of_equals(digests: np.ndarray) -> list[tuple[int, int]]:
    """Each recording with a sound beside the first one that has the same."""
    first: dict[str, int] = {}
    return [(first.setdefault(str(digest), i), i) for i, digest in enumerate(digests) if digest]


def _connected(pairs: Sequence[tuple[int, int]], count: int) -> list[list[int]]:
    """The groups of more than one of `count` rows that pairs connect, each and all in the order of the rows."""
    one, other = np.array(pairs, np.int64).reshape(-1, 2).T
    graph = scipy.sparse.coo_array((np.ones(len(pairs)), (one, other)), shape=(count, count))
    _, labels = scipy.sparse.csgraph.connected_components(graph, directed=False)
    groups: dict[int, list[int]] = {}
    for row, label in enumerate(labels.tolist()):
        groups.setdefault(label, []).append(row)
    return [rows for rows in groups.values() if len(rows) > 1]


def _candidates(lengths: np.ndarray, coarse: Float32[np.ndarray, "utterances values"]) -> Iterator[tuple[int, int]]:
    """Yields the pairs of about one length whose coarse pictures are alike."""
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] >= 20]  # what has no sound, or hardly any, is like everything
    sorted_lengths, pictures = lengths[order], coarse[order]
    for start in range(0, len(order), 512):
        stop = min(start + 512, len(order))
        last = int(np.searchsorted(sorted_lengths, sorted_lengths[stop - 1] + _TOLERATED_FRAMES, side="right"))
        alike = pictures[start:stop] @ pictures[start:last].T >= _COARSE
        for one, other in np.argwhere(np.triu(alike, 1)):
            if sorted_lengths[start + other] - sorted_lengths[start + one] <= _TOLERATED_FRAMES:
                yield int(order[start + one]), int(order[start + other])


def _signatures(corpus: Corpus) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The digest, the number of sounding frames and the coarse picture of every recording; kept beside the corpus."""
    key = f"{_VERSION} {_content(corpus)}"
    name = getattr(corpus.samples, "filename", None)
    cache = Path(name).parent / CACHE if name else None
    if cache is not None:
        with contextlib.suppress(Exception), np.load(cache) as kept:  # a damaged one, or none, is made again
            if str(kept["key"]) == key:
                return kept["digests"], kept["lengths"], kept["coarse"]
    with ThreadPoolExecutor(machine.cores()) as pool:
        signatures = list(
            pool.map(lambda i: _signature(np.asarray(waveform(corpus, i))), range(len(corpus.utterances)))
        )
    digests, lengths, coarse = zip(*signatures, strict=True)
    made = np.array(digests), np.array(lengths), np.array(coarse, np.float32)
    if cache is not None:
        with contextlib.suppress(OSError), atomic_file(cache) as temporary, temporary.open("wb") as file:
            np.savez(file, key=np.array(key), digests=made[0], lengths=made[1], coarse=made[2])
    return made


def _content(corpus: Corpus) -> str:
    """Tells a corpus from others, those that name or cut the same recordings in another way among them."""
    table = corpus.utterances
    digest = hashlib.sha256(corpus.fingerprint.encode())
    digest.update(table[["start", "num_samples"]].to_numpy(np.int64).tobytes())
    digest.update(json.dumps(table["id"].tolist()).encode())
    return digest.hexdigest()


def _signature(samples: Int16[np.ndarray, " samples"]) -> tuple[str, int, Float32[np.ndarray, " values"]]:
    spectrum = _spectrum(samples)
    return _digest(samples), len(spectrum), _coarse(spectrum)


def _digest(samples: Int16[np.ndarray, " samples"]) -> str:
    """A hash of what sounds, empty where nothing does."""
    sounding = np.flatnonzero(samples)
    if not len(sounding):
        return ""
    trimmed = samples[sounding[0] : sounding[-1] + 1].astype(np.int32)
    # Divided by their greatest common divisor, copies with a whole-number gain between them are equal.
    trimmed = trimmed // np.gcd.reduce(trimmed) * np.sign(trimmed[0])
    return hashlib.sha256(trimmed).hexdigest()


def _mel_bands() -> Float32[np.ndarray, "bins bands"]:
    """Triangles of equal width on the mel scale (HTK's), from 60 to 7600 Hz."""
    edges = 700 * (10 ** (np.linspace(*(2595 * np.log10(1 + np.array([60, 7600]) / 700)), _BANDS + 2) / 2595) - 1)
    hertz = np.arange(_FRAME // 2 + 1)[:, None] * 16000 / _FRAME
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    return np.maximum(0, np.minimum((hertz - low) / (centre - low), (high - hertz) / (high - centre))).astype(
        np.float32
    )


_MEL = _mel_bands()


def _spectrum(samples: Int16[np.ndarray, " samples"]) -> Float32[np.ndarray, "frames bands"]:
    """The log-mel spectrum from the first to the last frame with a sound, each band about its mean."""
    if len(samples) < _FRAME:
        samples = np.pad(samples, (0, _FRAME - len(samples)))
    frames = np.lib.stride_tricks.sliding_window_view(samples, _FRAME)[::_HOP] * np.hanning(_FRAME).astype(np.float32)
    power = np.square(np.abs(np.fft.rfft(frames))).astype(np.float32) @ _MEL
    loudest = float(power.max())
    if loudest <= 0:
        return np.zeros((0, _BANDS), np.float32)
    level = 10 * np.log10(np.maximum(power / loudest, 10 ** (-_RANGE_DB / 10)))
    sounding = np.flatnonzero(level.max(axis=1) > -_RANGE_DB + 10)
    level = level[sounding[0] : sounding[-1] + 1]
    return (level - level.mean(axis=0)).astype(np.float32)


def _coarse(spectrum: Float32[np.ndarray, "frames bands"]) -> Float32[np.ndarray, " values"]:
    if len(spectrum) < _TIMES:
        return np.zeros(_TIMES * _COARSE_BANDS, np.float32)
    times = np.linspace(0, len(spectrum), _TIMES + 1).astype(int)[:-1]
    cells = np.add.reduceat(spectrum, times) / np.diff([*times, len(spectrum)])[:, None]
    return _unit(cells.reshape(_TIMES, _COARSE_BANDS, -1).mean(axis=2).ravel().astype(np.float32))


def _alike(one: Float32[np.ndarray, "_ bands"], other: Float32[np.ndarray, "_ bands"]) -> bool:
    for shift in _SHIFTS:
        a, b = one[max(shift, 0) :], other[max(-shift, 0) :]
        frames = min(len(a), len(b))
        if float(_unit(a[:frames].ravel()) @ _unit(b[:frames].ravel())) >= _FINE:
            return True
    return False


def _same_wave(one: Int16[np.ndarray, " _"], other: Int16[np.ndarray, " _"]) -> bool:
    """Whether the waves correlate where they fit best: spectra alone are alike for two simple sounds of one pitch."""
    a, b = (_unit(np.asarray(wave[:_WAVE_SAMPLES], np.float32)) for wave in (one, other))
    size = len(a) + len(b)
    correlation = np.fft.irfft(np.fft.rfft(a, size) * np.conj(np.fft.rfft(b, size)), size)
    return float(np.abs(correlation).max()) >= _WAVE


def _unit(values: Float32[np.ndarray, " values"]) -> Float32[np.ndarray, " values"]:
    return values / np.float32(max(float(np.linalg.norm(values)), 1e-9))
