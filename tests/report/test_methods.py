import copy
import dataclasses
import re
from pathlib import Path

import pytest

from ser_jax import baselines, models
from ser_jax import config as configuration
from ser_jax.encoders.extract import Request
from ser_jax.report import method_terms, methods, references
from ser_jax.report.escape import latex
from ser_jax.report.sections.provenance import trained
from ser_jax.report.sources import Sources
from ser_jax.report.summary import Provenance, Selection, Study
from tests.report import made_study

BUILDERS = Path(methods.__file__).parents[1] / "corpora" / "builders"


@pytest.fixture(scope="module")
def made():
    return made_study.make_summary(made_study.make_predictions(seeds=(0,)))


def paragraph_of(made, **changes):
    configs = {name: configuration.merge(config, changes) for name, config in made_study.make_configs().items()}
    return methods.paragraph(made, configs)


def test_the_paragraph_is_written_from_the_configuration(made):
    text = paragraph_of(
        made,
        frontend={"hop_ms": 20.0, "num_mels": 40, "normalization": "train", "trim_db": 40.0},
        augmentation={"mixup": 0.5, "speed": 0.15},
        optimizer={"learning_rate": 0.0015, "warmup_epochs": -1.0, "warmup_steps": 70, "ema_decay": 0.0},
        training={"train_epochs": 120.0, "batch_size": 16, "teacher": "runs/teacher", "initial": "runs/first"},
        objective={"frames": 0.5},
        evaluation={"window_seconds": 4.0, "batch_statistics": "speaker"},
        protocol={"validation_speakers": 2},
    )
    for words in (
        "40 bands",
        "every 20 ms",
        "mean and variance of the training fold",
        "Silence at both ends of a recording, 40 dB below its loudest part, was cut off",
        "speed by a factor of up to 1.15",
        "mixup at strength 0.5",
        "rose to 0.0015 over 70 steps",
        "120 epochs",
        "batches of 16 crops of 3 s",
        "initialised from the training in runs/first",
        "probabilities of a teacher, trained on the same folds (runs/teacher), with a share of 0.5",
        "reconstructed masked frames (weight 0.5; 40 % of the frames in spans of 10)",
        "windows of 4 s",
        "Batch normalisation used the statistics of the tested speaker's recordings",
        "2 validation speakers of each fold were held out of its training",
        "6 folds with 1 seed",
        "1 run diverged and is missing",
        "Some figures are transductive: they use features normalised by speaker",
        "1 utterance of made left out when it was prepared: broken (an empty file)",
        "Labels that were changed: labels of made: joy as happiness.",
        "Trained with ser_jax (code 0123456789ab) on some processor, with jax 0.10.2",
    ):
        assert words in text, words
    assert "moving average" not in text and "SpecAugment" not in text and "nothing was selected" not in text


def leaves(tree, path=()):
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


NOT_TOLD = {  # what the summary says itself, and what decides no figure
    *(("training", name) for name in ("split", "checkpoint_seconds")),
    *(("evaluation", name) for name in ("batch_size", "latency", "robustness")),
    *(("corpus", "name"), ("protocol", "name")),
}
NEEDS = {  # what has an effect with another option alone
    ("training", "teacher_share"): {"training": {"teacher": "runs/teacher"}},
    ("training", "validate_epochs"): {"training": {"keep": "best"}},
    ("training", "validate_steps"): {"training": {"keep": "best"}},
    ("training", "train_epochs"): {"training": {"train_steps": -1}},
    ("optimizer", "warmup_epochs"): {"optimizer": {"warmup_steps": -1}},
    ("masking", "share"): {"objective": {"frames": 0.5}},
    ("masking", "span"): {"objective": {"frames": 0.5}},
    ("frontend", "num_mfcc"): {"frontend": {"kind": "mfcc"}},
    ("frontend", "histogram_bins"): {"frontend": {"kind": "histogram"}},
    ("frontend", "features"): {"frontend": {"kind": "precomputed"}},
}
OTHER = {("frontend", "kind"): "mfcc", ("training", "heads"): "source", ("evaluation", "batch_statistics"): "speaker"}
OTHER |= {("frontend", "normalization"): "speaker", ("protocol", "tested"): "validation", ("training", "keep"): "best"}


