"""The same comparisons on several corpora: what is an effect over all of them?

Each corpus has its own difference and standard error, and a random-effects model pools them, with the variance between
corpora tau^2 of DerSimonian & Laird 1986 (Controlled Clinical Trials 7, formula 8):
tau^2 = max(0, (Q - (k - 1)) / (sum w - sum w^2 / sum w)) with w = 1 / se^2. The usual normal interval is too short for
few corpora, so it is that of Hartung & Knapp 2001 (Statistics in Medicine 20): Student's t with k - 1 degrees of
freedom, with their factor at least 1.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import special

from ser_jax.errors import UserError
from ser_jax.statistics import tests

Summary = Mapping[str, Any]  # what summary.json of one corpus holds


def across_corpora(summaries: Sequence[Summary]) -> dict[str, Any]:
    """Returns the view over several corpora of the variants and comparisons that all of them have.

    `corpora`, `variants`, `ua` (corpus -> variant -> UA), `effects`: for each comparison variant, baseline, `corpora`
    (corpus -> estimate and ci95) and `pooled` (`pool_effects`); `notes`.
    Raises UserError for fewer than two summaries, two of one corpus, and no variant in common.
    """
    names = [summary["corpus"] for summary in summaries]
    if len(names) < 2:
        raise UserError(f"a view over corpora needs summaries of two or more, found {len(names)}")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"a view over corpora: two summaries are of corpus {twice[0]}")
    variants = [v for v in summaries[0]["variants"] if all(v in summary["variants"] for summary in summaries)]
    if not variants:
        raise UserError(f"a view over corpora: {', '.join(names)} have no variant in common")
    notes = []
    others = {v for summary in summaries for v in summary["variants"]} - set(variants)
    if others:
        notes.append(f"not on all corpora and left out: {', '.join(sorted(others))}")
    ua = np.array([[summary["variants"][v]["ua"] for v in variants] for summary in summaries], float)
    found = [{(c["variant"], c["baseline"]): c for c in summary["comparisons"]} for summary in summaries]
    effects = []
    for pair in found[0]:
        if all(pair in of for of in found):
            own = {name: of[pair] for name, of in zip(names, found, strict=True)}
            effects.append({"variant": pair[0], "baseline": pair[1], **_pooled(own)})
    return {
        "corpora": names,
        "variants": variants,
        "ua": {name: dict(zip(variants, row.tolist(), strict=True)) for name, row in zip(names, ua, strict=True)},
        "effects": effects,
        "notes": notes,
    }


def pool_effects(
    differences: Float[np.ndarray, " corpora"], standard_errors: Float[np.ndarray, " corpora"]
) -> dict[str, Any]:
    """Pools the effects of two or more corpora: estimate, ci95, p, tau (between corpora) and p_heterogeneity.

    `tau` is the standard deviation of the true effect from corpus to corpus; its estimate from few corpora is rough.
    """
    freedom = len(differences) - 1.0
    fixed = 1 / standard_errors**2
    spread = (fixed * (differences - np.average(differences, weights=fixed)) ** 2).sum()  # Q
    tau2 = max(0.0, (spread - freedom) / (fixed.sum() - (fixed**2).sum() / fixed.sum()))
    weights = 1 / (standard_errors**2 + tau2)
    value = float(np.average(differences, weights=weights))
    factor = max(1.0, (weights * (differences - value) ** 2).sum() / freedom)
    standard_error = math.sqrt(factor / weights.sum())
    return {
        "estimate": value,
        "ci95": tests.t_interval(value, standard_error, freedom),
        "p": tests.t_test(value, standard_error, freedom),
        "tau": math.sqrt(tau2),
        "p_heterogeneity": float(special.chdtrc(freedom, spread)),
        "corpora": len(differences),
    }


def _pooled(comparisons: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    corpora = {name: {"estimate": one["estimate"], "ci95": one["ci95"]} for name, one in comparisons.items()}
    known = [one for one in comparisons.values() if one.get("standard_error")]
    notes = []
    if len(known) < len(comparisons):
        notes.append("pooled over the corpora that have an interval")
    if len(known) < 2:
        return {"corpora": corpora, "pooled": None, "notes": ["fewer than two corpora have an interval: not pooled"]}
    alone = [name for name, one in comparisons.items() if one["ci95"] and one.get("verdict", "") is None]
    if alone:
        notes.append(
            f"one training of each variant tested all speakers of {', '.join(alone)}: what another training would give "
            "counts as a difference between corpora"
        )
    if len(known) < 5:
        notes.append(f"{len(known)} corpora: how much the effect varies between corpora is hardly known")
    values = (np.array([one[key] for one in known]) for key in ("estimate", "standard_error"))
    return {"corpora": corpora, "pooled": pool_effects(*values), "notes": notes}
