"""Checkpoints of a made-up state of two runs: what is saved is restored, and nothing else is."""

import errno
import gc
import json
import logging
import os
import resource
import sys
import time
import types

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

from ser_jax import config as configuration
from ser_jax.errors import UserError
from ser_jax.training import checkpoints
from ser_jax.training.arrays import digest, named_arrays
from ser_jax.training.checkpoints import Checkpoints, check_metadata
from ser_jax.training.state import State, for_evaluation

METADATA = {
    "config": configuration.default() | {"seeds": (0, 1)},
    "runs": [{"fold": "a", "seed": 0}, {"fold": "a", "seed": 1}],
}

FEATURES = {"name": "x", "dims": 3, "frame_ms": 0.0}


def state_of(step, seed=0, names=("first", "second")):
    rng = np.random.default_rng(seed)

    def drawn(width):
        return {name: {"kernel": rng.normal(size=(2, 3, width)).astype(np.float32)} for name in names}

    parameters = drawn(4)
    return State(
        step=np.full(2, step, np.int32),
        diverged_at=np.full(2, -1, np.int32),
        parameters=parameters,
        batch_stats={"norm": {"mean": rng.normal(size=(2, 5)).astype(np.float32)}},
        optimizer=jax.tree.map(np.asarray, optax.adam(1.0).init(parameters)),
        ema_parameters=drawn(4),
        ema_batch_stats={"norm": {"mean": rng.normal(size=(2, 5)).astype(np.float32)}},
        feature_statistics=None,
    )


@pytest.fixture
def saved(tmp_path):
    """A folder with checkpoints of two steps, and their states."""
    states = {step: state_of(step, step) for step in (3, 6)}
    store = Checkpoints(tmp_path / "checkpoints")
    for state in states.values():
        store.save(state, METADATA)
    store.close()
    return tmp_path / "checkpoints", states


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_what_a_killed_process_has_begun_is_removed_by_the_next_that_writes(saved):
    folder, states = saved
    begun = folder / "5.orbax-checkpoint-tmp" / "metadata.orbax-checkpoint-tmp"
    begun.mkdir(parents=True)
    store = Checkpoints(folder)
    store.restore(states[6])
    assert begun.exists()  # another may be writing it
    store.save(state_of(9), METADATA)
    store.close()
    assert sorted(path.name for path in folder.iterdir()) == ["6", "9"]


def test_what_was_saved_is_restored_under_its_names(saved):
    folder, states = saved
    assert_same(Checkpoints(folder).restore(states[6]), states[6])
    assert_same(Checkpoints(folder).restore(for_evaluation(states[6])), for_evaluation(states[6]))
    metadata = json.loads((folder / "6" / "metadata" / "metadata").read_text())
    assert metadata["arrays"].keys() == named_arrays(states[6]).keys()
    found = metadata["arrays"]["parameters/first/kernel"]
    assert found["shape"] == [2, 3, 4] and found["dtype"] == "float32"
    assert "optimizer/0/mu/second/kernel" in metadata["arrays"]
    assert Checkpoints(folder).metadata()["runs"] == METADATA["runs"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("RESOURCE_EXHAUSTED: Error writing: No space left on device [os_error_code='28']", "No space left on device"),
        ("INTERNAL: nobody knows", "no checkpoint can be written .INTERNAL: nobody knows"),
    ],
)
def test_what_the_disk_refuses_in_the_background_names_the_folder(tmp_path, monkeypatch, said, expected):
    def fail(self):
        raise ValueError(said)

    store = Checkpoints(tmp_path)
    monkeypatch.setattr(type(store._manager), "wait_until_finished", fail)
    with pytest.raises((UserError, OSError), match=expected) as caught:
        store.close()
    assert str(tmp_path) in str(caught.value)


def test_the_newest_two_are_kept_and_none_is_lost_by_reading(saved):
    folder, states = saved
    store = Checkpoints(folder)
    assert_same(store.resume(states[6]), states[6])
    assert steps_in(folder) == {"3", "6"}
    store.save(state_of(9), METADATA)
    store.close()
    assert steps_in(folder) == {"6", "9"}
    with pytest.raises(UserError, match="no checkpoint; expected one that"):
        Checkpoints(folder / "none").metadata()
    assert not (folder / "none").exists()


def test_runs_that_diverged_are_named_with_their_steps(tmp_path):
    store = Checkpoints(tmp_path)
    store.save(for_evaluation(state_of(3)).replace(diverged_at=np.array([-1, 2], np.int32)), METADATA)
    assert store.metadata()["diverged"] == [{"fold": "a", "seed": 1, "step": 2}]
    store.close()


