"""Raters' votes and values of dimensions, read from a corpus's table."""

import numpy as np
import pandas as pd
import pytest

from ser_jax.corpora.corpus import make_corpus
from ser_jax.corpora.targets import describe_targets, dimension_values, vote_shares
from ser_jax.errors import UserError


def corpus_of(**columns):
    table = pd.DataFrame({"id": ["u0", "u1", "u2"], "emotion": ["anger", "joy", "joy"], **columns})
    return make_corpus("made", table, [np.ones(5, np.int16)] * 3, ("anger", "joy"))


def test_votes_are_counted_by_emotion_and_those_for_no_class_are_left_out():
    corpus = corpus_of(vote_anger=["3", "1", "0"], vote_joy=["1", "1,0", "2"], vote_other=["9", "", "x"])
    np.testing.assert_allclose(vote_shares(corpus, "vote_"), [[0.75, 0.25], [0.5, 0.5], [0, 1]])


def test_columns_of_votes_may_be_spelled_with_capitals():
    corpus = corpus_of(vote_Anger=["2", "0", "1"], vote_JOY="1")
    np.testing.assert_allclose(vote_shares(corpus, "vote_"), [[2 / 3, 1 / 3], [0, 1], [0.5, 0.5]], rtol=1e-6)


@pytest.mark.parametrize("columns", ["rater_", "rater_1,rater_2,rater_3"])
def test_votes_are_counted_by_rater(columns):
    corpus = corpus_of(
        rater_1=["anger", "Joy", "joy"], rater_2=["joy", "joy", None], rater_3=["anger", "surprise", "anger"]
    )
    np.testing.assert_allclose(vote_shares(corpus, columns), [[2 / 3, 1 / 3], [0, 1], [0.5, 0.5]], rtol=1e-6)


@pytest.mark.parametrize(
    ("columns", "votes", "message"),
    [
        ({}, "vote_", r"votes=vote_: corpus made has no columns that begin with vote_; expected vote_EMOTION"),
        ({"a": "joy"}, "a,b", "has no column b"),
        ({"vote_joy": "1"}, "vote_", "has no column vote_anger, expected one for every emotion"),
        ({"vote_anger": "many", "vote_joy": "1"}, "vote_", r"'u0' .* has the vote_anger 'many', expected how many"),
        ({"vote_anger": "-1", "vote_joy": "1"}, "vote_", "'u0' has vote_anger below zero"),
        ({"vote_anger": ["1", "0", "0"], "vote_joy": "0"}, "vote_", "2 utterances .* no vote .*, the first is 'u1'"),
        (
            {"rater_1": ["joy", "anger;joy", "joy"]},
            "rater_",
            "'u1' has several emotions at once in rater_1, 'anger;joy'",
        ),
        ({"rater_1": "calm"}, "rater_", "rater_1 of corpus made has calm; expected names among anger, joy"),
        ({"rater_1": ["joy", "Angry", "joy"]}, "rater_", "'u1' has 'angry' in rater_1, which may be anger; spell them"),
        ({"rater_1": ["joy", "joy", "angre"]}, "rater_", "'u2' has 'angre' in rater_1, which may be anger"),
    ],
)
def test_votes_that_are_none_are_refused_in_one_line(columns, votes, message):
    with pytest.raises(UserError, match=message) as error:
        vote_shares(corpus_of(**columns), votes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["1e300", "-1e39", "inf", "-Infinity"])
def test_a_value_beyond_32_bits_is_no_number(value):
    with pytest.raises(UserError, match=f"has the arousal '{value}', expected a number"):
        dimension_values(corpus_of(arousal=["1", "2", value]), ["arousal"])


def test_values_are_read_as_spreadsheets_write_them():
    corpus = corpus_of(arousal=["1,5", "", " 2.25 "], valence=[1.0, np.nan, 3.0])
    np.testing.assert_array_equal(dimension_values(corpus, ["arousal", "valence"]), [[1.5, 1], [np.nan] * 2, [2.25, 3]])


def test_what_is_learnt_is_told_apart_by_its_values():
    first, second = corpus_of(arousal=["1", "2", "3"]), corpus_of(arousal=["1", "2", "4"])
    assert first.fingerprint == second.fingerprint, "which the fingerprint does not"
    assert describe_targets(first, ["arousal"], "") != describe_targets(second, ["arousal"], "")
    assert describe_targets(first, [], "") == []


def test_votes_that_another_corpus_has_in_part_are_told_in_part():
    corpus = corpus_of(vote_joy=["2", "", "1"])
    np.testing.assert_array_equal(vote_shares(corpus, "vote_", partly=True), [[0, 1], [np.nan] * 2, [0, 1]])
    both = corpus_of(vote_anger=["1", "0", "3"], vote_joy=["1", "0", "1"])
    np.testing.assert_array_equal(vote_shares(both, "vote_", partly=True), [[0.5, 0.5], [np.nan] * 2, [0.75, 0.25]])
