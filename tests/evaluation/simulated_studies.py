"""Simulated studies with a known truth, and the coverage of the intervals on them.

Run `python -m tests.evaluation.simulated_studies` to make the coverage table of ser_jax/evaluation/statistics.py.
Speakers differ in how well they are recognised, overall, for each class and for each variant; seeds add noise of their
own; utterance counts are unequal, and the last class is missing for some speakers.
"""

import argparse

import numpy as np
from scipy import special

from ser_jax.evaluation import metrics, statistics


def simulate(rng, speakers, *, classes=7, seeds=2, utterances=7, effect=0.0):
    """Returns counts [2 variants, seeds, speakers, classes, classes]; the second variant gains `effect`, in logits."""
    counts = 1 + rng.poisson(utterances, size=(speakers, classes))
    counts[:, -1] = rng.poisson(1.5, size=speakers)
    if not counts[:, -1].any():
        counts[0, -1] = 1
    difficulty = 0.8 + np.linspace(-0.6, 0.6, classes)
    difficulty = difficulty + rng.normal(0, 0.6, (speakers, 1)) + rng.normal(0, 0.6, (speakers, classes))
    variant = rng.normal(0, 0.3, (2, 1, speakers, classes)) + effect * np.arange(2)[:, None, None, None]
    logits = difficulty + variant + rng.normal(0, 0.3, (2, seeds, speakers, classes))
    hits = rng.binomial(counts, special.expit(logits))
    confusion = hits[..., None] * np.eye(classes, dtype=int)
    # Every miss goes to the next class: UA does not care where.
    return confusion + (counts - hits)[..., None] * np.roll(np.eye(classes, dtype=int), 1, axis=1)


def true_values(effect, **options):
    """The UA of the second variant and its gain over the first, from very many speakers."""
    counts = simulate(np.random.default_rng(1), 20_000, effect=effect, **options)
    baseline, variant = metrics.unweighted_accuracy(counts.sum(axis=2)).mean(axis=1)
    return variant, variant - baseline


def coverage(speakers, *, studies, replicates, effect=0.3, seed=0):
    """Returns how often intervals hold the true UA and difference: the project's interval, and plain percentiles."""
    rng = np.random.default_rng(seed)
    true_ua, true_difference = true_values(effect)
    covered = {"ua": 0, "ua_percentile": 0, "difference": 0, "difference_percentile": 0, "found": 0}
    detectable = []
    for study in range(studies):
        baseline, variant = simulate(rng, speakers, effect=effect)
        options = dict(replicates=replicates, seed=study)
        ua = statistics.bootstrap_interval(variant, **options)
        difference = statistics.bootstrap_difference(variant, baseline, **options)
        low, high = np.quantile(_replicates(variant[None], **options), [0.025, 0.975])
        covered["ua"] += ua.low <= true_ua <= ua.high
        covered["ua_percentile"] += low <= true_ua <= high
        low, high = np.quantile(_replicates(np.stack([baseline, variant]), **options), [0.025, 0.975])
        covered["difference"] += difference.low <= true_difference <= difference.high
        covered["difference_percentile"] += low <= true_difference <= high
        covered["found"] += difference.low > 0 or difference.high < 0
        detectable.append(statistics.minimum_detectable_difference(float(difference.standard_error), speakers))
    rates = {name: count / studies for name, count in covered.items()}
    return rates | {"true_difference": true_difference, "minimum_detectable_difference": np.median(detectable)}


def _replicates(counts, replicates, seed):
    def statistic(confusion):
        ua = metrics.unweighted_accuracy(confusion).mean(axis=2)
        return ua[:, -1] - (ua[:, 0] if ua.shape[1] == 2 else 0)

    return statistics.bootstrap(counts, statistic, replicates=replicates, seed=seed)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--effect", type=float, default=0.3)
    options = parser.parse_args()
    for speakers in (3, 6, 10, 24):
        rates = coverage(speakers, studies=options.studies, replicates=options.replicates, effect=options.effect)
        print(speakers, {name: round(float(rate), 3) for name, rate in rates.items()}, flush=True)


if __name__ == "__main__":
    main()
