"""Audio files in, 16 kHz mono samples out."""

import contextlib
import dataclasses
import io
import mmap
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import soundfile
import soxr
from jaxtyping import Float32, Int16

from ser_jax.corpora import containers, foreign
from ser_jax.corpora.corpus import SAMPLE_RATE
from ser_jax.corpora.levels import Counted
from ser_jax.errors import UserError

LIBSNDFILE_SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd", ".w64", ".caf"),
    *(".rf64", ".sph", ".nist", ".voc", ".wve", ".8svx", ".svx", ".wave"),
)
# Read through PyAV or ffmpeg, or refused by name, as those without a header are.
FOREIGN_SUFFIXES = (
    *(".m4a", ".mp4", ".m4b", ".aac", ".webm", ".mka", ".mkv", ".mov", ".avi", ".3gp", ".3g2", ".amr", ".wma", ".wmv"),
    *(".asf", ".mp2", ".mpg", ".mpeg", ".flv", ".gsm", ".ape", ".wv", ".tta", ".ac3", ".spx", ".ra", ".rm"),
    *(".amr-nb", ".amr-wb", ".weba", ".m4r", ".m4v", ".mpga", ".dss", ".ds2", ".silk", ".awb"),
    *foreign.HEADLESS,
)
AUDIO_SUFFIXES = LIBSNDFILE_SUFFIXES + FOREIGN_SUFFIXES

NOTES = {  # what is to be known of recordings, by kind, in words
    "copies": "whose bytes are those of another one",
    "overlapping": "that overlap another segment of their recording, of another emotion or speaker",
    "contradicting_copies": "whose bytes are those of another one, of another emotion or speaker",
    "outlying": "with a value of a dimension far from all others: does it say that none is known?",
    "silent": "silent",
    "clipped": "clipped",
    "zeros": "with long stretches of one value, such as zeros",
    "scaled_down": "above full scale, scaled down",
    "scaled_up": "too soft for 16 bits, scaled up",
    "cancelling_channels": "with channels that cancel, the loudest one taken",
    "silent_channels": "with channels without a sound, left out of the mean",
    "different_channels": "with channels that have nothing in common, averaged",
    "structure": "with an odd structure, read all the same",
}

RATES = (1_000, 768_000)  # Hz, of what may be audio; a header that says 1 Hz would fill the memory when resampled

MOST_HOURS = 12  # of one recording: an hour of silence packs to less than a megabyte, and takes 230 of memory

MOST_PIPED = 2_000_000_000  # bytes that a pipe or a device may give: they are all kept, and some never end

_BLOCK_FRAMES = 1 << 18  # read at a time, so that a long recording of many channels needs little memory
SILENT = 2.0**-31  # what differs less than a step of 32 bits has no sound
_FINE = ("PCM_24", "PCM_32", "FLOAT", "DOUBLE")  # soft sound may stand below the 16th bit
SOFT, AUDIBLE = 2.0**-7, 0.1  # peak below which such sound is scaled up, and the peak that it then has
INTEGER_SCALES = (2.0**15, 2.0**23, 2.0**31)  # of 16, 24 and 32 bits
NOT_INTEGER = 16.0  # peak up to which samples above full scale are not on such a scale
_CLIPPED_SHARE = 1e-3  # of the samples, from which on clipping is said
_ZEROS_SECONDS = 1.0  # of one value, from which on it is said: a microphone is never that still, a gap is
_UNLIKE = 0.1  # correlation below which two channels have nothing in common, as those of a telephone's two parties
_CHECKED = {  # formats of libsndfile whose length `containers` or the decoder checks
    *("WAV", "WAVEX", "RF64", "W64", "AIFF", "SVX", "AU", "CAF", "FLAC", "OGG", "MP3", "NIST", "VOC", "HTK"),
}
_UNCHECKED_LAYERS = ("MPEG_LAYER_I", "MPEG_LAYER_II")  # of .mp1 and .mp2, whose frames nobody counts
_CANCELLED = 0.1  # of the loudest channel's level that is left where channels cancel


