"""Names of emotions and speakers: spelt alike, mapped to the classes that are meant, never merged without a word."""

import contextlib
import dataclasses
import difflib
import functools
import os
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ser_jax.corpora.corpus import Corpus
from ser_jax.corpora.tables import says_nothing
from ser_jax.errors import UserError

# Other corpora's words for the names that this project's corpora have; used when asked for, and named then.
SYNONYMS = {
    "anger": ("ang", "angry", "mad", "rage", "wut", "ärger", "rabbia", "colère", "ira", "enojo"),
    "boredom": ("bor", "bored", "langeweile"),
    "calm": ("relaxed",),
    "contempt": ("con",),
    "disgust": ("dis", "disgusted", "ekel", "disgusto", "dégoût", "asco"),
    "fear": ("fea", "fearful", "afraid", "scared", "angst", "paura", "peur", "miedo"),
    "frustration": ("fru", "frustrated"),
    "happiness": ("hap", "happy", "joy", "joyful", "freude", "gioia", "joie", "felicidad", "happyness"),
    "neutral": ("neu", "neutrality", "normal", "neutre", "neutrale"),
    "sadness": ("sad", "trauer", "tristezza", "tristesse", "tristeza"),
    "surprise": ("sur", "surprised", "pleasant_surprise", "ps", "überraschung", "sorpresa"),
}
NO_AGREEMENT = "no agreement"  # of raters, in the place of an emotion
_ROUNDED = 0.02  # by which shares that are rounded may add up to more or less than 1
# Letters, in lower case, that look like Latin ones or stand for one in another alphabet.
_LOOK_LATIN = str.maketrans("авекмнорстухіјѕαβεικνορτυχζηı", "abekmhopctyxijsabeikvoptyxzhi")
_APOSTROPHES = str.maketrans("ʼ´`‘’", "'''''")
VOTE = "vote_"  # begins the columns that say how many raters chose an emotion, as vote_anger
# Words of degree and negation, which make one name with an emotion, as "very calm" and "nicht froh".
_OF_DEGREE = {
    *("very", "not", "no", "non", "slightly", "somewhat", "rather", "quite", "extremely", "mildly", "strongly"),
    *("highly", "less", "more", "most", "least", "mild", "moderate", "sehr", "nicht", "kein", "etwas", "leicht"),
    *("stark", "wenig", "ziemlich", "pas", "très", "peu", "plus", "moins", "molto", "poco", "più", "muy", "más"),
    "menos",
}
_OF_WORD = {word: emotion for emotion, words in SYNONYMS.items() for word in words}


@dataclasses.dataclass(frozen=True)
class Changes:
    """What is done with the labels of a corpus.

    Attributes:
        renamed: new name by old name; several old names may get one new name.
        dropped: classes (by their new names) whose utterances are left out.
        synonyms: whether the words of SYNONYMS become this project's names.
        unify: whether names that differ only by case, zeros, spaces or signs become the most frequent of them.
    """

    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    dropped: Sequence[str] = ()
    synonyms: bool = False
    unify: bool = False

    def __bool__(self) -> bool:
        return bool(self.renamed or self.dropped or self.synonyms or self.unify)


def parse_map(text: str, flag: str = "--map", example: str = "angry=anger,joy=happiness") -> dict[str, str]:
    """Returns the names of "angry=anger,joy=happiness", new by old; `flag` and `example` are for messages.

    Raises UserError for what is no such list, and for a name that is given two new ones.
    """
    renamed: dict[str, str] = {}
    for pair in text.split(","):
        old, equals, new = (part.strip() for part in pair.partition("="))
        if not (old and equals and new):
            raise UserError(f"{flag} {text}: {pair.strip()!r} is no OLD=NEW, expected as in {example}")
        if renamed.setdefault(old, new) != new:
            raise UserError(f"{flag} {text}: {old!r} becomes both {renamed[old]!r} and {new!r}")
    return renamed


