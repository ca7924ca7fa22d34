"""Pages that are run as they stand: the road of a newcomer, and the snippets about using a model."""

import collections
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from configs import recipe
from ser_jax.commands.main import main
from ser_jax.corpora.corpus import SAMPLE_RATE, waveform
from ser_jax.corpora.synthetic import make_synthetic
from ser_jax.report import write

ROOT = Path(__file__).parents[1]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
# What makes the page's trainings small; every training of the page gets the same.
SMALL = [
    *("model.width=2", "frontend.num_mels=32", "frontend.hop_ms=40.0", "frontend.window_ms=50.0"),
    *("training.crop_seconds=0.5", "training.batch_size=4", "training.train_epochs=-1", "training.train_steps=2"),
    *(
        "training.validate_epochs=-1",
        "optimizer.warmup_epochs=-1",
        "optimizer.warmup_steps=1",
        "augmentation.speed=0.0",
    ),
    *("augmentation.vocal_tract=0.0", "augmentation.spec_augment=0.0", "evaluation.latency=false"),
]


def blocks(name, language):
    return [text for kind, text in _FENCE.findall((ROOT / "docs" / name).read_text()) if kind == language]


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """A corpus of three speakers as a newcomer has it, in a folder of its own, which is the current one."""
    spoken, rows = make_synthetic("synthetic", num_speakers=3, utterances_per_speaker=8), []
    for row, utterance in spoken.utterances.iterrows():
        path = Path("RECORDINGS") / utterance["speaker"] / f"{row}.wav"
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / path, waveform(spoken, row), SAMPLE_RATE)
        rows.append(
            {"path": path.relative_to("RECORDINGS"), "emotion": utterance["emotion"], "speaker": utterance["speaker"]}
        )
    pd.DataFrame(rows).to_csv(tmp_path / "calls.csv", index=False)
    soundfile.write(tmp_path / "new.wav", waveform(spoken, 0), SAMPLE_RATE)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SER_JAX_DATA", raising=False)
    return tmp_path


def test_the_road_of_a_newcomer_leads_to_a_published_model(corpus, monkeypatch, capsys):
    monkeypatch.setattr("ser_jax.report.vector_graphics.write_pdf", lambda figures, path: path.write_bytes(b""))
    monkeypatch.setitem(recipe.MODELS, "cnn", recipe.MODELS["cnn"] | {"width": 2})  # of the study's question
    lines = [line for block in blocks("newcomer.md", "bash") for line in block.splitlines()]
    used, draw = [], write._draw
    # Figures are drawn by `report` alone, not by every training: that takes most of the time of a small one.
    monkeypatch.setattr(
        write,
        "_draw",
        lambda sections, folder: draw(sections, folder) if used[-1] == "report" else collections.defaultdict(str),
    )
    for line in lines:
        program, script, *arguments = shlex.split(line)
        assert (program, script) == ("python", "launch.py")
        if arguments[0] in ("train", "study") and "configs/baselines.py:calls" not in arguments:
            of_the_study = ["evaluation.robustness=", "folds=0"] if arguments[0] == "study" else []
            arguments += [f"--config.{change}" for change in (*SMALL, *of_the_study)]
        used.append(arguments[0])
        status = main(arguments)
        assert status == 0, (line, capsys.readouterr().err)
    road = ["prepare", "inspect", "audit", "train", "compare", "study", "report", "predict", "publish"]
    assert list(dict.fromkeys(name for name in used if name != "status")) == road
    emotions = pd.read_csv(corpus / "emotions.csv")
    assert len(emotions) == 24 and emotions["confidence"].between(0, 1).all()
    for made in (
        "calls.html",
        "runs/calls/report.md",
        "runs/attention/report.html",
        "new.TextGrid",
        "models/calls/README.md",
    ):
        assert (corpus / made).stat().st_size > 100, made
    assert "calls" in (corpus / "models" / "calls" / "README.md").read_text()
    assert "<svg" in (corpus / "runs" / "attention" / "report.html").read_text()


def test_the_snippets_about_using_a_model_run_one_after_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    soundfile.write("a.wav", 0.1 * np.random.default_rng(0).standard_normal(3 * SAMPLE_RATE), SAMPLE_RATE)
    names = {}
    snippets = blocks("using_models.md", "python")
    assert len(snippets) == 4
    for snippet in snippets:
        exec(compile(snippet, "using_models.md", "exec"), names)
    assert names["probabilities"].sum() == pytest.approx(1) and names["probabilities"].index[0] == "anger"
    assert names["timeline"]["start"].tolist() == [0.0, 0.5, 1.0] and len(names["loud"]) == 3
    assert 0 < names["abstention"].threshold < 1 and names["sure"].shape == (2,)
    assert names["abstention"].ua > names["abstention"].ua_all
