"""Names that are spelt in several ways: refused with the list, or made one when asked."""

import unicodedata

import numpy as np
import pandas as pd
import pytest

from ser_jax.corpora.corpus import make_corpus
from ser_jax.corpora.labels import (
    Changes,
    finder_of_several,
    look_alike,
    parse_map,
    relabelled,
    rename,
    spellings_of_texts,
    texts_as_one,
    unified,
)
from ser_jax.corpora.prepare import _hint_of_one
from ser_jax.errors import UserError


@pytest.mark.parametrize(
    ("name", "several"),
    [
        *(("positive negative", True), ("other anger", True), ("anger (other)", True), ("mixed anger joy", True)),
        *(("high low", True), ("strong_weak", True), ("very not", True)),
        *(("very calm", False), ("not calm", False), ("calm (very)", False), ("pleasant surprise", False)),
    ],
)
def test_words_that_are_classes_are_several_but_for_degree_and_negation(name, several):
    classes = ("positive", "negative", "other", "mixed", "high", "low", "strong", "weak", "anger", "joy")
    classes += ("very", "not", "calm", "pleasant", "surprise")
    assert finder_of_several(classes, words=True)(name) == several


@pytest.mark.parametrize("name", ["anger joy", "anger/joy", "anger,joy", "anger=joy", "a = b, c"])
def test_a_hint_of_map_is_what_map_takes(name):
    hint = _hint_of_one(name)
    assert bool(hint) == ("," not in name and "=" not in name)
    if hint:
        assert parse_map(hint.split('"')[1]) == {name: name}


@pytest.mark.parametrize(
    ("names", "one"),
    [
        (["anger", "Anger", "ANGER", "anger"], "anger"),
        (["01", "1", "1"], "1"),
        (["3.0", "03", "03"], "03"),
        (["S4", "s4", "s4", "s04"], "s4"),
        (["low  mood", "low mood", "low mood"], "low mood"),
        (["ﬁne", "fine", "fine"], "fine"),
        (["1E+05", "100000", "100000"], "100000"),
        (["\u0410nna", "Anna", "Anna"], "Anna"),  # a Cyrillic A
        (["İlgi", "ilgi", "ilgi"], "ilgi"),
        (["Ã„rger", "Ärger", "Ärger"], "Ärger"),
    ],
)
def test_spellings_of_one_name_are_refused_or_unified(names, one):
    values = pd.Series([*names, "other"])
    with pytest.raises(
        UserError, match=r"t\.csv: emotions that differ by case, zeros, spaces or signs alone: .*--unify"
    ):
        unified(values, "t.csv", "emotion", unify=False)
    made, changed = unified(values, "t.csv", "emotion", unify=True)
    assert set(made) == {one, "other"} and set(changed) == set(names) - {one} and set(changed.values()) == {one}


def test_names_that_differ_otherwise_stay_apart():
    names = pd.Series(
        [
            "1",
            "10",
            "100",
            "1e2x",
            "Анна",
            "Инна",
            "s1",
            "s10",
            "1.5",
            "15",
            "a1b",
            "a01c",
            "0",
            "-1",
            "1-2",
            "12",
            "+1",
            "S 9",
            "S9",
        ]
    )
    made, changed = unified(names, "t.csv", "speaker", unify=True)
    assert made.tolist() == names.tolist() and changed == {}


def test_composed_and_decomposed_letters_are_one_name_in_any_case():
    made, _ = unified(pd.Series(["Ärger", unicodedata.normalize("NFD", "Ärger")]), "t.csv", "emotion", unify=False)
    assert set(made) == {"Ärger"}


