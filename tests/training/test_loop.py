"""The loop around the training program: what it asks other processes, what it imports, what it leaves to look into."""

import contextlib
import signal
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from ser_jax.errors import UserError, printed
from ser_jax.inference import tables
from ser_jax.training import devices, log, loop, processes
from ser_jax.training import population as populations
from tests.training.tiny import tiny_corpus, tiny_population


@pytest.fixture(scope="module")
def data():
    return tiny_corpus()


def checkpoints_wanted(data, folder, monkeypatch, *, leads):
    """For each call of the program, whether the process found it time for a checkpoint; a clock ticks evenly."""
    ticks, found = iter(range(10**6)), []

    def largest(*values):
        if len(values) == 3:
            found.append(values[1])
        return values

    monkeypatch.setattr(loop, "time", types.SimpleNamespace(monotonic=lambda: next(ticks)))
    monkeypatch.setattr(processes, "largest", largest)
    monkeypatch.setattr(processes, "leads", lambda: leads)
    training = {"train_steps": 40, "validate_steps": 100, "checkpoint_seconds": 20.0}
    loop.train(tiny_population(*data, folds=[0], training=training), folder)
    return found


def test_a_process_that_follows_wants_checkpoints_as_often_as_one_that_leads(data, tmp_path, monkeypatch):
    leader, follower = (
        checkpoints_wanted(data, tmp_path / str(leads), monkeypatch, leads=leads) for leads in (True, False)
    )
    assert len(leader) == len(follower) > 8
    assert 0 < sum(leader) < len(leader) / 2
    assert sum(follower) == sum(leader)


def test_rows_end_at_every_fifth_of_a_training_and_so_does_its_accuracy_after_an_interruption(data, tmp_path):
    """Calls of the program are as long as they take some seconds; an interruption begins with short ones again."""
    ends, found = {}, {}
    population = tiny_population(*data, folds=[0], training={"train_steps": 40, "validate_steps": 100})
    for name, stop in (("whole", None), ("interrupted", 7)):

        def report(entry, stop=stop, name=name):
            if entry["step"] >= (stop or 99) and name not in ends:
                ends[name] = entry["step"]
                signal.raise_signal(signal.SIGINT)

        with contextlib.suppress(KeyboardInterrupt):
            loop.train(population, tmp_path / name, report=report)
        loop.train(population, tmp_path / name)
        rows = log.read(tmp_path / name / log.FILE)
        assert {8, 16, 24, 32, 40} <= {row["step"] for row in rows}
        found[name] = log.learning(log.means(rows), 40, 40)
    assert list(ends) == ["interrupted"] and found["whole"] == found["interrupted"]


def test_where_every_run_diverges_the_learning_rate_is_named_at_a_validation_too(data, tmp_path, capsys):
    training = {"train_steps": 6, "validate_steps": 1}
    optimizer = {"learning_rate": 1e30, "gradient_clip": 0.0}
    with pytest.raises(UserError, match=r"config\.optimizer\.learning_rate: found 1e\+30; every run diverged"):
        loop.train(tiny_population(*data, folds=[0], training=training, optimizer=optimizer), tmp_path)
    assert log.read(tmp_path / log.FILE)[-1]["diverged_at"] > 0
    assert "the other runs go on" not in capsys.readouterr().err  # there are none


def test_steps_to_trace_that_the_training_does_not_have_are_refused(data, tmp_path):
    population = tiny_population(*data, folds=[0], training={"train_steps": 4})
    with pytest.raises(
        UserError, match="--profile_steps: found 4:9, but the training has 4 steps, expected FROM below"
    ):
        loop.train(population, tmp_path / "run", profile_steps=(4, 9))
    assert not (tmp_path / "run").exists()


def test_nothing_is_sent_to_the_devices_without_being_told_while_steps_are_made(data, tmp_path, monkeypatch):
    make, refusals = loop.train_steps, []

    def make_and_send(*arguments):
        with pytest.raises(Exception, match="Disallowed host-to-device transfer") as refusal:
            jax.jit(lambda x: x)(np.ones(3))
        refusals.append(refusal)
        return make(*arguments)

    monkeypatch.setattr(loop, "train_steps", make_and_send)
    loop.train(tiny_population(*data, folds=[0]), tmp_path)
    assert refusals


