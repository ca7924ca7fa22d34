"""Each variant by itself: its figures, what it costs, what it confuses, how it trained and where its attention lies."""

import functools
from collections.abc import Callable, Iterator

from ser_jax.report import figures as draw
from ser_jax.report import numbers
from ser_jax.report.blocks import Block, Cell, Figure, Panel, Picture, Table, Text
from ser_jax.report.sections.common import SEEDS, cell, forest, measure_cell, notes_of
from ser_jax.report.sources import Sources
from ser_jax.report.summary import TRANSDUCTIVE, Ensemble, Measure, Part, Spread, Variant


def variants(sources: Sources) -> Iterator[Block]:
    """UA as a forest plot, all metrics and recalls as tables, ensembles and source corpora in words."""
    if sources.summary.emotions:
        yield _ua(sources)
    if any(variant.known.setting == TRANSDUCTIVE for variant in sources.variants.values()):
        yield Text(_transductive(sources))
    yield _table(sources)
    if sources.summary.emotions:
        yield _recall(sources)
    titles = sources.summary.metrics
    for name, variant in sources.variants.items():
        if variant.known.training_accuracy is not None:
            yield Text(describe_learning(name, variant))
        if variant.ensemble:
            yield Text(describe_ensemble(name, variant.ensemble, titles))
        if variant.by_source:
            yield Text(describe_sources(name, variant.by_source))
        if variant.known.tracks:
            yield Text(describe_tracks(name, variant.known.tracks))
    yield from notes_of((name, v.notes) for name, v in sources.variants.items())


def _ua(sources: Sources) -> Figure:
    rows = {
        heading: [_ua_row(label, sources.variants[name]) for name, label in of.items()]
        for heading, of in sources.groups().items()
    }
    chance = sources.summary.chance_ua
    seeds = any(row.dots[1:] for of in rows.values() for row in of)
    return forest(
        "ua",
        rows,
        "UA (%); the line is chance",
        f"UA of every variant with its 95 % interval over speakers; the line is chance, {numbers.percent(chance)} %, "
        f"and the marker is filled where the interval excludes it{SEEDS if seeds else ''}. These intervals do not show "
        "whether two variants differ: the variants share speakers, so their paired difference is more precise.",
        chance,
    )


def _recall(sources: Sources) -> Table:
    emotions = sources.summary.emotions
    recalls = [(Cell(name), *(measure_cell(v.recall.get(e)) for e in emotions)) for name, v in sources.variants.items()]
    caption = "Recall of every emotion in percent, with its 95 % interval over the speakers who have it."
    return Table("recall", caption, ("variant", *emotions), tuple(recalls))


def _transductive(sources: Sources) -> str:
    uses: dict[str, list[str]] = {}
    for name, variant in sources.variants.items():
        if variant.known.uses_speaker:
            uses.setdefault(numbers.join(variant.known.uses_speaker), []).append(name)
    every = len(sources.variants)
    parts = [f"{'all' if len(of) == every else numbers.some(of)} by {what}" for what, of in uses.items()]
    return (
        "Inductive figures recognise each recording by itself. Transductive figures also use the tested speaker's "
        f"other recordings, without their labels: {'; '.join(parts)}."
    )


def _ua_row(label: str, variant: Variant) -> draw.Row:
    text = numbers.percent_with(variant.ua.value, variant.ua.ci95)
    return draw.Row(label, variant.ua.value, variant.ua.ci95, text, dots=tuple(variant.ua_per_seed.values()))


def _table(sources: Sources) -> Table:
    titles = sources.summary.metrics
    figures = list(sources.variants.values())
    extras: list[tuple[str, Callable[[Variant], Cell]]] = [
        ("SD over seeds, points", lambda v: cell(v.ua_seed_sd, lambda sd: numbers.points(sd, sign=False))),
        ("UA per fold, mean ± SD", _per_fold),
        ("parameters", lambda v: cell(v.known.parameters, numbers.whole)),
        ("multiply-adds, millions", lambda v: cell(v.known.cost and v.known.cost.multiply_adds, numbers.millions)),
        ("latency, relative", lambda v: cell(v.known.cost and v.known.cost.latency, lambda x: f"{x:.2f}")),
        ("runs", lambda v: cell(v.runs, str)),
    ]
    used = [(name, make) for name, make in extras if any(make(v).value is not None for v in figures)]
    rows = []
    for name, v in sources.variants.items():
        measured = [measure_cell(v.metrics.get(metric)) for metric in titles]
        rows.append((Cell(name), Cell(v.known.setting), *measured, *(make(v) for _, make in used)))
    caption = (
        "Figures in percent, each over its 95 % interval over speakers, pooled over folds and averaged over seeds."
    )
    costs = [v.known.cost for v in figures if v.known.cost]
    if costs:
        seconds = numbers.join([f"{s:g} s" for s in sorted({cost.seconds for cost in costs})])
        caption += f" Multiply-adds and latency are for {seconds} of audio"
        timed = [name for name, v in sources.variants.items() if v.known.cost and v.known.cost.latency is not None]
        caption += f"; latency is relative to that of {timed[0]}, timed by turns." if timed else "."
    columns = ("variant", "setting", *titles.values(), *(name for name, _ in used))
    return Table("variants", caption, columns, tuple(rows), words=2)


