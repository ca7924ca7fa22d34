"""All that a report is made from, and how its variants are grouped and named."""

import dataclasses
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ser_jax.errors import one_line
from ser_jax.report.numbers import sentence_case
from ser_jax.report.summary import INDUCTIVE, TRANSDUCTIVE, Question, Summary, Variant, from_json, to_json


@dataclasses.dataclass(frozen=True)
class Sources:
    """What a report is made from.

    Attributes:
      curves: variant -> the entries of its log.jsonl.
      pictures: variant -> a PNG of its attention.
      configs: variant -> its complete configuration.
    """

    summary: Summary
    curves: Mapping[str, Sequence[Mapping[str, Any]]]
    pictures: Mapping[str, Path]
    configs: Mapping[str, Mapping[str, Any]]

    @property
    def variants(self) -> Mapping[str, Variant]:
        """The variants' figures, those of inductive ones first."""
        settings = (INDUCTIVE, TRANSDUCTIVE)
        of = self.summary.variants
        return {name: v for setting in settings for name, v in of.items() if v.known.setting == setting}

    @property
    def questions(self) -> Sequence[Question]:
        """The study's questions."""
        return self.summary.questions

    def file_name(self, kind: str, variant: str) -> str:
        """The name of a variant's drawing of some kind; the number keeps names apart that differ in signs alone."""
        number = list(self.variants).index(variant) + 1 if variant in self.variants else 0
        return f"{kind}_{number:02d}_{slug(variant)}"

    def groups(self) -> dict[str, dict[str, str]]:
        """Question -> variant -> its name beneath that question; "" for variants that belong to none."""
        groups: dict[str, dict[str, str]] = {}
        left = list(self.variants)
        for question in self.questions:
            of = [variant for variant in left if variant in question.levels]
            left = [variant for variant in left if variant not in of]
            if of:
                groups[question.name] = {variant: beneath(question.name, variant) for variant in of}
        if left:
            groups.setdefault("", {}).update({variant: variant for variant in left})
        return groups

    def grouped(self, names: Collection[str], caption: str) -> Iterator[tuple[str, str, dict[str, str]]]:
        """For each question its figure's caption, the end of a file's name, and its variants among `names`.

        The caption stands whole under the first figure, the others have their question's name.
        """
        groups = self.groups()
        for number, (question, of) in enumerate(groups.items(), 1):
            there = {name: short for name, short in of.items() if name in names}
            if not there:
                continue
            if len(groups) == 1:
                yield caption, "", there
                return
            text = f"{sentence_case(question or 'other variants')}. {caption}".strip()
            yield text, f"_{number}_{slug(question or 'others')}", there
            caption = ""


def without_control_signs(sources: Sources) -> Sources:
    """The sources with visible escapes in place of control characters, which XML cannot hold."""
    text = json.dumps(to_json(sources.summary), ensure_ascii=False)
    if one_line(text) == text and "\\u00" not in text:
        return sources

    named = (
        {one_line(name): of for name, of in group.items()}
        for group in (sources.curves, sources.pictures, sources.configs)
    )
    return Sources(from_json(Summary, cleaned(to_json(sources.summary)), "summary"), *named)


def cleaned(value: Any) -> Any:
    """Returns a tree of lists and mappings with visible escapes in place of control characters in its text."""
    if isinstance(value, Mapping):
        return {one_line(str(key)): cleaned(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [cleaned(item) for item in value]
    return one_line(value) if isinstance(value, str) else value


def beneath(question: str, variant: str) -> str:
    """A variant's name without that of the question that it stands under."""
    return variant.removeprefix(f"{question}: ")


def slug(name: str) -> str:
    """A name as part of a file's name."""
    return "_".join(re.findall(r"\w+", name.replace("_", " "))).lower()[:60] or "variant"
