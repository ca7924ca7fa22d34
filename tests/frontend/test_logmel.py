import dataclasses
import functools
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax import config as configuration
from ser_jax.errors import UserError
from ser_jax.frontend import (
    FeatureSums,
    Frontend,
    Statistics,
    feature_sums,
    features,
    fit_statistics,
    logmel,
    num_features,
    num_frames,
)

RAW = Frontend(normalization="none")


@pytest.fixture(params=["transform", "product"])
def spectrum(request, monkeypatch):
    """Both ways to a spectrum: an accelerator's, and that of a CPU whose transform may wait for ever."""
    monkeypatch.setattr(logmel, "_FFT_ENDS", request.param == "transform")
    compute.clear_cache()
    yield request.param
    compute.clear_cache()


@functools.partial(jax.jit, static_argnums=0)
def compute(frontend, waveform, num_samples, statistics=None):
    return features(frontend, waveform, num_samples, statistics)


def of_one(frontend, waveform, padding=0):
    """The features of one utterance, computed with `padding` samples of rubbish behind it, as NumPy."""
    padded = np.concatenate([waveform, np.full(padding, 0.7)]).astype(np.float32)
    x, frames = compute(frontend, jnp.asarray(padded), jnp.asarray(len(waveform)))
    assert not np.any(np.asarray(x)[int(frames) :])
    return np.asarray(x)[: int(frames)]


def speech_like(num_samples, seed=0):
    """Noise whose level and colour change, with a silence in it."""
    random = np.random.default_rng(seed)
    envelope = 0.1 * np.exp(np.sin(np.arange(num_samples) / 700) * 2 - 2)
    x = envelope * np.convolve(random.standard_normal(num_samples + 4), [1, 0.9, 0.8, 0.5, 0.2])[4 : num_samples + 4]
    x[num_samples // 3 : num_samples // 2] = 0
    return x.astype(np.float32)


def assert_close(found, expected, tolerance=1e-4):
    """Within `tolerance` relative to every expected log value (or to 1, where that is near 0)."""
    assert found.shape == expected.shape
    np.testing.assert_array_less(np.abs(found - expected) / np.maximum(np.abs(expected), 1), tolerance)


@pytest.fixture(scope="module")
def references():
    with np.load(Path(__file__).parents[1] / "references" / "frontend.npz") as arrays:
        return dict(arrays)


def test_log_mel_equals_the_stored_librosa_values(references, spectrum):
    waveform = references["waveform"].astype(np.float32) / 32768
    coarse = dataclasses.replace(
        RAW,
        sample_rate=8000,
        window_ms=32.0,
        hop_ms=18.75,
        fft_size=512,
        num_mels=40,
        fmin=0.0,
        fmax=4000.0,
        mel_scale="htk",
    )
    assert_close(of_one(RAW, waveform, padding=500), references["fine"])
    assert_close(of_one(coarse, waveform, padding=500), references["coarse"])


def test_mfcc_and_deltas_equal_the_stored_librosa_values(references):
    waveform = references["waveform"].astype(np.float32) / 32768
    mfcc = of_one(dataclasses.replace(RAW, kind="mfcc"), waveform, padding=5000)
    assert_close(mfcc, references["mfcc"])
    log_mel, delta, delta_delta = np.split(
        of_one(dataclasses.replace(RAW, deltas=2), waveform, padding=5000), 3, axis=-1
    )
    assert_close(log_mel, references["fine"])
    assert_close(delta, references["delta"])
    assert_close(delta_delta, references["delta_delta"])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hop_ms": 20.0, "num_mels": 80, "fmin": 50.0, "fmax": 7600.0},
        {"sample_rate": 8000, "fmax": 4000.0, "num_mels": 40, "mel_scale": "htk"},
        {"window_ms": 20.0, "hop_ms": 30.0, "num_mels": 23, "fft_size": 1024},
        {"sample_rate": 22_050, "window_ms": 46.44, "hop_ms": 11.61, "num_mels": 128, "fmin": 0.0, "fmax": 11_025.0},
        {"sample_rate": 44_100, "window_ms": 23.0, "num_mels": 64, "fmax": 16_000.0},
    ],
    ids=str,
)
def test_log_mel_equals_librosa(options, spectrum, librosa):
    frontend = dataclasses.replace(RAW, **options)
    waveform = speech_like(7001)
    power = librosa.feature.melspectrogram(
        y=waveform,
        sr=frontend.sample_rate,
        n_fft=frontend.fft,
        win_length=frontend.window,
        hop_length=frontend.hop,
        n_mels=frontend.num_mels,
        fmin=frontend.fmin,
        fmax=frontend.fmax,
        htk=frontend.mel_scale == "htk",
        pad_mode="constant",
    )
    assert_close(of_one(frontend, waveform, padding=333), np.log(np.maximum(power, frontend.log_floor)).T)


