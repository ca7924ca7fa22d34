import dataclasses
import itertools

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from ser_jax import predictions
from ser_jax.errors import UserError
from ser_jax.statistics import factorial, metrics, paired, tests
from tests.statistics.made_tables import EMOTIONS, make_table, sizes

FACTORS = {"activation": ("relu", "hard_swish"), "attention": ("none", "se", "eca")}
LEVELS = {
    f"{one} {other}": {"activation": one, "attention": other} for one, other in itertools.product(*FACTORS.values())
}
MAIN, INTERACTION = "main effect", "interaction"


@pytest.fixture(scope="module")
def table():
    return make_table(variants=tuple(LEVELS), utterances=12, gain=0.2)


@pytest.fixture(scope="module")
def found(table):
    return factorial.effects(table, FACTORS, LEVELS, sizes(table), replicates=2000)


def by_hand(ua, kind, levels):
    """The effect of UA of each variant, from its definition."""
    at = {tuple(of.values()): ua[variant] for variant, of in LEVELS.items()}
    if kind == INTERACTION:
        one, other = levels["activation"], levels["attention"]
        return at[one, other] - at["relu", other] - (at[one, "none"] - at["relu", "none"])
    if "activation" in levels:
        gains = [at[levels["activation"], other] - at["relu", other] for other in FACTORS["attention"]]
    else:
        gains = [at[one, levels["attention"]] - at[one, "none"] for one in FACTORS["activation"]]
    return sum(gains) / len(gains)


def test_effects_are_named_in_order_main_effects_first(found):
    assert [effect.name for effect in found] == [
        "activation hard_swish against relu",
        "attention se against none",
        "attention eca against none",
        "activation hard_swish against relu x attention se against none",
        "activation hard_swish against relu x attention eca against none",
    ]
    assert [effect.kind for effect in found] == [MAIN] * 3 + [INTERACTION] * 2
    assert found[-1].reference == {"activation": "relu", "attention": "none"}


def test_effects_equal_their_definition_on_scikit_learns_figures(table, found):
    pooled = {}
    for variant in LEVELS:
        rows = table[table["variant"] == variant]
        per_seed = [
            balanced_accuracy_score(of["label"], np.array(EMOTIONS)[predictions.probabilities_of(of).argmax(axis=1)])
            for _, of in rows.groupby("seed")
        ]
        pooled[variant] = np.mean(per_seed)
    for effect in found:
        assert effect.estimate == pytest.approx(by_hand(pooled, effect.kind, effect.levels))


def test_the_test_of_nadeau_and_bengio_is_of_what_each_run_adds_to_the_estimate(table, found):
    predicted = np.array(EMOTIONS)[predictions.probabilities_of(table).argmax(axis=1)]
    rows = table.assign(hit=predicted == table["label"])
    recall = rows.groupby(["variant", "label"])["hit"].mean()
    rows["more"] = rows["hit"] - [recall[key] for key in zip(rows["variant"], rows["label"], strict=True)]
    of_label = rows[(rows["variant"] == "relu none") & (rows["seed"] == 0)].groupby("label").size()
    rows["own"] = rows["more"] / rows["label"].map(of_label) / len(EMOTIONS)
    adds = rows.groupby(["variant", "fold", "seed"])["own"].sum()
    for effect in found:
        per_run = [
            effect.estimate + 6 * by_hand({v: adds[v, f, s] for v in LEVELS}, effect.kind, effect.levels)
            for f in table["fold"].unique()
            for s in (0, 1)
        ]
        assert np.mean(per_run) == pytest.approx(effect.estimate)
        p, detectable = tests.nadeau_bengio(np.array(per_run), 24 / 120)
        assert (effect.nadeau_bengio.p, effect.nadeau_bengio.detectable) == pytest.approx((p, detectable))


def test_intervals_are_near_the_cluster_jackknifes(table, found):
    counts = np.stack([metrics.confusion_counts(table[table["variant"] == name], "speaker").counts for name in LEVELS])
    for effect in found:
        deleted = []
        for k in range(6):
            ua = metrics.unweighted_accuracy(np.delete(counts, k, axis=2).sum(axis=2)).mean(axis=1)
            deleted.append(by_hand(dict(zip(LEVELS, ua, strict=True)), effect.kind, effect.levels))
        jackknife = np.sqrt(5 / 6 * ((np.array(deleted) - np.mean(deleted)) ** 2).sum())
        assert effect.standard_error == pytest.approx(jackknife, rel=0.15)
        assert effect.ci95[0] < effect.estimate < effect.ci95[1]


