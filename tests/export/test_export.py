"""An export computes what the model does at every length. What cannot be exported is refused before it is written."""

import dataclasses
import functools
import json
import os
import re
import sys
import types
from fractions import Fraction
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import soundfile
import soxr

from ser_jax import config as configuration
from ser_jax.baselines import linear
from ser_jax.commands import export as command
from ser_jax.commands.main import main
from ser_jax.corpora.audio import heard as heard_array
from ser_jax.corpora.corpus import SAMPLE_RATE, make_corpus
from ser_jax.corpora.protocols import make_protocol
from ser_jax.corpora.silence import speech_bounds
from ser_jax.encoders import extract, weights
from ser_jax.encoders.architecture import WhisperArchitecture
from ser_jax.encoders.store import LoadedEncoder
from ser_jax.errors import UserError
from ser_jax.export import eight_bits, runtime
from ser_jax.export import program as programs
from ser_jax.export.formats import FORMATS
from ser_jax.export.onnx import _keep_int8
from ser_jax.export.rounding import rounded_share
from ser_jax.export.speeds import at_speeds
from ser_jax.export.tensorflow import _converted
from ser_jax.models import FAMILIES, ops
from ser_jax.models.mask import Mask
from ser_jax.studies import workdirs
from ser_jax.studies.recognise import make_recogniser
from ser_jax.studies.workdirs import Restored, recordings
from ser_jax.training import devices, published
from ser_jax.training.population import describe, initial_state, make_population
from ser_jax.training.state import for_evaluation
from tests.training.tiny import CONFIG, tiny_corpus, tiny_population
from tests.untrained import keep

ROOT = Path(__file__).parents[2]
SECONDS = 3.0
LENGTHS = (400, 3201, 8000, 16000, 16001, 24123, 40000, 48000)


@functools.cache
def drawn(name):
    """A population of two runs as it is drawn, trimmed and normalised by the training folds, with windows of 0.5 s."""
    tiny = {option: value for option, value in FAMILIES[name].tiny.items() if option != "tracks"}  # a corpus has them
    population = tiny_population(
        *tiny_corpus(),
        model={"name": name, **tiny},
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


@pytest.fixture
def recogniser(folder):
    return make_recogniser(Restored("tiny", folder, published.read_metadata(folder)))


@pytest.fixture
def program(folder, recogniser):
    metadata = recogniser.restored.metadata
    return programs.make_program(metadata, programs.of_network(metadata, folder, recogniser.runs), SECONDS)


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
    network = programs.of_network(metadata, folder, recogniser.runs)
    program = programs.make_program(metadata, network, SECONDS)
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
    assert all(np.isnan(call(padded, np.int32(number))).all() for number in (0, program.max_samples + 1))


def arguments(program, waveform):
    padded = np.pad(waveform / np.float32(32768), (0, program.max_samples - len(waveform)))
    return padded.astype(np.float32), np.int32(len(waveform))


@pytest.mark.parametrize("peak", [1e-30, 1e-8, 1e-4, 1 / 129, 1 / 127, 0.5, 1.5, 15.0, 20.0, 255.0, 32768.0, 4e4, 1e7])
def test_a_program_scales_a_level_as_the_model_does(recogniser, program, peak):
    waveform = sound(20000) / np.float32(32768)
    waveform *= np.float32(peak) / np.abs(waveform).max()
    expected = recogniser.predict(recordings({"a": heard_array("a", waveform, SAMPLE_RATE).samples}, "xy"), False)
    padded = np.pad(waveform, (0, program.max_samples - len(waveform)), constant_values=0.7)
    found = jax.jit(program.call)(padded, np.int32(len(waveform)))
    np.testing.assert_allclose(found, expected.probabilities[0], atol=2e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e31])
def test_a_program_refuses_samples_that_the_model_refuses(program, value):
    waveform, size = arguments(program, sound(20000))
    call = jax.jit(program.call)
    for place in (0, 9999, size - 1):
        waveform[place], kept = value, waveform[place]
        assert np.isnan(call(waveform, size)).all()
        waveform[place] = kept
    waveform[size] = value
    assert np.isfinite(call(waveform, size)).all()


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


