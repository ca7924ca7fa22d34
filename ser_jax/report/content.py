"""What stands in a study's report: sections made of a few kinds of blocks, the same for the page and for Markdown.

Everything is read from summary.json (`ser_jax.report.summary`); a section whose figures are not there is left out.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser_jax.corpora.perturbations import KNOWN
from ser_jax.report import figures as draw
from ser_jax.report import methods
from ser_jax.report.answers import verdict
from ser_jax.report.methods import count, join
from ser_jax.report.terminal import describe_ensemble, describe_sources, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawn

_SEEDS = "; ticks under a line are single seeds"
MOST_PANELS = 8  # of a kind that are shown; more are there to be unfolded


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclasses.dataclass(frozen=True)
class Answer:
    """A question and what the study says to it."""

    name: str
    question: str
    answer: str


@dataclasses.dataclass(frozen=True)
class Items:
    """A list of sentences."""

    items: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Facts:
    """A list of things and what they are."""

    facts: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table: what is shown, what stands under it, and what it is sorted by."""

    text: str
    under: str = ""
    value: int | float | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """A table that sorts and filters; its first column names the row, the others hold numbers."""

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    words: int = 1  # so many columns hold words, not numbers


@dataclasses.dataclass(frozen=True)
class Panel:
    """One drawing of a figure; `narrow` is how it is drawn for a narrow page, where that is another drawing."""

    name: str
    description: str
    make: Callable[[], "Drawn"]
    narrow: Callable[[], "Drawn"] | None = None


@dataclasses.dataclass(frozen=True)
class Figure:
    """Drawings that share a caption, and the pages of one PDF."""

    name: str
    caption: str
    panels: tuple[Panel, ...]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture that was drawn elsewhere, as a PNG file."""

    name: str
    caption: str
    path: Path


@dataclasses.dataclass(frozen=True)
class Code:
    """Text to be copied."""

    name: str
    text: str


Block = Text | Answer | Items | Facts | Table | Figure | Picture | Code


@dataclasses.dataclass(frozen=True)
class Section:
    """A headed part of the report."""

    id: str
    title: str
    blocks: tuple[Block, ...]


@dataclasses.dataclass(frozen=True)
class Sources:
    """All that a report is made from; see `ser_jax.report.write.write_report`."""

    summary: Mapping[str, Any]
    curves: Mapping[str, Sequence[Mapping[str, Any]]]
    pictures: Mapping[str, Path]
    configs: Mapping[str, Mapping]
    corpus: Mapping[str, Any]

    @property
    def variants(self) -> Mapping[str, Any]:
        """The variants' figures."""
        return self.summary["variants"]

    def file_name(self, kind: str, variant: str) -> str:
        """The name of a variant's drawing of some kind; the number keeps names apart that differ in signs alone."""
        number = list(self.variants).index(variant) + 1 if variant in self.variants else 0
        return f"{kind}_{number:02d}_{_slug(variant)}"

    def groups(self) -> dict[str, dict[str, str]]:
        """Question -> variant -> how it is called beneath that question; "" for variants that belong to none."""
        groups: dict[str, dict[str, str]] = {}
        left = list(self.variants)
        for question in self.questions:
            name = question["name"]
            of = [variant for variant in left if variant in question.get("levels", {})]
            left = [variant for variant in left if variant not in of]
            if of:
                groups[name] = {variant: _beneath(name, variant) for variant in of}
        if left:
            groups.setdefault("", {}).update({variant: variant for variant in left})
        return groups

    @property
    def questions(self) -> Sequence[Mapping[str, Any]]:
        """The study's questions."""
        return self.summary.get("questions") or ()


def title(summary: Mapping[str, Any]) -> str:
    """What the report is called."""
    return summary.get("title") or f"Speech emotion recognition on {summary['corpus']}"


def subtitle(summary: Mapping[str, Any]) -> str:
    """The study in a line: corpus, protocol, size and chance."""
    variants = summary["variants"].values()
    most = {key: max(variant[key] for variant in variants) for key in ("folds", "seeds", "speakers", "utterances")}
    parts = [summary["corpus"]]
    if summary.get("protocol"):
        parts.append(str(summary["protocol"]).replace("_", " "))
    if summary.get("speaker_independent") is False:
        parts.append("SPEAKER-DEPENDENT")
    parts += [count(len(variants), "variant"), count(most["folds"], "fold"), count(most["seeds"], "seed")]
    parts += [count(most["speakers"], "speaker"), count(most["utterances"], "utterance")]
    return " · ".join([*parts, f"chance UA {percent(summary['chance_ua'])} %"])


