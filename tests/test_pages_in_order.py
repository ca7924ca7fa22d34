"""Trainings of the documents, and what needs their results, run page by page in order, on miniatures of the corpora.

A command stays as its page has it. What is added, so that it takes seconds, is in `SMALL` alone.
"""

import itertools
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from flax.traverse_util import flatten_dict

from configs import recipe
from docs import equal_silence
from ser_jax import api
from ser_jax.commands.main import main
from ser_jax.corpora import load_corpus, packed_folder
from ser_jax.corpora.corpus import SAMPLE_RATE, make_corpus, save, waveform
from ser_jax.corpora.synthetic import make_synthetic
from ser_jax.encoders import architecture, smart_turn, store, weights
from ser_jax.encoders.catalogue import DEFAULT
from tests.corpora.test_annotated_layouts import make_iemocap
from tests.corpora.test_layouts import MINIATURES
from tests.corpora.test_layouts import write as write_noise
from tests.export.test_export import write as write_model
from tests.test_snippets import IN_ORDER, PLANNED, SNIPPETS, place

ROOT = Path(__file__).parents[1]
EMOTIONS = ("neutral", "anger", "sadness", "happiness", "calm", "fear", "disgust", "surprise")
SECONDS = 1.0  # of every recording
ENCODER = smart_turn.CONFIG | {"d_model": 8, "encoder_attention_heads": 2, "encoder_ffn_dim": 8}

_ONE = ("folds=0", "seeds=0", "evaluation.latency=false", "evaluation.robustness=", "evaluation.window_seconds=0.5")
_STEPS = ("train_epochs=-1", "train_steps=2", "validate_epochs=-1", "batch_size=4", "crop_seconds=0.5")
_SHORT = (*(f"training.{one}" for one in _STEPS), "optimizer.warmup_epochs=-1", "optimizer.warmup_steps=1")
_PLAIN = tuple(f"augmentation.{name}=0" for name in ("speed", "vocal_tract", "spec_augment", "mixup"))
SMALL = {  # what a command is, and the options of the configuration that are added to it
    r"(train|study) ": (*_ONE, *_SHORT, *_PLAIN),
    r"(train|study) \S*configs/(quickstart|tracks)\.py": (
        "corpus.options.num_speakers=3",
        "corpus.options.utterances_per_speaker=8",
    ),
    r"(train|study) (?!.*(encoder|layers|adaptation|precomputed))": (
        "frontend.num_mels=32",
        "frontend.hop_ms=40",
        "frontend.window_ms=50",
    ),
}
WIDTHS = {"shufflenet_v2": {"width": "tiny"}, "cnn": {"width": 2}}  # of the recipe's networks

ALSO = r".* prepare folder --name calls|.* -m docs\.equal_silence"  # which other tests run too
BEFORE = {  # what another page has, and these need
    "docs/encoders.md": "python launch.py prepare folder --name calls --source RECORDINGS --table calls.csv",
    "docs/inputs.md": "python launch.py prepare iemocap --source FOLDER_WITH_SESSION1_TO_5",
}


def commands(page):
    """The commands of a page, each with what is done with it."""
    own = {snippet: place(page, snippet) for name, snippet in SNIPPETS if name == page}
    run = {one: how for one, how in own.items() if how in (IN_ORDER, PLANNED) or re.match(ALSO, one)}
    return {BEFORE[page]: IN_ORDER, **run} if page in BEFORE else run


PAGES = list(dict.fromkeys(page for page, snippet in SNIPPETS if place(page, snippet) in (IN_ORDER, PLANNED)))


