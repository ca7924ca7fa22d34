"""Audio in containers that libsndfile does not read (m4a, mp4, webm, amr, ...), through PyAV or ffmpeg.

Neither is needed by anything else: where both are missing, such a file is refused by name, with what would read it.
"""

import dataclasses
import importlib
import importlib.util
import io
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float32

from ser_jax.errors import UserError

HEADLESS = (  # suffixes of samples without a header, many of them of telephone switches
    *(".raw", ".pcm", ".vox", ".sln", ".sln16", ".ulaw", ".alaw", ".mulaw", ".ul", ".al", ".g722", ".g723", ".g726"),
    *(".g729", ".adpcm", ".vox6", ".vox8"),
)
_KINDS = (  # how a file that libsndfile does not know begins: place, bytes, kind
    (4, b"ftyp", "an MPEG-4 container, as of .m4a and .mp4"),
    (0, b"\x1aE\xdf\xa3", "a Matroska or WebM container"),
    (0, b"#!AMR", "AMR"),
    (0, b"0&\xb2u\x8ef\xcf\x11", "Windows Media"),
    (0, b"FLV", "Flash video"),
    (0, b"NIST_1A", "a SPHERE file, compressed by shorten or of another coding"),
    (0, b".RMF", "RealMedia"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"wvpk", "WavPack"),
)
_ENDLESS = ("aac", "ac3", "eac3", "mpegts", "mp2", "gsm", "dts", "loas")  # frames end to end, which promise no length
_CHECKSUMMED = ("wavpack", "tta")
_BLOCK_FRAMES = 1 << 18
_TOLERATED_SECONDS = 0.25  # by which a container may promise more than its audio holds


@dataclasses.dataclass(frozen=True)
class Decoded:
    """A file that can be decoded: its rate (Hz), its channels, and what gives its samples, as often as asked.

    `note` is what a reader should know of its structure.
    """

    blocks: Callable[[], Iterator[Float32[np.ndarray, "frames channels"]]]
    rate: int
    channels: int
    note: str = ""


def decode(path: str | os.PathLike, name: str, data: Any, reason: str) -> Decoded:
    """Returns how PyAV, or else ffmpeg, reads a file that libsndfile refuses with `reason`; `data` are its bytes.

    Raises UserError that names the kind of the file, also while it is decoded, for what neither can read or is not
    there to read it.
    """
    suffix = os.path.splitext(name)[1].lower()
    kind = next((kind for at, mark, kind in _KINDS if data[at : at + len(mark)] == mark), None)
    if kind is None and suffix in HEADLESS:
        raise UserError(
            f"{name}: samples without a header, whose rate and coding are not known; convert it, as by "
            "`sox -t raw -r 8000 -e signed -b 16 -c 1 IN OUT.wav`"
        )
    if importlib.util.find_spec("av") is not None:
        return _by_pyav(name, data, kind, reason)
    if shutil.which("ffmpeg"):
        return _by_ffmpeg(name, data, kind, reason)
    if kind:
        raise UserError(
            f"{name}: {kind}, which needs PyAV (`pip install av`) or ffmpeg to be read; or convert it, as by "
            "`ffmpeg -i IN OUT.wav`"
        )
    raise UserError(f"{name}: cannot be read as audio ({reason}), expected wav, flac, ogg or mp3")


def _refuse(name: str, kind: str | None, reason: str) -> UserError:
    what = f"{kind}, which cannot be read as audio" if kind else "cannot be read as audio"
    return UserError(f"{name}: {what} ({' '.join(reason.split())[:160]}), expected wav, flac, ogg, mp3 or m4a")


def _by_pyav(name: str, data: Any, kind: str | None, reason: str) -> Decoded:
    def blocks() -> Iterator[np.ndarray]:
        waiting: list[np.ndarray] = []  # a frame has a thousand samples, too few to work on one by one
        for samples, _ in _frames_of_pyav(name, data, kind, reason):
            waiting.append(samples)
            if len(waiting) * len(samples) >= _BLOCK_FRAMES:
                yield np.concatenate(waiting)
                waiting = []
        if waiting:
            yield np.concatenate(waiting)

    first, rate = next(_frames_of_pyav(name, data, kind, reason))
    return Decoded(blocks, rate, first.shape[1], _note_of_pyav(data))


