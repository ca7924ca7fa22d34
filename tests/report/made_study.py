"""A study that was never run: three questions, with every key that a summary can hold."""

import numpy as np

from ser_jax import config as configuration
from ser_jax import predictions
from ser_jax.report import summary

EMOTIONS = ("anger", "boredom", "fear", "neutral")
SPEAKERS = ("03", "08", "09", "10", "11", "12")
SIZES = {"03": (40, 8), "08": (40, 8), "09": (40, 8), "10": (40, 8), "11": (40, 8), "12": (40, 8)}
CITATION = """@inproceedings{doe2020speech,
  title = {Speech},
  author = {Doe, Jane and R{\\"o}e, Richard},
  year = {2020}
}"""
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
    """The summary of a table as an older study has it, or with all that one can add (made up, of the right form)."""
    variants = list(dict.fromkeys(table["variant"]))
    comparisons = [pair for pair in COMPARISONS if set(pair) <= set(variants)]
    meta = {"protocol": "leave_one_speaker_out", "speaker_independent": True, "fingerprint": "f" * 64}
    meta |= {"versions": {"jax": "0.10.2"}, "seconds": {"train": 3723.4, "load": 0.1, "total": 3725.0}}
    parameters = {name: 1000 * (i + 1) for i, name in enumerate(name for name in VARIANTS if name in variants)}
    made = summary.summarise(
        table, comparisons=comparisons, fold_sizes=SIZES, parameters=parameters, meta=meta, replicates=200
    )
    if whole:
        return _filled(made)
    older = ("per_fold", "calibration", "fairness")
    bare = {name: {k: v for k, v in one.items() if k not in older} for name, one in made["variants"].items()}
    return {**{key: value for key, value in made.items() if key != "questions"}, "variants": bare}


def _filled(made):
    rng = np.random.default_rng(0)
    for one in made["comparisons"]:
        one["seed_differences"] = {"0": one["estimate"] - 0.02, "1": one["estimate"] + 0.02}
        one["fold_differences"] = {fold: one["estimate"] for fold in SPEAKERS}
    for number, variant in enumerate(made["variants"].values()):
        ua = variant["ua"]
        variant["per_fold"] = {"ua_mean": ua, "ua_sd": 0.08, "wa_mean": ua, "wa_sd": 0.08, "folds": 6}
        variant["cost"] = {"multiply_adds": 10**6 * (number + 1), "seconds": 3.0}
        variant["cost"]["latency"] = 1 + number / 10
        bins = np.linspace(0, 1, 11)
        reliability = [
            {"low": low, "high": high, "confidence": (low + high) / 2, "accuracy": low, "count": int(100 * high)}
            if high > 0.25
            else {"low": low, "high": high, "confidence": None, "accuracy": None, "count": 0}
            for low, high in zip(bins[:-1].tolist(), bins[1:].tolist(), strict=True)
        ]
        variant["calibration"] = {
            **{"ece": 0.1, "ece_ci95": [0.05, 0.15], "ece_by_chance": 0.03, "brier": 0.6, "brier_ci95": [0.5, 0.7]},
            "reliability": reliability,
            "temperature": {"median": 1.2, "lowest": 0.9, "highest": 1.6, "runs": 12},
            **{"ece_scaled": 0.04, "brier_scaled": 0.55, "notes": []},
        }
        gender = {speaker: "female" if int(speaker) % 2 else "male" for speaker in SPEAKERS}
        of_speaker = {s: float(np.clip(ua + rng.normal() / 10, 0.1, 0.9)) for s in SPEAKERS}
        variant["fairness"] = {
            "genders": {
                g: {"ua": ua, "ua_ci95": [ua - 0.1, ua + 0.1], "speakers": 3, "utterances": 24}
                for g in ("female", "male")
            },
            "gender_gap": {"ua_difference": 0.01, "ci95": [-0.1, 0.12], "p": 0.8, "emotions": list(EMOTIONS)},
            "speakers": {
                s: {"ua": u, "ua_ci95": [u - 0.1, u + 0.1], "utterances": 8, "gender": gender[s], "missing": []}
                for s, u in of_speaker.items()
            },
            "worst": min(of_speaker, key=of_speaker.get),
            "best": max(of_speaker, key=of_speaker.get),
            **{"spread": 0.1, "spread_by_chance": 0.08, "notes": []},
        }
    return made | {
        "title": "Does attention help?",
        "questions": _questions(made),
        "robustness": _robustness(made),
        "audit": _audit(),
        "protocol_description": "each speaker is tested by models that never heard that speaker",
        "failed": {"rnn location": "config.model.attention: out of memory"},
        "hardware": {"platform": "cpu", "device": "some processor", "devices": 2},
        "code": {name: "0123456789abcdef" for name in made["variants"]},
    }


