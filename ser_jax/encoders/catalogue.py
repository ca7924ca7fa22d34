"""Encoders that are known by name: where they are published, under which licence, and how large they are.

Sizes are of the encoder alone, without quantizers, decoders and heads. Any other checkpoint of these families is taken
by its folder, or by its name on the Hugging Face hub.
"""

import re
import shlex
from typing import NamedTuple


class Known(NamedTuple):
    """A published encoder. `hub` is its name on the Hugging Face hub; the default one comes from a Python package."""

    family: str
    layers: int
    width: int
    millions: float  # of parameters
    licence: str
    hub: str


_NOT_SETTLED = "not settled: MIT (its README) or FunASR Model License 1.1"
_APACHE, _MIT, _SHARE_ALIKE = "Apache-2.0", "MIT", "CC BY-SA 3.0"

HUB = "https://huggingface.co/"  # begins the source of what comes from there
DEFAULT = "smart-turn-v3.2"

KNOWN = {
    DEFAULT: Known("whisper", 4, 384, 7.8, "BSD-2-Clause (Daily), from Whisper tiny: MIT (OpenAI)", ""),
    "whisper-tiny": Known("whisper", 4, 384, 8.2, _MIT, "openai/whisper-tiny"),
    "whisper-base": Known("whisper", 6, 512, 20.6, _MIT, "openai/whisper-base"),
    "whisper-small": Known("whisper", 12, 768, 88.2, _MIT, "openai/whisper-small"),
    "whisper-medium": Known("whisper", 24, 1024, 307.2, _MIT, "openai/whisper-medium"),
    "whisper-large-v2": Known("whisper", 32, 1280, 636.8, _MIT, "openai/whisper-large-v2"),
    "whisper-large-v3": Known("whisper", 32, 1280, 637.0, _MIT, "openai/whisper-large-v3"),
    "whisper-large-v3-turbo": Known("whisper", 32, 1280, 637.0, _MIT, "openai/whisper-large-v3-turbo"),
    "wav2vec2-base": Known("wav2vec2", 12, 768, 94.4, _APACHE, "facebook/wav2vec2-base"),
    "wav2vec2-large": Known("wav2vec2", 24, 1024, 315.4, _APACHE, "facebook/wav2vec2-large"),
    "wav2vec2-large-lv60": Known("wav2vec2", 24, 1024, 315.4, _APACHE, "facebook/wav2vec2-large-lv60"),
    "wav2vec2-large-robust": Known("wav2vec2", 24, 1024, 315.4, _APACHE, "facebook/wav2vec2-large-robust"),
    "wav2vec2-large-xlsr-53": Known("wav2vec2", 24, 1024, 315.4, _APACHE, "facebook/wav2vec2-large-xlsr-53"),
    "wav2vec2-xls-r-300m": Known("wav2vec2", 24, 1024, 315.4, _APACHE, "facebook/wav2vec2-xls-r-300m"),
    "wav2vec2-xls-r-1b": Known("wav2vec2", 48, 1280, 962.5, _APACHE, "facebook/wav2vec2-xls-r-1b"),
    "wav2vec2-xls-r-2b": Known("wav2vec2", 48, 1920, 2159.0, _APACHE, "facebook/wav2vec2-xls-r-2b"),
    "hubert-base-ls960": Known("hubert", 12, 768, 94.4, _APACHE, "facebook/hubert-base-ls960"),
    "hubert-large-ll60k": Known("hubert", 24, 1024, 315.4, _APACHE, "facebook/hubert-large-ll60k"),
    "wavlm-base": Known("wavlm", 12, 768, 94.4, _SHARE_ALIKE, "microsoft/wavlm-base"),
    "wavlm-base-plus": Known("wavlm", 12, 768, 94.4, _SHARE_ALIKE, "microsoft/wavlm-base-plus"),
    "wavlm-large": Known("wavlm", 24, 1024, 315.5, _SHARE_ALIKE, "microsoft/wavlm-large"),
    "data2vec-audio-base": Known("data2vec-audio", 12, 768, 93.2, _APACHE, "facebook/data2vec-audio-base"),
    "data2vec-audio-large": Known("data2vec-audio", 24, 1024, 313.3, _APACHE, "facebook/data2vec-audio-large"),
    "emotion2vec-base": Known("emotion2vec", 12, 768, 93.2, _NOT_SETTLED, "emotion2vec/emotion2vec_base"),
    "emotion2vec-plus-base": Known("emotion2vec", 12, 768, 93.2, _NOT_SETTLED, "emotion2vec/emotion2vec_plus_base"),
    "w2v2-l-robust-12-msp-dim": Known(
        "wav2vec2", 12, 1024, 164.3, "CC BY-NC-SA 4.0", "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim"
    ),
}


def command(name: str, source: str) -> str:
    """Returns the command that gets an encoder, given its name and source as models keep them.

    It has a placeholder for a checkpoint that whoever runs it has to find.
    """
    hub = source.removeprefix(HUB) if source.startswith(HUB) else ""
    if name in KNOWN and hub in ("", KNOWN[name].hub):
        return f"python launch.py encoders get {name}"
    what = hub if is_hub_name(hub) else "FOLDER"
    named = "" if name == what.split("/")[-1] else f" --name {shlex.quote(name)}"
    return f"python launch.py encoders get {what}{named}"


def is_hub_name(text: str) -> bool:
    """Returns whether a text is written like a name on the Hugging Face hub, OWNER/NAME."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", text) is not None
