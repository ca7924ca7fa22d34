import numpy as np
import pytest
from scipy import signal

from ser_jax.corpora.corpus import SAMPLE_RATE
from ser_jax.corpora.perturbations import (
    CONDITIONS,
    KNOWN,
    impulse_response,
    known_together,
    mu_law,
    perturb,
    pink_noise,
    require,
    speech_power,
)
from ser_jax.errors import UserError


def speech(seconds=1.0, level=0.1, seed=0):
    """Noise with a syllable's rhythm."""
    times = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return level * np.random.default_rng(seed).standard_normal(len(times)) * (1.2 + np.sin(2 * np.pi * 4 * times))


def int16(waveform):
    return np.clip(np.rint(32768 * waveform), -32768, 32767).astype(np.int16)


def decibels(ratio):
    return 10 * np.log10(ratio)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_every_condition_keeps_length_and_type_and_depends_on_the_utterance_alone(condition):
    samples = int16(speech(0.5))
    once, again = (perturb(samples, "a", condition) for _ in range(2))
    assert once.dtype == np.int16
    assert once.shape == samples.shape
    np.testing.assert_array_equal(once, again)
    assert (np.abs(once.astype(int) - samples).max() > 10) != (condition in KNOWN)
    draws = condition.startswith(("noise", "reverberation"))
    assert np.array_equal(once, perturb(samples, "b", condition)) != draws
    as_float = perturb((samples / 32768).astype(np.float32), "a", condition)
    assert as_float.dtype == np.float32
    np.testing.assert_allclose(32768 * as_float, once, atol=0.51)


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("length", [1, 2, 7, 400])
def test_a_very_short_or_silent_utterance_goes_through(condition, length):
    assert perturb(int16(speech()[:length] + 0.1), "a", condition).shape == (length,)
    silent = np.zeros(length, np.int16)
    np.testing.assert_array_equal(perturb(silent, "a", condition), silent)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_loud_utterance_is_made_softer_and_not_clipped(condition):
    loud = speech(0.5)
    loud = int16(loud / np.abs(loud).max())
    made = perturb(loud, "a", condition).astype(float)
    assert np.sum(np.abs(made) >= 32767) <= 2
    soft = perturb(int16(loud / 32768 / 8), "a", condition)
    if condition != "telephone":  # mu-law's steps depend on the level
        assert np.corrcoef(made, soft)[0, 1] > 0.9999


