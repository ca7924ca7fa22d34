"""Studies on an accelerator: variants that differ in numbers of each run alone train side by side."""

import json

import jax
import numpy as np
import pandas as pd
import pytest

from ser_jax import config as configuration
from ser_jax.errors import UserError
from ser_jax.models import FAMILIES
from ser_jax.studies import run, together
from ser_jax.studies.collect import Outcome
from ser_jax.studies.plan import make_plan
from ser_jax.studies.store import FAILURE, PREDICTIONS, RESULT, locked, population_folder
from ser_jax.studies.variants import prepare
from ser_jax.training import loop
from tests.training.tiny import CONFIG

pytestmark = pytest.mark.usefixtures("no_figures")

SWEEP = {
    "slow": {"optimizer": {"learning_rate": 1e-3}},
    "fast": {"optimizer": {"learning_rate": 4e-3, "weight_decay": 0.2}},
    "wild": {"optimizer": {"learning_rate": 1e30}},
}


@pytest.fixture
def accelerator(monkeypatch):
    """One device, on which variants train side by side; returns how many runs each loop of a training has had."""
    one_device, loops, steps = jax.devices()[:1], [], loop._make_steps
    monkeypatch.setattr(jax, "devices", lambda *_: one_device)
    monkeypatch.setattr(together, "is_faster", lambda: True)

    def counted(population, *rest):
        loops.append(len(population.runs))
        state = steps(population, *rest)
        assert len(population.programs.train.compiled) == 1  # one program, of all runs
        return state

    monkeypatch.setattr(loop, "_make_steps", counted)
    return loops


def study_of(variants, **changes):
    common = {"folds": [0, 1], "feed": "resident", "optimizer": {"gradient_clip": 0.0}}
    # What takes long to compile and is of no matter here.
    common |= {"augmentation": dict.fromkeys(("speed", "spec_augment", "mixup"), 0.0)}
    common |= {"frontend": {"normalization": "utterance"}}
    common = configuration.merge(CONFIG, common | changes)
    return json.loads(json.dumps(configuration.merge(common, {"study": {"variants": variants}})))


def names(variants):
    return [[variant.name for variant in group] for group in together.groups(variants)]


def test_a_sweep_is_one_training_of_which_each_variant_has_its_own_part(accelerator, tmp_path, monkeypatch, capsys):
    store = tmp_path / "store"

    def failed(plan, variants, workdir, store, failures):
        return Outcome(None, (), {name: one["message"] for name, one in failures.items()})

    remembered = []
    monkeypatch.setattr(run.rates, "remember", lambda *one: remembered.append(one))
    monkeypatch.setattr(run, "collect", failed)
    outcome = run.run_study(study_of(SWEEP), tmp_path / "sweep", data_dir=str(tmp_path), store=store)
    assert accelerator == [6]  # all runs in one loop
    assert "3 variants train side by side: slow, fast, wild" in capsys.readouterr().err
    assert list(outcome.failed) == ["wild"] and "every run diverged" in outcome.failed["wild"]
    variants = {variant.name: variant for variant in prepare(make_plan(study_of(SWEEP)), str(tmp_path))}
    folders = {name: population_folder(store, name, variant.key) for name, variant in variants.items()}
    assert (folders["wild"] / FAILURE).exists() and not (folders["wild"] / RESULT).exists()
    slow, fast = (json.loads((folders[name] / RESULT).read_text()) for name in ("slow", "fast"))
    assert slow["seconds"]["compile"] > 0 == fast["seconds"]["compile"]  # compiled once, for all
    assert slow["seconds"]["train"] == pytest.approx(fast["seconds"]["train"]) != 0
    said = [pd.read_parquet(folders[name] / PREDICTIONS).filter(like="p_").to_numpy() for name in ("slow", "fast")]
    assert not np.allclose(*said) and not remembered  # a share tells nothing of a training alone
    (fast_one,) = prepare(make_plan(study_of({"alone": SWEEP["fast"]})), str(tmp_path))
    assert population_folder(store, "alone", fast_one.key) == folders["fast"]  # as if it had been trained alone
    # With more seeds, those that are not there train side by side.
    beside = []
    monkeypatch.setattr(loop, "train_side_by_side", lambda members, **_: beside.append(members) or {})
    grown = prepare(make_plan(study_of(SWEEP, seeds=[0, 1])), str(tmp_path))
    together.train(grown, store)
    assert {name: population.runs for name, (population, _) in beside[0].items()} == {
        **dict.fromkeys(("slow", "fast"), ((0, 1), (1, 1))),
        "wild": ((0, 0), (0, 1), (1, 0), (1, 1)),
    }


