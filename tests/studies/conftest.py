import contextlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def without_fonts():
    """Small studies leave their figures as PDF empty: embedding fonts would take half of a report's time."""
    from ser_jax.report import vector_graphics

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vector_graphics, "write_pdf", lambda figures, path: path.write_bytes(b""))
        yield


@pytest.fixture
def no_fonts():
    """For studies that a test runs by itself."""
    with without_fonts():
        yield


@pytest.fixture(scope="session")
def launch(tmp_path_factory):
    """Calls `launch.py` in this process with corpora in a folder of its own; returns (status, output, error output)."""
    import io

    from ser_jax.commands.main import main

    data = tmp_path_factory.mktemp("data")

    def call(*arguments: object) -> tuple[int, str, str]:
        output, errors = io.StringIO(), io.StringIO()
        arguments = [str(argument) for argument in arguments]
        if arguments[0] not in ("predict", "report", "verify"):
            arguments += ["--data_dir", str(data)]
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors), without_fonts():
            try:
                status = main(arguments)
            except SystemExit as stop:  # argparse's own
                status = stop.code
        return status, output.getvalue(), errors.getvalue()

    return call


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory):
    """The path of a study of two variants of the tiny training."""
    from ser_jax import config
    from tests.training.tiny import CONFIG

    study = {
        "variants": {"plain": {}, "augmented": {"augmentation": {"noise": 0.5}}},
        "comparisons": [["augmented", "plain"]],
        "margin": 3.0,
    }
    path = tmp_path_factory.mktemp("config") / "tiny.json"
    path.write_text(json.dumps(config.merge(CONFIG, {"study": study})))
    return path


@pytest.fixture(scope="session")
def workdir(launch, tiny_config, tmp_path_factory):
    """A finished study of the tiny training."""
    folder = tmp_path_factory.mktemp("study") / "work"
    status, output, errors = launch("study", "--config", tiny_config, "--workdir", folder)
    assert status == 0, errors
    (folder / "printed.txt").write_text(output)
    return folder
