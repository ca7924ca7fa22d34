"""Files that hold less, or more, than they promise: read whole, or refused with both numbers."""

import re
import struct

import numpy as np
import pytest
import soundfile

from ser_jax.corpora import containers, mpeg_frames
from ser_jax.corpora.audio import read_recording
from ser_jax.errors import UserError

RATE = 16000
AMR_FRAME = bytes([0x3C, *range(1, 32)])  # of 12.2 kbit/s, marked as good


def box(kind, data, size=None):
    return struct.pack(">I4s", 8 + len(data) if size is None else size, kind) + data


def element(number, data, size=None):
    """Of EBML, its size in eight bytes; size -1 is unknown."""
    size = len(data) if size is None else size
    length = b"\x01" + (b"\xff" * 7 if size < 0 else size.to_bytes(7, "big"))
    return bytes.fromhex(number) + length + data


MPEG4 = box(b"ftyp", b"M4A isom") + box(b"moov", bytes(40)) + box(b"mdat", bytes(500))
LIVE = element("1F43B675", element("A3", bytes(300)), -1)
MATROSKA = element("1A45DFA3", bytes(20)) + element("18538067", element("1549A966", bytes(9)) + LIVE)
STREAMED = element("1A45DFA3", bytes(20)) + element("18538067", element("1549A966", bytes(9)) + LIVE + LIVE, -1)
AVI = b"RIFF" + struct.pack("<I", 504) + b"AVI " + bytes(500)


@pytest.mark.parametrize(
    ("whole", "by"),
    [
        (MPEG4, "box mdat"),
        (box(b"ftyp", b"M4A isom") + struct.pack(">I4sQ", 1, b"mdat", 616) + bytes(600), "box mdat"),
        (MATROSKA, "element 18538067"),
        (STREAMED, "element A3"),
        (b"#!AMR\n" + AMR_FRAME * 20, "frame 20"),
        (b"#!AMR-WB\n" + bytes([0x04, *range(17)]) * 20, "frame 20"),
        (AVI, "header"),
    ],
    ids=["mpeg4", "mpeg4 of 64 bits", "matroska", "webm to a pipe", "amr", "amr-wb", "avi"],
)
def test_what_other_libraries_read_is_whole_or_refused_with_what_it_lacks(whole, by):
    assert containers.check_structure("a", whole) == containers.Checked()
    for missing in (1, 11):
        found = f"it holds {len(whole) - missing} bytes, expected at least {len(whole)} by its {by}"
        with pytest.raises(UserError, match=f"^a: cut short, {found}$"):
            containers.check_structure("a", whole[:-missing])
    if not whole.startswith(b"#!AMR"):  # whose frames may begin with any sign
        assert containers.check_structure("a", whole + b"<html>not found</html>") == containers.Checked()


@pytest.mark.parametrize(
    ("magic", "kind", "size", "damaged"),
    [
        (b"#!AMR\n", 7, 31, 1),  # 12.2 kbit/s
        (b"#!AMR\n", 8, 5, 0),  # comfort noise
        (b"#!AMR-WB\n", 8, 60, 1),  # 23.85 kbit/s
        (b"#!AMR-WB\n", 9, 5, 0),
    ],
)
def test_frames_of_speech_in_amr_that_are_marked_as_damaged_are_said(magic, kind, size, damaged):
    bad, good = (bytes([kind << 3 | mark, *range(size)]) for mark in (0, 4))
    checked = containers.check_structure("a", magic + good * 3 + bad + good)
    assert checked.note == ("1 of 5 frames are marked as damaged" if damaged else "")


def read_audio(path):
    """The samples of a file in [-1, 1)."""
    return read_recording(path).samples / np.float32(32768)


def voice(seconds=1.0, rate=RATE, seed=0):
    """A buzzy vowel of changing loudness."""
    rng, time = np.random.default_rng(seed), np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * 140 * time + 0.3 * np.sin(2 * np.pi * 4 * time)
    return 0.2 * sum(np.sin(k * phase) / k for k in range(1, 8)) * (0.6 + 0.4 * np.sin(5 * time)) + 0.003 * rng.normal(
        size=len(time)
    )


