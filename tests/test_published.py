"""What the documentation says was found is what the committed predictions say."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ser_jax import predictions
from ser_jax.statistics import metrics

ROOT = Path(__file__).parents[1]
FOLDERS = sorted(path.parent for path in ROOT.glob("docs/results/**/predictions.parquet"))
_FIGURE = re.compile(r"([+-]?\d+\.\d)(?: points| % UA)?(?:\*\*)? \[([+-]?\d+\.\d), ([+-]?\d+\.\d)\]")
# Searches whose predictions were not kept, as docs/recipes.md says of them.
_NOT_KEPT = ("The search", "Another network", "RAVDESS")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT / "docs" / "results")))
def test_published_summaries_are_of_the_predictions_beside_them(folder):
    table = predictions.read(folder / "predictions.parquet")
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary["variants"]) == set(table["variant"])
    for name, rows in table.groupby("variant"):
        pooled = metrics.confusion_counts(rows, "speaker").counts.sum(axis=1)
        ua = metrics.unweighted_accuracy(pooled)
        np.testing.assert_allclose(ua.mean(), summary["variants"][name]["ua"], atol=1e-9)
        np.testing.assert_array_equal(pooled.sum(axis=0), summary["variants"][name]["confusion"])


@pytest.mark.parametrize("name", ["README.md", "docs/answer.md", "docs/recipes.md"])
def test_every_figure_with_an_interval_is_one_of_a_published_summary(name):
    published = {figure for folder in FOLDERS for figure in _figures(json.loads((folder / "summary.json").read_text()))}
    found, unknown = 0, []
    for section in re.split(r"^## ", (ROOT / name).read_text(), flags=re.MULTILINE):
        if section.startswith(_NOT_KEPT) and name == "docs/recipes.md":
            continue
        prose = " ".join(re.sub(r"```.*?```", "", section, flags=re.DOTALL).split())
        for match in _FIGURE.finditer(prose):
            found += 1
            unknown += [match.group()] * (tuple(map(float, match.groups())) not in published)
    assert unknown == []
    assert found >= 10


def test_the_picture_of_the_answer_is_drawn_from_the_published_summaries(tmp_path):
    path = tmp_path / "answer.png"
    subprocess.run([sys.executable, "-m", "docs.answer_figure", path], cwd=ROOT, check=True)
    drawn, published = Image.open(path), Image.open(ROOT / "docs" / "answer.png")
    assert published.info["Description"] == drawn.info["Description"]
    assert len(drawn.info["Description"].splitlines()) == 13
    assert np.abs(np.asarray(drawn, float) - np.asarray(published, float)).mean() < 255e-3


def _figures(part: Any) -> Iterator[tuple[float, float, float]]:
    """All figures with an interval in a part of a summary, as percent with one decimal, in both directions."""
    if isinstance(part, list):
        for item in part:
            yield from _figures(item)
    elif isinstance(part, dict):
        for key, value in part.items():
            ends = part.get("ci95" if key == "estimate" or "difference" in key else f"{key}_ci95")
            if isinstance(value, float) and ends:
                yield tuple(_rounded(one) for one in (value, *ends))
                yield tuple(_rounded(-one) for one in (value, *reversed(ends)))
            yield from _figures(value)


def _rounded(share: float) -> float:
    return float(f"{100 * share:.1f}")
