"""Folds that others have drawn, read from a file or from a folder in EmoBox's layout."""

import re
from pathlib import Path

import pandas as pd

from ser_jax.corpora import tables
from ser_jax.errors import UserError, reason_of
from ser_jax.files import from_json, read_text

SPLITS = ("train", "validation", "test")
_SPLIT_WORDS = {"valid": "validation", "val": "validation", "dev": "validation", "development": "validation"}


def read_fold_list(file: Path) -> pd.DataFrame:
    """Returns the folds that a file or folder lists, with the columns fold, split and utterance, one row per utterance.

    `utterance` is a tuple of the names that the utterance may have in the corpus. Read are
    - a .jsonl file of lines `{"fold": "1", "split": "train", "utterance": "03a01Fa"}`, a .json file with a list of such
      objects, or a .csv file with these columns; split is train, validation or test;
    - a folder in EmoBox's layout (github.com/emo-box/EmoBox, data/CORPUS): `fold_1/CORPUS_train_fold_1.jsonl`, likewise
      test and, where there is one, valid; each line has `key` ("emodb-03a01Fa"), `dataset` and `wav`.
    Raises UserError where the file is missing, unreadable, empty, or has other fields.
    """
    file = Path(file)
    if file.is_dir():
        rows = _read_emobox(file)
    elif file.suffix in (".jsonl", ".json", ".csv", ".tsv"):
        rows = [
            (str(record["fold"]), split_named(str(record["split"]), file), (str(record["utterance"]),))
            for record in _records(file, ("fold", "split", "utterance"))
        ]
    else:
        raise UserError(f"{file}: folds are read from a .jsonl, .json or .csv file or a folder in EmoBox's layout")
    if not rows:
        raise UserError(f"{file}: no folds in it")
    return pd.DataFrame(rows, columns=["fold", "split", "utterance"])


def _read_emobox(folder: Path) -> list[tuple[str, str, tuple[str, ...]]]:
    rows = []
    fold_folders = [path for path in folder.iterdir() if re.fullmatch(r"fold_?\d+", path.name)]
    for fold in sorted(fold_folders, key=lambda path: int(re.sub(r"\D", "", path.name))):
        for split in ("train", "valid", "test"):
            files = sorted(fold.glob(f"*{split}*.jsonl"))
            # Some corpora have a second copy under an older name: the name that EmoBox itself reads goes first.
            files = [path for path in files if path.stem.endswith(f"_{split}_{fold.name}")] or files
            if len(files) > 1:
                raise UserError(
                    f"{fold}: {len(files)} lists for {split}, expected one: {files[0].name}, {files[1].name}"
                )
            for record in _records(files[0], ("key",)) if files else ():
                rows.append((fold.name, split_named(split, fold), _names_of(record)))
    return rows


def _names_of(record: dict) -> tuple[str, ...]:
    """Returns the names a record of EmoBox may have in a corpus: its key, with and without prefix, its file's stem."""
    key, wav = str(record["key"]), str(record.get("wav", ""))
    return (key, key.removeprefix(f"{record.get('dataset', '')}-"), Path(wav).stem)


def _records(file: Path, fields: tuple[str, ...]) -> list[dict]:
    """Returns the records of a .jsonl, .json or .csv file, each of which must have all `fields`."""
    try:
        if file.suffix in (".csv", ".tsv") and file.is_file():
            records = tables.read_table(file, wanted=fields, columns=()).to_dict("records")
        elif file.suffix == ".json":
            records = from_json(read_text(file, "utf-8-sig"))
        else:
            lines = read_text(file, "utf-8-sig").split("\n")  # JSON may hold Unicode's other line ends
            records = [from_json(line) for line in lines if line.strip()]
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not {file.suffix.removeprefix('.')} ({reason_of(error)})") from error
    for i, record in enumerate(records if isinstance(records, list) else [records]):
        missing = [field for field in fields if not isinstance(record, dict) or record.get(field) in (None, "")]
        if missing:
            raise UserError(f"{file}: record {i + 1} has no {missing[0]!r}, expected {', '.join(fields)}")
    return records


def split_named(split: str, where: Path | str) -> str:
    """Returns which of `SPLITS` is meant; raises UserError with the place, `where`, if it is none of them."""
    split = _SPLIT_WORDS.get(split, split)
    if split not in SPLITS:
        raise UserError(f"{where}: split {split!r}, expected one of {', '.join(SPLITS)}")
    return split
