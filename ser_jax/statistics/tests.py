"""Tests of a difference: p values, their correction, equivalence, the smallest detectable difference, the verdict.

Everything here follows from an estimate, its standard error and the degrees of freedom of Student's t, so that the
interval, the p value, the verdict and the detectable difference of a comparison cannot contradict each other.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import special

from ser_jax.statistics.bootstrap import LEVEL

SIGNIFICANT = 0.05
POWER = 0.80
DIFFERENCE, EQUIVALENT, UNDECIDED = "difference", "equivalent", "undecided"


def t_interval(estimate: float, standard_error: float, degrees: float, level: float = LEVEL) -> tuple[float, float]:
    """Returns the ends of the interval estimate -+ t * standard error."""
    half = float(special.stdtrit(degrees, (1 + level) / 2)) * standard_error
    return estimate - half, estimate + half


def t_test(estimate: float, standard_error: float, degrees: float) -> float:
    """Returns the two-sided p value of no difference: below 0.05 exactly where the 95 % interval excludes zero."""
    return float(2 * special.stdtr(degrees, -abs(estimate) / standard_error))


def equivalence_test(estimate: float, standard_error: float, degrees: float, margin: float) -> float:
    """Returns the p value of two one-sided tests that the truth is not within -+ margin.

    Schuirmann 1987, Journal of Pharmacokinetics and Biopharmaceutics 15. It is below 0.05 exactly where the 90 %
    interval lies within the margin.
    """
    return float(special.stdtr(degrees, (abs(estimate) - margin) / standard_error))


def detectable_difference(standard_error: float, degrees: float, tests: int = 1) -> float:
    """Returns the smallest true difference that is found in 80 % of studies like the one with this standard error.

    Found is a p value below 0.05 after the correction for `tests` (the first step of Holm's, which is Bonferroni's).
    The power is that of the noncentral t distribution, not of the normal, which promises too much with few speakers.
    The root of a variance with few degrees of freedom is too small on average (by 5 % with five); it is corrected for
    that, so that the mean over studies is the difference of 80 % power.
    """
    critical = special.stdtrit(degrees, 1 - SIGNIFICANT / (2 * tests))
    expected = np.sqrt(2 / degrees) * special.poch(degrees / 2, 0.5)  # of the standard error, as a share of the true
    return float(special.nctdtrinc(degrees, 1 - POWER, critical)) * standard_error / float(expected)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusts the p values of one family for their number (Holm 1979); None is no test and stays None."""
    tested = [i for i, p in enumerate(p_values) if p is not None]
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(sorted(tested, key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(tested) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def verdict(p_holm: float | None, p_equivalence: float | None) -> str | None:
    """Returns "difference", "equivalent" or "undecided" from corrected p values; None where there are none.

    A difference may be smaller than the margin: then both p values are below 0.05, and it is still a difference.
    """
    if p_holm is None or p_equivalence is None:
        return None
    if p_holm < SIGNIFICANT:
        return DIFFERENCE
    return EQUIVALENT if p_equivalence < SIGNIFICANT else UNDECIDED


def nadeau_bengio(runs: Float[np.ndarray, " runs"], test_to_train: float) -> tuple[float, float] | None:
    """Returns the p value and the detectable difference of the corrected resampled t-test that the mean is zero.

    `runs` has one difference for each (fold, seed). Runs share training data, so their mean varies more than 1 / runs
    says: (1 / runs + test / train) * variance (Nadeau & Bengio 2003, Machine Learning 52, section 3). It is a cautious
    test: where runs share nothing, it finds next to nothing at the 5 % level.
    None with fewer than two runs, or where all differences are the same.
    """
    number, degrees = len(runs), len(runs) - 1.0
    if number < 2 or np.ptp(runs) < 1e-12:
        return None
    standard_error = float(np.sqrt((1 / number + test_to_train) * runs.var(ddof=1)))
    return t_test(float(runs.mean()), standard_error, degrees), detectable_difference(standard_error, degrees)
