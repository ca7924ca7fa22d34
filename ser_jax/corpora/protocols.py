"""Protocols: rules that turn a corpus into folds of train, validation and test utterances.

A protocol is a pure function of the corpus's table, its options and a seed. `leave_one_speaker_out` and its kin keep
every speaker of the test side out of training and validation; `random` does not, and says so; folds from a file,
and those that a corpus names itself, are looked at, not believed. `everything` makes models to be used elsewhere: its
figures are of what was learnt.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64

from ser_jax.corpora.corpus import Corpus
from ser_jax.corpora.fold_lists import SPLITS, read_fold_list, split_named
from ser_jax.corpora.labels import texts_as_one
from ser_jax.errors import UserError, brief, did_you_mean
from ser_jax.numbers import count

PROTOCOLS = {  # and the rule that makes their folds
    "leave_one_speaker_out": "each speaker is tested by models that were not trained on that speaker",
    "grouped_k_fold": "each group of speakers is tested by models that were trained on none of them",
    "leave_one_session_out": "each session is tested by models that were not trained on its speakers",
    "speaker_and_text_independent": "each speaker and group of texts is tested by models that were trained on neither",
    "official": "folds read from a file, or the split that the corpus names",
    "random": "random folds with equal shares of each emotion",
    "everything": "models are trained and tested on all utterances",
}


@dataclasses.dataclass(frozen=True)
class Fold:
    """Three sets of utterances, as sorted row numbers of the corpus's table; `validation` may be empty.

    They are disjoint, but for the protocol `everything`, where `train` and `test` are the same.
    """

    name: str
    train: Int64[np.ndarray, " train"]
    validation: Int64[np.ndarray, " validation"]
    test: Int64[np.ndarray, " test"]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The folds of a corpus, and whether no speaker of a test set is in the training or validation set of its fold."""

    name: str
    speaker_independent: bool
    folds: tuple[Fold, ...]
    description: str


def make_protocol(
    corpus: Corpus,
    name: str,
    *,
    validation_speakers: int = 1,
    num_folds: int | None = None,
    num_text_groups: int = 2,
    seed: int = 0,
    file: str | Path | None = None,
    tested: str = "test",
    source: str | None = None,
    selection_speakers: int = 0,
) -> Protocol:
    """Returns the folds of `corpus` under the protocol `name`, one of PROTOCOLS.

    `validation_speakers` are taken from the training side of every fold, 0 leaves validation empty; `random` validates
    on the test set of the next fold instead, `official` on those that its file names, if any, and `everything`,
    whose one fold is trained and tested on the whole corpus, on none.
    `num_folds` is for grouped_k_fold (default 5), random (default 10) and speaker_and_text_independent (groups of
    speakers; by default each speaker alone); `num_text_groups` for the last. `seed` decides how speakers are grouped
    and what is random. `file` is for official: see `read_fold_list`.
    `tested` "validation" leaves the test utterances of every fold out and tests on its validation utterances. Over the
    folds most speakers validate, and are test speakers of other folds: what is chosen by such results is not
    independent of the test speakers. `selection_speakers` avoids this: so many speakers are set apart. With `tested`
    "validation" the folds are those of these speakers alone, and nobody else is trained on or tested; with "test" the
    folds are those of all others, and these speakers are training data in every fold.
    `source` names one of the corpora that a merged corpus was made of: the folds are those of that corpus alone, and
    all utterances of the others are training data in every fold.
    Raises UserError for an unknown name, and for a protocol or options that the corpus does not allow.
    """
    if source is not None:
        options = {"num_folds": num_folds, "num_text_groups": num_text_groups, "seed": seed, "file": file}
        options |= {"validation_speakers": validation_speakers, "tested": tested}
        options |= {"selection_speakers": selection_speakers}
        return _of_source(corpus, source, lambda part: make_protocol(part, name, **options))
    if selection_speakers:
        options = {"num_folds": num_folds, "num_text_groups": num_text_groups, "seed": seed, "file": file}
        options |= {"validation_speakers": validation_speakers}
        return _nested(corpus, name, selection_speakers, tested, lambda part: make_protocol(part, name, **options))
    if name not in PROTOCOLS:
        raise UserError(f"unknown protocol {brief(name)}{did_you_mean(name, PROTOCOLS)}")
    if file is not None and name != "official":
        raise UserError(f"protocol {name}: a file of folds goes with the protocol official")
    _refuse_idle_options(name, num_folds, num_text_groups, seed)
    most, expected = (1, "0 or 1") if name in ("random", "everything") else (math.inf, "0 or more")
    if not 0 <= validation_speakers <= most:  # where no speakers are chosen, more of them would do nothing
        raise UserError(f"protocol {name}: validation_speakers={validation_speakers}, expected {expected}")
    rule = PROTOCOLS[name]
    if name == "official":
        entries = _own_split(corpus) if file is None else read_fold_list(Path(file))
        where = f"corpus {corpus.name}: column split" if file is None else str(file)
        folds = _official(corpus, entries, where, validation_speakers)
        rule = "the split that the corpus names" if file is None else f"folds read from {Path(file).name}"
    elif name == "everything":
        folds = [_fold("protocol everything", "everything", _all(corpus), ~_all(corpus), _all(corpus))]
    elif name == "random":
        folds = _random(corpus, 10 if num_folds is None else num_folds, validation_speakers > 0, seed)
        rule = f"{len(folds)} {rule}"
    else:
        _check_speakers(corpus, name)
        if name == "leave_one_speaker_out":
            tests = _each_speaker(corpus)
        elif name == "grouped_k_fold":
            tests = _groups_of_speakers(corpus, name, 5 if num_folds is None else num_folds, seed)
        elif name == "leave_one_session_out":
            tests = _each_session(corpus)
        else:
            tests = _speakers_and_texts(corpus, num_folds, num_text_groups, seed)
        folds = _folds_without_test_speakers(corpus, name, tests, validation_speakers)

    if tested == "validation":
        if not all(len(fold.validation) for fold in folds):
            raise UserError(f"protocol {name}: tested=validation, but a fold has no validation utterances")
        folds = [Fold(fold.name, fold.train, fold.validation[:0], fold.validation) for fold in folds]
        rule += ", whose place the validation utterances take: the test utterances are left out"
    elif tested != "test":
        raise UserError(f"protocol {name}: tested={tested}, expected test or validation")

    # A split that keeps speakers apart by construction and one that claims to are looked at in the same way.
    leaks = any(shared(corpus, fold, "speaker") for fold in folds)
    independent = speakers_known(corpus) and not leaks
    if independent:
        kind = "speaker-independent"
    elif leaks:
        kind = "SPEAKER-DEPENDENT: test speakers are in the training data"
    else:
        kind = "SPEAKERS UNKNOWN: test speakers may be in the training data"
    without = " and no validation" if any(not len(fold.validation) for fold in folds) else ""
    return Protocol(name, independent, tuple(folds), f"{rule} ({kind}; {count(len(folds), 'fold')}{without})")