def rename(names: Sequence[str], changes: Changes, known: Iterable[str] = ()) -> tuple[list[str], dict[str, str]]:
    """Returns emotions under their new names, and those that were changed, new by old.

    `known` are names that may be given in `changes` though no emotion has them.
    Raises UserError for a name of `changes` that there is not.
    """
    of = {old.casefold(): new for old, new in changes.renamed.items()}
    there = {name.casefold() for name in [*names, *known]}
    for old in changes.renamed:
        if old.casefold() not in there:
            raise UserError(f"--map {old}={changes.renamed[old]}: {_there_is_not(old, names)}")
    made = []
    for name in names:
        new = of.get(name.casefold(), name)
        if changes.synonyms and name.casefold() not in of:
            new = _OF_WORD.get(name.casefold(), name.casefold() if name.casefold() in SYNONYMS else name)
        made.append(new)
    for dropped in changes.dropped:
        if dropped not in made:
            raise UserError(f"--drop {dropped}: {_there_is_not(dropped, made)}")
    return made, {old: new for old, new in dict(zip(names, made, strict=True)).items() if old != new}


def _there_is_not(name: str, names: Iterable[str]) -> str:
    names = sorted(set(names))
    near = difflib.get_close_matches(name, names, n=1)
    return "no emotion of this name, " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}")


def meant_by(word: str, names: Iterable[str]) -> str | None:
    """Returns the one of some names that another word may be meant for: a synonym, or a misspelling; or None."""
    names = list(names)
    synonym = _OF_WORD.get(word.casefold())
    return synonym if synonym in names else next(iter(difflib.get_close_matches(word, names, n=1, cutoff=0.8)), None)


def hint_of_map(word: str, names: Iterable[str]) -> str:
    """Returns "; --map surprised=surprise, if that is meant" where one of the names may be meant by a word, or ""."""
    meant = meant_by(word, names)
    return f"; --map {word}={meant}, if that is meant" if meant else ""


def is_known(word: str) -> bool:
    """Returns whether a word is the name of an emotion, or a synonym of one."""
    word = word.strip().casefold()
    return word in SYNONYMS or word in _OF_WORD


def unified(values: pd.Series, where: str, column: str, unify: bool) -> tuple[pd.Series, dict[str, str]]:
    """Returns names of which none differ by case, zeros, ".0" or signs alone, and those changed, new by old.

    Signs are quotes, one at the end, and what stands between words; `S9` and `S 9` stay two.
    Names are in Unicode's composed form (NFC) in any case. Raises UserError that lists what differs so, unless `unify`:
    then all get the most frequent spelling.
    """
    values = values.map(lambda name: unicodedata.normalize("NFC", name))
    counts = Counter(values)
    alike = _spelt_alike(counts, _key)
    if alike and not unify:
        listed = "; ".join(" = ".join(f"{name!r} ({counts[name]})" for name in names) for names in alike[:8])
        more = f"; and {len(alike) - 8} more" if len(alike) > 8 else ""
        raise UserError(
            f"{where}: {column}s that differ by case, zeros, spaces or signs alone: {listed}{more}; spell them "
            "alike, or --unify takes the most frequent spelling of each"
        )
    changed = {name: names[0] for names in alike for name in names[1:]}
    return values.replace(changed) if changed else values, changed


def spellings_of_texts(texts: Iterable[str]) -> list[list[str]]:
    """Returns what was said in several spellings, each with the most frequent first: "Yes, I do." and "yes I do"."""
    return _spelt_alike(Counter(texts), _key_of_text)


def texts_as_one(texts: pd.Series) -> pd.Series:
    """Returns texts of which none differ by case, spaces or signs alone: all get the most frequent spelling."""
    first = {name: names[0] for names in spellings_of_texts(texts) for name in names[1:]}
    return texts.map(lambda text: first.get(text, text)) if first else texts


def _spelt_alike(counts: Mapping[str, int], key_of: Callable[[str], str]) -> list[list[str]]:
    """The names that have a key in common, those of each key with the most frequent first."""
    groups = defaultdict(list)
    for name in counts:
        if key := key_of(name):  # "" and "..." are no two spellings
            groups[key].append(name)
    return [
        sorted(names, key=lambda name: (-counts[name], name != name.lower(), name))
        for names in groups.values()
        if len(names) > 1
    ]


def _key_of_text(text: str) -> str:
    """What two spellings of a text have in common: its words, without the signs between them."""
    text = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES))
    words = text.casefold().translate(_without_signs()).split()
    if not any(letter.isalpha() for word in words for letter in word):  # -1 and 1 are two names of texts
        return _key(text)
    return " ".join(word.lstrip("0") or word for word in words)


