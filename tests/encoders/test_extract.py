"""Hidden states of a corpus: what is kept is what the encoder makes of every utterance by itself."""

import dataclasses
import itertools
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soxr

from ser_jax.corpora import load_corpus, packed_folder
from ser_jax.corpora.corpus import SAMPLE_RATE, pack
from ser_jax.corpora.features import BFLOAT16, frames, load_features
from ser_jax.corpora.merge import merge_corpora
from ser_jax.corpora.silence import speech_bounds
from ser_jax.encoders import extract, store, weights
from ser_jax.encoders.architecture import Wav2Vec2Architecture, WhisperArchitecture
from ser_jax.errors import UserError

WHISPER = WhisperArchitecture(width=8, depth=2, heads=2, hidden=8, mel_bands=10, positions=150, normalize=True)
WAV2VEC2 = Wav2Vec2Architecture(
    family="wav2vec2", width=8, depth=2, heads=2, hidden=8, conv_widths=(4, 4, 4), conv_kernels=(10, 8, 8),
    conv_strides=(5, 8, 8), conv_bias=False, conv_norm="group", pre_norm=False, projection_norm=True,
    position_kernel=4, position_groups=2, position_layers=0, buckets=0, max_distance=0, epsilon=1e-5, normalize=True,
)  # fmt: skip


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    monkeypatch.setattr(extract, "_LENGTHS_PER_OCTAVE", 1)


def make_encoder(architecture):
    module = weights.make_module(architecture)
    shapes = (jnp.zeros((1, 3200)), jnp.array([3200]))
    parameters = jax.tree.map(np.asarray, jax.jit(module.init)(jax.random.key(0), *shapes)["params"])
    return store.LoadedEncoder("tiny", architecture, parameters, sha256="0", licence="CC0")


@pytest.fixture(scope="module")
def encoder():
    return make_encoder(WHISPER)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    whole = load_corpus("synthetic", tmp_path_factory.mktemp("corpus"), num_speakers=2, utterances_per_speaker=3)
    table = whole.utterances.assign(num_samples=np.array([*whole.utterances["num_samples"][:-1], 8_000]))
    return dataclasses.replace(whole, utterances=table)


def alone(encoder, samples):
    module = weights.make_module(encoder.architecture)
    waveform = jnp.asarray(samples, jnp.float32)[None] / 32768
    return jax.jit(module.apply)({"params": encoder.parameters}, waveform, jnp.array([len(samples)]))


def samples_of(corpus, i):
    start, length = corpus.utterances[["start", "num_samples"]].iloc[i]
    return corpus.samples[start : start + length]


@pytest.mark.parametrize("architecture", [WHISPER, WAV2VEC2], ids=["whisper", "wav2vec2"])
def test_frames_are_those_of_each_utterance_by_itself(architecture, corpus, tmp_path):
    encoder = make_encoder(architecture)
    request = extract.make_request(encoder.architecture, "frames", ["2", "0", "final"], dtype="float32")
    packed = extract.prepare_states(corpus, encoder, request, tmp_path)
    assert packed.name == "tiny.frames" and packed.frame_ms == 20.0
    assert packed.names[0] == "layer 2/0" and packed.names[-1] == "final/7" and len(packed.names) == 24
    for i in (0, len(corpus.utterances) - 1):
        expected = alone(encoder, samples_of(corpus, i))
        expected = np.concatenate([expected.layers[2, 0], expected.layers[0, 0], expected.final[0]], -1)
        np.testing.assert_allclose(frames(packed, i), expected, rtol=0, atol=2e-4)
    left = {path.name for path in (tmp_path / "packed" / corpus.name / "features").glob(".*")}
    assert left <= {".verified", ".tiny.frames.lock"}  # which hashes were compared, and when