def sections(sources: Sources) -> list[Section]:
    """Returns the report's sections in order, without those that there is nothing to say in."""
    makers = [
        ("answers", "Answers", _answers),
        ("differences", "Differences between variants", _differences),
        ("variants", "Variants", _variants),
        ("effects", "Effects of the factors", _effects),
        ("cost", "Accuracy and cost", _cost),
        ("confusions", "Confusions", _confusions),
        ("training", "Training", _training),
        ("speakers", "Speakers and genders", _speakers),
        ("calibration", "Calibration", _calibration),
        ("robustness", "Robustness", _robustness),
        ("attention", "What attention looked at", _attention),
        ("conditions", "How it was measured", _conditions),
        ("missing", "What failed or is missing", _missing),
        ("methods", "Methods, to paste into a paper", _methods),
    ]
    made = [Section(name, heading, tuple(make(sources))) for name, heading, make in makers]
    return [section for section in made if section.blocks]


# The answers --------------------------------------------------------------------------------------------------------


def _answers(sources: Sources) -> Iterator[Block]:
    comparisons = sources.summary["comparisons"]
    for question in sources.questions:
        answer = question.get("answer") or " ".join(
            f"{_pair(comparisons[i], question['name'])}: {_said(comparisons[i])}" for i in question["comparisons"]
        )
        yield Answer(_sentence_case(question["name"]) or "Comparisons", question.get("text", ""), answer)
    yield from _notes_of((question["name"], question.get("notes", ())) for question in sources.questions)
    if sources.questions:
        return
    for comparison in comparisons:
        yield Answer(_sentence_case(_pair(comparison)), "", _said(comparison))
    if not comparisons:
        name, best = max(sources.variants.items(), key=lambda item: item[1]["ua"])
        text = f"The highest UA is {_with_interval(best['ua'], best['ua_ci95'])} %, of {name}."
        if len(sources.variants) > 1:
            text += (
                " This study names no comparisons, so it does not tell which differences between its variants are "
                "more than chance: intervals of single variants do not answer that, and the highest of several is "
                "partly the luckiest."
            )
        yield Answer("No comparison", "", text)


def _said(comparison: Mapping[str, Any]) -> str:
    """Says a comparison in words: the effect, its interval and its verdict."""
    text = f"UA {_difference(comparison['estimate'], comparison['ci95'], ' points')}"
    return f"{text}, {verdict(comparison)}."


# Differences and variants -------------------------------------------------------------------------------------------


def _differences(sources: Sources) -> Iterator[Block]:
    comparisons = sources.summary["comparisons"]
    if not comparisons:
        return
    groups = _by_question(sources)
    rows = {
        heading: [_forest_row(comparisons[i], _pair(comparisons[i], heading)) for i in of]
        for heading, of in groups.items()
    }
    yield _forest(
        "forest",
        rows,
        "difference of UA (points); to the right, the variant is better",
        "Paired differences of UA between each variant and what it is measured against, with 95 % intervals over "
        "speakers. The marker is filled where the interval excludes zero; intervals are not corrected for their "
        "number, p values in the table are. Grey bars reach as far as the smallest difference that the study could "
        f"have shown{_SEEDS if any(row.dots[1:] for of in rows.values() for row in of) else ''}.",
    )
    columns = ("variant", "against", "UA, points", "p", "p, Holm", "detectable, points", "folds", "seeds")
    order = [i for of in groups.values() for i in of]
    table = []
    for i in order:
        one = comparisons[i]
        cells = [Cell(one["variant"]), Cell(one["baseline"]), *_difference_cells(one)]
        table.append((*cells, *(Cell(str(one[key]), value=one[key]) for key in ("folds", "seeds"))))
    caption = (
        "The same differences. p is that of the interval, by itself and after Holm's correction for all that the "
        "question tests; detectable is the smallest true difference that 80 % of such studies would find significant."
    )
    yield Table("comparisons", caption, columns, tuple(table), words=2)
    yield from _notes_of((_pair(c), c.get("notes", ())) for c in comparisons)


def _by_question(sources: Sources) -> dict[str, list[int]]:
    """Numbers of comparisons by the question that they belong to, each under the first that has it."""
    groups: dict[str, list[int]] = {}
    seen: set[int] = set()
    for question in sources.questions:
        fresh = [i for i in question["comparisons"] if i not in seen]
        seen |= set(fresh)
        if fresh:
            groups[question["name"]] = fresh
    rest = [i for i in range(len(sources.summary["comparisons"])) if i not in seen]
    if rest:
        groups["other comparisons" if groups else ""] = rest
    return groups


def _pair(comparison: Mapping[str, Any], question: str = "") -> str:
    return " against ".join(_beneath(question, comparison[side]) for side in ("variant", "baseline"))


