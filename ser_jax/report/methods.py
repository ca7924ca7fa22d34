"""The methods paragraph of a study, written from what was run, and the references of what it used.

A citation stands in the text as {{key}}; `plain` turns it into "(Ma et al., 2018)" and `latex` into \\cite{key}.
"""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ser_jax.baselines import is_baseline

BIBLIOGRAPHY = Path(__file__).with_name("references.bib")

# How a model is called in a text, with its source.
MODELS = {
    "shufflenet_v2": "ShuffleNet V2 {{ma2018shufflenet}}",
    "transformer": "an encoder of Transformer blocks {{vaswani2017attention}}",
    "attention_rnn": "a recurrent encoder and decoder",
    "cnn": "a convolutional network",
    "crnn": "a convolutional recurrent network after {{chen2018convolutional}}",
    "rnn": "a recurrent network",
    "tcn": "a temporal convolutional network after {{ye2023temporal}}",
    "reslstm": "a residual bidirectional LSTM",
    "linear": "a linear classifier",
    "encoder_head": "a head on the hidden states of a pretrained encoder",
    "lda": "linear discriminant analysis with a shrunk covariance",
    "linear_svm": "a linear support vector machine {{pedregosa2011scikit}}",
    "logistic_regression": "logistic regression {{pedregosa2011scikit}}",
    "ridge": "a ridge classifier {{pedregosa2011scikit}}",
}
# Where the values of options come from, whatever model has them.
SOURCES = {
    ("attention", "eca"): "wang2020eca",
    ("attention", "se"): "hu2018squeeze",
    ("attention", "additive"): "bahdanau2015neural",
    ("attention", "dot"): "luong2015effective",
    ("attention", "general"): "luong2015effective",
    ("attention", "multiplicative"): "luong2015effective",
    ("attention", "location"): "chorowski2015attention",
    ("attention", "self_attention"): "lin2017structured",
    ("activation", "hard_swish"): "howard2019searching",
    ("mixing", "conformer"): "gulati2020conformer",
    ("mixing", "convolution"): "gulati2020conformer",
    ("mixing", "both"): "gulati2020conformer",
    ("pooling", "weighted"): "mirsamadi2017automatic",
    ("pooling", "self_attentive"): "lin2017structured",
    ("pooling", "attentive_statistics"): "okabe2018attentive",
    ("pooling", "multi_head"): "india2019self",
    ("functionals", "egemaps"): "eyben2016geneva",
    ("functionals", "compare"): "schuller2016interspeech",
    ("functionals", "emobase"): "eyben2010opensmile",
}
AUGMENTATIONS = {
    "speed": "changes of speed by a factor of up to {:g} {{{{ko2015audio}}}}",
    "time_shift": "cyclic shifts of up to {:g} s",
    "gain": "changes of level of up to {:g} dB",
    "noise": "added noise with probability {:g}",
    "vocal_tract": "warps of the mel axis by a factor of up to {:g} {{{{jaitly2013vocal}}}}",
    "spec_augment": "SpecAugment at strength {:g} {{{{park2019specaugment}}}}",
    "mixup": "mixup at strength {:g} {{{{zhang2018mixup}}}}",
}
FEATURES = {
    "mfcc": "{num_mfcc} mel-frequency cepstral coefficients of {num_mels} bands",
    "log_mel": "log-mel spectrograms of {num_mels} bands",
    "histogram": "histograms of the levels of {num_mels} log-mel bands ({histogram_bins} bins)",
    "functionals": "functionals of {num_mels} log-mel bands and their deltas",
}
NORMALIZATIONS = {
    "none": "not normalised",
    "utterance": "normalised by each utterance's own mean and variance",
    "train": "normalised by the mean and variance of the training fold",
    "speaker": "normalised by the mean and variance of all that their speaker says, without a look at the labels",
}


def paragraph(summary: Mapping[str, Any], configs: Mapping[str, Mapping], corpus: Mapping[str, Any]) -> str:
    """Returns the methods paragraph, with citations as {{key}}.

    `configs` are the variants' complete configurations; without them only corpus and evaluation are described.
    `corpus` is a corpus's `info`: licence, citation, description.
    """
    networks = [config for config in configs.values() if not is_baseline(config["model"])]
    sentences = [*_corpus(summary, corpus), *_models(summary, configs)]
    if networks:
        sentences += [*_features(networks), *_training(networks)]
    sentences += [*_runs(summary, networks), *_evaluation(summary), *_software(summary, networks)]
    return " ".join(sentences)


