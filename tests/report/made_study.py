"""A study that was never run: three questions, with all that a summary can hold."""

import dataclasses

import numpy as np

from ser_jax import config as configuration
from ser_jax import predictions
from ser_jax.report.summarise import How, summarise
from ser_jax.report.summary import (
    Condition,
    Cost,
    Diverged,
    Knowledge,
    Protocol,
    Provenance,
    Robustness,
    Study,
)
from ser_jax.studies.plan import Question

EMOTIONS = ("anger", "boredom", "fear", "neutral")
SPEAKERS = ("03", "08", "09", "10", "11", "12")
SIZES = {"03": (40, 8), "08": (40, 8), "09": (40, 8), "10": (40, 8), "11": (40, 8), "12": (40, 8)}
CITATION = """@inproceedings{doe2020speech,
  title = {Speech},
  author = {Doe, Jane and R{\\"o}e, Richard},
  year = {2020}
}"""
HARDWARE = {"platform": "cpu", "device": "some processor", "devices": 2}
CORPUS = {"description": "A corpus.", "licence": "CC BY-NC-SA 4.0", "citation": CITATION}

# variant -> (what is changed in the configuration, how much the right class is favoured)
VARIANTS = {
    f"channel attention: {activation}, {attention}": (
        {"model": {"name": "shufflenet_v2", "activation": activation, "attention": attention}},
        1.0 + 0.5 * (attention == "eca") + 0.1 * (activation == "hard_swish"),
    )
    for activation in ("relu", "hard_swish")
    for attention in ("none", "se", "eca")
} | {
    "pooling: mean": ({"model": {"name": "transformer", "mixing": "self_attention", "pooling": "mean"}}, 0.8),
    "pooling: attentive": (
        {"model": {"name": "transformer", "mixing": "self_attention", "pooling": "attentive_statistics"}},
        0.9,
    ),
    "decoder: <b>none</b>": ({"model": {"name": "attention_rnn", "attention": "none"}}, 0.7),
    "decoder: additive": ({"model": {"name": "attention_rnn", "attention": "additive"}}, 1.4),
}
COMPARISONS = [
    (f"channel attention: {activation}, {attention}", f"channel attention: {activation}, none")
    for activation in ("relu", "hard_swish")
    for attention in ("se", "eca")
] + [("pooling: attentive", "pooling: mean"), ("decoder: additive", "decoder: <b>none</b>")]


def make_predictions(variants=VARIANTS, seeds=(0, 1)):
    tables = []
    labels = np.tile(np.arange(len(EMOTIONS)), 2)
    for variant in variants:
        for fold in SPEAKERS:
            for seed in seeds:
                rng = np.random.default_rng([seed, int(fold), list(VARIANTS).index(variant)])
                logits = rng.normal(size=(len(labels), len(EMOTIONS)))
                logits[np.arange(len(labels)), labels] += VARIANTS[variant][1]
                shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
                ids = [f"{fold}-{i}" for i in range(len(labels))]
                table = (variant, fold, seed, ids, [fold] * len(labels), labels, shares, EMOTIONS)
                tables.append(predictions.make_predictions("made", *table))
    return predictions.merge(tables)


def make_configs(variants=VARIANTS):
    return {name: configuration.merge(configuration.default(), VARIANTS[name][0]) for name in variants}


