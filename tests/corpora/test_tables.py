"""One table as spreadsheets, Windows and hasty scripts write it: read right, or refused in one line."""

import json
import re
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import soundfile

from ser_jax.commands.main import main
from ser_jax.corpora import tables
from ser_jax.corpora.folder import read_table
from ser_jax.corpora.labels import Changes, with_renamed_votes
from ser_jax.corpora.prepare import Options, prepare_folder
from ser_jax.corpora.problems import Problems
from ser_jax.corpora.tables import to_seconds
from ser_jax.errors import UserError

HEAD = ("path", "emotion", "speaker")
ROWS = [(f"wav/s{s:02}_{e}.wav", e, f"s{s:02}") for s in range(3) for e in ("anger", "joy", "neutral")]


@pytest.fixture
def source(tmp_path):
    (tmp_path / "in" / "wav").mkdir(parents=True)
    for name, *_ in ROWS:
        soundfile.write(tmp_path / "in" / name, np.zeros(1600), 16000)
    return tmp_path / "in"


def text(rows=ROWS, head=HEAD, sep=",", end="\n", before=""):
    return before + end.join(sep.join(row) for row in [head, *rows]) + end


def read(tmp_path, source, content, name="table.csv", encoding="utf-8", **options):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    problems = Problems()
    rows, changed = read_table(tmp_path / name, source, problems, **options)
    return rows, [str(problem) for problem in problems.found], changed


def pairs(rows):
    return list(zip([path.split("/in/")[1] for path in rows["path"]], rows["emotion"], rows["speaker"], strict=True))


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (text(), "utf-8"),
        (text(end="\r\n"), "utf-8-sig"),
        (text(sep=";"), "utf-8"),
        (text(sep="\t"), "utf-8"),
        (text(sep="|"), "utf-8"),
        (text(sep=";", before="sep=;\n"), "utf-8"),
        (text(sep="\t"), "utf-16"),
        (text(sep="\t"), "utf-16-le"),
        (text([(*row, "") for row in ROWS]), "utf-8"),
        (text([(*row, "", "") for row in ROWS], head=(*HEAD, "", "")), "utf-8"),
        (text([(path.replace("/", "\\"), *rest) for path, *rest in ROWS]), "utf-8"),
        (text(head=("Path", "EMOTION", "Speaker")), "utf-8"),
        (text(head=("file", "label", "actor")), "utf-8"),
        (text([(s, p, e) for p, e, s in ROWS], head=("Speaker ID", "file_name", "Emotion")), "utf-8"),
        (text([*ROWS, ("", "", ""), ("", "", "")]), "utf-8"),
        (text(before="# made by hand\n\n"), "utf-8"),
        (text([(f' "{p}"', f" {e} ", f"{s}\u00a0") for p, e, s in ROWS]), "utf-8"),
        (text([(str(i), *row) for i, row in enumerate(ROWS)], head=("", *HEAD)), "utf-8"),
    ],
)
def test_every_way_to_write_the_table_gives_the_same_rows(tmp_path, source, content, encoding):
    rows, problems, _ = read(tmp_path, source, content, encoding=encoding)
    assert pairs(rows) == ROWS and problems == []


def test_absolute_paths_and_urls_are_found(tmp_path, source):
    for made in (lambda path: str(source / path), lambda path: f"file://{source}/{path}"):
        rows, problems, _ = read(tmp_path, source, text([(made(p), e, s) for p, e, s in ROWS]))
        assert pairs(rows) == ROWS and problems == []


