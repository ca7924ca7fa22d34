"""The user's own recordings: a table of files or of segments of files, or a folder per emotion.

They are packed directly, without a TFDS builder: which columns there are is known only once the table is read, nothing
is downloaded, and a second copy of the recordings would serve nobody.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlparse

import pandas as pd

from ser_jax.corpora import labels, tables
from ser_jax.corpora.audio import AUDIO_SUFFIXES, find_audio, printable
from ser_jax.corpora.problems import Problems
from ser_jax.errors import UserError, one_line

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # a Hugging Face audio folder's table

_GENDERS = {
    **dict.fromkeys(("f", "female", "w", "woman", "weiblich"), "female"),
    **dict.fromkeys(("m", "male", "man", "männlich"), "male"),
    **dict.fromkeys(("", "unknown", "n/a", "na", "nan", "none", "-", "?"), ""),
}
_MISSING = ("nan", "n/a", "#n/a", "<na>")  # a spreadsheet's or a program's word for nothing
_NO_SPEAKER = (*_MISSING, "none", "null")
_COMPUTED = ("label", "num_samples", "corpus", "recording", "segment_start", "segment_end")


def find_table(source: str | os.PathLike) -> Path | None:
    """Returns the table that a Hugging Face audio folder holds, or None."""
    return next((path for name in METADATA if (path := Path(source) / name).is_file()), None)


def find_split_tables(source: str | os.PathLike) -> dict[str, Path]:
    """Returns the tables in the folders of a Hugging Face audio folder, by the folder's name: train, test, ..."""
    folders = sorted(path for path in Path(source).iterdir() if path.is_dir() and not path.name.startswith("."))
    return {folder.name: table for folder in folders if (table := find_table(folder))}


