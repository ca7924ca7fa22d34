import numpy as np
import pandas as pd
import pytest

from ser_jax import predictions
from ser_jax.errors import UserError

EMOTIONS = ("anger", "joy", "neutral")


@pytest.fixture
def table():
    return make()


def make(variant="eca", fold="a", seed=0, utterances=("u2", "u1", "u3"), emotions=EMOTIONS, dtype=np.float32):
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]], dtype)
    labels = np.array([0, 1, 1])
    return predictions.make_predictions(
        "corpus", variant, fold, seed, list(utterances), ["s1", "s1", "s2"], labels, probabilities, emotions
    )


def test_table_has_the_columns_in_order_and_rows_sorted_by_utterance(table):
    expected = ["corpus", "variant", "fold", "seed", "utterance", "speaker", "label", "p_anger", "p_joy", "p_neutral"]
    assert list(table.columns) == expected
    assert list(table["utterance"]) == ["u1", "u2", "u3"]
    assert list(table["label"]) == ["joy", "anger", "joy"]
    assert table["seed"].dtype == np.int64
    assert predictions.emotions_of(table) == EMOTIONS
    np.testing.assert_array_equal(predictions.labels_of(table), [1, 0, 1])
    np.testing.assert_allclose(predictions.probabilities_of(table)[1], [0.7, 0.2, 0.1], rtol=1e-6)


def test_reading_gives_back_what_was_written_and_leaves_no_other_file(table, tmp_path):
    path = tmp_path / "deep" / "predictions.parquet"
    predictions.write(table, path)
    pd.testing.assert_frame_equal(predictions.read(path), table)
    assert [file.name for file in path.parent.iterdir()] == ["predictions.parquet"]


def test_an_invalid_table_is_not_written(table, tmp_path):
    with pytest.raises(UserError, match="NaN"):
        predictions.write(table.assign(p_joy=np.nan), tmp_path / "predictions.parquet")
    assert not list(tmp_path.iterdir())


def test_merge_sorts_by_variant_fold_seed_and_utterance():
    tables = [make("b", seed=10), make("b", seed=2), make("a", fold="z"), make("a", fold="y")]
    merged = predictions.merge(tables)
    runs = merged[["variant", "fold", "seed"]].drop_duplicates().itertuples(index=False)
    assert [tuple(run) for run in runs] == [("a", "y", 0), ("a", "z", 0), ("b", "a", 2), ("b", "a", 10)]
    pd.testing.assert_frame_equal(merged, predictions.merge(tables[::-1]))


def test_merging_tables_of_other_classes_is_refused():
    with pytest.raises(UserError, match="anger, joy, neutral against anger, neutral, joy"):
        predictions.merge([make(), make("other", emotions=("anger", "neutral", "joy"))])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns=["speaker", "seed"]), "columns missing: seed, speaker"),
        (lambda t: t.drop(columns=["p_anger", "p_joy"]), "two or more classes, found 1"),
        (lambda t: t.iloc[:0], "no predictions"),
        (lambda t: t.assign(speaker=[None, "s1", "s2"]), "missing values in column speaker"),
        (lambda t: t.assign(seed=["0", "0", "0"]), "seed must hold integers"),
        (lambda t: t.assign(p_joy=["a", "b", "c"]), "p_joy must hold probabilities"),
        (lambda t: t.assign(p_joy=[np.nan, 0.2, 0.3]), "NaN.*1 rows.*utterance u1"),
        (
            lambda t: t.assign(p_joy=t.p_joy + 0.002 * (t.utterance == "u2")),
            "do not sum to one in 1 rows.*utterance u2",
        ),
        (lambda t: t.assign(p_joy=t.p_joy - 0.5, p_anger=t.p_anger + 0.5), "negative probability"),
        (lambda t: t.assign(label="rage"), "label 'rage' of utterance u1 .* anger, joy, neutral"),
        (lambda t: pd.concat([t, t.iloc[1:]]), "2 rows repeat an utterance, first utterance u2"),
        (lambda t: pd.concat([t, t.assign(seed=1, label="anger")]), "utterance's label differs between runs.*u1"),
        (lambda t: pd.concat([t, t.assign(seed=1, speaker="s1")]), "utterance's speaker differs between runs.*u3"),
    ],
)
def test_a_broken_table_is_refused_in_one_line(table, change, message):
    with pytest.raises(UserError, match=message) as error:
        predictions.validate(change(table), "runs/x.parquet")
    assert str(error.value).startswith("runs/x.parquet: ")
    assert "\n" not in str(error.value)


def test_probabilities_rounded_to_bfloat16_are_accepted(table):
    predictions.validate(table.assign(p_joy=table.p_joy + 0.0005))


def test_a_missing_or_damaged_file_is_refused_in_one_line(table, tmp_path):
    path = tmp_path / "predictions.parquet"
    with pytest.raises(UserError, match="no predictions there"):
        predictions.read(path)
    predictions.write(table, path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match="not a readable Parquet file") as error:
        predictions.read(path)
    assert "\n" not in str(error.value)