def test_json_lines_and_parquet_are_tables_too(tmp_path, source):
    records = [dict(zip(("file_name", "label", "speaker"), row, strict=True)) for row in ROWS]
    rows, _, _ = read(tmp_path, source, "".join(json.dumps(one) + "\n" for one in records), "metadata.jsonl")
    assert pairs(rows) == ROWS
    index = pd.MultiIndex.from_tuples(
        [(path, pd.Timedelta(0), pd.NaT) for path, *_ in ROWS], names=["file", "start", "end"]
    )
    frame = pd.DataFrame({"emotion": [row[1] for row in ROWS], "speaker": [row[2] for row in ROWS]}, index=index)
    frame.to_parquet(tmp_path / "audformat.parquet")
    rows, problems = read_table(tmp_path / "audformat.parquet", source, Problems()), Problems()
    assert pairs(rows[0]) == ROWS and problems.found == []
    assert rows[0]["segment_start"].tolist() == [0.0] * 9 and rows[0]["segment_end"].isna().all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (text([(p, "Ärger", s) for p, e, s in ROWS]).encode("latin-1"), "line 2 holds the byte 0xc4; save it in UTF-8"),
        (text([(*row, "Well, I see") for row in ROWS], head=(*HEAD, "transcript")), "line 2 has 5 cells, expected 4"),
        (text([*ROWS[:4], ROWS[4][:2], *ROWS[5:]]), "line 6 has 2 cells, expected 3"),
        (text(ROWS[1:], head=ROWS[0]), "no column `path`, found wav/s00_anger.wav"),
        (text([(*row, row[1]) for row in ROWS], head=(*HEAD, "Emotion")), "the column `emotion` occurs twice"),
        (
            text([(p, "1", e, s) for p, e, s in ROWS], head=("path", "label", *HEAD[1:])),
            "the column `label` is computed",
        ),
        (
            text([(*row, "x") for row in ROWS], head=(*HEAD[:2], "spk", "actor")),
            "`spk` and `actor` may both be speaker",
        ),
        (text([(p, e, s, "1") for p, e, s in ROWS], head=(*HEAD, "")), "column 4 has no name"),
        ('path,emotion,speaker\n"a.wav,anger,1\n', "not a CSV file"),
        (b"", "no line of column names"),
        (b"\x00\x01\x02" * 100, "not a CSV file"),
        (text().replace("anger", "ang\0er"), "not a CSV file, it holds zero bytes"),
        (text([(*row, "x" * 200 + "\0") for row in ROWS], (*HEAD, "note")), "not a CSV file, it holds zero bytes"),
        (text(ROWS).replace("emotion", "emotion\u200b", 1), r"names holds the character '\\u200b', which is not seen"),
        (b"PK\x03\x04" + bytes(40), "a spreadsheet or another zip archive, expected a table as text"),
        (b"\x1f\x8b" + bytes(40), "compressed by gzip, expected a table as text"),
        ("<html><table></table></html>", "HTML or XML, expected a table as text"),
        (text([]), "no rows"),
        (text(before="My calls,,\n"), "line 2 has the columns' names, expected them in the first line"),
        (
            text(sep=";", before="# x\nCalls of 2024\n"),
            "line 3 has the columns' names, expected them in the first line",
        ),
        (json.dumps([dict(zip(HEAD, ROWS[0], strict=True))] * 2000), "not a CSV file, line 1"),
        (text([(p, "x" * 200_000, s) for p, e, s in ROWS]), "not a CSV file, line 2 .field larger than field limit"),
        (
            text([(*row, f"{i % 2}{'.0' * (i > 4)}") for i, row in enumerate(ROWS)], (*HEAD, "session")),
            "sessions that di",
        ),
        (text([(*row, ("T1", "t1", "t2")[i % 3]) for i, row in enumerate(ROWS)], (*HEAD, "text")), "texts that differ"),
        (text([(*row, "1", "2") for row in ROWS], (*HEAD, "vote_é", "vote_e\u0301")), "`vote_é` occurs twice"),
    ],
)
def test_a_table_that_cannot_be_read_without_a_doubt_is_refused(tmp_path, source, content, message):
    with pytest.raises(UserError, match=f"table.csv: .*{message}") as error:
        read(tmp_path, source, content)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("before", ["", "My calls\n"])
def test_names_of_thousands_of_columns_are_read(tmp_path, source, before):
    head = (*HEAD, *(f"audspec_lengthL1norm_sma_range_{i:05}" for i in range(5000)))  # as openSMILE's; 180 kB
    content = text([(*row, *["0"] * 5000) for row in ROWS], head, before=before)
    if before:
        with pytest.raises(UserError, match="line 2 has the columns' names"):
            read(tmp_path, source, content)
    else:
        rows, problems, _ = read(tmp_path, source, content)
        assert pairs(rows) == ROWS and problems == []


@pytest.mark.parametrize("content", ["null", "7", '{"data": []}', "[1]"])
def test_json_without_rows_is_refused_with_what_is_expected(tmp_path, source, content):
    with pytest.raises(UserError, match=r"table\.json: expected an object with the columns' values for every row"):
        read(tmp_path, source, content, "table.json")


def test_a_spreadsheet_is_refused_by_name(tmp_path, source):
    with pytest.raises(UserError, match="a spreadsheet, expected a table as text"):
        read(tmp_path, source, b"PK\x03\x04", "table.xlsx")