@dataclasses.dataclass(frozen=True)
class Recording:
    """A recording as models take it, and what was found on the way.

    Attributes:
        samples: 16 kHz, mono.
        rate: Hz, of the file.
        channels: of the file.
        level_db: RMS of `samples` before they were scaled, dB below full scale; -inf for silence.
        clipped: share of the file's samples that stand at full scale, three or more in a row.
        notes: what a user should know, by kind, of NOTES.
    """

    samples: Int16[np.ndarray, " samples"]
    rate: int
    channels: int
    level_db: float
    clipped: float
    notes: dict[str, str]


def find_audio(folder: str | os.PathLike) -> list[Path]:
    """Returns the audio files anywhere below `folder`, sorted; hidden files and folders are passed over.

    Linked folders are followed, once round. Whatever has the suffix of audio, or begins as audio does, is returned,
    readable or not. Raises UserError for a folder that may not be read, and for a pipe or device.
    """
    found, walk = [], [(Path(folder), frozenset[tuple[int, int]]())]
    while walk:
        here, above = walk.pop()
        try:
            place = here.stat()
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(f"{printable(here)}: cannot be read ({error.strerror}), expected a folder") from error
        if (place.st_dev, place.st_ino) in above:  # a link to a folder that it stands in
            continue
        for entry in entries:
            if entry.name.startswith((".", "__MACOSX")):
                continue
            if entry.is_dir():
                walk.append((here / entry.name, above | {(place.st_dev, place.st_ino)}))
            elif os.path.splitext(entry.name)[1].lower() in AUDIO_SUFFIXES or _begins_as_audio(entry):
                if os.path.exists(entry.path) and not entry.is_file():
                    raise UserError(f"{printable(entry.path)}: a pipe or a device, expected a file")
                found.append(here / entry.name)
    return sorted(found)


def _begins_as_audio(entry: os.DirEntry) -> bool:
    with contextlib.suppress(OSError):
        if entry.is_file():
            with open(entry.path, "rb") as file:
                return containers.begins_as_audio(file.read(32))
    return False


