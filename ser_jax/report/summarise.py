"""From the predictions table to a summary: every variant's figures with intervals, the comparisons and the answers."""

import dataclasses
import types
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
import pandas as pd

from ser_jax.errors import UserError
from ser_jax.numbers import count
from ser_jax.predictions import PREFIX, emotions_of, validate
from ser_jax.report import summary as tree
from ser_jax.report.answers import answer, describe_difference
from ser_jax.report.summary import Knowledge, Measure, Question, Study, Summary, Variant, from_json
from ser_jax.statistics import bootstrap, components, factorial, intervals, metrics, paired, scores, tests
from ser_jax.statistics.calibration import calibration
from ser_jax.statistics.components import Cells
from ser_jax.statistics.fairness import fairness
from ser_jax.statistics.metrics import METRICS, Metric
from ser_jax.statistics.paired import Comparison

Pair = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class How:
    """How figures are computed: the bootstrap's replicates, the margin of equivalence, and the metrics."""

    margin: float = paired.MARGIN
    replicates: int = bootstrap.REPLICATES
    metrics: tuple[Metric, ...] = METRICS


def summarise(
    predictions: pd.DataFrame,
    study: Study | None = None,
    *,
    comparisons: Sequence[Pair] = (),
    questions: Sequence[Any] = (),
    known: Mapping[str, Knowledge] = types.MappingProxyType({}),
    validation: pd.DataFrame | None = None,
    how: How | None = None,
) -> Summary:
    """Returns the summary of a table of predictions.

    `study` is what the study says of itself. `comparisons` are (variant, baseline) pairs; `questions` are a study's
    (name, text, factors, levels and comparisons, as in studies/plan.py), answered from the variants that did not fail.
    `known` is what is known of each variant beside its predictions, in the order in which they shall appear.
    `validation` has the runs' predictions for their validation speakers.
    Variants that share no run, as where others of each diverged, are not compared; the first one's notes say so.
    Raises UserError for an invalid table, one of several corpora, and a comparison with an unknown variant.
    """
    study, how = study or Study(), how or How()
    validate(predictions)
    if validation is not None:
        validate(validation, "validation predictions")
    corpora = predictions["corpus"].unique()
    if len(corpora) > 1:
        raise UserError(f"one summary is of one corpus, found predictions on {', '.join(sorted(corpora))}")
    tables = dict(list(predictions.groupby("variant")))
    failed = set(study.failed) - set(tables)
    wanted = dict.fromkeys([*comparisons, *(pair for question in questions for pair in question.comparisons)])
    pairs = [pair for pair in wanted if not failed & set(pair)]
    shared = {pair: _paired(predictions, pair, study) for pair in pairs}
    apart = [pair for pair, both in shared.items() if both is None]
    shared = {pair: both for pair, both in shared.items() if both is not None}
    options = {"margin": how.margin, "replicates": how.replicates}
    classes, titles = emotions_of(predictions), {score.name: score.title for score in scores.scores_of(predictions)}
    gained = tuple(scores.differences(shared, replicates=how.replicates))
    if not classes:  # without emotions there is no UA to compare
        shared, of_scores = {}, tuple(_asked_of_scores(question, gained, titles) for question in questions)
    compared = {pair: paired.compare_paired(pair, both, **options) for pair, both in shared.items()}
    asked = [
        _asked(question, compared, failed, *_effects(predictions, question, study, failed, options))
        for question in (questions if classes else ())
    ]
    corrected = _corrected(compared, [family for _, family in asked])
    order = [name for name in known if name in tables]
    known = {name: _noted(known.get(name, Knowledge()), name, apart) for name in dict.fromkeys([*order, *tables])}
    speakers = _speakers(study)
    return Summary(
        form=tree.FORM,
        study=study,
        corpus=corpora[0],
        emotions=classes,
        chance_ua=1 / predictions["label"].nunique() if classes else None,
        margin=how.margin,
        metrics={metric.name: metric.title for metric in how.metrics} if classes else {},
        variants={name: _variant(tables[name], of, speakers, _of(validation, name), how) for name, of in known.items()},
        comparisons=tuple(corrected[pair] for pair in compared),
        questions=tuple(_answered(entry, own, corrected, [*compared]) for entry, own in asked)
        if classes
        else of_scores,
        scores=titles,
        score_differences=gained,
    )


# Comparisons and questions ------------------------------------------------------------------------------------------