def test_further_columns_of_segments_are_kept_beside_seconds(tmp_path, source):
    head = (*HEAD, "start", "end", "start_frame", "End Frame")
    rows, problems, _ = read(tmp_path, source, text([(*row, "0", "0.1", "0", "5") for row in ROWS], head))
    assert problems == [] and set(rows["start_frame"]) == {"0"}


def bad(row, changes):
    return [*ROWS[:3], tuple(changes.get(column, cell) for column, cell in zip(HEAD, row, strict=True)), *ROWS[4:]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": ""}, "has no path"),
        ({"emotion": "NaN"}, "has no emotion"),
        ({"speaker": "None"}, "has no speaker"),
        ({"emotion": "an\x07ger"}, "has a control character in its emotion"),
        ({"path": "gone.wav"}, "names the file .*gone.wav, which is not there"),
        ({"path": "s01_anger"}, "which is not there; wav/s01_anger.wav is"),
        ({"path": "C:\\data\\s01_anger.wav"}, "which is not there; wav/s01_anger.wav is"),
        ({"path": "x" * 300 + ".wav"}, "which is not there"),
        ({"path": ROWS[0][0]}, "repeats the id 'wav/s00_anger'"),
    ],
)
def test_a_bad_row_is_named_by_its_line_and_the_others_are_read(tmp_path, source, changes, message):
    rows, problems, _ = read(tmp_path, source, text(bad(ROWS[3], changes)))
    assert pairs(rows) == ROWS[:3] + ROWS[4:]
    assert len(problems) == 1
    with pytest.raises(AssertionError, match=f"table.csv: line 5 .*{message}"):
        raise AssertionError(problems[0])


@pytest.mark.parametrize(
    "word", ["NaN", "NA", "n/a", "#N/A", "<NA>", "null", "None", "unknown", "?", "-", "--", "#REF!"]
)
def test_a_word_for_nothing_says_nothing_in_whatever_column_it_stands(tmp_path, source, word):
    head = (*HEAD, "sex", "text", "session", "split", "vote_anger", "start", "end")
    told = [(*row, "m", "t", "1", "train", "1", "0", "0.1") for row in ROWS]
    lines = [*told[:1], (*ROWS[1], *[word] * 7), *told[2:]]
    rows, problems, _ = read(tmp_path, source, text(lines, head))
    assert problems == [] and pairs(rows) == ROWS
    assert rows.loc[3, ["text", "session", "split"]].tolist() == [""] * 3
    assert rows["segment_start"].tolist() == [0.0] * 9 and rows["segment_end"].isna().sum() == 1
    votes = with_renamed_votes(rows, Changes({"anger": "wrath"}))["vote_wrath"]
    assert votes.tolist() == ["1", "0", *["1"] * 7]
    for column in ("emotion", "speaker"):
        rows, problems, _ = read(tmp_path, source, text(bad(ROWS[3], {column: word})))
        assert len(rows) == 8 and f"line 5 has no {column}: {word!r} says that it is not known" in problems[0]
    values = [(*row, word if i == 3 else f"{i}", word if i < 5 else f"{i}") for i, row in enumerate(ROWS)]
    rows, problems, _ = read(tmp_path, source, text(values, ("path", "mood", "speaker", "arousal", "valence")))
    assert len(rows) == 8 and "line 5 has no arousal and no valence" in problems[0]


