"""Heads by source as a user meets them: two folders of recordings, merged, learnt together, tested apart, published."""

import json

import numpy as np
import pandas as pd
import pytest
import soundfile

from ser_jax import config as configuration
from ser_jax.corpora.corpus import SAMPLE_RATE, waveform
from ser_jax.corpora.synthetic import make_synthetic
from tests.training.tiny import CONFIG, PARTS

pytestmark = pytest.mark.usefixtures("no_figures")

EMOTIONS = {emotion for emotions in PARTS.values() for emotion in emotions}
CHANGES = {
    "model": {"name": "rnn", "hidden": 8, "pooling": "weighted"},
    "augmentation": {"mixup": 0.0},
    "protocol": {"validation_speakers": 0},
    "training": {"heads": "source"},
    "evaluation": {"robustness": ["noise_20"]},
}


@pytest.fixture(scope="module")
def speech(launch, tmp_path_factory):
    """The folder of the recordings of two corpora, which are prepared and merged."""
    folder = tmp_path_factory.mktemp("speech")
    for number, (part, emotions) in enumerate(PARTS.items()):
        spoken, rows = make_synthetic("synthetic", num_speakers=2, utterances_per_speaker=8, seed=number), []
        for row, utterance in spoken.utterances.iterrows():
            if utterance["emotion"] in emotions:
                path = folder / f"{part}-{row}.wav"
                soundfile.write(path, waveform(spoken, row), SAMPLE_RATE)
                rows.append({"path": path.name, "emotion": utterance["emotion"], "speaker": utterance["speaker"]})
        pd.DataFrame(rows).to_csv(folder / f"{part}.csv", index=False)
        arguments = ("--name", part, "--source", folder, "--table", folder / f"{part}.csv")
        status, _, errors = launch("prepare", "folder", *arguments)
        assert status == 0, errors
    status, said, errors = launch("prepare", "merge", "--name", "both", "--corpora", ",".join(PARTS))
    assert status == 0 and "not compared with a release: packed before as first and second\n" in said, (said, errors)
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    merged = configuration.merge(CONFIG, CHANGES)
    merged["corpus"] = merged["corpus"] | {"name": "both", "options": {}}
    path = tmp_path_factory.mktemp("config") / "heads.json"
    path.write_text(json.dumps(merged))
    return path


@pytest.fixture(scope="module")
def trained(launch, speech, config, tmp_path_factory):
    """Where all speakers were learnt, and where one of the four was left out in turn."""
    folders = tmp_path_factory.mktemp("all"), tmp_path_factory.mktemp("tested")
    for folder, protocol in zip(folders, ("everything", "leave_one_speaker_out"), strict=True):
        status, _, errors = launch(
            "train", "--config", config, f"--config.protocol.name={protocol}", "--workdir", folder
        )
        assert status == 0, errors
    return folders


def test_a_training_s_results_say_what_the_heads_are_told(trained):
    summary = json.loads((trained[1] / "summary.json").read_text())
    assert set(summary["emotions"]) == EMOTIONS
    (variant,) = summary["variants"].values()
    assert any("each utterance is recognised by its own corpus's classifier" in note for note in variant["notes"])
    cost = variant["known"]["cost"]
    assert cost["latency"] == 1.0 and cost["multiply_adds"] > 0
    assert "had a classifier of its own" in (trained[1] / "report.md").read_text()
    (picture,) = (trained[1] / "populations").glob("*/attention.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_evaluation_repeats_the_training_s_predictions_and_asks_each_corpus_s_own_head(launch, trained):
    status, output, errors = launch("evaluate", "--workdir", trained[1])
    assert status == 0, errors
    assert "identical to the training's own predictions" in output
    for part, emotions in PARTS.items():
        status, output, errors = launch("evaluate", "--workdir", trained[0], "--corpus", part)
        assert status == 0, errors
        assert f"the model was trained on {part}, perhaps with the speakers" in " ".join(output.split())
        alone = pd.read_parquet(trained[0] / f"on_{part}" / "predictions.parquet")
        together = pd.read_parquet(trained[0] / "predictions.parquet")
        together = together.assign(utterance=together["utterance"].str.removeprefix(f"{part}-"))
        both = alone.merge(together, on=["fold", "seed", "utterance"], suffixes=("", "_merged"))
        assert len(both) == len(alone)
        for emotion in emotions:
            np.testing.assert_allclose(both[f"p_{emotion}"], both[f"p_{emotion}_merged"], atol=1e-5)


def test_prediction_is_the_mean_of_the_heads_and_a_picture_says_the_same(launch, trained, speech, tmp_path):
    recording = next(speech.glob("first-*.wav"))
    picture = tmp_path / "a.png"
    arguments = ("--workdir", trained[0], recording, "--json", "--attention", picture)
    status, output, errors = launch("predict", *arguments)
    assert status == 0, errors
    said = json.loads(output)
    assert said.pop("file") == str(recording) and said.pop("notes") == "" and said.pop("emotion") in EMOTIONS
    assert set(said) == EMOTIONS
    assert sum(said.values()) == pytest.approx(1, abs=1e-5)
    for emotion, probability in said.items():
        assert 0 < probability < (1 if emotion == "anger" else 0.5)  # the mean of a probability and of none
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_published_model_has_its_heads_and_a_card_that_tells_them(launch, trained, speech, tmp_path):
    to = tmp_path / "published"
    status, _, errors = launch("publish", "--workdir", trained[0], "--tested", trained[1], "--to", to)
    assert status == 0, errors
    card = (to / "README.md").read_text()
    for part, emotions in PARTS.items():
        (line,) = [line for line in card.splitlines() if line.startswith(f"- A classifier for {part}: ")]
        assert set(line.removesuffix(".").split(": ")[1].split(", ")) == set(emotions)
    assert "the probabilities of these classifiers are averaged" in card
    recording = next(speech.glob("second-*.wav"))
    said = [launch("predict", "--workdir", folder, recording, "--json") for folder in (trained[0], to)]
    assert said[0] == said[1] and said[0][0] == 0


def test_another_choice_of_heads_is_another_training(launch, trained, config):
    arguments = ("--config", config, "--config.protocol.name=everything", "--workdir", trained[0])
    status, output, errors = launch("train", *arguments, "--config.training.heads=shared")
    assert status == 2 and output == ""
    assert "another configuration (config.training.heads: 'source' -> 'shared')" in errors