def read_split_tables(
    split_tables: Mapping[str, Path], problems: Problems, *, speakers: bool = True, unify: bool = False
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Returns what `read_table` does of several tables, whose names of utterances begin with the split.

    The column `split` is the name of each table's folder, unless the table has one.
    """
    parts, changed = [], {}
    for split, table in split_tables.items():
        rows, own = read_table(table, table.parent, problems, speakers=speakers, unify=unify)
        named = {column: f"{split}/" + rows[column] for column in ("id", "recording") if column in rows}
        parts.append(rows.assign(**named) if "split" in rows else rows.assign(**named, split=split))
        changed |= own
    rows = pd.concat(parts, ignore_index=True)
    rows = rows.fillna({column: "" for column in rows.select_dtypes(exclude="number")})
    where = str(next(iter(split_tables.values())).parents[1])
    if speakers:
        rows["speaker"], own = labels.unified(rows["speaker"], where, "speaker", unify)
        changed |= own
    return rows, changed


def read_table(
    table: str | os.PathLike,
    source: str | os.PathLike,
    problems: Problems,
    *,
    speakers: bool = True,
    unify: bool = False,
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Returns the utterances that a table lists, all columns as text, and the speakers that were unified, new by old.

    `path` is resolved below the folder `source`. The table has the columns path, emotion and, unless `speakers` is
    False, speaker; any further column is kept. Without emotion, it is the one that has most in columns `vote_EMOTION`.
    With start or end, in seconds or as timedeltas, a row is that segment of its file, and has `segment_start` and
    `segment_end` in seconds (NaN: the file's end), and `recording`, the file.
    Bad rows are added to `problems` and left out. Raises UserError for a table that cannot be used at all.
    """
    table = Path(table)
    rows = tables.read_table(table)
    if "emotion" not in rows and labels.voted(rows):
        rows["emotion"] = labels.most_voted(rows)
    for column in ("path", "emotion"):
        if column not in rows:
            found = ", ".join(rows.columns)
            raise UserError(
                f"{table}: no column `{column}`, found {found}; expected path, emotion, speaker in the first line"
            )
    if speakers and "speaker" not in rows:
        raise UserError(
            f"{table}: no column `speaker`, which speaker-independent protocols need; add it, or pass --no_speakers"
        )
    computed = [column for column in _COMPUTED if column in rows]
    if computed:
        raise UserError(f"{table}: the column `{computed[0]}` is computed, rename or remove it")
    if not speakers:
        rows["speaker"] = ""
    rows = _with_segments(table, rows, problems)
    rows = _with_ids(rows)
    for column in ("path", "emotion", *(("speaker",) if speakers else ()), "id"):
        words = _NO_SPEAKER if column == "speaker" else _MISSING if column == "emotion" else ()
        missing = (rows[column] == "") | rows[column].str.lower().isin(words)
        rows = problems.rows(table, rows, missing, lambda row, column=column: f"has no {column}")
        odd = rows[column].map(lambda text: not text.isprintable())
        rows = problems.rows(
            table, rows, odd, lambda row, column=column: f"has a control character in its {column} {row[column]!r}"
        )
    rows = problems.rows(table, rows, rows["id"].duplicated(), lambda row: f"repeats the id {row['id']!r}")
    changed: dict[str, str] = {}
    if speakers:
        rows["speaker"], changed = labels.unified(rows["speaker"], str(table), "speaker", unify)
    if "gender" in rows:
        rows["gender"] = rows["gender"].str.lower().map(lambda word: _GENDERS.get(word, word))
        if speakers:
            rows = _with_genders_of_speakers(table, rows, problems)
    return _with_paths(table, rows, Path(source), problems), changed


def list_emotion_folders(source: str | os.PathLike, problems: Problems) -> pd.DataFrame:
    """Returns the utterances of a folder per emotion, `source`/EMOTION/.../file, whose speakers are unknown.

    Files whose name is not UTF-8 are added to `problems` and left out. Raises UserError where there are none, and for a
    file outside such a folder.
    """
    source = Path(source)
    relative = []
    for path in find_audio(source):
        if printable(path) != os.fspath(path):
            problems.add(printable(path), "its name is not UTF-8; rename it")
        elif one_line(name := str(path.relative_to(source))) != name:
            problems.add(one_line(name), "its name has control characters; rename it")
        else:
            relative.append(path.relative_to(source))
    if not relative:
        raise UserError(f"{source}: no audio file anywhere below it, expected {source}/EMOTION/FILE.wav, or --table")
    for path in relative:
        if len(path.parts) == 1:
            raise UserError(f"{source}: {path} is in no emotion's folder, expected {source}/EMOTION/{path}, or --table")
    utterances = pd.DataFrame(
        {
            "id": [path.with_suffix("").as_posix() for path in relative],
            "path": [str(source / path) for path in relative],
            "emotion": [path.parts[0] for path in relative],
            "speaker": "",
        }
    )
    return problems.rows(source, utterances, utterances["id"].duplicated(), lambda row: f"repeats the id {row['id']!r}")


def content_of(utterances: pd.DataFrame) -> str:
    """Returns a SHA-256 (hex) over the table and the bytes of every file that it names, if it can be read."""
    digest = hashlib.sha256(utterances.drop(columns="path").to_csv(index=False).encode())
    for path in dict.fromkeys(utterances["path"]):
        try:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError:
            digest.update(b"unreadable")
    return digest.hexdigest()


def _with_segments(table: Path, rows: pd.DataFrame, problems: Problems) -> pd.DataFrame:
    given = [column for column in ("start", "end") if column in rows]
    if not given:
        return rows
    seconds = {}
    for column in ("start", "end"):
        values = rows[column] if column in given else pd.Series("", index=rows.index)
        seconds[column] = values.map(_seconds_or_text)
        bad = seconds[column].map(lambda value: isinstance(value, str) or (value is not None and value < 0))
        rows = problems.rows(
            table,
            rows,
            bad,
            lambda row, c=column: f"has the {c} {row[c]!r}, expected seconds, or hours:minutes:seconds",
        )
    # Beside numbers, None is NaN by now.
    start = seconds["start"].loc[rows.index].astype(float).fillna(0.0)
    end = seconds["end"].loc[rows.index].astype(float)
    rows = rows.drop(columns=given).assign(segment_start=start, segment_end=end, recording=rows["path"])
    backward = rows["segment_end"] <= rows["segment_start"]
    return problems.rows(table, rows, backward, lambda row: f"ends at {row['segment_end']:g} s, before it begins")


def _seconds_or_text(text: str) -> float | str | None:
    try:
        return tables.to_seconds(text)
    except ValueError:
        return text


def _with_ids(rows: pd.DataFrame) -> pd.DataFrame:
    if "id" in rows:
        return rows
    names = [os.path.splitext(path.replace("\\", "/"))[0].removeprefix("./") for path in rows["path"]]
    if "segment_start" in rows:
        names = [f"{name}_{round(1000 * start):07d}" for name, start in zip(names, rows["segment_start"], strict=True)]
    return rows.assign(id=names)


def _with_genders_of_speakers(table: Path, rows: pd.DataFrame, problems: Problems) -> pd.DataFrame:
    """Fills a gender that some rows of a speaker lack; a speaker of two genders is a problem."""
    of = {name: sorted(set(group) - {""}) for name, group in rows.groupby("speaker")["gender"]}
    several = rows["speaker"].map(lambda name: len(of[name]) > 1)
    rows = problems.rows(
        table,
        rows,
        several,
        lambda row: f"is of speaker {row['speaker']}, who has the genders {', '.join(of[row['speaker']])}",
    )
    return rows.assign(gender=[(of[name] or [""])[0] for name in rows["speaker"]])


def _with_paths(table: Path, rows: pd.DataFrame, source: Path, problems: Problems) -> pd.DataFrame:
    resolved = {path: _resolve(path, source) for path in dict.fromkeys(rows["path"])}
    absent = rows["path"].map(lambda path: resolved[path] is None)
    by_name: dict[str, list[Path]] = {}
    if absent.any():
        for path in find_audio(source):
            by_name.setdefault(path.name, []).append(path)

    def where(row: pd.Series) -> str:
        name = os.path.basename(row["path"].replace("\\", "/"))
        there = [path for suffix in ("", *AUDIO_SUFFIXES) for path in by_name.get(name + suffix, [])]
        hint = f"; {there[0].relative_to(source)} is: write that, or pass the --source that fits" if there else ""
        return f"names the file {source / row['path']}, which is not there{hint}"

    rows = problems.rows(table, rows, absent, where)
    return rows.assign(path=[resolved[path] for path in rows["path"]])


def _resolve(path: str, source: Path) -> str | None:
    """Where the file that a table names is: below `source`, whatever slashes or URL it is written with."""
    if path.startswith("file://"):
        path = unquote(urlparse(path).path)
    for one in (path, path.replace("\\", "/")):
        if os.path.isfile(source / one):
            return str(source / one)
    return None