def chunk(tag, data, size=None, pad=True):
    return tag + struct.pack("<I", len(data) if size is None else size) + data + b"\0" * (pad and len(data) % 2)


def riff(*chunks, size=None):
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


FORMAT = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16))
PCM = (voice() * 32767).astype("<i2").tobytes()


@pytest.mark.parametrize(
    ("wav", "note"),
    [
        (riff(FORMAT, chunk(b"data", PCM, 0xFFFFFFFF), size=0xFFFFFFFF), ""),
        (riff(FORMAT, chunk(b"data", PCM, 0x7FFFF000), size=0x7FFFF024), ""),
        (riff(FORMAT, chunk(b"data", PCM, 0x80000000)), ""),
        (riff(FORMAT, chunk(b"data", PCM, 0), size=0), ""),
        (riff(FORMAT, chunk(b"data", PCM, 0)), ""),
        (riff(FORMAT, chunk(b"data", PCM), size=0), ""),
        (riff(FORMAT, chunk(b"data", PCM, len(PCM) + 44)), "promises 44 bytes more"),
        (riff(FORMAT, chunk(b"data", PCM, len(PCM) + 2)), "promises 2 bytes more"),
        (riff(FORMAT, chunk(b"LIST", b"INFOIART\x03\0\0\0QAm", pad=False), chunk(b"data", PCM)), ""),
        (riff(FORMAT, chunk(b"data", PCM)) + b"LI", ""),
        (riff(FORMAT, chunk(b"data", PCM), chunk(b"LIST", b"INFOIART\x05\0\0\0QA me")), ""),
    ],
)
def test_a_wav_whose_header_lies_but_whose_sound_is_whole_is_read(tmp_path, wav, note):
    (tmp_path / "a.wav").write_bytes(wav)
    recording = read_recording(tmp_path / "a.wav")
    np.testing.assert_array_equal(recording.samples, np.frombuffer(PCM, "<i2"))
    assert note in recording.notes.get("structure", "")
    assert bool(note) == bool(recording.notes)


