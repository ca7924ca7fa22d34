import sys
import types

import numpy as np
import pytest

from ser_jax.corpora.microphone import record
from ser_jax.errors import UserError


class NoDevice(Exception):
    pass


def sounddevice(rec):
    return types.SimpleNamespace(rec=rec, PortAudioError=NoDevice)


def test_so_many_seconds_are_recorded_in_mono_at_16_khz(monkeypatch):
    def rec(frames, *, samplerate, channels, dtype, blocking):
        assert (frames, samplerate, channels, dtype, blocking) == (24_000, 16_000, 1, "float32", True)
        return np.full((frames, channels), 0.25, np.float32)

    monkeypatch.setitem(sys.modules, "sounddevice", sounddevice(rec))
    samples = record(1.5)
    assert samples.shape == (24_000,) and samples.dtype == np.float32 and (samples == 0.25).all()


def test_without_the_package_or_a_microphone_it_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(UserError, match="--microphone: needs the package sounddevice; pip install sounddevice"):
        record(1.0)
    assert capsys.readouterr().err == ""  # nothing is said to be recorded

    def rec(frames, **options):
        raise NoDevice("Error querying device -1")

    monkeypatch.setitem(sys.modules, "sounddevice", sounddevice(rec))
    with pytest.raises(UserError, match=r"--microphone: no recording .* \(Error querying device -1\)"):
        record(1.0)
    for seconds in (0.0, -1.0, 1e-5, 1e9, float("nan"), float("inf")):
        with pytest.raises(UserError, match="expected seconds, from one sample to 12 hours"):
            record(seconds)
