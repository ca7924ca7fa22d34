"""What the structure of an audio file promises, checked against what is there, before anything is decoded.

Decoders hide a broken download: they return what is left of an ogg, or fill an mp3 up to the length that its header
promises. Here the bytes themselves are counted: the chunks of wav, au, aiff, w64 and caf, and the pages of ogg.
`mpeg_frames` has mp3 and AAC, `foreign_structure` what other libraries read. Layouts are those of the formats'
specifications (RIFF/RF64, EBU Tech 3306, RFC 3533).
"""

import dataclasses
import math
import struct
import zlib

from ser_jax.corpora import foreign_structure, mpeg_frames
from ser_jax.corpora.foreign_structure import Bytes
from ser_jax.errors import UserError

_UNKNOWN_BYTES = 0x7FFF0000  # programs that write to a pipe promise about 2 or 4 GiB, not knowing the length
_TOLERATED_BYTES = 64  # some recorders count the header as audio: nothing is missing where so little is
_FLAC = b"fLaC\0\0\0\x22"  # how a flac file begins
_SPHERE = ("sample_count", "channel_count", "sample_n_bytes")
_PCM, _G711 = (0x01, 0x03, 0xFFFE), (0x06, 0x07)  # codes of wav: integers and floating point; A-law and mu-law
_NMS, _G721 = 0x38, 0x40  # ADPCM of 160 frames a block, and of four bits a frame
_OF_BLOCKS = (0x02, 0x11, 0x31)  # whose header says how many frames a block has: ADPCM of Microsoft and IMA, GSM 6.10
_CHUNKS = (b"data", b"fmt ", b"fact", b"LIST", b"bext", b"JUNK", b"cue ", b"id3 ", b"smpl")


@dataclasses.dataclass(frozen=True)
class Checked:
    """A file whose structure is whole.

    Attributes:
        mended: what to decode in place of the file, where its header misleads decoders; None: the file as it is.
        frames: how many frames it holds by its own structure; None where only a decoder can tell.
        note: what a reader should know, "" if nothing.
    """

    mended: bytes | None = None
    frames: int | None = None
    note: str = ""


