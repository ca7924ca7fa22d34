"""Pre-extracted features: every format comes back as it was, and what does not fit the corpus is refused."""

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ser_jax.commands import prepare as command
from ser_jax.corpora import available_corpora, features, load_corpus, packed_folder
from ser_jax.corpora import corpus as corpora
from ser_jax.corpora.corpus import make_corpus
from ser_jax.corpora.features import features_folder, frames, load_features, pack_features
from ser_jax.errors import UserError
from ser_jax.studies.verify import WHOLE, verify

IDS = ("a", "deep/b", "c.1")
FORMATS = ("npy", "npz_files", "npz", "h5", "hdf5", "lists", "columns")


def made_corpus(seed=0, name="three"):
    random = np.random.default_rng(seed)
    waveforms = [random.integers(-99, 99, 1600).astype(np.int16) for _ in IDS]
    table = pd.DataFrame({"id": IDS, "emotion": ["x", "y", "x"], "speaker": ["1", "1", "2"]})
    return make_corpus(name, table, waveforms, ("x", "y"), {"speakers_known": True})


def good(dims=4, dtype=np.float32):
    random = np.random.default_rng(1)
    return {
        name: random.standard_normal((frames, dims)).astype(dtype) for name, frames in zip(IDS, (5, 1, 3), strict=True)
    }


def write(folder, form, values):
    """Writes {id: array} in one of FORMATS and returns the source."""
    if form in ("npy", "npz_files"):
        for name, array in values.items():
            path = folder / "made" / f"{name}.{form[:3]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, array) if form == "npy" else np.savez(path, any_name=array)
        return folder / "made"
    path = folder / ("made.parquet" if form in ("lists", "columns") else f"made.{form}")
    if form == "npz":
        np.savez(path, **values)
    elif form in ("h5", "hdf5"):
        with pytest.importorskip("h5py").File(path, "w") as file:
            for name, array in values.items():
                file[name] = array
    elif form == "lists":
        lists = [array if array.ndim == 1 else list(array) for array in values.values()]
        pd.DataFrame({"id": list(values), "embedding": lists}).to_parquet(path)
    else:
        rows = [
            {"id": name} | ({"frame": t} if array.ndim == 2 else {}) | {f"d{i}": value for i, value in enumerate(row)}
            for name, array in values.items()
            for t, row in enumerate(np.atleast_2d(array))
        ]
        pd.DataFrame(rows).sample(frac=1, random_state=0).to_parquet(path)
    return path


@st.composite
def utterances(draw):
    """Arrays of one corpus: one or two axes, equal dims, any frames, of a common type."""
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64, np.int16]))
    limit = 1000
    elements = (
        st.integers(-limit, limit)
        if dtype == np.int16
        else st.floats(-limit, limit, width=np.dtype(dtype).itemsize * 8)
    )
    dims, vectors = draw(st.integers(1, 4)), draw(st.booleans())
    shapes = [(dims,) if vectors else (draw(st.integers(1, 4)), dims) for _ in IDS]
    return {name: draw(arrays.arrays(dtype, shape, elements=elements)) for name, shape in zip(IDS, shapes, strict=True)}


@pytest.mark.parametrize("form", FORMATS)
@given(values=utterances())
@settings(deadline=None, max_examples=12)
def test_every_format_comes_back_as_it_was_written(form, values):
    corpus = made_corpus()
    with tempfile.TemporaryDirectory() as folder:
        source = write(Path(folder), form, values)
        packed = pack_features("made", source, corpus, Path(folder) / "data", 20.0)
        half = all(array.dtype == np.float16 for array in values.values())
        assert packed.values.dtype == (np.float16 if half else np.float32)
        for i, array in enumerate(values.values()):
            np.testing.assert_array_equal(frames(packed, i), np.atleast_2d(array).astype(packed.values.dtype))
        assert packed.names == tuple(f"d{i}" if form == "columns" else str(i) for i in range(packed.values.shape[1]))


