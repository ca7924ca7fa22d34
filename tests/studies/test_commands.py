"""The commands as a user types them, on a study small enough for tests."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile

from ser_jax import config
from ser_jax.corpora.corpus import SAMPLE_RATE
from ser_jax.statistics.metrics import Metric, recall
from ser_jax.studies import evaluate
from ser_jax.training import arrays, loop
from tests.flips import unnoticed
from tests.training.tiny import tiny_corpus
from tests.untrained import untrained_workdir


@pytest.fixture(scope="session")
def recordings(tmp_path_factory):
    """The same 20 seconds of noise at several rates and widths, and one short file."""
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    long = 0.1 * rng.standard_normal(2 * SAMPLE_RATE)
    soundfile.write(folder / "a.wav", long, SAMPLE_RATE)
    soundfile.write(folder / "b.flac", np.stack([long, long], 1), SAMPLE_RATE)
    soundfile.write(folder / "short.wav", long[:100], 8000)
    return folder


def folder_of(workdir, variant):
    """The folder of a variant's population."""
    return next((workdir / "populations").glob(f"{variant}-*"))


def test_a_study_leaves_its_results(workdir):
    summary = json.loads((workdir / "summary.json").read_text())
    assert list(summary["variants"]) == ["plain", "augmented"]
    for variant in summary["variants"].values():
        assert set(variant["metrics"]) == {"ua", "wa", "macro_f1"}
        assert variant["runs"] == 3
        assert 0 <= variant["metrics"]["ua"]["value"] <= 1
        assert variant["known"]["trained"][0]["versions"]["jax"]
    assert summary["variants"]["plain"]["known"]["parameters"] == 4 * (2 * 64 + 1)
    assert [(c["variant"], c["baseline"]) for c in summary["comparisons"]] == [("augmented", "plain")]
    study = summary["study"]
    assert study["seconds"]["total"] >= study["seconds"]["train"] > 0
    assert study["fingerprint"] and [one["name"] for one in study["protocols"]] == ["leave_one_speaker_out"]
    table = pd.read_parquet(workdir / "predictions.parquet")
    assert list(table.columns[:7]) == ["corpus", "variant", "fold", "seed", "utterance", "speaker", "label"]
    assert len(table) == 2 * 24
    assert not list(workdir.glob("*.png"))
    assert "UA" in (workdir / "printed.txt").read_text()


def figures_of(workdir):
    """The summary's variants but for their latency, which is measured."""
    variants = json.loads((workdir / "summary.json").read_text())["variants"]
    for variant in variants.values():
        assert variant["known"]["cost"].pop("latency") > 0
    return variants


def test_a_finished_study_is_not_run_again_and_what_is_damaged_of_its_results_is_made_again(
    launch, workdir, tiny_config, monkeypatch
):
    before, table = figures_of(workdir), (workdir / "predictions.parquet").read_bytes()
    latency = json.loads((workdir / "latency.json").read_text())
    # What is derived stops nothing: neither a log with bad lines, nor times, nor a report that is none any more.
    log = folder_of(workdir, "plain") / "log.jsonl"
    kept = log.read_bytes()
    log.write_bytes(b"\xff" + kept[1:])
    for name in ("predictions.parquet", "summary.json", "study.json", "latency.json", "report.md", "report.html"):
        (workdir / name).write_bytes(b"damaged")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train", None)  # nothing calls it
        status, output, errors = launch("study", "--config", tiny_config, "--workdir", workdir)
    assert status == 0, errors
    assert output == (workdir / "printed.txt").read_text()
    assert figures_of(workdir) == before
    assert (workdir / "predictions.parquet").read_bytes() == table
    assert set(json.loads((workdir / "latency.json").read_text())) == set(latency)
    assert all((workdir / name).stat().st_size > 5000 for name in ("report.md", "report.html"))
    status, output, _ = launch("verify", workdir)
    assert status == 1 and output.count("damaged: ") == 1 and f"{log}: damaged or changed" in output
    log.write_bytes(kept)
    assert launch("study", "--config", tiny_config, "--workdir", workdir)[0] == 0  # its report has the whole log again