def citations(text: str) -> list[str]:
    """The keys that a text cites, each once, in its order."""
    return list(dict.fromkeys(re.findall(r"\{\{(\w+)\}\}", text)))


def plain(text: str, extra: str = "") -> str:
    """The text with its citations as (author, year); `extra` is more BibTeX, such as the corpus's."""
    entries = bibliography(extra)
    text = re.sub(r"after \{\{(\w+)\}\}", lambda found: f"after {_author_year(entries, found[1], ' ({})')}", text)
    return re.sub(r"\{\{(\w+)\}\}", lambda found: f"({_author_year(entries, found[1], ', {}')})", text)


def latex(text: str) -> str:
    """The text as LaTeX source, with its citations as \\cite{key}."""
    pieces = re.split(r" ?\{\{(\w+)\}\}", text)
    source = [escape(piece) if i % 2 == 0 else rf"~\cite{{{piece}}}" for i, piece in enumerate(pieces)]
    return "".join(source)


def escape(text: str) -> str:
    """Returns text as LaTeX source that prints it as it is."""
    signs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    signs |= {sign: f"\\{sign}" for sign in "&%$#_{}"}
    signs |= {"×": r"$\times$", "−": "$-$", "–": "--", "±": r"$\pm$", "<": "$<$", ">": "$>$", "\u202f": r"\,"}
    return "".join(signs.get(character, character) for character in text)


def bibtex(keys: Iterable[str], extra: str = "") -> str:
    """The BibTeX entries of these keys; `extra` is more BibTeX, such as the corpus's."""
    entries = bibliography(extra)
    return "\n\n".join(entries[key] for key in keys if key in entries) + "\n"


def bibliography(extra: str = "") -> dict[str, str]:
    """All known BibTeX entries by key."""
    return {**_own_bibliography(), **_entries(extra)}


@functools.cache
def _own_bibliography() -> dict[str, str]:
    return _entries(BIBLIOGRAPHY.read_text(encoding="utf-8"))


def _entries(source: str) -> dict[str, str]:
    parts = re.split(r"^(?=@)", source, flags=re.MULTILINE)
    return {found[1]: part.strip() for part in parts if (found := re.match(r"@\w+\{\s*([^,\s]+)\s*,", part))}


def _author_year(entries: Mapping[str, str], key: str, year_as: str) -> str:
    """The authors' family names and the year of an entry; its key where it does not tell them."""
    entry = entries.get(key, "")
    authors = re.search(r"author\s*=\s*\{(.*?)\},?\s*\n", entry, flags=re.DOTALL)
    year = re.search(r"year\s*=\s*\{?(\d{4})", entry)
    if not authors or not year:
        return key
    families = [name.split(",")[0].strip() for name in re.split(r"\s+and\s+", authors[1])]
    families = [re.sub(r"\{?\\.\{?(\w)\}?\}?|[{}]", r"\1", name) for name in families]
    shown = f"{families[0]} et al." if len(families) > 2 else " and ".join(families)
    return shown + year_as.format(year[1])


# The sentences ------------------------------------------------------------------------------------------------------


def _corpus(summary: Mapping[str, Any], corpus: Mapping[str, Any]) -> list[str]:
    variant = next(iter(summary["variants"].values()))
    keys = list(_entries(corpus.get("citation") or ""))
    source = f" {{{{{keys[0]}}}}}" if keys else ""
    emotions = summary["emotions"]
    sentence = (
        f"We used the corpus {summary['corpus']}{source}: {variant['utterances']} utterances of "
        f"{count(variant['speakers'], 'speaker')} were tested, in {len(emotions)} emotions ({', '.join(emotions)})."
    )
    description = summary.get("protocol_description")
    protocol = summary.get("protocol")
    if not protocol:
        return [sentence]
    text = f"The protocol was {str(protocol).replace('_', ' ')}"
    if description:
        return [sentence, f"{text}: {description.rstrip('.')}."]
    return [
        sentence,
        f"{text}, {'speaker-independent' if summary.get('speaker_independent') else 'SPEAKER-DEPENDENT'}.",
    ]