def test_packed_features_are_memory_mapped_and_describe_themselves(tmp_path):
    corpus = made_corpus()
    source = write(tmp_path, "npz", good())
    packed = pack_features("wavlm", source, corpus, tmp_path, 20.0, licence="MIT")
    again = load_features(corpus, "wavlm", tmp_path)
    assert isinstance(again.values, np.memmap)
    np.testing.assert_array_equal(again.values, np.concatenate(list(good().values())))
    assert (again.frame_ms, again.names, again.fingerprint) == (20.0, ("0", "1", "2", "3"), packed.fingerprint)
    assert again.info == {"source": "made.npz", "licence": "MIT"}
    description = json.loads((features_folder("three", "wavlm", tmp_path) / "features.json").read_text())
    assert description["corpus_fingerprint"] == corpus.fingerprint
    assert {path.name for path in features_folder("three", "wavlm", tmp_path).iterdir()} == {
        "values.npy",
        "index.parquet",
        "features.json",
        "SHA256SUMS",
    }


def of_bits(corpus, folder):
    """Features of bfloat16, most of them beyond the range of float16."""
    values = [1e6 * array for array in good().values()]
    count = np.array([len(array) for array in values], np.int64)
    source = features.FeatureSource(tuple("abcd"), 4, features.BFLOAT16, count, values.__getitem__)
    return features.pack_source("bits", source, corpus, folder, 20.0, {}), np.concatenate(values)


def test_bfloat16_is_kept_by_its_bits_and_read_memory_mapped(tmp_path):
    corpus = made_corpus()
    packed, values = of_bits(corpus, tmp_path)
    assert isinstance(packed.values, np.memmap) and packed.values.dtype == features.BFLOAT16
    halved = values.view(np.uint32)  # to the nearest, halves to the even one
    expected = ((halved + 0x7FFF + (halved >> 16 & 1)) >> 16).astype(np.uint16)
    np.testing.assert_array_equal(packed.values.view(np.uint16), expected)
    np.testing.assert_array_equal(frames(packed, 2).view(np.uint16), expected[6:])
    folder = features_folder("three", "bits", tmp_path)
    np.testing.assert_array_equal(np.load(folder / "values.npy"), expected)
    assert [finding.state for finding in verify(folder)] == [WHOLE]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 1}, "features of format version 1, expected 2; prepare them again"),
        ({"dtype": "float8"}, "values.npy is of uint16, features.json says float8"),
        ({"dtype": None, "format_version": 1}, "values.npy is of uint16, expected float16 or float32"),
    ],
)
def test_a_dtype_that_is_not_that_of_the_values_is_refused(tmp_path, changes, message):
    corpus = made_corpus()
    of_bits(corpus, tmp_path)
    path = features_folder("three", "bits", tmp_path) / "features.json"
    told = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in told.items() if value is not None}))
    with pytest.raises(UserError, match=message):
        load_features(corpus, "bits", tmp_path)


def test_bits_in_another_order_of_bytes_are_refused(tmp_path):
    corpus = made_corpus()
    of_bits(corpus, tmp_path)
    path = features_folder("three", "bits", tmp_path) / "values.npy"
    np.save(path, np.load(path).astype(">u2"))
    with pytest.raises(UserError, match=r"values\.npy is of >u2, features\.json says bfloat16"):
        load_features(corpus, "bits", tmp_path)


def test_the_fingerprint_is_that_of_the_values_whatever_format_they_came_in(tmp_path):
    corpus = made_corpus()
    packed = [pack_features("x", write(tmp_path, form, good()), corpus, tmp_path, 20.0) for form in ("npy", "npz")]
    changed = good()
    changed["a"][0, 0] += 1
    other = pack_features("x", write(tmp_path, "npz", changed), corpus, tmp_path, 20.0)
    assert packed[0].fingerprint == packed[1].fingerprint != other.fingerprint
    assert features.available_features("three", tmp_path) == ["x"]