TRAINING = """
import sys
from pathlib import Path
import ser_jax.studies.run
from ser_jax.training import loop
from tests.training.tiny import tiny_corpus, tiny_population
loop.train(tiny_population(*tiny_corpus(), folds=[0]), Path(sys.argv[1]), profile_steps=(1, 99))
print([name for name in ("tensorflow", "torch", "sklearn") if name in sys.modules])
"""


def test_a_resident_training_imports_neither_tensorflow_nor_scikit_learn_and_leaves_events_a_profile_and_its_parameters(
    tmp_path,
):
    ended = subprocess.run(
        [sys.executable, "-c", TRAINING, str(tmp_path)], capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "[]"
    assert len(list((tmp_path / "tensorboard").glob("*, seed 0/events.out.tfevents.*"))) == 1
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    lines = (tmp_path / "parameters.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["path", "classifier/bias", "classifier/kernel", "total"]


def test_a_deterministic_training_is_compiled_so_on_a_gpu_alone(data, monkeypatch):
    population = tiny_population(*data, training={"deterministic": True})
    assert population.programs.train.deterministic and population.programs.evaluate.deterministic
    assert not tiny_population(*data).programs.train.deterministic
    assert devices.compiler_options(5, deterministic=True) is None
    monkeypatch.setattr(devices.jax, "default_backend", lambda: "gpu")
    for at_once in (1, 5):
        assert devices.compiler_options(at_once, deterministic=True)["xla_gpu_deterministic_ops"] is True
        assert "xla_gpu_deterministic_ops" not in (devices.compiler_options(at_once) or {})
    monkeypatch.setattr(devices.jax, "process_count", lambda: 2)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    with pytest.raises(
        UserError, match=r"config.training.deterministic: .* expected XLA_FLAGS=--xla_gpu_deterministic"
    ):
        devices.check_deterministic()
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=true")
    devices.check_deterministic()


@pytest.mark.parametrize(("precision", "advised"), [("tf32", True), ("bfloat16", False)])
def test_a_device_without_memory_left_is_told_with_what_would_help(tmp_path, monkeypatch, precision, advised):
    population = tiny_population(*tiny_corpus(), folds=[0], training={"precision": precision})
    state = populations.initial_state(population)

    def full(*_):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 18253611008 bytes."
        )

    monkeypatch.setattr(devices.Program, "__call__", full)
    with pytest.raises(
        UserError, match=r"not enough memory on cpu \(RESOURCE_.* bytes\.\); expected .*runs"
    ) as refused:
        loop.train(population, tmp_path)
    assert "training.batch_size" in str(refused.value)
    assert str(refused.value).endswith(", or training.precision=bfloat16") == advised
    assert len(printed(refused.value)) == len(str(refused.value))
    with pytest.raises(UserError, match=r"evaluation\.batch_size or window_seconds$"):
        tables.test_predictions(population, state, "")


def test_calls_have_whole_passes_up_to_a_validation_and_to_each_fifth_of_a_training(tmp_path, monkeypatch):
    counts, send = [], loop.to_devices
    monkeypatch.setattr(loop, "steps_of_a_pass", lambda: 4)
    monkeypatch.setattr(loop, "_CALL_SECONDS", 0.0)  # calls as short as they may be
    monkeypatch.setattr(
        loop, "to_devices", lambda population, piece: counts.append(piece.count) or send(population, piece)
    )
    steps = {"train_epochs": -1.0, "train_steps": 70, "validate_epochs": -1.0, "validate_steps": 30}
    loop.train(tiny_population(*tiny_corpus(), folds=[0], training=steps), tmp_path)
    assert sum(counts) == 70
    ends = np.cumsum(counts)
    assert {14, 28, 30, 42, 56, 60} <= set(ends.tolist())
    assert all(count % 4 == 0 or end in (14, 28, 30, 42, 56, 60, 70) for count, end in zip(counts, ends, strict=True))
    assert counts[:5] == [4, 4, 4, 2, 4]
