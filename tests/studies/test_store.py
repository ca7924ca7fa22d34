import dataclasses
import importlib.metadata
import multiprocessing
import sys

import numpy as np
import pytest

from ser_jax import checksums, locks
from ser_jax import config as configuration
from ser_jax.corpora import packed_folder
from ser_jax.corpora.corpus import save
from ser_jax.corpora.protocols import make_protocol
from ser_jax.errors import UserError
from ser_jax.studies import source_code, store
from ser_jax.studies.plan import make_plan
from ser_jax.studies.variants import prepare
from tests.training.tiny import CONFIG, tiny_corpus


@pytest.fixture(scope="module")
def data():
    return tiny_corpus()


def test_a_key_depends_on_all_that_decides_a_result_and_on_nothing_else(data):
    corpus, protocol = data

    def key(changes=None, protocol=protocol, features=None, initial=None, teacher=None):
        config = configuration.merge(CONFIG, changes or {})
        return store.population_key(config, corpus, protocol, features, initial, teacher)

    alike = [
        {"study": {"title": "x"}},
        {"training": {"checkpoint_seconds": 1.0, "initial": "elsewhere", "teacher": "elsewhere"}},
        {"evaluation": {"robustness": ["noise_0"], "batch_size": 3, "latency": False}},
    ]
    assert {key(changes) for changes in alike} == {key()}
    assert key({"model": {"name": "rnn"}}) == key({"model": {"name": "rnn", "cell": "lstm"}})
    others = [
        key({"seeds": [1]}),
        key({"folds": [0]}),
        key({"optimizer": {"learning_rate": 0.1}}),
        key({"optimizer": {"rates": {"a": 0.5, "b": 0.1}}}),
        key({"optimizer": {"rates": {"b": 0.1, "a": 0.5}}}),
        key({"evaluation": {"window_seconds": 2.0}}),
        key(protocol=make_protocol(corpus, "leave_one_speaker_out", validation_speakers=0)),
        key(features={"fingerprint": "a"}),
        key(initial={"parameters": "a"}),
        key(teacher={"parameters": "a"}),
        key({"training": {"teacher_share": 0.25}}),
        key({"model": {"name": "rnn"}}),
        key({"model": {"name": "rnn", "cell": "gru"}}),
    ]
    assert len({key(), *others}) == 1 + len(others)


def test_a_key_depends_on_the_values_that_are_learnt_beside_the_emotion(data, tmp_path):
    config = configuration.merge(CONFIG, {"corpus": {"name": "own", "dimensions": ["arousal"]}})
    config = configuration.merge(config, {"augmentation": {"mixup": 0.0}})
    config["corpus"]["options"], keys = {}, []
    for highest in (1.0, 2.0, 1.0):
        table = data[0].utterances.assign(corpus="own", arousal=np.linspace(0, highest, len(data[0].utterances)))
        save(dataclasses.replace(data[0], name="own", utterances=table), packed_folder("own", tmp_path))
        (variant,) = prepare(make_plan(config), str(tmp_path))
        keys.append(variant.key)
    assert keys[0] == keys[2] != keys[1]


@pytest.mark.parametrize("package", ["jax", "jaxlib", "flax", "optax", "numpy", "scipy", "soxr"])
def test_a_key_depends_on_the_versions_of_the_packages_that_compute(monkeypatch, data, package):
    def key():
        source_code._version.cache_clear()
        return store.population_key(CONFIG, *data, None, None, None)

    before, installed = key(), importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0" if name == package else installed(name))
    after = key()
    monkeypatch.undo()
    assert after != before == key()


def test_a_folder_is_found_by_its_key_whatever_the_variant_is_called(tmp_path):
    folder = store.population_folder(tmp_path, "Encoder: both, mean/max", "0123456789ab")
    assert folder.name == "encoder_both_mean_max-0123456789ab"
    folder.mkdir()
    assert store.population_folder(tmp_path, "renamed", "0123456789ab") == folder
    assert store.population_folder(tmp_path, "...", "ba9876543210").name == "variant-ba9876543210"


def _hold(folder, ready, go):
    with store.locked(folder, "key", wait=False):
        ready.set()
        go.wait(30)


def test_a_checkpoint_that_a_kill_left_unfinished_is_none(tmp_path):
    """Else seeds that other populations have would be trained again, in the place of a training that has not begun."""
    assert store.newest_checkpoint(tmp_path) == 0
    for name, expected in (("60.orbax-checkpoint-tmp", 0), ("9", 9), ("12", 12), ("6", 12)):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        assert store.newest_checkpoint(tmp_path) == expected


def test_a_lock_is_held_by_one_process_and_freed_when_it_dies(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, go = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready, go))
    holder.start()
    assert ready.wait(60)
    with store.locked(tmp_path, "key", wait=False) as held:
        assert not held
    with store.locked(tmp_path, "other", wait=False) as held:
        assert held
    holder.kill()
    holder.join()
    with store.locked(tmp_path, "key", wait=True) as held:
        assert held


def test_who_waits_for_a_lock_says_once_for_what(tmp_path, monkeypatch):
    context = multiprocessing.get_context("spawn")
    ready, go = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready, go))
    holder.start()
    assert ready.wait(60)
    said = []
    monkeypatch.setattr(
        locks, "print", lambda line, **where: (said.append((line, where["file"])), go.set()), raising=False
    )
    with store.locked(tmp_path, "key", wait=True, what="seeds 2, 3") as held:
        assert held
    holder.join()
    with store.locked(tmp_path, "key", wait=True, what="seeds 2, 3"):
        pass
    assert said == [("seeds 2, 3: another process is at it; waiting", sys.stderr)]


def test_damaged_json_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / store.CONFIG
    store.write_json(path, {"seeds": [0]})
    checksums.record(path)
    path.write_text('{"seeds": [1]}')
    with pytest.raises(
        UserError, match=r"changed, its SHA-256 .*; remove it, and the study's own command makes it again"
    ):
        store.read_json(path)
    (tmp_path / checksums.FILE).unlink()
    path.write_text("{")
    with pytest.raises(UserError, match=r"damaged .*; remove it, and the study's own command makes it again"):
        store.read_json(path)
