"""Nested selection by one command: the choice has seen no test speaker, and the test no speaker of the choice."""

import json

import pandas as pd
import pytest
from sklearn.metrics import recall_score

from ser_jax import config as configuration
from ser_jax.errors import UserError
from ser_jax.report import summary
from ser_jax.studies import selection
from ser_jax.studies.status import study_status
from ser_jax.studies.store import read_places
from tests.training.tiny import CONFIG

pytestmark = pytest.mark.usefixtures("no_figures")

VARIANTS = {
    "SVM": {"model": {"name": "linear_svm", "functionals": "own"}},
    "LDA": {"model": {"name": "lda", "functionals": "own"}},
}
CORPUS = {"options": {"num_speakers": 6, "utterances_per_speaker": 8}}


def write(folder, variants=VARIANTS, **changes):
    config = configuration.merge(CONFIG, {"corpus": CORPUS, "study": {"variants": variants}})
    path = folder / "config.json"
    path.write_text(json.dumps(configuration.merge(config, changes)))
    return path


def test_one_command_chooses_on_speakers_set_apart_and_tests_on_the_others(launch, tmp_path):
    config, work = write(tmp_path), tmp_path / "work"
    status, output, errors = launch("study", config, "--select", "3", "--workdir", work)
    assert status == 0, errors
    chosen_by, tested = (pd.read_parquet(work / name / "predictions.parquet") for name in ("choice", "tested"))
    assert set(chosen_by["variant"]) == set(VARIANTS)
    assert chosen_by["speaker"].nunique() == 3 and tested["speaker"].nunique() == 3
    assert not set(chosen_by["speaker"]) & set(tested["speaker"])
    ua = {name: one.ua.value for name, one in summary.read(work / "choice").variants.items()}
    best = max(ua, key=ua.get)
    assert set(tested["variant"]) == {best}
    assert selection.choose(work / "choice") == (best, ua[best])
    assert f"chosen: {best}, UA {100 * ua[best]:.1f} % on speakers set apart" in output
    assert summary.read(work / "tested").title == f"{best}, chosen among 2 variants by 3 speakers set apart"
    methods = {name: (work / name / "tables" / "methods.tex").read_text() for name in ("choice", "tested")}
    assert "3 speakers were set apart to choose the recipe by; here they alone were learnt and" in methods["choice"]
    assert (
        "The variant was chosen among 2 variants (SVM; LDA) by UA on 3 speakers set apart, who are never tested."
    ) in methods["tested"]
    assert all("is not recorded" not in text for text in methods.values())
    assert "Chosen" in (work / "tested" / "report.md").read_text()
    status, output, errors = launch("study", config, "--select", "3", "--workdir", work, "--dry_run")
    assert (status, output.count(" yes\n")) == (0, 2), output + errors


