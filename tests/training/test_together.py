"""Populations that train side by side: each comes to what it comes to alone, bit for bit, also after a kill."""

import dataclasses
import errno
import gc
import signal
import weakref

import jax
import numpy as np
import pytest

from ser_jax import config as configuration
from ser_jax import interruption
from ser_jax.training import devices, log, loop, together
from ser_jax.training.population import initial_state, make_population, to_devices, train_steps, training_feed
from ser_jax.training.record import Record
from ser_jax.training.runs import BY_RUN, shared_options
from tests.training.tiny import CONFIG, tiny_corpus, vectors

# What differs is what each run has for itself. Validation decides, so that each has its own end.
VARIANTS = {
    "learns": {"optimizer": {"learning_rate": 0.05, "weight_decay": 0.1}, "augmentation": {"speed": 0.2}},
    "stops": {"optimizer": {"learning_rate": 1e-9, "label_smoothing": 0.2, "ema_decay": 0.9}, "seeds": [1, 5]},
    "diverges": {"optimizer": {"learning_rate": 1e30}},
}
COMMON = {
    "folds": [0, 2],
    "feed": "resident",
    "augmentation": {"spec_augment": 0.0, "mixup": 0.0},
    "optimizer": {"gradient_clip": 0.0, "ema_decay": 0.5},
    "training": {"train_steps": 12, "validate_steps": 3, "patience": 2, "keep": "best"},
}


@pytest.fixture(scope="module", autouse=True)
def accelerator():
    """One device, and calls of the program that end at the same steps however fast it is.

    A run that learns gets better from validation to validation, as long as its parameters grow.
    """

    def validation_ua(population, state):
        kernels = vectors(devices.gather(state.ema_parameters, len(population.runs)), len(population.runs))
        return np.round(np.linalg.norm(kernels, axis=1), 3)

    with pytest.MonkeyPatch.context() as patch:
        one_device = jax.devices()[:1]
        patch.setattr(jax, "devices", lambda *_: one_device)
        patch.setattr(loop, "_CALL_SECONDS", 1e9)
        patch.setattr(loop, "validation_ua", validation_ua)
        yield


@pytest.fixture(scope="module")
def members():
    """Of each variant, its population; they share programs."""
    data, cache = tiny_corpus(), {}
    common = configuration.merge(CONFIG, COMMON)
    made = {}
    for name, changes in VARIANTS.items():
        made[name] = make_population(configuration.merge(common, changes), *data, cache=cache)
    return made


@pytest.fixture(scope="module")
def alone(members, tmp_path_factory):
    """The folder of each variant that was trained alone, and what it failed by."""
    folder, errors = tmp_path_factory.mktemp("alone"), {}
    for name, population in members.items():
        try:
            loop.train(population, folder / name)
        except Exception as error:
            errors[name] = str(error)
    return folder, errors


def beside(members, folder, names, **options):
    return loop.train_side_by_side({name: (members[name], folder / name) for name in names}, **options)


def stop_after(step):
    return lambda entry: signal.raise_signal(signal.SIGTERM) if entry["step"] == step else None


def check_alike(members, found, expected, names, *, rows=True):
    """The last checkpoints are the same bit for bit, and rows of the log but for their seconds, unless interrupted."""
    for name in names:
        kept = [{path.name for path in (one / name / "checkpoints").glob("*")} for one in (found, expected)]
        assert max(map(int, kept[0]), default=0) == max(map(int, kept[1]), default=0)
        logs = [[{**row, "seconds": 0} for row in log.read(one / name / log.FILE)] for one in (found, expected)]
        assert logs[0] == logs[1] or not rows
        if kept[0]:
            states = [loop.restore(members[name], one / name, whole=True) for one in (found, expected)]
            jax.tree.map(np.testing.assert_array_equal, *states)


def test_runs_side_by_side_come_to_what_they_come_to_alone(members, alone, tmp_path):
    folder, errors = alone
    calls = len(members["learns"].programs.train.compiled)
    trained = beside(members, tmp_path, VARIANTS)
    assert len(members["learns"].programs.train.compiled) == calls + 1  # one program for the runs of all
    check_alike(members, tmp_path, folder, VARIANTS)
    assert list(errors) == ["diverges"]
    assert {name: str(one.error) for name, one in trained.items() if one.error} == errors
    last = {name: int(np.max(loop.restore(members[name], folder / name).step)) for name in ("learns", "stops")}
    assert last["stops"] == 9 < last["learns"] == 12  # each ends at its own time
    assert trained["learns"].seconds["compile"] > 0 == trained["stops"].seconds["compile"]
    assert trained["stops"].seconds["train"] == pytest.approx(2 * trained["learns"].seconds["train"])


