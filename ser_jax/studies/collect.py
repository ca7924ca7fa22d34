"""The results of a study: one table of predictions, one summary, one report."""

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import pandas as pd

from ser_jax import checksums, predictions
from ser_jax.baselines import is_baseline
from ser_jax.corpora.audit import audit
from ser_jax.corpora.corpus import Corpus
from ser_jax.corpora.protocols import speakers_known
from ser_jax.errors import UserError, refusal
from ser_jax.frontend import num_features, num_frames
from ser_jax.inference.latency import SECONDS, one_utterance, relative_latency
from ser_jax.models.cost import cost
from ser_jax.numbers import count
from ser_jax.report import preparation, summary
from ser_jax.report.summarise import How, summarise
from ser_jax.report.summary import Cost, Selection, Study, Summary
from ser_jax.report.write import write_report
from ser_jax.statistics.metrics import with_others
from ser_jax.studies import robustness
from ser_jax.studies.knowledge import knowledge_of
from ser_jax.studies.plan import Plan
from ser_jax.studies.store import (
    CONDITIONS,
    FAILURE,
    LATENCY,
    PICTURE,
    PREDICTIONS,
    RESULT,
    STUDY,
    SUMMARY,
    VALIDATION,
    population_folder,
    read_json,
    write_results,
)
from ser_jax.studies.variants import Variant
from ser_jax.training import devices, log, loop
from ser_jax.training.population import Population
from ser_jax.training.state import variables


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a study came to.

    Attributes:
      summary: None where other processes have not finished their share, or where nothing could be trained.
      missing, failed: the variants without a result yet, and the reason of each that has none to come.
      refused: the variants that failed by a user's mistake, or because the machine could not do it.
    """

    summary: Summary | None
    missing: tuple[str, ...]
    failed: dict[str, str]
    refused: frozenset[str] = frozenset()


def collect(
    plan: Plan, variants: Sequence[Variant], workdir: Path, store: Path, failures: Mapping[str, dict] | None = None
) -> Outcome:
    """Writes the study's results where all populations are there, whoever made them.

    `failures` tells of the variants that failed in this process, by their names; of others, their folders do. Where a
    variant failed that the workdir's results have, those stay: a complete report is not replaced by a lesser one.
    Predictions and summary are written before the report; where that fails, `launch.py report` makes it again.
    """
    folders = {variant.name: population_folder(store, variant.name, variant.key) for variant in variants}
    told = {name: read_json(folder / FAILURE) for name, folder in folders.items() if (folder / FAILURE).exists()}
    told |= failures or {}
    results = {}
    for name, folder in folders.items():
        if name not in told and (folder / RESULT).exists():
            try:
                results[name] = read_json(folder / RESULT)
            except UserError as error:  # the others are to have their results
                told[name] = {"message": str(error), "refused": True}
    failed = {name: one["message"] for name, one in told.items()}
    refused = frozenset(name for name, one in told.items() if one.get("refused"))
    missing = tuple(name for name in folders if name not in results and name not in failed)
    trained = {name: folder for name, folder in folders.items() if name in results}
    if missing or not trained:
        return Outcome(None, missing, failed, refused)
    lost = _lost(workdir, failed)
    if lost:
        print(
            f"{workdir}: its results have {', '.join(lost)}, which failed now; they stay as they are", file=sys.stderr
        )
        return Outcome(None, (), failed, refused)
    by_name = {variant.name: variant for variant in variants if variant.name in trained}
    table, validation, conditions = (_gather(trained, file) for file in (PREDICTIONS, VALIDATION, CONDITIONS))
    results = {name: results[name] for name in trained}
    costs, latency = _costs(by_name, trained, workdir)
    study = _describe(plan, list(by_name.values()), results)
    made = summarise(
        table,
        dataclasses.replace(study, failed=failed),
        comparisons=[pair for pair in plan.comparisons if set(pair) <= set(trained)],
        questions=plan.questions,
        known={
            name: knowledge_of(one["trained"], one["parameters"], result=one, cost=costs.get(name))
            for name, one in results.items()
        },
        validation=validation,
        how=How(margin=plan.margin, metrics=with_others(plan.metrics)),
    )
    asked = {
        (name, c) for name, variant in by_name.items() for c in robustness.asked_of(variant.config, variant.corpus)
    }
    if asked:
        own = [pair in asked for pair in zip(conditions["variant"], conditions["condition"], strict=True)]
        found = robustness.summarise_robustness(table, conditions[own])
        made = dataclasses.replace(made, robustness=summary.from_json(summary.Robustness, found, "robustness"))
    places = [{"name": name, "folder": os.path.relpath(folder, workdir)} for name, folder in trained.items()]
    write_results(workdir, table, made, {STUDY: places, **({LATENCY: latency} if latency else {})})
    pictures = {name: folder / PICTURE for name, folder in trained.items() if (folder / PICTURE).exists()}
    configs = {name: variant.config for name, variant in by_name.items()}
    try:
        curves = {name: log.means(log.read(folder / log.FILE)) for name, folder in trained.items()}
        write_report(workdir, made, curves=curves, pictures=pictures, configs=configs)
    except Exception as error:  # whatever it is: the training is done, and its results are there
        said = refusal(error) or f"{type(error).__name__}: {error}"
        raise UserError(
            f"{workdir}: the report could not be made ({said}); predictions.parquet and "
            f"summary.json are there, and `python launch.py report {workdir}` makes it again"
        ) from error
    return Outcome(made, (), failed, refused)


def _lost(workdir: Path, failed: Mapping[str, str]) -> list[str]:
    """The variants that failed and that the results of an earlier run of the study have."""
    path = workdir / SUMMARY
    if not failed or not path.is_file():
        return []
    try:
        return [name for name in summary.read(path).variants if name in failed]
    except UserError:
        return []  # not readable: nothing to lose


def speakers_of(corpus: Corpus) -> dict[str, dict[str, str]]:
    """Returns what is known of a corpus's speakers: gender, and the corpus that they were merged from.

    A speaker of several genders or sources has none of that.
    """
    known = [column for column in ("gender", "source") if column in corpus.utterances]
    found: dict[str, dict[str, str]] = {}
    for speaker, rows in corpus.utterances.groupby("speaker"):
        values = {column: sorted(set(rows[column]) - {""}) for column in known}
        found[str(speaker)] = {column: value[0] for column, value in values.items() if len(value) == 1}
    return found


def corpus_info(corpus: Corpus) -> dict[str, str]:
    """Returns what a report says of a corpus: description, licence and citation."""
    return {name: str(corpus.info[name]) for name in ("description", "licence", "citation") if corpus.info.get(name)}


def _costs(
    variants: dict[str, Variant], folders: dict[str, Path], workdir: Path
) -> tuple[dict[str, Cost], dict[str, dict[str, float]]]:
    """What a recording of `latency.SECONDS` costs each network: multiply-adds, and the time it takes.

    The variants are timed by turns in one process, so that they can be compared, and once for a set of populations.
    The second return value has these times by the populations' keys; {} where none is asked for.
    """
    networks = {name: variant for name, variant in variants.items() if not is_baseline(variant.config["model"])}
    populations = {name: variant.population() for name, variant in networks.items()}
    costs = {name: Cost(_multiply_adds(population), SECONDS) for name, population in populations.items()}
    timed = {name: v.key for name, v in networks.items() if v.config["evaluation"]["latency"]}
    path = workdir / LATENCY
    known = read_json(path) if checksums.is_whole(path) else {}
    if set(timed.values()) - set(known):
        forwards = {}
        for name, key in timed.items():
            population = populations[name]
            state = devices.gather(loop.restore(population, folders[name]), len(population.runs))
            own = jax.tree.map(lambda leaf: leaf[0], state)
            trained = variables(own, population.encoder)
            forwards[key] = one_utterance(population.learner, trained, own.feature_statistics)
        known = relative_latency(forwards)
    for name, key in timed.items():
        costs[name] = dataclasses.replace(costs[name], latency=known[key]["relative"])
    return costs, known if timed else {}


def _multiply_adds(population: Population) -> int:
    """Those of the forward pass for a recording of `SECONDS`."""
    frontend = population.learner.frontend
    frames = int(num_frames(frontend, round(SECONDS * frontend.rate)))
    return cost(population.learner.model, frames, num_features(frontend)).multiply_adds


def _gather(folders: dict[str, Path], file: str) -> pd.DataFrame | None:
    """One table of all variants that have such a file, under the names that this study gives them."""
    read = robustness.read if file == CONDITIONS else predictions.read
    tables = [read(folder / file).assign(variant=name) for name, folder in folders.items() if (folder / file).exists()]
    return pd.concat(tables, ignore_index=True) if tables else None


def _describe(plan: Plan, variants: Sequence[Variant], results: dict[str, dict]) -> Study:
    """What a reader must know beside the figures: corpus, protocols, what each leaks, and the time."""
    corpus = variants[0].corpus
    protocols = {variant.protocol.name: variant.protocol for variant in variants}
    seconds: dict[str, float] = {}
    for result in results.values():
        for phase, spent in result["seconds"].items():
            seconds[phase] = round(seconds.get(phase, 0.0) + spent, 2)
    seconds["total"] = round(sum(seconds.values()), 2)
    return Study(
        title=plan.title,
        corpus_info=corpus_info(corpus),
        fingerprint=corpus.fingerprint,
        protocols=tuple(
            summary.Protocol(
                protocol.name,
                protocol.description,
                protocol.speaker_independent if speakers_known(corpus) else None,
                audit(corpus, protocol).as_dict(),
            )
            for protocol in protocols.values()
        ),
        fold_sizes=_fold_sizes(variants),
        seconds=seconds,
        speakers=speakers_of(corpus),
        left_out=preparation.left_out(corpus.name, corpus.info),
        labels=preparation.labels(corpus.name, corpus.info),
        notes=preparation.notes(corpus.name, corpus.info),
        selection=_selection(plan, variants),
    )


def _selection(plan: Plan, variants: Sequence[Variant]) -> Selection | None:
    """How the study's one variant was chosen, where speakers were set apart for it."""
    if not plan.candidates:
        return None
    apart = variants[0].config["protocol"]["selection_speakers"]
    return Selection(plan.candidates, f"{count(apart, 'speaker')} set apart, who are never tested")


def _fold_sizes(variants: Sequence[Variant]) -> dict[str, tuple[int, int]]:
    """Each fold's numbers of (training, test) utterances; none of a name that protocols use for different folds."""
    sizes: dict[str, set] = {}
    for variant in variants:
        for fold in variant.protocol.folds:
            sizes.setdefault(fold.name, set()).add((len(fold.train), len(fold.test)))
    return {name: found.pop() for name, found in sizes.items() if len(found) == 1}
