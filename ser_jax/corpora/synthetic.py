"""The built-in corpora: a small parametric voice, and the controls that a study of attention must get right.

The voice is a source-filter synthesiser. Glottal pulses (Rosenberg 1971) with jitter and shimmer, and aspiration noise,
pass through a cascade of formant resonators (Klatt 1980) whose frequencies glide from vowel to vowel; bands of noise
make the fricatives between. A **text** is a sequence of syllables, a **speaker** a vocal tract, a pitch, a tempo and a
voice quality, and a **manner** is how one utterance is spoken: emotions are distributions of manners, and they overlap.

The four corpora, all deterministic from their seed, and what each must show:

- `synthetic`: four emotions. A linear model on functionals of log-mel bands lands well above chance and below 90 %; a
  network that sees how pitch and loudness move inside a syllable can do better.
- `localized`: two classes whose only cue is the loudest event of 200 ms, somewhere among softer ones of both kinds.
  Pooling that can select must beat mean pooling.
- `uniform`: two classes that differ a little in every frame. Mean pooling is the right thing: selecting can not help.
- `null`: speech as in `synthetic`, labels drawn without looking at it. Nothing may beat chance, no variant another.
"""

import dataclasses

import numpy as np
import pandas as pd
import scipy
from jaxtyping import Complex, Float, Int16

from ser_jax.corpora.corpus import SAMPLE_RATE, Corpus, make_corpus
from ser_jax.errors import UserError

MOST_UTTERANCES = 100_000  # 3 GB of memory
BUILT_IN = ("synthetic", "localized", "uniform", "null")
VERSION = 2  # of what is generated: raise it whenever samples, labels or columns change

EMOTIONS = ("neutral", "anger", "sadness", "happiness")
CUE_KINDS = ("low", "high")  # classes of `localized` and `uniform`: which band the cue is in

HOP = 80  # samples between two frames of the control tracks (5 ms)
AFFECT_TRACKS = ("arousal", "valence")
AFFECT_HOP = 160  # samples between two values of the affect tracks (10 ms)
FRAME = 320  # samples of a filtering frame (20 ms)
FFT_SIZE = 512  # longer than a frame, so that the resonances ring out without wrapping round

VOWELS = {  # first three formants of a male voice in Hz (after Peterson & Barney 1952)
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}
BANDWIDTHS = (80, 100, 140, 200, 260)  # Hz, of five formants; the fourth and fifth stay at 3500 and 4500 Hz
FRICATIVES = {"s": (5500, 1800), "sh": (3200, 1200), "f": (4500, 4000)}  # centre and bandwidth of the noise, Hz
TEXTS = (  # syllables as (consonant, vowel); "m" is a murmur, "t" a closure with a burst, "" nothing
    (("s", "a"), ("m", "e"), ("t", "i"), ("sh", "o"), ("", "a")),
    (("m", "u"), ("f", "a"), ("s", "i"), ("t", "e"), ("m", "o")),
    (("t", "o"), ("sh", "i"), ("m", "a"), ("", "u"), ("f", "e")),
    (("f", "i"), ("t", "a"), ("m", "o"), ("s", "e"), ("t", "u")),
    (("", "e"), ("m", "i"), ("sh", "u"), ("t", "a"), ("s", "o")),
)


# The cue of `localized` and `uniform` is noise in the band of its kind. Both classes use both bands alike, but for
# `cue_db`, by which the cue is above the rest. In `localized` it is one event, its distractors are softer, and how loud
# they all are and how many is drawn: only comparing the events with each other finds it.
CUE_BANDS = {"low": (1900.0, 250.0), "high": (2900.0, 250.0)}  # centre and bandwidth, Hz
CUE_DB = {"localized": 6.0, "uniform": 5.0}  # defaults
CUE_SECONDS = 0.2
EVENT_DB, EVENT_SPREAD_DB = 6.0, 4.0  # of the event relative to the speech: mean and spread over utterances
MOST_DISTRACTORS = 5  # in each band, from 0
UNIFORM_DB, UNIFORM_SPREAD_DB = -14.0, 2.5  # of each band's noise relative to the speech

