"""Tables as people have them: one reader for every table that the project takes.

Comma, semicolon, tab or bar; UTF-8 with or without a mark, UTF-16; JSON lines; Parquet. All values are text.
"""

import csv
import io
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ser_jax import bounded
from ser_jax.errors import UserError, did_you_mean, reading
from ser_jax.files import from_json
from ser_jax.numbers import to_float

# What other programs call the columns; a name is looked for as it stands, then in lower case, then here.
SYNONYMS = {
    "path": (
        "audio_filepath",
        "audio_file",
        "wav_file",
        "file",
        "filename",
        "file_name",
        "filepath",
        "file_path",
        "wav",
        "wav_path",
        "audio",
        "audio_path",
    ),
    "emotion": ("label", "emo", "emotions", "emotion_label", "class", "category"),
    "speaker": ("speaker_id", "speakerid", "spk", "spk_id", "actor", "actor_id", "subject", "subject_id"),
    "gender": ("sex",),
    "text": ("text_id", "sentence", "sentence_id", "statement"),
    "transcript": ("transcription",),
    "language": ("lang",),
    "session": ("session_id",),
    "split": ("split_set", "partition", "subset"),
    "arousal": ("activation", "emoact"),
    "valence": ("emoval",),
    "dominance": ("emodom",),
    "id": ("utterance", "utterance_id", "utt", "utt_id"),
    "start": (
        *("begin", "onset", "start_time", "begin_time", "segment_start", "start_s", "start_sec", "start_seconds"),
        *("starttime", "xmin", "tmin", "t_start", "tstart", "start_offset", "begin_time_ss.msec"),
    ),
    "end": (
        *("stop", "end_time", "stop_time", "segment_end", "end_s", "end_sec", "end_seconds", "endtime"),
        *("xmax", "tmax", "t_end", "tend", "end_offset", "end_time_ss.msec"),
    ),
    "start_ms": ("begin_ms", "onset_ms", "start_time_ms", "begin_time_ms", "begin_time_msec", "start_msec"),
    "end_ms": ("stop_ms", "end_time_ms", "end_time_msec", "end_msec"),
    "duration": ("dur", "duration_s", "duration_sec", "duration_seconds"),
    "duration_ms": ("dur_ms", "duration_msec"),
    "offset": ("offset_s", "offset_sec", "offset_seconds"),  # an end beside a start, a start beside a duration
    "offset_ms": ("offset_msec",),
}
_UNIT = re.compile(r"\s*[\[(]\s*(s|secs?|seconds?|(ms|msecs?|milliseconds?))\s*[\])]$", re.IGNORECASE)
_CLOCK = re.compile(r"(-?\d+ days?,? +)?[+-]?(\d+:)?\d+:\d+([.,]\d+)?", re.IGNORECASE)
_TIMES = {"start", "end", "duration", "offset", "start_ms", "end_ms", "duration_ms", "offset_ms"}
# Words of columns that may be of segments though no name above is theirs.
_BEGINS = {"start", "begin", "beginning", "onset", "from", "t0", "anfang", "beginn", "von", "début", "debut", "inizio"}
_ENDS = {"end", "stop", "offset", "to", "until", "t1", "ende", "bis", "fin", "fine"}
_LENGTHS = {"length", "len", "duration", "dur", "dauer", "durée", "duree", "durata"}
# Of a segment, in a unit that no rate tells here.
_COUNTED = re.compile(
    r"(start|begin|onset|end|stop|offset)[_ ]?(samples?|frames?|idx|index|us|ns|ticks)", re.IGNORECASE
)
# What spreadsheets, programs and people write into a cell of which nothing is known.
_NOTHING = {
    "#ref!",
    "#value!",
    "#name?",
    "#div/0!",
    "#null!",
    "#num!",
    "",
    "nan",
    "na",
    "n/a",
    "n.a.",
    "#n/a",
    "<na>",
    "nat",
    "null",
    "none",
    "unknown",
    "?",
    "-",
    "--",
    ".",
}
_SEPARATORS = ",;\t|"
_MAGIC = {  # how files begin that are no text, and what they are
    b"PK\x03\x04": "a spreadsheet or another zip archive",
    b"\xd0\xcf\x11\xe0": "an old spreadsheet (.xls)",
    b"\x1f\x8b": "compressed by gzip",
    b"PAR1": "a Parquet file, whose name has to end in .parquet",
}
_ARROW = {  # how Arrow's files begin, and the streams that Hugging Face's data sets keep; what makes Parquet of each
    b"ARROW1\0\0": "`pandas.read_feather(FILE).to_parquet(OUT)`",
    b"\xff\xff\xff\xff": "`datasets.Dataset.from_file(FILE).to_parquet(OUT)` of Hugging Face's data sets",
}
_SPREADSHEETS = (".xlsx", ".xls", ".ods", ".numbers")


