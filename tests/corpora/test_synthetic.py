"""The built-in corpora: reproducible, speech-like, and as hard as they say."""

import functools

import numpy as np
import pytest
from scipy import signal
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ser_jax.corpora import synthetic
from ser_jax.corpora.corpus import SAMPLE_RATE, waveform
from ser_jax.corpora.synthetic import BUILT_IN, CUE_BANDS, EMOTIONS, Manner, draw_speaker, make_synthetic
from ser_jax.errors import UserError

EDGES = np.geomspace(100, 7800, 33)  # Hz, of 32 bands


@pytest.fixture(scope="module")
def corpora():
    """Each built-in corpus, generated once and smaller than by default."""
    return functools.cache(lambda name: make_synthetic(name, num_speakers=6, utterances_per_speaker=20))


def log_bands(samples):
    """Returns log energies [frames, 32] in bands on a logarithmic scale, 20 ms frames, 10 ms apart."""
    _, _, spectrum = signal.stft(samples / 32768, SAMPLE_RATE, nperseg=320, noverlap=160, nfft=512)
    bands = np.digitize(np.fft.rfftfreq(512, 1 / SAMPLE_RATE), EDGES)
    power = np.stack([(np.abs(spectrum[bands == band + 1]) ** 2).sum(0) for band in range(32)], axis=1)
    return np.log(power + 1e-9)


def functionals(bands):
    return np.concatenate(
        [[x.mean(0), x.std(0), *np.percentile(x, (10, 50, 90), axis=0)] for x in (bands, np.gradient(bands, axis=0))]
    ).ravel()


