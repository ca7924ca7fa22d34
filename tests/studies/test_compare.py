"""Results made apart are paired by utterance, whatever each of them knows and however it names things."""

import argparse
import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from ser_jax import predictions
from ser_jax.commands import compare as command
from ser_jax.errors import UserError
from ser_jax.report import summary
from ser_jax.report.across import write_across
from ser_jax.report.summarise import How, summarise
from ser_jax.report.summary import Knowledge, Protocol, Study
from ser_jax.statistics import bootstrap, paired
from ser_jax.studies import align, compare, results

EMOTIONS = ("anger", "happiness", "sadness")
SIZES = {fold: (20, 8) for fold in "abcd"}


def study(variants=("eca", "none"), seeds=(0, 1), emotions=EMOTIONS, corpus="speech", seed=0):
    """Four speakers, each a fold, with eight utterances; variants are right more often the later they come."""
    rng = np.random.default_rng(seed)
    labels = np.random.default_rng(1).integers(0, len(emotions), (4, 8))
    labels[:, : len(emotions)] = np.arange(len(emotions))
    tables = []
    for number, variant in enumerate(variants):
        for fold, of_fold in zip("abcd", labels, strict=True):
            for run_seed in seeds:
                scores = rng.random((8, len(emotions))) + (0.3 + 0.2 * number) * np.eye(len(emotions))[of_fold]
                probabilities = scores / scores.sum(axis=1, keepdims=True)
                ids = [f"{fold}{i}" for i in range(8)]
                speakers = [f"speaker {fold}"] * 8
                tables.append(
                    predictions.make_predictions(
                        corpus, variant, fold, run_seed, ids, speakers, of_fold, probabilities, emotions
                    )
                )
    return predictions.merge(tables)


@pytest.fixture
def workdir(tmp_path):
    return save(tmp_path / "work", study())


def save(folder, table, protocol="leave_one_speaker_out", speaker_independent=True, fold_sizes=None):
    study = Study(protocols=(Protocol(protocol, "", speaker_independent),), fold_sizes=fold_sizes or {})
    known = {name: Knowledge(parameters=1000) for name in table["variant"].unique()}
    predictions.write(table, folder / "predictions.parquet")
    summary.write(summarise(table, study, known=known, how=How(replicates=20)), folder / "summary.json")
    return folder


def outside(path, table, drop=(), **names):
    """A CSV of one run as another program may write it: shuffled rows, other names of columns."""
    table = table.sample(frac=1, random_state=0).drop(columns=["variant", "corpus", *drop]).rename(columns=names)
    table.to_csv(path, index=False)
    return path


def balanced_accuracy(table):
    emotions = np.array(predictions.emotions_of(table))
    by_seed = [
        balanced_accuracy_score(rows["label"], emotions[predictions.probabilities_of(rows).argmax(axis=1)])
        for _, rows in table.groupby("seed")
    ]
    return np.mean(by_seed)


def test_an_outside_copy_of_a_variant_equals_it(workdir, tmp_path):
    table = study()
    one = table[(table["variant"] == "none") & (table["seed"] == 0)]
    one = one.assign(utterance="audio/" + one["utterance"] + ".wav")
    path = outside(tmp_path / "svm.csv", one, ("fold", "seed", "speaker"), utterance="file", label="truth")
    path.write_text(path.read_text().replace("p_", "prob_", 3))
    made, merged, remarks = compare.compare([f"{workdir}:eca", str(path)])
    assert remarks == []
    assert list(made.variants) == ["eca", "svm"]
    assert made.variants["svm"].ua.value == pytest.approx(balanced_accuracy(one))
    assert made.variants["svm"].ua_per_seed["0"] == made.variants["svm"].ua_per_seed["1"]
    assert align.NO_SEEDS in made.variants["svm"].notes
    svm, eca = made.variants["svm"], made.variants["eca"]
    assert (svm.ensemble, svm.ua_seed_sd) == (None, None)  # it has no seeds that could differ
    assert eca.ensemble.seeds == 2 and eca.ua_seed_sd > 0
    assert made.variants["svm"].speakers == 4
    # The same comparison, of a table made by hand.
    by_hand = pd.concat(
        [table[table["variant"] == "eca"]]
        + [table[(table["variant"] == "none") & (table["seed"] == 0)].assign(seed=seed) for seed in (0, 1)]
    )
    expected = paired.compare(by_hand, "none", "eca", SIZES)
    found = made.comparisons[0]
    assert (found.variant, found.baseline) == ("svm", "eca")
    assert found.estimate == pytest.approx(expected.estimate)
    assert found.ci95 == pytest.approx(expected.ci95)
    assert found.nadeau_bengio is None
    predictions.validate(merged)


