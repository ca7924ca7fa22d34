"""What a tracker has written is read again, in the tracker's own form, and is what it was given."""

import dataclasses
import io
import json
import struct
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ser_jax.commands.main import main
from ser_jax.studies import track
from ser_jax.studies.workdirs import Restored
from ser_jax.trackers import TRACKERS, mlflow, tensorboard, wandb
from ser_jax.trackers.run import TrackedRun
from ser_jax.training import log
from tests.doors import table_of_predictions


def png():
    picture = io.BytesIO()
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(picture, "png")
    return picture.getvalue()


RUNS = [
    TrackedRun(
        variant="ECA, k=3",
        fold=fold,
        seed=1,
        options={"model.width": 2, "model.name": "cnn", "training.deterministic": True},
        curves=[(2, {"loss": 1.5, "accuracy": 0.25}), (4, {"loss": 1.0, "accuracy": 0.5})],
        scores={"test_ua": 0.625},
        confusion=png(),
    )
    for fold in ("a", "b")
]


def test_tensorboard_has_curves_options_scores_and_the_picture(tmp_path):
    event_pb2 = pytest.importorskip("tensorboard.compat.proto.event_pb2")
    from tensorboard.plugins.hparams import plugin_data_pb2

    tensorboard.write(RUNS, tmp_path, "study")
    files = sorted(tmp_path.glob("*/events.out.tfevents.*"))
    assert [file.parent.name for file in files] == ["0000_ECA_k_3_a_seed_1", "0001_ECA_k_3_b_seed_1"]
    data, values = files[1].read_bytes(), {}
    while data:  # records of TensorFlow: length, checksum, content, checksum
        (length,) = struct.unpack("<Q", data[:8])
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        for value in event.summary.value:
            values.setdefault(value.tag, []).append((event.step, value))
    assert [(step, value.simple_value) for step, value in values["loss"]] == [(2, 1.5), (4, 1.0)]
    assert [(step, value.simple_value) for step, value in values["test_ua"]] == [(4, 0.625)]
    assert values["confusion"][0][1].image.encoded_image_string == png()
    (_, started) = next(iter(values["_hparams_/session_start_info"]))
    options = plugin_data_pb2.HParamsPluginData.FromString(started.metadata.plugin_data.content)
    found = options.session_start_info.hparams
    assert found["model.width"].number_value == 2 and found["fold"].string_value == "b"
    assert found["training.deterministic"].bool_value is True


def test_tensorboard_has_a_folder_for_a_run_of_any_name(tmp_path):
    pytest.importorskip("tensorboard")
    names = ["é/" * 200, "f" * 300, "f" * 301]
    tensorboard.write([dataclasses.replace(RUNS[0], fold=fold) for fold in names], tmp_path, "study")
    assert len(list(tmp_path.glob("*/events*"))) == 3


def records(path):
    """The records of an offline run: LevelDB's log, blocks of 32 KiB of (checksum, length, kind, content)."""
    data, at, waiting, found = path.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        waiting += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            found.append(waiting)
            waiting = b""
    return found


def test_wandb_has_curves_options_scores_and_the_picture_without_a_network(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.delenv("WANDB_MODE", raising=False)
    wandb.write(RUNS[:1], tmp_path, "study")
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    found = [wandb_internal_pb2.Record.FromString(record) for record in records(file)]
    (started,) = [one.run for one in found if one.WhichOneof("record_type") == "run"][:1]
    assert (started.project, started.run_group, started.display_name) == ("study", "ECA, k=3", "ECA, k=3, a, seed 1")
    options = {one.key or ".".join(one.nested_key): json.loads(one.value_json) for one in started.config.update}
    assert options["model.width"] == 2 and options["seed"] == 1 and options["training.deterministic"] is True
    history = [
        {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in one.history.item}
        for one in found
        if one.WhichOneof("record_type") == "history"
    ]
    assert [(row["_step"], row["loss"]) for row in history if "loss" in row] == [(2, 1.5), (4, 1.0)]
    summaries = [one.summary for one in found if one.WhichOneof("record_type") == "summary"]
    assert {"test_ua": "0.625"} in [
        {item.key: item.value_json for item in one.update if item.key == "test_ua"} for one in summaries
    ]
    (picture,) = tmp_path.glob("wandb/offline-run-*/files/**/*.*")  # and no list of packages
    assert Image.open(picture).size == (6, 4)


def test_mlflow_has_curves_options_scores_and_the_picture(tmp_path):
    for module in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(module)
    from mlflow.tracking import MlflowClient

    many = {f"option.{i}": i for i in range(150)} | {"long": "x" * 9000}  # more than one call takes
    mlflow.write([RUNS[0], TrackedRun("plain", "a", 0, many, [], {}, b"")], tmp_path, "Default")  # a name that is taken
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = [one for one in client.search_experiments() if one.name == "Default runs"]
    runs = {one.info.run_name: one for one in client.search_runs([experiment.experiment_id])}
    assert runs.keys() == {"ECA, k=3, a, seed 1", "plain, a, seed 0"}
    run = runs["ECA, k=3, a, seed 1"]
    assert run.info.status == "FINISHED" and run.data.params["model.width"] == "2" and run.data.tags["fold"] == "a"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(one.step, one.value) for one in history] == [(2, 1.5), (4, 1.0)]
    assert run.data.metrics["test_ua"] == 0.625
    (picture,) = tmp_path.glob("pictures/*/artifacts/confusion.png")
    assert Image.open(picture).size == (6, 4)
    params = runs["plain, a, seed 0"].data.params
    assert len(params) == 151 and params["option.149"] == "149" and len(params["long"]) == 6000


