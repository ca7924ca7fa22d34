"""A report made again from results."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ser_jax.errors import UserError
from ser_jax.studies.render import render

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "docs" / "results" / "controls" / "null"


def test_a_published_result_is_rendered_without_jax(tmp_path, no_fonts):
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from ser_jax.report import vector_graphics\n"
        "vector_graphics.write_pdf = lambda figures, path: path.write_bytes(b'')\n"
        "import launch\n"
        f"status = launch.main(['report', {str(PUBLISHED)!r}, '--out', {str(tmp_path)!r}])\n"
        "assert not {'jax', 'tensorflow', 'torch'} & set(sys.modules), 'imported'\n"
        "sys.exit(status)"
    )
    made = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    summary = json.loads((PUBLISHED / "summary.json").read_text())
    text = (tmp_path / "report.md").read_text()
    assert all(f"| {name} |" in text for name in summary["variants"])
    assert "The corpus" in text or "We used the corpus null" in text


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