def make_summary(table, *, whole=True):
    """The summary of a table, with all that a study can add or without; what is added is made up, of the right form."""
    variants = [name for name in VARIANTS if name in set(table["variant"])]
    pairs = [pair for pair in COMPARISONS if set(pair) <= set(variants)]
    how = How(replicates=200)
    protocol = Protocol(
        "leave_one_speaker_out", "each speaker is tested by models that were not trained on that speaker", True
    )
    if not whole:
        study = Study(protocols=(Protocol("leave_one_speaker_out", "", True),), fold_sizes=SIZES)
        return without_people(summarise(table, study, comparisons=pairs, how=how))
    study = Study(
        title="Does attention help?",
        corpus_info=CORPUS,
        fingerprint="f" * 64,
        protocols=(dataclasses.replace(protocol, audit=_audit()),),
        fold_sizes=SIZES,
        seconds={"train": 3723.4, "load": 0.1, "total": 3725.0},
        failed={"rnn location": "config.model.attention: out of memory"},
        speakers={speaker: {"gender": "female" if int(speaker) % 2 else "male"} for speaker in SPEAKERS},
        left_out=("1 utterance of made left out when it was prepared: broken (an empty file)",),
        labels=("labels of made: joy as happiness",),
        notes=("2 recordings of made clipped: a, b",),
    )
    known = {name: _known(name, number) for number, name in enumerate(variants)}
    made = summarise(table, study, questions=_questions(variants, pairs), known=known, how=how)
    return dataclasses.replace(made, robustness=_robustness(made))


def without_people(made):
    """The summary without calibration and figures by speaker."""
    variants = {name: dataclasses.replace(one, calibration=None, fairness=None) for name, one in made.variants.items()}
    return dataclasses.replace(made, variants=variants)


def _known(name, number):
    return Knowledge(
        parameters=1000 * (number + 1),
        cost=Cost(10**6 * (number + 1), 3.0, 1 + number / 10),
        uses_speaker=("features normalised by speaker",) if name == "decoder: additive" else (),
        trained=(
            Provenance(
                {"jax": "0.10.2"}, {"platform": "cpu", "device": "some processor", "devices": 2}, "0123456789ab"
            ),
        ),
        diverged=(Diverged("03", 7, 40),) if name == "decoder: additive" else (),
    )


def _questions(variants, pairs):
    factors = {"activation": ("relu", "hard_swish"), "attention": ("none", "se", "eca")}
    crossed = {
        f"channel attention: {activation}, {attention}": {"activation": activation, "attention": attention}
        for activation in factors["activation"]
        for attention in factors["attention"]
    }
    texts = {
        "channel attention": "Does channel attention help ShuffleNet V2, and does hard-swish?",
        "pooling": "Does attentive pooling help an encoder?",
        "decoder": "Does attention help a recurrent encoder and decoder?",
    }
    questions = []
    for name, text in texts.items():
        own = [variant for variant in variants if variant.startswith(f"{name}: ")]
        asked = tuple(pair for pair in pairs if set(pair) <= set(own))
        if asked:
            whole = set(crossed) <= set(own)
            levels = {variant: crossed[variant] if whole else {} for variant in own}
            questions.append(Question(name, text, factors if whole else {}, levels, asked))
    return questions


def _robustness(made):
    conditions = ("noise_30", "noise_0", "band_limit_2000", "telephone")
    losses = dict(zip(conditions, (0.01, 0.25, 0.1, 0.12), strict=True))
    of = {
        name: {
            c: Condition(
                one.ua.value - loss,
                (one.ua.value - loss - 0.05, one.ua.value - loss + 0.05),
                -loss,
                (-loss - 0.03, -loss + 0.03),
            )
            for c, loss in losses.items()
        }
        for name, one in made.variants.items()
    }
    return Robustness(conditions, of)


def _audit():
    fold = {"name": "03", "num_train": 40, "num_validation": 0, "num_test": 8, "test_emotions": {}, "missing": {}}
    fold |= {"speakers": [], "texts": ["a01"], "sessions": [], "recordings": []}
    finding = (
        "2 of 2 texts are in both training and test data, which this protocol can not avoid where speakers read the "
        "same texts"
    )
    audit = {"corpus": "made", "folds": [fold], "leaks_speakers": False, "findings": [finding]}
    return audit | {"verdict": "independent", "reason": "no speakers or recordings are in both training and test data"}


def make_curves(variants):
    return {
        name: [
            {"step": 10 * e, "epoch": float(e), "loss": 1.4 / (1 + e / (5 + i))}
            | ({"validation_ua": 0.6 - 0.3 / (1 + e)} if e % 5 == 0 else {})
            for e in range(1, 31)
        ]
        for i, name in enumerate(variants)
    }