def test_interactions_equal_the_coefficients_of_least_squares_with_reference_coding():
    design, columns = [], []
    for of in LEVELS.values():
        swish, se, eca = of["activation"] == "hard_swish", of["attention"] == "se", of["attention"] == "eca"
        design.append([1, swish, se, eca, swish * se, swish * eca])
    ua = np.random.default_rng(0).random(len(LEVELS))
    columns = np.linalg.lstsq(np.array(design, float), ua, rcond=None)[0]
    weights = [w for kind, _, w in factorial.make_contrasts(FACTORS, LEVELS) if kind == INTERACTION]
    np.testing.assert_allclose(np.stack(weights) @ ua, columns[-2:])


def test_three_factors_have_main_effects_over_all_others_and_interactions_of_two():
    factors = {"a": ("0", "1"), "b": ("0", "1"), "c": ("0", "1", "2")}
    cells = list(itertools.product(*factors.values()))
    levels = {"".join(cell): dict(zip(factors, cell, strict=True)) for cell in cells}
    contrasts = factorial.make_contrasts(factors, levels)
    ua = np.random.default_rng(0).random((2, 2, 3))
    found = {"".join(f"{f}{v}" for f, v in of.items()): w @ ua.ravel() for _, of, w in contrasts}
    assert sorted(found) == sorted(["a1", "b1", "c1", "c2", "a1b1", "a1c1", "a1c2", "b1c1", "b1c2"])
    assert found["a1"] == pytest.approx((ua[1] - ua[0]).mean())
    assert found["c2"] == pytest.approx((ua[..., 2] - ua[..., 0]).mean())
    assert found["b1c2"] == pytest.approx(((ua[:, 1, 2] - ua[:, 1, 0]) - (ua[:, 0, 2] - ua[:, 0, 0])).mean())


def test_a_level_that_begins_with_its_factor_is_named_once():
    assert factorial.describe({"kernel": "kernel 5"}, {"kernel": "kernel 3"}) == ["kernel 5 against kernel 3"]


def test_one_factor_gives_the_comparisons_with_its_reference(table):
    factors, levels = (
        {"attention": ("none", "eca")},
        {"relu none": {"attention": "none"}, "relu eca": {"attention": "eca"}},
    )
    effect = factorial.effects(table, factors, levels, sizes(table), replicates=200)[0]
    comparison = paired.compare(table, "relu eca", "relu none", sizes(table), replicates=200)
    of_a_kind = {"name", "kind", "variant", "baseline", "levels", "reference", "seed_differences", "fold_differences"}
    for name in {field.name for field in dataclasses.fields(effect)} - of_a_kind:
        assert getattr(effect, name) == getattr(comparison, name), name


def test_effects_are_over_what_all_variants_were_tested_on(table):
    lost = (table["variant"] == "relu se") & (table["fold"] == "fold0") & (table["seed"] == 1)
    everywhere = (table["fold"] == "fold0") & (table["seed"] == 1)
    found = factorial.effects(table[~lost], FACTORS, LEVELS, sizes(table), replicates=50)
    expected = factorial.effects(table[~everywhere], FACTORS, LEVELS, sizes(table), replicates=50)
    assert [effect.estimate for effect in found] == [effect.estimate for effect in expected]
    assert found[0].notes == ("60 predictions left out, since only some of the variants have them",)


def test_effects_do_not_depend_on_the_order_of_rows_and_variants(table, found):
    shuffled = table.sample(frac=1, random_state=0)
    levels = dict(reversed(LEVELS.items()))
    again = factorial.effects(shuffled, FACTORS, levels, sizes(table), replicates=2000)
    for one, other in zip(again, found, strict=True):
        assert (one.name, one.nadeau_bengio.p) == (other.name, pytest.approx(other.nadeau_bengio.p))
        assert one.ci95 == pytest.approx(other.ci95)


def test_two_speakers_and_one_seed_say_what_cannot_be_told():
    table = make_table(variants=tuple(LEVELS), speakers=1, seeds=(0,), utterances=12)
    effect = factorial.effects(table, FACTORS, LEVELS, sizes(table))[0]
    assert (effect.ci95, effect.nadeau_bengio, effect.p_holm, effect.detectable) == (None,) * 4
    assert len(effect.notes) == 2


@pytest.mark.parametrize(
    ("factors", "levels", "message"),
    [
        (FACTORS, dict(list(LEVELS.items())[:-1]), "not a full factorial.* activation hard_swish, attention eca"),
        (FACTORS, {**LEVELS, "other": {"activation": "gelu", "attention": "se"}}, "no level gelu .there are: relu, "),
        (FACTORS, {**LEVELS, "other": {"activation": "relu"}}, "attention has no level None"),
        (FACTORS, {**LEVELS, "again": LEVELS["relu se"]}, "relu se and again have the same levels"),
        (FACTORS, {("absent" if k == "relu se" else k): v for k, v in LEVELS.items()}, "no variant absent"),
    ],
)
def test_a_design_that_has_no_effects_is_refused_in_one_line(table, factors, levels, message):
    with pytest.raises(UserError, match=message):
        factorial.effects(table, factors, levels, sizes(table), replicates=10)