def test_deltas_equal_librosa_where_the_utterance_is_shorter_than_their_width(librosa):
    found = np.split(of_one(dataclasses.replace(RAW, deltas=2), speech_like(500), padding=3000), 3, axis=-1)
    for order in (1, 2):
        expected = librosa.feature.delta(found[0].T, order=order, mode="nearest").T
        assert_close(found[order], expected)


def float64_log_mel(waveform):
    """The default log-mel by NumPy, in float64."""
    window, hop, fft = RAW.window, RAW.hop, RAW.fft
    padded = np.pad(waveform.astype(np.float64), fft // 2)
    hann = np.pad(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window), (fft - window) // 2)
    frames = np.stack([padded[t * hop :][:fft] * hann for t in range(1 + len(waveform) // hop)])
    power = np.abs(np.fft.rfft(frames)) ** 2
    return np.log(np.maximum(power @ logmel.mel_filters(RAW).astype(np.float64), RAW.log_floor))


def matmul_of_an_accelerator(x, y, precision=None):
    """A product whose factors have as many bits as an accelerator gives them at a precision: 24, 11 (TF32) or 8."""
    bits = {"highest": 24, jax.lax.Precision.HIGH: 11}.get(precision, 8)
    x, y = (jax.lax.reduce_precision(jnp.asarray(factor), exponent_bits=8, mantissa_bits=bits - 1) for factor in (x, y))
    return jnp.matmul(x, y, precision="highest")


def test_log_mel_keeps_quiet_bands_beside_loud_ones(spectrum, monkeypatch):
    """Against float64: a tone at full scale, and ten thousand times softer noise that other bands hold."""
    time = np.arange(16_000) / 16_000
    waveform = 0.9 * np.sin(2 * np.pi * 300 * time) + 1e-4 * np.random.default_rng(0).standard_normal(16_000)
    waveform = waveform.astype(np.float32)
    found, expected = of_one(RAW, waveform), float64_log_mel(waveform)
    assert np.ptp(expected[50]) > 14  # nepers between the loudest and the softest band
    np.testing.assert_allclose(found, expected, atol=0.02)
    # With the bits that an accelerator gives to what is asked for.
    monkeypatch.setattr(logmel, "jnp", types.SimpleNamespace(**{**vars(jnp), "matmul": matmul_of_an_accelerator}))
    compute.clear_cache()
    np.testing.assert_allclose(of_one(RAW, waveform), found, atol=1e-3)


@pytest.mark.parametrize("normalization", ["none", "utterance"])
@pytest.mark.parametrize("num_samples", [1, 160, 1000])
def test_padding_and_what_lies_in_it_change_no_valid_frame(normalization, num_samples):
    frontend = Frontend(deltas=1, normalization=normalization)
    waveform = speech_like(1000)[:num_samples]
    alone, padded = of_one(frontend, waveform), of_one(frontend, waveform, padding=2000 - num_samples)
    assert alone.shape == (1 + num_samples // 160, num_features(frontend))
    np.testing.assert_allclose(padded, alone, atol=2e-4)


def test_no_sample_gives_no_frame_even_beside_nan():
    x, frames = compute(Frontend(deltas=2), jnp.full((2, 1000), jnp.nan), jnp.asarray([0, 0]))
    np.testing.assert_array_equal(frames, [0, 0])
    np.testing.assert_array_equal(x, 0)


@pytest.mark.parametrize("normalization", ["none", "utterance"])
def test_silence_is_finite_and_constant(normalization):
    found = of_one(Frontend(normalization=normalization, deltas=1), np.zeros(4000, np.float32))
    log_mel, delta = np.split(found, 2, axis=-1)
    np.testing.assert_allclose(log_mel, np.log(1e-10) if normalization == "none" else 0, atol=1e-2)
    np.testing.assert_allclose(delta, 0, atol=1e-2)


def test_every_sample_counts_where_the_hop_is_at_most_half_the_window():
    impulses = 0.5 * np.eye(500, dtype=np.float32)
    waveform = jnp.asarray(impulses)
    x, _ = compute(RAW, waveform, jnp.full(500, 500))
    silence = of_one(RAW, np.zeros(500, np.float32))
    assert np.all(np.any(np.asarray(x) > silence[None] + 1, axis=(1, 2)))


def test_utterance_normalization_gives_mean_0_and_variance_1_over_valid_frames():
    found = of_one(Frontend(), speech_like(16_000), padding=8000)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(found.std(axis=0), 1, atol=1e-3)


def test_utterance_normalization_of_a_constant_is_0_and_not_the_rounding_of_its_mean():
    silence = jnp.full((100, 101, 2), np.log(RAW.log_floor), jnp.float32)
    frontend = Frontend(kind="precomputed", features="silence", dims=2, frame_ms=10.0)
    assert not compute(frontend, silence, jnp.arange(1, 101))[0].any()


def test_train_statistics_are_those_of_all_valid_frames_of_all_batches():
    waveforms = [speech_like(length, seed) * (seed + 1) for seed, length in enumerate((3000, 777, 0, 2500))]
    batch = jnp.asarray(np.stack([np.pad(w, (0, 3500 - len(w)), constant_values=0.3) for w in waveforms]))
    num_samples = jnp.asarray([len(w) for w in waveforms])
    frontend = Frontend(normalization="train", num_mels=16)
    sums = jax.jit(feature_sums, static_argnums=0)
    halves = [sums(frontend, batch[half], num_samples[half]) for half in (slice(0, 2), slice(2, 4))]
    total = FeatureSums(
        *(
            sum(np.asarray(getattr(half, field), np.float64).sum(axis=0) for half in halves)
            for field in ("count", "total", "squares")
        )
    )
    statistics = fit_statistics(total)
    raw = [of_one(dataclasses.replace(frontend, normalization="none"), w) for w in waveforms if len(w)]
    np.testing.assert_allclose(statistics.mean, np.concatenate(raw).mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(statistics.std, np.concatenate(raw).std(axis=0), rtol=1e-3)

    x, frames = compute(frontend, batch, num_samples, statistics)
    valid = np.concatenate([np.asarray(row)[:n] for row, n in zip(x, frames, strict=True)])
    np.testing.assert_allclose(valid.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(valid.std(axis=0), 1, atol=1e-2)
    assert not np.any(np.asarray(x)[2])
    assert not np.any(np.asarray(x)[1, int(frames[1]) :])


def test_works_under_vmap_over_runs_and_inside_scan():
    frontend = Frontend(normalization="train", num_mels=8, deltas=1)
    waveform = jnp.asarray(np.stack([speech_like(1200, seed) for seed in range(6)]).reshape(3, 2, 1200))
    num_samples = jnp.asarray([[1200, 900], [1000, 1], [0, 700]])
    statistics = Statistics(jnp.ones((3, 16)) * jnp.arange(3.0)[:, None], jnp.ones((3, 16)))
    inputs = (waveform, num_samples, statistics)
    apply = functools.partial(compute, frontend)
    stacked = jax.jit(jax.vmap(apply))(*inputs)
    _, scanned = jax.jit(lambda: jax.lax.scan(lambda carry, row: (carry, apply(*row)), None, inputs))()
    for run in range(3):
        one = apply(waveform[run], num_samples[run], jax.tree.map(lambda leaf, run=run: leaf[run], statistics))
        for found in (stacked, scanned):
            np.testing.assert_allclose(found[0][run], one[0], atol=1e-5)
            np.testing.assert_array_equal(found[1][run], one[1])


def test_a_frontend_without_options_is_that_of_a_configuration_without_options():
    options = configuration.default()["frontend"]
    assert {name: getattr(Frontend(), name) for name in options} == options


def test_the_least_and_the_most_that_a_frontend_may_be_set_to():
    found = Frontend(hop_ms=1000 / 16_000, window_ms=2000 / 16_000, fft_size=2, fmin=0.0, fmax=8000.0)
    assert (found.hop, found.window, found.fft) == (1, 2, 2)
    for number in (1, 64):
        assert num_features(Frontend(kind="mfcc", num_mfcc=number)) == number


@pytest.mark.parametrize("normalization", ["none", "utterance", "train", "speaker"])
def test_statistics_are_given_where_they_are_used_and_nowhere_else(normalization):
    given = None if normalization in ("train", "speaker") else Statistics(jnp.zeros(64), jnp.ones(64))
    with pytest.raises(ValueError, match=f"normalization '{normalization}' with statistics"):
        features(Frontend(normalization=normalization), jnp.zeros(800), jnp.asarray(800), given)


def test_a_variance_that_rounding_makes_negative_is_none():
    found = fit_statistics(FeatureSums(4, np.array([4000.0]), np.array([4e6 - 1e-3])))
    np.testing.assert_allclose(found.mean, 1000)
    np.testing.assert_allclose(found.std, np.sqrt(1e-5), rtol=1e-6)


@pytest.mark.parametrize(("version", "ends"), [("0.4.38", True), ("0.10.9", True), ("0.11.0", False), ("1.0.0", False)])
def test_from_which_jaxlib_on_a_transform_may_wait_for_ever(version, ends):
    assert logmel._transform_ends(version) == ends


@given(num_samples=st.integers(0, 100_000), hop_ms=st.sampled_from([5.0, 10.0, 12.5, 20.0]))
@settings(deadline=None, max_examples=30)
def test_frame_counts_agree_for_numbers_numpy_and_jax(num_samples, hop_ms):
    frontend = dataclasses.replace(RAW, hop_ms=hop_ms)
    expected = 1 + num_samples // frontend.hop if num_samples else 0
    assert num_frames(frontend, num_samples) == expected
    assert num_frames(frontend, np.asarray(num_samples)) == expected
    assert num_frames(frontend, jnp.asarray(num_samples)) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fmax": 9000.0}, "frontend.fmax: found 9000.0, expected at most 8000 Hz"),
        ({"fmin": 8000.0}, "frontend.fmin: found 8000.0, expected from 0 to below fmax, 8000 Hz"),
        ({"fft_size": 256}, "frontend.fft_size: found 256, expected at least 400"),
        ({"hop_ms": 0.0}, "frontend.hop_ms: found 0.0, expected at least one sample"),
        ({"window_ms": 0.0}, "frontend.window_ms: found 0.0, expected at least two samples"),
        ({"kind": "mfcc", "num_mfcc": 65}, "frontend.num_mfcc: found 65, expected 1 to num_mels, 64"),
        ({"kind": "mfcc", "num_mfcc": 0}, "frontend.num_mfcc: found 0, expected 1 to num_mels, 64"),
        ({"fmin": -1.0}, "frontend.fmin: found -1.0, expected from 0 to below fmax, 8000 Hz"),
        ({"sample_rate": 0}, "frontend.sample_rate: found 0, expected a positive rate in Hz"),
        ({"sample_rate": -8000}, "frontend.sample_rate: found -8000, expected a positive rate in Hz"),
        ({"window_ms": 0.07}, "frontend.window_ms: found 0.07, expected at least two samples"),
        ({"log_floor": -1e-9}, "frontend.log_floor: found -1e-09, expected a positive power"),
        ({"log_floor": 0.0}, "frontend.log_floor: found 0.0, expected a positive power"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused_in_one_line(options, message):
    with pytest.raises(UserError) as error:
        Frontend(**options)
    assert str(error.value) == message
