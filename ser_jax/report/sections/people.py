"""Who the variants work for, how far their confidence holds, and how robust they are."""

import functools
from collections.abc import Iterator, Mapping

from ser_jax.corpora.perturbations import KNOWN
from ser_jax.report import figures as draw
from ser_jax.report import numbers
from ser_jax.report.blocks import Block, Cell, Figure, Panel, Table
from ser_jax.report.sections.common import decimal_cell, forest, measure_cell, notes_of, points_cell, share_cell
from ser_jax.report.sources import Sources
from ser_jax.report.summary import Condition, Fairness, Measure


def speakers(sources: Sources) -> Iterator[Block]:
    """UA by gender and by speaker."""
    fair = {name: v.fairness for name, v in sources.variants.items() if v.fairness}
    if not fair:
        return
    genders = {
        name: [
            draw.Row(gender, one.ua, one.ua_ci95, numbers.percent_with(one.ua, one.ua_ci95), number=number)
            for number, gender in ((1, "female"), (0, "male"))
            if (one := of.genders.get(gender)) and one.ua is not None
        ]
        for name, of in fair.items()
        if of.genders
    }
    if any(genders.values()):
        yield forest(
            "genders",
            genders,
            "UA (%); the line is chance",
            "UA by the gender of the speaker, with 95 % intervals over the speakers of that gender.",
            sources.summary.chance_ua,
        )
    table = _table(fair)
    if any(cell.value is not None for row in table.rows for cell in row):
        yield table
    known = {name: {s: one for s, one in of.speakers.items() if one.ua is not None} for name, of in fair.items()}
    means = {
        s: sum(values) / len(values)
        for s in sorted({speaker for of in known.values() for speaker in of})
        if (values := [of[s].ua for of in known.values() if s in of])
    }
    panels = []
    for name, of in known.items():
        rows = [(s, of[s]) for s in sorted(means, key=lambda speaker: -means[speaker]) if s in of]
        described = "; ".join(f"{s}: {numbers.percent(one.ua)} %" for s, one in rows)
        make = functools.partial(draw.speakers_panel, name, rows, sources.variants[name].ua.value)
        described = f"UA of each speaker under {name}. {described}"
        panels.append(Panel(sources.file_name("speakers", name), described, make, variant=name))
    yield Figure(
        "speakers",
        "UA of every speaker, those recognised best at the top (mean over variants, so all panels have one order); the "
        "dashed line is the pooled UA. Intervals are over that speaker's utterances.",
        tuple(panels),
    )
    yield from notes_of((name, of.notes) for name, of in fair.items())


def _table(fair: Mapping[str, Fairness]) -> Table:
    rows = []
    for name, of in fair.items():
        by_gender = [(of.genders or {}).get(gender) for gender in ("female", "male")]
        cells = [share_cell(one.ua, one.ua_ci95) if one else share_cell(None) for one in by_gender]
        cells.append(points_cell(of.gender_gap and of.gender_gap.ua_difference, of.gender_gap and of.gender_gap.ci95))
        for speaker in (of.worst, of.best):
            ua = of.speakers[speaker].ua if speaker is not None else None
            cells.append(Cell(numbers.percent(ua), speaker or "", ua))
        cells += [points_cell(spread, sign=False) for spread in (of.spread, of.spread_by_chance)]
        rows.append((Cell(name), *cells))
    spreads = ("SD over speakers", "SD by chance")
    columns = ("variant", "UA female", "UA male", "gap, points", "worst speaker", "best speaker", *spreads)
    caption = (
        "UA by gender in percent, the gap (female less male) in points, the speakers with the lowest and the highest "
        "UA, the standard deviation over speakers, and what it would be if all speakers had the same recalls."
    )
    return Table("fairness", caption, columns, tuple(rows))


