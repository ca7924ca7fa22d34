import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax.corpora.corpus import SAMPLE_RATE
from ser_jax.errors import UserError
from ser_jax.frontend import (
    Frontend,
    Strengths,
    augment,
    augment_features,
    augment_waveform,
    check_augmentation,
    mixup,
    place_crop,
    read_crop,
)
from ser_jax.frontend.augment import OF_FEATURES, OF_WAVEFORMS

DRAWS = 2000
FULL = {"time_shift": 0.02, "gain": 6.0, "noise": 1.0, "vocal_tract": 0.2, "spec_augment": 1.0, "mixup": 1.0}


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def drawn(function, *arguments, count=DRAWS):
    """The results of `count` keys, stacked, as NumPy."""
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(lambda key: function(key, *arguments)))(keys(count)))


def noise(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape, scale=0.1).astype(np.float32))


def assert_uniform(values, low, high):
    """The values fill [low, high] evenly: a Kolmogorov-Smirnov distance of 1.95 / sqrt(n) has a p of 0.001."""
    values = np.sort(np.asarray(values, np.float64))
    expected = (values - low) / (high - low)
    assert expected[0] >= -1e-3
    assert expected[-1] <= 1 + 1e-3
    assert np.max(np.abs(expected - np.linspace(0, 1, len(values)))) < 1.95 / np.sqrt(len(values))


# Crops and speed


def take_crop(samples, start, num_samples, crop_samples, key, speed):
    place = place_crop(num_samples, crop_samples, key, speed)
    return read_crop(samples, start, num_samples, crop_samples, *place)


@functools.partial(jax.jit, static_argnums=2)
def crop_one(samples, utterance, crop_samples, key, speed):
    return take_crop(samples, utterance[0], utterance[1], crop_samples, key, speed)


def ramp_corpus():
    """Three utterances of 100, 1 and 500 samples, whose samples are their own places, between loud neighbours."""
    samples = np.full(1103, 30_000, np.int16)
    starts, lengths = np.array([1, 101, 103]), np.array([100, 1, 500])
    for start, length in zip(starts, lengths, strict=True):
        samples[start : start + length] = np.arange(length)
    return jnp.asarray(samples), jnp.asarray(starts), jnp.asarray(lengths)


def test_crops_without_speed_are_exact_and_start_anywhere_with_equal_chance():
    samples, starts, lengths = ramp_corpus()
    waveform, valid = drawn(lambda key: take_crop(samples, starts[2], lengths[2], 300, key, 0.0))
    first = waveform[:, 0] * 32768
    np.testing.assert_array_equal(waveform * 32768, first[:, None] + np.arange(300))
    np.testing.assert_array_equal(valid, 300)
    assert (first.min(), first.max()) == (0, 200)
    assert_uniform(first + np.random.default_rng(0).uniform(size=DRAWS), 0, 201)


@pytest.mark.parametrize("crop_samples", [100, 101, 450])
def test_an_utterance_no_longer_than_the_crop_comes_whole_with_zeros_after_it(crop_samples):
    samples, starts, lengths = ramp_corpus()
    waveform, valid = crop_one(samples, (starts[0], lengths[0]), crop_samples, jax.random.key(1), 0.0)
    np.testing.assert_array_equal(np.asarray(waveform) * 32768, np.pad(np.arange(100), (0, crop_samples - 100)))
    assert valid == 100


@pytest.mark.parametrize("speed", [None, 0.0])
def test_a_crop_as_long_as_the_last_utterance_reads_up_to_the_end_of_the_corpus(speed):
    samples, starts, lengths = ramp_corpus()
    waveform, valid = crop_one(samples[:603], (starts[2], lengths[2]), 500, jax.random.key(1), speed)
    np.testing.assert_array_equal(np.asarray(waveform) * 32768, np.arange(500))
    assert valid == 500


def test_no_sample_gives_an_empty_crop():
    samples, starts, _ = ramp_corpus()
    waveform, valid = crop_one(samples, (starts[0], jnp.asarray(0)), 50, jax.random.key(1), 0.3)
    assert not np.any(waveform)
    assert valid == 0


