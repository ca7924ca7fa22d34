import io
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from ser_jax.corpora import foreign
from ser_jax.corpora.audio import find_audio, read_recording, to_int16
from ser_jax.errors import UserError


def read_audio(path):
    """The samples of a file in [-1, 1)."""
    return read_recording(path).samples / np.float32(32768)


def tone(rate, seconds=1.0, hertz=440.0):
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


def test_16_khz_16_bit_mono_is_read_to_the_last_bit(tmp_path):
    samples = np.random.default_rng(0).integers(-32768, 32768, 4001).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 16000)
    read = read_audio(tmp_path / "a.wav")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, samples / 32768)
    np.testing.assert_array_equal(to_int16(read), samples)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_any_rate_becomes_16_khz(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", tone(rate), rate, subtype="FLOAT")
    read = read_audio(tmp_path / "a.wav")
    assert len(read) == 16000
    inner = slice(500, -500)  # a tone that starts at once rings at its ends
    np.testing.assert_allclose(read[inner], tone(16000)[inner], atol=1e-4)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
def test_any_width_is_read(tmp_path, subtype):
    soundfile.write(tmp_path / "a.wav", tone(16000), 16000, subtype=subtype)
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav"), tone(16000), atol=0.01)


@pytest.mark.parametrize("suffix", ["flac", "ogg", "mp3", "aiff"])
def test_any_format_is_read(tmp_path, suffix):
    soundfile.write(tmp_path / f"a.{suffix}", tone(16000), 16000)
    read = read_audio(tmp_path / f"a.{suffix}")
    inner = slice(1600, 14400)
    np.testing.assert_allclose(read[inner], tone(16000)[inner], atol=0.02)


def test_channels_are_averaged(tmp_path):
    gains = np.array([1.0, 0.5, -0.25, 0.1, 0.25, 0.2])
    soundfile.write(tmp_path / "six.wav", tone(16000)[:, None] * gains, 16000, subtype="PCM_24")
    np.testing.assert_allclose(read_audio(tmp_path / "six.wav"), tone(16000) * gains.mean(), atol=2**-16 + 1e-6)
    soundfile.write(tmp_path / "equal.wav", np.stack([tone(16000)] * 2, axis=1), 16000)
    soundfile.write(tmp_path / "mono.wav", tone(16000), 16000)
    np.testing.assert_array_equal(read_audio(tmp_path / "equal.wav"), read_audio(tmp_path / "mono.wav"))


def test_a_long_recording_read_in_blocks_equals_one_read_at_once(tmp_path):
    rate, minutes = 8000, 20
    noise = np.random.default_rng(0).integers(-3000, 3000, rate * 60 * minutes).astype(np.int16)
    soundfile.write(tmp_path / "long.wav", noise, rate)
    read = read_audio(tmp_path / "long.wav")
    assert len(read) == 16000 * 60 * minutes
    at_once = soxr.resample((noise / 32768).astype(np.float32), rate, 16000, quality="VHQ")
    np.testing.assert_array_equal(read, to_int16(at_once) / 32768)


def test_int16_rounds_to_the_nearest_step_and_clips():
    steps = np.array([0.4, 0.6, -0.6, 1.5, 2.5], np.float32)
    assert to_int16(steps / 32768).tolist() == [0, 1, -1, 2, 2]
    assert to_int16(np.array([1.0, 1.7, -1.0, -2.0], np.float32)).tolist() == [32767, 32767, -32768, -32768]


def wav_bytes(tmp_path):
    soundfile.write(tmp_path / "whole.wav", tone(16000), 16000)
    return (tmp_path / "whole.wav").read_bytes()


def nan_wav(value):
    def write(path, _):
        soundfile.write(path, np.array([0.0, value, 0.1]), 16000, subtype="FLOAT")

    return write


def cut_flac(path, _):
    soundfile.write(path, np.random.default_rng(0).normal(size=16000) * 0.1, 16000, format="FLAC")
    path.write_bytes(path.read_bytes()[:20000])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path, wav: None, "no such audio file"),
        (lambda path, wav: path.mkdir(), "a folder, expected an audio file"),
        (lambda path, wav: path.write_bytes(b""), "an empty file"),
        (lambda path, wav: path.write_bytes(wav[:20]), "cannot be read as audio"),
        (lambda path, wav: path.write_bytes(wav[:40]), "cannot be read as audio"),
        (lambda path, wav: path.write_bytes(wav[:44]), "cut short, it holds 0 bytes of audio, expected 32000"),
        (lambda path, wav: path.write_bytes(wav[:10044]), "cut short, it holds 10000 bytes of audio, expected 32000"),
        (lambda path, wav: path.write_text("this is no audio\n" * 100), "cannot be read as audio"),
        (
            lambda path, wav: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1"),
            "git lfs pull",
        ),
        (lambda path, wav: path.write_bytes(b"\n<!doctype HTML><p>404</p>" * 9), "a web page"),
        (lambda path, wav: path.write_bytes(b"PK\x03\x04" + wav), "a zip archive"),
        (lambda path, wav: path.write_bytes(b"\x1f\x8b\x08" + wav), "compressed by gzip"),
        (lambda path, wav: path.write_bytes(bytes(len(wav))), "nothing but zeros"),
        (lambda path, wav: soundfile.write(path, np.zeros(0), 16000), "audio without samples"),
        (nan_wav(np.nan), "NaN or infinity"),
        (nan_wav(-np.inf), "NaN or infinity"),
        (nan_wav(1e38), r"NaN or infinity, or above 1e\+30"),
        (cut_flac, "cannot be read as audio"),
    ],
)
def test_what_is_no_whole_audio_file_is_refused_in_one_line(tmp_path, write, message):
    path = tmp_path / "bad.wav"
    write(path, wav_bytes(tmp_path))
    with pytest.raises(UserError, match=message) as error:
        read_audio(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_opened_a_second_time_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(16000), 16000)

    def fail(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(UserError, match=r"a\.wav: cannot be opened again \(Too many open files\)"):
        read_recording(path)


def test_a_wav_written_to_a_pipe_promises_no_length_and_is_read(tmp_path):
    wav = wav_bytes(tmp_path)
    unknown = b"\xff\xff\xff\xff"
    (tmp_path / "pipe.wav").write_bytes(wav[:4] + unknown + wav[8:40] + unknown + wav[44:])
    np.testing.assert_array_equal(read_audio(tmp_path / "pipe.wav"), read_audio(tmp_path / "whole.wav"))


def test_audio_is_found_below_a_folder_but_not_where_it_is_hidden(tmp_path):
    for name in ("b/2.wav", "a.FLAC", "notes.txt", ".hidden/3.wav", "__MACOSX/4.wav", "b/._2.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_audio(tmp_path) == [tmp_path / "a.FLAC", tmp_path / "b" / "2.wav"]


def test_links_are_followed_once_and_what_is_not_readable_is_found_all_the_same(tmp_path):
    (tmp_path / "elsewhere" / "joy").mkdir(parents=True)
    (tmp_path / "elsewhere" / "joy" / "1.wav").touch()
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "joy").symlink_to(tmp_path / "elsewhere" / "joy")
    (corpus / "deeper").mkdir()
    (corpus / "deeper" / "loop").symlink_to(corpus)
    (corpus / "dangling.wav").symlink_to(tmp_path / "gone.wav")
    for name in ("phone.m4a", "browser.WEBM", "call.amr", "raw.raw", "old.sph"):
        (corpus / name).touch()
    names = [str(path.relative_to(corpus)) for path in find_audio(corpus)]
    assert names == sorted(["browser.WEBM", "call.amr", "dangling.wav", "joy/1.wav", "old.sph", "phone.m4a", "raw.raw"])
    with pytest.raises(UserError, match=r"dangling.wav: a link to a file that is not there"):
        read_audio(corpus / "dangling.wav")


def test_a_folder_that_may_not_be_read_is_never_passed_over(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refusing(path):  # the tests may run as root, whom no mode stops
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=r"closed: cannot be read \(Permission denied\)"):
        find_audio(tmp_path)


def sound(seconds=1.5):
    time = np.arange(int(16000 * seconds)) / 16000
    return 0.1 * np.sin(2 * np.pi * 150 * time) * (1 + 0.5 * np.sin(2 * np.pi * 3 * time))


def dither(like):
    return np.random.default_rng(0).integers(-1, 2, len(like)) / 32768


def recording_of(tmp_path, samples, subtype):
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype=subtype)
    return read_recording(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("make", "subtype", "gain", "note", "says"),
    [
        (lambda x: x, "PCM_16", 1, None, ""),
        (lambda x: (x * 32768).astype(np.float32), "FLOAT", 1, "scaled_down", "scaled by 3.05176e-05"),
        (lambda x: (x * 2**23).astype(np.float32), "FLOAT", 1, "scaled_down", "scaled by 1.19209e-07"),
        (lambda x: x * 200, "FLOAT", 0.1 / 0.15, "scaled_down", "up to 29"),  # few of the steps of 16 bits
        (lambda x: x * 4 / np.abs(x).max(), "FLOAT", 1 / 0.15, "scaled_down", "up to 4; scaled by 0.25"),
        (lambda x: np.stack([x, x], 1), "PCM_16", 1, None, ""),
        (lambda x: np.stack([x, 0 * x], 1), "PCM_16", 1, "silent_channels", "no sound in channel 2"),
        (lambda x: np.stack([0 * x, x, 0 * x, x / 2], 1), "PCM_16", 0.75, "silent_channels", "channel 1, 3; the mean"),
        (lambda x: np.stack([dither(x), x], 1), "PCM_16", 1, "silent_channels", "no sound in channel 1"),
        (lambda x: np.stack([x, 0 * x + 0.5], 1), "PCM_16", 1, "silent_channels", "no sound in channel 2"),
        (lambda x: np.stack([x, x / 100], 1), "PCM_16", 0.505, None, ""),
        (lambda x: np.stack([x, -x], 1), "PCM_16", 1, "cancelling_channels", "channel 1 alone"),
        (lambda x: np.stack([-0.9 * x, 0.95 * x], 1), "PCM_16", 0.95, "cancelling_channels", "channel 2 alone"),
        (lambda x: x * 0.002, "PCM_24", 0.1 / 0.15, "scaled_up", "too soft for 16 bits"),
        (lambda x: x * 1e-5, "FLOAT", 0.1 / 0.15, "scaled_up", "too soft for 16 bits"),
        (lambda x: x * 0.002, "PCM_16", 0.002, None, ""),
    ],
)
def test_levels_and_channels_that_would_ruin_a_recording_are_mended_and_said(tmp_path, make, subtype, gain, note, says):
    recording = recording_of(tmp_path, make(sound()), subtype)
    scale = np.abs(sound() * gain).max()
    np.testing.assert_allclose(recording.samples / 32768, sound() * gain, atol=0.01 * scale + 2 / 32768)
    assert set(recording.notes) == ({note} if note else set())
    assert says in recording.notes.get(note, "")


