import json
import re
from pathlib import Path

import pytest

from ser_jax import models
from ser_jax.commands.main import main

ROOT = Path(__file__).parents[2]


def test_the_table_as_text_and_as_json_is_that_of_the_documentation(capsys):
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    documented = re.search(r"```\n(64 features.*?)```", (ROOT / "docs" / "models.md").read_text(), re.DOTALL)
    assert documented.group(1) == printed


def test_json_has_the_setting_the_options_and_the_costs(capsys, monkeypatch):
    monkeypatch.setattr(models, "FAMILIES", {name: models.FAMILIES[name] for name in ("linear",)})
    from ser_jax.models import cost

    monkeypatch.setattr(cost, "FAMILIES", models.FAMILIES)
    assert main(["models", "--json", "--features", "20", "--hop_ms", "20", "--seconds", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["features"], found["hop_ms"], found["frames"]) == (20, 20.0, 100)
    (row,) = found["models"]
    assert (row["name"], row["parameters"], row["multiply_adds"]) == ("linear", 7 * 41, 7 * 40)
    assert row["options"] == {"attention": "none"}


@pytest.mark.parametrize("option", ["--features=0", "--hop_ms=-1", "--seconds=nan"])
def test_a_setting_that_no_audio_has_is_refused(capsys, option):
    assert main(["models", option]) == 2
    assert "expected a positive number" in capsys.readouterr().err