def _note_of_pyav(data: Any) -> str:
    """What is left out of a container that can be read, and whether nothing shows whether it is complete."""
    av = importlib.import_module("av")
    with av.open(io.BytesIO(data[:])) as container:
        streams, name = container.streams.audio, container.format.name
        notes = [f"it holds {len(streams)} streams of sound, the first is taken"] if len(streams) > 1 else []
        if name in _ENDLESS:
            notes.append(f"of the format {name}: nothing shows whether it is complete")
        return "; ".join(notes)


def _frames_of_pyav(name: str, data: Any, kind: str | None, reason: str) -> Iterator[tuple[np.ndarray, int]]:
    """Yields samples [frames, channels] and their rate, one frame of the container after another."""
    av = importlib.import_module("av")  # here, since it takes a moment, and few need it
    av.logging.set_level(av.logging.PANIC)
    rate, decoded = 0, 0
    try:
        with av.open(io.BytesIO(data[:])) as container:
            if not container.streams.audio:
                raise _refuse(name, kind, "it holds no audio")
            stream = container.streams.audio[0]
            promised = _promised_seconds(container, stream)
            if (
                stream.codec_context and stream.codec_context.name in _CHECKSUMMED
            ):  # else a wrong checksum is a line of the library's log
                stream.codec_context.options = {"err_detect": "crccheck+explode"}
            to_float = av.AudioResampler(format="fltp")
            for frame in container.decode(stream):
                if rate and frame.sample_rate != rate:
                    raise _refuse(name, kind, f"its rate changes from {rate} to {frame.sample_rate} Hz")
                rate = frame.sample_rate
                for one in to_float.resample(frame):
                    decoded += one.samples
                    yield np.ascontiguousarray(one.to_ndarray().T, np.float32), rate
            for one in to_float.resample(None) if decoded else ():
                decoded += one.samples
                yield np.ascontiguousarray(one.to_ndarray().T, np.float32), rate
    except (av.FFmpegError, ValueError, IndexError, EOFError) as error:
        raise _refuse(name, kind, reason if kind is None else getattr(error, "strerror", None) or str(error)) from error
    if not decoded:
        raise _refuse(name, kind, "it holds no samples")
    if promised is not None and decoded / rate < promised - _TOLERATED_SECONDS:
        raise UserError(f"{name}: cut short, {decoded / rate:.2f} s can be decoded, expected {promised:.2f}")


def _promised_seconds(container: Any, stream: Any) -> float | None:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    # Of other containers ffmpeg estimates the length by the bit rate.
    kept = container.format.name.startswith(("matroska", "mov", "flv", "avi", "asf"))
    return container.duration / 1e6 if container.duration and kept else None


def _by_ffmpeg(name: str, data: Any, kind: str | None, reason: str) -> Decoded:
    command = ["ffmpeg", "-v", "error", "-xerror", "-i", "pipe:0", "-vn", "-f", "wav", "-c:a", "pcm_f32le", "pipe:1"]
    done = subprocess.run(command, input=data[:], capture_output=True, check=False)
    if done.returncode or not done.stdout:
        raise _refuse(name, kind, reason if kind is None else done.stderr.decode(errors="replace") or reason)
    samples, rate = soundfile.read(io.BytesIO(done.stdout), dtype="float32", always_2d=True)
    if not len(samples):
        raise _refuse(name, kind, "it holds no samples")

    def blocks() -> Iterator[np.ndarray]:
        return (samples[start : start + _BLOCK_FRAMES] for start in range(0, len(samples), _BLOCK_FRAMES))

    return Decoded(blocks, rate, samples.shape[1])
