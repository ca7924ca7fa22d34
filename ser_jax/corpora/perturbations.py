"""Conditions of test recordings outside the laboratory: noise, rooms, narrow bands, telephone, an unknown speaker.

All are functions of a waveform at 16 kHz that keep its length, and do not move it in time. What is drawn (noise, the
tail of a room) depends on the utterance's id alone, so an utterance has the same noise at every level, whatever is
perturbed beside it. Where a perturbed utterance would exceed full scale, the whole of it is made softer: nothing clips.

    noise_30 ... noise_0             pink noise (-3 dB per octave, from 50 Hz up), so many dB below the speech: the mean
                                     power of the frames of 20 ms that are at most 30 dB below the loudest one
    reverberation_0.3 ... _1.0       a room of this T60 in seconds; its impulse response is the direct path and a tail
                                     of Gaussian noise that decays exponentially (Polack 1988), of the same energy
    band_limit_4000, band_limit_2000 nothing above so many Hz: Butterworth, forwards and backwards, -6 dB there
    telephone                        300 to 3400 Hz at 8 kHz in 8-bit mu-law (ITU-T G.711), and back at 16 kHz
    known_20 ... known_2, alone      as it is, but only some so many recordings of the speaker are known, or this one
                                     alone: it matters to what is normalised by speaker
"""

import functools
import hashlib
import io
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import scipy
import soundfile
import soxr
from jaxtyping import Float, Int16
from scipy import fft

from ser_jax.corpora.audio import to_int16
from ser_jax.corpora.corpus import SAMPLE_RATE
from ser_jax.errors import UserError, brief, did_you_mean

Waveform = Float[np.ndarray, " samples"]

KNOWN = {"known_20": 20, "known_10": 10, "known_5": 5, "known_2": 2, "alone": 1}  # recordings of a speaker

_FULL_SCALE = 32767 / 32768
_FRAME = 320  # samples, 20 ms
_ACTIVE_DB = 30.0  # below the loudest frame
_LOWEST_NOISE = 50.0  # Hz
_BAND_ORDER, _TELEPHONE_ORDER = 8, 4  # of the filters; twice that, forwards and backwards
_TELEPHONE_RATE, _TELEPHONE_BAND = 8000, (300.0, 3400.0)  # Hz


def perturb(
    samples: Int16[np.ndarray, " samples"] | Float[np.ndarray, " samples"], utterance: str, condition: str
) -> Int16[np.ndarray, " samples"] | Float[np.ndarray, " samples"]:
    """Returns the utterance as it is under a condition: of the same length, as int16 where it was int16.

    Raises UserError for an unknown condition.
    """
    require([condition])
    is_int16 = samples.dtype == np.int16
    waveform = samples / 32768 if is_int16 else samples.astype(np.float64)
    if not len(waveform) or not waveform.any():
        return samples.copy()
    made = _within_full_scale(CONDITIONS[condition](waveform, utterance))
    return to_int16(made.astype(np.float32)) if is_int16 else made.astype(samples.dtype)


def require(conditions: Sequence[str], where: str = "condition") -> None:
    """Raises UserError, naming the nearest, for a condition that there is not, and for one named twice."""
    for condition in conditions:
        if condition not in CONDITIONS:
            raise UserError(f"{where}: no {brief(condition)}{did_you_mean(condition, CONDITIONS)}")
    if len(set(conditions)) < len(conditions):
        twice = next(condition for condition in conditions if list(conditions).count(condition) > 1)
        raise UserError(f"{where}: {twice} is there twice")


def add_noise(waveform: Waveform, utterance: str, *, snr_db: float) -> Waveform:
    """Adds pink noise at a signal-to-noise ratio in dB over the frames with speech."""
    noise = pink_noise(len(waveform), _generator("noise", utterance))
    scale = np.sqrt(speech_power(waveform) / np.mean(np.square(noise))) * 10 ** (-snr_db / 20)
    return waveform + scale * noise


def speech_power(waveform: Waveform) -> float:
    """The mean power of the frames with speech: those of 20 ms that are at most 30 dB below the loudest."""
    padded = np.pad(waveform, (0, -len(waveform) % _FRAME)).reshape(-1, _FRAME)
    sizes = np.full(len(padded), _FRAME)
    sizes[-1] -= padded.size - len(waveform)
    power = np.square(padded).sum(axis=1) / sizes
    return float(power[power >= power.max() * 10 ** (-_ACTIVE_DB / 10)].mean())


