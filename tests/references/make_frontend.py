"""Makes frontend.npz: librosa's log-mel features, MFCC and deltas of two short signals, for tests without librosa.

PYTHONPATH=. python tests/references/make_frontend.py
"""

from pathlib import Path

import librosa
import numpy as np


def log_mel(waveform: np.ndarray, sample_rate: int, window: int, hop: int, fft: int, **filters: float) -> np.ndarray:
    """Natural logarithm of the mel power, [frames, mels]."""
    power = librosa.feature.melspectrogram(
        y=waveform, sr=sample_rate, n_fft=fft, win_length=window, hop_length=hop, pad_mode="constant", **filters
    )
    return np.log(np.maximum(power, 1e-10)).T


def main() -> None:
    """Writes the references beside this file."""
    random = np.random.default_rng(0)
    time = np.arange(3000) / 16_000
    waveform = 0.1 * np.sin(2 * np.pi * (200 + 4000 * time) * time) + 0.01 * random.standard_normal(3000)
    waveform[1200:2000] = 0
    waveform = np.round(waveform * 32768).astype(np.int16)
    samples = waveform.astype(np.float32) / 32768
    fine = log_mel(samples, 16_000, 400, 160, 512, n_mels=64, fmin=20, fmax=8000)
    coarse = log_mel(samples, 8_000, 256, 150, 512, n_mels=40, fmin=0, fmax=4000, htk=True)
    np.savez_compressed(
        Path(__file__).with_name("frontend.npz"),
        waveform=waveform,
        fine=fine,
        coarse=coarse,
        mfcc=librosa.feature.mfcc(S=fine.T, n_mfcc=20).T,
        delta=librosa.feature.delta(fine.T, mode="nearest").T,
        delta_delta=librosa.feature.delta(fine.T, order=2, mode="nearest").T,
    )


if __name__ == "__main__":
    main()
