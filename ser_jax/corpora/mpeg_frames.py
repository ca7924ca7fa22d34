"""The frames of mp3 and AAC files (ADTS), walked by the lengths in their headers: holes, lost frames, changed bytes.

Decoders pass over what is no frame, fill a hole with silence or an echo, and say nothing. The layouts are those of
ISO 11172-3 and 13818-3 (layer III), 13818-7 (ADTS), and the header frame of Xing with LAME's checksum of all that
follows.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from fastcrc import crc16

from ser_jax.corpora.foreign_structure import Bytes
from ser_jax.errors import UserError

_BITRATES = {  # kbit/s of layer III, by the index in the frame's header
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # MPEG-1
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),  # MPEG-2 and 2.5
}
_ADTS_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
_HOLE = 32  # zeros in a row that hardly any coder writes where a frame keeps its sound
_ZEROS = re.compile(rb"\0{32,}")
_FRAMES_BACK = 40  # whose bytes a frame may use: 511 at most
_LOST = (
    "damaged, a piece is missing at {seconds:.2f} s (byte {at}): the frame there needs {lacking} bytes that were "
    "before it"
)
_EMPTY = "{zeros} bytes of zeros at {seconds:.2f} s, where its sound should be: a hole?"


class _Piece(NamedTuple):
    """What stands in a file: a frame, a tag, the part of a last frame, or junk; `seconds` is of the sound before it."""

    kind: str
    at: int
    length: int
    seconds: float


def begins_mp3(start: bytes) -> bool:
    """Returns whether a file begins with a frame of layer III."""
    return _mp3_frame(start[:4])[0] > 0


def begins_adts(start: bytes) -> bool:
    """Returns whether a file begins with a frame of AAC."""
    return _adts_frame(start[:7])[0] > 0


def check(name: str, data: Bytes) -> tuple[bytes | None, str]:
    """Returns what to decode in place of the file (None: the file as it is), and a note, "" if there is nothing to say.

    Raises UserError that begins with `name` for a hole or lost frames, with their place in bytes and seconds.
    """
    tag = tag_length(data, 0)
    if begins_adts(data[tag : tag + 7]):
        return None, _check_adts(name, data)
    return _check_mp3(name, data)


def _mp3_frame(header: bytes) -> tuple[int, float]:
    """The bytes and seconds of the layer III frame that begins with `header`; 0 bytes for what begins no frame."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return 0, 0.0
    version, bitrate, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or bitrate in (0, 15) or rate == 3:
        return 0, 0.0
    hertz = (44100, 48000, 32000)[rate] >> {3: 0, 2: 1, 0: 2}[version]
    kilobits, samples = _BITRATES[version == 3][bitrate], 1152 if version == 3 else 576
    return samples // 8 * kilobits * 1000 // hertz + (header[2] >> 1 & 1), samples / hertz


def _adts_frame(header: bytes) -> tuple[int, float]:
    """The bytes and seconds of the AAC frame that begins with `header`; 0 bytes for what begins no frame."""
    if len(header) < 7 or header[0] != 0xFF or header[1] & 0xF6 != 0xF0 or header[2] >> 2 & 15 >= len(_ADTS_RATES):
        return 0, 0.0
    length = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    return (length if length > 7 else 0), 1024 * (1 + (header[6] & 3)) / _ADTS_RATES[header[2] >> 2 & 15]


def tag_length(data: Bytes, at: int) -> int:
    """Returns the length of the ID3 or APE tag at a place of a file, 0 if none is there."""
    head = data[at : at + 32]
    if head[:3] == b"ID3" and len(head) >= 10:
        return 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    if head[:3] == b"TAG":
        return 128
    if head[:8] == b"APETAGEX" and len(head) >= 24:
        (size,), (flags,) = struct.unpack("<I", head[12:16]), struct.unpack("<I", head[20:24])
        return size + 32 if flags & 0x20000000 else 32  # the header counts the tag and its footer, but not itself
    return 0


def _walk(data: Bytes, *, adts: bool) -> Iterator[_Piece]:
    """Yields everything that stands in a file."""
    frame, header = (_adts_frame, 7) if adts else (_mp3_frame, 4)
    at, seconds = 0, 0.0
    while at < len(data):
        (length, lasts), kind = frame(data[at : at + header]), "frame"
        if length and at + length > len(data):
            kind = "part"
        elif not length:
            length, kind = tag_length(data, at), "tag"
        if not length:
            kind, length = "junk", _until_frame(data, at, adts=adts)
        yield _Piece(kind, at, min(length, len(data) - at), seconds)
        seconds += lasts if kind == "frame" else 0.0
        at += length


