"""A published model on a hub is loaded by its name; nothing but its own files is asked for."""

import shutil

import pytest

import ser_jax
from ser_jax import api
from ser_jax.errors import UserError
from ser_jax.shipped import PRETRAINED
from ser_jax.studies import hub

huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What the hub is asked for; it gives the folder `tmp_path`."""
    calls = []

    def snapshot_download(name, *, revision, allow_patterns):
        calls.append((name, revision, sorted(allow_patterns)))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


def test_a_model_is_found_on_the_hub(asked, tmp_path):
    files = sorted(path.name for path in (PRETRAINED / "emodb").iterdir())
    shutil.copytree(PRETRAINED / "emodb", tmp_path, dirs_exist_ok=True)
    assert api.find_folder("hub:someone/emodb@v1") == tmp_path
    assert asked == [("someone/emodb", "v1", files)]


def test_what_is_no_model_or_no_name_is_refused(asked, monkeypatch):
    with pytest.raises(UserError, match=r"hub:someone/else: no published model; expected what `publish` writes"):
        hub.download("hub:someone/else")
    for name in ("hub:someone", "hub:../x", "hub:a/b/c", "hub:"):
        with pytest.raises(UserError, match="expected hub:OWNER/NAME"):
            ser_jax.load(name)
    assert [name for name, _, _ in asked] == ["someone/else"]

    def fails(*_, **__):
        raise OSError("no route\nto the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    with pytest.raises(UserError, match=r"hub:a/b: the Hugging Face hub did not give it \(no route to the hub\)"):
        ser_jax.load("hub:a/b")