@pytest.mark.parametrize(
    ("validation", "by"), [(1, "its validation speakers"), (0, "the speakers that it learns from, left out in turn")]
)
def test_each_fold_chooses_by_speakers_that_it_does_not_test(launch, tmp_path, validation, by):
    config, work = write(tmp_path, protocol={"validation_speakers": validation}), tmp_path / "work"
    status, output, errors = launch("study", config, "--select", "folds", "--workdir", work)
    assert status == 0, errors
    both, tested = (pd.read_parquet(work / name / "predictions.parquet") for name in ("choice", "tested"))
    chosen = {}
    for fold in both["fold"].unique():
        ua = {}
        for name, folder in read_places(work / "choice").items():
            if validation:
                rows = pd.read_parquet(folder / "validation.parquet").query("fold == @fold")
                emotions = [column for column in rows if column.startswith("p_")]
                said = rows[emotions].idxmax(axis=1).str.removeprefix("p_")
                ua[name] = recall_score(rows["label"], said, average="macro", labels=rows["label"].unique())
            else:
                ua[name] = json.loads((folder / "result.json").read_text())["held_out_ua"][fold]
        chosen[fold] = max(ua, key=ua.get)
    assert set(chosen.values()) == set(VARIANTS)  # not the same one everywhere
    made = summary.read(work / "tested")
    assert made.study.selection.chosen == chosen and made.study.selection.by == by
    expected = pd.concat([both[(both["fold"] == fold) & (both["variant"] == name)] for fold, name in chosen.items()])
    order, columns = ["fold", "seed", "utterance"], [name for name in both if name != "variant"]
    pd.testing.assert_frame_equal(
        *(table[columns].sort_values(order).reset_index(drop=True) for table in (tested, expected))
    )
    assert selection.CHOSEN in output and len(tested) == len(both) / 2
    with pytest.raises(UserError, match="tested: holds results alone, nothing is trained in it"):
        study_status(work / "tested")
    assert [one.state for one in study_status(work / "choice")] == ["trained", "trained"]
    text = (work / "tested" / "tables" / "methods.tex").read_text()
    assert f"In each fold one variant was chosen among 2 variants (SVM; LDA) by UA on {by}; the tested" in text
    models = ("linear support vector machine", "linear discriminant analysis")
    assert all(one in text.lower() for one in models) and "is not recorded" not in text
    before = (work / "tested" / "summary.json").read_bytes()
    status, _, errors = launch("report", work / "tested")
    assert status == 0, errors
    assert (work / "tested" / "summary.json").read_bytes() == before
    assert (work / "tested" / "tables" / "methods.tex").read_text() == text


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        (("--select", "1"), {}, "--select: found 1, expected two speakers or more"),
        (("--select", "0"), {}, "--select: found 0, expected two speakers or more"),
        (("--select", "5"), {}, "selection_speakers=5, expected 0, or from 2 to 4"),
        (("--select", "3", "--shard", "0/2"), {}, "--select: one process chooses and tests; expected no --shard"),
        (("--select", "3"), {"study": {"questions": [{"name": "x"}]}}, "expected either factors or variants"),
        (("--select", "3"), None, "--select 3: found one variant, expected a study of two"),
        (("--select", "3"), {"protocol": {"tested": "validation"}}, "which it sets itself; expected neither"),
        (("--select", "3"), {"protocol": {"selection_speakers": 2}}, "selection_speakers=2, which it sets itself"),
        (("--select", "2"), {}, "are left to learn from, expected more than validation_speakers=1"),
        (
            ("--select", "3"),
            {"study": {"variants": {"SVM": {}, "random": {"protocol": {"name": "random"}}}}},
            "variant random has protocol of its own; expected the same for all",
        ),
        (("--select", "fold"), {}, "--select fold: expected a number of speakers, or folds"),
        (("--select", "folds"), None, "--select folds: found one variant, expected a study of two"),
        (("--select", "folds"), {"protocol": {"tested": "validation"}}, "tested=validation, expected test"),
        (
            ("--select", "folds"),
            {"study": {"variants": {"SVM": {}, "network": {"seeds": [1]}}}},
            "variant network has seeds of its own; expected the same for all",
        ),
        (
            ("--select", "folds"),
            {"study": {"variants": {"SVM": {}, "network": {}}}, "protocol": {"validation_speakers": 0}},
            "variant network has no validation speakers to be chosen by in fold 00, found config.protocol.validation",
        ),
        (("--select", "folds"), {"protocol": {"name": "everything"}}, "protocol everything tests on its training data"),
        ((), {"study": {"candidates": ["a"]}}, "config.study.candidates: found some, which `study --select SPEAKERS`"),
    ],
)
def test_what_cannot_be_chosen_is_refused_in_one_line_before_anything_is_written(
    launch, tmp_path, options, changes, message
):
    config = write(tmp_path, variants={}) if changes is None else write(tmp_path, **changes)
    status, _, errors = launch("study", config, *options, "--workdir", tmp_path / "work")
    assert (status, len(errors.strip().splitlines())) == (2, 1)
    assert message in errors
    assert not (tmp_path / "work").exists()