def test_variants_of_two_workdirs_are_paired_and_tested_where_the_folds_sizes_are_known(tmp_path):
    table = study(("eca", "none", "se"))
    first = save(tmp_path / "first", table[table["variant"] == "eca"], fold_sizes=SIZES)
    second = save(tmp_path / "second", table[table["variant"] != "eca"])
    made, merged, _ = compare.compare([str(first), str(second)])
    pd.testing.assert_frame_equal(merged, table)
    expected = paired.correct([paired.compare(table, name, "eca", SIZES) for name in ("none", "se")])
    for found, comparison in zip(made.comparisons, expected, strict=True):
        assert found.variant == comparison.variant
        assert found.nadeau_bengio.p == pytest.approx(comparison.nadeau_bengio.p)
        assert found.p_holm == pytest.approx(comparison.p_holm)
    made, _, _ = compare.compare([str(second), str(first)], baseline="eca")
    assert {c.baseline for c in made.comparisons} == {"eca"}
    assert made.comparisons[0].nadeau_bengio is not None
    save(tmp_path / "first", table[table["variant"] == "eca"])
    made, _, _ = compare.compare([str(first), str(second)])
    for found in made.comparisons:
        assert found.nadeau_bengio is None
        assert any("the sizes of the folds are not known" in note for note in found.notes)
        assert found.ci95 is not None
    assert made.questions[0].comparisons == (0, 1)
    assert "none against eca: UA" in made.questions[0].answer
    json.dumps(summary.to_json(made), allow_nan=False)


def test_only_common_utterances_count_and_the_others_are_named(workdir, tmp_path):
    table = study()
    part = table[(table["variant"] == "none") & ~table["utterance"].isin(["a1", "c7"])]
    path = outside(tmp_path / "part.csv", part)
    made, merged, remarks = compare.compare([f"{workdir}:eca", str(path)])
    assert set(merged["utterance"]) == set(part["utterance"])
    assert len(remarks) == 1
    assert "2 of 32 utterances left out, since not all results have them: a1, c7" in remarks[0]
    eca = table[(table["variant"] == "eca") & table["utterance"].isin(part["utterance"])]
    assert made.variants["eca"].ua.value == pytest.approx(balanced_accuracy(eca))
    assert made.variants["part"].ua.value == pytest.approx(balanced_accuracy(part))


def test_folds_of_other_names_are_the_same_folds_and_other_folds_are_not(tmp_path):
    table = study()
    first = save(tmp_path / "first", table[table["variant"] == "eca"], fold_sizes=SIZES)
    renamed = table[table["variant"] == "none"].replace({"fold": dict(zip("abcd", "4321", strict=True))})
    made, merged, _ = compare.compare([str(first), str(outside(tmp_path / "renamed.csv", renamed))])
    assert set(merged["fold"]) == set("abcd")
    assert made.comparisons[0].nadeau_bengio is not None
    mixed = renamed.assign(fold=renamed["utterance"].str[1])  # by another rule
    made, merged, _ = compare.compare([str(first), str(outside(tmp_path / "mixed.csv", mixed))])
    assert set(merged["fold"]) == set("abcd")
    assert made.comparisons[0].nadeau_bengio is None
    assert any("its folds are not those of eca" in note for note in made.variants["mixed"].notes)


def test_a_class_that_a_result_does_not_know_is_said(workdir, tmp_path):
    table = study()
    part = table[(table["variant"] == "none") & (table["label"] != "sadness")].drop(columns="p_sadness")
    columns = ["p_anger", "p_happiness"]
    part[columns] = part[columns].to_numpy() / part[columns].sum(axis=1).to_numpy()[:, None]
    made, merged, _ = compare.compare([f"{workdir}:eca", str(outside(tmp_path / "two.csv", part))])
    assert "does not know sadness, which it can never predict" in made.variants["two"].notes
    assert predictions.emotions_of(merged) == EMOTIONS