_STARTS = (  # of files of sound, or of sound and pictures
    *(b"fLaC", b"OggS", b"ID3", b"caff", b".snd", b"#!AMR", b"#!SILK", b"NIST_1A", b"Creative Voice File"),
    *(b"MAC ", b"wvpk", b"TTA1", b"\x1aE\xdf\xa3", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
)
_PICTURES = (b"heic", b"heix", b"mif1", b"msf1", b"avif", b"crx ")  # that come in MPEG-4's boxes


def begins_as_audio(start: bytes) -> bool:
    """Returns whether a file begins as those do that hold sound, by its first bytes, 20 or more."""
    if start[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM"):
        return start[8:12] in (b"WAVE", b"AVI ", b"AIFF", b"AIFC", b"8SVX", b"16SV")
    if start[4:8] == b"ftyp":
        return start[8:12] not in _PICTURES
    if start[:1] == b"\xff" and (mpeg_frames.begins_mp3(start) or mpeg_frames.begins_adts(start)):
        return True
    return start.startswith(_STARTS) or start[:16] == b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0"


def check_structure(name: str, data: Bytes) -> Checked:
    """Returns what the structure of an audio file says; files of an unknown structure pass.

    Raises UserError that begins with `name` for a file that is cut short or damaged, with what it holds and promises.
    """
    try:
        return _check(name, data)
    except (struct.error, IndexError, ValueError):  # it ends inside a header: the decoder says what it makes of that
        return Checked()


def _check(name: str, data: Bytes) -> Checked:
    start = data[:32]
    _refuse_other_things(name, start, data)
    if start[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and start[8:12] == b"WAVE":
        return _check_wav(name, data, "<" if start[:4] != b"RIFX" else ">")
    if start[:4] == b"FORM" and start[8:12] in (b"AIFF", b"AIFC", b"8SVX", b"16SV"):
        return _check_iff(name, data, b"SSND" if start[8:11] == b"AIF" else b"BODY")
    if start[:4] == b".snd":
        return _check_au(name, data)
    if start[:4] == b"riff" and len(data) > 40:
        return _check_w64(name, data)
    if start[:4] == b"caff":
        return _check_caf(name, data)
    if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
        foreign_structure.check_avi(name, data)
        return Checked()
    if start[4:8] == b"ftyp":
        if foreign_structure.check_mpeg4(name, data) > 1:
            raise _refuse_several(name)
        return Checked()
    if start[:4] == b"\x1aE\xdf\xa3":
        foreign_structure.check_matroska(name, data)
        return Checked()
    if start[:5] == b"#!AMR":
        return Checked(note=foreign_structure.check_amr(name, data))
    if start[:4] == b"OggS":
        return _check_ogg(name, data)
    if start[:4] == b"fLaC" and data.find(_FLAC, 4) >= 0:
        raise _refuse_several(name)
    if start[:8] == b"NIST_1A\n":
        return _check_nist(name, data)
    if data[:19] == b"Creative Voice File":
        return _check_voc(name, data)
    tagged = mpeg_frames.tag_length(data, 0) if start[:3] == b"ID3" else 0
    if tagged and begins_as_audio(behind := data[tagged : tagged + 32]) and behind[:1] not in b"\xffI":
        # A tag before what has none: the sound itself is checked, and decoded.
        sound = data[tagged:]
        checked = _check(name, sound)
        return dataclasses.replace(checked, mended=sound if checked.mended is None else checked.mended)
    if start[:3] == b"ID3" or mpeg_frames.begins_mp3(start) or mpeg_frames.begins_adts(start):
        mended, note = mpeg_frames.check(name, data)
        return Checked(mended, note=note)
    return Checked()


_OTHER_THINGS = (  # that stand where a recording should: how they begin, what they are
    (b"version https://git-lfs", "a pointer of Git LFS, not the recording itself: `git lfs pull` fetches it"),
    (b"PK\x03\x04", "a zip archive: unpack it"),
    (b"\x1f\x8b", "compressed by gzip: unpack it"),
    (b"<!DOCTYPE", "a web page, as of a download that was refused"),
    (b"<html", "a web page, as of a download that was refused"),
    (b"<?xml", "XML, as of a download that was refused"),
)
_ONCE = ((b"FLV\x01", 9), (b"TTA1", 18))  # whose reader stops where a second header like the first begins


def _refuse_other_things(name: str, start: bytes, data: Bytes) -> None:
    """Raises UserError for what is told by its beginning to be no recording, or two of them end to end."""
    for mark, what in _OTHER_THINGS:
        if start.lstrip()[: len(mark)].lower() == mark.lower():
            raise UserError(f"{name}: {what}, expected audio")
    if len(data) > 64 and not any(start) and not any(data[: min(len(data), 4096)]):
        raise UserError(f"{name}: begins with nothing but zeros, as a download that broke off, expected audio")
    for mark, length in _ONCE:
        if start.startswith(mark) and data.find(start[:length], length) >= 0:
            raise _refuse_several(name)


def _refuse_cut(name: str, found: int, promised: int, unit: str = "bytes of audio") -> UserError:
    hint = "; if the sound is whole, `sox --ignore-length IN OUT` mends the header" if unit == "bytes of audio" else ""
    return UserError(f"{name}: cut short, it holds {found} {unit}, expected {promised} by its header{hint}")


def _refuse_several(name: str, what: str = "recordings end to end") -> UserError:
    return UserError(f"{name}: holds several {what}, of which one would be read; split it")


# --- Chunks: wav, aiff, 8svx, au, w64, caf. ---


def _check_wav(name: str, data: Bytes, order: str) -> Checked:
    at, kept, long_size, counted, block, code, each, misplaced = 12, [], 0, 0, 0, 1, 1, False
    while at + 8 <= len(data):
        tag, (size,) = data[at : at + 4], struct.unpack(order + "I", data[at + 4 : at + 8])
        body = at + 8
        if tag == b"data":
            break
        if tag == b"ds64":
            (long_size,) = struct.unpack("<Q", data[body + 8 : body + 16])
        if tag == b"fmt " and size >= 16:
            (block,) = struct.unpack(order + "H", data[body + 12 : body + 14])
            (code,) = struct.unpack(order + "H", data[body : body + 2])
            each = {_NMS: 160, _G721: 2 * block}.get(code, int(code in _G711))
            if code in _OF_BLOCKS and size >= 20:
                (each,) = struct.unpack(order + "H", data[body + 18 : body + 20])
        if tag == b"fact" and size >= 4 and code not in _PCM:
            (counted,) = struct.unpack(order + "I", data[body : body + 4])
        if tag in (b"fmt ", b"fact"):
            kept.append(data[at : body + size + size % 2])
        at = body + size + size % 2
        if size % 2 and data[at - 1 : at + 3] in _CHUNKS:  # the byte that makes it even was left out
            at, misplaced = at - 1, True
    else:
        return Checked()  # no samples: the decoder says so
    available, promised = len(data) - body, long_size if size == 0xFFFFFFFF and long_size else size
    frames, note = _counted(counted, each, (min(promised, available) or available) / max(block, 1))
    if promised == 0 and available >= max(block, 1) and data[body : body + 4] not in _CHUNKS:
        return Checked(_wav(order, kept, data[body:]), frames, note)
    if available < promised < _UNKNOWN_BYTES or (long_size and available < promised):
        if not 0 < promised - available <= _TOLERATED_BYTES or available <= promised - available:
            raise _refuse_cut(name, available, promised)
        note = f"the header promises {promised - available} bytes more than there are"
        return Checked(_wav(order, kept, data[body:]), frames, note)
    _refuse_more_chunks(name, data, body + promised, order, b"data")
    return Checked(_wav(order, kept, data[body : body + promised]) if misplaced else None, frames, note)


def _counted(counted: int, each: int, blocks: float) -> tuple[int | None, str]:
    """How many frames are to be read by a wav's own count, None for all of them, and a note where it is wrong.

    A codec fills up its last block, and the count says where the sound ends in it. A recorder that writes to a pipe has
    left 0, or a number near the greatest, in its place. `each` is how many frames a block has, 0 where the header does
    not tell.
    """
    if not 0 < counted < _UNKNOWN_BYTES:
        return None, ""
    if not each:
        return counted, ""
    if (int(blocks) - 1) * each < counted <= math.ceil(blocks) * each:
        return counted if each > 1 else None, ""
    return None, f"the header counts {counted} frames, its audio has up to {math.ceil(blocks) * each}: all are read"


def _refuse_more_chunks(name: str, data: Bytes, at: int, order: str, audio: bytes) -> None:
    """Raises UserError where another chunk of audio, or another file, stands behind the first one's end."""
    at += at % 2
    while at + 12 <= len(data):
        tag, (size,) = data[at : at + 4], struct.unpack(order + "I", data[at + 4 : at + 8])
        if tag in (b"RIFF", b"RIFX", b"FORM") and data[at + 8 : at + 12] in (
            b"WAVE",
            b"AIFF",
            b"AIFC",
            b"8SVX",
            b"16SV",
        ):
            raise _refuse_several(name)
        if tag == audio and size:
            raise _refuse_several(name, "parts of audio")
        if not tag.isascii() or not tag.decode().isprintable():
            return  # no chunk
        at += 8 + size + size % 2


def _wav(order: str, chunks: list[bytes], audio: Bytes) -> bytes:
    """A wav file of these chunks and samples."""
    size = min(len(audio), 0xFFFFFFFF)
    body = b"".join([b"WAVE", *chunks, b"data", struct.pack(order + "I", size), audio])
    return (b"RIFX" if order == ">" else b"RIFF") + struct.pack(order + "I", min(len(body), 0xFFFFFFFF)) + body


def _check_iff(name: str, data: Bytes, audio: bytes) -> Checked:
    at = 12
    while at + 8 <= len(data):
        tag, (size,) = data[at : at + 4], struct.unpack(">I", data[at + 4 : at + 8])
        if tag == audio:
            available = len(data) - at - 8
            if available - size > size == 0 or available + _TOLERATED_BYTES < size < _UNKNOWN_BYTES:
                raise _refuse_cut(name, available, size)
            if size < available:
                _refuse_more_chunks(name, data, at + 8 + size, ">", audio)
            break
        at += 8 + size + size % 2
    return Checked()


def _check_au(name: str, data: Bytes) -> Checked:
    if len(data) < 24:
        return Checked()
    offset, size = struct.unpack(">II", data[4:12])
    available = len(data) - offset
    if size == 0 and available > 0:  # written to a pipe
        return Checked(data[:8] + b"\xff\xff\xff\xff" + data[12:])
    if available + _TOLERATED_BYTES < size < _UNKNOWN_BYTES:
        raise _refuse_cut(name, max(available, 0), size)
    if size < available and data[offset + size : offset + size + 4] == b".snd":
        raise _refuse_several(name)
    return Checked()


def _check_w64(name: str, data: Bytes) -> Checked:
    at, block = 40, 0
    while at + 24 <= len(data):
        tag, (size,) = data[at : at + 4], struct.unpack("<Q", data[at + 16 : at + 24])
        if tag == b"fmt ":
            (block,) = struct.unpack("<H", data[at + 36 : at + 38])
        if tag == b"data":
            available, promised = len(data) - at - 24, size - 24
            if not 0 <= promised < 1 << 62:
                return Checked()
            if available + _TOLERATED_BYTES < promised:
                raise _refuse_cut(name, available, promised)
            behind = at + size + -size % 8
            if data[behind : behind + 16] == data[:16]:
                raise _refuse_several(name)
            # What stands behind the samples is no sound, though libsndfile takes it for some.
            return Checked(frames=promised // block if block else None)
        at += max(24, size + -size % 8)
    return Checked()


def _check_caf(name: str, data: Bytes) -> Checked:
    at, lossless = 8, False
    while at + 12 <= len(data):
        tag, (size,) = data[at : at + 4], struct.unpack(">q", data[at + 4 : at + 12])
        if tag == b"caff":
            raise _refuse_several(name)
        if tag == b"desc":
            lossless = data[at + 20 : at + 24] == b"alac"  # whose packets end in a tag that is not zero
        if tag == b"data" and len(data) - at - 12 < size:
            raise _refuse_cut(name, len(data) - at - 12, size)
        if tag == b"data" and lossless and size > 64 and not any(data[at + size - 52 : at + size + 12]):
            raise UserError(
                f"{name}: damaged, its sound ends in zeros that no coder writes, as a download that broke off"
            )
        if size < 0 or not tag.isascii() or not tag.decode().isprintable():
            break
        at += 12 + size
    return Checked()


# --- Headers of their own: NIST Sphere, voc. ---


def _check_nist(name: str, data: Bytes) -> Checked:
    size = int(data[8:16])
    if b"embedded-" in data[16:size]:  # compressed: its samples are counted as they will be
        return Checked()
    fields = dict(line.split(None, 2)[::2] for line in data[16:size].decode("latin-1").splitlines() if " -i " in line)
    frames, channels, width = (int(fields.get(what, 0)) for what in _SPHERE)
    available = len(data) - size
    if available + _TOLERATED_BYTES < frames * channels * width:
        raise _refuse_cut(name, available, frames * channels * width)
    end = size + frames * channels * width
    if data[end : end + 8] == data[:8]:
        raise _refuse_several(name)
    # Else libsndfile takes what stands behind the samples for some.
    return Checked(frames=frames or None)


def _check_voc(name: str, data: Bytes) -> Checked:
    at, sounds = struct.unpack("<H", data[20:22])[0], 0
    while at + 4 <= len(data) and data[at]:  # 0 ends the file
        kind, size = data[at], int.from_bytes(data[at + 1 : at + 4], "little")
        sounds += kind in (1, 2, 9)
        if at + 4 + size > len(data) + _TOLERATED_BYTES:
            raise _refuse_cut(name, len(data) - at - 4, size)
        at += 4 + size
    if sounds > 1:
        raise _refuse_several(name, "blocks of audio")
    return Checked()


# --- Pages: ogg (Vorbis, Opus, FLAC). ---

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_sum(page: bytes) -> int:
    """The checksum of an ogg page whose own checksum is zero: CRC-32 with the highest bit first, begun with 0."""
    reflected = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reflected:032b}"[::-1], 2)


def _check_ogg(name: str, data: Bytes) -> Checked:
    at, ended, expected, granule = 0, set(), {}, 0
    while data[at : at + 4] == b"OggS":
        head = data[at : at + 27]
        lengths = data[at + 27 : at + 27 + head[26]] if len(head) == 27 else b""
        end = at + 27 + len(lengths) + sum(lengths)
        if len(head) < 27 or len(lengths) < head[26] or end > len(data):
            raise UserError(f"{name}: cut short, it ends inside a page, after {granule} samples")
        flags, granule_here, stream, number, checksum = struct.unpack("<BqIII", head[5:26])
        if flags & 2 and ended:
            raise _refuse_several(name, "streams end to end")
        page = head[:22] + bytes(4) + head[26:] + data[at + 27 : end]
        if checksum != _ogg_sum(page) or number != expected.get(stream, number):
            raise UserError(f"{name}: damaged, a page at byte {at} is not as it was written (checksum or number)")
        expected[stream] = number + 1
        granule = granule_here if granule_here > 0 else granule
        if flags & 4:
            ended.add(stream)
        at = end
    if expected.keys() - ended:
        raise UserError(f"{name}: cut short, its last page is missing; it holds {granule} samples")
    return Checked()
