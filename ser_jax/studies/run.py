"""Runs a study: every variant a population, then one table of predictions, one summary, one report."""

import contextlib
import dataclasses
import functools
import json
import os
import platform
import time
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import pandas as pd
from tqdm import tqdm

from ser_jax import config as configuration
from ser_jax.corpora import load_corpus
from ser_jax.corpora.audit import audit
from ser_jax.corpora.corpus import Corpus, waveform
from ser_jax.corpora.features import load_features
from ser_jax.corpora.protocols import Protocol, make_protocol
from ser_jax.corpora.tracks import load_tracks
from ser_jax.errors import UserError
from ser_jax.evaluation import figures, predictions, summary
from ser_jax.evaluation.attention_figure import attention_figure
from ser_jax.evaluation.baselines import is_baseline
from ser_jax.evaluation.latency import SECONDS, one_utterance, relative_latency
from ser_jax.evaluation.tracks import summarise_tracks
from ser_jax.files import atomic_file
from ser_jax.frontend import num_features, num_frames
from ser_jax.models.cost import cost
from ser_jax.studies import baselines, looks, robustness
from ser_jax.studies.baselines import Baselines
from ser_jax.studies.plan import Plan, Question, make_plan
from ser_jax.studies.report import write_report
from ser_jax.studies.store import FAILURE, RESULT, code_version, locked, population_folder, population_key
from ser_jax.training import checkpoints, loop, parallel
from ser_jax.training.population import (
    Population,
    describe,
    make_population,
    test_predictions,
    test_tracks,
    validation_predictions,
)
from ser_jax.training.state import State, variables

POPULATIONS = "populations"  # of a workdir: where its populations are kept, unless the user names another place
PICTURE, CONDITIONS = "attention.png", "conditions.parquet"  # of a population's folder
_REMEMBERED = 2**30  # bytes of the largest corpus that is kept under each condition, for all variants
STUDY = "study.json"  # of a workdir: its variants in their order, and the folder of each one's population


@dataclasses.dataclass(frozen=True)
class Variant:
    """One variant of a study, ready to be trained.

    Attributes:
      key: of its population, see `ser_jax.studies.store`.
      population: made when it is asked for; the configuration was checked by making it once.
      perturbed: the corpus under a condition, made once for all variants.
    """

    name: str
    config: dict
    corpus: Corpus
    protocol: Protocol
    key: str
    population: Callable[[], Population | Baselines]
    perturbed: Callable[[Corpus, str], Corpus]


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


def run_study(
    config: dict,
    workdir: str | os.PathLike,
    *,
    data_dir: str | None = None,
    store: str | os.PathLike | None = None,
    shard: tuple[int, int] = (0, 1),
) -> Outcome:
    """Trains and evaluates what no process has yet, and where all is there, writes the study's results to `workdir`.

    `store` is where populations are kept, by default a folder of `workdir`. `shard` (i, n) leaves to others all
    variants but every n-th, from the i-th on; a variant that another process is at is left to it, and waited for.
    A variant that fails is reported, and the others finish.

    Raises `UserError` for a configuration that cannot be run (before anything is compiled) and for a workdir that holds
    another study.
    """
    workdir = Path(workdir)
    store = Path(store) if store else workdir / POPULATIONS
    plan = make_plan(config)
    variants = _prepare(plan, data_dir)
    claim(workdir, config)
    index, count = shard
    mine = variants[index::count]
    busy = [variant for variant in mine if not _finish(variant, store, plan, wait=False)]
    for variant in busy:
        print(f"{variant.name}: another process is at it; waiting", flush=True)
        _finish(variant, store, plan, wait=True)
    return _collect(plan, variants, workdir, store)


def load(config: dict, data_dir: str | None) -> tuple[Corpus, Protocol]:
    """Returns the corpus and the folds of one variant's configuration."""
    corpus = load_corpus(config["corpus"]["name"], data_dir, **config["corpus"]["options"])
    options = {key: value for key, value in config["protocol"].items() if key != "name"}
    options["num_folds"] = options["num_folds"] or None
    options["file"] = options["file"] or None
    return corpus, make_protocol(corpus, config["protocol"]["name"], **options)


