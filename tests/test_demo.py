"""The demonstration's page: what it says is what the model says, of a real upload in Chromium, without a network."""

import dataclasses
import shutil
import socket
import sys
import threading

import numpy as np
import pytest
import soundfile

from ser_jax import api, demo
from ser_jax.commands.main import main
from ser_jax.corpora.corpus import SAMPLE_RATE, waveform
from ser_jax.errors import UserError
from ser_jax.studies import neighbours
from tests.export.test_export import sound, write
from tests.training.tiny import tiny_corpus

SERIOUS = ("serious", "critical")


@pytest.fixture
def model(tmp_path):
    return api.load(write(tmp_path / "model", "linear"))


@pytest.fixture
def corpus(monkeypatch):
    """What the model learnt from, as if it were prepared."""
    corpus, _ = tiny_corpus()
    monkeypatch.setattr(neighbours, "load_corpus", lambda name, data_dir, **options: corpus)
    return corpus


@pytest.fixture
def port():
    with socket.socket() as one:
        one.bind((demo.HOST, 0))
        return one.getsockname()[1]


def test_what_is_told_is_what_the_model_says(model, tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, sound(20000), SAMPLE_RATE)
    told = demo.tell(model, path, tmp_path)
    assert told.probabilities == pytest.approx(model.predict(sound(20000), SAMPLE_RATE).to_dict(), abs=1e-6)
    assert told.timeline.read_bytes().startswith(b"\x89PNG") and told.attention is None  # a linear model has none
    soundfile.write(path, sound(6000), SAMPLE_RATE)
    assert demo.tell(model, path, tmp_path).timeline is None  # less than two windows
    path.write_bytes(b"no audio")
    with pytest.raises(UserError, match=r"^a\.wav: "):  # not where the upload lies
        demo.tell(model, path, tmp_path)


def test_the_nearest_recordings_of_the_corpus_are_those_of_the_most_similar_vectors(
    model, corpus, tmp_path, monkeypatch
):
    heard = neighbours.hear_corpus(model.recogniser)
    assert len(heard.table) == len(corpus.utterances) and list(heard.table) == ["id", "emotion", "speaker"]
    soundfile.write(tmp_path / "a.wav", waveform(corpus, 3), SAMPLE_RATE)
    told = demo.tell(model, tmp_path / "a.wav", tmp_path, heard).nearest
    vectors = model.embed([waveform(corpus, row) for row in range(len(corpus.utterances))], SAMPLE_RATE)
    cosine = vectors @ vectors[3] / np.linalg.norm(vectors, axis=1) / np.linalg.norm(vectors[3])
    best = np.argsort(-cosine)[: neighbours.SHOWN]
    assert told["id"].tolist() == corpus.utterances["id"].iloc[best].tolist() and best[0] == 3
    np.testing.assert_allclose(told["similarity"], cosine[best], atol=6e-4)
    other = dataclasses.replace(corpus, fingerprint="0" * 64)
    monkeypatch.setattr(neighbours, "load_corpus", lambda name, data_dir, **options: other)
    assert neighbours.hear_corpus(model.recogniser) is None


def test_a_port_whose_connection_has_just_ended_can_be_had(port):
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((demo.HOST, port))
        listening.listen()
        with socket.create_connection((demo.HOST, port)) as caller:
            listening.accept()[0].close()  # the side that ends it waits
            caller.recv(1)
        with pytest.raises(UserError, match=f"--port {port}: "):
            demo.refuse_port(port)
    demo.refuse_port(port)


def test_the_page_tells_of_an_upload_and_asks_nothing_of_the_network(model, port, corpus, tmp_path, monkeypatch):
    pytest.importorskip("gradio")
    playwright = pytest.importorskip("playwright.sync_api")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    chromium = shutil.which("chromium") or pytest.skip("no Chromium")
    monkeypatch.setattr(demo, "LARGEST", "200kb")
    ended = threading.Event()
    serving = threading.Thread(target=demo.serve, args=(model, port, ended, neighbours.hear_corpus(model.recogniser)))
    serving.start()
    soundfile.write(tmp_path / "a.wav", sound(20000), SAMPLE_RATE)
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    try:
        with playwright.sync_playwright() as browsers:
            browser = browsers.chromium.launch(executable_path=chromium)
            page = browser.new_page(viewport={"width": 400, "height": 900})
            asked = []
            page.on("request", lambda request: asked.append(request.url))
            _open(page, port)
            page.set_input_files("input[type=file]", tmp_path / "a.wav")
            page.wait_for_function("document.querySelector('textarea').value !== ''")
            best = model.predict(sound(20000), SAMPLE_RATE).idxmax()
            assert page.inner_text("[data-testid=label-output-value]").strip() == best
            page.get_by_text("Emotions over time").wait_for()
            page.get_by_text("Nearest recordings of the corpus").wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") <= 400
            found = axe.Axe().run(page).response["violations"]
            assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in SERIOUS] == []
            assert all(f"//{demo.HOST}:{port}/" in url for url in asked if not url.startswith(("data:", "blob:")))
            _open(page, port)
            page.set_input_files("input[type=file]", tmp_path / "bad.wav")
            page.get_by_text("bad.wav: cannot be read as audio").first.wait_for()
            for name, refused in (
                ("large.wav", "exceed the maximum allowed size"),
                ("a.txt", "Invalid file type: a.txt"),
            ):
                (tmp_path / name).write_bytes(bytes(300_000))
                _open(page, port)
                page.set_input_files("input[type=file]", tmp_path / name)
                page.get_by_text(refused).first.wait_for()
            browser.close()
    finally:
        ended.set()
        serving.join()
    demo.refuse_port(port)  # it is free again


def _open(page, port):
    for _ in range(100):  # until it serves
        try:
            page.goto(f"http://{demo.HOST}:{port}")
            return
        except Exception:
            page.wait_for_timeout(200)
    pytest.fail("nothing was served")


def test_a_port_in_use_and_a_missing_extra_are_refused(port, capsys, monkeypatch):
    monkeypatch.setattr("ser_jax.extras.require", lambda *_: None)
    with socket.socket() as one:
        one.bind((demo.HOST, port))
        assert main(["demo", "--port", str(port)]) == 2
    assert f"--port {port}: Address already in use; expected a port that is free" in capsys.readouterr().err
    assert main(["demo", "--port", "80"]) == 2
    assert "--port 80: expected 1024 to 65535" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo"]) == 2
    assert "demo: needs gradio, which is not installed; expected `pip install gradio`" in capsys.readouterr().err