def printable(path: str | os.PathLike) -> str:
    """Returns a path as text that can be printed and stored, whatever bytes the file system has."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def read_recording(path: str | os.PathLike) -> Recording:
    """Returns the samples of an audio file at 16 kHz, mono, and what was found in it.

    Whatever libsndfile reads (wav, flac, ogg, mp3, ...) of any width, length and number of channels, at RATES;
    other containers (m4a, webm, amr, ...) through PyAV or ffmpeg, where there is one. `-`, a pipe or a device is read
    to its end. Channels with a sound are averaged, or, where they cancel, the loudest one is taken; then resampled
    (soxr, very high quality). What exceeds full scale is scaled down, what would vanish in 16 bits is scaled up;
    `notes` says so. Blocks are decoded one after another, so that an hour needs little more memory than its samples.
    Raises UserError for a file that is missing, empty, cut short, damaged, no audio, without samples, or holds NaN or
    infinity: the frames that come out of the decoder are counted against those that the file promises.
    """
    name = "standard input" if os.fspath(path) == "-" else printable(path)
    with _bytes_of(path, name) as data:
        checked = containers.check_structure(name, data)
        decode = _decoder(path, name, data, checked)
        recording = _listen(name, decode)
    structure = "; ".join(note for note in (checked.note, decode.note) if note)
    notes = {"structure": structure} if structure else {}
    return dataclasses.replace(recording, notes=notes | recording.notes)


def heard(name: str, waveform: np.ndarray, rate: int) -> Recording:
    """Returns the samples of an array at 16 kHz as `read_recording` does those of a file; `name` is for messages.

    `waveform` is mono: floating point in [-1, 1], or int16. `rate` is in Hz.
    Raises UserError for another dtype or more than one axis, no samples, NaN or infinity, and a rate outside RATES.
    """
    whole = np.issubdtype(waveform.dtype, np.int16)  # in either order of bytes
    floating = np.issubdtype(waveform.dtype, np.floating) or waveform.dtype == ml_dtypes.bfloat16  # none to NumPy
    if waveform.ndim != 1 or not (whole or floating):
        found = f"{waveform.dtype} {list(waveform.shape)}"
        raise UserError(f"{name}: an array of {found}, expected int16 or floating point, [samples], one channel")
    _refuse_rate(name, rate)
    scale = np.float32(1 / 32768 if whole else 1)

    def blocks() -> Iterator[Float32[np.ndarray, "frames channels"]]:
        for first in range(0, len(waveform), _BLOCK_FRAMES):
            with np.errstate(over="ignore"):  # infinity is refused as such
                block = (waveform[first : first + _BLOCK_FRAMES] * scale).astype(np.float32)[:, None]
            yield block

    return _listen(name, _Decoder(blocks, rate, 1, fine=not whole))


def to_int16(samples: Float32[np.ndarray, " samples"]) -> Int16[np.ndarray, " samples"]:
    """Returns samples in [-1, 1) as int16, rounded to the nearest step and clipped."""
    # A block at a time: an hour needs little more memory than its samples.
    found = np.empty(len(samples), np.int16)
    for start in range(0, len(samples), _BLOCK_FRAMES):
        block = np.rint(samples[start : start + _BLOCK_FRAMES] * 32768.0)
        found[start : start + _BLOCK_FRAMES] = np.clip(block, -32768, 32767)
    return found


@contextlib.contextmanager
def _bytes_of(path: str | os.PathLike, name: str) -> Iterator[bytes | mmap.mmap]:
    """Yields all bytes of a file, pipe or standard input."""
    if os.fspath(path) == "-":
        data = _piped(sys.stdin.buffer, name)
        if not data:
            raise UserError(f"{name}: empty, expected audio")
        yield data
        return
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise UserError(f"{name}: a folder, expected an audio file; name the files in it, as in {name}/*.wav")
        with open(path, "rb") as file:
            if not stat.S_ISREG(mode):
                data = _piped(file, name)
            elif os.fstat(file.fileno()).st_size:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            else:
                data = b""
    except FileNotFoundError as error:
        what = "a link to a file that is not there" if os.path.islink(path) else "no such audio file"
        raise UserError(f"{name}: {what}") from error
    except PermissionError as error:
        raise UserError(f"{name}: no permission to read this audio file") from error
    except (OSError, ValueError) as error:  # a name that is too long, or holds a zero
        raise UserError(f"{name[:200]}: cannot be read ({getattr(error, 'strerror', error)})") from error
    if not data:
        raise UserError(f"{name}: an empty file (0 bytes), expected audio")
    try:
        yield data
    finally:
        if isinstance(data, mmap.mmap):
            data.close()


def _piped(file: io.IOBase, name: str) -> bytes:
    """Returns all that a pipe or a device gives; raises UserError where that is more than may be kept."""
    pieces, size = [], 0
    while piece := file.read(1 << 20):
        pieces.append(piece)
        size += len(piece)
        if size > MOST_PIPED:
            found = f"more than {MOST_PIPED / 1e9:g} GB from a pipe or a device"
            raise UserError(f"{name}: {found}, expected a recording; write it to a file and name that")
    return b"".join(pieces)


# --- Decoding. ---


@dataclasses.dataclass(frozen=True)
class _Decoder:
    """What decodes a file from its beginning, as often as asked, in blocks [frames, channels]."""

    blocks: Callable[[], Iterator[Float32[np.ndarray, "frames channels"]]]
    rate: int
    channels: int
    fine: bool  # whether its samples are finer than 16 bits
    note: str = ""  # what a reader should know of its structure


def _decoder(path: str | os.PathLike, name: str, data: containers.Bytes, checked: containers.Checked) -> _Decoder:
    def opened() -> soundfile.SoundFile:
        if checked.mended is not None or not isinstance(data, mmap.mmap):
            return soundfile.SoundFile(_InMemory(data[:] if checked.mended is None else checked.mended))
        # Without its name, by which libsndfile takes any bytes for samples: of .au, .vox and others.
        try:
            file = os.fsencode(path) if _is_gsm(name, data) else os.open(path, os.O_RDONLY)
        except OSError as error:  # gone meanwhile, or too many files are open
            raise UserError(f"{name}: cannot be opened again ({error.strerror})") from error
        return soundfile.SoundFile(file)

    try:
        with opened() as sound:
            promised = sound.frames if checked.frames is None else checked.frames
            rate, channels, fine = sound.samplerate, sound.channels, sound.subtype in _FINE
            kind = sound.subtype if sound.subtype in _UNCHECKED_LAYERS else sound.format
            unchecked = "" if kind in _CHECKED else f"of the format {kind}: nothing shows whether it is complete"
            # A lossy file's samples may be fewer than its frames would hold, by what its coder was late.
            late = 2304 if "MPEG" in sound.subtype else 0
    except soundfile.LibsndfileError as error:
        reason = error.error_string.removeprefix("Error : ").rstrip(".")
        found = foreign.decode(path, name, data, reason)
        _refuse_rate(name, found.rate)
        return _Decoder(
            lambda: _limited(name, found.blocks(), found.rate), found.rate, found.channels, fine=False, note=found.note
        )
    _refuse_rate(name, rate)

    def blocks() -> Iterator[Float32[np.ndarray, "frames channels"]]:
        decoded = 0
        with opened() as sound:
            while decoded < promised:
                try:
                    # Not by blocks(), which fills what a decoder does not deliver with whatever stood in the memory.
                    block = sound.read(min(_BLOCK_FRAMES, promised - decoded), dtype="float32", always_2d=True)
                except soundfile.LibsndfileError as error:
                    reason = error.error_string.removeprefix("Error : ").rstrip(".")
                    where = f"{reason}, after {decoded} of {promised} frames"
                    raise UserError(f"{name}: cannot be read as audio to its end ({where})") from error
                if not len(block):
                    break
                decoded += len(block)
                yield block
        if decoded + late < promised < 1 << 60:  # a flac written to a pipe promises no length
            raise UserError(f"{name}: cut short or damaged, {decoded} frames can be decoded, expected {promised}")

    return _Decoder(lambda: _limited(name, blocks(), rate), rate, channels, fine, unchecked)


def _limited(name: str, blocks: Iterator[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    """Passes blocks on; raises UserError where they are longer than a recording may be."""
    frames = 0
    for block in blocks:
        frames += len(block)
        if frames > MOST_HOURS * 3600 * rate:
            raise UserError(f"{name}: longer than {MOST_HOURS} hours, expected less; cut it into pieces")
        yield block


def _is_gsm(name: str, data: containers.Bytes) -> bool:
    """Whether a file is frames of GSM 6.10 without a header, which its name alone tells libsndfile."""
    return name.lower().endswith(".gsm") and all(byte >> 4 == 13 for byte in data[::33])


class _InMemory(io.BytesIO):
    """A file in memory for libsndfile, whose parser may seek before its beginning in a damaged one."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return self.tell()


