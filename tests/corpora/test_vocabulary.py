import json
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax.corpora import vocabulary as vocabularies
from ser_jax.corpora.vocabulary import Vocabulary, decode, encode, encode_all, make_vocabulary, normalize
from ser_jax.errors import UserError

TRANSCRIPTS = ["Der Lappen liegt auf dem Eisschrank.", "Sie haben  es gerade\thochgetragen.", "", "Dogs are sitting"]
KINDS = ("characters", "words")


@pytest.mark.parametrize("kind", KINDS)
def test_neither_order_nor_repetition_of_utterances_changes_the_vocabulary(kind):
    assert make_vocabulary(TRANSCRIPTS, kind) == make_vocabulary(TRANSCRIPTS[::-1] * 2, kind)


def test_symbols_are_sorted_lower_case_and_their_number_is_their_token():
    characters = make_vocabulary(["Ba c", "AB"], "characters")
    assert characters.symbols == (" ", "a", "b", "c")
    assert (characters.end, characters.num_symbols) == (4, 5)
    assert encode(characters, "CAB a") == [3, 1, 2, 0, 1]
    words = make_vocabulary(["the dog", "The  cat "], "words")
    assert words.symbols == ("cat", "dog", "the")
    assert encode(words, "THE\ncat") == [2, 0]


def test_composed_and_decomposed_umlauts_are_one_character():
    composed, decomposed = "T\u00fcr", "Tu\u0308r"
    assert make_vocabulary([composed], "characters") == make_vocabulary([decomposed], "characters")
    assert encode(make_vocabulary([composed], "words"), decomposed) == [0]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=50, deadline=None)
@given(transcripts=st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_decoding_gives_back_the_normalized_transcripts(kind, transcripts):
    if not any(normalize(transcript) for transcript in transcripts):
        return
    vocabulary = make_vocabulary(transcripts, kind)
    tokens, lengths = encode_all(vocabulary, transcripts)
    for transcript, row, length in zip(transcripts, tokens, lengths, strict=True):
        assert decode(vocabulary, encode(vocabulary, transcript)) == normalize(transcript)
        assert decode(vocabulary, row) == normalize(transcript)
        assert (row[length:] == -1).all()
        assert list(np.flatnonzero(row == vocabulary.end)) == ([length - 1] if length else [])


@pytest.mark.parametrize(
    ("kind", "message"), [("characters", "character 'x' is not in"), ("words", "word 'boxes' is not in")]
)
def test_what_is_outside_the_vocabulary_is_refused_by_name(kind, message):
    vocabulary = make_vocabulary(["The dogs are bo", "es"], kind)
    with pytest.raises(UserError, match=re.escape("transcript 'The boxes': " + message)):
        encode(vocabulary, "The boxes")
    with pytest.raises(UserError, match=message):
        encode_all(vocabulary, ["The dogs", "The boxes"])


def test_a_corpus_without_transcripts_has_no_vocabulary():
    with pytest.raises(UserError, match="no utterance has a transcript"):
        make_vocabulary(["", "  "], "words")


def test_an_unknown_kind_is_refused():
    with pytest.raises(UserError, match="unknown kind phones; expected one of characters, words"):
        make_vocabulary(["a"], "phones")


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_survives_json(kind):
    vocabulary = make_vocabulary([*TRANSCRIPTS, "größer"], kind)
    restored = vocabularies.from_json(json.loads(json.dumps(vocabularies.to_json(vocabulary))))
    assert restored == vocabulary
    assert isinstance(restored, Vocabulary)


def test_the_vocabulary_needs_no_jax():
    code = "import sys, ser_jax.corpora.vocabulary; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