def test_a_part_of_a_corpus_has_its_part_of_the_features(tmp_path):
    corpus = made_corpus()
    pack_features("x", write(tmp_path, "npz", good()), corpus, tmp_path, 20.0)
    part = dataclasses.replace(corpus, utterances=corpus.utterances.iloc[[2, 0]].reset_index(drop=True))
    packed = load_features(part, "x", tmp_path)
    np.testing.assert_array_equal(frames(packed, 0), good()["c.1"])
    np.testing.assert_array_equal(frames(packed, 1), good()["a"])


def without(name):
    return {key: array for key, array in good().items() if key != name}


def changed(name, array):
    return good() | {name: np.asarray(array)}


NAN = np.array([[1, 2, np.nan, 4.0]])


@pytest.mark.parametrize("form", ["npy", "npz", "h5"])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (without("deep/b"), r"1 utterances of corpus three are missing \(deep/b\)"),
        ({"a": good()["a"]}, r"2 utterances of corpus three are missing \(deep/b, c.1\)"),
        (changed("z", [1.0]), r"1 arrays belong to no utterance of corpus three \(z\)"),
        (changed("a", np.ones((2, 3))), r"1 arrays have other dims, expected 4 like the other 2 \(a: 3\)"),
        (changed("c.1", NAN), r"1 arrays hold NaN or infinity .*\(c.1\)"),
        (changed("a", [[1e300, 0, 0, 0]]), r"1 arrays hold NaN or infinity .*\(a\)"),
        (changed("a", np.ones((0, 4))), r"1 arrays hold no value \(a\)"),
        (changed("a", np.ones((1, 2, 4))), r"1 arrays have neither the axes \[frames, dims\] nor \[dims\] \(a\)"),
        (changed("a", 3.0), r"1 arrays have neither the axes"),
        (changed("a", np.ones(4, complex)), r"1 arrays are not of real numbers \(a\)"),
    ],
)
def test_what_does_not_fit_the_corpus_is_refused_in_one_line_and_leaves_nothing(tmp_path, form, values, message):
    source = write(tmp_path, form, values)
    with pytest.raises(UserError, match=message) as error:
        pack_features("x", source, made_corpus(), tmp_path / "data", 20.0)
    assert str(error.value).startswith(str(source))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data").exists()


def test_many_wrong_utterances_are_counted_and_the_first_named(tmp_path):
    source = write(tmp_path, "npz", {f"{i:02d}": np.ones(2) for i in range(20)})
    with pytest.raises(UserError, match=r"3 utterances of corpus three are missing \(a, deep/b, c.1\)"):
        pack_features("x", source, made_corpus(), tmp_path)
    source = write(tmp_path, "npz", good() | {f"{i:02d}": np.ones(2) for i in range(20)})
    with pytest.raises(UserError, match=r"20 arrays belong to no utterance of corpus three \(00, 01, 02, ...\)"):
        pack_features("x", source, made_corpus(), tmp_path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": ["a"], "d": [1.0]}, "no column `id`, found name, d"),
        ({"id": list(IDS)}, "no column but id, expected the features beside them"),
        ({"id": list(IDS), "frame": [0, 0, 0]}, "no column but id and frame"),
        ({"id": [*IDS, "a"], "d": [1.0] * 4}, r"1 ids are repeated, and there is no column `frame` \(a\)"),
        ({"id": [*IDS, "a"], "d": [[1.0]] * 4}, r"1 ids are repeated"),
        ({"id": [*IDS, "a"], "frame": [0, 0, 0, 2], "d": [1.0] * 4}, r"1 utterances' frames are not numbered .*\(a\)"),
        ({"id": list(IDS), "d": [1.0] * 3, "note": ["x"] * 3}, "column `note` is not of numbers"),
        ({"id": list(IDS), "d": [1.0, None, 2.0]}, r"1 arrays hold NaN or infinity .*\(deep/b\)"),
        ({"id": list(IDS), "d": [[1.0], None, [2.0]]}, r"1 arrays are not of real numbers \(deep/b\)"),
        ({"id": list(IDS), "d": [[[1.0, 2.0], [3.0]], [[1.0, 2.0]], [[1.0, 2.0]]]}, r"1 arrays cannot be read \(a\)"),
    ],
)
def test_a_table_that_is_none_of_features_is_refused(tmp_path, table, message):
    pd.DataFrame(table).to_parquet(tmp_path / "made.parquet")
    with pytest.raises(UserError, match=message) as error:
        pack_features("x", tmp_path / "made.parquet", made_corpus(), tmp_path, 20.0)
    assert "\n" not in str(error.value)


