"""What the TFDS builders of speech corpora have in common."""

import abc
import contextlib
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import absl.logging
import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from ser_jax.corpora.audio import read_recording
from ser_jax.corpora.builders.source import Release, Source, open_source
from ser_jax.errors import UserError

absl.logging.set_verbosity(absl.logging.ERROR)  # TFDS reports every step of its own otherwise


SPLIT = "train"  # the one split, by the name that TFDS's users expect; folds are made of it by a protocol


class SpeechBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """One split of 16 kHz mono int16 utterances, each verified against the owner's release.

    A builder gets its verified `source` from `prepare`; without one it downloads the owner's archive.
    What the check found is in `info.metadata["source_check"]`.
    """

    RELEASE: ClassVar[Release]
    EMOTIONS: ClassVar[tuple[str, ...]]  # the class names, in the order of the labels
    LANGUAGE: ClassVar[str]  # ISO 639-1
    LICENCE: ClassVar[str]
    HOMEPAGE: ClassVar[str]
    NUMBERS: ClassVar[tuple[str, ...]] = ()  # further columns that hold a number, NaN where unknown

    def __init__(self, *, source: Source | None = None, **options: Any) -> None:
        self._source = source
        super().__init__(**options)

    @abc.abstractmethod
    def describe(self, source: Source) -> Mapping[str, Mapping[str, Any]]:
        """Returns for the name of every recording its speaker, gender, emotion, text, transcript and intensity."""

    def _info(self) -> tfds.core.DatasetInfo:
        texts = ("id", "speaker", "gender", "text", "transcript", "intensity", "language")
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    # int16 would otherwise be stored as 64-bit numbers of varying length, at some 2.6 times the size
                    "waveform": tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding="bytes"),
                    "emotion": tfds.features.ClassLabel(names=list(self.EMOTIONS)),
                    **{name: tfds.features.Text() for name in texts},
                    **{name: np.float64 for name in self.NUMBERS},
                }
            ),
            supervised_keys=("waveform", "emotion"),
            homepage=self.HOMEPAGE,
            license=self.LICENCE,
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {SPLIT: self._generate_examples(None if self._source else self._download(dl_manager))}

    def _download(self, dl_manager: tfds.download.DownloadManager) -> Any:
        url = self.RELEASE.url
        try:
            # Without a network this fails at once, where TFDS would try again for minutes.
            with contextlib.suppress(urllib.error.HTTPError):
                urllib.request.urlopen(url, timeout=20).close()
            return dl_manager.download(url)
        except Exception as error:  # whatever the network throws, the way out for the user is the same
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
            raise UserError(
                f"{self.RELEASE.title} could not be downloaded ({reason}): download {url} yourself "
                "and pass --source with the zip, or with the folder that it unpacks to"
            ) from error

    def _generate_examples(self, archive: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        if self._source:
            yield from self._examples(self._source)
            return
        with tempfile.TemporaryDirectory() as scratch, open_source(archive, self.RELEASE, scratch) as source:
            yield from self._examples(source)

    def _examples(self, source: Source) -> Iterator[tuple[str, dict[str, Any]]]:
        self.info.metadata["source_check"] = source.check
        descriptions = self.describe(source)
        for name, path in tqdm(sorted(source.recordings.items()), desc=self.name, unit="file", disable=None):
            waveform = read_recording(path).samples
            yield name, {"id": name, "language": self.LANGUAGE, "waveform": waveform, **descriptions[name]}
