"""Which code decides a result: all that is imported to compute it, and nothing else."""

import ast
import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ser_jax
from ser_jax.models import FAMILIES
from ser_jax.studies import source_code

PACKAGE = Path(ser_jax.__file__).parent


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """The code of ser_jax, to be changed."""
    return shutil.copytree(PACKAGE, tmp_path_factory.mktemp("code") / "ser_jax", ignore=shutil.ignore_patterns("*.pyc"))


def version_after(copied, file, model):
    """The version of a model's code with one more constant in a file."""
    path = copied / file
    before = path.read_text()
    path.write_text(before + "\nMORE = 1\n")
    try:
        return source_code.code_version({"model": {"name": model}}, copied)
    finally:
        path.write_text(before)


# Every room in which a change can change what is learnt or predicted.
OF_A_NETWORK = [
    "config/tree.py",
    "corpora/features.py",
    "corpora/perturbations.py",
    "corpora/silence.py",
    "corpora/tracks.py",
    "corpora/vocabulary.py",
    "feeds/resident.py",
    "frontend/statistics.py",
    "inference/predict.py",
    "inference/windows.py",
    "models/__init__.py",
    "models/cnn.py",
    "models/layers.py",
    "predictions.py",
    "studies/more_seeds.py",
    "studies/robustness.py",
    "studies/variants.py",
    "training/data.py",
    "training/devices.py",
    "training/loop.py",
    "training/runs.py",
    "training/setup.py",
    "training/step.py",
]
OF_A_BASELINE = [
    *(f"baselines/{name}.py" for name in ("columns", "dimensions", "functionals", "linear", "opensmile")),
    "frontend/summaries.py",
]
OF_NEITHER = [
    "api.py",
    "commands/train.py",
    "models/rnn.py",
    "models/cost.py",
    "report/write.py",
    "statistics/paired.py",
]


def test_a_copy_of_the_code_has_its_version(copied):
    config = {"model": {"name": "cnn"}}
    assert source_code.code_version(config, copied) == source_code.code_version(config)


@pytest.mark.parametrize("file", OF_A_NETWORK)
def test_a_change_to_what_trains_and_evaluates_a_network_is_another_version(copied, file):
    assert version_after(copied, file, "cnn") != source_code.code_version({"model": {"name": "cnn"}})


@pytest.mark.parametrize("file", [*OF_A_BASELINE, "studies/baselines.py"])
def test_a_change_to_what_fits_a_baseline_is_another_version(copied, file):
    assert version_after(copied, file, "ridge") != source_code.code_version({"model": {"name": "ridge"}})


@pytest.mark.parametrize("file", OF_NEITHER)
def test_other_code_does_not_count(copied, file):
    for model in ("cnn", "ridge"):
        assert version_after(copied, file, model) == source_code.code_version({"model": {"name": model}})


def test_baselines_and_networks_do_not_depend_on_each_other_s_code(copied):
    assert version_after(copied, "training/step.py", "ridge") == source_code.code_version({"model": {"name": "ridge"}})
    assert version_after(copied, "baselines/linear.py", "cnn") == source_code.code_version({"model": {"name": "cnn"}})


def test_imports_inside_functions_and_of_packages_are_followed(tmp_path):
    package = tmp_path / "ser_jax"
    (package / "room").mkdir(parents=True)
    sources = {
        "__init__.py": "",
        "first.py": "def f():\n    import ser_jax.room.second\n",
        "room/__init__.py": "from ser_jax import third\n",
        "room/second.py": "from ser_jax.third import value\nimport os\n",
        "third.py": "value = 1\n",
        "fourth.py": "",
    }
    for name, source in sources.items():
        (package / name).write_text(source)
    found = source_code.reachable(["ser_jax.first"], {"ser_jax": package})
    assert set(found) == {"ser_jax", "ser_jax.first", "ser_jax.room", "ser_jax.room.second", "ser_jax.third"}
    assert found["ser_jax.room"] == package / "room/__init__.py"
    assert "ser_jax.third" not in source_code.reachable(["ser_jax.first"], {"ser_jax": package}, {"ser_jax.third"})