def test_one_for_evaluation_holds_no_more_and_is_not_trained_further(tmp_path):
    store = Checkpoints(tmp_path)
    store.save(for_evaluation(state_of(3)), METADATA)
    store.close()
    assert not (tmp_path / "3" / "training").exists()
    assert_same(Checkpoints(tmp_path).restore(for_evaluation(state_of(3))), for_evaluation(state_of(3)))
    with pytest.raises(UserError, match=r"3: its arrays .* batch_stats/norm/mean is missing; optimizer/0/count"):
        Checkpoints(tmp_path).restore(state_of(3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # Two layers of the same shapes that change places in the order of names are not taken for one another.
        (lambda state: state.replace(ema_parameters=state_of(6, names=("first", "third")).ema_parameters), "third"),
        (lambda state: state.replace(ema_batch_stats={}), "ema_batch_stats/norm/mean is unexpected"),
        (
            lambda state: state.replace(ema_batch_stats={"norm": {"mean": np.zeros((2, 6), np.float32)}}),
            r"ema_batch_stats/norm/mean has shape \[2, 5\], expected \[2, 6\]",
        ),
        (
            lambda state: state.replace(ema_batch_stats={"norm": {"mean": np.zeros((2, 5), np.float16)}}),
            "ema_batch_stats/norm/mean has dtype float32, expected float16",
        ),
        (lambda state: state.replace(feature_statistics=np.zeros(2)), "feature_statistics is missing"),
    ],
    ids=["name", "unexpected", "shape", "dtype", "missing"],
)
@pytest.mark.parametrize("part", [for_evaluation, lambda state: state], ids=["evaluation", "training"])
def test_every_difference_is_refused_by_name(saved, change, message, part):
    folder, states = saved
    with pytest.raises(UserError, match=rf"6: its arrays are not those of the model: .*{message}") as error:
        Checkpoints(folder).restore(part(change(states[6])))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("width", "count"), [(5, 3), (6, 4)])
def test_three_differences_are_named_and_more_are_counted(saved, width, count):
    folder, states = saved
    other = for_evaluation(states[6]).replace(
        ema_parameters=state_of(6, names=("third",)).ema_parameters,
        ema_batch_stats={"norm": {"mean": np.zeros((2, width), np.float32)}},
    )
    with pytest.raises(UserError) as error:
        Checkpoints(folder).restore(other)
    assert str(error.value).count(";") == 2 and str(error.value).endswith(" and 1 more") == (count == 4)


def largest_file(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip_bits(path, places):
    """Flips one bit of a file at each of several relative places, and yields after each before undoing it."""
    whole = path.read_bytes()
    for place in places:
        damaged = bytearray(whole)
        damaged[int(place * (len(whole) - 1))] ^= 0x10
        path.write_bytes(damaged)
        yield
        path.write_bytes(whole)


def test_a_flipped_bit_is_refused_in_arrays_and_in_metadata(tmp_path):
    state = for_evaluation(state_of(6))
    kernel = np.random.default_rng(1).normal(size=(2, 4096)).astype(np.float32)  # so that most of the file is values
    state = state.replace(ema_parameters={"kernel": kernel})
    store = Checkpoints(tmp_path)
    store.save(state, METADATA)
    store.close()
    for path in (largest_file(tmp_path / "6" / "evaluation"), tmp_path / "6" / "metadata" / "metadata"):
        refused = 0
        for _ in flip_bits(path, np.linspace(0.03, 0.97, 12)):
            try:
                assert_same(Checkpoints(tmp_path).restore(state), state)  # Orbax leaves some bytes that it never reads
            except UserError as error:
                refused += 1
                assert "6: damaged checkpoint" in str(error) and "\n" not in str(error)
        assert refused > 9


def test_a_pipe_in_a_checkpoint_is_refused_and_not_waited_for(saved):
    path = saved[0] / "6" / "_CHECKPOINT_METADATA"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="_CHECKPOINT_METADATA: a pipe or a device, expected a file"):
        Checkpoints(saved[0])


