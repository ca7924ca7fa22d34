"""Baselines as variants of a study: beside networks, restored, and blind to the speakers that test them."""

import dataclasses
import json

import jax
import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax import config as configuration
from ser_jax.baselines import linear as fits
from ser_jax.baselines.functionals import Functionals
from ser_jax.corpora import load_corpus
from ser_jax.corpora.corpus import SAMPLE_RATE, make_corpus, waveform
from ser_jax.corpora.features import frames, load_features, pack_features
from ser_jax.corpora.protocols import make_protocol
from ser_jax.encoders import extract, weights
from ser_jax.encoders.architecture import WhisperArchitecture
from ser_jax.encoders.store import LoadedEncoder
from ser_jax.errors import UserError
from ser_jax.studies import baselines, workdirs
from ser_jax.studies.recognise import Encoded, make_recogniser

pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture(scope="session")
def mixed(launch, tmp_path_factory):
    """A finished study of a network and two baselines, the path of its configuration, and what it printed."""
    from tests.training.tiny import CONFIG

    study = {
        "variants": {
            "network": {},
            "SVM": {"model": {"name": "linear_svm", "functionals": "own"}, "seeds": [0, 1]},
            "per speaker": {"model": {"name": "ridge", "functionals": "own", "scaling": "speaker"}},
        },
        "comparisons": [["network", "SVM"]],
    }
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "config.json").write_text(json.dumps(configuration.merge(CONFIG, {"study": study})))
    status, output, errors = launch("study", "--config", folder / "config.json", "--workdir", folder / "work")
    assert status == 0, errors
    return folder / "work", folder / "config.json", output


def test_a_study_compares_networks_with_baselines(mixed):
    workdir, _, printed = mixed
    summary = json.loads((workdir / "summary.json").read_text())
    assert list(summary["variants"]) == ["network", "SVM", "per speaker"]
    assert [variant["runs"] for variant in summary["variants"].values()] == [3, 6, 3]
    assert summary["variants"]["SVM"]["known"]["parameters"] == 4 * (720 + 1)
    assert summary["variants"]["SVM"]["ua_seed_sd"] == 0
    assert summary["comparisons"][0]["baseline"] == "SVM"
    assert summary["study"]["seconds"]["functionals"] > 0
    table = pd.read_parquet(workdir / "predictions.parquet")
    assert len(table) == (3 + 6 + 3) * 8
    result = json.loads(next((workdir / "populations").glob("svm-*/result.json")).read_text())
    assert set(result["C"]) == set(table["fold"])
    assert set(result["C"].values()) <= set(fits.GRID)
    assert result["trained"]["versions"].keys() == {"scikit-learn", "numpy"}
    assert summary["variants"]["per speaker"]["known"]["uses_speaker"] == ["functionals standardised by speaker"]
    assert summary["variants"]["SVM"]["known"]["uses_speaker"] == []
    rows = [line.split() for line in printed.splitlines() if "runs," in line]
    assert ["inductive" in row for row in rows[:3]] == [True, True, False]
    assert baselines.INNER_BY_UTTERANCE in summary["variants"]["SVM"]["notes"]  # each fold has one training speaker


def test_a_finished_baseline_is_not_fitted_again(launch, mixed, monkeypatch):
    workdir, config, printed = mixed
    monkeypatch.setattr(fits, "fit_with", None)
    status, output, errors = launch("study", "--config", config, "--workdir", workdir)
    assert status == 0, errors
    assert output == printed


def test_evaluation_reproduces_baselines_and_networks(launch, mixed):
    workdir, _, _ = mixed
    status, output, errors = launch("evaluate", "--workdir", workdir)
    assert status == 0, errors
    assert "identical to the training's own predictions, all 96 of them" in output
    assert "transductive" in output  # the variant that is standardised by speaker, in its row


