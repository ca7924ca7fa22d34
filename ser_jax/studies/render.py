"""Makes a study's report again from what its folder holds, on any machine: no device, no corpus, no checkpoint."""

import dataclasses
import functools
import os
from pathlib import Path

import pandas as pd

from ser_jax import checksums, plugins, predictions
from ser_jax import config as configuration
from ser_jax.errors import UserError
from ser_jax.report import summary as tree
from ser_jax.report.summarise import How, summarise
from ser_jax.report.summary import Summary, Variant
from ser_jax.report.write import write_report
from ser_jax.statistics.metrics import with_others
from ser_jax.studies.plan import Plan, Question, make_plan
from ser_jax.studies.store import PICTURE, STUDY, SUMMARY, read_json, read_places
from ser_jax.training import log


def render(workdir: str | os.PathLike, out: str | os.PathLike | None = None) -> Path:
    """Writes summary.json and the report of `workdir` to `out` (by default `workdir` itself) and returns that folder.

    Every figure is computed again from predictions.parquet; summary.json gives what predictions do not hold,
    config.json the questions and the methods, and the populations their logs and pictures where they are still there.
    Robustness, calibration by validation speakers and the costs of the networks stay as summary.json has them.
    Raises `UserError` for a folder without results.
    """
    workdir, out = Path(workdir), Path(out or workdir)
    for name in ("predictions.parquet", "summary.json"):
        if not (workdir / name).is_file():
            raise UserError(
                f"{workdir}: no {name} in it; expected a folder that `train`, `study`, `evaluate` or `compare` made"
            )
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: a file; expected a folder")
    earlier = tree.read(workdir)
    plan = _plan(workdir / "config.json", earlier)
    made = again(predictions.read(workdir / "predictions.parquet"), earlier, plan)
    folders = _populations(workdir)
    # What was read was found whole, and what is not read keeps its checksum.
    names = [name for name in checksums.read(out) or {} if name != SUMMARY]
    with checksums.renewed(out, (*names, SUMMARY)):
        tree.write(made, out / SUMMARY)
    write_report(
        out,
        made,
        curves={name: log.means(log.read(folder / log.FILE)) for name, folder in folders.items()},
        pictures={name: folder / PICTURE for name, folder in folders.items() if (folder / PICTURE).is_file()},
        configs=plan.variants if plan else {},
    )
    return out


def again(table: pd.DataFrame, earlier: Summary, plan: Plan | None) -> Summary:
    """Returns the summary of a table of predictions with all that an earlier one knows beside them."""
    questions = (
        plan.questions
        if plan and plan.comparisons
        else tuple(map(functools.partial(_asked, earlier), earlier.questions))
    )
    pairs = [(one.variant, one.baseline) for one in earlier.comparisons]
    made = summarise(
        table,
        earlier.study,
        comparisons=[pair for pair in pairs if set(pair) <= set(table["variant"])],
        questions=questions,
        known={name: variant.known for name, variant in earlier.variants.items()},
        how=How(margin=earlier.margin, metrics=with_others(plan.metrics if plan else ())),
    )
    variants = {name: _with_validation(one, earlier.variants.get(name)) for name, one in made.variants.items()}
    return dataclasses.replace(made, variants=variants, robustness=earlier.robustness)


def _with_validation(variant: Variant, earlier: Variant | None) -> Variant:
    """The variant with what only predictions for validation speakers give."""
    if earlier is None:
        return variant
    known, calibration = earlier.calibration, variant.calibration
    if known is None:
        calibration = None  # of predicted labels alone
    elif calibration is not None:
        kept = ("temperature", "ece_scaled", "brier_scaled", "notes")
        calibration = dataclasses.replace(calibration, **{name: getattr(known, name) for name in kept})
    return dataclasses.replace(variant, calibration=calibration, validation_ua=earlier.validation_ua)


def _plan(path: Path, earlier: Summary) -> Plan | None:
    """The study's plan, with the variants that have results; None where the folder has no configuration of theirs."""
    if not path.is_file():
        return None
    stored = read_json(path)
    plugins.require_trusted(stored, str(path))
    plan = make_plan(configuration.completed(stored))
    selection = earlier.study.selection
    if selection and selection.chosen:  # its variant is another one in each fold, and has no configuration of its own
        candidates = {name: plan.variants[name] for name in selection.candidates if name in plan.variants}
        return dataclasses.replace(plan, variants=candidates, questions=())
    # A stored configuration has its keys in the order of the alphabet; the summary has the variants in the study's.
    order = dict.fromkeys([*earlier.variants, *plan.variants])
    there = {name: plan.variants[name] for name in order if name in plan.variants and name in earlier.variants}
    questions = tuple(
        dataclasses.replace(question, levels={name: question.levels[name] for name in order if name in question.levels})
        for question in plan.questions
    )
    return dataclasses.replace(plan, variants=there, questions=questions) if there else None


def _asked(earlier: Summary, question: tree.Question) -> Question:
    """A question of an earlier summary, to be asked again."""
    pairs = tuple((earlier.comparisons[i].variant, earlier.comparisons[i].baseline) for i in question.comparisons)
    return Question(question.name, question.text, question.factors, question.levels, pairs)


def _populations(workdir: Path) -> dict[str, Path]:
    """The folder of each variant's population; those of a folder that was shared without them are not there."""
    return read_places(workdir) if (workdir / STUDY).is_file() else {}