def exported(form, folder, tmp_path, capsys, *options, quieter=1):
    """Exports the tiny model, compared on one recording; returns the file and what the command printed."""
    out, recording = tmp_path / f"tiny.{form}", tmp_path / "a.wav"
    soundfile.write(recording, sound(20000) // quieter, SAMPLE_RATE)
    places = ("--out", str(out), "--seconds", "2", "--recordings", str(recording))
    assert main(["export", str(folder), "--to", form, *places, *options]) == 0
    about = json.loads((tmp_path / f"tiny.{form}.json").read_text())
    emotions = published.read_metadata(folder)["corpus"]["emotions"]
    assert about == {"format": form, "emotions": emotions, "sample_rate": 16000, "max_samples": 32000}
    return out, capsys.readouterr().out


def test_stablehlo_is_compared_in_jax_alone(folder, tmp_path, capsys):
    out, said = exported("stablehlo", folder, tmp_path, capsys)
    assert "largest difference from the model on 1 recording, in JAX alone: " in said
    assert "median time on one core: " in said
    with out.open("rb") as file:
        program = jax.export.deserialize(bytearray(file.read()))
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}
    assert [shape.shape for shape in program.in_avals] == [(32000,), ()]


def test_a_soft_recording_is_compared_as_the_program_scales_it(folder, tmp_path, capsys):
    _, said = exported("stablehlo", folder, tmp_path, capsys, quieter=100)
    assert difference(said) < 1e-5


def test_weights_of_8_bits_are_a_smaller_file_that_says_nearly_the_same(tmp_path, capsys, monkeypatch):
    folder = write(tmp_path / "model", "cnn")
    metadata = published.read_metadata(folder)
    whole = programs.make_program(metadata, programs.of_network(metadata, folder, [0, 1]), 2.0)
    assert FORMATS["stablehlo"].write(whole, tmp_path / "whole") == 0
    merged = dataclasses.replace(FORMATS["stablehlo"], write=lambda *a, of=FORMATS["stablehlo"]: of.write(*a) - 300)
    monkeypatch.setitem(FORMATS, "stablehlo", merged)  # as if a converter had merged axes of 300 weights
    small, said = exported("stablehlo", folder, tmp_path, capsys, "--int8")
    weights = 4 * sum(leaf.size for leaf in jax.tree.leaves(drawn("cnn")[0].ema_parameters))
    assert (tmp_path / "whole").stat().st_size - small.stat().st_size > weights / 2
    assert 1e-6 < difference(said) < 0.05 and "another emotion than the model's: 0 of 1 recording" in said
    sizes = [leaf.size for leaf in jax.tree.leaves(drawn("cnn")[0].ema_parameters) if leaf.ndim > 2]
    assert f"weights of 8 bits: {sum(size for size in sizes if size >= 256) - 300:,} of {weights // 4:,} (" in said
    assert " %); 300 more are rounded but stay float32: the converter merged their axes\n" in said


def test_weights_of_8_bits_are_found_in_a_converted_program():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 5, 6, 8)).astype(np.float32)  # runs, height, input, output
    whole, scale = eight_bits.packed({"kernel": kernel}, stacked=True)["kernel"]
    assert scale.shape == (3, 1, 1, 8) and np.abs(whole * scale - kernel).max() <= scale.max() / 2 * 1.001
    rounded = whole * scale
    merged = np.moveaxis(rounded, 0, 2).reshape(5, 6, 24)  # what a convolution with a group for each run has
    for values in (rounded, rounded.transpose(3, 2, 0, 1), merged):
        integers, scales = eight_bits.found(values)
        assert integers.dtype == np.int8 and scales.size == 24
        np.testing.assert_allclose(integers * scales, values, atol=1e-6)
    assert eight_bits.found(kernel) is None and eight_bits.found(rounded[:, :1, :1]) is None  # not rounded; small
    almost = np.where(np.arange(300) % 127, np.arange(300) % 127 * 1000 + 1, 127_000)  # to a thousandth of a scale
    for numbers in (np.arange(512), np.arange(300) - 150, np.arange(300) * 1e6, almost):  # positions are not weights
        for values in (numbers[None], np.outer([1, 3], numbers), np.tile(numbers, (2, 3, 1))):
            parts = eight_bits.found(values.astype(np.float32))
            assert parts is None or np.array_equal(parts[0] * parts[1], values.astype(np.float32))
    assert eight_bits.found(almost[None].astype(np.float32)) is None
    whole, scale = eight_bits.found(np.tile(np.float32([0, 127]), (200, 1)))  # a mask, as it is
    assert eight_bits.are_whole(whole * scale) and not eight_bits.are_whole(rounded)


