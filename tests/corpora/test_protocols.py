"""Protocols: every utterance is tested once, and nothing of the test side is learnt from."""

import dataclasses
import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax.corpora.corpus import make_corpus
from ser_jax.corpora.protocols import PROTOCOLS, make_protocol, shared
from ser_jax.errors import UserError

DRAWN = ("leave_one_speaker_out", "grouped_k_fold", "speaker_and_text_independent", "leave_one_session_out", "random")


def corpus_of(speakers, texts=None, genders=None, sessions=None, emotions=None, speakers_known=True):
    number = len(speakers)
    table = pd.DataFrame({"id": [f"u{i}" for i in range(number)], "speaker": speakers})
    table["text"] = ["t0"] * number if texts is None else texts
    table["gender"] = ["female" if speaker < "s4" else "male" for speaker in speakers] if genders is None else genders
    table["emotion"] = ["ab"[i % 2] for i in range(number)] if emotions is None else emotions
    if sessions is not None:
        table["session"] = sessions
    waveforms = [np.array([i + 1, 7], np.int16) for i in range(number)]
    return make_corpus("made", table, waveforms, ("a", "b"), {"speakers_known": speakers_known})


def grid(num_speakers=8, per_speaker=6, **columns):
    speakers = [f"s{i}" for i in range(num_speakers) for _ in range(per_speaker)]
    return corpus_of(speakers, texts=[f"t{i % 3}" for i in range(len(speakers))], **columns)


@st.composite
def utterances(draw):
    """Draws pairs of speaker and text in which every speaker spoke every text at least once."""
    num_speakers, num_texts = draw(st.integers(4, 8)), draw(st.integers(2, 4))
    pairs = [(s, t) for s in range(num_speakers) for t in range(num_texts)]
    return pairs + draw(st.lists(st.sampled_from(pairs), max_size=20))


def corpus_of_pairs(pairs):
    return corpus_of(
        [f"s{s}" for s, _ in pairs], [f"t{t}" for _, t in pairs], sessions=[f"session{s % 3}" for s, _ in pairs]
    )


@pytest.mark.parametrize("name", DRAWN)
@settings(max_examples=15, deadline=None)
@given(pairs=utterances(), validation_speakers=st.integers(0, 1), seed=st.integers(0, 3))
def test_every_utterance_is_tested_once_and_no_test_speaker_is_heard(name, pairs, validation_speakers, seed):
    corpus = corpus_of_pairs(pairs)
    draws = name in ("grouped_k_fold", "random")
    num_folds, seed = (3, seed) if draws else (None, 0)
    protocol = make_protocol(corpus, name, validation_speakers=validation_speakers, num_folds=num_folds, seed=seed)
    tested = np.concatenate([fold.test for fold in protocol.folds])
    assert sorted(tested) == list(range(len(corpus.utterances)))
    assert len({fold.name for fold in protocol.folds}) == len(protocol.folds)
    speakers = corpus.utterances["speaker"].to_numpy()
    for fold in protocol.folds:
        sets = (fold.train, fold.validation, fold.test)
        together = np.concatenate(sets)
        assert len(set(together)) == len(together)
        assert all(part.dtype == np.int64 and (np.diff(part) > 0).all() for part in sets)
        assert len(fold.train) and len(fold.test)
        assert bool(len(fold.validation)) == bool(validation_speakers)
        if name != "random":
            assert protocol.speaker_independent
            assert len(set(speakers[fold.validation])) == validation_speakers
            assert not set(speakers[fold.train]) & set(speakers[fold.validation])
            assert not shared(corpus, fold, "speaker")
        if name == "speaker_and_text_independent":
            assert not shared(corpus, fold, "text")
        if name in DRAWN[:2]:  # nothing is left out where nothing but speakers is kept apart
            assert len(together) == len(corpus.utterances)