@pytest.mark.parametrize("suffix", ["wav", "ogg", "flac", "aiff", "au", "w64"])
def test_a_tag_of_mp3_before_another_format_hides_nothing(tmp_path, suffix):
    sound = encoded(tmp_path, suffix, voice(3.0))
    expected = read_audio(tmp_path / f"whole.{suffix}")
    tag = b"ID3\x03\0\0\0\0\0\x64" + bytes(100)
    (tmp_path / "tagged").write_bytes(tag + sound)
    np.testing.assert_array_equal(read_audio(tmp_path / "tagged"), expected)
    (tmp_path / "tagged").write_bytes(tag + sound[: 6 * len(sound) // 10])
    with pytest.raises(UserError, match=r"tagged: (cut short|cannot be read as audio to its end)"):
        read_audio(tmp_path / "tagged")


def test_a_wav_of_no_samples_and_a_chunk_behind_them_is_empty_not_streamed(tmp_path):
    (tmp_path / "a.wav").write_bytes(riff(FORMAT, chunk(b"data", b""), chunk(b"LIST", b"INFOIART\x05\0\0\0QA me")))
    with pytest.raises(UserError, match="audio without samples"):
        read_audio(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("subtype", "frames"),
    [
        *(("ULAW", 15999), ("ALAW", 15999), ("IMA_ADPCM", 16160), ("MS_ADPCM", 16000), ("GSM610", 16000)),
        *(("G721_32", 16080), ("NMS_ADPCM_16", 16000), ("NMS_ADPCM_24", 16000), ("NMS_ADPCM_32", 16000)),
    ],
)
def test_the_count_of_a_codec_ends_the_last_block_and_cuts_nothing_else(tmp_path, subtype, frames):
    soundfile.write(tmp_path / "a.wav", voice(rate=8000, seconds=2)[:15999], 8000, subtype=subtype)
    wav = (tmp_path / "a.wav").read_bytes()
    at = wav.index(b"fact") + 8

    def counting(number):
        (tmp_path / "b.wav").write_bytes(wav[:at] + struct.pack("<I", number) + wav[at + 4 :])
        return read_recording(tmp_path / "b.wav")

    whole = counting(frames)
    assert len(whole.samples) == 2 * frames and not whole.notes
    for unknown in (0, 0x7FFFF000, 0xFFFFFFFF):  # as of a recorder that writes to a pipe
        read = counting(unknown)
        np.testing.assert_array_equal(read.samples, whole.samples)
        assert not read.notes
    for wrong in (frames // 2, 2 * frames):
        read = counting(wrong)
        np.testing.assert_array_equal(read.samples, whole.samples)
        assert f"the header counts {wrong} frames" in read.notes["structure"]
    shorter = counting(frames - 3)
    assert len(shorter.samples) == 2 * frames if subtype in ("ULAW", "ALAW") else 2 * (frames - 3)


def test_a_wav_of_64_bits_is_one_under_its_other_name_too(tmp_path):
    soundfile.write(tmp_path / "a.wav", voice(), RATE, format="RF64", subtype="PCM_16")
    wav = b"BW64" + (tmp_path / "a.wav").read_bytes()[4:]
    (tmp_path / "b.wav").write_bytes(wav)
    np.testing.assert_array_equal(read_audio(tmp_path / "b.wav"), read_audio(tmp_path / "a.wav"))
    assert containers.begins_as_audio(wav[:32])
    with pytest.raises(UserError, match="cut short, it holds"):
        containers.check_structure("b.wav", wav[:-1000])


FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "caf": ("CAF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
}


def encoded(tmp_path, suffix, samples, rate=RATE, **options):
    path = tmp_path / f"whole.{suffix}"
    kind, subtype = FORMATS[suffix]
    with soundfile.SoundFile(path, "w", rate, 1, format=kind, subtype=subtype, **options) as file:
        file.write(samples)
    return path.read_bytes()


def test_fewer_frames_than_a_header_promises_are_refused_whatever_the_container(tmp_path):
    """Of NIST only its decoder knows how long it is."""
    soundfile.write(tmp_path / "whole.nist", voice(1.0), RATE, format="NIST", subtype="ULAW")
    whole = (tmp_path / "whole.nist").read_bytes()
    assert len(read_audio(tmp_path / "whole.nist")) == RATE
    (tmp_path / "cut.nist").write_bytes(whole[:9024])
    with pytest.raises(UserError, match=r"cut.nist: cut short or damaged, 8000 frames can be decoded, expected 16000"):
        read_audio(tmp_path / "cut.nist")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.97])
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_cut_short_is_refused_with_what_it_holds(tmp_path, suffix, share):
    whole = encoded(tmp_path, suffix, voice(4.0))
    assert len(read_audio(tmp_path / f"whole.{suffix}")) == 4 * RATE
    (tmp_path / f"cut.{suffix}").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match=r"cut\.\w+: (cut short|cannot be read as audio).*\d+") as error:
        read_audio(tmp_path / f"cut.{suffix}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_stands_behind_the_sound_is_no_sound(tmp_path, suffix, capfd):
    whole = encoded(tmp_path, suffix, voice(2.0))
    expected = read_audio(tmp_path / f"whole.{suffix}")
    (tmp_path / f"a.{suffix}").write_bytes(whole + b"<html>404 not found</html>" * 40)
    np.testing.assert_array_equal(read_audio(tmp_path / f"a.{suffix}"), expected)
    assert capfd.readouterr().err == "", "a decoder's own notes are not for the user"


@pytest.mark.parametrize("suffix", ["flac", "ogg", "opus", "mp3"])
@pytest.mark.parametrize("filling", [b"\xff", b"\0"])
def test_a_hole_in_a_compressed_file_is_refused(tmp_path, suffix, filling):
    whole = encoded(tmp_path, suffix, voice(4.0))
    half = len(whole) // 2
    (tmp_path / f"hole.{suffix}").write_bytes(whole[:half] + filling * 1000 + whole[half + 1000 :])
    with pytest.raises(UserError, match=r"hole\.\w+: (damaged|cut short|cannot be read)"):
        read_audio(tmp_path / f"hole.{suffix}")


def test_zeros_where_a_download_broke_off_are_pointed_out(tmp_path):
    whole = encoded(tmp_path, "wav", voice(4.0))
    (tmp_path / "a.wav").write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    assert "2.0 s of nothing but zeros at its end" in read_recording(tmp_path / "a.wav").notes["zeros"]
    assert read_recording(tmp_path / "whole.wav").notes == {}


def test_an_mp3_cut_short_never_holds_what_was_read_before_it(tmp_path):
    whole = encoded(tmp_path, "mp3", voice(3.0))
    (tmp_path / "cut.mp3").write_bytes(whole[: int(len(whole) * 0.4)])
    for _ in range(3):
        with pytest.raises(UserError, match=r"cut\.mp3: cut short, it holds \d+ frames, expected 86 by its header"):
            read_audio(tmp_path / "cut.mp3")


def test_an_mp3_without_sound_is_one_line_and_none_of_the_decoder_s(tmp_path, capfd):
    frames = mp3_frames(encoded(tmp_path, "mp3", voice(1.0), bitrate_mode="CONSTANT"))
    rubbish = np.random.default_rng(0).bytes(3000).replace(b"\xff", b"a")
    cases = {
        "holds no frame, expected 30 by its header": frames[0],
        "cut short, it holds no frame": frames[0] + frames[1][:50],
        "one frame of mp3 among data that are none": frames[1] + rubbish,
        r"cannot be read as audio \(Format not recognised\)": rubbish,
    }
    for message, mp3 in cases.items():
        (tmp_path / "a.mp3").write_bytes(mp3)
        with pytest.raises(UserError, match=rf"a\.mp3: .*{message}"):
            read_audio(tmp_path / "a.mp3")
    assert capfd.readouterr().err == ""


def mp3_frames(mp3):
    """The frames of an mp3 of constant bit rate without tags: the first is its header."""
    places, at = [], 0
    while (at := mp3.find(mp3[:2], at)) >= 0:
        places.append(at)
        at += 100
    return [mp3[one:other] for one, other in zip(places, [*places[1:], len(mp3)], strict=True)]


def tag_of_a_picture(size):
    return b"ID3\x03\0\0" + bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0)) + b"\x11" * size


