"""Published corpora in their owners' layouts, as generated miniatures; those with annotations have a module beside."""

import argparse
import json

import numpy as np
import pytest
import soundfile

from ser_jax.commands import corpora as command
from ser_jax.commands import prepare
from ser_jax.corpora import layouts, load_corpus
from ser_jax.corpora.protocols import PROTOCOLS
from ser_jax.errors import UserError

MINIATURES = {  # corpus -> file -> what it is
    "crema_d": {
        "AudioWAV/1001_DFA_ANG_XX.wav": ("1001", "anger", "DFA"),
        "AudioWAV/1002_IEO_HAP_HI.wav": ("1002", "happiness", "IEO"),
        "AudioWAV/1091_WSI_SAD_XX.wav": ("1091", "sadness", "WSI"),
        "AudioWAV/1040_ITH_SAD_X.wav": ("1040", "sadness", "ITH"),
    },
    "savee": {
        "AudioData/DC/a01.wav": ("DC", "anger", "01"),
        "AudioData/DC/su15.wav": ("DC", "surprise", "su15"),
        "AudioData/KL/sa02.wav": ("KL", "sadness", "02"),
        "ALL/JE_n30.wav": ("JE", "neutral", "n30"),
    },
    "tess": {
        "OAF_angry/OAF_back_angry.wav": ("OAF", "anger", "back"),
        "YAF_pleasant_surprised/YAF_youth_ps.wav": ("YAF", "surprise", "youth"),
        "OAF_neutral/OA_bite_neutral.wav": ("OAF", "neutral", "bite"),
        "YAF_happy/YAF_dog_happy.wav": ("YAF", "happiness", "dog"),
    },
    "emovo": {
        "f1/dis-f1-b1.wav": ("f1", "disgust", "b1"),
        "m3/gio-m3-d2.wav": ("m3", "happiness", "d2"),
        "m1/rab-m1-l4.wav": ("m1", "anger", "l4"),
    },
    "cafe": {
        "Colere/Faible/01-C-1-1.wav": ("01", "anger", "1"),
        "Neutre/12-N-1-6.wav": ("12", "neutral", "6"),
        "Joie/Fort/02-J-2-3.wav": ("02", "happiness", "3"),
    },
    "esd": {
        "0001/Neutral/0001_000001.wav": ("0001", "neutral", "zh001"),
        "0011/Angry/0011_000351.wav": ("0011", "anger", "en001"),
        "0020/Surprise/0020_001750.wav": ("0020", "surprise", "en350"),
    },
}
ANNOTATED = ("iemocap", "iemocap_6", "meld", "msp_improv", "msp_podcast")


def run(module, *arguments):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return module.run(parser.parse_args([str(argument) for argument in arguments]))


def write(folder, names):
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, np.random.default_rng(seed).uniform(-0.3, 0.3, 4000), 16000)
    return folder


def test_every_layout_has_a_miniature_and_says_what_it_must():
    assert set(layouts.names()) == {*MINIATURES, *ANNOTATED}
    for layout in map(layouts.load, layouts.names()):
        assert (
            layout.protocol in PROTOCOLS and layout.homepage.startswith("http") and layout.licence and layout.citation
        )


@pytest.mark.parametrize("name", MINIATURES)
def test_a_corpus_in_its_owners_layout_is_prepared(name, tmp_path):
    files = MINIATURES[name]
    assert run(prepare, name, "--source", write(tmp_path / "in", files), "--data_dir", tmp_path) == 0
    corpus, layout = load_corpus(name, tmp_path), layouts.load(name)
    table = corpus.utterances
    assert corpus.emotions == layout.emotions and corpus.info["licence"] == layout.licence
    assert sorted(zip(table["speaker"], table["emotion"], table["text"], strict=True)) == sorted(files.values())
    assert table["id"].is_unique and set(table["gender"]) <= {"", "female", "male"}
    assert str(layout.utterances) in corpus.info["source_check"]["verified_against"]


@pytest.mark.parametrize("name", MINIATURES)
def test_a_recording_of_another_name_is_named_and_can_be_left_out(name, tmp_path):
    folder = write(tmp_path / "in", [*MINIATURES[name], "odd/someone_else.wav"])
    with pytest.raises(UserError, match=r"someone_else\.wav: no name of a recording of"):
        run(prepare, name, "--source", folder, "--data_dir", tmp_path)
    assert run(prepare, name, "--source", folder, "--data_dir", tmp_path, "--skip", "bad") == 0
    assert len(load_corpus(name, tmp_path).utterances) == len(MINIATURES[name])


def test_a_corpus_that_is_not_there_or_twice_there_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no recording with a name of SAVEE"):
        run(prepare, "savee", "--source", tmp_path / "empty", "--data_dir", tmp_path)
    with pytest.raises(UserError, match="expected --source FOLDER, from http"):
        run(prepare, "savee", "--data_dir", tmp_path)
    write(tmp_path / "in", ["DC/a01.wav", "ALL/DC_a01.wav"])
    with pytest.raises(UserError, match="holds DC_a01 twice"):
        run(prepare, "savee", "--source", tmp_path / "in", "--data_dir", tmp_path)
    with pytest.raises(UserError, match=r"corpus tess is not prepared .* prepare tess --source FOLDER`"):
        load_corpus("tess", tmp_path)


def test_the_corpora_are_listed_with_what_is_here(tmp_path, capsys):
    run(prepare, "savee", "--source", write(tmp_path / "in", MINIATURES["savee"]), "--data_dir", tmp_path)
    capsys.readouterr()
    assert run(command, "--data_dir", tmp_path, "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == {"emodb", "ravdess", *MINIATURES, *ANNOTATED}
    assert (rows["savee"]["prepared"], rows["tess"]["prepared"], rows["emodb"]["utterances"]) == (4, 0, 535)
    assert run(command, "--data_dir", tmp_path) == 0
    assert "leave_one_speaker_out" in capsys.readouterr().out
