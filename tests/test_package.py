"""The wheel, installed in an empty environment, has the command, the configurations and the default model."""

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ser_jax import __version__
from ser_jax.errors import UserError
from ser_jax.extras import EXTRAS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An environment with the wheel that was built from the sdist; what it needs is found among the tests' packages."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("package")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    assert [path.name for path in folder.glob("*.tar.gz")] == [f"ser_jax-{__version__}.tar.gz"]
    (wheel,) = folder.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "env")
    python = folder / "env" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    (own,) = (folder / "env" / "lib").glob("python*/site-packages")
    (own / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "env"


def run(*command, cwd=None):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(part) for part in command]
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def test_the_command_and_the_library_are_there(installed, tmp_path):
    command = installed / "bin" / "ser-jax"
    assert run(command, "--version", cwd=tmp_path).strip() == f"ser_jax {__version__}"
    described = run(command, "study", "--help", cwd=tmp_path)
    assert "usage: ser-jax study" in described and "ser-jax study configs/studies/attention.py" in described
    assert "launch.py" not in described
    listed = run(command, "list", "configurations", cwd=tmp_path)
    assert "configs/quickstart.py" in listed and "configs/studies/attention.py" in listed
    code = "import ser_jax, pathlib; p = pathlib.Path(ser_jax.__file__).parent; print(p, (p / 'py.typed').exists())"
    assert run(installed / "bin" / "python", "-c", code, cwd=tmp_path).split() == [str(package(installed)), "True"]


def package(installed):
    (folder,) = (installed / "lib").glob("python*/site-packages/ser_jax")
    return folder


def test_configurations_and_the_default_model_come_with_it(installed, tmp_path):
    code = (
        "from ser_jax import config\n"
        "from ser_jax.corpora import builders\n"
        "from ser_jax.report.references import BIBLIOGRAPHY\n"
        "from ser_jax.shipped import PRETRAINED\n"
        "from ser_jax.training import published\n"
        "assert config.load('quickstart') == config.load('configs/quickstart.py')\n"
        "print(config.load('studies/attention:emodb,cnn')['corpus']['name'])\n"  # it imports configs/recipe.py
        "print(published.read_metadata(PRETRAINED / 'emodb')['corpus']['name'], BIBLIOGRAPHY.is_file())\n"
    )
    assert run(installed / "bin" / "python", "-c", code, cwd=tmp_path).split() == ["emodb", "emodb", "True"]
    assert (package(installed) / "shipped_files" / "pretrained" / "emodb" / "README.md").is_file()


def pins(*names):
    """The pinned packages of requirement files."""
    lines = [line.partition("#")[0].strip() for name in names for line in (ROOT / name).read_text().splitlines()]
    found = [Requirement(line) for line in lines if line and not line.startswith("-r")]
    return {canonicalize_name(one.name): one for one in found}


def test_the_package_asks_for_what_the_tests_run_on():
    core = {canonicalize_name(one.name): one for one in map(Requirement, PROJECT["dependencies"])}
    assert core.keys() == pins("requirements.txt").keys()
    assert not core.keys() & {"tensorflow", "tensorflow-cpu", "tensorflow-datasets"}
    pinned = pins("requirements.txt", "requirements-test.txt", "requirements-references.txt")
    extras = {name: list(map(Requirement, of)) for name, of in PROJECT["optional-dependencies"].items()}
    assert extras.pop("all")[0].extras == extras.keys()
    for wanted in [*core.values(), *(one for of in extras.values() for one in of)]:
        (version,) = [str(one.version) for one in pinned[canonicalize_name(wanted.name)].specifier] or ["0"]
        assert wanted.specifier.contains(version) or not wanted.specifier, wanted
    assert {name: tuple(one.name for one in of) for name, of in extras.items()} == EXTRAS


def test_every_pin_of_the_lock_has_a_hash_and_is_that_of_the_requirements():
    locked = re.findall(
        r"^([\w.-]+)==([\w.]+)(?: ; [^\n]*)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", lock(), re.M
    )
    assert len(locked) == len(re.findall(r"^\w", lock(), re.M)) > 50
    versions = {canonicalize_name(name): version for name, version, _ in locked}
    for name, one in pins("requirements.txt").items():
        assert [str(pin.version) for pin in one.specifier] == [versions[name]]


def lock():
    return (ROOT / "requirements.lock").read_text()


@pytest.mark.parametrize("module", ["tensorflow", "tensorflow_datasets"])
def test_what_needs_tensorflow_says_so_before_anything_is_done(module, tmp_path, monkeypatch):
    from ser_jax import config
    from ser_jax.corpora.prepare import prepare_corpus
    from ser_jax.studies.plan import make_plan
    from ser_jax.studies.variants import prepare
    from tests.training.tiny import CONFIG

    monkeypatch.setitem(sys.modules, module, None)
    message = f"needs {module}, which is not installed; expected `pip install tensorflow-cpu tensorflow-datasets"
    with pytest.raises(UserError, match=f"prepare emodb: {message}"):
        prepare_corpus("emodb", None, tmp_path)
    assert list(tmp_path.iterdir()) == []
    plan = make_plan(config.check(config.merge(config.completed(CONFIG), {"feed": "streaming"})))
    with pytest.raises(UserError, match=f"the streaming feed: {message}"):
        prepare(plan, str(tmp_path))