def population_of(
    config: dict, corpus: Corpus, protocol: Protocol, data_dir: str | None, made: dict[str, Any] | None = None
) -> Population | Baselines:
    """Returns the population of one variant's configuration, or its baselines; the configuration is checked.

    `made` is what populations share; see `make_population`.
    """
    robustness.check(config)
    if is_baseline(config["model"]):
        return baselines.make_baselines(config, corpus, protocol, data_dir)
    tracks, features = config["corpus"]["tracks"], config["frontend"]["features"]
    return make_population(
        config,
        corpus,
        protocol,
        tracks=load_tracks(corpus, data_dir, tracks) if tracks else None,
        features=load_features(corpus, features, data_dir) if features else None,
        made=made,
    )


def claim(workdir: Path, config: dict) -> None:
    """Writes the study's configuration to its folder; raises `UserError` where another study's lies there."""
    path = workdir / "config.json"
    if path.exists():
        different = list(configuration.differences(json.loads(path.read_text()), config))
        if different:
            raise UserError(
                f"{workdir}: this workdir holds another configuration ({'; '.join(different[:3])}); "
                "use another --workdir"
            )
        return
    write_json(path, config)


def write_results(
    folder: Path,
    table: pd.DataFrame,
    meta: dict,
    *,
    parameters: dict[str, int],
    fold_sizes: Mapping[str, tuple[int, int]] = types.MappingProxyType({}),
    comparisons: Sequence[tuple[str, str]] = (),
    questions: Sequence[Question] = (),
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
        speakers=speakers,
        validation=validation,
    )
    for name, of_variant in notes.items():
        result["variants"][name]["notes"] += of_variant
    for name, of_variant in costs.items():
        result["variants"][name]["cost"] = of_variant
    predictions.write(table, folder / "predictions.parquet")
    summary.write(result, folder / "summary.json")
    figures.confusion_figure(result, folder / "confusion.png")
    return result


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(checkpoints.to_json(value))


def _prepare(plan: Plan, data_dir: str | None) -> list[Variant]:
    """Checks every variant's configuration; corpora, folds and programs that variants share are made once."""
    loaded: dict[str, tuple[Corpus, Protocol]] = {}
    made: dict[str, Any] = {}
    under: dict[tuple[str, str], Corpus] = {}
    variants = []

    def perturbed(corpus: Corpus, condition: str) -> Corpus:
        key = corpus.fingerprint, condition
        if key not in under and corpus.samples.nbytes > _REMEMBERED:
            return robustness.perturbed(corpus, condition)
        if key not in under:
            under[key] = robustness.perturbed(corpus, condition)
        return under[key]

    for name, config in plan.variants.items():
        source = json.dumps([config["corpus"], config["protocol"]], sort_keys=True)
        if source not in loaded:
            loaded[source] = load(config, data_dir)
        corpus, protocol = loaded[source]

        def make(config: dict = config, corpus: Corpus = corpus, protocol: Protocol = protocol) -> Any:
            return population_of(config, corpus, protocol, data_dir, made)

        key = population_key(config, corpus, protocol, make().corpus.info.get("features"))
        variants.append(Variant(name, config, corpus, protocol, key, make, perturbed))
    names = {variant.corpus.name: None for variant in variants}
    if len({variant.corpus.fingerprint for variant in variants}) > 1:
        raise UserError(
            f"config.study: its variants are of several corpora ({', '.join(names)}); a study is of one: run one for "
            "each, and set them side by side with `compare`"
        )
    return variants