@given(st.integers(0, 2), st.sampled_from([60, 200, 490]), st.integers(0, 1000), st.floats(0, 1, width=32))
@settings(deadline=None, max_examples=60)
def test_speed_plays_the_utterance_and_nothing_else_at_a_rate_within_its_bounds(utterance, crop_samples, seed, speed):
    samples, starts, lengths = ramp_corpus()
    length = int(lengths[utterance])
    waveform, valid = crop_one(
        samples, (starts[utterance], lengths[utterance]), crop_samples, jax.random.key(seed), jnp.float32(speed)
    )
    waveform, valid = np.asarray(waveform) * 32768, int(valid)
    assert valid >= 1
    assert not np.any(waveform[valid:])
    assert np.all((waveform >= 0) & (waveform <= length - 1))
    steps = np.diff(waveform[:valid])
    if len(steps):
        np.testing.assert_allclose(steps, steps[0], atol=1e-3)
        assert 1 / (1 + speed) - 1e-3 <= steps[0] <= 1 + speed + 1e-3
        if valid < crop_samples:  # it ended because the utterance did
            assert waveform[valid - 1] + steps[0] > length - 1 - 1e-3


def test_speed_factors_are_log_uniform():
    samples = jnp.arange(3000, dtype=jnp.int16)
    waveform, _ = drawn(lambda key: take_crop(samples, jnp.asarray(0), jnp.asarray(3000), 1000, key, 0.25))
    factors = (waveform[:, -1] - waveform[:, 0]) * 32768 / 999
    assert_uniform(np.log(factors), -np.log(1.25), np.log(1.25))


def test_long_crops_are_interpolated_to_a_small_fraction_of_a_sample():
    period, length = 40, 400_000
    tone = 20_000 * np.sin(2 * np.pi * np.arange(length) / period)
    samples = jnp.asarray(np.round(tone).astype(np.int16))
    waveform, valid = crop_one(samples, (jnp.asarray(0), jnp.asarray(length)), 320_000, jax.random.key(3), 0.1)
    assert valid == 320_000
    spectrum = np.abs(np.fft.rfft(np.asarray(waveform) * np.hanning(320_000)))
    peak = spectrum.argmax()
    rest = np.concatenate([spectrum[: peak - 10], spectrum[peak + 11 :]])
    assert np.sqrt(np.sum(rest**2)) < 0.01 * spectrum[peak]


# Waveforms


def test_time_shift_rolls_the_valid_samples_by_up_to_its_strength():
    waveform = jnp.pad(jnp.arange(1.0, 2001), (0, 500))
    shifted = drawn(augment.time_shift, waveform, jnp.asarray(2000), 800 / SAMPLE_RATE)
    shifts = (1 - shifted[:, 0] + 1000) % 2000 - 1000
    assert_uniform(shifts + np.random.default_rng(0).uniform(-0.5, 0.5, DRAWS), -800.5, 800.5)
    for row, shift in zip(shifted[:50], shifts[:50].astype(int), strict=True):
        np.testing.assert_array_equal(row[:2000], np.roll(np.arange(1.0, 2001), shift))
    assert not np.any(shifted[:, 2000:])


@pytest.mark.parametrize("num_samples", [0, 1, 2, 30])
def test_a_shift_beyond_the_utterance_still_permutes_its_samples(num_samples):
    waveform = jnp.where(jnp.arange(40) < num_samples, jnp.arange(1.0, 41), 0)
    for row in drawn(augment.time_shift, waveform, jnp.asarray(num_samples), 5.0, count=50):
        np.testing.assert_array_equal(np.sort(row[:num_samples]), np.arange(1.0, num_samples + 1))
        assert not np.any(row[num_samples:])


def test_gain_is_uniform_in_decibels():
    levels = drawn(augment.gain, jnp.ones(1), 6.0)[:, 0]
    assert_uniform(20 * np.log10(levels), -6, 6)


