"""What the structure of MPEG-4, Matroska, AVI and AMR files says of their being whole, before anything is decoded.

Their readers return what is left of a broken download, or call it invalid data. The layouts are those of ISO 14496-12
(boxes), RFC 8794 and 9559 (EBML, Matroska), and RFC 4867 (AMR).
"""

import mmap
import struct

from ser_jax.errors import UserError

Bytes = bytes | mmap.mmap

_BOXES = b"ftyp moov mdat free skip wide moof mfra sidx styp meta uuid udta pdin emsg prft".split()
_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_IN_SEGMENT = (  # of Matroska: what may stand in a segment or a cluster of unknown size
    *(0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1254C367, 0x1941A469, 0x1043A770, 0xEC, 0xBF),
    *(0xE7, 0xA7, 0xAB, 0xA3, 0xA0, 0x5854, 0xAF, _CLUSTER),
)
# Bytes of a frame behind its first, by its type: speech at each bit rate, then comfort noise; other types have none.
_AMR_SIZES = (12, 13, 15, 17, 19, 20, 26, 31, 5)
_AMR_WB_SIZES = (17, 23, 32, 36, 40, 46, 50, 58, 60, 5)


def check_avi(name: str, data: Bytes) -> None:
    """Raises UserError where the file is shorter than its header says; one that was written to a pipe does not say."""
    (size,) = struct.unpack("<I", data[4:8])
    if size < 0x7FFF0000:
        _refuse_beyond(name, data, 8 + size, "header")


def check_mpeg4(name: str, data: Bytes) -> int:
    """Returns how many files stand there end to end: how many boxes `ftyp` there are.

    Raises UserError where a box of the file is longer than what is left of it.
    """
    at = files = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        if kind not in _BOXES or size == 0:  # something behind the sound, or a box that ends with the file
            return files
        files += kind == b"ftyp"
        if size == 1:
            (size,) = struct.unpack(">Q", data[at + 8 : at + 16])
        _refuse_beyond(name, data, at + size, f"box {kind.decode()}")
        at += max(size, 8)
    return files


def check_matroska(name: str, data: Bytes) -> None:
    """Raises UserError where an element of the file is longer than what is left of it."""
    at = streamed = 0
    while at < len(data) and data[at]:
        element, at = _number(data, at, keep_marker=True)
        size, after = _number(data, at)
        unknown = size == (1 << 7 * (after - at)) - 1  # of a live recording
        at = after
        if streamed and element not in _IN_SEGMENT:  # something behind the sound
            return
        if unknown and element in (_SEGMENT, _CLUSTER):
            streamed = True
            continue
        _refuse_beyond(name, data, at + size, f"element {element:X}")
        if element == _SEGMENT:
            return
        at += size


def check_amr(name: str, data: Bytes) -> str:
    """Returns a note on frames that are marked as damaged, and on what is no frame, or "".

    Raises UserError for a file that ends inside a frame.
    """
    wide = data[:9] == b"#!AMR-WB\n"
    sizes, at, frames, damaged = _AMR_WB_SIZES if wide else _AMR_SIZES, 9 if wide else 6, 0, 0
    if data[at - 1 : at] != b"\n":  # several channels, or another kind: the decoder says what it makes of that
        return ""
    while at < len(data):
        kind = data[at] >> 3 & 15
        if data[at] & 0x83 or len(sizes) + 1 <= kind < 14:
            return "data that are no audio follow the sound"
        damaged += not data[at] & 4 and kind < len(sizes) - 1  # speech, not comfort noise
        at += 1 + (sizes[kind] if kind < len(sizes) else 0)
        frames += 1
    if damaged == frames:  # not one that is good: these may be no frames at all
        return ""
    _refuse_beyond(name, data, at, f"frame {frames}")
    return f"{damaged} of {frames} frames are marked as damaged" if damaged else ""


def _refuse_beyond(name: str, data: Bytes, end: int, what: str) -> None:
    if end > len(data):
        raise UserError(f"{name}: cut short, it holds {len(data)} bytes, expected at least {end} by its {what}")


def _number(data: Bytes, at: int, *, keep_marker: bool = False) -> tuple[int, int]:
    """A number of EBML, whose first byte says how many bytes it has, and where it ends."""
    length = 9 - data[at].bit_length()
    if length > 8 or at + length > len(data):
        raise IndexError("no number of EBML")
    number = int.from_bytes(data[at : at + length], "big")
    return number if keep_marker else number & ((1 << 7 * length) - 1), at + length
