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
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float32

from ser_jax.errors import UserError

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
_HEADLESS = (".raw", ".pcm", ".vox")
_TOLERATED_SECONDS = 0.25  # by which a container may promise more than its audio holds


@dataclasses.dataclass(frozen=True)
class Decoded:
    """A decoded file; `fine` says whether its samples may be finer than 16 bits."""

    samples: Float32[np.ndarray, "frames channels"]
    rate: int
    fine: bool


def decode(path: str | os.PathLike, name: str, data: Any, reason: str) -> Decoded:
    """Returns what PyAV, or else ffmpeg, reads of a file that libsndfile refuses with `reason`; `data` are its bytes.

    Raises UserError that names the kind of the file, for what neither can read or is not there to read it.
    """
    suffix = os.path.splitext(name)[1].lower()
    kind = next((kind for at, mark, kind in _KINDS if data[at : at + len(mark)] == mark), None)
    if kind is None and suffix in _HEADLESS:
        raise UserError(
            f"{name}: samples without a header, whose rate and width are not known; convert it, as by "
            "`sox -r 8000 -e signed -b 16 -c 1 IN.raw OUT.wav`"
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
    av = importlib.import_module("av")  # here, since it takes a moment, and few need it
    av.logging.set_level(av.logging.PANIC)
    parts, rate = [], 0
    try:
        with av.open(io.BytesIO(data[:])) as container:
            if not container.streams.audio:
                raise _refuse(name, kind, "it holds no audio")
            stream = container.streams.audio[0]
            promised = _promised_seconds(container, stream)
            to_float = av.AudioResampler(format="fltp")
            for frame in container.decode(stream):
                if rate and frame.sample_rate != rate:
                    raise _refuse(name, kind, f"its rate changes from {rate} to {frame.sample_rate} Hz")
                rate = frame.sample_rate
                parts += [one.to_ndarray().T for one in to_float.resample(frame)]
            parts += [one.to_ndarray().T for one in to_float.resample(None)] if parts else []
    except (av.FFmpegError, ValueError, IndexError, EOFError) as error:
        raise _refuse(name, kind, reason if kind is None else getattr(error, "strerror", None) or str(error)) from error
    if not parts:
        raise _refuse(name, kind, "it holds no samples")
    samples = np.ascontiguousarray(np.concatenate(parts), np.float32)
    if promised is not None and len(samples) / rate < promised - _TOLERATED_SECONDS:
        raise UserError(f"{name}: cut short, {len(samples) / rate:.2f} s can be decoded, expected {promised:.2f}")
    return Decoded(samples, rate, fine=False)


def _promised_seconds(container: Any, stream: Any) -> float | None:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    # Of other containers ffmpeg estimates the length by the bit rate.
    kept = container.format.name.startswith(("matroska", "mov"))
    return container.duration / 1e6 if container.duration and kept else None


def _by_ffmpeg(name: str, data: Any, kind: str | None, reason: str) -> Decoded:
    command = ["ffmpeg", "-v", "error", "-xerror", "-i", "pipe:0", "-vn", "-f", "wav", "-c:a", "pcm_f32le", "pipe:1"]
    done = subprocess.run(command, input=data[:], capture_output=True, check=False)
    if done.returncode or not done.stdout:
        raise _refuse(name, kind, reason if kind is None else done.stderr.decode(errors="replace") or reason)
    samples, rate = soundfile.read(io.BytesIO(done.stdout), dtype="float32", always_2d=True)
    if not len(samples):
        raise _refuse(name, kind, "it holds no samples")
    return Decoded(samples, rate, fine=False)
