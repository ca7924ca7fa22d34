"""Packed files are compared with their own fingerprints."""

import argparse
import os

import numpy as np
import pandas as pd
import pytest

from ser_jax.commands import audit
from ser_jax.corpora import integrity, load_corpus, packed_folder
from ser_jax.corpora.corpus import Corpus, load, make_corpus, save, verify
from ser_jax.corpora.features import features_folder, load_features, pack_features
from ser_jax.errors import UserError


def spoken(seed: int = 0) -> Corpus:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"id": list("abcd"), "speaker": list("ppqq"), "emotion": ["joy", "anger"] * 2})
    waveforms = [rng.integers(-3000, 3000, 2000).astype(np.int16) for _ in range(4)]
    return make_corpus("own", table, waveforms, ("anger", "joy"))


@pytest.fixture
def folder(tmp_path):
    save(spoken(), packed_folder("own", tmp_path))
    return packed_folder("own", tmp_path)


def flip(path, at: int) -> None:
    """Changes one bit."""
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("loaded_before", [False, True])
@pytest.mark.parametrize("at", [128, 5001, -1])
def test_one_changed_bit_of_the_samples_is_refused_in_one_line(folder, loaded_before, at):
    if loaded_before:
        load(folder)
    flip(folder / "samples.npy", at)
    for _ in range(2):
        with pytest.raises(UserError, match=r"own: damaged packed corpus, prepare it again \(its samples") as error:
            load(folder)
        assert "\n" not in str(error.value)


def test_a_changed_label_or_fingerprint_is_refused(folder):
    table = pd.read_parquet(folder / "utterances.parquet")
    table.assign(label=1 - table["label"]).to_parquet(folder / "utterances.parquet", index=False)
    with pytest.raises(UserError, match="damaged packed corpus"):
        load(folder)
    table.to_parquet(folder / "utterances.parquet", index=False)
    own = load(folder).fingerprint
    text = (folder / "corpus.json").read_text()
    (folder / "corpus.json").write_text(text.replace(own, 64 * "0"))
    with pytest.raises(UserError, match="its fingerprint says 000000000000"):
        load(folder)


def test_what_was_found_right_is_not_hashed_again_until_a_file_changes(folder, monkeypatch):
    load(folder)
    hashed, content = [], integrity.content

    def counted(folder, files, compute, **options):
        return content(folder, files, lambda: hashed.append(1) or compute(), **options)

    monkeypatch.setattr(integrity, "content", counted)
    load(folder), load(folder)
    assert not hashed
    load(folder, again=True)
    assert len(hashed) == 1
    os.utime(folder / "samples.npy")
    load(folder), load(folder)
    assert len(hashed) == 2


def test_a_corpus_beside_which_nothing_can_be_written_is_loaded_all_the_same(folder):
    (folder.parent / ".verified").write_text("in the way")
    assert load(folder).fingerprint == spoken().fingerprint
    flip(folder / "samples.npy", 500)
    with pytest.raises(UserError, match="damaged packed corpus"):
        load(folder)


def test_a_corpus_that_changes_while_it_is_in_use_is_noticed(folder):
    corpus = load(folder)
    verify(corpus)
    save(spoken(seed=1), folder)
    with pytest.raises(UserError, match=r"packed anew while it was in use .*; start again"):
        verify(corpus)
    verify(spoken())  # in memory alone
    again = load(folder)
    flip(folder / "samples.npy", 300)
    with pytest.raises(UserError, match="damaged packed corpus"):
        verify(again)


def test_a_built_in_corpus_that_was_changed_is_made_again(tmp_path):
    options = {"num_speakers": 2, "utterances_per_speaker": 4}
    corpus = load_corpus("synthetic", tmp_path, **options)
    samples = next(packed_folder("synthetic", tmp_path).glob("*/samples.npy"))
    before = samples.read_bytes()
    flip(samples, 900)
    again = load_corpus("synthetic", tmp_path, **options)
    assert again.fingerprint == corpus.fingerprint
    assert samples.read_bytes() == before


def test_changed_features_are_refused(folder, tmp_path):
    corpus = load(folder)
    values = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    np.savez(tmp_path / "made.npz", **dict(zip(corpus.utterances["id"], values, strict=True)))
    packed = pack_features("vector", tmp_path / "made.npz", corpus, tmp_path)
    assert load_features(corpus, "vector", tmp_path).fingerprint == packed.fingerprint
    flip(features_folder("own", "vector", tmp_path) / "values.npy", -3)
    with pytest.raises(UserError, match=r"vector: damaged features, prepare them again \(its values are those of"):
        load_features(corpus, "vector", tmp_path)


def test_audit_can_be_asked_to_hash_everything_again(folder, tmp_path, monkeypatch):
    """Also what changed without another size or time, as on a disk that forgets."""
    monkeypatch.setattr(integrity, "_state", lambda path: [path.stat().st_size])
    load(folder)
    flip(folder / "samples.npy", 700)
    parser = argparse.ArgumentParser()
    audit.add_arguments(parser)
    parser.set_defaults(overrides=[])
    arguments = ["own", "--data_dir", str(tmp_path), "--validation_speakers", "0"]
    audit.run(parser.parse_args(arguments))
    with pytest.raises(UserError, match="damaged packed corpus"):
        audit.run(parser.parse_args([*arguments, "--verify"]))