def difference(said):
    return float(re.search(r"largest difference .*: ([\d.e-]+)", said)[1])


def test_files_run_in_their_own_runtimes_and_as_the_page_says(folder, tmp_path, monkeypatch, capsys):
    for module in ("tensorflow", "tf2onnx", "onnxruntime"):
        pytest.importorskip(module)
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "exporting.md").read_text(), re.M | re.S)
    metadata = published.read_metadata(folder)
    recogniser = make_recogniser(Restored("tiny", folder, metadata))
    expected = recogniser.predict(recordings({"a": sound(20000)}, metadata["corpus"]["emotions"]), False).probabilities[
        0
    ]
    runtimes = {"onnx": "ONNX Runtime", "savedmodel": "TensorFlow", "tflite": "LiteRT", "stablehlo": "JAX alone"}
    for form, where in runtimes.items():
        out, said = exported(form, folder, tmp_path, capsys)
        assert f"in {where}: " in said and difference(said) < 1e-5
        out.rename(f"emodb.{form}")
        (tmp_path / f"tiny.{form}.json").rename(f"emodb.{form}.json")
        (block,) = [one for one in blocks if f'"emodb.{form}"' in one]
        names = {}
        exec(blocks[0], names)
        exec(block, names)
        np.testing.assert_allclose(names["probabilities"], expected, atol=1e-5)

    # At a length of its own, beyond what the command tried, and too short for the model.
    waveform = sound(9000, 1)
    expected = recogniser.predict(recordings({"a": waveform}, metadata["corpus"]["emotions"]), False).probabilities[0]
    padded = np.pad(waveform / np.float32(32768), (0, 23000))
    call = interpreter.Interpreter("emodb.tflite").get_signature_runner()
    found = call(waveform=padded, num_samples=np.int32(9000))["probabilities"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.isnan(call(waveform=padded, num_samples=np.int32(0))["probabilities"]).all()
    padded[5] = np.nan
    assert np.isnan(call(waveform=padded, num_samples=np.int32(9000))["probabilities"]).all()


def test_what_differs_from_the_model_is_not_written(folder, tmp_path, capsys, monkeypatch):
    wrong = runtime.Ran(np.full((3, len(published.read_metadata(folder)["corpus"]["emotions"])), np.nan), (1.0,) * 3)
    monkeypatch.setattr(runtime, "run", lambda *_: wrong)
    before = set(tmp_path.rglob("*"))
    for form in FORMATS:
        monkeypatch.setitem(FORMATS, form, dataclasses.replace(FORMATS[form], write=write_nothing))
        assert main(["export", str(folder), "--to", form, "--out", str(tmp_path / f"x.{form}")]) == 2
        assert "differ from the model's by nan, expected at most 0.0001; nothing was written" in capsys.readouterr().err
        assert set(tmp_path.rglob("*")) == before


def write_nothing(program, path):
    (path / "program" if path.is_dir() else path).write_bytes(b"program")


def test_a_program_that_does_not_run_is_one_line():
    with pytest.raises(UserError, match="the exported program does not run in Nowhere: ValueError: not this"):
        runtime.run("def load(path):\n    raise ValueError('not this')\n", "Nowhere", Path("x"), 4, [], 1)


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
        ({}, ("--to", "savedmodel", "--out", "there.savedmodel"), "there.savedmodel: expected a new folder"),
        (
            {},
            ("--to", "tflite", "--out", "x.tflite"),
            "--to tflite: needs ai_edge_litert, which is not installed; expected `pip install tensorflow-cpu "
            "ai-edge-litert tf2onnx onnxruntime`",
        ),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_written(
    tmp_path, monkeypatch, capsys, changes, options, message
):
    write(tmp_path / "model", "linear", **changes)
    (tmp_path / "there.savedmodel").mkdir()
    soundfile.write(tmp_path / "a.wav", sound(20000), SAMPLE_RATE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)  # as if it were not installed
    made = dataclasses.replace(FORMATS["stablehlo"], write=lambda *_: pytest.fail("it was made all the same"))
    monkeypatch.setitem(FORMATS, "stablehlo", made)
    before = set(tmp_path.rglob("*"))
    assert main(["export", "model", "--to", "stablehlo", "--out", "x.stablehlo", *options]) == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.count("\n") == 1
    assert set(tmp_path.rglob("*")) == before


def test_of_several_variants_one_has_to_be_named_whatever_the_others_are(folder, tmp_path, monkeypatch, capsys):
    metadata = published.read_metadata(folder)
    baseline = metadata | {"config": metadata["config"] | {"model": {"name": "linear_svm"}}}
    found = [Restored("network", folder, metadata), Restored("svm", folder, baseline)]
    monkeypatch.setattr(workdirs, "find", lambda *_, **__: found)
    assert main(["export", str(folder), "--to", "stablehlo", "--out", str(tmp_path / "x.stablehlo")]) == 2
    assert "has several variants; choose one of --variant network, svm" in capsys.readouterr().err


def test_what_the_converter_does_not_take_is_one_line_and_what_else_it_says_is_shown(tmp_path, monkeypatch, capfd):
    tensorflow = pytest.importorskip("tensorflow")
    program = programs.Program(lambda waveform, num_samples: jnp.sort(waveform), (), 4)
    with pytest.raises(UserError, match=r"does not take this model \(.*sort.*\); expected --to stablehlo") as raised:
        FORMATS["tflite"].write(program, tmp_path / "x.tflite")
    assert "\n" not in str(raised.value) and len(str(raised.value)) <= 300
    assert not (tmp_path / "x.tflite").exists() and "sort" not in capfd.readouterr().err

    class Converter:
        @staticmethod
        def from_saved_model(folder):
            os.write(2, b"a warning")
            print("interrupted", file=sys.stderr)
            return types.SimpleNamespace(convert=lambda: b"content")

    monkeypatch.setattr(tensorflow.lite, "TFLiteConverter", Converter)
    assert _converted("") == b"content" and capfd.readouterr().err == "interrupted\na warning"


@functools.cache
def heard():
    """A tiny encoder, and its name for what is made of it."""
    architecture = WhisperArchitecture(width=8, depth=1, heads=2, hidden=8, mel_bands=10, positions=400)
    rng = np.random.default_rng(0)
    shapes = weights.parameter_shapes(architecture)
    parameters = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 3, shapes)
    return LoadedEncoder("tiny", architecture, parameters, sha256="a" * 64, source="here")