def test_a_merged_corpus_takes_the_states_of_its_parts(encoder, tmp_path, monkeypatch):
    for name in ("one", "two"):
        whole = load_corpus("synthetic", tmp_path, num_speakers=2, utterances_per_speaker=2)
        rows = whole.utterances.to_dict("records")[:: 1 if name == "one" else -1]
        examples = [({key: row[key] for key in ("id", "speaker", "emotion")}, samples_of(whole, 0)) for row in rows]
        pack(packed_folder(name, tmp_path), name, iter(examples), whole.emotions)
    both = merge_corpora("both", ["one", "two"], tmp_path)
    request = extract.make_request(encoder.architecture, "pooled", ["1"], speeds=(0.9, 1.0))
    parts = [extract.prepare_states(load_corpus(n, tmp_path), encoder, request, tmp_path) for n in ("one", "two")]
    monkeypatch.setattr(extract, "_compute", lambda *_: pytest.fail("states were computed"))
    packed = extract.prepare_states(both, encoder, request, tmp_path)
    np.testing.assert_array_equal(packed.values, np.concatenate([part.values for part in parts]))
    assert packed.info == parts[0].info and load_features(both, "tiny.pooled", tmp_path).num_frames.tolist() == 8 * [2]
    with pytest.raises(pytest.fail.Exception, match="states were computed"):
        extract.prepare_states(both, encoder, request, tmp_path, force=True)
    other = extract.make_request(encoder.architecture, "pooled", ["1"])
    shutil.rmtree(tmp_path / "packed" / "both" / "features" / "tiny.pooled")
    with pytest.raises(pytest.fail.Exception, match="states were computed"):  # the parts' are of two speeds
        extract.prepare_states(both, encoder, other, tmp_path)
    again = [({"id": "0", "speaker": "a", "emotion": whole.emotions[0]}, samples_of(whole, 0))]
    pack(packed_folder("one", tmp_path), "one", iter(again), whole.emotions)
    with pytest.raises(pytest.fail.Exception, match="states were computed"):  # a part is another one now
        extract.prepare_states(both, encoder, request, tmp_path)


def test_pooled_states_are_mean_and_deviation_of_the_frames_of_all_windows(encoder, corpus, tmp_path):
    window = 0.6  # seconds: every utterance but one is longer
    whole = extract.make_request(encoder.architecture, "frames", ["1", "2"], window, "float32")
    pooled = extract.make_request(encoder.architecture, "pooled", ["1", "2"], window)
    found = extract.prepare_states(corpus, encoder, whole, tmp_path)
    table = extract.prepare_states(corpus, encoder, pooled, tmp_path)
    assert table.name == "tiny.pooled" and table.values.dtype == np.float32 and table.frame_ms == 0
    for i in range(len(corpus.utterances)):
        own = frames(found, i).reshape(-1, 2, 8)
        expected = np.stack([own.mean(0), own.std(0)], 1).ravel()
        np.testing.assert_allclose(frames(table, i)[0], expected, rtol=0, atol=2e-4)
    assert table.names[8] == "layer 1/deviation/0"


