"""Histograms and functionals against NumPy, utterance by utterance; padding changes neither."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ser_jax.errors import UserError
from ser_jax.frontend import Frontend, feature_sums, features, fit_statistics, num_features, num_frames, summaries

LOG_MEL = Frontend(normalization="none", num_mels=8, hop_ms=20.0)
HISTOGRAM = dataclasses.replace(LOG_MEL, kind="histogram", histogram_bins=10, histogram_range_db=50.0)
FUNCTIONALS = dataclasses.replace(LOG_MEL, kind="functionals", deltas=1)
LENGTHS = (9000, 1, 321, 0, 4000)


@functools.partial(jax.jit, static_argnums=0)
def compute(frontend, waveform, num_samples, statistics=None):
    return features(frontend, waveform, num_samples, statistics)


@pytest.fixture(scope="module")
def batch():
    """Utterances of different lengths and levels, with rubbish behind them."""
    rng = np.random.default_rng(0)
    level = np.exp(3 * np.sin(np.arange(10_000) / 900)) * np.array([0.01, 1, 0.1, 1, 0.001])[:, None]
    waveform = rng.standard_normal((5, 10_000)) * level
    return jnp.asarray(waveform, jnp.float32), jnp.asarray(LENGTHS)


def valid_frames(frontend, batch):
    """Each utterance's own log-mel frames (and deltas), in float64."""
    x, frames = compute(dataclasses.replace(frontend, kind="log_mel"), *batch)
    return [np.asarray(row[:n], np.float64) for row, n in zip(x, frames, strict=True)]


def test_a_hard_histogram_is_numpys_of_each_band_relative_to_the_loudest_level(batch):
    found, frames = compute(HISTOGRAM, *batch)
    assert found.shape == (5, 10, 8)
    np.testing.assert_array_equal(frames, [10, 10, 10, 0, 10])
    for row, own in zip(found, valid_frames(HISTOGRAM, batch), strict=True):
        if not len(own):
            assert not np.any(row)
            continue
        level = np.maximum((own - own.max()) * 10 / np.log(10), -50)
        counts = np.stack([np.histogram(band, bins=10, range=(-50, 0))[0] for band in level.T], axis=1)
        np.testing.assert_allclose(row, counts / len(own), atol=1e-6)


@given(
    levels=st.lists(st.floats(-20, 5, width=32), min_size=1, max_size=7),
    bins=st.sampled_from([2, 7]),
    soft=st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_every_bands_shares_sum_to_one_whatever_the_levels(levels, bins, soft):
    log_mel = np.full((8, 2), 9.0, np.float32)
    log_mel[: len(levels)] = np.asarray(levels, np.float32)[:, None] * [1, 0.5]
    found = summaries.level_histogram(jnp.asarray(log_mel), jnp.asarray(len(levels)), bins, 40.0, soft)
    assert found.shape == (bins, 2)
    assert np.all(np.asarray(found) >= 0)
    np.testing.assert_allclose(np.sum(found, axis=0), 1, atol=1e-5)


def test_a_soft_histogram_shares_a_level_linearly_between_the_two_nearest_centres():
    decibels = np.array([0.0, -14.0, -20.0, -99.0])  # the peak; 2 / 5 and 3 / 5 between -20 and -10; a centre; below
    log_mel = jnp.asarray(decibels * np.log(10) / 10, jnp.float32)[:, None]
    # Bins of 10 dB: centres -35, -25, -15, -5.
    found = summaries.level_histogram(log_mel, jnp.asarray(4), 4, 40.0, True)
    np.testing.assert_allclose(4 * found[:, 0], [1, 0.5, 0.5 + 0.9, 0.1 + 1], atol=1e-5)


def test_a_histogram_does_not_change_with_the_gain_of_a_recording(batch):
    waveform, num_samples = batch
    soft = dataclasses.replace(HISTOGRAM, histogram_assignment="soft")
    louder, _ = compute(soft, waveform[:1] * 4, num_samples[:1])
    np.testing.assert_allclose(louder, compute(soft, waveform[:1], num_samples[:1])[0], atol=1e-4)


def expected_functionals(own, seconds):
    """By NumPy and SciPy, in the order of FUNCTIONALS."""
    low, *percentiles, high = np.percentile(own, (0, 5, 25, 50, 75, 95, 100), axis=0)
    slope = np.zeros(own.shape[1])
    if len(own) > 1:
        slope = np.array([stats.linregress(np.arange(len(own)) * seconds, band).slope for band in own.T])
    return np.concatenate([own.mean(0), own.std(0), *percentiles, high - low, slope])


def test_functionals_are_numpys_of_the_valid_frames_and_their_deltas(batch):
    found, frames = compute(FUNCTIONALS, *batch)
    assert found.shape == (5, 1, num_features(FUNCTIONALS)) == (5, 1, 9 * 8 * 2)
    np.testing.assert_array_equal(frames, [1, 1, 1, 0, 1])
    for row, own in zip(found[:, 0], valid_frames(FUNCTIONALS, batch), strict=True):
        expected = expected_functionals(own, 0.02) if len(own) else np.zeros(len(row))
        np.testing.assert_allclose(row, expected, rtol=1e-3, atol=2e-3)


@given(values=st.lists(st.tuples(*[st.floats(-30, 30, width=32)] * 2), min_size=1, max_size=9))
@settings(deadline=None, max_examples=40)
def test_functionals_of_any_frames_are_numpys(values):
    own = np.asarray(values, np.float32)
    padded = np.full((9, 2), np.nan, np.float32)
    padded[: len(own)] = own
    found = jax.jit(summaries.functionals, static_argnums=2)(jnp.asarray(padded), jnp.asarray(len(own)), 0.5)
    np.testing.assert_allclose(found, expected_functionals(own.astype(np.float64), 0.5), rtol=1e-4, atol=1e-4)


def test_functionals_of_no_frame_are_zeros_whatever_lies_there():
    found = jax.jit(summaries.functionals, static_argnums=2)(jnp.full((9, 2), jnp.nan), jnp.asarray(0), 0.5)
    np.testing.assert_array_equal(found, 0)


@pytest.mark.parametrize("frontend", [HISTOGRAM, FUNCTIONALS], ids=lambda frontend: frontend.kind)
@pytest.mark.parametrize("row", [0, 1, 2])
def test_padding_and_neighbours_change_no_summary(batch, frontend, row):
    waveform, num_samples = batch
    together, _ = compute(frontend, waveform, num_samples)
    alone, _ = compute(frontend, waveform[row : row + 1, : LENGTHS[row]], num_samples[row : row + 1])
    np.testing.assert_allclose(together[row], alone[0], atol=2e-3)


@pytest.mark.parametrize("kind", ["log_mel", "mfcc", "histogram", "functionals", "precomputed"])
def test_every_kind_is_normalised_by_the_training_fold_and_has_the_size_it_says(batch, kind):
    waveform, num_samples = batch
    options = {"features": "some", "dims": 3} if kind == "precomputed" else {"num_mels": 8, "num_mfcc": 6}
    frontend = Frontend(kind=kind, hop_ms=20.0, normalization="train", histogram_bins=12, **options)
    if kind == "precomputed":
        waveform, num_samples = waveform[:, :60].reshape(5, 20, 3), jnp.asarray([20, 1, 7, 0, 20])
    sums = jax.jit(feature_sums, static_argnums=0)(frontend, waveform, num_samples)
    total = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64).sum(0), sums)
    found, frames = compute(frontend, waveform, num_samples, fit_statistics(total))
    assert found.shape[2] == num_features(frontend)
    np.testing.assert_array_equal(frames, num_frames(frontend, num_samples))
    own = np.concatenate([np.asarray(row[:n]) for row, n in zip(found, frames, strict=True)])
    np.testing.assert_allclose(own.mean(0), 0, atol=5e-3)
    assert np.all(own.std(0) < 1.05)
    assert not np.any(found[3])


