import contextlib
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import pytest

from ser_jax import __version__, interruption
from ser_jax.commands.common import default_workdir
from ser_jax.commands.list import KINDS
from ser_jax.commands.main import COMMANDS, main
from ser_jax.commands.terminal import visible_output
from ser_jax.errors import UserError

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "command", [(), *((name,) for name in COMMANDS)], ids=lambda value: " ".join(value) or "launch"
)
def test_help_is_complete_quick_and_imports_neither_jax_nor_tensorflow(command):
    code = (
        "import runpy, sys; sys.argv = ['launch.py', *sys.argv[1:]]\n"
        "try: runpy.run_path('launch.py', run_name='__main__')\n"
        "finally: print('HEAVY', sorted({'jax', 'tensorflow', 'numpy', 'pandas'} & set(sys.modules)))"
    )
    begun = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", code, *command, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    seconds = time.monotonic() - begun
    assert result.returncode == 0, result.stderr
    assert result.stdout.rstrip().endswith("HEAVY []")
    assert "usage: launch.py" in result.stdout
    for name in COMMANDS if not command else ():
        assert name in result.stdout
    assert seconds < 3  # under 0.2 s on a quiet machine


@pytest.mark.parametrize("command", [("audit", "synthetic"), ("predict", "a.wav"), ("train", "configs/quickstart.py")])
def test_a_python_without_the_packages_is_told_in_one_line(command):
    bare = [sys.executable, "-S", "launch.py", *command]  # without site-packages, as where no environment is active
    result = subprocess.run(bare, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2 and result.stdout == "", result.stderr
    assert re.fullmatch(r"error: \S+: has no package \w+; expected the Python of an environment .*\n", result.stderr)
    assert "source .venv/bin/activate" in result.stderr and len(result.stderr) < 300


def test_a_reader_that_has_enough_of_the_output_ends_a_command_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "launch.py", "compare", "docs/results/tracks"]
    result = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, "")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("list protocols >&-", (0, 0)),
        ("trian >&-", (2, 1)),
        ("trian 2>&-", (2, 0)),
        ("predict - --workdir emodb <&-", (2, "standard input: empty, expected audio")),
        ("list protocols >/dev/full", (2, "error: standard output: No space left on device (errno 28)\n")),
        ("list --help >/dev/full", (2, "error: standard output: No space left on device (errno 28)\n")),
        ("list protocols >/dev/full 2>/dev/full", (2, 0)),
        ("trian 2>/dev/full", (2, 0)),
    ],
)
def test_standard_streams_that_are_closed_or_full(command, expected):
    if "/dev/full" in command and not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    shell = f'"{sys.executable}" launch.py {command}'
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    result = subprocess.run(
        shell, shell=True, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment, check=False
    )
    status, errors = expected
    assert result.returncode == status, result.stderr
    assert errors in result.stderr if isinstance(errors, str) else result.stderr.count("\n") == errors, result.stderr
    assert "Traceback" not in result.stderr and "Exception ignored" not in result.stderr


def test_importing_the_package_imports_neither_jax_nor_tensorflow():
    code = "import sys, ser_jax, ser_jax.corpora; print({'jax', 'tensorflow'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_training_on_the_resident_feed_imports_no_tensorflow():
    code = "import sys, ser_jax.studies.run; print('tensorflow' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def call(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return status, output.out, output.err


def test_without_a_command_the_help_is_printed(capsys):
    status, output, _ = call(capsys)
    assert status == 0 and output.startswith("usage:") and "study" in output


