"""An export computes what the model does at every length. What cannot be exported is refused before it is written."""

import functools
import json
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from ser_jax.commands.main import main
from ser_jax.corpora.corpus import SAMPLE_RATE
from ser_jax.corpora.silence import speech_bounds
from ser_jax.export import program as programs
from ser_jax.export import stablehlo
from ser_jax.export.program import window_start
from ser_jax.models import FAMILIES
from ser_jax.studies.recognise import make_recogniser
from ser_jax.studies.workdirs import Restored, recordings
from ser_jax.training import devices, published
from ser_jax.training.population import describe, initial_state
from ser_jax.training.state import for_evaluation
from tests.training.tiny import tiny_corpus, tiny_population

SECONDS = 3.0
LENGTHS = (400, 3201, 8000, 16000, 16001, 24123, 40000, 48000)


@functools.cache
def drawn(name):
    """A population of two runs as it is drawn, trimmed and normalised by the training folds, with windows of 0.5 s."""
    population = tiny_population(
        *tiny_corpus(),
        model={"name": name, **FAMILIES[name].tiny},
        frontend={"normalization": "train", "trim_db": 30.0},
        evaluation={"window_seconds": 0.5},
        folds=[0, 1],
        seeds=[3],
    )
    state = for_evaluation(devices.gather(initial_state(population), 2))
    parameters = {  # a fresh classifier says nearly the same of all sounds
        name: jax.tree.map(lambda leaf: 4 * leaf, layer) if name == "classifier" else layer
        for name, layer in state.ema_parameters.items()
    }
    return state.replace(ema_parameters=parameters), describe(population)


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "model", "linear")


def write(folder, name, **changes):
    state, metadata = drawn(name)
    folder.mkdir()
    for path, value in changes.items():
        group, option = path.split("__")
        config = metadata["config"]
        metadata = metadata | {"config": config | {group: config[group] | {option: value}}}
    published.write(folder, "tiny", published.arrays_of(state), metadata)
    return folder