def test_statistics_of_no_frame_are_finite(batch):
    waveform, num_samples = batch
    sums = feature_sums(FUNCTIONALS, waveform[3:4], num_samples[3:4])
    found = fit_statistics(jax.tree.map(lambda leaf: leaf[0], sums))
    np.testing.assert_array_equal(found.mean, 0)
    assert np.all(np.isfinite(found.std)) and np.all(found.std > 0)


@pytest.mark.parametrize("kind, frames", [("histogram", 12), ("functionals", 1), ("waveform", 500)])
def test_an_utterance_without_samples_has_no_frame_of_any_kind(kind, frames):
    frontend = Frontend(kind=kind, normalization="none", histogram_bins=12)
    np.testing.assert_array_equal(num_frames(frontend, jnp.asarray([0, 500])), [0, frames])


def test_a_waveform_has_one_feature_at_the_sample_rate_and_frames_come_at_theirs():
    waveform = Frontend(kind="waveform", normalization="none", sample_rate=16_000)
    assert (num_features(waveform), waveform.rate) == (1, 16_000)
    frames = Frontend(kind="precomputed", features="some", dims=3, frame_ms=160.0, normalization="none")
    assert (num_features(frames), frames.rate, dataclasses.replace(frames, frame_ms=0.0).rate) == (3, 6.25, 0)


def test_features_made_elsewhere_pass_as_they_are_without_their_padding():
    frames = np.random.default_rng(0).standard_normal((2, 6, 9)).astype(np.float32)
    num = np.array([4, 0])
    raw = Frontend(kind="precomputed", features="some", dims=9, frame_ms=20.0, normalization="none")
    found, valid = compute(raw, jnp.asarray(frames), jnp.asarray(num))
    np.testing.assert_array_equal(valid, num)
    np.testing.assert_array_equal(found[0, :4], frames[0, :4])
    assert not np.any(found[0, 4:]) and not np.any(found[1])
    normalised, _ = compute(dataclasses.replace(raw, normalization="utterance"), jnp.asarray(frames), jnp.asarray(num))
    np.testing.assert_allclose(np.mean(normalised[0, :4], axis=0), 0, atol=1e-5)
    assert raw.rate == 50 and raw.hop == 1
    assert dataclasses.replace(raw, frame_ms=0.0).rate == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"kind": "histogram"},
            "frontend.normalization: found 'utterance', expected none, train or speaker: histogram are",
        ),
        ({"kind": "functionals"}, "frontend.normalization: found 'utterance', expected none, train or speaker"),
        ({"kind": "histogram", "normalization": "none", "deltas": 1}, "frontend.deltas: found 1, expected 0"),
        ({"kind": "precomputed", "features": "x", "deltas": 2}, "frontend.deltas: found 2, expected 0"),
        ({"kind": "precomputed"}, "frontend.features: found '', expected the name of packed features"),
        ({"kind": "waveform", "normalization": "none", "deltas": 1}, "frontend.deltas: found 1, expected 0"),
        *(
            ({"kind": "precomputed", "features": "x", "trim_db": db}, f"frontend.trim_db: found {db}, expected 0")
            for db in (20.0, -1.0)
        ),
        ({"features": "wavlm"}, "frontend.features: found 'wavlm', expected none: kind log_mel is made from waveforms"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused_in_one_line(options, message):
    with pytest.raises(UserError) as error:
        Frontend(**options)
    assert str(error.value).startswith(message)