def test_a_baseline_is_scored_on_another_corpus(launch, mixed, tmp_path):
    workdir, _, _ = mixed
    for emotion in ("anger", "sadness", "disgust"):
        (tmp_path / "speech" / emotion).mkdir(parents=True)
        for number in range(2):
            sound = 0.1 * np.random.default_rng(number).standard_normal(9000)
            soundfile.write(tmp_path / "speech" / emotion / f"{emotion}{number}.wav", sound, SAMPLE_RATE)
    status, _, errors = launch("prepare", "folder", "--name", "elsewhere", "--source", tmp_path / "speech")
    assert status == 0, errors
    status, output, errors = launch("evaluate", "--workdir", workdir, "--corpus", "elsewhere", "--variant", "SVM")
    assert status == 0, errors
    assert "dropped disgust" in output
    assert len(pd.read_parquet(workdir / "on_elsewhere" / "predictions.parquet")) == 4 * 6
    status, _, errors = launch("evaluate", "--workdir", workdir, "--corpus", "elsewhere", "--variant", "per speaker")
    assert status == 2
    assert "speakers of corpus elsewhere are not known" in errors


def test_a_baseline_predicts_recordings(launch, mixed, tmp_path):
    workdir, _, _ = mixed
    sound = 0.1 * np.random.default_rng(0).standard_normal(SAMPLE_RATE)
    soundfile.write(tmp_path / "a.wav", sound, SAMPLE_RATE)
    soundfile.write(tmp_path / "b.flac", np.stack([sound, sound], 1), SAMPLE_RATE)
    files = [tmp_path / "a.wav", tmp_path / "b.flac"]
    status, output, errors = launch("predict", "--workdir", workdir, "--variant", "SVM", "--json", *files)
    assert status == 0, errors
    rows = [json.loads(line) for line in output.splitlines()]
    assert [row.pop("file") for row in rows] == [str(file) for file in files]
    assert rows[0].pop("emotion") == rows[1].pop("emotion") and {row.pop("notes") for row in rows} == {""}
    assert sum(rows[0].values()) == pytest.approx(1)
    assert rows[0] == pytest.approx(rows[1], abs=1e-3)
    status, _, errors = launch("predict", "--workdir", workdir, "--variant", "per speaker", *files)
    assert status == 2
    assert "the speaker of a recording is not known" in errors


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.functionals=egemap", "did you mean egemaps"),
        ("model.scalings=fold", "did you mean scaling"),
        ("folds=[7]", "no fold 7"),
        ("seeds=[]", "config.seeds: found none"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_computed(launch, tmp_path, override, expected):
    from tests.training.tiny import CONFIG

    path = tmp_path / "config.json"
    path.write_text(json.dumps(configuration.merge(CONFIG, {"model": {"name": "ridge"}})))
    status, output, errors = launch("train", "--config", path, "--workdir", tmp_path / "work", f"--config.{override}")
    assert status == 2
    assert output == ""
    assert expected in errors.splitlines()[-1]
    assert not (tmp_path / "work").exists()


def test_scaling_by_speaker_needs_speakers():
    corpus = _corpus(np.random.default_rng(0), speaker=lambda i: "")
    protocol = make_protocol(corpus, "random", num_folds=3)
    config = configuration.merge(
        configuration.default(), {"model": {"name": "ridge", "functionals": "own", "scaling": "speaker"}}
    )
    with pytest.raises(UserError, match="speakers of corpus made are not known"):
        baselines.make_baselines(config, corpus, protocol, None)


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), name=st.sampled_from(fits.NAMES), scaling=st.sampled_from(fits.SCALINGS))
def test_nothing_of_the_tested_speaker_reaches_what_is_fitted(seed, name, scaling):
    rng = np.random.default_rng(seed)
    corpus, values = _corpus(rng), rng.normal(size=(40, 6)).astype(np.float32)
    protocol = make_protocol(corpus, "leave_one_speaker_out", validation_speakers=0)
    fold = protocol.folds[int(rng.integers(4))]
    before = _fit(corpus, values, protocol, name, scaling)[fold.name]
    changed, labels = values.copy(), corpus.utterances["label"].to_numpy().copy()
    changed[fold.test] = 1e3 * rng.normal(size=(len(fold.test), 6))
    labels[fold.test] = rng.integers(0, 3, len(fold.test))
    other = dataclasses.replace(corpus, utterances=corpus.utterances.assign(label=labels))
    after = _fit(other, changed, protocol, name, scaling)[fold.name]
    for field in dataclasses.fields(before):
        np.testing.assert_array_equal(getattr(before, field.name), getattr(after, field.name))