def _until_frame(data: Bytes, at: int, *, adts: bool) -> int:
    """How many bytes it is from `at` to the next frame that another frame follows, or to the end."""
    frame, header = (_adts_frame, 7) if adts else (_mp3_frame, 4)
    found = data.find(b"\xff", at + 1)
    while found >= 0:
        length, _ = frame(data[found : found + header])
        behind = found + length
        if length and (frame(data[behind : behind + header])[0] or behind == len(data)):
            return found - at
        found = data.find(b"\xff", found + 1)
    return len(data) - at


def _refuse_hole(name: str, hole: _Piece) -> UserError:
    found = f"a hole of {hole.length} bytes at {hole.seconds:.2f} s (byte {hole.at})"
    return UserError(f"{name}: damaged, {found}, expected frames of sound end to end")


def _check_adts(name: str, data: Bytes) -> str:
    pieces = [*_walk(data, adts=True)]
    frames = [piece for piece in pieces if piece.kind == "frame"]
    for piece in pieces:
        if piece.kind == "junk" and frames[0].at < piece.at < frames[-1].at:
            raise _refuse_hole(name, piece)
    notes = ["ends inside a frame"] if pieces[-1].kind == "part" else []
    for piece in frames[:-1]:
        if empty := _ZEROS.search(data, piece.at, piece.at + piece.length):
            notes.append(_EMPTY.format(zeros=empty.end() - empty.start(), seconds=piece.seconds))
            break
    return "; ".join(notes)


def _check_mp3(name: str, data: Bytes) -> tuple[bytes | None, str]:
    frames: list[_Piece] = []
    promised, info, junk, notes, in_part = None, None, [], [], False
    for piece in _walk(data, adts=False):
        if piece.kind == "junk":
            junk.append(piece)
        elif piece.kind == "part":
            in_part = True
            notes.append("ends inside a frame")
        elif piece.kind == "frame":
            is_info, number = _info_frame(data[piece.at : piece.at + piece.length])
            if not is_info:
                frames.append(piece)
            else:
                promised = number if not frames else None  # several files end to end: each promises its own
                info = piece if not frames else None
    if promised and not frames:
        raise UserError(f"{name}: cut short, it holds no frame, expected {promised} by its header")
    if not frames:
        return None, ""
    if len(frames) == 1 and junk:
        raise UserError(f"{name}: one frame of mp3 among data that are none, expected frames of sound end to end")
    for piece in junk:
        if frames[0].at < piece.at < frames[-1].at:
            raise _refuse_hole(name, piece)
    lost, empty = _lost_and_empty(data, frames)
    if lost:
        raise UserError(f"{name}: {lost}")
    length, changed = _of_coder(data, info, frames) if info else (None, False)
    there = frames[-1].at + frames[-1].length - (info.at if info else 0)
    lacks_last = length is not None and length > there and not in_part  # a part of the last frame is said above
    if promised is not None and len(frames) < promised - 1 + lacks_last:
        raise UserError(f"{name}: cut short, it holds {len(frames)} frames, expected {promised} by its header")
    if empty and changed:
        raise _refuse_hole(name, empty)
    if empty:
        notes.append(_EMPTY.format(zeros=empty.length, seconds=empty.seconds))
    elif changed:
        notes.append("not as its coder wrote it, by the checksum in its header: a hole, or its volume was changed")
    if promised is not None and len(frames) <= promised + 1:
        end = frames[-1].at + frames[-1].length  # a cover picture or tag behind the sound is not for the decoder
        return (data[:end] if end < len(data) else None), "; ".join(notes)
    if any(piece.at > frames[-1].at and piece.length > 1 for piece in junk):
        notes.append("data that are no audio follow the sound, so a cut would not show")
    # Without a promise decoders guess the length by the size of the file, and stop there.
    first = data[frames[0].at : frames[0].at + 4]
    sound = (data[piece.at : piece.at + piece.length] for piece in frames)
    return b"".join([_made_info_frame(first, len(frames)), *sound]), "; ".join(notes)


def _info_frame(frame: bytes) -> tuple[bool, int | None]:
    """Whether a frame is no sound but a Xing, Info or VBRI header, and how many frames it promises."""
    for mark in (b"Xing", b"Info"):
        at = frame.find(mark, 4, 48)
        if at >= 0:
            (flags,) = struct.unpack(">I", frame[at + 4 : at + 8])
            return True, struct.unpack(">I", frame[at + 8 : at + 12])[0] if flags & 1 else None
    if frame[36:40] == b"VBRI":
        return True, struct.unpack(">I", frame[50:54])[0]
    return False, None


