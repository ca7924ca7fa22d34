"""The Python interface: a model is loaded, and recordings are predicted, embedded and followed over time."""

import dataclasses
import re
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import ser_jax
from ser_jax import api
from ser_jax import config as configuration
from ser_jax.corpora.corpus import SAMPLE_RATE, make_corpus, waveform
from ser_jax.corpora.protocols import make_protocol
from ser_jax.corpora.silence import speech_bounds
from ser_jax.encoders import extract, weights
from ser_jax.encoders.architecture import WhisperArchitecture
from ser_jax.encoders.store import LoadedEncoder
from ser_jax.errors import UserError
from ser_jax.frontend import features
from ser_jax.inference.predict import evaluate, evaluate_with_dimensions
from ser_jax.inference.restore import restore_network
from ser_jax.shipped import PRETRAINED
from ser_jax.studies import workdirs
from ser_jax.training import devices, published
from ser_jax.training.population import initial_state, make_population
from ser_jax.training.state import variables
from tests.training.tiny import CONFIG, tiny_corpus
from tests.untrained import keep, untrained_workdir

ROOT = Path(__file__).parents[1]
CNN = {
    "model": {"name": "cnn", "width": 4},
    "frontend": {"normalization": "utterance", "trim_db": 30.0},
    "augmentation": {"mixup": 0.0},
    "seeds": [0, 1],
    "folds": [0],
}


@pytest.fixture(scope="module")
def corpus():
    return tiny_corpus()


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cnn")
    untrained_workdir(folder, *corpus, **CNN)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return ser_jax.load(folder)


def noise(seconds, seed=0, level=0.1):
    return level * np.random.default_rng(seed).standard_normal(round(seconds * SAMPLE_RATE))


def test_a_model_says_what_it_is(model, folder, corpus):
    assert (model.name, model.folder, model.emotions, model.rate) == ("drawn", folder, corpus[0].emotions, 16_000)
    assert model.window_seconds == CONFIG["training"]["crop_seconds"] and not model.adapts
    assert [run["seed"] for run in model.runs] == [0, 1] and model.config["model"]["name"] == "cnn"
    assert [run["seed"] for run in ser_jax.load(folder, seed=1).runs] == [1]
    with pytest.raises(UserError, match=r"^--seed 9: no such run in .*; it has the folds \w+ and the seeds 0, 1$"):
        ser_jax.load(folder, seed=9)


def test_probabilities_are_the_mean_over_runs_of_the_mean_over_windows(model, folder, corpus):
    """As the network computes them from the checkpoint, one window at a time."""
    recording = waveform(corpus[0], 3)[: round(0.9 * SAMPLE_RATE)]
    found = model.predict(recording, SAMPLE_RATE)
    (restored,) = workdirs.find(folder)
    network, state = restore_network(restored.metadata, restored.folder)
    begin, end = speech_bounds(recording, network.frontend.trim_db)
    window = SAMPLE_RATE // 2
    assert window < end - begin <= 2 * window

    @jax.jit
    def heard(own, inputs, frames):
        kept = {"capture_intermediates": lambda module, _: module.name == "pool"}
        output, kept = network.model.apply(own, inputs, frames, train=False, **kept)
        return output.logits[0], kept["intermediates"]["pool"]["__call__"][0][0][0]

    probabilities, vectors = [], []
    for first in (begin, end - window):
        part = jnp.asarray(recording[first : first + window], jnp.float32)[None] / 32768
        inputs, frames = features(network.frontend, part, jnp.array([window]))
        for run in range(2):
            own = jax.tree.map(lambda leaf, run=run: jnp.asarray(leaf[run]), variables(state))
            logits, pooled = heard(own, inputs, frames)
            probabilities.append(jax.nn.softmax(logits))
            if run == 0:
                vectors.append(pooled)
    np.testing.assert_allclose(found.to_numpy(), np.mean(probabilities, axis=0), atol=1e-5)
    assert found.index.tolist() == list(corpus[0].emotions) and found.sum() == pytest.approx(1)
    np.testing.assert_allclose(model.embed(recording, SAMPLE_RATE), np.mean(vectors, axis=0), atol=1e-5)