def test_a_long_utterance_is_heard_in_equal_windows(encoder, corpus, tmp_path):
    request = extract.make_request(encoder.architecture, "frames", ["1"], 0.6, "float32")
    packed = extract.prepare_states(corpus, encoder, request, tmp_path)
    samples = samples_of(corpus, 0)
    number = -(-len(samples) // (int(0.6 * 16_000) - 320))
    cuts = [len(samples) * i // number // 320 * 320 for i in range(number)] + [len(samples)]
    parts = [alone(encoder, samples[a:b]).layers[1, 0] for a, b in itertools.pairwise(cuts)]
    assert max(np.diff(cuts)) <= 9600 and number > 1
    np.testing.assert_allclose(frames(packed, 0), np.concatenate(parts), rtol=0, atol=2e-4)


def test_any_number_of_recordings_takes_few_programs(encoder, monkeypatch):
    monkeypatch.setattr(extract, "_BATCH_SECONDS", 64.0)
    shapes = set()
    for number in range(1, 60):
        pieces = list(extract._batches(np.full(number, 16000), np.arange(number), encoder.architecture))
        np.testing.assert_array_equal(np.sort(np.concatenate([rows[rows >= 0] for rows, _ in pieces])), range(number))
        shapes |= {(len(rows), length) for rows, length in pieces}
    assert len(shapes) <= 4  # eight devices share 64 s: one, two, four or eight recordings each


def test_an_interrupted_computation_goes_on_where_it_ended(encoder, corpus, tmp_path, monkeypatch):
    request = extract.make_request(WHISPER, "frames", ["1"])
    heard, program = [], extract._program

    def counting(stop_after):
        def make(*args):
            run = program(*args)

            def counted(waveforms, lengths):
                if len(heard) == stop_after:
                    raise KeyboardInterrupt
                heard.append(sum(n > WHISPER.min_samples for n in lengths))
                return run(waveforms, lengths)

            return counted

        return make

    monkeypatch.setattr(extract, "_BATCH_SECONDS", 8.0)
    monkeypatch.setattr(extract, "_program", counting(1))
    with pytest.raises(KeyboardInterrupt):
        extract.prepare_states(corpus, encoder, request, tmp_path)
    assert 0 < sum(heard) < len(corpus.utterances)
    monkeypatch.setattr(extract, "_program", counting(-1))
    resumed = extract.prepare_states(corpus, encoder, request, tmp_path)
    assert sum(heard) == len(corpus.utterances)
    monkeypatch.setattr(extract, "_program", program)
    whole = extract.prepare_states(corpus, encoder, request, tmp_path, name="again")
    np.testing.assert_array_equal(resumed.values, whole.values)
    assert resumed.values.dtype == np.float16


def test_states_of_a_corpus_as_it_was_and_damaged_ones_are_replaced_by_force(encoder, corpus, tmp_path):
    request = extract.make_request(WHISPER, "pooled", ["1"])
    first = extract.prepare_states(corpus, encoder, request, tmp_path)
    other = dataclasses.replace(corpus, fingerprint="0" * 64)
    with pytest.raises(UserError, match=r"prepare the features again, with --force$"):
        extract.prepare_states(other, encoder, request, tmp_path)
    path = extract.features_folder(corpus.name, "tiny.pooled", tmp_path) / "values.npy"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"tiny.pooled: damaged features, .*, with --force$"):
        extract.prepare_states(corpus, encoder, request, tmp_path)
    assert extract.prepare_states(corpus, encoder, request, tmp_path, force=True).fingerprint == first.fingerprint


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-9])])
def test_what_an_interrupted_computation_left_is_not_used_when_damaged(spoil, encoder, corpus, tmp_path, monkeypatch):
    request = extract.make_request(WHISPER, "frames", ["1"])
    with monkeypatch.context() as patched:
        patched.setattr(extract, "pack_source", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            extract.prepare_states(corpus, encoder, request, tmp_path)
    scratch = extract.features_folder(corpus.name, ".tiny.frames.partial", tmp_path)
    spoil(scratch / "values.npy")
    again = extract.prepare_states(corpus, encoder, request, tmp_path)
    whole = extract.prepare_states(corpus, encoder, request, tmp_path, name="whole")
    np.testing.assert_array_equal(again.values, whole.values)


def test_what_was_computed_of_another_corpus_is_not_used(encoder, corpus, tmp_path, monkeypatch):
    request = extract.make_request(WHISPER, "frames", ["1"])
    other = dataclasses.replace(corpus, samples=np.ascontiguousarray(corpus.samples[::-1]), fingerprint="0")
    with monkeypatch.context() as patched:
        patched.setattr(extract, "pack_source", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            extract.prepare_states(other, encoder, request, tmp_path)
    found = extract.prepare_states(corpus, encoder, request, tmp_path)
    whole = extract.prepare_states(corpus, encoder, request, tmp_path, name="whole")
    np.testing.assert_array_equal(found.values, whole.values)


def test_processes_that_start_together_compute_the_states_once(encoder, corpus, tmp_path, monkeypatch, capsys):
    request, computed, compute = extract.make_request(WHISPER, "pooled", ["1"]), [], extract._compute

    def slowly(*args):
        computed.append(1)
        time.sleep(0.5)
        return compute(*args)

    monkeypatch.setattr(extract, "_compute", slowly)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: extract.prepare_states(corpus, encoder, request, tmp_path), range(2)))
    assert len(computed) == 1 and found[0].fingerprint == found[1].fingerprint
    assert "tiny.pooled: another process is at it; waiting" in capsys.readouterr().err