def test_a_source_that_is_no_source_is_refused(tmp_path):
    corpus = made_corpus()

    def refuse(source, message):
        with pytest.raises(UserError, match=message):
            pack_features("x", source, corpus, tmp_path / "data", 20.0)

    refuse(tmp_path / "gone", "gone: no such file or folder; expected a folder of .npy")
    (tmp_path / "empty").mkdir()
    refuse(tmp_path / "empty", "no .npy or .npz file anywhere below it")
    for suffix in ("npz", "h5", "parquet"):
        (tmp_path / f"bad.{suffix}").write_bytes(b"nothing of the kind")
        refuse(tmp_path / f"bad.{suffix}", f"bad.{suffix}: cannot be read")
    (tmp_path / "made.pkl").touch()
    refuse(tmp_path / "made.pkl", "made.pkl: expected a folder of .npy or .npz files, or a .npz")
    folder = write(tmp_path, "npy", good())
    (folder / "a.npy").write_bytes((folder / "a.npy").read_bytes()[:100])
    refuse(folder, r"1 arrays cannot be read \(a\)")
    np.savez(folder / "a.npz", x=np.ones(4))
    refuse(folder, "'a' has two files")
    (folder / "a.npy").unlink()
    np.savez(folder / "a.npz", x=np.ones(4), y=np.ones(4))
    refuse(folder, "holds 2 arrays, expected one")


@pytest.mark.parametrize("name", ["", "a/b", "..", "-x"])
def test_a_name_that_is_none_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="expected a name of letters"):
        pack_features(name, write(tmp_path, "npz", good()), made_corpus(), tmp_path / "data", 20.0)


def test_frames_need_their_distance_and_single_vectors_do_not(tmp_path):
    corpus = made_corpus()
    with pytest.raises(UserError, match=r"--frame_ms 0: expected .* has up to 5 frames per utterance"):
        pack_features("x", write(tmp_path, "npz", good()), corpus, tmp_path)
    vectors = {name: np.arange(3.0) for name in IDS}
    packed = pack_features("x", write(tmp_path, "npz", vectors), corpus, tmp_path, names=["f0", "energy", "rate"])
    assert packed.num_frames.tolist() == [1, 1, 1] and packed.names == ("f0", "energy", "rate")
    with pytest.raises(UserError, match=r"--dims f0,f0,rate: expected 3 different names"):
        pack_features("x", write(tmp_path, "npz", vectors), corpus, tmp_path, names=["f0", "f0", "rate"])


def test_features_of_another_corpus_or_of_none_are_refused_on_load(tmp_path):
    corpus = made_corpus()
    with pytest.raises(
        UserError,
        match=r"corpus three has no features 'x' .*; it has none \(`python launch.py prepare encoder three`, ",
    ):
        load_features(corpus, "x", tmp_path)
    pack_features("wavlm", write(tmp_path, "npz", good()), corpus, tmp_path, 20.0)
    with pytest.raises(UserError, match=r"has no features 'wavml' .*; did you mean wavlm"):
        load_features(corpus, "wavml", tmp_path)
    other = made_corpus(seed=5)
    with pytest.raises(UserError, match=f"fingerprint {corpus.fingerprint[:12]}, but this one's"):
        load_features(other, "wavlm", tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("values.npy", None),
        ("index.parquet", None),
        ("features.json", b"{}"),
        ("features.json", b"{"),
        ("values.npy", b""),
    ],
)
def test_damaged_features_are_refused_in_one_line(tmp_path, file, content):
    corpus = made_corpus()
    pack_features("x", write(tmp_path, "npz", good()), corpus, tmp_path, 20.0)
    path = features_folder("three", "x", tmp_path) / file
    path.write_bytes(path.read_bytes()[:-8] if content is None else content)
    with pytest.raises(UserError, match="damaged features, prepare them again") as error:
        load_features(corpus, "x", tmp_path)
    assert "\n" not in str(error.value)


