"""Compares results of separate trainings: workdirs and tables of predictions, also those of other programs.

Every figure is of the utterances that all results have, so that one table is about one thing. Two results are paired by
utterance and seed, and by fold where both were split alike. What one of them does not know (speakers, folds, seeds) is
taken from those that do, and its notes say so. A single variant's figures are computed again, and that is all.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ser_jax import predictions
from ser_jax.errors import UserError
from ser_jax.report import summary
from ser_jax.report.numbers import some
from ser_jax.report.summarise import How, summarise
from ser_jax.report.summary import Study, Summary
from ser_jax.report.write import write_report
from ser_jax.statistics import bootstrap, paired
from ser_jax.statistics.pooled import across_corpora
from ser_jax.studies import align
from ser_jax.studies.knowledge import with_notes
from ser_jax.studies.outside import LABELS_ALONE
from ser_jax.studies.plan import Question
from ser_jax.studies.results import Result, find, named, read
from ser_jax.studies.store import write_results

NO_SPEAKERS = "speakers are not known: no interval can be estimated"


def compare(
    arguments: Sequence[str], baseline: str | None = None, margin: float = paired.MARGIN
) -> tuple[Summary, pd.DataFrame, list[str]]:
    """Returns the summary, the merged predictions and remarks of results given as `[NAME=]PATH[:VARIANT]`.

    Every variant is measured against `baseline`, by default the first one; differences of UA below `margin` (a share)
    do not matter. Of a result on a merged corpus that part is
    taken which is the other results' corpus. Raises UserError for what cannot be read, another corpus, labels that do
    not agree, and no utterance in common.
    """
    results = named([result for argument in arguments for result in read(argument)])
    reference = find(baseline, results)
    corpus, trained_on = align.corpus_of(results)
    results = [align.part_of(result, corpus) for result in results]
    results, remarks = align.in_common(align.with_known_names(results, reference, corpus), reference)
    speakers = align.speakers_of(results)
    placed = {result.name: align.placed(result, results, reference) for result in results}
    emotions = list(dict.fromkeys(e for result in results for e in predictions.emotions_of(result.table)))
    table = predictions.merge(
        [align.complete(result, placed[result.name][0], corpus, speakers, emotions) for result in results]
    )
    tested = len(trained_on) < 2 and all(same for _, same, _ in placed.values())
    notes = {
        result.name: [*result.notes, *placed[result.name][2], *align.unknown_emotions(result, emotions)]
        for result in results
    }
    made = _summarise(table, results, reference, tested, notes, margin)
    return made if any(speakers.values()) else _without_speakers(made), table, remarks


def write(made: Summary, table: pd.DataFrame, folder: str | Path) -> None:
    """Writes summary.json, predictions.parquet and the report to a folder, which may not be a study's workdir."""
    check_folder(folder)
    write_results(Path(folder), table, made)
    write_report(folder, made)


def check_folder(folder: str | Path) -> None:
    """Raises `UserError` for a study's workdir, and for a file."""
    folder = Path(folder)
    if (folder / "config.json").exists():
        raise UserError(f"--out {folder}: the workdir of a study; expected another folder")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder}: a file; expected a folder")


def view_across_corpora(workdirs: Sequence[str]) -> dict[str, Any]:
    """Returns the view over corpora of the studies in workdirs; see `ser_jax.statistics.pooled`.

    Raises UserError for a folder without a summary.
    """
    for workdir in workdirs:
        if not (Path(workdir) / "summary.json").is_file():
            raise UserError(f"{workdir}: no summary.json in it; expected a folder that `study` has finished")
    summaries = [summary.read(workdir) for workdir in workdirs]
    return across_corpora(
        [
            {
                "corpus": one.corpus,
                "variants": {name: {"ua": variant.ua.value} for name, variant in one.variants.items()},
                "comparisons": [dataclasses.asdict(comparison) for comparison in one.comparisons],
            }
            for one in summaries
        ]
    )


def _summarise(
    table: pd.DataFrame,
    results: Sequence[Result],
    reference: str,
    tested: bool,
    notes: dict[str, list[str]],
    margin: float,
) -> Summary:
    """The summary, with the test of Nadeau and Bengio where all variants were trained on the same folds."""
    of_reference = next(result for result in results if result.name == reference)
    others = [result.name for result in results if result.name != reference]
    sizes = of_reference.about.study.fold_sizes if of_reference.about else {}
    pairs = tuple((other, reference) for other in others)
    questions = [Question("comparison", f"How do the results differ from {reference}?", {}, {}, pairs)] if pairs else []
    made = summarise(
        table,
        _study(results, reference, others, sizes if tested and set(table["fold"]) <= set(sizes) else {}),
        known={result.name: with_notes(result.of_variant, *notes[result.name]) for result in results},
        questions=questions,
        how=How(margin=margin),
    )
    return dataclasses.replace(
        made, variants={name: dataclasses.replace(one, **_untold(one.notes)) for name, one in made.variants.items()}
    )


def _untold(notes: Sequence[str]) -> dict[str, None]:
    """The figures of a variant that labels without probabilities, or predictions without seeds, do not have."""
    untold = ["calibration"] if LABELS_ALONE in notes else []
    return dict.fromkeys([*untold, *(("ensemble", "ua_seed_sd") if align.NO_SEEDS in notes else ())])


def _study(
    results: Sequence[Result], reference: str, others: Sequence[str], sizes: dict[str, tuple[int, int]]
) -> Study:
    """What the studies say alike of themselves."""
    studies = [result.about.study for result in results if result.about]
    title = f"{some(others)} against {reference}" if others else reference

    def alike(name: str, default: Any) -> Any:
        values = [getattr(study, name) for study in studies]
        return values[0] if values and all(value == values[0] for value in values) else default

    speakers: dict[str, dict[str, str]] = {}
    for study in studies:
        speakers = {**study.speakers, **speakers}
    return Study(
        title=title,
        corpus_info=alike("corpus_info", {}),
        fingerprint=alike("fingerprint", ""),
        protocols=alike("protocols", ()),
        fold_sizes=sizes,
        sources={result.name: result.source for result in results},
        speakers=speakers,
        **{name: _all(studies, name) for name in ("left_out", "labels", "notes")},
    )


def _all(studies: Sequence[Study], name: str) -> tuple[str, ...]:
    """What any of the studies says, each sentence once."""
    return tuple(dict.fromkeys(text for study in studies for text in getattr(study, name)))


def _without_speakers(made: Summary) -> Summary:
    """The summary, whose notes say that speakers are not known where they would say that there is one."""
    one = bootstrap.no_interval(1)

    def renamed(part: Any) -> Any:
        notes = tuple(NO_SPEAKERS if note == one else note for note in part.notes)
        inner = {"calibration": renamed(part.calibration)} if getattr(part, "calibration", None) else {}
        return dataclasses.replace(part, notes=notes, **inner)

    return dataclasses.replace(
        made,
        variants={name: renamed(variant) for name, variant in made.variants.items()},
        comparisons=tuple(renamed(comparison) for comparison in made.comparisons),
        score_differences=tuple(renamed(difference) for difference in made.score_differences),
    )