def test_an_emotion_that_is_called_by_a_word_for_nothing_can_be_named(tmp_path, source):
    table = tmp_path / "table.csv"
    table.write_text(text([(row[0], "none" if row[1] == "neutral" else row[1], row[2]) for row in ROWS]))

    def prepared(**options):
        return prepare_folder("own", source, tmp_path / "data", Options(table=table, **options)).utterances

    with pytest.raises(UserError, match="'none' says that it is not known, unless --map, --drop or --emotions name it"):
        prepared()
    assert "neutral" in set(prepared(labels=Changes({"none": "neutral"}))["emotion"])
    assert set(prepared(labels=Changes(dropped=["none"]))["emotion"]) == {row[1] for row in ROWS} - {"neutral"}
    kept = ["none", *sorted({row[1] for row in ROWS} - {"neutral"})]
    assert set(prepared(emotions=kept)["emotion"]) == set(kept)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "t.jsonl",
            '{"path": "a", "emotion": ["joy", "anger"]}',
            "row 1 has a list as its `emotion`, expected one value",
        ),
        ("t.json", '[{"audio": {"path": "a"}, "emotion": "joy"}]', "row 1 has an object as its `audio`"),
        ("t.jsonl", '{"path": "a", "emotion": "joy", "emotion": "anger"}', "'emotion' occurs twice in an object"),
        ("t.jsonl", '{"path": "a", "emotion": "joy", "n": "\\ud800"}', r"a text in it has half a character, \\ud800"),
        ("t.csv", "path,emotion,speaker,start_sample\na,joy,s,0\n", "the column `start_sample` may be of segments"),
        ("t.csv", "path,emotion,speaker,End Frame\na,joy,s,0\n", "the column `End Frame` may be of segments"),
        (
            "t.csv",
            "path,emotion,speaker,from,to\na,joy,s,0,1:02\n",
            "`from` and `to` may be of segments; --rename from=st",
        ),
        ("t.csv", "path,emotion,speaker,From,Offset\na,joy,s,0,1\n", "--rename From=start,Offset=end says so"),
        ("t.csv", "path,emotion,speaker,segBegin,segEnd\na,joy,s,0,1\n", "`segBegin` and `segEnd` may be of segments"),
        (
            "t.csv",
            "path,emotion,speaker,start,length\na,joy,s,0,1\n",
            "no column `end`, and `length` may be the length",
        ),
        (
            "t.csv",
            "path,speaker,vote_a,vote_b,vote_n\na,s,1,2,3\nb,s,0,3,3\n",
            "t.csv: column vote_n is the sum of the",
        ),
        (
            "t.csv",
            "path,speaker,vote_a,vote_b\na,s,0.3,0.7\nb,s,0.5,0.5\nc,s,0.5,0.2\n",
            r"t.csv: the shares of votes in line 4 add up to 0.7, and in most others to 1 \(1 of 3 differ\)",
        ),
    ],
)
def test_what_a_column_cannot_mean_is_refused(tmp_path, source, name, content, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, source, content, name)


def test_columns_that_may_be_of_segments_and_are_not_times_are_kept(tmp_path, source):
    """Who speaks to whom, a length without a start, and votes of raters in words."""
    head = (*HEAD, "from", "to", "length", "vote_1", "vote_2")
    rows, problems, _ = read(tmp_path, source, text([(*row, "Ann", "Ben", "3", "joy", "anger") for row in ROWS], head))
    assert pairs(rows) == ROWS and problems == [] and {"from", "to", "length"} <= set(rows.columns)


@pytest.mark.parametrize("name", ["speaker(s)", "Text (s)", "emotion(ms)", "path[s]", "id (sec)", "arousal (seconds)"])
def test_a_unit_behind_what_has_none_makes_another_column(tmp_path, source, name):
    rows, problems, _ = read(tmp_path, source, text([(*row, "1") for row in ROWS], (*HEAD, name)))
    assert pairs(rows) == ROWS and problems == [] and (rows[name] == "1").all()
    with pytest.raises(UserError, match=f"no column `speaker`, .* found path, emotion, {re.escape(name)}; add it"):
        read(tmp_path, source, text(ROWS, (*HEAD[:2], name)))


def test_bytes_in_parquet_are_text(tmp_path, source):
    table = pd.DataFrame([[cell.encode() for cell in row] for row in ROWS], columns=list(HEAD))
    table.to_parquet(tmp_path / "t.parquet")
    assert pairs(read(tmp_path, source, (tmp_path / "t.parquet").read_bytes(), "t.parquet")[0]) == ROWS


def test_a_column_that_stands_twice_in_parquet_is_refused(tmp_path, source):
    path = tmp_path / "t.parquet"
    names = ["path", "path", "emotion", "speaker"]
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 4, names=names), path)
    with pytest.raises(UserError, match=r"t.parquet: the column `path` occurs twice"):
        read_table(path, source, Problems())

    pd.DataFrame([ROWS[0]], columns=list(HEAD), index=pd.Index(["b"], name="path")).to_parquet(path)
    with pytest.raises(UserError, match=r"t.parquet: the column `path` occurs twice"):
        read_table(path, source, Problems())


def test_whole_numbers_in_parquet_stay_whole_beside_ones_that_are_missing(tmp_path, source):
    speakers = [1234567890123456781 + number for number in range(len(ROWS) - 1)]  # apart by less than a float tells
    arrays = [*map(pyarrow.array, [*zip(*ROWS, strict=True)][:2]), pyarrow.array([*speakers, None])]
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(arrays, names=list(HEAD)), tmp_path / "t.parquet")
    rows, problems, _ = read(tmp_path, source, (tmp_path / "t.parquet").read_bytes(), "t.parquet")
    assert rows["speaker"].tolist() == [*map(str, speakers)] and "has no speaker" in str(problems[0])