def test_a_map_renames_and_merges_and_names_what_there_is_not():
    assert parse_map("angry=anger, excited=happiness") == {"angry": "anger", "excited": "happiness"}
    changes = Changes(parse_map("angry=anger,excited=happiness"))
    names = ["Angry", "excited", "happiness", "sad"]
    assert rename(names, changes)[0] == ["anger", "happiness", "happiness", "sad"]
    assert rename(names, changes)[1] == {"Angry": "anger", "excited": "happiness"}
    with pytest.raises(UserError, match=r"--map sadd=sadness: no emotion of this name, did you mean sad\?"):
        rename(names, Changes({"sadd": "sadness"}))
    with pytest.raises(UserError, match="--drop fear: no emotion of this name, "):
        rename(names, Changes(dropped=("fear",)))
    for text in ("angry", "=a", "a=", "a=b,a=c"):
        with pytest.raises(UserError, match="--map"):
            parse_map(text)


def test_synonyms_are_taken_when_asked_for_and_told():
    names = ["Angry", "hap", "Neutral", "pleasant_surprise", "banana"]
    assert rename(names, Changes())[0] == names
    made, renamed = rename(names, Changes(synonyms=True))
    assert made == ["anger", "happiness", "neutral", "surprise", "banana"]
    assert renamed == dict(zip(names[:4], made[:4], strict=True))


def test_names_that_look_alike_are_pointed_out():
    assert look_alike(["happiness", "happyness", "anger", "fear", "sad", "mad"]) == [
        "anger and mad",
        "happiness and happyness",
    ]
    assert look_alike(["Happy", "happiness", "sad"]) == ["Happy and happiness"]
    assert look_alike(["Anger", "angry"]) == ["Anger and angry"]


def test_nothing_said_and_signs_alone_are_no_spellings_of_one_name():
    values = pd.Series(["...", "", "?", "yes"])
    assert unified(values, "t.csv", "text", unify=True)[0].tolist() == values.tolist()


@pytest.mark.parametrize("absent", ["", None])
def test_votes_go_with_the_emotions_that_a_corpus_renames(absent):
    table = pd.DataFrame({"id": ["a", "b"], "emotion": ["joy", "excitement"]})
    table = table.assign(vote_joy=["1", absent], vote_excitement=["1,5", "2"], vote_calm=["0", "1"])
    corpus = make_corpus("made", table, [np.ones(5, np.int16)] * 2, ("joy", "excitement"))
    found, _ = relabelled(corpus, Changes({"excitement": "joy"}))
    assert found.utterances["vote_joy"].tolist() == ["2.5", "2"] and "vote_excitement" not in found.utterances
    assert found.utterances["vote_calm"].tolist() == ["0", "1"] and found.emotions == ("joy",)


@pytest.mark.parametrize(
    ("one", "other"), [("spk_1", "spk-1"), ("anger.", "anger"), ("'anger'", "anger"), ("s_01", "S 1"), ("a-b", "a_b")]
)
def test_names_that_differ_by_signs_alone_are_one(one, other):
    with pytest.raises(UserError, match="that differ by case, zeros, spaces or signs alone"):
        unified(pd.Series([one, other]), "t.csv", "speaker", unify=False)


def test_spellings_of_what_was_said_are_one_text_and_names_of_texts_stay_apart():
    alike = [
        ["Dogs are sitting", "dogs are sitting.", "Dogs  are sitting!"],
        ["It’s 07:30", "its 7 30", "it\u00b4s 7:30", "It\u02bcs 7.30"],
        ["Non… è vero", "non e\u0300 vero"],
        ["Yes", "yes?", "‘yes’"],
        ["R&B is 100 %.", "r & b is 100%"],
        ["A well-known one", "a well\u2010known one", "a well\u2011known one"],
        ["\u0647\u0644", "\u0647\u0644\u061f"],
    ]
    apart = [
        "",
        "?",
        "-1",
        "1",
        "1.5",
        "15",
        "a-1",
        "a1",
        "a+",
        "a",
        "rhythm & blues",
        "rhythm blues",
        "in C#",
        "in C",
        "100 % sure",
        "100 sure",
        "\u0915\u093f",
        "\u0915\u0940",
        "dogs were sitting",
    ]
    texts = pd.Series([text for names in alike for text in (names[0], *names)] + apart)
    assert spellings_of_texts(texts) == alike
    assert texts_as_one(texts).tolist() == [names[0] for names in alike for _ in (0, *names)] + apart