def _per_fold(variant: Variant) -> Cell:
    spread = variant.per_fold.get("ua", Spread(None, None))
    under = "" if spread.sd is None else f"± {numbers.percent(spread.sd)}"
    return Cell(numbers.percent(spread.mean), under, spread.mean)


def describe_ensemble(variant: str, ensemble: Ensemble, titles: dict[str, str]) -> str:
    """Says what a variant's seeds reach together."""
    reached = [
        f"{titles.get(name, name)} {numbers.percent_with(one.value, one.ci95)}"
        for name, one in ensemble.metrics.items()
    ]
    return f"{variant}, its {ensemble.seeds} seeds as an ensemble (mean of their probabilities): {', '.join(reached)}."


def describe_learning(name: str, variant: Variant) -> str:
    """Says how accurate a variant was on what it learnt from, on validation speakers, and on test speakers."""
    parts = [f"training accuracy {numbers.percent(variant.known.training_accuracy)} % (of augmented crops, at the end)"]
    if variant.validation_ua is not None:
        parts.append(f"validation UA {numbers.percent(variant.validation_ua)} %")
    return f"{name}: {', '.join([*parts, f'test UA {numbers.percent(variant.ua.value)} %'])}."


def describe_sources(variant: str, sources: dict[str, Part]) -> str:
    """Says what a variant reaches on each of the corpora that were merged."""
    parts = [
        f"{name} {numbers.percent_with(part.metrics['ua'].value, part.metrics['ua'].ci95)}"
        for name, part in sources.items()
    ]
    return f"{variant}, UA by source corpus: {', '.join(parts)}."


def describe_tracks(variant: str, tracks: dict[str, Measure]) -> str:
    """Says how well a variant's time-continuous predictions agree with their reference."""
    parts = [
        f"{name} {numbers.decimal_with(one.value, one.ci95)}" for name, one in tracks.items() if one.value is not None
    ]
    return f"{variant}, concordance correlation coefficients over all frames: {', '.join(parts)}."


def cost(sources: Sources) -> Iterator[Block]:
    """UA against parameters, multiply-adds and latency."""
    if not sources.summary.emotions:
        return
    costs: dict[str, tuple[str, Callable[[Variant], float | None]]] = {
        "parameters": ("parameters", lambda v: v.known.parameters),
        "multiply_adds": ("multiply-adds", lambda v: v.known.cost and v.known.cost.multiply_adds),
        "latency": ("relative latency", lambda v: v.known.cost and v.known.cost.latency),
    }
    text = "UA with its interval over speakers against what a variant costs."
    for caption, suffix, of in sources.grouped(sources.variants, text):
        panels = []
        for name, (label, cost_of) in costs.items():
            points = [(short, c, v.ua) for n, short in of.items() if (c := cost_of(v := sources.variants[n]))]
            if len(points) < 2:
                continue
            described = "; ".join(
                f"{short}: {value:,g}, UA {numbers.percent(ua.value)} %" for short, value, ua in points
            )
            make = functools.partial(draw.cost_panel, points, label)
            panels.append(Panel(f"cost_{name}{suffix}", f"UA against {label}. {described}", make))
        if panels:
            yield Figure(f"cost{suffix}", caption, tuple(panels))


def confusions(sources: Sources) -> Iterator[Block]:
    """A confusion matrix for each variant."""
    emotions = sources.summary.emotions
    if not emotions:
        return
    panels = []
    for name, v in sources.variants.items():
        recalls = [f"{e} recognised {numbers.percent(v.recall[e].value)} %" for e in emotions if e in v.recall]
        heading = f"{name}\nUA {numbers.percent(v.ua.value)} %"
        make = functools.partial(draw.confusion_panel, heading, v.confusion, emotions)
        described = f"Confusion matrix of {name}. {'; '.join(recalls)}"
        panels.append(Panel(sources.file_name("confusion", name), described, make, variant=name))
    caption = "Percent of each emotion (rows) that was taken for each (columns), over all folds and seeds."
    yield Figure("confusion", caption, tuple(panels))


def training(sources: Sources) -> Iterator[Block]:
    """Learning curves."""
    shown = [
        ("loss", "training loss", 1.0),
        ("accuracy", "training accuracy (%)", 100.0),
        ("validation_ua", "validation UA (%)", 100.0),
        ("dimensions_concordance", "training CCC", 1.0),
    ]
    text = "Learning curves: means over the runs of each variant. Training accuracy is of augmented crops."
    logged = [name for name, entries in sources.curves.items() if entries]
    for caption, suffix, of in sources.grouped(logged, text):
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


def attention(sources: Sources) -> Iterator[Block]:
    """The attention weights of each variant for one recording."""
    for name, path in sources.pictures.items():
        yield Picture(sources.file_name("attention", name), f"{name}: attention weights for one recording.", path)