def _models(summary: Mapping[str, Any], configs: Mapping[str, Mapping]) -> list[str]:
    by_model: dict[str, list[str]] = {}
    for name, config in configs.items():
        if name in summary["variants"]:
            by_model.setdefault(config["model"]["name"], []).append(name)
    sentences = []
    for model, names in by_model.items():
        options = [{k: v for k, v in configs[name]["model"].items() if k != "name"} for name in names]
        keys = list(dict.fromkeys(key for option in options for key in option))
        fixed = [key for key in keys if len({repr(option.get(key)) for option in options}) == 1]
        text = MODELS.get(model, model.replace("_", " "))
        text = text[0].upper() + text[1:]
        if fixed:
            text += " with " + ", ".join(_option(key, [options[0][key]]) for key in fixed)
        varied = [key for key in keys if key not in fixed]
        if varied:
            levels = [list(dict.fromkeys(option.get(key, "default") for option in options)) for key in varied]
            text += ", varied in " + "; and in ".join(_option(k, of) for k, of in zip(varied, levels, strict=True))
        sizes = [summary["variants"][name].get("parameters") for name in names]
        sizes = sorted({size for size in sizes if size is not None})
        if sizes:
            shown = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
            text += f"; {count(len(names), 'variant')} with {shown} parameters"
        sentences.append(f"{text}.")
    if by_model:
        sentences[0] = (
            f"We trained {sentences[0][0].lower() if sentences[0].startswith('A') else sentences[0][0]}"
            + (sentences[0][1:])
        )
    return sentences


def _option(key: str, values: Sequence[Any]) -> str:
    if values in ([True], [False]):
        return f"{'' if values[0] else 'no '}{key.replace('_', ' ')}"
    shown = []
    for value in values:
        source = SOURCES.get((key, value)) if isinstance(value, str) else None
        name = str(value).replace("_", " ")
        shown.append(f"{name} {{{{{source}}}}}" if source else name)
    key = key.replace("_", " ")
    return f"{key} {shown[0]}" if len(shown) == 1 else f"{key}: {join(shown, 'or')}"


def _features(networks: Sequence[Mapping]) -> list[str]:
    frontend = networks[0]["frontend"]
    if frontend["kind"] == "precomputed":
        text = f"Inputs were the precomputed features {frontend['features']}"
    else:
        text = "Inputs were " + FEATURES[frontend["kind"]].format(**frontend)
        text += f" between {frontend['fmin']:g} and {frontend['fmax']:g} Hz of audio at 16 kHz"
        text += f" (windows of {frontend['window_ms']:g} ms every {frontend['hop_ms']:g} ms)"
        deltas = {1: ", with deltas", 2: ", with deltas and second deltas"}
        text += deltas.get(frontend.get("deltas", 0), "")
    text += f", {NORMALIZATIONS[frontend['normalization']]}."
    strengths = networks[0]["augmentation"]
    used = [
        AUGMENTATIONS[name].format(_strength(name, s)) for name, s in strengths.items() if s and name in AUGMENTATIONS
    ]
    return [text, f"Training data were augmented by {join(used)}." if used else "Training data were not augmented."]


def _strength(name: str, value: float) -> float:
    return 1 + value if name in ("speed", "vocal_tract") else value


def _training(networks: Sequence[Mapping]) -> list[str]:
    optimizer, training = networks[0]["optimizer"], networks[0]["training"]
    lasted = _duration(training, "train")
    text = (
        f"Every network was trained for {lasted} in batches of {training['batch_size']} crops of "
        f"{training['crop_seconds']:g} s, by AdamW {{{{loshchilov2019decoupled}}}} with a weight decay of "
        f"{optimizer['weight_decay']:g} and a learning rate that rose to {optimizer['learning_rate']:g} over "
        f"{_duration(optimizer, 'warmup')} and fell to zero along a cosine"
    )
    extras = []
    if optimizer["gradient_clip"]:
        extras.append(f"gradients clipped to a norm of {optimizer['gradient_clip']:g}")
    if optimizer["label_smoothing"]:
        extras.append(f"label smoothing of {optimizer['label_smoothing']:g} {{{{szegedy2016rethinking}}}}")
    if optimizer["class_weights"]:
        extras.append("losses weighted inversely to the classes' frequency")
    if optimizer["ema_decay"]:
        extras.append(f"an exponential moving average of the parameters (decay {optimizer['ema_decay']:g}) for testing")
    sentences = [f"{text}{', with ' + join(extras) if extras else ''}."]
    if training["heads"] == "source":
        sentences.append("Each of the corpora that this one was merged from had a classifier of its own.")
    varied = _varied(networks)
    if varied:
        sentences.append(f"Variants also differed in {join(varied)}; the values above are those of the first.")
    return sentences