@pytest.mark.parametrize(
    ("samples", "subtype"),
    [(np.zeros(16000), "PCM_16"), (np.full(16000, 0.3), "PCM_16"), (np.full(16000, 1e-40, np.float32), "FLOAT")],
)
def test_a_recording_without_a_sound_is_called_silent(tmp_path, samples, subtype):
    assert set(recording_of(tmp_path, samples, subtype).notes) == {"silent"}


def test_channels_that_have_nothing_in_common_are_said_and_two_microphones_are_not(tmp_path):
    rng, x = np.random.default_rng(0), sound()
    parties = [x, 0.1 * np.sin(2 * np.pi * 231 * np.arange(len(x)) / 16000)]
    said = recording_of(tmp_path, np.stack(parties, 1), "PCM_16").notes
    assert set(said) == {"different_channels"} and "two speakers?" in said["different_channels"]
    apart = np.stack([x + 0.01 * rng.normal(size=len(x)), np.roll(x, 9) / 2 + 0.01 * rng.normal(size=len(x))], 1)
    assert recording_of(tmp_path, apart, "PCM_16").notes == {}


@pytest.mark.parametrize(("value", "what"), [(0.0, "zeros"), (-0.25, "the value -0.25")])
@pytest.mark.parametrize("block", [1 << 18, 1000])
def test_a_second_of_one_value_is_said_wherever_it_lies(tmp_path, monkeypatch, value, what, block):
    monkeypatch.setattr("ser_jax.corpora.audio._BLOCK_FRAMES", block)
    still = np.full(17000, value)
    for parts, end in (([sound(), still], " at its end"), ([still, sound()], ""), ([sound(), still, sound()], "")):
        said = recording_of(tmp_path, np.concatenate(parts), "PCM_16").notes
        assert said == {"zeros": f"1.1 s of nothing but {what}{end}: is it whole?"}
    assert recording_of(tmp_path, np.concatenate([sound(), still[:15900], sound()]), "PCM_16").notes == {}


