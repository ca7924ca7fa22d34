import subprocess
import sys

import numpy as np
import pytest
from matplotlib import image

from ser_jax.report import confusion


def make_summary(variants, classes):
    counts = np.random.default_rng(0).integers(0, 30, (classes, classes)) + 90 * np.eye(classes, dtype=int)
    variant = {"confusion": counts.tolist(), "ua": 0.7, "ua_ci95": [0.6, 0.8]}
    emotions = [f"emotion {i}" for i in range(classes)]
    names = [f"variant {i}" for i in range(variants)]
    return {"corpus": "c", "emotions": emotions, "variants": {name: variant for name in names}}


@pytest.mark.parametrize(("variants", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (4, 2, 3)])
def test_confusion_figure_grows_with_variants_and_wraps_after_three(tmp_path, variants, rows, columns):
    confusion.confusion_figure(make_summary(variants, 4), tmp_path / "confusion.png")
    height, width = image.imread(tmp_path / "confusion.png").shape[:2]
    assert (height, width) == pytest.approx((150 * (rows * 4 + 0.6), 150 * columns * 3.8), abs=2)
    assert [file.name for file in tmp_path.iterdir()] == ["confusion.png"]


def test_more_classes_get_more_room(tmp_path):
    confusion.confusion_figure(make_summary(1, 8), tmp_path / "confusion.png")
    assert image.imread(tmp_path / "confusion.png").shape[1] > 150 * 8 * 0.6


def test_an_absent_class_and_a_missing_interval_are_drawn_without_a_warning(tmp_path, recwarn):
    made = make_summary(1, 4)
    made["variants"]["variant 0"]["confusion"][2] = [0, 0, 0, 0]
    made["variants"]["variant 0"]["ua_ci95"] = None
    confusion.confusion_figure(made, tmp_path / "confusion.png")
    assert not recwarn.list


def test_importing_reports_imports_neither_matplotlib_nor_jax():
    code = (
        "import sys; from ser_jax import predictions; from ser_jax.report import confusion, summary, terminal; "
        "sys.exit(any(name in sys.modules for name in ('matplotlib', 'jax', 'tensorflow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