def _refuse_idle_options(name: str, num_folds: int | None, num_text_groups: int, seed: int) -> None:
    """Refuses what would do nothing: who asks for five folds must not get one for each speaker without a word."""
    folds_of = ("grouped_k_fold", "random", "speaker_and_text_independent")
    draws = name in folds_of and (name != "speaker_and_text_independent" or num_folds is not None)
    for option, value, given, means, hint in (
        ("num_folds", num_folds, num_folds is not None, name in folds_of, "; grouped_k_fold has that many"),
        ("num_text_groups", num_text_groups, num_text_groups != 2, name == "speaker_and_text_independent", ""),
        ("seed", seed, seed != 0, draws, ""),
    ):
        if given and not means:
            raise UserError(f"protocol {name}: {option}={value} does nothing there, expected none{hint}")


def _of_source(corpus: Corpus, source: str, make: Callable[[Corpus], Protocol]) -> Protocol:
    """The protocol that `make` makes of one source of a merged corpus; the other sources are learnt in every fold."""
    if "source" not in corpus.utterances:
        raise UserError(f"protocol source={source}: corpus {corpus.name} was not made of several, it has no sources")
    sources = corpus.utterances["source"].to_numpy()
    known = list(dict.fromkeys(sources))
    if source not in known:
        raise UserError(f"protocol source={source}: corpus {corpus.name} has the sources {', '.join(known)}")
    protocol = _of_rows(corpus, sources == source, sources != source, make)
    learnt = " and ".join(other for other in known if other != source)
    description = f"of {source}: {protocol.description}; {learnt} learnt in every fold"
    return dataclasses.replace(protocol, description=description)


