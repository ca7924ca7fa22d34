"""Scores the checkpoints of a workdir, on their own corpus or on another."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ser_jax import config as configuration
from ser_jax import predictions
from ser_jax.corpora import load_corpus
from ser_jax.corpora.labels import Changes, hint_of_map, relabelled
from ser_jax.corpora.protocols import speakers_known
from ser_jax.errors import UserError
from ser_jax.predictions import PREDICTED, PREFIX
from ser_jax.report import preparation, summary
from ser_jax.report.summarise import How, summarise
from ser_jax.report.summary import Protocol, Study, Summary
from ser_jax.statistics.metrics import with_others
from ser_jax.studies import restored, workdirs
from ser_jax.studies.collect import corpus_info, speakers_of
from ser_jax.studies.knowledge import knowledge_of
from ser_jax.studies.plan import make_plan
from ser_jax.studies.store import write_results
from ser_jax.studies.workdirs import Restored
from ser_jax.training.initial import corpora_seen, in_common
from ser_jax.training.published import is_published

_ROUNDING = 0.01  # by which a probability may differ when another device, with shorter numbers, computes it


def evaluate_workdir(
    workdir: str,
    corpus_name: str | None,
    variant: str | None,
    data_dir: str | None,
    changes: Mapping[str, Any],
    labels: Changes | None = None,
    out: str | None = None,
) -> tuple[Summary, Path, list[str], bool]:
    """Returns the summary, its folder, remarks for the reader, and whether its own training's predictions are the same.

    Without `corpus_name` every run is scored on its own test fold, else on all of that corpus. `changes` are what of
    `config.evaluation` is to differ from the training's; `labels` gives the other corpus's emotions other names. The
    study's own comparisons, margin and metrics are those of the summary.
    The folder is `out`, or in the workdir, or for a published model, which is never changed, in runs/NAME_evaluated.
    Raises `UserError` for a workdir without checkpoints, a corpus that is not the training's, and one that shares no
    emotion with it.
    """
    place = Path(workdir)
    if out is not None and ((Path(out) / "config.json").exists() or (Path(out).exists() and not Path(out).is_dir())):
        raise UserError(f"--out {out}: a file, a published model or the workdir of a study; expected another folder")
    if is_published(place):
        place = Path("runs", f"{place.resolve().name}_evaluated")
    found, how = [_changed(one, changes) for one in workdirs.find(workdir, variant)], _how(Path(workdir))
    training_corpus = found[0].metadata["corpus"]["name"]
    if corpus_name in (None, training_corpus):
        if labels:
            raise UserError(
                f"evaluate: {training_corpus} was learnt under its own names of emotions; expected no others"
            )
        folder = place / _folder(training_corpus, changes)
        results = [restored.own_predictions(one, data_dir) for one in found]
        protocol, corpus = results[0][1].protocol, results[0][1].corpus
        table = predictions.merge([table for table, _ in results])
        independent = protocol.speaker_independent if speakers_known(corpus) else None
        split = Protocol(protocol.name, protocol.description, independent)
        left_out: tuple[str, ...] = ()
        fold_sizes = {fold.name: (len(fold.train), len(fold.test)) for fold in protocol.folds}
        remarks, reproduced = [], True
        if not changes:
            remark, reproduced = _compared_with_training(table, Path(workdir) / "predictions.parquet")
            remarks.append(remark)
    else:
        folder, reproduced = place / _folder(corpus_name, changes), True
        corpus, said = load_corpus(corpus_name, data_dir), []
        if labels:
            corpus, done = relabelled(corpus, labels)
            said = done["said"]
        corpus, dropped = restored.relabel(corpus, found[0].emotions)
        results = [restored.predictions_on(one, corpus, data_dir) for one in found]
        table, unasked = _among_those_present(predictions.merge([table for table, _ in results]))
        remarks = [f"{corpus_name}: dropped {', '.join(dropped)}, which the model does not know"] if dropped else []
        hints = [hint_of_map(emotion, found[0].emotions).removeprefix("; ") for emotion in dropped]
        remarks += [f"{corpus_name}: {hint}" for hint in hints if hint]
        if any(in_common(seen, corpus) for one in found for seen in corpora_seen(one.metadata)):
            remarks.append(f"the model was trained on {corpus_name}, perhaps with the speakers that it is tested on")
        remarks += [f"{corpus_name}: {one}" for one in said]
        if unasked:
            remarks.append(f"{corpus_name} has no {', '.join(unasked)}: the model chose among the others")
        split = Protocol(f"trained on {training_corpus}, tested on all of {corpus_name}")
        left_out = (f"emotions that the model does not have: {', '.join(dropped)}",) if dropped else ()
        if unasked:
            left_out += (f"emotions that {corpus_name} does not have, renormalised: {', '.join(unasked)}",)
        fold_sizes = {}
    study = Study(
        corpus_info=corpus_info(corpus),
        fingerprint=corpus.fingerprint,
        protocols=(split,),
        fold_sizes=fold_sizes,
        speakers=speakers_of(corpus),
        left_out=preparation.left_out(corpus.name, corpus.info) + left_out,
        labels=preparation.labels(corpus.name, corpus.info),
        notes=preparation.notes(corpus.name, corpus.info),
    )
    parameters = {one.name: population.num_parameters for one, (_, population) in zip(found, results, strict=True)}
    made = summarise(
        table,
        study,
        comparisons=_comparisons(Path(workdir), list(parameters)),
        known={one.name: knowledge_of(one.metadata, parameters[one.name]) for one in found},
        how=how,
    )
    folder = folder if out is None else Path(out)
    write_results(folder, table, made)
    return made, folder, remarks, reproduced


def _how(workdir: Path) -> How:
    """The margin of equivalence and the metrics of the workdir's study; a published model has none of its own."""
    path = workdir / "config.json"
    if not path.is_file() or is_published(workdir):
        return How()
    plan = make_plan(configuration.load(str(path)))
    return How(margin=plan.margin, metrics=with_others(plan.metrics))