@functools.cache
def _without_signs() -> dict[int, str]:
    """All punctuation as a gap, but for what stands in a word, as in don't, and what is said: C#, 5 %, R&B."""
    signs = (sign for sign in range(sys.maxunicode + 1) if unicodedata.category(chr(sign)).startswith("P"))
    return {sign: f" {chr(sign)} " if chr(sign) in "#%&@" else " " for sign in signs} | {ord("'"): ""}


def _key(name: str) -> str:
    """What two spellings of one name have in common: "S04", "s4" and " S4"; "3", "03" and "3.0"; "a_1" and "a-1"."""
    with contextlib.suppress(UnicodeError):  # "Ã„rger": UTF-8 that a program took for the encoding of Windows
        name = name.encode("cp1252").decode("utf-8")
    name = unicodedata.normalize("NFKC", name).casefold().translate(_LOOK_LATIN).replace("i\u0307", "i")
    name = name.strip().strip("'\"").rstrip(".,;:")
    if re.fullmatch(r"\d+([.,]\d+)?e[+-]?\d\d?", name):  # 1E+05: a spreadsheet's way to write 100000
        name = f"{float(name.replace(',', '.')):.15g}"
    name = " ".join(re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", name.replace("_", " ")).split())
    name = re.sub(r"^(\d+)[.,]0+$", r"\1", name)
    return re.sub(r"(?<!\d)0+(?=\d)", "", name)


def finder_of_several(names: Iterable[str], *, words: bool = False, meant: Iterable[str] = ()) -> Callable[[str], bool]:
    """Returns a function that says whether a name is several of `names` at once: anger;neutral, a/b, ['a', 'b'].

    With `words` also whatever else stands between them: "a b", "a (b)", "a -> b"; but neither "very calm" nor
    "pleasant_surprise", where a word of degree, or a known name, makes one of two. Names in `meant` are one each.
    """
    names, meant = set(names), set(meant)

    def is_several(name: str) -> bool:
        if name in meant:
            return False
        listed = name.startswith("[") and name.endswith("]")
        parts = [part.strip(" '\"") for part in re.split(r"[;|/+&,]|\sand\s", name.strip("[]"))]
        behind = [part.strip() for part in re.split(r"[;|]", name)[1:]]
        if (len(parts) > 1 and (listed or names.issuperset(parts))) or not names.isdisjoint(behind):
            return True
        apart = re.split(r"[\W_]+", name.strip("()[]")) if words else []
        of_degree = {word.casefold() in _OF_DEGREE for word in apart}
        is_one = of_degree == {True, False} or is_known("_".join(apart))
        return len(apart) > 1 and names.issuperset(apart) and not is_one

    return is_several


def with_renamed_votes(utterances: pd.DataFrame, changes: Changes) -> pd.DataFrame:
    """Returns a table whose columns `vote_EMOTION` have the emotions' new names; votes for one emotion are summed.

    Raises UserError for votes that are to be summed and are no numbers.
    """
    made, renamed = rename(voted(utterances), dataclasses.replace(changes, dropped=()), known=changes.renamed)
    if not renamed:
        return utterances
    votes = _votes(utterances, lambda row: f"utterance {utterances['id'][row]!r}").T.groupby(made, sort=False).sum().T
    kept = utterances.drop(columns=[VOTE + emotion for emotion in voted(utterances)])
    return pd.concat([kept, votes.map("{:g}".format).add_prefix(VOTE)], axis=1)


def most_voted(where: str | os.PathLike, utterances: pd.DataFrame) -> pd.Series:
    """Returns the emotion that most raters chose, by the columns `vote_EMOTION`; NO_AGREEMENT where several have most.

    Raises UserError that names the table `where` and the line, the index, for votes that are no numbers.
    """
    votes = _votes(utterances, lambda line: f"{where}: line {line}")
    most = votes.eq(votes.max(axis=1), axis=0)
    return most.idxmax(axis=1).where(most.sum(axis=1) == 1, NO_AGREEMENT)


def _votes(utterances: pd.DataFrame, called: Callable[[Any], str]) -> pd.DataFrame:
    """How many raters chose each emotion, by its name, 0 where nothing is said; `called` names a row by its index."""
    emotions = voted(utterances)
    words = utterances[[VOTE + emotion for emotion in emotions]]
    words = words.mask(words.map(says_nothing), "0").astype(str)
    votes = words.apply(lambda column: pd.to_numeric(column.str.replace(",", "."), errors="coerce"))
    for column in votes:
        if (wrong := ~votes[column].between(0, np.finfo(np.float32).max)).any():
            row = wrong.idxmax()
            found = f"{called(row)} has {utterances[column][row]!r} in the column {column}"
            raise UserError(f"{found}, expected how many raters chose the emotion")
    return votes.set_axis(emotions, axis=1)


def check_votes(where: str | os.PathLike, utterances: pd.DataFrame) -> None:
    """Raises UserError for a column of votes that is the sum of the others, and for shares that do not add up to 1.

    Columns in which each rater's word stands are not looked at.
    """
    emotions = voted(utterances)
    words = utterances[[VOTE + emotion for emotion in emotions]].astype(str)
    words = words.mask(words.map(says_nothing), "0").apply(lambda column: column.str.replace(",", "."))
    votes = words.apply(pd.to_numeric, errors="coerce")
    if len(emotions) < 2 or votes.isna().any(axis=None):
        return
    total = votes.sum(axis=1)
    for column in votes if len(emotions) > 2 and total.any() else ():
        if np.allclose(2 * votes[column], total, atol=1e-3):
            raise UserError(f"{where}: column {column} is the sum of the others in every row, expected one emotion's")
    wrong = (total - 1).abs() > _ROUNDED
    if (votes <= 1).all(axis=None) and (votes % 1 != 0).any(axis=None) and 0 < wrong.sum() < len(votes) / 2:
        line = wrong.idxmax()
        raise UserError(
            f"{where}: the shares of votes in line {line} add up to {total[line]:g}, and in most others to 1 "
            f"({wrong.sum()} of {len(votes)} differ)"
        )


def voted(utterances: pd.DataFrame) -> list[str]:
    """Returns the emotions that a table has a column `vote_EMOTION` of."""
    return [column.removeprefix(VOTE) for column in utterances if column.startswith(VOTE)]


def look_alike(names: Iterable[str]) -> list[str]:
    """Returns "happiness and happyness" for every pair of names that may be one misspelt, or are synonyms."""
    names = sorted(set(names))
    return [
        f"{one} and {other}"
        for i, one in enumerate(names)
        for other in names[i + 1 :]
        if _OF_WORD.get(one.casefold(), one.casefold()) == _OF_WORD.get(other.casefold(), other.casefold())
        or (min(len(one), len(other)) > 4 and difflib.SequenceMatcher(None, one, other).ratio() > 0.85)
    ]


def relabelled(corpus: Corpus, changes: Changes) -> tuple[Corpus, dict[str, Any]]:
    """Returns a corpus under the new names of its emotions, without those dropped, and what was changed.

    The samples are shared, and the fingerprint remains. Raises UserError as `rename` does, and where nothing is left.
    """
    emotions, renamed = rename(list(corpus.emotions), changes)
    new = dict(zip(corpus.emotions, emotions, strict=True))
    kept = [emotion for emotion in dict.fromkeys(emotions) if emotion not in changes.dropped]
    table = corpus.utterances.assign(emotion=corpus.utterances["emotion"].map(new))
    left_out = int((~table["emotion"].isin(kept)).sum())
    table = with_renamed_votes(table[table["emotion"].isin(kept)].reset_index(drop=True), changes)
    if table.empty:
        raise UserError(f"corpus {corpus.name}: no utterance is left of the emotions {', '.join(corpus.emotions)}")
    table["label"] = [kept.index(emotion) for emotion in table["emotion"]]
    said = describe(renamed, list(changes.dropped), left_out)
    info = corpus.info | {"labels": [*corpus.info.get("labels", []), *said]}
    made = dataclasses.replace(corpus, utterances=table, emotions=tuple(kept), info=info)
    return made, {"renamed": renamed, "dropped": list(changes.dropped), "said": said}


def describe(renamed: Mapping[str, str], dropped: Sequence[str], left_out: int) -> list[str]:
    """Returns what was done with the labels, in words."""
    said = [f"{', '.join(f'{old} as {new}' for old, new in sorted(renamed.items()))}"] if renamed else []
    return [*said, *([f"without {', '.join(dropped)} ({left_out} utterances)"] if dropped else [])]