def test_every_speaker_validates_equally_often_under_leave_one_speaker_out():
    corpus = grid(num_speakers=8)
    for number in (1, 2, 3):
        protocol = make_protocol(corpus, "leave_one_speaker_out", validation_speakers=number)
        speakers = corpus.utterances["speaker"].to_numpy()
        counts = Counter(s for fold in protocol.folds for s in set(speakers[fold.validation]))
        assert set(counts.values()) <= {number - 1, number, number + 1} and sum(counts.values()) == 8 * number
        if number == 1:
            assert set(counts.values()) == {1}


def test_the_validation_speakers_are_tested_and_the_test_speakers_left_out():
    corpus = grid(num_speakers=6)
    before, after = (
        make_protocol(corpus, "leave_one_speaker_out", validation_speakers=1, tested=tested)
        for tested in ("test", "validation")
    )
    for fold, chosen_by in zip(before.folds, after.folds, strict=True):
        np.testing.assert_array_equal(chosen_by.test, fold.validation)
        np.testing.assert_array_equal(chosen_by.train, fold.train)
        assert not len(chosen_by.validation)
    assert "the test utterances are left out" in after.description
    with pytest.raises(UserError, match="tested=validation, but a fold has no validation utterances"):
        make_protocol(corpus, "leave_one_speaker_out", validation_speakers=0, tested="validation")
    with pytest.raises(UserError, match="tested=train, expected test or validation"):
        make_protocol(corpus, "leave_one_speaker_out", tested="train")


@pytest.mark.parametrize("name", ["leave_one_speaker_out", "grouped_k_fold"])
def test_what_selection_hears_and_what_is_tested_after_it_share_no_speaker(name):
    corpus = grid(num_speakers=10)
    speakers = corpus.utterances["speaker"].to_numpy()
    options = dict(selection_speakers=4, validation_speakers=1, num_folds=2 if name == "grouped_k_fold" else None)
    options["validation_speakers"] = 1 if name == "grouped_k_fold" else 0
    choose, test = (make_protocol(corpus, name, tested=tested, **options) for tested in ("validation", "test"))
    heard = {s for fold in choose.folds for rows in (fold.train, fold.validation, fold.test) for s in speakers[rows]}
    tested = {s for fold in test.folds for s in speakers[fold.test]}
    validated = {s for fold in test.folds for s in speakers[fold.validation]}
    assert (len(heard), len(tested)) == (4, 6)
    assert not heard & (tested | validated)
    assert tested | heard == set(speakers)
    for fold in test.folds:
        assert heard <= set(speakers[fold.train])
    for protocol, of in ((choose, heard), (test, tested)):
        rows = np.concatenate([fold.test for fold in protocol.folds])
        assert sorted(rows) == np.flatnonzero(np.isin(speakers, sorted(of))).tolist()  # each utterance once
        assert protocol.speaker_independent
    assert "the others untouched" in choose.description
    assert "4 speakers that selection used are learnt in every fold" in test.description


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"selection_speakers": 9}, "selection_speakers=9, expected 0, or from 2 to 8"),
        ({"selection_speakers": 1}, "selection_speakers=1, expected 0, or from 2 to 8"),
        ({"selection_speakers": 4, "tested": "train"}, "tested=train, expected test or validation"),
    ],
)
def test_a_selection_that_leaves_nothing_to_test_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        make_protocol(grid(num_speakers=10), "leave_one_speaker_out", **options)


def test_two_validation_speakers_are_a_woman_and_a_man():
    corpus = grid(num_speakers=8)
    gender = dict(zip(corpus.utterances["speaker"], corpus.utterances["gender"], strict=True))
    for fold in make_protocol(corpus, "leave_one_speaker_out", validation_speakers=2).folds:
        validating = set(corpus.utterances["speaker"].to_numpy()[fold.validation])
        assert {gender[speaker] for speaker in validating} == {"female", "male"}


def test_groups_of_speakers_are_balanced_in_utterances_and_gender_and_depend_on_the_seed():
    corpus = grid(num_speakers=8)
    protocol = make_protocol(corpus, "grouped_k_fold", num_folds=4)
    for fold in protocol.folds:
        assert len(fold.test) == 12
        assert set(corpus.utterances["gender"].to_numpy()[fold.test]) == {"female", "male"}
    tests = [[fold.test.tolist() for fold in make_protocol(corpus, "grouped_k_fold", seed=s).folds] for s in (0, 0, 1)]
    assert tests[0] == tests[1] != tests[2]