def test_clipping_is_counted_and_a_loud_voice_is_none(tmp_path):
    clipped = recording_of(tmp_path, np.clip(sound() * 30, -1, 1), "PCM_16")
    assert set(clipped.notes) == {"clipped"} and 0.5 < clipped.clipped < 1
    assert recording_of(tmp_path, sound() / np.abs(sound()).max() * 0.99999, "PCM_16").notes == {}


def test_a_resampled_wave_that_swings_over_full_scale_is_scaled_not_clipped(tmp_path):
    square = np.sign(np.sin(2 * np.pi * 50 * np.arange(44100) / 44100)) * 0.99
    soundfile.write(tmp_path / "a.wav", square, 44100)
    recording = read_recording(tmp_path / "a.wav")
    assert "16000 Hz" in recording.notes["scaled_down"] and recording.samples.dtype == np.int16
    assert (
        np.abs(recording.samples.astype(int)).max() >= 32767
        and (np.diff(np.flatnonzero(recording.samples == 32767)) > 1).all()
    )


@pytest.mark.parametrize(
    ("subtype", "kind", "suffix"),
    [("GSM610", "WAV", "wav"), ("IMA_ADPCM", "WAV", "wav"), ("MS_ADPCM", "WAV", "wav"), ("PCM_16", "NIST", "sph")],
)
def test_telephone_and_laboratory_formats_are_read(tmp_path, subtype, kind, suffix):
    soundfile.write(tmp_path / f"a.{suffix}", tone(16000), 16000, subtype=subtype, format=kind)
    read = read_audio(tmp_path / f"a.{suffix}")
    assert 16000 <= len(read) <= 16300
    np.testing.assert_allclose(read[2000:14000], tone(16000)[2000:14000], atol=0.08)


