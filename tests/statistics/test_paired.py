import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

from ser_jax import predictions
from ser_jax.errors import UserError
from ser_jax.statistics import paired, tests
from tests.statistics.made_tables import EMOTIONS, make_table, sizes


def test_comparison_equals_slow_loops_over_folds_and_speakers():
    table = make_table()
    comparison = paired.compare(table, "eca", "none", sizes(table), replicates=2000)
    predicted = np.array(EMOTIONS)[predictions.probabilities_of(table).argmax(axis=1)]
    table = table.assign(predicted=predicted).set_index("variant")

    def ua(rows):
        hit = rows["predicted"] == rows["label"]
        return hit.groupby(rows["label"]).mean().mean()

    eca, none = table.loc["eca"], table.loc["none"]
    pooled = [ua(eca[eca.seed == s]) - ua(none[none.seed == s]) for s in (0, 1)]
    assert comparison.estimate == pytest.approx(np.mean(pooled))
    runs = [
        ua(eca[(eca.seed == s) & (eca.fold == f)]) - ua(none[(none.seed == s) & (none.fold == f)])
        for f in eca.fold.unique()
        for s in (0, 1)
    ]
    rng = np.random.default_rng(5)
    of_run = {key: rows for key, rows in table.reset_index().groupby(["variant", "seed", "speaker"])}
    replicates = []
    for _ in range(100):
        drawn = rng.choice(eca.speaker.unique(), 6)
        gains = []
        for s in (0, 1):
            both = [pd.concat([of_run[variant, s, speaker] for speaker in drawn]) for variant in ("eca", "none")]
            gains.append(np.subtract(*[balanced_accuracy_score(t["label"], t["predicted"]) for t in both]))
        replicates.append(np.mean(gains))
    half = stats.t.ppf(0.975, 5) * np.std(replicates) * np.sqrt(6 / 5)
    assert (comparison.ci95[1] - comparison.ci95[0]) / 2 == pytest.approx(half, rel=0.3)
    assert comparison.ci95[0] > 0
    assert (comparison.folds, comparison.seeds, comparison.speakers, comparison.notes) == (6, 2, 6, ())
    assert comparison.standard_error == pytest.approx(
        (comparison.ci95[1] - comparison.ci95[0]) / 2 / stats.t.ppf(0.975, 5)
    )
    assert comparison.seed_differences == pytest.approx({"0": pooled[0], "1": pooled[1]})
    of_folds = {f: np.mean(runs[2 * i : 2 * i + 2]) for i, f in enumerate(eca.fold.unique())}
    assert comparison.fold_differences == pytest.approx(of_folds)


def test_the_test_of_nadeau_and_bengio_is_of_every_runs_part_and_of_the_sizes_of_folds():
    table = make_table(utterances=12)
    predicted = np.array(EMOTIONS)[predictions.probabilities_of(table).argmax(axis=1)]
    table["hit"] = (predicted == table["label"]).astype(float)
    eca, none = (table[table["variant"] == name].reset_index(drop=True) for name in ("eca", "none"))
    eca["gain"] = eca["hit"] - none["hit"]
    mean, runs = eca.groupby("label")["gain"].mean(), []
    for (_, seed), own in eca.groupby(["fold", "seed"]):
        of_seed = eca[eca["seed"] == seed].groupby("label")["gain"].count()
        more = (own["gain"] - own["label"].map(mean)).groupby(own["label"]).sum().reindex(mean.index, fill_value=0)
        runs.append(mean.mean() + 6 * (more / of_seed).mean())
    fold_sizes = {f"fold{i}": (100 + 10 * i, 12) for i in range(6)}
    ratio = np.mean([test / train for train, test in fold_sizes.values()])
    found = paired.compare(table.drop(columns="hit"), "eca", "none", fold_sizes, replicates=50).nadeau_bengio
    p, detectable = tests.nadeau_bengio(np.array(runs), ratio)
    assert (found.p, found.detectable) == (pytest.approx(p), pytest.approx(detectable))


def test_comparison_does_not_depend_on_what_emotions_folds_and_speakers_are_called():
    table = make_table(utterances=8)
    new = {f"p_{emotion}": f"p_{i}" for i, emotion in enumerate(reversed(EMOTIONS))}
    renamed = table.rename(columns=new)[[*table.columns[: -len(new)], *sorted(new.values())]]
    renamed["label"] = ("p_" + renamed["label"]).map(new).str.removeprefix("p_")
    renamed[["speaker", "fold"]] = "new " + renamed[["speaker", "fold"]]
    one, other = (
        dataclasses.asdict(paired.compare(rows, "eca", "none", sizes(rows), replicates=100))
        for rows in (table, renamed)
    )
    for key in ("estimate", "standard_error", "ci95", "p", "degrees", "seeds_share", "detectable", "nadeau_bengio"):
        assert other[key] == pytest.approx(one[key]), key