def test_evaluation_reproduces_the_training_s_own_predictions_to_the_last_digit(launch, workdir):
    status, output, errors = launch("evaluate", "--workdir", workdir)
    assert status == 0, errors
    assert "identical to the training's own predictions, all 48 of them" in output
    ours, theirs = (json.loads((folder / "summary.json").read_text()) for folder in (workdir / "on_synthetic", workdir))
    for name, variant in theirs["variants"].items():
        assert ours["variants"][name]["metrics"] == variant["metrics"]
        assert ours["variants"][name]["recall"] == variant["recall"]
    assert ours["comparisons"] == theirs["comparisons"] != []
    assert ours["margin"] == theirs["margin"] == 0.03


def test_a_training_can_be_tested_otherwise_than_it_was(launch, tiny_config, tmp_path):
    """As a training whose configuration says so from the beginning."""
    model = ("--config.model.name=tcn", "--config.model.width=8", "--config.model.levels=1")
    for folder, changes in (("plain", ()), ("otherwise", ("--config.evaluation.batch_statistics=speaker",))):
        arguments = ("train", "--config", tiny_config, "--variant", "plain", *model, *changes)
        status, _, errors = launch(*arguments, "--workdir", tmp_path / folder)
        assert status == 0, errors
    tables = [pd.read_parquet(tmp_path / folder / "predictions.parquet") for folder in ("plain", "otherwise")]
    for options in (["--batch_statistics", "speaker"], ["--batch_statistics", "speaker", "--window_seconds", "3"]):
        status, output, errors = launch("evaluate", "--workdir", tmp_path / "plain", *options)
        assert status == 0, errors
        assert "transductive" in " ".join(output.split())
        summaries = list((tmp_path / "plain").glob("on_*/summary.json"))
        assert summaries
        for path in summaries:
            (variant,) = json.loads(path.read_text())["variants"].values()
            assert variant["known"]["uses_speaker"] == ["batch normalisation by speaker"]
    folder = "on_synthetic{}_batch_statistics_speaker"
    for name in ("", "_window_seconds_3.0"):
        tables.append(pd.read_parquet(tmp_path / "plain" / folder.format(name) / "predictions.parquet"))
    plain, expected, found, longer = tables
    pd.testing.assert_frame_equal(found, expected)
    for other in (plain, longer):
        assert np.abs(found.filter(like="p_").to_numpy() - other.filter(like="p_").to_numpy()).max() > 1e-3


def test_evaluation_on_another_corpus_maps_what_it_can_and_says_what_it_drops(launch, workdir, tmp_path):
    for emotion, count in {"anger": 3, "sadness": 2, "disgust": 4}.items():
        (tmp_path / "speech" / emotion).mkdir(parents=True)
        for number in range(count):
            noise = 0.1 * np.random.default_rng(number).standard_normal(9000)
            soundfile.write(tmp_path / "speech" / emotion / f"{emotion}{number}.wav", noise, SAMPLE_RATE)
    status, _, errors = launch("prepare", "folder", "--name", "other", "--source", tmp_path / "speech")
    assert status == 0, errors
    status, output, errors = launch("evaluate", "--workdir", workdir, "--corpus", "other", "--variant", "augmented")
    assert status == 0, errors
    assert "dropped disgust, which the model does not know" in output
    assert "has no neutral, happiness: the model chose among the others" in output
    table = pd.read_parquet(workdir / "on_other" / "predictions.parquet")
    assert sorted(table["label"].unique()) == ["anger", "sadness"]
    assert len(table) == 5 * 3  # utterances kept, runs
    np.testing.assert_allclose(table.filter(like="p_").sum(axis=1), 1, rtol=1e-5)


