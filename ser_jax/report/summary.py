"""From the predictions table to summary.json: every variant's figures with intervals, and the comparisons."""

import dataclasses
import functools
import json
import os
import types
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import pandas as pd

from ser_jax.errors import UserError
from ser_jax.files import atomic_file
from ser_jax.predictions import PREFIX, emotions_of, validate
from ser_jax.report.answers import answer
from ser_jax.statistics import bootstrap, factorial, metrics, paired
from ser_jax.statistics.calibration import calibration
from ser_jax.statistics.fairness import fairness
from ser_jax.statistics.paired import Comparison

FIGURES = {
    "ua": metrics.unweighted_accuracy,
    "wa": metrics.weighted_accuracy,
    "macro_f1": metrics.macro_f1,
    "recall": metrics.recall,
}


def summarise(
    predictions: pd.DataFrame,
    *,
    comparisons: Sequence[tuple[str, str]] = (),
    fold_sizes: Mapping[str, tuple[int, int]] = types.MappingProxyType({}),
    parameters: Mapping[str, int] = types.MappingProxyType({}),
    meta: Mapping[str, Any] = types.MappingProxyType({}),
    questions: Sequence[Any] = (),
    speakers: pd.DataFrame | None = None,
    validation: pd.DataFrame | None = None,
    margin: float = paired.MARGIN,
    replicates: int = bootstrap.REPLICATES,
) -> dict[str, Any]:
    """Returns what summary.json holds: plain JSON values, shares from 0 to 1, None for what cannot be estimated.

    `comparisons` are (variant, baseline) pairs, `fold_sizes` each fold's numbers of (training, test) utterances,
    `parameters` each variant's parameter count, in the order in which variants shall appear; `meta` (protocol,
    fingerprint, versions, seconds ...) is put beside; `questions` are a study's (name, text, factors, levels and
    comparisons, as in studies/plan.py), answered from the variants that did not fail (`meta["failed"]`); `speakers` has
    the columns speaker and gender, and source where the corpus was merged from several, each of which then has figures
    of its own; `validation` has the runs' predictions for their validation speakers; differences of UA below `margin`
    do not matter.
    Raises UserError for an invalid table, one of several corpora, and a comparison that cannot be made.
    """
    validate(predictions)
    if validation is not None:
        validate(validation, "validation predictions")
    corpora = predictions["corpus"].unique()
    if len(corpora) > 1:
        raise UserError(f"one summary is of one corpus, found predictions on {', '.join(sorted(corpora))}")
    tables = dict(list(predictions.groupby("variant")))
    order = [name for name in parameters if name in tables]
    variants = {
        name: _summarise_variant(tables[name], parameters.get(name), replicates)
        | {
            "calibration": calibration(tables[name], _of(validation, name), replicates=replicates),
            "fairness": fairness(tables[name], speakers, replicates=replicates),
            "by_source": by_source(tables[name], speakers, replicates=replicates),
            "validation_ua": _validation_ua(_of(validation, name)),
        }
        for name in dict.fromkeys([*order, *tables])
    }
    return _plain(
        {
            **meta,
            "corpus": corpora[0],
            "emotions": emotions_of(predictions),
            "chance_ua": 1 / predictions["label"].nunique(),
            "variants": variants,
            **compare(
                predictions,
                comparisons,
                questions,
                fold_sizes=fold_sizes,
                failed=meta.get("failed", ()),
                margin=margin,
                replicates=replicates,
            ),
        }
    )


def compare(
    predictions: pd.DataFrame,
    comparisons: Sequence[tuple[str, str]],
    questions: Sequence[Any],
    *,
    fold_sizes: Mapping[str, tuple[int, int]],
    failed: Iterable[str] = (),
    margin: float = paired.MARGIN,
    replicates: int = bootstrap.REPLICATES,
) -> dict[str, Any]:
    """The parts `margin`, `comparisons` and `questions` of a summary; see `summarise`."""
    failed = set(failed) - set(predictions["variant"].unique())
    wanted = dict.fromkeys([*comparisons, *(pair for question in questions for pair in question.comparisons)])
    pairs = [pair for pair in wanted if not failed & set(pair)]
    options: dict[str, Any] = {"margin": margin, "replicates": replicates}
    compared = {pair: paired.compare(predictions, *pair, fold_sizes, **options) for pair in pairs}
    effects = functools.partial(_effects, predictions, fold_sizes=fold_sizes, failed=failed, **options)
    asked = [_asked(question, compared, *effects(question)) for question in questions]
    corrected = _corrected(compared, [family for _, family in asked])
    made = {"margin": margin, "comparisons": [dataclasses.asdict(corrected[pair]) for pair in pairs]}
    if questions:
        made["questions"] = [_answered(entry, pairs, made["comparisons"]) for entry, _ in asked]
    return _plain(made)


