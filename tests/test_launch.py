import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = ("prepare", "audit", "study", "train", "evaluate", "compare", "predict", "publish", "models")


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


def test_a_reader_that_has_enough_of_the_output_ends_a_command_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "launch.py", "compare", "docs/results/tracks"]
    result = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, "")


def test_the_entry_point_stays_under_60_lines():
    assert len((ROOT / "launch.py").read_text().splitlines()) < 60


def test_importing_the_package_imports_neither_jax_nor_tensorflow():
    code = "import sys, ser_jax, ser_jax.corpora; print({'jax', 'tensorflow'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_training_on_the_resident_feed_imports_no_tensorflow():
    code = "import sys, ser_jax.studies.run; print('tensorflow' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