def test_comparison_does_not_depend_on_the_order_of_rows():
    table = make_table(utterances=8)
    shuffled = table.sample(frac=1, random_state=0)
    options = dict(fold_sizes=sizes(table), replicates=100)
    assert paired.compare(table, "eca", "none", **options) == paired.compare(shuffled, "eca", "none", **options)


def test_comparison_uses_only_what_both_variants_were_tested_on_and_says_so():
    table = make_table(utterances=12)
    less = table[~((table["variant"] == "none") & (table["fold"] == "fold0") & (table["seed"] == 1))]
    both = table[~((table["fold"] == "fold0") & (table["seed"] == 1))]
    found = paired.compare(less, "eca", "none", sizes(table), replicates=200)
    expected = paired.compare(both, "eca", "none", sizes(table), replicates=200)
    assert found.estimate == expected.estimate
    assert found.ci95 == expected.ci95
    assert found.notes == ("12 predictions left out, since only one of the two variants has them",)


def test_speakers_that_one_variant_was_not_tested_on_are_left_out_and_named():
    table = make_table(utterances=8)
    less = table[(table["variant"] == "eca") | ~table["speaker"].isin(["s1", "s4"])]
    found = paired.compare(less, "eca", "none", sizes(table), replicates=100)
    assert found.speakers == 4
    assert found.notes[-1] == "speakers that not all variants were tested on, left out: s1, s4"
    strangers = table.assign(speaker=np.where(table["variant"] == "eca", "x" + table["speaker"], table["speaker"]))
    with pytest.raises(UserError, match="an utterance's speaker differs between runs"):
        predictions.validate(strangers)


def test_a_variant_compared_with_its_own_copy_gives_zero_and_no_test():
    table = make_table(variants=("none",), utterances=8)
    both = predictions.merge([table, table.assign(variant="copy")])
    found = paired.compare(both, "copy", "none", sizes(table), replicates=100)
    assert found.estimate == 0
    assert found.ci95 is None
    assert (found.p, found.verdict, found.nadeau_bengio) == (None, None, None)
    assert len(found.notes) == 1


def test_one_speaker_and_one_seed_give_the_difference_and_say_what_cannot_be_estimated():
    table = make_table(speakers=1, seeds=(0,))
    found = paired.compare(table, "eca", "none", sizes(table))
    assert found.ci95 is None
    assert (found.p, found.p_holm, found.verdict, found.detectable, found.seeds_share) == (None,) * 5
    assert found.nadeau_bengio is None
    assert [note.split(":")[0] for note in found.notes] == ["one speaker only", "one seed"]


def test_folds_of_unknown_size_give_no_test_and_say_so():
    table = make_table(utterances=8)
    found = paired.compare(table, "eca", "none", {}, replicates=100)
    assert found.nadeau_bengio is None
    assert found.ci95 is not None
    assert found.notes == ("the sizes of the folds are not known: no test of Nadeau and Bengio",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[t["variant"] == "eca"], "no variant none .there are: eca."),
        (lambda t: t.assign(seed=t["seed"] + 5 * (t["variant"] == "eca")), "no fold, seed and utterance to compare on"),
        (lambda t: t.assign(fold="other"), "sizes of fold other are not known"),
        (lambda t: t.assign(fold="new " + t["fold"]), "sizes of fold new fold0 are not known"),
    ],
)
def test_an_impossible_comparison_is_refused_in_one_line(change, message):
    table = make_table(utterances=8)
    with pytest.raises(UserError, match=message):
        paired.compare(change(table), "eca", "none", sizes(table))


def test_a_family_is_corrected_together_and_its_verdicts_follow():
    table = make_table(variants=("none", "se", "eca"), gain=0.3, utterances=12)
    alone = [paired.compare(table, name, "none", sizes(table), replicates=100) for name in ("se", "eca")]
    found = paired.correct(alone)
    assert [c.p_holm for c in found] == tests.holm([c.p for c in alone])
    assert [c.p_equivalence for c in found] == tests.holm([c.p_equivalence for c in alone])
    for before, after in zip(alone, found, strict=True):
        assert (before.family, after.family) == (1, 2)
        assert before.p_holm == before.p == after.p
        assert after.verdict == tests.verdict(after.p_holm, after.p_equivalence)
        expected = tests.detectable_difference(before.standard_error, before.degrees, 2)
        assert after.detectable == expected > before.detectable
    assert paired.correct(found) == found