def test_all_that_python_loads_of_ser_jax_to_train_and_predict_is_among_the_files():
    """Other families come with the table of families, and are left out."""
    code = "import sys, ser_jax.training.loop, ser_jax.inference.tables; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    loaded = {name for name in run.stdout.split() if name.split(".")[0] == "ser_jax"}
    found = source_code.files_behind({"model": {"name": "cnn"}}, PACKAGE)
    others = {family.module.__module__ for name, family in FAMILIES.items() if name != "cnn"}
    missed = loaded - set(found)
    assert missed <= set(source_code.reachable(others, {"ser_jax": PACKAGE}))
    assert all(name.startswith("ser_jax.models.") for name in missed)
    assert not others & set(found)


def used_by(module):
    """The modules of models that a module has something of, directly or not, as Python has loaded them."""
    found, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name in found or not str(name).startswith("ser_jax.models."):
            continue
        found.add(name)
        for value in vars(sys.modules[name]).values():
            waiting.append(value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_modules_that_a_family_uses_are_in_its_key_and_no_other_family_is(family):
    modules = {name: each.module.__module__ for name, each in FAMILIES.items()}
    used = used_by(modules[family])
    found = set(source_code.files_behind({"model": {"name": family}}, PACKAGE))
    assert used <= found
    assert found & set(modules.values()) == used & set(modules.values())
    assert ("ser_jax.models.transformer" in used) == (family in ("encoder_head", "transformer"))


@pytest.fixture
def own_code(tmp_path, monkeypatch):
    """A folder of a model's code outside the package: what it imports, and what it does not."""
    sources = {
        "own_code_for_tests/__init__.py": "",
        "own_code_for_tests/parts.py": "from .deep import below\nimport beside_for_tests\nVALUE = below.VALUE\n",
        "own_code_for_tests/deep/__init__.py": "from .. import last\n",
        "own_code_for_tests/deep/below.py": "VALUE = 1\n\ndef later():\n    import ser_jax.models.transformer\n",
        "own_code_for_tests/last.py": "",
        "own_code_for_tests/unused.py": "",
        "beside_for_tests.py": "import numpy\n",
        "unused_for_tests.py": "",
    }
    for name, source in sources.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] in ("own_code_for_tests", "beside_for_tests")]:
        del sys.modules[name]


def test_code_outside_the_package_counts_with_all_that_it_imports_there(own_code):
    config = {"model": {"name": "own_code_for_tests.parts:VALUE"}}
    before, imported = source_code.code_version(config), []
    for path in sorted(own_code.rglob("*.py")):
        source = path.read_text()
        path.write_text(source + "MORE = 1\n")
        imported += [path.name] if source_code.code_version(config) != before else []
        path.write_text(source)
    assert imported == ["beside_for_tests.py", "__init__.py", "__init__.py", "below.py", "last.py", "parts.py"]
    found = source_code.files_behind(config, PACKAGE)
    assert "ser_jax.models.transformer" in found and "ser_jax.models.cnn" not in found
    assert not any(name.startswith("numpy") for name in found)


def test_of_installed_code_its_own_package_alone_counts(own_code, monkeypatch):
    installed = own_code / "lib" / "site-packages"
    shutil.copytree(own_code / "own_code_for_tests", installed / "own_code_for_tests")
    (own_code / "beside_for_tests.py").rename(installed / "beside_for_tests.py")
    monkeypatch.syspath_prepend(installed)
    found = source_code.files_behind({"model": {"name": "own_code_for_tests.parts:VALUE"}}, PACKAGE)
    assert found["own_code_for_tests.last"] == installed / "own_code_for_tests" / "last.py"
    assert "beside_for_tests" not in found


def test_what_newer_pythons_add_to_a_syntax_tree_does_not_count(monkeypatch):
    source = "def twice(x: int) -> int:\n    return 2 * x\n"
    meaning = source_code._meaning.__wrapped__
    before = meaning(source)
    monkeypatch.setattr(ast.FunctionDef, "_fields", (*ast.FunctionDef._fields, "later"))
    monkeypatch.setattr(ast.FunctionDef, "later", [], raising=False)
    assert meaning(source) == before
    monkeypatch.setattr(ast.FunctionDef, "later", ["something"])
    assert meaning(source) != before


def test_comments_and_docstrings_are_no_changes_but_all_else_is():
    code = 'def f(x):\n    """Adds one."""\n    return x + 1\n'
    meaning = source_code._meaning
    assert meaning(code) == meaning("# why\ndef f(x):\n\n    return (x + 1)  # because\n")
    assert meaning(code) != meaning(code.replace("+ 1", "+ 2"))
    assert meaning('def f():\n    """Only this."""\n') == meaning("def f():\n    pass\n")