def test_states_belong_to_one_encoder_and_one_request(encoder, corpus, tmp_path, monkeypatch):
    request = extract.make_request(WHISPER, "pooled", ["1"])
    first = extract.prepare_states(corpus, encoder, request, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(extract, "_program", None)  # nothing is computed again
        assert extract.prepare_states(corpus, encoder, request, tmp_path).fingerprint == first.fingerprint
    other = extract.make_request(WHISPER, "pooled", ["2"])
    for changed, wanted in ((dataclasses.replace(encoder, sha256="1"), request), (encoder, other)):
        differ = "encoder" if wanted == request else "states"
        with pytest.raises(
            UserError, match=rf"other features 'tiny.pooled', which differ in {differ}: expected another"
        ):
            extract.prepare_states(corpus, changed, wanted, tmp_path)
    replaced = extract.prepare_states(corpus, encoder, other, tmp_path, force=True)
    assert replaced.fingerprint != first.fingerprint
    assert load_features(corpus, "tiny.pooled", tmp_path).info["encoder"]["licence"] == "CC0"


@pytest.mark.parametrize(
    ("layers", "window", "message"),
    [
        (["3"], None, "--layers 3: the encoder has 0 to 2 and final"),
        (["1", "1"], None, "--layers 1,1: a layer is named twice"),
        (None, 4.0, "--window_seconds 4: expected 0.065125 to 3 s"),
        (None, 0.001, "--window_seconds 0.001: expected 0.065125 to 3 s"),
    ],
)
def test_what_the_encoder_does_not_have_is_refused(layers, window, message):
    with pytest.raises(UserError) as error:
        extract.make_request(WHISPER, "frames", layers, window)
    assert message in str(error.value)


def test_a_window_without_end_is_refused():
    with pytest.raises(UserError, match=r"--window_seconds inf: expected 0.\d+ to 3600 s"):
        extract.make_request(WAV2VEC2, window_seconds=float("inf"))


def test_utterances_that_are_too_short_are_named(encoder, corpus, tmp_path):
    table = corpus.utterances.assign(num_samples=[100, 101, *corpus.utterances["num_samples"][2:]])
    request = extract.make_request(WHISPER, "frames")
    with pytest.raises(UserError, match="2 utterances are shorter than 201 samples"):
        extract.prepare_states(dataclasses.replace(corpus, utterances=table), encoder, request, tmp_path)


@pytest.mark.parametrize("architecture", [WHISPER, WAV2VEC2], ids=["whisper", "wav2vec2"])
@pytest.mark.parametrize("excess", [0, 1, 319, 320, 321, 5000])
def test_every_part_of_an_utterance_is_long_enough_for_a_frame(architecture, excess, corpus):
    """With the shortest window that is taken, and utterances a little longer than it."""
    window = 2 * (architecture.min_samples + architecture.hop)
    with pytest.raises(UserError, match="--window_seconds"):
        extract.make_request(architecture, "frames", window_seconds=(window - 1) / SAMPLE_RATE)
    request = extract.make_request(architecture, "frames", window_seconds=window / SAMPLE_RATE)
    lengths = np.full(len(corpus.utterances), window + excess)
    cut = dataclasses.replace(corpus, utterances=corpus.utterances.assign(num_samples=lengths))
    pieces = extract._pieces(cut, store.LoadedEncoder("any", architecture, {}, "0"), request)
    assert pieces.num_samples.min() >= architecture.min_samples and pieces.num_frames.min() >= 1
    assert pieces.num_samples.max() <= window
    np.testing.assert_array_equal(np.bincount(pieces.version, pieces.num_samples), lengths)


@pytest.mark.parametrize("form", ["frames", "pooled"])
def test_values_beyond_float16_are_refused(form, encoder, corpus, tmp_path):
    large = jax.tree.map(lambda x: x, encoder.parameters) | {"positions": encoder.parameters["positions"] + 1e5}
    request = extract.make_request(WHISPER, form, ["0"], dtype="float16")
    with pytest.raises(UserError, match="values beyond the range of float16; --dtype bfloat16 or float32"):
        extract.prepare_states(corpus, dataclasses.replace(encoder, parameters=large), request, tmp_path)


def test_values_that_are_not_finite_are_refused(encoder, corpus, tmp_path):
    infinite = encoder.parameters | {"positions": encoder.parameters["positions"] + np.inf}
    request = extract.make_request(WHISPER, "frames", ["0"], dtype="bfloat16")
    with pytest.raises(UserError, match=r"encoder tiny: values that are not finite$"):
        extract.prepare_states(corpus, dataclasses.replace(encoder, parameters=infinite), request, tmp_path)


@pytest.mark.parametrize("form", ["frames", "pooled"])
def test_bfloat16_keeps_the_range_of_float32_rounded(form, encoder, corpus, tmp_path, monkeypatch):
    large = jax.tree.map(lambda x: x, encoder.parameters) | {"positions": encoder.parameters["positions"] * 1e7}
    large = dataclasses.replace(encoder, parameters=large)
    exact, rounded = (extract.make_request(WHISPER, form, ["0", "1"], dtype=dtype) for dtype in ("float32", "bfloat16"))
    expected = extract.prepare_states(corpus, large, exact, tmp_path, name="exact")

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # when all is computed and nothing packed
        patch.setattr(extract, "pack_source", interrupt)
        with pytest.raises(KeyboardInterrupt):
            extract.prepare_states(corpus, large, rounded, tmp_path, name="rounded")
    monkeypatch.setattr(extract, "_program", lambda *_: interrupt)
    found = extract.prepare_states(corpus, large, rounded, tmp_path, name="rounded")
    assert found.values.dtype == BFLOAT16 and found.info["dtype"] == "bfloat16"
    assert np.abs(expected.values).max() > 65_504
    np.testing.assert_allclose(found.values.astype(np.float32), expected.values, rtol=2**-8, atol=0)
    assert np.mean(found.values == expected.values.astype(BFLOAT16)) > 0.99  # but for another rounding of the sums


def test_silence_is_left_out_and_frames_are_averaged(encoder, corpus, tmp_path):
    plain = extract.make_request(WHISPER, "frames", ["1"], dtype="float32", trim_db=20.0)
    mean = extract.make_request(WHISPER, "frames", ["1"], dtype="float32", trim_db=20.0, average=3)
    found = extract.prepare_states(corpus, encoder, plain, tmp_path)
    averaged = extract.prepare_states(corpus, encoder, mean, tmp_path, name="averaged")
    assert averaged.frame_ms == 60.0
    first, last = speech_bounds(samples_of(corpus, 0), 20.0)
    assert 0 < last - first < len(samples_of(corpus, 0))
    own = frames(found, 0)
    np.testing.assert_allclose(own, alone(encoder, samples_of(corpus, 0)[first:last]).layers[1, 0], atol=2e-4, rtol=0)
    expected = [own[i : i + 3].mean(0) for i in range(0, len(own), 3)]
    np.testing.assert_allclose(frames(averaged, 0), expected, atol=1e-5, rtol=0)


def test_an_utterance_is_heard_at_several_speeds_and_each_is_a_version(encoder, corpus, tmp_path):
    speeds = (0.8, 1.0, 1.25)
    request = extract.make_request(WHISPER, "pooled", ["0", "1"], window_seconds=1.0, speeds=speeds)
    packed = extract.prepare_states(corpus, encoder, request, tmp_path)
    assert packed.num_frames.tolist() == [3] * len(corpus.utterances) and packed.frame_ms == 0
    plain = extract.make_request(WHISPER, "pooled", ["0", "1"], window_seconds=1.0)
    once = extract.prepare_states(corpus, encoder, plain, tmp_path, name="once")
    np.testing.assert_array_equal(packed.values[1::3], once.values)
    short = len(corpus.utterances) - 1  # in one part
    for version, speed in ((0, 0.8), (2, 1.25)):
        sound = soxr.resample(samples_of(corpus, short).astype(np.float64), SAMPLE_RATE * speed, SAMPLE_RATE)
        assert abs(len(sound) - 8_000 / speed) <= 1
        states = alone(encoder, np.round(sound))
        own = np.stack([layer[0] for layer in states.layers[:2]])
        expected = np.stack([own.mean(1), own.std(1)], 1).reshape(-1)
        np.testing.assert_allclose(frames(packed, short)[version], expected, atol=2e-3, rtol=0)
    pieces = extract._pieces(corpus, encoder, request)
    assert pieces.num_samples.max() <= SAMPLE_RATE and pieces.num_samples.min() >= WHISPER.min_samples
    for utterance, samples in enumerate(corpus.utterances["num_samples"]):
        for i in range(3):
            own = pieces.version == utterance * 3 + i
            assert (pieces.end - pieces.start)[own].sum() == samples


@pytest.mark.parametrize(
    ("speeds", "form", "message"),
    [
        ((), "pooled", "different speeds from 0.5 to 2"),
        ((1.0, 1.0), "pooled", "different speeds from 0.5 to 2"),
        ((0.4,), "pooled", "--speeds 0.4: expected different speeds"),
        ((float("nan"), 1.0), "pooled", "--speeds nan,1: expected different speeds"),
        ((0.9, 1.0), "frames", "--speeds 0.9,1: expected --pooled"),
    ],
)
def test_speeds_that_are_none_are_refused(speeds, form, message):
    with pytest.raises(UserError, match=message):
        extract.make_request(WHISPER, form, speeds=speeds)
