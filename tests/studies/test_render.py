"""A report made again from results."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ser_jax.errors import UserError
from ser_jax.report import summary
from ser_jax.studies import collect, run
from ser_jax.studies.render import render

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "docs" / "results" / "controls" / "null"


def test_a_published_result_is_rendered_without_jax(tmp_path, no_fonts):
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from ser_jax.report import vector_graphics\n"
        "vector_graphics.write_pdf = lambda figures, path: path.write_bytes(b'')\n"
        "from ser_jax.commands.main import main\n"
        f"status = main(['report', {str(PUBLISHED)!r}, '--out', {str(tmp_path)!r}])\n"
        "assert not {'jax', 'tensorflow', 'torch'} & set(sys.modules), 'imported'\n"
        "sys.exit(status)"
    )
    made = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    published, again = summary.read(PUBLISHED), summary.read(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert all(f"| {name} |" in text for name in published.variants)
    assert "We used the corpus null" in text
    assert {name: one.metrics for name, one in again.variants.items()} == {
        name: one.metrics for name, one in published.variants.items()
    }


@pytest.mark.parametrize("missing", ["predictions.parquet", "summary.json"])
def test_a_folder_without_results_is_refused(tmp_path, missing):
    for name in ("predictions.parquet", "summary.json"):
        if name != missing:
            shutil.copy(PUBLISHED / name, tmp_path / name)
    with pytest.raises(UserError, match=f"{tmp_path}: no {missing}"):
        render(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        name for name in ("predictions.parquet", "summary.json") if name != missing
    ]


def test_a_report_made_again_is_the_study_s_own(launch, workdir, tmp_path):
    status, output, errors = launch("report", workdir, "--out", tmp_path / "again")
    assert (status, output) == (0, f"{tmp_path / 'again'}: report.html, report.md, figures, tables\n"), errors
    for name in ("summary.json", "report.md", "report.html"):
        own, again = ((folder / name).read_text("utf-8") for folder in (workdir, tmp_path / "again"))
        differs = next((place for place, two in enumerate(zip(own, again, strict=False)) if len(set(two)) > 1), 0)
        shown = slice(max(differs - 300, 0), differs + 100)
        assert own == again, f"{name}: {own[shown]!r} became {again[shown]!r}"


def test_a_report_that_fails_keeps_the_results_and_says_how_to_make_it(launch, tiny_config, workdir, monkeypatch):
    def fail(*_, **__):
        raise ValueError("no ink")

    monkeypatch.setattr(collect, "write_report", fail)
    before = (workdir / "summary.json").read_bytes()
    status, _, errors = launch("study", "--config", tiny_config, "--workdir", workdir)
    assert status == 2
    assert "(ValueError: no ink)" in errors and f"`python launch.py report {workdir}` makes it again" in errors
    assert (workdir / "summary.json").read_bytes() == before


def test_a_study_that_fails_in_part_leaves_a_complete_report_as_it_is(launch, tiny_config, workdir, monkeypatch):
    kept = {path: path.read_bytes() for path in workdir.glob("*.*")}

    def fail(variant, *_):
        if variant.name == "plain":
            raise OSError("disk full")

    monkeypatch.setattr(run, "_test_under_conditions", fail)
    status, _, errors = launch("study", "--config", tiny_config, "--workdir", workdir)
    assert status == 2
    assert f"{workdir}: its results have plain, which failed now; they stay as they are" in errors
    assert {path: path.read_bytes() for path in workdir.glob("*.*")} == kept
    monkeypatch.undo()
    assert launch("study", "--config", tiny_config, "--workdir", workdir)[0] == 0
