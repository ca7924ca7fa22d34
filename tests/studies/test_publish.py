"""A published model predicts as the training's did, and its card's figures are of speakers that were not heard."""

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import soundfile
import yaml
from flax.traverse_util import flatten_dict

import ser_jax
from ser_jax import config as configuration
from ser_jax.baselines import linear
from ser_jax.baselines.linear import Fitted
from ser_jax.corpora.corpus import SAMPLE_RATE
from ser_jax.errors import UserError
from ser_jax.inference.restore import restore_network
from ser_jax.report import summary as tree
from ser_jax.studies import baselines, publish, variants, workdirs
from ser_jax.studies import publish as publish_command
from ser_jax.training import published as published_models
from tests.flips import unnoticed
from tests.report import made_study

pytestmark = pytest.mark.usefixtures("no_figures")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    from ser_jax import config
    from tests.training.tiny import CONFIG

    path = tmp_path_factory.mktemp("config") / "tiny.json"
    changes = {"frontend": {"normalization": "speaker"}, "evaluation": {"robustness": ["alone"], "latency": False}}
    path.write_text(json.dumps(config.merge(CONFIG, changes)))
    return path


@pytest.fixture(scope="module")
def trained(launch, config, tmp_path_factory):
    """Where the model was trained on all speakers, and where its configuration was tested."""
    folders = tmp_path_factory.mktemp("all"), tmp_path_factory.mktemp("tested")
    for folder, protocol, seeds in zip(folders, ("everything", "leave_one_speaker_out"), ((0,), (0, 1)), strict=True):
        changes = (f"--config.protocol.name={protocol}", f"--config.seeds={seeds}")
        arguments = ("train", "--config", config, *changes, "--workdir", folder)
        status, _, errors = launch(*arguments)
        assert status == 0, errors
    return folders


