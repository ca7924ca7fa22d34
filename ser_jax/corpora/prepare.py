"""From recordings, as their owner gives them, to a packed corpus."""

import contextlib
import dataclasses
import importlib
import io
import math
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int16
from tqdm import tqdm

from ser_jax import extras
from ser_jax.corpora import BUILDERS, default_data_dir, labels, layouts, packed_folder
from ser_jax.corpora.audio import printable
from ser_jax.corpora.builders.source import Release, Source, open_source
from ser_jax.corpora.corpus import Corpus, load, pack, refuse_full_disk
from ser_jax.corpora.decode import read_utterances
from ser_jax.corpora.folder import (
    find_split_tables,
    find_table,
    list_emotion_folders,
    read_split_tables,
    read_table,
    unused_audio,
)
from ser_jax.corpora.labels import Changes
from ser_jax.corpora.problems import Problems
from ser_jax.corpora.same_files import (
    content_of,
    hashes_of,
    note_of_overlaps,
    notes_of_copies,
    without_contradictions,
)
from ser_jax.corpora.targets import note_of_outliers
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
            f"no builder for corpus {name!r}, expected {', '.join((*BUILDERS, *layouts.names()))} or folder (built-in "
            "corpora need none)"
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
        extras.require("tfds", f"prepare {name}", "tensorflow", "tensorflow_datasets")
        return _pack(_build(name, release, opened, data_dir), packed_folder(name, data_dir))


@dataclasses.dataclass(frozen=True)
class Options:
    """How the user's own recordings are taken.

    Attributes:
        table: the table of the utterances; None: the one that the folder holds, else a folder per emotion.
        emotions: the allowed emotions, in the order of the classes; None: all, sorted.
        renamed: columns of the table under the names that are meant, new by old.
        speakers: whether the table has speakers.
        labels: what is done with the names of emotions and speakers.
        skip_bad: whether bad utterances are left out, and named in the corpus; else the corpus is refused.
        min_seconds: what is shorter is bad.
        force: whether what is already prepared is prepared again.
    """

    table: str | os.PathLike | None = None
    emotions: Sequence[str] | None = None
    speakers: bool = True
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    labels: Changes = dataclasses.field(default_factory=Changes)
    skip_bad: bool = False
    min_seconds: float = 0.1
    force: bool = False


def prepare_folder(
    name: str, source: str | os.PathLike, data_dir: str | os.PathLike | None = None, options: Options | None = None
) -> Corpus:
    """Packs the user's own recordings as corpus `name`: those that a table lists, else a folder per emotion.

    What is in the corpus's `info` beside its description: `speakers_known`, whether speaker-independent protocols are
    possible; `labels`, what was done with names, in words; `min_seconds`, that of the options; `left_out`, the bad
    utterances that were left out (where, what, id); `notes`, the ids of recordings that are silent, clipped, scaled,
    ... by kind; `rates` and `channels`, how many recordings have which; `unused`, how many recordings in the folder no
    row of the table takes, and the first of them. A corpus that is already prepared from the same
    files, with the same `min_seconds`, is returned as it is, unless forced. Raises UserError for bad rows and files;
    all of them are listed in DATA_DIR/problems/NAME.csv.
    """
    check_name(name)
    options = options or Options()
    _check_source(source)
    _check_spelling(options.table or "")
    problems = Problems()
    table = options.table or find_table(source)
    split_tables = {} if table else find_split_tables(source)
    asked = options.labels
    named = {*asked.renamed, *asked.dropped, *(options.emotions or ())}
    how = {"speakers": options.speakers, "unify": asked.unify, "named": named, "renamed": options.renamed}
    unused: list[str] = []
    if table is not None:
        utterances, unified = read_table(table, source, problems, **how)
    elif split_tables:
        utterances, unified = read_split_tables(split_tables, problems, **how)
    elif options.renamed:
        raise UserError(
            f"--rename: {source} has a folder for each emotion, expected a --table whose columns it renames"
        )
    else:
        utterances, unified = list_emotion_folders(source, problems, alone=bool(named)), {}
    if table is not None or split_tables:
        unused = unused_audio(source, utterances["path"])
    info = {
        "description": f"{len(utterances)} recordings from {Path(source).name}",
        "speakers_known": bool(table or split_tables) and options.speakers,
        "labels": [f"unified: {', '.join(f'{old} as {new}' for old, new in unified.items())}"] if unified else [],
        "unused": {"files": len(unused), "first": unused[:5]},
    }
    return _pack_recordings(name, str(table or source), utterances, problems, info, data_dir, options)


