"""What the documentation says was found is what the committed predictions say."""

import functools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ser_jax.corpora.protocols import PROTOCOLS
from tests import recomputed
from tests import recomputed_scores as again

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
FOLDERS = sorted(path.parent for path in RESULTS.glob("**/predictions.parquet"))
DOCUMENTS = [path for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))]
_FIGURE = re.compile(r"([+-]?\d+\.\d)(?: points| % UA)?(?:\*\*)? \[([+-]?\d+\.\d), ([+-]?\d+\.\d)\]")
_P_BESIDE = re.compile(r"(?:\*\*)?,? \(?p (?:= )?(0\.\d+)")
# Searches whose predictions were not kept, as docs/recipes.md says of them.
_NOT_KEPT = ("The search", "Another network", "RAVDESS")


def _name(folder: Path) -> str:
    return str(folder.relative_to(RESULTS))


@functools.cache
def _summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


@functools.cache
def _table(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "predictions.parquet")


@pytest.mark.parametrize("folder", FOLDERS, ids=_name)
def test_published_figures_of_variants_are_of_the_predictions_beside_them(folder):
    table, summary = _table(folder), _summary(folder)
    assert set(summary["variants"]) == set(table["variant"])
    for name, published in summary["variants"].items():
        shared = recomputed.Shared(table, [name])
        found = recomputed.figure(shared, np.ones(1))
        ua = published["metrics"]["ua"]
        assert found["estimate"] == pytest.approx(ua["value"], abs=1e-9)
        if ua["ci95"]:
            low, high = recomputed.inference(found, 1.0)["ci95"]
            expected = max(low, 0.0), min(high, 1.0)
            assert ua["ci95"] == pytest.approx(expected, abs=0.06 * (high - low) / 2), f"{_name(folder)}: {name}"
        rows = table[table["variant"] == name]
        said = rows[[f"p_{e}" for e in summary["emotions"]]].to_numpy().argmax(axis=1)
        expected = pd.crosstab(rows["label"].to_numpy(), np.array(summary["emotions"])[said])
        expected = expected.reindex(index=summary["emotions"], columns=summary["emotions"], fill_value=0)
        np.testing.assert_array_equal(expected.to_numpy(), published["confusion"])


@pytest.mark.parametrize("folder", FOLDERS, ids=_name)
def test_published_scores_calibration_and_gaps_are_of_the_predictions_beside_them(folder):
    summary = _summary(folder)
    for name, table in _table(folder).groupby("variant", sort=False):
        published, where = summary["variants"][name], f"{_name(folder)}: {name}"
        probabilities, reference, classes = again.predicted(table)
        sums = again.sums_of(table, again.of_classes(probabilities, reference))
        present = np.flatnonzero(reference.any(axis=0)).tolist()
        of_speakers = again.by_speaker(sums)
        heard = of_speakers[:, 0][:, present] > 0
        drawn = np.tensordot(again.draws_of(len(heard), heard), of_speakers, axes=1)
        for key, figure in {"wa": again.ACCURACY, "macro_f1": again.macro_f1_of(present)}.items():
            _same(published["metrics"][key], again.interval(sums, figure, drawn), f"{where}: {key}")
        for k, number in zip(present, heard.sum(axis=0), strict=True):
            found = again.interval(sums, again.recall_of([k]), drawn, number=int(number))
            _same(published["recall"][classes[k]], found, f"{where}: recall of {classes[k]}")
        calibration, gap = published["calibration"], (published["fairness"] or {}).get("gender_gap")
        if calibration and calibration["ece"] is not None:
            times = again.draws_of(len(heard))
            for key, rows, figure, most in (
                ("ece", again.of_bins, again.ECE, 1.0),
                ("brier", again.of_distances, again.MEAN, 2.0),
            ):
                own = again.sums_of(table, rows(probabilities, reference))
                drawn = np.tensordot(times, again.by_speaker(own), axes=1)
                one = {"value": calibration[key], "ci95": calibration[f"{key}_ci95"]}
                _same(one, again.interval(own, figure, drawn, bias=key == "ece"), f"{where}: {key}", most=most)
        if gap and gap["ci95"]:
            genders = {speaker: one["gender"] for speaker, one in published["fairness"]["speakers"].items()}
            found = again.gender_gap(sums, genders)
            _same({"value": gap["ua_difference"], "ci95": gap["ci95"]}, found, f"{where}: gap", least=-1.0)
            if gap["p"] is not None:
                assert gap["p"] == pytest.approx(found["p"], abs=0.01 + 0.1 * found["p"]), where
            for gender, one in published["fairness"]["genders"].items():
                _same({"value": one["ua"], "ci95": one["ua_ci95"]}, found[gender], f"{where}: {gender}")