def calibration(sources: Sources) -> Iterator[Block]:
    """Expected calibration error, Brier score and reliability curves."""
    known = {name: c for name, v in sources.variants.items() if (c := v.calibration) and c.ece is not None}
    if not known:
        return
    panels, rows = [], []
    for name, c in known.items():
        make = functools.partial(draw.reliability_panel, f"{name}\nECE {numbers.percent(c.ece)} %", c.reliability)
        described = f"Reliability curve of {name}: expected calibration error {numbers.percent(c.ece)} %"
        panels.append(Panel(sources.file_name("reliability", name), described, make, variant=name))
        middle = c.temperature and c.temperature.median
        ends = (c.temperature.lowest, c.temperature.highest) if c.temperature else None
        cells = [
            share_cell(c.ece, c.ece_ci95),
            share_cell(c.ece_by_chance),
            share_cell(c.ece_scaled),
            decimal_cell(c.brier, c.brier_ci95),
            decimal_cell(c.brier_scaled),
            decimal_cell(middle, ends, digits=2),
        ]
        rows.append((Cell(name), *cells))
    columns = ("variant", "ECE, %", "ECE by chance, %", "ECE scaled, %", "Brier", "Brier scaled", "temperature")
    caption = (
        "Expected calibration error (ECE, ten bins) with its interval; the ECE that a perfectly calibrated variant "
        "would have by chance; the ECE with logits divided by a temperature fitted to each run's validation speakers; "
        "the Brier score is summed over classes (0 to 2). Temperature: median over runs, over its range."
    )
    yield Table("calibration", caption, columns, tuple(rows))
    caption = (
        "Accuracy against confidence, over all folds and seeds; a calibrated variant lies on the diagonal. Bars count "
        "the predictions of each bin."
    )
    yield Figure("reliability", caption, tuple(panels))
    yield from notes_of((name, c.notes) for name, c in known.items())


_FAMILIES = {
    "noise": ("Added noise (signal-to-noise ratio, dB)", lambda c: c.removeprefix("noise_")),
    "reverberation": ("Reverberation (T60, s)", lambda c: c.removeprefix("reverberation_")),
    "band": ("Limited band (upper limit, Hz; telephone)", lambda c: c.removeprefix("band_limit_")),
    "known": ("Recordings of the speaker that are known", lambda c: str(KNOWN[c])),
}


def robustness(sources: Sources) -> Iterator[Block]:
    """UA under each condition."""
    found = sources.summary.robustness
    if not found or not found.variants:
        return
    of = found.variants
    conditions = [name for name in found.conditions if name != "clean"]
    names = [name for name in sources.variants if name in of]
    family_of = {
        c: "known" if c in KNOWN else next((f for f in _FAMILIES if c.startswith(f)), "band") for c in conditions
    }
    text = (
        "UA on disturbed recordings, or on few of a speaker, with intervals over speakers; the dotted line is chance."
    )
    for caption, suffix, group in sources.grouped(names, text):
        panels = []
        for family, (heading, short) in _FAMILIES.items():
            members = [c for c in conditions if family_of[c] == family]
            if not members:
                continue
            lines = {
                label: [sources.variants[v].ua, *(_measure(of[v].get(c)) for c in members)]
                for v, label in group.items()
            }
            described = "; ".join(
                f"{label}, {c}: {numbers.percent(of[v][c].ua)} %"
                for v, label in group.items()
                for c in members
                if c in of[v]
            )
            labels = ["clean", *map(short, members)]
            make = functools.partial(draw.robustness_panel, heading, labels, lines, sources.summary.chance_ua)
            panels.append(Panel(f"robustness_{family}{suffix}", f"{heading}: UA. {described}", make))
        yield Figure(f"robustness{suffix}", caption, tuple(panels))
    rows = []
    for v in names:
        changes = [of[v].get(c) for c in conditions]
        cells = [points_cell(one.difference, one.difference_ci95) if one else points_cell(None) for one in changes]
        rows.append((Cell(v), measure_cell(sources.variants[v].ua), *cells))
    columns = ("variant", "clean UA", *(c.replace("_", " ") for c in conditions))
    caption = "UA on clean recordings in percent, and the paired change under each condition in points."
    yield Table("robustness", caption, columns, tuple(rows))


def _measure(condition: Condition | None) -> Measure | None:
    return None if condition is None else Measure(condition.ua, condition.ua_ci95)
