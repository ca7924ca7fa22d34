"""The card of a published model: what it is, what it was trained on, how well it does, and its limits."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ser_jax.baselines import is_baseline
from ser_jax.corpora import catalogue
from ser_jax.encoders import catalogue as encoders
from ser_jax.numbers import count
from ser_jax.report import card_header, numbers, preparation
from ser_jax.report.escape import markdown as escaped
from ser_jax.report.markdown import table
from ser_jax.report.method_terms import NORMALIZATIONS
from ser_jax.report.numbers import join
from ser_jax.report.sections.provenance import describe_provenance, licence
from ser_jax.report.summary import Measure, Provenance, Summary
from ser_jax.training.published import LIBRARY, METADATA, WEIGHTS


@dataclasses.dataclass(frozen=True)
class TrainingCorpus:
    """A corpus that a model was trained on, its `info`, and the corpora that it was merged from (else itself)."""

    name: str
    utterances: int
    speakers: int
    info: Mapping[str, Any]
    sources: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Published:
    """A model to be published.

    Attributes:
      folder: where it goes.
      config: its complete configuration.
      runs: how many networks it is the mean of.
      heads: source corpus -> the emotions of its own classifier; empty for one classifier.
      variant: what it is called in the summaries of its tests.
      licence, description: of the model, as its publisher states them; "" where nothing is stated.
      features: name and `info` of the pre-extracted features that it takes; None: it takes waveforms, log-mels or
        functionals.
      computed: the pretrained encoder of which the model computes layers, as its checkpoint describes it, or None.
    """

    folder: str
    variant: str
    config: Mapping[str, Any]
    emotions: Sequence[str]
    parameters: int
    runs: int
    heads: Mapping[str, Sequence[str]]
    corpora: Sequence[TrainingCorpus]
    versions: Mapping[str, str]
    features: Mapping[str, Any] | None = None
    computed: Mapping[str, Any] | None = None
    licence: str = ""
    description: str = ""

    @property
    def encoder(self) -> Mapping[str, Any] | None:
        """The pretrained encoder whose hidden states the model takes or computes, if any."""
        return (self.features or {}).get("info", {}).get("encoder") or self.computed


def render(model: Published, tested: Summary, elsewhere: Mapping[str, Summary]) -> str:
    """Returns the card as Markdown.

    `tested` is the summary of the same configuration, trained and tested on unseen speakers; `elsewhere` are those of
    its tests on other corpora, by their names.
    """
    name = model.folder.rstrip("/").split("/")[-1]
    rows = _tests(model, tested, elsewhere)
    parts = [
        _header(name, model, rows, tested.metrics),
        f"# {escaped(name)}",
        _purpose(model),
        *([escaped(model.description)] if model.description else []),
    ]
    parts += ["## The model", "\n".join(f"- {line}" for line in _model(model))]
    parts += ["## Training data", "\n".join(f"- {line}" for line in _corpora(model.corpora))]
    parts += ["## Results", *_results(model, rows, tested, elsewhere)]
    parts += ["## Use", f"```\n{_use(model)}\n```"]
    parts += ["## Limits", "\n".join(f"- {line}" for line in _limits(model, tested))]
    parts += ["## Licence", *_licences(model)]
    trained = describe_provenance(Provenance(dict(model.versions)))
    parts.append(f"Trained with {escaped(trained)}. Corpus {tested.study.fingerprint[:16]}.")
    return "\n\n".join(parts) + "\n"


def _purpose(model: Published) -> str:
    dimensions = escaped(join(list(model.config["corpus"].get("dimensions", ()))))
    if not model.emotions:
        return f"Predicts {dimensions} of speech."
    also = f" Also predicts {dimensions}." if dimensions else ""
    return f"Recognises {escaped(', '.join(model.emotions))} in speech.{also}"


def _model(model: Published) -> list[str]:
    config = model.config
    options = [f"{key} {value}" for key, value in config["model"].items() if key != "name"]
    what = f"{config['model']['name']} ({', '.join(options)})" if options else config["model"]["name"]
    arrays = "coefficients" if is_baseline(config["model"]) else "parameters under their linen paths"
    lines = [
        f"{escaped(what)}, {numbers.whole(model.parameters)} parameters; the mean of {count(model.runs, 'run')}.",
        f"Input: recordings of any rate, as {_input(model)}.",
        f"Files: `{WEIGHTS}` has the {arrays}, runs along the first axis; `{METADATA}` the configuration, the emotions "
        "in the order of the outputs, and a SHA-256 of every array.",
    ]
    lines += [f"A classifier for {escaped(source)}: {escaped(', '.join(of))}." for source, of in model.heads.items()]
    if model.heads:
        lines.append(
            "For a recording of another corpus the probabilities of these classifiers are averaged; an emotion that "
            "only some of them have gets less."
        )
    return lines


def _input(model: Published) -> str:
    """What a model makes of a recording."""
    config = model.config
    window = config["evaluation"]["window_seconds"] or config["training"]["crop_seconds"]
    encoder = f"{escaped(model.encoder['name'])} (SHA-256 {model.encoder['sha256'][:16]})" if model.encoder else ""
    if model.encoder and not model.features:
        return (
            f"waveforms, of which it computes hidden states of the encoder {encoder}; windows of {window:g} s, averaged"
        )
    if model.encoder:
        info = model.features["info"]
        kept = "means and deviations of" if info["form"] == "pooled" else "the frames of"
        speeds = [f"{speed:g}" for speed in info.get("speeds", [1])]
        heard = f", at the speeds {join(speeds)}" if len(speeds) > 1 else ""
        return f"{kept} the hidden states {escaped(join(info['states']))} of the encoder {encoder}{heard}"
    if model.features:
        return f"the pre-extracted features {escaped(model.features['name'])}"
    if is_baseline(config["model"]):
        return f"functionals of kind {escaped(config['model'].get('functionals', 'own'))}"
    frontend = config["frontend"]
    trimmed = ", silence at both ends cut off" if frontend["trim_db"] else ""
    return (
        f"{frontend['num_mels']} {escaped(frontend['kind'])} features every {frontend['hop_ms']:g} ms, "
        f"{NORMALIZATIONS[frontend['normalization']]}{trimmed}; windows of {window:g} s, averaged"
    )


def _use(model: Published) -> str:
    lines = [f"python launch.py predict --workdir {model.folder} a.wav"]
    if model.encoder:
        lines.insert(0, encoders.command(model.encoder["name"], str(model.encoder.get("source") or "")))
    return "\n".join(lines)


def _corpora(corpora: Sequence[TrainingCorpus]) -> list[str]:
    lines = []
    for corpus in corpora:
        about = escaped(" ".join(str(corpus.info.get("description", "")).split()))
        speakers = count(corpus.speakers, "speaker")
        lines.append(f"**{escaped(corpus.name)}**: all {corpus.utterances} utterances of {speakers}. {about}")
        said = [of(corpus.name, corpus.info) for of in (preparation.left_out, preparation.labels, preparation.notes)]
        lines += [f"{escaped(numbers.sentence_case(text))}." for part in said for text in part]
    return lines


@dataclasses.dataclass(frozen=True)
class _Test:
    """A row of the table of results; `corpus` is what was tested on, `what` what of it."""

    corpus: str
    what: str
    setting: str
    metrics: Mapping[str, Measure]
    recall: Mapping[str, Measure]
    scores: Mapping[str, Measure] = dataclasses.field(default_factory=dict)


def _header(name: str, model: Published, tests: Sequence[_Test], titles: Mapping[str, str]) -> str:
    results = [
        (
            test.corpus,
            f"{test.what} ({test.setting})",
            {key: (titles.get(key, key), 100 * measure.value) for key, measure in test.metrics.items() if measure},
        )
        for test in tests
    ]
    infos = [corpus.info for corpus in model.corpora]
    if model.licence:
        infos = [dict(info) | {"licence": model.licence} for info in infos]
    return card_header.header(name, LIBRARY, model.config["model"]["name"], infos, results)


def _tests(model: Published, tested: Summary, elsewhere: Mapping[str, Summary]) -> list[_Test]:
    """The rows of the table of results, inductive ones first."""
    variant = tested.variants[model.variant]
    setting = variant.known.setting
    corpus = tested.corpus
    rows = [_Test(corpus, f"{corpus}, unseen speakers", setting, variant.metrics, variant.recall, variant.scores)]
    if variant.ensemble:
        rows.append(
            _Test(
                corpus,
                f"the same, the mean of {variant.ensemble.seeds} such models",
                setting,
                variant.ensemble.metrics,
                {},
            )
        )
    for source, part in (variant.by_source or {}).items():
        rows.append(_Test(source, f"{source}, unseen speakers", setting, part.metrics, part.recall))
    alone = tested.robustness and tested.robustness.variants.get(model.variant, {}).get("alone")
    if alone and variant.known.uses_speaker:
        ua = {"ua": Measure(alone.ua, alone.ua_ci95)}
        rows.insert(0, _Test(corpus, "the same, each recording by itself", "inductive", ua, {}))
    for other, summary in elsewhere.items():
        one = summary.variants[model.variant]
        rows.append(_Test(other, f"{other}, all of it", one.known.setting, one.metrics, one.recall, one.scores))
    return rows


def _results(model: Published, tests: Sequence[_Test], tested: Summary, elsewhere: Mapping[str, Summary]) -> list[str]:
    """The table of results, and what it is of."""
    runs = tested.variants[model.variant].runs
    protocol = "; ".join(one.description or one.name for one in tested.study.protocols)
    columns = ["tested on", "setting", *tested.metrics.values(), *tested.emotions, *tested.scores.values()]
    cells = [
        [
            test.what,
            test.setting,
            *(_measure(test.metrics.get(name)) for name in tested.metrics),
            *(_value(test.recall.get(e)) for e in tested.emotions),
            *(_score(test.scores.get(name)) for name in tested.scores),
        ]
        for test in tests
    ]
    parts = [
        f"Results are of {count(runs, 'model')} of the same configuration, tested on unseen speakers "
        f"({escaped(protocol)}); this model was trained on all. {_units(tested)}, with 95 % intervals over speakers.",
        table(columns, cells, words=2),
    ]
    for other, summary in elsewhere.items():
        said = (*summary.study.left_out, *summary.study.labels)
        parts += [f"{escaped(other)}: {escaped(text)}." for text in said]
    return parts


def _measure(measure: Measure | None) -> str:
    return numbers.MISSING if measure is None else numbers.percent_with(measure.value, measure.ci95)


def _score(measure: Measure | None) -> str:
    return numbers.MISSING if measure is None else numbers.decimal_with(measure.value, measure.ci95)


def _units(tested: Summary) -> str:
    of_scores = f"{join(list(tested.scores.values()))} as they are" if tested.scores else ""
    return "; ".join(filter(None, ("Percent" if tested.emotions else "", of_scores)))


def _value(measure: Measure | None) -> str:
    return numbers.percent(measure and measure.value)


def _limits(model: Published, tested: Summary) -> list[str]:
    uses = tested.variants[model.variant].known.uses_speaker
    lines = []
    if uses:
        lines.append(
            f"It is transductive, by {escaped(join(uses))}: all recordings of one call are taken for one speaker's. "
            "Results are of speakers with all their recordings, except where a row says otherwise."
        )
    if model.emotions and is_baseline(model.config["model"]) and model.config["model"]["name"] != "logistic_regression":
        lines.append(
            "Its probabilities rank the emotions and are too sure of the first: they are not calibrated. "
            "`predict --abstain` goes by a confidence that is."
        )
    classes = ["Its probabilities are those of a classifier that has the listed emotions and no others."]
    return [
        *lines,
        _speech(model.corpora),
        *(classes if model.emotions else []),
        "It is for research. What a voice expresses is not what a person feels; not for decisions about people.",
    ]


def _speech(corpora: Sequence[TrainingCorpus]) -> str:
    """What the speech of its training means for other speech; of a folder nothing is known but what it was called."""
    known = "other languages, rooms and telephones, only the table's figures are known; expect little."
    facts = catalogue.published()
    names = dict.fromkeys(name for corpus in corpora for name in corpus.sources)
    speech = {name: facts[name]["speech"] for name in names if name in facts}
    if not speech or len(speech) < len(names):
        return f"What kind of speech it was trained on, this card says no more of than the corpora's names. For {known}"
    kinds = "; ".join(dict.fromkeys(speech.values()))
    if all(kind.startswith("acted") for kind in speech.values()):
        known = f"spontaneous speech, {known}"
    return f"It was trained on {kinds}. For {known}"


def _licences(model: Published) -> list[str]:
    parts = [f"- this model: {escaped(licence(model.licence))}"] if model.licence else []
    if model.encoder:
        said = escaped(licence(str(model.encoder.get("licence") or "not known")))
        parts.append(f"- encoder {escaped(model.encoder['name'])}, which is not in this folder: {said}")
    for corpus in model.corpora:
        parts.append(f"- {escaped(corpus.name)}: {escaped(licence(str(corpus.info.get('licence') or 'not known')))}")
        if corpus.info.get("citation"):
            parts.append(f"```bibtex\n{corpus.info['citation']}\n```")
    return parts
