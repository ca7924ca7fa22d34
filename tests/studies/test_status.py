"""How far a study is, from folders as its processes leave them; nothing is trained here."""

import argparse
import json
import os

import pytest

from ser_jax import config as configuration
from ser_jax.commands import status as command
from ser_jax.models import family_of, options_of
from ser_jax.studies import store
from ser_jax.studies.plan import make_plan
from ser_jax.studies.status import study_status
from ser_jax.training import log
from tests.training.tiny import CONFIG

KEYS = ("0123456789ab", "ba9876543210")


@pytest.fixture
def study(tmp_path):
    """The workdir of a study of two variants, whose folders are spelt the same."""
    variants = {"noise 0.5": {"augmentation": {"noise": 0.5}}, "noise-0.5": {}}
    config = configuration.merge(CONFIG, {"study": {"variants": variants}})
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def population(study, name, key, *, result=False, failure=False, checkpoint=False, rows=()):
    """Makes a variant's folder under a key, with what a process has left there."""
    folder = store.population_folder(study / "populations", name, key)
    config = make_plan(configuration.load(str(study / "config.json"))).variants[name]
    folder.mkdir(parents=True)
    if rows:
        (folder / log.FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    if result:
        (folder / store.RESULT).write_text(json.dumps({"trained": {"config": config}}))
    if failure:
        (folder / store.FAILURE).write_text(json.dumps({"message": "out of memory", "traceback": ""}))
    if checkpoint:
        (folder / "checkpoints" / "4" / "metadata").mkdir(parents=True)
        (folder / "checkpoints" / "4" / "metadata" / "metadata").write_text(json.dumps({"config": config}))
    return folder


def rows_of(*seconds, first=1):
    """A row for every step, written so many seconds after the process began to train; 6 steps are all."""
    return [{"step": first + i, "epoch": (first + i) / 3, "seconds": second} for i, second in enumerate(seconds)]


def states(study):
    return {one.name: one.state for one in study_status(study)}


def test_a_variant_is_what_its_folder_holds(study):
    assert states(study) == {"noise 0.5": "not begun", "noise-0.5": "not begun"}
    folder = population(study, "noise-0.5", KEYS[0], rows=rows_of(1.0, 2.0, 3.0, 4.0, 5.0))
    unkept = study_status(study)[1]  # the same command begins anew
    assert (unkept.state, unkept.step) == ("not begun", 0)
    (folder / "checkpoints" / "4").mkdir(parents=True)
    interrupted = study_status(study)[1]
    assert (interrupted.state, interrupted.step, interrupted.steps) == ("interrupted", 4, 6)
    (folder / store.RESULT).write_text("{}")
    assert states(study)["noise-0.5"] == "trained"


def test_what_failed_after_its_training_has_failed(study, capsys):
    population(study, "noise-0.5", KEYS[0], result=True, failure=True, rows=rows_of(5.0, 6.0))
    failed = study_status(study)[1]
    assert (failed.state, failed.message) == ("failed", "out of memory")
    assert command.run(argparse.Namespace(workdir=study, store=None, json=False)) == 1
    assert "noise-0.5  failed      step 2 of 6 (33%), out of memory\n" in capsys.readouterr().out


@pytest.mark.parametrize("left", [{"result": True}, {"checkpoint": True}])
def test_a_training_under_another_name_is_known_by_its_configuration(study, left):
    """As of variants that share a training, and of a --store where another study has trained it."""
    trained = "trained" if "result" in left else "interrupted"
    folder = population(study, "noise-0.5", KEYS[0], **left)
    folder.rename(folder.with_name(f"plain-{KEYS[0]}"))
    folder.with_name(f"other-{KEYS[1]}").mkdir()  # nothing is known of it but its name
    assert states(study) == {"noise 0.5": "not begun", "noise-0.5": trained}
    config = json.loads((study / "config.json").read_text())
    config["study"]["variants"]["noise-0.5"] = {"training": {"initial": "elsewhere"}}
    defaults = options_of(family_of(config["model"]["name"])) | config["model"]
    config["study"]["variants"] |= {"as before": {}, "written out": {"model": defaults}}
    (study / "config.json").write_text(json.dumps(config))
    begun = {"as before": trained, "written out": trained}
    assert states(study) == {"noise 0.5": "not begun", "noise-0.5": "not begun"} | begun


@pytest.mark.parametrize("left", [{"result": True}, {"checkpoint": True}])
def test_variants_whose_folders_are_spelt_the_same_are_told_apart(study, left):
    population(study, "noise-0.5", KEYS[0], **left)
    assert states(study) == {"noise 0.5": "not begun", "noise-0.5": "trained" if "result" in left else "interrupted"}


def test_a_status_writes_nothing(study):
    population(study, "noise-0.5", KEYS[0], checkpoint=True)
    before = set(study.rglob("*"))
    assert states(study)["noise-0.5"] == "interrupted"
    assert set(study.rglob("*")) == before


@pytest.mark.parametrize(
    ("rows", "left"),
    [
        (rows_of(9.0, 10.0, 11.0, 12.0), 2.0),  # the first call takes longer, and does not count
        ([*rows_of(50.0, 99.0), *rows_of(7.0, 10.0, first=3)], 6.0),  # gone on with: the clock began anew
        (rows_of(9.0), None),
        ([{"step": 1, "epoch": 0.5}, {"step": 2, "epoch": 1.0}], None),  # of an earlier version
    ],
    ids=["one process", "resumed", "one row", "no seconds"],
)
def test_a_running_variant_says_how_long_it_still_takes(study, capsys, rows, left):
    folder = population(study, "noise-0.5", KEYS[0], checkpoint=True, rows=rows)
    now = (folder / log.FILE).stat().st_mtime
    os.utime(folder / log.FILE, (now + 1000, now + 1000))  # written just now, whatever the clock says
    with store.locked(study / "populations", KEYS[0], wait=False) as held:
        assert held
        running = study_status(study)[1]
        command.run(argparse.Namespace(workdir=study, store=None, json=False))
    assert running.state == "running"
    assert running.seconds_left == left
    assert ("left" in capsys.readouterr().out) == (left is not None)