def on_an_encoder(folder, form, model, **options):
    """Writes a model as it is drawn, or fitted, on the states of the tiny encoder; returns its workdir."""
    table = pd.DataFrame({"id": list("abcdef"), "emotion": ["x", "y"] * 3, "speaker": list("ppqqrr")})
    voices = [sound(9000 + 1000 * i, i) // (1 + i % 2) for i in range(6)]
    speech = make_corpus("speech", table, voices, ("x", "y"))
    protocol = make_protocol(speech, "leave_one_speaker_out", validation_speakers=0)
    request = extract.make_request(heard().architecture, form, ["0", "1"], window_seconds=3.0, trim_db=30.0, **options)
    packed = extract.prepare_states(speech, heard(), request, folder)
    frontend = {"kind": "precomputed", "features": packed.name, "normalization": "train", "trim_db": 0.0}
    changes = {
        "frontend": frontend,
        "augmentation": {"mixup": 0.0, "speed": 0.0},
        "protocol": {"validation_speakers": 0},
    }
    config = configuration.merge(CONFIG, changes) | {"model": model}
    population = make_population(config, speech, protocol, features=packed, data_dir=str(folder))
    keep(folder, population)
    return folder


def test_a_head_on_an_encoder_is_exported_with_the_encoder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(extract, "load", lambda name, data_dir: heard())
    head = {"name": "encoder_head", "states": 2, "width": 4}
    folder = on_an_encoder(tmp_path / "work", "frames", head, average=4)
    paths = [tmp_path / f"{length}.wav" for length in (5000, 21000, 32000)]
    for path in paths:
        soundfile.write(path, sound(int(path.stem), 1), SAMPLE_RATE)
    options = ("--to", "stablehlo", "--out", str(tmp_path / "x.stablehlo"))
    assert main(["export", str(folder), *options, "--recordings", *map(str, paths)]) == 0
    assert difference(capsys.readouterr().out) < 1e-5
    assert json.loads((tmp_path / "x.stablehlo.json").read_text())["max_samples"] == 48000  # the encoder's window
    assert main(["export", str(folder), *options, "--seconds", "3.5"]) == 2
    assert "takes at most 3 s" in capsys.readouterr().err
    monkeypatch.setattr(extract, "load", lambda name, data_dir: dataclasses.replace(heard(), sha256="b" * 64))
    assert main(["export", str(folder), *options]) == 2
    assert "encoder tiny: sha256 bbbbbbbbbbbb" in capsys.readouterr().err


@pytest.mark.parametrize(("scale", "kept"), [(1.0, 0), (0.3, 256)])
def test_constants_of_whole_numbers_are_no_weights_in_the_count(scale, kept):
    onnx = pytest.importorskip("onnx")
    mask = np.tril(np.ones((16, 16), np.float32)) * np.float32(scale)
    graph = onnx.helper.make_graph([], "x", [], [], [onnx.numpy_helper.from_array(mask, "mask")])
    assert _keep_int8(graph) == kept
    assert graph.initializer[0].data_type == onnx.TensorProto.INT8  # it is small either way


def test_an_onnx_file_has_scans_and_chooses_between_infinite_numbers(tmp_path):
    """As encoders do: each layer's output is one of a scan, and GELU chooses between polynomials, or is approximate."""
    onnxruntime, _, onnx = map(pytest.importorskip, ("onnxruntime", "tf2onnx", "onnx"))
    kernel = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    packed = eight_bits.packed({"kernel": kernel}, stacked=False)

    def call(waveform, num_samples):
        def layer(x, shift):
            x = jax.nn.gelu(x + shift, approximate=False)
            return x, x[:2]

        x, each = jax.lax.scan(layer, waveform, jnp.arange(3.0))
        corner = jax.lax.dynamic_update_slice(each, jnp.ones((2, 1)), (num_samples, num_samples - 3))
        product = jnp.maximum(waveform, -9)[None] @ eight_bits.unpacked(packed)["kernel"]
        below = jnp.where(jnp.arange(300.0)[None] < 60 * num_samples, 1.0, 0.0).sum(
            axis=1
        )  # positions stay as they are
        return jnp.concatenate([jax.nn.gelu(x + 0.5), corner.reshape(-1), product[0], below])

    assert FORMATS["onnx"].write(programs.Program(call, (), 4, int8=True), tmp_path / "x.onnx") == 256
    constants = onnx.load(tmp_path / "x.onnx").graph.initializer
    assert [np.prod(one.dims) for one in constants if one.data_type == onnx.TensorProto.INT8] == [256]
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx")
    waveform = np.array([-0.5, 2.0, -7.0, -400.0], np.float32)
    for size in map(np.int32, (0, 1, 3, 4, 9)):  # what would go beyond the end is written at the end
        (found,) = session.run(None, {"waveform": waveform, "num_samples": np.array(size)})
        np.testing.assert_allclose(found, call(waveform, size), atol=5e-6, rtol=1e-6)


def test_an_onnx_file_has_maxima_of_windows(tmp_path):
    onnxruntime, _, _ = map(pytest.importorskip, ("onnxruntime", "tf2onnx", "onnx"))

    def call(waveform, num_samples):
        mask = Mask(jnp.reshape(num_samples, (1,)), 8, 6)

        def of_run(scale):
            return ops.max_pool(scale * waveform.reshape(1, 8, 6, 1), mask, (3, 3), (2, 2))[0]

        return jax.vmap(of_run)(jnp.array([1.0, -1.0])).reshape(-1)

    FORMATS["onnx"].write(programs.Program(call, (), 48), tmp_path / "x.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx")
    waveform, size = np.random.default_rng(0).normal(size=48).astype(np.float32), np.array(5, np.int32)
    (found,) = session.run(None, {"waveform": waveform, "num_samples": size})
    np.testing.assert_array_equal(found, call(jnp.asarray(waveform), jnp.asarray(size)))


@pytest.mark.parametrize("speeds", [(1.0,), (0.9, 1.0, 1.12)])
def test_a_linear_model_on_pooled_states_is_what_it_is_in_numpy(monkeypatch, tmp_path, speeds):
    monkeypatch.setattr(extract, "load", lambda name, data_dir: heard())
    window = {"window_seconds": 3.0, "trim_db": 30.0}
    request = extract.make_request(heard().architecture, "pooled", ["0", "1"], **window, speeds=speeds)
    rng = np.random.default_rng(0)
    fitted = []
    for _ in range(2):
        scaling, weights_ = (rng.normal(size=32), rng.uniform(1, 2, 32)), rng.normal(size=(2, 32))
        fitted.append(linear.Fitted(*scaling, weights_, rng.normal(size=2), 1.0, np.zeros(0)))
    voices = {str(length): sound(length, length) for length in (4000, 8000, 30001)}
    speech = recordings(voices, ("x", "y"))
    packed = extract.prepare_states(speech, heard(), request, tmp_path)
    versions = packed.values.reshape(len(voices), len(speeds), -1)
    expected = np.mean([linear.predict(one, versions) for one in fitted], axis=0)
    metadata = {"config": {"model": {"name": "lda"}}, "corpus": {"emotions": ["x", "y"]}}
    metadata["features"] = {"info": packed.info}
    longest = 3.0 * min(speeds)  # the slowest version is what fills the window
    assert programs.check_exportable(metadata, None, "m") == pytest.approx(longest)
    program = programs.make_program(metadata, programs.of_linear(fitted), longest)
    call = jax.jit(program.call)
    found = [call(*arguments(program, waveform)) for waveform in voices.values()]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 1e-3
    assert np.isnan(call(*arguments(program, np.ones(100, np.int16)))).all()  # fewer samples than the encoder needs
    for wrong in ([1.0, 0.8765], [np.pi / 3]):
        with pytest.raises(UserError, match=r"m: its encoder takes recordings at speed .*, which is no ratio of"):
            programs.check_exportable(metadata | {"features": {"info": packed.info | {"speeds": wrong}}}, None, "m")


def test_speeds_are_heard_as_the_encoder_s_cache_hears_them():
    speeds = (0.88, 1.0, 1.06, 2.0)
    waveform = sound(12345)
    waveform[:8] = 0
    padded = np.pad(waveform / np.float32(32768), (0, 20000 - len(waveform)))
    found, numbers = jax.jit(lambda samples, number: at_speeds(samples, number, speeds))(padded, len(waveform))
    for row, number, speed in zip(np.asarray(found), numbers, speeds, strict=True):
        expected = np.round(soxr.resample(waveform.astype(np.float32), 16000 * speed, 16000))[: int(number)]
        assert int(number) == round(len(waveform) / speed) and not row[int(number) :].any()
        wrong = np.abs(32768 * row[: len(expected)] - expected)
        assert wrong[8:].max() <= 1 and np.mean(wrong[8:] > 0) < 0.01  # of 16 bits: rounded to the other side
        assert np.abs(expected).max() > 3000


def test_the_command_knows_the_formats():
    assert set(command.TARGETS) == set(FORMATS)


def test_windows_of_a_long_recording_begin_where_evaluation_s_do():
    window, length = 2 * 16_000, 600 * 16_000 - 1234
    count = -(-length // window)
    last, gaps = length - window, count - 1
    found = jax.vmap(lambda i: rounded_share(i, jnp.int32(last), jnp.int32(gaps)))(jnp.arange(count, dtype=jnp.int32))
    expected = [round(Fraction(i * last, gaps)) for i in range(count)]  # to the even one of two
    assert np.asarray(found).tolist() == expected