def prepare_layout(
    name: str, source: str | os.PathLike, data_dir: str | os.PathLike | None = None, options: Options | None = None
) -> Corpus:
    """Packs a published corpus that is told by its layout, from the folder of its recordings; see `layouts`.

    `info` is as `prepare_folder` makes it, and says how many of the recordings that the owner describes are there.
    Its classes are those of its literature; with `emotions` or `labels` in `options`, the owner's that these leave.
    """
    layout, problems, options = layouts.load(name), Problems(), options or Options()
    _check_source(source, f", expected that with the recordings of {layout.title}")
    utterances = layouts.list_recordings(layout, source, problems)
    described = layout.utterances or len(utterances) + len(problems.found)
    info = {
        "description": f"{layout.title}: {len(utterances)} of the {described} utterances that are described",
        "citation": layout.citation,
        "licence": layout.licence,
        "homepage": layout.homepage,
        "language": layout.language,
        "speakers_known": bool((utterances["speaker"] != "").all()),
        "labels": [],
    }
    against = f"the names of {layout.title}, {described} recordings by its description"
    if options.emotions is None and not options.labels:
        there = {*utterances["emotion"], *labels.voted(utterances)}
        renamed = {old: new for old, new in layout.renamed.items() if old in there}
        dropped = [emotion for emotion in layout.dropped if emotion in set(utterances["emotion"])]
        options = dataclasses.replace(options, emotions=layout.emotions, labels=Changes(renamed, dropped))
    return _pack_recordings(name, str(source), utterances, problems, info, data_dir, options, against)


def _check_source(source: str | os.PathLike, expected: str = "") -> None:
    _check_spelling(source)
    if not Path(source).is_dir():
        raise UserError(f"{source}: no such folder{expected}")


def _check_spelling(path: str | os.PathLike) -> None:
    if printable(path) != os.fspath(path):  # no list of what is bad, nor a description, could name it
        raise UserError(f"{printable(path)}: its name is not UTF-8; rename it")


def _pack_recordings(
    name: str,
    where: str,
    utterances: pd.DataFrame,
    problems: Problems,
    info: dict[str, Any],
    data_dir: str | os.PathLike | None,
    options: Options,
    verified_against: str = "nothing: your own recordings",
) -> Corpus:
    """Packs the recordings of a table, or refuses it for what is bad; a corpus of the same recordings stays."""
    emotions = options.emotions
    if emotions is not None and (len(set(emotions)) < len(emotions) or "" in emotions):
        raise UserError(f"--emotions {','.join(emotions)}: expected names, each once")
    if not 0 <= options.min_seconds < math.inf:
        raise UserError(f"--min_seconds {options.min_seconds:g}: expected 0 or more seconds")
    data_dir = Path(data_dir or default_data_dir())
    total = len(utterances) + len(problems.found)
    utterances, said = _with_labels(utterances, where, options, problems)
    utterances = without_contradictions(Path(where), utterances, problems)
    hashes = hashes_of(utterances["path"])
    content = content_of(utterances, hashes)
    check = {"files": utterances["path"].nunique(), "verified_against": verified_against, "content": content}
    classes = list(emotions or sorted(set(utterances["emotion"]) - {""}))
    info |= {"source_check": check, "labels": said + info["labels"], "min_seconds": options.min_seconds}
    prepared = None if options.force else _prepared(name, data_dir)
    same = prepared and all(prepared.info.get(key) == info[key] for key in ("source_check", "min_seconds"))
    if same and list(prepared.emotions) == classes:
        bad_before = [*map(_as_text, prepared.info.get("left_out", []))]
        if bad_before == [str(problem) for problem in problems.found] or (options.skip_bad and bad_before):
            print(f"{name} is already prepared (--force prepares it again)")
            return prepared
    folder, listed = packed_folder(name, data_dir), data_dir / "problems" / f"{name}.csv"
    with _removed_if_made(folder.parent, data_dir):
        info["notes"] = (
            notes_of_copies(utterances, hashes) | note_of_overlaps(utterances) | note_of_outliers(utterances)
        )
        examples = read_utterances(name, utterances, problems, info, options.min_seconds)
        return pack(folder, name, _unless_bad(examples, name, total, problems, listed, info, options), classes, info)