def test_random_folds_hold_equal_shares_of_each_emotion_and_are_called_speaker_dependent():
    corpus = grid(num_speakers=5, per_speaker=8)
    protocol = make_protocol(corpus, "random", num_folds=4)
    assert not protocol.speaker_independent and "SPEAKER-DEPENDENT" in protocol.description
    for fold in protocol.folds:
        assert Counter(corpus.utterances["emotion"].to_numpy()[fold.test]) == {"a": 5, "b": 5}


def test_a_random_fold_validates_on_the_test_set_of_the_next_and_there_are_two_at_least():
    corpus = grid(num_speakers=5, per_speaker=8)
    folds = make_protocol(corpus, "random").folds
    assert [fold.name for fold in folds] == [f"random{number}" for number in range(1, 11)]
    for fold, following in zip(folds, [*folds[1:], folds[0]], strict=True):
        np.testing.assert_array_equal(fold.validation, following.test)
    one, other = make_protocol(corpus, "random", num_folds=2, validation_speakers=0).folds
    np.testing.assert_array_equal(one.train, other.test)


def test_there_are_five_groups_of_speakers_unless_asked_otherwise_and_as_many_beside_texts_as_asked():
    corpus = grid(num_speakers=10)
    folds = make_protocol(corpus, "grouped_k_fold").folds
    assert [fold.name for fold in folds] == ["group1", "group2", "group3", "group4", "group5"]
    protocols = [make_protocol(corpus, "speaker_and_text_independent", num_folds=2, seed=s) for s in (0, 1)]
    for protocol in protocols:
        assert [fold.name for fold in protocol.folds] == [f"group{i}-texts{j}" for i in (1, 2) for j in (1, 2)]
    first, other = ({tuple(fold.test) for fold in protocol.folds} for protocol in protocols)
    assert first != other


def test_a_speaker_in_two_sessions_is_kept_out_of_training_when_either_is_tested():
    speakers = ["s0", "s1", "s1", "s2", "s3", "s4"]
    corpus = corpus_of(speakers, sessions=["1", "1", "2", "2", "3", "3"])
    protocol = make_protocol(corpus, "leave_one_session_out")
    assert protocol.speaker_independent
    assert [fold.test.tolist() for fold in protocol.folds] == [[0, 1], [2, 3], [4, 5]]
    assert 2 not in {*protocol.folds[0].train, *protocol.folds[0].validation}


def test_texts_are_dealt_into_as_many_groups_as_asked():
    corpus = grid(num_speakers=4)
    protocol = make_protocol(corpus, "speaker_and_text_independent", num_text_groups=3)
    assert len(protocol.folds) == 12
    assert all(len({corpus.utterances["text"][i] for i in fold.test}) == 1 for fold in protocol.folds)