def _questions(made):
    factors = {"activation": ["relu", "hard_swish"], "attention": ["none", "se", "eca"]}
    levels = {
        f"channel attention: {activation}, {attention}": {"activation": activation, "attention": attention}
        for activation in factors["activation"]
        for attention in factors["attention"]
    }
    pairs = [(one["variant"], one["baseline"]) for one in made["comparisons"]]
    effect = {**{"estimate": 0.06, "ci95": [0.02, 0.1], "p": 0.01, "p_holm": 0.03}}
    effect |= {
        "p_equivalence": 0.9,
        "verdict": "difference",
        "margin": 0.02,
        "family": 8,
        "detectable": 0.05,
        "folds": 6,
        "seeds": 2,
        "notes": [],
    }
    names = {
        "activation hard_swish against relu": "main effect",
        "attention se against none": "main effect",
        "attention eca against none": "main effect",
        "attention eca against none x activation hard_swish against relu": "interaction",
    }
    texts = {
        "channel attention": "Does channel attention help ShuffleNet V2, and does hard-swish?",
        "pooling": "Does attentive pooling help an encoder?",
        "decoder": "Does attention help a recurrent encoder and decoder?",
    }
    questions = []
    for name, text in texts.items():
        indices = [i for i, (variant, _) in enumerate(pairs) if variant.startswith(f"{name}: ")]
        if indices:
            crossed = name == "channel attention"
            of = levels if crossed else {v: {} for v in made["variants"] if v.startswith(f"{name}: ")}
            question = {"name": name, "text": text, "factors": factors if crossed else {}, "levels": of}
            question["effects"] = [{"name": n, "kind": kind, **effect} for n, kind in names.items()] if crossed else []
            points = 100 * made["comparisons"][indices[-1]]["estimate"]
            questions.append({**question, "comparisons": indices, "answer": f"It changed UA by {points:+.1f} points."})
    return questions


def _robustness(made):
    conditions = ["noise_30", "noise_0", "band_limit_2000", "telephone"]
    of = {}
    for name, variant in made["variants"].items():
        losses = dict(zip(conditions, (0.01, 0.25, 0.1, 0.12), strict=True))
        of[name] = {
            c: {"ua": variant["ua"] - loss, "ua_ci95": [variant["ua"] - loss - 0.05, variant["ua"] - loss + 0.05]}
            | {"difference": -loss, "difference_ci95": [-loss - 0.03, -loss + 0.03]}
            for c, loss in losses.items()
        }
    return {"conditions": conditions, "variants": of}


def _audit():
    fold = {"name": "03", "num_train": 40, "num_validation": 0, "num_test": 8, "test_emotions": {}, "missing": {}}
    fold |= {"speakers": [], "texts": ["a01"], "sessions": [], "recordings": []}
    finding = "2 of 2 texts stand on both sides, which this protocol can not avoid where speakers read the same texts"
    return {"corpus": "made", "folds": [fold], "leaks_speakers": False, "findings": [finding]}


def make_curves(variants):
    return {
        name: [
            {"step": 10 * e, "epoch": float(e), "loss": 1.4 / (1 + e / (5 + i))}
            | ({"validation_ua": 0.6 - 0.3 / (1 + e)} if e % 5 == 0 else {})
            for e in range(1, 31)
        ]
        for i, name in enumerate(variants)
    }
