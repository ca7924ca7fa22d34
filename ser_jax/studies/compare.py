"""Compares results that were made apart: workdirs, tables of predictions, and what other programs predicted.

Every figure is of the utterances that all results have, so that one table is about one thing. Two results are paired by
utterance and seed, and by fold where both were split alike. What one of them does not know (speakers, folds, seeds) is
taken from those that do, and said in its notes. A single variant's figures are computed again, and that is all.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ser_jax import predictions
from ser_jax.errors import UserError, did_you_mean
from ser_jax.predictions import COLUMNS, PREFIX
from ser_jax.report import summary
from ser_jax.report.write import write_report
from ser_jax.statistics import bootstrap
from ser_jax.statistics.pooled import across_corpora
from ser_jax.studies.outside import LABELS_ALONE, SUFFIXES, match_names, read_outside
from ser_jax.studies.plan import Question

NO_SPEAKERS = "speakers are not known: no interval can be estimated"
NO_SEEDS = "no seeds are known: the same predictions stand for every seed of the others"
LEAKS = "the split is not speaker-independent: speakers of the test utterances were heard in training"
NAMED = 5  # of the utterances left out, and of the variants in a title


@dataclasses.dataclass(frozen=True)
class Result:
    """One variant of one argument.

    Attributes:
      name: what the variant is called here.
      source: the argument's path.
      table: its rows: utterance, label and p_<emotion>, with speaker, fold and seed where they are known.
      about: what its workdir's summary says of the study; empty for an outside result.
      of_variant: what it says of the variant, such as its parameters.
      notes: what a reader must know of it.
    """

    name: str
    source: str
    table: pd.DataFrame
    about: dict[str, Any]
    of_variant: dict[str, Any]
    notes: tuple[str, ...]


def compare(arguments: Sequence[str], baseline: str | None = None) -> tuple[dict[str, Any], pd.DataFrame, list[str]]:
    """Returns the summary, the merged predictions and remarks of results given as `[NAME=]PATH[:VARIANT]`.

    A PATH is a workdir, its predictions.parquet, or another program's CSV or Parquet; see `outside.read_outside`. Every
    variant is measured against `baseline`, by default the first one. Of a result on a merged corpus that part is taken
    which is the other results' corpus. Raises UserError for what cannot be read, another corpus, labels that do not
    agree, and no utterance in common.
    """
    results = _named([result for argument in arguments for result in read(argument)])
    reference = _find(baseline, results)
    corpus, trained_on = _corpus(results)
    results = [_part(result, corpus) for result in results]
    results, remarks = _in_common(_with_known_names(results, reference, corpus), reference)
    speakers = _speakers(results)
    placed = {result.name: _placed(result, results, reference) for result in results}
    emotions = list(dict.fromkeys(e for result in results for e in predictions.emotions_of(result.table)))
    table = predictions.merge(
        [_complete(result, placed[result.name][0], corpus, speakers, emotions) for result in results]
    )
    tested = len(trained_on) < 2 and all(same for _, same, _ in placed.values())
    notes = {result.name: [*result.notes, *placed[result.name][2], *_missing(result, emotions)] for result in results}
    made = _summarise(table, results, reference, tested, notes)
    if not any(speakers.values()):
        _say_speakers_are_unknown(made)
    return made, table, remarks


def write(made: dict[str, Any], table: pd.DataFrame, folder: str | Path) -> None:
    """Writes summary.json, predictions.parquet and the report to a folder, which may not be a study's workdir."""
    folder = Path(folder)
    if (folder / "config.json").exists():
        raise UserError(f"--out {folder}: the workdir of a study; expected another folder")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder}: a file; expected a folder")
    predictions.write(table, folder / "predictions.parquet")
    summary.write(made, folder / "summary.json")
    write_report(folder, made, table)


def view_across_corpora(workdirs: Sequence[str]) -> dict[str, Any]:
    """Returns the view over corpora of the studies in workdirs; see `ser_jax.statistics.pooled`.

    Raises UserError for a folder without a summary.
    """
    summaries = [_read_summary(Path(workdir) / "summary.json") for workdir in workdirs]
    for workdir, found in zip(workdirs, summaries, strict=True):
        if not found:
            raise UserError(f"{workdir}: no summary.json in it; expected a folder that `study` has finished")
    return across_corpora(summaries)


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
        return set(COLUMNS) <= set(pd.read_parquet(file).columns)
    except (OSError, ValueError):
        return True  # `predictions.read` says what is wrong with it