def _refuse_rate(name: str, rate: int) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        raise UserError(f"{name}: a rate of {rate} Hz, expected {RATES[0]} to {RATES[1]}")


# --- What is heard: one channel, its level, and what is wrong with it. ---


def _listen(name: str, decoder: _Decoder) -> Recording:
    """Decodes a file, again where channels cancel or are silent, and once more where its level has to be changed."""
    heard, blocks = Counted(decoder.channels), decoder.blocks
    samples, peak = _in_16_bits(_resampled(heard.mono(name, blocks()), decoder.rate))
    if not heard.frames:
        raise UserError(f"{name}: audio without samples, expected at least one")
    notes: dict[str, str] = {}
    loudest = int(np.argmax(heard.powers))
    if decoder.channels > 1 and heard.power < _CANCELLED**2 * heard.powers[loudest]:
        notes["cancelling_channels"] = f"its channels cancel when averaged; channel {loudest + 1} alone is taken"
        clipped = heard.clipped
        heard = Counted(1)

        def blocks() -> Iterator[np.ndarray]:
            return (block[:, loudest : loudest + 1] for block in decoder.blocks())

        samples, peak = _in_16_bits(_resampled(heard.mono(name, blocks()), decoder.rate))
        heard.clipped = clipped
    elif 0 < (sounding := heard.sounding()).sum() < decoder.channels:
        channels = ", ".join(str(channel + 1) for channel in np.flatnonzero(~sounding))
        notes["silent_channels"] = f"no sound in channel {channels}; the mean is over the others"
        clipped = heard.clipped
        heard = Counted(int(sounding.sum()))

        def blocks() -> Iterator[np.ndarray]:
            return (block[:, sounding] for block in decoder.blocks())

        samples, peak = _in_16_bits(_resampled(heard.mono(name, blocks()), decoder.rate))
        heard.clipped = clipped
    if heard.least_alike() < _UNLIKE:
        notes["different_channels"] = (
            "its channels have nothing in common and were averaged: two speakers? then prepare each channel by itself"
        )
    share = heard.clipped / (heard.frames * decoder.channels)
    if share >= _CLIPPED_SHARE:
        notes["clipped"] = f"{100 * share:.1f} % of its samples are clipped"
    level = 10 * float(np.log10(heard.power / heard.frames)) if heard.power else -np.inf
    if heard.high - heard.low <= SILENT:
        notes["silent"] = "silent: there is no sound in it"
        return Recording(samples, decoder.rate, decoder.channels, -np.inf, share, notes)
    if heard.still >= _ZEROS_SECONDS * decoder.rate:
        what = f"the value {heard.value:.3g}" if heard.value else "zeros"
        where = " at its end" if heard.run == heard.still else ""
        notes["zeros"] = f"{heard.still / decoder.rate:.1f} s of nothing but {what}{where}: is it whole?"
    gain = float(gain_of(max(heard.high, -heard.low), decoder.fine))
    if gain < 1:
        notes["scaled_down"] = f"exceeds full scale, up to {max(heard.high, -heard.low):.6g}; scaled by {gain:.6g}"
    elif gain > 1:
        notes["scaled_up"] = f"too soft for 16 bits, {level:.0f} dB; scaled by {gain:.6g}"
    peak = float(np.float32(peak) * np.float32(gain))
    if peak > 1:  # a resampled wave swings over the samples that it was made of
        notes.setdefault("scaled_down", f"exceeds full scale at {SAMPLE_RATE} Hz; scaled by {1 / peak:.4f}")
    if gain != 1 or peak > 1:
        del samples
        again = _resampled(Counted(len(heard.sums)).mono(name, blocks()), decoder.rate)
        samples, _ = _in_16_bits(again, gain, max(peak, 1.0))
    return Recording(samples, decoder.rate, decoder.channels, level, share, notes)