def test_of_several_each_is_as_if_alone_whatever_its_length(model):
    waveforms = [noise(0.4), noise(1.7, 1), (20_000 * noise(0.9, 2)).astype(np.int16)]
    table, vectors = model.predict(waveforms, SAMPLE_RATE), model.embed(waveforms, SAMPLE_RATE)
    assert table.shape == (3, 4) and vectors.shape[0] == 3 and vectors.dtype == np.float32
    for row, one in enumerate(waveforms):
        np.testing.assert_allclose(table.iloc[row], model.predict(one, SAMPLE_RATE), atol=1e-6)
        np.testing.assert_allclose(vectors[row], model.embed(one, SAMPLE_RATE), atol=1e-6)
    assert np.abs(np.diff(table.to_numpy(), axis=0)).max() > 1e-4
    batch = np.stack([noise(0.6, 4), noise(0.6, 5)])
    np.testing.assert_allclose(model.predict(batch, SAMPLE_RATE), model.predict(list(batch), SAMPLE_RATE))


@pytest.mark.parametrize("other", [jnp.asarray, lambda samples: samples.astype(">i2")])
def test_arrays_of_jax_and_of_another_order_of_bytes_are_recordings(model, other):
    samples = (20_000 * noise(0.9)).astype(np.int16)
    expected = model.predict(samples, 16_000)
    whole = other(samples)
    pd.testing.assert_series_equal(model.predict(whole, 16_000), expected)
    pd.testing.assert_series_equal(model.predict([whole, whole], 16_000).iloc[1], expected, check_names=False)
    assert len(model.timeline(whole, 16_000)) == len(model.timeline(samples, 16_000))


def test_bfloat16_is_floating_point(model):
    samples = jnp.asarray(noise(0.9), jnp.bfloat16)
    pd.testing.assert_series_equal(model.predict(samples, 16_000), model.predict(np.float32(samples), 16_000))


def test_dimensions_are_on_the_scale_of_the_training_of_each_run(corpus, tmp_path):
    spoken, protocol = corpus
    values = np.random.default_rng(0).normal(3, 2, len(spoken.utterances))
    spoken = dataclasses.replace(spoken, utterances=spoken.utterances.assign(arousal=values))
    changes = {"corpus": {"dimensions": ["arousal"]}, "augmentation": {"mixup": 0.0}, "folds": [0, 2]}
    population = make_population(configuration.merge(CONFIG, changes), spoken, protocol)
    keep(tmp_path, population)
    _, told = evaluate_with_dimensions(population, initial_state(population), [np.arange(2)] * 2)
    mean, deviation = population.targets.scaling[1]
    loaded = ser_jax.load(tmp_path, fold=protocol.folds[2].name)
    heard = [waveform(spoken, row) for row in range(2)]
    table = loaded.dimensions(heard, SAMPLE_RATE)
    np.testing.assert_allclose(table["arousal"], told[1][:, 0] * deviation + mean, rtol=1e-4)
    assert loaded.dimensions(heard[0], SAMPLE_RATE).to_dict() == pytest.approx(
        {"arousal": table["arousal"][0]}, rel=1e-4
    )
    timeline = loaded.timeline(heard[0], SAMPLE_RATE)
    assert timeline.columns.tolist() == ["start", "end", "emotion", "level_db", *loaded.emotions, "predicted_arousal"]
    window = heard[0][round(timeline["start"][1] * SAMPLE_RATE) : round(timeline["end"][1] * SAMPLE_RATE)]
    of_window = loaded.dimensions(window, SAMPLE_RATE)["arousal"]
    assert timeline["predicted_arousal"][1] == pytest.approx(of_window, rel=1e-4)
    assert np.ptp(timeline["predicted_arousal"]) > 1e-3


def test_a_model_of_emotions_alone_has_no_dimensions(model):
    with pytest.raises(UserError, match=r"model drawn: predicts no dimensions"):
        model.dimensions(noise(1.0), SAMPLE_RATE)


