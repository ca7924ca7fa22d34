import json
import re
from pathlib import Path

import pytest

from ser_jax import models

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def launch():
    """Calls `launch.py`; returns its exit status."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("launch", ROOT / "launch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_the_table_as_text_and_as_json_is_that_of_the_documentation(launch, capsys):
    assert launch(["models"]) == 0
    printed = capsys.readouterr().out
    documented = re.search(r"```\n(64 features.*?)```", (ROOT / "docs" / "models.md").read_text(), re.DOTALL)
    assert documented.group(1) == printed


def test_json_has_the_setting_the_options_and_the_costs(launch, capsys, monkeypatch):
    monkeypatch.setattr(models, "FAMILIES", {name: models.FAMILIES[name] for name in ("linear",)})
    from ser_jax.models import cost

    monkeypatch.setattr(cost, "FAMILIES", models.FAMILIES)
    assert launch(["models", "--json", "--features", "20", "--hop_ms", "20", "--seconds", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["features"], found["hop_ms"], found["frames"]) == (20, 20.0, 100)
    (row,) = found["models"]
    assert (row["name"], row["parameters"], row["multiply_adds"]) == ("linear", 7 * 41, 7 * 40)
    assert row["options"] == {"attention": "none"}


@pytest.mark.parametrize("option", ["--features=0", "--hop_ms=-1", "--seconds=nan"])
def test_a_setting_that_no_audio_has_is_refused(launch, capsys, option):
    assert launch(["models", option]) == 2
    assert "expected a positive number" in capsys.readouterr().err
