"""Hours of recordings that are prepared in a minute, against librosa with joblib.

python -m benchmarks.preparing [--kind NAME ...] [--recordings 120] [--seconds 4] [--turns 5] [--jobs CORES]

Recordings of noise that swells as syllables do, in the formats that corpora come in. From the files to mono 16 kHz
int16 samples in one file on disk. Ours is the whole of `prepare folder` for a table: it reads each file a second time
for its hash, checks its structure and its level, looks for copies, and packs. librosa decodes, averages channels and
resamples in joblib's processes, by the same filter (soxr_vhq) and by its default (soxr_hq), and does none of that. The
samples of all utterances are compared before anything is timed.
Prints a table, and a JSON line for each contestant to stderr.
"""

import argparse
import contextlib
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import joblib
import librosa
import numpy as np
import soundfile

from benchmarks.common import emit, take_turns
from ser_jax import machine
from ser_jax.corpora.corpus import SAMPLE_RATE
from ser_jax.corpora.prepare import Options, prepare_folder

KINDS = {  # suffix, rate, channels, subtype
    "wav 16 kHz": (".wav", 16_000, 1, "PCM_16"),
    "wav 48 kHz": (".wav", 48_000, 1, "PCM_16"),
    "flac 44.1 kHz, stereo": (".flac", 44_100, 2, "PCM_16"),
    "mp3 44.1 kHz, stereo": (".mp3", 44_100, 2, "MPEG_LAYER_III"),
}
TOLERANCE = 1  # steps of 16 bits: a stream is resampled block by block, an array at once


def main() -> None:
    """Times every kind of recording and prints what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="only this one; may be repeated")
    parser.add_argument("--recordings", type=int, default=120)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a recording")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=machine.cores(), help="processes of joblib; ours takes all cores")
    args = parser.parse_args()
    for kind in args.kind or KINDS:
        with tempfile.TemporaryDirectory() as folder:
            benchmark(kind, Path(folder), args)


def benchmark(kind: str, folder: Path, args: argparse.Namespace) -> None:
    """Times one kind of recording and prints its rows."""
    paths = write_recordings(kind, folder, args.recordings, args.seconds)
    with joblib.Parallel(args.jobs) as pool:  # whose processes stay from turn to turn
        calls = {
            "ser_jax": lambda: prepared(folder),
            "librosa + joblib": lambda: by_librosa(paths, folder / "same.npy", "soxr_vhq", pool),
            "librosa + joblib, soxr_hq": lambda: by_librosa(paths, folder / "default.npy", "soxr_hq", pool),
        }
        expected, found = calls["ser_jax"](), calls["librosa + joblib"]()
        if len(expected) != len(found) or np.abs(expected.astype(np.int32) - found).max() > TOLERANCE:
            raise SystemExit(f"error: {kind}: librosa's samples differ from ours by more than {TOLERANCE} step")
        seconds = take_turns(calls, args.turns)
    hours = args.recordings * args.seconds / 3600
    for contestant, turns in seconds.items():
        figures = {
            "kind": kind,
            "contestant": contestant,
            "hours_per_minute": hours / float(np.median(turns)) * 60,
            "against_ours": float(np.median(turns / seconds["ser_jax"])),
        }
        emit("preparing", **figures, **{key: value for key, value in vars(args).items() if key != "kind"})
        print(
            f"{kind:24}{contestant:28}{figures['hours_per_minute']:9.1f} h in a minute{figures['against_ours']:8.2f}x",
            flush=True,
        )


def write_recordings(kind: str, folder: Path, number: int, seconds: float) -> list[Path]:
    """Writes recordings and their table, table.csv; returns them in the table's order."""
    suffix, rate, channels, subtype = KINDS[kind]
    rng, time = np.random.default_rng(0), np.arange(round(seconds * rate)) / rate
    paths = [folder / f"u{i:04}{suffix}" for i in range(number)]
    for path in paths:
        swell = 0.55 + 0.45 * np.sin(2 * np.pi * rng.uniform(2, 5) * time)
        sound = 0.05 * swell[:, None] * rng.standard_normal((len(time), 1)) + 1e-3 * rng.standard_normal(
            (len(time), channels)
        )
        soundfile.write(path, sound, rate, subtype=subtype)
    rows = [f"{path.name},{('low', 'high')[i % 2]},s{i % 8}" for i, path in enumerate(paths)]
    (folder / "table.csv").write_text("\n".join(["path,emotion,speaker", *rows]) + "\n", encoding="utf-8")
    return paths


def prepared(folder: Path) -> np.ndarray:
    """All samples of the corpus that `prepare folder` packs, end to end."""
    with contextlib.redirect_stdout(io.StringIO()):
        options = Options(table=folder / "table.csv", force=True)
        return prepare_folder("mine", folder, folder / "data", options).samples


def by_librosa(paths: Sequence[Path], target: Path, quality: str, pool: joblib.Parallel) -> np.ndarray:
    """The same samples by librosa, written to one file."""
    np.save(target, np.concatenate(pool(joblib.delayed(one_by_librosa)(path, quality) for path in paths)))
    return np.load(target, mmap_mode="r")


def one_by_librosa(path: Path, quality: str) -> np.ndarray:
    """A recording as mono 16 kHz int16."""
    samples, _ = librosa.load(path, sr=SAMPLE_RATE, res_type=quality)
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)


if __name__ == "__main__":
    main()