def compare_again(summary: Mapping[str, Any], predictions: pd.DataFrame) -> dict[str, Any]:
    """Returns a stored summary with its comparisons, effects and answers computed again from its predictions."""
    pairs = [(one["variant"], one["baseline"]) for one in summary["comparisons"]]
    questions = [
        types.SimpleNamespace(**{**question, "comparisons": [pairs[i] for i in question["comparisons"]]})
        for question in summary.get("questions", ())
    ]
    sizes = {fold: tuple(size) for fold, size in summary.get("fold_sizes", {}).items()}
    made = compare(
        predictions,
        pairs,
        questions,
        fold_sizes=sizes,
        failed=summary.get("failed", ()),
        margin=summary.get("margin", paired.MARGIN),
    )
    for of, told in zip(summary.get("questions", ()), made.get("questions", ()), strict=True):
        told["notes"] = list(dict.fromkeys([*of.get("notes", ()), *told["notes"]]))
    return {**summary, **made}


def _of(table: pd.DataFrame | None, variant: str) -> pd.DataFrame | None:
    return None if table is None else table[table["variant"] == variant]


def _validation_ua(table: pd.DataFrame | None) -> float | None:
    """UA on the validation speakers, pooled over folds and averaged over seeds: what a recipe may be chosen by."""
    if table is None or table.empty:
        return None
    pooled = metrics.confusion_counts(table, "fold").counts.sum(axis=1)
    return float(metrics.unweighted_accuracy(pooled).mean())


def _asked(
    question: Any,
    compared: Mapping[tuple[str, str], Comparison],
    effects: Sequence[Comparison],
    notes: Sequence[str],
) -> tuple[dict[str, Any], dict[tuple[str, str], Comparison]]:
    """A question with its effects, and its comparisons; their p values are corrected together, as one family."""
    own = [pair for pair in question.comparisons if pair in compared]
    family = paired.correct([*(compared[pair] for pair in own), *effects])
    left_out = len(question.comparisons) - len(own)
    if left_out:
        what = "comparison left out: a variant of it" if left_out == 1 else "comparisons left out: variants of them"
        notes = [*notes, f"{left_out} {what} failed"]
    entry = {
        "name": question.name,
        "text": question.text,
        "factors": question.factors,
        "levels": question.levels,
        "comparisons": own,
        "effects": [dataclasses.asdict(effect) for effect in family[len(own) :]],
        "notes": list(notes),
    }
    return entry, dict(zip(own, family[: len(own)], strict=True))


def _corrected(
    compared: Mapping[tuple[str, str], Comparison], families: Sequence[Mapping[tuple[str, str], Comparison]]
) -> dict[tuple[str, str], Comparison]:
    """Each comparison as its question corrects it; the strictest of several questions, and all others together."""
    asked = {pair for family in families for pair in family}
    others = [pair for pair in compared if pair not in asked]
    corrected = dict(zip(others, paired.correct([compared[pair] for pair in others]), strict=True))
    for family in families:
        for pair, one in family.items():
            known = corrected.get(pair)
            if known is None or (one.p_holm or 0, one.family) > (known.p_holm or 0, known.family):
                corrected[pair] = one
    return corrected