@pytest.mark.parametrize(
    "path",
    [
        path
        for path, _ in leaves({key: value for key, value in configuration.default().items() if isinstance(value, dict)})
        if path[0] not in ("study", "model") and path not in NOT_TOLD
    ],
    ids=".".join,
)
def test_every_option_that_decides_a_figure_changes_the_paragraph(made, path):
    base = made_study.make_configs()
    configs = {variant: configuration.merge(config, NEEDS.get(path, {})) for variant, config in base.items()}
    changed = copy.deepcopy(configs)
    for config in changed.values():
        *groups, name = path
        for group in groups:
            config = config[group]
        value = config[name]
        if path in OTHER:
            config[name] = OTHER[path]
        elif isinstance(value, bool):
            config[name] = not value
        elif isinstance(value, int | float):
            config[name] = value + 2
        else:
            config[name] = {"x": 1} if isinstance(value, dict) else "something"
    assert methods.paragraph(made, changed) != methods.paragraph(made, configs)


STATES = {
    "encoder": {"name": "whisper_tiny", "sha256": "0123456789abcdef" * 4, "source": "", "licence": "MIT"},
    **{"states": ["layer 2"], "form": "frames", "width": 384, "window_seconds": 20.0, "dtype": "float16"},
    **{"trim_db": 0.0, "average": 1, "speeds": [1.0], "version": 1, "licence": "MIT"},
}


