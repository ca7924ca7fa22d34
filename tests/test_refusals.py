"""Refusals of models, trainings and studies that no other test comes to; see tests/test_messages.py."""

import contextlib
import dataclasses
import functools
import inspect
import json
import re
import shutil
import types

import jax
import numpy as np
import pandas as pd
import pytest

from ser_jax import api, demo
from ser_jax import config as configuration
from ser_jax.baselines import dimensions, linear
from ser_jax.commands import common
from ser_jax.corpora import features, layouts, tables
from ser_jax.corpora.layouts import _annotated, msp_podcast
from ser_jax.corpora.problems import Problems
from ser_jax.errors import UserError
from ser_jax.export.encoder import check_hearing
from ser_jax.export.program import check_exportable
from ser_jax.export.speeds import check_speeds
from ser_jax.report import summary
from ser_jax.studies import (
    compare,
    evaluate,
    outside,
    pace,
    publish,
    recognise,
    render,
    restored,
    robustness,
    selection,
    track,
    workdirs,
)
from ser_jax.studies.plan import make_plan
from ser_jax.training import checkpoints, devices, processes, published, step
from ser_jax.training.arrays import sealed
from ser_jax.training.encoder import upper_layers
from ser_jax.training.setup import check_batch, restored_targets, targets_of
from tests.doors import spoken
from tests.training.test_checkpoints import METADATA, state_of
from tests.training.tiny import CONFIG, tiny_corpus, tiny_population

OWN = {"name": "own", "fingerprint": "2", "emotions": ["anger", "joy"]}
LINEAR = {
    "config": configuration.merge(CONFIG, {}),
    "corpus": {"name": "own", "fingerprint": "2", "emotions": ["anger", "joy"]},
}
BASELINE = {"config": {"model": {"name": "lda"}}, "corpus": OWN}


def _metadata(base=LINEAR, **changes):
    """The metadata of a training, with groups of its configuration or of the corpus changed."""
    of_corpus = {"corpus": base["corpus"] | changes.pop("corpus", {})}
    return base | of_corpus | {"config": base["config"] | changes}


def _restored(place, **metadata):
    return workdirs.Restored("plain", place, _metadata() | metadata)


def _written(place, name, content):
    path = place / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _study(**study):
    return make_plan(configuration.merge(CONFIG, {"study": study}))


def _twice(place):
    return 2 * [{"id": "a", "path": "a.wav"}]


def _parquet(place):
    pd.DataFrame({"utterance": [], "label": []}).to_parquet(place / "empty.parquet")
    return (place / "empty.parquet").read_bytes()


def _model_of_dimensions():
    model = object.__new__(api.Model)
    model.__dict__.update(emotions=(), name="m")
    return model


@functools.cache
def _corpus():
    return tiny_corpus()