DESCRIPTIONS = {
    "synthetic": "four emotions that move pitch, its range, accents, level, tempo, tilt, jitter, breath and attack",
    "localized": "two classes whose only cue is the loudest event of 200 ms, at a random place among softer ones",
    "uniform": "two classes that differ a little in every frame, equally at all places",
    "null": "speech as in synthetic, labels drawn at random within each speaker",
}


@dataclasses.dataclass(frozen=True)
class Speaker:
    """What stays the same in all utterances of one speaker."""

    gender: str
    formant_scale: float  # of the male formants: a shorter vocal tract is above 1
    pitch: float  # Hz
    tempo: float  # syllables per second
    tilt: float  # dB per octave above 500 Hz, added to the source's own
    breathiness: float  # aspiration noise relative to the voice, dB
    open_quotient: float  # share of a glottal period in which the glottis is open


@dataclasses.dataclass(frozen=True)
class Manner:
    """How one utterance is spoken, relative to its speaker."""

    pitch: float  # semitones
    pitch_range: float  # semitones, standard deviation over syllables
    accent: float  # semitones by which pitch rises inside an accented vowel; negative falls
    level: float  # dB
    tempo: float  # natural logarithm of a factor
    tilt: float  # dB per octave
    jitter: float  # natural logarithm of a factor on 1 % of the period
    breathiness: float  # dB
    attack: float  # where in a syllable loudness peaks, 0 to 1


# Mean manner of each emotion and its spread, equal for all. The means are within a few spreads of each other: no single
# part of a manner tells the emotion. Directions after Banse & Scherer (1996) and Juslin & Laukka (2003).
MANNERS = {
    "neutral": Manner(0.0, 1.4, 0.0, 0.0, 0.00, 0.0, 0.0, 0.0, 0.40),
    "anger": Manner(2.4, 2.2, -3.5, 4.0, 0.09, 1.5, 0.5, -1.5, 0.22),
    "sadness": Manner(-1.2, 0.9, -1.2, -4.0, -0.13, -1.6, 0.3, 2.5, 0.55),
    "happiness": Manner(2.4, 2.4, 3.5, 2.5, 0.06, 0.7, 0.1, -0.5, 0.38),
}
SPREAD = Manner(1.6, 0.5, 1.6, 3.0, 0.09, 1.1, 0.3, 2.0, 0.08)


