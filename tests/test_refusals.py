"""Refusals of models, trainings and studies that no other test comes to; see tests/test_messages.py."""

import contextlib
import dataclasses
import errno
import functools
import hashlib
import inspect
import io
import json
import re
import shutil
import sys
import types
import zipfile
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
import soundfile

from ser_jax import api, demo
from ser_jax import config as configuration
from ser_jax.baselines import dimensions, functionals, linear
from ser_jax.commands import common
from ser_jax.commands.main import main
from ser_jax.corpora import audio, features, folder, foreign, layouts, tables
from ser_jax.corpora.builders import source
from ser_jax.corpora.labels import Changes
from ser_jax.corpora.layouts import _annotated, msp_podcast
from ser_jax.corpora.problems import Problems
from ser_jax.encoders import smart_turn, store
from ser_jax.errors import UserError
from ser_jax.export import onnx as onnx_export
from ser_jax.export import program as programs
from ser_jax.export.encoder import check_hearing
from ser_jax.export.program import check_exportable
from ser_jax.export.speeds import check_speeds
from ser_jax.inference import predict
from ser_jax.inference import tables as inference_tables
from ser_jax.models import encoder_head
from ser_jax.report import summary
from ser_jax.report.summarise import How, summarise
from ser_jax.statistics import metrics
from ser_jax.studies import (
    baselines,
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
from ser_jax.training import checkpoints, devices, initial, processes, published, step
from ser_jax.training.arrays import sealed
from ser_jax.training.encoder import restored_architecture, upper_layers
from ser_jax.training.population import state_like
from ser_jax.training.setup import check_batch, restored_targets, targets_of
from tests.doors import assert_refused, spoken, tiny_encoder
from tests.statistics import made_tables
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


def _published(place, arrays, **more):
    published.write(place, "small", arrays, METADATA | more)
    return place


def _fitted():
    """The arrays of a baseline of two classes and three values."""
    one = linear.Fitted(np.zeros(3), np.ones(3), np.ones((2, 3), np.float32), np.zeros(2), 1.0, np.zeros(2))
    return linear.to_arrays([one])


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
            lambda f: _study(variants={"\ud800": {}}),
            r"found the name '\ud800', expected one line of at most",
        ),
        (
            lambda f: configuration.check(configuration.merge(CONFIG, {"study": {"title": "a\udcff"}})),
            r"config.study.title: found 'a\udcff', expected a text",
        ),
        (
            lambda f: _study(variants={"x": {}}, comparisons=[["x", "x"]]),
            "config.study.comparisons: found ['x', 'x'], expected two variants",
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
            "corpus own: none of its emotions (anger, joy) is known to the model (fear), expected two or more",
        ),
        (
            lambda f: restored.relabel(spoken(), ("anger", "happiness")),
            "corpus own: anger alone of its emotions (anger, joy) is known to the model (anger, happiness), expected "
            "two or more; --map joy=happiness, if that is meant",
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
            lambda f: restored_architecture({"encoder": {"name": "x"}}),
            "the encoder in a model's metadata is none that a training wrote ('architecture')",
        ),
        (
            lambda f: baselines.load_folds(_published(f, {"a": np.ones(2, np.float32)}, folds=["a", "b"])),
            "not the baselines that a training wrote",
        ),
        (
            lambda f: baselines.load_folds(_published(f, _fitted(), folds=["a"], corpus={"emotions": ["a"]})),
            "(coefficients of 2 classes and 3 values, beside others)",
        ),
        (
            lambda f: linear.standardise(linear.from_arrays(_fitted())[0], np.zeros((1, 1, 5), np.float32)),
            "a baseline takes 3 values of each utterance, found 5",
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
    assert_refused(call, tmp_path, message)


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

    def gathered(mine):
        return np.stack([mine, np.flip(mine)])

    monkeypatch.setattr(processes.multihost_utils, "process_allgather", gathered)
    with pytest.raises(UserError, match=r"processes of one training differ in their config: 1 from the first; start"):
        processes.require_same({"config": {"a": 1}})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, None, None), "--distributed: found no environment of Slurm, Open MPI or a TPU"),
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


def test_a_folder_without_a_checkpoint_is_refused_and_not_made(tmp_path, monkeypatch):
    """Where populations lie is said by study.json, which is not trusted."""
    for place in (tmp_path, tmp_path / "none"):
        with contextlib.closing(checkpoints.Checkpoints(place)) as kept, pytest.raises(UserError, match="no checkp"):
            kept.restore(state_of(6))
    assert not (tmp_path / "none").exists()

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
    with pytest.raises(UserError, match=r"^--workdir .*: found 2 variants \(.*\), expected one$"):
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


def test_functionals_that_are_not_finite_are_named(monkeypatch):
    opened = contextlib.nullcontext((("loudness",), lambda waveforms: [np.array([np.nan])]))
    monkeypatch.setattr(functionals, "_opened", lambda kind, number: opened)
    with pytest.raises(UserError, match=r"^utterance a: own gives no finite loudness \(0.10 s of sound\)$"):
        functionals.compute([("a", np.ones(1600, np.int16))], "own")


