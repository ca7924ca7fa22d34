"""Functionals: what they are, that they are kept, and that nothing half-made is."""

import dataclasses
import functools
import importlib
import importlib.util
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from ser_jax.baselines import functionals, opensmile
from ser_jax.baselines.functionals import FRONTEND, compute, load_functionals, own_functionals, own_names
from ser_jax.corpora.corpus import SAMPLE_RATE, make_corpus
from ser_jax.errors import UserError
from ser_jax.frontend import features


def noise(num_samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-3000, 3000, num_samples, dtype=np.int16)


@pytest.fixture
def corpus():
    table = pd.DataFrame({"id": ["a", "b", "c"], "emotion": ["anger", "sadness", "anger"], "speaker": list("xyx")})
    return make_corpus("tiny", table, [noise(9000 + 1000 * i, i) for i in range(3)], ("anger", "sadness"))


@pytest.fixture
def no_computing(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("computed again")

    return lambda: monkeypatch.setattr(functionals, "compute", fail)


def test_what_opensmile_will_take_is_said_before_it_starts(corpus, tmp_path, monkeypatch, capsys):
    said = []

    def compute(utterances, kind, *, progress):
        said.append(capsys.readouterr().err)
        return functionals.Functionals(np.zeros((len(utterances), 1), np.float32), ("x",))

    for name, value in (("compute", compute), ("_WORTH_TIMING", 3)):
        monkeypatch.setattr(functionals, name, value)
    monkeypatch.setattr(functionals.opensmile, "require", lambda kind: None)
    monkeypatch.setattr(functionals.opensmile, "version", lambda: "1")
    monkeypatch.setattr(functionals.opensmile, "seconds_of", lambda kind, waveforms, samples: samples / 30_000 * 240)
    load_functionals(corpus, "compare", tmp_path)
    assert said == ["tiny: openSMILE's compare of 3 utterances: about 4.0 min\n"]
    assert functionals.seconds_of_functionals(corpus, "compare", tmp_path) == 0.0  # they are kept


def test_own_functionals_are_those_of_pandas():
    samples = noise(20_000).astype(np.float32) / 32768
    log_mel = dataclasses.replace(FRONTEND, kind="log_mel")
    x, frames = features(log_mel, jnp.asarray(samples), jnp.int32(len(samples)))
    x = pd.DataFrame(np.asarray(x, np.float64)[: int(frames)])
    seconds = np.arange(len(x)) * 0.01
    expected = [x.mean(), x.std(ddof=0), *(x.quantile(q) for q in (0.05, 0.25, 0.5, 0.75, 0.95)), x.max() - x.min()]
    expected.append(np.polyfit(seconds, x.to_numpy(), 1)[0])
    np.testing.assert_allclose(own_functionals(samples), np.concatenate(expected), rtol=1e-3, atol=2e-3)
    assert len(own_names()) == len(set(own_names())) == 9 * 80
    assert own_names()[0] == "mean_mel1"
    assert own_names()[-1] == "slope_delta40"


@pytest.mark.parametrize("num_samples", [1, 100, SAMPLE_RATE, SAMPLE_RATE + 1])
def test_own_functionals_of_any_length_are_finite(num_samples):
    values = compute([("one", noise(num_samples)), ("silent", np.zeros(num_samples, np.int16))], "own").values
    assert values.dtype == np.float32
    assert np.isfinite(values).all()


def test_what_was_computed_is_kept_for_the_same_corpus_only(corpus, tmp_path, no_computing):
    first = load_functionals(corpus, "own", tmp_path)
    assert first.values.shape == (3, len(first.names))
    other = load_functionals(dataclasses.replace(corpus, fingerprint="other"), "own", tmp_path)
    np.testing.assert_array_equal(first.values, other.values)
    no_computing()
    again = load_functionals(corpus, "own", tmp_path)
    np.testing.assert_array_equal(first.values, again.values)
    assert again.names == first.names
    with pytest.raises(AssertionError, match="computed again"):
        load_functionals(dataclasses.replace(corpus, fingerprint="another"), "own", tmp_path)


def test_a_part_of_a_corpus_gets_its_own_rows_and_does_not_spoil_the_whole(corpus, tmp_path):
    part = dataclasses.replace(corpus, utterances=corpus.utterances.iloc[[2, 0]].reset_index(drop=True))
    of_part = load_functionals(part, "own", tmp_path).values
    whole = load_functionals(corpus, "own", tmp_path).values
    np.testing.assert_array_equal(of_part, whole[[2, 0]])
    np.testing.assert_array_equal(load_functionals(part, "own", tmp_path).values, whole[[2, 0]])


def test_a_damaged_file_is_made_again_and_an_interrupted_one_is_not_left(corpus, tmp_path, monkeypatch):
    whole = load_functionals(corpus, "own", tmp_path).values
    (path,) = (tmp_path / "functionals" / "tiny").iterdir()
    path.write_bytes(path.read_bytes()[:500])
    np.testing.assert_array_equal(load_functionals(corpus, "own", tmp_path).values, whole)
    path.unlink()
    monkeypatch.setattr(np, "savez", lambda file, **_: file.write(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load_functionals(corpus, "own", tmp_path)
    assert list(path.parent.iterdir()) == []


def test_opensmile_missing_is_one_line_with_the_command_and_the_licence(monkeypatch):
    monkeypatch.setitem(sys.modules, "opensmile", None)
    with pytest.raises(UserError, match=r"pip install opensmile==.* non-commercial") as refusal:
        functionals.require("egemaps")
    assert "\n" not in str(refusal.value)
    assert functionals.require("own") == 720


def test_an_unknown_kind_names_those_there_are():
    with pytest.raises(UserError, match=r"'egemap'.* own, egemaps, compare, emobase"):
        compute([("a", noise(100))], "egemap")


DIRECTLY = """
import sys, numpy, opensmile
for name in sys.argv[2:]:
    smile = opensmile.Smile(getattr(opensmile.FeatureSet, name), opensmile.FeatureLevel.Functionals)
    table = smile.process_signal(numpy.load(sys.argv[1]), 16000)
    numpy.savez(f"{sys.argv[1]}.{name}.npz", values=table.to_numpy()[0], names=list(table.columns))
"""


@pytest.fixture
def needs_opensmile():
    if importlib.util.find_spec("opensmile") is None:
        pytest.skip("openSMILE is not installed: pip install opensmile==2.6.0")


def test_opensmile_s_sets_are_opensmile_s_also_beside_tensorflow(needs_opensmile, tmp_path):
    importlib.import_module("tensorflow")  # openSMILE would crash in this process now
    rng = np.random.default_rng(1)
    time = np.arange(16_000) / SAMPLE_RATE
    voice = 8000 * np.sign(np.sin(2 * np.pi * 140 * time)) * (1 + np.sin(9 * time)) / 2 + rng.normal(0, 200, len(time))
    voice = voice.astype(np.int16)
    path = tmp_path / "voice.npy"
    np.save(path, voice.astype(np.float32) / 32768)
    subprocess.run([sys.executable, "-c", DIRECTLY, path, *opensmile.SETS.values()], check=True)
    for kind, name in opensmile.SETS.items():
        expected = np.load(f"{path}.{name}.npz")
        result = compute([("voice", voice), ("short", noise(50))], kind)
        assert result.values.shape == (2, opensmile.DIMS[kind])
        assert list(result.names) == expected["names"].tolist()
        np.testing.assert_array_equal(result.values[0], expected["values"].astype(np.float32))


def test_a_crash_of_opensmile_is_an_error_of_one_line(needs_opensmile, monkeypatch):
    monkeypatch.setattr(opensmile, "_names", functools.partial(os._exit, 1))
    with pytest.raises(UserError, match="openSMILE's process died"):
        compute([("voice", noise(100))], "egemaps")
