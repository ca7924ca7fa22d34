"""A corpus as TFRecord files, which the streaming feed reads and `tfds.builder_from_directory` opens.

They are the folder DATA/records/NAME-FINGERPRINT, made from the packed corpus where they are first asked for. Which
utterances lie in which file is what `ser_jax.feeds.order.file_layout` says. TensorFlow is imported when it is needed.
"""

import dataclasses
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from tqdm import tqdm

from ser_jax import checksums, extras
from ser_jax.corpora import default_data_dir
from ser_jax.corpora.corpus import Corpus, refuse_full_disk, waveform
from ser_jax.errors import UserError
from ser_jax.feeds.order import file_layout
from ser_jax.files import atomic_folder, read_json
from ser_jax.locks import alone

FORMAT_VERSION = 1  # of the folder; one of another version is written again
SPLIT = "utterances"  # the one split

_DATASET = "records"
_METADATA = "metadata.json"


@dataclasses.dataclass(frozen=True)
class Records:
    """The TFRecord files of a corpus, all there and as long as they were written.

    Every record is a `tf.train.Example` with `row` (of the corpus's table), `id` and `waveform` (bytes, int16).
    """

    folder: Path
    files: tuple[Path, ...]


def records_folder(corpus: Corpus, data_dir: str | os.PathLike | None = None) -> Path:
    """Returns the folder of a corpus's records, whether or not it exists."""
    return Path(data_dir or default_data_dir()) / "records" / f"{corpus.name}-{corpus.fingerprint[:12]}"


def open_records(corpus: Corpus, data_dir: str | os.PathLike | None = None) -> Records:
    """Returns the records of a corpus, which are written first where there are none of just this corpus.

    Raises `UserError` for a full disk, for features in the place of samples, and for a file that is missing, cut short
    or too long, naming it. What is damaged inside a file is found when it is read.
    """
    folder = records_folder(corpus, data_dir)
    with alone(folder, f"records of {corpus.name}"):  # processes that start together write them once
        if not folder.exists() or not _belongs(_read_metadata(folder), corpus):
            write_records(corpus, folder)
    sizes = _read_metadata(folder)["bytes"]
    files = tuple(folder / _file_name(number, len(sizes)) for number in range(len(sizes)))
    for file, expected in zip(files, sizes, strict=True):
        if not file.is_file():
            raise damaged(file, f"missing, expected {expected} bytes")
        if file.stat().st_size != expected:
            raise damaged(file, f"{file.stat().st_size} bytes, expected {expected}")
    return Records(folder, files)


def write_records(corpus: Corpus, folder: str | os.PathLike) -> None:
    """Writes the records of a corpus, whole or not at all, one utterance after another.

    Raises `UserError` when the disk is full, and for features in the place of samples.
    """
    if corpus.samples.dtype != np.int16:
        raise UserError(f"corpus {corpus.name}: its samples are features, and records are made of waveforms alone")
    tf = import_tensorflow()
    import tensorflow_datasets as tfds

    size = corpus.samples.nbytes / 1e6
    print(f"writing the {len(corpus.utterances)} utterances of {corpus.name} as records, {size:.0f} MB, to {folder}")
    features = tfds.features.FeaturesDict(
        {
            "row": np.int64,
            "id": tfds.features.Text(),
            # int16 would otherwise be stored as 64-bit numbers of varying length
            "waveform": tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding="bytes"),
        }
    )
    files = file_layout(len(corpus.utterances)).files
    ids = corpus.utterances["id"].tolist()
    progress = tqdm(total=len(ids), desc="records", unit="utterance", disable=None)
    with progress, refuse_full_disk(folder), atomic_folder(folder) as temporary:
        paths = [temporary / _file_name(number, len(files)) for number in range(len(files))]
        for path, rows in zip(paths, files, strict=True):
            with tf.io.TFRecordWriter(os.fspath(path)) as writer:
                for row in rows.tolist():
                    example = {"row": row, "id": ids[row], "waveform": np.asarray(waveform(corpus, row))}
                    writer.write(features.serialize_example(example))
                    progress.update()
        sizes = [path.stat().st_size for path in paths]
        tfds.folder_dataset.write_metadata(
            data_dir=temporary,
            features=features,
            split_infos=[tfds.core.SplitInfo(SPLIT, [len(rows) for rows in files], sum(sizes))],
            check_data=False,
            disable_shuffling=True,
            description=f"the corpus {corpus.name}",
            metadata=tfds.core.MetadataDict(format_version=FORMAT_VERSION, fingerprint=corpus.fingerprint, bytes=sizes),
        )
        checksums.write_all(temporary)


def import_tensorflow() -> ModuleType:
    """Returns TensorFlow, silent and without the accelerators, whose memory is JAX's."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    extras.require("tfds", "config.feed=streaming", "tensorflow", "tensorflow_datasets")
    import tensorflow as tf

    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)
    return tf


def damaged(path: Path, what: str) -> UserError:
    """The error for a file of records that is not what was written."""
    return UserError(f"{path}: damaged records ({what}); delete the folder, it is written again")


def _file_name(number: int, count: int) -> str:
    return f"{_DATASET}-{SPLIT}.tfrecord-{number:05d}-of-{count:05d}"


def _read_metadata(folder: Path) -> dict[str, Any]:
    try:
        metadata = read_json(folder / _METADATA)
        return {name: metadata[name] for name in ("format_version", "fingerprint", "bytes")}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(folder / _METADATA, "missing or not what was written") from error


def _belongs(metadata: dict[str, Any], corpus: Corpus) -> bool:
    return metadata["fingerprint"] == corpus.fingerprint and metadata["format_version"] == FORMAT_VERSION