def test_what_differs_in_more_than_numbers_of_runs_trains_by_itself(accelerator, monkeypatch):
    others = {
        "deeper": {"model": {"name": "cnn", **FAMILIES["cnn"].tiny}},
        "longer": {"training": {"train_steps": 8}},
        "exact": {"training": {"deterministic": True}},
        "exactly": {"training": {"deterministic": True}, **SWEEP["fast"]},
        "noisy": {"augmentation": {"noise": 0.5}},
        "same": SWEEP["slow"],
        "noisier": {"augmentation": {"noise": 0.75}, "seeds": [3, 4]},
    }
    variants = prepare(make_plan(study_of(SWEEP | others)), None)
    found = names(variants)
    alone = [["deeper"], ["exact"], ["exactly"], ["longer"], ["same"]]
    assert sorted(found) == sorted([list(SWEEP), ["noisy", "noisier"], *alone])
    monkeypatch.setattr(together, "most_beside", lambda *_: 2)
    assert [group for group in names(variants) if set(group) & set(SWEEP)] == [["slow", "fast"], ["wild"]]


def test_one_lock_is_held_while_a_variant_is_finished_and_old_failures_are_gone(accelerator, monkeypatch, tmp_path):
    variants = {one.name: one for one in prepare(make_plan(study_of(SWEEP)), None)}
    failed = population_folder(tmp_path, "slow", variants["slow"].key) / FAILURE
    failed.parent.mkdir(parents=True)
    failed.write_text("{}")
    free = []

    def side_by_side(members, **_):
        assert list(members) == list(SWEEP) and not failed.exists()
        for variant in variants.values():
            with locked(tmp_path, variant.key, wait=False) as has_lock:
                assert not has_lock
        return {}

    def finish(title, variant, how, failures):
        for name, other in variants.items():
            with locked(tmp_path, other.key, wait=False) as has_lock:
                free.append((variant.name, name, has_lock))

    monkeypatch.setattr(loop, "train_side_by_side", side_by_side)
    monkeypatch.setattr(run, "_finish", finish)
    how = run.How(tmp_path, None, None)
    assert run._finish_all([*variants.values()], [], how, {name: name for name in SWEEP}, {}, wait=False) == []
    assert free == [(one, other, one != other) for one in SWEEP for other in SWEEP]


def test_variants_stand_side_by_side_where_runs_are_batched_by_one_process(monkeypatch):
    assert not together.is_faster()  # on a CPU
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert together.is_faster()
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert not together.is_faster()


def test_where_training_side_by_side_fails_the_reason_is_said_and_each_trains_by_itself(
    accelerator, monkeypatch, tmp_path, capsys
):
    variants = prepare(make_plan(study_of(SWEEP)), None)

    def fails(*_, **__):
        raise UserError("not enough memory")

    monkeypatch.setattr(loop, "train_side_by_side", fails)
    assert together.train(variants, tmp_path) == {}
    assert "note: not trained side by side (not enough memory); each trains by itself" in capsys.readouterr().err
    assert together.train(variants[:1], tmp_path) == {}  # one alone is not beside anything
    assert capsys.readouterr().err == ""
