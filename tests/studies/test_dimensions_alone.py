"""A corpus without emotions: dimensions such as arousal are prepared, looked at, learnt, scored, compared and used."""

import contextlib
import dataclasses
import io
import json

import numpy as np
import pandas as pd
import pytest
import soundfile

import ser_jax
from ser_jax import config as configuration
from ser_jax.commands.main import main
from ser_jax.corpora import load_corpus
from ser_jax.corpora.corpus import SAMPLE_RATE, waveform
from ser_jax.errors import UserError
from ser_jax.report import summary
from ser_jax.training.setup import check_classes
from tests.training.tiny import CONFIG, tiny_corpus

NAMES = ("arousal", "valence")


def run(*arguments):
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        status = main([*map(str, arguments)])
    return status, output.getvalue(), errors.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Recordings of three speakers, and their table: values, no emotions, a row without any."""
    folder = tmp_path_factory.mktemp("dimensions")
    spoken, _ = tiny_corpus()
    (folder / "wav").mkdir()
    rng, rows = np.random.default_rng(0), []
    for row, utterance in spoken.utterances.iterrows():
        soundfile.write(folder / "wav" / f"{row}.wav", waveform(spoken, row), SAMPLE_RATE)
        high = 4.0 if utterance["emotion"] in ("anger", "happiness") else 2.0
        values = [f"{high + rng.normal(0, 0.3):.2f}".replace(".", ","), f"{rng.normal(3, 1):.3f}" if row % 5 else ""]
        rows.append([f"{row}.wav", utterance["speaker"], *values])
    pd.DataFrame(rows, columns=["file", "speaker", "Activation", "Valence"]).to_csv(
        folder / "t.csv", sep=";", index=False
    )
    return folder


@pytest.fixture(scope="module")
def data(folder):
    given = ("--name", "mine", "--source", folder / "wav", "--table", folder / "t.csv", "--data_dir", folder / "data")
    status, output, errors = run("prepare", "folder", *given)
    assert status == 0, errors
    assert "emotions      none\n" in output and "\narousal       1.63 to 4.45, known of 24 utterances\n" in output
    return folder / "data"


@pytest.fixture(scope="module")
def workdir(folder, data):
    """A study of a network and a baseline."""
    study = {
        "variants": {"network": {}, "ridge": {"model": {"name": "ridge", "functionals": "own"}}},
        "comparisons": [["network", "ridge"]],
    }
    changes = {
        "corpus": {"name": "mine", "dimensions": list(NAMES)},
        "augmentation": {"mixup": 0.0},
        "evaluation": {"latency": False, "robustness": ["noise_10"]},
    }
    config = configuration.merge(CONFIG, changes) | {"study": study, "seeds": [0, 1]}
    config["corpus"]["options"] = {}
    (folder / "config.json").write_text(json.dumps(config))
    status, output, errors = run("study", folder / "config.json", "--workdir", folder / "work", "--data_dir", data)
    assert status == 0, errors
    assert "CCC arousal" in output and "UA" not in output, output
    return folder / "work"


def test_the_corpus_has_values_and_no_classes(data):
    corpus = load_corpus("mine", data)
    assert (
        corpus.emotions == () and set(corpus.utterances["label"]) == {-1} and set(corpus.utterances["emotion"]) == {""}
    )
    status, output, errors = run("inspect", "mine", "--data_dir", data, "--html", data / "page.html")
    assert (status, errors) == (0, "")
    assert "arousal       1" in output and "valence" in output and "no emotions; utterances of each speaker: " in output
    page = (data / "page.html").read_text()
    assert "Arousal of 24 utterances" in page and "emotions</h2>" not in page
    found = json.loads(run("inspect", "mine", "--data_dir", data, "--json")[1])
    assert found["emotions"] == {} and found["dimensions"]["valence"]["known"] == 19
    status, output, errors = run("audit", "mine", "--data_dir", data)
    assert (status, errors) == (0, "") and "verdict: independent" in output


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("path,speaker,arousal\n0.wav,a,high\n", "line 2 has the arousal 'high', expected a number, or nothing"),
        ("path,emotion,speaker,arousal\n0.wav,joy,a,high\n", "line 2 has the arousal 'high', expected a number"),
        ("path,speaker,arousal,valence\n0.wav,a,,n/a\n", "line 2 has no arousal and no valence"),
        (
            "path,speaker,liking\n0.wav,a,1\n",
            "no column `emotion` (or arousal, valence, dominance), found path, speaker",
        ),
    ],
)
def test_rows_without_a_value_are_refused_at_the_door(folder, tmp_path, table, message):
    (tmp_path / "t.csv").write_text(table)
    given = ("--source", folder / "wav", "--table", tmp_path / "t.csv", "--data_dir", tmp_path)
    status, _, errors = run("prepare", "folder", "--name", "other", *given)
    assert status == 2 and message in errors and errors.count("\n") == 1


def test_options_of_emotions_are_refused(folder, data, tmp_path):
    given = ("--source", folder / "wav", "--table", folder / "t.csv", "--data_dir", tmp_path, "--map", "a=b")
    status, _, errors = run("prepare", "folder", "--name", "other", *given)
    assert status == 2 and "has no emotions, which --emotions, --map and --drop are about" in errors
    corpus = load_corpus("mine", data)
    for changes, message in (
        ({}, r"config\.corpus\.dimensions: corpus mine has no emotions, expected .*dimensions=arousal,valence$"),
        (
            {"corpus": {"dimensions": ["arousal"]}, "training": {"keep": "best"}},
            r"training\.keep: is about emotions, and",
        ),
        (
            {"corpus": {"dimensions": ["arousal"], "votes": "vote_"}},
            r"corpus\.votes: is about emotions, and corpus mine",
        ),
    ):
        with pytest.raises(UserError, match=message):
            check_classes(configuration.merge(CONFIG, changes), corpus)
    one = dataclasses.replace(corpus, emotions=("anger",))
    with pytest.raises(UserError, match="corpus mine: has the emotion anger alone, expected at least 2"):
        check_classes(CONFIG, one)


def test_reports_have_scores_and_nothing_of_emotions(workdir):
    made = summary.read(workdir)
    assert made.emotions == () and made.chance_ua is None and made.metrics == {} and made.comparisons == ()
    assert list(made.scores) == ["ccc_arousal", "ccc_valence"]
    for variant in made.variants.values():
        assert variant.metrics == {} and variant.scores["ccc_arousal"].ci95 is not None and variant.seeds == 2
    assert {one.score for one in made.score_differences} == set(made.scores)
    text = (workdir / "report.md").read_text()
    assert "network against ridge: CCC arousal" in text and "Training CCC" not in text
    for word in ("UA", "recall", "emotions", "probabilities"):
        assert word not in text.replace("Speech emotion recognition", "").replace("speech emotion recognition", ""), (
            word
        )
    predictions = pd.read_parquet(workdir / "predictions.parquet")
    assert not [column for column in predictions if column.startswith("p_")]
    assert {f"predicted_{name}" for name in NAMES} <= set(predictions.columns)


def test_results_are_compared_evaluated_and_reported_again(workdir, data, tmp_path):
    status, output, errors = run("compare", workdir)
    assert status == 0, errors
    assert "ridge against network: CCC arousal" in output and "UA" not in output
    status, output, errors = run("evaluate", "--workdir", workdir, "--data_dir", data, "--out", tmp_path / "again")
    assert status == 0, errors
    assert "identical to the training's own predictions" in output + errors
    assert (tmp_path / "again" / "summary.json").is_file() and not list(workdir.glob("on_*"))


@pytest.mark.parametrize("variant", ["network", "ridge"])
def test_recordings_are_given_values_and_no_emotion(workdir, folder, tmp_path, variant):
    of_model = ("--workdir", workdir, "--variant", variant)
    outputs = [
        option for form in ("csv", "txt", "TextGrid", "png") for option in ("--timeline", tmp_path / f"t.{form}")
    ]
    status, output, errors = run("predict", folder / "wav" / "0.wav", *of_model, "--json", *outputs)
    assert status == 0, errors
    row = json.loads(output)
    assert list(row) == ["file", "predicted_arousal", "predicted_valence", "notes"]
    model = ser_jax.load(workdir, variant=variant)
    samples, rate = soundfile.read(folder / "wav" / "0.wav", dtype="int16")
    assert model.dimensions(samples, rate)["arousal"] == pytest.approx(row["predicted_arousal"], rel=1e-3)
    assert 0 < row["predicted_arousal"] < 6 and model.embed(samples, rate).ndim == 1
    assert list(pd.read_csv(tmp_path / "t.csv")) == ["start", "end", "level_db", *(f"predicted_{n}" for n in NAMES)]
    assert (tmp_path / "t.txt").read_text().split("\t")[2].startswith("arousal ")
    grid = (tmp_path / "t.TextGrid").read_text()
    assert "size = 2" in grid and 'name = "valence"' in grid and (tmp_path / "t.png").stat().st_size > 1000
    with pytest.raises(UserError, match="predicts no emotions, its corpus had none; expected `dimensions`"):
        model.predict(samples, rate)
    status, output, errors = run("predict", folder / "wav" / "0.wav", *of_model, "--abstain", 0.2)
    assert (status, output) == (2, "") and "predicts no emotions" in errors
    assert run("predict", folder / "wav" / "0.wav", *of_model)[0] == 0
