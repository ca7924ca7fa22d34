import json
from pathlib import Path

import pytest

from ser_jax import config, models
from ser_jax.baselines import is_baseline
from ser_jax.config.kinds import guess
from ser_jax.errors import UserError
from ser_jax.studies import plan

ROOT = Path(__file__).parents[2]
QUICKSTART = str(ROOT / "configs" / "quickstart.py")
CONFIGS = sorted(Path(QUICKSTART).parent.rglob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_is_complete(path):
    loaded = config.load(str(path))
    assert set(loaded) == set(config.default())
    for variant in plan.make_plan(loaded).variants.values():
        assert is_baseline(variant["model"]) or models.build(num_classes=4, **variant["model"])


def test_a_configuration_equals_its_own_copy_as_json(tmp_path):
    path = tmp_path / "steps.py"
    path.write_text("""def get_config():
    return {"optimizer": {"schedule_arguments": {"boundaries_and_scales": {9: 0.5, 10: (1, 2)}}}}
""")
    loaded = config.load(str(path))
    assert json.loads(json.dumps(loaded)) == loaded


def test_an_override_changes_one_leaf():
    before, after = config.load(QUICKSTART), config.load(QUICKSTART, ["--config.model.width=1.0"])
    assert list(config.differences(before, after)) == ["config.model.width: 'tiny' -> 1.0"]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("--config.training.batch_sise=3", "'batch_sise'; did you mean batch_size"),
        ("--config.modle.width=1.0", "'modle'; did you mean model"),
        ("--config.optimizer.learning-rate=1", "config.optimizer has no 'learning-rate'; did you mean learning_rate?"),
        ("--config.training.batch_size=many", "config.training.batch_size: found 'many', expected a whole number"),
        ("--config.optimizer.learning_rate=fast", "learning_rate: found 'fast', expected a number above 0"),
        ("--config.seeds=1.5", "config.seeds: found [1.5], expected a list of different whole numbers"),
        ("--config.seeds=0,0", "0 is in it twice"),
        ("--config.feed=tape", "config.feed: found 'tape', expected one of auto, resident, streaming"),
        ("--config.frontend.normalization=speakers", "train, speaker; did you mean speaker?"),
        ("--config.folds[0]=0", "config has no 'folds[0]'; did you mean folds?"),
        ("--config.study.comparisons=-1", "config.study.comparisons: found -1, expected a list of pairs"),
        ("--config.protocol={1: 2}", "--config.protocol: a group of options; expected one of them"),
        ("--config.feed.kind=auto", "config.feed is no group of options; expected --config.feed=VALUE"),
        ("--config.model=3", "config.model: found 3, expected a dict with the name of a model"),
        ("--config.optimizer.rates=bias,0", "expected a dict or list of pairs, pattern and share"),
        ('--config.optimizer.rates={"(": 0.1}', "; '(' is no regular expression"),
        ('--config.optimizer.rates={"a{99999999999}": 0.1}', "; 'a{99999999999}' is no regular expression"),
        ('--config.optimizer.rates={"first": -1}', "; -1 is not a number of at least 0"),
        ('--config.optimizer.rates={"first": NaN}', "; nan is not a number of at least 0"),
        ('--config.optimizer.rates=[["a", 1], ["a", 0]]', "; 'a' is in it twice"),
    ],
)
@pytest.mark.parametrize("kind", ["py", "json"])
def test_a_mistaken_override_is_one_line_that_names_it(override, expected, kind, tmp_path):
    path = QUICKSTART
    if kind == "json":
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


def test_rates_are_kept_in_their_order_and_replaced_whole():
    for text in ('{"^b/": 1, "a": 0.5}', '[["^b/", 1], ["a", 0.5]]', "{'^b/': 1, 'a': 0.5}"):
        tree = config.load(QUICKSTART, [f"--config.optimizer.rates={text}"])
        assert tree["optimizer"]["rates"] == [["^b/", 1.0], ["a", 0.5]]
    assert config.merge(tree, {"optimizer": {"rates": {"a": 0}}})["optimizer"]["rates"] == [["a", 0]]
    assert list(config.differences(tree, config.load(QUICKSTART))) == [
        "config.optimizer.rates: [['^b/', 1.0], ['a', 0.5]] -> []"
    ]


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
    in_steps = config.load(QUICKSTART, ["--config.training.train_steps=70"])
    assert config.steps(in_steps, "training", "train", 10.5) == 70
    with pytest.raises(UserError, match=r"train_steps=70 and config\.training\.train_epochs=1\.0: both are set"):
        config.load(QUICKSTART, ["--config.training.train_steps=70", "--config.training.train_epochs=1.0"])


def test_durations_that_are_not_set_follow_from_the_number_of_utterances():
    tree = config.completed({"training": {"batch_size": 16}})
    durations = [
        [
            config.steps(tree, section, name, utterances / 16)
            for section, name in (("training", "train"), ("optimizer", "warmup"), ("training", "validate"))
        ]
        for utterances in (480, 4 * 480, 100 * 480)
    ]
    assert durations == [[1500, 150, 300], [3000, 300, 600], [15000, 1500, 3000]]  # the square root of as many times


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


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0,1,2", [0, 1, 2]), ("[0,1]", [0, 1]), ("(0,)", [0]), ("[0, 1]", [0, 1]), ("7", [7]), ("'1','2'", [1, 2])],
)
def test_a_list_is_written_as_is_usual_in_python_json_or_a_shell(text, seeds):
    assert config.load(QUICKSTART, [f"--config.seeds={text}"])["seeds"] == seeds


