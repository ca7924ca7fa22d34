"""The answers, the differences between variants, and the effects of factors."""

from collections.abc import Iterator, Sequence

from ser_jax.report import figures as draw
from ser_jax.report import numbers
from ser_jax.report.answers import answer_parts, describe, describe_difference, sentence, what_would_decide
from ser_jax.report.blocks import Answer, Block, Cell, Figure, Items, Panel, Table
from ser_jax.report.sections.common import SEEDS, cell, forest, notes_of, points_cell
from ser_jax.report.sources import Sources, beneath, slug
from ser_jax.report.summary import Question
from ser_jax.statistics.paired import Comparison

_COLUMNS = (
    "UA, points",
    "p, Holm (alone)",
    "verdict",
    "detectable, points",
    "seeds' share, %",
    "twice the seeds, twice the speakers",
    "p, Nadeau-Bengio",
)


def answers(sources: Sources) -> Iterator[Block]:
    """The answer to each question, or each comparison of a study without questions."""
    comparisons = sources.summary.comparisons
    for question in sources.questions:
        lead, says = _parts(question, sources)
        yield Answer(
            numbers.sentence_case(question.name.replace("_", " ")) or "Comparisons", question.text, tuple(says), lead
        )
    yield from notes_of((question.name, question.notes) for question in sources.questions)
    if not sources.questions:
        for one in comparisons:
            yield Answer(numbers.sentence_case(describe(one)), "", (sentence(one),))
    stated = _each_once(comparisons, sources.questions)
    decisive = tuple(text for one in stated if (text := what_would_decide(one)))
    if decisive:
        yield Items(decisive)
    if not sources.summary.emotions:
        yield from _answers_by_scores(sources)
    elif not comparisons and not any(question.effects for question in sources.questions):
        name, best = max(sources.variants.items(), key=lambda item: item[1].ua.value)
        text = f"The highest UA is {numbers.percent_with(best.ua.value, best.ua.ci95)} %, of {name}."
        if len(sources.variants) > 1:
            text += (
                " This study names no comparisons, so it does not test which differences between its variants are "
                "more than chance: intervals of single variants do not answer that, and the highest of several is "
                "partly the luckiest."
            )
        yield Answer("No comparison", "", (text,))


def _parts(question: Question, sources: Sources) -> tuple[str, list[str]]:
    """What holds for a whole answer, and its sentences: made again, since a summary stores them as one paragraph."""
    summary = sources.summary
    if summary.emotions:
        return answer_parts(question, [summary.comparisons[i] for i in question.comparisons])
    said, rest = [], f"{question.answer} "
    for text in (f"{describe_difference(one, summary.scores)} " for one in summary.score_differences):
        if rest.startswith(text):  # in the order in which `summarise` joined them
            said.append(text.rstrip())
            rest = rest.removeprefix(text)
    return "", [question.answer] if rest else said


def _answers_by_scores(sources: Sources) -> Iterator[Block]:
    """What is said of a corpus without emotions beside its questions: differences of scores, or the highest ones."""
    titles, found = sources.summary.scores, sources.summary.score_differences
    if found and not sources.questions:
        yield Answer("Comparisons", "", tuple(describe_difference(one, titles) for one in found))
    if found:
        return
    best = []
    for score, title in titles.items():
        known = [(name, v.scores[score]) for name, v in sources.variants.items() if score in v.scores]
        if known:
            name, one = max(known, key=lambda item: item[1].value)
            best.append(f"The highest {title} is {numbers.decimal_with(one.value, one.ci95)}, of {name}.")
    if best:
        yield Answer("No comparison", "", tuple(best))


def _each_once(comparisons: Sequence[Comparison], questions: Sequence[Question]) -> list[Comparison]:
    """The comparisons that the answers state: main effects of crossed questions, pairs of the others."""
    crossed = {i for question in questions if question.effects for i in question.comparisons}
    mains = [effect for question in questions for effect in question.effects if effect.kind == "main effect"]
    return [*mains, *(one for i, one in enumerate(comparisons) if i not in crossed)]


def differences(sources: Sources) -> Iterator[Block]:
    """All comparisons as a forest plot and as a table."""
    comparisons = sources.summary.comparisons
    if not comparisons:
        return
    groups = _by_question(sources)
    rows = {
        heading: [forest_row(comparisons[i], _pair(comparisons[i], heading)) for i in of]
        for heading, of in groups.items()
    }
    margin = f"{100 * sources.summary.margin:g} points"
    yield forest(
        "forest",
        rows,
        "difference of UA (points); to the right, the variant is better",
        "Paired differences of UA between each variant and its baseline, with 95 % intervals over speakers. The marker "
        "is filled where the interval excludes zero; intervals are not corrected for their number, verdicts are. Grey "
        "bars reach as far as the smallest difference that 80 % of such studies detect"
        f"{SEEDS if any(row.dots[1:] for of in rows.values() for row in of) else ''}.",
    )
    order = [i for of in groups.values() for i in of]
    table = []
    for one in (comparisons[i] for i in order):
        runs = Cell(f"{one.folds} × {one.seeds}", value=one.folds * one.seeds)
        table.append((Cell(one.variant or ""), Cell(one.baseline or ""), *_cells(one), runs))
    caption = (
        "The same differences. Interval, p, verdict and detectable difference follow from one estimate and one "
        "standard error; p is corrected (Holm) for all comparisons of a question. The verdict is a difference, "
        f"equivalence within {margin} (two one-sided tests), or undecided. Detectable: the smallest true difference "
        "for which 80 % of such studies reach the verdict “difference”. Seeds' share: how much of the squared "
        "standard error is noise of training; the next column has the half widths of the interval to expect with twice "
        "the seeds and with twice the speakers. The test of Nadeau and Bengio over runs is a sensitivity analysis."
    )
    columns = ("variant", "against", *_COLUMNS, "folds × seeds")
    yield Table("comparisons", caption, columns, tuple(table), words=2)
    yield from notes_of((_pair(one), one.notes) for one in comparisons)