def _paired(predictions: pd.DataFrame, pair: Pair, study: Study) -> paired.Paired | None:
    """The rows that a pair shares; None where there are none."""
    try:
        return paired.pair(predictions, *pair, study.fold_sizes)
    except paired.NothingSharedError:
        return None


def _noted(known: Knowledge, name: str, apart: Sequence[Pair]) -> Knowledge:
    others = [baseline for variant, baseline in apart if variant == name]
    notes = [f"not compared with {other}: they share no fold, seed and utterance" for other in others]
    return dataclasses.replace(known, notes=(*known.notes, *notes))


def _asked(
    question: Any,
    compared: Mapping[Pair, Comparison],
    failed: Set[str],
    effects: Sequence[Comparison],
    notes: Sequence[str],
) -> tuple[Question, dict[Pair, Comparison]]:
    """A question with its effects, and its comparisons; their p values are corrected together, as one family."""
    own = [pair for pair in question.comparisons if pair in compared]
    family = paired.correct([*(compared[pair] for pair in own), *effects])
    left_out = sum(bool(failed & set(pair)) for pair in question.comparisons)
    if left_out:
        notes = [*notes, f"{count(left_out, 'comparison')} left out: a variant failed"]
    apart = len(question.comparisons) - len(own) - left_out
    if apart:
        notes = [*notes, f"{count(apart, 'comparison')} left out: the variants share no fold, seed and utterance"]
    entry = _question(question, effects=tuple(family[len(own) :]), notes=tuple(notes))
    return entry, dict(zip(own, family[: len(own)], strict=True))


def _asked_of_scores(question: Any, found: Sequence[scores.ScoreDifference], titles: Mapping[str, str]) -> Question:
    """A question about a corpus without emotions, answered by the differences of scores."""
    own = [one for one in found if (one.variant, one.baseline) in question.comparisons]
    answered = " ".join(describe_difference(one, titles) for one in own) or "No comparison could be made."
    return _question(question, answer=answered)


def _question(
    question: Any, effects: tuple[Comparison, ...] = (), notes: tuple[str, ...] = (), answer: str = ""
) -> Question:
    return Question(
        name=question.name,
        text=question.text,
        factors={factor: tuple(levels) for factor, levels in question.factors.items()},
        levels=dict(question.levels),
        comparisons=(),
        effects=effects,
        notes=notes,
        answer=answer,
    )


def _corrected(
    compared: Mapping[Pair, Comparison], families: Sequence[Mapping[Pair, Comparison]]
) -> dict[Pair, Comparison]:
    """Each comparison as its question corrects it; the strictest of several questions, and all others together."""
    asked = {pair for family in families for pair in family}
    others = [pair for pair in compared if pair not in asked]
    corrected = dict(zip(others, paired.correct([compared[pair] for pair in others]), strict=True))
    for family in families:
        for pair, one in family.items():
            corrected[pair] = _stricter(corrected[pair], one) if pair in corrected else one
    return corrected


def _stricter(one: Comparison, other: Comparison) -> Comparison:
    """The same comparison with the larger p values of two families."""
    if one.verdict is None:
        return one
    found = max(one, other, key=lambda of: (of.p_holm, of.family))
    alike = max(one.p_equivalence, other.p_equivalence)
    return dataclasses.replace(found, p_equivalence=alike, verdict=tests.verdict(found.p_holm, alike))


def _answered(
    entry: Question, own: Mapping[Pair, Comparison], corrected: Mapping[Pair, Comparison], pairs: Sequence[Pair]
) -> Question:
    text = answer(entry, [corrected[pair] for pair in own])
    return dataclasses.replace(entry, comparisons=tuple(pairs.index(pair) for pair in own), answer=text)


def _effects(
    predictions: pd.DataFrame, question: Any, study: Study, failed: Set[str], options: Mapping[str, Any]
) -> tuple[list[Comparison], list[str]]:
    """The effects of a question's factors, and notes; none where its variants do not cross two factors in full.

    The effects of a single factor would be its comparisons once more.
    """
    if len(question.factors) < 2:
        return [], []
    levels = {variant: of for variant, of in question.levels.items() if variant not in failed}
    missing = factorial.missing_combinations(question.factors, levels)
    if missing:
        more = f", nor {len(missing) - 1} other combinations of levels" if len(missing) > 1 else ""
        return [], [f"no effects of {' and '.join(question.factors)}: no variant has {missing[0]}{more}"]
    try:
        return factorial.effects(predictions, question.factors, levels, study.fold_sizes, **options), []
    except paired.NothingSharedError as error:
        return [], [f"no {error}"]