@pytest.mark.parametrize("text", ["known_20,known_10", "[known_20,known_10]", "('known_20', 'known_10')"])
def test_a_list_of_names_needs_no_quotation_marks(text):
    loaded = config.load(QUICKSTART, [f"--config.evaluation.robustness={text}"])
    assert loaded["evaluation"]["robustness"] == ["known_20", "known_10"]
    empty = config.load(QUICKSTART, ["--config.evaluation.robustness=[]", "--config.corpus.name=12"])
    assert (empty["evaluation"]["robustness"], empty["corpus"]["name"]) == ([], "12")


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("recipe.py:mine", {"name": "mine"}),
        ("recipe.py:mine,rnn", {"name": "mine"}),
        ("recipe.py:mine,cnn,transductive", {"name": "mine"}),
        ("studies/attention.py:mine", {"name": "mine"}),
        ("studies/attention.py:mine,eca", {"name": "mine"}),
        ("studies/sweep.py:mine", {"name": "mine"}),
        ("studies/augmentation.py:mine", {"name": "mine"}),
        ("studies/placement.py:mine", {"name": "mine"}),
        ("studies/precision.py:mine,cnn", {"name": "mine"}),
        ("studies/protocols.py:mine", {"name": "mine"}),
        ("studies/recipes.py:mine,input", {"name": "mine"}),
        ("baselines.py:mine", {"name": "mine"}),
        ("families.py:mine", {"name": "mine"}),
        ("pretrained.py:mine,everything", {"name": "mine"}),
    ],
)
def test_every_configuration_takes_any_corpus(argument, expected):
    variants = plan.make_plan(config.load(str(ROOT / "configs" / argument))).variants
    assert {variant["corpus"]["name"] for variant in variants.values()} == {expected["name"]}


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        (
            "studies/attention.py:mine,banana",
            "no question 'banana'; expected one of shufflenet, encoder, recurrent, eca",
        ),
        ("studies/attention.py:mine,cnn,banana", "question cnn: takes no encoder, found 'banana'"),
        ("studies/attention.py:mine,encodr", "did you mean encoder"),
        ("studies/recipes.py:mine,imput", "did you mean input"),
        ("recipe.py:mine,cnn,inductiv", "did you mean inductive"),
        ("recipe.py:mine,cnn,inductive,more", "found 4 arguments, expected"),
        ("recipe.py:mine,cnn,inductive,more", "recipe.py:CORPUS,MODEL,USE"),
        ("quickstart.py:mine", "found 1 argument, expected"),
        ("controls.py:nul", "did you mean null"),
    ],
)
def test_an_unknown_argument_is_refused_with_what_there_is(argument, expected):
    with pytest.raises(UserError, match=expected):
        config.load(str(ROOT / "configs" / argument))


def test_an_unknown_model_of_the_recipe_is_refused_with_what_there_is():
    with pytest.raises(UserError, match="unknown model: 'banana'; expected one of attention_rnn, cnn"):
        models.build(num_classes=4, **config.load(str(ROOT / "configs/recipe.py:mine,banana"))["model"])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"study": {"variants": {"a": 1}}}', "config.study.variants: found {'a': 1}, expected a dict of name"),
        ('{"study": {"questions": -1}}', "config.study.questions: found -1, expected a list of dicts"),
        ('{"folds": 1' + "0" * 5000 + "}", "not JSON"),
        ('{"modle": {}}', "config has no 'modle'; did you mean model?"),
        ('{"model": {"name": 3}}', "config.model.name: found 3, expected the name of a model"),
        ('{"folds": [], "folds": [1]}', "not JSON ('folds' occurs twice in an object)"),
        ('{"study": {"title": "\\ud800"}}', "not JSON (a text in it has half a character"),
        (f'{{"seeds": {[*range(30_000), 5]}}}', "; 5 is in it twice"),
        ('{"seeds": [NaN]}', "config.seeds: found [nan]"),
    ],
    ids=lambda text: text[:30],
)
def test_a_json_file_that_makes_no_sense_is_refused_in_one_short_line(content, expected, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        config.load(str(path))
    assert expected in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) <= 300


def test_a_number_with_an_underscore_stays_a_text():
    assert [guess(found) for found in ("1_0", "10", "a_b")] == ["1_0", 10, "a_b"]
    assert guess("[1_0, 2]") == guess("['1_0', 2]") == guess("1_0,2") == ["1_0", 2]
    assert guess("{'b1': 1_0}") == "{'b1': 1_0}"


def test_a_json_file_with_a_byte_order_mark_is_read_and_one_in_utf_16_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"seeds": [3]}', encoding="utf-8-sig")
    assert config.load(str(path))["seeds"] == [3]
    path.write_text('{"seeds": [3]}', encoding="utf-16")
    with pytest.raises(UserError, match=r"not JSON .*utf-8"):
        config.load(str(path))


def test_a_configuration_that_ends_the_process_is_refused(tmp_path):
    (tmp_path / "a.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(UserError, match=r"a\.py: SystemExit: 0"):
        config.load(str(tmp_path / "a.py"))