def _comparisons(workdir: Path, names: Sequence[str]) -> list[tuple[str, str]]:
    """The comparisons that the training's own summary makes of these variants."""
    if not (workdir / "summary.json").is_file():
        return []
    pairs = [(one.variant, one.baseline) for one in summary.read(workdir).comparisons]
    return [pair for pair in pairs if set(pair) <= set(names)]


def _changed(one: Restored, changes: Mapping[str, Any]) -> Restored:
    """The variant, to be tested otherwise; its metadata say so."""
    if changes and one.is_baseline:
        raise UserError(f"--{next(iter(changes))}: {one.name} is a baseline on functionals, which has no such thing")
    configuration.check(configuration.merge(configuration.default(), {"evaluation": dict(changes)}))
    config = configuration.merge(one.metadata["config"], {"evaluation": dict(changes)})
    return dataclasses.replace(one, metadata=one.metadata | {"config": config})


def _folder(corpus_name: str, changes: Mapping[str, Any]) -> str:
    return "_".join([f"on_{corpus_name}", *(f"{name}_{value}" for name, value in changes.items())])


def _among_those_present(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Leaves out the classes that no utterance has, and makes the other probabilities sum to one again."""
    present = set(table["label"])
    unasked = [emotion for emotion in predictions.emotions_of(table) if emotion not in present]
    table = table.drop(columns=[PREFIX + emotion for emotion in unasked])
    columns = [column for column in table.columns if column.startswith(PREFIX)]
    # A model that is sure of a class left out says nothing about the others: they are equally likely then.
    kept = np.maximum(table[columns].to_numpy(), np.finfo(np.float32).tiny)
    return table.assign(**dict(zip(columns, (kept / kept.sum(axis=1, keepdims=True)).T, strict=True))), unasked


def _distance(found: np.ndarray, stored: np.ndarray) -> float:
    """The largest difference; of figures that exceed one, as dimensions may, as a share of the largest."""
    largest = max(float(np.max(np.abs(stored), initial=0)), 1.0)
    return float(np.max(np.abs(found - stored), initial=0)) / largest


def _compared_with_training(table: pd.DataFrame, path: Path) -> tuple[str, bool]:
    """Says how far the restored models' predictions are from those that the training wrote.

    They are the same where all are there and differ by no more than rounding on another device does.
    """
    if not path.is_file():
        return "the training wrote no predictions to compare with", True
    stored = predictions.read(path)
    both = table.merge(stored, on=predictions.KEY, suffixes=("", "_stored"))
    columns = [column for column in table.columns if column.startswith((PREFIX, PREDICTED)) and column in stored]
    difference = max(_distance(both[name].to_numpy(), both[f"{name}_stored"].to_numpy()) for name in columns)
    if len(both) == len(table) and difference == 0:
        return f"identical to the training's own predictions, all {len(both)} of them", True
    known = f"{len(both)} of {len(table)} predictions stand in the training's own table"
    same = len(both) == len(table) and difference <= _ROUNDING
    verdict = "" if same else f", expected all and at most {_ROUNDING:g}: the model or the corpus is not the training's"
    return f"{known}; they differ by at most {difference:.2g}{verdict}", same