def _denied(*_, **__):
    raise PermissionError(errno.EACCES, "Permission denied")


def test_a_recording_that_may_not_be_read_and_one_without_end_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "MOST_PIPED", 10)
    with pytest.raises(
        UserError, match=r"^standard input: more than 1e-08 GB from a pipe or a device, expected a reco"
    ):
        audio._piped(io.BytesIO(bytes(11)), "standard input")
    path = _written(tmp_path, "a.wav", "x")
    monkeypatch.setattr(audio.os, "stat", _denied)
    with pytest.raises(UserError, match=r"a.wav: no permission to read this audio file$"):
        audio.read_recording(path)


def test_what_nothing_here_decodes_is_named(monkeypatch):
    monkeypatch.setattr(foreign.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(foreign.shutil, "which", lambda name: None)
    with pytest.raises(
        UserError, match=r"^a.wav: cannot be read as audio \(no header\), expected wav, flac, ogg or mp3"
    ):
        foreign.decode("a.wav", "a.wav", b"nothing that is known", "no header")


def test_a_container_that_promises_more_than_it_holds_is_cut_short(monkeypatch):
    pytest.importorskip("av")
    file = io.BytesIO()
    soundfile.write(file, np.zeros(8000), 16000, format="WAV")
    monkeypatch.setattr(foreign, "_promised_seconds", lambda container, stream: 2.0)
    with pytest.raises(UserError, match=r"^a.wav: cut short, 0.50 s can be decoded, expected 2.00$"):
        list(foreign._frames_of_pyav("a.wav", file.getvalue(), None, ""))


def test_a_release_of_which_nothing_is_there_is_refused(tmp_path):
    soundfile.write(tmp_path / "other.wav", np.zeros(100), 16000)
    release = source.Release("A release", "1", "https://example.org", {"a": 64 * "0"})
    with (
        pytest.raises(UserError, match=r"holds no recording of A release$"),
        source.open_source(tmp_path, release, tmp_path / "scratch", allow_mismatch=True),
    ):
        pass


def test_a_table_of_one_split_without_emotions_is_refused(tmp_path):
    places = {}
    for split, rows in (
        ("train", "path,speaker,emotion\na.wav,p,joy\n"),
        ("test", "path,speaker,arousal\na.wav,p,1\n"),
    ):
        (tmp_path / split).mkdir()
        soundfile.write(tmp_path / split / "a.wav", np.zeros(100), 16000)
        places[split] = _written(tmp_path / split, "metadata.csv", rows)
    with pytest.raises(
        UserError, match=r"test/metadata.csv: no column `emotion`, which the tables of other splits have"
    ):
        folder.read_split_tables(places, Problems())


def test_a_table_that_the_disk_does_not_give_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_decoded", _denied)
    with pytest.raises(UserError, match=r"a.csv: cannot be read \(Permission denied\)$"):
        tables.read_table(_written(tmp_path, "a.csv", "path\n"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "a.pt: list, expected tensors by name"),
        ({"model": 1}, "a.pt: no tensors by name under 'model' or 'model_state_dict'"),
        ({"a": 1}, "a.pt: does not say how the encoder is built; put it in a folder with config.json"),
    ],
)
def test_a_pytorch_file_of_something_else_is_refused(monkeypatch, content, message):
    """PyTorch itself takes seconds to import; what it would load is given here."""
    allowed = types.SimpleNamespace(safe_globals=lambda _: contextlib.nullcontext())
    torch = types.SimpleNamespace(serialization=allowed, load=lambda *_, **__: content, Tensor=np.ndarray)
    monkeypatch.setitem(sys.modules, "torch", torch)
    with pytest.raises(UserError, match=f"^{message}$"):
        store._foreign_file(Path("a.pt"))


def test_the_default_encoders_package_may_be_another_one(monkeypatch):
    def run(command, **_):
        with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "a.whl", "w"):
            return types.SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(smart_turn.subprocess, "run", run)
    with pytest.raises(UserError, match=r"^a.whl: expected a wheel with .*\.onnx$"):
        smart_turn.download()
    monkeypatch.setattr(smart_turn, "SHA256", hashlib.sha256(b"x").hexdigest())
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"smart-turn-v3.2: its file is ONNX; install it with `pip install onnx`$"):
        smart_turn.dequantize(b"x", "a")


def test_a_hub_that_does_not_answer_is_named(monkeypatch):
    def snapshot_download(*_, **__):
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(store.extras, "load", lambda *_: types.SimpleNamespace(snapshot_download=snapshot_download))
    with pytest.raises(UserError, match=r"^encoder a/b: the Hugging Face hub did not give it \(no network\)$"):
        store._download("a/b")


