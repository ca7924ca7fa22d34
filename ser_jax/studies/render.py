"""Makes a study's report again from what its folder holds, on any machine: no device, no corpus, no checkpoint."""

import json
import os
from pathlib import Path

from ser_jax import config as configuration
from ser_jax import predictions
from ser_jax.errors import UserError
from ser_jax.report.summary import compare_again
from ser_jax.report.write import write_report
from ser_jax.studies.plan import make_plan
from ser_jax.training import log

PICTURE, STUDY = "attention.png", "study.json"  # see `ser_jax.studies.store`, which imports JAX


def render(workdir: str | os.PathLike, out: str | os.PathLike | None = None) -> Path:
    """Writes the report of `workdir` to `out` (by default `workdir` itself) and returns that folder.

    It is made from predictions.parquet, of which the comparisons are computed again, summary.json, config.json where
    there is one, and the logs and attention pictures of the populations where they are still there. Raises `UserError`
    for a folder without results.
    """
    workdir, out = Path(workdir), Path(out or workdir)
    for name in ("predictions.parquet", "summary.json"):
        if not (workdir / name).is_file():
            raise UserError(
                f"{workdir}: no {name} in it; expected a folder that `train`, `study`, `evaluate` or `compare` made"
            )
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: a file; expected a folder")
    table = predictions.read(workdir / "predictions.parquet")
    summary = compare_again(json.loads((workdir / "summary.json").read_text(encoding="utf-8")), table)
    config = workdir / "config.json"
    plan = make_plan(configuration.completed(json.loads(config.read_text()))) if config.is_file() else None
    configs = {name: of for name, of in plan.variants.items() if name in summary["variants"]} if plan else {}
    folders = _populations(workdir)
    write_report(
        out,
        summary,
        table,
        curves={name: log.means(log.read(folder / log.FILE)) for name, folder in folders.items()},
        pictures={name: folder / PICTURE for name, folder in folders.items() if (folder / PICTURE).is_file()},
        configs=configs,
        corpus={"licence": summary.get("licence", "")},
    )
    return out


def _populations(workdir: Path) -> dict[str, Path]:
    """The folder of each variant's population; those of a folder that was shared without them are not there."""
    path = workdir / STUDY
    return {one["name"]: workdir / one["folder"] for one in json.loads(path.read_text())} if path.is_file() else {}
