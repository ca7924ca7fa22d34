"""Several real processes on this machine, over gloo: the training of one, and a clear end when one of them goes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ser_jax import config as configuration
from ser_jax.commands.main import main
from tests.training.tiny import CONFIG

ROOT = Path(__file__).parents[2]
FINISHED = 240  # seconds, on a busy machine

SETTINGS = configuration.merge(
    CONFIG,
    {
        "folds": [0],
        "model": {"name": "tcn", "width": 8, "levels": 2},  # with batch normalisation
        "training": {"batch_size": 8, "train_steps": 20, "validate_steps": 10, "checkpoint_seconds": 0.0},
        "order": {"lanes": 4},
        "evaluation": {"latency": False},
    },
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def start(folder, data_dir, workdir, options, **changes):
    """Starts `launch.py train` with one CPU device."""
    path = folder / f"config{abs(hash(str(changes)))}.json"
    path.write_text(json.dumps(configuration.merge(SETTINGS, changes)))
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "SER_JAX_DATA": str(data_dir)}
    environment |= options.pop("environment", {})
    command = [sys.executable, str(ROOT / "launch.py"), "train", "--config", str(path), "--workdir", str(workdir)]
    command += [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def start_all(number, port, folder, data_dir, workdir, **changes):
    return [
        start(
            folder,
            data_dir,
            workdir,
            {"coordinator": f"localhost:{port}", "num_processes": number, "process_id": i, "rendezvous_seconds": 120},
            **changes,
        )
        for i in range(number)
    ]


def start_all_by_slurm(number, folder, data_dir, workdir, **changes):
    """Starts processes as `srun` would, on this one machine: told by the environment who they are."""
    job = next(job for job in range(os.getpid(), os.getpid() + 4096) if is_unused(61440 + job % 4096))
    slurm = {"SLURM_JOB_ID": job, "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": number}
    return [
        start(
            folder,
            data_dir,
            workdir,
            {
                "distributed": True,
                "rendezvous_seconds": 120,
                "environment": {key: str(value) for key, value in slurm.items()}
                | {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)},
            },
            **changes,
        )
        for i in range(number)
    ]


def is_unused(port):
    with socket.socket() as one:
        return one.connect_ex(("localhost", port)) != 0


def finish(processes):
    """The exit status and the output of each process."""
    outputs = [process.communicate(timeout=FINISHED)[0] for process in processes]
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


def require_alive(processes):
    if any(process.poll() is not None for process in processes):
        pytest.fail("\n".join(output for _, output in finish(processes)))


def log(workdir):
    (path,) = workdir.glob("populations/*/log.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def curve(workdir):
    """The mean loss of each ten steps: how many steps a line of the log has depends on the machine's speed."""
    sums, begin = {}, 0
    for entry in log(workdir):
        tenth = (entry["step"] - 1) // 10
        sums[tenth] = sums.get(tenth, 0.0) + entry["loss"] * (entry["step"] - begin) / 10
        begin = entry["step"]
    return [sums[tenth] for tenth in sorted(sums)]


def probabilities(workdir):
    """Of every utterance of the test fold."""
    table = pd.read_parquet(workdir / "predictions.parquet").sort_values("utterance")
    return table.filter(like="p_").to_numpy()


@pytest.fixture(scope="module")
def alone(tmp_path_factory, data_dir):
    folder = tmp_path_factory.mktemp("alone")
    ((status, output),) = finish([start(folder, data_dir, folder / "run", {})])
    assert status == 0, output
    return folder / "run"


@pytest.mark.parametrize(("number", "feed", "slurm"), [(2, "streaming", True), (4, "resident", False)])
def test_several_processes_make_the_training_of_one(alone, data_dir, tmp_path, unused_port, number, feed, slurm):
    where = tmp_path, data_dir, tmp_path / "run"
    processes = (
        start_all_by_slurm(number, *where, feed=feed) if slurm else start_all(number, unused_port, *where, feed=feed)
    )
    ended = finish(processes)
    for status, output in ended:
        assert status == 0, output
    np.testing.assert_allclose(curve(tmp_path / "run"), curve(alone), rtol=1e-5)
    np.testing.assert_allclose(probabilities(tmp_path / "run"), probabilities(alone), atol=1e-5)
    assert "validation_ua" in log(tmp_path / "run")[-1]
    assert "report.html" in ended[0][1]
    assert all("report.html" not in output and "step/s" not in output for _, output in ended[1:])


def test_a_process_that_dies_ends_the_others_and_a_restart_goes_on(alone, data_dir, tmp_path, unused_port):
    endless = {"training": {"train_steps": 100_000, "validate_steps": 100_000}}
    processes = start_all(2, unused_port, tmp_path, data_dir, tmp_path / "run", **endless)
    checkpoints = tmp_path / "run" / "populations"
    deadline = time.monotonic() + FINISHED
    while not list(checkpoints.glob("*/checkpoints/[0-9]*")):
        assert time.monotonic() < deadline
        require_alive(processes)
        time.sleep(0.2)
    processes[1].kill()
    begun = time.monotonic()
    output, _ = processes[0].communicate(timeout=60)
    assert time.monotonic() - begun < 45
    assert processes[0].returncode == 1, output
    assert "error: another process of this training has ended" in output
    reached = log(tmp_path / "run")[-1]["step"]

    processes = start_all(2, unused_port, tmp_path, data_dir, tmp_path / "run", **endless)
    while log(tmp_path / "run")[-1]["step"] <= reached:
        assert time.monotonic() < deadline
        require_alive(processes)
        time.sleep(0.2)
    processes[1].send_signal(signal.SIGTERM)  # one is asked, all end together, with a checkpoint
    for status, output in finish(processes):
        assert status == 130, output
        assert "interrupted" in output


def test_processes_with_other_configurations_are_refused(data_dir, tmp_path, unused_port):
    options = {"coordinator": f"localhost:{unused_port}", "num_processes": 2, "rendezvous_seconds": 120}
    processes = [
        start(tmp_path, data_dir, tmp_path / "run", options | {"process_id": i}, optimizer={"learning_rate": rate})
        for i, rate in enumerate((1e-3, 2e-3))
    ]
    for status, output in finish(processes):
        assert status == 2, output
        assert "error: processes of one training differ in their configuration: 1 from the first" in output


def test_processes_that_do_not_come_together_end_in_time(data_dir, tmp_path, unused_port):
    options = {"coordinator": f"localhost:{unused_port}", "num_processes": 2, "rendezvous_seconds": 5}
    begun = time.monotonic()
    ended = finish([start(tmp_path, data_dir, tmp_path / "run", options | {"process_id": 1})])
    ended += finish([start(tmp_path, data_dir, tmp_path / "run", options | {"process_id": 0})])
    assert time.monotonic() - begun < 60
    for status, output in ended:
        assert status == 2
        assert f"did not come together at localhost:{unused_port} within 5 s" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coordinator": "localhost:1"}, "--coordinator: expected --num_processes, --process_id as well"),
        ({"distributed": True}, "--distributed: found no environment of Slurm, Open MPI or a TPU"),
    ],
)
def test_incomplete_options_are_refused(tmp_path, capsys, options, message):
    """In this process: they are refused before it could become one of several."""
    given = [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]
    (tmp_path / "config.json").write_text(json.dumps(SETTINGS))
    status = main(["train", "--config", str(tmp_path / "config.json"), "--workdir", str(tmp_path / "run"), *given])
    assert status == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def unused_port():
    """A port that nobody listens to."""
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]