def _population(**changes):
    return tiny_population(*_corpus(), **changes)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda f: dimensions.check(linear.Baseline("ridge", columns="first")),
            "config.model.columns=first: expected all, with config.corpus.dimensions",
        ),
        (lambda f: tables.read_table(f), "a folder, expected a table"),
        (
            lambda f: compare.check_folder(_written(f, "a", "")),
            "a: a file; expected a folder",
        ),
        (lambda f: summary.read(f), "summary.json: not readable (No such file"),
        (
            lambda f: check_hearing({}, None, "m"),
            "m: the model takes pre-extracted features; expected one that takes recordings",
        ),
        (
            lambda f: check_speeds([1.0, 0.7123456], "m"),
            "at speed 0.712346, which is no ratio of whole numbers up to 200",
        ),
        (
            lambda f: check_exportable(_metadata(corpus={"emotions": []}), None, "m"),
            "m: predicts dimensions alone; expected a model of emotions",
        ),
        (
            lambda f: check_exportable(BASELINE, None, "m"),
            "m: a linear model on functionals cannot be exported; expected a network",
        ),
        (
            lambda f: check_exportable(_metadata(model={"name": "encoder_head", "layers": 1}), None, "m"),
            "m: computes layers of its encoder by itself, which cannot be exported; expected layers=0",
        ),
        (lambda f: outside.read_outside(_written(f, "a.parquet", _parquet(f))), "a.parquet: no predictions in it"),
        (lambda f: pace.pace([(4, 1.0), (4, 2.0)]), "too few steps were made to time a training"),
        (
            lambda f: _study(questions=[{"name": "a\nb", "variants": {"x": {}}}]),
            r"found the name 'a\nb', expected one line of at most",
        ),
        (
            lambda f: _study(variants={"x": 1}),
            "config.study.variants: x: found 1, expected a part of the configuration",
        ),
        (
            lambda f: _study(variants={"x": {}}, comparisons=[["x"]]),
            "config.study.comparisons: found ['x'], expected a pair of variants",
        ),
        (
            lambda f: _study(variants={"x": {}}, candidates=["x", "y"]),
            "config.study.candidates: found some, which `study --select SPEAKERS` names; expected one variant",
        ),
        (
            lambda f: publish._check_alike(
                _restored(f), _restored(f, corpus={"name": "other", "fingerprint": "1", "emotions": []})
            ),
            "--tested: its corpus is other, 1, expected own, 2, as in --workdir",
        ),
        (
            lambda f: publish._check_alike(_restored(f), _restored(f, corpus=OWN | {"features": {"fingerprint": "3"}})),
            "--tested: trained on other pre-extracted features than --workdir",
        ),
        (
            lambda f: recognise.choose_runs(
                _restored(f, runs=[{"fold": "a", "seed": 0}], diverged=[{"fold": "a", "seed": 0, "step": 3}]), "a", 0
            ),
            "every run of --fold a --seed 0 diverged in training",
        ),
        (
            lambda f: restored.relabel(spoken(), ("fear",)),
            "corpus own: none of its emotions (anger, joy) is known to the model (fear)",
        ),
        (
            lambda f: list(restored.look_at(_restored(f, corpus=OWN | {"features": {"name": "x"}}), {}, 0)),
            "the attention of a model of pre-extracted features cannot be drawn",
        ),
        (lambda f: robustness.test_predictions_under(_population(), {}, "x", []), "x: no condition to predict under"),
        (
            lambda f: selection.choosing(CONFIG, 1, None),
            "--select: found 1, expected two speakers or more to choose by",
        ),
        (
            lambda f: selection.check_folds(configuration.merge(CONFIG, {"protocol": {"tested": "validation"}}), None),
            "--select folds: found config.protocol.tested=validation, expected test",
        ),
        (
            lambda f: selection.check_folds(CONFIG, None),
            "--select folds: found one variant, expected a study of two or more to choose among",
        ),
        (
            lambda f: upper_layers(_metadata(model={"name": "encoder_head", "lower": 2})["config"], None),
            "config.model.lower: found 2, expected config.frontend.kind=waveform with it",
        ),
        (
            lambda f: targets_of(
                _metadata(model={"text": "words"}, augmentation={"mixup": 0})["config"], spoken(), None, []
            ),
            "config.model.text=words: corpus own has no transcripts",
        ),
        (
            lambda f: restored_targets({"vocabulary": 1}, ()),
            "the targets in a model's metadata are none that a training wrote",
        ),
        (
            lambda f: demo.refuse_model(_model_of_dimensions()),
            "demo: model m predicts no emotions, expected one that does",
        ),
        (
            lambda f: processes.join("localhost:1", None, None, timeout=5),
            "--coordinator: expected --num_processes, --process_id as well",
        ),
        (
            lambda f: _annotated(dataclasses.replace(layouts.load("msp_podcast"), annotated=_twice), f, Problems()),
            "the annotations list a twice, expected it once",
        ),
        (
            lambda f: msp_podcast._votes(_written(f, "labels_detailed.csv", "FileName,Emotion\na,b\n").parent),
            "no column `EmoClass_Major`, expected FileName and EmoClass_Major",
        ),
    ],
)
def test_what_is_refused(tmp_path, call, message):
    with pytest.raises(UserError) as refused:
        call(tmp_path)
    said = str(refused.value)
    assert message in said and "\n" not in said and len(said.replace(str(tmp_path), "")) < 300


