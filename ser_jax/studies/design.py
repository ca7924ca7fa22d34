"""Before a study: which difference it could detect, and how long it takes, from the results of another.

The squared standard error of a difference has parts that fall with more speakers and parts that fall with more seeds
(`ser_jax.statistics.components`). They are estimated from the comparisons of results at hand and averaged.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ser_jax import config as configuration
from ser_jax import plugins, predictions
from ser_jax.errors import UserError
from ser_jax.report import summary
from ser_jax.statistics import bootstrap, components, paired
from ser_jax.statistics.components import Components
from ser_jax.studies.plan import make_plan
from ser_jax.studies.store import CONFIG, read_json


@dataclasses.dataclass(frozen=True)
class Results:
    """What results say of the studies to come.

    Attributes:
      comparisons: how many of them the parts are estimated from.
      parts: variance components, the mean of these comparisons, each brought to the numbers below.
      speakers, seeds, folds: of the comparison with the most.
      seconds: to train and evaluate one run, on `hardware`; None where it was not measured.
      evaluating: seconds to evaluate one run, as a share of those to train it.
      train_utterances: of a run, the mean over folds; None where it is not known.
      timed: the variants whose training `timed_here` times.
      here: "recorded" or "timed" where `seconds` are of this machine, by `timed_here`.
    """

    folder: str
    comparisons: int
    parts: Components
    speakers: int
    seeds: int
    folds: int
    seconds: float | None
    hardware: str
    evaluating: float = 0.0
    train_utterances: float | None = None
    timed: tuple[str, ...] = ()
    here: str = ""


@dataclasses.dataclass(frozen=True)
class Design:
    """A study to come, and what it could say: shares of UA; seconds, None where they are not known."""

    speakers: int
    seeds: int
    comparisons: int
    detectable: float
    half_width: float
    runs: int
    seconds: float | None


def read_results(folder: str | os.PathLike) -> Results:
    """Reads the predictions of a finished study and estimates the variance components of its comparisons.

    Raises UserError for a folder without predictions or comparisons, and where no interval can be estimated.
    """
    folder = Path(folder)
    for name in ("predictions.parquet", "summary.json"):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: no {name} in it; expected a folder that `study` or `compare` made")
    made = summary.read(folder)
    pairs = [(one.variant, one.baseline) for one in made.comparisons]
    if not pairs:
        raise UserError(f"{folder}: its study compared nothing; expected results with comparisons of variants")
    table = predictions.read(folder / "predictions.parquet")
    found, sizes = [], []
    for pair in pairs:
        tables, *_ = paired.pair(table, *pair, {})
        cells, weights = components.count_cells(tables), np.array([[1.0, -1.0]])
        if cells.of_these_models():
            raise UserError(
                f"{folder}: one training of each variant tested all speakers, which does not show how much trainings "
                "differ; expected results with two or more seeds"
            )
        found += paired.estimate_variances(cells, weights, replicates=bootstrap.REPLICATES, seed=0)[1]
        sizes.append((len(cells.seeds), len(cells.speakers), len(cells.folds)))
    estimated = [size for size, one in zip(sizes, found, strict=True) if not np.isnan(one.total)]
    if not estimated:
        raise UserError(f"{folder}: no comparison has an interval, so nothing is known of the next study's")
    # Runs that diverged leave comparisons of fewer speakers or seeds: each says what the largest design would have.
    seeds, speakers, folds = max(estimated)
    scaled = [
        one.scaled(seeds=seeds / own_seeds, speakers=speakers / own_speakers)
        for one, (own_seeds, own_speakers, _) in zip(found, sizes, strict=True)
    ]
    known = [one for one in scaled if not np.isnan(one.total)]
    runs = sum(variant.runs for variant in made.variants.values())
    sizes_of = made.study.fold_sizes
    spent = [made.study.seconds.get(phase) for phase in ("train", "evaluate")]
    places = [place.hardware for variant in made.variants.values() for place in variant.known.trained]
    return Results(
        folder=str(folder),
        comparisons=len(known),
        parts=_mean(known),
        speakers=speakers,
        seeds=seeds,
        folds=folds,
        seconds=None if None in spent else sum(spent) / runs,
        evaluating=0.0 if None in spent or not spent[0] else spent[1] / spent[0],
        timed=pairs[0],
        train_utterances=float(np.mean([train for train, _ in sizes_of.values()])) if sizes_of else None,
        hardware=", ".join(dict.fromkeys(str(place["device"]) for place in places if place.get("device"))),
    )


def timed_here(results: Results, data_dir: str | os.PathLike | None = None) -> Results:
    """Returns the results with the seconds and the hardware of this machine, where a short training is timed.

    It is that of the first comparison's variant and baseline, whose evaluation takes the share that it took there.
    Results of the same hardware stay as they are. Raises UserError where no training can be timed.
    """
    from ser_jax.studies import pace, provenance  # JAX, which all else here does without

    here = provenance.hardware()["device"]
    if results.seconds is not None and results.hardware == here:
        return dataclasses.replace(results, here="recorded")
    path = Path(results.folder) / CONFIG
    if not path.is_file() or results.train_utterances is None:
        raise UserError(
            f"{results.folder}: no {CONFIG} or sizes of folds in it, and a training that is timed needs them"
        )
    stored = read_json(path)
    plugins.require_trusted(stored, str(path))
    variants = make_plan(configuration.completed(stored)).variants
    runs, seconds = results.folds * results.seeds, []
    for name in results.timed:
        if name not in variants:
            raise UserError(f"{path}: no variant {name}, whose training would be timed")
        seconds.append(pace.seconds_of_run(variants[name], results.train_utterances, runs, data_dir))
    whole = float(np.mean(seconds)) * (1 + results.evaluating)
    return dataclasses.replace(results, seconds=whole, hardware=here, here="timed")


def design(results: Results, speakers: int, seeds: int, comparisons: int = 1) -> Design:
    """Returns what a study of two variants with so many speakers and seeds could detect.

    Each of `comparisons` in a question is corrected for all. More speakers have more models where each speaker has one
    of its own, and where the results have one seed and folds of several speakers; else the same models test them.
    Raises UserError for fewer than two speakers, no seed, no comparison, other seeds than those of results that have
    one, which do not show what a seed is worth, and one training of each variant that is to test all speakers.
    """
    for option, found, least in (("speakers", speakers, 2), ("seeds", seeds, 1), ("comparisons", comparisons, 1)):
        if found < least:
            raise UserError(f"--{option}: found {found}, expected {least} or more")
    if seeds != results.seeds and np.isnan(results.parts.seeds):
        raise UserError(
            f"{results.folder}: it has one seed, which does not show what {seeds} are worth; expected results with two "
            "or more seeds"
        )
    parts = results.parts.scaled(seeds=seeds / results.seeds, speakers=speakers / results.speakers)
    if not parts.degrees > 0:
        raise UserError(
            f"{seeds} seed: one training of each variant that tests all speakers gives no verdict; expected 2 or more"
        )
    more_models = results.folds >= results.speakers or np.isnan(parts.shared)
    folds = round(results.folds * speakers / results.speakers) if more_models else results.folds
    runs = 2 * seeds * folds
    return Design(
        speakers=speakers,
        seeds=seeds,
        comparisons=comparisons,
        detectable=parts.detectable(comparisons),
        half_width=parts.half_width(),
        runs=runs,
        seconds=None if results.seconds is None else results.seconds * runs,
    )


def as_dict(results: Results, designs: Sequence[Design]) -> dict[str, Any]:
    """Returns plain values for JSON."""
    parts = dataclasses.asdict(results.parts) | {"degrees": results.parts.degrees}
    parts = {key: None if value != value else value for key, value in parts.items()}
    return {**dataclasses.asdict(results), "parts": parts, "designs": [dataclasses.asdict(one) for one in designs]}


def _mean(found: Sequence[Components]) -> Components:
    """The mean of the variances, of a design with the fewest speakers and trainings of all."""
    means = {part: float(np.mean([getattr(one, part) for one in found])) for part in ("total", "seeds", "shared")}
    spread = float(np.mean([one.spread for one in found]))
    fewest = {part: min(getattr(one, part) for one in found) for part in ("clusters", "models", "trainings")}
    return Components(**means, **fewest, spread=spread)
