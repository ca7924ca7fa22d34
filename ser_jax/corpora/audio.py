"""Audio files in, 16 kHz mono samples out."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
from jaxtyping import Float32, Int16

from ser_jax.corpora.corpus import SAMPLE_RATE
from ser_jax.errors import UserError

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".caf")

_BLOCK_FRAMES = 1 << 18  # read at a time, so that a long recording of many channels needs little memory
_UNKNOWN_BYTES = 0x7FFF0000  # programs that write to a pipe promise about 2 or 4 GiB, not knowing the length


def find_audio(folder: str | os.PathLike) -> list[Path]:
    """Returns the audio files anywhere below `folder`, sorted; hidden files and folders are passed over."""
    folder = Path(folder)
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in AUDIO_SUFFIXES
        and not any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def read_audio(path: str | os.PathLike) -> Float32[np.ndarray, " samples"]:
    """Returns the samples of an audio file at 16 kHz, in [-1, 1] where the file is.

    Whatever libsndfile reads (wav, flac, ogg, mp3, ...) of any rate, width, length and number of channels;
    channels are averaged, then resampled (soxr, very high quality).
    Raises UserError for a file that is missing, empty, cut short, no audio, without samples, or holds NaN or infinity.
    (An mp3 cut short is read as far as it goes: it need not say how long it is.)
    """
    path = Path(path)
    _refuse_unless_file(path)
    try:
        with soundfile.SoundFile(path) as sound:
            _refuse_broken_promise(path, sound)
            samples = _resample(_mono_blocks(path, sound), sound.samplerate)
    except soundfile.LibsndfileError as error:
        reason = error.error_string.removeprefix("Error : ").rstrip(".")
        raise UserError(f"{path}: cannot be read as audio ({reason}), expected wav, flac, ogg or mp3") from error
    if len(samples) == 0:
        raise UserError(f"{path}: audio without samples, expected at least one")
    return samples


def to_int16(samples: Float32[np.ndarray, " samples"]) -> Int16[np.ndarray, " samples"]:
    """Returns samples in [-1, 1) as int16, rounded to the nearest step and clipped."""
    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)


def _refuse_unless_file(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"{path}: a folder, expected an audio file")
    if not path.is_file():
        raise UserError(f"{path}: no such audio file")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path}: no permission to read this audio file")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: an empty file (0 bytes), expected audio")


def _refuse_broken_promise(path: Path, sound: soundfile.SoundFile) -> None:
    # libsndfile silently takes what is there of a wav or aiff cut short; only its log tells what the header promised.
    for promised, found in re.findall(r"^\s*(?:data|SSND) : (\d+) \(should be (\d+)\)", sound.extra_info, re.MULTILINE):
        if int(found) < int(promised) < _UNKNOWN_BYTES:
            raise UserError(f"{path}: cut short, it holds {found} bytes of audio, expected {promised} by its header")


def _mono_blocks(path: Path, sound: soundfile.SoundFile) -> Iterator[Float32[np.ndarray, " frames"]]:
    for block in sound.blocks(_BLOCK_FRAMES, dtype="float32", always_2d=True):
        mono = block.mean(axis=1)
        if not np.isfinite(mono).all():
            raise UserError(f"{path}: audio holds NaN or infinity, expected finite samples")
        yield mono


def _resample(blocks: Iterator[np.ndarray], rate: int) -> Float32[np.ndarray, " samples"]:
    if rate == SAMPLE_RATE:
        return np.concatenate([np.zeros(0, np.float32), *blocks])
    stream = soxr.ResampleStream(rate, SAMPLE_RATE, num_channels=1, dtype="float32", quality="VHQ")
    resampled = [stream.resample_chunk(block) for block in blocks]
    return np.concatenate([*resampled, stream.resample_chunk(np.zeros(0, np.float32), last=True)])