def ape_tag(size):
    end = struct.pack("<IIII", 2000, size + 32, 1, 0x80000000) + bytes(8)
    begin = struct.pack("<IIII", 2000, size + 32, 1, 0xA0000000) + bytes(8)
    return b"APETAGEX" + begin + b"\x11" * size + b"APETAGEX" + end


@pytest.mark.parametrize(
    ("before", "behind"),
    [(b"", b""), (tag_of_a_picture(20000), b""), (b"", ape_tag(20000)), (b"", b"TAG" + bytes(125))],
    ids=["bare", "ID3v2", "APE", "ID3v1"],
)
def test_an_mp3_without_a_header_frame_is_read_to_its_end(tmp_path, before, behind):
    frames = mp3_frames(encoded(tmp_path, "mp3", voice(3.0), bitrate_mode="CONSTANT"))
    assert b"Info" in frames[0] or b"Xing" in frames[0]
    (tmp_path / "a.mp3").write_bytes(before + b"".join(frames[1:]) + behind)
    read, whole = read_audio(tmp_path / "a.mp3"), read_audio(tmp_path / "whole.mp3")
    assert 3 * RATE <= len(read) <= 3 * RATE + 1800
    late = int(np.argmax(np.correlate(read[: len(whole)], whole[:8000])))
    np.testing.assert_allclose(read[late : late + 40000], whole[:40000], atol=1e-3)


def test_an_mp3_of_variable_rate_without_a_header_frame_is_read_to_its_end(tmp_path):
    rate = 44100
    soft = 0.0005 * np.random.default_rng(0).normal(size=6 * rate)
    mp3 = encoded(tmp_path, "mp3", np.concatenate([voice(6, rate), soft]), rate, bitrate_mode="VARIABLE")
    info = 4 + mp3[4:].find(mp3[:2])
    (tmp_path / "a.mp3").write_bytes(mp3[info:])
    assert len(read_audio(tmp_path / "a.mp3")) == pytest.approx(12 * RATE, abs=1800)


