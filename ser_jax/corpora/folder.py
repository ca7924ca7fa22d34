"""The user's own recordings: a table of files or of segments of files, or a folder per emotion.

They are packed directly, without a TFDS builder: which columns there are is known only once the table is read, nothing
is downloaded, and a second copy of the recordings would serve nobody.
"""

import itertools
import math
import os
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlparse

import pandas as pd

from ser_jax.corpora import labels, tables
from ser_jax.corpora.audio import AUDIO_SUFFIXES, find_audio, printable
from ser_jax.corpora.problems import Problems
from ser_jax.corpora.same_files import place
from ser_jax.corpora.tables import says_nothing
from ser_jax.corpora.targets import DIMENSIONS, is_number_or_nothing
from ser_jax.errors import UserError, brief, one_line
from ser_jax.numbers import to_float

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # a Hugging Face audio folder's table

_GENDERS = {
    **dict.fromkeys(("f", "female", "w", "woman", "weiblich"), "female"),
    **dict.fromkeys(("m", "male", "man", "männlich"), "male"),
}
_OF_FILES = ("path", "id")  # columns of names that may be any word; of others some words say that nothing is known
_MAY_BE_UNKNOWN = ("gender", "text", "language", "session", "split")
_LOOKED_AT = 200_000  # files below --source, to say which of them no row takes
_COMPUTED = ("label", "num_samples", "corpus", "recording", "segment_start", "segment_end")


def find_table(source: str | os.PathLike) -> Path | None:
    """Returns the table that a Hugging Face audio folder holds, or None."""
    return next((path for name in METADATA if (path := Path(source) / name).is_file()), None)


def find_split_tables(source: str | os.PathLike) -> dict[str, Path]:
    """Returns the tables in the folders of a Hugging Face audio folder, by the folder's name: train, test, ..."""
    folders = sorted(path for path in Path(source).iterdir() if path.is_dir() and not path.name.startswith("."))
    return {folder.name: table for folder in folders if (table := find_table(folder))}