def test_features_of_another_format_version_are_refused(tmp_path):
    corpus = made_corpus()
    pack_features("x", write(tmp_path, "npz", good()), corpus, tmp_path, 20.0)
    path = features_folder("three", "x", tmp_path) / "features.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(UserError, match="format version 99, expected 1"):
        load_features(corpus, "x", tmp_path)


def test_a_second_packing_that_fails_leaves_the_first(tmp_path):
    corpus = made_corpus()
    first = pack_features("x", write(tmp_path, "npz", good()), corpus, tmp_path, 20.0)
    with pytest.raises(UserError):
        pack_features("x", write(tmp_path, "npz", without("a")), corpus, tmp_path, 20.0)
    assert load_features(corpus, "x", tmp_path).fingerprint == first.fingerprint
    assert {path.name for path in tmp_path.rglob(".*")} == {".verified"}


@pytest.mark.parametrize("links", [True, False])
def test_preparing_the_corpus_again_keeps_its_features(tmp_path, monkeypatch, links):
    corpus = made_corpus()
    corpora.save(corpus, packed_folder("three", tmp_path))
    first = pack_features("x", write(tmp_path, "npz", good()), corpus, tmp_path, 20.0)
    expected = np.array(first.values)
    if not links:

        def refuse(*_):
            raise OSError("no links on this file system")

        monkeypatch.setattr(corpora.os, "link", refuse)
    corpora.save(corpus, packed_folder("three", tmp_path))
    again = load_features(load_corpus("three", tmp_path), "x", tmp_path)
    np.testing.assert_array_equal(again.values, expected)
    assert available_corpora(tmp_path)[-1] == "three"


def run_command(*arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(arguments))


def test_the_command_packs_features_and_prints_what_it_packed(tmp_path, capsys):
    corpora.save(made_corpus(), packed_folder("three", tmp_path))
    source = str(write(tmp_path, "npz", good()))
    flags = ("--corpus", "three", "--name", "wavlm", "--source", source, "--data_dir", str(tmp_path))
    assert run_command("features", *flags, "--frame_ms", "20", "--dims", "p, q, r, s", "--licence", "MIT") == 0
    out = capsys.readouterr().out
    packed = load_features(load_corpus("three", tmp_path), "wavlm", tmp_path)
    for expected in (
        "features      wavlm of three",
        "utterances    3, all of the corpus",
        "dims          4 (p, q, r, s), float32",
        "frames        9, 1 to 5 per utterance",
        "minutes       0.0 at 20 ms a frame; the corpus has 0.0",
        packed.fingerprint,
        f"packed in     {tmp_path}/packed/three/features/wavlm",
    ):
        assert expected in out
    assert packed.info["licence"] == "MIT"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("features", "--name", "x", "--source", "."), "expected --corpus CORPUS, --name NAME and --source"),
        (("features", "--corpus", "three", "--table", "t.csv"), "prepare features: --table has no meaning here"),
        (("emodb", "--frame_ms", "20"), "prepare emodb: --frame_ms has no meaning here"),
        (("folder", "--corpus", "emodb"), "prepare folder: --corpus has no meaning here"),
        (("features", "--corpus", "nobody", "--name", "x", "--source", "."), "unknown corpus 'nobody'"),
    ],
)
def test_the_command_refuses_flags_that_do_not_fit(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        run_command(*arguments, "--data_dir", str(tmp_path / "data"))


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path, monkeypatch):
    def raise_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", raise_full)
    with pytest.raises(UserError, match="the disk is full"):
        pack_features("x", write(tmp_path, "npz", good()), made_corpus(), tmp_path / "data", 20.0)
    assert not list((tmp_path / "data").rglob("values.npy"))


def test_hdf5_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    source = write(tmp_path, "h5", good())
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match="needs the package h5py: `pip install h5py`"):
        pack_features("x", source, made_corpus(), tmp_path, 20.0)