def test_a_pipe_and_standard_input_are_read_to_their_end(tmp_path, monkeypatch):
    wav = wav_bytes(tmp_path)
    expected = read_audio(tmp_path / "whole.wav")
    read_end, write_end = os.pipe()
    threading.Thread(target=lambda: (os.write(write_end, wav), os.close(write_end))).start()
    np.testing.assert_array_equal(read_audio(f"/dev/fd/{read_end}"), expected)
    os.close(read_end)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(wav)))
    np.testing.assert_array_equal(read_audio("-"), expected)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(UserError, match="standard input: empty"):
        read_audio("-")


def test_no_bytes_are_samples_by_the_name_of_their_file_alone(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, 20_000, np.uint8).tobytes()
    for suffix in ("au", "snd", "gsm", "vox", "vox6", "vox8", "raw", "ul", "g722", "sln"):
        (tmp_path / f"a.{suffix}").write_bytes(noise)
        with pytest.raises(UserError, match=f"a.{suffix}: (cannot be read as audio|samples without a header)"):
            read_audio(tmp_path / f"a.{suffix}")
        assert tmp_path / f"a.{suffix}" in find_audio(tmp_path)  # and no folder passes over it
    soundfile.write(tmp_path / "b.gsm", tone(8000), 8000, format="RAW", subtype="GSM610")
    np.testing.assert_allclose(read_audio(tmp_path / "b.gsm")[2000:14000], tone(16000)[2000:14000], atol=0.08)
    wav = wav_bytes(tmp_path)
    for suffix in ("gsm", "au"):
        (tmp_path / f"c.{suffix}").write_bytes(wav)
        np.testing.assert_array_equal(read_audio(tmp_path / f"c.{suffix}"), read_audio(tmp_path / "whole.wav"))