def test_the_version_is_that_of_the_citation(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == f"ser_jax {__version__}"
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], "no command 'trian'; did you mean train?"),
        (["study"], "study: found none, expected one configuration"),
        (["study", "configs/quickstart.py", "--config", "configs/tracks.py"], "quickstart.py and configs/tracks.py"),
        (["study", "configs/nothing.py"], "configs/nothing.py: no such file"),
        (["study", "configs/quickstart.py", "--work_dir", "x"], "--work_dir is not an option of this command; did you"),
        (["models", "--config.seeds=3"], "--config.seeds=3 is not an option of this command"),
        (["train", "configs/quickstart.py", "--config.seeds"], "--config.seeds: found no value, expected"),
        (["train", "--config.seeds", "0,0", "configs/quickstart.py"], "config.seeds: found [0, 0], expected"),
        (
            ["train", "--config.seeds", "0", "1", "0", "configs/quickstart.py"],
            "config.seeds: found [0, 1, 0], expected",
        ),
        (
            ["train", "--config.seeds=[0,", "1,", "0]", "configs/quickstart.py"],
            "config.seeds: found [0, 1, 0], expected",
        ),
        (["train", "--config.model.name=cnn", "3", "configs/quickstart.py"], "quickstart.py"),
        (["train", "configs/quickstart.py", "--config.study.title=a [b", "x"], "train: x is not an option"),
        (
            ["train", "configs/quickstart.py", "--config.study.title=a"],
            "train: found --config.study.title=a, but no var",
        ),
        (["train", "--config.seeds=[0,", "--workdir", "x", "configs/nothing.py"], "configs/nothing.py: no such file"),
        (["train", "configs/quickstart.py", "--config.optimizer.learning-rate=1"], "did you mean learning_rate?"),
        (["--config.seeds=3"], "no command before --config.seeds=3"),
        (["list", "modles"], "no 'modles'; did you mean models?"),
        (
            ["compare", "--margin", "x", "a"],
            "compare: argument --margin: invalid float value: 'x'; see ",
        ),
        (["compare", "--margin", "1_0", "a"], "compare: argument --margin: invalid float value: '1_0'; see "),
        (["predict", "--seed", "1_0", "a"], "predict: argument --seed: invalid int value: '1_0'; see "),
        (["train", "--config.seeds=1_0", "configs/quickstart.py"], "config.seeds: found ['1_0'], expected"),
        (
            ["train", "--config.optimizer.learning_rate=1_0", "configs/quickstart.py"],
            "found '1_0', expected a number",
        ),
        (["export"], "export: the following arguments are required: MODEL, --to, --out; see"),
        (["status", "nowhere"], "nowhere: no config.json"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line_and_status_2(capsys, arguments, expected):
    status, _, errors = call(capsys, *arguments)
    assert status == 2 and expected in errors
    assert errors.startswith("error: ") and errors.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/x/log"),
            "runs/x/log: No space left on device (errno 28)",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "a", None, "b"), "a, b: Permission denied (errno 13)"),
        (OSError(errno.ENOSPC, "No space left on device"), "the operating system: No space left on device (errno 28)"),
        (MemoryError(), "not enough memory"),
        (MemoryError("Unable to allocate 9 GiB"), "not enough memory: Unable to allocate 9 GiB"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating 9 bytes"),
            "not enough memory on the device (RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes); expected fewer",
        ),
        (RecursionError(), "nested too deeply"),
    ],
    ids=repr,
)
def test_what_the_machine_refuses_is_one_line_and_status_2(capsys, monkeypatch, error, expected):
    def fail(args):
        raise error

    monkeypatch.setattr("ser_jax.commands.models.run", fail)
    status, _, errors = call(capsys, "models")
    assert (status, errors.count("\n")) == (2, 1) and expected in errors


def test_no_terminal_obeys_a_name_and_no_message_is_long(capsys, monkeypatch):
    def fail(args):
        print("\x1b[2J\u009b\u202ename\x7f", '{"a": "\u009b"}', "\U0001f469\u200d\U0001f52c", sep="\t")
        raise UserError("\x1b]0;title\x07\n" + 5000 * "long " + "; did you mean b?")

    monkeypatch.setattr("ser_jax.commands.models.run", fail)
    status, output, errors = call(capsys, "models")
    assert output == '\\u001b[2J\\u009b\\u202ename\\u007f\t{"a": "\\u009b"}\t\U0001f469\u200d\U0001f52c\n'
    assert json.loads(output.split("\t")[1]) == {"a": "\u009b"}
    assert (
        status == 2 and errors.startswith("error: \\x1b]0;title\\x07 long ") and len(errors) == len("error: \n") + 300
    )
    assert errors.endswith("; did you mean b?\n") and errors.count("\n") == 1