def test_a_model_must_have_a_classifier_for_vectors_before_it(monkeypatch):
    monkeypatch.setattr(step, "_windows_output", lambda *_: (None, None))
    population = _population()
    nothing = np.zeros(1, np.int32)
    embed = inspect.unwrap(step.embed_batch)  # without the check of what it is given
    with pytest.raises(UserError, match="has no layer `classifier`, whose input would be taken"):
        embed(population.learner, None, nothing, nothing, nothing, None, population.window_samples, "running")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"optimizer": {"warmup_steps": 6}},
            "config.optimizer: found a warm-up of 6 steps, expected less than the training's 6",
        ),
        (
            {"training": {"keep": "best", "validate_steps": 0}},
            "config.training.keep=best: no validation comes before the end of the training",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_training_that_cannot_be_is_refused_before_anything_is_compiled(changes, message):
    with pytest.raises(UserError) as refused:
        _population(**changes)
    assert message in str(refused.value)


def test_processes_of_one_training_share_every_batch_and_the_lanes(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    with pytest.raises(UserError, match=r"config.training.split=runs: the processes of one training share every batch"):
        devices.make_layout(2, "runs", 4)
    with pytest.raises(UserError, match=r"config.order.lanes: 4 cannot be shared out to 3 processes"):
        check_batch(
            configuration.merge(CONFIG, {"order": {"lanes": 4}}),
            restored_targets({"vocabulary": None, "heads": [], "tracks": []}, ()),
            devices.Layout(tuple(jax.devices()), False),
            "streaming",
        )


def test_processes_of_one_training_are_alike(monkeypatch):
    monkeypatch.setattr(processes, "several", lambda: True)
    other = lambda mine: np.stack([mine, np.flip(mine)])  # noqa: E731
    monkeypatch.setattr(processes.multihost_utils, "process_allgather", other)
    with pytest.raises(UserError, match=r"processes of one training differ in their config: 1 from the first; start"):
        processes.require_same({"config": {"a": 1}})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, None, None), "--distributed: neither Slurm nor Open MPI nor a TPU says who is who here"),
        (("localhost:1", 2, 0), "--coordinator localhost:1: cannot bind"),
    ],
)
def test_processes_that_cannot_come_together_say_why(monkeypatch, given, message):
    def initialize(*_, **__):
        raise RuntimeError("cannot bind\nsecond line")

    monkeypatch.setattr(processes.jax.distributed, "initialize", initialize)
    with pytest.raises(UserError) as refused:
        processes.join(*given, timeout=5)
    assert message in str(refused.value) and "second line" not in str(refused.value)


def test_a_platform_that_is_not_there_is_named(monkeypatch):
    def devices_of_none():
        raise RuntimeError("Unable to initialize backend 'cuda'\n  and more")

    monkeypatch.setattr(jax, "devices", devices_of_none)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(UserError, match=r"^JAX_PLATFORMS=cuda: Unable to initialize backend 'cuda'$"):
        common.start_jax()


def _sealed(folder, change):
    """Changes the metadata of the newest checkpoint, and seals them again."""
    path = folder / "6" / "metadata" / "metadata"
    found = change(json.loads(path.read_text()))
    path.write_text(json.dumps(sealed(found) if isinstance(found, dict) else found))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    with contextlib.closing(checkpoints.Checkpoints(folder)) as kept:
        kept.save(state_of(6), METADATA)
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: [1], r"6: damaged checkpoint \(its metadata are no JSON object\)"),
        (lambda found: found | {"format": 1}, "6: checkpoint of format 1, of an earlier version; expected format 2"),
        (lambda found: found | {"config": 3}, "6: metadata of a checkpoint that no training wrote"),
        (lambda found: found | {"arrays": {"a": {}}}, "6: metadata of a checkpoint that no training wrote"),
        (
            lambda found: found | {"arrays": {n: one | {"shape": [-1]} for n, one in found["arrays"].items()}},
            "6: metadata of a checkpoint that no training wrote",
        ),
    ],
)
def test_metadata_that_no_training_wrote_are_refused_though_they_are_sealed(checkpoint, tmp_path, change, message):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoints")
    _sealed(folder, change)
    found = {}
    with contextlib.closing(checkpoints.Checkpoints(folder)) as kept, contextlib.suppress(UserError):
        found = kept.verify()
    assert re.search(message, found[6])


def test_a_folder_without_a_checkpoint_is_refused(tmp_path, monkeypatch):
    with contextlib.closing(checkpoints.Checkpoints(tmp_path)) as kept, pytest.raises(UserError, match="no checkpoint"):
        kept.restore(state_of(6))

    def fail(*_, **__):
        raise ValueError("no such folder")

    monkeypatch.setattr(checkpoints.ocp, "CheckpointManager", fail)
    with pytest.raises(UserError, match=r"its checkpoints cannot be read \(no such folder\)"):
        checkpoints.Checkpoints(tmp_path)


def test_orbax_s_own_files_may_be_anything(checkpoint, monkeypatch):
    def fail(*_, **__):
        raise TypeError("'int' object is not iterable")

    with contextlib.closing(checkpoints.Checkpoints(checkpoint)) as kept:
        monkeypatch.setattr(kept._manager, "restore", fail)
        with pytest.raises(UserError, match=r"6: the checkpoint cannot be read \('int' object is not iterable\)"):
            kept.restore(state_of(6))