def _by_question(sources: Sources) -> dict[str, list[int]]:
    """Numbers of comparisons by the question that they belong to, each under the first that has it."""
    groups: dict[str, list[int]] = {}
    seen: set[int] = set()
    for question in sources.questions:
        fresh = [i for i in question.comparisons if i not in seen]
        seen |= set(fresh)
        if fresh:
            groups[question.name] = fresh
    rest = [i for i in range(len(sources.summary.comparisons)) if i not in seen]
    if rest:
        groups["other comparisons" if groups else ""] = rest
    return groups


def _pair(comparison: Comparison, question: str = "") -> str:
    return f"{beneath(question, comparison.variant or '')} against {beneath(question, comparison.baseline or '')}"


def forest_row(comparison: Comparison, label: str) -> draw.Row:
    """A comparison as a line of a forest plot."""
    return draw.Row(
        label=label,
        value=comparison.estimate,
        ci95=comparison.ci95,
        text=numbers.points_with(comparison.estimate, comparison.ci95),
        detectable=comparison.detectable and min(comparison.detectable, 1.0),
        dots=tuple(comparison.seed_differences.values()),
    )


def _cells(one: Comparison) -> list[Cell]:
    return [
        points_cell(one.estimate, one.ci95),
        Cell(numbers.p_value(one.p_holm), numbers.p_value(one.p), one.p_holm),
        Cell(one.verdict or numbers.MISSING),
        cell(one.detectable, lambda share: numbers.detectable([share])),
        cell(one.seeds_share, lambda share: f"{100 * share:.0f}"),
        _widths(one),
        cell(one.nadeau_bengio and one.nadeau_bengio.p, numbers.p_value),
    ]


def _widths(one: Comparison) -> Cell:
    """Half the interval's width with twice the seeds, over that with twice the speakers."""
    if one.with_twice_seeds is None or one.with_twice_speakers is None:
        return Cell(numbers.MISSING)
    seeds, speakers = (f"± {numbers.points(w, sign=False)}" for w in (one.with_twice_seeds, one.with_twice_speakers))
    return Cell(seeds, speakers, one.with_twice_seeds)


# The factors --------------------------------------------------------------------------------------------------------


def effects(sources: Sources) -> Iterator[Block]:
    """Main effects and interactions of each question that crosses factors."""
    kinds = {"main effect": "Main effects", "interaction": "Interactions"}
    for number, question in enumerate(sources.questions):
        if not question.effects:
            continue
        name = f"effects_{number + 1}_{slug(question.name)}"
        rows: dict[str, list[draw.Row]] = {}
        for effect in question.effects:
            rows.setdefault(kinds.get(effect.kind, "Effects"), []).append(forest_row(effect, effect.name))
        yield forest(
            name,
            rows,
            "effect on UA (points)",
            f"Factorial effects for “{question.name}”. A main effect is a level of a factor against its reference "
            "level, averaged over the other factors; an interaction is how much one effect changes with the other. "
            "Intervals, markers and grey bars as above.",
        )
        crossed = _crossed(sources, question)
        if crossed:
            yield crossed
        cells = [(Cell(effect.name), *_cells(effect)) for effect in question.effects]
        caption = f"The same effects; p values are corrected for all comparisons of “{question.name}”."
        yield Table(name, caption, ("effect", *_COLUMNS), tuple(cells))
        yield from notes_of((effect.name, effect.notes) for effect in question.effects)


def _crossed(sources: Sources, question: Question) -> Figure | None:
    """UA of each combination of a question's two factors."""
    if len(question.factors) != 2:
        return None
    (first, along), (second, lines) = sorted(question.factors.items(), key=lambda item: -len(item[1]))
    of = {(levels[first], levels[second]): sources.variants.get(variant) for variant, levels in question.levels.items()}
    figures = {level: [of.get((place, level)) for place in along] for level in lines}
    name = f"combinations_{list(sources.questions).index(question) + 1}_{slug(question.name)}"
    description = f"UA by {first} and {second}. " + "; ".join(
        f"{first} {place}, {second} {level}: {numbers.percent(variant.ua.value)} %"
        for (place, level), variant in of.items()
        if variant
    )
    caption = (
        f"UA at each level of {first}, one line for each {second}, with intervals over speakers. Parallel lines have "
        "no interaction. Intervals are of single variants; the paired effects above are more precise."
    )
    readable = {level.replace("_", " "): [one and one.ua for one in values] for level, values in figures.items()}
    levels = [place.replace("_", " ") for place in along]
    return Figure(name, caption, (Panel(name, description, lambda: draw.interaction_panel(levels, readable)),))