# Variants -----------------------------------------------------------------------------------------------------------


def _variant(
    table: pd.DataFrame, known: Knowledge, speakers: pd.DataFrame, validation: pd.DataFrame | None, how: How
) -> Variant:
    found = {
        "runs": len(table[["fold", "seed"]].drop_duplicates()),
        "folds": table["fold"].nunique(),
        "seeds": table["seed"].nunique(),
        "speakers": table["speaker"].nunique(),
        "utterances": table["utterance"].nunique(),
        "known": known,
        "scores": _scores(table, how),
    }
    if emotions_of(table):
        found |= _of_classes(table, known, speakers, validation, how)
    else:
        has_interval = any(one.ci95 is not None for one in found["scores"].values())
        notes = [] if has_interval else [bootstrap.no_interval(found["speakers"])]
        cells = scores.cell_sums(table, np.ones((1, len(table), 1)))
        if has_interval and cells.of_these_models():
            notes.append(intervals.THIS_MODEL)
        found |= _WITHOUT_CLASSES | {"notes": [*notes, *_notes_on_runs(table, cells, known), *known.notes]}
    return from_json(Variant, {key: _json(value) for key, value in found.items()}, "summary")


_WITHOUT_CLASSES = {name: {} for name in ("metrics", "recall", "per_fold", "ua_per_seed")} | {
    "confusion": [],
    **dict.fromkeys(("ua_seed_sd", "ensemble", "by_source", "calibration", "fairness", "validation_ua")),
}


def _of_classes(
    table: pd.DataFrame, known: Knowledge, speakers: pd.DataFrame, validation: pd.DataFrame | None, how: How
) -> dict[str, Any]:
    """The figures of a variant that are of its classes, and its notes."""
    cells = components.count_cells([table])
    pooled = cells.counts[0].sum(axis=1)
    ua_per_seed = metrics.unweighted_accuracy(pooled)
    measured = _measures(cells, how)
    return {
        "metrics": measured,
        "recall": _recall(table, cells, how),
        "per_fold": per_fold(table, how),
        "confusion": pooled.sum(axis=0),
        "ua_per_seed": dict(zip(map(str, cells.seeds), ua_per_seed, strict=True)),
        "ua_seed_sd": ua_per_seed.std(ddof=1) if len(ua_per_seed) > 1 else None,
        "ensemble": ensemble(table, how),
        "by_source": by_source(table, speakers, how),
        "calibration": calibration(table, validation, replicates=how.replicates),
        "fairness": fairness(table, speakers[["speaker", "gender"]], replicates=how.replicates),
        "validation_ua": _validation_ua(validation),
        "notes": [*_notes(table, cells, known, has_interval=measured["ua"].ci95 is not None), *known.notes],
    }