@pytest.mark.parametrize("broken", [{"arrays": {"a": 1}}, {"config": 3}], ids=["arrays", "config"])
def test_a_published_description_that_no_training_wrote_is_refused_though_it_is_sealed(tmp_path, broken):
    published.write(tmp_path, "small", {"a": np.ones(2, np.float32)}, METADATA)
    path = tmp_path / published.METADATA
    path.write_text(json.dumps(sealed(json.loads(path.read_text()) | broken)))
    with pytest.raises(UserError, match=r"config.json: not the description of a training"):
        published.read_arrays(tmp_path)


def test_a_published_model_has_no_log_to_track(tmp_path):
    published.write(tmp_path, "small", {"a": np.ones(2, np.float32)}, METADATA)
    with pytest.raises(UserError, match="a published model, which has no log; expected a folder that `train`"):
        track.tracked_runs(tmp_path)


def test_an_out_that_is_a_file_is_refused(tmp_path):
    path = _written(tmp_path, "a", "")
    with pytest.raises(UserError, match=r"--out .*a: a file, a published model or the workdir of a study; expected"):
        evaluate.evaluate_workdir(str(tmp_path), None, None, None, {}, out=str(path))
    for name in ("predictions.parquet", "summary.json"):
        _written(tmp_path, name, "")
    with pytest.raises(UserError, match=r"--out .*a: a file; expected a folder"):
        render.render(tmp_path, path)


def test_a_baseline_has_no_batches_to_be_tested_otherwise(tmp_path):
    one = workdirs.Restored("lda", tmp_path, BASELINE)
    with pytest.raises(UserError, match=r"--batch_statistics: lda is a baseline on functionals, which has no such"):
        evaluate._changed(one, {"batch_statistics": "speaker"})


def test_variants_that_are_too_many_or_none_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr(workdirs, "find", lambda *_, **__: [_restored(tmp_path), _restored(tmp_path)])
    with pytest.raises(UserError, match=r"^here: .* has 2 variants, expected one$"):
        workdirs.find_network(tmp_path, "here")
    with pytest.raises(UserError, match=r"^--workdir .*: found 2 variants, expected one$"):
        publish._single("--workdir", tmp_path)
    monkeypatch.setattr(workdirs, "find", lambda *_, **__: [workdirs.Restored("lda", tmp_path, BASELINE)])
    with pytest.raises(UserError, match=r"^here: .* holds a baseline, expected a network that takes recordings$"):
        workdirs.find_network(tmp_path, "here")


def test_a_population_that_was_moved_away_is_named(tmp_path, monkeypatch):
    _written(tmp_path, workdirs.STUDY, "{}")
    monkeypatch.setattr(workdirs, "read_places", lambda workdir: {"plain": tmp_path / "gone"})
    with pytest.raises(UserError, match=r"^--workdir .*: the population of plain is not in .*gone$"):
        workdirs.find(tmp_path)


def test_a_corpus_that_changed_since_is_not_the_one_that_was_learnt(monkeypatch):
    metadata = _metadata() | {"initial": None, "teacher": None}
    monkeypatch.setattr(publish, "load_corpus", lambda *_, **__: spoken())
    with pytest.raises(UserError, match=r"^corpus own: it has changed since the training; prepare that one again$"):
        publish._corpora(metadata, None)


def test_a_study_without_emotions_has_none_to_choose_by(tmp_path, monkeypatch):
    none = types.SimpleNamespace(ua=types.SimpleNamespace(value=None))
    monkeypatch.setattr(selection.summary, "read", lambda _: types.SimpleNamespace(variants={"a": none}))
    with pytest.raises(UserError, match="no variant has a UA, so there is none to choose"):
        selection.choose(tmp_path)
    silent = dataclasses.replace(spoken(), emotions=())
    monkeypatch.setattr(selection, "load", lambda config, data_dir: (silent, None))
    two = configuration.merge(CONFIG, {"study": {"variants": {"a": {}, "b": {"augmentation": {"noise": 0.5}}}}})
    with pytest.raises(UserError, match=r"--select 2: corpus own has no emotions, and the choice is by UA"):
        selection._check_variants(two, "2", None, "protocol")


def test_features_of_other_utterances_are_refused(tmp_path, monkeypatch):
    own = spoken()
    np.savez(tmp_path / "given.npz", **{name: np.ones(3, np.float32) for name in own.utterances["id"]})
    features.pack_features("f", tmp_path / "given.npz", own, tmp_path)
    read = features.read_packed
    monkeypatch.setattr(features, "read_packed", lambda path: (read(path)[0], read(path)[1][1:], read(path)[2]))
    with pytest.raises(UserError, match=r"damaged"):
        features.load_features(own, "f", tmp_path)