@pytest.mark.parametrize("snr", [30, 20, 10, 5, 0])
def test_noise_has_its_ratio_to_the_speech_and_silence_around_it_changes_nothing(snr):
    alone = 0.1 * np.sin(2 * np.pi * 200 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)  # every frame has the same power
    padded = np.concatenate([np.zeros(SAMPLE_RATE), alone, np.zeros(SAMPLE_RATE // 2)])
    for waveform in (alone, padded):
        noise = perturb(waveform, "a", f"noise_{snr}") - waveform
        assert decibels(np.mean(alone**2) / np.mean(noise**2)) == pytest.approx(snr, abs=1e-6)


def test_an_utterance_has_the_same_noise_at_every_level():
    waveform = speech(level=0.05)
    loud, soft = (perturb(waveform, "a", f"noise_{snr}") - waveform for snr in (10, 30))
    np.testing.assert_allclose(loud, 10 * soft, atol=1e-9)


def test_the_power_of_speech_is_that_of_its_loud_frames():
    waveform = speech(0.51)
    slow = [np.mean(waveform[start : start + 320] ** 2) for start in range(0, len(waveform), 320)]
    assert speech_power(waveform) == pytest.approx(np.mean([power for power in slow if power >= max(slow) / 1000]))
    whole = waveform[: 25 * 320]
    assert speech_power(np.concatenate([whole, 1e-4 * whole])) == pytest.approx(speech_power(whole))


def test_noise_is_gaussian_and_pink():
    noise = pink_noise(30 * SAMPLE_RATE, np.random.default_rng(0))
    frequencies, power = signal.welch(noise, SAMPLE_RATE, nperseg=4096)
    band = (frequencies > 100) & (frequencies < 7500)
    slope = np.polyfit(np.log2(frequencies[band]), decibels(power[band]), 1)[0]
    assert slope == pytest.approx(-3.01, abs=0.1)
    assert power[(frequencies > 0) & (frequencies < 30)].max() < 0.01 * power[frequencies > 55][0]
    standard = (noise - noise.mean()) / noise.std()
    assert np.mean(standard**4) == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("t60", [0.3, 0.6, 1.0])
def test_a_room_decays_as_its_t60_says_by_schroeder_s_integration(t60):
    measured = []
    for seed in range(8):
        response = impulse_response(t60, np.random.default_rng(seed))
        assert response[0] == 1
        assert np.sum(response[1:] ** 2) == pytest.approx(1)
        remaining = decibels(np.cumsum(response[::-1] ** 2)[::-1] / np.sum(response**2))
        seconds = np.arange(len(response)) / SAMPLE_RATE
        fitted = (remaining <= -5) & (remaining >= -35)  # T30 of ISO 3382
        measured.append(-60 / np.polyfit(seconds[fitted], remaining[fitted], 1)[0])
    assert np.mean(measured) == pytest.approx(t60, rel=0.02)
    assert np.ptp(measured) < 0.15 * t60


@pytest.mark.parametrize("t60", [0.3, 1.0])
def test_reverberation_keeps_the_level_and_the_moment_of_the_direct_path(t60):
    waveform = speech(2.0, level=0.05)
    made = perturb(waveform, "a", f"reverberation_{t60}")
    assert np.sum(made**2) == pytest.approx(np.sum(waveform**2), rel=1e-6)
    lags = signal.correlation_lags(len(made), len(waveform))
    assert lags[np.argmax(signal.correlate(made, waveform))] == 0
    click = np.zeros(SAMPLE_RATE)
    click[100] = 0.5
    answer = perturb(click, "a", f"reverberation_{t60}")
    assert not np.abs(answer[:100]).max() > 1e-9  # nothing before the sound
    assert np.argmax(np.abs(answer)) == 100


@pytest.mark.parametrize("highest", [4000, 2000])
def test_a_band_limit_takes_away_what_is_above_and_moves_nothing(highest):
    times = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    inner = slice(2000, -2000)
    for factor, level in ((0.7, 0.0), (0.9, -0.8), (1.0, -6.02), (1.5, -60.0)):
        tone = 0.3 * np.sin(2 * np.pi * factor * highest * times)
        made = perturb(tone, "a", f"band_limit_{highest}")
        change = decibels(np.mean(made[inner] ** 2) / np.mean(tone[inner] ** 2))
        if level <= -60:
            assert change < level
        else:
            assert change == pytest.approx(level, abs=0.6 if factor == 0.9 else 0.05)
        if factor == 0.7:
            np.testing.assert_allclose(made[inner], tone[inner], atol=1e-3)


def test_the_telephone_passes_its_band_alone_and_moves_nothing():
    times = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    inner = slice(2000, -2000)
    for hertz, lowest, highest in (
        (100, -200, -30),
        (300, -7, -5),
        (1000, -0.3, 0.3),
        (3400, -7, -5),
        (5000, -200, -40),
    ):
        tone = 0.3 * np.sin(2 * np.pi * hertz * times)
        made = perturb(tone, "a", "telephone")
        change = decibels(max(np.mean(made[inner] ** 2), 1e-12) / np.mean(tone[inner] ** 2))
        assert lowest < change < highest, hertz
        if hertz == 1000:
            np.testing.assert_allclose(made[inner], tone[inner], atol=0.02)


def g711(sample):
    """Mu-law by ITU-T G.711's segments, for one 16-bit sample: its decision values and its output."""
    magnitude = min(abs(int(sample)) // 4, 8158) + 33  # 14 bits, biased
    segment = magnitude.bit_length() - 6
    step = (magnitude >> (segment + 1)) & 15
    output = (((2 * step + 33) << segment) - 33) * 4
    return -output if sample < 0 else output


def test_mu_law_is_that_of_g_711_for_every_sample():
    samples = np.arange(-32768, 32768, 7).astype(np.int16)
    expected = [g711(sample) for sample in samples]
    np.testing.assert_array_equal(mu_law(samples), expected)
    assert len(np.unique(mu_law(np.arange(-32768, 32768).astype(np.int16)))) == 255  # two of the 256 codes mean zero
    # Table 2a of the recommendation, times 4: the outputs at both ends of the scale.
    assert mu_law(np.array([32767, 0, -32768], np.int16)).tolist() == [4 * 8031, 0, -4 * 8031]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (["noise_15"], "config.evaluation.robustness: no 'noise_15'; did you mean noise_"),
        (["reverberation"], "did you mean reverberation_"),
        (["telefone"], "did you mean telephone?"),
        (["Noise_10"], "did you mean noise_10?"),
        (["xyz"], "expected one of noise_30, noise_20"),
        (["telephone", "noise_10", "telephone"], "telephone is there twice"),
    ],
)
def test_an_unknown_condition_is_refused_in_one_line(conditions, expected):
    with pytest.raises(UserError) as error:
        require(conditions, "config.evaluation.robustness")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
    require(tuple(CONDITIONS))


@pytest.mark.parametrize(("condition", "number"), KNOWN.items())
def test_a_speaker_s_utterances_are_dealt_to_groups_of_about_so_many(condition, number):
    speakers = list(np.random.default_rng(0).permutation(["a"] * 38 + ["b"] * 7 + ["c"]))
    names = [f"utterance{i}" for i in range(len(speakers))]
    groups = known_together(names, speakers, number)
    assert all(group.startswith(f"{speaker}:") for group, speaker in zip(groups, speakers, strict=True))
    for speaker, of_speaker in (("a", 38), ("b", 7), ("c", 1)):
        sizes = np.unique([group for group in groups if group.startswith(speaker)], return_counts=True)[1]
        assert len(sizes) == max(1, round(of_speaker / number))
        assert sizes.sum() == of_speaker
        assert np.ptp(sizes) <= 1
    again = np.random.default_rng(1).permutation(len(names))  # nothing depends on the order of the table
    shuffled = known_together([names[i] for i in again], [speakers[i] for i in again], number)
    assert shuffled == [groups[i] for i in again]
