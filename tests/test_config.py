import json
from pathlib import Path

import pytest

from ser_jax import config, models
from ser_jax.baselines import is_baseline
from ser_jax.errors import UserError
from ser_jax.studies import plan

ROOT = Path(__file__).parents[1]
QUICKSTART = str(ROOT / "configs" / "quickstart.py")
CONFIGS = sorted(Path(QUICKSTART).parent.rglob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_is_complete(path):
    loaded = config.load(str(path))
    assert set(loaded) == set(config.default())
    for variant in plan.make_plan(loaded).variants.values():
        assert is_baseline(variant["model"]) or models.build(num_classes=4, **variant["model"])


def test_an_override_changes_one_leaf():
    before, after = config.load(QUICKSTART), config.load(QUICKSTART, ["--config.model.width=1.0"])
    assert list(config.differences(before, after)) == ["config.model.width: 'tiny' -> 1.0"]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("--config.training.batch_sise=3", "'batch_sise'; did you mean 'batch_size'"),
        ("--config.modle.width=1.0", "'modle'; did you mean 'model'"),
        ("--config.training.batch_size=many", "batch_size"),
    ],
)
@pytest.mark.parametrize("kind", ["py", "json"])
def test_a_mistaken_override_is_one_line_that_names_it(override, expected, kind, tmp_path):
    path = QUICKSTART
    if kind == "json":
        if "many" in override:
            pytest.skip("a JSON file's values have no declared type")
        path = str(tmp_path / "config.json")
        Path(path).write_text(json.dumps(config.load(QUICKSTART)))
    with pytest.raises(UserError) as error:
        config.load(path, [override])
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_workdir_s_own_configuration_can_be_given_again(tmp_path):
    original = config.load(QUICKSTART)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(original))
    assert config.load(str(path)) == original
    changed = config.load(str(path), ["--config.optimizer.learning_rate=0.5"])
    assert changed["optimizer"]["learning_rate"] == 0.5


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match=r"configs/nothing\.py: no such file"):
        config.load("configs/nothing.py")


def test_a_model_s_options_are_overridden_whether_or_not_the_file_names_them():
    tree = config.load(QUICKSTART, ["--config.model.dropout=0.2", "--config.model.attention_stages=(3,4)"])
    assert tree["model"]["dropout"] == 0.2 and tree["model"]["attention_stages"] == [3, 4]
    assert tree["model"]["activation"] == "hard_swish"
    other = config.load(QUICKSTART, ["--config.model.hidden=32", "--config.model.name=rnn", "--config.seeds=(5,)"])
    assert other["model"] == {"name": "rnn", "hidden": 32}
    assert other["seeds"] == [5]


def test_a_file_that_fails_is_one_line(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("def get_config():\n    raise ValueError('out of cheese')\n")
    with pytest.raises(UserError, match=r"broken\.py: .*out of cheese") as error:
        config.load(str(path))
    assert "\n" not in str(error.value)


def test_a_duration_has_one_unit():
    tree = config.load(QUICKSTART)
    assert config.steps(config.merge(tree, {"training": {"train_epochs": 2.0}}), "training", "train", 10.5) == 21
    in_steps = config.load(QUICKSTART, ["--config.training.train_steps=7"])
    assert config.steps(in_steps, "training", "train", 10.5) == 7
    both = config.load(QUICKSTART, ["--config.training.train_steps=7", "--config.training.train_epochs=1.0"])
    with pytest.raises(UserError, match=r"train_steps=7 and config\.training\.train_epochs=1\.0: both are set"):
        config.steps(both, "training", "train", 10.5)
    with pytest.raises(UserError, match="neither is set"):
        config.steps(
            config.merge(both, {"training": {"train_steps": -1, "train_epochs": -1.0}}), "training", "train", 1.0
        )


def test_an_older_configuration_gets_the_defaults_of_what_came_later_but_keeps_its_model():
    older = {key: value for key, value in config.default().items() if key != "objective"}
    older = {**older, "model": {"name": "shufflenet_v2"}, "seeds": [4]}
    completed = config.completed(older)
    assert completed["objective"] == config.default()["objective"]
    assert (completed["model"], completed["seeds"]) == ({"name": "shufflenet_v2"}, [4])


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/results/**/config.json")), ids=lambda path: path.parent.name)
def test_the_configuration_of_every_published_result_can_be_run_again(path):
    assert config.load(str(path))["training"].keys() == config.default()["training"].keys()


def test_json_that_is_no_configuration_is_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("[1]")
    with pytest.raises(UserError, match="not a configuration"):
        config.load(str(path))