def test_predictions_that_are_not_finite_and_runs_that_all_diverged_give_none(monkeypatch):
    population = _population(folds=[0], seeds=[0])
    row = population.folds[0].test[:1]
    state = state_like(population)

    def windows(*_):
        found = np.full((1, 4), np.nan)
        yield 0, types.SimpleNamespace(utterance=row), found, None, None

    state = state.replace(diverged_at=np.full_like(state.diverged_at, -1))
    monkeypatch.setattr(predict, "_evaluated_windows", windows)
    with pytest.raises(UserError, match=r"^synthetic: run 1 of 1 predicts figures that are not finite for 1 of 1 utt"):
        predict.evaluate_with_dimensions(population, state, [row])
    monkeypatch.setattr(inference_tables, "evaluate_with_dimensions", lambda *_: ([], []))
    lost = state.replace(diverged_at=np.full_like(state.diverged_at, 3))
    with pytest.raises(UserError, match=r"^x: every run diverged; there is nothing to predict with$"):
        inference_tables.predictions_table(population, lost, "x", [row])


def test_a_metric_of_several_figures_is_refused():
    table = made_tables.make_table(variants=("none",), utterances=2)
    several = metrics.Metric("shares", "shares", lambda counts: counts.sum(-1) / counts.sum())
    with pytest.raises(UserError, match=r"^metric shares: gives 1 dimensions beyond those of its batch$"):
        summarise(table, how=How(replicates=2, metrics=(several,)))


def test_names_of_emotions_are_for_another_corpus(tmp_path, monkeypatch):
    monkeypatch.setattr(workdirs, "find", lambda *_, **__: [_restored(tmp_path)])
    with pytest.raises(
        UserError, match=r"^evaluate: own was learnt under its own names of emotions; expected no others$"
    ):
        evaluate.evaluate_workdir(str(tmp_path), None, None, None, {}, Changes({"joy": "fun"}))


def test_parameters_of_other_shapes_are_no_beginning(monkeypatch):
    population = _population()
    variables = {0: {"params": {"classifier": {"kernel": np.zeros((1, 1))}}}}
    begun = initial.Initial({"config": population.config, "corpus": {"fingerprint": "other"}}, variables)
    with pytest.raises(UserError, match=r"^config.training.initial: none of its parameters has the shape of one"):
        initial.check_initial(begun, population.config, population.corpus, population.learner)


def test_waveforms_are_no_longer_than_the_positions_of_an_encoder(tmp_path):
    store.get(str(tiny_encoder(tmp_path / "taken")), tmp_path, name="tiny", licence="mine")
    changes = {
        "frontend": {"kind": "waveform", "normalization": "none"},
        "model": {"name": "encoder_head", "encoder": "tiny"},
        "training": {"crop_seconds": 99.0},
    }
    config = configuration.merge(CONFIG, changes)
    with pytest.raises(
        UserError, match=r"config.training.crop_seconds: found 99, expected at most .* positions of enc"
    ):
        upper_layers(config, None, str(tmp_path))
    config = configuration.merge(config, {"training": {"precision": "bfloat16"}})
    with pytest.raises(UserError, match=r"precision: found bfloat16, expected float32 or tf32 with waveforms$"):
        upper_layers(config, None, str(tmp_path))


def test_layers_above_what_is_trained_are_adapted_too():
    with pytest.raises(UserError, match=r"config.model.lower: found 1, expected 0 with stem=full: the layers above"):
        encoder_head._check(encoder_head.EncoderHead(2, stem="full", lower=1))


def test_a_recording_that_a_model_cannot_hear_is_not_exported(tmp_path, monkeypatch, capsys):
    metadata = _metadata()
    model = types.SimpleNamespace(emotions=("anger", "joy"), runs=[{"fold": "a"}])
    model.recogniser = types.SimpleNamespace(
        restored=types.SimpleNamespace(is_baseline=True, folder=tmp_path, metadata=metadata),
        refusal=lambda waveform: "shorter than the model's subsampling needs",
    )
    monkeypatch.setattr(api, "load", lambda *_, **__: model)
    monkeypatch.setattr(workdirs, "find", lambda *_, **__: [_restored(tmp_path)])
    monkeypatch.setattr(baselines, "load_folds", lambda _: {"a": None})
    monkeypatch.setattr(programs, "of_linear", lambda _: None)
    monkeypatch.setattr(programs, "make_program", lambda *_: types.SimpleNamespace(max_samples=32000))
    soundfile.write(tmp_path / "a.wav", np.ones(100) / 2, 16000)
    arguments = ["export", str(tmp_path), "--to", "stablehlo", "--out", str(tmp_path / "a.stablehlo")]
    assert main([*arguments, "--recordings", str(tmp_path / "a.wav")]) == 2
    assert "a.wav: shorter than the model's subsampling needs\n" in capsys.readouterr().err
    assert not list(tmp_path.glob("a.s*"))


def test_an_onnx_file_that_is_none_is_not_written(tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")]
    node = onnx.helper.make_node("Unknown", ["x"], ["y"])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", values[:1], values[1:]))
    converter = types.SimpleNamespace(from_tflite=lambda *_, **__: (model, None))
    monkeypatch.setitem(sys.modules, "tf2onnx", types.SimpleNamespace(convert=converter))
    monkeypatch.setattr(onnx_export.tensorflow, "write_tflite", lambda program, path, int8: None)
    with pytest.raises(UserError, match=r"^--to onnx: the converter does not take this model: No Op registered"):
        onnx_export.write(object.__new__(programs.Program), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