def _as_text(left_out: dict[str, str]) -> str:
    return f"{left_out['where']}: {left_out['what']}"


def _with_labels(
    utterances: pd.DataFrame, where: str, options: Options, problems: Problems
) -> tuple[pd.DataFrame, list[str]]:
    """The utterances under the names of emotions that are meant, and what was done, in words."""
    if utterances.empty:
        return utterances, []
    if (utterances["emotion"] == "").all():
        if options.emotions is not None or options.labels.renamed or options.labels.dropped:
            raise UserError(f"{where}: has no emotions, which --emotions, --map and --drop are about")
        return utterances, []
    emotions = utterances["emotion"].map(lambda name: unicodedata.normalize("NFC", name))
    renamed_names, renamed = labels.rename(emotions.tolist(), options.labels, known=labels.voted(utterances))
    utterances = labels.with_renamed_votes(utterances.assign(emotion=renamed_names), options.labels)
    dropped = utterances["emotion"].isin(options.labels.dropped)
    said = labels.describe(renamed, options.labels.dropped, int(dropped.sum()))
    utterances = utterances[~dropped]
    utterances["emotion"], unified = labels.unified(utterances["emotion"], where, "emotion", options.labels.unify)
    said += [f"unified: {', '.join(f'{old} as {new}' for old, new in unified.items())}"] if unified else []
    meant = {*options.labels.renamed.values(), *(options.emotions or ())}
    is_several = labels.finder_of_several(utterances["emotion"], words=True, meant=meant)
    several = utterances["emotion"].map(is_several).astype(bool)
    utterances = problems.rows(
        where,
        utterances,
        several,
        lambda row: f"has several emotions at once, {row['emotion']!r}, expected one" + _hint_of_one(row["emotion"]),
    )
    if options.emotions is not None:
        expected = ", ".join(options.emotions)
        utterances = problems.rows(
            where,
            utterances,
            ~utterances["emotion"].isin(options.emotions),
            lambda row: (
                f"has the emotion {row['emotion']!r}, expected one of {expected}"
                + labels.hint_of_map(row["emotion"], options.emotions)
            ),
        )
    return utterances, said


def _hint_of_one(name: str) -> str:
    """How --map names one emotion for several; "" where their name has a sign that --map itself reads."""
    if "," in name or "=" in name:
        return ""
    return f'; --map may name one for them, or say that it is one: --map "{name}={name}"'


def _unless_bad(
    examples: Iterator, name: str, total: int, problems: Problems, listed: Path, info: dict[str, Any], options: Options
) -> Iterator:
    """Passes the examples on; then refuses the corpus if anything was bad, or notes in `info` what is left out."""
    some = False
    for example in examples:
        some = True
        yield example
    if problems.found:
        with refuse_full_disk(listed.parent):
            problems.write(listed)
        if not options.skip_bad:
            raise problems.refusal(name, total, listed)
        if not some:
            raise UserError(f"{name}: all of its {total} utterances are bad, listed in {listed}; none is left")
    else:
        listed.unlink(missing_ok=True)
    info["left_out"] = [dataclasses.asdict(problem) for problem in problems.found]


def check_name(name: str) -> None:
    """Raises UserError for what cannot be the name of the user's own corpus."""
    from ser_jax.corpora.synthetic import BUILT_IN

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) or name in (
        *BUILT_IN,
        *BUILDERS,
        *layouts.names(),
        "folder",
    ):
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
    leftovers = _removed_if_made(data_dir / name, downloads / "extracted", downloads)
    with leftovers, refuse_full_disk(data_dir), quiet:
        builder = module.Builder(source=source, data_dir=os.fspath(data_dir))
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(download_mode=mode, try_download_gcs=False)
        )
    return builder


@contextlib.contextmanager
def _removed_if_made(*folders: Path) -> Iterator[None]:
    """Folders are made before there is anything to put there: where nothing came, those made here are removed again."""
    made = [folder for folder in folders if not folder.exists()]
    try:
        yield
    finally:
        for folder in made:
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
