"""A recording from the microphone, through sounddevice where that is installed."""

import sys

import numpy as np
from jaxtyping import Float32

from ser_jax.corpora.audio import MOST_HOURS
from ser_jax.corpora.corpus import SAMPLE_RATE
from ser_jax.errors import UserError


def record(seconds: float) -> Float32[np.ndarray, " samples"]:
    """Records from the system's default microphone and returns its samples, mono, at 16 kHz, in [-1, 1].

    Says on standard error when it begins. Raises `UserError` where sounddevice or the library behind it is not
    installed (naming the command), there is no microphone, and for less than one sample or more than 12 hours.
    """
    if not 1 / SAMPLE_RATE <= seconds <= 3600 * MOST_HOURS:  # memory for all is taken at once
        raise UserError(f"--microphone {seconds:g}: expected seconds, from one sample to {MOST_HOURS} hours")
    try:
        import sounddevice  # an extra
    except ImportError as error:
        raise UserError("--microphone: needs the package sounddevice; pip install sounddevice") from error
    except OSError as error:  # the package is there, PortAudio is not
        raise UserError(f"--microphone: {error}; install PortAudio, as by apt install libportaudio2") from error
    print(f"recording for {seconds:g} s", file=sys.stderr, flush=True)
    try:
        samples = sounddevice.rec(
            round(seconds * SAMPLE_RATE), samplerate=SAMPLE_RATE, channels=1, dtype="float32", blocking=True
        )
    except sounddevice.PortAudioError as error:
        raise UserError(f"--microphone: no recording from the default input device ({error})") from error
    return np.asarray(samples, np.float32)[:, 0]