def _varied(networks: Sequence[Mapping]) -> list[str]:
    """What else the configurations differ in than the model: "the learning rate (0.001, 0.002)"."""
    leaves: dict[str, list[Any]] = {}
    for config in networks:
        for group in ("frontend", "augmentation", "optimizer", "training", "protocol", "objective", "masking"):
            for key, value in config.get(group, {}).items():
                leaves.setdefault(f"{group} {key}".replace("_", " "), []).append(value)
    return [
        f"{name} ({', '.join(map(str, dict.fromkeys(values)))})"
        for name, values in leaves.items()
        if len(set(map(repr, values))) > 1
    ]


def _duration(group: Mapping[str, Any], name: str) -> str:
    steps = group.get(f"{name}_steps", -1)
    return f"{steps:g} steps" if steps >= 0 else f"{group[f'{name}_epochs']:g} epochs"


def _runs(summary: Mapping[str, Any], networks: Sequence[Mapping]) -> list[str]:
    variants = summary["variants"].values()
    runs = sum(variant["runs"] for variant in variants)
    seeds = max(variant["seeds"] for variant in variants)
    folds = max(variant["folds"] for variant in variants)
    whole = all(variant["runs"] == folds * seeds for variant in variants)
    who = "Every variant was run on" if whole else "Variants were run on up to"
    text = f"{who} {count(folds, 'fold')} with {count(seeds, 'seed')} ({count(runs, 'run')} in all)"
    if networks:
        text += "; runs of the same fold and seed saw the same batches in the same order, so that variants are paired"
        validation = networks[0]["protocol"].get("validation_speakers", 0)
        if not validation:
            text += ". The schedule was fixed in advance and the last parameters were tested: nothing was selected"
    return [f"{text}."]


def _evaluation(summary: Mapping[str, Any]) -> list[str]:
    variants = list(summary["variants"].values())
    text = (
        "The figure of merit is unweighted accuracy (UA), the mean of the classes' recalls "
        "{{schuller2009interspeech}}, pooled over folds for each seed and averaged over seeds."
    )
    sentences = [text]
    if any(variant["ua_ci95"] is not None for variant in variants):
        sentences.append(
            "Intervals are 95 % intervals by Student's t with one degree of freedom less than there are speakers, on "
            "the standard error of a bootstrap that draws speakers {{field2007bootstrapping}}; they hold for new "
            "speakers of the same kind and do not include how seeds differ."
        )
    if summary["comparisons"]:
        number = count(len(summary["comparisons"]), "comparison")
        text = "Variants were compared by the paired difference of UA on the same utterances, folds and seeds"
        if any(comparison["p"] is not None for comparison in summary["comparisons"]):
            text += (
                "; p values are those of the t-test that belongs to the interval, after Holm's correction "
                f"{{{{holm1979simple}}}} for all that a question tests (here {number} in all)"
            )
        sentences.append(f"{text}.")
        if any(comparison["detectable"] is not None for comparison in summary["comparisons"]):
            sentences.append(
                "The smallest detectable difference is the true difference that 80 % of such studies would find "
                "significant after that correction {{bloom1995minimum}}."
            )
    known = [c for variant in variants if (c := variant.get("calibration")) and c.get("ece") is not None]
    if known:
        scaled = any(c.get("temperature") for c in known)
        sentences.append(
            f"Calibration is told by the expected calibration error {{{{guo2017calibration}}}}"
            f"{', before and after temperature scaling on validation speakers,' if scaled else ''} and by the Brier "
            "score {{brier1950verification}}."
        )
    return sentences


def _software(summary: Mapping[str, Any], networks: Sequence[Mapping]) -> list[str]:
    versions = summary.get("versions") or {}
    if not versions:
        return []
    text = "Software: ser_jax"
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    source = " {{bradbury2018jax}}" if networks and "jax" in versions else ""
    return [f"{text}, with {listed}{source}."]


def count(number: int, noun: str) -> str:
    """A number of things: 1 fold, 10 folds."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def join(parts: Sequence[str], word: str = "and") -> str:
    """Parts as a list in a sentence: a, b and c."""
    return f" {word} ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