def pink_noise(length: int, generator: np.random.Generator) -> Waveform:
    """Gaussian noise whose power falls by 3 dB per octave from 50 Hz up, and that has none below."""
    size = fft.next_fast_len(max(length, SAMPLE_RATE // 10), real=True)
    spectrum = fft.rfft(generator.standard_normal(size))
    frequencies = fft.rfftfreq(size, 1 / SAMPLE_RATE)
    audible = frequencies >= _LOWEST_NOISE
    shape = np.where(audible, 1 / np.sqrt(np.where(audible, frequencies, 1)), 0)
    return fft.irfft(spectrum * shape, size)[:length]


def reverberate(waveform: Waveform, utterance: str, *, t60: float) -> Waveform:
    """Puts the utterance into a room of this T60 in seconds, at the level that it had, without the room's last tail."""
    response = impulse_response(t60, _generator("reverberation", utterance))
    made = scipy.signal.oaconvolve(waveform, response)[: len(waveform)]
    return made * np.sqrt(np.sum(np.square(waveform)) / max(np.sum(np.square(made)), 1e-20))


def impulse_response(t60: float, generator: np.random.Generator) -> Float[np.ndarray, " taps"]:
    """A direct path of 1 at once, then noise that decays by 60 dB in `t60` seconds and has the same energy."""
    seconds = np.arange(1, round(t60 * SAMPLE_RATE)) / SAMPLE_RATE
    tail = generator.standard_normal(len(seconds)) * 10 ** (-3 * seconds / t60)
    return np.concatenate([[1.0], tail / np.sqrt(np.sum(np.square(tail)))])


def band_limit(waveform: Waveform, utterance: str, *, highest: float) -> Waveform:
    """Takes away what is above a frequency in Hz."""
    return _filtered(_sections(_BAND_ORDER, highest, "lowpass", SAMPLE_RATE), waveform)


def telephone(waveform: Waveform, utterance: str) -> Waveform:
    """Sends the utterance over a narrow-band telephone line."""
    narrow = soxr.resample(waveform, SAMPLE_RATE, _TELEPHONE_RATE, quality="VHQ")
    if not len(narrow):  # a sample or two
        return waveform
    band = _sections(_TELEPHONE_ORDER, _TELEPHONE_BAND, "bandpass", _TELEPHONE_RATE)
    coded = mu_law(to_int16(_within_full_scale(_filtered(band, narrow)).astype(np.float32))) / 32768
    wide = soxr.resample(coded, _TELEPHONE_RATE, SAMPLE_RATE, quality="VHQ")[: len(waveform)]
    return np.pad(wide, (0, len(waveform) - len(wide)))


def mu_law(samples: Int16[np.ndarray, " samples"]) -> Int16[np.ndarray, " samples"]:
    """What is left of samples after 8-bit mu-law (ITU-T G.711), as libsndfile codes and decodes it."""
    coded = io.BytesIO()
    soundfile.write(coded, samples, _TELEPHONE_RATE, format="RAW", subtype="ULAW")
    coded.seek(0)
    like = {"format": "RAW", "subtype": "ULAW", "channels": 1, "samplerate": _TELEPHONE_RATE}
    return soundfile.read(coded, dtype="int16", **like)[0]


def _within_full_scale(waveform: Waveform) -> Waveform:
    return waveform * min(1.0, _FULL_SCALE / max(np.max(np.abs(waveform)), 1e-20))


@functools.lru_cache  # designing a filter takes as long as filtering a second of speech
def _sections(order: int, band: float | tuple[float, float], kind: str, rate: int) -> np.ndarray:
    return scipy.signal.butter(order, band, kind, fs=rate, output="sos")


def _filtered(sections: np.ndarray, waveform: Waveform) -> Waveform:
    """The waveform through a filter, forwards and backwards, which moves nothing in time."""
    default = 3 * (2 * len(sections) + 1)
    return scipy.signal.sosfiltfilt(sections, waveform, padlen=min(default, len(waveform) - 1))


def known_together(utterances: Sequence[str], speakers: Sequence[str], number: int) -> list[str]:
    """Returns for each utterance the name of those of its speaker that are known with it: about `number`.

    A speaker's utterances are dealt, in an order drawn by their ids, to as many groups as come nearest to that.
    """
    table = pd.DataFrame({"speaker": list(speakers), "draw": [_generator("known", u).random() for u in utterances]})
    draws = table.groupby("speaker")["draw"]
    groups = (draws.transform("size") / number).round().clip(lower=1).astype(int)
    dealt = (draws.rank(method="first").astype(int) - 1) % groups
    return [f"{speaker}:{group}" for speaker, group in zip(speakers, dealt, strict=True)]


def _generator(purpose: str, utterance: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{purpose} {utterance}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))


CONDITIONS: dict[str, Callable[[np.ndarray, str], np.ndarray]] = {
    **{f"noise_{snr}": functools.partial(add_noise, snr_db=float(snr)) for snr in (30, 20, 10, 5, 0)},
    **{f"reverberation_{t60}": functools.partial(reverberate, t60=t60) for t60 in (0.3, 0.6, 1.0)},
    **{f"band_limit_{highest}": functools.partial(band_limit, highest=float(highest)) for highest in (4000, 2000)},
    "telephone": telephone,
    **dict.fromkeys(KNOWN, lambda waveform, utterance: waveform),
}


def describe(condition: str) -> str:
    """Returns in a few words what a condition is."""
    kind, _, level = condition.rpartition("_")
    if condition in KNOWN:
        known = f"only {KNOWN[condition]} recordings" if KNOWN[condition] > 1 else "no other recording"
        return f"as it is, but {known} of the speaker {'are' if KNOWN[condition] > 1 else 'is'} known"
    return {
        "noise": f"pink noise, {level} dB below the speech",
        "reverberation": f"a room with a T60 of {level} s",
        "band_limit": f"nothing above {level} Hz",
        "": "300 to 3400 Hz at 8 kHz in 8-bit mu-law",
    }[kind]
