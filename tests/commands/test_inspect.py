"""What is in a corpus, counted; names with signs are safe in the page."""

import argparse
import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest

from ser_jax.commands import inspect as command
from ser_jax.corpora import corpus as corpora
from ser_jax.corpora.corpus import make_corpus
from ser_jax.errors import UserError


@pytest.fixture
def data_dir(tmp_path):
    rng = np.random.default_rng(0)
    waveforms = [rng.integers(-3000, 3000, 16000 + 100 * i).astype(np.int16) for i in range(8)]
    waveforms[5] = waveforms[4].copy()
    waveforms[6] = np.zeros(8000, np.int16)
    waveforms[7] = np.clip(waveforms[7].astype(np.int32) * 30, -32768, 32767).astype(np.int16)
    table = pd.DataFrame({"id": [f"u{i}" for i in range(8)], "speaker": [f"s{i // 4}" for i in range(8)]})
    table["emotion"] = ["a$_$", "a$_$", "<b>", "<b>", "a$_$", "a$_$", "a$_$", "a$_$"]
    info = {"speakers_known": True, "rates": {"16000": 8}, "left_out": [{"where": "x.wav", "what": "empty", "id": "x"}]}
    corpora.save(make_corpus("made", table, waveforms, ("a$_$", "<b>"), info), tmp_path / "packed" / "made")
    return tmp_path


def run(*arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(argument) for argument in arguments]))


def test_everything_that_deserves_a_look_is_printed(data_dir, capsys):
    assert run("made", "--data_dir", data_dir) == 0
    out = capsys.readouterr().out
    for words in (
        "utterances    8, 0.1 minutes",
        "speakers      2\n",  # and "not known" names the gender
        "seconds       0.50 to 1.04",
        "rates         16000: 8 files",
        "not known     gender, text, transcript, language, session",
        "- silent: 1: u6",
        "- clipped: 1: u7",
        "- copies: 1: u4 = u5",
        "- no utterance: 1 of 4: s1: <b>",
        "- left out as bad: 1: x.wav",
    ):
        assert words in out, words
    assert [line.split() for line in out.splitlines() if line.startswith(("s0", "s1", "all"))] == [
        ["s0", "2", "2"], ["s1", "4", "0"], ["all", "6", "2"]
    ]  # fmt: skip


def test_json_has_all_of_it(data_dir, capsys):
    assert run("made", "--data_dir", data_dir, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["speakers_x_emotions"] == {"s0": {"a$_$": 2, "<b>": 2}, "s1": {"a$_$": 4, "<b>": 0}}
    assert (found["silent"], found["clipped"], found["copies"]) == (["u6"], ["u7"], [["u4", "u5"]])
    assert sum(found["seconds"]["histogram"]["counts"]) == 8 and found["columns"]["speaker"] == 1


def test_the_page_is_whole_and_its_names_are_escaped(data_dir, capsys):
    assert run("made", "--data_dir", data_dir, "--html", data_dir / "page.html") == 0
    page = (data_dir / "page.html").read_text(encoding="utf-8")
    tree = ElementTree.fromstring(page.removeprefix("<!doctype html>"))
    assert len(tree.findall(".//{http://www.w3.org/2000/svg}svg")) == 3
    assert "<b>" not in page and "&lt;b&gt;" in page
    with pytest.raises(UserError, match=r"--html .*nowhere/page.html: no such folder"):
        run("made", "--data_dir", data_dir, "--html", data_dir / "nowhere" / "page.html")
