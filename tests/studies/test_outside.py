import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from ser_jax.errors import UserError
from ser_jax.studies.outside import FROM_SCORES, LABELS_ALONE, match_names, read_outside

CLASSES = ("anger", "happiness", "sadness")
LABELS = ["anger", "sadness", "happiness", "anger"]
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.4, 0.3], [0.2, 0.5, 0.3]])


def write(path, text=None, **columns):
    if text is None:
        pd.DataFrame(columns).to_csv(path, index=False)
    else:
        path.write_text(text, encoding="utf-8")
    return path


def named(prefix):
    return {prefix + name: values for name, values in zip(CLASSES, PROBABILITIES.T, strict=True)}


@pytest.mark.parametrize("prefix", ["p_", "prob_", "probability_", ""])
def test_probabilities_are_found_however_their_columns_are_called(tmp_path, prefix):
    path = write(tmp_path / "a.csv", **named(prefix), id=["03", "a", "b", "c"], Emotion=LABELS, age=[1, 2, 3, 4])
    outside = read_outside(path)
    assert list(outside.table.columns) == ["utterance", "label", "p_anger", "p_happiness", "p_sadness"]
    assert outside.table["utterance"].tolist() == ["03", "a", "b", "c"]  # text, not the number 3
    assert outside.table["label"].tolist() == LABELS
    np.testing.assert_array_equal(outside.table.filter(like="p_"), PROBABILITIES)
    assert outside.notes == ()


def test_parquet_and_other_delimiters_hold_the_same(tmp_path):
    columns = {"utterance": list("abcd"), "label": LABELS, "seed": [0, 0, 1, 1], "fold": [1, 2, 1, 2], **named("p_")}
    frame = pd.DataFrame(columns)
    frame.to_parquet(tmp_path / "a.parquet", index=False)
    frame.to_csv(tmp_path / "a.csv", sep=";", index=False, encoding="utf-8-sig")
    frame.to_csv(tmp_path / "a.tsv", sep="\t", index=False)
    tables = [read_outside(tmp_path / name).table for name in ("a.parquet", "a.csv", "a.tsv")]
    for table in tables:
        pd.testing.assert_frame_equal(table, tables[0])
    assert tables[0]["seed"].tolist() == [0, 0, 1, 1]
    assert tables[0]["fold"].tolist() == ["1", "2", "1", "2"]


def test_labels_alone_become_certain_and_say_so(tmp_path):
    path = write(tmp_path / "a.csv", key=list("abcd"), label=LABELS, pred=["anger", "fear", "happiness", "sadness"])
    outside = read_outside(path)
    values = outside.table.filter(like="p_")
    assert list(values) == ["p_anger", "p_fear", "p_happiness", "p_sadness"]
    np.testing.assert_array_equal(values.to_numpy().argmax(axis=1), [0, 1, 2, 3])
    np.testing.assert_array_equal(values.sum(axis=1), 1)
    assert outside.notes == (LABELS_ALONE,)


@pytest.mark.parametrize("scores", [False, True])
def test_the_table_of_nkululeko_is_read_as_it_is(tmp_path, scores):
    values = PROBABILITIES if not scores else np.array([[2.0, -1, 0.5], [0, 1, 3], [-2, 4, 1], [1, 5, 0]])
    index = pd.MultiIndex.from_arrays(
        [[f"./wav/{name}.wav" for name in "abcd"], ["0 days"] * 4, ["0 days 00:00:01"] * 4],
        names=["file", "start", "end"],
    )
    frame = pd.DataFrame(values, index, columns=CLASSES)
    frame["predicted"] = np.array(CLASSES)[values.argmax(axis=1)]
    frame["truth"], frame["uncertainty"] = LABELS, 0.5
    frame["correct"] = frame["predicted"] == frame["truth"]
    frame.to_csv(tmp_path / "a.csv")
    outside = read_outside(tmp_path / "a.csv")
    assert outside.table["utterance"].tolist() == [f"./wav/{name}.wav" for name in "abcd"]
    expected = softmax(values, axis=1) if scores else values
    np.testing.assert_allclose(outside.table.filter(like="p_"), expected, rtol=1e-12)
    assert outside.notes == ((FROM_SCORES,) if scores else ())


def test_a_predicted_label_that_is_not_the_most_probable_is_counted(tmp_path):
    predicted = ["anger", "sadness", "anger", "happiness"]
    outside = read_outside(write(tmp_path / "a.csv", id=list("abcd"), label=LABELS, pred=predicted, **named("p_")))
    assert "for 1 utterances" in outside.notes[0]


HEADER = "utterance,label,p_anger,p_happiness\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name,label,p_anger,p_happiness\na,anger,1,0\n", "no column utterance (or id, key, file, filename)"),
        ("utterance,p_anger,p_happiness\na,1,0\n", "no column label (or emotion, truth)"),
        ("utterance,label,score\na,anger,1\n", "neither probabilities"),
        ("utterance,emotion,truth,pred\na,anger,anger,anger\n", "columns emotion and truth may both be the label"),
        (HEADER, "no rows below the line of column names"),
        (HEADER + "a,anger,0.9,0.3\n", "utterance a: p_anger, p_happiness are no probabilities, their sum is 1.2"),
        (HEADER + "a,anger,90,10\n", "their sum is 100"),
        (HEADER + "a,anger,1.5,-0.5\n", "none negative"),
        (HEADER + "a,anger,much,0\n", "utterance a: p_anger is 'much', expected a number"),
        (HEADER + "a,anger,,1\n", "utterance a: p_anger is '', expected a number"),
        (HEADER + "a,fear,1,0\n", "utterance a: label 'fear', but the probabilities are of anger, happiness"),
        (HEADER + ",anger,1,0\n", "row 1 has no utterance"),
        (HEADER + "a,anger,1,0\na,anger,1,0\n", "utterance a occurs more than once; where runs differ, add"),
        ("utterance,label,pred,seed\na,anger,anger,1.5\n", "seed is '1.5', expected a whole number"),
        ('utterance,label\n"a,b,c\n', "not a CSV file"),
        ("utterance,label,pred\na,anger,\n", "row 1 has no prediction"),
    ],
)
def test_a_bad_table_is_refused_in_one_line_that_names_it(tmp_path, text, expected):
    path = write(tmp_path / "bad.csv", text)
    with pytest.raises(UserError) as error:
        read_outside(path)
    assert expected in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_a_missing_file_and_one_that_is_no_parquet_are_named(tmp_path):
    (tmp_path / "a.parquet").write_text("text")
    for name, expected in (("none.csv", "no such file"), ("a.parquet", "not a readable table")):
        with pytest.raises(UserError, match=expected):
            read_outside(tmp_path / name)


def test_names_are_matched_with_folders_suffixes_and_prefixes_taken_off():
    known = ["03a01Fa", "03-01", "b.c"]
    names = ["wav/03a01Fa.wav", "emodb-03-01", "b.c", "other.wav"]
    assert match_names(names, known, "emodb") == dict(zip(names, [*known, "other.wav"], strict=True))
    assert match_names(["x\\03a01Fa.wav"], known, "") == {"x\\03a01Fa.wav": "03a01Fa"}


def test_two_names_that_would_become_one_stay_two():
    assert match_names(["a/1.wav", "b/1.wav"], ["1"], "") == {"a/1.wav": "a/1.wav", "b/1.wav": "b/1.wav"}
