"""Reads results of separate trainings, each given as `[NAME=]PATH[:VARIANT]`.

A PATH is a workdir, its predictions.parquet, or another program's CSV or Parquet; see `outside.read_outside`.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ser_jax import bounded, predictions
from ser_jax.errors import UserError, did_you_mean
from ser_jax.predictions import COLUMNS
from ser_jax.report import summary
from ser_jax.report.summary import Knowledge, Study, Summary
from ser_jax.studies.outside import SUFFIXES, read_outside

LEAKS = "the split is not speaker-independent: models were trained on speakers of the test utterances"
UNKNOWN = "whether the split is independent cannot be told"


@dataclasses.dataclass(frozen=True)
class Result:
    """One variant of one argument.

    Attributes:
      name: what the variant is called here.
      source: the argument's path.
      table: its rows: utterance, label and p_<emotion>, with speaker, fold and seed where they are known.
      about: its workdir's summary; None for an outside result.
      of_variant: what that knows of the variant, such as its parameters.
      notes: what a reader must know of it.
    """

    name: str
    source: str
    table: pd.DataFrame
    about: Summary | None
    of_variant: Knowledge
    notes: tuple[str, ...]


def read(argument: str) -> list[Result]:
    """Reads the variants of one argument, `[NAME=]PATH[:VARIANT]`; NAME is what one is called, and precedes several."""
    name, path, variant = _parse(argument)
    file = path / "predictions.parquet" if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise UserError(
            f"{path}: no predictions.parquet in it; expected a folder that `train`, `study` or `evaluate` made"
        )
    if path.suffix not in SUFFIXES and not path.is_dir():
        raise UserError(f"{path}: expected a workdir or a table of predictions ({', '.join(SUFFIXES)})")
    results = _read_own(file) if _is_own(file) else _read_outside(file)
    if variant is not None:
        if variant not in results:
            raise UserError(f"{argument}: no variant {variant}{did_you_mean(variant, list(results))}")
        results = {variant: results[variant]}
    named = []
    for own, result in results.items():
        chosen = own if name is None else name if len(results) == 1 else f"{name} {own}"
        named.append(dataclasses.replace(result, name=chosen))
    return named


def _parse(argument: str) -> tuple[str | None, Path, str | None]:
    """NAME, PATH and VARIANT of an argument; a path that exists as it stands is one, whatever signs are in it."""
    if Path(argument).exists():
        return None, Path(argument), None
    name, equals, rest = argument.partition("=")
    if not equals or "/" in name:
        name, rest = None, argument
    path, colon, variant = rest.rpartition(":")
    if Path(rest).exists() or not colon:
        path, variant = rest, None
    if not Path(path).exists():
        raise UserError(f"{path}: no such file or folder; expected [NAME=]PATH[:VARIANT]")
    return name, Path(path), variant


def _is_own(file: Path) -> bool:
    if file.suffix != ".parquet":
        return False
    try:
        return set(COLUMNS) <= set(bounded.read_parquet(file).columns)
    except Exception:  # whatever a damaged file makes pyarrow raise
        return True  # `predictions.read` says what is wrong with it


def _read_own(file: Path) -> dict[str, Result]:
    table = predictions.read(file)
    about = _read_summary(file.parent / "summary.json")
    variants = about.variants if about else {}
    results = {}
    for variant, rows in table.groupby("variant"):
        of_variant = variants[variant].known if variant in variants else Knowledge()
        notes = _notes_on_split(about.study) if about else ()
        results[variant] = Result(
            variant, str(file), rows.drop(columns="variant").reset_index(drop=True), about, of_variant, notes
        )
    order = [variant for variant in variants if variant in results]
    return {variant: results[variant] for variant in dict.fromkeys([*order, *results])}


def _read_summary(path: Path) -> Summary | None:
    return summary.read(path) if path.is_file() else None  # it only adds to what the predictions say


def _notes_on_split(study: Study) -> tuple[str, ...]:
    if study.speaker_independent is False:
        return (LEAKS,)
    told = [protocol for protocol in study.protocols if protocol.verdict in ("leaks", "cannot be told")]
    leaking = [protocol.audit["reason"] for protocol in told if protocol.verdict == "leaks"]
    return tuple(f"the split leaks: {reason}" for reason in leaking) or ((UNKNOWN,) if told else ())


def _read_outside(file: Path) -> dict[str, Result]:
    outside = read_outside(file)
    table = outside.table if "variant" in outside.table else outside.table.assign(variant=file.stem)
    return {
        variant: Result(
            variant, str(file), rows.drop(columns="variant").reset_index(drop=True), None, Knowledge(), outside.notes
        )
        for variant, rows in table.groupby("variant", sort=False)
    }


def named(results: Sequence[Result]) -> list[Result]:
    """The results, those of one name in several places with the name of the place before it."""
    names = [result.name for result in results]
    renamed = []
    for result in results:
        place = Path(result.source)
        place = place.parent.name if place.name == "predictions.parquet" else place.stem
        twice = names.count(result.name) > 1
        renamed.append(dataclasses.replace(result, name=f"{place} {result.name}") if twice else result)
    names = [result.name for result in renamed]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        places = [result.source for result in renamed if result.name == repeated[0]]
        raise UserError(f"{places[0]} and {places[1]}: both give a variant {repeated[0]}; call one of them NAME=PATH")
    return renamed


def find(baseline: str | None, results: Sequence[Result]) -> str:
    """Returns the name of the variant that all others are measured against; raises UserError for one that is not."""
    names = [result.name for result in results]
    if baseline is None:
        return names[0]
    if baseline not in names:
        raise UserError(f"--baseline {baseline}: no such variant{did_you_mean(baseline, names)}")
    return baseline