def _forest_row(comparison: Mapping[str, Any], label: str) -> draw.Row:
    return draw.Row(
        label=label,
        value=comparison["estimate"],
        ci95=comparison["ci95"],
        text=_difference(comparison["estimate"], comparison["ci95"]),
        detectable=comparison.get("detectable"),
        dots=tuple((comparison.get("seed_differences") or {}).values()),
    )


def _forest(
    name: str, rows: Mapping[str, Sequence[draw.Row]], xlabel: str, caption: str, reference: float = 0.0
) -> Figure:
    lines = "; ".join(f"{row.label}: {row.text}" for of in rows.values() for row in of)
    wide = functools.partial(draw.forest, rows, xlabel, reference=reference, narrow=False)
    narrow = functools.partial(draw.forest, rows, xlabel.split("; ")[0], reference=reference, narrow=True)
    return Figure(name, caption, (Panel(name, f"{xlabel}. {lines}", wide, narrow),))


def _difference_cells(one: Mapping[str, Any]) -> list[Cell]:
    difference, ends = one["estimate"], one["ci95"]
    cells = [Cell(_points(difference), "" if ends is None else _ends(ends), difference)]
    cells += [Cell(_p(one[key]), value=one[key]) for key in ("p", "p_holm")]
    detectable = one["detectable"]
    return [*cells, Cell(_points(detectable, sign=False), value=detectable)]


def _variants(sources: Sources) -> Iterator[Block]:
    rows = {
        heading: [_ua_row(label, sources.variants[name]) for name, label in of.items()]
        for heading, of in sources.groups().items()
    }
    chance = sources.summary["chance_ua"]
    seeds = any(row.dots[1:] for of in rows.values() for row in of)
    yield _forest(
        "ua",
        rows,
        "UA (%); the line is chance",
        f"UA of every variant with its 95 % interval over speakers; the line is chance, {percent(chance)} %, and the "
        f"marker is filled where the interval excludes it{_SEEDS if seeds else ''}. Whether two variants differ is not "
        "read off here: they share speakers, and their paired difference is known better than either.",
        chance,
    )
    yield _table_of_variants(sources)
    emotions = sources.summary["emotions"]
    recalls = [
        (Cell(name), *(_share(v["recall"].get(e), (v.get("recall_ci95") or {}).get(e)) for e in emotions))
        for name, v in sources.variants.items()
    ]
    caption = "Recall of every emotion in percent, with its 95 % interval over the speakers who were heard with it."
    yield Table("recall", caption, ("variant", *emotions), tuple(recalls))
    for name, variant in sources.variants.items():
        if variant.get("ensemble"):
            yield Text(describe_ensemble(name, variant["ensemble"]))
        if variant.get("by_source"):
            yield Text(describe_sources(name, variant["by_source"]))
    yield from _notes_of((name, v["notes"]) for name, v in sources.variants.items())


def _ua_row(label: str, variant: Mapping[str, Any]) -> draw.Row:
    ua, ends = variant["ua"], variant["ua_ci95"]
    return draw.Row(label, ua, ends, _with_interval(ua, ends), dots=tuple(variant["ua_per_seed"].values()))


def _table_of_variants(sources: Sources) -> Table:
    columns = ["variant", "UA", "WA", "macro F1"]
    figures = list(sources.variants.values())
    extras: list[tuple[str, Callable[[Mapping[str, Any]], Cell]]] = [
        ("SD over seeds, points", lambda v: _cell(v["ua_seed_sd"], _points_without_sign)),
        ("UA per fold, mean ± SD", _per_fold),
        ("parameters", lambda v: _cell(v["parameters"], lambda x: f"{x:,}")),
        ("multiply-adds, millions", lambda v: _cell(_of(v, "cost", "multiply_adds"), lambda x: f"{x / 1e6:,.1f}")),
        ("latency, relative", lambda v: _cell(_of(v, "cost", "latency"), lambda x: f"{x:.2f}")),
        ("runs", lambda v: _cell(v["runs"], str)),
    ]
    used = [(name, cell) for name, cell in extras if any(cell(v).value is not None for v in figures)]
    rows = []
    for name, v in sources.variants.items():
        cells = [_share(v[key], v[f"{key}_ci95"]) for key in ("ua", "wa", "macro_f1")]
        rows.append((Cell(name), *cells, *(cell(v) for _, cell in used)))
    caption = (
        "Figures in percent, each over its 95 % interval over speakers, pooled over folds and averaged over seeds."
    )
    if any(name.startswith("multiply") for name, _ in used):
        seconds = {_of(v, "cost", "seconds") for v in figures} - {None}
        caption += f" Multiply-adds and latency are for {join([f'{s:g} s' for s in sorted(seconds)])} of audio"
        timed = [name for name, v in sources.variants.items() if _of(v, "cost", "latency") is not None]
        caption += f"; latency is relative to {timed[0]}'s, timed by turns." if timed else "."
    return Table("variants", caption, (*columns, *(name for name, _ in used)), tuple(rows))


