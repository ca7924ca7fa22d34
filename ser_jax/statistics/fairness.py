"""Fairness: for whom does a variant work? UA by gender and by speaker.

The speakers of each gender are a sample of their own, so they are drawn apart, and the interval of the gap between two
genders is that of Welch: the squared standard errors add up, and Student's t has the degrees of freedom of
Satterthwaite (1946). The noise of training that the speakers of a model share is added, as to a difference in UA
(`components`). The gap is over the emotions that both genders have.

A single speaker's UA has an interval over that speaker's utterances: it says how well the speaker's own UA is known.
It is the mean of independent recalls, each with Wilson's interval, combined by the rule of Zou & Donner 2008
(Statistics in Medicine 27(10)), which works also where a class has one utterance or a recall is 0 or 1. Seeds repeat
utterances, and so do folds that test the same; neither adds to their number. The worst and the best of many speakers
are partly so by chance: `spread_by_chance` is the standard deviation to expect if all speakers had the same recalls.
"""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Num
from scipy import special

from ser_jax.errors import UserError
from ser_jax.statistics import bootstrap, components, intervals, metrics, tests
from ser_jax.statistics.components import Cells, Components

GENDERS = ("female", "male")


def fairness(
    table: pd.DataFrame,
    speakers: pd.DataFrame | None = None,
    *,
    replicates: int = bootstrap.REPLICATES,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns one variant's UA by gender and by speaker; None, and a note, for what cannot be estimated.

    `speakers` has the columns speaker and gender ("female", "male" or "" where unknown).
    `genders`: for each gender ua, ua_ci95, speakers and utterances; `gender_gap`: the female less the male UA
    (ua_difference, ci95, and p unless one training tested all speakers) over `emotions`; `speakers`: for each speaker
    ua, ua_ci95, utterances, gender and the emotions that are `missing`; `worst` and `best` speaker; `spread`, the
    standard deviation over speakers, and `spread_by_chance`.
    Raises UserError for a speaker of two genders.
    """
    confusion = metrics.confusion_counts(table, "speaker")
    gender_of = _genders(speakers)
    found, notes = _by_gender(components.count_cells([table]), confusion.emotions, gender_of, table, replicates, seed)
    rows, unlike = _by_speaker(confusion, table, gender_of)
    if unlike:
        notes.append("UA is over the other emotions where a speaker lacks some: " + "; ".join(unlike))
    return {**found, **rows, "notes": notes}


def gap_estimate(
    cells: Cells, female: Bool[np.ndarray, " speakers"], *, replicates: int = bootstrap.REPLICATES, seed: int = 0
) -> tuple[bootstrap.Estimate, bootstrap.Estimate, bootstrap.Estimate, Components]:
    """The UA of both genders and of their difference, each with its interval, and the parts of the last.

    `cells` are of one variant. All figures are over the classes that both genders have, at least one.
    """
    heard = cells.counts[0].sum(axis=(0, -1))  # [cells, classes]
    both = [heard[female[cells.speaker_of] == side].any(axis=0) for side in (True, False)]
    cells = dataclasses.replace(cells, counts=cells.counts * (both[0] & both[1])[:, None])
    present = cells.by_speaker()[0].any(axis=(0, 2, 3))
    cells, female = cells.of_speakers(present), female[present]
    own = np.full(cells.counts.shape[1:3], np.nan)
    made, squares = [], []
    # Not the same draws for both: their speakers have nothing to do with one another.
    for number, (sign, side) in enumerate(((1, female), (-1, ~female))):
        one = cells.of_speakers(side)
        found = bootstrap.bootstrap_interval(one.by_speaker()[0], replicates=replicates, seed=2 * seed + number)
        added = components.slopes(one.counts[0], metrics.unweighted_accuracy)
        own[:, side[cells.speaker_of]] = sign * added
        squares.append(float(found.standard_error) ** 2)
        shares = one.shares_models()
        made.append(intervals.widened(found, added, one, int(side.sum()), (0.0, 1.0)) if shares else found)
    parts = _parts_of_gap(own, cells, np.array(squares), female)
    value, half = made[0].value - made[1].value, parts.half_width()
    low, high = np.clip([value - half, value + half], -1, 1)
    return *made, bootstrap.Estimate(*map(np.asarray, (value, low, high, np.sqrt(parts.total)))), parts


def _parts_of_gap(
    own: Float[np.ndarray, "seeds cells"],
    cells: Cells,
    squares: Float[np.ndarray, "2"],
    female: Bool[np.ndarray, " speakers"],
) -> Components:
    """The parts of the gap's squared standard error, of which `squares` are the genders' over their speakers.

    Where folds are drawn, they are one sample, or two where every fold tests one gender.
    """
    total, number = float(squares.sum()), np.array([female.sum(), (~female).sum()])
    over_folds = cells.draws_folds() and not np.isnan(total)
    if over_folds:
        of_fold = np.array([np.nansum(own[:, cells.fold_of == fold]) for fold in range(len(cells.folds))]) / len(own)
        sides = [np.unique(cells.fold_of[female[cells.speaker_of] == side]) for side in (True, False)]
        if len(np.intersect1d(*sides)):
            return Components(components.clustered(of_fold), np.nan, np.nan, len(cells.folds))
        number = np.array([len(side) for side in sides])
        squares = np.array([components.clustered(of_fold[side]) if len(side) > 1 else np.nan for side in sides])
        total = float(squares.sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        clusters = float(total**2 / (squares**2 / (number - 1)).sum()) + 1
    return (
        Components(total, np.nan, np.nan, clusters) if over_folds else components.decompose(own, cells, total, clusters)
    )


def speaker_intervals(
    hits: Num[np.ndarray, "*speakers classes"], counts: Num[np.ndarray, "*speakers classes"]
) -> tuple[Float[np.ndarray, "*speakers"], Float[np.ndarray, "*speakers"], Float[np.ndarray, "*speakers"]]:
    """UA and the ends of its 95 % interval over utterances, from each class's hits (may be a mean) and utterances.

    The distance of an end from UA is the root of the summed squares of the recalls' distances from their ends, by the
    number of classes.
    """
    recall = metrics.divide(hits, counts)
    low, high = wilson(recall, np.where(counts > 0, counts, np.nan))
    classes = (counts > 0).sum(axis=-1)
    ua = metrics.mean_of_present(recall, axis=-1)
    below, above = (np.sqrt(np.nansum((recall - end) ** 2, axis=-1)) / classes for end in (low, high))
    return ua, ua - below, ua + above


def wilson(
    share: Float[np.ndarray, "..."], count: Float[np.ndarray, "..."]
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Wilson's 95 % interval of a share of `count`; unlike SciPy's, also of a share that is a mean over seeds."""
    z = special.ndtri((1 + bootstrap.LEVEL) / 2)
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return np.minimum(centre - half, share), np.maximum(centre + half, share)  # rounding aside, they hold it


def _genders(speakers: pd.DataFrame | None) -> dict[str, str]:
    if speakers is None:
        return {}
    pairs = speakers[["speaker", "gender"]].drop_duplicates()
    twice = pairs["speaker"].duplicated()
    if twice.any():
        raise UserError(f"speaker {pairs['speaker'][twice].iloc[0]} has more than one gender")
    return dict(zip(pairs["speaker"], pairs["gender"], strict=True))


def _by_gender(
    cells: Cells,
    classes: tuple[str, ...],
    gender_of: dict[str, str],
    table: pd.DataFrame,
    replicates: int,
    seed: int,
) -> tuple[dict[str, Any], list[str]]:
    genders = np.array([gender_of.get(speaker, "") for speaker in cells.speakers])
    known, heard = np.isin(genders, GENDERS), [g for g in GENDERS if (genders == g).any()]
    if not heard:
        return {"genders": None, "gender_gap": None}, ["the speakers' genders are not known"]
    unknown = int((~known).sum())
    notes = [f"gender not known: {unknown} of {len(genders)} speakers, left out of the genders' UA"] if unknown else []
    cells = cells.of_speakers(known)
    made, gap, emotions = [], None, list(classes)
    if len(heard) < 2:
        made = [intervals.interval(cells, replicates=replicates, seed=seed)]
        notes.append(f"all speakers are {heard[0]}: no gap between genders")
    else:
        female = genders[known] == GENDERS[0]
        present = [cells.of_speakers(side).counts.any(axis=(0, 1, 2, 4)) for side in (female, ~female)]
        emotions = [e for e, both in zip(classes, present[0] & present[1], strict=True) if both]
        alone = [e for e, one in zip(classes, present[0] ^ present[1], strict=True) if one]
        if alone:
            notes.append(f"spoken by one gender only and left out of the genders' UA: {', '.join(alone)}")
        if emotions:
            *made, difference, parts = gap_estimate(cells, female, replicates=replicates, seed=seed)
            gap = {
                "ua_difference": difference.value,
                "ci95": bootstrap.ends(difference.low, difference.high),
                "emotions": emotions,
            }
            gap["p"] = _p_of_gap(cells, float(difference.value), parts)
            notes += _limits_of_gap(cells, parts, int(min(female.sum(), (~female).sum())))
    speaker_gender = table["speaker"].map(gender_of)
    figures = {
        gender: {
            "ua": estimate and estimate.value,
            "ua_ci95": estimate and bootstrap.ends(estimate.low, estimate.high),
            "speakers": int((genders == gender).sum()),
            "utterances": table["utterance"][speaker_gender == gender].nunique(),
        }
        for gender, estimate in zip(heard, made or [None, None], strict=True)
    }
    return {"genders": figures, "gender_gap": gap}, notes


def _p_of_gap(cells: Cells, value: float, parts: Components) -> float | None:
    if np.isnan(parts.total) or cells.of_these_models():  # what another training would give is not known
        return None
    return tests.t_test(value, float(np.sqrt(parts.total)), parts.degrees)


def _limits_of_gap(cells: Cells, parts: Components, fewest: int) -> list[str]:
    """What cannot be told; `fewest` are the speakers of the gender that has fewer."""
    if np.isnan(parts.total):
        over = "folds" if cells.draws_folds() and fewest > 1 else "speakers"
        return [f"no interval of the gap: it needs two {over} of each gender that differ"]
    if cells.of_these_models():
        return ["one training tested all speakers: the gap is of this trained model, without a p value"]
    if cells.draws_folds():
        return ["one seed, and the speakers of a fold share a model: the gap's interval is over folds, not speakers"]
    return []


def _by_speaker(
    confusion: metrics.ConfusionCounts, table: pd.DataFrame, gender_of: dict[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """Each speaker's figures; and for each speaker who lacks emotions a phrase that says which."""
    total = confusion.counts.sum(axis=-1)  # [seeds, speakers, classes]
    once = table.drop_duplicates("utterance").assign(seed=0)
    counts = metrics.confusion_counts(once, "speaker").counts[0].sum(axis=-1)
    recall = metrics.divide(np.diagonal(confusion.counts, axis1=-2, axis2=-1).sum(axis=0), total.sum(axis=0))
    hits = np.where(counts > 0, recall * counts, 0)
    ua, low, high = speaker_intervals(hits, counts)
    present = [emotion for emotion, any_ in zip(confusion.emotions, counts.any(axis=0), strict=True) if any_]
    rows, unlike = {}, []
    for i, speaker in enumerate(confusion.groups):
        missing = [e for e in present if counts[i, confusion.emotions.index(e)] == 0]
        if missing:
            unlike.append(f"{speaker} {', '.join(missing)}")
        rows[speaker] = {
            "ua": ua[i],
            "ua_ci95": (low[i], high[i]),
            "utterances": int(counts[i].sum()),
            "gender": gender_of.get(speaker, ""),
            "missing": missing,
        }
    order = np.argsort(ua, kind="stable")
    several = len(ua) > 1
    return {
        "speakers": rows,
        "worst": confusion.groups[order[0]] if several else None,
        "best": confusion.groups[order[-1]] if several else None,
        "spread": ua.std(ddof=1) if several else None,
        "spread_by_chance": _spread_by_chance(hits, counts) if several else None,
    }, unlike


def _spread_by_chance(hits: np.ndarray, counts: np.ndarray) -> float:
    """The root mean variance that utterances alone give a speaker's UA, at recalls that are the same for all."""
    recall = metrics.divide(hits.sum(axis=0), counts.sum(axis=0))
    variance = metrics.divide(np.broadcast_to(recall * (1 - recall), counts.shape), counts)
    return float(np.sqrt((np.nansum(variance, axis=1) / (counts > 0).sum(axis=1) ** 2).mean()))
