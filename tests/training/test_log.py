import json
import os
import resource
import struct

import pytest

from ser_jax.training.log import EVENTS, FILE, Log, learning, means, read


def row(step, seed=0, loss=1.0, **more):
    return {"step": step, "epoch": step / 10, "fold": "a/b", "seed": seed, "loss": loss, **more}


def events(folder):
    """(step, loss) of every event that TensorBoard would show of a run."""
    event_pb2 = pytest.importorskip("tensorboard.compat.proto.event_pb2")
    found = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + size])
            found += [
                (event.step, round(value.simple_value, 6)) for value in event.summary.value if value.tag == "loss"
            ]
            data = data[12 + size + 4 :]
    return found


def test_a_restart_forgets_the_rows_and_events_that_it_makes_again(tmp_path):
    log = Log(tmp_path)
    log.forget_after(0)
    for step in (1, 2, 3):
        log.write([row(step), row(step, seed=1)])
    again = Log(tmp_path)
    again.forget_after(2)
    again.write([row(3, loss=0.5)])
    assert [(one["step"], one["seed"], one["loss"]) for one in read(tmp_path / FILE)] == [
        (1, 0, 1.0),
        (1, 1, 1.0),
        (2, 0, 1.0),
        (2, 1, 1.0),
        (3, 0, 0.5),
    ]
    assert events(tmp_path / EVENTS / "a%2Fb, seed 0") == [(1, 1.0), (2, 1.0), (3, 0.5)]
    assert events(tmp_path / EVENTS / "a%2Fb, seed 1") == [(1, 1.0), (2, 1.0)]


def test_every_run_has_a_folder_of_events_of_its_own(tmp_path):
    pytest.importorskip("tensorboard")
    folds = ["a/b", "a_b", "a%2Fb", "/" * 240, "/" * 241]
    Log(tmp_path).write([row(1, loss=float(number)) | {"fold": fold} for number, fold in enumerate(folds)])
    folders = sorted((tmp_path / EVENTS).iterdir())
    assert sorted(loss for folder in folders for _, loss in events(folder)) == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert len(folders) == len(folds)


def test_the_events_of_many_runs_keep_no_file_open(tmp_path):
    pytest.importorskip("tensorboard")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    log = Log(tmp_path)
    log.write([row(1)])  # imports, which open files of their own
    before = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 20, limit[1]))
    try:
        for step in (2, 3):
            log.write([row(step, seed=seed) for seed in range(50)])
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert [step for step, _ in events(tmp_path / EVENTS / "a%2Fb, seed 0")] == [1, 2, 3]
    assert [step for step, _ in events(tmp_path / EVENTS / "a%2Fb, seed 49")] == [2, 3]


def test_damaged_lines_are_passed_over_and_gone_after_a_restart(tmp_path):
    damaged = ["", "{", "[1]", '{"step": "a", "epoch": 1}', '{"epoch": 1}', json.dumps(row(1))[:-5], "\udcff"]
    damaged += [json.dumps(row(1) | other) for other in ({"step": -5}, {"step": 1.5}, {"step": True}, {"epoch": -1})]
    damaged += [json.dumps(row(1, loss=10**400))]
    damaged += ['{"step": 1e999, "epoch": 1}', '{"step": 3, "epoch": NaN}', '{"step": 3, "epoch": 1, "loss": Infinity}']
    lines = [json.dumps(row(1)), *damaged, json.dumps(row(2))]
    (tmp_path / FILE).write_text("\n".join(lines), encoding="utf-8", errors="surrogateescape")
    assert [one["step"] for one in read(tmp_path / FILE)] == [1, 2]
    Log(tmp_path).forget_after(2)
    assert (tmp_path / FILE).read_text() == "".join(json.dumps(row(step)) + "\n" for step in (1, 2))
    assert read(tmp_path / "none") == []


def test_a_figure_that_is_not_finite_is_refused_and_no_line_is_half_written(tmp_path):
    log = Log(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        log.write([row(1), row(1, loss=float("nan"))])
    assert read(tmp_path / FILE) == []


def test_means_are_over_the_runs_that_have_the_figure():
    rows = [row(1, loss=1.0), row(1, seed=1, loss=3.0), row(2, loss=2.0), row(2, seed=1, loss=None, diverged_at=2)]
    assert means(rows) == [{"step": 1, "epoch": 0.1, "loss": 2.0}, {"step": 2, "epoch": 0.2, "loss": 2.0}]


@pytest.mark.parametrize(
    "cuts", [(20, 40, 60, 80, 100), (20, 33, 40, 60, 61, 70, 80, 81, 99, 100), (7, 40, 60, 80, 100)]
)
def test_the_accuracy_at_the_end_is_of_the_same_steps_however_a_training_was_interrupted(cuts):
    """An accuracy of 3 * step in every step, so that a mean over other steps is another one."""
    entries = [
        {"step": end, "accuracy": sum(3 * step for step in range(begin + 1, end + 1)) / (end - begin)}
        for begin, end in zip((0, *cuts), cuts, strict=False)
    ]
    assert learning(entries, 100, 100) == (3 * 90.5, 60.0)
    assert learning(entries, 100, 110) == (None, 0.0), "the end was not logged"


def test_of_a_training_that_ended_early_its_own_last_fifth_counts():
    entries = [{"step": step, "accuracy": float(step)} for step in range(10, 71, 10)]
    assert learning(entries, 100, 70) == (70.0, 15.0)  # rows surely end at 60 and 40, the nearest to 56 and 42
    assert learning(entries[:2], 100, 20) == (15.0, 0.0)


@pytest.mark.parametrize("steps", range(1, 8))
def test_a_training_of_some_steps_has_an_accuracy_too(steps):
    entries = [{"step": step, "accuracy": float(step)} for step in range(1, steps + 1)]
    end, gained = learning(entries, steps, steps)
    assert 0.6 * steps < end <= steps and gained == 0


@pytest.mark.parametrize("last", [40, 50, 60, 100])
def test_a_training_that_was_stopped_early_had_risen_as_one_that_was_not(last):
    entries = [{"step": step, "accuracy": step / 100} for step in range(5, last + 1, 5)]
    end, gained = learning(entries, 100, last)
    assert end > 0.3 and gained > 0.1