def test_prediction_averages_the_folds_and_does_not_depend_on_the_container(launch, workdir, recordings):
    files = [recordings / name for name in ("a.wav", "b.flac", "short.wav")]
    status, output, errors = launch("predict", "--workdir", workdir, "--variant", "augmented", "--json", *files)
    assert status == 0, errors
    rows = [json.loads(line) for line in output.splitlines()]
    assert [row.pop("file") for row in rows] == [str(file) for file in files]
    assert {row.pop("notes") for row in rows} == {""}
    for row in rows:
        emotion = row.pop("emotion")
        assert row[emotion] == max(row.values())
        assert sum(row.values()) == pytest.approx(1, abs=1e-5)
    assert rows[0] == pytest.approx(rows[1], abs=1e-4)
    folds = []
    for fold in json.loads((folder_of(workdir, "augmented") / "result.json").read_text())["trained"]["runs"]:
        status, output, errors = launch(
            "predict", "--workdir", workdir, "--variant", "augmented", "--fold", fold["fold"], "--json", files[0]
        )
        assert status == 0, errors
        folds.append(json.loads(output)["anger"])
    assert np.mean(folds) == pytest.approx(rows[0]["anger"], abs=1e-5)
    assert np.ptp(folds) > 0


def test_prediction_prints_a_table_and_names_each_bad_file(launch, workdir, recordings, tmp_path):
    text = tmp_path / "text.wav"
    text.write_text("this is no sound")
    missing = tmp_path / "missing.wav"
    status, output, errors = launch(
        "predict", "--workdir", workdir, "--variant", "plain", recordings / "a.wav", text, missing
    )
    assert status == 2
    assert len(output.splitlines()) == 2
    assert [line.startswith("error: ") for line in errors.splitlines()] == [True, True]
    assert str(text) in errors
    assert str(missing) in errors


def test_a_recording_too_short_for_the_model_is_named_and_the_others_are_told(launch, recordings, tmp_path):
    """With the silence before and after left out: what is heard of the second recording is a click."""
    (tmp_path / "cnn").mkdir()
    changes = {"model": {"name": "cnn", "width": 4}, "frontend": {"trim_db": 40.0}}
    untrained_workdir(tmp_path / "cnn", *tiny_corpus(), **changes)
    click = np.zeros(2 * SAMPLE_RATE)
    click[SAMPLE_RATE] = 0.5
    soundfile.write(tmp_path / "click.wav", click, SAMPLE_RATE)
    files = [recordings / "short.wav", recordings / "a.wav", tmp_path / "click.wav"]
    status, output, errors = launch("predict", "--workdir", tmp_path / "cnn", *files)
    assert status == 2
    assert [str(recordings / "a.wav")] == [line.split()[0] for line in output.splitlines()[1:]]
    for line, file in zip(errors.splitlines(), (files[0], files[2]), strict=True):
        assert line.startswith(f"error: {file}: ") and line.endswith("the model needs 8")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["predict", "--workdir", "{workdir}", "a.wav"], "several variants"),
        (["predict", "--workdir", "{workdir}", "--variant", "augmentet", "a.wav"], "--variant augmentet"),
        (["predict", "--workdir", "{workdir}", "--variant", "augmented", "--seed", "9", "{wav}"], "no such run"),
        (
            ["predict", "--workdir", "{workdir}", "--variant", "plain", "--attention", "{new}.png", "{wav}"],
            "no attention",
        ),
        (["predict", "--workdir", "{workdir}", "--variant", "plain", "--attention", "{new}.jpg", "{wav}"], "in .png"),
        (["predict", "--workdir", "{workdir}", "--variant", "plain", "--attention", "{new}/a.png", "{wav}"], "folder"),
        (["evaluate", "--workdir", "nowhere"], "nowhere: no such folder"),
        (["evaluate", "--workdir", "{workdir}", "--batch_statistics", "speaker"], "linear has no batch normalisation"),
        (["evaluate", "--workdir", "{workdir}", "--window_seconds", "-1"], "window_seconds: found -1.0, expected"),
        (["evaluate", "--workdir", "{workdir}", "--corpus", "emodbb"], "emodb"),
        (["train", "--config", "{config}", "--workdir", "{workdir}"], "another configuration"),
        (["train", "--config", "nothing.py", "--workdir", "{new}"], "nothing.py: no such file"),
        (["train", "--config", "{config}", "--workdir", "{new}", "--config.model.atention=eca"], "attention"),
        (["train", "--config", "{config}", "--workdir", "{new}", "--config.protocol.name=leave_one_out"], "leave_one"),
        (["train", "--config", "{config}", "--workdir", "{new}", "--variant", "augment"], "augmented"),
        (
            ["train", "--config", "{config}", "--workdir", "{new}", "--config.corpus.options.num_speakers=1"],
            "speaker",
        ),
        (["train", "--config", "{config}", "--workdir", "{new}", "--nonsense"], "--nonsense"),
        (["prepare", "emodb", "--source", "nowhere"], "nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(
    launch, workdir, tiny_config, recordings, tmp_path, arguments, expected
):
    places = {"workdir": workdir, "config": tiny_config, "new": tmp_path / "new", "wav": recordings / "a.wav"}
    status, output, errors = launch(*[argument.format(**places) for argument in arguments])
    assert status == 2
    assert output == ""
    assert expected in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert not (tmp_path / "new").exists()