def _answered(
    entry: dict[str, Any], pairs: Sequence[tuple[str, str]], comparisons: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """A question with the numbers of its comparisons, and the answer in words."""
    own = [pairs.index(pair) for pair in entry["comparisons"]]
    told = answer(entry, [comparisons[i] for i in own], entry["effects"])
    return {**entry, "comparisons": own, "answer": told}


def _effects(
    predictions: pd.DataFrame,
    question: Any,
    *,
    fold_sizes: Mapping[str, tuple[int, int]],
    failed: Set[str],
    margin: float,
    replicates: int,
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
    options = {"margin": margin, "replicates": replicates}
    return factorial.effects(predictions, question.factors, levels, fold_sizes, **options), []


def _summarise_variant(table: pd.DataFrame, parameters: int | None, replicates: int) -> dict[str, Any]:
    confusion = metrics.confusion_counts(table, "speaker")
    pooled = confusion.counts.sum(axis=1)
    summary: dict[str, Any] = {}
    for name, metric in FIGURES.items():
        estimate = bootstrap.bootstrap_interval(confusion.counts, metric, replicates=replicates)
        ends = np.stack([estimate.low, estimate.high], axis=-1)
        if name == "recall":
            summary["recall"] = dict(zip(confusion.emotions, estimate.value, strict=True))
            summary["recall_ci95"] = {e: _interval(pair) for e, pair in zip(confusion.emotions, ends, strict=True)}
        else:
            summary[name], summary[f"{name}_ci95"] = estimate.value, _interval(ends)
    ua_per_seed = metrics.unweighted_accuracy(pooled)
    return summary | {
        "per_fold": per_fold(table),
        "confusion": pooled.sum(axis=0),  # rows are the reference; seeds are added up
        "ua_per_seed": dict(zip(map(str, confusion.seeds), ua_per_seed, strict=True)),
        "ua_seed_sd": ua_per_seed.std(ddof=1) if len(ua_per_seed) > 1 else None,
        "ensemble": ensemble(table, replicates=replicates),
        "runs": len(table[["fold", "seed"]].drop_duplicates()),
        "folds": table["fold"].nunique(),
        "seeds": len(confusion.seeds),
        "speakers": len(confusion.groups),
        "utterances": table["utterance"].nunique(),
        "parameters": parameters,
        "notes": _notes(table, confusion, has_interval=summary["ua_ci95"] is not None),
    }


def ensemble(table: pd.DataFrame, *, replicates: int = bootstrap.REPLICATES) -> dict[str, Any] | None:
    """UA of all seeds together, as one model that says the mean of their probabilities; None where there is no such.

    That is with one seed, where runs are missing, and where predictions are labels, which have no mean.
    """
    seeds, of = table["seed"].nunique(), [column for column in table.columns if column.startswith(PREFIX)]
    groups = table.groupby(["corpus", "variant", "fold", "utterance", "speaker", "label"], sort=False, observed=True)
    if seeds == 1 or not (groups.size() == seeds).all() or table[of].isin((0.0, 1.0)).all(axis=None):
        return None
    counts = metrics.confusion_counts(groups[of].mean().reset_index().assign(seed=0), "speaker").counts
    estimate = bootstrap.bootstrap_interval(counts, metrics.unweighted_accuracy, replicates=replicates)
    return {"seeds": seeds, "ua": estimate.value, "ua_ci95": _interval(np.stack([estimate.low, estimate.high]))}


def by_source(
    table: pd.DataFrame, speakers: pd.DataFrame | None, *, replicates: int = bootstrap.REPLICATES
) -> dict[str, dict[str, Any]] | None:
    """UA, WA and recalls on each corpus that a merged one was merged from, over the emotions that are heard in it.

    None where `speakers` has no column source, where one source alone was tested, and where a speaker is of several.
    """
    if speakers is None or "source" not in speakers:
        return None
    pairs = speakers[["speaker", "source"]].drop_duplicates()
    sources = table["speaker"].map(dict(zip(pairs["speaker"], pairs["source"], strict=True)))
    if pairs["speaker"].duplicated().any() or sources.nunique() < 2:
        return None
    kept = ("ua", "ua_ci95", "wa", "wa_ci95", "recall", "speakers", "utterances")
    made = {source: _summarise_variant(rows, None, replicates) for source, rows in table.groupby(sources)}
    return {source: {key: figures[key] for key in kept} for source, figures in made.items()}


def per_fold(table: pd.DataFrame) -> dict[str, float | int | None]:
    """Mean and standard deviation over folds of each figure, which is averaged over seeds; None with one fold.

    A fold's figure is over the classes in its own test data, so the mean differs from the figure pooled over folds.
    """
    confusion = metrics.confusion_counts(table, "fold")
    found: dict[str, float | int | None] = {}
    for name in ("ua", "wa", "macro_f1"):
        folds = metrics.mean_of_present(FIGURES[name](confusion.counts), axis=0)
        found[f"{name}_mean"] = folds.mean()
        found[f"{name}_sd"] = folds.std(ddof=1) if len(folds) > 1 else None
    return found | {"folds": len(confusion.groups)}


def _interval(ends: np.ndarray) -> np.ndarray | None:
    return None if np.isnan(ends).any() else ends


def _notes(table: pd.DataFrame, confusion: metrics.ConfusionCounts, *, has_interval: bool) -> list[str]:
    """What a reader must know of the figures: what is missing, and what cannot be estimated."""
    notes = []
    heard_from = (confusion.counts.sum(axis=(0, -1)) > 0).sum(axis=0)  # speakers, for each emotion
    absent = [emotion for emotion, speakers in zip(confusion.emotions, heard_from, strict=True) if speakers == 0]
    single = [emotion for emotion, speakers in zip(confusion.emotions, heard_from, strict=True) if speakers == 1]
    if absent:
        notes.append(f"not in the test data and left out of UA and macro F1: {', '.join(absent)}")
    if not has_interval:
        notes.append(bootstrap.no_interval(len(confusion.groups)))
    elif single:
        notes.append(f"from one speaker only, so the intervals leave out how speakers differ in: {', '.join(single)}")
    if len(confusion.seeds) == 1:
        notes.append("one seed: how much UA varies between seeds is not known")
    runs = len(table[["fold", "seed"]].drop_duplicates())
    if runs < table["fold"].nunique() * len(confusion.seeds):
        notes.append(f"{runs} runs of {table['fold'].nunique()} folds x {len(confusion.seeds)} seeds: some are missing")
    return notes


def _plain(value: Any) -> Any:
    """The same as plain JSON values: arrays as lists, and None for NaN."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def write(summary: dict[str, Any], path: str | os.PathLike) -> None:
    """Writes a summary as JSON; the file appears whole or not at all."""
    text = json.dumps(summary, indent=1, allow_nan=False, ensure_ascii=False)
    with atomic_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
