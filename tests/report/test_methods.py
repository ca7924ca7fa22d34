import re

import pytest

from ser_jax import config as configuration
from ser_jax.corpora.builders import emodb, ravdess
from ser_jax.report import methods
from tests.report import made_study


@pytest.fixture(scope="module")
def made():
    return made_study.make_summary(made_study.make_predictions(seeds=(0,)))


def paragraph_of(made, **changes):
    configs = {name: configuration.merge(config, changes) for name, config in made_study.make_configs().items()}
    return methods.paragraph(made, configs, made_study.CORPUS)


def test_the_paragraph_is_written_from_the_configuration(made):
    text = paragraph_of(
        made,
        frontend={"hop_ms": 20.0, "num_mels": 40, "normalization": "train"},
        augmentation={"mixup": 0.5, "speed": 0.15},
        optimizer={"learning_rate": 0.0015, "warmup_epochs": -1.0, "warmup_steps": 70, "ema_decay": 0.0},
        training={"train_epochs": 120.0, "batch_size": 16},
        protocol={"validation_speakers": 0},
    )
    for words in (
        "40 bands",
        "every 20 ms",
        "mean and variance of the training fold",
        "speed by a factor of up to 1.15",
        "mixup at strength 0.5",
        "rose to 0.0015 over 70 steps",
        "120 epochs",
        "batches of 16 crops of 3 s",
        "nothing was selected",
        "6 folds with 1 seed",
    ):
        assert words in text, words
    assert "moving average" not in text and "SpecAugment" not in text


def test_only_what_was_used_is_cited(made):
    keys = methods.citations(paragraph_of(made))
    assert {"ma2018shufflenet", "wang2020eca", "hu2018squeeze", "howard2019searching"} <= set(keys)
    assert {"bahdanau2015neural", "okabe2018attentive", "holm1979simple"} <= set(keys)
    assert not {"luong2015effective", "gulati2020conformer", "zhang2018mixup", "eyben2016geneva"} & set(keys)
    assert "zhang2018mixup" in methods.citations(paragraph_of(made, augmentation={"mixup": 0.2}))


def test_baselines_are_described_without_a_training_that_they_did_not_have():
    made = made_study.make_summary(made_study.make_predictions(["pooling: mean"]), whole=False)
    model = {"name": "linear_svm", "functionals": "egemaps"}
    configs = {"pooling: mean": configuration.default() | {"model": model}}
    text = methods.paragraph(made, configs, {})
    assert "linear support vector machine" in text and "eyben2016geneva" in text
    assert "AdamW" not in text and "log-mel" not in text


def test_what_else_differs_between_variants_is_said(made):
    configs = made_study.make_configs()
    configs["pooling: mean"] = configuration.merge(configs["pooling: mean"], {"optimizer": {"learning_rate": 0.1}})
    assert "optimizer learning rate (0.002, 0.1)" in methods.paragraph(made, configs, {})


def test_without_configurations_it_tells_the_corpus_and_the_evaluation(made):
    text = methods.paragraph(made, {}, {})
    assert text.startswith("We used the corpus made: 48 utterances of 6 speakers")
    assert "AdamW" not in text and "unweighted accuracy" in text


def test_citations_read_well_and_compile(made):
    text = paragraph_of(made)
    plain = methods.plain(text, made_study.CITATION)
    assert "{{" not in plain
    assert "the corpus made (Doe and Röe, 2020)" in plain.replace("Roe", "Röe")
    assert "ShuffleNet V2 (Ma et al., 2018)" in plain and "(Holm, 1979)" in plain
    source = methods.latex(text)
    assert r"ShuffleNet V2~\cite{ma2018shufflenet}" in source and "{{" not in source
    assert not re.search(r"(?<!\\)[%&#]", source)
    cited = set(re.findall(r"\\cite\{(\w+)\}", source))
    given = set(
        re.findall(r"^@\w+\{(\w+),", methods.bibtex(methods.citations(text), made_study.CITATION), re.MULTILINE)
    )
    assert cited == given


def test_every_source_that_can_be_cited_is_in_the_bibliography_and_well_formed():
    words = " ".join([*methods.MODELS.values(), *methods.AUGMENTATIONS.values()])
    keys = {*re.findall(r"\{\{(\w+)\}\}", words), *methods.SOURCES.values()}
    entries = methods.bibliography()
    assert keys <= set(entries)
    for key, entry in entries.items():
        assert entry.count("{") == entry.count("}"), key
        assert re.search(r"author = \{.*\}", entry, re.DOTALL) and re.search(r"title = \{", entry), key
        year = re.search(r"year = \{(\d{4})\}", entry)
        assert year and year[1] in key, key


@pytest.mark.parametrize(
    ("builder", "shown"), [(emodb, "(Burkhardt et al., 2005)"), (ravdess, "(Livingstone and Russo, 2018)")]
)
def test_the_citations_of_the_shipped_corpora_are_understood(made, builder, shown):
    citation = next(iter(builder.__path__))
    with open(f"{citation}/CITATIONS.bib", encoding="utf-8") as file:
        source = file.read()
    assert shown in methods.plain(methods.paragraph(made, {}, {"citation": source}), source)


def test_latex_escapes_what_it_would_read_as_its_own():
    assert methods.escape("50 % of a_b & {c}~x < 1 − 2 × 3–4") == (
        r"50 \% of a\_b \& \{c\}\textasciitilde{}x $<$ 1 $-$ 2 $\times$ 3--4"
    )
