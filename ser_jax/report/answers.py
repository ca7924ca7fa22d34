"""A study's answer to a question, in words: each difference, its interval, its verdict and what could be detected."""

from collections.abc import Mapping, Sequence
from typing import Any

from ser_jax.statistics import factorial
from ser_jax.statistics.paired import PAIR
from ser_jax.statistics.tests import DIFFERENCE, EQUIVALENT, SIGNIFICANT, UNDECIDED

NAMED = 4  # comparisons; of more, those without a difference are summed up


def answer(
    question: Mapping[str, Any], comparisons: Sequence[Mapping[str, Any]], effects: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Answers one question of a summary from its comparisons, or from its effects where it crosses factors."""
    crossed = len(question["factors"]) > 1 and effects
    mains = [effect for effect in effects if effect["kind"] == "main effect"]
    told = mains if crossed or not comparisons else comparisons
    if not told:
        return "No comparison was asked for, or none could be made."
    sentences = _sentences(told)
    if crossed:
        others = "the other factor" if len(question["factors"]) == 2 else "the other factors"
        sentences[0] = f"Averaged over {others}: {sentences[0]}"
    interactions = [effect for effect in effects if effect["kind"] == "interaction"] if crossed else []
    if interactions:
        found = [effect for effect in interactions if effect["verdict"] == DIFFERENCE]
        sentences += [sentence(effect) for effect in found]
        if not found:
            sentences.append(f"No interaction of the factors is significant{_detectable(interactions)}.")
    if all(one["seeds"] == 1 for one in told):
        sentences.append("All of this is from one seed: how much it varies between seeds is not known.")
    return " ".join(sentences)


def sentence(one: Mapping[str, Any]) -> str:
    """Says one comparison or effect: what, by how much, its interval and its verdict."""
    text = f"{describe(one)}: UA {_points(one['estimate'])} points"
    if one["ci95"] is not None:
        text += " [{}, {}]".format(*map(_points, one["ci95"]))
    return f"{text}, {verdict(one)}."


def describe(one: Mapping[str, Any]) -> str:
    """Names what is compared with what."""
    if one["kind"] == PAIR:
        return f"{one['variant']} against {one['baseline']}"
    parts = factorial.describe(one["levels"], one["reference"])
    return parts[0] if one["kind"] == "main effect" else f"The effect of {parts[0]} changes with {parts[1]}"


def verdict(one: Mapping[str, Any]) -> str:
    """Says the verdict on a comparison: a difference, equivalence within the margin, or undecided; and why."""
    margin = f"{100 * one['margin']:g} points"
    if one["verdict"] is None:
        return "without an interval: no verdict"
    if one["verdict"] == DIFFERENCE:
        small = f", but smaller than {margin}" if one["p_equivalence"] < SIGNIFICANT else ""
        return f"a significant difference ({_p(one)}){small}"
    if one["verdict"] == EQUIVALENT:
        return f"equivalent within {margin} (TOST, {_p(one, 'p_equivalence')})"
    corrected = f" after correction for {one['family']} tests" if one["p"] < SIGNIFICANT else ""
    return (
        f"undecided: no significant difference{corrected} ({_p(one)}), nor equivalence within {margin}"
        + _detectable([one])
    )


def _sentences(told: Sequence[Mapping[str, Any]]) -> list[str]:
    if len(told) <= NAMED:
        return [sentence(one) for one in told]
    found = [one for one in told if one["verdict"] == DIFFERENCE]
    sentences = [sentence(one) for one in found]
    if not found:
        sentences.append(f"None of {len(told)} differences is significant.")
    for kind, words in (
        (EQUIVALENT, "equivalent within {margin}"),
        (UNDECIDED, "undecided"),
        (None, "without a verdict"),
    ):
        here = [one for one in told if one["verdict"] == kind]
        if here:
            low, high = (_points(end(one["estimate"] for one in here)) for end in (min, max))
            words = words.format(margin=f"{100 * here[0]['margin']:g} points")
            between = f"{low} points of UA" if low == high else f"between {low} and {high} points of UA"
            more = _detectable(here) if kind == UNDECIDED else ""
            sentences.append(f"Of {len(told)} differences, {len(here)} {_are(here)} {words} ({between}{more}).")
    return sentences


def _are(things: Sequence[Any]) -> str:
    return "is" if len(things) == 1 else "are"


def _detectable(comparisons: Sequence[Mapping[str, Any]]) -> str:
    values = [f"{100 * one['detectable']:.1f}" for one in comparisons if one["detectable"] is not None]
    if not values:
        return ""
    low, high = min(values, key=float), max(values, key=float)
    return f"; this study detects {low if low == high else f'{low} to {high}'} points in 80 % of cases"


def _p(one: Mapping[str, Any], key: str = "p_holm") -> str:
    value = one[key]
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _points(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f}"  # no minus before a zero