@pytest.mark.parametrize(
    ("corpus", "name", "options", "message"),
    [
        (grid(), "leave_one_speaker", {}, "did you mean leave_one_speaker_out"),
        (grid(num_speakers=1), "leave_one_speaker_out", {}, "one speaker"),
        (grid(num_speakers=2), "leave_one_speaker_out", {}, "left to learn from"),
        (grid(speakers_known=False), "leave_one_speaker_out", {}, "not known"),
        (corpus_of(["s0", "", "s1"]), "grouped_k_fold", {}, "not known"),
        (grid(num_speakers=4), "grouped_k_fold", {"num_folds": 5}, "num_folds=5.*is 4"),
        (grid(num_speakers=4), "grouped_k_fold", {"num_folds": 1}, "num_folds=1"),
        (grid(), "leave_one_session_out", {}, "no column session"),
        (grid(sessions=[""] * 48), "leave_one_session_out", {}, "without one"),
        (corpus_of(["s0", "s1", "s2"], texts=["", "t", "t"]), "speaker_and_text_independent", {}, "no text id"),
        (corpus_of(["s0", "s1", "s2"]), "speaker_and_text_independent", {}, "num_text_groups=2"),
        (grid(), "random", {"num_folds": 2}, "from 3"),
        (grid(), "random", {"num_folds": 1, "validation_speakers": 0}, "from 2"),
        (grid(), "random", {"num_folds": 100}, "is 48"),
        (grid(), "leave_one_speaker_out", {"validation_speakers": -1}, "0 or more"),
        (grid(), "random", {"validation_speakers": -1}, "0 or 1"),
        (grid(), "random", {"validation_speakers": 2}, "validation_speakers=2, expected 0 or 1"),
        (grid(), "everything", {"validation_speakers": 2}, "validation_speakers=2, expected 0 or 1"),
        (grid(), "official", {}, "no column split; expected one, with train, validation and test, or a file"),
        (grid(), "random", {"file": "folds.json"}, "file of folds"),
        (grid(), "official", {"file": "nowhere.json"}, "nowhere.json.*No such file"),
        (grid(), "official", {"file": "folds.txt"}, "folds.txt"),
        (grid(), "leave_one_speaker_out", {"num_folds": 5}, "num_folds=5 does nothing there.*grouped_k_fold"),
        (grid(), "leave_one_speaker_out", {"num_folds": -3}, "num_folds=-3 does nothing"),
        (grid(), "leave_one_speaker_out", {"seed": 1}, "seed=1 does nothing"),
        (grid(), "leave_one_speaker_out", {"seed": -1}, "seed=-1 does nothing"),
        (grid(), "everything", {"num_folds": 2}, "num_folds=2 does nothing"),
        (grid(), "grouped_k_fold", {"num_text_groups": 3}, "num_text_groups=3 does nothing"),
        (grid(), "grouped_k_fold", {"num_text_groups": 1}, "num_text_groups=1 does nothing"),
        (grid(), "speaker_and_text_independent", {"seed": 2}, "seed=2 does nothing"),
    ],
)
def test_what_the_corpus_does_not_allow_is_refused_in_one_line(corpus, name, options, message):
    with pytest.raises(UserError, match=message) as error:
        make_protocol(corpus, name, **options)
    assert "\n" not in str(error.value)


# --- Folds from a file. ---


def listed(fold="1", **splits):
    return [{"fold": fold, "split": s, "utterance": u} for s, names in splits.items() for u in names]


def write(path, records):
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(record) for record in records))
    elif path.suffix == ".json":
        path.write_text(json.dumps(records))
    else:
        pd.DataFrame(records).to_csv(path, index=False)
    return path


def with_splits(*words):
    corpus = corpus_of([f"s{i}" for i in range(len(words))])
    return dataclasses.replace(corpus, utterances=corpus.utterances.assign(split=words))


