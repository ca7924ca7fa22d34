"""A study's answer to a question, in words: each difference, its interval, its verdict and what would decide it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ser_jax.report import numbers
from ser_jax.statistics import factorial
from ser_jax.statistics.paired import PAIR, Comparison
from ser_jax.statistics.scores import ScoreDifference
from ser_jax.statistics.tests import DIFFERENCE, EQUIVALENT, SIGNIFICANT, UNDECIDED

if TYPE_CHECKING:
    from ser_jax.report.summary import Question

_OF_THESE_MODELS = "of these trained models alone: one training of each gives no verdict on what they differ in"
NAMED = 4  # comparisons; of more, those without a difference are summed up


def answer(question: "Question", comparisons: Sequence[Comparison]) -> str:
    """Answers a question from its comparisons, or from its main effects where it crosses factors, in one paragraph."""
    lead, sentences = answer_parts(question, comparisons)
    return " ".join([lead, *sentences] if lead else sentences)


def answer_parts(question: "Question", comparisons: Sequence[Comparison]) -> tuple[str, list[str]]:
    """Returns what holds for a whole answer, or "", and its sentences: one for each comparison that it names."""
    mains = [effect for effect in question.effects if effect.kind == "main effect"]
    crossed = len(question.factors) > 1 and bool(mains)
    stated = mains if crossed or not comparisons else comparisons
    if not stated:
        return "", ["No comparison was asked for, or none could be made."]
    lead, sentences = "", _sentences(stated)
    if crossed:
        lead = "Averaged over the other factor:" if len(question.factors) == 2 else "Averaged over the other factors:"
    interactions = [effect for effect in question.effects if effect.kind == "interaction"] if crossed else []
    if interactions:
        found = [effect for effect in interactions if effect.verdict == DIFFERENCE]
        sentences += [sentence(effect) for effect in found]
        if not found:
            sentences.append(f"No interaction of the factors is significant{_detectable(interactions)}.")
    if all(one.seeds == 1 and one.seeds_share is None for one in stated):
        sentences.append("All of this is from one seed: how much it varies between seeds is not known.")
    return lead, sentences


def sentence(one: Comparison) -> str:
    """Says one comparison or effect: what, by how much, its interval and its verdict."""
    difference = numbers.points_with(one.estimate, one.ci95, " points")
    return f"{describe(one)}: UA {difference}, {verdict(one)}."


def describe(one: Comparison) -> str:
    """Names what is compared with what."""
    if one.kind == PAIR:
        return f"{one.variant} against {one.baseline}"
    parts = factorial.describe(one.levels, one.reference)
    return parts[0] if one.kind == "main effect" else f"The effect of {parts[0]} changes with {parts[1]}"


def verdict(one: Comparison) -> str:
    """Says the verdict on a comparison: a difference, equivalence within the margin, or undecided; and why."""
    margin = f"{100 * one.margin:g} points"
    if one.verdict is None:
        if one.ci95 is None:
            return "without an interval: no verdict"
        return _OF_THESE_MODELS
    if one.verdict == DIFFERENCE:
        small = f", but smaller than {margin}" if one.p_equivalence < SIGNIFICANT else ""
        return f"a significant difference ({numbers.p_equals(one.p_holm)}){small}"
    if one.verdict == EQUIVALENT:
        return f"equivalent within {margin} (two one-sided tests, {numbers.p_equals(one.p_equivalence)})"
    corrected = f" after correction for {one.family} tests" if one.p < SIGNIFICANT else ""
    return (
        f"undecided: no significant difference{corrected} ({numbers.p_equals(one.p_holm)}), nor equivalence within "
        f"{margin}{_detectable([one])}"
    )


def describe_difference(one: ScoreDifference, titles: Mapping[str, str]) -> str:
    """Says how much a variant's score differs from its baseline's."""
    title = titles.get(one.score, one.score)
    gained = f"{one.variant} against {one.baseline}: {title} {signed(one)}"
    if one.p_holm is not None:
        return f"{gained}, {numbers.p_equals(one.p_holm)}."
    return f"{gained}, {_OF_THESE_MODELS}." if one.ci95 is not None else f"{gained}."


def signed(one: ScoreDifference) -> str:
    """A difference of scores with its interval."""
    return f"{numbers.decimal(one.estimate, sign=True)} {numbers.signed_ends(one.ci95)}".strip()


def what_would_decide(one: Comparison) -> str:
    """Says of an undecided comparison how much of its uncertainty is seeds and speakers, and what more would give."""
    if one.verdict != UNDECIDED or one.seeds_share is None:
        return ""
    text = (
        f"{describe(one)}: {100 * one.seeds_share:.0f} % of the squared standard error is seeds, "
        f"{100 * one.speakers_share:.0f} % speakers"
    )
    if one.half_width is None or one.with_twice_seeds is None or one.with_twice_speakers is None:
        return f"{text}."
    ends = [
        numbers.points(half, sign=False) for half in (one.half_width, one.with_twice_seeds, one.with_twice_speakers)
    ]
    return (
        f"{text}; the interval of ±{ends[0]} points would be ±{ends[1]} with twice the seeds, ±{ends[2]} with twice "
        "the speakers."
    )


def _sentences(stated: Sequence[Comparison]) -> list[str]:
    if len(stated) <= NAMED:
        return [sentence(one) for one in stated]
    found = [one for one in stated if one.verdict == DIFFERENCE]
    sentences = [sentence(one) for one in found]
    if not found:
        sentences.append(f"None of {len(stated)} differences is significant.")
    margin = f"{100 * stated[0].margin:g} points"
    groups = ((EQUIVALENT, f"equivalent within {margin}"), (UNDECIDED, "undecided"), (None, "without a verdict"))
    for kind, words in groups:
        here = [one for one in stated if one.verdict == kind]
        if here:
            estimates = [one.estimate for one in here]
            between = f"{numbers.span(estimates)} points of UA"
            more = _detectable(here) if kind == UNDECIDED else ""
            are = "is" if len(here) == 1 else "are"
            sentences.append(f"Of {len(stated)} differences, {len(here)} {are} {words} ({between}{more}).")
    return sentences


def _detectable(comparisons: Sequence[Comparison]) -> str:
    values = [one.detectable for one in comparisons if one.detectable is not None]
    if values and min(values) > 1:
        return "; this study can detect no difference that UA can have"
    return f"; this study detects {numbers.detectable(values)} points in 80 % of cases" if values else ""