def _nested(corpus: Corpus, name: str, number: int, tested: str, make: Callable[[Corpus], Protocol]) -> Protocol:
    """The protocol that `make` makes of the speakers that selection uses, or of those that it leaves untouched."""
    _check_speakers(corpus, name)
    if tested not in ("test", "validation"):
        raise UserError(f"protocol {name}: tested={tested}, expected test or validation")
    speakers = corpus.utterances["speaker"].to_numpy()
    most = len(np.unique(speakers)) - 2
    if not 2 <= number <= most:
        raise UserError(
            f"protocol {name}: selection_speakers={number}, expected 0, or from 2 to {most}: two speakers of corpus "
            f"{corpus.name} at least are to be tested"
        )
    chosen = _choose_validation(corpus, "selection", _all(corpus), "", Counter(), number)
    selects = np.isin(speakers, chosen)
    if tested == "validation":
        protocol = _of_rows(corpus, selects, np.zeros_like(selects), make)
        rule = f"of {number} speakers for selection, the others untouched: {protocol.description}"
    else:
        protocol = _of_rows(corpus, ~selects, selects, make)
        rule = (
            f"of the speakers that selection left untouched: {protocol.description}; {number} speakers that selection "
        )
        rule += "used are learnt in every fold"
    return dataclasses.replace(protocol, description=rule)


def _of_rows(
    corpus: Corpus,
    own: Bool[np.ndarray, " utterances"],
    learnt: Bool[np.ndarray, " utterances"],
    make: Callable[[Corpus], Protocol],
) -> Protocol:
    """The protocol that `make` makes of a part of the utterances; those of `learnt` are learnt in every fold too."""
    rows, others = np.flatnonzero(own), np.flatnonzero(learnt)
    protocol = make(dataclasses.replace(corpus, utterances=corpus.utterances.iloc[rows].reset_index(drop=True)))
    folds = [
        Fold(fold.name, np.sort(np.append(rows[fold.train], others)), rows[fold.validation], rows[fold.test])
        for fold in protocol.folds
    ]
    return dataclasses.replace(protocol, folds=tuple(folds))


def speakers_known(corpus: Corpus) -> bool:
    """Returns whether every utterance of the corpus has a speaker."""
    return bool(corpus.info.get("speakers_known", True)) and not (corpus.utterances["speaker"] == "").any()


def shared(corpus: Corpus, fold: Fold, column: str) -> list[str]:
    """Returns the values of `column` (speaker, text, session) on both sides of a fold, sorted, without "" (unknown).

    The two sides are what is learnt or chosen from (train and validation) and what is tested.
    """
    values = corpus.utterances[column].astype(str).to_numpy()
    return sorted(({*values[fold.train], *values[fold.validation]} & {*values[fold.test]}) - {""})


# --- Speaker-independent protocols: what is tested, and what may be learnt from beside it. ---


@dataclasses.dataclass(frozen=True)
class _Test:
    """The test side of a fold, before validation speakers are chosen."""

    name: str
    test: Bool[np.ndarray, " utterances"]
    learnable: Bool[np.ndarray, " utterances"]  # further limits on train and validation, beside the speakers


def _each_speaker(corpus: Corpus) -> list[_Test]:
    speakers = corpus.utterances["speaker"]
    return [_Test(name, (speakers == name).to_numpy(), _all(corpus)) for name in sorted(speakers.unique())]


def _groups_of_speakers(corpus: Corpus, protocol: str, num_folds: int, seed: int) -> list[_Test]:
    groups = _speaker_groups(corpus, protocol, num_folds, seed)
    speakers = corpus.utterances["speaker"]
    return [_Test(f"group{i + 1}", speakers.isin(group).to_numpy(), _all(corpus)) for i, group in enumerate(groups)]


def _each_session(corpus: Corpus) -> list[_Test]:
    if "session" not in corpus.utterances:
        raise UserError(f"protocol leave_one_session_out: corpus {corpus.name} has no column session")
    sessions = corpus.utterances["session"].astype(str)
    if (sessions == "").any() or sessions.nunique() < 2:
        raise UserError(
            f"protocol leave_one_session_out: corpus {corpus.name} has {sessions.nunique()} sessions and "
            f"{(sessions == '').sum()} utterances without one, expected at least two and none"
        )
    return [_Test(name, (sessions == name).to_numpy(), _all(corpus)) for name in sorted(sessions.unique())]


def _speakers_and_texts(corpus: Corpus, num_folds: int | None, num_text_groups: int, seed: int) -> list[_Test]:
    protocol, texts = "speaker_and_text_independent", texts_as_one(corpus.utterances["text"])
    if (texts == "").any():
        raise UserError(
            f"protocol {protocol}: {(texts == '').sum()} utterances of corpus {corpus.name} have no text id"
        )
    if not 2 <= num_text_groups <= texts.nunique():
        raise UserError(
            f"protocol {protocol}: num_text_groups={num_text_groups}, expected from 2 to the number of texts of corpus "
            f"{corpus.name}, which is {texts.nunique()}"
        )
    by_speaker = _each_speaker(corpus) if num_folds is None else _groups_of_speakers(corpus, protocol, num_folds, seed)
    text_groups = _balanced_groups(texts.value_counts().sort_index(), num_text_groups)
    tests = []
    for speakers in by_speaker:
        for j, text_group in enumerate(text_groups):
            of_text = texts.isin(text_group).to_numpy()
            if (speakers.test & of_text).any():  # not every speaker of every corpus spoke every text
                tests.append(_Test(f"{speakers.name}-texts{j + 1}", speakers.test & of_text, ~of_text))
    return tests