def linear_ua(corpus, features):
    """Returns the UA of a linear model over leave-one-speaker-out."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
    labels, speakers = corpus.utterances["label"], corpus.utterances["speaker"]
    predicted = cross_val_predict(model, features, labels, groups=speakers, cv=LeaveOneGroupOut())
    return recall_score(labels, predicted, average="macro")


def each(corpus, function):
    return np.stack([function(waveform(corpus, i)) for i in range(len(corpus.utterances))])


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_seed_gives_the_same_corpus_and_another_gives_another(name):
    first, second, other = (make_synthetic(name, num_speakers=2, utterances_per_speaker=4, seed=s) for s in (0, 0, 1))
    assert first.fingerprint == second.fingerprint != other.fingerprint


@pytest.mark.parametrize("name", ["synthetic", "localized", "uniform"])
def test_an_utterance_does_not_depend_on_how_many_others_there_are(name):
    few = make_synthetic(name, num_speakers=1, utterances_per_speaker=3)
    many = make_synthetic(name, num_speakers=2, utterances_per_speaker=5)
    columns = ["id", "speaker", "emotion", "text", "num_samples"]
    assert few.utterances[columns].equals(many.utterances[columns].head(3))
    assert np.array_equal(few.samples, many.samples[: len(few.samples)])


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_speaker_has_equally_many_utterances_of_each_class(name, corpora):
    corpus = corpora(name)
    counts = corpus.utterances.groupby(["speaker", "emotion"]).size()
    assert set(counts) == {20 // len(corpus.emotions)} and len(counts) == 6 * len(corpus.emotions)
    assert corpus.utterances.groupby("speaker")["gender"].first().tolist() == ["female", "male"] * 3
    assert corpus.utterances.groupby("speaker")["text"].nunique().eq(5).all()


@pytest.mark.parametrize("name", BUILT_IN)
def test_utterances_last_one_to_two_and_a_half_seconds_and_do_not_clip(name, corpora):
    corpus = corpora(name)
    assert corpus.utterances["num_samples"].between(0.8 * SAMPLE_RATE, 2.5 * SAMPLE_RATE).all()
    peaks = each(corpus, lambda samples: np.abs(samples.astype(int)).max())
    assert peaks.min() > 300 and peaks.max() < 32767


def steady(pitch=0.0):
    return Manner(pitch, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.4)


@pytest.mark.parametrize("gender", ["female", "male"])
@pytest.mark.parametrize("semitones", [0.0, 5.0])
def test_the_voice_has_the_pitch_that_speaker_and_manner_say(gender, semitones):
    rng = np.random.default_rng(0)
    speaker = draw_speaker(rng, gender)
    speech = synthetic.speak(rng, speaker, steady(semitones), synthetic.TEXTS[0])
    pitches = []
    for frame in np.lib.stride_tricks.sliding_window_view(speech, 960)[::320]:
        if np.sqrt(np.mean(frame**2)) > 0.7:
            correlation = np.correlate(frame, frame, "full")[959:]
            low, high = int(SAMPLE_RATE / 400), int(SAMPLE_RATE / 80)
            pitches.append(SAMPLE_RATE / (low + np.argmax(correlation[low:high])))
    expected = speaker.pitch * 2 ** (semitones / 12)
    assert abs(12 * np.log2(np.median(pitches) / expected)) < 1.5


def test_the_vocal_tract_resonates_at_its_formants():
    formants = np.array([[500.0, 1500.0, 2500.0, 3500.0, 4500.0]])
    frequencies = np.arange(0.0, 8000.0, 10.0)
    gain = np.abs(synthetic._vocal_tract(formants, frequencies)[0])
    peaks = frequencies[signal.find_peaks(gain)[0]]
    assert np.abs(peaks - formants[0]).max() < 60


def test_frames_that_are_not_filtered_add_up_to_the_samples():
    samples = np.random.default_rng(0).standard_normal(20 * synthetic.HOP)
    added = synthetic._overlap_add(synthetic._spectra(samples))
    inner = slice(synthetic.FRAME, -synthetic.FRAME)
    np.testing.assert_allclose(added[inner], samples[inner], atol=1e-12)


def test_emotions_are_told_apart_by_functionals_better_than_chance_and_below_90_percent(corpora):
    corpus = corpora("synthetic")
    assert 0.5 < linear_ua(corpus, each(corpus, lambda samples: functionals(log_bands(samples)))) < 0.9


def test_loudness_alone_does_not_tell_the_emotion(corpora):
    corpus = corpora("synthetic")
    level = each(corpus, lambda samples: np.array([f(log_bands(samples)) for f in (np.mean, np.std, np.max)]))
    assert linear_ua(corpus, level) < 0.55


def test_no_single_part_of_a_manner_tells_the_emotion_but_all_together_do():
    rng = np.random.default_rng(0)
    manners = [np.array([*vars(synthetic.draw_manner(rng, name)).values()]) for name in EMOTIONS for _ in range(400)]
    manners, labels = np.stack(manners), np.repeat(np.arange(4), 400)

    def accuracy(x):
        return make_pipeline(StandardScaler(), LogisticRegression()).fit(x, labels).score(x, labels)

    assert max(accuracy(manners[:, [i]]) for i in range(manners.shape[1])) < 0.7
    assert accuracy(manners) > 0.9


def test_the_labels_of_null_have_nothing_to_do_with_its_speech(corpora):
    corpus = corpora("null")
    assert abs(linear_ua(corpus, each(corpus, lambda samples: functionals(log_bands(samples)))) - 0.25) < 0.12


def band_levels(samples, seconds):
    """Returns the level (dB) in each cue band in windows of `seconds`, [windows, 2]."""
    _, _, spectrum = signal.stft(samples / 32768, SAMPLE_RATE, nperseg=512, noverlap=352)
    frequencies = np.fft.rfftfreq(512, 1 / SAMPLE_RATE)
    inside = [np.abs(frequencies - centre) < width for centre, width in CUE_BANDS.values()]
    power = np.stack([(np.abs(spectrum[band]) ** 2).sum(0) for band in inside], axis=1)
    width = min(int(seconds * 100), len(power))
    return 10 * np.log10(np.stack([np.convolve(p, np.ones(width) / width, "valid") for p in power.T], 1) + 1e-12)


def loudest(samples):
    return band_levels(samples, 0.15).max(0)


def test_the_localized_cue_is_plain_to_see_in_its_200_ms_and_drowns_in_the_mean(corpora):
    corpus = corpora("localized")
    assert np.mean(each(corpus, loudest).argmax(1) == corpus.utterances["label"]) > 0.9
    means = each(corpus, lambda samples: band_levels(samples, 0.01).mean(0))
    assert linear_ua(corpus, means) < 0.8


def test_without_its_margin_the_localized_cue_is_gone():
    corpus = make_synthetic("localized", num_speakers=4, utterances_per_speaker=20, cue_db=0.0)
    none = np.mean(each(corpus, loudest).argmax(1) == corpus.utterances["label"])
    assert none < 0.75  # what is left is that the event adds one to the count of its kind


def test_the_uniform_cue_is_in_every_part_and_in_the_mean(corpora):
    corpus = corpora("uniform")
    whole = linear_ua(corpus, each(corpus, lambda samples: log_bands(samples).mean(0)))
    first = linear_ua(corpus, each(corpus, lambda samples: log_bands(samples[: len(samples) // 2]).mean(0)))
    second = linear_ua(corpus, each(corpus, lambda samples: log_bands(samples[len(samples) // 2 :]).mean(0)))
    assert whole > 0.75 and min(first, second) > 0.65


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("synthetics", {}, "only synthetic, localized"),
        ("synthetic", {"num_speakers": 0}, "num_speakers=0"),
        ("synthetic", {"utterances_per_speaker": 0}, "utterances_per_speaker=0"),
        ("synthetic", {"num_speakers": 10**9}, "their product at most 100,000"),
        ("null", {"cue_db": 3.0}, "only localized and uniform"),
    ],
)
def test_impossible_options_are_refused(name, options, message):
    with pytest.raises(UserError, match=message):
        make_synthetic(name, **options)