def test_without_speakers_there_is_no_interval_and_the_reason_is_given(tmp_path):
    table = study(seeds=(0,))
    paths = [
        outside(tmp_path / f"{name}.csv", table[table["variant"] == name], ("fold", "seed", "speaker"))
        for name in ("eca", "none")
    ]
    made, merged, _ = compare.compare([str(path) for path in paths])
    assert made.variants["eca"].ua.value == pytest.approx(balanced_accuracy(table[table["variant"] == "eca"]))
    assert made.comparisons[0].ci95 is None
    for part in (*made.variants.values(), *made.comparisons):
        assert compare.NO_SPEAKERS in part.notes
        assert bootstrap.no_interval(1) not in part.notes
    assert bootstrap.no_interval(1) not in json.dumps(summary.to_json(made))
    assert set(merged["fold"]) == {"all"}


def test_predicted_labels_alone_have_no_calibration(workdir, tmp_path):
    table = study(seeds=(0,))
    one = table[table["variant"] == "none"]
    path = tmp_path / "labels.csv"
    predicted = one.filter(like="p_").idxmax(axis=1).str.removeprefix("p_")
    one[["utterance", "label"]].assign(prediction=predicted).to_csv(path, index=False)
    made, _, _ = compare.compare([str(workdir), f"only labels={path}"])
    assert made.variants["only labels"].ua.value == pytest.approx(balanced_accuracy(one))
    assert made.variants["only labels"].calibration is None


def test_one_name_in_two_places_gets_the_place_before_it(workdir, tmp_path):
    other = save(tmp_path / "other", study(seed=1))
    made, _, _ = compare.compare([str(workdir), str(other)])
    assert list(made.variants) == ["work eca", "work none", "other eca", "other none"]
    made, _, _ = compare.compare([f"{workdir}:eca", f"old={other}:eca"])
    assert list(made.variants) == ["eca", "old"]
    assert made.variants["old"].known.parameters == 1000


def test_a_split_that_is_not_speaker_independent_is_labelled(workdir, tmp_path):
    leaking = save(tmp_path / "random", study(("random",)), protocol="random", speaker_independent=False)
    made, _, _ = compare.compare([str(workdir), str(leaking)])
    assert results.LEAKS in made.variants["random"].notes
    assert results.LEAKS not in made.variants["eca"].notes
    assert made.study.protocols == ()


@pytest.mark.parametrize(
    ("audit", "note"),
    [
        ({"verdict": "cannot be told", "reason": "speakers are not known"}, results.UNKNOWN),
        (
            {"verdict": "leaks", "reason": "texts are in both training and test data"},
            "the split leaks: texts are in both training and test data",
        ),
        ({"verdict": "independent", "reason": "all are apart"}, None),
        (None, None),
    ],
)
def test_the_verdict_of_the_audit_is_a_note(tmp_path, audit, note):
    folder = save(tmp_path / "work", study(), speaker_independent=None)
    written = json.loads((folder / "summary.json").read_text())
    written["study"]["protocols"][0]["audit"] = audit
    (folder / "summary.json").write_text(json.dumps(written))
    notes = [one for one in compare.compare([str(folder)])[0].variants["eca"].notes if "split" in one]
    assert notes == ([note] if note else [])


def refusals(tmp_path, workdir):
    table = study()
    none = table[(table["variant"] == "none") & (table["seed"] == 0)]
    labels = none.replace({"label": {"anger": "sadness"}})
    elsewhere = none.assign(speaker=none["utterance"].str[1])
    renamed = none.assign(utterance="x" + none["utterance"])
    several = pd.concat([none.assign(fold=fold) for fold in ("x", "y")])
    return {
        "labels.csv": (labels, "utterance a0 has the label sadness, but anger in"),
        "elsewhere.csv": (elsewhere, "its speakers are not those of"),
        "renamed.csv": (renamed, "no utterance in common"),
        "seeds.csv": (none.assign(seed=7), "its seeds (7) are none of those of"),
        "several.csv": (several, "is in several of its folds"),
    }


