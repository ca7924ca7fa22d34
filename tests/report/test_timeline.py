"""Timelines as files: tables, labels, a TextGrid, a picture."""

import json
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ser_jax.report.timeline import SUFFIXES, text_grid, write_timeline

EMOTIONS = ["joy", 'so "so"', "fear"]


@pytest.fixture
def table():
    """Windows of 2 s every second of 5.5 s, of which the fourth is silent and the last has no emotion."""
    emotions = ["joy", "joy", 'so "so"', "fear", None]
    start = [0.0, 1.0, 2.0, 3.0, 3.5]
    levels = [-20.0, -25.0, -22.0, -90.0, -np.inf]
    levels[4] = -30.0
    rows = {"start": start, "end": [s + 2.0 for s in start], "emotion": emotions, "level_db": levels}
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), 5)
    return pd.DataFrame(rows | dict(zip(EMOTIONS, probabilities.T, strict=True)))


def test_tables_hold_every_row(table, tmp_path):
    for suffix in (".csv", ".jsonl"):
        write_timeline(tmp_path / f"a{suffix}", table, EMOTIONS, "a")
    read = pd.read_csv(tmp_path / "a.csv")
    pd.testing.assert_frame_equal(read.fillna({"emotion": ""}), table.fillna({"emotion": ""}), check_dtype=False)
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert rows[2]["emotion"] == 'so "so"' and rows[4]["emotion"] is None
    assert [row["start"] for row in rows] == table["start"].tolist()
    write_timeline(tmp_path / "b.jsonl", table.assign(level_db=-np.inf), EMOTIONS, "a")
    assert json.loads((tmp_path / "b.jsonl").read_text().splitlines()[0])["level_db"] is None


def test_audacity_s_labels_are_the_windows(table, tmp_path):
    write_timeline(tmp_path / "a.txt", table, EMOTIONS, "a", unsure="?")
    rows = [line.split("\t") for line in (tmp_path / "a.txt").read_text().splitlines()]
    assert [(float(start), float(end)) for start, end, _ in rows] == list(
        zip(table["start"], table["end"], strict=True)
    )
    assert [label for *_, label in rows] == ["joy", "joy", 'so "so"', "silence", "?"]


def test_a_text_grid_s_intervals_follow_one_another_from_begin_to_end(table):
    text = text_grid(table)
    numbers = {
        name: [float(one) for one in re.findall(rf"^ +{name} = (.*)$", text, flags=re.M)] for name in ("xmin", "xmax")
    }
    labels = re.findall(r'^ +text = "(.*)"$', text, flags=re.M)
    assert labels == ["joy", 'so ""so""', "silence", ""]
    low, high = numbers["xmin"][1:], numbers["xmax"][1:]  # the first ones are the tier's
    assert low == [0.0, 2.5, 3.5, 4.25] and high == [*low[1:], 5.5]
    assert f"intervals: size = {len(labels)}" in text and text.startswith('File type = "ooTextFile"')
    assert re.findall(r"^xm\w+ = (.*)$", text, flags=re.M) == ["0", "5.500000"]


def test_a_picture_shows_the_probabilities_and_leaves_silence_blank(table, tmp_path):
    for name, levels in (("a", table["level_db"]), ("b", -20.0)):
        write_timeline(tmp_path / f"{name}.png", table.assign(level_db=levels), EMOTIONS, "a $title$ \n of two")
    one, other = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")) for name in "ab")
    assert one.shape == other.shape and one.shape[1] == 1350
    white = [(picture == 255).all(axis=2).sum() for picture in (one, other)]
    assert white[0] > white[1] + 10_000


@pytest.mark.parametrize("letter", ["n", "W", "語"])
def test_a_title_of_any_length_is_shown_whole(table, tmp_path, letter):
    title = " ".join([letter * 120, "(model)"])
    for name, shown in (("long", title), ("short", letter)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            write_timeline(tmp_path / f"{name}.png", table, EMOTIONS, shown)
    long, short = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("L")) for name in ("long", "short"))
    assert (long[:, -3:] == 255).all()  # nothing goes over the edge
    assert len(long) > len(short)  # the panels keep their heights


def test_the_level_of_many_windows_is_a_thin_line(table, tmp_path):
    many = pd.concat([table.iloc[[0]]] * 2000).assign(start=np.arange(2000.0), end=np.arange(2000.0) + 2)
    write_timeline(tmp_path / "a.png", many, EMOTIONS, "a")
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    black = picture[:, 560].max(axis=1) < 60  # no colour of the probabilities is so dark
    runs = [len(run) for run in "".join("x" if one else " " for one in black).split()]
    assert 2 <= max(runs) <= 3 and len(runs) >= 4  # the line and the frames


def test_a_single_window_is_drawn_and_written(table, tmp_path):
    for suffix in SUFFIXES:
        write_timeline(tmp_path / f"a{suffix}", table.iloc[:1], EMOTIONS, "a")
        assert (tmp_path / f"a{suffix}").stat().st_size > 20


def test_dimensions_are_a_tier_a_line_and_without_emotions_the_labels(table, tmp_path):
    told = table.assign(predicted_arousal=[1.0, 1.0, 2.5, 3.25, 4.0])
    grid = text_grid(told)
    assert "size = 2" in grid and 'name = "emotion"' in grid and 'name = "arousal"' in grid
    of_arousal = re.findall(r'^ +text = "(.*)"$', grid.split('name = "arousal"')[1], flags=re.M)
    assert of_arousal == ["1.00", "2.50", "3.25", "4.00"]
    alone = told[["start", "end", "level_db", "predicted_arousal"]]
    write_timeline(tmp_path / "a.txt", alone, [], "a")
    labels = [line.split("\t")[2] for line in (tmp_path / "a.txt").read_text().splitlines()]
    assert labels == ["arousal 1.00", "arousal 1.00", "arousal 2.50", "silence", "arousal 4.00"]
    assert "size = 1" in text_grid(alone) and 'name = "emotion"' not in text_grid(alone)
    sizes = {}
    for name, rows, columns in (("both", told, EMOTIONS), ("alone", alone, []), ("emotions", table, EMOTIONS)):
        write_timeline(tmp_path / f"{name}.png", rows, columns, name)
        sizes[name] = Image.open(tmp_path / f"{name}.png").size[1]
    assert sizes["both"] > max(sizes["emotions"], sizes["alone"])
