"""Published corpora with annotations, in their owners' layouts, as generated miniatures."""

import json
import re

import numpy as np
import pytest
import soundfile

from ser_jax.corpora import layouts, load_corpus
from ser_jax.corpora.labels import Changes
from ser_jax.corpora.layouts import msp_podcast
from ser_jax.corpora.prepare import Options, prepare_layout
from ser_jax.corpora.protocols import make_protocol
from ser_jax.errors import UserError


def write(path, content=None):
    """Writes a text, or noise where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        soundfile.write(path, np.random.default_rng(len(str(path))).uniform(-0.3, 0.3, 4000), 16000)
    else:
        path.write_text(content, encoding="utf-8")


IEMOCAP = {  # dialog -> utterance -> the owner's emotion, valence, activation, dominance, three raters' words
    "Ses01F_impro01": {
        "F000": ("neu", "2.5000", "2.5000", "2.0000", ("Neutral;", "Neutral;", "Sadness;")),
        "M001": ("exc", "4.0000", "4.5000", "3.0000", ("Excited;", "Excited; Happiness;", "Excited;")),
        "F002": ("xxx", "3.0000", "3.0000", "3.0000", ("Anger;", "Neutral;", "Sadness;")),
    },
    "Ses01M_script01_1": {"M000": ("sad", "1.5000", "2.0000", "2.5000", ("Sadness;", "Sadness;", "Neutral state;"))},
    "Ses02F_impro02": {
        "F000": ("ang", "1.5000", "4.0000", "4.5000", ("Anger;", "Anger;", "Frustration;")),
        "M000": ("hap", "4.5000", "3.0000", "3.0000", ("Happiness;", "Happiness;", "Excited;")),
        "F001": ("fru", "2.0000", "3.5000", "3.5000", ("Frustration;", "Frustration;", "Anger;")),
    },
}


def make_iemocap(folder):
    for dialog, utterances in IEMOCAP.items():
        session = folder / f"Session{dialog[4]}"
        lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        for turn, (emotion, valence, activation, dominance, raters) in utterances.items():
            name = f"{dialog}_{turn}"
            lines.append(f"[6.2901 - 8.2357]\t{name}\t{emotion}\t[{valence}, {activation}, {dominance}]")
            lines += [f"C-E{number}:\t{words}\t()" for number, words in enumerate(raters, start=2)]
            lines += ["C-F1:\tAnger;\t(curious)", "A-E3:\tval 3; act 2; dom  2;\t()", "A-F1:\tval 2; act 1;\t()", ""]
            write(session / "sentences" / "wav" / dialog / f"{name}.wav")
        write(session / "dialog" / "EmoEvaluation" / f"{dialog}.txt", "\n".join(lines))
        write(session / "dialog" / "EmoEvaluation" / "Categorical" / f"{dialog}_cat.txt", "of one rater")
        write(session / "dialog" / "wav" / f"{dialog}.wav")
        spoken = "".join(f"{dialog}_{turn} [006.2901-008.2357]: Excuse me, {turn}.\n" for turn in utterances)
        write(session / "dialog" / "transcriptions" / f"{dialog}.txt", spoken)


def make_meld(folder, suffix="wav"):
    rows = {  # of each split: text, speaker, emotion, dialog, utterance
        "train": [("So, what\x85 \u2028now?", "Joey", "joy", 0, 0), ('He said, "no".', "Monica", "neutral", 0, 1)],
        "dev": [("Oh.", "Joey", "surprise", 0, 0)],
        "test": [("Why?", "Ross", "sadness", 0, 0), ("Eww!", "Monica", "disgust", 1, 10)],
    }
    folders = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
    head = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
    for split, of_split in rows.items():
        lines = [head]
        for number, (text, speaker, emotion, dialog, utterance) in enumerate(of_split, start=1):
            quoted = text.replace('"', '""')
            times = '8,21,"00:16:16,059","00:16:21,731"'
            lines.append(f'{number},"{quoted}",{speaker},{emotion},positive,{dialog},{utterance},{times}')
            write(folder / split / folders[split] / f"dia{dialog}_utt{utterance}.{suffix}")
        write(folder / split / f"{split}_sent_emo.csv", "\n".join(lines) + "\n")
    write(folder / "test" / folders["test"] / f"final_videos_testdia0_utt0.{suffix}")


def make_msp_improv(folder):
    utterances = {  # name -> the owner's emotion, raters' words
        "S01A-F01-R-FM01": ("A", ("Angry", "Angry", "Neutral")),
        "S02H-M02-P-FM03": ("H", ("Happy", "Happy", "Other")),
        "S02N-F02-T-FM03": ("N", ("Neutral", "Neutral", "Sad")),
        "S01S-M01-S-MF02": ("X", ("Sad", "Angry", "Neutral")),
    }
    lines = []
    for name, (emotion, raters) in utterances.items():
        dominance = "NaN" if emotion == "H" else "3.100000"
        lines.append(f"UTD-IMPROV-{name}.avi; {emotion}; A:2.500000; V:1.333333; D:{dominance} ; N:4.000000;")
        lines += [
            f"WORKER_{number}; {word}; Frustrated,Disappointed; A:2.000000; V:1.000000; D:3.000000; N:4.000000;"
            for number, word in enumerate(raters)
        ]
        lines.append("")
        write(folder / f"session{name[6]}" / name[:4] / name[9] / f"MSP-IMPROV-{name}.wav")
    write(folder / "Evalution.txt", "\n".join(lines))


PODCAST = {  # recording -> class, activation, valence, dominance, speaker, gender, set, raters' words
    "MSP-PODCAST_0001_0008": ("N", 4.2, 3.8, 4.0, "127", "Female", "Test1", ("Neutral", "Neutral", "Other-bored")),
    "MSP-PODCAST_0001_0019": ("U", 5.0, 4.0, 4.5, "127", "Female", "Test2", ("Surprise", "Surprise", "Happy")),
    "MSP-PODCAST_0002_0033": ("H", 5.5, 6.0, 5.0, "Unknown", "Male", "Train", ("Happy", "Happy", "Happy")),
    "MSP-PODCAST_0003_0001": ("A", 6.0, 2.0, 6.0, "9", "Male", "Train", ("Angry", "Disgust", "Angry")),
    "MSP-PODCAST_0004_0001": ("S", 2.0, 2.0, 3.0, "11", "Male", "Development", ("Sad", "Sad", "Contempt")),
    "MSP-PODCAST_0005_0001": ("X", 3.0, 3.0, 3.0, "11", "Male", "Train", ("Sad", "Happy", "Neutral")),
}
FIELDS = ("EmoClass", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Gender", "Split_Set")


def make_msp_podcast(folder, form="csv"):
    for name in PODCAST:
        write(folder / "Audios" / f"{name}.wav")
    if form == "csv":
        lines = [",".join((f"{name}.wav", *map(str, values[:7]))) for name, values in PODCAST.items()]
        write(folder / "Labels" / "labels_consensus.csv", "\n".join([",".join(("FileName", *FIELDS)), *lines]))
        lines = [
            f'{name}.wav,WORKER{number},{word},"Concerned,Bored",4,4,4'
            for name, values in PODCAST.items()
            for number, word in enumerate(values[7])
        ]
        head = "FileName,Workers,EmoClass_Major,EmoClass_Second,EmoAct,EmoVal,EmoDom"
        write(folder / "Labels" / "labels_detailed.csv", "\n".join([head, *lines]))
        return
    consensus = {f"{name}.wav": dict(zip(FIELDS, values[:7], strict=True)) for name, values in PODCAST.items()}
    detailed = {
        f"{name}.wav": {f"WORKER{number}": {"EmoClass_Major": word} for number, word in enumerate(values[7])}
        for name, values in PODCAST.items()
    }
    write(folder / "Labels" / "labels_consensus.json", json.dumps(consensus))
    write(folder / "Labels" / "labels_detailed.json", json.dumps(detailed))


MAKE = {
    "iemocap": make_iemocap,
    "iemocap_6": make_iemocap,
    "meld": make_meld,
    "msp_improv": make_msp_improv,
    "msp_podcast": make_msp_podcast,
}


def prepare(name, tmp_path, **options):
    return prepare_layout(name, tmp_path / "in", tmp_path / "data", Options(**options))


def rows_of(corpus, *columns):
    table = corpus.utterances
    return dict(zip(table["id"], zip(*(table[column] for column in columns), strict=True), strict=True))


def test_iemocap_has_its_speakers_sessions_dimensions_and_votes(tmp_path):
    make_iemocap(tmp_path / "in")
    corpus = prepare("iemocap", tmp_path)
    found = rows_of(corpus, "speaker", "gender", "session", "emotion", "valence", "arousal", "dominance")
    assert found == {
        "Ses01F_impro01_F000": ("Ses01F", "female", "1", "neutral", "2.5000", "2.5000", "2.0000"),
        "Ses01F_impro01_M001": ("Ses01M", "male", "1", "happiness", "4.0000", "4.5000", "3.0000"),
        "Ses01M_script01_1_M000": ("Ses01M", "male", "1", "sadness", "1.5000", "2.0000", "2.5000"),
        "Ses02F_impro02_F000": ("Ses02F", "female", "2", "anger", "1.5000", "4.0000", "4.5000"),
        "Ses02F_impro02_M000": ("Ses02M", "male", "2", "happiness", "4.5000", "3.0000", "3.0000"),
    }
    votes = rows_of(corpus, "vote_anger", "vote_happiness", "vote_neutral", "vote_frustration")
    assert votes["Ses01F_impro01_M001"] == ("0", "3", "0", "0"), "excitement counts as happiness, in votes too"
    assert votes["Ses02F_impro02_F000"] == ("2", "0", "0", "1"), "actors' own words count for nothing"
    assert "vote_excitement" not in corpus.utterances
    assert corpus.utterances["transcript"].iloc[0] == "Excuse me, F000."
    assert corpus.info["labels"] == ["excitement as happiness", "without frustration, no agreement (2 utterances)"]
    protocol = make_protocol(corpus, layouts.load("iemocap").protocol, validation_speakers=0)
    assert protocol.speaker_independent and [fold.name for fold in protocol.folds] == ["1", "2"]


def test_iemocap_with_six_classes_and_with_all_that_its_owner_has(tmp_path):
    make_iemocap(tmp_path / "in")
    corpus = prepare("iemocap_6", tmp_path)
    assert corpus.emotions == ("anger", "excitement", "frustration", "happiness", "neutral", "sadness")
    assert corpus.utterances["emotion"].value_counts().to_dict() == dict.fromkeys(corpus.emotions, 1)
    assert rows_of(corpus, "vote_happiness", "vote_excitement")["Ses01F_impro01_M001"] == ("0.5", "2.5")
    every = ("anger", "excitement", "frustration", "happiness", "neutral", "no agreement", "sadness")
    assert len(prepare("iemocap", tmp_path, emotions=every).utterances) == 7
    merged = prepare("iemocap", tmp_path, labels=Changes({"excitement": "happiness"}))
    assert {"frustration", "no agreement"} < set(merged.emotions)


def test_an_utterance_without_its_recording_is_named_and_can_be_left_out(tmp_path):
    make_iemocap(tmp_path / "in")
    (tmp_path / "in/Session2/sentences/wav/Ses02F_impro02/Ses02F_impro02_F000.wav").unlink()
    with pytest.raises(UserError, match="no recording of Ses02F_impro02_F000, which is annotated"):
        prepare("iemocap", tmp_path)
    corpus = prepare("iemocap", tmp_path, skip_bad=True)
    assert [left["id"] for left in corpus.info["left_out"]] == ["Ses02F_impro02_F000"]


def test_meld_has_its_splits_whose_numbers_begin_anew(tmp_path):
    make_meld(tmp_path / "in")
    corpus = prepare("meld", tmp_path)
    assert rows_of(corpus, "speaker", "emotion", "split") == {
        "dev_dia0_utt0": ("Joey", "surprise", "validation"),
        "test_dia0_utt0": ("Ross", "sadness", "test"),
        "test_dia1_utt10": ("Monica", "disgust", "test"),
        "train_dia0_utt0": ("Joey", "happiness", "train"),
        "train_dia0_utt1": ("Monica", "neutral", "train"),
    }
    assert rows_of(corpus, "transcript")["train_dia0_utt0"] == ("So, what\x85 \u2028now?",)
    protocol = make_protocol(corpus, "official")
    (fold,) = protocol.folds
    sides = [corpus.utterances["id"][rows].tolist() for rows in (fold.train, fold.validation, fold.test)]
    assert sides == [
        ["train_dia0_utt0", "train_dia0_utt1"],
        ["dev_dia0_utt0"],
        ["test_dia0_utt0", "test_dia1_utt10"],
    ]
    assert not protocol.speaker_independent and "SPEAKER-DEPENDENT" in protocol.description


def test_msp_improv_has_its_scenarios_sentences_and_votes(tmp_path):
    make_msp_improv(tmp_path / "in")
    corpus = prepare("msp_improv", tmp_path)
    assert rows_of(corpus, "speaker", "session", "emotion", "text", "scenario", "arousal", "dominance") == {
        "MSP-IMPROV-S01A-F01-R-FM01": ("F01", "1", "anger", "S01", "read", "2.500000", "3.100000"),
        "MSP-IMPROV-S02H-M02-P-FM03": ("M02", "2", "happiness", "", "natural", "2.500000", ""),
        "MSP-IMPROV-S02N-F02-T-FM03": ("F02", "2", "neutral", "S02", "improvised target", "2.500000", "3.100000"),
    }
    assert rows_of(corpus, "vote_happiness", "vote_other")["MSP-IMPROV-S02H-M02-P-FM03"] == ("2", "1")
    assert corpus.info["labels"] == ["without no agreement (1 utterances)"]


@pytest.mark.parametrize("form", ["csv", "json"])
def test_msp_podcast_has_its_partitions_dimensions_and_votes(form, tmp_path):
    make_msp_podcast(tmp_path / "in", form)
    corpus = prepare("msp_podcast", tmp_path)
    columns = ("speaker", "gender", "emotion", "split", "partition", "arousal", "valence", "dominance")
    assert rows_of(corpus, *columns) == {
        "MSP-PODCAST_0001_0008": ("127", "female", "neutral", "test", "Test1", "4.2", "3.8", "4.0"),
        "MSP-PODCAST_0001_0019": ("127", "female", "surprise", "", "Test2", "5.0", "4.0", "4.5"),
        "MSP-PODCAST_0002_0033": ("", "male", "happiness", "train", "Train", "5.5", "6.0", "5.0"),
        "MSP-PODCAST_0003_0001": ("9", "male", "anger", "train", "Train", "6.0", "2.0", "6.0"),
        "MSP-PODCAST_0004_0001": ("11", "male", "sadness", "validation", "Development", "2.0", "2.0", "3.0"),
    }
    assert rows_of(corpus, "vote_neutral", "vote_other")["MSP-PODCAST_0001_0008"] == ("2", "1")
    assert not corpus.info["speakers_known"], "one speaker is called Unknown"
    (fold,) = make_protocol(corpus, "official").folds
    assert (len(fold.train), len(fold.validation), len(fold.test)) == (2, 1, 1), "Test2 is in no split"


@pytest.mark.parametrize("name", MAKE)
def test_a_corpus_without_its_annotations_is_refused(name, tmp_path):
    write(tmp_path / "in" / "some.wav")
    with pytest.raises(UserError, match=rf"{re.escape(str(tmp_path / 'in'))}: no .*, expected"):
        prepare(name, tmp_path)
    with pytest.raises(UserError, match=f"prepare {name} --source FOLDER`"):
        load_corpus(name, tmp_path / "data")


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "message"),
    [
        ("iemocap", "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt", "\tneu\t", "\tblue\t", "emotion 'blue'"),
        ("iemocap", "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt", "[2.5000,", "[", r"expected \[START - END\]"),
        ("meld", "train/train_sent_emo.csv", "Emotion", "Feeling", "no column `Emotion`"),
        ("msp_improv", "Evalution.txt", "; A:2.500000", "; 2.5", "expected NAME.avi; EMOTION"),
        ("msp_podcast", "Labels/labels_consensus.csv", "Split_Set", "Set", "no column `Split_Set`"),
        ("msp_podcast", "Labels/labels_detailed.csv", "Disgust", "Disguss", "emotion 'disguss', expected one of"),
    ],
)
def test_damaged_annotations_are_refused_by_file(name, file, old, new, message, tmp_path):
    MAKE[name](tmp_path / "in")
    path = tmp_path / "in" / file
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(UserError, match=rf"{re.escape(str(path))}: .*{message}"):
        prepare(name, tmp_path)


@pytest.mark.parametrize("entry", [[], "x", None, 3])
def test_an_entry_of_msp_podcast_that_is_no_object_is_refused_by_its_name(entry, tmp_path):
    path = tmp_path / "labels_consensus.json"
    path.write_text(json.dumps({"MSP_1.wav": entry}))
    with pytest.raises(UserError, match=r"labels_consensus\.json: MSP_1\.wav has .*, expected an object with EmoClass"):
        msp_podcast.annotated(tmp_path)


@pytest.mark.parametrize("word", [None, 3])
def test_a_rating_of_msp_podcast_that_is_no_word_is_refused(word, tmp_path):
    (tmp_path / "labels_consensus.json").write_text("{}")
    (tmp_path / "labels_detailed.json").write_text(json.dumps({"MSP_1.wav": {"Workers": [{"EmoClass_Major": word}]}}))
    with pytest.raises(UserError, match=rf"labels_detailed\.json: .*emotion '{str(word).lower()}'"):
        msp_podcast.annotated(tmp_path)


def test_one_recording_in_two_formats_is_refused(tmp_path):
    make_meld(tmp_path / "in")
    write(tmp_path / "in/train/wavs/dia0_utt0.flac")
    with pytest.raises(UserError, match="holds dia0_utt0 twice"):
        prepare("meld", tmp_path)