def test_what_an_encoding_lacks_is_printed_as_escapes_of_json(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    with visible_output():
        print('{"a": "\U0001f600 é"}', flush=True)
    output = stream.buffer.getvalue()
    assert output == b'{"a": "\\ud83d\\ude00 \\u00e9"}\n' and json.loads(output) == {"a": "\U0001f600 é"}


def test_a_folder_that_cannot_be_written_is_one_line(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    arguments = ["--workdir", tmp_path / "file" / "run", "--data_dir", tmp_path, "--config.folds=0"]
    status, _, errors = call(capsys, "train", "configs/quickstart.py", *arguments)
    assert status == 2 and errors.strip().splitlines()[-1].startswith(f"error: {tmp_path}/file")


def test_a_platform_that_is_not_there_is_one_line():
    code = (
        "import os, sys; os.environ['JAX_PLATFORMS'] = 'cuda'\n"
        "from ser_jax.commands.main import main; sys.exit(main(['study', 'configs/quickstart.py', '--dry_run']))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        pytest.skip("there is a GPU")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
    assert result.stderr.startswith("error: JAX_PLATFORMS=cuda: ")


DEAF = """
import sys, time
from ser_jax import interruption
from ser_jax.commands import models
from ser_jax.commands.main import main
interruption.GRACE = 0.5
def deaf(args):
    print("begun", flush=True)
    while True:
        try: time.sleep(9)
        except KeyboardInterrupt: pass
models.run = deaf
sys.exit(main(["models"]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_in_a_library_that_hears_no_signal_ends_all_the_same(number):
    process = subprocess.Popen(
        [sys.executable, "-c", DEAF], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "interrupted\n")


WRITING = """
import os, pathlib, sys, time
from ser_jax import interruption
from ser_jax.commands import models
from ser_jax.commands.main import main
from ser_jax.files import atomic_file, atomic_folder
interruption.GRACE = 0.5
folder, number, where = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
(folder / "lazy.py").write_text(f"import os, time; os.kill(os.getpid(), {number}); time.sleep(9)")
sys.path.insert(0, str(folder))
def write(args):
    with atomic_folder(folder / "results") as results, atomic_file(folder / "summary") as summary:
        (results / "half").touch(), summary.write_text("half")
        if where == "import":
            import lazy
        while True:
            try: os.kill(os.getpid(), number); time.sleep(9)
            except KeyboardInterrupt: pass
models.run = write
sys.exit(main(["models"]))
"""


@pytest.mark.parametrize("where", ["import", "deaf library"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_something_is_written_leaves_nothing_half_written(tmp_path, number, where):
    """Where the process ends at once: in an import that the writer needs, and in what hears no signal."""
    command = [sys.executable, "-c", WRITING, str(tmp_path), str(int(number)), where]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert (result.returncode, result.stderr) == (130, "interrupted\n")
    assert {path.name for path in tmp_path.rglob("*")} - {"__pycache__"} <= {"lazy.py", "lazy.cpython-311.pyc"}


@pytest.mark.parametrize(("number", "seconds"), [(signal.SIGINT, 0.4), (signal.SIGTERM, 0.3), (signal.SIGTERM, 1.2)])
def test_a_signal_at_any_instant_is_one_line_and_leaves_nothing(tmp_path, number, seconds):
    """In the imports of a study, which take seconds."""
    arguments = ["study", "configs/quickstart.py", "--workdir", tmp_path / "work", "--data_dir", tmp_path / "data"]
    process = subprocess.Popen(
        [sys.executable, "launch.py", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        time.sleep(seconds)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, errors) == (130, "interrupted\n")
    assert not (tmp_path / "work").exists()


def test_who_has_something_to_save_is_waited_for(monkeypatch):
    """A signal does not end a training that writes a checkpoint, and ends what comes after it."""
    ended = threading.Event()
    monkeypatch.setattr(interruption, "GRACE", 0.3)
    monkeypatch.setattr(interruption.os, "_exit", lambda status: ended.set())
    with contextlib.suppress(KeyboardInterrupt), interruption.heard():
        with interruption.saved():
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
            assert not ended.wait(1.0)
        assert ended.wait(5.0)


def test_an_interruption_while_modules_are_imported_is_one_line():
    code = """
import runpy, sys
class Interrupted:
    def find_spec(self, name, *others):
        if name == "ser_jax.commands.main": raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
runpy.run_path("launch.py", run_name="__main__")
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("configs/quickstart.py", "runs/quickstart"),
        ("configs/recipe.py:emodb,cnn", "runs/recipe_emodb_cnn"),
        ("runs/mine/config.json", "runs/mine"),
        ("own/study.json", "runs/study"),
    ],
)
def test_a_configuration_has_a_workdir_of_its_own(path, folder):
    assert default_workdir(path) == folder


def test_what_can_be_named_is_listed(capsys, tmp_path):
    status, output, _ = call(capsys, "list", "--data_dir", tmp_path, "--json")
    found = json.loads(output)
    assert status == 0 and set(found) == set(KINDS)
    assert {"synthetic", "emodb"} <= set(found["corpora"])
    assert {"shufflenet_v2", "linear_svm"} <= set(found["models"])
    assert "leave_one_speaker_out" in found["protocols"] and "noise_20" in found["conditions"]
    assert found["configurations"]["configs/quickstart.py"].startswith("Does ECA help")
    assert "whisper-tiny" in found["encoders"] and "cross_entropy" in found["losses"]
    assert all(words for kind in ("protocols", "conditions", "losses", "encoders") for words in found[kind].values())
    assert found["conditions"]["noise_20"] == "pink noise, 20 dB below the speech"
    status, output, _ = call(capsys, "list", "protocols")
    assert output.splitlines()[0] == "protocols:"
    words = output.splitlines()[1].split(maxsplit=1)
    assert words == ["leave_one_speaker_out", "each speaker is tested by models that were not trained on that speaker"]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_commands_and_options(capsys, shell):
    status, output, _ = call(capsys, "completion", shell)
    assert status == 0 and "--dry_run" in output
    for name in COMMANDS:
        assert name in output
