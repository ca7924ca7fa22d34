"""Simulated studies with a known truth, and the coverage of the intervals on them.

Run `python -m tests.statistics.simulated_studies` to make the second table of docs/statistics.md.
Speakers differ in how well they are recognised, overall, for each class and for each variant; seeds add noise of their
own; utterance counts are unequal, and the last class is missing for some speakers.
"""

import argparse
import functools

import numpy as np
import pandas as pd
from scipy import special

from ser_jax.statistics import bootstrap, calibration, factorial, fairness, metrics, pooled
from tests.statistics.made_tables import one_fold_each
from tests.statistics.simulated_designs import gaps_found

CLASSES = 7
ACTIVATION, ATTENTION = ("relu", "hard_swish"), ("none", "se", "eca")
FACTORS = {"activation": ACTIVATION, "attention": ATTENTION}
LEVELS = {f"{one} {other}": {"activation": one, "attention": other} for one in ACTIVATION for other in ATTENTION}
CONTRASTS = factorial.make_contrasts(FACTORS, LEVELS)
DIFFERENCE = np.array([-1.0, 0, 1, 0, 0, 0])  # relu eca against relu none
MAIN = next(w for kind, of, w in CONTRASTS if of == {"attention": "eca"})
INTERACTION = next(w for kind, of, w in CONTRASTS if of == {"activation": "hard_swish", "attention": "eca"})
WEIGHTS = np.stack([DIFFERENCE, MAIN, INTERACTION])
NAMES = ("difference", "main effect", "interaction")
EFFECT = (0.0, 0.2, 0.3, 0.1, 0.3, 0.7)  # of the six variants, in logits
NO_EFFECT = (0.0,) * 6


def simulate(rng, speakers, effects, *, classes=CLASSES, seeds=2, utterances=7):
    """Returns counts [variants, seeds, speakers, classes, classes] of variants that gain `effects`, in logits."""
    counts = 1 + rng.poisson(utterances, size=(speakers, classes))
    counts[:, -1] = rng.poisson(1.5, size=speakers)
    if not counts[:, -1].any():
        counts[0, -1] = 1
    difficulty = 0.8 + np.linspace(-0.6, 0.6, classes)
    difficulty = difficulty + rng.normal(0, 0.6, (speakers, 1)) + rng.normal(0, 0.6, (speakers, classes))
    variant = rng.normal(0, 0.3, (len(effects), 1, speakers, classes)) + np.reshape(effects, (-1, 1, 1, 1))
    logits = difficulty + variant + rng.normal(0, 0.3, (len(effects), seeds, speakers, classes))
    hits = rng.binomial(counts, special.expit(logits))
    confusion = hits[..., None] * np.eye(classes, dtype=int)
    # Every miss goes to the next class: UA does not care where.
    return confusion + (counts - hits)[..., None] * np.roll(np.eye(classes, dtype=int), 1, axis=1)


@functools.cache
def true_values(effects):
    """The variants' UA, from very many speakers."""
    rng = np.random.default_rng(1)
    parts = [simulate(rng, 5_000, effects).sum(axis=2) for _ in range(4)]
    return metrics.unweighted_accuracy(sum(parts)).mean(axis=1)


def coverage(speakers, *, studies, replicates, effects=EFFECT, seed=0):
    """How often intervals cover the truth and exclude zero, for each figure.

    "percentiles" are those of plain bootstrap percentiles.
    """
    rng = np.random.default_rng(seed)
    true_ua = true_values(effects)
    true = np.array([true_ua[-1], *WEIGHTS @ true_ua])
    covered, percentile, apart = (np.zeros(4) for _ in range(3))
    for study in range(studies):
        counts = simulate(rng, speakers, effects)
        options = dict(replicates=replicates, seed=study)
        ua = bootstrap.bootstrap_interval(counts[-1], **options)
        contrasts = bootstrap.bootstrap_contrasts(counts, WEIGHTS, **options)
        low, high = (np.array([getattr(ua, end), *getattr(contrasts, end)]) for end in ("low", "high"))
        covered += (low <= true) & (true <= high)
        apart += (low > 0) | (high < 0)
        low, high = np.quantile(_replicates(counts, **options), [0.025, 0.975], axis=0)
        percentile += (low <= true) & (true <= high)
    rates = {}
    for i, name in enumerate(("ua", *NAMES)):
        rates |= {name: covered[i] / studies, f"{name}, percentiles": percentile[i] / studies}
        if i:
            rates |= {f"{name} apart": apart[i] / studies}
    return rates | {"true difference": true[1]}


def _replicates(counts, replicates, seed):
    def statistic(confusion):
        ua = metrics.unweighted_accuracy(confusion).mean(axis=2)
        return np.concatenate([ua[:, -1:], ua @ WEIGHTS.T], axis=1)

    return bootstrap.bootstrap(counts, statistic, replicates=replicates, seed=seed)