def test_two_mp3s_end_to_end_are_both_read(tmp_path):
    one, other = encoded(tmp_path, "mp3", voice(2.0)), encoded(tmp_path, "mp3", voice(3.0, seed=1))
    for between in (b"", b"TAG" + bytes(125), b"ID3\3\0\0\0\0\1\0" + bytes(128)):
        (tmp_path / "a.mp3").write_bytes(one + between + other)
        assert len(read_audio(tmp_path / "a.mp3")) == pytest.approx(5 * RATE, abs=3600)
        assert mpeg_frames.check("a", one + between + other)[1] == ""


def mp3_of_two(tmp_path, **options):
    """Two seconds of a vowel that grows loud and soft, as an mp3's frames: the first is its header."""
    samples = voice(2.0) * np.repeat(np.random.default_rng(0).uniform(0.02, 1, 20), RATE // 10)
    return mp3_frames(encoded(tmp_path, "mp3", samples, bitrate_mode="CONSTANT", **options))


def reading_of(tmp_path, mp3):
    (tmp_path / "a.mp3").write_bytes(mp3)
    return read_recording(tmp_path / "a.mp3").notes.get("structure", "")


@pytest.mark.parametrize("filling", [bytes(60), bytes(range(1, 200, 2)), bytes(1000)], ids=["zeros", "foreign", "long"])
def test_a_hole_in_an_mp3_is_said_with_its_place(tmp_path, filling):
    frames = mp3_of_two(tmp_path)
    mp3, at = b"".join(frames), len(b"".join(frames[:30])) + 40
    assert reading_of(tmp_path, mp3) == ""
    hole = mp3[:at] + filling + mp3[at + len(filling) :]
    if len(filling) == 100:  # inside a frame: only the checksum tells, and not where
        assert "not as its coder wrote it, by the checksum in its header: a hole" in reading_of(tmp_path, hole)
        return
    with pytest.raises(
        UserError, match=r"a.mp3: damaged, a hole of \d+ bytes at 1.[01]\d s .byte \d+.*frames of sound"
    ):
        reading_of(tmp_path, hole)


def test_zeros_in_an_mp3_without_a_checksum_are_said_where_its_sound_should_be(tmp_path):
    frames = mp3_of_two(tmp_path)
    frames[30] = frames[30][:30] + bytes(64) + frames[30][94:]
    assert re.search(r"6\d bytes of zeros at 1.0\d s, .*: a hole?", reading_of(tmp_path, b"".join(frames[1:])))
    marked = b"".join(frames[:-1]) + frames[-1] + b"TAG" + b"MP3GAIN".ljust(125)  # which changes frames rightly
    said = reading_of(tmp_path, marked)
    assert re.search(r"6\d bytes of zeros at 1.0\d s, .*: a hole?", said) and "checksum" not in said


@pytest.mark.parametrize("missing", [1, 20])
def test_an_mp3_whose_last_frame_is_there_in_part_is_read(tmp_path, missing):
    frames = mp3_of_two(tmp_path)
    assert b"LAME" in frames[0]
    assert reading_of(tmp_path, b"".join(frames)[:-missing]) == "ends inside a frame"
    for cut in (b"".join(frames[:-1]), b"".join(frames[:-1])[:-missing]):
        with pytest.raises(UserError, match=f"cut short, it holds .*, expected {len(frames) - 1} by its header"):
            reading_of(tmp_path, cut)


def test_frames_that_are_lost_from_an_mp3_are_missed(tmp_path):
    frames = mp3_of_two(tmp_path)
    back = [frame[4] for frame in frames]  # by how many bytes the sound begins before the frame
    kept = next(i for i in range(20, 40) if back[i] > back[i - 3])
    lost = frames[: kept - 3] + frames[kept:]
    lacking = back[kept] - back[kept - 3]
    for mp3 in (b"".join(lost), b"".join(lost[1:])):
        with pytest.raises(UserError, match=f"a piece is missing at .* needs {lacking} bytes that were before it"):
            reading_of(tmp_path, mp3)
    kept = next(i for i in range(20, 40) if back[i] <= back[i - 1])
    one = b"".join(frames[: kept - 1] + frames[kept:])
    with pytest.raises(UserError, match=f"cut short, it holds {len(frames) - 2} frames, expected {len(frames) - 1}"):
        reading_of(tmp_path, one)


@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (44100, 2), (48000, 1), (22050, 2)])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_that_is_whole_has_no_hole(tmp_path, rate, channels, mode):
    """With silence in its middle, and cut out of a longer one, whose first frame lacks what was before it."""
    samples = np.concatenate([voice(0.6, rate), np.zeros(rate // 2), voice(0.6, rate, 1)])
    samples = np.stack([samples, np.roll(samples, 30)][:channels], axis=1)
    soundfile.write(tmp_path / "a.mp3", samples, rate, bitrate_mode=mode)
    mp3 = (tmp_path / "a.mp3").read_bytes()
    frames = [piece for piece in mpeg_frames._walk(mp3, adts=False) if piece.kind == "frame"]
    assert len(frames) > 30
    for whole in (mp3, mp3[frames[1].at :], mp3[frames[9].at :]):
        assert mpeg_frames.check("a", whole)[1] == ""


def adts_frame(payload):
    """A frame of AAC: 16 kHz, one channel."""
    length = 7 + len(payload)
    return bytes([0xFF, 0xF1, 0x60, 0x40 | length >> 11, length >> 3 & 255, (length & 7) << 5 | 0x1F, 0xFC]) + payload


@pytest.mark.parametrize("tag", [b"", b"ID3\4\0\0\0\0\0\x0a" + bytes(10)], ids=["bare", "ID3v2"])
def test_a_hole_between_frames_of_aac_is_refused(tag):
    frames = [adts_frame(bytes(range(1, 60 + i))) for i in range(40)]
    mp4 = tag + b"".join(frames)
    assert mpeg_frames.check("a", mp4) == (None, "")
    assert mpeg_frames.check("a", mp4 + b"ID3\4\0\0\0\0\0\x64" + bytes(100) + mp4) == (None, "")
    at = len(tag) + len(b"".join(frames[:20])) + 30
    for hole in (mp4[:at] + bytes(200) + mp4[at + 200 :], mp4[:at] + mp4[at + 20 :]):
        with pytest.raises(UserError, match=r"^a: damaged, a hole of \d+ bytes at 1\.(28|34) s"):
            mpeg_frames.check("a", hole)
    assert mpeg_frames.check("a", mp4[:-9])[1] == "ends inside a frame"
    empty = tag + b"".join([*frames[:20], adts_frame(b"\1" + bytes(90)), *frames[20:]])
    assert mpeg_frames.check("a", empty)[1] == "90 bytes of zeros at 1.28 s, where its sound should be: a hole?"


def test_an_ogg_of_two_streams_end_to_end_is_refused(tmp_path):
    (tmp_path / "a.ogg").write_bytes(encoded(tmp_path, "ogg", voice(1.0)) * 2)
    with pytest.raises(UserError, match="several streams end to end"):
        read_audio(tmp_path / "a.ogg")


@pytest.mark.parametrize("rate", [1, 999, 768_001])
def test_a_rate_that_no_recording_has_is_refused(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", np.zeros(20000, np.int16), rate)
    with pytest.raises(UserError, match=f"a rate of {rate} Hz, expected 1000 to 768000"):
        read_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("suffix", FORMATS)
def test_damage_anywhere_is_read_or_refused_in_one_line(tmp_path, suffix):
    whole, rng = encoded(tmp_path, suffix, voice(0.5)), np.random.default_rng(0)
    refused = 0
    for trial in range(60):
        damaged = bytearray(whole[: rng.integers(1, len(whole))] if trial % 2 else whole)
        for at in rng.integers(0, min(len(damaged), 200), 1 + trial % 3):
            damaged[at] = rng.integers(256)
        (tmp_path / f"damaged.{suffix}").write_bytes(damaged)
        try:
            samples = read_audio(tmp_path / f"damaged.{suffix}")
            assert np.isfinite(samples).all() and 0 < len(samples) < 160 * RATE
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and f"damaged.{suffix}" in str(error)
    assert refused > 20


def written(tmp_path, kind, subtype="PCM_16"):
    soundfile.write(tmp_path / "a", voice(), RATE, format=kind, subtype=subtype)
    return (tmp_path / "a").read_bytes()


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "AU", "CAF", "FLAC", "SVX", "W64", "NIST"])
def test_recordings_put_end_to_end_are_refused_where_a_decoder_would_read_the_first_alone(tmp_path, kind):
    whole = written(tmp_path, kind)
    containers.check_structure("a", whole)
    with pytest.raises(UserError, match=r"^a: holds several recordings end to end, .*; split it$"):
        containers.check_structure("a", whole + whole)


@pytest.mark.parametrize("whole", [MPEG4, b"FLV\x01\x04" + bytes(90), b"TTA1\x01" + bytes(range(90))])
def test_containers_put_end_to_end_are_refused_too(whole):
    containers.check_structure("a", whole + b"<html>not found</html>")
    with pytest.raises(UserError, match=r"^a: holds several recordings end to end"):
        containers.check_structure("a", whole + whole)


def test_what_stands_behind_the_samples_that_a_sphere_file_counts_is_no_sound(tmp_path):
    whole = written(tmp_path, "NIST")
    (tmp_path / "a.sph").write_bytes(whole + b"\x7f\x01" * 3000)
    assert len(read_audio(tmp_path / "a.sph")) == len(voice())


def test_a_wav_with_two_parts_of_audio_is_refused_and_one_with_other_chunks_is_read():
    behind = [chunk(b"LIST", b"INFOIART\x05\0\0\0QA me"), chunk(b"data", b"")]
    assert containers.check_structure("a", riff(FORMAT, chunk(b"data", PCM), *behind)) == containers.Checked()
    halves = [chunk(b"data", PCM[:8000]), behind[0], chunk(b"data", PCM[8000:])]
    with pytest.raises(UserError, match="holds several parts of audio, of which one would be read"):
        containers.check_structure("a", riff(FORMAT, *halves))


@pytest.mark.parametrize("kind", ["NIST", "VOC", "SVX"])
def test_a_cut_file_of_a_format_with_a_header_of_its_own_is_refused_with_both_numbers(tmp_path, kind):
    whole = written(tmp_path, kind)
    containers.check_structure("a", whole)
    with pytest.raises(UserError, match=r"^a: cut short, it holds \d+ bytes of audio, expected 320\d\d by its header"):
        containers.check_structure("a", whole[: len(whole) // 2])


def test_a_voc_of_several_blocks_and_an_alac_that_ends_in_zeros_are_refused(tmp_path):
    whole = written(tmp_path, "VOC")
    with pytest.raises(UserError, match="several blocks of audio"):
        containers.check_structure("a", whole.rstrip(b"\0") + whole[26:])
    whole = written(tmp_path, "CAF", "ALAC_16")
    containers.check_structure("a", whole)
    with pytest.raises(UserError, match="its sound ends in zeros that no coder writes"):
        containers.check_structure("a", whole[: len(whole) // 2] + bytes(len(whole) // 2))


def test_compressed_files_may_end_in_zeros_and_have_fewer_bytes_than_samples(tmp_path):
    """ADPCM codes silence as zeros; a Sphere file counts the samples that it will have."""
    whole = written(tmp_path, "CAF", "ALAC_16").replace(b"alac", b"ima4", 1)
    silent = whole[: len(whole) // 2] + bytes(len(whole) // 2)
    assert containers.check_structure("a", silent) == containers.Checked()
    whole = written(tmp_path, "NIST").replace(b"-s3 pcm\n", b"-s26 pcm,embedded-shorten-v2.00\n", 1)
    assert b"embedded" in whole
    assert containers.check_structure("a", whole[: len(whole) // 2]) == containers.Checked()


def test_a_format_that_does_not_tell_its_length_is_read_with_a_note(tmp_path):
    (tmp_path / "a.paf").write_bytes(written(tmp_path, "PAF"))
    assert read_recording(tmp_path / "a.paf").notes == {
        "structure": "of the format PAF: nothing shows whether it is complete"
    }
