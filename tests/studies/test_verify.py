"""`verify` notices every flipped bit of data; tests of commands and of publishing do the same with results."""

import json
import shutil

import jax
import numpy as np
import pandas as pd
import pytest

from ser_jax import checksums
from ser_jax.commands.main import main
from ser_jax.corpora import packed_folder
from ser_jax.corpora.corpus import make_corpus, save
from ser_jax.corpora.features import features_folder, pack_features
from ser_jax.predictions import make_predictions, write
from ser_jax.studies.verify import DAMAGED, UNKNOWN, WHOLE, verify
from tests.flips import flipped, unnoticed


@pytest.fixture
def data(tmp_path):
    """A data directory with a corpus of four utterances, and features of them."""
    table = pd.DataFrame(
        {"id": list("abcd"), "emotion": ["joy", "anger"] * 2, "gender": "female", "take": [1, 2, 3, 4]}
    )
    waveforms = [np.arange(400, dtype=np.int16) + i for i in range(4)]
    corpus = make_corpus("own", table, waveforms, ("anger", "joy"), {"licence": "mine"})
    save(corpus, packed_folder("own", tmp_path / "data"))
    np.savez(tmp_path / "made.npz", **{name: np.full(3, i, np.float32) for i, name in enumerate("abcd")})
    pack_features("vector", tmp_path / "made.npz", corpus, tmp_path / "data")
    return tmp_path / "data"


def states(path):
    return {finding.kind: finding.state for finding in verify(path)}


def test_every_flipped_bit_of_a_corpus_and_its_features_is_noticed(data):
    assert states(data) == {"corpus": WHOLE, "features": WHOLE}
    missed = unnoticed(data, per_file=40)
    assert set(missed) == {"*.json", "*.parquet", "samples.npy", "values.npy", checksums.FILE}
    assert not any(missed.values()), missed


def test_without_checksums_content_is_still_compared_with_its_fingerprint(data):
    for path in data.rglob(checksums.FILE):
        path.unlink()
    assert states(data) == {"corpus": UNKNOWN, "features": UNKNOWN}
    path = features_folder("own", "vector", data) / "values.npy"
    path.write_bytes(path.read_bytes().replace(b"<f4", b">f4"))  # one bit
    assert states(data) == {"corpus": UNKNOWN, "features": DAMAGED}
    assert states(packed_folder("own", data)) == states(data)


def test_each_thing_is_one_line_with_what_was_expected(data, capsys):
    assert main(["verify", str(data)]) == 0
    own = packed_folder("own", data)
    expected = checksums.sha256(own / "samples.npy")[:12]
    (own / "samples.npy").unlink()
    assert main(["verify", str(data)]) == 1
    output = capsys.readouterr().out.splitlines()
    assert output == [
        f"whole: {own}: corpus, 3 files",
        f"whole: {own / 'features' / 'vector'}: features, 3 files",
        f"damaged: {own}: {own / 'samples.npy'}: missing, expected SHA-256 {expected}",
        f"whole: {own / 'features' / 'vector'}: features, 3 files",
    ]


