"""The methods paragraph of a study, written from its configurations: all that decides its figures.

A citation stands in the text as {{key}}; see `ser_jax.report.references`.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ser_jax import config as configuration
from ser_jax.baselines import is_baseline
from ser_jax.numbers import count
from ser_jax.report import method_runs, numbers
from ser_jax.report.method_terms import AUGMENTATIONS, FEATURES, MODELS, NORMALIZATIONS, SOURCES, duration
from ser_jax.report.numbers import join
from ser_jax.report.references import parsed
from ser_jax.report.summary import Provenance, Summary

# Options whose sentences stand below; any other one that is not at its default is named as it is called.
_GROUPS = (
    "corpus",
    "protocol",
    "order",
    "frontend",
    "augmentation",
    "objective",
    "masking",
    "optimizer",
    "training",
    "evaluation",
)
_STATED = {
    "corpus": {"name", "dimensions", "votes"},
    "protocol": {"name", "validation_speakers", "selection_speakers", "tested", "source"},
    "frontend": {
        *("kind", "num_mels", "window_ms", "hop_ms", "fmin", "fmax", "num_mfcc", "deltas", "histogram_bins"),
        *("features", "normalization", "trim_db"),
    },
    "augmentation": set(AUGMENTATIONS),
    "objective": {"frames"},
    "masking": {"share", "span"},
    "optimizer": {
        *("name", "schedule", "learning_rate", "weight_decay", "warmup_epochs", "warmup_steps", "gradient_clip"),
        *("ema_decay", "label_smoothing", "class_weights"),
    },
    "training": {
        *("batch_size", "heads", "initial", "teacher", "teacher_share", "crop_seconds", "train_epochs", "train_steps"),
        *("precision", "keep", "split", "checkpoint_seconds", "validate_epochs", "validate_steps"),
    },
    "evaluation": {"window_seconds", "batch_statistics", "batch_size", "latency", "robustness"},
}


def paragraph(summary: Summary, configs: Mapping[str, Mapping]) -> str:
    """Returns the methods paragraph, with citations as {{key}}.

    `configs` are the variants' complete configurations; without them only corpus and evaluation are described.
    """
    networks = [config for config in configs.values() if not is_baseline(config["model"])]
    sentences = [*_corpus(summary), *_models(summary, configs), *_hidden_states(summary)]
    if networks:
        sentences += [*_features(networks[0]), *_training(networks[0], _platforms(summary, configs))]
        sentences += [*_targets(networks[0], summary.emotions), *_testing(networks[0], summary.emotions)]
        sentences += _others(networks)
    sentences += [*method_runs.sentences(summary, configs)]
    sentences += [*_evaluation(summary), *_software(summary, networks)]
    return " ".join(sentences)


def _corpus(summary: Summary) -> list[str]:
    variant = next(iter(summary.variants.values()))
    keys = list(parsed(summary.study.corpus_info.get("citation", "")))
    source = f" {{{{{keys[0]}}}}}" if keys else ""
    emotions = ", ".join(summary.emotions)
    sentences = [
        f"We used the corpus {summary.corpus}{source}: {variant.utterances} utterances of "
        f"{count(variant.speakers, 'speaker')} were tested"
        + (f", in {len(summary.emotions)} emotions ({emotions})." if emotions else ".")
    ]
    for protocol in summary.study.protocols:
        text = f"The protocol was {protocol.name.replace('_', ' ')}"
        if protocol.description:
            sentences.append(f"{text}: {protocol.description.rstrip('.')}.")
        elif protocol.speaker_independent is not None:
            sentences.append(
                f"{text}, {'speaker-independent' if protocol.speaker_independent else 'SPEAKER-DEPENDENT'}."
            )
    if summary.study.left_out:
        sentences.append(f"Left out: {'; '.join(summary.study.left_out)}.")
    if summary.study.labels:
        sentences.append(f"Labels that were changed: {'; '.join(summary.study.labels)}.")
    return sentences


def _models(summary: Summary, configs: Mapping[str, Mapping]) -> list[str]:
    by_model: dict[str, list[str]] = {}
    candidates = summary.study.selection.candidates if summary.study.selection else ()
    for name, config in configs.items():
        if name in summary.variants or name in candidates:
            by_model.setdefault(config["model"]["name"], []).append(name)
    sentences = []
    for model, names in by_model.items():
        options = [{k: v for k, v in configs[name]["model"].items() if k != "name"} for name in names]
        keys = list(dict.fromkeys(key for option in options for key in option))
        fixed = [key for key in keys if len({repr(option.get(key)) for option in options}) == 1]
        text = numbers.sentence_case(MODELS.get(model, model.replace("_", " ")))
        if fixed:
            text += " with " + ", ".join(_option(key, [options[0][key]]) for key in fixed)
        varied = [key for key in keys if key not in fixed]
        if varied:
            found = [[option.get(key, "default") for option in options] for key in varied]
            levels = [list({repr(value): value for value in values}.values()) for values in found]  # some are lists
            text += ", varied in " + "; and in ".join(_option(k, of) for k, of in zip(varied, levels, strict=True))
        there = [summary.variants[name].known for name in names if name in summary.variants]
        sizes = sorted({known.parameters for known in there if known.parameters is not None})
        if sizes:
            shown = numbers.whole(sizes[0])
            shown += f" to {numbers.whole(sizes[-1])}" if len(sizes) > 1 else ""
            text += f"; {count(len(names), 'variant')} with {shown} parameters"
        sentences.append(f"{text}.")
    if by_model:
        first = sentences[0]
        name = first.split()[0][1:] != first.split()[0][1:].lower()  # as of ShuffleNet
        sentences[0] = f"We trained {first[0] if name else first[0].lower()}{first[1:]}"
    return sentences


def _option(key: str, values: Sequence[Any]) -> str:
    if len(values) == 1 and isinstance(values[0], bool):  # [1] == [True]
        return f"{'' if values[0] else 'no '}{key.replace('_', ' ')}"
    shown = []
    for value in values:
        source = SOURCES.get((key, value)) if isinstance(value, str) else None
        name = (" + ".join(map(str, value)) if isinstance(value, list) else str(value)).replace("_", " ")
        shown.append(f"{name} {{{{{source}}}}}" if source else name)
    key = key.replace("_", " ")
    return f"{key} {shown[0]}" if len(shown) == 1 else f"{key}: {join(shown, 'or')}"


def _features(config: Mapping) -> list[str]:
    frontend = config["frontend"]
    if frontend["kind"] == "precomputed":
        text = f"Inputs were the pre-extracted features {frontend['features']}"
    elif frontend["kind"] == "waveform":
        text = "Inputs were waveforms at 16 kHz"
        if encoder := config["model"].get("encoder"):
            text += f", of which the pretrained encoder {encoder} computed hidden states in every training step"
    else:
        text = "Inputs were " + FEATURES.get(frontend["kind"], frontend["kind"].replace("_", " ")).format(**frontend)
        text += f" between {frontend['fmin']:g} and {frontend['fmax']:g} Hz of audio at 16 kHz"
        text += f" (windows of {frontend['window_ms']:g} ms every {frontend['hop_ms']:g} ms)"
        text += {1: ", with deltas", 2: ", with deltas and second deltas"}.get(frontend.get("deltas", 0), "")
    text += f", {NORMALIZATIONS.get(frontend['normalization'], frontend['normalization'])}."
    sentences = [text]
    if frontend.get("trim_db"):
        sentences.append(
            f"Silence at both ends of a recording, {frontend['trim_db']:g} dB below its loudest part, was cut off."
        )
    strengths = config["augmentation"]
    used = [
        AUGMENTATIONS[name].format(_strength(name, s)) for name, s in strengths.items() if s and name in AUGMENTATIONS
    ]
    sentences.append(f"Training data were augmented by {join(used)}." if used else "Training data were not augmented.")
    return sentences


def _hidden_states(summary: Summary) -> list[str]:
    """What pre-extracted features are, of a pretrained encoder, for each that a variant takes."""
    features = [v.known.features for v in summary.variants.values() if v.known.features]
    if summary.study.selection:
        features += summary.study.selection.features.values()
    known = {of["name"]: of.get("info", {}) for of in features}
    sentences = []
    for name, info in known.items():
        if "encoder" not in info:
            continue
        encoder, average, trim = info["encoder"], info.get("average", 1), info.get("trim_db", 0)
        text = f"The features {name} are hidden states ({join(info['states'])}) of the pretrained encoder "
        text += f"{encoder['name']} (SHA-256 {encoder['sha256'][:16]}), "
        pooled = info["form"] == "pooled"
        text += "each as mean and deviation over a recording" if pooled else "frame by frame"
        text += f", the means of {average} frames" if average > 1 else ""
        text += f"; the encoder took at most {info['window_seconds']:g} s at once"
        text += f", without silence {trim:g} dB below the loudest at both ends" if trim else ""
        speeds = info.get("speeds", [1.0])
        text += f", at the speeds {join([f'{speed:g}' for speed in speeds])}" if len(speeds) > 1 else ""
        sentences.append(f"{text}; states were kept as {info['dtype']}.")
    return sentences


def _strength(name: str, value: float) -> float:
    return 1 + value if name in ("speed", "vocal_tract") else value


def _platforms(summary: Summary, configs: Mapping[str, Mapping]) -> set[str]:
    """On what kinds of device the networks were trained; "" where it is not known."""
    networks = [name for name, config in configs.items() if not is_baseline(config["model"])]
    if summary.study.selection and summary.study.selection.chosen:  # the one variant is another one in each fold
        networks = list(summary.variants) if networks else []
    there = [summary.variants[name].known for name in networks if name in summary.variants]
    return {str(of.hardware.get("platform", "")) for known in there for of in known.trained}


def _precision(name: str, platforms: Collection[str]) -> str:
    """Says what activations and products were computed in; a CPU has no tf32."""
    if name == "tf32" and platforms == {"cpu"}:
        return "Activations and products were of float32."
    text = f"Activations and products had the precision {name}"
    known = "cpu" not in platforms and platforms and "" not in platforms
    return f"{text}." if name != "tf32" or known else f"{text} on devices that have it, and float32 on others."


def _training(config: Mapping, platforms: Collection[str]) -> list[str]:
    """How every network was trained: optimizer, precision and first parameters."""
    optimizer, training = config["optimizer"], config["training"]
    by = optimizer.get("name", "adamw")
    by = "AdamW {{loshchilov2019decoupled}}" if by == "adamw" else str(by)
    schedule = optimizer.get("schedule", "cosine_decay")
    fell = "fell to zero along a cosine" if schedule == "cosine_decay" else f"followed the schedule {schedule}"
    warmup = duration(optimizer, "warmup")
    rose = (
        f"rose to {optimizer['learning_rate']:g} over {warmup}"
        if warmup
        else (f"began at {optimizer['learning_rate']:g}, without a warm-up,")
    )
    decay = f"a weight decay of {optimizer['weight_decay']:g}" if optimizer["weight_decay"] else "no weight decay"
    text = (
        f"Every network was trained for {duration(training, 'train')} in batches of {training['batch_size']} crops of "
        f"{training['crop_seconds']:g} s, by {by} with {decay} and a learning rate that {rose} and {fell}"
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
    if training.get("precision"):
        sentences.append(_precision(training["precision"], platforms))
    initial = training.get("initial")
    sentences.append(
        f"Parameters were initialised from the training in {initial}."
        if initial
        else "Parameters were drawn at random."
    )
    return sentences


def _targets(config: Mapping, emotions: Sequence[str]) -> list[str]:
    """What the networks learnt beside the labels, and with which classifiers."""
    corpus, training, sentences = config["corpus"], config["training"], []
    if training.get("teacher"):
        sentences.append(
            f"Targets were a mixture of the label and the probabilities of a teacher, trained on the same folds "
            f"({training['teacher']}), with a share of {training['teacher_share']:g} {{{{hinton2015distilling}}}}."
        )
    if corpus.get("dimensions"):
        names, weight = join(list(corpus["dimensions"])), config["objective"]["dimensions"]
        also = "also " if emotions else ""
        sentences.append(
            f"The networks {also}predicted {names} of every utterance, standardised by the training utterances, by "
            f"1 - CCC over the batch (weight {weight:g})."
            if weight
            else f"Outputs for {names} were not trained."
        )
    if corpus.get("votes"):
        sentences.append("The targets of the emotion were the shares of the raters' votes.")
    if config["objective"].get("frames"):
        masking = config["masking"]
        sentences.append(
            f"The networks also reconstructed masked frames (weight {config['objective']['frames']:g}; "
            f"{100 * masking['share']:g} % of the frames in spans of {masking['span']:g})."
        )
    if training["heads"] == "source":
        sentences.append("Each of the corpora that this one was merged from had a classifier of its own.")
    return sentences


def _testing(config: Mapping, emotions: Sequence[str]) -> list[str]:
    """How a recording is tested: windows, and the statistics of batch normalisation."""
    window = config["evaluation"]["window_seconds"] or config["training"]["crop_seconds"]
    sentences = [
        f"Recordings were tested in windows of {window:g} s, whose {'probabilities' if emotions else 'values'} were "
        "averaged over a recording."
    ]
    if config["evaluation"]["batch_statistics"] == "speaker":
        sentences.append(
            "Batch normalisation used the statistics of the tested speaker's recordings, without their labels "
            "{{li2017revisiting}} (transductive)."
        )
    else:
        sentences.append("Batch normalisation, where a network has it, used the running averages of training.")
    return sentences


def _others(networks: Sequence[Mapping]) -> list[str]:
    """What is not at its default and has no sentence of its own, and what the variants differ in beside the model."""
    sentences, further = [], []
    defaults = configuration.default()
    for group in _GROUPS:
        for key, value in networks[0].get(group, {}).items():
            default = defaults.get(group, {}).get(key)
            if key not in _STATED.get(group, ()) and _jsonable(value) != _jsonable(default):
                off = group == "objective" and not value
                further.append(f"{group} {key} {'off' if off else value}".replace("_", " "))
    if further:
        sentences.append(f"Further options: {', '.join(further)}.")
    leaves: dict[str, list[Any]] = {}
    for config in networks:
        for group in _GROUPS:
            for key, value in config.get(group, {}).items():
                leaves.setdefault(f"{group} {key}".replace("_", " "), []).append(value)
    varied = [
        f"{name} ({', '.join(map(str, dict.fromkeys(map(str, values))))})"
        for name, values in leaves.items()
        if len(set(map(repr, values))) > 1
    ]
    if varied:
        sentences.append(f"Variants also differed in {join(varied)}; the values above are those of the first.")
    return sentences


def _jsonable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _evaluation(summary: Summary) -> list[str]:
    variants = list(summary.variants.values())
    main = "unweighted accuracy (UA), the mean of the classes' recalls {{schuller2009interspeech}}"
    if not summary.emotions:
        main = "the concordance correlation coefficient (CCC) over utterances"
    sentences = [f"The main metric is {main}, pooled over folds for each seed and averaged over seeds."]
    adapted = join(sorted({use for variant in variants for use in variant.known.uses_speaker}))
    sentences.append(f"Some figures are transductive: they use {adapted}." if adapted else "All figures are inductive.")
    if any(variant.ua.ci95 is not None for variant in variants):
        noise = (
            " Where a model tested several speakers, the noise of its training is part of them, as far as several "
            "trainings show it {{cameron2011robust}}, with degrees of freedom by {{satterthwaite1946approximate}}."
        )
        apart = summary.study.speaker_independent is not False  # each speaker in one fold
        shared = not apart or any(variant.folds < variant.speakers for variant in variants)
        sentences.append(
            "Intervals of a variant's figures are 95 % intervals by Student's t with one degree of freedom less than "
            "there are speakers, on the standard error of a bootstrap that draws speakers {{field2007bootstrapping}}; "
            f"they hold for new speakers of the same kind.{noise if shared else ''}"
        )
    if summary.comparisons:
        sentences.append(
            "Variants were compared by the paired difference of UA on the same utterances, folds and seeds."
        )
        if any(one.verdict is not None for one in summary.comparisons):
            sentences.append(
                "Interval, p value and smallest detectable difference follow from one standard error, by Student's t "
                f"with {_degrees(summary)}; p values are corrected by Holm's method {{{{holm1979simple}}}} within a "
                f"question ({count(len(summary.comparisons), 'comparison')} in all). Variants are called equivalent "
                "where two one-sided tests {{schuirmann1987comparison}} find the difference within "
                f"{100 * summary.margin:g} points."
            )
        elif any(one.ci95 is not None for one in summary.comparisons):
            sentences.append(
                "Interval and p value follow from one standard error, by Student's t with "
                f"{_degrees(summary)}; they are of these trained models alone, and p values are not corrected."
            )
        if any(one.detectable is not None for one in summary.comparisons):
            sentences.append(
                "The smallest detectable difference is the true difference that 80 % of such studies find "
                "{{bloom1995minimum}}."
            )
        if any(one.nadeau_bengio for one in summary.comparisons):
            sentences.append("The corrected resampled t-test {{nadeau2003inference}} is a sensitivity analysis.")
    known = [c for variant in variants if (c := variant.calibration) and c.ece is not None]
    if known:
        scaled = (
            ", before and after temperature scaling on validation speakers,"
            if any(c.temperature for c in known)
            else ""
        )
        sentences.append(
            f"Calibration is measured by the expected calibration error {{{{guo2017calibration}}}}{scaled} and by the "
            "Brier score {{brier1950verification}}."
        )
    return sentences


def _degrees(summary: Summary) -> str:
    """How many degrees of freedom the summary's differences have."""
    compared = [*summary.comparisons, *(one for question in summary.questions for one in question.effects)]
    known = [(one.degrees, one.speakers) for one in compared if one.degrees is not None]
    if all(degrees == speakers - 1 for degrees, speakers in known):
        return "one degree of freedom less than there are speakers"
    fewest, most = (f"{bound(degrees for degrees, _ in known):.3g}" for bound in (min, max))
    return (
        f"{fewest if fewest == most else f'{fewest} to {most}'} degrees of freedom: where speakers share a model, the "
        "standard error includes the noise of its training, by Satterthwaite's approximation "
        "{{satterthwaite1946approximate}}; with a single seed it is over folds then"
    )


def _software(summary: Summary, networks: Sequence[Mapping]) -> list[str]:
    places = dict.fromkeys(_place(of) for variant in summary.variants.values() for of in variant.known.trained)
    source = " {{bradbury2018jax}}" if networks else ""
    return [f"Trained with ser_jax{place}{source}." for place in places]


def _place(of: Provenance) -> str:
    device = f" on {of.hardware['device']}" if of.hardware.get("device") else ""
    code = f" (code {of.code[:12]})" if of.code else ""
    versions = ", ".join(f"{name} {version}" for name, version in of.versions.items())
    return f"{code}{device}{', with ' + versions if versions else ''}"