@pytest.mark.parametrize(
    "change",
    [
        {"encoder": {**STATES["encoder"], "name": "other"}},
        {"encoder": {**STATES["encoder"], "sha256": "f" * 64}},
        {"states": ["layer 3"]},
        {"form": "pooled"},
        {"window_seconds": 10.0},
        {"dtype": "float32"},
        {"trim_db": 40.0},
        {"average": 4},
        {"speeds": [0.9, 1.0]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_everything_that_decides_hidden_states_is_in_the_paragraph(made, change):
    def text(info):
        first, *others = made.variants.items()
        known = dataclasses.replace(first[1].known, features={"name": "layer2.frames", "info": info})
        variants = {first[0]: dataclasses.replace(first[1], known=known), **dict(others)}
        return methods.paragraph(dataclasses.replace(made, variants=variants), made_study.make_configs())

    assert "The features layer2.frames are hidden states (layer 2) of the pretrained encoder whisper_tiny" in text(
        STATES
    )
    assert text(STATES | change) != text(STATES)


def test_every_field_of_a_request_for_hidden_states_is_toggled():
    toggled = {"states", "form", "window_seconds", "dtype", "trim_db", "average", "speeds"}
    assert {field.name for field in dataclasses.fields(Request)} == toggled  # a new one needs its words and its case


CHOSEN = Selection(("one", "other"), "3 speakers set apart", {"1": "one", "2": "other"}, {})


@pytest.mark.parametrize(
    "change",
    [
        {"candidates": ("one", "other", "third")},
        {"by": "its validation speakers"},
        {"chosen": {"1": "one", "2": "one"}},
        {"chosen": {}},
        {"features": {"layer2.frames": {"name": "layer2.frames", "info": STATES}}},
    ],
    ids=str,
)
def test_everything_of_a_selection_is_in_the_paragraph(made, change):
    def text(selection):
        study = dataclasses.replace(made.study, selection=selection)
        return methods.paragraph(dataclasses.replace(made, study=study), made_study.make_configs())

    assert "among 2 variants (one; other) by UA on 3 speakers set apart" in text(CHOSEN)
    assert "is not recorded here" in text(None) and "is not recorded here" not in text(CHOSEN)
    assert text(dataclasses.replace(CHOSEN, **change)) != text(CHOSEN)


@pytest.mark.parametrize("model", models.FAMILIES)
def test_every_option_of_every_model_changes_the_paragraph(made, model):
    def text(**options):
        configs = {
            name: config | {"model": {"name": model, **options}} for name, config in made_study.make_configs().items()
        }
        return methods.paragraph(made, configs)

    options = models.options_of(models.FAMILIES[model])
    assert options
    plain = text(**options)
    for option, value in options.items():
        other = (not value) if isinstance(value, bool) else value + 1 if isinstance(value, int | float) else "other"
        assert text(**options | {option: other}) != plain, option


def test_validations_are_told_where_they_decide_what_is_kept(made):
    best = {"keep": "best", "validate_epochs": 2.0}
    often, seldom = (paragraph_of(made, training=best | {"validate_epochs": every}) for every in (2.0, 4.0))
    assert often != seldom and "every 2 epochs" in often
    assert "every 30 steps" in paragraph_of(made, training={"keep": "best", "validate_steps": 30})
    assert "five times in a training" in paragraph_of(made, training={"keep": "last", "patience": 3})


@pytest.mark.parametrize(
    ("changes", "told", "not_told"),
    [
        ({"training": {"patience": 3, "validate_steps": 0}}, "UA was validated never", "0 steps"),
        ({"training": {"patience": 3, "validate_epochs": 0.0}}, "UA was validated never", "0 epochs"),
        ({"optimizer": {"warmup_steps": 0, "warmup_epochs": -1.0}}, "without a warm-up, and fell to zero", "0 steps"),
        ({"optimizer": {"warmup_epochs": 0.0, "warmup_steps": -1}}, "without a warm-up, and fell to zero", "0 epochs"),
        ({"optimizer": {"weight_decay": 0.0}}, "with no weight decay", "weight decay of 0"),
        (
            {"corpus": {"dimensions": ["arousal"]}, "objective": {"dimensions": 0.0}},
            "Outputs for arousal were not trained.",
            "weight 0",
        ),
        ({"objective": {"emotion": 0.0}}, "objective emotion off", "emotion 0.0"),
    ],
)
def test_an_option_of_zero_that_means_off_is_told_as_off(made, changes, told, not_told):
    text = paragraph_of(made, **changes)
    assert told in text and not_told not in text
    assert "1 epochs" not in paragraph_of(made, training={"train_epochs": 1.0, "train_steps": -1})


def test_a_number_is_told_as_a_number_and_a_switch_by_its_name():
    assert methods._option("states", [1]) == "states 1" and methods._option("hidden", [0]) == "hidden 0"
    assert methods._option("one_d", [True]) == "one d" and methods._option("one_d", [False]) == "no one d"


def test_the_parameters_that_were_tested_are_named(made):
    last, best = (paragraph_of(made, training={"keep": keep}) for keep in ("last", "best"))
    assert "The last parameters were tested; no epoch was selected" in last
    assert "best UA on its 1 validation speaker were tested" in best and "no epoch was selected" not in best
    assert "fell to zero along a cosine" in last


def trained_on(made, *platforms):
    """The summary, of which every variant was trained on devices of these kinds."""
    places = tuple(Provenance({}, {"platform": platform} if platform else {}, "") for platform in platforms)
    variants = {
        name: dataclasses.replace(one, known=dataclasses.replace(one.known, trained=places))
        for name, one in made.variants.items()
    }
    return dataclasses.replace(made, variants=variants)


@pytest.mark.parametrize(
    ("platforms", "precision", "said"),
    [
        (["cpu"], "tf32", "Activations and products were of float32."),
        (["gpu"], "tf32", "Activations and products had the precision tf32."),
        (["cpu", "gpu"], "tf32", "had the precision tf32 on devices that have it, and float32 on others."),
        ([""], "tf32", "had the precision tf32 on devices that have it, and float32 on others."),
        ([], "tf32", "had the precision tf32 on devices that have it, and float32 on others."),
        (["cpu"], "bfloat16", "Activations and products had the precision bfloat16."),
    ],
    ids=str,
)
def test_the_precision_is_that_of_the_devices(made, platforms, precision, said):
    assert said in paragraph_of(trained_on(made, *platforms), training={"precision": precision})


def test_degrees_of_freedom_are_those_of_the_comparisons(made):
    assert all(one.degrees == one.speakers - 1 for one in made.comparisons)
    assert "from one standard error, by Student's t with one degree of freedom less than there are" in paragraph_of(
        made
    )
    first, *others = made.comparisons
    freer = dataclasses.replace(made, comparisons=(dataclasses.replace(first, degrees=7.25), *others))
    text = paragraph_of(freer)
    assert "by Student's t with 5 to 7.25 degrees of freedom: where speakers share a model" in text
    assert "satterthwaite1946approximate" in references.citations(text)
    assert "Intervals of a variant's figures are 95 % intervals by Student's t with one degree of freedom less" in text


def test_variants_share_random_numbers_and_it_is_said(made):
    assert "drew crops, augmentation and initial parameters from the same random numbers" in paragraph_of(made)
    begun = paragraph_of(made, training={"initial": "runs/first"})
    assert "drew crops and augmentation from the same random numbers" in begun


@pytest.mark.parametrize("model", [*models.FAMILIES, *baselines.NAMES])
def test_every_model_has_its_name_in_a_text(model):
    assert model in method_terms.MODELS


def test_every_place_of_training_is_named(made):
    one = made.variants["pooling: mean"]
    gpu = Provenance({"jax": "0.11.2"}, {"device": "NVIDIA H200"}, "fedcba987654")
    other = dataclasses.replace(one, known=dataclasses.replace(one.known, trained=(gpu,)))
    text = paragraph_of(dataclasses.replace(made, variants={**made.variants, "pooling: mean": other}))
    assert "(code fedcba987654) on NVIDIA H200, with jax 0.11.2" in text
    assert "on some processor, with jax 0.10.2" in text


def test_variants_trained_at_several_places_are_named_in_the_report(made):
    one = made.variants["pooling: mean"]
    gpu = Provenance({"jax": "0.11.2"}, {"device": "NVIDIA H200", "platform": "gpu", "devices": 1}, "")
    other = dataclasses.replace(one, known=dataclasses.replace(one.known, trained=(gpu,)))
    sources = Sources(dataclasses.replace(made, variants={**made.variants, "pooling: mean": other}), {}, {}, {})
    assert "NVIDIA H200, gpu, 1 device, jax 0.11.2 (pooling: mean)" in trained(sources)


def test_a_report_says_which_process_trained_which_seeds(made):
    cpu = Provenance({"jax": "0.10.2"}, {"device": "EPYC", "platform": "cpu", "devices": 2}, "", (0, 2))
    gpu = Provenance({"jax": "0.11.2"}, {"device": "NVIDIA H200", "platform": "gpu", "devices": 1}, "", (1,))

    def said(**places):
        variants = {
            name: dataclasses.replace(one, known=dataclasses.replace(one.known, trained=places.get(name[-4:], (cpu,))))
            for name, one in made.variants.items()
            if name.startswith("pooling")
        }
        return trained(Sources(dataclasses.replace(made, variants=variants), {}, {}, {}))

    assert said() == ["EPYC, cpu, 2 devices, jax 0.10.2 (seeds 0, 2)"]
    assert said(mean=(cpu, gpu)) == [
        "EPYC, cpu, 2 devices, jax 0.10.2 (pooling: mean, pooling: attentive, seeds 0, 2)",
        "NVIDIA H200, gpu, 1 device, jax 0.11.2 (pooling: mean, seed 1)",
    ]
    assert said(mean=(dataclasses.replace(cpu, seeds=(0,)),)) == [
        "EPYC, cpu, 2 devices, jax 0.10.2 (pooling: mean, seed 0; pooling: attentive, seeds 0, 2)"
    ]


def test_only_what_was_used_is_cited(made):
    keys = references.citations(paragraph_of(made))
    assert {"ma2018shufflenet", "wang2020eca", "hu2018squeeze", "howard2019searching"} <= set(keys)
    assert {"bahdanau2015neural", "okabe2018attentive", "holm1979simple"} <= set(keys)
    assert not {"luong2015effective", "gulati2020conformer", "zhang2018mixup", "eyben2016geneva"} & set(keys)
    assert "zhang2018mixup" in references.citations(paragraph_of(made, augmentation={"mixup": 0.2}))


def test_baselines_are_described_without_a_training_that_they_did_not_have():
    made = made_study.make_summary(made_study.make_predictions(["pooling: mean"]), whole=False)
    model = {"name": "linear_svm", "functionals": "egemaps"}
    configs = {"pooling: mean": configuration.default() | {"model": model}}
    text = methods.paragraph(made, configs)
    assert "linear support vector machine" in text and "eyben2016geneva" in text
    assert "AdamW" not in text and "log-mel" not in text


def test_an_option_that_is_a_list_may_differ_between_variants(made):
    configs = made_study.make_configs()
    for number, config in enumerate(configs.values()):
        config["model"] = {**config["model"], "adapt": "lora", "projections": ["query", "value"][: 1 + number % 2]}
    text = methods.paragraph(made, configs)
    assert "adapt lora {{hu2022lora}}" in text and "projections: query or query + value" in text


def test_what_else_differs_between_variants_is_said(made):
    configs = made_study.make_configs()
    configs["pooling: mean"] = configuration.merge(configs["pooling: mean"], {"optimizer": {"learning_rate": 0.1}})
    assert "optimizer learning rate (0.002, 0.1)" in methods.paragraph(made, configs)


def test_without_configurations_it_tells_the_corpus_and_the_evaluation(made):
    text = methods.paragraph(made, {})
    assert text.startswith("We used the corpus made {{doe2020speech}}: 48 utterances of 6 speakers")
    assert "AdamW" not in text and "unweighted accuracy" in text


def test_citations_read_well_and_compile(made):
    text = paragraph_of(made)
    plain = references.plain(text, made_study.CITATION)
    assert "{{" not in plain
    assert "the corpus made (Doe and Röe, 2020)" in plain.replace("Roe", "Röe")
    assert "ShuffleNet V2 (Ma et al., 2018)" in plain and "(Holm, 1979)" in plain
    source = references.latex(text)
    assert r"ShuffleNet V2~\cite{ma2018shufflenet}" in source and "{{" not in source
    assert not re.search(r"(?<!\\)[%&#]", source)
    cited = set(re.findall(r"\\cite\{(\w+)\}", source))
    bibtex = references.bibtex(references.citations(text), made_study.CITATION)
    given = set(re.findall(r"^@\w+\{(\w+),", bibtex, re.MULTILINE))
    assert cited == given


def test_every_source_that_can_be_cited_is_in_the_bibliography():
    text = Path(methods.__file__).read_text() + Path(method_terms.__file__).read_text()
    keys = {*re.findall(r"\{\{(\w+)\}\}", text), *method_terms.SOURCES.values()} - {"key", "source"}
    entries = references.bibliography()
    assert len(keys) > 30 and keys <= set(entries)
    for key, entry in entries.items():
        assert entry.persons["author"] and entry.fields["title"] and entry.fields["year"] in key, key


@pytest.mark.parametrize(
    ("builder", "shown"), [("emodb", "(Burkhardt et al., 2005)"), ("ravdess", "(Livingstone and Russo, 2018)")]
)
def test_the_citations_of_the_shipped_corpora_are_understood(made, builder, shown):
    source = (BUILDERS / builder / "CITATIONS.bib").read_text(encoding="utf-8")
    cited = dataclasses.replace(made, study=Study(corpus_info={"citation": source}))
    assert shown in references.plain(methods.paragraph(cited, {}), source)


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ('@article{a1, author = "Jane Doe and Li Wei", title = "T", year = 2020}', "(Doe and Wei, 2020)"),
        ("@misc{b, author={van den Berg, Anna}, title={T}, year={2019}}", "(van den Berg, 2019)"),
        ("@misc{c:d-e, title={T}, year={2019}}", "(c:d-e)"),
        ("no BibTeX at all", ""),
    ],
)
def test_a_corpus_s_citation_is_read_as_bibtex_writes_it(made, source, shown):
    cited = dataclasses.replace(made, study=Study(corpus_info={"citation": source}))
    text = references.plain(methods.paragraph(cited, {}), source)
    assert f"the corpus made {shown}".strip() in text and "{{" not in text


def test_latex_escapes_what_it_would_read_as_its_own():
    assert latex("50 % of a_b & {c}~x < 1 − 2 × 3–4 $\\x$ #1") == (
        r"50 \% of a\_b \& \{c\}\textasciitilde{}x $<$ 1 $-$ 2 $\times$ 3--4 \$\textbackslash{}x\$ \#1"
    )


def test_of_one_training_that_tests_all_speakers_no_correction_and_no_verdict_is_claimed():
    table = made_study.make_predictions(["pooling: mean", "pooling: attentive"], seeds=(0,)).assign(fold="03")
    made = made_study.make_summary(table, whole=False)
    assert made.comparisons[0].ci95 is not None and made.comparisons[0].verdict is None
    text = methods.paragraph(made, {})
    assert "of these trained models alone, and p values are not corrected" in text
    assert "Holm" not in text and "equivalent" not in text and "detectable" not in text


def test_random_folds_share_models_however_many_they_are(made):
    text = "Where a model tested several speakers, the noise of its training"
    assert text not in methods.paragraph(made, {})
    (protocol,) = made.study.protocols
    study = dataclasses.replace(made.study, protocols=(dataclasses.replace(protocol, speaker_independent=False),))
    assert text in methods.paragraph(dataclasses.replace(made, study=study), {})
