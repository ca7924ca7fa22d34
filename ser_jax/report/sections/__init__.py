"""The sections of a report, each a function from its sources to blocks; one with nothing to say is left out."""

from ser_jax.numbers import count
from ser_jax.report import numbers
from ser_jax.report.blocks import Section
from ser_jax.report.sections import differences, people, provenance, scores, variants
from ser_jax.report.sources import Sources
from ser_jax.report.summary import Summary

SECTIONS = (
    ("answers", "Answers", differences.answers),
    ("differences", "Differences between variants", differences.differences),
    ("variants", "Variants", variants.variants),
    ("scores", "Dimensions and votes", scores.scores),
    ("effects", "Effects of the factors", differences.effects),
    ("cost", "Accuracy and cost", variants.cost),
    ("confusions", "Confusions", variants.confusions),
    ("training", "Training", variants.training),
    ("speakers", "Speakers and genders", people.speakers),
    ("calibration", "Calibration", people.calibration),
    ("robustness", "Robustness", people.robustness),
    ("attention", "Attention weights", variants.attention),
    ("conditions", "How it was measured", provenance.conditions),
    ("missing", "What failed or is missing", provenance.missing),
    ("methods", "Methods, to paste into a paper", provenance.methods_paragraph),
)


def make_sections(sources: Sources) -> list[Section]:
    """Returns the report's sections in order."""
    made = [Section(name, heading, tuple(make(sources))) for name, heading, make in SECTIONS]
    return [section for section in made if section.blocks]


def subtitle(summary: Summary) -> str:
    """The study in a line: corpus, protocol, size and chance."""
    of = summary.variants.values()
    parts = [summary.corpus]
    if summary.study.protocols:
        parts.append(summary.study.protocol)
    if summary.study.speaker_independent is False:
        parts.append("SPEAKER-DEPENDENT")
    elif (told := {protocol.verdict for protocol in summary.study.protocols}) & {"leaks", "cannot be told"}:
        parts.append("the split LEAKS" if "leaks" in told else "independence CANNOT BE TOLD")
    parts.append(numbers.join(sorted({variant.known.setting for variant in of})))
    parts.append(count(len(of), "variant"))
    sizes = [("folds", "fold"), ("seeds", "seed"), ("speakers", "speaker"), ("utterances", "utterance")]
    parts += [count(max(getattr(variant, key) for variant in of), noun) for key, noun in sizes]
    if summary.emotions:
        parts.append(f"chance UA {numbers.percent(summary.chance_ua)} %")
    return " · ".join(parts)
