"""What only a GPU can show, or another accelerator. `benchmarks/gpu.sh` runs it there; elsewhere it is skipped.

    JAX_PLATFORMS=cuda,cpu JAX_DISABLE_MOST_OPTIMIZATIONS=false \
        python -m pytest -m gpu tests/test_gpu.py -n 6 --dist worksteal

SER_JAX_REHEARSE=1 runs it on a CPU, with few networks, where it says nothing but that it runs.
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax import config as configuration
from ser_jax.corpora.synthetic import make_synthetic
from ser_jax.models import FAMILIES
from ser_jax.models.ops import recurrence_kernel
from ser_jax.models.ops.cells import GATES
from ser_jax.training import devices, loop
from ser_jax.training import population as populations
from tests.training.tiny import CONFIG, tiny_corpus, tiny_population, vectors

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        jax.default_backend() == "cpu" and not os.environ.get("SER_JAX_REHEARSE"), reason="there is no accelerator"
    ),
]

ROOT = Path(__file__).parents[1]
STEPS = 5
PATHS = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))  # packages may be there alone
# With little optimisation: the same figures, compiled in two thirds of the time.
ON_CPU = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": PATHS, "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
REHEARSED = bool(os.environ.get("SER_JAX_REHEARSE"))
NETWORKS = ["encoder_head", "linear", "rnn"] if REHEARSED else sorted(FAMILIES)


def first_losses(name: str) -> np.ndarray:
    """The losses of the first steps of two runs of a family, in float32, [steps, runs]."""
    options = {key: value for key, value in FAMILIES[name].tiny.items() if key != "tracks"}  # the corpus has none
    changes = {"model": {"name": name, **options}, "frontend": {"deltas": 2}, "feed": "resident"}
    training = {"precision": "float32", "split": "runs"}
    return _losses(tiny_population(*tiny_corpus(), **changes, seeds=[0, 1], folds=[0], training=training))


def _losses(population: populations.Population) -> np.ndarray:
    state, found = populations.initial_state(population), []
    feed = populations.training_feed(population, 0)
    for _ in range(STEPS):
        state, sums = populations.train_steps(population, state, populations.to_devices(population, feed.take(1)))
        gathered = devices.gather(sums, len(population.runs))
        found.append(gathered["loss"] / gathered["weight"])
    return np.stack(found)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_first_steps_are_those_of_a_cpu(name, tmp_path):
    """Of a process that has the CPU alone, which computes beside this one."""
    command = [sys.executable, "-m", "tests.test_gpu", name, str(tmp_path / "cpu.npy")]
    with subprocess.Popen(command, cwd=ROOT, env=ON_CPU) as process:
        here = first_losses(name)
        assert process.wait(timeout=300) == 0
    assert np.isfinite(here).all() and np.ptp(here) > 1e-3
    np.testing.assert_allclose(here, np.load(tmp_path / "cpu.npy"), rtol=2e-3)


@pytest.mark.skipif(
    not recurrence_kernel.is_for_these_devices(), reason="there is no Hopper GPU: recurrent layers have no kernel"
)
@pytest.mark.parametrize("cell", list(GATES))
@pytest.mark.parametrize("hidden", [16, 128])
def test_the_kernel_of_recurrent_layers_computes_here_what_xlas_loop_does(cell, hidden):
    recurrence = importlib.import_module("ser_jax.models.ops.recurrence")
    for dtype in (jnp.float32, jnp.bfloat16):
        assert recurrence._difference(cell, hidden, jnp.dtype(dtype), 32) < 0.01
        assert recurrence.kernel_works(cell, hidden, jnp.dtype(dtype), 32, "tensorfloat32")


@pytest.mark.skipif(
    not recurrence_kernel.is_for_these_devices(), reason="there is no Hopper GPU: recurrent layers have no kernel"
)
def test_a_training_by_the_kernel_is_that_by_xlas_loop(monkeypatch):
    recurrence = importlib.import_module("ser_jax.models.ops.recurrence")

    decide, decided = recurrence._is_kernel, []

    def losses() -> np.ndarray:
        changes = {"model": {"name": "rnn", "hidden": 32}, "training": {"precision": "tf32"}}
        return _losses(tiny_population(*tiny_corpus(), **changes, seeds=[0, 1], folds=[0], feed="resident"))

    monkeypatch.setattr(recurrence, "_is_kernel", lambda *of: decided.append(decide(*of)) or decided[-1])
    by_kernel = losses()
    assert decided and all(decided)
    monkeypatch.setattr(recurrence, "_is_kernel", lambda *of: decided.append(False))
    np.testing.assert_allclose(by_kernel, losses(), rtol=0.01)
    assert not decided[-1]


def test_a_deterministic_training_that_is_interrupted_ends_in_the_same_bits(tmp_path):
    data = tiny_corpus()
    changes = {"deterministic": True, "checkpoint_seconds": 0.0, "precision": "bfloat16"}
    population = tiny_population(*data, model={"name": "rnn", "hidden": 8}, seeds=[0, 1], folds=[0], training=changes)

    def interrupt(entry: dict) -> None:
        if entry["step"] >= 4:
            raise InterruptedError

    whole, _ = loop.train(population, tmp_path / "whole")
    with pytest.raises(InterruptedError):
        loop.train(population, tmp_path / "parts", report=interrupt)
    assert 0 < int(np.max(loop.restore(population, tmp_path / "parts").step)) < population.num_steps
    resumed, _ = loop.train(population, tmp_path / "parts")
    for field in ("parameters", "optimizer", "ema_parameters"):
        ours, theirs = (vectors(devices.gather(getattr(state, field), 2), 2) for state in (resumed, whole))
        np.testing.assert_array_equal(ours, theirs)


def test_a_model_that_was_trained_here_is_evaluated_and_predicts_on_a_cpu(tmp_path):
    import soundfile

    (tmp_path / "config.json").write_text(json.dumps(configuration.merge(CONFIG, {"folds": [0]})))
    here = [sys.executable, "launch.py", "train", "--config", tmp_path / "config.json", "--workdir", tmp_path / "here"]
    subprocess.run([*here, "--data_dir", tmp_path], cwd=ROOT, check=True, timeout=300)
    shutil.move(tmp_path / "here", tmp_path / "moved")
    # It compares what it predicts with what the training did, and fails where they differ by more than rounding.
    moved = [sys.executable, "launch.py", "evaluate", "--workdir", tmp_path / "moved", "--data_dir", tmp_path]
    subprocess.run(moved, cwd=ROOT, env=ON_CPU, check=True, timeout=300)
    corpus = make_synthetic("synthetic", **CONFIG["corpus"]["options"])
    soundfile.write(tmp_path / "one.wav", corpus.samples[: int(corpus.utterances["num_samples"][0])], 16_000)
    moved = [sys.executable, "launch.py", "predict", tmp_path / "one.wav", "--workdir", tmp_path / "moved"]
    subprocess.run(moved, cwd=ROOT, env=ON_CPU, check=True, timeout=300)


if __name__ == "__main__":
    np.save(sys.argv[2], first_losses(sys.argv[1]))