def _finish(variant: Variant, store: Path, plan: Plan, *, wait: bool) -> bool:
    """Trains and evaluates a variant unless that is done; False where another process is at it."""
    with locked(store, variant.key, wait=wait) as held:
        if not held:
            return False
        folder = population_folder(store, variant.name, variant.key)
        try:
            (folder / FAILURE).unlink(missing_ok=True)
            population = variant.population()
            if not (folder / RESULT).exists():
                title = f"{variant.name} ({list(plan.variants).index(variant.name) + 1} of {len(plan.variants)})"
                _train(title, variant, population, folder)
            _test_under_conditions(variant, population, folder)
        except Exception as error:  # whatever it is: the other variants are to finish
            message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            folder.mkdir(parents=True, exist_ok=True)
            lines = message.strip().splitlines() or [type(error).__name__]
            write_json(folder / FAILURE, {"message": lines[0], "traceback": traceback.format_exc()})
    return True


def _train(title: str, variant: Variant, population: Population | Baselines, folder: Path) -> None:
    """Trains one variant, writes its predictions and last of all its result."""
    if isinstance(population, Baselines):
        result = baselines.run_variant(variant.name, population, folder)
    else:
        with _progress(title, population) as bar:
            state, seconds = loop.train(population, folder, report=lambda entry: _show(bar, entry, population))
        begun = time.monotonic()
        result = {"tracks": _evaluate(variant.name, population, state, folder), "trained": describe(population)}
        result["multiply_adds"] = _multiply_adds(population)
        _draw_attention(variant.name, population, state, folder)
        result["seconds"] = {**seconds, "evaluate": time.monotonic() - begun}
    result |= {"parameters": population.num_parameters, "code": code_version(variant.config), "hardware": hardware()}
    write_json(folder / RESULT, result)


def _evaluate(name: str, population: Population, state: State, folder: Path) -> dict:
    """Writes what every run predicts for its test fold and its validation speakers; returns its tracks' figures."""
    predictions.write(test_predictions(population, state, name), folder / "predictions.parquet")
    if all(len(fold.validation) for fold in population.folds):
        predictions.write(validation_predictions(population, state, name), folder / "validation.parquet")
    if not population.targets.track_names:
        return {}
    table = test_tracks(population, state, name)
    with atomic_file(folder / "tracks.parquet") as temporary:
        table.to_parquet(temporary, index=False)
    return summarise_tracks(table)


def _multiply_adds(population: Population) -> int:
    """Those of the forward pass for a recording of `latency.SECONDS`."""
    frontend = population.learner.frontend
    frames = int(num_frames(frontend, round(SECONDS * frontend.rate)))
    return cost(population.learner.model, frames, num_features(frontend)).multiply_adds


def _draw_attention(name: str, population: Population, state: State, folder: Path) -> None:
    """Draws what the first run looked at in the first utterance that it is tested on, where there is such a thing."""
    if population.corpus.info.get("features") or not looks.has_attention(population):
        return
    row, (_, seed) = population.folds[0].test[0], population.runs[0]
    seen = looks.look_into(population, state, 0, waveform(population.corpus, row))
    utterance = population.corpus.utterances.loc[row]
    emotion = max(seen.probabilities, key=seen.probabilities.get)
    title = f"{utterance['id']} ({utterance['emotion']}): {emotion} {seen.probabilities[emotion]:.2f}"
    title += f"  ({name}, fold {population.folds[0].name}, seed {seed})"
    attention_figure(seen, title, folder / PICTURE)


def _test_under_conditions(variant: Variant, population: Population | Baselines, folder: Path) -> None:
    """Tests a trained variant under the conditions that its configuration names and its folder lacks."""
    path, conditions = folder / CONDITIONS, variant.config["evaluation"]["robustness"]
    known = robustness.read(path) if path.exists() else None
    lacking = [name for name in conditions if known is None or name not in set(known["condition"])]
    if not lacking:
        return
    load = baselines.load_folds if isinstance(population, Baselines) else functools.partial(loop.restore, population)
    table = robustness.test_predictions_under(population, load(folder), variant.name, lacking, variant.perturbed)
    robustness.write(table if known is None else pd.concat([known, table], ignore_index=True), path)