def _read_own(file: Path) -> dict[str, Result]:
    table = predictions.read(file)
    about = _read_summary(file.parent / "summary.json")
    results = {}
    for variant, rows in table.groupby("variant"):
        of_variant = about.get("variants", {}).get(variant, {})
        notes = [LEAKS] if about.get("speaker_independent") is False else []
        results[variant] = Result(
            variant, str(file), rows.drop(columns="variant").reset_index(drop=True), about, of_variant, tuple(notes)
        )
    order = [variant for variant in about.get("variants", {}) if variant in results]
    return {variant: results[variant] for variant in dict.fromkeys([*order, *results])}


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # it only adds to what the predictions say
    return about if isinstance(about, dict) else {}


def _read_outside(file: Path) -> dict[str, Result]:
    outside = read_outside(file)
    table = outside.table if "variant" in outside.table else outside.table.assign(variant=file.stem)
    return {
        variant: Result(variant, str(file), rows.drop(columns="variant").reset_index(drop=True), {}, {}, outside.notes)
        for variant, rows in table.groupby("variant", sort=False)
    }


def _named(results: Sequence[Result]) -> list[Result]:
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


def _find(baseline: str | None, results: Sequence[Result]) -> str:
    names = [result.name for result in results]
    if baseline is None:
        return names[0]
    if baseline not in names:
        raise UserError(f"--baseline {baseline}: no such variant{did_you_mean(baseline, names)}")
    return baseline


def _corpus(results: Sequence[Result]) -> tuple[str, list[str]]:
    """The corpus that all results that know theirs have utterances of, and the corpora that they are on."""
    found: dict[str, str] = {}
    for result in results:
        for corpus in result.table["corpus"].unique() if "corpus" in result.table else ():
            found.setdefault(corpus, result.source)
    shared = [corpus for corpus in found if all(_has_part(result, corpus) for result in results)]
    if found and not shared:
        places = ", ".join(f"{corpus} ({source})" for corpus, source in found.items())
        raise UserError(f"one comparison is of one corpus, or of one and what it was merged into, found {places}")
    return next(iter(shared), "unknown"), list(found)


def _has_part(result: Result, corpus: str) -> bool:
    """Whether a result is on a corpus or on one that was merged from it, as it may be where it does not say."""
    known = "corpus" in result.table and (result.table["corpus"] != corpus).any()
    return not known or bool(result.table["utterance"].str.startswith(f"{corpus}-").any())


def _part(result: Result, corpus: str) -> Result:
    """The result on a corpus alone, with that corpus's own names, where it is on one that was merged from it."""
    if "corpus" not in result.table or (result.table["corpus"] == corpus).all():
        return result
    prefix, merged = f"{corpus}-", result.table["corpus"].iloc[0]
    table = result.table[result.table["utterance"].str.startswith(prefix)].reset_index(drop=True)
    names = {column: table[column].str.removeprefix(prefix) for column in ("utterance", "speaker")}
    note = f"its corpus is {merged}: of it only what came from {corpus}"
    return dataclasses.replace(result, table=table.assign(corpus=corpus, **names), notes=(*result.notes, note))


def _with_known_names(results: Sequence[Result], reference: str, corpus: str) -> list[Result]:
    """The results with their utterances named as our own ones are, or as those of the reference, where none are."""
    own = [result for result in results if "corpus" in result.table]
    naming = own or [result for result in results if result.name == reference]
    known = {name for result in naming for name in result.table["utterance"]}
    renamed = []
    for result in results:
        names = match_names(result.table["utterance"].tolist(), known, corpus)
        renamed.append(
            dataclasses.replace(result, table=result.table.assign(utterance=result.table["utterance"].map(names)))
        )
    return renamed


