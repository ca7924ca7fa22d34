"""The audit of a split: which speakers, texts, sessions and recordings are in both training and test data.

Its verdict is "independent" where all that has to be apart is apart, "leaks" where something is not, and "cannot be
told" where the corpus does not say whose or what its recordings are. Speakers and recordings have to be apart under
every protocol; sessions and texts where the protocol promises it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ser_jax.corpora.corpus import SAMPLE_RATE, Corpus
from ser_jax.corpora.duplicates import near_copies
from ser_jax.corpora.labels import spellings_of_texts, texts_as_one
from ser_jax.corpora.protocols import Fold, Protocol, shared, speakers_known
from ser_jax.corpora.same_files import overlapping
from ser_jax.numbers import count

Verdict = Literal["independent", "leaks", "cannot be told"]

# What protocols promise to keep apart beside speakers and recordings: columns of the corpus.
_PROMISED = {"leave_one_session_out": ("session",), "speaker_and_text_independent": ("text",)}


@dataclasses.dataclass(frozen=True)
class FoldAudit:
    """What one fold holds, and what its learning side (train and validation) shares with its test side."""

    name: str
    num_train: int
    num_validation: int
    num_test: int
    test_emotions: dict[str, int]  # utterances per class
    missing: dict[str, list[str]]  # classes without an utterance, by split; an empty validation set is not counted
    speakers: list[str]
    texts: list[str]
    sessions: list[str]
    recordings: list[list[str]]  # ids of one recording, or of its overlapping segments, in both training and test data


@dataclasses.dataclass(frozen=True)
class Audit:
    """The audit of a corpus under a protocol; `findings` has the results as sentences, the worst first."""

    corpus: str
    fingerprint: str
    protocol: str
    description: str
    num_utterances: int
    num_speakers: int
    duplicates: list[list[str]]  # ids of one and the same recording, or of near copies of it, anywhere in the corpus
    left_out: int  # utterances that were bad when the corpus was prepared
    not_tested: int  # utterances in no test set
    folds: list[FoldAudit]
    leaks_speakers: bool
    verdict: Verdict
    reason: str  # of the verdict, in words
    findings: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Returns the audit as JSON-able data."""
        return dataclasses.asdict(self)


def audit(corpus: Corpus, protocol: Protocol) -> Audit:
    """Returns what the folds of `protocol` leak from training to test data; spellings of one text count as one text."""
    duplicates, spellings = near_copies(corpus), spellings_of_texts(corpus.utterances["text"])
    if spellings:
        table = corpus.utterances.assign(text=texts_as_one(corpus.utterances["text"]))
        corpus = dataclasses.replace(corpus, utterances=table)
    same = duplicates + _overlapping(corpus)
    folds = [_audit_fold(corpus, fold, same) for fold in protocol.folds]
    tested = np.unique(np.concatenate([fold.test for fold in protocol.folds]))
    verdict, reason = _verdict(corpus, protocol, folds)
    report = Audit(
        corpus=corpus.name,
        fingerprint=corpus.fingerprint,
        protocol=protocol.name,
        description=protocol.description,
        num_utterances=len(corpus.utterances),
        num_speakers=corpus.utterances["speaker"].nunique() if speakers_known(corpus) else 0,
        duplicates=[_ids(corpus, rows) for rows in duplicates],
        left_out=len(corpus.info.get("left_out", [])),
        not_tested=len(corpus.utterances) - len(tested),
        folds=folds,
        leaks_speakers=any(fold.speakers for fold in folds),
        verdict=verdict,
        reason=reason,
        findings=[],
    )
    findings = _findings(corpus, report)
    if spellings:
        findings.append(
            f"texts in several spellings, each counted as one: {len(spellings)}: {_listed(map(_quoted, spellings))}"
        )
    return dataclasses.replace(report, findings=findings)


def _overlapping(corpus: Corpus) -> list[list[int]]:
    """Pairs of rows that are segments of one recording and share seconds of it."""
    table = corpus.utterances
    if not {"recording", "segment_start"} <= set(table.columns):
        return []
    ends = table["segment_start"] + table["num_samples"] / SAMPLE_RATE
    return [[*pair] for pair in overlapping(table["recording"], table["segment_start"], ends)]


def _verdict(corpus: Corpus, protocol: Protocol, folds: list[FoldAudit]) -> tuple[Verdict, str]:
    promised = ("speaker", *_PROMISED.get(protocol.name, ()))
    on_both = [f"{column}s" for column in promised if any(getattr(fold, f"{column}s") for fold in folds)]
    if any(fold.recordings for fold in folds):
        on_both.append("recordings")
    if on_both:
        return "leaks", f"{' and '.join(on_both)} are in both training and test data"
    unknown = [f"{column}s" for column in promised if _unknown(corpus, column)]
    if unknown:
        return "cannot be told", f"the {' and '.join(unknown)} of some utterances are not known"
    apart = [*(f"{column}s" for column in promised), "recordings"]
    return "independent", f"no {', '.join(apart[:-1])} or {apart[-1]} are in both training and test data"


