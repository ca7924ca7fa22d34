"""Nested selection: variants are chosen by speakers who do not test the choice.

Either speakers are set apart, one study chooses among variants on them and another tests the choice on all others; or
each fold chooses, by the speakers that it validates on or learns from, and its test speakers test that choice.
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ser_jax import config as configuration
from ser_jax import predictions
from ser_jax.baselines import is_baseline
from ser_jax.corpora.protocols import Protocol
from ser_jax.errors import UserError
from ser_jax.report import summary
from ser_jax.report.summarise import How, summarise
from ser_jax.report.summary import Knowledge, Selection, Summary
from ser_jax.report.write import write_report
from ser_jax.statistics import metrics
from ser_jax.studies.baselines import HELD_OUT
from ser_jax.studies.plan import make_plan, one_variant
from ser_jax.studies.store import CONFIG, PREDICTIONS, RESULT, VALIDATION, read_json, read_places, write_results
from ser_jax.studies.variants import load

CHOICE, TESTED = "choice", "tested"  # folders of a workdir, each with a study
FOLDS = "folds"  # for --select: each fold chooses
CHOSEN = "chosen in each fold"  # the variant that is another one in each fold

_LEARNT, _VALIDATED = "the speakers that it learns from, left out in turn", "its validation speakers"


def choosing(config: dict, speakers: int, data_dir: str | None) -> dict:
    """Returns the configuration of the study that chooses: all variants, on so many speakers alone.

    Raises `UserError` for fewer than two variants, a variant with a protocol of its own, a configuration that says
    otherwise who is tested, a corpus without emotions, and speakers that the corpus does not have.
    """
    protocol = config["protocol"]
    if speakers < 2:
        raise UserError(f"--select: found {speakers}, expected two speakers or more to choose by")
    if protocol["tested"] != "test" or protocol["selection_speakers"] not in (0, speakers):
        raise UserError(
            f"--select {speakers}: found config.protocol.tested={protocol['tested']} and selection_speakers="
            f"{protocol['selection_speakers']}, which it sets itself; expected neither"
        )
    made = _with_protocol(config, speakers, "validation")
    _check_variants(made, str(speakers), data_dir, "protocol")
    load(_with_protocol(config, speakers, "test"), data_dir)  # refused now, not after the choice
    return made


def check_folds(config: dict, data_dir: str | None) -> None:
    """Raises `UserError` for a study whose folds cannot choose among its variants.

    Beside what `choosing` refuses that is one that tests on its training data, and one of networks, or with some folds
    alone, that have utterances for validation.
    """
    tested = config["protocol"]["tested"]
    if tested != "test":
        raise UserError(f"--select {FOLDS}: found config.protocol.tested={tested}, expected test")
    variants, protocol = _check_variants(config, FOLDS, data_dir, "protocol", "seeds", "folds")
    if any(np.isin(fold.test, fold.train).any() for fold in protocol.folds):
        raise UserError(f"--select {FOLDS}: protocol {protocol.name} tests on its training data; expected another one")
    networks = [name for name, variant in variants.items() if not is_baseline(variant["model"])]
    without = [fold.name for fold in protocol.folds if not len(fold.validation)]
    if without and (networks or len(without) < len(protocol.folds)):
        name = (networks or list(variants))[0]
        raise UserError(
            f"--select {FOLDS}: variant {name} has no validation speakers to be chosen by in fold {without[0]}, found "
            f"config.protocol.validation_speakers={config['protocol']['validation_speakers']}, expected some in each"
        )


def choose(workdir: str | os.PathLike) -> tuple[str, float]:
    """Returns the variant with the highest UA in a finished study, the first of several, and its UA."""
    ua = {name: variant.ua.value for name, variant in summary.read(workdir).variants.items()}
    known = {name: value for name, value in ua.items() if value is not None}
    if not known:
        raise UserError(f"{workdir}: no variant has a UA, so there is none to choose")
    name = max(known, key=lambda one: known[one])
    return name, known[name]


def testing(config: dict, name: str, speakers: int) -> dict:
    """Returns the configuration that tests the chosen variant on the speakers that the choice left untouched."""
    candidates = list(make_plan(config).variants)
    title = f"{name}, chosen among {len(candidates)} variants by {speakers} speakers set apart"
    study = {"title": title, "candidates": candidates}
    return configuration.merge(one_variant(_with_protocol(config, speakers, "test"), name), {"study": study})


def choose_in_folds(choice: str | os.PathLike) -> Selection:
    """Returns which variant of a finished study each fold takes: the one with the highest UA on its own speakers.

    Those are its validation speakers where all variants have some, or else the speakers that it learns from, who are
    left out in turn; never its test speakers. The first of equals is taken.
    """
    about, places = summary.read(choice), read_places(Path(choice))
    validated = all((folder / VALIDATION).is_file() for folder in places.values())
    ua_of: Callable[[Path], dict[str, float]] = _validation_ua if validated else _held_out_ua
    ua = {name: ua_of(folder) for name, folder in places.items()}
    folds = dict.fromkeys(fold for of_folds in ua.values() for fold in of_folds)
    chosen = {fold: max(ua, key=lambda name, fold=fold: ua[name].get(fold, -1.0)) for fold in folds}
    features = [about.variants[name].known.features for name in places]
    return Selection(
        candidates=tuple(places),
        by=_VALIDATED if validated else _LEARNT,
        chosen=chosen,
        features={one["name"]: one for one in features if one},
    )


def test_in_folds(choice: str | os.PathLike, tested: str | os.PathLike) -> Summary:
    """Writes what the variants that each fold chose predict for its test speakers, their figures and a report."""
    choice, tested = Path(choice), Path(tested)
    selection, about, config = choose_in_folds(choice), summary.read(choice), read_json(choice / CONFIG)
    table = predictions.read(choice / PREDICTIONS)
    mine = table["variant"].to_numpy() == table["fold"].map(selection.chosen).to_numpy()
    table = predictions.merge([table[mine].assign(variant=CHOSEN)])
    plan = make_plan(configuration.completed(config))
    made = summarise(
        table,
        dataclasses.replace(about.study, title=_title(selection), selection=selection, failed={}),
        known={CHOSEN: _knowledge(about, selection)},
        how=How(margin=plan.margin, metrics=metrics.with_others(plan.metrics)),
    )
    tested.mkdir(parents=True, exist_ok=True)
    write_results(tested, table, made, {CONFIG: config})
    write_report(tested, made, configs={name: plan.variants[name] for name in selection.candidates})
    return made


def _title(selection: Selection) -> str:
    return f"One of {len(selection.candidates)} variants, chosen in each fold by {selection.by}"


def _knowledge(about: Summary, selection: Selection) -> Knowledge:
    """What is known of the variants that were chosen, of each in its folds."""
    times = Counter(selection.chosen.values())
    known = {name: about.variants[name].known for name in selection.candidates if name in times}
    sizes = {one.parameters for one in known.values()}
    places = [place for one in known.values() for place in one.trained]
    folds_of = {name: [fold for fold, own in selection.chosen.items() if own == name] for name in known}
    chosen = "; ".join(f"{name} in the folds {', '.join(folds)}" for name, folds in folds_of.items())
    return Knowledge(
        parameters=sizes.pop() if len(sizes) == 1 else None,
        uses_speaker=tuple(dict.fromkeys(use for one in known.values() for use in one.uses_speaker)),
        trained=tuple(place for i, place in enumerate(places) if place not in places[:i]),
        diverged=tuple(run for name, one in known.items() for run in one.diverged if run.fold in folds_of[name]),
        notes=(chosen, *dict.fromkeys(note for one in known.values() for note in one.notes)),
    )


def _validation_ua(folder: Path) -> dict[str, float]:
    counts = metrics.confusion_counts(predictions.read(folder / VALIDATION), "fold")
    ua = np.nanmean(metrics.unweighted_accuracy(counts.counts), axis=0)  # over seeds
    return dict(zip(counts.groups, map(float, ua), strict=True))


def _held_out_ua(folder: Path) -> dict[str, float]:
    return read_json(folder / RESULT)[HELD_OUT]


def _check_variants(config: dict, select: str, data_dir: str | None, *shared: str) -> tuple[dict[str, dict], Protocol]:
    """Returns the variants of a study that can be chosen among (several, of one corpus with emotions) and its folds."""
    variants = make_plan(config).variants
    if len(variants) < 2:
        raise UserError(f"--select {select}: found one variant, expected a study of two or more to choose among")
    for name, variant in variants.items():
        for key in shared:
            if variant[key] != config[key]:
                raise UserError(f"--select {select}: variant {name} has {key} of its own; expected the same for all")
    corpus, protocol = load(config, data_dir)
    if not corpus.emotions:
        raise UserError(f"--select {select}: corpus {corpus.name} has no emotions, and the choice is by UA")
    return variants, protocol


def _with_protocol(config: dict, speakers: int, tested: str) -> dict:
    changes = {"protocol": {"selection_speakers": speakers, "tested": tested}}
    return configuration.check(configuration.merge(config, changes))