def _in_common(results: Sequence[Result], reference: str) -> tuple[list[Result], list[str]]:
    """The results on the utterances that all of them have, and remarks on what is left out; their labels agree."""
    own = {result.name: set(result.table["utterance"]) for result in results}
    common = set.intersection(*own.values())
    if not common:
        first = next(result for result in results if result.name == reference)
        other = next(result for result in results if not own[result.name] & own[reference])
        raise UserError(
            f"{other.source}: no utterance in common with {first.source}; it names them "
            f"{', '.join(sorted(own[other.name])[:2])}, expected names such as {', '.join(sorted(own[reference])[:2])}"
        )
    remarks, kept = [], []
    for source in dict.fromkeys(result.source for result in results):
        names = set.union(*(own[result.name] for result in results if result.source == source))
        left_out = sorted(names - common)
        if left_out:
            more = ", ..." if len(left_out) > NAMED else ""
            remarks.append(
                f"{source}: {len(left_out)} of {len(names)} utterances left out, since not all results have them: "
                f"{', '.join(left_out[:NAMED])}{more}"
            )
    for result in results:
        rows = result.table["utterance"].isin(common)
        kept.append(dataclasses.replace(result, table=result.table[rows].reset_index(drop=True)))
    _refuse_other_labels(kept)
    return kept, remarks


def _refuse_other_labels(results: Sequence[Result]) -> None:
    first = results[0]
    labels = first.table.drop_duplicates("utterance").set_index("utterance")["label"]
    for result in results[1:]:
        expected = result.table["utterance"].map(labels)
        different = expected != result.table["label"]
        if different.any():
            row = result.table[different].sort_values("utterance").iloc[0]
            utterances = result.table.loc[different, "utterance"].nunique()
            raise UserError(
                f"{result.source}: utterance {row.utterance} has the label {row.label}, but {labels[row.utterance]} in "
                f"{first.source} ({utterances} of {len(labels)} labels do not agree)"
            )


def _speakers(results: Sequence[Result]) -> dict[str, str]:
    """Each utterance's speaker, from the first result that knows; "" where none does."""
    known = [result for result in results if "speaker" in result.table]
    if not known:
        return dict.fromkeys(results[0].table["utterance"], "")
    tables = [result.table.drop_duplicates("utterance").set_index("utterance")["speaker"] for result in known]
    for result, table in zip(known[1:], tables[1:], strict=True):
        if not _same_groups(tables[0], table):
            raise UserError(f"{result.source}: its speakers are not those of {known[0].source}, though utterances are")
    return tables[0].to_dict()


def _same_groups(ours: pd.Series, theirs: pd.Series) -> bool:
    """Whether two series over the same utterances group them alike, whatever the groups are called."""
    pairs = pd.concat([ours, theirs.reindex(ours.index)], axis=1).drop_duplicates()
    return len(pairs) == ours.nunique() == theirs.nunique()


def _placed(result: Result, results: Sequence[Result], reference: str) -> tuple[pd.DataFrame, bool, list[str]]:
    """The result's rows with folds and seeds, whether it was split as the reference was, and notes.

    The folds are the reference's, or those of the first result that has folds.
    """
    first = sorted(results, key=lambda other: other.name != reference)
    with_folds = next((other for other in first if "fold" in other.table), None)
    with_seeds = next((other for other in first if "seed" in other.table), None)
    table, same, notes = result.table, True, []
    if with_folds is None:
        table, same = table.assign(fold="all"), False
    else:
        table, same, notes = _refolded(result, with_folds)
    if "seed" not in table:
        seeds = [0] if with_seeds is None else sorted(with_seeds.table["seed"].unique())
        table = table.merge(pd.DataFrame({"seed": seeds}), how="cross")
        notes = [*notes, NO_SEEDS]
    elif not set(table["seed"]) & set(with_seeds.table["seed"]):
        ours, theirs = (", ".join(map(str, sorted(t["seed"].unique()))) for t in (table, with_seeds.table))
        raise UserError(
            f"{result.source}: its seeds ({ours}) are none of those of {with_seeds.source} ({theirs}); "
            "an outside table without the column seed is paired with every seed"
        )
    return table, same, notes


def _folds(table: pd.DataFrame) -> pd.DataFrame:
    return table[["fold", "utterance"]].drop_duplicates().sort_values(["fold", "utterance"], ignore_index=True)