PHONE = b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom\0\0\0\0" + bytes(4000)
BROWSER = (
    bytes.fromhex("1a45dfa3") + b"\x9fB\x86\x81\x01B\xf7\x81\x01B\xf2\x81\x04B\xf3\x81\x08B\x82\x84webm" + bytes(4000)
)


@pytest.mark.parametrize("has_pyav", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.m4a", PHONE, "an MPEG-4 container"),
        ("renamed.wav", PHONE, "an MPEG-4 container"),
        ("a.webm", BROWSER, "a Matroska or WebM container"),
        ("a.amr", b"#!AMR\n" + bytes(300), "AMR, which"),
        ("a.raw", bytes(range(256)) * 40, "samples without a header"),
    ],
    ids=["m4a", "renamed", "webm", "amr", "raw"],
)
def test_a_container_that_cannot_be_read_is_named(tmp_path, monkeypatch, has_pyav, name, content, message):
    if has_pyav:
        pytest.importorskip("av")
    else:
        monkeypatch.setattr(foreign.importlib.util, "find_spec", lambda name: None)
        monkeypatch.setattr(foreign.shutil, "which", lambda name: None)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: {message}") as error:
        read_audio(tmp_path / name)
    assert "\n" not in str(error.value)
    assert ("pip install av" in str(error.value)) == (not has_pyav and "header" not in message)


def encoded_by_pyav(path, codec, streams=1, seconds=2.0, rate=48000):
    """A tone of 440 Hz in every stream of a container."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        samples = (tone(rate, seconds=seconds) * 32767).astype(np.int16)[None]
        for stream in [container.add_stream(codec, rate=rate, layout="mono") for _ in range(streams)]:
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate = rate
            container.mux([*stream.encode(frame), *stream.encode(None)])
    return path


@pytest.mark.parametrize(
    ("suffix", "codec", "streams", "note"),
    [
        ("m4a", "aac", 2, "it holds 2 streams of sound, the first is taken"),
        ("ac3", "ac3", 1, "of the format ac3: nothing shows whether it is complete"),
        ("mp2", "mp2", 1, "of the format MPEG_LAYER_II: nothing shows whether it is complete"),
        ("m4a", "aac", 1, None),
    ],
)
def test_what_is_left_out_or_cannot_be_told_of_a_container_is_said(tmp_path, suffix, codec, streams, note):
    path = encoded_by_pyav(tmp_path / f"a.{suffix}", codec, streams, seconds=0.5)
    assert read_recording(path).notes == ({"structure": note} if note else {})


def test_a_lossless_container_with_a_hole_is_refused_by_its_checksum(tmp_path):
    path = encoded_by_pyav(tmp_path / "a.wv", "wavpack", seconds=0.5)
    whole = path.read_bytes()
    assert read_recording(path).notes == {}
    path.write_bytes(whole[: len(whole) // 2] + bytes(300) + whole[len(whole) // 2 + 300 :])
    with pytest.raises(UserError, match=r"a\.wv: WavPack, which cannot be read as audio"):
        read_recording(path)


@pytest.mark.parametrize(("suffix", "codec"), [("m4a", "aac"), ("webm", "libopus"), ("mp4", "aac")])
def test_containers_of_phones_and_browsers_are_read_through_pyav(tmp_path, suffix, codec):
    path = encoded_by_pyav(tmp_path / f"a.{suffix}", codec)
    read = read_audio(path)
    assert len(read) == pytest.approx(32000, abs=1200)
    spectrum = np.abs(np.fft.rfft(read[8000:24000]))
    assert np.argmax(spectrum) == 440
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=rf"a.{suffix}: "):
        read_audio(path)