def gain_of(peak: Any, fine: Any = True, where: Callable[..., Any] = np.where) -> Any:
    """Returns by what a recording is scaled, so that it neither clips nor vanishes in 16 bits.

    `peak` is above 0; `fine`: it has more than 16 bits. `where` is that of the library whose number is to be returned.
    """
    scale = peak
    # Samples on the scale of 16, 24 or 32 bit, written as floating point: their level is known.
    for greater in reversed(INTEGER_SCALES):
        scale = where((peak > NOT_INTEGER) & (peak <= greater), greater, scale)
    audible = AUDIBLE / peak
    loud = where(peak / scale < SOFT, audible, 1 / scale)
    return where(peak > 1, loud, where((peak < SOFT) & fine, audible, 1.0))


def _resampled(blocks: Iterator[np.ndarray], rate: int) -> Iterator[Float32[np.ndarray, " frames"]]:
    if rate == SAMPLE_RATE:
        yield from blocks
        return
    stream = soxr.ResampleStream(rate, SAMPLE_RATE, num_channels=1, dtype="float32", quality="VHQ")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _in_16_bits(
    blocks: Iterator[np.ndarray], gain: float = 1.0, peak: float = 1.0
) -> tuple[Int16[np.ndarray, " samples"], float]:
    """The samples of all blocks times `gain` and over `peak`, as int16, and the highest of them before rounding."""
    # An array that grows in place: of an hour there are never two copies.
    found, length, highest = np.empty(_BLOCK_FRAMES, np.int16), 0, 0.0
    for block in blocks:
        if gain != 1:
            block = block * np.float32(gain)
        if peak > 1:
            block = block / np.float32(peak)
        highest = max(highest, float(np.abs(block).max(initial=0.0)))
        end = length + len(block)
        if end > len(found):
            found.resize(max(end, len(found) + len(found) // 4), refcheck=False)
        found[length:end] = to_int16(block)
        length = end
    found.resize(length, refcheck=False)
    return found, highest