def _made_info_frame(like: bytes, number: int) -> bytes:
    """A header frame for sound like that of the frame `like`, that promises `number` frames."""
    header = bytes([0xFF, like[1] | 1, like[2] & 0x0C | 0x90, like[3]])  # no checksum, a middling bit rate
    promise = header + bytes(_side_bytes(header)) + b"Info" + struct.pack(">II", 1, number)
    return promise.ljust(_mp3_frame(header)[0], b"\0")


# --- What a frame says of the sound in it. ---


def _side_bytes(header: bytes) -> int:
    """How many bytes of a layer III frame say where its sound stands and how it is coded."""
    mono = header[3] >> 6 == 3
    return (17 if mono else 32) if header[1] >> 3 & 3 == 3 else (9 if mono else 17)


def _lost_and_empty(data: Bytes, frames: Sequence[_Piece]) -> tuple[str, _Piece | None]:
    """What is lost between two frames, in words or "", and the longest run of zeros where frames keep their sound.

    The sound of a frame may begin in those before it, but never before the end of the last one's.
    """
    stored, end = 0, 0  # bytes of sound in all frames so far, and how many of them are used
    places, of_sound, begins, ends = [], [], [], []  # where a frame's own part is; where the sound it decodes is
    for number, piece in enumerate(frames):
        head = data[piece.at : piece.at + 4]
        side = piece.at + (4 if head[1] & 1 else 6)  # behind a checksum, if it has one
        length = _side_bytes(head)
        back, size = _sound_of(head, data[side : side + length])
        begin = stored - back
        if number and begin < end and end > 0 and size:
            return _LOST.format(seconds=piece.seconds, at=piece.at, lacking=end - begin), None
        begins.append(begin)
        ends.append(begin + size)
        places.append(side + length)
        of_sound.append(stored)
        end = max(end, begin + size)
        stored += piece.at + piece.length - side - length
    places, of_sound, begins, ends = map(np.asarray, (places, of_sound, begins, ends))
    longest = None
    for run in _ZEROS.finditer(data, 0, frames[-1].at + frames[-1].length):
        number = int(np.searchsorted(places, run.end())) - 1
        if number < 0:
            continue
        place, own_end = int(places[number]), frames[number].at + frames[number].length
        at, end = max(run.start(), place), min(run.end(), own_end)  # what follows a frame may be a tag
        first, last = (int(of_sound[number]) + one - place for one in (at, end))
        near = slice(number, number + _FRAMES_BACK)
        used = int((np.minimum(last, ends[near]) - np.maximum(first, begins[near])).max())
        if used >= _HOLE and (longest is None or used > longest.length):
            longest = _Piece("hole", at, end - at, frames[number].seconds)
    return "", longest


def _sound_of(header: bytes, side: bytes) -> tuple[int, int]:
    """How many bytes before a layer III frame its sound begins, and how many bytes it has."""
    mpeg1, mono = header[1] >> 3 & 3 == 3, header[3] >> 6 == 3
    bits, total = int.from_bytes(side, "big"), 8 * len(side)

    def field(at: int, width: int) -> int:
        return bits >> (total - at - width) & ((1 << width) - 1)

    channels = 1 if mono else 2
    if mpeg1:  # two granules; how the scale factors are shared stands before them
        first, step, parts = 9 + (5 if mono else 3) + 4 * channels, 59, 2 * channels
    else:
        first, step, parts = 8 + channels, 63, channels
    size = sum(field(first + step * part, 12) for part in range(parts))
    return field(0, 9 if mpeg1 else 8), (size + 7) // 8


# --- LAME's checksum. ---

_LAME = 120  # bytes from "Xing" to the part that LAME and ffmpeg write
_LENGTH_AND_SUM = struct.Struct(">IH")  # of the header frame and all frames behind it; of those behind it


def _of_coder(data: Bytes, info: _Piece, frames: Sequence[_Piece]) -> tuple[int | None, bool]:
    """How many bytes the coder wrote, if the header frame tells, and whether as many are there and are not the same."""
    header = data[info.at : info.at + info.length]
    at = max(header.find(b"Xing", 4, 48), header.find(b"Info", 4, 48)) + _LAME
    if at < _LAME or header[at : at + 4] not in (b"LAME", b"Lavf", b"Lavc") or len(header) < at + 34:
        return None, False
    length, expected = _LENGTH_AND_SUM.unpack(header[at + 28 : at + 34])
    end = frames[-1].at + frames[-1].length
    same = (
        length != end - info.at
        or b"MP3GAIN" in data[-4096:]
        or expected == crc16.arc(data[info.at + info.length : end])
    )
    return length, not same