def test_all_checkpoints_are_verified_each_by_itself(saved):
    folder, _ = saved
    assert Checkpoints(folder).verify() == {3: "", 6: ""}
    for _ in flip_bits(largest_file(folder / "3" / "training"), [0.5]):
        found = Checkpoints(folder).verify()
    assert found.keys() == {3, 6} and "3: damaged checkpoint" in found[3] and not found[6]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": {"name": 3, "fingerprint": "f", "emotions": ["a"]}}, "expected texts for the corpus"),
        ({"corpus": {"name": "c", "fingerprint": "f", "emotions": [1]}}, "expected texts for the corpus"),
        ({"runs": [{"fold": 1, "seed": 0}]}, "expected texts for the corpus, its emotions and the folds"),
        ({"runs": [{"fold": "a", "seed": "0"}]}, "and numbers for the seeds"),
        ({"runs": []}, "expected runs, found none"),
        ({"runs": [{"fold": "a", "seed": 0}]}, "expected a run of every fold with every seed of config.seeds"),
        ({"runs": 2 * METADATA["runs"]}, "expected a run of every fold with every seed of config.seeds"),
        ({"corpus": {"name": "c", "fingerprint": "f", "emotions": ["a", "a"]}}, "emotions of different names"),
        ({"runs": {}}, "runs is"),
        ({"corpus": {"name": "c", "fingerprint": "f", "emotions": []}}, "expected emotions or dimensions"),
        ({"versions": None}, "versions is"),
        ({"features": 5}, "features is 5, expected dict"),
        ({"recordings": {}}, "recordings is {}, expected list"),
        ({"initial": {"corpus": 5}}, "not subscriptable"),
        ({"teacher": {"initial": {"corpus": {"name": "c", "fingerprint": 1}}}}, "expected texts for the corpus"),
        ({"corpus": {"name": "c", "fingerprint": "f", "emotions": ["a"], "features": {"name": "x"}}}, "dims"),
        *(
            (
                {"corpus": {"name": "c", "fingerprint": "f", "emotions": ["a"], "features": FEATURES | one}},
                "features are",
            )
            for one in ({"dims": -1}, {"dims": 10**9}, {"frame_ms": float("inf")}, {"name": 5})
        ),
    ],
    ids=str,
)
def test_metadata_that_no_training_made_are_refused(changes, message):
    made = {
        "corpus": {"name": "c", "fingerprint": "f", "emotions": ["a"]},
        "protocol": {},
        "targets": {},
        "versions": {},
    }
    made["corpus"]["features"] = FEATURES
    assert check_metadata(METADATA | made, "here") == METADATA | made
    with pytest.raises(UserError, match=f"^here: not the metadata of a training.*{message}"):
        check_metadata(METADATA | made | changes, "here")


def test_emotions_may_be_missing_where_there_are_dimensions():
    made = {"corpus": {"name": "c", "fingerprint": "f", "emotions": []}, "protocol": {}, "versions": {}}
    config = configuration.merge(METADATA["config"], {"corpus": {"dimensions": ["arousal"]}})
    for own in ({"targets": {"dimensions": ["arousal"]}}, {"targets": {}, "config": config}):
        assert check_metadata(METADATA | made | own, "here")["corpus"]["emotions"] == []


def test_a_training_falls_back_to_the_newest_whole_checkpoint_and_makes_the_damaged_one_again(saved, capsys):
    folder, states = saved
    path = largest_file(folder / "6" / "training")
    path.write_bytes(path.read_bytes()[:40])
    store = Checkpoints(folder)
    assert_same(store.resume(states[6]), states[3])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: {folder}/6: damaged checkpoint") and "goes on from an earlier one" in line
    assert steps_in(folder) == {"3"}
    store.save(state_of(6, seed=9), METADATA)
    store.close()
    assert_same(Checkpoints(folder).restore(states[6]), state_of(6, seed=9))


@pytest.mark.parametrize(
    ("item", "part"),
    [("evaluation", for_evaluation), ("training", lambda state: state)],
    ids=["evaluation", "training"],
)
def test_an_earlier_checkpoint_never_takes_the_place_of_the_newest_one(saved, item, part):
    folder, states = saved
    path = largest_file(folder / "6" / item)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match="6: damaged checkpoint"):
        Checkpoints(folder).restore(part(states[6]))
    assert steps_in(folder) == {"3", "6"}


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, "Too many open files"),
        PermissionError(errno.EACCES, "Permission denied"),
        ValueError('RESOURCE_EXHAUSTED: Error reading "parameters/first/kernel"'),
        ValueError("PERMISSION_DENIED: Error opening the zarr driver"),
    ],
    ids=lambda error: f"{type(error).__name__}: {error}",
)
def test_a_checkpoint_that_cannot_be_read_for_now_is_neither_deleted_nor_passed_over(saved, monkeypatch, error):
    folder, states = saved
    store = Checkpoints(folder)
    with monkeypatch.context() as now, pytest.raises(UserError, match="6: the checkpoint cannot be read") as refusal:
        now.setattr(store._manager, "restore", fails_with(error))
        store.resume(states[6])
    assert "it is left there" in str(refusal.value) and "\n" not in str(refusal.value)
    assert_same(store.resume(states[6]), states[6])


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("no event loop")], ids=repr)
def test_other_faults_are_not_taken_for_damage(saved, monkeypatch, error):
    folder, states = saved
    store = Checkpoints(folder)
    monkeypatch.setattr(store._manager, "restore", fails_with(error))
    with pytest.raises(type(error)):
        store.resume(states[6])
    assert steps_in(folder) == {"3", "6"}