def test_equivalence_is_corrected_for_the_family_too():
    table = make_table(utterances=8)
    one = paired.compare(table, "eca", "none", sizes(table), replicates=50)
    alike = [dataclasses.replace(one, estimate=e, standard_error=0.008, degrees=9.0) for e in (0.002, -0.004, 0.006)]
    alike = [dataclasses.replace(c, p=tests.t_test(c.estimate, 0.008, 9.0)) for c in alike]
    alone = [tests.equivalence_test(c.estimate, 0.008, 9.0, 0.02) for c in alike]
    assert max(alone[:2]) < 0.05 < alone[2]
    found = paired.correct(alike)
    assert [c.p_equivalence for c in found] == pytest.approx(tests.holm(alone))
    assert found[0].p_equivalence == pytest.approx(3 * alone[0])
    assert [c.verdict for c in paired.correct(alike[:1])] == ["equivalent"]
    assert {c.verdict for c in found} == {"undecided"}


def test_comparisons_without_an_interval_do_not_count_in_a_family():
    table = make_table(utterances=12)
    both = predictions.merge([table, table[table["variant"] == "none"].assign(variant="copy")])
    copy, eca = (paired.compare(both, name, "none", sizes(table), replicates=100) for name in ("copy", "eca"))
    found = paired.correct([copy, eca])
    assert (found[0].p_holm, found[0].verdict, found[1].family) == (None, None, 1)
    assert found[1].p_holm == eca.p


@pytest.mark.parametrize("margin", [0.0, -0.02, float("nan")])
def test_a_margin_that_is_not_above_zero_is_refused(margin):
    table = make_table(utterances=8)
    with pytest.raises(UserError, match=r"margin of equivalence: found .*, expected more than zero"):
        paired.compare(table, "eca", "none", sizes(table), margin=margin)


def test_everything_of_a_comparison_follows_from_its_estimate_and_standard_error():
    table = make_table(gain=0.2)
    found = paired.compare(table, "eca", "none", sizes(table), margin=0.05, replicates=200)
    basis = (found.estimate, found.standard_error, found.degrees)
    assert found.degrees == 5
    assert found.ci95 == tests.t_interval(*basis)
    assert found.ci90 == tests.t_interval(*basis, 0.90)
    assert found.p == tests.t_test(*basis)
    assert found.p_equivalence == tests.equivalence_test(*basis, 0.05)
    assert found.detectable == tests.detectable_difference(*basis[1:])
    assert found.half_width == pytest.approx((found.ci95[1] - found.ci95[0]) / 2)
    assert found.seeds_share + found.speakers_share == pytest.approx(1)


def test_variants_of_different_protocols_are_paired_by_utterance_and_not_tested_as_runs():
    rng = np.random.default_rng(0)
    rows = []
    for variant, folds in (("strict", ["a", "a", "b", "b"]), ("random", ["1", "2", "1", "2"])):
        for seed in (0, 1):
            for i in range(40):
                right = rng.random() < (0.9 if variant == "random" else 0.6)
                label = ("anger", "sadness")[i % 2]
                anger = float(right == (label == "anger"))
                utterance = ("corpus", variant, folds[i % 4], seed, f"u{i}", f"s{i // 8}", label)
                rows.append((*utterance, anger, 1 - anger))
    columns = ["corpus", "variant", "fold", "seed", "utterance", "speaker", "label", "p_anger", "p_sadness"]
    table = pd.DataFrame(rows, columns=columns)
    found = paired.compare(table, "random", "strict", {"a": (20, 20), "b": (20, 20)}, replicates=200)
    ua = {
        name: np.mean(
            [
                balanced_accuracy_score(own["label"] == "anger", own["p_anger"] > 0.5)
                for _, own in table[table["variant"] == name].groupby("seed")
            ]
        )
        for name in ("random", "strict")
    }
    assert found.estimate == pytest.approx(ua["random"] - ua["strict"])
    assert found.ci95 is not None
    assert found.nadeau_bengio is None
    assert "paired by utterance" in found.notes[0]


def test_utterances_that_several_folds_test_are_not_paired_with_those_of_other_folds():
    """Which of its predictions would an utterance be compared by?"""
    table = make_table(variants=("eca", "none"), speakers=3, utterances=8)
    first, second = (table[table["variant"] == name] for name in ("eca", "none"))
    twice = pd.concat([first.assign(fold="a"), first.assign(fold="b")])
    both = pd.concat([twice, second.assign(fold="c")], ignore_index=True)
    with pytest.raises(UserError, match="share no fold, seed and utterance to compare on"):
        paired.compare(both, "eca", "none", {})


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_variants_of_different_protocols_have_the_same_interval_whichever_is_the_baseline(seeds):
    table = make_table(seeds=seeds, utterances=24)
    random = table["utterance"].str[-2:].astype(int).mod(2).map("random{}".format)
    table["fold"] = table["fold"].where(table["variant"] == "none", random)
    one, other = (paired.compare(table, *pair, {}, replicates=200) for pair in (("eca", "none"), ("none", "eca")))
    assert one.estimate == -other.estimate
    for key in ("standard_error", "degrees", "p", "seeds_share", "folds", "notes"):
        assert getattr(one, key) == getattr(other, key), key
    assert one.folds == 2  # random folds test all speakers by one model, whose noise they share