def _per_fold(variant: Mapping[str, Any]) -> Cell:
    mean, spread = _of(variant, "per_fold", "ua_mean"), _of(variant, "per_fold", "ua_sd")
    if mean is None:
        return Cell("–")
    return Cell(percent(mean), "" if spread is None else f"± {percent(spread)}", mean)


# The factors --------------------------------------------------------------------------------------------------------


def _effects(sources: Sources) -> Iterator[Block]:
    for number, question in enumerate(sources.questions):
        effects = question.get("effects") or []
        if not effects:
            continue
        name = f"effects_{number + 1}_{_slug(question['name'])}"
        kinds = {"main effect": "Main effects", "interaction": "Interactions"}
        rows: dict[str, list[draw.Row]] = {}
        for effect in effects:
            heading = kinds.get(effect.get("kind", ""), "Effects")
            rows.setdefault(heading, []).append(_forest_row(effect, effect["name"]))
        panel = _forest(
            name,
            rows,
            "effect on UA (points)",
            f"Factorial effects for “{question['name']}”. A main effect is a level of a factor against its reference "
            "level, averaged over the other factors; an interaction is how much one effect changes with the other. "
            "Intervals, markers and grey bars as above.",
        )
        yield panel
        crossed = _crossed(sources, question)
        if crossed:
            yield crossed
        cells = [(Cell(effect["name"]), *_difference_cells(effect)) for effect in effects]
        columns = ("effect", "UA, points", "p", "p, Holm", "detectable, points")
        caption = f"The same effects; p values are corrected for the effects of “{question['name']}”."
        yield Table(name, caption, columns, tuple(cells))
        yield from _notes_of((effect["name"], effect.get("notes", ())) for effect in effects)


def _crossed(sources: Sources, question: Mapping[str, Any]) -> Figure | None:
    """UA of each combination of a question's two factors."""
    factors = question.get("factors") or {}
    if len(factors) != 2:
        return None
    (first, along), (second, lines) = sorted(factors.items(), key=lambda item: -len(item[1]))
    of = {
        (levels[first], levels[second]): sources.variants.get(variant) for variant, levels in question["levels"].items()
    }
    figures = {level: [of.get((place, level)) for place in along] for level in lines}
    name = f"combinations_{list(sources.questions).index(question) + 1}_{_slug(question['name'])}"
    description = f"UA by {first} and {second}. " + "; ".join(
        f"{first} {place}, {second} {level}: {percent(variant['ua'])} %"
        for (place, level), variant in of.items()
        if variant
    )
    caption = (
        f"UA at each level of {first}, one line for each {second}, with intervals over speakers. Parallel lines have "
        "no interaction. Intervals are of single variants; the paired effects above are known better."
    )
    readable = {level.replace("_", " "): values for level, values in figures.items()}
    levels = [place.replace("_", " ") for place in along]
    return Figure(name, caption, (Panel(name, description, lambda: draw.interaction_panel(levels, readable)),))


# What it costs, confuses, and how it trained ------------------------------------------------------------------------


def _cost(sources: Sources) -> Iterator[Block]:
    costs = {
        "parameters": ("parameters", lambda v: v["parameters"]),
        "multiply_adds": ("multiply-adds", lambda v: _of(v, "cost", "multiply_adds")),
        "latency": ("relative latency", lambda v: _of(v, "cost", "latency")),
    }
    text = "UA with its interval over speakers against what a variant costs."
    for caption, suffix, of in _grouped(sources, sources.variants, text):
        panels = []
        for name, (label, cost) in costs.items():
            points = [(short, cost(v), v) for n, short in of.items() if cost(v := sources.variants[n])]
            if len(points) < 2:
                continue
            described = "; ".join(f"{short}: {value:,g}, UA {percent(v['ua'])} %" for short, value, v in points)
            make = functools.partial(draw.cost_panel, points, label)
            panels.append(Panel(f"cost_{name}{suffix}", f"UA against {label}. {described}", make))
        if panels:
            yield Figure(f"cost{suffix}", caption, tuple(panels))