def test_after_a_kill_those_at_the_same_step_go_on_side_by_side(members, alone, tmp_path, monkeypatch, capsys):
    """The disk was full between the checkpoints of two variants; then one was trained to its end alone."""
    names = ("learns", "stops")
    with pytest.raises(KeyboardInterrupt):
        beside(members, tmp_path, names, report=stop_after(1))
    assert [path.name for path in tmp_path.glob("*/checkpoints/*")] == ["2", "2"]
    save = Record.save

    def fails_at_the_second(record, *rest, **options):
        if record.population is members["stops"]:
            raise OSError(errno.ENOSPC, "No space left on device", "stops")
        save(record, *rest, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # it was asked to stop, and does not go on
        patch.setattr(Record, "save", fails_at_the_second)
        beside(members, tmp_path, names, report=stop_after(3))
    assert "(errno 28); the same command goes on from what was kept before\n" in capsys.readouterr().err
    steps = {name: max(int(path.name) for path in (tmp_path / name / "checkpoints").glob("*")) for name in names}
    assert steps == {"learns": 4, "stops": 2}
    trained = beside(members, tmp_path, names)
    assert len(trained) == 1  # the other is at another step, and left as it is
    trained |= beside(members, tmp_path, names)
    assert set(trained) == set(names)
    assert beside(members, tmp_path, names) == {}  # nothing is left
    check_alike(members, tmp_path, alone[0], names, rows=False)


def test_batched_as_on_an_accelerator_they_train_as_they_do_alone(monkeypatch):
    monkeypatch.setattr(devices, "batches_runs", lambda: True)
    data, cache, common = tiny_corpus(), {}, configuration.merge(CONFIG, COMMON)
    changes = {**VARIANTS["learns"], "seeds": [3]}, {**VARIANTS["stops"], "seeds": [1]}
    populations = [make_population(configuration.merge(common, own), *data, cache=cache) for own in changes]
    joined = together.side_by_side(populations)
    assert joined.runs == ((0, 3), (2, 3), (0, 1), (2, 1))

    def losses(population, state):
        feed, found = training_feed(population, 0), []
        for _ in range(3):
            state, sums = train_steps(population, state, to_devices(population, feed.take(1)))
            found.append(devices.gather(sums, len(population.runs))["loss"])
        return np.stack(found)

    states = [initial_state(population) for population in populations]
    alone = [losses(*pair) for pair in zip(populations, states, strict=True)]
    beside = losses(joined, devices.joined(states, [2, 2], 1))
    assert np.unique(beside.round(4)).size == beside.size
    np.testing.assert_allclose(beside, np.concatenate(alone, axis=1), rtol=1e-4)


def test_fewer_runs_at_once_train_as_all_do_and_the_first_state_is_not_kept(members, alone, tmp_path, monkeypatch):
    """Memory for one run: the program is called for each by itself, where nothing else may be sent to a device."""
    population, steps, first = members["learns"], loop.train_steps, []
    program = dataclasses.replace(population.programs.train, memory=1, compiled={})
    programs = dataclasses.replace(population.programs, train=program)
    monkeypatch.setattr(devices.Program, "_refuse_what_cannot_fit", lambda *_: None)

    def watched(population, state, piece):
        first.append(weakref.ref(jax.tree.leaves(state.parameters)[0]))
        gc.collect()
        assert len(first) == 1 or first[0]() is None
        return steps(population, state, piece)

    monkeypatch.setattr(loop, "train_steps", watched)
    loop.train(dataclasses.replace(population, programs=programs), tmp_path / "learns")
    assert [at_once for _, at_once in program.compiled.values()] == [1] and len(first) > 2
    found, expected = (loop.restore(population, folder / "learns") for folder in (tmp_path, alone[0]))
    numbers = [vectors(devices.gather(one.ema_parameters, 2), 2) for one in (found, expected)]
    np.testing.assert_allclose(*numbers, rtol=1e-3, atol=1e-5)  # a loop of one run is compiled in another way


def test_a_stop_waits_for_the_checkpoints_of_all_before_the_process_may_be_ended(members, tmp_path, monkeypatch):
    waited, wait = [], Record.wait
    monkeypatch.setattr(Record, "wait", lambda record: (waited.append(interruption._saving.is_set()), wait(record)))
    with pytest.raises(KeyboardInterrupt):
        beside(members, tmp_path, ("learns", "stops"), report=stop_after(1))
    assert waited == [True, True]


def test_a_fault_after_a_signal_is_no_stop(members, alone, monkeypatch):
    monkeypatch.setattr(Record, "close", lambda record: (signal.raise_signal(signal.SIGTERM), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        loop.train(members["learns"], alone[0] / "learns")  # which is at its end


def test_a_signal_that_comes_while_the_folder_is_let_go_of_is_a_stop_too(members, alone, monkeypatch):
    close = Record.close
    monkeypatch.setattr(Record, "close", lambda record: (signal.raise_signal(signal.SIGTERM), close(record)))
    with pytest.raises(KeyboardInterrupt):
        loop.train(members["learns"], alone[0] / "learns")  # which is at its end


def test_populations_that_differ_in_more_than_values_of_runs_are_not_alike(members):
    data, first = (members["learns"].packed, members["learns"].protocol), members["learns"]
    assert together.alike(first, members["stops"]) and together.side_by_side([first]) is first
    common = configuration.merge(CONFIG, COMMON)
    for changes in (
        {"training": {"batch_size": 8}},
        {"training": {"patience": 3}},
        {"training": {"train_steps": 15}},
        {"folds": [0, 1]},
        {"augmentation": {"noise": 0.5}},
        {"optimizer": {"ema_decay": 0.0}},
        {"training": {"deterministic": True}},
    ):
        other = make_population(configuration.merge(common, changes), *data, cache=first.cache)
        assert not together.alike(first, other), changes
    streaming = make_population({**common, "feed": "streaming"}, *data, cache=first.cache)
    assert not together.alike(streaming, streaming)


def test_what_a_run_has_for_itself_is_no_shared_option():
    shared = shared_options(configuration.merge(CONFIG, {"seeds": [3], "model": {"dropout": 0.25}}))
    assert not {"seeds", "objective", "augmentation"} & set(shared)
    assert not set(BY_RUN) & set(shared["optimizer"])
    assert "batch_size" in shared["training"] and "teacher_share" not in shared["training"]


def test_the_states_of_all_runs_leave_the_devices_most_of_their_memory(members, monkeypatch):
    population = members["learns"]
    assert together.most_beside(population, 2) == 50  # as many as have 100 runs
    assert together.most_beside(population, 1000) == 1
    of_a_run = 4 * population.learner.num_kept
    monkeypatch.setattr(devices, "free_memory", lambda _: 8 * 7 * of_a_run)
    assert together.most_beside(population, 2) == 3