def gap_coverage(speakers, *, studies, replicates, gap=0.4, seed=0):
    """How often the interval of the gap between genders, half of the speakers each, holds the truth, and finds one."""
    rng = np.random.default_rng(seed)
    true = np.subtract(*(true_values((effect,))[0] for effect in (gap, 0.0)))
    covered, found = 0, 0
    for study in range(studies):
        counts = np.concatenate([simulate(rng, speakers // 2, (effect,)) for effect in (gap, 0.0)], axis=2)
        female = np.arange(counts.shape[2]) < speakers // 2
        *_, difference, _ = fairness.gap_estimate(one_fold_each(counts), female, replicates=replicates, seed=study)
        covered += difference.low <= true <= difference.high
        found += difference.low > 0 or difference.high < 0
    return {"gender gap": covered / studies, "gender gap apart": found / studies}


def speaker_coverage(*, studies, utterances=7, seeds=2, seed=0):
    """How often a single speaker's interval holds their true UA; utterances differ, and seeds repeat them."""
    rng = np.random.default_rng(seed)
    recall = special.expit(rng.normal(0.8, 1.0, (studies, CLASSES)))
    counts = 1 + rng.poisson(utterances - 1, (studies, CLASSES))
    hits = np.zeros(counts.shape)
    for i in range(counts.max()):
        easy = rng.beta(2 * recall, 2 * (1 - recall))  # this utterance's, the same for all seeds
        hits += np.where(i < counts, rng.binomial(seeds, easy) / seeds, 0)
    _, low, high = fairness.speaker_intervals(hits, counts)
    true = recall.mean(axis=1)
    return {"a speaker's UA": np.mean((low <= true) & (true <= high))}


def simulate_probabilities(rng, speakers, sharpness, *, seeds=2, utterances=54):
    """Returns the rows of a table with speaker and seed, probabilities and labels; calibrated at a sharpness of 1.

    Speakers differ in how sharp they make the probabilities, and seeds in their logits.
    """
    logits = rng.normal(0, 1.6, (speakers, 1, utterances, CLASSES))
    drawn = rng.random((speakers, 1, utterances, 1)) < special.softmax(logits, axis=-1).cumsum(axis=-1)
    labels = np.broadcast_to(drawn.argmax(axis=-1), (speakers, seeds, utterances))
    own = sharpness * np.exp(rng.normal(0, 0.25, (speakers, 1, 1, 1)))
    stated = special.softmax((logits + rng.normal(0, 0.3, (speakers, seeds, utterances, CLASSES))) * own, axis=-1)
    speaker, seed, _ = np.indices(labels.shape).reshape(3, -1)
    return pd.DataFrame({"speaker": speaker, "seed": seed}), stated.reshape(-1, CLASSES), labels.ravel()


@functools.cache
def true_calibration(sharpness):
    """ECE and Brier score from very many speakers."""
    rng = np.random.default_rng(1)
    parts = [calibration.speaker_sums(*simulate_probabilities(rng, 2_000, sharpness)).sum(axis=0) for _ in range(4)]
    return calibration.ece_and_brier(sum(parts))


def calibration_coverage(speakers, *, studies, replicates, sharpness=1.3, seed=0):
    """How often the intervals of ECE and Brier score hold the truth."""
    rng = np.random.default_rng(seed)
    true, covered = true_calibration(sharpness), np.zeros(2)
    for study in range(studies):
        sums = calibration.speaker_sums(*simulate_probabilities(rng, speakers, sharpness))
        found = calibration.estimate(sums, replicates=replicates, seed=study)
        covered += (found.low <= true) & (true <= found.high)
    return dict(zip(("ECE", "Brier"), covered / studies, strict=True))


def pooled_coverage(corpora, *, studies, between=0.02, true=0.03, speakers=10, seed=0):
    """How often the interval of an effect pooled over corpora holds the true mean effect."""
    rng = np.random.default_rng(seed)
    covered = 0
    for _ in range(studies):
        standard_errors = rng.uniform(0.01, 0.03, corpora)
        differences = rng.normal(true, np.hypot(between, standard_errors))
        estimated = standard_errors * np.sqrt(rng.chisquare(speakers - 1, corpora) / (speakers - 1))
        low, high = pooled.pool_effects(differences, estimated)["ci95"]
        covered += low <= true <= high
    return {"pooled effect": covered / studies}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--speakers", type=int, nargs="+", default=[3, 6, 10, 24])
    options = parser.parse_args()
    both = dict(studies=options.studies, replicates=options.replicates)

    def show(what, rates):
        print(what, {name: round(float(rate), 3) for name, rate in rates.items()}, flush=True)

    for speakers in options.speakers:
        show(f"{speakers} speakers, effect:", coverage(speakers, **both))
        show(f"{speakers} speakers, no effect:", coverage(speakers, effects=NO_EFFECT, **both))
        if speakers >= 4:
            show(f"{speakers} speakers:", gap_coverage(speakers, **both))
            show(f"{speakers} speakers, no gap:", gap_coverage(speakers, gap=0.0, **both))
        for sharpness in (1.0, 1.3, 2.0):
            rates = calibration_coverage(speakers, sharpness=sharpness, **both)
            show(f"{speakers} speakers, sharpness {sharpness}:", rates)
    for design, seeds in (("folds", 1), ("folds", 3), ("one model", 3)):
        found = gaps_found(design, seeds, studies=options.studies)
        show(f"24 speakers, {design}, {seeds} seeds, no gap:", {"gender gap apart": found})
    for utterances in (2, 7):
        show(f"{utterances} utterances of a class:", speaker_coverage(studies=10_000, utterances=utterances))
    for corpora in (2, 3, 5, 10):
        show(f"{corpora} corpora:", pooled_coverage(corpora, studies=options.studies))
        show(f"{corpora} corpora, alike:", pooled_coverage(corpora, studies=options.studies, between=0.0))


if __name__ == "__main__":
    main()
