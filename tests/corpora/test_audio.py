import numpy as np
import pytest
import soundfile
import soxr

from ser_jax.corpora.audio import find_audio, read_audio, to_int16
from ser_jax.errors import UserError


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
    gains = np.array([1.0, 0.5, -0.25, 0.0, 0.25, 0.0])
    soundfile.write(tmp_path / "six.wav", tone(16000)[:, None] * gains, 16000, subtype="PCM_24")
    np.testing.assert_allclose(read_audio(tmp_path / "six.wav"), tone(16000) * gains.mean(), atol=1e-6)
    soundfile.write(tmp_path / "equal.wav", np.stack([tone(16000)] * 2, axis=1), 16000)
    soundfile.write(tmp_path / "mono.wav", tone(16000), 16000)
    np.testing.assert_array_equal(read_audio(tmp_path / "equal.wav"), read_audio(tmp_path / "mono.wav"))


def test_a_long_recording_read_in_blocks_equals_one_read_at_once(tmp_path):
    rate, minutes = 8000, 20
    noise = np.random.default_rng(0).integers(-3000, 3000, rate * 60 * minutes).astype(np.int16)
    soundfile.write(tmp_path / "long.wav", noise, rate)
    read = read_audio(tmp_path / "long.wav")
    assert len(read) == 16000 * 60 * minutes
    np.testing.assert_array_equal(read, soxr.resample((noise / 32768).astype(np.float32), rate, 16000, quality="VHQ"))


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
        (lambda path, wav: soundfile.write(path, np.zeros(0), 16000), "audio without samples"),
        (nan_wav(np.nan), "NaN or infinity"),
        (nan_wav(-np.inf), "NaN or infinity"),
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
