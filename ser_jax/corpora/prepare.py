"""From recordings, as their owner gives them, to a packed corpus."""

import contextlib
import importlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int16
from tqdm import tqdm

from ser_jax.corpora import BUILDERS, default_data_dir, packed_folder
from ser_jax.corpora.builders.source import Release, Source, open_source
from ser_jax.corpora.corpus import Corpus, load, pack, refuse_full_disk
from ser_jax.corpora.folder import content_of, list_emotion_folders, read_table, read_utterances
from ser_jax.errors import UserError


def prepare_corpus(
    name: str,
    source: str | os.PathLike | None = None,
    data_dir: str | os.PathLike | None = None,
    *,
    allow_mismatch: bool = False,
    force: bool = False,
) -> Corpus:
    """Builds (TFDS) and packs a published corpus from a folder or zip, or from the owner's archive by the network.

    A corpus that is already prepared from the same files is returned as it is, unless `force`.
    Raises UserError for an unknown name, a source that is not the release (see `open_source`), a full disk.
    """
    if name not in BUILDERS:
        raise UserError(
            f"no builder for corpus {name!r}, expected {', '.join(BUILDERS)} or folder (built-in corpora need none)"
        )
    data_dir = Path(data_dir or default_data_dir())
    release = importlib.import_module(f"ser_jax.corpora.builders.{name}").RELEASE
    prepared = None if force else _prepared(name, data_dir, version=release.version)
    with contextlib.ExitStack() as stack:
        opened = None
        if source is not None:
            opened = stack.enter_context(open_source(source, release, data_dir, allow_mismatch=allow_mismatch))
        if prepared and (opened is None or opened.check == prepared.info["source_check"]):
            print(f"{name} is already prepared (--force prepares it again)")
            return prepared
        return _pack(_build(name, release, opened, data_dir), packed_folder(name, data_dir))


def prepare_folder(
    name: str,
    source: str | os.PathLike,
    data_dir: str | os.PathLike | None = None,
    *,
    table: str | os.PathLike | None = None,
    emotions: Sequence[str] | None = None,
    speakers: bool = True,
    force: bool = False,
) -> Corpus:
    """Packs the user's own recordings as corpus `name`: those that the CSV `table` lists, else a folder per emotion.

    `info["speakers_known"]` says whether speaker-independent protocols are possible. A corpus that is already prepared
    from the same files is returned as it is, unless `force`. Raises UserError for any bad row or file, naming it.
    """
    check_name(name)
    if emotions is not None and (len(set(emotions)) < len(emotions) or "" in emotions):
        raise UserError(f"--emotions {','.join(emotions)}: expected names, each once")
    if not Path(source).is_dir():
        raise UserError(f"{source}: no such folder")
    data_dir = Path(data_dir or default_data_dir())
    if table is not None:
        utterances = read_table(table, source, emotions=emotions, speakers=speakers)
    else:
        utterances = list_emotion_folders(source, emotions=emotions)
    check = {
        "files": len(utterances),
        "verified_against": "nothing: your own recordings",
        "content": content_of(utterances),
    }
    info = {
        "description": f"{len(utterances)} recordings from {Path(source).name}",
        "speakers_known": table is not None and speakers,
        "source_check": check,
    }
    classes = list(emotions or sorted(set(utterances["emotion"])))
    prepared = None if force else _prepared(name, data_dir)
    if prepared and prepared.info["source_check"] == check and list(prepared.emotions) == classes:
        print(f"{name} is already prepared (--force prepares it again)")
        return prepared
    folder = packed_folder(name, data_dir)
    with _removed_if_empty(folder.parent, data_dir):
        return pack(folder, name, read_utterances(name, utterances), classes, info)


def check_name(name: str) -> None:
    """Raises UserError for what cannot be the name of the user's own corpus."""
    from ser_jax.corpora.synthetic import BUILT_IN

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) or name in (*BUILT_IN, *BUILDERS, "folder"):
        raise UserError(f"--name {name!r}: expected letters, digits, _ and -, and no name that ser_jax uses itself")


def _prepared(name: str, data_dir: Path, version: str | None = None) -> Corpus | None:
    """Returns the packed corpus if there is a whole one, made by this version of its builder."""
    with contextlib.suppress(UserError):
        corpus = load(packed_folder(name, data_dir))
        if corpus.info.get("version") == version:
            return corpus
    return None


def _build(name: str, release: Release, source: Source | None, data_dir: Path) -> Any:
    """Runs the TFDS builder into DATA/NAME/VERSION and returns it."""
    module = importlib.import_module(f"ser_jax.corpora.builders.{name}.{name}_dataset_builder")
    import tensorflow_datasets as tfds

    if source is None:
        print(f"downloading {release.url}")
        mode = tfds.GenerateMode.REUSE_DATASET_IF_EXISTS
    else:
        tfds.disable_progress_bar()  # TFDS counts without knowing the total; the builder shows its own
        mode = tfds.GenerateMode.REUSE_CACHE_IF_EXISTS
    quiet = contextlib.redirect_stdout(io.StringIO())  # TFDS announces sizes that it does not know
    downloads = data_dir / "downloads"
    leftovers = _removed_if_empty(data_dir / name, downloads / "extracted", downloads)
    with leftovers, refuse_full_disk(data_dir), quiet:
        builder = module.Builder(source=source, data_dir=os.fspath(data_dir))
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(download_mode=mode, try_download_gcs=False)
        )
    return builder


@contextlib.contextmanager
def _removed_if_empty(*folders: Path) -> Iterator[None]:
    """Folders are made before there is anything to put there: where nothing came, they are not left behind."""
    try:
        yield
    finally:
        for folder in folders:
            with contextlib.suppress(OSError):  # not empty, or not there
                folder.rmdir()


def _pack(builder: Any, folder: Path) -> Corpus:
    """Packs the corpus that a prepared TFDS builder holds, in its order: that of the ids."""
    info = {
        "description": builder.info.description,
        "citation": builder.info.citation,
        "licence": builder.LICENCE,
        "homepage": builder.HOMEPAGE,
        "language": builder.LANGUAGE,
        "version": str(builder.version),
        "speakers_known": True,
        "source_check": builder.info.metadata["source_check"],
    }
    return pack(folder, builder.name, _read_back(builder), builder.EMOTIONS, info)


def _read_back(builder: Any) -> Iterator[tuple[dict[str, Any], Int16[np.ndarray, " _"]]]:
    """Yields the rows of the table and the waveforms that a builder's records hold."""
    import tensorflow_datasets as tfds

    from ser_jax.corpora.builders.speech_builder import SPLIT

    in_order = tfds.ReadConfig(interleave_cycle_length=1)  # one file after another
    examples = builder.as_dataset(split=SPLIT, read_config=in_order).as_numpy_iterator()
    for example in tqdm(examples, "packing", total=builder.info.splits[SPLIT].num_examples, unit="file", disable=None):
        waveform = example.pop("waveform")
        example["emotion"] = builder.EMOTIONS[example["emotion"]]
        yield {key: value.decode() if isinstance(value, bytes) else value for key, value in example.items()}, waveform