def read_table(
    path: Path,
    *,
    wanted: Sequence[str] = ("path", "emotion", "speaker"),
    columns: Sequence[str] = tuple(SYNONYMS),
    renamed: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Returns a table as text, stripped, without empty rows; its index is the line of each row in the file.

    `wanted` are the columns that tell a line of names from other lines, and the separator; `columns` are those of
    SYNONYMS that are looked for under other names as well. Further columns are kept under their own name, but for those
    `renamed`, new name by the one in the table.
    Raises UserError that names the line for whatever cannot be read without a doubt.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: a folder, expected a table, as a CSV file")
    if not path.is_file():
        raise UserError(f"{path}: no such table, expected a CSV file")
    if path.suffix.lower() in _SPREADSHEETS:
        raise UserError(f"{path}: a spreadsheet, expected a table as text: save it as CSV (UTF-8)")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            table = _read_parquet(path, columns)
        elif path.suffix.lower() in (".jsonl", ".ndjson", ".json"):
            table = _read_json(path, _decoded(path), columns)
        else:
            table = _read_text(path, _decoded(path), wanted, columns)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    if table.empty:
        raise UserError(f"{path}: no rows below the line of column names")
    for old in renamed or {}:
        if old not in table.columns:
            raise UserError(
                f"--rename {old}={renamed[old]}: no such column in {path}{did_you_mean(old, table.columns)}"
            )
    written = list(table.columns)
    table = table.rename(columns=renamed or {})
    table.columns = _named(path, list(table.columns), columns)
    if "start" in columns:
        _refuse_untold_segments(path, table, dict(zip(table.columns, written, strict=True)))
    return table


def _refuse_untold_segments(path: Path, table: pd.DataFrame, written: Mapping[str, str]) -> None:
    """Raises UserError for columns that look like the ends of segments, which would not be cut out.

    That is one that counts samples, two of times whose names say so, or a length beside a start without an end.
    `written` are the columns' names in the file, which --rename takes.
    """
    ends = {"end", "end_ms", "duration", "duration_ms"}
    if {"start", "start_ms", *ends}.isdisjoint(set(table.columns) - {"duration", "duration_ms"}):
        counted = next((name for name in table.columns if _COUNTED.fullmatch(name)), None)
        if counted:
            what = "may be of segments, expected start and end in seconds, or _ms"
            raise UserError(f"{path}: the column `{counted}` {what}")
        begin, end = (_of_times(table, words) for words in (_BEGINS, _ENDS))
        if begin and end and begin != end:
            begin, end = written[begin], written[end]
            raise UserError(
                f"{path}: the columns `{begin}` and `{end}` may be of segments; --rename {begin}=start,{end}=end says "
                "so of seconds (start_ms and end_ms of milliseconds), or any other names that they are not"
            )
    elif ends.isdisjoint(table.columns) and (length := _of_times(table, _LENGTHS)):
        length = written[length]
        raise UserError(
            f"{path}: no column `end`, and `{length}` may be the length of segments; --rename {length}=duration says so"
        )


def _of_times(table: pd.DataFrame, words: Collection[str]) -> str | None:
    """The first column of times, and of nothing else, whose name has one of the words."""
    for name in table.columns:
        parts = re.split(r"[^\w]|_", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold())
        if not words.isdisjoint(parts) and (table[name] != "").any() and table[name].map(_is_time).all():
            return name
    return None


def _is_time(cell: str) -> bool:
    try:
        return says_nothing(cell) or to_seconds(cell) is not None
    except ValueError:
        return False


def _decoded(path: Path) -> str:
    data = path.read_bytes()
    if way := next((way for begins, way in _ARROW.items() if data.startswith(begins)), None):
        raise UserError(f"{path}: an Arrow file, expected Parquet or text: {way} writes Parquet")
    kind = next((kind for begins, kind in _MAGIC.items() if data.startswith(begins)), None)
    if kind is None and data.lstrip()[:1] == b"<":
        kind = "HTML or XML"
    if kind:
        raise UserError(f"{path}: {kind}, expected a table as text: save it as CSV (UTF-8)")
    encoding = "utf-8-sig"
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif b"\0" in data[:2]:
        encoding = "utf-16-le" if data[1:2] == b"\0" else "utf-16-be"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}: not a CSV file in UTF-8, line {line} holds the byte 0x{data[error.start]:02x}; save it in UTF-8 "
            "(of Excel: CSV UTF-8), since other encodings cannot be told apart"
        ) from error
    if "\0" in text:
        raise UserError(f"{path}: not a CSV file, it holds zero bytes")
    return text


