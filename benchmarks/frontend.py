"""Seconds of audio that become log-mel in a second, against librosa, PyTorch and openSMILE.

python -m benchmarks.frontend [--batch 32] [--seconds 3] [--torch_device cuda]

Batches of waveforms; 64 bands, 25 ms windows every 10 ms, normalised per utterance, as in our default frontend. librosa
takes one utterance at a time, PyTorch is `torch.stft` on the batch. Their log-mel is compared with ours before anything
is timed. openSMILE's eGeMAPSv02 functionals are other features, and stand for what is used in their place. Then ours
with all augmentation on, of waveforms and of features.
Prints a table, and a JSON line for each contestant to stderr.
"""

import argparse
import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.common import agree, done, emit, take_turns
from ser_jax import machine
from ser_jax.frontend import Frontend, Strengths, augment_features, augment_waveform, features
from ser_jax.frontend.logmel import mel_filters

STRENGTHS = Strengths(time_shift=0.1, gain=6.0, noise=0.5, vocal_tract=0.1, spec_augment=0.5)
VARIANCE_FLOOR = 1e-5  # as in our normalisation


def main() -> None:
    """Compares what the frontends give, times them, and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=3.0, help="of an utterance")
    parser.add_argument("--turns", type=int, default=10, help="timed turns of each")
    parser.add_argument("--threads", type=int, default=machine.cores(), help="of PyTorch")
    parser.add_argument("--torch_device", default="cpu")
    args = parser.parse_args()
    frontend = Frontend()
    rng = np.random.default_rng(0)
    samples = round(args.seconds * frontend.sample_rate)
    waveform = 0.1 * rng.standard_normal((args.batch, samples), np.float32)

    same = {"ser_jax": jax_features(frontend, waveform)}
    if importlib.util.find_spec("librosa"):
        same["librosa"] = librosa_features(frontend, waveform)
    if importlib.util.find_spec("torch"):
        same["PyTorch"] = torch_features(frontend, waveform, args.torch_device, args.threads)
    agree("log-mel", {name: on_host(call()) for name, call in same.items()}, 2e-3)
    contestants = same | {"ser_jax, augmented": augmented_features(frontend, waveform)}
    if importlib.util.find_spec("opensmile"):
        contestants["openSMILE eGeMAPSv02"] = opensmile_functionals(frontend, waveform)

    seconds = take_turns(contestants, args.turns)
    print(f"{'':24}{'a batch':>12}{'an utterance':>14}{'s of audio/s':>14}{'against ours':>14}")
    for name, values in seconds.items():
        batch, ratio = float(np.median(values)), float(np.median(values / seconds["ser_jax"]))
        rate = args.batch * args.seconds / batch
        emit("frontend", contestant=name, batch_seconds=batch, rate=rate, against_ours=ratio, **vars(args))
        row = f"{1e3 * batch:9.1f} ms{1e3 * batch / args.batch:11.2f} ms{rate:14.0f}{ratio:13.2f}x"
        print(f"{name:24}{row}", flush=True)


def on_host(result: Any) -> np.ndarray:
    """A result that may lie on a GPU."""
    return np.asarray(result.cpu() if hasattr(result, "cpu") else result)


def jax_features(frontend: Frontend, waveform: np.ndarray) -> Callable:
    """Ours, compiled."""
    program = jax.jit(lambda waveform, lengths: features(frontend, waveform, lengths)[0])
    return _call(program, waveform)


def augmented_features(frontend: Frontend, waveform: np.ndarray) -> Callable:
    """Ours with augmentation of waveforms before and of features after."""

    @jax.jit
    def program(waveform: jax.Array, lengths: jax.Array) -> jax.Array:
        keys = jax.random.split(jax.random.key(0), (2, len(waveform)))
        spread = functools.partial(jax.vmap, in_axes=(0, 0, 0, None))
        x = spread(augment_waveform)(keys[0], waveform, lengths, STRENGTHS)
        x, frames = features(frontend, x, lengths)
        return spread(functools.partial(augment_features, deltas=0))(keys[1], x, frames, STRENGTHS)

    return _call(program, waveform)


def _call(program: Callable, waveform: np.ndarray) -> Callable:
    arguments = jax.device_put((waveform, np.full(len(waveform), waveform.shape[1], np.int32)))

    def call() -> jax.Array:
        result = program(*arguments)
        done(result)
        return result

    return call


def librosa_features(frontend: Frontend, waveform: np.ndarray) -> Callable:
    """The same with librosa."""
    import librosa

    def one(y: np.ndarray) -> np.ndarray:
        power = librosa.feature.melspectrogram(
            y=y,
            sr=frontend.sample_rate,
            n_fft=frontend.fft,
            win_length=frontend.window,
            hop_length=frontend.hop,
            pad_mode="constant",
            n_mels=frontend.num_mels,
            fmin=frontend.fmin,
            fmax=frontend.fmax,
        )
        x = np.log(np.maximum(power, frontend.log_floor)).T
        return (x - x.mean(0)) / np.sqrt(x.var(0) + VARIANCE_FLOOR)

    return lambda: np.stack([one(y) for y in waveform])


def torch_features(frontend: Frontend, waveform: np.ndarray, device: str, threads: int) -> Callable:
    """The same with `torch.stft`; the result stays on the device, and the clock waits for it."""
    import torch

    torch.set_num_threads(threads)
    batch = torch.from_numpy(waveform).to(device)
    window = torch.hann_window(frontend.window, device=device)
    filters = torch.from_numpy(mel_filters(frontend)).to(device)

    def call() -> torch.Tensor:
        with torch.inference_mode():
            spectrum = torch.stft(
                batch,
                frontend.fft,
                frontend.hop,
                frontend.window,
                window,
                pad_mode="constant",
                return_complex=True,
            )
            power = spectrum.real.square() + spectrum.imag.square()
            x = torch.log(torch.clamp(power.transpose(1, 2) @ filters, min=frontend.log_floor))
            x = (x - x.mean(1, keepdim=True)) * torch.rsqrt(x.var(1, keepdim=True, correction=0) + VARIANCE_FLOOR)
            if device != "cpu":
                torch.cuda.synchronize()
            return x

    return call


def opensmile_functionals(frontend: Frontend, waveform: np.ndarray) -> Callable:
    """openSMILE's eGeMAPSv02 functionals, one utterance at a time."""
    import opensmile

    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    return lambda: [smile.process_signal(y, frontend.sample_rate) for y in waveform]


if __name__ == "__main__":
    main()