@pytest.mark.parametrize("name", ["labels.csv", "elsewhere.csv", "renamed.csv", "seeds.csv", "several.csv"])
def test_results_that_do_not_belong_together_are_refused_in_one_line(workdir, tmp_path, name):
    table, expected = refusals(tmp_path, workdir)[name]
    path = outside(tmp_path / name, table)
    with pytest.raises(UserError) as error:
        compare.compare([str(workdir), str(path)])
    assert str(error.value).startswith(f"{path}: ")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["{work}:ecs"], "no variant ecs; did you mean eca?"),
        (["{work}", "{work}"], "call one of them NAME=PATH"),
        (["{work}", "nowhere"], "nowhere: no such file or folder"),
        (["{work}", "{empty}"], "no predictions.parquet in it"),
        (["{work}", "{text}"], "expected a workdir or a table of predictions (.csv, .tsv, .parquet)"),
        (["{work}", "{other}"], "one comparison is of one corpus, or of one and what it was merged into, found speech"),
        (["{work}", "--baseline", "non"], "--baseline non: no such variant; did you mean none?"),
        (["{work}", "--margin", "0"], "--margin 0: expected points of UA above 0 and below 100"),
        (["{work}", "--margin", "nan"], "--margin nan: expected points"),
        (["{work}", "--across_corpora", "--margin", "1"], "expected neither --baseline nor --margin beside it"),
        (["{work}", "--out", "{work}"], "the workdir of a study; expected another folder"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(workdir, tmp_path, arguments, expected):
    (workdir / "config.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("text")
    save(tmp_path / "other", study(corpus="another"))
    places = {"work": workdir, **{name: tmp_path / name for name in ("empty", "other")}, "text": tmp_path / "text.txt"}
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as error:
        call(*[argument.format(**places) for argument in arguments])
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def call(*arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(argument) for argument in arguments]))


