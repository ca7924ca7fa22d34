"""Trainings on pre-extracted features: as on waveforms, with frames in the place of samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax import config as configuration
from ser_jax.corpora.feature_source import FeatureSource
from ser_jax.corpora.features import BFLOAT16, frames, in_place_of_samples, pack_features, pack_source
from ser_jax.corpora.tracks import load_tracks
from ser_jax.errors import UserError
from ser_jax.feeds import resident
from ser_jax.frontend import features as compute_features
from ser_jax.inference import tables
from ser_jax.statistics import metrics
from ser_jax.studies import restored, workdirs
from ser_jax.studies.recognise import make_recogniser
from ser_jax.studies.run import run_study
from ser_jax.studies.variants import load
from ser_jax.training import devices, loop, setup
from ser_jax.training.population import make_population
from ser_jax.training.state import variables
from tests.training.tiny import CONFIG, tiny_corpus

CHANGES = {
    "frontend": {"kind": "precomputed", "features": "made"},
    "augmentation": {"speed": 0.0},
    "training": {"train_steps": 30, "validate_steps": 30, "batch_size": 8},
    "optimizer": {"learning_rate": 0.05, "weight_decay": 0.0},
}


def config(**changes):
    return configuration.merge(configuration.merge(CONFIG, CHANGES), changes)


def write_frames(corpus, path, *, dims=6, dtype=np.float16, vectors=False):
    """Frames every 20 ms, or one vector, that tell the emotion through a lot of noise."""
    random = np.random.default_rng(3)
    made = {}
    for row in corpus.utterances.itertuples():
        count = 1 if vectors else 1 + row.num_samples // 320
        values = 4 * random.standard_normal((count, dims)) + 50.0
        values[:, row.label] += 12.0
        made[row.id] = (values[0] if vectors else values).astype(dtype)
    np.savez(path, **made)
    return path


@pytest.fixture(scope="module")
def data():
    return tiny_corpus()


@pytest.fixture(scope="module")
def packed(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    return pack_features("made", write_frames(data[0], folder / "made.npz"), data[0], folder, 20.0)


@pytest.fixture(scope="module")
def trained(data, packed, tmp_path_factory):
    population = make_population(config(), *data, features=packed)
    return population, loop.train(population, tmp_path_factory.mktemp("population"))[0]


def test_a_linear_model_learns_what_the_frames_tell(trained):
    population, state = trained
    table = tables.test_predictions(population, state, "made")
    confusion = metrics.confusion_counts(table, "fold").counts.sum(axis=1)
    assert np.mean(metrics.unweighted_accuracy(confusion)) > 0.8


def test_a_model_learns_from_frames_of_bfloat16_beyond_the_range_of_float16(data, packed, tmp_path):
    """The same features, a thousand times as large, and rounded more."""
    corpus, protocol = data
    source = FeatureSource(
        packed.names, 6, BFLOAT16, packed.num_frames, lambda row: 2e3 * np.float32(frames(packed, row))
    )
    large = pack_source("made", source, corpus, tmp_path, 20.0, {})
    assert np.abs(large.values.astype(np.float32)).max() > 65_504
    population = make_population(config(), corpus, protocol, features=large)
    assert population.resident.samples.dtype == BFLOAT16
    state, _ = loop.train(population, tmp_path / "population")
    found = devices.gather(state.feature_statistics, 3)
    own = np.concatenate([frames(large, row) for row in protocol.folds[2].train]).astype(np.float64)
    np.testing.assert_allclose(found.mean[2], own.mean(0), rtol=1e-4)
    table = tables.test_predictions(population, state, "made")
    confusion = metrics.confusion_counts(table, "fold").counts.sum(axis=1)
    assert np.mean(metrics.unweighted_accuracy(confusion)) > 0.8


def test_frames_stay_as_they_were_packed_and_crops_and_windows_are_counted_in_them(trained, packed):
    population, _ = trained
    assert (population.learner.crop_samples, population.window_samples) == (25, 25)  # half a second
    data = population.resident
    assert data.samples.dtype == np.float16
    np.testing.assert_array_equal(data.samples[: len(packed.values)], packed.values)


def test_a_window_holds_its_frames_and_zeros_after_them(data, packed):
    population = make_population(config(), *data, features=packed)
    device = jax.device_put(resident.make_resident(population.corpus, 64))
    start, count = int(packed.start[2]), int(packed.num_frames[2])
    batch = resident.window_batch(device, jnp.asarray([start, 0]), jnp.asarray([count, 0]), count + 5)
    assert batch.waveform.shape == (2, count + 5, 6) and batch.waveform.dtype == np.float32
    np.testing.assert_array_equal(batch.waveform[0, :count], frames(packed, 2))
    assert not batch.waveform[0, count:].any() and not batch.waveform[1].any()


@pytest.mark.parametrize("speed", [None, 0.0, 0.3])  # frames have none
def test_the_tracks_of_a_crop_are_those_of_its_frames(data, packed, tmp_path, speed):
    corpus, _ = data
    tracks = load_tracks(corpus, tmp_path)
    columns = resident.Tracks(tracks.values, tracks.start, tracks.num_frames, np.float32(tracks.frame_ms))
    device = jax.device_put(resident.make_resident(in_place_of_samples(corpus, packed), 64).replace(tracks=columns))
    frontend = setup.make_frontend(config(), packed)
    speed = None if speed is None else jnp.float32(speed)
    batch = resident.crop_batch(device, jnp.asarray([1, 5]), jax.random.split(jax.random.key(0)), 25, speed, frontend)
    assert batch.tracks.shape == (2, 25, 2)
    for row, crop, found in zip((1, 5), batch.waveform, batch.tracks, strict=True):
        first = int(np.argmin(np.abs(np.asarray(frames(packed, row), np.float32) - crop[:1]).sum(1)))
        own = frames(tracks, row)[2 * first :][:50:2]
        np.testing.assert_allclose(found[: len(own)], own, atol=1e-4)


def test_predictions_are_those_of_each_utterances_frames_alone(data, trained, packed):
    population, state = trained
    corpus, protocol = data
    row = int(protocol.folds[1].test[0])
    own_frames = np.asarray(frames(packed, row), np.float32)
    window = population.window_samples
    offsets = np.linspace(0, len(own_frames) - window, -(-len(own_frames) // window)).round().astype(int)
    own = jax.tree.map(lambda leaf: jnp.asarray(leaf[1]), devices.gather(state, 3))
    expected = []
    for offset in offsets:
        piece = jnp.asarray(own_frames[None, offset : offset + window])
        inputs, valid = compute_features(
            population.learner.frontend, piece, jnp.asarray([window]), own.feature_statistics
        )
        output = population.learner.model.apply(variables(own), inputs, valid, train=False)
        expected.append(jax.nn.softmax(output.logits)[0])
    table = tables.test_predictions(population, state, "made").set_index("utterance")
    found = table.loc[corpus.utterances["id"][row], [f"p_{emotion}" for emotion in corpus.emotions]]
    np.testing.assert_allclose(found.to_numpy(float), np.mean(expected, axis=0), atol=1e-5)


def test_statistics_are_those_of_the_training_folds_frames(data, trained, packed):
    _, state = trained
    _, protocol = data
    own = np.concatenate([frames(packed, row) for row in protocol.folds[2].train]).astype(np.float64)
    found = devices.gather(state.feature_statistics, 3)
    np.testing.assert_allclose(found.mean[2], own.mean(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.std[2], own.std(0), rtol=1e-3)


@pytest.mark.parametrize("name", ["speed", "time_shift", "gain", "noise", "vocal_tract"])
def test_augmentation_of_waveforms_is_refused_before_anything_compiles(data, packed, name):
    with pytest.raises(UserError, match=f"config.augmentation.{name}: found 0.1, expected 0"):
        make_population(config(augmentation={name: 0.1}), *data, features=packed)


def test_tracks_need_frames_in_time(data, tmp_path):
    corpus, protocol = data
    plain = {"augmentation": {"mixup": 0.0, "spec_augment": 0.0, "speed": 0.0}}
    tracks = load_tracks(corpus, tmp_path)
    with pytest.raises(UserError, match=r"config.frontend.trim_db: found 30.0, expected 0: tracks are of whole"):
        make_population(configuration.merge(CONFIG, plain | {"frontend": {"trim_db": 30.0}}), *data, tracks=tracks)
    functionals = configuration.merge(CONFIG, plain | {"frontend": {"kind": "functionals", "num_mels": 8}})
    with pytest.raises(UserError, match=r"config.corpus.tracks: features of kind functionals have no frames in time"):
        make_population(functionals, corpus, protocol, tracks=tracks)


@pytest.mark.parametrize("kind", ["histogram", "functionals"])
def test_summaries_of_the_log_mel_train(data, tmp_path, kind):
    changes = {
        "frontend": {"kind": kind, "num_mels": 8, "histogram_bins": 8},
        "augmentation": {"spec_augment": 0.0},
        "training": {"train_steps": 3, "validate_steps": 3},
    }
    population = make_population(configuration.merge(CONFIG, changes), *data)
    state, _ = loop.train(population, tmp_path)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_a_study_restores_on_its_features_and_refuses_recordings_and_other_features(data, tmp_path):
    folder = str(tmp_path / "data")
    settings = config(training={"train_steps": 3, "validate_steps": 3}, folds=[0], frontend={"features": "vector"})
    corpus, _ = load(settings, folder)
    with pytest.raises(UserError, match="corpus synthetic has no features 'vector'"):
        run_study(settings, tmp_path / "workdir", data_dir=folder)
    source = write_frames(corpus, tmp_path / "made.npz", vectors=True)
    pack_features("vector", source, corpus, folder)
    assert run_study(settings, tmp_path / "workdir", data_dir=folder).summary

    found = workdirs.find(tmp_path / "workdir")[0]
    assert found.metadata["corpus"]["features"]["dims"] == 6
    table, population = restored.own_predictions(found, folder)
    assert population.window_samples == 1
    assert len(table) == len(population.folds[0].test)

    with pytest.raises(UserError, match="takes the pre-extracted features 'vector', not recordings"):
        make_recogniser(found)

    again, _ = restored.predictions_on(found, corpus, folder)
    assert len(again) == len(corpus.utterances)
    pack_features("vector", write_frames(corpus, tmp_path / "made.npz", vectors=True, dims=7), corpus, folder)
    with pytest.raises(UserError, match=r"features 'vector' of corpus synthetic: dims is 7, but .* was trained with 6"):
        restored.predictions_on(found, corpus, folder)
    with pytest.raises(UserError, match="features 'vector' of corpus synthetic: their fingerprint is"):
        restored.own_predictions(found, folder)
