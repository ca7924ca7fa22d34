"""Effects of factors: what one does by itself, averaged over the others, and what two do together.

A full factorial design has one variant for each combination of its factors' levels. A main effect is the UA of a level
less that of its factor's reference level, averaged over the combinations of all other factors. An interaction is a
difference of differences: how much a main effect grows when another factor leaves its reference level. Effects of three
factors together are not told. All variants are tested on the same utterances, in the same folds and seeds, so every
effect is a paired difference: a weighted sum of the variants' UA (Montgomery, Design and Analysis of Experiments, 5).
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from ser_jax.errors import UserError
from ser_jax.statistics import bootstrap, components, paired
from ser_jax.statistics.paired import Comparison

Factors = Mapping[str, Sequence[str]]  # factor -> its levels, the reference level first
Levels = Mapping[str, Mapping[str, str]]  # variant -> factor -> level


def effects(
    predictions: pd.DataFrame,
    factors: Factors,
    levels: Levels,
    fold_sizes: paired.FoldSizes,
    *,
    margin: float = paired.MARGIN,
    replicates: int = bootstrap.REPLICATES,
    seed: int = 0,
) -> list[Comparison]:
    """Estimates all main effects, then all interactions of two factors, each as a family of its own.

    `fold_sizes` gives each fold's numbers of (training, test) utterances.
    Raises UserError for a design that is not full, and for variants without predictions or utterances in common.
    """
    missing = missing_combinations(factors, levels)
    if missing:
        raise UserError(f"factors {', '.join(factors)}: not a full factorial design, no variant has {missing[0]}")
    wanted = make_contrasts(factors, levels)
    what = f"effects of {', '.join(factors)}"
    tables, fold_sizes, notes = paired.paired(predictions, list(levels), what, fold_sizes)
    weights = np.stack([contrast for *_, contrast in wanted])
    cells = components.count_cells(tables)
    found = paired.contrasts(cells, weights, fold_sizes, margin=margin, replicates=replicates, seed=seed)
    made = []
    for (kind, of, _), figures in zip(wanted, found, strict=True):
        reference = {factor: factors[factor][0] for factor in of}
        identity = {"name": " x ".join(describe(of, reference)), "kind": kind, "levels": of, "reference": reference}
        made.append(Comparison(**identity, **{**figures, "notes": (*notes, *figures["notes"])}))
    return made


def describe(levels: Mapping[str, str], reference: Mapping[str, str]) -> list[str]:
    """Says for each factor which level is measured against which: "attention eca against none"."""
    return [
        f"{level if level.startswith(f'{factor} ') else f'{factor} {level}'} against {reference[factor]}"
        for factor, level in levels.items()
    ]


def missing_combinations(factors: Factors, levels: Levels) -> list[str]:
    """Names the combinations of levels that no variant has; none are missing from a full factorial design.

    Raises UserError for a variant without a level of some factor, a level that the factor does not have, and two
    variants of the same combination.
    """
    seen: dict[tuple[str, ...], str] = {}
    for variant, of in levels.items():
        for factor, known in factors.items():
            if of.get(factor) not in known:
                raise UserError(
                    f"variant {variant}: factor {factor} has no level {of.get(factor)} (there are: {', '.join(known)})"
                )
        combination = tuple(of[factor] for factor in factors)
        if combination in seen:
            raise UserError(f"variants {seen[combination]} and {variant} have the same levels of {', '.join(factors)}")
        seen[combination] = variant
    return [
        ", ".join(f"{factor} {level}" for factor, level in zip(factors, combination, strict=True))
        for combination in itertools.product(*factors.values())
        if combination not in seen
    ]


def make_contrasts(
    factors: Factors, levels: Levels
) -> list[tuple[str, dict[str, str], Float[np.ndarray, " variants"]]]:
    """Returns (kind, factor -> level, the weight of each variant's UA) of each effect of a full factorial design."""

    def contrast(of: dict[str, str]) -> np.ndarray:
        """A variant counts +1 for the level and -1 for the reference of each factor; the others are averaged over."""
        weights = np.ones(len(levels))
        for factor, level in of.items():
            here = [own[factor] for own in levels.values()]
            weights *= [float(one == level) - float(one == factors[factor][0]) for one in here]
        averaged = np.prod([len(factors[factor]) for factor in factors if factor not in of])
        return weights / averaged

    choices = [(factor, level) for factor, known in factors.items() for level in known[1:]]
    found = [("main effect", {factor: level}) for factor, level in choices]
    for (first, level), (second, other) in itertools.combinations(choices, 2):
        if first != second:
            found.append(("interaction", {first: level, second: other}))
    return [(kind, of, contrast(of)) for kind, of in found]