def _json(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return tree.to_json(value)
    if isinstance(value, Mapping):
        return {key: _json(item) for key, item in value.items()}
    return value


def _measures(cells: Cells, how: How) -> dict[str, Measure]:
    """Each metric, pooled over folds and averaged over seeds, with its interval over speakers."""
    measured = {}
    for metric in how.metrics:
        found = intervals.interval(cells, metric.function, replicates=how.replicates)
        if np.ndim(found.value):
            raise UserError(f"metric {metric.name}: gives {np.ndim(found.value)} dimensions beyond those of its batch")
        measured[metric.name] = _measure(found.value, found.low, found.high)
    return measured


def _recall(table: pd.DataFrame, cells: Cells, how: How) -> dict[str, Measure]:
    found = intervals.interval(cells, metrics.recall, replicates=how.replicates)
    return {
        emotion: _measure(*figures)
        for emotion, *figures in zip(emotions_of(table), found.value, found.low, found.high, strict=True)
    }


def _scores(table: pd.DataFrame, how: How) -> dict[str, Measure]:
    found = {}
    for score in scores.scores_of(table):
        one = scores.estimate(table, score, replicates=how.replicates)
        if one is not None:
            found[score.name] = _measure(one.value, one.low, one.high)
    return found


def _measure(value: Any, low: Any, high: Any) -> Measure:
    return Measure(_number(value), bootstrap.ends(low, high))


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def ensemble(table: pd.DataFrame, how: How) -> tree.Ensemble | None:
    """The metrics of all seeds together, as one model that gives the mean of their probabilities; None without one.

    That is with one seed, where runs are missing, and where predictions are labels, which have no mean.
    """
    seeds, of = table["seed"].nunique(), [column for column in table.columns if column.startswith(PREFIX)]
    groups = table.groupby(["corpus", "variant", "fold", "utterance", "speaker", "label"], sort=False, observed=True)
    if seeds == 1 or not (groups.size() == seeds).all() or table[of].isin((0.0, 1.0)).all(axis=None):
        return None
    together = groups[of].mean().reset_index().assign(seed=0)
    return tree.Ensemble(seeds, _measures(components.count_cells([together]), how))


def by_source(table: pd.DataFrame, speakers: pd.DataFrame, how: How) -> dict[str, tree.Part] | None:
    """The figures on each corpus that a merged one was merged from, over the emotions that are heard in it.

    None where no sources are known, where one source alone was tested, and where a speaker is of several.
    """
    sources = table["speaker"].map(dict(zip(speakers["speaker"], speakers["source"], strict=True)))
    if sources.isna().any() or (sources == "").all() or sources.nunique() < 2:
        return None
    found = {}
    for source, rows in table.groupby(sources):
        cells = components.count_cells([rows])
        measured, recalls = _measures(cells, how), _recall(rows, cells, how)
        found[source] = tree.Part(measured, recalls, len(cells.speakers), rows["utterance"].nunique())
    return found


def per_fold(table: pd.DataFrame, how: How) -> dict[str, tree.Spread]:
    """Mean and standard deviation over folds of each metric, which is averaged over seeds; no deviation with one fold.

    A fold's figure is over the classes in its own test data, so the mean differs from the figure pooled over folds.
    """
    confusion = metrics.confusion_counts(table, "fold")
    found = {}
    for metric in how.metrics:
        folds = metrics.mean_of_present(metric.function(confusion.counts), axis=0)
        found[metric.name] = tree.Spread(_number(folds.mean()), _number(folds.std(ddof=1)) if len(folds) > 1 else None)
    return found


def _validation_ua(table: pd.DataFrame | None) -> float | None:
    """UA on the validation speakers, pooled over folds and averaged over seeds: what a recipe may be chosen by."""
    if table is None or table.empty:
        return None
    pooled = metrics.confusion_counts(table, "fold").counts.sum(axis=1)
    return float(metrics.unweighted_accuracy(pooled).mean())


def _speakers(study: Study) -> pd.DataFrame:
    rows = [(name, of.get("gender", ""), of.get("source", "")) for name, of in study.speakers.items()]
    return pd.DataFrame(rows, columns=["speaker", "gender", "source"])


def _of(table: pd.DataFrame | None, variant: str) -> pd.DataFrame | None:
    return None if table is None else table[table["variant"] == variant]


def _notes(table: pd.DataFrame, cells: Cells, known: Knowledge, *, has_interval: bool) -> list[str]:
    """What a reader must know of the figures: what is missing, and what cannot be estimated."""
    notes = []
    by_speaker, emotions = cells.by_speaker()[0], np.array(emotions_of(table))
    absent = emotions[by_speaker.sum(axis=(0, 1, 3)) == 0]
    number = components.few_clusters(by_speaker)  # of speakers
    if len(absent):
        notes.append(f"not in the test data and left out of UA and macro F1: {', '.join(absent)}")
    if not has_interval:
        notes.append(bootstrap.no_interval(len(cells.speakers)))
    else:
        for few, found in (
            (number == 1, "from one speaker only, so the intervals leave out how speakers differ in"),
            (number > 1, "from two or three speakers only, so the intervals of UA are too short"),
        ):
            if few.any():
                notes.append(f"{found}: {', '.join(emotions[few])}")
    if has_interval and cells.of_these_models():
        notes.append(intervals.THIS_MODEL)
    return [*notes, *_notes_on_runs(table, cells, known)]


def _notes_on_runs(table: pd.DataFrame, cells: Cells, known: Knowledge) -> list[str]:
    folds, seeds = table["fold"].nunique(), table["seed"].nunique()
    what = "UA varies" if emotions_of(table) else "figures vary"
    notes = [f"one seed: how much {what} between seeds is not known"] if seeds == 1 else []
    if seeds > len(cells.seeds):
        notes.append(f"no two of {seeds} seeds trained the same fold: they are taken as one seed, pooled over folds")
    runs = len(table[["fold", "seed"]].drop_duplicates())
    if folds * seeds - runs - len(known.diverged) > 0:
        notes.append(f"{runs} runs of {folds} folds x {seeds} seeds: some are missing")
    return notes