def test_a_corpus_names_its_official_split_itself():
    protocol = make_protocol(with_splits("train", "Train", "dev", "test", ""), "official")
    (fold,) = protocol.folds
    assert [rows.tolist() for rows in (fold.train, fold.validation, fold.test)] == [[0, 1], [2], [3]]
    assert protocol.speaker_independent and protocol.description.startswith("the split that the corpus names")
    (fold,) = make_protocol(with_splits("train", "train", "test"), "official").folds
    assert [len(rows) for rows in (fold.train, fold.validation, fold.test)] == [1, 1, 1], "a speaker validates"
    with pytest.raises(UserError, match=r"corpus made: column split: split 'exam', expected one of train"):
        make_protocol(with_splits("train", "exam"), "official")
    with pytest.raises(UserError, match=r"corpus made: column split: fold official has no test utterances"):
        make_protocol(with_splits("train", "dev"), "official")


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_folds_are_read_from_a_file_and_looked_at_not_believed(tmp_path, suffix):
    corpus = corpus_of(["s0", "s0", "s1", "s1", "s2", "s2"])
    records = listed("apart", train=["u2", "u3"], validation=["u4", "u5"], test=["u0", "u1"])
    protocol = make_protocol(corpus, "official", file=write(tmp_path / f"folds{suffix}", records))
    (fold,) = protocol.folds
    assert (fold.name, *(part.tolist() for part in (fold.train, fold.validation, fold.test))) == (
        "apart", [2, 3], [4, 5], [0, 1]
    )  # fmt: skip
    assert protocol.speaker_independent

    records += listed("mixed", train=["u0", "u3", "u5"], test=["u1"])
    protocol = make_protocol(corpus, "official", file=write(tmp_path / f"folds{suffix}", records))
    assert not protocol.speaker_independent and "SPEAKER-DEPENDENT" in protocol.description
    # A file without validation gets validation speakers from its training side, as any other protocol does.
    assert protocol.folds[1].validation.tolist() == [3] and protocol.folds[1].train.tolist() == [0, 5]
    protocol = make_protocol(corpus, "official", file=tmp_path / f"folds{suffix}", validation_speakers=0)
    assert protocol.folds[1].train.tolist() == [0, 3, 5] and "no validation" in protocol.description


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (listed(train=["u0"], test=["u0"]), "in both train and test.*'u0'"),
        (listed(train=["u0"], validation=["u1"], test=["u1"]), "in both validation and test"),
        (listed(train=["u0"], test=["u99"]), "lists 1 test utterances that corpus made has not.*'u99'"),
        (listed(train=["u0"]), "no test"),
        (listed(test=["u0"]), "no train"),
        (listed(train=["u0"], exam=["u1"]), "'exam'"),
        ([{"fold": "1", "split": "train"}], "record 1 has no 'utterance'"),
        ([*listed(train=["u0"]), "u0"], "record 2 has no 'fold'"),
        ([], "no folds"),
    ],
)
def test_a_wrong_fold_list_is_refused_with_the_name_of_its_file(tmp_path, records, message):
    with pytest.raises(UserError, match=f"folds.json.*{message}"):
        make_protocol(
            grid(num_speakers=2), "official", file=write(tmp_path / "folds.json", records), validation_speakers=0
        )


def test_more_validation_speakers_beside_those_of_a_fold_list_are_refused(tmp_path):
    file = write(tmp_path / "folds.json", listed(train=["u0"], validation=["u1"], test=["u2"]))
    with pytest.raises(UserError, match="every fold names its validation, expected validation_speakers of 0 or 1"):
        make_protocol(grid(num_speakers=3), "official", file=file, validation_speakers=2)


def test_folds_that_name_no_validation_get_as_many_speakers_as_asked_for_beside_those_that_do(tmp_path):
    corpus = grid(num_speakers=4)
    names = corpus.utterances.groupby("speaker")["id"].first().tolist()
    records = listed(train=names[:1], validation=names[1:2], test=names[2:3])
    records += [one | {"fold": "2"} for one in listed(train=names[:3], test=names[3:])]
    file = write(tmp_path / "folds.json", records)
    folds = make_protocol(corpus, "official", file=file, validation_speakers=2).folds
    assert [len(fold.validation) for fold in folds] == [1, 2]


def test_a_file_that_is_not_json_is_refused(tmp_path):
    (tmp_path / "folds.jsonl").write_text("not json")
    with pytest.raises(UserError, match=r"folds.jsonl: not jsonl"):
        make_protocol(grid(), "official", file=tmp_path / "folds.jsonl")


def emobox(folder, fold, split, ids, old_name=False):
    (folder / f"fold_{fold}").mkdir(parents=True, exist_ok=True)
    file = folder / f"fold_{fold}" / f"made_{split}_fold{'' if old_name else '_'}{fold}.jsonl"
    lines = [{"key": f"made-{i}", "dataset": "made", "wav": f"downloads/made/{i}.wav", "emo": "x"} for i in ids]
    file.write_text("\n".join(json.dumps(line) for line in lines))