def _grouped(sources: Sources, names: Collection[str], caption: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    """For each question its figure's caption, the end of a file's name, and its variants among `names`.

    The caption stands whole under the first figure, the others have their question's name.
    """
    groups = sources.groups()
    for number, (question, of) in enumerate(groups.items(), 1):
        there = {name: short for name, short in of.items() if name in names}
        if there:
            if len(groups) == 1:
                yield caption, "", there
                return
            text = f"{_sentence_case(question or 'other variants')}. {caption}".strip()
            yield text, f"_{number}_{_slug(question or 'others')}", there
            caption = ""


def _confusions(sources: Sources) -> Iterator[Block]:
    emotions = sources.summary["emotions"]
    panels = []
    for name, v in sources.variants.items():
        described = "; ".join(f"{e} recognised {percent(v['recall'].get(e))} %" for e in emotions)
        heading = f"{name}\nUA {percent(v['ua'])} %"
        panels.append(
            Panel(
                sources.file_name("confusion", name),
                f"Confusion matrix of {name}. {described}",
                functools.partial(draw.confusion_panel, heading, v["confusion"], emotions),
            )
        )
    yield Figure(
        "confusion",
        "Percent of each emotion (rows) that was taken for each (columns), over all folds and seeds.",
        tuple(panels),
    )


def _training(sources: Sources) -> Iterator[Block]:
    shown = [
        ("loss", "training loss", 1.0),
        ("accuracy", "training accuracy (%)", 100.0),
        ("validation_ua", "validation UA (%)", 100.0),
    ]
    text = "Learning curves: means over the runs of each variant. Training accuracy is of augmented crops."
    logged = [name for name, entries in sources.curves.items() if entries]
    for caption, suffix, of in _grouped(sources, logged, text):
        curves = {short: sources.curves[name] for name, short in of.items()}
        panels = [
            Panel(
                f"curves_{key}{suffix}",
                f"{label} against epochs of {', '.join(curves)}",
                functools.partial(draw.curves_panel, curves, key, label, scale),
            )
            for key, label, scale in shown
            if any(key in entry for entries in curves.values() for entry in entries)
        ]
        if panels:
            yield Figure(f"curves{suffix}", caption, tuple(panels))


# Who it works for, and when -----------------------------------------------------------------------------------------


def _speakers(sources: Sources) -> Iterator[Block]:
    fair = {name: v["fairness"] for name, v in sources.variants.items() if v.get("fairness")}
    if not fair:
        return
    genders = {
        name: [
            draw.Row(gender, one["ua"], one["ua_ci95"], _with_interval(one["ua"], one["ua_ci95"]), number=number)
            for number, gender in ((1, "female"), (0, "male"))
            if (one := of["genders"].get(gender))
        ]
        for name, of in fair.items()
        if of.get("genders")
    }
    if genders:
        yield _forest(
            "genders",
            genders,
            "UA (%); the line is chance",
            "UA by the gender of the speaker, with 95 % intervals over the speakers of that gender.",
            sources.summary["chance_ua"],
        )
    yield _fairness_table(fair)
    panels = []
    names = sorted({speaker for of in fair.values() for speaker in of.get("speakers") or {}})
    mean = {
        s: _mean([of["speakers"][s]["ua"] for of in fair.values() if s in (of.get("speakers") or {})]) for s in names
    }
    names.sort(key=lambda speaker: -mean[speaker])
    for name, of in fair.items():
        rows = [
            (s, {"ua": one["ua"], "ci95": one.get("ua_ci95"), "gender": one.get("gender")})
            for s in names
            if (one := (of.get("speakers") or {}).get(s)) and one["ua"] is not None
        ]
        described = "; ".join(f"{s}: {percent(one['ua'])} %" for s, one in rows)
        panels.append(
            Panel(
                sources.file_name("speakers", name),
                f"UA of each speaker under {name}. {described}",
                functools.partial(draw.speakers_panel, name, rows, sources.variants[name]["ua"]),
            )
        )
    yield Figure(
        "speakers",
        "UA of every speaker, those recognised best at the top (mean over variants, so all panels have one order); the "
        "dashed line is the pooled UA. Intervals are over that speaker's utterances.",
        tuple(panels),
    )
    yield from _notes_of((name, of.get("notes", ())) for name, of in fair.items())


def _fairness_table(fair: Mapping[str, Mapping]) -> Table:
    rows = []
    for name, of in fair.items():
        genders, gap = of.get("genders") or {}, of.get("gender_gap") or {}
        difference, ends = gap.get("ua_difference"), gap.get("ci95")
        cells = [_share(*((genders.get(g) or {}).get(key) for key in ("ua", "ua_ci95"))) for g in ("female", "male")]
        cells.append(Cell(_points(difference), "" if ends is None else _ends(ends), difference))
        for key in ("worst", "best"):
            one = (of.get("speakers") or {}).get(of.get(key)) or {}
            cells.append(Cell(percent(one.get("ua")).replace("-", "–"), str(of.get(key) or ""), one.get("ua")))
        cells += [_cell(of.get(key), _points_without_sign) for key in ("spread", "spread_by_chance")]
        rows.append((Cell(name), *cells))
    columns = (
        "variant",
        "UA female",
        "UA male",
        "gap, points",
        "worst speaker",
        "best speaker",
        "SD over speakers",
        "SD by chance",
    )
    caption = (
        "UA by gender in percent, the gap (female less male) in points, the speakers with the lowest and the highest "
        "UA, and the standard deviation over speakers beside what it would be if all speakers had the same recalls."
    )
    return Table("fairness", caption, columns, tuple(rows))


def _calibration(sources: Sources) -> Iterator[Block]:
    known = {
        name: c for name, v in sources.variants.items() if (c := v.get("calibration")) and c.get("ece") is not None
    }
    if not known:
        return
    panels = []
    for name, c in known.items():
        heading = f"{name}\nECE {percent(c['ece'])} %"
        panels.append(
            Panel(
                sources.file_name("reliability", name),
                f"Reliability curve of {name}: expected calibration error {percent(c['ece'])} %",
                functools.partial(draw.reliability_panel, heading, c["reliability"]),
            )
        )
    rows = []
    for name, c in known.items():
        temperature = c.get("temperature") or {}
        runs = f"{temperature['lowest']:.2f}–{temperature['highest']:.2f}" if temperature.get("lowest") else ""
        middle = temperature.get("median")
        cells = [
            _share(c["ece"], c.get("ece_ci95")),
            _share(c.get("ece_by_chance"), None),
            _share(c.get("ece_scaled"), None),
            _decimal(c.get("brier"), c.get("brier_ci95")),
            _decimal(c.get("brier_scaled"), None),
            Cell("–" if middle is None else f"{middle:.2f}", runs, middle),
        ]
        rows.append((Cell(name), *cells))
    columns = ("variant", "ECE, %", "ECE by chance, %", "ECE scaled, %", "Brier", "Brier scaled", "temperature")
    caption = (
        "Expected calibration error (ECE, ten bins) with its interval, what a perfectly calibrated variant would show "
        "of it by chance, and after the logits were divided by a temperature fitted to each run's validation speakers; "
        "the Brier score is summed over classes (0 to 2). Temperature: median over runs, over its range."
    )
    yield Table("calibration", caption, columns, tuple(rows))
    caption = (
        "Share of predictions that are right against their confidence, over all folds and seeds; on the diagonal "
        "confidence is what it says. Bars count the predictions of each bin."
    )
    yield Figure("reliability", caption, tuple(panels))
    yield from _notes_of((name, c.get("notes", ())) for name, c in known.items())


def _robustness(sources: Sources) -> Iterator[Block]:
    robustness = sources.summary.get("robustness") or {}
    of = robustness.get("variants") or {}
    if not of:
        return
    conditions = [name for name in robustness["conditions"] if name != "clean"]
    variants = [name for name in sources.variants if name in of]
    families = {
        "noise": ("Added noise (signal-to-noise ratio, dB)", lambda c: c.removeprefix("noise_")),
        "reverberation": ("Reverberation (T60, s)", lambda c: c.removeprefix("reverberation_")),
        "band": ("Limited band (upper limit, Hz; telephone)", lambda c: c.removeprefix("band_limit_")),
        "known": ("Recordings of the speaker that are known", lambda c: str(KNOWN[c])),
    }
    family_of = {
        c: "known" if c in KNOWN else next((f for f in families if c.startswith(f)), "band") for c in conditions
    }
    text = (
        "UA on disturbed recordings, or on few of a speaker, with intervals over speakers; the dotted line is chance."
    )
    for caption, suffix, group in _grouped(sources, variants, text):
        panels = []
        for family, (heading, short) in families.items():
            members = [c for c in conditions if family_of[c] == family]
            if not members:
                continue
            lines = {label: [sources.variants[v], *(of[v].get(c) for c in members)] for v, label in group.items()}
            described = "; ".join(
                f"{label}, {c}: {percent(of[v][c]['ua'])} %"
                for v, label in group.items()
                for c in members
                if c in of[v]
            )
            labels = ["clean", *map(short, members)]
            make = functools.partial(draw.robustness_panel, heading, labels, lines, sources.summary["chance_ua"])
            panels.append(Panel(f"robustness_{family}{suffix}", f"{heading}: UA. {described}", make))
        yield Figure(f"robustness{suffix}", caption, tuple(panels))
    rows = []
    for v in variants:
        cells = [_share(sources.variants[v]["ua"], sources.variants[v]["ua_ci95"])]
        for c in conditions:
            one = of[v].get(c) or {}
            ends, difference = one.get("difference_ci95"), one.get("difference")
            cells.append(Cell(_points(difference), "" if ends is None else _ends(ends), difference))
        rows.append((Cell(v), *cells))
    columns = ("variant", "clean UA", *(c.replace("_", " ") for c in conditions))
    caption = "UA on clean recordings in percent, and the paired change under each condition in points."
    yield Table("robustness", caption, columns, tuple(rows))


def _attention(sources: Sources) -> Iterator[Block]:
    for name, path in sources.pictures.items():
        yield Picture(
            sources.file_name("attention", name), f"{name}: what its attention looked at in one recording.", Path(path)
        )


# How it was measured ------------------------------------------------------------------------------------------------


def _conditions(sources: Sources) -> Iterator[Block]:
    summary = sources.summary
    facts = [("Corpus", _corpus(sources))]
    licence = sources.corpus.get("licence")
    if licence:
        facts.append(("Licence of the corpus", _licence(licence)))
    if summary.get("protocol"):
        text = str(summary["protocol"]).replace("_", " ")
        if summary.get("protocol_description"):
            text += f": {summary['protocol_description']}"
        elif "speaker_independent" in summary:
            text += ": speaker-independent" if summary["speaker_independent"] else ": SPEAKER-DEPENDENT"
        facts.append(("Protocol", text))
    facts += [("Runs", _runs(sources)), ("Smallest detectable difference", _detectable(sources))]
    hardware = summary.get("hardware") or {}
    if hardware:
        devices = count(hardware["devices"], "device") if hardware.get("devices") else ""
        parts = [hardware.get("device"), hardware.get("platform"), devices]
        facts.append(("Hardware", ", ".join(str(part) for part in parts if part)))
    if summary.get("seconds"):
        facts.append(("Time", _time(summary["seconds"])))
    if summary.get("versions"):
        facts.append(("Versions", ", ".join(f"{name} {version}" for name, version in summary["versions"].items())))
    code = summary.get("code") or {}
    if code:
        hashes = {value[:12] for value in code.values()}
        facts.append(("Code", f"version {join(sorted(hashes))} (a hash of what results depend on)"))
    yield Facts(tuple(facts))
    audit = summary.get("audit")
    if audit:
        yield Text(_verdict(audit))
        if audit.get("findings"):
            yield Items(tuple(_sentence_case(finding) for finding in audit["findings"]))


def _corpus(sources: Sources) -> str:
    text = sources.summary["corpus"]
    if sources.corpus.get("description"):
        text += f". {' '.join(str(sources.corpus['description']).split())}"
    if sources.summary.get("fingerprint"):
        text = f"{text.rstrip('.')}. Fingerprint {sources.summary['fingerprint'][:16]}"
    return f"{text.rstrip('.')}."


def _licence(licence: str) -> str:
    text = f"{licence}."
    if "-NC" in licence.upper():
        text += " Non-commercial use only; models trained on it inherit that."
    if "-SA" in licence.upper():
        text += " What is derived from it is shared under the same licence."
    if licence.upper().startswith("CC"):
        text += " Its authors are to be cited." if "CC0" not in licence.upper() else ""
    return text


def _runs(sources: Sources) -> str:
    variants = sources.variants.values()
    folds, seeds = max(v["folds"] for v in variants), max(v["seeds"] for v in variants)
    text = (
        f"{count(sum(v['runs'] for v in variants), 'run')}: {count(len(variants), 'variant')} × {count(folds, 'fold')}"
    )
    text += f" × {count(seeds, 'seed')}"
    return text + (". With one seed, how much UA varies between seeds is not known." if seeds == 1 else ".")


def _detectable(sources: Sources) -> str:
    known = [c["detectable"] for c in sources.summary["comparisons"]]
    known = [value for value in known if value is not None]
    if not known:
        return "not known: no comparison has an interval."
    low, high = (_points(value, sign=False) for value in (min(known), max(known)))
    span = f"{low} points" if low == high else f"{low} to {high} points, by comparison"
    return f"{span} (the true difference of UA that 80 % of such studies would show)."


def _time(seconds: Mapping[str, float]) -> str:
    def clock(value: float) -> str:
        value = round(value)
        hours, minutes = value // 3600, value // 60 % 60
        if value < 60:
            return f"{value} s"
        return f"{hours} h {minutes} min" if hours else f"{minutes} min {value % 60} s"

    phases = [f"{name} {clock(spent)}" for name, spent in seconds.items() if name != "total" and spent >= 0.5]
    total = seconds.get("total")
    return ". Of this: ".join(part for part in (clock(total) if total else "", ", ".join(phases)) if part) + "."


def _verdict(audit: Mapping[str, Any]) -> str:
    """The audit's verdict in a sentence."""
    folds = audit.get("folds") or []
    where = f"The audit of the split ({count(len(folds), 'fold')})" if folds else "The audit of the split"
    recordings = any(fold.get("recordings") for fold in folds)
    if audit.get("leaks_speakers"):
        return f"{where} found SPEAKERS on both sides of training and test: figures are speaker-dependent."
    if recordings:
        return f"{where} found recordings on both sides of training and test."
    if any("SPEAKERS UNKNOWN" in finding for finding in audit.get("findings", ())):
        return f"{where} cannot say whether training and test share speakers."
    texts = any(fold.get("texts") for fold in folds)
    also = "; texts are shared" if texts else ""
    return f"{where} found no speaker and no recording on both sides of training and test{also}."


def _missing(sources: Sources) -> Iterator[Block]:
    failed = sources.summary.get("failed") or {}
    items = [f"{name} failed: {message}" for name, message in failed.items()]
    variants = sources.variants.values()
    absent = {
        "an audit of the split": not sources.summary.get("audit"),
        "factorial effects": bool(sources.questions) and not any(q.get("effects") for q in sources.questions),
        "multiply-adds": not any(_of(v, "cost", "multiply_adds") for v in variants),
        "latency": not any(_of(v, "cost", "latency") for v in variants),
        "learning curves": not sources.curves,
        "figures by speaker and gender": not any(v.get("fairness") for v in variants),
        "calibration": not any(v.get("calibration") for v in variants),
        "robustness": not sources.summary.get("robustness"),
        "attention pictures": not sources.pictures,
        "the licence of the corpus": not sources.corpus.get("licence"),
        "hardware": not sources.summary.get("hardware"),
        "the variants' configurations": not sources.configs,
    }
    left_out = [what for what, is_absent in absent.items() if is_absent]
    if left_out:
        items.append(f"Not recorded, and so not in this report: {', '.join(left_out)}.")
    if items:
        yield Items(tuple(items))


def _methods(sources: Sources) -> Iterator[Block]:
    citation = sources.corpus.get("citation") or ""
    text = methods.paragraph(sources.summary, sources.configs, sources.corpus)
    yield Text(methods.plain(text, citation))
    yield Code("BibTeX", methods.bibtex(methods.citations(text), citation))


# Numbers in words ---------------------------------------------------------------------------------------------------


def _points(share: float | None, *, sign: bool = True) -> str:
    """A share as points with one decimal: "+1.2", "−0.8"; a dash for None."""
    if share is None:
        return "–"
    value = round(100 * share, 1) + 0.0  # no minus before a zero
    text = f"{value:+.1f}" if sign else f"{value:.1f}"
    return text.replace("-", "−")


def _points_without_sign(share: float) -> str:
    return _points(share, sign=False)


def _ends(ends: Sequence[float]) -> str:
    return f"[{_points(ends[0])}, {_points(ends[1])}]"


def _difference(difference: float, ends: Sequence[float] | None, unit: str = "") -> str:
    return f"{_points(difference)}{unit}" + ("" if ends is None else f" {_ends(ends)}")


def _with_interval(share: float, ends: Sequence[float] | None) -> str:
    return percent(share) + ("" if ends is None else f" [{percent(ends[0])}, {percent(ends[1])}]")


def _share(share: float | None, ends: Sequence[float] | None) -> Cell:
    if share is None:
        return Cell("–")
    return Cell(percent(share), "" if ends is None else f"{percent(ends[0])}–{percent(ends[1])}", share)


def _decimal(value: float | None, ends: Sequence[float] | None) -> Cell:
    if value is None:
        return Cell("–")
    return Cell(f"{value:.3f}", "" if ends is None else f"{ends[0]:.3f}–{ends[1]:.3f}", value)


def _cell(value: Any, form: Callable[[Any], str]) -> Cell:
    return Cell("–") if value is None else Cell(form(value), value=value)


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _of(variant: Mapping[str, Any], group: str, key: str) -> Any:
    return (variant.get(group) or {}).get(key)


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else 0.0


def _notes_of(about: Any) -> Iterator[Block]:
    """Every note once, with what it is about where that is not everything."""
    notes: dict[str, list[str]] = {}
    names = []
    for name, of in about:
        names.append(name)
        for note in of:
            notes.setdefault(note, []).append(name)
    if notes:
        yield Items(
            tuple(
                _sentence_case(note) + ("" if len(of) == len(names) else f" ({_some(of)})")
                for note, of in notes.items()
            )
        )


def _beneath(question: str, variant: str) -> str:
    """A variant's name without that of the question that it stands under."""
    return variant.removeprefix(f"{question}: ")


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]


def _slug(name: str) -> str:
    """A name as part of a file's name."""
    return "_".join(re.findall(r"\w+", name.replace("_", " "))).lower() or "variant"