def _same(published: dict, found: dict, where: str, least: float = 0.0, most: float = 1.0) -> None:
    assert published["value"] == pytest.approx(found["value"], abs=1e-6), where
    if published["ci95"] is None:
        assert np.isnan(found["low"]), where
        return
    # Two bootstraps of thousands of draws differ by a percent or two of the standard error.
    half = (found["high"] - found["low"]) / 2
    expected = max(found["low"], least), min(found["high"], most)
    assert published["ci95"] == pytest.approx(expected, abs=0.06 * half), where


@pytest.mark.parametrize("folder", [f for f in FOLDERS if _summary(f)["comparisons"]], ids=_name)
def test_published_comparisons_are_of_the_predictions_beside_them(folder):
    summary = _summary(folder)
    questions = summary.get("questions", [])
    families = [([summary["comparisons"][i] for i in q["comparisons"]], q["effects"], q) for q in questions]
    asked = {i for q in questions for i in q["comparisons"]}
    families.append(([c for i, c in enumerate(summary["comparisons"]) if i not in asked], [], {}))
    for pairs, effects, question in families:
        published = [one for one in (*pairs, *effects) if one["ci95"]]
        found = [_again(folder, one, question, summary["margin"]) for one in published]
        p_holm = recomputed.holm([one["p"] for one in found])
        alike = recomputed.holm([one["alike"] for one in found])
        for one, own, p, same in zip(published, found, p_holm, alike, strict=True):
            where = f"{_name(folder)}: {one['name']}"
            assert one["estimate"] == pytest.approx(own["estimate"], abs=1e-9), where
            # Two bootstraps of thousands of draws differ by a percent or two of the standard error.
            assert one["standard_error"] == pytest.approx(own["error"], rel=0.06), where
            assert one["degrees"] == pytest.approx(own["degrees"], rel=0.1), where
            half = (own["ci95"][1] - own["ci95"][0]) / 2
            assert one["ci95"] == pytest.approx(own["ci95"], abs=0.06 * half), where
            for key, value in (("p", own["p"]), ("p_holm", p), ("p_equivalence", same)):
                assert one[key] == pytest.approx(value, abs=0.01 + 0.1 * value), f"{where}: {key}"
            assert one["detectable"] == pytest.approx(recomputed.detectable(own, len(published)), rel=0.06), where
            assert one["verdict"] in _verdicts(p, same), where


def _again(folder: Path, one: dict, question: dict, margin: float) -> dict:
    if one["kind"] == "pair":
        shared = recomputed.Shared(_table(folder), [one["variant"], one["baseline"]])
        return recomputed.inference(recomputed.figure(shared, np.array([1.0, -1.0])), margin)
    variants = list(question["levels"])
    weights = recomputed.effect_weights(one, question, variants)
    return recomputed.inference(recomputed.figure(recomputed.Shared(_table(folder), variants), weights), margin)


def _verdicts(p: float, alike: float) -> set[str]:
    """The verdict, and the other one where a p value is so near 0.05 that two bootstraps may disagree."""
    found = set()
    for factor in (0.85, 1.0, 1.15):
        for other in (0.85, 1.0, 1.15):
            same = "equivalent" if other * alike < 0.05 else "undecided"
            found.add("difference" if factor * p < 0.05 else same)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_figure_with_an_interval_is_of_a_folder_that_its_section_names(document):
    """A section names the folders of its figures by links to docs/results, or in a comment <!-- results/FOLDER -->."""
    unknown, unnamed = [], []
    for section in re.split(r"^## ", document.read_text(), flags=re.MULTILINE):
        if section.startswith(_NOT_KEPT) and document.name == "recipes.md":
            continue
        named = tuple(re.findall(r"results/([\w./-]+)", section))
        prose = " ".join(re.sub(r"```.*?```|<!--.*?-->", "", section, flags=re.DOTALL).split())
        for match in _FIGURE.finditer(prose):
            figure = tuple(map(float, match.groups()))
            folders = {name: one for name, published in _published().items() for one in published.get(figure, ())}
            if not folders:
                unknown.append(match.group())
            elif not any(_is_named(name, named) for name in folders):
                unnamed.append((match.group(), sorted(folders)))
    assert unknown == []
    assert unnamed == []