def sound(length, seed=0):
    """Noise that swells, with silence around it."""
    rng = np.random.default_rng(seed)
    waveform = rng.normal(0, 2000, length) * np.linspace(0.1, 1, length)
    waveform[: length // 5] *= 0.001
    waveform[-length // 7 :] *= 0.001
    return np.clip(np.rint(waveform), -32768, 32767).astype(np.int16)


@pytest.mark.parametrize("name", ["linear", "cnn"])
def test_a_program_is_the_model_at_every_length(tmp_path, name):
    folder = write(tmp_path / "model", name)
    metadata = published.read_metadata(folder)
    recogniser = make_recogniser(Restored("tiny", folder, metadata))
    waveforms = {str(length): sound(length, length) for length in LENGTHS} | {"silent": np.zeros(20000, np.int16)}
    short = [waveform for waveform in waveforms.values() if recogniser.refusal(waveform)]
    waveforms = {name: waveform for name, waveform in waveforms.items() if not recogniser.refusal(waveform)}
    program = programs.make_program(metadata, folder, recogniser.runs, SECONDS)
    call = jax.jit(program.call)
    found = [call(*arguments(program, waveform)) for waveform in waveforms.values()]
    expected = recogniser.predict(recordings(waveforms, metadata["corpus"]["emotions"]), False).probabilities
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert np.ptp(expected, axis=0).max() > 1e-3 and len(waveforms) >= 6  # they are not all alike
    assert all(np.isnan(call(*arguments(program, waveform))).all() for waveform in short)
    # What lies behind the last sample is not heard, and no recording has probabilities where there is none.
    padded, size = arguments(program, waveforms["24123"])
    np.testing.assert_array_equal(
        call(padded + (np.arange(len(padded)) >= size), size), found[list(waveforms).index("24123")]
    )
    assert np.isnan(call(padded, np.int32(0))).all()


def arguments(program, waveform):
    padded = np.pad(waveform / np.float32(32768), (0, program.max_samples - len(waveform)))
    return padded.astype(np.float32), np.int32(len(waveform))


def test_silence_is_found_where_a_corpus_s_is():
    bounds = jax.jit(programs._speech_bounds, static_argnums=2)
    rng = np.random.default_rng(1)
    for length in (1, 159, 160, 161, 512, 5000, 7999, 8000):
        for loud in (0.0, 0.3, 1.0):
            waveform = rng.integers(-9, 9, length)
            first = rng.integers(0, length)
            waveform[first : first + int(loud * length)] *= 500
            padded = np.pad(waveform, (0, 8000 - length)).astype(np.float32)
            found = bounds(padded, np.int32(length), 30.0)
            assert tuple(map(int, found)) == speech_bounds(waveform.astype(np.int16), 30.0), (length, loud)


def test_the_command_compares_in_jax_alone_and_names_the_emotions(folder, tmp_path, capsys):
    out, recording = tmp_path / "tiny.stablehlo", tmp_path / "a.wav"
    soundfile.write(recording, sound(20000), SAMPLE_RATE)
    options = ("--to", "stablehlo", "--out", str(out), "--seconds", "2", "--recordings", str(recording))
    assert main(["export", str(folder), *options]) == 0
    output = capsys.readouterr().out
    assert "largest difference from the model on 1 recording: " in output and "median time on one core: " in output
    about = json.loads((tmp_path / "tiny.stablehlo.json").read_text())
    emotions = published.read_metadata(folder)["corpus"]["emotions"]
    assert about == {"format": "stablehlo", "emotions": emotions, "sample_rate": 16000, "max_samples": 32000}
    exported = jax.export.deserialize(bytearray(out.read_bytes()))
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    assert [shape.shape for shape in exported.in_avals] == [(32000,), ()]


def test_what_differs_from_the_model_is_not_written(folder, tmp_path, capsys, monkeypatch):
    wrong = stablehlo.Ran(np.full((3, len(published.read_metadata(folder)["corpus"]["emotions"])), np.nan), (1.0,) * 3)
    monkeypatch.setattr(stablehlo, "run", lambda *_: wrong)
    monkeypatch.setattr(stablehlo, "serialised", lambda _: b"program")
    before = set(tmp_path.rglob("*"))
    assert main(["export", str(folder), "--to", "stablehlo", "--out", str(tmp_path / "x.stablehlo")]) == 2
    assert "differ from the model's by nan, expected at most 0.0001; nothing was written" in capsys.readouterr().err
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"frontend__normalization": "speaker"}, (), "config.frontend.normalization is speaker"),
        ({"evaluation__batch_statistics": "speaker"}, (), "config.evaluation.batch_statistics is speaker"),
        ({}, ("--to", "onx"), "--to onx: not a format"),
        ({}, ("--seconds", "0"), "--seconds 0: expected more than 0"),
        ({}, ("--out", "x"), "--out x: expected a name that ends in .stablehlo"),
        ({}, ("--out", "nowhere/x.stablehlo"), "--out nowhere/x.stablehlo: expected a file in a folder that is there"),
        ({}, ("--seconds", "0.6", "--recordings", "a.wav"), "a.wav: 1.2 s, longer than --seconds 0.6"),
        ({}, ("--recordings", "b.wav"), "b.wav"),
        ({}, ("--out", "model/x.stablehlo"), "is a published model, which is never changed"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_written(
    tmp_path, monkeypatch, capsys, changes, options, message
):
    write(tmp_path / "model", "linear", **changes)
    soundfile.write(tmp_path / "a.wav", sound(20000), SAMPLE_RATE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stablehlo, "serialised", lambda _: pytest.fail("it was made all the same"))
    before = set(tmp_path.rglob("*"))
    assert main(["export", "model", "--to", "stablehlo", "--out", "x.stablehlo", *options]) == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.count("\n") == 1
    assert set(tmp_path.rglob("*")) == before


def test_windows_of_a_long_recording_begin_where_evaluation_s_do():
    window, length = 2 * 16_000, 600 * 16_000 - 1234
    count = -(-length // window)
    last, gaps = length - window, count - 1
    found = jax.vmap(lambda i: window_start(i, jnp.int32(last), jnp.int32(gaps)))(jnp.arange(count, dtype=jnp.int32))
    expected = [round(Fraction(i * last, gaps)) for i in range(count)]  # to the even one of two
    assert np.asarray(found).tolist() == expected