def _corpus(rng, speaker=lambda i: f"s{i % 4}"):
    emotions = ("anger", "neutral", "sadness")
    table = pd.DataFrame(
        {
            "id": [f"u{i}" for i in range(40)],
            "emotion": [emotions[i] for i in rng.permutation(np.arange(40) % 3)],
            "speaker": [speaker(i) for i in range(40)],
        }
    )
    return make_corpus("made", table, [np.ones(10, np.int16)] * 40, emotions)


def _fit(corpus, values, protocol, name, scaling):
    """The fitted baselines of every fold, on functionals put in place of the corpus's own."""
    model = {"name": name, "functionals": "own", "scaling": scaling}
    config = configuration.merge(configuration.default(), {"model": model})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "load_functionals", lambda *_: Functionals(values, tuple("abcdef")))
        all_runs = baselines.make_baselines(config, corpus, protocol, None)
        found = baselines.fit_folds("made", all_runs, baselines.standardised(all_runs))
        return {fold: one.fitted for fold, one in found.items()}


@pytest.fixture
def pooled(tmp_path):
    """A corpus with pooled hidden states, of which those of layer 1 tell the emotions apart."""
    corpus = load_corpus("synthetic", tmp_path, num_speakers=4, utterances_per_speaker=16)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(len(corpus.utterances), 3, 2, 5)).astype(np.float32)
    values[:, 1, 0, :4] += 3 * np.eye(4)[corpus.utterances["label"]]
    names = [f"layer {n}/{kind}/{i}" for n in range(3) for kind in ("mean", "deviation") for i in range(5)]
    source = {name: array.ravel() for name, array in zip(corpus.utterances["id"], values, strict=True)}
    np.savez(tmp_path / "pooled.npz", **source)
    pack_features("states", tmp_path / "pooled.npz", corpus, tmp_path, names=names)
    return corpus, tmp_path


_BEGINNINGS = {"mean of layer 1": "layer 1/mean", "mean and deviation of layer 2": "layer 2/"}


def with_states(**model):
    changes = {
        "model": {"name": "lda", "functionals": "precomputed", **model},
        "frontend": {"kind": "precomputed", "features": "states"},
        "protocol": {"validation_speakers": 0},
    }
    return configuration.merge(configuration.default(), changes)


def test_pooled_states_are_chosen_among_by_the_training_speakers(pooled):
    corpus, data = pooled
    protocol = make_protocol(corpus, "leave_one_speaker_out", validation_speakers=0)
    all_runs = baselines.make_baselines(with_states(columns="chosen"), corpus, protocol, str(data))
    fitted = baselines.fit_folds("states", all_runs, baselines.standardised(all_runs))
    for fold, one in fitted.items():
        used = np.flatnonzero(np.abs(one.fitted.coefficients).sum(0)) // 10
        assert 1 in used, fold
        assert one.fitted.inner_ua.max() > 0.8
    description = baselines.describe(all_runs)
    assert description["features"]["name"] == "states" and len(description["features"]["fingerprint"]) == 64


def test_baselines_refuse_features_that_they_cannot_take(pooled):
    corpus, data = pooled
    protocol = make_protocol(corpus, "leave_one_speaker_out", validation_speakers=0)

    def make(config):
        return baselines.make_baselines(config, corpus, protocol, str(data))

    without = configuration.merge(with_states(), {"frontend": {"features": ""}})
    with pytest.raises(UserError, match="functionals=precomputed needs the name of pooled features"):
        make(without)
    with pytest.raises(UserError, match="has no features 'state'"):
        make(configuration.merge(with_states(), {"frontend": {"features": "state"}}))
    with pytest.raises(UserError, match=r"columns=chosen: expected config.model.functionals=precomputed"):
        make(with_states(functionals="own", columns="chosen"))
    frames = {name: np.zeros((3, 2), np.float32) for name in corpus.utterances["id"]}
    np.savez(data / "frames.npz", **frames)
    pack_features("frames", data / "frames.npz", corpus, data, frame_ms=20.0)
    with pytest.raises(UserError, match="has frames; a baseline takes `prepare encoder --pooled`"):
        make(configuration.merge(with_states(), {"frontend": {"features": "frames"}}))