def _folds_without_test_speakers(
    corpus: Corpus, protocol: str, tests: Sequence[_Test], validation_speakers: int
) -> list[Fold]:
    """Completes tests to folds: no test speaker is learnt from, and some of the other speakers validate."""
    speakers = corpus.utterances["speaker"].to_numpy()
    used: Counter[str] = Counter()  # how often each speaker validates
    folds = []
    for test in tests:
        test_speakers = np.unique(speakers[test.test])
        learnable = test.learnable & ~np.isin(speakers, test_speakers)
        chosen = _choose_validation(corpus, test.name, learnable, test_speakers[-1], used, validation_speakers)
        validates = learnable & np.isin(speakers, chosen)
        folds.append(_fold(f"protocol {protocol}", test.name, learnable & ~validates, validates, test.test))
    return folds


def _choose_validation(
    corpus: Corpus, fold: str, learnable: Bool[np.ndarray, " utterances"], after: str, used: Counter[str], number: int
) -> list[str]:
    """Chooses `number` of the learnable speakers for validation, and counts them in `used`.

    First come those that validated least often, then genders in turn, then the order of names beginning behind `after`,
    so that over the folds of leave-one-speaker-out every speaker validates equally often.
    """
    candidates = sorted(corpus.utterances["speaker"][learnable].unique(), key=lambda name: (name <= after, name))
    if len(candidates) <= number:
        raise UserError(
            f"fold {fold}: {len(candidates)} speakers of corpus {corpus.name} are left to learn from, "
            f"expected more than validation_speakers={number}"
        )
    gender = _genders(corpus)
    chosen: list[str] = []
    for _ in range(number):
        last = gender[chosen[-1]] if chosen else None
        best = min(candidates, key=lambda name: (used[name], gender[name] == last))
        candidates.remove(best)
        chosen.append(best)
        used[best] += 1
    return chosen


def _check_speakers(corpus: Corpus, protocol: str) -> None:
    if not speakers_known(corpus):
        raise UserError(
            f"protocol {protocol}: the speakers of corpus {corpus.name} are not known, which speaker independence "
            "needs; expected random or everything, or official if the corpus has a split: a speaker may then be in "
            "training and test data"
        )
    if corpus.utterances["speaker"].nunique() < 2:
        raise UserError(f"protocol {protocol}: corpus {corpus.name} has one speaker, expected at least two")


def _speaker_groups(corpus: Corpus, protocol: str, num_groups: int, seed: int) -> list[list[str]]:
    """Deals the speakers into groups with about as many utterances, and as many women and men, in each."""
    counts, gender = corpus.utterances["speaker"].value_counts().sort_index(), _genders(corpus)
    if not 2 <= num_groups <= len(counts):
        raise UserError(
            f"protocol {protocol}: num_folds={num_groups}, expected from 2 to the number of speakers of corpus "
            f"{corpus.name}, which is {len(counts)}"
        )
    counts = counts.sample(frac=1, random_state=np.random.default_rng(seed))
    counts = counts.sort_values(ascending=False, kind="stable")
    groups: list[list[str]] = [[] for _ in range(num_groups)]
    for speaker in sorted(counts.index, key=gender.get):
        same_gender = [sum(gender[other] == gender[speaker] for other in group) for group in groups]
        sizes = [sum(counts[other] for other in group) for group in groups]
        groups[min(range(num_groups), key=lambda i: (same_gender[i], sizes[i]))].append(speaker)
    return [sorted(group) for group in groups]


def _balanced_groups(counts: pd.Series, num_groups: int) -> list[list[str]]:
    """Deals the index of `counts` into groups of about equal sums, the largest first."""
    groups: list[list[str]] = [[] for _ in range(num_groups)]
    for key in counts.sort_values(ascending=False, kind="stable").index:
        min(groups, key=lambda group: counts[group].sum()).append(key)
    return groups


def _genders(corpus: Corpus) -> dict[str, str]:
    return corpus.utterances.groupby("speaker")["gender"].first().to_dict()


# --- Random folds: kept for comparison with published figures. ---