def read_split_tables(
    split_tables: Mapping[str, Path],
    problems: Problems,
    *,
    speakers: bool = True,
    unify: bool = False,
    named: Collection[str] = (),
    renamed: Mapping[str, str] | None = None,
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Returns what `read_table` does of several tables, whose names of utterances begin with the split.

    The column `split` is the name of each table's folder, unless the table has one.
    """
    parts, changed = [], {}
    for split, table in split_tables.items():
        rows, own = read_table(
            table, table.parent, problems, speakers=speakers, unify=unify, named=named, renamed=renamed
        )
        begun = {column: f"{split}/" + rows[column] for column in ("id", "recording") if column in rows}
        parts.append(rows.assign(**begun) if "split" in rows else rows.assign(**begun, split=split))
        changed |= own
    rows = pd.concat(parts, ignore_index=True)
    without = [split for split, part in zip(split_tables, parts, strict=True) if (part["emotion"] == "").all()]
    if 0 < len(without) < len(parts):
        raise UserError(f"{split_tables[without[0]]}: no column `emotion`, which the tables of other splits have")
    rows = rows.fillna({column: "" for column in rows.select_dtypes(exclude="number")})
    if "segment_start" in rows:  # a split of whole files beside one of segments
        whole = rows["segment_start"].isna()
        rows = rows.assign(
            segment_start=rows["segment_start"].mask(whole, 0.0), recording=rows["recording"].mask(whole, rows["id"])
        )
    if speakers:
        where = str(next(iter(split_tables.values())).parents[1])
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
    named: Collection[str] = (),
    renamed: Mapping[str, str] | None = None,
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Returns the utterances that a table lists, all columns as text, and the speakers that were unified, new by old.

    `path` is resolved below the folder `source`. The table has the columns path, emotion and, unless `speakers` is
    False, speaker; any further column is kept. Without emotion, it is the one that has most in columns `vote_EMOTION`;
    without those too, arousal, valence or dominance are what is known, and `emotion` is "".
    With start or end, in seconds or as timedeltas, a row is that segment of its file, and has `segment_start` and
    `segment_end` in seconds (NaN: the file's end), and `recording`, the file.
    Columns are first `renamed`, new name by old.
    NaN, "none", "unknown", a dash and the like say that nothing is known, unless they are among the emotions `named`.
    Bad rows are added to `problems` and left out. Raises UserError for a table that cannot be used at all.
    """
    table = Path(table)
    rows = tables.read_table(table, renamed=renamed)
    for column in set(_MAY_BE_UNKNOWN) & set(rows.columns):
        rows[column] = rows[column].mask(rows[column].map(says_nothing), "")
    labels.check_votes(table, rows)
    if "emotion" not in rows and labels.voted(rows):
        rows["emotion"] = labels.most_voted(table, rows)
    dimensions = [name for name in DIMENSIONS if name in rows]
    if "emotion" in rows and not (dimensions and rows["emotion"].map(says_nothing).all()):
        dimensions = []
    for column in ("path", *(() if dimensions else ("emotion",))):
        if column not in rows:
            found = ", ".join(rows.columns)
            other = f" (or {', '.join(DIMENSIONS)})" if column == "emotion" else ""
            raise UserError(
                f"{table}: no column `{column}`{other}, found {found}; expected path, emotion, speaker in the first "
                f"line, or --rename OLD={column}"
            )
    if speakers and "speaker" not in rows:
        raise UserError(
            f"{table}: no column `speaker`, which speaker-independent protocols need, found {', '.join(rows.columns)}; "
            "add it, or pass --no_speakers or --rename OLD=speaker"
        )
    computed = [column for column in _COMPUTED if column in rows]
    if computed:
        raise UserError(f"{table}: the column `{computed[0]}` is computed, rename or remove it")
    if not speakers:
        rows["speaker"] = ""
    rows = _with_segments(table, rows, Path(source), problems)
    rows = _with_ids(rows)
    rows = _with_dimensions(table, rows, problems)
    if dimensions:
        known = (~rows[dimensions].map(says_nothing)).any(axis=1)
        rows = problems.rows(table, rows, ~known, lambda row: f"has no {' and no '.join(dimensions)}")
        rows = rows.assign(emotion="")
    for column in ("path", *(() if dimensions else ("emotion",)), *(("speaker",) if speakers else ()), "id"):
        missing = rows[column] == ""
        if column not in _OF_FILES:
            missing |= rows[column].map(says_nothing) & ~(rows[column].isin(named) & (column == "emotion"))
        rows = problems.rows(table, rows, missing.astype(bool), lambda row, column=column: _has_no(row, column))
        odd = rows[column].map(lambda text: not text.isprintable()).astype(bool)
        rows = problems.rows(
            table, rows, odd, lambda row, column=column: f"has a control character in its {column} {row[column]!r}"
        )
    rows = problems.rows(table, rows, rows["id"].duplicated(), lambda row: f"repeats the id {row['id']!r}")
    changed: dict[str, str] = {}
    if speakers:
        several = rows["speaker"].map(labels.finder_of_several(rows["speaker"])).astype(bool)
        rows = problems.rows(
            table, rows, several, lambda row: f"has several speakers at once, {row['speaker']!r}, expected one"
        )
        rows["speaker"], changed = labels.unified(rows["speaker"], str(table), "speaker", unify)
    for column in [column for column in ("session", "text") if column in rows]:
        if column == "text" and rows[column].fillna("").str.contains(r"\s").any():
            continue  # sentences as they were said, and no names of them
        rows[column], own = labels.unified(rows[column].fillna(""), str(table), column, unify)
        changed |= own
    if "gender" in rows:
        rows["gender"] = rows["gender"].map(lambda word: _GENDERS.get(word.lower(), word.lower()))
        if speakers:
            rows = _with_genders_of_speakers(table, rows, problems)
    return _with_paths(table, rows, Path(source), problems), changed


def unused_audio(source: str | os.PathLike, used: Iterable[str]) -> list[str]:
    """Returns the audio files below `source`, told by their suffix, that are not among those `used`, sorted.

    Empty where there are too many files to look at them all.
    """
    walked = ((folder, name) for folder, _, names in os.walk(source) for name in names)
    looked_at = [*itertools.islice(walked, _LOOKED_AT + 1)]
    if len(looked_at) > _LOOKED_AT:
        return []
    places = {place(path) for path in used}
    there = [os.path.join(folder, name) for folder, name in looked_at if not name.startswith(".")]
    audio = [path for path in there if os.path.splitext(path)[1].lower() in AUDIO_SUFFIXES and os.path.isfile(path)]
    return sorted(printable(os.path.relpath(path, source)) for path in audio if place(path) not in places)


def list_emotion_folders(source: str | os.PathLike, problems: Problems, *, alone: bool = False) -> pd.DataFrame:
    """Returns the utterances of a folder per emotion, `source`/EMOTION/.../file, whose speakers are unknown.

    Files whose name is not UTF-8, and folders without audio, are added to `problems` and left out. Raises UserError
    where there are none, for a file outside such a folder, and for one folder whose name is of no known emotion, unless
    it may be `alone`.
    """
    source = Path(source)
    _refuse_tables_below(source)
    relative = []
    found = find_audio(source)
    for path in found:
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
    _refuse_emotions_below(source, relative)
    folders = {path.relative_to(source).parts[0] for path in found}
    if len(folders) == 1 and not labels.is_known(only := min(folders)) and not alone:
        raise UserError(
            f"{source}: all recordings are in one folder, {brief(only)}, expected EMOTION/FILE, or the files listed in "
            "a --table; --emotions says that it is the only emotion"
        )
    _list_folders_without_audio(source, folders, problems)
    utterances = pd.DataFrame(
        {
            "id": [path.with_suffix("").as_posix() for path in relative],
            "path": [str(source / path) for path in relative],
            "emotion": [path.parts[0].strip() for path in relative],
            "speaker": "",
        }
    )
    return problems.rows(source, utterances, utterances["id"].duplicated(), lambda row: f"repeats the id {row['id']!r}")


def _refuse_tables_below(source: Path) -> None:
    """Raises UserError where a Hugging Face audio folder begins further below, or its table's name has capitals."""
    for depth in ("*", "*/*", "*/*/*"):
        for path in sorted(source.glob(depth)):
            if path.name.lower() in METADATA and path.is_file():
                raise UserError(
                    f"{source}: {path.relative_to(source)} may describe the recordings, expected it as --table, or its "
                    "folder (the one above, where there is one for each split) as --source"
                )


def _refuse_emotions_below(source: Path, relative: Sequence[Path]) -> None:
    """Raises UserError where folders are not named by emotions, but those below them: of speakers, or of splits."""
    others = [path.parts[:2] for path in relative if len(path.parts) > 2 and not labels.is_known(path.parts[0])]
    below = sorted({inner for _, inner in others if labels.is_known(inner)})
    above = sorted({outer for outer, inner in others if labels.is_known(inner)})
    if below:
        raise UserError(
            f"{source}: its folders ({', '.join(above[:3])}, ...) hold folders that are named by emotions "
            f"({', '.join(below[:3])}), expected {source}/EMOTION/FILE, or the files listed in a --table"
        )


def _list_folders_without_audio(source: Path, heard: Collection[str], problems: Problems) -> None:
    """Adds to `problems` the folders, and links to what is not there, that would be emotions without a recording."""
    for entry in sorted(os.scandir(source), key=lambda entry: entry.name):
        if entry.name in heard or entry.name.startswith((".", "__MACOSX")):
            continue
        if entry.is_dir():
            problems.add(printable(entry.path), "holds no audio file, expected the recordings of an emotion")
        elif not os.path.exists(entry.path):
            problems.add(printable(entry.path), "a link to what is not there")


def _has_no(row: pd.Series, column: str) -> str:
    if not row[column]:
        return f"has no {column}"
    hint = ", unless --map, --drop or --emotions name it" if column == "emotion" else "; a name is spelt otherwise"
    return f"has no {column}: {row[column]!r} says that it is not known{hint}"


def _with_segments(table: Path, rows: pd.DataFrame, source: Path, problems: Problems) -> pd.DataFrame:
    rows = _in_seconds(rows)
    given = [column for column in ("start", "end") if column in rows]
    if not given:
        return rows
    seconds = {}
    for column in ("start", "end"):
        values = rows[column] if column in given else pd.Series("", index=rows.index)
        seconds[column] = values.map(_seconds_or_text)
        bad = seconds[column].map(lambda value: isinstance(value, str) or (value is not None and value < 0))
        bad = bad.astype(bool)  # also of no rows
        rows = problems.rows(
            table,
            rows,
            bad,
            lambda row, c=column: f"has the {c} {row[c]!r}, expected seconds, or hours:minutes:seconds",
        )
    # Beside numbers, None is NaN by now.
    start = seconds["start"].loc[rows.index].astype(float).fillna(0.0)
    end = seconds["end"].loc[rows.index].astype(float)
    recording = _recordings(rows["path"], source)
    rows = rows.drop(columns=given).assign(segment_start=start, segment_end=end, recording=recording)
    backward = rows["segment_end"] <= rows["segment_start"]
    rows = problems.rows(table, rows, backward, lambda row: f"ends at {row['segment_end']:g} s, before it begins")
    return _without_open_segments(
        table, rows, {name: seconds[name].loc[rows.index].isna() for name in seconds}, problems
    )


def _recordings(paths: pd.Series, source: Path) -> pd.Series:
    """The file of each row under one name, the first spelling of it: `a.wav` and `./a.wav` are one recording."""
    first: dict[tuple[int, ...] | str, str] = {}
    of = {}
    for path in dict.fromkeys(paths):
        resolved = _resolve(path, source)
        of[path] = first.setdefault(place(resolved) if resolved else path, path)
    return paths.map(of)


def _without_open_segments(
    table: Path, rows: pd.DataFrame, open_at: Mapping[str, pd.Series], problems: Problems
) -> pd.DataFrame:
    """Rows whose start or end is known, or where no other segment of the file lies between it and the file's.

    Else a column that is missing would make each segment hold those before or behind it, under its own label.
    """
    of_file = rows.groupby("recording")
    no_start = open_at["start"] & (rows["segment_end"] > of_file["segment_end"].transform("min"))
    no_start |= open_at["start"] & rows["segment_end"].isna() & (of_file["segment_start"].transform("size") > 1)
    rows = problems.rows(
        table, rows, no_start, lambda row: "has no start, and the file has another segment before its end"
    )
    of_file = rows.groupby("recording")
    no_end = open_at["end"].loc[rows.index] & (rows["segment_start"] < of_file["segment_start"].transform("max"))
    return problems.rows(
        table, rows, no_end, lambda row: "has no end, and the file has another segment behind its start"
    )


def _in_seconds(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with start and end, where they have them in milliseconds, or a start and a duration."""
    there = {column.removesuffix("_ms") for column in rows}
    if "offset" in there and not there.isdisjoint({"start", "duration"}):
        # An end beside an onset, a start beside a duration.
        meant, offset = "end" if "start" in there else "start", "offset" if "offset" in rows else "offset_ms"
        if meant not in there:
            rows = rows.rename(columns={offset: offset.replace("offset", meant)})
    for column in ("start", "end", "duration"):
        if f"{column}_ms" in rows and column not in rows:
            rows = rows.assign(**{column: rows[f"{column}_ms"].map(_from_milliseconds)}).drop(columns=f"{column}_ms")
    if "start" in rows and "end" not in rows and "duration" in rows:
        pairs = zip(rows["start"].map(_seconds_or_text), rows["duration"].map(_seconds_or_text), strict=True)
        ends = [
            "" if None in pair else repr(pair[0] + pair[1]) if all(isinstance(one, float) for one in pair) else "?"
            for pair in pairs
        ]
        ends = [given if end == "?" else end for given, end in zip(rows["duration"], ends, strict=True)]
        rows = rows.assign(end=ends)
    return rows


def _from_milliseconds(text: str) -> str:
    try:
        return repr(to_float(text.replace(",", ".")) / 1000) if text else ""
    except ValueError:
        return text


def _seconds_or_text(text: str) -> float | str | None:
    try:
        return tables.to_seconds(text)
    except ValueError:
        return text


def _with_dimensions(table: Path, rows: pd.DataFrame, problems: Problems) -> pd.DataFrame:
    """Rows that have a number or nothing in the columns of dimensions."""
    for name in [name for name in DIMENSIONS if name in rows]:
        wrong = ~is_number_or_nothing(rows[name])
        rows = problems.rows(
            table,
            rows,
            wrong,
            lambda row, name=name: f"has the {name} {row[name]!r}, expected a number, or nothing "
            f"(--rename {name}=OTHER keeps such a column under another name)",
        )
    return rows


def _with_ids(rows: pd.DataFrame) -> pd.DataFrame:
    if "id" in rows:
        return rows
    names = [os.path.splitext(path.replace("\\", "/"))[0].removeprefix("./") for path in rows["path"]]
    if "segment_start" in rows:
        names = _with_time(names, rows["segment_start"])
        twice = pd.Series(names).duplicated(keep=False)  # people who begin to speak at once
        names = [
            both if again else name
            for name, both, again in zip(names, _with_time(names, rows["segment_end"]), twice, strict=True)
        ]
    return rows.assign(id=names)


def _with_time(names: Sequence[str], seconds: pd.Series) -> list[str]:
    """Names with a time in milliseconds behind them, where it is known."""
    return [
        name if math.isnan(time) else f"{name}_{round(1000 * time):07d}"
        for name, time in zip(names, seconds, strict=True)
    ]


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
    absent = rows["path"].map(lambda path: resolved[path] is None).astype(bool)
    by_name: dict[str, list[Path]] = {}
    if absent.any():
        for path in find_audio(source):
            by_name.setdefault(path.name.casefold(), []).append(path)

    def where(row: pd.Series) -> str:
        if "://" in row["path"]:
            return f"names {row['path']}, expected a file that is here"
        name = os.path.basename(row["path"].replace("\\", "/")).casefold()
        there = [path for suffix in ("", *AUDIO_SUFFIXES) for path in by_name.get(name + suffix, [])]
        hint = f"; {there[0].relative_to(source)} is: write that, or pass the --source that fits" if there else ""
        return f"names the file {source / row['path']}, which is not there{hint}"

    rows = problems.rows(table, rows, absent, where)
    return rows.assign(path=[resolved[path] for path in rows["path"]])


def _resolve(path: str, source: Path) -> str | None:
    """Where the file that a table names is: below `source`, whatever slashes or URL it is written with."""
    if path.startswith("file://"):
        path = unquote(urlparse(path).path)
    spelled = (path, path.replace("\\", "/"), unquote(path))
    # A Mac writes an accent as a sign of its own.
    spelled += tuple(unicodedata.normalize(form, path) for form in ("NFC", "NFD"))
    return next((str(source / one) for one in spelled if os.path.isfile(source / one)), None)