def test_another_rate_is_resampled(model):
    time = np.arange(2 * SAMPLE_RATE) / (2 * SAMPLE_RATE)
    tone = 0.3 * np.sin(2 * np.pi * 300 * time) * (1 + 0.5 * np.sin(40 * time))
    np.testing.assert_allclose(model.predict(tone, 2 * SAMPLE_RATE), model.predict(tone[::2], SAMPLE_RATE), atol=0.01)


def test_all_lengths_share_one_program(model, monkeypatch):
    used, call = [], devices.Program.__call__

    def counting(self, *arguments):
        used.append(self)
        return call(self, *arguments)

    monkeypatch.setattr(devices.Program, "__call__", counting)
    for seconds in (0.3, 2.0, 11.0):
        model.predict([noise(seconds)] * 2, SAMPLE_RATE)
    model.timeline(noise(3), SAMPLE_RATE)
    assert len(used) > 3 and len({id(program) for program in used}) == len(used[0].compiled) == 1


@pytest.mark.filterwarnings("ignore:.*nothing but zeros")
def test_a_timeline_has_a_row_for_each_window(model):
    recording = np.concatenate([noise(1.0), np.zeros(SAMPLE_RATE), noise(0.63, 2)])
    table = model.timeline(recording, SAMPLE_RATE, hop=0.25)
    assert table.columns.tolist() == ["start", "end", "emotion", "level_db", *model.emotions]
    np.testing.assert_allclose(table["start"], [*np.arange(0, 2.13, 0.25), 2.13])
    np.testing.assert_allclose(table["end"] - table["start"], 0.5)
    assert table["end"].iloc[-1] == pytest.approx(2.63)
    assert table["level_db"].iloc[0] == pytest.approx(-20, abs=0.3)
    assert (table.loc[table["start"].between(1.0, 1.5), "level_db"] == -np.inf).all()
    for row in (0, 1, len(table) - 1):
        begin, end = (round(table[name][row] * SAMPLE_RATE) for name in ("start", "end"))
        alone = model.predict(recording[begin:end], SAMPLE_RATE)
        np.testing.assert_allclose(table.loc[row, list(model.emotions)].to_numpy(float), alone, atol=1e-5)
    longer = model.timeline(recording, SAMPLE_RATE, hop=1.0, window=1.5)
    np.testing.assert_allclose(longer[["start", "end"]], [[0, 1.5], [1.0, 2.5], [1.13, 2.63]])
    first = model.predict(recording[: 3 * SAMPLE_RATE // 2], SAMPLE_RATE)
    np.testing.assert_allclose(longer.loc[0, list(model.emotions)].to_numpy(float), first, atol=1e-5)
    short = model.timeline(recording[: 2 * SAMPLE_RATE // 5], SAMPLE_RATE)
    assert short[["start", "end"]].to_numpy().tolist() == [[0.0, 0.4]]


def test_two_timelines_with_as_many_windows_are_two(folder, corpus, tmp_path):
    """Also of a model whose recordings lie on the device: by speaker."""
    untrained_workdir(tmp_path, *corpus, frontend={"normalization": "speaker"})
    model, recording = ser_jax.load(tmp_path), np.concatenate([noise(1.0), noise(1.0, 1, 0.01)])
    assert model.adapts
    one, other = (model.timeline(recording, SAMPLE_RATE, hop, window) for hop, window in ((0.5, 0.5), (0.4, 0.8)))
    assert len(one) == len(other) == 4
    assert np.abs(one[list(model.emotions)].to_numpy() - other[list(model.emotions)].to_numpy()).max() > 1e-4


@pytest.mark.filterwarnings("ignore:.*nothing but zeros")
def test_a_click_in_a_timeline_is_heard_with_the_silence_around_it(model):
    recording = np.zeros(2 * SAMPLE_RATE)
    recording[SAMPLE_RATE] = 0.5
    table = model.timeline(recording, SAMPLE_RATE)
    assert np.isfinite(table[list(model.emotions)].to_numpy()).all()
    with pytest.raises(UserError, match=r"waveform: \d frames? of 40 ms with sound; the model needs 8"):
        model.predict(recording, SAMPLE_RATE)


@pytest.mark.filterwarnings("ignore:waveform 0")
@pytest.mark.parametrize(
    ("waveforms", "rate", "message"),
    [
        (np.zeros(0), 16_000, "waveform: audio without samples, expected at least one"),
        (np.full(9000, np.nan), 16_000, "waveform: audio holds NaN or infinity, or above 1e+30, expected"),
        (np.full(9000, 1e300), 16_000, "waveform: audio holds NaN or infinity, or above 1e+30, expected"),
        ([np.ones(9000), np.ones((2, 9000))], 16_000, "waveform 1: an array of float64 [2, 9000], expected int16 or"),
        (np.ones(9000, np.int32), 16_000, "waveform: an array of int32 [9000], expected int16 or floating point"),
        (np.ones(9000, bool), 16_000, "waveform: an array of bool [9000], expected int16 or floating point"),
        (noise(1), 16, "waveform: a rate of 16 Hz, expected 1000 to 768000"),
        (
            np.ones((9000, 2)),
            16_000,
            "waveform: an array [9000, 2], expected [samples] or [batch, samples]",
        ),
        ([noise(1), noise(0.01)], 16_000, "waveform 1: 1 frame of 40 ms with sound; the model needs 8"),
        ([], 16_000, "no waveforms, expected at least one"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_recording_is_refused_in_one_line(model, waveforms, rate, message):
    for use in (model.predict, model.embed):
        with pytest.raises(UserError, match=f"^{re.escape(message)}") as error:
            use(waveforms, rate)
        assert "\n" not in str(error.value)


def test_durations_of_a_timeline_that_cannot_be_are_refused(model):
    with pytest.raises(UserError, match="hop: found 0 s, expected one sample to 12 hours"):
        model.timeline(noise(1), SAMPLE_RATE, hop=0.0)
    for window in (float("nan"), 1e9, 1e-5):
        with pytest.raises(UserError, match=re.escape(f"window: found {window:g} s, expected")):
            model.timeline(noise(1), SAMPLE_RATE, window=window)
    with pytest.raises(UserError, match=r"window: found 0\.1 s, too short: 3 frames of 40 ms with sound"):
        model.timeline(noise(1), SAMPLE_RATE, window=0.1)
    with pytest.raises(UserError, match="timeline: several recordings, expected one"):
        model.timeline(noise(1)[None], SAMPLE_RATE)


def test_what_is_odd_about_a_recording_is_a_warning(model):
    with pytest.warns(UserWarning, match="waveform 1: silent: there is no sound in it"):
        model.predict([noise(1), np.zeros(9000)], SAMPLE_RATE)
    with pytest.warns(UserWarning, match="waveform: exceeds full scale, up to 3"):
        model.predict(np.clip(40 * noise(1), -3, 3), SAMPLE_RATE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(noise(1), SAMPLE_RATE)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("emodp", "model 'emodp': no such folder, nor a model of that name; did you mean emodb?"),
        (".", "no study.json; expected a published model, or a folder in which `train` or `study` has finished"),
    ],
)
def test_a_model_that_is_not_there_is_refused(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(message)):
        ser_jax.load(name)


def test_the_name_of_a_model_that_comes_with_the_code_is_enough(tmp_path, monkeypatch):
    (tmp_path / "emodb").mkdir()
    monkeypatch.chdir(tmp_path)
    assert (api.find_folder("emodb") / "README.md").is_file()
    assert api.find_folder("./emodb").absolute() == tmp_path / "emodb"


def test_compiled_programs_are_kept_for_the_next_process_where_nobody_has_said_where(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    told = jax.config.jax_compilation_cache_dir
    ser_jax.load(folder)
    assert jax.config.jax_compilation_cache_dir == told
    seconds = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        ser_jax.load(folder)
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / ".cache" / "ser_jax" / "xla")
    finally:
        jax.config.update("jax_compilation_cache_dir", told)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)


def test_neither_jax_nor_numpy_is_imported_before_a_model_is_loaded():
    code = "import sys, ser_jax; ser_jax.load; print({'jax', 'numpy', 'pandas', 'soundfile'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_a_head_on_hidden_states_hears_recordings_by_its_encoder(tmp_path, monkeypatch):
    """As it hears the states that were prepared of the corpus."""
    architecture = WhisperArchitecture(width=8, depth=1, heads=2, hidden=8, mel_bands=10, positions=400)
    rng = np.random.default_rng(0)
    shapes = weights.parameter_shapes(architecture)
    parameters = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 3, shapes)
    encoder = LoadedEncoder("tiny", architecture, parameters, sha256="a" * 64, source="here")
    table = pd.DataFrame({"id": list("abcd"), "emotion": ["x", "y"] * 2, "speaker": list("ppqq")})
    speech = make_corpus("speech", table, [(9000 * noise(0.7, seed)).astype(np.int16) for seed in range(4)], ("x", "y"))
    protocol = make_protocol(speech, "leave_one_speaker_out", validation_speakers=0)
    request = extract.make_request(architecture, "frames", ["0", "1"], average=4)
    packed = extract.prepare_states(speech, encoder, request, tmp_path)
    changes = dict(
        frontend={"kind": "precomputed", "features": packed.name, "normalization": "train", "trim_db": 0.0},
        augmentation={"mixup": 0.0, "speed": 0.0},
        protocol={"validation_speakers": 0},
    )
    config = configuration.merge(CONFIG, changes) | {"model": {"name": "encoder_head", "states": 2, "width": 4}}
    population = make_population(config, speech, protocol, features=packed, data_dir=str(tmp_path))
    keep(tmp_path / "work", population)
    monkeypatch.setattr(extract, "load", lambda name, data_dir: encoder)
    model = ser_jax.load(tmp_path / "work", fold=population.folds[0].name)
    own = [0, 3]
    expected = evaluate(population, initial_state(population), [np.array(own)] * len(population.runs))[0]
    found = model.predict([waveform(speech, row) for row in own], SAMPLE_RATE)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert np.abs(expected[0] - expected[1]).max() > 1e-2
    assert model.embed(waveform(speech, 0), SAMPLE_RATE).shape == (4,)
    shortest = architecture.min_samples
    with pytest.raises(
        UserError, match=f"waveform: {shortest - 1} samples at 16 kHz; the encoder tiny needs {shortest}"
    ):
        model.predict(noise(1)[: shortest - 1], SAMPLE_RATE)
    with pytest.raises(UserError, match=f"waveform: 1 sample at 16 kHz; the encoder tiny needs {shortest}"):
        model.predict(noise(1)[:1], SAMPLE_RATE)
    assert model.predict(noise(1)[:shortest], SAMPLE_RATE).sum() == pytest.approx(1)
    timeline = model.timeline(waveform(speech, 0), SAMPLE_RATE)
    assert timeline["end"].iloc[-1] == pytest.approx(speech.utterances["num_samples"][0] / SAMPLE_RATE)

    monkeypatch.setattr(extract, "load", lambda name, data_dir: dataclasses.replace(encoder, sha256="b" * 64))
    with pytest.raises(UserError, match=r"encoder tiny: sha256 bbbbbbbbbbbb, but the model learnt .* aaaaaaaaaaaa"):
        ser_jax.load(tmp_path / "work")


def test_the_default_is_the_model_on_an_encoder_where_that_encoder_is_on_the_machine(monkeypatch):
    needed = published.read_metadata(PRETRAINED / "emodb_encoder")["features"]["info"]["encoder"]
    for cards, expected in (
        ({}, ("emodb", needed["name"])),
        ({needed["name"]: {"sha256": "0" * 64}}, ("emodb", needed["name"])),
        ({needed["name"]: {"sha256": needed["sha256"]}}, ("emodb_encoder", "")),
    ):
        monkeypatch.setattr(api.store, "available", lambda data_dir, cards=cards: cards)
        assert api.best_here() == expected