def _random(corpus: Corpus, num_folds: int, validate: bool, seed: int) -> list[Fold]:
    fewest = 3 if validate else 2
    if not fewest <= num_folds <= len(corpus.utterances):
        raise UserError(
            f"protocol random: num_folds={num_folds}, expected from {fewest} to the number of utterances of corpus "
            f"{corpus.name}, which is {len(corpus.utterances)}"
        )
    # Sorted by label after a shuffle and dealt in turn: every fold gets its share of each emotion.
    order = np.random.default_rng(seed).permutation(len(corpus.utterances))
    order = order[np.argsort(corpus.utterances["label"].to_numpy()[order], kind="stable")]
    part = np.empty(len(order), np.int64)
    part[order] = np.arange(len(order)) % num_folds
    folds = []
    for i in range(num_folds):
        validates = part == ((i + 1) % num_folds if validate else -1)
        folds.append(_fold("protocol random", f"random{i + 1}", (part != i) & ~validates, validates, part == i))
    return folds


# --- Official folds: from a file, or the corpus's own. ---


def _own_split(corpus: Corpus) -> pd.DataFrame:
    """The one fold that a corpus's column `split` makes, as `read_fold_list` returns it."""
    table = corpus.utterances
    if "split" not in table:
        raise UserError(
            f"protocol official: corpus {corpus.name} has no column split; expected one, with train, validation and "
            "test, or a file of folds"
        )
    words = table["split"].astype(str)
    splits = [split_named(word.lower(), f"corpus {corpus.name}: column split") if word else "" for word in words]
    return pd.DataFrame({"fold": "official", "split": splits, "utterance": [(name,) for name in table["id"]]})


def _official(corpus: Corpus, entries: pd.DataFrame, where: str, validation_speakers: int) -> list[Fold]:
    row_of = {id: row for row, id in enumerate(corpus.utterances["id"])}
    speakers = corpus.utterances["speaker"].to_numpy()
    used: Counter[str] = Counter()
    folds = []
    for name, of_fold in entries.groupby("fold", sort=False):
        sides = {}
        for split in SPLITS:
            names = of_fold["utterance"][of_fold["split"] == split]
            rows = [_row(row_of, names_of_one) for names_of_one in names]
            lacking = [names_of_one[0] for names_of_one, row in zip(names, rows, strict=True) if row is None]
            if lacking:
                raise UserError(
                    f"{where}: fold {brief(name)} lists {len(lacking)} {split} utterances that corpus {corpus.name} "
                    f"has not, the first is {brief(lacking[0])}"
                )
            sides[split] = _mask(corpus, rows)
        for one, other in (("train", "test"), ("validation", "test"), ("train", "validation")):
            both = np.flatnonzero(sides[one] & sides[other])
            if len(both):
                raise UserError(
                    f"{where}: fold {name} has {len(both)} utterances in both {one} and {other}, "
                    f"the first is {corpus.utterances['id'][both[0]]!r}"
                )
        if not sides["validation"].any() and sides["train"].any() and sides["test"].any() and speakers_known(corpus):
            after = speakers[sides["test"]].max()
            chosen = _choose_validation(corpus, name, sides["train"], after, used, validation_speakers)
            sides["validation"] = sides["train"] & np.isin(speakers, chosen)
            sides["train"] = sides["train"] & ~sides["validation"]
        folds.append(_fold(where, name, **sides))
    named = entries["fold"][entries["split"] == "validation"]
    if validation_speakers > 1 and set(named) == set(entries["fold"]):
        raise UserError(f"{where}: every fold names its validation, expected validation_speakers of 0 or 1")
    return folds


def _row(row_of: dict[str, int], names: tuple[str, ...]) -> int | None:
    return next((row_of[name] for name in names if name in row_of), None)


# --- What all of them end with. ---


def _fold(
    where: str,
    name: str,
    train: Bool[np.ndarray, " utterances"],
    validation: Bool[np.ndarray, " utterances"],
    test: Bool[np.ndarray, " utterances"],
) -> Fold:
    for side, mask in (("train", train), ("test", test)):
        if not mask.any():
            raise UserError(f"{where}: fold {name} has no {side} utterances")
    return Fold(str(name), *(np.flatnonzero(mask).astype(np.int64) for mask in (train, validation, test)))


def _mask(corpus: Corpus, rows: Sequence[int]) -> Bool[np.ndarray, " utterances"]:
    mask = np.zeros(len(corpus.utterances), bool)
    mask[list(rows)] = True
    return mask


def _all(corpus: Corpus) -> Bool[np.ndarray, " utterances"]:
    return np.ones(len(corpus.utterances), bool)