@pytest.mark.parametrize("valid", [3000, 1])
def test_noise_has_the_drawn_ratio_over_the_valid_samples_and_none_beyond(valid):
    waveform, num_samples = jnp.pad(noise(3000)[:valid], (0, 4000 - valid)), jnp.asarray(valid)
    added = drawn(augment.additive_noise, waveform, num_samples, 1.0) - np.asarray(waveform)
    assert not np.any(added[:, valid:])
    ratios = 10 * np.log10(np.sum(np.square(waveform)) / np.sum(np.square(added), axis=1))
    assert_uniform(ratios, 5, 30)


def test_noise_is_added_as_often_as_its_strength_says():
    waveform = noise(500)
    changed = np.any(drawn(augment.additive_noise, waveform, jnp.asarray(500), 0.3) != np.asarray(waveform), axis=1)
    assert abs(changed.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / DRAWS)


def test_noise_lies_between_white_and_pink_and_differs_between_keys():
    waveform = noise(4096)
    added = drawn(augment.additive_noise, waveform, jnp.asarray(4096), 1.0, count=200) - np.asarray(waveform)
    power = np.square(np.abs(np.fft.rfft(added)))
    octaves = np.stack([power[:, 2**k : 2 ** (k + 1)].mean(axis=1) for k in range(3, 11)], axis=1)
    slopes = np.polyfit(np.arange(8), 10 * np.log10(octaves).T, 1)[0]  # dB per octave: white 0, pink -3
    assert slopes.max() < 0.7
    assert slopes.min() > -3.7
    assert slopes.max() - slopes.min() > 1.5
    assert np.abs(np.mean(added.mean(axis=1) / added.std(axis=1))) < 0.15  # pink noise drifts, to either side
    assert np.abs(np.corrcoef(added[:20]) - np.eye(20)).max() < 0.5


def test_white_noise_and_pink_noise_have_nothing_to_do_with_one_another():
    white, pink = augment._noise_table(1000)
    assert abs(np.corrcoef(white, pink)[0, 1]) < 0.01