def test_the_command_prints_the_table_and_writes_what_it_printed(workdir, tmp_path, capsys):
    assert call(workdir, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "none against eca: UA" in printed
    assert f"{tmp_path / 'out'}: report.html, report.md, summary.json, predictions.parquet" in printed
    written = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert predictions.read(tmp_path / "out" / "predictions.parquet")["variant"].unique().tolist() == ["eca", "none"]
    assert call(workdir, "--json") == 0
    assert json.loads(capsys.readouterr().out) == written
    # What it writes can be compared in its turn.
    assert call(tmp_path / "out", f"again={workdir}:none") == 0
    assert "again against eca" in capsys.readouterr().out


def test_the_margin_is_what_equivalence_is_tested_within(workdir, capsys):
    def compared(*options):
        assert call(workdir, "--json", *options) == 0
        made = json.loads(capsys.readouterr().out)
        (one,) = made["comparisons"]
        return made["margin"], one["margin"], one["p_equivalence"]

    assert compared()[:2] == (0.02, 0.02)
    margin, own, p = compared("--margin", "90")
    assert (margin, own) == (0.9, 0.9) and p < 0.05 < compared()[2]


def test_what_the_studies_say_of_their_corpus_is_said_once(tmp_path):
    folders = [save(tmp_path / name, study((name,))) for name in ("eca", "none")]
    for folder, notes in zip(folders, (["a clipped"], ["a clipped", "b silent"]), strict=True):
        written = json.loads((folder / "summary.json").read_text())
        written["study"] |= {"left_out": ["one left out"], "labels": ["joy as happiness"], "notes": notes}
        (folder / "summary.json").write_text(json.dumps(written))
    said = compare.compare([str(folder) for folder in folders])[0].study
    assert (said.left_out, said.labels) == (("one left out",), ("joy as happiness",))
    assert said.notes == ("a clipped", "b silent")


def test_a_variant_alone_has_its_figures_computed_again(workdir, capsys):
    made, merged, remarks = compare.compare([f"{workdir}:eca"])
    own = study().query("variant == 'eca'").reset_index(drop=True)
    pd.testing.assert_frame_equal(merged, own)
    assert made.variants["eca"].ua.value == pytest.approx(balanced_accuracy(own))
    assert (made.comparisons, remarks) == ((), [])
    assert call(f"{workdir}:eca") == 0
    printed = capsys.readouterr().out
    assert f"{100 * balanced_accuracy(own):.1f}" in printed
    assert "against" not in printed


def of_merged(table, *others):
    """The table as that of a corpus that was merged of its own and others, one more class and half a fold more."""
    own = table["corpus"].iloc[0]
    made = []
    for name, part in ((own, table), *others):
        names = {column: f"{name}-" + part[column] for column in ("utterance", "speaker")}
        made.append(part.assign(corpus="merged", **names))
    return predictions.merge(made)


def test_of_a_merged_corpus_the_part_that_the_others_are_of_is_compared(workdir, tmp_path):
    own = study(("joint",), seed=3)
    joint = of_merged(own, ("song", study(("joint",), seed=4)))
    save(tmp_path / "joint", joint, fold_sizes={fold: (52, 16) for fold in "abcd"})
    save(workdir, study(), fold_sizes=SIZES)
    for arguments in ([workdir, tmp_path / "joint"], [tmp_path / "joint", workdir]):
        made, merged, remarks = compare.compare([str(argument) for argument in arguments])
        pd.testing.assert_frame_equal(
            merged[merged["variant"] == "joint"].reset_index(drop=True), own, check_column_type=False
        )
        assert made.corpus == "speech"
        assert made.variants["joint"].ua.value == pytest.approx(balanced_accuracy(own))
        assert "its corpus is merged: of it only what came from speech" in made.variants["joint"].notes
        assert remarks == []
        # The folds test the same utterances, but not all variants learnt the same ones.
        assert [comparison.nadeau_bengio for comparison in made.comparisons] == [None, None]
        expected = paired.compare(predictions.merge([study(), own]), "eca", "joint", SIZES)
        found = next(c for c in made.comparisons if {c.variant, c.baseline} == {"eca", "joint"})
        assert abs(found.estimate) == pytest.approx(abs(expected.estimate))
        assert found.ci95 is not None


def test_the_same_variants_on_two_corpora_are_set_side_by_side(tmp_path, capsys):
    for corpus, seed in (("one", 0), ("two", 1)):
        table = study(corpus=corpus, seed=seed)
        made = summarise(table, comparisons=[("none", "eca")], how=How(replicates=100))
        predictions.write(table, tmp_path / corpus / "predictions.parquet")
        summary.write(made, tmp_path / corpus / "summary.json")
    assert call(tmp_path / "one", tmp_path / "two", "--across_corpora") == 0
    printed = capsys.readouterr().out
    made = [summary.read(tmp_path / corpus) for corpus in ("one", "two")]
    assert [line.split() for line in printed.splitlines()[:3]] == [
        ["variant", "one", "two"],
        *([name, *(f"{100 * one.variants[name].ua.value:.1f}" for one in made)] for name in ("eca", "none")),
    ]
    first, second = (one.comparisons[0].estimate for one in made)
    assert f"none against eca, UA points: one {100 * first:+.1f} [" in printed
    assert f", two {100 * second:+.1f} [" in printed and "; pooled " in printed
    assert call(tmp_path / "one", tmp_path / "two", "--across_corpora", "--out", str(tmp_path / "page")) == 0
    page, text = ((tmp_path / "page" / name).read_text() for name in ("report.html", "report.md"))
    pooled = re.search(r"; pooled (.*?), p", printed)[1]
    assert f"over 2 corpora, UA {pooled} points" in page and "none against eca" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert any(f"{100 * first:+.1f} [" in row and f"{100 * second:+.1f} [" in row and pooled in row for row in rows)
    assert f"{tmp_path / 'page'}: report.html" in capsys.readouterr().out
    assert (tmp_path / "page" / "figures" / "across.svg").is_file()
    assert (tmp_path / "page" / "tables" / "effects.tex").is_file()
    with pytest.raises(UserError, match=r"three: no summary\.json in it"):
        call(tmp_path / "one", tmp_path / "three", "--across_corpora")


def test_control_characters_of_names_are_visible_in_a_view_over_corpora(tmp_path):
    effect = {"variant": "a\x01b", "baseline": "c", "corpora": {}, "pooled": None, "notes": ("of a\x01b",)}
    effect["corpora"] = {name: {"estimate": 0.01, "ci95": (-0.01, 0.03)} for name in ("one", "two")}
    ua = {name: {"a\x01b": 0.5, "c": 0.4} for name in ("one", "two")}
    view = {"corpora": ("one", "two"), "variants": ("a\x01b", "c"), "ua": ua, "effects": [effect], "notes": []}
    write_across(tmp_path / "page", view)
    texts = {path.name: path.read_text() for path in (tmp_path / "page").rglob("*.*") if path.suffix != ".pdf"}
    assert not [name for name, text in texts.items() if "\x01" in text]
    ElementTree.fromstring(texts["across.svg"])
    assert "x01b against c" in texts["report.md"]