def test_a_training_whose_checkpoints_are_all_damaged_is_not_begun_again(saved):
    folder, states = saved
    for step in (3, 6):
        path = largest_file(folder / str(step) / "training")
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match=f"{folder}/3: damaged checkpoint"):
        Checkpoints(folder).resume(states[6])
    assert sorted(path.name for path in folder.iterdir() if path.name.isdigit()) == ["3", "6"]


def fails_with(error):
    def restore(*_, **__):
        raise error

    return restore


def steps_in(folder):
    return {path.name for path in folder.iterdir()}


def test_metadata_are_of_the_newest_checkpoint_that_has_them(saved):
    folder, _ = saved
    for step in (6, 3):
        (folder / str(step) / "metadata" / "metadata").write_text("{")
        if step == 6:
            assert Checkpoints(folder).metadata()["runs"] == METADATA["runs"]
    with pytest.raises(UserError, match="3: damaged checkpoint"):
        Checkpoints(folder).metadata()


def test_a_digest_changes_with_names_and_values():
    tree = {"a": np.zeros(3, np.float32), "b": np.ones(3, np.float32)}
    found = {
        digest(one)
        for one in (
            tree,
            {"a": tree["b"], "b": tree["a"]},
            {"a": tree["a"], "c": tree["b"]},
            {**tree, "a": np.zeros(3, np.int32)},
            {**tree, "a": np.zeros((3, 1), np.float32)},
        )
    }
    assert len(found) == 5
    assert digest(dict(reversed(tree.items()))) == digest(tree)


def test_the_names_are_linen_s_paths():
    variables = nn.Dense(2).init(jax.random.key(0), np.zeros((1, 3), np.float32))
    assert named_arrays(variables).keys() == {"params/bias", "params/kernel"}


@pytest.fixture
def printed(monkeypatch):
    """What threads print that no one catches, but for what a first use of checkpoints from now on keeps from it."""
    found = []
    monkeypatch.setattr(sys, "unraisablehook", found.append)
    checkpoints._say_errors_once.cache_clear()
    yield found
    checkpoints._say_errors_once.cache_clear()


def test_what_a_damaged_checkpoint_lacks_is_no_traceback_of_another_thread_as_well(tmp_path, printed, caplog):
    """The data of many arrays are cut: TensorStore's threads each say so."""
    kernel = np.ones((2, 10), np.float32)
    state = state_of(6).replace(ema_parameters={str(number): kernel for number in range(200)})
    store = Checkpoints(tmp_path / "checkpoints")
    store.save(state, METADATA)
    store.close()
    for path in (tmp_path / "checkpoints" / "6" / "evaluation").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:20])
    sys.unraisablehook = printed.append  # as in a process that only reads
    checkpoints._say_errors_once.cache_clear()
    with pytest.raises(UserError, match="6: damaged checkpoint"):
        Checkpoints(tmp_path / "checkpoints").restore(state)
    time.sleep(0.2)  # for what the threads have still to say
    gc.collect()
    # They do not say it each time, so here once more.
    sys.unraisablehook(types.SimpleNamespace(object=None, exc_value=RuntimeError("Event loop is closed")))
    logging.getLogger("asyncio").error("Task exception was never retrieved: [tensorstore_spec=...]")
    assert printed == []
    assert "never retrieved" not in caplog.text


def test_what_the_disk_refuses_is_no_traceback_of_another_thread_as_well(tmp_path, printed):
    """Files of more than a kilobyte cannot be written: of several arrays, TensorStore's threads each say so."""
    kernel = np.random.default_rng(1).normal(size=(2, 100_000)).astype(np.float32)
    state = state_of(6).replace(ema_parameters={str(number): kernel for number in range(40)})
    store = Checkpoints(tmp_path / "checkpoints")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(OSError, match="File too large") as refused:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
        try:
            store.save(state, METADATA)
            store.close()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert refused.value.filename == str(tmp_path / "checkpoints")
    time.sleep(0.2)  # for what the threads have still to say
    assert printed == []
    other = types.SimpleNamespace(object=None, exc_value=RuntimeError("another error"))
    sys.unraisablehook(other)
    assert printed == [other]