def _unknown(corpus: Corpus, column: str) -> bool:
    if column == "speaker":
        return not speakers_known(corpus)
    return column not in corpus.utterances or bool((corpus.utterances[column].astype(str) == "").any())


def _audit_fold(corpus: Corpus, fold: Fold, same: list[list[int]]) -> FoldAudit:
    emotions = corpus.utterances["emotion"].to_numpy()
    learnt, tested = {*fold.train, *fold.validation}, set(fold.test)
    missing = {}
    for split, rows in (("train", fold.train), ("validation", fold.validation), ("test", fold.test)):
        if len(rows) and (lacking := [name for name in corpus.emotions if name not in set(emotions[rows])]):
            missing[split] = lacking
    return FoldAudit(
        name=fold.name,
        num_train=len(fold.train),
        num_validation=len(fold.validation),
        num_test=len(fold.test),
        test_emotions={name: int((emotions[fold.test] == name).sum()) for name in corpus.emotions},
        missing=missing,
        speakers=shared(corpus, fold, "speaker"),
        texts=shared(corpus, fold, "text"),
        sessions=shared(corpus, fold, "session") if "session" in corpus.utterances else [],
        recordings=[_ids(corpus, rows) for rows in same if not learnt.isdisjoint(rows) and not tested.isdisjoint(rows)],
    )


def _findings(corpus: Corpus, report: Audit) -> list[str]:
    """Says in words what was found: leaks, then what limits the figures, then what is merely so."""
    folds, findings = report.folds, []
    leaking = [fold for fold in folds if fold.speakers]
    if not speakers_known(corpus):
        share = "more than these" if leaking else "some"
        findings.append(f"SPEAKERS UNKNOWN: training and test data may share {share}")
    if leaking:
        names = {name for fold in leaking for name in fold.speakers}
        findings.insert(
            0,
            f"LEAK of speakers: {len(names)} of {_number(corpus, 'speaker')} are in both training and test data, in "
            f"{len(leaking)} of {len(folds)} folds; figures are speaker-dependent",
        )
    across = {tuple(ids) for fold in folds for ids in fold.recordings}
    copies = across & {*map(tuple, report.duplicates)}
    if copies:
        findings.append(
            f"LEAK of recordings: {len(copies)} in both training and test data of a fold: {_listed(copies)}"
        )
    if overlaps := [f"{one} and {other}" for one, other in across - copies]:
        findings.append(
            f"LEAK of recordings: {count(len(overlaps), 'pair')} of segments that overlap, in training and in test "
            f"data: {_listed(overlaps)}"
        )
    if report.duplicates:
        findings.append(f"recordings that occur more than once: {len(report.duplicates)}: {_listed(report.duplicates)}")
    if any(fold.texts for fold in folds):
        findings.append(_finding_on_texts(corpus, report))
    if any(fold.sessions for fold in folds):
        findings.append(
            f"sessions are in both training and test data, in {sum(bool(fold.sessions) for fold in folds)} folds"
        )
    for split in ("train", "validation", "test"):
        lacking = [fold.name for fold in folds if split in fold.missing]
        if lacking:
            findings.append(f"classes missing from {split} in {len(lacking)} of {len(folds)} folds: {_listed(lacking)}")
    if report.left_out:
        findings.append(f"{count(report.left_out, 'bad utterance')} left out when the corpus was prepared (--skip bad)")
    if report.not_tested:
        findings.append(f"{report.not_tested} of {report.num_utterances} utterances are in no test set")
    return findings


def _number(corpus: Corpus, column: str) -> int:
    """How many known speakers or texts there are."""
    return len({*corpus.utterances[column].astype(str)} - {""})


def _finding_on_texts(corpus: Corpus, report: Audit) -> str:
    shared_texts = {text for fold in report.folds for text in fold.texts}
    finding = f"{len(shared_texts)} of {_number(corpus, 'text')} texts are in both training and test data"
    if report.protocol == "leave_one_speaker_out":
        finding += ", which this protocol cannot avoid where speakers read the same texts"
    return f"{finding}; speaker_and_text_independent keeps them apart"


def _listed(items: Any, most: int = 4) -> str:
    names = [" = ".join(item) if isinstance(item, tuple | list) else item for item in sorted(items)]
    return ", ".join(names[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")


def _quoted(texts: Sequence[str]) -> list[str]:
    """Sentences have commas of their own."""
    return [f'"{text}"' for text in texts]


def _ids(corpus: Corpus, rows: list[int]) -> list[str]:
    return corpus.utterances["id"].iloc[rows].tolist()