def test_emobox_folders_are_read_with_prefixed_keys_and_the_newer_of_two_lists(tmp_path):
    corpus = corpus_of(["s0", "s0", "s1", "s1", "s2", "s2"])
    for fold, (train, test) in {"2": (["u0", "u1"], ["u4"]), "10": (["u2", "u4"], ["u0"])}.items():
        emobox(tmp_path, fold, "train", train)
        emobox(tmp_path, fold, "test", test)
    emobox(tmp_path, "2", "valid", ["u2"])
    emobox(tmp_path, "2", "test", ["u5"], old_name=True)
    protocol = make_protocol(corpus, "official", file=tmp_path, validation_speakers=0)
    assert [fold.name for fold in protocol.folds] == ["fold_2", "fold_10"]
    assert [part.tolist() for part in (protocol.folds[0].train, protocol.folds[0].validation)] == [[0, 1], [2]]
    assert protocol.folds[0].test.tolist() == [4]
    assert protocol.speaker_independent


def test_two_lists_for_a_split_are_refused(tmp_path):
    emobox(tmp_path, "1", "train", ["u0"])
    (tmp_path / "fold_1" / "another_train.jsonl").write_text("{}")
    (tmp_path / "fold_1" / "made_train_fold_1.jsonl").rename(tmp_path / "fold_1" / "made_train.jsonl")
    lists = "fold_1: 2 lists for train, expected one: another_train.jsonl, made_train.jsonl"
    with pytest.raises(UserError, match=lists):
        make_protocol(corpus_of(["s0", "s0"]), "official", file=tmp_path)


def test_everything_is_learnt_and_its_figures_are_called_what_they_are():
    corpus = grid()
    protocol = make_protocol(corpus, "everything")
    (fold,) = protocol.folds
    np.testing.assert_array_equal(fold.train, np.arange(len(corpus.utterances)))
    np.testing.assert_array_equal(fold.test, fold.train)
    assert not len(fold.validation) and not protocol.speaker_independent
    assert "tested on all utterances" in protocol.description and "SPEAKER-DEPENDENT" in protocol.description


def test_all_protocols_have_a_test():
    assert {*DRAWN, "official", "everything"} == set(PROTOCOLS)


@pytest.mark.parametrize("name", ["leave_one_speaker_out", "grouped_k_fold", "random", "everything"])
@pytest.mark.parametrize("tested", ["test", "validation"])
def test_folds_of_a_source_choose_among_its_own_speakers_alone(name, tested):
    """Rows of the source lie between others; its folds, validation too, are those of the source by itself."""
    if (name, tested) == ("everything", "validation"):
        return
    whole = grid(num_speakers=8)
    sources = np.where(np.arange(48) % 12 < 6, "a", "b")  # every other speaker's
    merged = dataclasses.replace(whole, utterances=whole.utterances.assign(source=sources))
    own_rows = np.flatnonzero(sources == "b")
    table = whole.utterances.iloc[own_rows].reset_index(drop=True)
    options = {"num_folds": 3 if name in ("grouped_k_fold", "random") else None, "tested": tested}
    alone = make_protocol(dataclasses.replace(whole, utterances=table), name, **options)
    found = make_protocol(merged, name, **options, source="b")
    assert found.description == f"of b: {alone.description}; a learnt in every fold"
    assert len(found.folds) == len(alone.folds)
    for fold, expected in zip(found.folds, alone.folds, strict=True):
        np.testing.assert_array_equal(fold.test, own_rows[expected.test])
        np.testing.assert_array_equal(fold.validation, own_rows[expected.validation])
        learnt = np.union1d(own_rows[expected.train], np.flatnonzero(sources == "a"))
        np.testing.assert_array_equal(fold.train, learnt)


def test_spellings_of_one_sentence_are_kept_on_one_side():
    spellings = "Dogs are sitting", "dogs are sitting.", "Kids are talking", "Kids are talking!", "kids are talking"
    corpus = corpus_of([f"s{i // 5}" for i in range(30)], texts=list(spellings) * 6)
    protocol = make_protocol(corpus, "speaker_and_text_independent")
    words = corpus.utterances["text"].str.lower().str.strip(".!")
    for fold in protocol.folds:
        assert not set(words[fold.test]) & {*words[fold.train], *words[fold.validation]}
    with pytest.raises(UserError, match="the number of texts of corpus made, which is 2"):
        make_protocol(corpus, "speaker_and_text_independent", num_text_groups=3)
