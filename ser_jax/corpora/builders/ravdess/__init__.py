"""RAVDESS, the Ryerson audio-visual database of emotional speech and song: its speech part."""

from pathlib import Path

from ser_jax.corpora.builders.source import Release, read_sums

RELEASE = Release(
    title="RAVDESS (speech)",
    version="1.1.0",
    url="https://zenodo.org/records/1188976/files/Audio_Speech_Actors_01-24.zip",
    hashes=read_sums(Path(__file__).with_name("SHA256SUMS")),
)
LANGUAGE = "en"  # ISO 639-1
SPEECH = "acted speech, close to the microphone and without noise"
LICENCE = "CC BY-NC-SA 4.0"
SPEAKERS = 24