def _collect(plan: Plan, variants: Sequence[Variant], workdir: Path, store: Path) -> Outcome:
    """Writes the study's results where all populations are there, whoever made them."""
    begun = time.monotonic()
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
    meta["seconds"]["statistics"] = round(time.monotonic() - begun, 2)
    corpus = variants[0].corpus
    result = write_results(
        workdir,
        table,
        meta,
        parameters={name: results[name]["parameters"] for name in trained},
        fold_sizes=meta["fold_sizes"],
        comparisons=[pair for pair in plan.comparisons if set(pair) <= set(trained)],
        questions=plan.questions,
        speakers=corpus.utterances[["speaker", "gender"]].drop_duplicates(),
        validation=validation,
        notes={name: results[name]["trained"].get("notes", []) for name in trained},
        costs=_costs(by_name, results, trained, workdir),
    )
    write_report(
        workdir,
        result,
        table,
        curves={name: _log(folder) for name, folder in trained.items()},
        pictures={name: folder / PICTURE for name, folder in trained.items() if (folder / PICTURE).exists()},
        configs={name: variant.config for name, variant in by_name.items()},
        corpus=corpus.info,
    )
    return Outcome(result, (), failed)


def _costs(
    variants: dict[str, Variant], results: dict[str, dict], folders: dict[str, Path], workdir: Path
) -> dict[str, dict]:
    """What a recording of `latency.SECONDS` costs each network: multiply-adds, and the time it takes.

    The variants are timed by turns in one process, so that they can be compared, and once for a set of populations.
    """
    networks = {name: variant for name, variant in variants.items() if not is_baseline(variant.config["model"])}
    costs = {name: {"multiply_adds": results[name]["multiply_adds"], "seconds": SECONDS} for name in networks}
    timed = {name: v.key for name, v in networks.items() if v.config["evaluation"]["latency"]}
    path = workdir / "latency.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    if timed and set(timed.values()) - set(known):
        forwards = {}
        for name, key in timed.items():
            population = networks[name].population()
            state = parallel.gather(loop.restore(population, folders[name]), len(population.runs))
            own = jax.tree.map(lambda leaf: leaf[0], state)
            trained = variables(population.learner, own)
            forwards[key] = one_utterance(population.learner, trained, own.feature_statistics)
        known = relative_latency(forwards)
        write_json(path, known)
    for name, key in timed.items():
        if key in known:
            costs[name] |= {"latency": known[key]["relative"], "latency_ms": known[key]["median_ms"]}
    return costs


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
    }


def _fold_sizes(variants: Sequence[Variant]) -> dict[str, tuple[int, int]]:
    """Each fold's numbers of (training, test) utterances; none of a name that protocols use for different folds."""
    sizes: dict[str, set] = {}
    for variant in variants:
        for fold in variant.protocol.folds:
            sizes.setdefault(fold.name, set()).add((len(fold.train), len(fold.test)))
    return {name: found.pop() for name, found in sizes.items() if len(found) == 1}


def _log(folder: Path) -> list[dict]:
    path = folder / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def hardware() -> dict[str, Any]:
    """Returns what a training ran on."""
    devices = jax.local_devices()
    name = devices[0].device_kind
    if devices[0].platform == "cpu":
        name = platform.processor() or platform.machine()
        with contextlib.suppress(OSError, StopIteration):
            lines = Path("/proc/cpuinfo").read_text().splitlines()
            name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return {"platform": devices[0].platform, "device": name, "devices": len(devices)}


def _progress(title: str, population: Population) -> tqdm:
    return tqdm(
        total=population.num_steps * len(population.runs), desc=title, unit="step", unit_scale=True, smoothing=0.1
    )


def _show(bar: tqdm, entry: dict, population: Population) -> None:
    bar.n = entry["step"] * len(population.runs)
    figures_shown = {"loss": f"{entry['loss']:.3f}"}
    if "validation_ua" in entry:
        figures_shown["validation UA"] = f"{100 * entry['validation_ua']:.1f}%"
        bar.validation = figures_shown["validation UA"]
    elif hasattr(bar, "validation"):
        figures_shown["validation UA"] = bar.validation
    bar.set_postfix(figures_shown)
