"""What a study came to: one table of predictions, one summary, one report."""

import dataclasses
import json
import os
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import pandas as pd

from ser_jax import predictions
from ser_jax.baselines import is_baseline
from ser_jax.corpora.audit import audit
from ser_jax.corpora.corpus import Corpus
from ser_jax.files import atomic_file
from ser_jax.frontend import num_features, num_frames
from ser_jax.inference.latency import SECONDS, one_utterance, relative_latency
from ser_jax.models.cost import cost
from ser_jax.report import confusion, summary
from ser_jax.report.write import write_report
from ser_jax.statistics.paired import MARGIN
from ser_jax.studies import robustness
from ser_jax.studies.baselines import SPEAKER_SCALING
from ser_jax.studies.plan import Plan, Question
from ser_jax.studies.store import CONDITIONS, FAILURE, PICTURE, RESULT, STUDY, population_folder
from ser_jax.studies.variants import Variant
from ser_jax.training import checkpoints, devices, log, loop
from ser_jax.training.population import Population
from ser_jax.training.state import variables

SPEAKER_STATISTICS = (
    "batch normalisation by each speaker's own utterances, without their labels: it uses the tested speaker's "
    "statistics"
)

OWN_HEADS = (
    "a classifier for each source corpus: it is told of which corpus an utterance is and tells that corpus's emotions "
    "apart, an easier task than one classifier has; of any other corpus, the mean of all"
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a study came to.

    Attributes:
      summary: None where other processes have not finished their share, or where nothing could be trained.
      missing, failed: the variants without a result yet, and the reason of each that has none to come.
    """

    summary: dict | None
    missing: tuple[str, ...]
    failed: dict[str, str]


def collect(plan: Plan, variants: Sequence[Variant], workdir: Path, store: Path) -> Outcome:
    """Writes the study's results where all populations are there, whoever made them."""
    folders = {variant.name: population_folder(store, variant.name, variant.key) for variant in variants}
    results = {
        name: json.loads((folder / RESULT).read_text())
        for name, folder in folders.items()
        if (folder / RESULT).exists()
    }
    failed = {
        name: json.loads((folder / FAILURE).read_text())["message"]
        for name, folder in folders.items()
        if (folder / FAILURE).exists()
    }
    missing = tuple(name for name in folders if name not in results and name not in failed)
    trained = {name: folder for name, folder in folders.items() if name in results and name not in failed}
    if missing or not trained:
        return Outcome(None, missing, failed)
    places = [{"name": name, "folder": os.path.relpath(folder, workdir)} for name, folder in trained.items()]
    write_json(workdir / STUDY, places)
    by_name = {variant.name: variant for variant in variants if variant.name in trained}
    table, validation, conditions = (
        _gather(trained, file) for file in ("predictions.parquet", "validation.parquet", CONDITIONS)
    )
    meta = _describe(plan, list(by_name.values()), {name: results[name] for name in trained})
    meta |= {"failed": failed}
    asked = {(name, c) for name, variant in by_name.items() for c in variant.config["evaluation"]["robustness"]}
    if asked:
        own = [pair in asked for pair in zip(conditions["variant"], conditions["condition"], strict=True)]
        meta["robustness"] = robustness.summarise_robustness(table, conditions[own])
    corpus = variants[0].corpus
    result = write_results(
        workdir,
        table,
        meta,
        parameters={name: results[name]["parameters"] for name in trained},
        fold_sizes=meta["fold_sizes"],
        comparisons=[pair for pair in plan.comparisons if set(pair) <= set(trained)],
        questions=plan.questions,
        margin=plan.margin,
        speakers=speakers_of(corpus),
        validation=validation,
        notes={name: notes_of(results[name]["trained"]) for name in trained},
        costs=_costs(by_name, trained, workdir),
    )
    write_report(
        workdir,
        result,
        table,
        curves={name: log.means(log.read(folder / log.FILE)) for name, folder in trained.items()},
        pictures={name: folder / PICTURE for name, folder in trained.items() if (folder / PICTURE).exists()},
        configs={name: variant.config for name, variant in by_name.items()},
        corpus=corpus.info,
    )
    return Outcome(result, (), failed)


def speakers_of(corpus: Corpus) -> pd.DataFrame:
    """Returns what is known of a corpus's speakers: gender, and the corpus that they were merged from."""
    known = [column for column in ("speaker", "gender", "source") if column in corpus.utterances]
    return corpus.utterances[known].drop_duplicates()


def notes_of(trained: dict) -> list[str]:
    """Returns what a reader must know of a variant, from the metadata of its training."""
    config, notes = trained["config"], list(trained.get("notes", []))
    if is_baseline(config["model"]):
        return notes
    notes += [SPEAKER_SCALING] * (config["frontend"]["normalization"] == "speaker")
    notes += [SPEAKER_STATISTICS] * (config["evaluation"]["batch_statistics"] == "speaker")
    return notes + [OWN_HEADS] * (config["training"]["heads"] == "source")


def write_results(
    folder: Path,
    table: pd.DataFrame,
    meta: dict,
    *,
    parameters: dict[str, int],
    fold_sizes: Mapping[str, tuple[int, int]] = types.MappingProxyType({}),
    comparisons: Sequence[tuple[str, str]] = (),
    questions: Sequence[Question] = (),
    margin: float = MARGIN,
    speakers: pd.DataFrame | None = None,
    validation: pd.DataFrame | None = None,
    notes: Mapping[str, Sequence[str]] = types.MappingProxyType({}),
    costs: Mapping[str, dict] = types.MappingProxyType({}),
) -> dict:
    """Writes predictions.parquet, summary.json and confusion.png to a folder and returns the summary.

    `notes` are what a reader must know of a variant, and `costs` what its forward pass takes; the other arguments are
    `summary.summarise`'s.
    """
    result = summary.summarise(
        table,
        comparisons=comparisons,
        fold_sizes=fold_sizes,
        parameters=parameters,
        meta=meta,
        questions=questions,
        margin=margin,
        speakers=speakers,
        validation=validation,
    )
    for name, of_variant in notes.items():
        result["variants"][name]["notes"] += of_variant
    for name, of_variant in costs.items():
        result["variants"][name]["cost"] = of_variant
    predictions.write(table, folder / "predictions.parquet")
    summary.write(result, folder / "summary.json")
    confusion.confusion_figure(result, folder / "confusion.png")
    return result


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(checkpoints.to_json(value))


def _costs(variants: dict[str, Variant], folders: dict[str, Path], workdir: Path) -> dict[str, dict]:
    """What a recording of `latency.SECONDS` costs each network: multiply-adds, and the time it takes.

    The variants are timed by turns in one process, so that they can be compared, and once for a set of populations.
    """
    networks = {name: variant for name, variant in variants.items() if not is_baseline(variant.config["model"])}
    populations = {name: variant.population() for name, variant in networks.items()}
    costs = {
        name: {"multiply_adds": _multiply_adds(population), "seconds": SECONDS}
        for name, population in populations.items()
    }
    timed = {name: v.key for name, v in networks.items() if v.config["evaluation"]["latency"]}
    path = workdir / "latency.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    if timed and set(timed.values()) - set(known):
        forwards = {}
        for name, key in timed.items():
            population = populations[name]
            state = devices.gather(loop.restore(population, folders[name]), len(population.runs))
            own = jax.tree.map(lambda leaf: leaf[0], state)
            trained = variables(own)
            forwards[key] = one_utterance(population.learner, trained, own.feature_statistics)
        known = relative_latency(forwards)
        write_json(path, known)
    for name, key in timed.items():
        if key in known:
            costs[name]["latency"] = known[key]["relative"]
    return costs


def _multiply_adds(population: Population) -> int:
    """Those of the forward pass for a recording of `SECONDS`."""
    frontend = population.learner.frontend
    frames = int(num_frames(frontend, round(SECONDS * frontend.rate)))
    return cost(population.learner.model, frames, num_features(frontend)).multiply_adds


def _gather(folders: dict[str, Path], file: str) -> pd.DataFrame | None:
    """One table of all variants that have such a file, under the names that this study gives them."""
    tables = [
        pd.read_parquet(folder / file).assign(variant=name)
        for name, folder in folders.items()
        if (folder / file).exists()
    ]
    return pd.concat(tables, ignore_index=True) if tables else None


def _describe(plan: Plan, variants: Sequence[Variant], results: dict[str, dict]) -> dict:
    """What a reader must know beside the figures: corpus, protocol, what leaks, software, hardware, time."""
    corpus = variants[0].corpus
    protocols = {variant.protocol.name: variant.protocol for variant in variants}
    audits = [audit(corpus, protocol).as_dict() for protocol in protocols.values()]
    seconds: dict[str, float] = {}
    for result in results.values():
        for phase, spent in result["seconds"].items():
            seconds[phase] = round(seconds.get(phase, 0.0) + spent, 2)
    seconds["total"] = round(sum(seconds.values()), 2)
    diverged = {name: result["diverged"] for name, result in results.items() if result.get("diverged")}
    tracks = {name: result["tracks"] for name, result in results.items() if result["tracks"]}
    return {
        "title": plan.title,
        "corpus": corpus.name,
        "licence": corpus.info.get("licence", ""),
        "protocol": ", ".join(protocols),
        "protocol_description": "; ".join(protocol.description for protocol in protocols.values()),
        "fold_sizes": _fold_sizes(variants),
        "speaker_independent": all(protocol.speaker_independent for protocol in protocols.values()),
        "fingerprint": corpus.fingerprint,
        "audit": max(audits, key=lambda found: found["leaks_speakers"]),
        "versions": checkpoints.versions(),
        "hardware": next(iter(results.values()))["hardware"],
        "code": {name: result["code"] for name, result in results.items()},
        "seconds": seconds,
        **({"tracks": tracks} if tracks else {}),
        **({"diverged": diverged} if diverged else {}),
    }


def _fold_sizes(variants: Sequence[Variant]) -> dict[str, tuple[int, int]]:
    """Each fold's numbers of (training, test) utterances; none of a name that protocols use for different folds."""
    sizes: dict[str, set] = {}
    for variant in variants:
        for fold in variant.protocol.folds:
            sizes.setdefault(fold.name, set()).add((len(fold.train), len(fold.test)))
    return {name: found.pop() for name, found in sizes.items() if len(found) == 1}