@pytest.mark.parametrize(
    ("columns", "dims"), [("mean of layer 1", 5), ("mean and deviation of layer 2", 10), ("all", 30)]
)
def test_embeddings_are_of_the_columns_that_a_baseline_uses(pooled, monkeypatch, columns, dims):
    corpus, data = pooled
    protocol = make_protocol(corpus, "leave_one_speaker_out", validation_speakers=0)
    all_runs = baselines.make_baselines(
        configuration.merge(with_states(columns=columns), {"folds": [0]}), corpus, protocol, str(data)
    )
    baselines.run_variant("LDA", all_runs, data / "variant")
    packed = load_features(corpus, "states", data)
    encoded = Encoded(lambda _: packed, lambda _: "")
    monkeypatch.setattr("ser_jax.studies.recognise._encoder", lambda *_: encoded)
    folder = data / "variant"
    recogniser = make_recogniser(workdirs.Restored("LDA", folder, baselines.load_metadata(folder)))
    own, names = baselines.load_folds(folder)[protocol.folds[0].name], list(packed.names)
    kept = [i for i, name in enumerate(names) if columns == "all" or name.startswith(_BEGINNINGS[columns])]
    found = recogniser.embed(corpus)
    assert found.shape == (len(corpus.utterances), dims)
    np.testing.assert_allclose(found, ((packed.values - own.mean) / own.scale)[:, kept], rtol=1e-5)


@pytest.mark.parametrize("speeds", [(1.0,), (0.8, 1.0)])
def test_recordings_are_predicted_by_the_encoder_that_the_baseline_learnt_from(tmp_path, monkeypatch, speeds):
    architecture = WhisperArchitecture(width=8, depth=1, heads=2, hidden=8, mel_bands=10, positions=400)
    rng = np.random.default_rng(0)
    shapes = weights.parameter_shapes(architecture)
    parameters = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 3, shapes)
    encoder = LoadedEncoder("tiny", architecture, parameters, sha256="a" * 64, source="here")
    corpus = load_corpus("synthetic", tmp_path, num_speakers=2, utterances_per_speaker=8)
    request = extract.make_request(architecture, "pooled", ["0", "1"], speeds=speeds)
    packed = extract.prepare_states(corpus, encoder, request, tmp_path)
    protocol = make_protocol(corpus, "leave_one_speaker_out", validation_speakers=0)
    config = configuration.merge(with_states(), {"frontend": {"features": "tiny.pooled"}})
    all_runs = baselines.make_baselines(config, corpus, protocol, str(tmp_path))
    folder = tmp_path / "variant"
    baselines.run_variant("LDA", all_runs, folder)
    metadata = baselines.load_metadata(folder)
    spoken = {"b.wav": waveform(corpus, 3), "a.wav": waveform(corpus, 0)}
    heard = workdirs.recordings(spoken, corpus.emotions)
    restored, run = workdirs.Restored("LDA", folder, metadata), metadata["runs"][1]

    monkeypatch.setattr(extract, "load", lambda name, data_dir: encoder)
    recogniser = make_recogniser(restored, fold=run["fold"], seed=run["seed"])
    own = baselines.load_folds(folder)[run["fold"]]
    versions = np.stack([frames(packed, 3), frames(packed, 0)])
    expected = fits.predict(own, versions)
    found = recogniser.predict(heard, True)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-3)
    used = np.abs(own.coefficients).sum(axis=0) > 0
    standardised = ((versions.mean(1) - own.mean) / own.scale)[:, used]
    np.testing.assert_allclose(found.embeddings, standardised, atol=1e-2)
    np.testing.assert_array_equal(recogniser.embed(heard), found.embeddings)

    monkeypatch.setattr(extract, "load", lambda name, data_dir: dataclasses.replace(encoder, sha256="b" * 64))
    with pytest.raises(UserError, match=r"encoder tiny: sha256 bbbbbbbbbbbb, but the model learnt .* aaaaaaaaaaaa"):
        make_recogniser(restored)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="encoder 'tiny': no folder, and no such name in"):
        make_recogniser(restored)
