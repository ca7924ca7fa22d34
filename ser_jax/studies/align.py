"""Brings results of separate trainings to the same corpus, utterances, names, folds and seeds, so that they pair."""

import dataclasses
from collections.abc import Sequence

import pandas as pd

from ser_jax import predictions
from ser_jax.errors import UserError
from ser_jax.predictions import COLUMNS, PREDICTED, PREFIX, TRUE, VOTES
from ser_jax.studies.outside import match_names
from ser_jax.studies.results import Result

NO_SEEDS = (
    "no seeds are known: the same predictions stand for every seed of the others, and intervals leave out that another "
    "training would differ"
)
NAMED = 5  # of the utterances left out


def corpus_of(results: Sequence[Result]) -> tuple[str, list[str]]:
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


def part_of(result: Result, corpus: str) -> Result:
    """The result on a corpus alone, with that corpus's own names, where it is on one that was merged from it."""
    if "corpus" not in result.table or (result.table["corpus"] == corpus).all():
        return result
    prefix, merged = f"{corpus}-", result.table["corpus"].iloc[0]
    table = result.table[result.table["utterance"].str.startswith(prefix)].reset_index(drop=True)
    names = {column: table[column].str.removeprefix(prefix) for column in ("utterance", "speaker")}
    note = f"its corpus is {merged}: of it only what came from {corpus}"
    return dataclasses.replace(result, table=table.assign(corpus=corpus, **names), notes=(*result.notes, note))


def with_known_names(results: Sequence[Result], reference: str, corpus: str) -> list[Result]:
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


def in_common(results: Sequence[Result], reference: str) -> tuple[list[Result], list[str]]:
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


def speakers_of(results: Sequence[Result]) -> dict[str, str]:
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


def placed(result: Result, results: Sequence[Result], reference: str) -> tuple[pd.DataFrame, bool, list[str]]:
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


def complete(
    result: Result, table: pd.DataFrame, corpus: str, speakers: dict[str, str], emotions: Sequence[str]
) -> pd.DataFrame:
    """The rows as a predictions table of all classes."""
    known = table.assign(corpus=corpus, variant=result.name, speaker=table["utterance"].map(speakers))
    columns = [PREFIX + emotion for emotion in emotions]
    for column in columns:
        if column not in known:
            known[column] = 0.0
    beside = [column for column in known if column.startswith((TRUE, PREDICTED, VOTES))]
    return known[[*COLUMNS, *columns, *beside]].astype(dict.fromkeys([*columns, *beside], "float64"))


def unknown_emotions(result: Result, emotions: Sequence[str]) -> list[str]:
    """Returns a note on the emotions that a result has no probabilities of."""
    unknown = [emotion for emotion in emotions if emotion not in predictions.emotions_of(result.table)]
    return [f"does not know {', '.join(unknown)}, which it can never predict"] if unknown else []
