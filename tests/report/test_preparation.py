"""What a corpus's `info` says of its preparation, as `prepare` writes it, in a report and on a model card."""

import dataclasses

import numpy as np
import pytest
import soundfile

from ser_jax.config import default
from ser_jax.corpora.labels import Changes
from ser_jax.corpora.merge import merge_corpora
from ser_jax.corpora.prepare import Options, prepare_folder
from ser_jax.corpora.protocols import make_protocol
from ser_jax.report import card, preparation
from ser_jax.studies.collect import _describe
from ser_jax.studies.plan import make_plan
from ser_jax.studies.variants import Variant


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A corpus of which one recording was bad, one is silent, and one emotion has another name."""
    folder = tmp_path_factory.mktemp("recordings")
    rows = ["path,emotion,speaker"]
    for i in range(8):
        sound = np.sin(np.arange(16_000) * (0.05 + 0.01 * i)) * (0.3 if i else 0.0)
        soundfile.write(folder / f"{i}.wav", sound, 16_000)
        rows.append(f"{i}.wav,{('joy', 'anger')[i % 2]},s{i // 2}")
    (folder / "7.wav").write_bytes(b"")
    (folder / "t.csv").write_text("\n".join(rows))
    options = Options(table=folder / "t.csv", labels=Changes({"joy": "happiness"}), skip_bad=True)
    return prepare_folder("mine", folder, folder / "data", options), folder


def test_a_study_names_what_was_left_out_relabelled_and_noted(prepared):
    corpus, folder = prepared
    protocol = make_protocol(corpus, "leave_one_speaker_out", validation_speakers=0)
    variant = Variant("one", default(), corpus, protocol, "key", "family", *[lambda *_: None] * 3)
    study = _describe(make_plan(default()), [variant], {"one": {"seconds": {"train": 1.0}}})
    assert study.left_out[0].startswith("1 utterance of mine left out when it was prepared: 7 (")
    assert study.labels == ("labels of mine: joy as happiness",)
    assert study.notes == ("1 recording of mine silent: 0",)
    assert str(folder) not in str((study.left_out, study.labels, study.notes))
    assert study.protocols[0].verdict == "independent"


def test_a_study_of_unknown_speakers_is_neither_independent_nor_dependent(prepared):
    corpus = dataclasses.replace(prepared[0], utterances=prepared[0].utterances.assign(speaker=""))
    protocol = make_protocol(corpus, "random", num_folds=2, validation_speakers=0)
    variant = Variant("one", default(), corpus, protocol, "key", "family", *[lambda *_: None] * 3)
    study = _describe(make_plan(default()), [variant], {"one": {"seconds": {"train": 1.0}}})
    assert study.speaker_independent is None
    assert study.protocols[0].verdict == "cannot be told"


def test_a_card_names_them_too(prepared):
    corpus, _ = prepared
    lines = card._corpora([card.TrainingCorpus("mine", 7, 4, corpus.info, ["mine"])])
    assert lines[0].startswith("**mine**: all 7 utterances of 4 speakers.")
    assert [line.split(":")[0] for line in lines[1:]] == [
        "1 utterance of mine left out when it was prepared",
        "Labels of mine",
        "1 recording of mine silent",
    ]


def test_a_merged_corpus_keeps_what_its_parts_say(prepared):
    folder = prepared[1]
    merged = merge_corpora("both", ["mine", "synthetic"], folder / "data")
    assert merged.info["notes"] == {"silent": ["mine-0"]} and "mine-0" in set(merged.utterances["id"])
    assert preparation.notes("both", merged.info) == ("1 recording of both silent: mine-0",)
    assert preparation.labels("both", merged.info) == ("labels of both: mine: joy as happiness",)


def test_nothing_is_said_of_a_corpus_that_was_taken_as_it_is():
    for of in (preparation.left_out, preparation.labels, preparation.notes):
        assert of("synthetic", {}) == ()


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        (
            ["emodb"],
            "trained on acted speech, close to the microphone and without noise. For spontaneous speech, other",
        ),
        (["emodb", "meld"], "without noise; acted dialogs of a television series, with its music and laughter. For sp"),
        (["msp_podcast"], "It was trained on spontaneous speech, of podcasts. For other languages"),
        (["mine"], "this card says no more of than the corpora's names. For other languages"),
        (["emodb", "mine"], "this card says no more of than the corpora's names. For other languages"),
    ],
)
def test_a_card_claims_of_speech_what_the_builders_of_its_corpora_declare(sources, said):
    trained_on = [card.TrainingCorpus("any", 7, 4, {}, sources)]
    assert said in card._speech(trained_on)