@pytest.mark.parametrize("folder", sorted((ROOT / "pretrained").iterdir()), ids=lambda folder: folder.name)
def test_the_figure_of_a_published_model_is_of_what_it_predicted_for_unseen_speakers(folder):
    table = pd.read_parquet(folder / "tested.parquet")
    names = list(table["variant"].unique())
    found = recomputed.figure(recomputed.Shared(table, names), np.ones(1))["estimate"]
    page = (ROOT / "docs" / "pretrained.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith(f"| `pretrained/{folder.name}`"))
    assert f"| {100 * found:.1f} [" in row and len(names) == 1
    card = (folder / "README.md").read_text()
    assert f"| inductive | {100 * found:.1f} [" in card
    assert any(f"unseen speakers ({rule} (speaker-independent; " in card for rule in PROTOCOLS.values())


@pytest.mark.parametrize(
    ("model", "result", "corpus"),
    [
        ("emodb", "pretrained_emodb", "ravdess"),
        ("ravdess", "pretrained_ravdess", "emodb"),
        ("emodb_encoder", "encoder_lda_emodb", "ravdess"),
        ("ravdess_encoder", "encoder_lda_ravdess", "emodb"),
    ],
)
def test_a_card_has_the_figure_of_its_model_on_the_other_corpus(model, result, corpus):
    table = pd.read_parquet(RESULTS / "cross_corpus" / result / "predictions.parquet")
    found = recomputed.figure(recomputed.Shared(table, list(table["variant"].unique())), np.ones(1))["estimate"]
    card = (ROOT / "pretrained" / model / "README.md").read_text()
    assert f"| {corpus}, all of it | inductive | {100 * found:.1f} [" in card
    header = card.partition(f"name: {corpus}, all of it (inductive)\n")[2].partition("name: WA")[0]
    assert f"name: UA\n      value: {100 * found:.1f}\n" in header


def test_every_p_value_beside_a_figure_is_that_of_its_comparison():
    wrong = []
    for document in DOCUMENTS:
        prose = " ".join(document.read_text().split())
        for match in _FIGURE.finditer(prose):
            beside = _P_BESIDE.match(prose, match.end())
            figure = tuple(map(float, match.groups()))
            known = [one for published in _published().values() for one in published.get(figure, ()) if "p" in one]
            if beside is None or not known:
                continue
            digits = len(beside[1].partition(".")[2])
            values = {f"{one[key]:.{digits}f}" for one in known for key in ("p", "p_holm", "p_equivalence")}
            wrong += [f"{document.name}: {match.group()}{beside.group()}"] * (beside[1] not in values)
    assert wrong == []


def test_shares_of_seeds_and_speakers_are_those_of_all_published_comparisons():
    text = (ROOT / "docs" / "statistics.md").read_text()
    rows = [row.split(" | ") for row in re.findall(r"^\| ([\w/]+ \| .* against .*) \|$", text, flags=re.MULTILINE)]
    expected = []
    for folder in FOLDERS:
        summary = _summary(folder)
        effects = [effect for question in summary["questions"] for effect in question["effects"]]
        for one in (one for one in [*summary["comparisons"], *effects] if one["seeds_share"] is not None):
            shares = [f"{100 * one[key]:.0f} %" for key in ("seeds_share", "speakers_share")]
            widths = [f"{100 * one[key]:.1f}" for key in ("half_width", "with_twice_seeds", "with_twice_speakers")]
            expected.append([_name(folder), one["name"], widths[0], *shares, *widths[1:]])
    assert len(rows) > 20
    assert sorted(rows) == sorted(expected)


def test_published_shares_and_widths_follow_from_a_second_computation():
    summary, folder = _summary(RESULTS / "five_seeds" / "emodb_recurrent"), RESULTS / "five_seeds" / "emodb_recurrent"
    for one in summary["comparisons"]:
        shared = recomputed.Shared(_table(folder), [one["variant"], one["baseline"]])
        adds = recomputed.run_additions(shared, np.array([1.0, -1.0]))  # a cell is a speaker: each is a fold
        own = _again(folder, one, {}, summary["margin"])
        share = min(1.0, (adds.var(axis=0, ddof=1) / len(adds)).sum() / own["error"] ** 2)
        assert one["seeds_share"] == pytest.approx(share, abs=0.06)
        half = (own["ci95"][1] - own["ci95"][0]) / 2
        assert one["with_twice_seeds"] == pytest.approx(half * np.sqrt(1 - share / 2), rel=0.06)


def test_gains_with_equal_and_without_silence_differ_by_what_the_answer_says():
    tables = []
    for name, folder in {"with": "", "without": "_without_silence", "equal": "_equal_silence"}.items():
        table = _table(RESULTS / "encoder_pooling" / f"ravdess{folder}")
        # The recordings with equal silence are numbered in the order of the others.
        number = table["utterance"].rank(method="dense").astype(int).astype(str)
        tables.append(table.assign(variant=f"{name} " + table["variant"], utterance=number))
    prose = " ".join((ROOT / "docs" / "answer.md").read_text().split())
    number = r"(-?\d+\.\d)"
    for parts, weights, said, *heads in (
        (
            ("with", "without"),
            (1, -1, -1, 1),
            rf"differ by {number} points, with a 95 % interval from {number} to {number} over speakers",
        ),
        (
            ("with", "without"),
            (1, -1, -1, 1),
            rf"multi-head pooling by {number} points \(from {number} to {number}\)",
            "multi-head",
            "mean",
        ),
        (
            ("with", "without"),
            (1, -1, -1, 1),
            rf"those of attentive statistics by {number} \(from {number} to {number}\)",
            "attentive statistics",
            "mean and deviation",
        ),
        (
            ("with", "without"),
            (0, -1, 0, 1),
            rf"does not gain from trimming \({number} points, interval from {number} to {number}\)",
        ),
        (("with", "without"), (1, 0, -1, 0), rf"loses {number} points by it \(from {number} to {number}\)"),
        (("with", "equal"), (1, 0, -1, 0), rf"still loses {number} points \(from {number} to {number}\)"),
        (
            ("with", "equal"),
            (1, -1, -1, 1),
            rf"that is {number} points less than .* not significant \(from {number} to {number}\)",
        ),
    ):
        arms = [f"{part} {head}" for part in parts for head in heads or ("self-attentive", "mean")]
        found = recomputed.figure(recomputed.Shared(pd.concat(tables), arms), np.array(weights, float))
        expected = [100 * value for value in (found["estimate"], *recomputed.inference(found, 0.02)["ci95"])]
        assert [*map(float, re.search(said, prose).groups())] == pytest.approx(expected, abs=0.1)


def test_the_picture_of_the_answer_is_drawn_from_the_published_summaries(tmp_path):
    path = tmp_path / "answer.png"
    subprocess.run([sys.executable, "-m", "docs.answer_figure", path], cwd=ROOT, check=True)
    drawn, published = Image.open(path), Image.open(ROOT / "docs" / "answer.png")
    assert published.info["Description"] == drawn.info["Description"]
    assert len(drawn.info["Description"].splitlines()) == 13
    assert np.abs(np.asarray(drawn, float) - np.asarray(published, float)).mean() < 255e-3


def _is_named(folder: str, named: tuple[str, ...]) -> bool:
    """Whether a section names a folder, one above it, or several at once as five_seeds/CORPUS_QUESTION."""
    parts = folder.split("/")
    for name in named:
        own = [part for part in name.strip("/.").split("/") if not part.endswith((".json", ".parquet", ".png", ".md"))]
        patterns = [re.sub(r"[A-Z]{2,}", ".*", part) for part in own]
        if all(map(re.fullmatch, patterns, parts)) and len(patterns) <= len(parts):
            return True
    return False


@functools.cache
def _published() -> dict[str, dict[tuple[float, float, float], list[dict]]]:
    """Folder -> every figure with an interval, as percent with one decimal, in both directions -> where it stands."""
    found: dict[str, dict] = {}
    for folder in FOLDERS:
        for figure, one in _figures(_summary(folder)):
            found.setdefault(_name(folder), {}).setdefault(figure, []).append(one)
    return found


def _figures(part: Any) -> Iterator[tuple[tuple[float, float, float], dict]]:
    if isinstance(part, list):
        for item in part:
            yield from _figures(item)
    elif isinstance(part, dict):
        for key, value in part.items():
            beside = key in ("value", "estimate") or "difference" in key
            ends = part.get("ci95" if beside else f"{key}_ci95")
            if isinstance(value, float) and ends:
                yield tuple(_rounded(one) for one in (value, *ends)), part
                yield tuple(_rounded(-one) for one in (value, *reversed(ends))), part
            yield from _figures(value)


def _rounded(share: float) -> float:
    return float(f"{100 * share:.1f}")
