"""A study's answer to a question, in words: each effect, its interval, and whether it is shown."""

from collections.abc import Mapping, Sequence
from typing import Any

from ser_jax.statistics import factorial

NAMED = 4  # effects; of more, those that are not shown are put together
SIGNIFICANT = 0.05
NOT_SHOWN = "not shown"


def answer(
    question: Mapping[str, Any], comparisons: Sequence[Mapping[str, Any]], effects: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Answers one question of a summary from its comparisons, or from its effects where it crosses factors.

    An effect is shown where its interval leaves out zero and its test, corrected for all effects beside it, finds it at
    5 percent. Where only one of the two does, that is said: the interval is of new speakers and the same training data,
    the test is wary of training data that the folds share.
    """
    crossed = len(question["factors"]) > 1 and effects
    mains = [effect for effect in effects if effect["kind"] == "main effect"]
    told = mains if crossed or not comparisons else comparisons
    if not told:
        return "No comparison was asked for, or none could be made."
    sentences = _tell(told)
    if crossed:
        others = "the other factor" if len(question["factors"]) == 2 else "the other factors"
        sentences[0] = f"Averaged over {others}: {sentences[0]}"
    interactions = [effect for effect in effects if effect["kind"] == "interaction"] if crossed else []
    if interactions:
        found = [effect for effect in interactions if verdict(effect) != NOT_SHOWN]
        sentences += [sentence(effect) for effect in found]
        if not found:
            sentences.append(f"That the factors act together is not shown{_detectable(interactions)}.")
    if all(one["seeds"] == 1 for one in told):
        sentences.append("All of this is from one seed: how much it varies between seeds is not known.")
    return " ".join(sentences)


def sentence(effect: Mapping[str, Any]) -> str:
    """Says one comparison or effect: what, by how much, its interval, how far it is shown, what could have been."""
    text = f"{describe(effect)}: UA {_points(effect['ua_difference'])} points"
    if effect["ci95"] is not None:
        text += " [{}, {}]".format(*map(_points, effect["ci95"]))
    found = verdict(effect)
    text += f", {found}"
    if found == NOT_SHOWN and effect["minimum_detectable_difference"] is not None:
        text += f"; this study could have shown {100 * effect['minimum_detectable_difference']:.1f} points"
    return f"{text}."


def describe(effect: Mapping[str, Any]) -> str:
    """Names what is compared with what."""
    if "kind" not in effect:
        return f"{effect['variant']} against {effect['baseline']}"
    parts = factorial.describe(effect["levels"], effect["reference"])
    return parts[0] if effect["kind"] == "main effect" else f"The effect of {parts[0]} changes with {parts[1]}"


def verdict(effect: Mapping[str, Any]) -> str:
    """Says how far an effect is shown, from its interval and its corrected test."""
    if effect["ci95"] is None:
        return "and how far off that may be cannot be told"
    low, high = effect["ci95"]
    apart, p_value = low > 0 or high < 0, effect["p_holm"]
    if p_value is None:
        return "zero lies outside, but there is no test" if apart else NOT_SHOWN
    if apart:
        return "shown" if p_value < SIGNIFICANT else f"a sign of it, which the test does not confirm (p {p_value:.2f})"
    return NOT_SHOWN if p_value >= SIGNIFICANT else f"a sign of it in the test alone (p {p_value:.3f})"


def _tell(effects: Sequence[Mapping[str, Any]]) -> list[str]:
    if len(effects) <= NAMED:
        return [sentence(effect) for effect in effects]
    told = [effect for effect in effects if verdict(effect) != NOT_SHOWN]
    others = [effect for effect in effects if verdict(effect) == NOT_SHOWN]
    sentences = [sentence(effect) for effect in told]
    if others:
        values = [effect["ua_difference"] for effect in others]
        what = f"Of {len(effects)} differences, {len(others)} are" if told else f"None of {len(effects)} differences is"
        between = f"between {_points(min(values))} and {_points(max(values))} points of UA"
        sentences.append(f"{what}{' not' if told else ''} shown ({between}{_detectable(others)}).")
    return sentences


def _detectable(effects: Sequence[Mapping[str, Any]]) -> str:
    values = [effect["minimum_detectable_difference"] for effect in effects]
    values = [f"{100 * value:.1f}" for value in values if value is not None]
    if not values:
        return ""
    low, high = min(values, key=float), max(values, key=float)
    return f"; this study could have shown {low if low == high else f'{low} to {high}'} points"


def _points(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f}"  # no minus before a zero