def test_mlflow_takes_the_name_of_any_column_as_one_of_its_own(tmp_path):
    for module in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(module)
    from mlflow.tracking import MlflowClient

    odd = {"test_ccc_arousal (self)": 0.25, "test_ccc_arousal [self]": 0.5, "a//b": 0.75, "é": 1.0, "plain": 0.0}
    odd |= {"long" * 100: 2.0, "a__b": 3.0}
    mlflow.write([TrackedRun("eca", "a", 0, {"model.option?": 1}, [(1, odd)], {}, b"")], tmp_path, "study")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = [one for one in client.search_experiments() if one.name == "study"]
    (run,) = client.search_runs([experiment.experiment_id])
    names = ["test_ccc_arousal _self_", "test_ccc_arousal _self__", "a__b_", "é", "plain", "long" * 50, "a__b"]
    assert run.data.metrics == dict(zip(names, odd.values(), strict=True))
    assert run.data.params == {"model.option_": "1"}


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """A workdir of one variant with two runs: the log and predictions of one fold, and a fold that diverged."""
    folder = tmp_path / "work"
    folder.mkdir()
    table_of_predictions().assign(fold="p").to_parquet(folder / "predictions.parquet")
    rows = [
        {"step": 1, "epoch": 0.5, "fold": fold, "seed": 0, "seconds": 3.0, "loss": loss}
        for fold, loss in (("p", 2.0), ("q", None))
    ]
    (folder / log.FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {"model": {"name": "cnn", "sizes": (1, 2), "dropout": 0.1}, "seeds": [0], "augmentation": {}}
    metadata = {"config": config, "runs": [{"fold": "p", "seed": 0}, {"fold": "q", "seed": 0}]}
    monkeypatch.setattr(track.workdirs, "find", lambda *_, **__: [Restored("eca", folder, metadata)])
    return folder


def test_runs_have_their_own_curves_options_and_scores(workdir):
    first, diverged = track.tracked_runs(workdir)
    assert (first.variant, first.fold, first.seed, first.last_step) == ("eca", "p", 0, 1)
    assert first.curves == [(1, {"loss": 2.0})] and diverged.curves == [(1, {})]
    assert first.options == {
        "model.name": "cnn",
        "model.sizes": "(1, 2)",
        "model.dropout": 0.1,
        "seeds": "[0]",
        "augmentation": "{}",
    }
    # Every probability is a half, so that the first emotion is predicted of all: half of them are right.
    assert first.scores["test_ua"] == first.scores["test_wa"] == 0.5
    assert first.confusion.startswith(b"\x89PNG") and diverged.confusion == b"" and diverged.scores == {}


def test_a_run_without_emotions_has_the_scores_of_its_dimensions():
    known, found = np.array([0.1, 0.5, np.nan, 0.9]), np.array([0.2, 0.4, 0.3, 0.8])
    table = pd.DataFrame({"true_arousal": known, "predicted_arousal": found})
    scores, picture = track._tested(table, "title")
    known, found = np.delete(known, 2), np.delete(found, 2)
    spread = np.var(known) + np.var(found) + (known.mean() - found.mean()) ** 2
    assert scores == {"test_ccc_arousal": pytest.approx(2 * np.cov(known, found, bias=True)[0, 1] / spread)}
    assert picture == b""


@pytest.mark.parametrize(("name", "project"), [("a:b#c", "a_b_c"), ("runs 1.2-x", "runs 1.2-x")])
def test_a_project_has_no_letters_that_a_tracker_refuses(workdir, tmp_path, monkeypatch, name, project):
    told = []
    monkeypatch.setitem(TRACKERS, "tensorboard", lambda runs, folder, project: told.append(project))
    (tmp_path / name).mkdir()
    assert main(["track", str(tmp_path / name), "--to", "tensorboard", "--out", str(tmp_path / "new")]) == 0
    assert told == [project]


def test_the_command_writes_a_new_folder_and_leaves_none_behind_that_failed(workdir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["track", "work", "--to", "tensorboard", "--out", "curves"]) == 0
    assert "curves: 2 runs; to look at them: tensorboard --logdir curves" in capsys.readouterr().out
    assert len(list(tmp_path.glob("curves/*/events*"))) == 2

    def fails(runs, folder, project):
        (folder / "half").touch()
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setitem(TRACKERS, "tensorboard", fails)
    assert main(["track", "work", "--to", "tensorboard", "--out", "other"]) == 2
    assert not (tmp_path / "other").exists() and "No space left" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--to", "wandbb", "--out", "new"), "--to wandbb: not a tracker; did you mean wandb?"),
        (("--to", "tensorboard", "--out", "work"), "--out work: expected a new folder"),
        (
            ("--to", "tensorboard", "--out", "nowhere/new"),
            "--out nowhere/new: expected a new folder, in one that is there",
        ),
        (
            ("--to", "mlflow", "--out", "new"),
            "--to mlflow: needs mlflow, which is not installed; expected `pip install mlflow-skinny "
            "sqlalchemy alembic`",
        ),
    ],
)
def test_what_cannot_be_written_is_refused_first(workdir, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as if it were not installed
    assert main(["track", "work", *options]) == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["work"]