def test_a_damaged_checkpoint_is_named(launch, workdir, tmp_path, recordings):
    shutil.copytree(workdir, tmp_path / "copy")
    for path in (folder_of(tmp_path / "copy", "augmented") / "checkpoints").rglob("*"):
        if path.is_file() and path.stat().st_size > 2000:
            path.write_bytes(path.read_bytes()[:100])
    arguments = ["--workdir", tmp_path / "copy", "--variant", "augmented"]
    status, _, errors = launch("predict", *arguments, recordings / "a.wav")
    assert status == 2
    assert "damaged checkpoint" in errors


def test_a_corpus_that_changed_since_the_training_is_refused(launch, workdir, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(workdir, folder)
    fingerprint = json.loads((folder / "summary.json").read_text())["study"]["fingerprint"]
    changed = 0
    for path in (folder_of(folder, "augmented") / "checkpoints").rglob("*"):
        if path.is_file() and fingerprint.encode() in path.read_bytes():
            metadata = json.loads(path.read_text().replace(fingerprint, "0" * len(fingerprint)))
            path.write_text(json.dumps(arrays.sealed(metadata)))
            changed += 1
    assert changed
    status, _, errors = launch("evaluate", "--workdir", folder, "--variant", "augmented")
    assert status == 2
    assert "fingerprint" in errors


def test_every_flipped_bit_of_a_workdir_is_noticed(launch, workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "copy", ignore=shutil.ignore_patterns("on_*", "printed.txt"))
    status, output, _ = launch("verify", tmp_path / "copy")
    assert status == 0 and [line.split(":")[0] for line in output.splitlines()] == ["whole"] * 3
    _, in_store, _ = launch("verify", tmp_path / "copy" / "populations")
    assert in_store.splitlines() == output.splitlines()[1:]
    missed = unnoticed(tmp_path / "copy", per_file=1)
    assert {"checkpoints", "*.parquet", "*.json", "*.jsonl", "SHA256SUMS"} <= set(missed)
    assert not any(missed.values()), missed


def test_damaged_results_are_refused_by_their_readers(launch, workdir, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    for name in ("predictions.parquet", "summary.json", "study.json"):
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(content)
        status, _, errors = launch("report", copy)
        assert status == 2 and f"{copy / name}: damaged or changed, its SHA-256 is" in errors
        assert errors.count("\n") == 1
        shutil.copy(workdir / name, copy / name)


UPPER = Metric("upper", "the higher recall", lambda confusion: np.nanmax(recall(confusion), axis=-1))


def test_an_evaluation_has_the_margin_and_the_metrics_of_its_study(tmp_path, monkeypatch):
    monkeypatch.setenv("SER_JAX_PLUGINS", __name__)
    study = {"margin": 5.0, "metrics": [f"{__name__}:UPPER"]}
    (tmp_path / "config.json").write_text(json.dumps(config.merge(config.default(), {"study": study})))
    found = evaluate._how(tmp_path)
    assert found.margin == 0.05 and [metric.name for metric in found.metrics] == ["ua", "wa", "macro_f1", "upper"]
    assert evaluate._how(tmp_path / "published").margin == 0.02