def spoken(seed, speakers):
    """Synthetic voices, each of which says something in each emotion."""
    made = make_synthetic("synthetic", num_speakers=speakers, utterances_per_speaker=len(EMOTIONS), seed=seed)
    table = made.utterances[["id", "speaker", "gender", "text"]].copy()
    table["emotion"] = [EMOTIONS[row % len(EMOTIONS)] for row in range(len(table))]
    return table, [waveform(made, row)[: int(SECONDS * SAMPLE_RATE)] for row in range(len(table))]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two corpora under the names that the documents use, and a drawn encoder under the name of the default one."""
    folder = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(("emodb", "ravdess")):
        info = {"speakers_known": True, "licence": "CC BY 4.0", "description": f"A miniature called {name}."}
        save(make_corpus(name, *spoken(seed, 10), EMOTIONS, info), packed_folder(name, folder))
    (folder / "drawn").mkdir()
    for name, content in ((architecture.CONFIG, ENCODER), (architecture.PREPROCESSOR, smart_turn.PREPROCESSOR)):
        (folder / "drawn" / name).write_text(json.dumps(content))
    spec, rng = architecture.read_architecture(folder / "drawn"), np.random.default_rng(0)
    shapes = flatten_dict(weights.parameter_shapes(spec), sep="/")
    tensors = {}
    for entry in weights._entries(spec):
        shape = weights._stored_shape(entry.layout, shapes[entry.path].shape[int(entry.stacked) :])
        tensors |= {name: rng.normal(size=shape).astype(np.float32) / 3 for name in entry.names}
    store.save_file(tensors, folder / "drawn" / store.WEIGHTS)
    store.get(str(folder / "drawn"), folder, name=DEFAULT)
    return folder


@pytest.fixture
def folder(data, tmp_path, monkeypatch, no_figures):
    """What a reader of the pages has: recordings, tables, prepared corpora, models."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SER_JAX_DATA", raising=False)
    monkeypatch.setattr("ser_jax.report.vector_graphics.write_pdf", lambda figures, path: path.write_bytes(b""))
    for name, width in WIDTHS.items():
        monkeypatch.setitem(recipe.MODELS, name, recipe.MODELS[name] | width)
    shutil.copytree(data, "data")
    for name in ("configs", "docs"):
        Path(name).symlink_to(ROOT / name)
    table, waveforms = spoken(2, 3)
    Path("RECORDINGS").mkdir()
    for name, samples in zip(table["id"], waveforms, strict=True):
        soundfile.write(f"RECORDINGS/{name}.wav", samples, SAMPLE_RATE)
    table.assign(path=table["id"] + ".wav")[["path", "emotion", "speaker"]].to_csv("calls.csv", index=False)
    for name in ("a.wav", "b.wav", "my.wav"):
        soundfile.write(name, waveforms[0], SAMPLE_RATE)
    write_noise(Path("FOLDER_WITH_AUDIOWAV"), MINIATURES["crema_d"])
    make_iemocap(tmp_path / "FOLDER_WITH_SESSION1_TO_5")
    Path("FILE_OR_FOLDER").mkdir()
    for name in load_corpus("emodb", data).utterances["id"]:
        np.save(f"FILE_OR_FOLDER/{name}.npy", np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32))
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "extending.md").read_text(), re.M | re.S)
    Path("mine").mkdir()
    Path("mine/parts.py").write_text(blocks[0])
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def model(folder, monkeypatch):
    """A model of a few parameters in place of the one that comes with ser_jax."""
    (folder / "pretrained").mkdir()
    monkeypatch.setattr(api, "PRETRAINED", write_model(folder / "pretrained" / "emodb", "linear").parent)
    shutil.copytree("pretrained/emodb", "runs/calls")


def small(arguments):
    line = " ".join(arguments)
    return [f"--config.{one}" for pattern, changes in SMALL.items() if re.match(pattern, line) for one in changes]


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run_in_order(page, folder, monkeypatch, capsys, request):
    if page == "docs/exporting.md":
        pytest.importorskip("onnxruntime", reason="the page has an ONNX file (requirements-references.txt)")
        request.getfixturevalue("model")
    for snippet, how in commands(page).items():
        words = shlex.split(snippet)
        if "=" in words[0]:
            monkeypatch.setenv(*words.pop(0).split("="))
        if words[1] == "-m":
            monkeypatch.setattr(sys, "argv", words[2:])
            equal_silence.main()
            continue
        arguments = [*words[2:], *small(words[2:]), *(["--dry_run"] if how == PLANNED else [])]
        options = dict(itertools.pairwise(words))
        names = ("--out",) if words[2] == "predict" else ("--workdir", "--out")  # it reads a workdir
        before = {options[name]: files(options[name]) for name in names if name in options}
        status, said = main(arguments), capsys.readouterr()
        assert status == 0 and said.out, (snippet, said.err)
        if how != PLANNED:
            made = [files(one) - those for one, those in before.items()]
            assert all(made), snippet
            if words[2] == "evaluate":
                assert {path.name for path in made[0]} >= {"summary.json", "predictions.parquet"}, snippet


def files(place):
    return {path for path in (Path(place), *Path(place).rglob("*")) if path.is_file()}