@pytest.fixture(scope="module")
def published(launch, trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "small"
    status, output, errors = launch("publish", "--workdir", trained[0], "--tested", trained[1], "--to", folder)
    assert status == 0, errors
    assert f"its card is {folder / 'README.md'}" in output
    return folder


def test_a_published_model_predicts_what_the_trained_one_does_and_is_smaller(launch, trained, published, tmp_path):
    recording = tmp_path / "a.wav"
    soundfile.write(recording, 0.1 * np.random.default_rng(0).standard_normal(SAMPLE_RATE), SAMPLE_RATE)
    said = [launch("predict", "--workdir", folder, recording, "--json") for folder in (trained[0], published)]
    assert said[0] == said[1] and said[0][0] == 0
    assert "normalised by speaker; with one recording of a speaker it is lost" in said[0][2]
    shutil.copy(recording, tmp_path / "b.wav")
    *_, errors = launch("predict", "--workdir", published, recording, tmp_path / "b.wav")
    assert "the 2 recordings are taken for one speaker's" in errors
    assert json.loads(said[0][1])["file"] == str(recording)


def test_a_card_tells_the_data_the_figures_and_the_limits(trained, published):
    card = (published / "README.md").read_text()
    summary = json.loads((trained[1] / "summary.json").read_text())
    (tested,) = summary["variants"].values()
    (alone,) = [of["alone"] for of in summary["robustness"]["variants"].values()]
    ua, together = (100 * of["metrics"]["ua"]["value"] for of in (tested, tested["ensemble"]))
    assert tested["known"]["uses_speaker"] == ["features normalised by speaker"]
    assert "**synthetic**: all 24 utterances of 3 speakers" in card
    assert f"| synthetic, unseen speakers | transductive | {ua:.1f} " in card
    assert f"| the same, each recording by itself | inductive | {100 * alone['ua']:.1f}" in card
    assert card.index("| inductive |") < card.index("| transductive |")  # the inductive figure leads
    assert f"| the same, the mean of 2 such models | transductive | {together:.1f} " in card
    assert f"of {tested['runs']} models" in card and "on unseen speakers" in card
    assert "one speaker's" in card and "Apache-2.0" in card
    assert all(f"{emotion}" in card for emotion in summary["emotions"])


def test_a_published_model_is_what_a_hub_takes_and_does_not_tell_where_it_was_made(trained, published):
    files = {path.name: path.read_bytes() for path in published.iterdir()}
    assert files.keys() == {"README.md", "config.json", "model.safetensors", "tested.parquet", "SHA256SUMS"}
    card = (published / "README.md").read_text().replace(str(published), "")
    assert str(published.parent) not in card
    tested = pd.read_parquet(published / "tested.parquet")
    pd.testing.assert_frame_equal(tested, pd.read_parquet(trained[1] / "predictions.parquet"))
    assert ser_jax.load(published).abstention(0.5).utterances == tested["utterance"].nunique()
    assert all(str(published.parent).encode() not in files[name] for name in ("config.json", "model.safetensors"))
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["license"] == "apache-2.0" and header["library_name"] == "ser_jax"
    assert header["pipeline_tag"] == "audio-classification" and "language" not in header
    summary = json.loads((trained[1] / "summary.json").read_text())
    (tested,) = summary["variants"].values()
    (alone,) = [of["alone"] for of in summary["robustness"]["variants"].values()]
    shown = {
        result["dataset"]["name"]: {metric["type"]: metric["value"] for metric in result["metrics"]}
        for result in header["model-index"][0]["results"]
    }
    values = {name: round(100 * measure["value"], 1) for name, measure in tested["metrics"].items()}
    assert shown["synthetic, unseen speakers (transductive)"] == {
        "recall": values["ua"],
        "accuracy": values["wa"],
        "f1": values["macro_f1"],
    }
    assert shown["the same, each recording by itself (inductive)"] == {"recall": round(100 * alone["ua"], 1)}


def test_a_card_states_what_its_publisher_does_and_claims_no_more_of_a_corpus(launch, trained, published, tmp_path):
    assert "acted speech" not in (published / "README.md").read_text(), "the built-in voices are no actors"
    stated = ("--licence", "MIT", "--description", "Calls\n to a *bank*.")
    arguments = ("--workdir", trained[0], "--tested", trained[1], "--to", tmp_path / "stated", *stated)
    status, _, errors = launch("publish", *arguments)
    assert status == 0, errors
    text = (tmp_path / "stated" / "README.md").read_text()
    assert yaml.safe_load(text.split("---")[1])["license"] == "mit"
    assert r"Calls to a \*bank\*." in text and "- this model: MIT." in text


def test_only_tests_on_other_corpora_are_told_as_such(tmp_path):
    made = made_study.make_summary(made_study.make_predictions(["pooling: mean"]), whole=False)
    others = {"on_made": "made", "on_made_window_seconds_3.0": "made", "on_other": "other"}
    for folder, corpus in others.items():
        (tmp_path / folder).mkdir()
        tree.write(dataclasses.replace(made, corpus=corpus), tmp_path / folder / "summary.json")
    assert {name: one.corpus for name, one in publish._elsewhere(tmp_path, "made").items()} == {"other": "other"}


def test_a_published_model_is_never_changed(launch, config, published, tmp_path, monkeypatch):
    def content():
        return {path: path.read_bytes() for path in published.rglob("*")}

    before = content()
    monkeypatch.chdir(tmp_path)
    status, output, errors = launch("evaluate", "--workdir", published)
    assert status == 0, errors
    folder = Path("runs") / "small_evaluated" / "on_synthetic"
    assert str(folder) in output and (tmp_path / folder / "summary.json").is_file()
    for arguments in (
        ("train", config, "--workdir", published),
        ("study", config, "--store", published),
        ("train", published / "config.json"),
        ("report", tmp_path / folder, "--out", published),
    ):
        status, _, errors = launch(*arguments)
        assert status == 2 and errors.count("\n") == 1, errors
        assert f"{published}: holds a published model, which is never changed" in errors
    assert content() == before


def test_runs_begin_with_a_published_model_and_train_its_configuration_again(launch, published, tmp_path):
    from ser_jax import config
    from ser_jax.studies.workdirs import load_initial

    initial = load_initial(published)
    (parameters,) = initial.variables.values()
    found = safetensors.numpy.load_file(published / "model.safetensors")
    for name, kernel in flatten_dict(parameters, sep="/").items():
        np.testing.assert_array_equal(kernel, found[name][0])
    assert config.load(str(published / "config.json")) == config.check(initial.metadata["config"])


def test_what_cannot_be_published_is_refused_in_one_line_and_nothing_is_lost(launch, trained, published, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    model, tested = trained
    for workdir, evidence, to, message in (
        (model, tested, tmp_path / "mine", "is there already and is no published model"),
        (model, model, tmp_path / "new", "its folds share speakers"),
        (tmp_path / "nowhere", tested, tmp_path / "new", "no such folder"),
        (model, tmp_path / "nowhere", tmp_path / "new", "--tested"),
    ):
        status, _, errors = launch("publish", "--workdir", workdir, "--tested", evidence, "--to", to)
        assert status == 2 and message in errors and errors.count("\n") == 1
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"
    shutil.copytree(published, tmp_path / "cloned")
    (tmp_path / "cloned" / ".git").mkdir()
    status, _, errors = launch("publish", "--workdir", model, "--tested", tested, "--to", tmp_path / "cloned")
    assert status == 2 and "is there already and has .git too" in errors and (tmp_path / "cloned" / ".git").is_dir()
    assert not (tmp_path / "new").exists()


def test_figures_of_another_configuration_are_refused(launch, config, trained, tmp_path):
    other = tmp_path / "other"
    arguments = ("train", "--config", config, "--config.optimizer.learning_rate=0.1", "--workdir", other)
    assert launch(*arguments)[0] == 0
    status, _, errors = launch("publish", "--workdir", trained[0], "--tested", other, "--to", tmp_path / "new")
    assert status == 2 and "another configuration than in --workdir (config.optimizer.learning_rate" in errors


@pytest.mark.parametrize("corpus", ["emodb", "ravdess", "both"])
def test_the_configuration_of_every_published_network_can_learn_everything(corpus, tmp_path):
    config = configuration.load(f"{ROOT}/configs/pretrained.py:{corpus},everything")
    few = {"name": "synthetic", "options": {"num_speakers": 2, "utterances_per_speaker": 3}}
    _, protocol = variants.load(configuration.merge(config, {"corpus": few}), str(tmp_path))
    assert [fold.name for fold in protocol.folds] == ["everything"]


def test_the_model_that_comes_with_ser_jax_predicts(launch, tmp_path):
    recording = tmp_path / "a.wav"
    soundfile.write(recording, 0.1 * np.random.default_rng(0).standard_normal(2 * SAMPLE_RATE), SAMPLE_RATE)
    status, output, errors = launch("predict", recording, "--json")
    assert status == 0, errors
    assert "README.md" in errors
    said = json.loads(output)
    assert said.pop("file") == str(recording) and said.pop("notes") == ""
    assert said[said.pop("emotion")] > 1 / len(said)
    assert len(said) >= 7 and sum(said.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("folder", sorted((ROOT / "pretrained").iterdir()), ids=lambda folder: folder.name)
def test_every_published_model_is_small_and_has_its_card(folder):
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 10e6
    card = (folder / "README.md").read_text()
    for heading in ("The model", "Training data", "Results", "Use", "Limits", "Licence"):
        assert f"## {heading}\n" in card
    (restored,) = workdirs.find(folder)
    restore = baselines.load_folds if restored.is_baseline else partial(restore_network, restored.metadata)
    restore(restored.folder)  # refuses what is not what was published
    licence = {"emodb": "cc-by-4.0", "emodb_encoder": "cc-by-4.0"}.get(folder.name, "cc-by-nc-sa-4.0")
    assert yaml.safe_load(card.split("---\n")[1])["license"] == licence
    assert all(emotion in card for emotion in restored.emotions)


def test_every_flipped_bit_of_a_published_model_is_noticed(launch, published):
    status, output, _ = launch("verify", published)
    assert status == 0 and output.startswith(f"whole: {published}: published model")
    missed = unnoticed(published, per_file=2)
    assert {"model.safetensors", "README.md", "*.json", "*.parquet", "SHA256SUMS"} == set(missed)
    assert not any(missed.values()), missed


@pytest.fixture(scope="module")
def published_baseline(launch, config, tmp_path_factory):
    """The workdir of a ridge classifier that learnt from all speakers, and what was published of it."""
    root = tmp_path_factory.mktemp("baseline")
    ridge = ('--config.model={"name": "ridge"}', "--config.seeds=[0]")
    several = ("study", '--config.study.variants={"svm": {"model": {"name": "linear_svm"}}, "ridge": {}}')
    for folder, protocol, (command, *more) in (
        ("all", "everything", ("train",)),
        ("tested", "leave_one_speaker_out", several),
    ):
        arguments = (*ridge, *more, f"--config.protocol.name={protocol}", "--config.evaluation.robustness=[]")
        status, output, errors = launch(command, "--config", config, *arguments, "--workdir", root / folder)
        assert status == 0, errors
        assert ("it was tested on the recordings that it had learnt" in output) == (folder == "all")
    for _ in ("new", "in the place of the one published before"):
        arguments = ("publish", "--workdir", root / "all", "--tested", root / "tested", "--to", root / "published")
        status, _, errors = launch(*arguments)
        assert status == 0, errors
    return root / "all", root / "published"


def test_of_a_study_the_variant_of_the_same_name_is_the_evidence(launch, published_baseline, tmp_path):
    workdir, published = published_baseline
    study = workdir.parent / "tested"
    tested = pd.read_parquet(study / "predictions.parquet")
    assert set(tested["variant"]) == {"ridge", "svm"}
    assert set(pd.read_parquet(published / "tested.parquet")["variant"]) == {"ridge"}
    ua = json.loads((study / "summary.json").read_text())["variants"]["ridge"]["metrics"]["ua"]["value"]
    assert f"| synthetic, unseen speakers | inductive | {100 * ua:.1f} " in (published / "README.md").read_text()
    status, _, errors = launch("publish", "--workdir", study, "--tested", study, "--to", tmp_path / "new")
    assert status == 2 and "found 2 variants ('svm', 'ridge'), expected one\n" in errors
    with pytest.raises(UserError, match=r"found 2 variants .*, expected one, or one called 'lda'$"):
        publish_command._single("--tested", study, "lda")


def test_a_published_baseline_predicts_what_the_trained_one_does(launch, published_baseline, tmp_path, monkeypatch):
    workdir, published = published_baseline
    assert {path.name for path in published.iterdir()} >= {"README.md", "config.json", "model.safetensors"}
    recording = tmp_path / "a.wav"
    soundfile.write(recording, 0.1 * np.random.default_rng(0).standard_normal(SAMPLE_RATE), SAMPLE_RATE)
    said = [launch("predict", "--workdir", folder, recording, "--json") for folder in (workdir, published)]
    assert said[0] == said[1] and said[0][0] == 0
    card = (published / "README.md").read_text()
    assert "as functionals of kind own" in card and "has the coefficients" in card
    monkeypatch.chdir(tmp_path)
    status, _, errors = launch("evaluate", "--workdir", published)
    assert status == 0, errors
    assert (tmp_path / "runs" / "published_evaluated" / "on_synthetic" / "summary.json").is_file()


def test_a_baseline_is_published_with_its_dimensions(tmp_path):
    rng = np.random.default_rng(0)
    described = {"folds": ["a"], "corpus": {"emotions": ["anger", "fear", "neutral", "sadness"]}}
    for name, outputs in ((baselines.FOLDER, 4), (baselines.DIMENSIONS, 2)):
        told = rng.normal(size=(outputs, 3)).astype(np.float32), rng.normal(size=outputs)
        linear.save(tmp_path / name, [Fitted(np.zeros(3), np.ones(3), *told, 1.0, np.zeros(8))], described)
    arrays, parameters = baselines.arrays_of(tmp_path)
    assert parameters == (4 + 2) * (3 + 1)
    (tmp_path / "published").mkdir()
    metadata = {**described, "config": configuration.default()}
    published_models.write(tmp_path / "published", "ridge", arrays, metadata)
    for load in (baselines.load_folds, baselines.load_dimensions):
        (own,), (other,) = load(tmp_path).values(), load(tmp_path / "published").values()
        for one, copy in zip(dataclasses.astuple(own), dataclasses.astuple(other), strict=True):
            np.testing.assert_array_equal(one, copy)


def test_a_damaged_array_of_a_published_baseline_is_refused(launch, published_baseline, tmp_path):
    shutil.copytree(published_baseline[1], tmp_path / "damaged")
    path = tmp_path / "damaged" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    recording = tmp_path / "a.wav"
    soundfile.write(recording, 0.1 * np.random.default_rng(0).standard_normal(SAMPLE_RATE), SAMPLE_RATE)
    status, output, errors = launch("predict", "--workdir", tmp_path / "damaged", recording)
    assert status == 2 and not output and "model.safetensors: damaged" in errors