def _read_text(path: Path, text: str, wanted: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    lines = text.splitlines(keepends=True)
    skipped, separator = 0, None
    while lines and (not lines[0].strip(" \r\n,;\t") or lines[0].lower().startswith(("#", "sep="))):
        if lines[0].lower().startswith("sep="):
            separator = lines[0].rstrip("\r\n")[4:5] or None
        skipped, lines = skipped + 1, lines[1:]
    if not lines:
        raise UserError(f"{path}: not a CSV file, no line of column names")
    lines[0] = lines[0].replace("\u00a0", " ")
    hidden = next((sign for sign in lines[0].strip().replace("\t", "") if not sign.isprintable()), None)
    if hidden:
        raise UserError(
            f"{path}: not a CSV file, its line of column names holds the character {hidden!a}, which is not seen"
        )
    _refuse_title(path, lines, skipped, wanted, columns)
    separator = separator or _separator(lines[0], wanted, columns)
    lines_of_rows = io.StringIO("".join(lines), newline="")
    reader = csv.reader(lines_of_rows, delimiter=separator, skipinitialspace=True, strict=True)
    rows, places = [], []
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                rows.append(cells)
                places.append(skipped + reader.line_num)
    except csv.Error as error:
        raise UserError(f"{path}: not a CSV file, line {skipped + reader.line_num} ({error})") from error
    if not rows:
        raise UserError(f"{path}: not a CSV file, no line of column names")
    names, rows, places = rows[0], rows[1:], places[1:]
    filled = max((at + 1 for row in [names, *rows] for at, cell in enumerate(row) if cell), default=0)
    for place, row in zip(places, rows, strict=True):
        if len(row) > len(names) and any(row[len(names) :]):
            raise UserError(
                f"{path}: line {place} has {len(row)} cells, expected {len(names)} as in the line of column names; a "
                f"value that holds {separator!r} must stand in quotes"
            )
        if len(row) < min(len(names), filled):
            raise UserError(f"{path}: line {place} has {len(row)} cells, expected {len(names)}")
    width = min(len(names), filled)
    table = pd.DataFrame([row[:width] for row in rows], columns=range(width), index=places, dtype=str)
    names = names[:width]
    for at, name in enumerate(names):
        if not name and at == 0 and table[at].str.isdigit().all():  # the index that pandas writes
            table, names = table.drop(columns=0), names[1:]
        elif not name and (table[at] != "").any():
            raise UserError(f"{path}: column {at + 1} has no name")
    table = table[[at for at, name in zip(table.columns, names, strict=True) if name]]
    table.columns = [name for name in names if name]
    return table


def _separator(line: str, wanted: Sequence[str], columns: Sequence[str]) -> str:
    """The separator that finds most of the wanted columns in the line of names, else most columns."""
    return max(_SEPARATORS, key=lambda separator: _found(line, separator, wanted, columns))


def _found(line: str, separator: str, wanted: Sequence[str], columns: Sequence[str]) -> tuple[int, int]:
    """How many of the wanted columns a line names, and how many cells it has."""
    try:
        names = next(csv.reader([line], delimiter=separator, skipinitialspace=True))
    except csv.Error:  # thousands of columns are one cell, too long for csv, to every separator but theirs
        return 0, 0
    known = {_canonical(name.strip(), columns) for name in names}
    return len(known & set(wanted)), len(names)


def _refuse_title(
    path: Path, lines: Sequence[str], skipped: int, wanted: Sequence[str], columns: Sequence[str]
) -> None:
    """Raises UserError where the columns' names come only after a title, or other lines."""

    def named(line: str) -> int:
        return max(_found(line, separator, wanted, columns)[0] for separator in _SEPARATORS)

    if named(lines[0]):
        return
    later = next((at for at, line in enumerate(lines[:20]) if at and named(line) > 1), None)
    if later:
        raise UserError(
            f"{path}: line {skipped + later + 1} has the columns' names, expected them in the first line; remove the "
            "lines above it"
        )


def _read_json(path: Path, text: str, columns: Sequence[str]) -> pd.DataFrame:
    records, places = [], []
    try:
        if path.suffix.lower() == ".json":
            records = from_json(text, repeats=False)
            places = range(1, len(records) + 1) if isinstance(records, list) else []
        else:
            for number, line in enumerate(text.split("\n"), start=1):  # JSON may hold Unicode's other line ends
                if line.strip():
                    records.append(from_json(line, repeats=False))
                    places.append(number)
    except (ValueError, RecursionError, TypeError) as error:
        raise UserError(f"{path}: not {path.suffix[1:]} ({str(error)[:80]})") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise UserError(f"{path}: expected an object with the columns' values for every row")
    for place, record in zip(places, records, strict=True):
        for key, value in record.items():
            _refuse_several(path, place, key, value, columns, record)
    values = [{key: _kept(key, value, columns) for key, value in record.items()} for record in records]
    return pd.DataFrame(values, index=list(places)).fillna("")


def _refuse_several(
    path: Path, place: int, name: str, value: Any, columns: Sequence[str], there: Iterable[str]
) -> None:
    """Raises UserError for a list, an object or a recording in one of the known columns, of which each has one value.

    Beside the column itself, one of those `there`, a synonym is a further column, which may hold anything.
    """
    if not isinstance(value, list | dict | np.ndarray | bytes):  # as nearly all
        return
    column = _canonical(name, columns)
    if column not in columns or (name.lower() != column and column in map(str.lower, there)):
        return
    if column == "path" and _is_recording(value):
        raise UserError(
            f"{path}: row {place} holds a recording itself in the column `{name}`, expected its path: write the "
            "recordings to files (docs/your_corpus.md)"
        )
    if isinstance(value, list | dict | np.ndarray) and _path_of(value) is None:
        found = "an object" if isinstance(value, dict) else "a list"
        raise UserError(f"{path}: row {place} has {found} as its `{name}`, expected one value")


def _is_recording(value: Any) -> bool:
    """Whether a value is the bytes of a file, or Hugging Face's audio that holds them or its samples."""
    if isinstance(value, dict):
        return any(value.get(key) is not None for key in ("bytes", "array"))
    return isinstance(value, bytes) and b"\0" in value


def _path_of(value: Any) -> str | None:
    """The path in Hugging Face's audio that holds no recording."""
    path = value.get("path") if isinstance(value, dict) and "bytes" in value and not _is_recording(value) else None
    return path if isinstance(path, str) else None


def _read_parquet(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    with reading(f"{path}: not a Parquet file"):
        table = bounded.read_parquet(path, whole_numbers=True)
    if named := [str(name) for name in table.index.names if name is not None]:  # audformat keeps file, start, end there
        if twice := _repeated([*named, *map(str, table.columns)]):
            raise UserError(f"{path}: the column `{twice}` occurs twice")
        table = table.reset_index()
    table.columns = [str(name) for name in table.columns]
    for name in table:
        for place, value in enumerate(table[name], start=1):
            _refuse_several(path, place, name, value, columns, table.columns)
    table = pd.DataFrame({name: [_kept(name, value, columns) for value in table[name]] for name in table})
    table.index = range(1, len(table) + 1)
    return table


def _kept(name: str, value: Any, columns: Sequence[str]) -> str:
    """A value as text; nothing of a recording beside its path, which would be several times as large."""
    if not _is_recording(value):
        return _as_text(value)
    column = _canonical(name, columns)
    further = column == "path" or column not in columns  # one in the place of its path was refused
    return "" if further else _as_text(value)


def _as_text(value: Any) -> str:
    if (path := _path_of(value)) is not None:
        value = path
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        return value.strip()
    if value is None or (not isinstance(value, list | dict | np.ndarray) and pd.isna(value)):
        return ""
    return str(value)


def _canonical(name: str, columns: Sequence[str]) -> str:
    """The column of SYNONYMS that a name stands for, or the name; a unit in brackets counts for times alone."""
    if unit := _UNIT.search(name):
        timed = f"{_of_synonym(name[: unit.start()], columns)}{'_ms' if unit[2] else ''}"
        return timed if timed in _TIMES else name  # "speaker(s)" and "text (s)" are in no unit
    return _of_synonym(name, columns) or name


def _of_synonym(name: str, columns: Sequence[str]) -> str | None:
    lower = re.sub(r"[\s_-]+", "_", name).lower()
    return lower if lower in columns else next((column for column in columns if lower in SYNONYMS[column]), None)


def _named(path: Path, names: list[str], columns: Sequence[str]) -> list[str]:
    """The columns' names in the project's words; a synonym stays as it is beside the word itself."""
    names = [unicodedata.normalize("NFC", name) for name in names]
    spelled = [name if name.lower() not in columns else name.lower() for name in names]
    if twice := _repeated(spelled):
        raise UserError(f"{path}: the column `{twice}` occurs twice")
    named, there = [], set(spelled)
    for name in spelled:
        canonical = _canonical(name, columns)
        named.append(name if canonical in there else canonical)
    if twice := _repeated(named):
        both = " and ".join(f"`{was}`" for was, now in zip(spelled, named, strict=True) if now == twice)
        raise UserError(f"{path}: the columns {both} may both be {twice}; rename the one that is not")
    return named


def _repeated(names: Sequence[str]) -> str | None:
    return next((name for name, times in Counter(names).items() if times > 1), None)


def says_nothing(cell: object) -> bool:
    """Returns whether a cell says that a value is not known: it is empty, NaN, NA, "unknown", a dash, ..."""
    return cell is None or str(cell).strip().lower() in _NOTHING


def to_seconds(text: str) -> float | None:
    """Returns seconds from "1.5", "1,5", "00:01.5", "0 days 00:00:01.500000"; None for a cell that says nothing.

    Raises ValueError for anything else, infinity and any other spelling of NaN included.
    """
    if says_nothing(text):
        return None
    if ":" not in text:
        seconds = to_float(text.lower().removesuffix("s").replace(",", "."))
    else:
        if not _CLOCK.fullmatch(text.strip()):  # pandas passes over much else: 00:00:01 12 would be 112 seconds
            raise ValueError(f"{text!r} is no time")
        text = "00:" + text if text.count(":") == 1 else text
        seconds = pd.to_timedelta(re.sub(r"(?<=y|s),", "", text).replace(",", ".")).total_seconds()
    if not math.isfinite(seconds):
        raise ValueError(f"{text!r} is no finite number of seconds")
    return seconds
