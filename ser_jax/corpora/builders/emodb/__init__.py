"""EMO-DB, the Berlin database of emotional speech."""

from pathlib import Path

from ser_jax.corpora.builders.source import Release, read_sums

RELEASE = Release(
    title="EMO-DB",
    version="1.1.0",
    url="http://emodb.bilderbar.info/download/download.zip",
    hashes=read_sums(Path(__file__).with_name("SHA256SUMS")),
)
LANGUAGE = "de"  # ISO 639-1
SPEECH = "acted speech, close to the microphone and without noise"
LICENCE = "CC BY 4.0"
SPEAKERS = 10