def _refolded(result: Result, with_folds: Result) -> tuple[pd.DataFrame, bool, list[str]]:
    """The result's rows under the other's folds, whether both were split alike, and notes."""
    folds = _folds(with_folds.table)
    if "fold" in result.table:
        ours = _folds(result.table)
        if ours.equals(folds):
            return result.table, True, []
        run = ["seed", "utterance"] if "seed" in result.table else ["utterance"]
        repeated = result.table.duplicated(run)
        if repeated.any():
            utterance = result.table["utterance"][repeated.idxmax()]
            raise UserError(
                f"{result.source}: utterance {utterance} is in several of its folds, which are not those of "
                f"{with_folds.source}: they cannot be paired"
            )
        once = not folds["utterance"].duplicated().any()
        alike = once and _same_groups(*(table.set_index("utterance")["fold"] for table in (folds, ours)))
        notes = [] if alike else [f"its folds are not those of {with_folds.name}: paired by utterance and seed alone"]
    else:
        alike, notes = False, [f"its folds are not known: paired with those of {with_folds.name} by utterance"]
    table = result.table.drop(columns="fold", errors="ignore").merge(folds, on="utterance")
    return table, alike, notes


def _complete(
    result: Result, table: pd.DataFrame, corpus: str, speakers: dict[str, str], emotions: Sequence[str]
) -> pd.DataFrame:
    """The rows as a predictions table of all classes."""
    known = table.assign(corpus=corpus, variant=result.name, speaker=table["utterance"].map(speakers))
    columns = [PREFIX + emotion for emotion in emotions]
    for column in columns:
        if column not in known:
            known[column] = 0.0
    return known[[*COLUMNS, *columns]].astype(dict.fromkeys(columns, "float64"))


def _missing(result: Result, emotions: Sequence[str]) -> list[str]:
    unknown = [emotion for emotion in emotions if emotion not in predictions.emotions_of(result.table)]
    return [f"does not know {', '.join(unknown)}, which it can never predict"] if unknown else []


def _summarise(
    table: pd.DataFrame,
    results: Sequence[Result],
    reference: str,
    tested: bool,
    notes: dict[str, list[str]],
) -> dict[str, Any]:
    """The summary, with p values where all variants were trained on the same folds, of known sizes."""
    of_reference = next(result for result in results if result.name == reference)
    others = [result.name for result in results if result.name != reference]
    sizes = {name: tuple(pair) for name, pair in of_reference.about.get("fold_sizes", {}).items()}
    parameters = {result.name: result.of_variant.get("parameters") for result in results}
    pairs = tuple((other, reference) for other in others)
    made = summary.summarise(
        table,
        fold_sizes=sizes if tested and set(table["fold"]) <= set(sizes) else {},
        parameters={name: number for name, number in parameters.items() if number is not None},
        meta=_meta(results, reference, others),
        questions=[Question("comparison", f"How do the results differ from {reference}?", {}, {}, pairs)]
        if pairs
        else [],
    )
    made["variants"] = {result.name: made["variants"][result.name] for result in results}
    for result in results:
        variant = made["variants"][result.name]
        variant["notes"] += notes[result.name]
        if "cost" in result.of_variant:
            variant["cost"] = result.of_variant["cost"]
        if LABELS_ALONE in result.notes:
            variant.pop("calibration", None)
    return made


def _meta(results: Sequence[Result], reference: str, others: Sequence[str]) -> dict[str, Any]:
    """What the studies say alike of themselves."""
    abouts = [result.about for result in results if result.about]
    against = f"{', '.join(others) if len(others) <= NAMED else f'{len(others)} variants'} against {reference}"
    meta: dict[str, Any] = {"title": against if others else reference}
    for key in ("protocol", "protocol_description", "speaker_independent", "fingerprint", "versions", "audit"):
        values = [about.get(key) for about in abouts]
        if values and values[0] is not None and all(value == values[0] for value in values):
            meta[key] = values[0]
    meta["sources"] = {result.name: result.source for result in results}
    return meta


def _say_speakers_are_unknown(made: dict[str, Any]) -> None:
    one = bootstrap.no_interval(1)
    for part in (*made["variants"].values(), *made["comparisons"]):
        part["notes"] = [NO_SPEAKERS if note == one else note for note in part["notes"]]