def test_names_of_very_many_columns_are_looked_at_in_seconds():
    names, begun = [f"c{i}" for i in range(20_000)], time.process_time()
    assert tables._named(Path("t.csv"), names, ()) == names
    assert time.process_time() - begun < 4  # of columns by columns it would be half a minute


def test_a_list_in_parquet_is_refused_and_votes_may_be_lists(tmp_path, source):
    table = pd.DataFrame(ROWS, columns=list(HEAD)).assign(raters=[["a", "b"]] * len(ROWS))
    table.to_parquet(tmp_path / "t.parquet")
    assert pairs(read(tmp_path, source, (tmp_path / "t.parquet").read_bytes(), "t.parquet")[0]) == ROWS
    table.assign(emotion=[["a", "b"]] * len(ROWS)).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(UserError, match="row 1 has a list as its `emotion`"):
        read(tmp_path, source, (tmp_path / "t.parquet").read_bytes(), "t.parquet")


@pytest.mark.parametrize("recording", [b"RIFF$\0\0\0WAVE", {"bytes": b"RIFF", "path": "a.wav"}, {"array": [0.1]}])
def test_recordings_inside_a_table_are_refused_with_the_way_out(tmp_path, source, recording):
    pd.DataFrame({"audio": [recording], "emotion": "joy", "speaker": "s"}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(UserError, match="row 1 holds a recording itself in the column `audio`, expected its path") as e:
        read(tmp_path, source, (tmp_path / "t.parquet").read_bytes(), "t.parquet")
    assert "docs/your_corpus.md" in str(e.value)


@pytest.mark.parametrize("recording", [b"RIFF$\0\0\0WAVE", {"bytes": b"RIFF", "path": "a.wav"}, {"array": [0.1]}])
def test_a_recording_beside_its_path_is_left_out(tmp_path, source, recording):
    pd.DataFrame(ROWS, columns=list(HEAD)).assign(audio=[recording] * len(ROWS)).to_parquet(tmp_path / "t.parquet")
    rows, problems, _ = read(tmp_path, source, (tmp_path / "t.parquet").read_bytes(), "t.parquet")
    assert pairs(rows) == ROWS and problems == []
    assert "audio" not in rows or set(rows["audio"]) == {""}  # not as text, several times as large as the recording


def test_what_is_no_recording_keeps_its_bytes_and_what_is_no_arrow_file_its_name(tmp_path, source):
    table = pd.DataFrame(ROWS, columns=list(HEAD))
    table.assign(transcript=b"s\0x").to_parquet(tmp_path / "t.parquet")
    rows, problems, _ = read(tmp_path, source, (tmp_path / "t.parquet").read_bytes(), "t.parquet")
    assert set(rows["transcript"]) == {"s\0x"} and problems == []
    rows, *_ = read(tmp_path, source, table.assign(ARROW1="x")[["ARROW1", *HEAD]].to_csv(index=False).encode(), "t.csv")
    assert pairs(rows) == ROWS


def test_a_list_in_a_synonym_beside_the_column_itself_is_a_further_column(tmp_path, source):
    pd.DataFrame(ROWS, columns=list(HEAD)).assign(spk=[[0, 1]] * len(ROWS)).to_parquet(tmp_path / "t.parquet")
    assert pairs(read(tmp_path, source, (tmp_path / "t.parquet").read_bytes(), "t.parquet")[0]) == ROWS


@pytest.mark.parametrize("name", ["audio", "path"])
@pytest.mark.parametrize("kind", ["t.parquet", "t.jsonl"])
def test_audio_without_bytes_is_its_path(tmp_path, source, name, kind):
    audio = [{"bytes": None, "path": path} for path, *_ in ROWS]
    table = pd.DataFrame(ROWS, columns=list(HEAD)).drop(columns="path").assign(**{name: audio})
    table.to_parquet(tmp_path / kind) if kind == "t.parquet" else table.to_json(
        tmp_path / kind, orient="records", lines=True
    )
    assert pairs(read(tmp_path, source, (tmp_path / kind).read_bytes(), kind)[0]) == ROWS


@pytest.mark.parametrize("stream", [False, True])
def test_an_arrow_file_is_told_with_the_way_out(tmp_path, source, stream):
    table = pyarrow.Table.from_pandas(pd.DataFrame(ROWS, columns=list(HEAD)))
    new = pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file
    with new(tmp_path / "t.arrow", table.schema) as file:
        file.write_table(table)
    way = "`datasets.Dataset.from_file" if stream else "`pandas.read_feather"
    with pytest.raises(UserError, match=rf"t\.arrow: an Arrow file, expected Parquet or text: {re.escape(way)}"):
        read_table(tmp_path / "t.arrow", source, Problems())


def test_columns_of_other_names_are_renamed_and_what_is_not_there_is_refused(tmp_path, source, capsys):
    table, names = tmp_path / "t.csv", ("Datei", "Gefühl", "Sprecher")
    table.write_text(text(head=names), encoding="utf-8")
    own = ["prepare", "folder", "--name", "own", "--source", str(source), "--data_dir", str(tmp_path / "data")]

    def said(*arguments):
        return main([*own, *arguments]), capsys.readouterr()

    given = ("--table", str(table), "--rename", "Datei=path,Gefühl=emotion,Sprecher=speaker")
    status, output = said(*given)
    assert status == 0 and "emotions      anger 3, joy 3, neutral 3" in output.out, output.err
    for arguments, message in (
        (given[:2], "no column `path`, found Datei, Gefühl, Sprecher; expected path, emotion, speaker in the first"),
        (
            (*given[:2], "--rename", "Datie=path"),
            f"--rename Datie=path: no such column in {table}; did you mean Datei?",
        ),
        ((*given[:2], "--rename", "Datei"), "--rename Datei: 'Datei' is no OLD=NEW, expected as in Datei=path,Sprech"),
        ((*given[:2], "--rename", "Datei=path,Sprecher=path"), "the column `path` occurs twice"),
    ):
        status, output = said(*arguments)
        assert status == 2 and message in output.err and output.err.count("\n") == 1, output.err
    (source / "joy").mkdir()
    soundfile.write(source / "joy" / "a.wav", np.zeros(1600), 16000)
    assert "expected a --table whose columns it renames" in said("--rename", "a=path")[1].err


def test_genders_in_any_words_are_those_of_speakers(tmp_path, source):
    genders = ["Female", "", "w", "", "M", "m", "other", "", "other"]
    rows, problems, _ = read(
        tmp_path, source, text([(*r, g) for r, g in zip(ROWS, genders, strict=True)], (*HEAD, "sex"))
    )
    assert rows["gender"].tolist() == ["female"] * 3 + ["male"] * 3 + ["other"] * 3 and problems == []
    genders[0] = "male"
    _, problems, _ = read(tmp_path, source, text([(*r, g) for r, g in zip(ROWS, genders, strict=True)], (*HEAD, "sex")))
    assert len(problems) == 3 and "speaker s00, who has the genders female, male" in problems[0]


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("1.5", 1.5), ("1,5", 1.5), ("0", 0.0), ("00:01.5", 1.5), ("0 days 00:00:01.500000", 1.5), ("01:00:00", 3600.0),
     ("", None), ("NaT", None), ("2s", 2.0), ("75:30,5", 4530.5), ("1 day, 0:00:01", 86401.0), (" 0:02 ", 2.0)],
)  # fmt: skip
def test_times_are_read_as_seconds_and_as_timedeltas(written, seconds):
    assert to_seconds(written) == seconds


@pytest.mark.parametrize(
    "written",
    [
        "inf",
        "-inf",
        "infinity",
        "-nan",
        "+nan",
        "1e999",
        "1_0",
        "1_0s",
        "00:inf",
        "x",
        "1:x",
        "00:00:01 12",
        "0:1.5.3",
        "0:1 0:2",
        "12:34 PM",
    ],
)
def test_a_time_that_is_no_finite_number_is_an_error_of_its_value(written):
    with pytest.raises(ValueError):
        to_seconds(written)


def test_a_column_of_both_words_is_no_pair_of_ends(tmp_path):
    (tmp_path / "t.csv").write_text("path,emotion,speaker,rating_from_1_to_5\na,joy,s,3\n")
    assert tables.read_table(tmp_path / "t.csv")["rating_from_1_to_5"].tolist() == ["3"]


def test_sentences_that_were_said_are_no_spellings_of_one_text(tmp_path, source):
    said = ("Yes.", "yes", "I do not know")
    table = text([(*row, said[i % 3]) for i, row in enumerate(ROWS)], (*HEAD, "text"))
    rows, problems, changed = read(tmp_path, source, table)
    assert not problems and not changed and {*rows["text"]} == {*said}