def test_augmentations_from_outside_follow_in_the_order_of_their_names(tmp_path, monkeypatch):
    (tmp_path / "own_augmentations.py").write_text(
        "def add(key, waveform, num_samples, strength):\n    return waveform + strength\n\n\n"
        "def times(key, waveform, num_samples, strength):\n    return waveform * (1 + strength)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    custom = {"own_augmentations:times": 0.5, "own_augmentations:add": 2.0}
    waveform = noise(50)
    found = augment.augment_waveform(jax.random.key(0), waveform, jnp.asarray(50), Strengths(custom=custom))
    np.testing.assert_allclose(found, 1.5 * (waveform + 2), rtol=1e-5)


def test_noise_in_silence_is_silence():
    assert not np.any(drawn(augment.additive_noise, jnp.zeros(100), jnp.asarray(100), 1.0, count=5))


# Features


def test_spec_augment_masks_whole_bands_and_valid_frames_and_as_many_as_its_strength_allows():
    frames, valid, bands = 100, 60, 40
    kept = drawn(augment.spec_augment, jnp.ones((frames, 2, bands)), jnp.asarray(valid), 0.5)
    np.testing.assert_array_equal(kept[:, :, 0], kept[:, :, 1])
    kept_frames, kept_bands = kept[:, :, 0].any(axis=2), kept[:, :, 0].any(axis=1)
    np.testing.assert_array_equal(kept[:, :, 0], kept_frames[:, :, None] & kept_bands[:, None, :])
    assert np.all(kept_frames[:, valid:])
    masked_frames, masked_bands = (~kept_frames).sum(axis=1), (~kept_bands).sum(axis=1)
    assert masked_frames.max() == 2 * 6  # a fifth of 60, halved
    assert masked_bands.max() == 2 * 5  # a quarter of 40, halved
    assert masked_frames.min() == masked_bands.min() == 0
    assert np.all(np.any(~kept_frames[:, :valid], axis=0))
    assert np.all(np.any(~kept_bands, axis=0))


def test_a_mask_has_each_width_and_each_place_with_equal_chance():
    draws = jax.random.uniform(jax.random.key(0), (DRAWS, 1, 2))
    masked = np.asarray(jax.vmap(lambda draw: augment._stretches(draw, 50, jnp.asarray(30), 0.3))(draws))
    widths = masked.sum(axis=1)
    jitter = np.random.default_rng(0).uniform(size=(2, DRAWS))
    assert_uniform(widths + jitter[0], 0, 10)
    starts = masked.argmax(axis=1)[widths > 0]
    assert_uniform((starts + jitter[1, widths > 0]) / (31 - widths[widths > 0]), 0, 1)


def test_vocal_tract_length_moves_a_peak_by_a_log_uniform_factor():
    bands = np.arange(64)
    peak = np.maximum(0, 1 - np.abs(bands - 30) / 12).astype(np.float32)
    warped = drawn(augment.vocal_tract_length, jnp.asarray(peak)[None, None, :], 0.2)[:, 0, 0]
    centres = np.sum(warped * bands, axis=1) / np.sum(warped, axis=1)
    assert_uniform(np.log(30 / centres), -np.log(1.2) - 2e-3, np.log(1.2) + 2e-3)


@pytest.mark.parametrize("deltas", [1, 2])
def test_deltas_are_warped_and_masked_as_the_features_that_they_belong_to(deltas):
    log_mel = noise(30, 16)
    factors = (1, 2, -1)[: 1 + deltas]
    stacked = jnp.concatenate([factor * log_mel for factor in factors], axis=-1)
    found = drawn(augment_features, stacked, jnp.asarray(30), Strengths(**FULL), deltas, count=20)
    for number, factor in enumerate(factors):
        own = found[..., 16 * number : 16 * (number + 1)]
        np.testing.assert_allclose(own, factor * found[..., :16], atol=1e-6)


# Mixup


@pytest.fixture(scope="module")
def mixtures():
    """A batch of six, the last of them padding, and what DRAWS keys make of it: features, frame counts and targets."""
    features = jnp.asarray(np.random.default_rng(0).normal(size=(6, 8, 4)).astype(np.float32))
    num_frames, weight = jnp.asarray([8, 5, 7, 3, 8, 0]), jnp.asarray([1.0, 1, 1, 1, 1, 0])
    return features, num_frames, *drawn(lambda key: mixup(key, features, num_frames, jnp.eye(6), weight, 1.0))


def test_mixup_mixes_features_and_targets_in_the_same_shares_and_keeps_the_longer_length(mixtures):
    features, num_frames, mixed, frames, soft = mixtures
    np.testing.assert_allclose(mixed, np.einsum("krs,sft->krft", soft, features), atol=1e-5)
    np.testing.assert_allclose(soft.sum(axis=2), 1, atol=1e-6)
    assert soft[:, np.arange(6), np.arange(6)].min() >= 0.5 - 1e-6
    longest = np.max(np.where(soft > 0, np.asarray(num_frames)[None, None, :], 0), axis=2)
    np.testing.assert_array_equal(frames, longest)


def test_mixup_leaves_padding_rows_alone(mixtures):
    features, _, mixed, frames, soft = mixtures
    np.testing.assert_array_equal(mixed[:, 5], np.broadcast_to(features[5], (DRAWS, 8, 4)))
    np.testing.assert_array_equal(soft[:, :5, 5], 0)
    assert not np.any(frames[:, 5])


def test_mixup_shares_follow_the_folded_arcsine_distribution(mixtures):
    shares = 1 - mixtures[-1][:, 0, 0].astype(np.float64)
    assert_uniform(2 * scipy.stats.beta(0.5, 0.5).cdf(shares[shares > 0]), 0, 1)


# All of them


augment_waveforms = jax.jit(jax.vmap(augment_waveform, in_axes=(0, 0, 0, None)))
augment_feature_rows = jax.jit(jax.vmap(functools.partial(augment_features, deltas=0), in_axes=(0, 0, 0, None)))


@jax.jit
def apply_all(key, waveform, num_samples, features, num_frames, strengths):
    """Every augmentation but the crop, of a batch of three."""
    row_keys = jax.random.split(key, 3)
    waveform = augment_waveforms(row_keys, waveform, num_samples, strengths)
    features = augment_feature_rows(row_keys, features, num_frames, strengths)
    return waveform, *mixup(key, features, num_frames, jnp.eye(3), jnp.ones(3), strengths.mixup)


def traced(**strengths):
    """Strengths as arrays, as in training: whether one is zero is not known when compiling."""
    return jax.tree.map(jnp.float32, Strengths(**strengths))


def batch_of_three():
    num_samples, num_frames = jnp.asarray([900, 500, 0]), jnp.asarray([20, 11, 0])
    waveform = jnp.where(jnp.arange(900)[None] < num_samples[:, None], noise(3, 900), 0)
    features = jnp.where(jnp.arange(20)[None, :, None] < num_frames[:, None, None], noise(3, 20, 16), 0)
    return waveform, num_samples, features, num_frames


def test_all_are_exactly_off_unless_set():
    assert not any(jax.tree.leaves(Strengths()))
    waveform, num_samples, features, num_frames = batch_of_three()
    found = apply_all(jax.random.key(0), waveform, num_samples, features, num_frames, traced())
    for found_array, expected in zip(found, (waveform, features, num_frames, jnp.eye(3)), strict=True):
        np.testing.assert_array_equal(found_array, expected)


def test_strengths_may_differ_along_a_run_axis_and_runs_do_not_touch_each_other():
    batch = batch_of_three()
    strengths = jax.tree.map(lambda full: jnp.asarray([0.0, 0.5 * full, full]), traced(**FULL))
    over_runs = jax.jit(jax.vmap(apply_all, in_axes=(None, None, None, None, None, 0)))
    stacked = over_runs(jax.random.key(0), *batch, strengths)
    for run in range(3):
        one = apply_all(jax.random.key(0), *batch, jax.tree.map(lambda leaf, run=run: leaf[run], strengths))
        for found, expected in zip(stacked, one, strict=True):
            np.testing.assert_allclose(found[run], expected, atol=1e-5)


def test_padding_stays_zero_and_the_same_key_gives_the_same_result():
    waveform, num_samples, features, num_frames = batch_of_three()
    for function, x, valid in (
        (augment_waveforms, waveform, num_samples),
        (augment_feature_rows, features, num_frames),
    ):
        first, again, other = (np.asarray(function(keys(3, seed), x, valid, traced(**FULL))) for seed in (0, 0, 1))
        np.testing.assert_array_equal(first, again)
        assert np.any(first != other)
        assert np.any(first != np.asarray(x))
        for row, end in zip(first, valid, strict=True):
            assert not np.any(row[int(end) :])


def test_an_utterance_is_augmented_alike_whatever_lies_beside_it():
    waveform, num_samples, features, num_frames = batch_of_three()
    for function, x, valid in (
        (augment_waveforms, waveform, num_samples),
        (augment_feature_rows, features, num_frames),
    ):
        found = function(keys(3), x, valid, traced(**FULL))
        beside_others = function(
            jnp.stack([keys(3)[0], *keys(2, 7)]), x.at[1:].set(0.3), valid.at[1:].set(1), traced(**FULL)
        )
        np.testing.assert_allclose(found[0], beside_others[0], atol=1e-6)


def test_switching_one_on_changes_the_draws_of_no_other():
    num_samples = jnp.full(3, 900)
    constant = jnp.ones((3, 900))  # a shift leaves it as it is
    ramp = jnp.broadcast_to(jnp.arange(900.0), (3, 900))

    def augmented(x, **strengths):
        return np.asarray(augment_waveforms(keys(3), x, num_samples, traced(**strengths)))

    level = augmented(constant, gain=6.0)
    np.testing.assert_array_equal(augmented(constant, gain=6.0, time_shift=0.01), level)
    shifted = augmented(ramp, time_shift=0.01)
    np.testing.assert_allclose(augmented(ramp, gain=6.0, time_shift=0.01), shifted * level, rtol=1e-5)
    noisy = augmented(constant, noise=1.0)
    np.testing.assert_allclose(augmented(constant, noise=1.0, gain=6.0, time_shift=0.01), noisy * level, rtol=1e-5)


# What has no meaning for a kind of features


RAW = {"normalization": "none"}
KINDS = {kind: Frontend(kind=kind, **RAW) for kind in ("log_mel", "mfcc", "histogram", "functionals")}
KINDS["precomputed"] = Frontend(kind="precomputed", features="wavlm", **RAW)


def test_what_one_augmentation_draws_has_nothing_to_do_with_what_another_draws():
    click = jnp.zeros(1000).at[500].set(1.0)
    ramp, flat = jnp.broadcast_to(jnp.arange(40.0), (50, 40)), jnp.ones((50, 40))

    def draws(both):
        key, features_key = jax.random.split(both)

        def heard(strengths, features):
            return augment_features(features_key, features, jnp.int32(50), Strengths(**strengths), 0)

        waveform = augment_waveform(key, click, jnp.int32(1000), Strengths(time_shift=0.02, gain=6.0))
        warped, masked = heard({"vocal_tract": 0.2}, ramp), heard({"spec_augment": 1.0}, flat)
        noisy, some = (augment_waveform(key, click, jnp.int32(1000), Strengths(noise=p)) - click for p in (1.0, 0.5))
        white = jnp.mean(jnp.square(jnp.diff(noisy))) / jnp.mean(jnp.square(noisy))
        widths = (masked.max(axis=0) == 0).sum(), (masked.max(axis=1) == 0).sum()
        of_noise = jnp.log(jnp.std(noisy)), white, jnp.any(some != 0)
        return jnp.argmax(waveform), jnp.max(waveform), *of_noise, warped[0, 1], *widths

    found = np.stack([one.astype(float) for one in drawn(draws, count=1000)])
    assert np.max(np.abs(np.corrcoef(found) - np.eye(len(found)))) < 0.12


@pytest.mark.parametrize(
    ("kind", "refused"),
    [
        ("log_mel", ()),
        ("mfcc", ("vocal_tract", "spec_augment")),
        ("histogram", ("vocal_tract", "spec_augment")),
        ("functionals", ("vocal_tract", "spec_augment")),
        ("precomputed", ("speed", "time_shift", "gain", "noise", "vocal_tract")),
    ],
)
def test_augmentation_without_meaning_for_a_kind_is_refused_and_any_other_is_not(kind, refused):
    off = dict.fromkeys((field.name for field in dataclasses.fields(Strengths)), 0.0) | {"custom": {}}
    for name in set(off) - {"custom"}:
        if name in refused:
            with pytest.raises(UserError) as error:
                check_augmentation(KINDS[kind], off | {name: 0.5})
            message = (
                f"config.augmentation.{name}: found 0.5, expected 0: it has no meaning for features of kind {kind}"
            )
            assert str(error.value).startswith(message)
        else:
            check_augmentation(KINDS[kind], off | {name: 0.5})


def added(key, waveform, num_samples, strength):
    """An augmentation from outside."""
    return waveform + strength


def test_augmentations_from_outside_are_of_waveforms():
    name = f"{__name__}:added"
    off = dict.fromkeys((field.name for field in dataclasses.fields(Strengths)), 0.0)
    for strength, kind in ((0.5, "log_mel"), (0.0, "precomputed")):
        check_augmentation(KINDS[kind], off | {"custom": {name: strength}})
    with pytest.raises(UserError, match=rf"config\.augmentation\.{name}: found 0\.5, expected 0: it has no meaning"):
        check_augmentation(KINDS["precomputed"], off | {"custom": {name: 0.5}})


def test_features_made_elsewhere_are_masked_but_not_warped():
    x = noise(20, 12) + 1
    strengths = Strengths(vocal_tract=0.5, spec_augment=1.0)
    augmented = drawn(lambda key: augment_features(key, x, jnp.asarray(15), strengths, 0, kind="precomputed"), count=20)
    assert np.all((augmented == 0) | (augmented == np.asarray(x)))
    assert np.any(augmented == 0)


# Crops of frames


def test_crops_of_frames_are_exact_start_anywhere_with_equal_chance_and_end_with_the_utterance():
    frames = np.stack([np.arange(60.0), -np.arange(60.0)], axis=1).astype(np.float16)
    take = jax.jit(jax.vmap(take_crop, in_axes=(None, None, None, None, 0, None)), static_argnums=3)
    for start, length in ((7, 50), (20, 3), (4, 0)):
        crops, valid = jax.tree.map(
            np.asarray, take(jnp.asarray(frames), jnp.asarray(start), jnp.asarray(length), 10, keys(DRAWS), None)
        )
        assert crops.dtype == np.float32
        assert set(valid) == {min(length, 10)}
        for crop in crops[:50]:
            first = round(float(crop[0, 0]))
            np.testing.assert_array_equal(crop[: valid[0]], frames[first : first + valid[0]])
            assert not crop[valid[0] :].any()
        if length == 50:
            assert set(crops[:, 0, 0]) == set(range(7, 48))
        elif length == 3:
            assert set(crops[:, 0, 0]) == {20.0}


# What no run uses -----------------------------------------------------------------------------------------------------


def equations(function, *arguments):
    return len(jax.make_jaxpr(function)(*arguments).eqns)


def test_augmentations_that_no_run_uses_leave_no_trace_and_change_nothing_of_the_others():
    key, waveform, length = jax.random.key(0), jnp.linspace(-0.5, 0.5, 3200), jnp.int32(3000)
    waveform = jnp.where(jnp.arange(3200) < length, waveform, 0.0)
    bands, frames = jax.random.normal(jax.random.key(1), (20, 16)), jnp.int32(18)
    only_gain, only_masks = traced(gain=6.0), traced(spec_augment=0.9)

    def of_waveform(active, strengths=only_gain):
        return augment_waveform(key, waveform, length, strengths, active)

    def of_features(active, strengths=only_masks):
        return augment_features(key, bands, frames, strengths, 0, active=active)

    np.testing.assert_allclose(of_waveform(frozenset({"gain"})), of_waveform(OF_WAVEFORMS), atol=1e-7)
    masked = of_features(frozenset({"spec_augment"}))
    np.testing.assert_allclose(masked, of_features(OF_FEATURES), atol=1e-6)
    assert (masked == 0).sum() > 10
    np.testing.assert_array_equal(of_waveform(frozenset(), traced(gain=6.0, noise=1.0, time_shift=0.1)), waveform)
    assert equations(lambda x: augment_waveform(key, x, length, only_gain, frozenset({"noise"})), waveform) > 10
    draws_of_keys = equations(lambda x: [x, *(jax.random.fold_in(key, purpose) for purpose in range(3))], waveform)
    nothing = equations(lambda x: augment_waveform(key, x, length, only_gain, frozenset({"speed", "mixup"})), waveform)
    assert nothing <= draws_of_keys


@pytest.mark.parametrize("num_samples", [0, 700, 1000, 2500])
def test_a_crop_without_speed_is_the_crop_at_strength_zero(num_samples):
    samples = jnp.asarray(np.random.default_rng(0).integers(-32768, 32767, 4000), jnp.int16)
    for seed in range(3):
        arguments = samples, jnp.int32(500), jnp.int32(num_samples), 1000, jax.random.key(seed)
        for found, expected in zip(take_crop(*arguments, None), take_crop(*arguments, jnp.float32(0)), strict=True):
            np.testing.assert_array_equal(found, expected)
