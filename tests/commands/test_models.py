import functools
import json
import re
from pathlib import Path

import pytest

from ser_jax import models
from ser_jax.commands.main import main
from ser_jax.models import FAMILIES, cost, options_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def computed_once():
    """The costs of all families take ten seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "table", functools.cache(cost.table))
        yield


def test_the_table_as_text_and_as_json_is_that_of_the_documentation(capsys):
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    documented = re.search(r"```\n(64 features.*?)```", (ROOT / "docs" / "models.md").read_text(), re.DOTALL)
    assert documented.group(1) == printed


def test_json_has_the_setting_the_options_and_the_costs(capsys, monkeypatch):
    monkeypatch.setattr(models, "FAMILIES", {name: models.FAMILIES[name] for name in ("linear",)})
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


def test_the_table_has_every_family_with_every_value_of_its_switches():
    table = cost.table(7, 300, 64)
    assert [row["name"] for row in table] == list(FAMILIES)
    for row, family in zip(table, FAMILIES.values(), strict=True):
        assert row["options"] == options_of(family)
        assert {name: [v["value"] for v in values] for name, values in row["switches"].items()} == {
            name: list(values) for name, values in family.switches.items()
        }
        for values in row["switches"].values():
            default = next(value for value in values if value["default"])
            assert (default["parameters"], default["multiply_adds"]) == (row["parameters"], row["multiply_adds"])
            assert all(value["parameters"] > 0 for value in values if "refused" not in value)


def test_what_eca_costs_is_its_kernels():
    (row,) = (row for row in cost.table(7, 300, 64) if row["name"] == "shufflenet_v2")
    none, eca, _ = row["switches"]["attention"]
    halves = [24] * 4 + [48] * 8 + [96] * 4
    kernels = [3] * 12 + [3] * 4
    assert eca["parameters"] - none["parameters"] == sum(kernels)
    assert eca["multiply_adds"] - none["multiply_adds"] == sum(c * k for c, k in zip(halves, kernels, strict=True))