def test_a_path_that_is_none_of_ours_is_refused_before_anything_is_read(data, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for path, what in (
        ("empty", "none of the project's folders"),
        ("absent", "no such folder"),
        ("made.npz", "a file"),
    ):
        assert main(["verify", str(data), str(tmp_path / path)]) == 2
        output = capsys.readouterr()
        assert output.out == "" and output.err.startswith(
            f"error: {tmp_path / path}: {what}; expected a data directory"
        )


def test_a_model_and_a_configuration_of_another_program_are_none_of_ours(tmp_path, capsys):
    config = {"architectures": ["Wav2Vec2Model"], "model_type": "wav2vec2"}
    for i, names in enumerate((("config.json", "model.safetensors"), ("model.safetensors",), ("config.json",))):
        folder = tmp_path / str(i)
        folder.mkdir()
        for name in names:
            (folder / name).write_text(json.dumps(config))
        assert main(["verify", str(folder)]) == 2
        assert "none of the project's folders" in capsys.readouterr().err
    assert main(["verify", str(tmp_path)]) == 2
    for text in ('{"corpus": {}}', '{"corp'):  # a workdir that was begun, and one whose configuration is cut short
        (folder / "config.json").write_text(text)
        assert [finding.kind for finding in verify(folder)] == ["results"]
    (folder / "predictions.parquet").write_text("")
    (finding,) = verify(folder)
    assert (finding.kind, finding.state) == ("results", DAMAGED)


def test_results_without_checksums_are_read_and_cannot_be_told(tmp_path):
    table = make_predictions("c", "v", "f", 0, ["a", "b"], ["s", "s"], np.array([0, 1]), np.eye(2), ("anger", "joy"))
    write(table, tmp_path / "predictions.parquet")
    (finding,) = verify(tmp_path)
    assert finding.state == UNKNOWN and finding.reasons == ("predictions.parquet: no hash was kept",)
    content = (tmp_path / "predictions.parquet").read_bytes()
    (tmp_path / "predictions.parquet").write_bytes(content[:-20])
    (finding,) = verify(tmp_path)
    assert finding.state == DAMAGED and "not a readable Parquet file" in finding.reasons[0]


def test_published_models_and_results_are_whole_and_a_changed_byte_is_noticed(tmp_path):
    from tests.test_documents import ROOT

    for folder, kind in ((ROOT / "pretrained", "published model"), (ROOT / "docs" / "results", "results")):
        findings = list(verify(folder))
        published = {path.parent for path in folder.rglob("*") if path.suffix in (".parquet", ".safetensors", ".json")}
        assert {one.path for one in findings} == published and len(published) > 5
        assert {(one.kind, one.state) for one in findings} == {(kind, WHOLE)}
    shutil.copytree(ROOT / "docs" / "results" / "emodb_cnn", tmp_path / "results")
    for name in ("config.json", "predictions.parquet", "summary.json"):
        with flipped(tmp_path / "results" / name, 8 * 100):
            (finding,) = verify(tmp_path / "results")
            assert finding.state == DAMAGED and f"{name}: damaged or changed" in finding.reasons[0]


def test_a_bit_of_a_shared_model_without_checksums_is_noticed(tmp_path):
    from tests.test_documents import ROOT

    shutil.copytree(ROOT / "pretrained" / "both", tmp_path / "both")
    (tmp_path / "both" / checksums.FILE).unlink()
    weights = tmp_path / "both" / "model.safetensors"
    with flipped(weights, 4 * weights.stat().st_size):
        (finding,) = verify(tmp_path / "both")
    assert finding.state == DAMAGED and "has another SHA-256 than config.json says" in finding.reasons[0]
    (finding,) = verify(tmp_path / "both")
    assert finding.state == UNKNOWN and finding.reasons[0].endswith(": no hash was kept")


def test_a_bit_of_a_checkpoint_of_a_training_that_goes_on_is_noticed(tmp_path):
    from tests.training.test_checkpoints import METADATA, Checkpoints, state_of

    store = Checkpoints(tmp_path / "checkpoints")
    store.save(state_of(3), METADATA)
    store.close()
    assert states(tmp_path) == {"population": WHOLE}
    noticed = 0
    for path in sorted(tmp_path.rglob("d/*")):  # some of which later ones have taken the place of
        with flipped(path, 8 * (path.stat().st_size // 2)):
            (finding,) = verify(tmp_path)
            if finding.state == DAMAGED:
                noticed += 1
                continue
            store = Checkpoints(tmp_path / "checkpoints")  # a bit that no array has
            jax.tree.map(np.testing.assert_array_equal, store.restore(state_of(0)), state_of(3))
            store.close()
    assert noticed
    assert states(tmp_path) == {"population": WHOLE}


def test_a_training_without_a_checkpoint_yet_is_not_damaged(tmp_path):
    """As one is whose first checkpoint found the disk full."""
    (tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp").mkdir(parents=True)
    (tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp" / "metadata").write_text("{")
    (tmp_path / "log.jsonl").write_text("")
    (found,) = verify(tmp_path)
    assert found.kind == "population" and found.state != DAMAGED


def test_a_file_in_the_place_of_the_checkpoints_is_damage_in_one_line(tmp_path, capsys):
    (tmp_path / "checkpoints").write_text("")
    assert main(["verify", str(tmp_path)]) == 1
    found = f"{tmp_path / 'checkpoints'}: a file, expected a folder of checkpoints"
    assert capsys.readouterr().out == f"damaged: {tmp_path}: {found}\n"


@pytest.mark.parametrize(
    "places", ["[]", '[{"name": 5, "folder": "x"}]', '[{"name": "x"}]', '[{"name": "x", "folder": [1]}]']
)
def test_a_list_of_variants_that_is_none_is_damaged_without_checksums_too(tmp_path, places):
    (tmp_path / "study.json").write_text(places)
    (finding,) = verify(tmp_path)
    assert (finding.kind, finding.state) == ("results", DAMAGED) and "study.json: damaged" in finding.reasons[0]