def make_synthetic(
    name: str = "synthetic",
    *,
    num_speakers: int = 8,
    utterances_per_speaker: int = 40,
    seed: int = 0,
    cue_db: float | None = None,
) -> Corpus:
    """Generates one of the built-in corpora; utterance k of a speaker does not depend on how many others there are.

    `cue_db` is for `localized` and `uniform`: how far the cue is above what hides it, in dB; lower is harder, the
    defaults are in CUE_DB. Every speaker has equally many utterances of each class, give or take one. Samples are
    computed in float64, so that machines agree on their int16.
    Raises UserError for an unknown name, no or far too many utterances, and `cue_db` where there is no cue.
    """
    if name not in BUILT_IN:
        raise UserError(f"built-in corpus {name!r}: there is none of this name, only {', '.join(BUILT_IN)}")
    if min(num_speakers, utterances_per_speaker) < 1 or num_speakers * utterances_per_speaker > MOST_UTTERANCES:
        raise UserError(
            f"built-in corpus {name}: num_speakers={num_speakers}, utterances_per_speaker={utterances_per_speaker}: "
            f"both must be at least 1, and their product at most {MOST_UTTERANCES:,}"
        )
    if cue_db is not None and name not in CUE_DB:
        raise UserError(
            f"built-in corpus {name}: cue_db={cue_db} was given, but only {' and '.join(CUE_DB)} have a cue"
        )

    stream = BUILT_IN.index(name)
    emotions = CUE_KINDS if name in CUE_DB else EMOTIONS
    rows, waveforms = [], []
    for s in range(num_speakers):
        speaker = draw_speaker(_generator(seed, stream, s), gender=("female", "male")[s % 2])
        for k in range(utterances_per_speaker):
            rng = _generator(seed, stream, s, k)
            emotion, text = emotions[k % len(emotions)], (k // len(emotions)) % len(TEXTS)
            waveforms.append(_utterance(name, rng, speaker, text, emotion, cue_db))
            rows.append((f"{name}-{s:02d}-{k:03d}", f"{s:02d}", speaker.gender, emotion, f"text{text}", _spelt(text)))
    table = pd.DataFrame(rows, columns=["id", "speaker", "gender", "emotion", "text", "transcript"])
    table = table.assign(language="none", corpus=name)
    if name == "null":
        table["emotion"] = _shuffled_within_speakers(table, _generator(seed, stream))
    options = {"num_speakers": num_speakers, "utterances_per_speaker": utterances_per_speaker, "seed": seed}
    info = {
        "description": DESCRIPTIONS[name],
        "version": VERSION,
        "options": options | ({"cue_db": CUE_DB[name] if cue_db is None else cue_db} if name in CUE_DB else {}),
        "citation": "",
        "licence": "Apache-2.0 (generated by ser_jax)",
        "language": "none",
        "speakers_known": True,
        "source_check": "generated, deterministic from its seed",
    }
    return make_corpus(name, table, waveforms, emotions, info)


def affect_tracks(corpus: Corpus) -> list[Float[np.ndarray, "frames 2"]]:
    """Returns how aroused and how pleasant the voice of each utterance of the corpus `synthetic` is, in (-1, 1).

    One value per AFFECT_HOP samples, the first at sample 0, of AFFECT_TRACKS:

        arousal(t) = tanh(excitement + loudness(t) - 1/2)
        valence(t) = tanh(pleasure * (2/5 + 3/5 * accent(t)))

    excitement = (pitch / 2.4 + level / 4 + tempo / 0.1 + tilt / 1.5) / 4 and pleasure = accent / 3.5 are of the
    utterance's `Manner`: the emotion's part. loudness is the amplitude of the voice, accent is 1 inside accented vowels
    and 0 elsewhere, both averaged over 200 ms (Hann): what happens syllable by syllable. The draws are those that the
    samples were made from, so that the tracks need no storing.
    Raises UserError for another corpus.
    """
    if corpus.name != "synthetic" or "options" not in corpus.info:
        raise UserError(f"corpus {corpus.name}: it has no affect tracks; of the built-in corpora, synthetic has")
    seed, stream = corpus.info["options"]["seed"], BUILT_IN.index("synthetic")
    tracks = []
    for row in corpus.utterances.itertuples():
        s, k = (int(number) for number in row.id.split("-")[1:])
        speaker = draw_speaker(_generator(seed, stream, s), row.gender)
        rng = _generator(seed, stream, s, k)
        manner = draw_manner(rng, row.emotion)
        drawn = _tracks(rng, speaker, manner, TEXTS[int(row.text.removeprefix("text"))])
        excitement = (manner.pitch / 2.4 + manner.level / 4 + manner.tempo / 0.1 + manner.tilt / 1.5) / 4
        arousal = np.tanh(excitement + _smooth(drawn.voicing, 20) - 0.5)
        valence = np.tanh(manner.accent / 3.5 * (0.4 + 0.6 * _smooth(drawn.accented, 20)))
        times = np.arange(1 + row.num_samples // AFFECT_HOP) * (AFFECT_HOP / HOP)
        frames = np.arange(len(arousal))
        tracks.append(np.stack([np.interp(times, frames, track) for track in (arousal, valence)], axis=1))
    return tracks


def _spelt(text: int) -> str:
    return " ".join(consonant + vowel for consonant, vowel in TEXTS[text])


def _utterance(
    name: str, rng: np.random.Generator, speaker: Speaker, text: int, emotion: str, cue_db: float | None
) -> Int16[np.ndarray, " samples"]:
    """Returns one utterance of the built-in corpus `name`."""
    # In the controls with a cue, the speech itself is drawn in the same way for every class.
    manner = draw_manner(rng, emotion if name not in CUE_DB else EMOTIONS[rng.integers(len(EMOTIONS))])
    speech = speak(rng, speaker, manner, TEXTS[text])
    if name == "localized":
        speech = speech + _localized_cue(rng, len(speech), emotion, CUE_DB[name] if cue_db is None else cue_db)
    if name == "uniform":
        speech = speech + _uniform_cue(rng, len(speech), emotion, CUE_DB[name] if cue_db is None else cue_db)
    return _recorded(rng, speech, manner)


def draw_speaker(rng: np.random.Generator, gender: str) -> Speaker:
    """Draws a speaker of `gender` (female or male)."""
    female = gender == "female"
    return Speaker(
        gender=gender,
        formant_scale=rng.uniform(1.08, 1.24) if female else rng.uniform(0.92, 1.06),
        pitch=rng.uniform(165, 225) if female else rng.uniform(95, 140),
        tempo=rng.uniform(4.2, 5.2),
        tilt=rng.uniform(-1.0, 1.0),
        breathiness=rng.uniform(-34, -24),
        open_quotient=rng.uniform(0.55, 0.75),
    )


def draw_manner(rng: np.random.Generator, emotion: str) -> Manner:
    """Draws how one utterance of `emotion` is spoken."""
    mean, spread = (np.array(dataclasses.astuple(manner)) for manner in (MANNERS[emotion], SPREAD))
    pitch, pitch_range, accent, level, tempo, tilt, jitter, breathiness, attack = rng.normal(mean, spread)
    return Manner(
        pitch, max(pitch_range, 0.2), accent, level, tempo, tilt, jitter, breathiness, float(np.clip(attack, 0.1, 0.8))
    )


@dataclasses.dataclass(frozen=True)
class _Tracks:
    """What moves during an utterance, one value per HOP samples."""

    semitones: Float[np.ndarray, " frames"]  # pitch relative to the speaker's
    accented: Float[np.ndarray, " frames"]  # 1 inside accented vowels, else 0
    voicing: Float[np.ndarray, " frames"]  # amplitude of the voice
    frication: Float[np.ndarray, " frames"]  # amplitude of the noise
    formants: Float[np.ndarray, "frames 5"]  # Hz
    noise_centre: Float[np.ndarray, " frames"]  # Hz
    noise_bandwidth: Float[np.ndarray, " frames"]  # Hz


def speak(
    rng: np.random.Generator, speaker: Speaker, manner: Manner, text: tuple[tuple[str, str], ...]
) -> Float[np.ndarray, " samples"]:
    """Returns an utterance at 16 kHz, with some silence at both ends and a root mean square of 1 over all of it."""
    tracks = _tracks(rng, speaker, manner, text)
    num_samples = len(tracks.semitones) * HOP
    voice = _voice(rng, speaker, manner, tracks)
    noise = rng.standard_normal(num_samples) * _per_sample(tracks.frication)

    frequencies = np.fft.rfftfreq(FFT_SIZE, 1 / SAMPLE_RATE)
    tract = _vocal_tract(tracks.formants, frequencies)
    tilt = np.maximum(frequencies / 500, 1.0) ** ((speaker.tilt + manner.tilt) / (20 * np.log10(2)))
    distance = (frequencies[None, :] - tracks.noise_centre[:, None]) / tracks.noise_bandwidth[:, None]
    fricative = 0.25 * np.exp(-0.5 * distance**2)
    speech = _overlap_add(_spectra(voice) * tract * tilt[None, :] + _spectra(noise) * fricative)
    return speech / np.sqrt(np.mean(speech**2))


def _tracks(rng: np.random.Generator, speaker: Speaker, manner: Manner, text: tuple[tuple[str, str], ...]) -> _Tracks:
    """Lays the syllables out in time: each is a consonant and a vowel, with its share of pitch, loudness and noise."""
    syllable_frames = SAMPLE_RATE / HOP / (speaker.tempo * np.exp(manner.tempo))
    lengths = syllable_frames * rng.lognormal(0, 0.12, len(text))
    lengths[-1] *= 1.3  # final lengthening
    lead, tail = rng.uniform(15, 40, 2)
    starts = lead + np.concatenate([[0], np.cumsum(lengths)])
    frames = np.arange(int(starts[-1] + tail))
    accented = rng.permutation(len(text))[: (len(text) + 1) // 2]

    voicing, frication, accents = (np.zeros(len(frames)) for _ in range(3))
    noise_centre, noise_bandwidth = np.full(len(frames), 4000.0), np.full(len(frames), 2000.0)
    targets, centres = [], []
    for i, (consonant, _) in enumerate(text):
        onset = starts[i] + (0.3 * lengths[i] if consonant else 0.05 * lengths[i])
        position = (frames - onset) / (starts[i + 1] - onset)  # 0 to 1 inside the vowel
        inside = (position >= 0) & (position < 1)
        loudness = 10 ** (rng.normal(2.0 if i in accented else 0.0, 1.5) / 20)
        voicing += np.where(inside, loudness * _skewed_bump(position, manner.attack), 0)
        accents += inside & (i in accented)
        in_consonant = (frames >= starts[i]) & (frames < onset)
        if consonant == "m":
            voicing[in_consonant] += 0.25
        elif consonant == "t":
            burst = in_consonant & (frames >= onset - 3)
            frication[burst] += 1.0
        elif consonant:
            place = (frames - starts[i]) / (onset - starts[i])
            frication += np.where(in_consonant, np.sin(np.pi * np.clip(place, 0, 1)) ** 0.5, 0)
            noise_centre[in_consonant], noise_bandwidth[in_consonant] = FRICATIVES[consonant]
        step = rng.normal(0, manner.pitch_range)
        movement = manner.accent if i in accented else 0.0
        for where, bend in ((0.15, -0.5), (0.85, 0.5)):  # the pitch turns near the ends of the vowel
            centres.append(onset + where * (starts[i + 1] - onset))
            targets.append(step + bend * movement)
    declination = -2.0 * (frames - frames.mean()) / (SAMPLE_RATE / HOP)  # 2 semitones per second
    semitones = manner.pitch + declination + _smooth(np.interp(frames, centres, targets), 5)
    return _Tracks(
        semitones=semitones,
        accented=accents,
        voicing=_smooth(voicing, 3),
        frication=_smooth(frication, 3),
        formants=_formants(speaker, text, starts, frames),
        noise_centre=noise_centre,
        noise_bandwidth=noise_bandwidth,
    )


def _formants(
    speaker: Speaker, text: tuple[tuple[str, str], ...], starts: Float[np.ndarray, " _"], frames: np.ndarray
) -> Float[np.ndarray, "frames 5"]:
    """Returns formant frequencies that rest in each vowel and glide to the next."""
    rests = [(starts[i] + share * (starts[i + 1] - starts[i])) for i in range(len(text)) for share in (0.5, 0.8)]
    vowels = np.repeat([(*VOWELS[vowel], 3500, 4500) for _, vowel in text], 2, axis=0)
    tracks = np.stack([np.interp(frames, rests, vowels[:, formant]) for formant in range(5)], axis=1)
    return speaker.formant_scale * tracks


def _voice(
    rng: np.random.Generator, speaker: Speaker, manner: Manner, tracks: _Tracks
) -> Float[np.ndarray, " samples"]:
    """Returns glottal pulses and aspiration noise, after radiation from the lips, before the vocal tract."""
    pitch = speaker.pitch * 2 ** (_per_sample(tracks.semitones) / 12)
    phase = np.cumsum(pitch) / SAMPLE_RATE  # in periods
    period = phase.astype(np.int64)
    draws = rng.standard_normal((2, period[-1] + 2))
    jitter = 0.01 * np.exp(manner.jitter) * draws[0]
    # A period is stretched by its jitter about its own beginning, so that pulses stay in order and time does not drift.
    position = np.clip((phase - period) * (1 + jitter[period]), 0, 1)
    shimmer = 10 ** (0.3 * np.exp(manner.jitter) * draws[1] / 20)[period]
    flow = shimmer * _rosenberg_pulse(position, speaker.open_quotient)
    aspiration = rng.standard_normal(len(flow)) * (0.3 + flow)
    breathiness = 10 ** ((speaker.breathiness + manner.breathiness) / 20)
    radiated = np.diff(flow, prepend=0.0) * 16 + breathiness * aspiration
    return radiated * _per_sample(tracks.voicing)


def _rosenberg_pulse(position: Float[np.ndarray, " samples"], open_quotient: float) -> Float[np.ndarray, " samples"]:
    """Returns the glottal flow at a position (0 to 1) in the period: Rosenberg's trigonometric pulse (1971, type C)."""
    opening, closing = 0.67 * open_quotient, 0.33 * open_quotient
    rise = 0.5 * (1 - np.cos(np.pi * position / opening))
    fall = np.cos(0.5 * np.pi * np.clip((position - opening) / closing, 0, 1))
    return np.where(position < opening, rise, fall)


def _vocal_tract(
    formants: Float[np.ndarray, "frames 5"], frequencies: Float[np.ndarray, " bins"]
) -> Complex[np.ndarray, "frames bins"]:
    """Returns the frequency response of the formants' resonators in cascade (Klatt 1980, equation 1)."""
    delay = np.exp(-2j * np.pi * frequencies / SAMPLE_RATE)[None, :]
    numerator, denominator = np.ones((len(formants), 1)), np.ones((len(formants), len(frequencies)), complex)
    for i, bandwidth in enumerate(BANDWIDTHS):
        radius = np.exp(-np.pi * bandwidth / SAMPLE_RATE)
        b = 2 * radius * np.cos(2 * np.pi * formants[:, i, None] / SAMPLE_RATE)
        c = -(radius**2)
        numerator *= 1 - b - c
        denominator *= 1 - b * delay - c * delay**2
    return numerator / denominator


def _spectra(samples: Float[np.ndarray, " samples"]) -> Complex[np.ndarray, "frames bins"]:
    """Returns the spectra of windowed frames, one per HOP samples; `_overlap_add` is the inverse."""
    window = scipy.signal.windows.hann(FRAME, sym=False) / (FRAME / HOP / 2)  # shifted by HOP, the windows add to 1
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(samples, FRAME // 2), FRAME)[::HOP]
    return np.fft.rfft(frames[: len(samples) // HOP] * window[None, :], FFT_SIZE)


def _overlap_add(spectra: Complex[np.ndarray, "frames bins"]) -> Float[np.ndarray, " samples"]:
    """Returns HOP samples per frame: the frames of these spectra, each added where it belongs."""
    num_frames = len(spectra)
    frames = np.pad(np.fft.irfft(spectra, FFT_SIZE), ((0, 0), (0, -FFT_SIZE % HOP)))
    hops = frames.reshape(num_frames, -1, HOP)
    added = np.zeros((num_frames + hops.shape[1], HOP))
    for i in range(hops.shape[1]):
        added[i : i + num_frames] += hops[:, i]
    return added.reshape(-1)[FRAME // 2 :][: num_frames * HOP]


def _localized_cue(
    rng: np.random.Generator, num_samples: int, kind: str, above_db: float
) -> Float[np.ndarray, " samples"]:
    """Returns the loudest event, of `kind`, among distractors that are drawn alike for both classes."""
    loudest_db = rng.normal(EVENT_DB, EVENT_SPREAD_DB)
    events = [(kind, loudest_db)]
    for band in CUE_BANDS:
        events += [(band, loudest_db - above_db + rng.normal(0, 1)) for _ in range(rng.integers(MOST_DISTRACTORS + 1))]
    num_event = int(CUE_SECONDS * SAMPLE_RATE)
    window = scipy.signal.windows.tukey(num_event, 0.3)
    cue = np.zeros(num_samples)
    for band, level_db in events:
        start = rng.integers(num_samples - num_event)
        cue[start : start + num_event] += 10 ** (level_db / 20) * window * _band_noise(rng, num_event, band)
    return cue


def _uniform_cue(
    rng: np.random.Generator, num_samples: int, kind: str, above_db: float
) -> Float[np.ndarray, " samples"]:
    """Returns noise in both bands from the first sample to the last, on average louder in that of `kind`."""
    cue = np.zeros(num_samples)
    for band in CUE_BANDS:
        level_db = rng.normal(UNIFORM_DB + (above_db if band == kind else -above_db) / 2, UNIFORM_SPREAD_DB)
        cue += 10 ** (level_db / 20) * _band_noise(rng, num_samples, band)
    return cue


def _band_noise(rng: np.random.Generator, num_samples: int, kind: str) -> Float[np.ndarray, " samples"]:
    """Returns noise in one of CUE_BANDS with a root mean square of 1."""
    centre, bandwidth = CUE_BANDS[kind]
    b, a = scipy.signal.iirpeak(centre, centre / bandwidth, fs=SAMPLE_RATE)
    noise = scipy.signal.lfilter(b, a, rng.standard_normal(num_samples + 400))[400:]
    return noise / np.sqrt(np.mean(noise**2))


def _recorded(
    rng: np.random.Generator, speech: Float[np.ndarray, " samples"], manner: Manner
) -> Int16[np.ndarray, " samples"]:
    """Returns the speech as a microphone gives it: at its level, from a random distance, with background noise."""
    background = rng.standard_normal(len(speech)) * 10 ** (rng.normal(-36, 4) / 20)
    gain_db = -24 + manner.level + rng.normal(0, 5)  # the distance hides much of what the level tells
    samples = (speech + background) * 10 ** (gain_db / 20)
    samples *= min(1.0, 0.98 / np.abs(samples).max())
    return np.round(samples * 32767).astype(np.int16)


def _shuffled_within_speakers(table: pd.DataFrame, rng: np.random.Generator) -> pd.Series:
    """Returns the emotions in another order, drawn for each speaker, so that every speaker keeps its counts."""
    return table.groupby("speaker", sort=False)["emotion"].transform(lambda emotions: rng.permutation(emotions))


def _generator(*seeds: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seeds)))


def _per_sample(track: Float[np.ndarray, " frames"]) -> Float[np.ndarray, " samples"]:
    """Interpolates a track of one value per HOP samples."""
    return np.interp(np.arange(len(track) * HOP) / HOP, np.arange(len(track)), track)


def _skewed_bump(position: Float[np.ndarray, " frames"], peak: float) -> Float[np.ndarray, " frames"]:
    """Returns 0 at positions 0 and 1 and 1 at `peak`, smoothly."""
    warped = np.interp(position, [0, peak, 1], [0, 0.5, 1])
    return np.sin(np.pi * warped)


def _smooth(track: Float[np.ndarray, " frames"], width: int) -> Float[np.ndarray, " frames"]:
    """Returns the moving average over 2 * width + 1 frames with a Hann window."""
    window = scipy.signal.windows.hann(2 * width + 3)[1:-1]
    padded = np.pad(track, width, mode="edge")
    return np.convolve(padded, window / window.sum(), "valid")
